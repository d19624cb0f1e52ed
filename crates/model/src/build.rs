//! From a configuration and the names of tensors to a model.
//!
//! Shapes come from the tensors, meaning comes from the description.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::config::Config;
use crate::description::{self, Description, EmbedScale, Scale, Split, Store};
use crate::error::Error;
use crate::form::Form;
use crate::layers;
use crate::lookup::Lookup;
use crate::loose;
use crate::rope::rope;
use crate::site::{Place, Role, Site, Slot};
use crate::source::{Source, View};
use crate::stages::Tensors;
use crate::tree::{Activation, Attention, Block, Embed, Head, Heads, Linear, Mlp, Model, Norm, NormKind, Reach, Stage};

/// The model that a configuration and tensors make up. Tensors that its description does not name become
/// [`Stage::Loose`] stages at the end.
///
/// An output table beside `tie_word_embeddings: true` is left out: the token table stands for it.
///
/// # Errors
/// If the architecture is unknown, if the configuration lacks a key or asks for something that is not implemented,
/// or if a tensor is missing or has a shape that does not fit.
pub fn build(config: &Config, tensors: &dyn Tensors) -> Result<Model<Source>, Error> {
    let all = description::all()?;
    let model_type = config.model_type();
    let Some(written) = all.iter().find(|one| one.types.iter().any(|known| known == model_type)) else {
        let mut known: Vec<String> = all.iter().flat_map(|one| one.types.iter().cloned()).collect();
        known.sort();
        return Err(Error::UnknownArchitecture { model_type: model_type.to_owned(), known });
    };
    build_as(&written.for_config(config)?, config, tensors)
}

/// The model as one description has it.
pub(crate) fn build_as(d: &Description, config: &Config, tensors: &dyn Tensors) -> Result<Model<Source>, Error> {
    let look = Lookup { config, description: d };
    supported(&look)?;
    let table = |prefix: &&String| tensors.form(&format!("{prefix}{}.weight", d.embed.tokens)).is_some();
    let prefix = d.prefixes.iter().find(table).or(d.prefixes.first()).cloned().unwrap_or_default();
    let mut builder = Builder { d, look, tensors, prefix, hidden: 0, claimed: BTreeSet::new() };
    builder.model()
}

/// Refuses what the description says is not implemented.
fn supported(look: &Lookup<'_>) -> Result<(), Error> {
    for (key, allowed) in &look.description.only {
        let Some(found) = look.key(key) else { continue };
        let one = std::slice::from_ref(allowed);
        let allowed = allowed.as_array().map_or(one, Vec::as_slice);
        if !allowed.contains(&found.value) {
            let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            return Err(look.unsupported(&found, format!("only {} is", allowed.join(" or "))));
        }
    }
    Ok(())
}

struct Builder<'a> {
    d: &'a Description,
    look: Lookup<'a>,
    tensors: &'a dyn Tensors,
    prefix: String,
    hidden: usize,
    claimed: BTreeSet<String>,
}

/// What differs from block to block.
struct Layer {
    reach: Reach,
    windowed: bool,
    rotated: bool,
}

impl Builder<'_> {
    fn model(&mut self) -> Result<Model<Source>, Error> {
        let (d, keys) = (self.d, &self.d.keys);
        self.hidden = self.look.needed(&keys.hidden)?.positive()?;
        let blocks = self.look.needed(&keys.layers)?.count()?;
        let rotated = layers::rotated(&self.look, blocks)?;
        let windowed = match &d.attn.window {
            Some(rule) => layers::windowed(&self.look, rule, &rotated)?,
            None => vec![false; blocks],
        };
        let reaches = layers::reaches(&self.look, &windowed)?;

        let embed = self.embed()?;
        let [vocabulary, width] = embed.tokens.weight.form.shape();
        let mut stages = vec![Stage::Embed(embed)];
        for n in 0..blocks {
            let layer = Layer { reach: reaches[n], windowed: windowed[n], rotated: rotated[n] };
            stages.push(Stage::Block(self.block(n, &layer)?));
        }
        if d.head.is_some() {
            stages.push(Stage::Head(self.head([vocabulary, width])?));
        }
        let left = self.tensors.names().into_iter().filter(|name| !self.claimed.contains(name));
        stages.extend(loose::stages(self.tensors, left.collect()));
        let context = self.look.key(&keys.context).map(|context| context.count()).transpose()?;
        Ok(Model { name: d.name.clone(), hidden: self.hidden, vocabulary, context, stages })
    }

    /// The part of a tensor for a slot, if the tensor exists.
    fn find(&mut self, site: &Site, slot: Slot, name: &str, view: View) -> Option<Source> {
        let source = self.tensors.source(site, slot, name, view)?;
        self.claimed.insert(source.tensor.clone());
        Some(source)
    }

    fn must(&mut self, site: &Site, slot: Slot, name: &str, view: View) -> Result<Source, Error> {
        self.find(site, slot, name, view)
            .ok_or_else(|| Error::MissingTensor { site: site.clone(), tensor: name.to_owned() })
    }

    /// A linear layer or table of `[rows, columns]`, where `None` fits anything.
    fn linear(
        &mut self,
        site: Site,
        name: &str,
        view: View,
        expected: [Option<usize>; 2],
    ) -> Result<Linear<Source>, Error> {
        let bias_view = View { transposed: false, rows: view.rows.clone() };
        let weight = self.must(&site, Slot::Weight, &format!("{name}.weight"), view)?;
        fits(&site, &weight, expected)?;
        let bias = self.find(&site, Slot::Bias, &format!("{name}.bias"), bias_view);
        if let Some(bias) = &bias {
            fits(&site, bias, [Some(1), Some(weight.form.shape()[0])])?;
        }
        Ok(Linear { weight, bias })
    }

    /// How a linear layer of a block lies in its tensor.
    fn view(&self, rows: Option<Vec<Range<usize>>>) -> View {
        View { transposed: self.d.store == Store::InOut, rows }
    }

    /// A norm; older checkpoints call gain and bias `gamma` and `beta`.
    fn norm(&mut self, site: Site, name: &str, width: Option<usize>) -> Result<Norm<Source>, Error> {
        let whole = View::whole;
        let gain = match self.find(&site, Slot::Weight, &format!("{name}.weight"), whole()) {
            Some(gain) => Some(gain),
            None => self.find(&site, Slot::Weight, &format!("{name}.gamma"), whole()),
        };
        let gain = gain.ok_or_else(|| Error::MissingTensor { site: site.clone(), tensor: format!("{name}.weight") })?;
        fits(&site, &gain, [Some(1), width])?;
        let bias = match self.d.norm {
            NormKind::Rms | NormKind::RmsPlusOne => None,
            NormKind::Layer => match self.find(&site, Slot::Bias, &format!("{name}.bias"), whole()) {
                Some(bias) => Some(bias),
                None => self.find(&site, Slot::Bias, &format!("{name}.beta"), whole()),
            },
        };
        if let Some(bias) = &bias {
            fits(&site, bias, [Some(1), Some(gain.form.shape()[1])])?;
        }
        let eps = self.look.needed(&self.d.keys.eps)?.number()? as f32;
        Ok(Norm { gain, bias, kind: self.d.norm, eps })
    }

    /// A norm of the residual stream, if the description has one.
    fn block_norm(
        &mut self,
        place: Place,
        role: Role,
        under: &str,
        name: &Option<String>,
    ) -> Result<Option<Norm<Source>>, Error> {
        let Some(name) = name else { return Ok(None) };
        let width = Some(self.hidden);
        self.norm(Site::new(place, role), &join(under, name), width).map(Some)
    }

    fn embed(&mut self) -> Result<Embed<Source>, Error> {
        let names = &self.d.embed;
        let prefix = self.prefix.clone();
        let site = |role| Site::new(Place::Embed, role);
        let full = |name: &str| format!("{prefix}{name}");
        let hidden = Some(self.hidden);

        let project = self.projection(site(Role::EmbedProject), &names.project, [hidden, None])?;
        let width = project.as_ref().map_or(self.hidden, |project| project.weight.form.shape()[1]);
        let tokens = self.linear(site(Role::Tokens), &full(&names.tokens), View::whole(), [None, Some(width)])?;
        let mut table = |role: Role, name: &Option<String>| -> Result<Option<Source>, Error> {
            let Some(name) = name else { return Ok(None) };
            let table =
                self.must(&site(role.clone()), Slot::Weight, &format!("{}.weight", full(name)), View::whole())?;
            fits(&site(role), &table, [None, hidden])?;
            Ok(Some(table))
        };
        let positions = table(Role::Positions, &names.positions)?;
        let types = table(Role::Types, &names.types)?;
        let norm = self.block_norm(Place::Embed, Role::EmbedNorm, prefix.trim_end_matches('.'), &names.norm)?;
        let scale = match names.scale {
            Some(EmbedScale::SqrtHidden) => (self.hidden as f32).sqrt(),
            None => 1.0,
        };
        Ok(Embed { tokens, positions, position_offset: names.position_offset, types, project, norm, scale })
    }

    /// A projection between the widths of table and blocks, which exists if its tensor does.
    fn projection(
        &mut self,
        site: Site,
        name: &Option<String>,
        expected: [Option<usize>; 2],
    ) -> Result<Option<Linear<Source>>, Error> {
        let Some(name) = name else { return Ok(None) };
        let name = format!("{}{name}.weight", self.prefix);
        let Some(weight) = self.find(&site, Slot::Weight, &name, View::whole()) else { return Ok(None) };
        fits(&site, &weight, expected)?;
        Ok(Some(Linear { weight, bias: None }))
    }

    fn block(&mut self, n: usize, layer: &Layer) -> Result<Block<Source>, Error> {
        let place = Place::Block(n as u32);
        let under = format!("{}{}", self.prefix, self.d.block.replace("{i}", &n.to_string()));
        let parallel = match self.d.parallel.as_ref().and_then(|setting| self.look.setting(setting)) {
            Some(parallel) => parallel.flag()?,
            None => false,
        };
        let attn = Some(self.attention(place, &under, layer)?);
        let mlp = Some(self.mlp(place, &under)?);
        Ok(Block { attn, mlp, parallel })
    }

    /// Width of a query or key head, as the configuration has it.
    fn head_dim(&self) -> Result<usize, Error> {
        match self.look.key(&self.d.keys.head_dim) {
            Some(given) => given.positive(),
            None => Ok(self.hidden / self.look.needed(&self.d.keys.heads)?.positive()?),
        }
    }

    fn attention(&mut self, place: Place, under: &str, layer: &Layer) -> Result<Attention<Source>, Error> {
        let names = &self.d.attn;
        let dim = self.head_dim()?;
        let [q, k, v] = self.qkv(place, under, dim)?;
        let site = |role| Site::new(place, role);
        let rows = |linear: &Linear<Source>| linear.weight.form.shape()[0];

        // Heads are counted in the tensors: pruning may have left fewer than the configuration says.
        let heads = whole_heads(&site(Role::Q), &q.weight, dim)?;
        let kv = whole_heads(&site(Role::K), &k.weight, dim)?;
        if kv == 0 || !heads.is_multiple_of(kv) {
            return Err(wrong(&site(Role::K), &k.weight, format!("a number of heads that divides {heads}")));
        }
        if !rows(&v).is_multiple_of(kv) {
            return Err(wrong(&site(Role::V), &v.weight, format!("rows for {kv} heads")));
        }
        let v_dim = rows(&v) / kv;
        let view = self.view(None);
        let o = self.linear(site(Role::O), &join(under, &names.o), view, [Some(self.hidden), Some(heads * v_dim)])?;

        let scale = match &names.scale {
            None => (dim as f32).powf(-0.5),
            Some(Scale::One) => 1.0,
            Some(Scale::InverseSqrt(setting)) => self.look.needed_setting(setting)?.above_zero()?.powf(-0.5) as f32,
        };
        let rope = match &names.rope {
            Some(rule) if layer.rotated => Some(rope(&self.look, &rule.keys(), layer.windowed, dim)?),
            _ => None,
        };
        let softcap = softcap(&self.look, &names.softcap)?;
        let kv_of = (0..heads).map(|head| (head / (heads / kv)) as u16).collect();
        let heads_of = Heads { kv_of, qk_dim: dim, v_dim, scale, rope, reach: layer.reach, softcap };

        let head_norm = |this: &mut Self, role: Role, name: &Option<String>, whole: usize| {
            let Some(name) = name else { return Ok(None) };
            let norm = this.norm(site(role.clone()), &join(under, name), None)?;
            match norm.gain.form.shape()[1] {
                width if width == dim || width == whole => Ok(Some(norm)),
                _ => Err(wrong(&site(role), &norm.gain, format!("[1, {dim}] or [1, {whole}]"))),
            }
        };
        let q_norm = head_norm(self, Role::QNorm, &names.q_norm, rows(&q))?;
        let k_norm = head_norm(self, Role::KNorm, &names.k_norm, rows(&k))?;
        Ok(Attention {
            before: self.block_norm(place, Role::AttnBefore, under, &names.before)?,
            q,
            k,
            v,
            o,
            q_norm,
            k_norm,
            after: self.block_norm(place, Role::AttnAfter, under, &names.after)?,
            sum: self.block_norm(place, Role::AttnSum, under, &names.sum)?,
            heads: heads_of,
        })
    }

    /// Queries, keys and values, from tensors of their own or from one.
    fn qkv(&mut self, place: Place, under: &str, dim: usize) -> Result<[Linear<Source>; 3], Error> {
        let names = &self.d.attn;
        let expected = [None, Some(self.hidden)];
        let roles = [Role::Q, Role::K, Role::V];
        let (tensors, ranges) = match (&names.qkv, [&names.q, &names.k, &names.v]) {
            (Some(fused), _) => {
                let name = join(under, &fused.tensor);
                let ranges = self.qkv_ranges(place, &name, fused.split, dim)?;
                ([name.clone(), name.clone(), name], ranges)
            }
            (None, [Some(q), Some(k), Some(v)]) => ([q, k, v].map(|name| join(under, name)), [None, None, None]),
            (None, _) => unreachable!("a description names q, k and v or qkv, checked when it is read"),
        };
        let mut parts = Vec::with_capacity(3);
        for ((role, tensor), rows) in roles.into_iter().zip(&tensors).zip(ranges) {
            let view = self.view(rows);
            parts.push(self.linear(Site::new(place, role), tensor, view, expected)?);
        }
        parts.try_into().map_err(|_| unreachable!("three roles make three parts"))
    }

    /// The rows of queries, keys and values in one tensor. A container that keeps weights by site has no such
    /// tensor, and answers with each weight whole.
    fn qkv_ranges(
        &self,
        place: Place,
        name: &str,
        split: Split,
        dim: usize,
    ) -> Result<[Option<Vec<Range<usize>>>; 3], Error> {
        let Some(whole) = self.fused_form(name) else { return Ok([None, None, None]) };
        let heads = self.look.needed(&self.d.keys.heads)?.positive()?;
        let kv = self.look.key(&self.d.keys.kv_heads).map_or(Ok(heads), |kv| kv.positive())?;
        let total = (heads + 2 * kv) * dim;
        let site = Site::new(place, Role::Q);
        if whole.shape()[0] != total || split == Split::PerHead && kv != heads {
            let source = Source { tensor: format!("{name}.weight"), form: whole, view: View::whole() };
            let why = format!("{total} rows for {heads} query and 2 x {kv} key and value heads of {dim}");
            return Err(wrong(&site, &source, why));
        }
        Ok(match split {
            Split::Stacked => {
                let (q, k) = (heads * dim, kv * dim);
                [one(0..q), one(q..q + k), one(q + k..q + 2 * k)]
            }
            Split::PerHead => [0, 1, 2].map(|part| {
                Some((0..heads).map(|head| (3 * head + part) * dim..(3 * head + part + 1) * dim).collect())
            }),
        })
    }

    /// The form of a tensor that holds several weights, rows being outputs.
    fn fused_form(&self, name: &str) -> Option<Form> {
        let form = self.tensors.form(&format!("{name}.weight"))?;
        Some(self.view(None).form(&form, Slot::Weight))
    }

    fn mlp(&mut self, place: Place, under: &str) -> Result<Mlp<Source>, Error> {
        let names = &self.d.mlp;
        let site = |role| Site::new(place, role);
        let hidden = Some(self.hidden);
        let (gate, up) = match (&names.gate_up, &names.up) {
            (Some(both), _) => {
                let [gate, up] = self.gate_up(place, &join(under, both))?;
                (Some(gate), up)
            }
            (None, Some(up)) => {
                let gate = match &names.gate {
                    Some(name) => {
                        let view = self.view(None);
                        Some(self.linear(site(Role::Gate), &join(under, name), view, [None, hidden])?)
                    }
                    None => None,
                };
                let view = self.view(None);
                (gate, self.linear(site(Role::Up), &join(under, up), view, [None, hidden])?)
            }
            (None, None) => unreachable!("a description names up or gate_up, checked when it is read"),
        };
        let ffn = up.weight.form.shape()[0];
        if let Some(gate) = &gate {
            fits(&site(Role::Gate), &gate.weight, [Some(ffn), hidden])?;
        }
        let view = self.view(None);
        let down = self.linear(site(Role::Down), &join(under, &names.down), view, [hidden, Some(ffn)])?;
        Ok(Mlp {
            before: self.block_norm(place, Role::MlpBefore, under, &names.before)?,
            gate,
            up,
            down,
            act: activation(&self.look, self.d)?,
            after: self.block_norm(place, Role::MlpAfter, under, &names.after)?,
            sum: self.block_norm(place, Role::MlpSum, under, &names.sum)?,
        })
    }

    /// Gate and up, which lie one above the other in one tensor.
    fn gate_up(&mut self, place: Place, name: &str) -> Result<[Linear<Source>; 2], Error> {
        let mut ranges = [None, None];
        if let Some(whole) = self.fused_form(name) {
            let rows = whole.shape()[0];
            if !rows.is_multiple_of(2) {
                let source = Source { tensor: format!("{name}.weight"), form: whole, view: View::whole() };
                return Err(wrong(&Site::new(place, Role::Gate), &source, "an even number of rows".into()));
            }
            ranges = [one(0..rows / 2), one(rows / 2..rows)];
        }
        let expected = [None, Some(self.hidden)];
        let [gate, up] = ranges.map(|rows| self.view(rows));
        Ok([
            self.linear(Site::new(place, Role::Gate), name, gate, expected)?,
            self.linear(Site::new(place, Role::Up), name, up, expected)?,
        ])
    }

    fn head(&mut self, [vocabulary, width]: [usize; 2]) -> Result<Head<Source>, Error> {
        let Some(names) = &self.d.head else { unreachable!("asked for only if there is a head") };
        let site = |role| Site::new(Place::Head, role);
        let under = self.prefix.trim_end_matches('.').to_owned();
        let norm = self.block_norm(Place::Head, Role::HeadNorm, &under, &names.norm)?;
        let expected = [Some(width), Some(self.hidden)];
        let project = self.projection(site(Role::HeadProject), &names.project, expected)?;
        let out = if self.is_tied(names)? {
            self.claimed.insert(format!("{}.weight", names.out));
            None
        } else {
            Some(self.linear(site(Role::Out), &names.out, View::whole(), [Some(vocabulary), Some(width)])?)
        };
        Ok(Head { norm, project, out, softcap: softcap(&self.look, &names.softcap)? })
    }

    /// Whether the token table is the output table too: if the configuration says so, or if it says nothing and
    /// either the architecture has it that way or there is no output table.
    fn is_tied(&self, names: &description::HeadNames) -> Result<bool, Error> {
        match self.look.config.get(&self.d.keys.tied) {
            Some(serde_json::Value::Bool(tied)) => Ok(*tied),
            _ => {
                let site = Site::new(Place::Head, Role::Out);
                let name = format!("{}.weight", names.out);
                Ok(names.tied || self.tensors.source(&site, Slot::Weight, &name, View::whole()).is_none())
            }
        }
    }
}

fn softcap(look: &Lookup<'_>, setting: &Option<description::Setting>) -> Result<Option<f32>, Error> {
    let found = setting.as_ref().and_then(|setting| look.setting(setting));
    found.map(|cap| cap.above_zero().map(|cap| cap as f32)).transpose()
}

fn activation(look: &Lookup<'_>, d: &Description) -> Result<Activation, Error> {
    let found = look.needed_setting(&d.mlp.act)?;
    Ok(match found.word()? {
        "silu" | "swish" => Activation::Silu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_tanh" | "gelu_accurate" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "relu" => Activation::Relu,
        _ => {
            return Err(look.unsupported(&found, "known are silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu"));
        }
    })
}

/// `name` under a block, or under nothing.
fn join(under: &str, name: &str) -> String {
    if under.is_empty() { name.to_owned() } else { format!("{under}.{name}") }
}

/// The rows of a part that lies in one piece.
fn one(range: Range<usize>) -> Option<Vec<Range<usize>>> {
    Some(vec![range])
}

fn whole_heads(site: &Site, weight: &Source, dim: usize) -> Result<usize, Error> {
    let rows = weight.form.shape()[0];
    if !rows.is_multiple_of(dim) || rows / dim > usize::from(u16::MAX) {
        return Err(wrong(site, weight, format!("rows for heads of {dim}")));
    }
    Ok(rows / dim)
}

fn fits(site: &Site, source: &Source, expected: [Option<usize>; 2]) -> Result<(), Error> {
    let shape = source.form.shape();
    if expected.iter().zip(shape).all(|(expected, got)| expected.is_none_or(|expected| expected == got)) {
        return Ok(());
    }
    let [rows, columns] = expected.map(|size| size.map_or("*".to_owned(), |size| size.to_string()));
    Err(wrong(site, source, format!("[{rows}, {columns}]")))
}

fn wrong(site: &Site, source: &Source, expected: String) -> Error {
    Error::Shape { site: site.clone(), tensor: source.tensor.clone(), shape: source.form.shape(), expected }
}
