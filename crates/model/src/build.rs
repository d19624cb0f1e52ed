//! From a configuration and the names of tensors to a model.
//!
//! Shapes come from the tensors, meaning comes from the description.

mod attention;
mod mlp;
mod parts;

use std::collections::BTreeSet;

use crate::config::Config;
use crate::description::{self, Description, EmbedScale};
use crate::error::Error;
use crate::layers;
use crate::lookup::{Found, Lookup};
use crate::loose;
use crate::site::{Place, Role, Site, Slot};
use crate::source::{Source, View};
use crate::stages::Tensors;
use crate::structure::{self, HeadsRecord, StreamRecord, Sublayer};
use crate::tree::{Block, Embed, Head, Model, Reach, Stage};
use parts::fits;

/// The model that a configuration and tensors make up. Tensors that its description does not name become
/// [`Stage::Loose`] stages at the end.
///
/// Of a model of text and images, with its language model in `text_config`, the language model is described.
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
    let language = config.language_model();
    let config = language.as_ref().unwrap_or(config);
    build_as(&written.for_config(config)?, config, tensors)
}

/// The model as one description has it.
pub(crate) fn build_as(d: &Description, config: &Config, tensors: &dyn Tensors) -> Result<Model<Source>, Error> {
    let look = Lookup { config, description: d };
    supported(&look)?;
    let table = |prefix: &&String| tensors.form(&format!("{prefix}{}.weight", d.embed.tokens)).is_some();
    let prefix = d.prefixes.iter().find(table).or(d.prefixes.first()).cloned().unwrap_or_default();
    let stream = structure::read_stream(config)?;
    let mut builder = Builder { d, look, tensors, prefix, hidden: 0, stream, claimed: BTreeSet::new() };
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
    /// What the norms of the residual stream are, if they are not those of the description.
    stream: Option<StreamRecord>,
    claimed: BTreeSet<String>,
}

/// What differs from block to block.
struct Layer<'a> {
    reach: Reach,
    windowed: bool,
    rotated: bool,
    /// What its heads are, where shapes do not tell.
    heads: Option<&'a HeadsRecord>,
}

impl Builder<'_> {
    fn model(&mut self) -> Result<Model<Source>, Error> {
        let (d, keys) = (self.d, &self.d.keys);
        self.hidden = self.look.needed(&keys.hidden)?.positive()?;
        let layers = self.look.needed(&keys.layers)?;
        let names = self.tensors.names();
        let blocks = layers.count()?;
        if blocks > names.len() {
            return Err(layers.wrong(&format!("a number of blocks that {} tensors can make up", names.len())));
        }
        let records = structure::read(self.look.config, blocks)?;
        // What was recorded block by block need not be worked out, and lists for the blocks of old may no longer fit.
        let (rotated, windowed, reaches) = match &records {
            Some(_) => (vec![false; blocks], vec![false; blocks], vec![Reach::Causal; blocks]),
            None => {
                let rotated = layers::rotated(&self.look, blocks)?;
                let windowed = match &d.attn.window {
                    Some(rule) => layers::windowed(&self.look, rule, &rotated)?,
                    None => vec![false; blocks],
                };
                let reaches = layers::reaches(&self.look, &windowed)?;
                (rotated, windowed, reaches)
            }
        };
        let embed = self.embed()?;
        let [vocabulary, width] = embed.tokens.weight.form.shape();
        let positions = embed.positions.as_ref().map(|table| table.form.shape()[0]);
        let mut stages = vec![Stage::Embed(embed)];
        for n in 0..blocks {
            let record = records.as_ref().map(|records| &records[n]);
            let heads = record.and_then(|record| record.heads.as_ref());
            let layer = match heads {
                Some(heads) => {
                    let windowed = matches!(heads.reach, Reach::Window(_) | Reach::Around(_));
                    Layer { reach: heads.reach, windowed, rotated: heads.rotated, heads: Some(heads) }
                }
                None => Layer { reach: reaches[n], windowed: windowed[n], rotated: rotated[n], heads: None },
            };
            let dropped = record.map_or(&[][..], |record| &record.dropped);
            stages.push(Stage::Block(self.block(n, &layer, dropped)?));
        }
        let hidden = self.hidden;
        let mut width = width;
        if let Some(stream) = &mut self.stream {
            // Behind the last block the stream may have another width.
            (stream.eps, self.hidden, width) = (stream.last_eps, stream.last, stream.last);
        }
        if d.head.is_some() {
            stages.push(Stage::Head(self.head([vocabulary, width])?));
        }
        let left = names.into_iter().filter(|name| !self.claimed.contains(name));
        stages.extend(loose::stages(self.tensors, left.collect()));
        let context = self.look.key(&keys.context).map(|context| context.count()).transpose()?;
        // Some configurations count the rows of the table that are skipped.
        let known = positions.map(|rows| rows.saturating_sub(d.embed.position_offset));
        let context = context.map(|context| known.map_or(context, |known| known.min(context)));
        let block_name = Some(format!("{}{}", self.prefix, d.block));
        Ok(Model { name: d.name.clone(), hidden, vocabulary, context, block_name, stages })
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
        let relative = names.relative.as_ref().map(|rule| self.relative(rule)).transpose()?;
        let norm = self.block_norm(Place::Embed, Role::EmbedNorm, prefix.trim_end_matches('.'), &names.norm)?;
        let scale = match names.scale {
            Some(EmbedScale::SqrtHidden) => (self.hidden as f32).sqrt(),
            None => 1.0,
        };
        Ok(Embed { tokens, positions, position_offset: names.position_offset, types, relative, project, norm, scale })
    }

    /// The table of what all blocks add to their scores. It lies where the embedding has it, whoever asks.
    fn relative(&mut self, rule: &description::RelativeRule) -> Result<Source, Error> {
        let site = Site::new(Place::Embed, Role::Relative);
        let name = format!("{}{}.weight", self.prefix, rule.tensor);
        self.must(&site, Slot::Weight, &name, View::whole())
    }

    fn block(&mut self, n: usize, layer: &Layer<'_>, dropped: &[Sublayer]) -> Result<Block<Source>, Error> {
        let place = Place::Block(n as u32);
        let under = format!("{}{}", self.prefix, self.d.block.replace("{i}", &n.to_string()));
        let parallel = match self.d.parallel.as_ref().and_then(|setting| self.look.setting(setting)) {
            Some(parallel) => parallel.flag()?,
            None => false,
        };
        let there = |part| !dropped.contains(&part);
        let attn = there(Sublayer::Attn).then(|| self.attention(place, &under, layer)).transpose()?;
        let mlp = there(Sublayer::Mlp).then(|| self.mlp(place, &under)).transpose()?;
        Ok(Block { attn, mlp, parallel })
    }

    fn head(&mut self, [vocabulary, width]: [usize; 2]) -> Result<Head<Source>, Error> {
        let Some(names) = &self.d.head else { unreachable!("asked for only if there is a head") };
        let site = |role| Site::new(Place::Head, role);
        let under = self.prefix.trim_end_matches('.').to_owned();
        let norm = self.block_norm(Place::Head, Role::HeadNorm, &under, &names.norm)?;
        let expected = [Some(width), Some(self.hidden)];
        let project = self.projection(site(Role::HeadProject), &names.project, expected)?;
        let out = match &names.out {
            None => None,
            Some(out) if self.is_tied(out, names.tied)? => {
                self.claimed.insert(format!("{out}.weight"));
                None
            }
            Some(out) => Some(self.linear(site(Role::Out), out, View::whole(), [Some(vocabulary), Some(width)])?),
        };
        let softcap = softcap(&self.look, &names.softcap)?;
        Ok(Head { norm, project, out, logits: names.out.is_some(), softcap })
    }

    /// Whether the token table is the output table too: if the configuration says so, or if it says nothing and
    /// either the architecture has it that way or there is no output table.
    fn is_tied(&self, out: &str, usually: bool) -> Result<bool, Error> {
        let key = &self.d.keys.tied;
        if let Some(value) = self.look.config.get(key).filter(|value| !value.is_null()) {
            return Found { key: key.clone(), value: value.clone() }.flag();
        }
        let site = Site::new(Place::Head, Role::Out);
        let name = format!("{out}.weight");
        Ok(usually || self.tensors.source(&site, Slot::Weight, &name, View::whole()).is_none())
    }
}

/// A cap of scores or logits.
fn softcap(look: &Lookup<'_>, setting: &Option<description::Setting>) -> Result<Option<f32>, Error> {
    let found = setting.as_ref().and_then(|setting| look.setting(setting));
    found.map(|cap| cap.above_zero().map(|cap| cap as f32)).transpose()
}
