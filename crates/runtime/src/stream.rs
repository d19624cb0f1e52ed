//! The hidden states of many windows at a stage boundary.

use std::ops::Range;

use brevity_kernels::cast;
use brevity_model::{Head, Norm, Place, Stage};
use candle_core::{DType, Tensor};

use crate::applied::Applied;
use crate::error::{Error, Result};
use crate::forward::Forward;
use crate::read;

/// Windows of tokens on their way through a model: stage by stage, all of them at each.
///
/// Windows are run one by one, so what one returns does not depend on the others.
#[derive(Debug)]
pub struct Stream<'a> {
    forward: &'a Forward,
    windows: &'a [Vec<u32>],
    /// The number of the first window, for errors.
    first: usize,
    /// `[1, tokens, hidden]` of each window, once it is embedded.
    hidden: Vec<Tensor>,
}

impl<'a> Stream<'a> {
    /// Windows in front of the embedding. In errors the first is called window `first`.
    pub fn start(forward: &'a Forward, windows: &'a [Vec<u32>], first: usize) -> Self {
        Stream { forward, windows, first, hidden: Vec::new() }
    }

    /// How many windows there are.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Hidden states of window `window`, `[1, tokens, hidden]`.
    pub fn hidden(&self, window: usize) -> &Tensor {
        &self.hidden[window]
    }

    /// Runs all windows through a stage; `done` is called with the number of each when it has passed.
    ///
    /// # Errors
    /// [`Error::Token`], [`Error::Empty`], [`Error::NonFinite`], [`Error::Loose`], what `done` returns, or whatever
    /// tensors refuse. A head is not passed but asked for logits.
    pub fn advance(
        &mut self,
        place: Place,
        stage: &Stage<Applied>,
        done: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        for at in 0..self.windows.len() {
            let x = match stage {
                Stage::Embed(embed) => {
                    let ids = &self.windows[at];
                    check_ids(ids, embed.tokens.weight.table().map_err(|e| e.at(place))?.shape()[0], self.first + at)?;
                    self.forward.embed(embed, ids, 1, 0)
                }
                Stage::Block(block) => {
                    let x = self.hidden.get(at).ok_or(Error::Missing { what: "embedding in front of its blocks" })?;
                    self.forward.block(block, x, None, None)
                }
                Stage::Head(_) => return Ok(()),
                Stage::Loose(_) => return Err(Error::Loose { place }),
            };
            let x = x.map_err(|e| e.at(place))?;
            check_finite(&x, place, self.first + at)?;
            match self.hidden.get_mut(at) {
                Some(old) => *old = x,
                None => self.hidden.push(x),
            }
            done(at)?;
        }
        Ok(())
    }

    /// Hidden states of a window behind a norm, `[1, tokens, hidden]`.
    ///
    /// # Errors
    /// [`Error::NonFinite`], or whatever tensors refuse.
    pub(crate) fn normed(&self, window: usize, norm: &Option<Norm<Applied>>) -> Result<Tensor> {
        let hidden = self.hidden.get(window).ok_or(Error::Missing { what: "embedding" })?;
        let normed = self.forward.norm(norm, hidden.clone()).map_err(|e| e.at(Place::Head))?;
        check_finite(&normed, Place::Head, self.first + window)?;
        Ok(normed)
    }

    /// Logits of some rows of a window, `[rows, vocabulary]`; `table` as in [`Forward::head`].
    ///
    /// # Errors
    /// [`Error::NonFinite`], or whatever tensors refuse.
    pub fn logits(
        &self,
        window: usize,
        rows: Range<usize>,
        head: &Head<Applied>,
        table: Option<&Applied>,
    ) -> Result<Tensor> {
        let hidden = self.hidden.get(window).ok_or(Error::Missing { what: "embedding" })?;
        let some = hidden.get(0)?.narrow(0, rows.start, rows.len())?.contiguous()?;
        let logits = self.forward.head(head, table, &some).map_err(|e| e.at(Place::Head))?;
        check_finite(&logits, Place::Head, self.first + window)?;
        Ok(logits)
    }
}

/// Whether all ids are rows of the token table.
pub(crate) fn check_ids(ids: &[u32], vocabulary: usize, window: usize) -> Result<()> {
    if ids.is_empty() {
        return Err(Error::Empty { window });
    }
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(&token) => Err(Error::Token { window, token, vocabulary }),
        None => Ok(()),
    }
}

/// Whether all values are finite.
pub(crate) fn check_finite(x: &Tensor, place: Place, window: usize) -> Result<()> {
    debug_assert_eq!(x.dtype(), DType::F32);
    match read::values(x, cast::count_non_finite)? {
        0 => Ok(()),
        count => Err(Error::NonFinite { place, window, count }),
    }
}
