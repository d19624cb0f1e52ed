//! The forward pass: embedding, block, head, over candle tensors `[batch, tokens, features]`.

use std::sync::Mutex;

use brevity_kernels::activation::Act;
use brevity_kernels::attention;
use brevity_kernels::ops::{self, Compute};
use brevity_kernels::rope::Layout;
use brevity_model::{
    Activation, Attention, Block, Embed, Head, Heads, Linear, Mlp, Norm, NormKind, Reach, Rope, RopeStyle,
};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::applied::Applied;
use crate::bundle::Bundle;
use crate::cache::Kv;
use crate::error::{Error, Result};
use crate::relative::Added;

/// Runs the parts of a model. It holds the arithmetic, the device, and the tables that layers share.
#[derive(Debug)]
pub struct Forward {
    compute: Compute,
    device: Device,
    turns: Mutex<Vec<Turns>>,
}

/// Cosines and sines of one kind of rotary embedding.
#[derive(Clone, Debug)]
struct Turns {
    inv_freq: Vec<f32>,
    amplitude: f32,
    /// `[positions, pairs]`.
    cos: Tensor,
    sin: Tensor,
}

impl Forward {
    /// On the processor.
    pub fn new(compute: Compute) -> Self {
        Forward::on(Device::Cpu, compute)
    }

    /// On any device.
    pub fn on(device: Device, compute: Compute) -> Self {
        Forward { compute, device, turns: Mutex::default() }
    }

    /// The arithmetic of products.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Where the tensors are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// From ids to activations, `[batch, tokens, hidden]`. `ids` holds `batch` sequences of one length, one behind
    /// the other; their first token is at position `first`.
    ///
    /// # Errors
    /// [`Error::Length`] if there are not enough learned positions. Ids must be rows of the token table.
    pub fn embed(&self, embed: &Embed<Applied>, ids: &[u32], batch: usize, first: usize) -> Result<Tensor> {
        let tokens = ids.len() / batch;
        let positions: Vec<usize> = (0..batch).flat_map(|_| first..first + tokens).collect();
        let x = self.embed_rows(embed, ids, &positions)?;
        let width = x.dims()[1];
        Ok(x.reshape((batch, tokens, width))?)
    }

    /// From ids to activations, `[1, rows, hidden]`.
    ///
    /// # Errors
    /// As [`Forward::embed`].
    pub fn embed_bundle(&self, embed: &Embed<Applied>, bundle: &Bundle) -> Result<Tensor> {
        Ok(self.embed_rows(embed, &bundle.ids, &bundle.positions)?.unsqueeze(0)?)
    }

    /// Ids at positions, `[ids, hidden]`.
    fn embed_rows(&self, embed: &Embed<Applied>, ids: &[u32], positions: &[usize]) -> Result<Tensor> {
        let mut x = embed.tokens.weight.table()?.rows(ids, &self.device)?;
        if let Some(bias) = &embed.tokens.bias {
            x = x.broadcast_add(bias.vector()?)?;
        }
        if embed.scale != 1.0 {
            x = (x * f64::from(embed.scale))?;
        }
        if let Some(project) = &embed.project {
            x = self.linear(project, &x)?;
        }
        if let Some(learned) = &embed.positions {
            let table = learned.table()?;
            let known = table.shape()[0].saturating_sub(embed.position_offset);
            let tokens = positions.iter().max().map_or(0, |last| last + 1);
            if tokens > known {
                return Err(Error::Length { tokens, positions: known });
            }
            let at: Vec<u32> = positions.iter().map(|position| (embed.position_offset + position) as u32).collect();
            x = (x + table.rows(&at, &self.device)?)?;
        }
        if let Some(types) = &embed.types {
            x = x.broadcast_add(&types.table()?.rows(&[0], &self.device)?)?;
        }
        self.norm(&embed.norm, x)
    }

    /// One block: attention and MLP by the four steps below. With `past`, `x` are the tokens behind those in it, and their keys and values are appended.
    /// `lengths` says how many tokens of each padded sequence are real.
    ///
    /// # Errors
    /// If shapes do not fit; [`Error::Mixed`].
    pub fn block(
        &self,
        block: &Block<Applied>,
        x: &Tensor,
        lengths: Option<&[usize]>,
        past: Option<&mut Kv>,
    ) -> Result<Tensor> {
        self.block_with(block, x, |attn, x| self.attn_mix(attn, x, lengths, past))
    }

    /// One block over a bundle, `[1, rows, hidden]`. With `past`, whose entries belong to the segments, keys and values of
    /// each segment are appended to its own.
    ///
    /// # Errors
    /// As [`Forward::block`].
    pub fn block_bundle(
        &self,
        block: &Block<Applied>,
        x: &Tensor,
        bundle: &Bundle,
        past: Option<Vec<&mut Kv>>,
    ) -> Result<Tensor> {
        self.block_with(block, x, |attn, x| self.attn_mix_bundle(attn, x, bundle, past))
    }

    fn block_with(
        &self,
        block: &Block<Applied>,
        x: &Tensor,
        mix: impl FnOnce(&Attention<Applied>, &Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let mut out = x.clone();
        if let Some(attn) = &block.attn {
            let mixed = mix(attn, &self.attn_in(attn, x)?)?;
            out = self.attn_out(attn, &out, &mixed)?;
        }
        if let Some(mlp) = &block.mlp {
            let middle = self.mlp_mid(mlp, &self.mlp_in(mlp, if block.parallel { x } else { &out })?)?;
            out = self.mlp_out(mlp, &out, &middle)?;
        }
        Ok(out)
    }

    /// What queries, keys and values are made of: the residual stream, normed.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn attn_in(&self, attn: &Attention<Applied>, x: &Tensor) -> Result<Tensor> {
        self.norm(&attn.before, x.clone())
    }

    /// The residual stream behind attention, given what [`Forward::attn_mix`] returned.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn attn_out(&self, attn: &Attention<Applied>, residual: &Tensor, mixed: &Tensor) -> Result<Tensor> {
        let y = self.norm(&attn.after, self.linear(&attn.o, mixed)?)?;
        self.norm(&attn.sum, added(&attn.shortcut, residual, &y)?)
    }

    /// What gate and up are applied to: the residual stream, normed.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn mlp_in(&self, mlp: &Mlp<Applied>, x: &Tensor) -> Result<Tensor> {
        self.norm(&mlp.before, x.clone())
    }

    /// The residual stream behind the MLP, given what [`Forward::mlp_mid`] returned.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn mlp_out(&self, mlp: &Mlp<Applied>, residual: &Tensor, middle: &Tensor) -> Result<Tensor> {
        let y = self.norm(&mlp.after, self.linear(&mlp.down, middle)?)?;
        self.norm(&mlp.sum, added(&mlp.shortcut, residual, &y)?)
    }

    /// From activations to logits, `[.., vocabulary]`. `table` is the token table, made ready for products, for
    /// models whose head has no table of its own.
    ///
    /// # Errors
    /// [`Error::Missing`] if there is no table, or if shapes do not fit.
    pub fn head(&self, head: &Head<Applied>, table: Option<&Applied>, x: &Tensor) -> Result<Tensor> {
        let x = self.head_in(head, x)?;
        let logits = match (&head.out, table) {
            (Some(out), _) => self.linear(out, &x)?,
            (None, Some(table)) => table.apply(&x, None)?,
            (None, None) => return Err(Error::Missing { what: "output table" }),
        };
        Ok(match head.softcap {
            Some(cap) => ((logits / f64::from(cap))?.tanh()? * f64::from(cap))?,
            None => logits,
        })
    }

    /// What the output table is applied to.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn head_in(&self, head: &Head<Applied>, x: &Tensor) -> Result<Tensor> {
        let x = self.norm(&head.norm, x.clone())?;
        match &head.project {
            Some(project) => self.linear(project, &x),
            None => Ok(x),
        }
    }

    /// A norm, if there is one.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn norm(&self, norm: &Option<Norm<Applied>>, x: Tensor) -> Result<Tensor> {
        let Some(norm) = norm else { return Ok(x) };
        let gain = norm.gain.vector()?;
        let bias = norm.bias.as_ref().map(Applied::vector).transpose()?;
        let rms = |offset| -> Result<Tensor> {
            let y = ops::rms_norm(&x, gain, offset, norm.eps)?;
            Ok(match bias {
                Some(bias) => y.broadcast_add(bias)?,
                None => y,
            })
        };
        match norm.kind {
            NormKind::Rms => rms(0.0),
            NormKind::RmsPlusOne => rms(1.0),
            NormKind::Layer => Ok(ops::layer_norm(&x, gain, bias, norm.eps)?),
        }
    }

    fn linear(&self, linear: &Linear<Applied>, x: &Tensor) -> Result<Tensor> {
        let bias = linear.bias.as_ref().map(Applied::vector).transpose()?;
        linear.weight.apply(x, bias)
    }

    /// What the output projection of attention is applied to: the values of each head, mixed. `x` is normed.
    ///
    /// # Errors
    /// If shapes do not fit; [`Error::Mixed`].
    pub fn attn_mix(
        &self,
        attn: &Attention<Applied>,
        x: &Tensor,
        lengths: Option<&[usize]>,
        past: Option<&mut Kv>,
    ) -> Result<Tensor> {
        let heads = &attn.heads;
        let first = past.as_ref().map_or(0, |past| past.len());
        let tokens = first + x.dims3()?.1;
        // Keys that were turned for a short input do not fit queries of a long one.
        let shortest = lengths.and_then(|lengths| lengths.iter().min().copied()).unwrap_or(tokens);
        one_side(heads, tokens, if first > 0 { first } else { shortest })?;
        let turn = |rope: &Rope, y: &Tensor| self.rotate(rope, y, heads, first);
        let [q, mut k, mut v] = self.projected(attn, x, &turn)?;
        if let Some(past) = past {
            (k, v) = past.append(&k, &v)?;
        }
        let added = self.added(attn)?;
        Ok(ops::attention(&spec(heads, added.as_ref(), &k), self.compute, &q, &k, &v, lengths)?)
    }

    /// The same over a bundle: each segment reads the keys on its way to the root, or those in its cache and its own.
    fn attn_mix_bundle(
        &self,
        attn: &Attention<Applied>,
        x: &Tensor,
        bundle: &Bundle,
        past: Option<Vec<&mut Kv>>,
    ) -> Result<Tensor> {
        let heads = &attn.heads;
        let before = past.as_ref().and_then(|past| past.iter().map(|kv| kv.len()).filter(|&len| len > 0).min());
        one_side(heads, bundle.longest(), before.unwrap_or_else(|| bundle.shortest()))?;
        let positions: Vec<u32> = bundle.positions.iter().map(|&position| position as u32).collect();
        let positions = Tensor::new(positions, &self.device)?;
        let turn = |rope: &Rope, y: &Tensor| {
            let turns = self.turns(rope, rope.frequencies(bundle.longest()), bundle.longest())?;
            let (cos, sin) = (turns.cos.index_select(&positions, 0)?, turns.sin.index_select(&positions, 0)?);
            let count = y.dims()[2] / heads.qk_dim;
            Ok(ops::rope(y, layout(rope), count, &cos, &sin, 0, &kept_pairs(rope, heads, count))?)
        };
        let [q, k, v] = self.projected(attn, x, &turn)?;
        let added = self.added(attn)?;
        if let (None, Some(lengths)) = (&past, bundle.lengths()) {
            let spec = spec(heads, added.as_ref(), &k);
            return Ok(ops::attention_beside(&spec, self.compute, [&q, &k, &v], &lengths)?);
        }
        let part = |x: &Tensor, n: usize| {
            let rows = &bundle.segments[n].rows;
            x.narrow(1, rows.start, rows.len())?.contiguous()
        };
        let seen = match past {
            Some(past) => {
                let append = |(n, past): (usize, &mut &mut Kv)| past.append(&part(&k, n)?, &part(&v, n)?);
                { past }.iter_mut().enumerate().map(append).collect::<Result<Vec<_>>>()?
            }
            None => Vec::new(),
        };
        let mixed = (0..bundle.segments.len()).into_par_iter().map(|n| {
            let (keys, values) = match seen.get(n) {
                Some((keys, values)) => (keys.clone(), values.clone()),
                None => {
                    let path = bundle.path(n);
                    let along = |x: &Tensor| {
                        let parts = path.iter().map(|&n| part(x, n)).collect::<candle_core::Result<Vec<_>>>()?;
                        Tensor::cat(&parts, 1)
                    };
                    (along(&k)?, along(&v)?)
                }
            };
            let spec = spec(heads, added.as_ref(), &keys);
            Ok(ops::attention(&spec, self.compute, &part(&q, n)?, &keys, &values, None)?)
        });
        Ok(Tensor::cat(&mixed.collect::<Result<Vec<_>>>()?, 1)?)
    }

    /// What is added to the scores of a layer, if anything is.
    fn added(&self, attn: &Attention<Applied>) -> Result<Option<Added>> {
        match (&attn.relative, &attn.heads.relative) {
            (Some(table), Some(read)) => Ok(Some(Added::new(table.table()?, read, &self.device)?)),
            _ => Ok(None),
        }
    }

    /// Queries, keys and values of rows `[batch, tokens, ..]`, normed and turned.
    fn projected(
        &self,
        attn: &Attention<Applied>,
        x: &Tensor,
        turn: &dyn Fn(&Rope, &Tensor) -> Result<Tensor>,
    ) -> Result<[Tensor; 3]> {
        let turned = |part: &Linear<Applied>, norm: &Option<Norm<Applied>>| -> Result<Tensor> {
            let y = self.linear(part, x)?; // [batch, tokens, heads * qk_dim]
            let y = self.head_norm(norm, y, attn.heads.qk_dim)?;
            match &attn.heads.rope {
                Some(rope) => turn(rope, &y),
                None => Ok(y),
            }
        };
        Ok([turned(&attn.q, &attn.q_norm)?, turned(&attn.k, &attn.k_norm)?, self.linear(&attn.v, x)?])
    }

    /// The norm of queries or keys: of each head, or of all together, as the width of its gain says.
    fn head_norm(&self, norm: &Option<Norm<Applied>>, x: Tensor, head: usize) -> Result<Tensor> {
        let width = match norm {
            None => return Ok(x),
            Some(norm) => norm.gain.vector()?.elem_count(),
        };
        let (batch, tokens, all) = x.dims3()?;
        if width == all || width != head {
            return self.norm(norm, x);
        }
        let heads = x.reshape((batch, tokens, all / head, head))?;
        Ok(self.norm(norm, heads)?.reshape((batch, tokens, all))?)
    }

    fn rotate(&self, rope: &Rope, x: &Tensor, heads: &Heads, first: usize) -> Result<Tensor> {
        let (_, tokens, width) = x.dims3()?;
        let turns = self.turns(rope, rope.frequencies(first + tokens), first + tokens)?;
        let count = width / heads.qk_dim;
        Ok(ops::rope(x, layout(rope), count, &turns.cos, &turns.sin, first, &kept_pairs(rope, heads, count))?)
    }

    /// Cosines and sines for at least so many positions, made once for all layers that turn alike.
    fn turns(&self, rope: &Rope, inv_freq: &[f32], positions: usize) -> Result<Turns> {
        let mut known = self.turns.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let same = |turns: &Turns| turns.inv_freq == inv_freq && turns.amplitude == rope.amplitude;
        let at = known.iter().position(same);
        if let Some(at) = at {
            if known[at].cos.dims()[0] >= positions {
                return Ok(known[at].clone());
            }
            known.swap_remove(at);
        }
        let rows = positions.next_power_of_two();
        let pairs = inv_freq.len();
        // The angle is a single, as in the reference implementations; its cosine is exact to the last bit or so.
        let angle = |i: usize| f64::from((i / pairs) as f32 * inv_freq[i % pairs]);
        let table = |f: fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = (0..rows * pairs).map(|i| f(angle(i)) as f32 * rope.amplitude).collect();
            Ok(Tensor::from_vec(values, (rows, pairs), &self.device)?)
        };
        let turns = Turns {
            inv_freq: inv_freq.to_vec(),
            amplitude: rope.amplitude,
            cos: table(f64::cos)?,
            sin: table(f64::sin)?,
        };
        known.push(turns.clone());
        Ok(turns)
    }

    /// What down is applied to: the activation of gate times up, or of up alone. `x` is normed.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn mlp_mid(&self, mlp: &Mlp<Applied>, x: &Tensor) -> Result<Tensor> {
        let act = match mlp.act {
            Activation::Silu => Act::Silu,
            Activation::Gelu => Act::Gelu,
            Activation::GeluTanh => Act::GeluTanh,
            Activation::QuickGelu => Act::QuickGelu,
            Activation::Relu => Act::Relu,
        };
        let up = self.linear(&mlp.up, x)?;
        Ok(match &mlp.gate {
            Some(gate) => ops::act_mul(act, &self.linear(gate, x)?, &up)?,
            None => ops::act(act, &up)?,
        })
    }
}

/// The residual stream, on its way past a sublayer, and what the sublayer returns.
fn added(shortcut: &Option<Applied>, residual: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(match shortcut {
        Some(shortcut) => ops::add(&shortcut.apply(residual, None)?, y)?,
        None => ops::add(residual, y)?,
    })
}

/// For each of so many query or key heads the frequencies that its pairs turn with, if some are missing.
fn kept_pairs(rope: &Rope, heads: &Heads, count: usize) -> Vec<u16> {
    if rope.pairs.is_none() {
        return Vec::new();
    }
    let kv = heads.kv();
    let queries = count == heads.kv_of.len();
    let read = |head: usize| if queries { usize::from(heads.kv_of[head]) } else { head };
    (0..count).flat_map(|head| rope.pairs_of(read(head), kv)).collect()
}

fn layout(rope: &Rope) -> Layout {
    match rope.style {
        RopeStyle::Half => Layout::Half,
        RopeStyle::Pairs => Layout::Pairs,
    }
}

/// What attention needs to know of heads whose keys are `[batch, tokens, kv_heads * qk_dim]`.
fn spec<'a>(heads: &'a Heads, added: Option<&'a Added>, k: &Tensor) -> attention::Spec<'a> {
    attention::Spec {
        kv_of: &heads.kv_of,
        kv_heads: k.dims()[2] / heads.qk_dim.max(1),
        qk_dim: heads.qk_dim,
        v_dim: heads.v_dim,
        scale: heads.scale,
        reach: match heads.reach {
            Reach::Causal => attention::Reach::Causal,
            Reach::Both => attention::Reach::Both,
            Reach::Window(keys) => attention::Reach::Window(keys),
            Reach::Around(keys) => attention::Reach::Around(keys),
        },
        softcap: heads.softcap,
        bias: added.map(Added::bias),
    }
}

/// Refuses inputs of which one is longer and another is not than where rotary frequencies change.
fn one_side(heads: &Heads, longest: usize, shortest: usize) -> Result<()> {
    match heads.rope.as_ref().and_then(|rope| rope.long.as_ref()) {
        Some(long) if longest > long.beyond && shortest <= long.beyond => {
            Err(Error::Mixed { tokens: longest, beyond: long.beyond })
        }
        _ => Ok(()),
    }
}
