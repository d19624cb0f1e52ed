//! Calibration samples on their way through a model, stopped at the places where activations can be looked at.
//!
//! Between two taps what has been worked out is kept, so that each linear layer is applied exactly once to each
//! sample: with the weights that it has when its turn comes, after it was rewritten.

use std::path::Path;

use brevity_kernels::ops::Compute;
use brevity_model::{Block, Embed, Head, Place, Tap};
use candle_core::Tensor;
use rayon::prelude::*;

use crate::applied::Applied;
use crate::error::{Error, Result};
use crate::forward::Forward;
use crate::read::values;
use crate::store::{Hidden, Room, Store};
use crate::stream::{check_finite, check_ids};

/// Where a flow keeps its activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// In memory.
    #[default]
    Memory,
    /// Hidden states in memory, and what lies between two taps in a file.
    HiddenInMemory,
    /// All in files.
    Files,
}

/// The calibration samples inside one model.
///
/// Hidden states are kept in single precision. What lies between two taps is kept in the precision of products: a
/// bfloat16 product rounds its inputs anyway, so nothing is lost.
#[derive(Debug)]
pub struct Flow<'a> {
    forward: Forward,
    windows: &'a [Vec<u32>],
    /// `[1, tokens, hidden]` of each sample: what goes into the block, then what comes out of it.
    hidden: Store,
    /// What attention mixed, then what the middle of the MLP holds.
    between: Store,
    /// The residual stream behind attention, in blocks whose MLP reads the input of the block.
    aside: Store,
}

impl<'a> Flow<'a> {
    /// Samples in front of the embedding. Files are made in `dir` and vanish with the process.
    ///
    /// # Errors
    /// [`Error::Spill`] if a file cannot be made.
    pub fn new(windows: &'a [Vec<u32>], compute: Compute, keep: Keep, dir: &Path) -> Result<Self> {
        let lengths: Vec<usize> = windows.iter().map(Vec::len).collect();
        let file = || Hidden::new(dir).map(Room::File);
        let room = |in_memory: bool| if in_memory { Ok(Room::Memory) } else { file() };
        let hidden = Store::new(room(keep != Keep::Files)?, Compute::F32, &lengths);
        let between = Store::new(room(keep == Keep::Memory)?, compute, &lengths);
        let aside = Store::new(room(keep != Keep::Files)?, Compute::F32, &lengths);
        Ok(Flow { forward: Forward::new(compute), windows, hidden, between, aside })
    }

    /// How many samples there are.
    pub fn samples(&self) -> usize {
        self.windows.len()
    }

    /// The tokens of all samples.
    pub fn windows(&self) -> &'a [Vec<u32>] {
        self.windows
    }

    /// How many tokens a sample has.
    pub fn length(&self, sample: usize) -> usize {
        self.windows[sample].len()
    }

    /// The hidden states of a sample at the boundary of two stages, `[1, tokens, hidden]`.
    ///
    /// # Errors
    /// [`Error::Missing`] before the embedding, [`Error::Spill`].
    pub fn hidden(&mut self, sample: usize) -> Result<Tensor> {
        self.hidden.get(sample)
    }

    /// Puts other hidden states, of any width, in the place of those of a sample.
    ///
    /// # Errors
    /// [`Error::Spill`].
    pub fn replace(&mut self, sample: usize, x: Tensor) -> Result<()> {
        self.hidden.put(sample, x)
    }

    /// Takes a sample through the embedding.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::Empty`], [`Error::NonFinite`], [`Error::Spill`], or whatever tensors refuse.
    pub fn embed(&mut self, embed: &Embed<Applied>, sample: usize) -> Result<()> {
        let at = |e: Error| e.at(Place::Embed);
        let ids = &self.windows[sample];
        check_ids(ids, embed.tokens.weight.table().map_err(at)?.shape()[0], sample)?;
        let x = self.forward.embed(embed, ids, 1, 0).map_err(at)?;
        check_finite(&x, Place::Embed, sample)?;
        self.hidden.put(sample, x)
    }

    /// Takes a sample as far as a tap of a block, and returns what there is to see, `[1, tokens, width]`.
    ///
    /// The taps of a block are asked for in order, each once for each sample; a part that the block has not got has
    /// no taps. Layers behind the tap are not applied yet.
    ///
    /// # Errors
    /// [`Error::NonFinite`], [`Error::Spill`], or whatever tensors refuse.
    pub fn tap(&mut self, place: Place, block: &Block<Applied>, tap: Tap, sample: usize) -> Result<Tensor> {
        let x = self.reach_tap(block, tap, sample).map_err(|e| e.at(place))?;
        check_finite(&x, place, sample)?;
        Ok(x)
    }

    fn reach_tap(&mut self, block: &Block<Applied>, tap: Tap, sample: usize) -> Result<Tensor> {
        let part = |what| Error::Missing { what };
        let attn = || block.attn.as_ref().ok_or(part("attention in this block"));
        let mlp = || block.mlp.as_ref().ok_or(part("MLP in this block"));
        match tap {
            Tap::AttnIn => self.forward.attn_in(attn()?, &self.hidden.get(sample)?),
            Tap::AttnMix => {
                let x = self.forward.attn_in(attn()?, &self.hidden.get(sample)?)?;
                let mixed = self.forward.attn_mix(attn()?, &x, None, None)?;
                self.between.put(sample, mixed.clone())?;
                Ok(mixed)
            }
            Tap::MlpIn => {
                let x = self.hidden.get(sample)?;
                let out = self.past_attention(block, &x, sample)?;
                let y = self.forward.mlp_in(mlp()?, if block.parallel { &x } else { &out })?;
                if block.parallel {
                    self.aside.put(sample, out)?
                } else {
                    self.hidden.put(sample, out)?
                }
                Ok(y)
            }
            Tap::MlpMid => {
                let x = self.forward.mlp_in(mlp()?, &self.hidden.get(sample)?)?;
                let middle = self.forward.mlp_mid(mlp()?, &x)?;
                self.between.put(sample, middle.clone())?;
                Ok(middle)
            }
            Tap::HeadIn => Err(part("tap of the head")),
            Tap::Ids => Err(part("tap of the embedding")),
        }
    }

    /// What a tap in front of a sublayer shows of a sample that has been there, `[1, tokens, width]`, once more: the norm may
    /// be another since.
    ///
    /// # Errors
    /// As [`Flow::tap`].
    pub fn again(&mut self, place: Place, block: &Block<Applied>, tap: Tap, sample: usize) -> Result<Tensor> {
        let missing = Error::Missing { what: "norm in front of this tap" };
        let x = self.hidden.get(sample)?;
        let y = match (tap, &block.attn, &block.mlp) {
            (Tap::AttnIn, Some(attn), _) => self.forward.attn_in(attn, &x),
            (Tap::MlpIn, _, Some(mlp)) => self.forward.mlp_in(mlp, &x),
            _ => Err(missing),
        };
        let y = y.map_err(|e| e.at(place))?;
        check_finite(&y, place, sample)?;
        Ok(y)
    }

    /// What a sample that has arrived in the middle of a sublayer holds there, `[1, tokens, width]`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Spill`].
    pub fn middle(&mut self, sample: usize) -> Result<Tensor> {
        self.between.get(sample)
    }

    /// Leaves only the channels of these numbers of what a sample holds in the middle of the MLP, as if the rows that make
    /// the others had been gone when it came, and returns what is left, `[1, tokens, channels]`.
    ///
    /// # Errors
    /// As [`Flow::middle`].
    pub fn narrow(&mut self, sample: usize, channels: &[usize]) -> Result<Tensor> {
        let x = self.between.get(sample)?;
        let (_, tokens, width) = x.dims3()?;
        let left = values(&x, |x| {
            let mut left = vec![0f32; tokens * channels.len()];
            let rows = left.par_chunks_mut(channels.len().max(1)).zip(x.par_chunks(width.max(1)));
            rows.for_each(|(left, x)| left.iter_mut().zip(channels).for_each(|(left, &channel)| *left = x[channel]));
            left
        })?;
        let left = Tensor::from_vec(left, (1, tokens, channels.len()), x.device())?;
        self.between.put(sample, left.clone())?;
        Ok(left)
    }

    /// The residual stream behind the sublayer in whose middle a sample has arrived, `[1, tokens, hidden]`, with the last
    /// matrix as it is. The sample stays where it is.
    ///
    /// # Errors
    /// As [`Flow::tap`].
    pub fn behind(&mut self, place: Place, block: &Block<Applied>, tap: Tap, sample: usize) -> Result<Tensor> {
        let middle = self.between.get(sample)?;
        let y = match (tap, &block.attn, &block.mlp) {
            (Tap::AttnMix, Some(attn), _) => self.forward.attn_out(attn, &self.hidden.get(sample)?, &middle),
            (Tap::MlpMid, _, Some(mlp)) => {
                let residual = if block.parallel { self.aside.get(sample)? } else { self.hidden.get(sample)? };
                self.forward.mlp_out(mlp, &residual, &middle)
            }
            _ => Err(Error::Missing { what: "last matrix behind this tap" }),
        };
        let y = y.map_err(|e| e.at(place))?;
        check_finite(&y, place, sample)?;
        Ok(y)
    }

    fn past_attention(&mut self, block: &Block<Applied>, x: &Tensor, sample: usize) -> Result<Tensor> {
        match &block.attn {
            None => Ok(x.clone()),
            Some(attn) => self.forward.attn_out(attn, x, &self.between.take(sample)?),
        }
    }

    /// Takes a sample from the last tap of a block to its end.
    ///
    /// # Errors
    /// As [`Flow::tap`].
    pub fn leave(&mut self, place: Place, block: &Block<Applied>, sample: usize) -> Result<()> {
        let out = self.reach_end(block, sample).map_err(|e| e.at(place))?;
        check_finite(&out, place, sample)?;
        self.hidden.put(sample, out)
    }

    fn reach_end(&mut self, block: &Block<Applied>, sample: usize) -> Result<Tensor> {
        let Some(mlp) = &block.mlp else {
            let x = self.hidden.get(sample)?;
            return self.past_attention(block, &x, sample);
        };
        let residual = if block.parallel { self.aside.take(sample)? } else { self.hidden.get(sample)? };
        let middle = self.between.take(sample)?;
        self.forward.mlp_out(mlp, &residual, &middle)
    }

    /// Takes a sample through a whole block at which nothing is looked at.
    ///
    /// # Errors
    /// As [`Flow::tap`].
    pub fn pass(&mut self, place: Place, block: &Block<Applied>, sample: usize) -> Result<()> {
        let x = self.hidden.get(sample)?;
        let y = self.forward.block(block, &x, None, None).map_err(|e| e.at(place))?;
        check_finite(&y, place, sample)?;
        self.hidden.put(sample, y)
    }

    /// What the output table reads of a sample.
    ///
    /// # Errors
    /// As [`Flow::tap`].
    pub fn head_in(&mut self, head: &Head<Applied>, sample: usize) -> Result<Tensor> {
        let x = self.hidden.get(sample)?;
        let x = self.forward.head_in(head, &x).map_err(|e| e.at(Place::Head))?;
        check_finite(&x, Place::Head, sample)?;
        Ok(x)
    }
}
