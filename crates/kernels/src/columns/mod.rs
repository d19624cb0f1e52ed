//! The column solver: weights are rounded or removed one input at a time, and the inputs after it make up for it.
//!
//! For a weight `W` `[rows, n]` and `K = H + damp I` with `K⁻¹ = Uᵀ U`, in the order of the factor:
//!
//! ```text
//! for j in 0..n:
//!     q_j = what w_j becomes                    rounded to the grid, or zero where it is removed
//!     e   = (w_j - q_j) / U_jj
//!     w_k -= e U_jk                             for every k > j
//! ```
//!
//! Each step is the optimal answer of the inputs after `j` to the error in `j`, and `Σ e²` over all steps is exactly
//! `tr((W - Q) K (W - Q)ᵀ)`, the error that is made on what was seen.
//!
//! Rows know nothing of each other (but for [`Prune::Count`], where the rows of a block compete), so tiles of rows
//! are solved in parallel. Columns are worked through in blocks: inside a block one by one, with a column of 32 rows
//! in registers; the columns after it get the errors of a whole block in one matrix product.
//!
//! Source: Frantar et al. 2022, arXiv:2210.17323 (GPTQ); Frantar and Alistarh 2023, arXiv:2301.00774 (SparseGPT).

mod block;
mod scalar;
mod select;
mod tile;

pub use scalar::solve_scalar;

use crate::error::Error;
use crate::grid::{Group, Scales, Spec, check_len};
use crate::linalg::InverseFactor;
use block::Block;
use rayon::prelude::*;
use tile::Tile;

/// Rows whose weights of one column are worked on at once.
const LANES: usize = 32;
/// The most rows of a tile: a tile of a few thousand inputs stays in the second-level cache.
const TILE: usize = 128;

/// What is to be done to a weight, column by column.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// What was seen of the inputs, and in which order they are worked through.
    pub factor: &'a InverseFactor,
    /// The grid that kept weights are rounded to; without one they stay floats.
    pub grid: Option<Grid<'a>>,
    /// Which weights are removed.
    pub prune: Option<Prune>,
    /// Columns of a block; 128 is usual. Changes only the speed, and which weights compete in [`Prune::Count`].
    pub block: usize,
}

/// The grid that weights are rounded to. A symmetric grid of one bit has the levels `±scale`, codes 1 and 0.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    /// Everything but the scales. Groups are of inputs as they lie in the weight, whatever the order of the factor;
    /// the last one may be shorter.
    pub spec: &'a Spec,
    /// Where the scales come from.
    pub fit: Fit<'a>,
}

/// Where scales come from.
#[derive(Debug, Clone, Copy)]
pub enum Fit<'a> {
    /// These, as [`crate::grid::fit`] returns them.
    Static(&'a Scales),
    /// Fitted to the weights of a group as they are when its first column is reached. Needs a factor in natural order
    /// and groups of one row.
    Dynamic,
}

/// Which weights are removed, beside those that are gone already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prune {
    /// This many entries of the matrix in all, those already gone included, spread evenly over what is left in each
    /// block. In a block those with the smallest `w² / U_jj²` go; of equal ones the first, row by row.
    Count(usize),
    /// In every whole run of `of` columns of a row, `removed` with the smallest `w² / U_jj²`, those already gone
    /// first. Needs a factor in natural order.
    Pattern {
        /// Removed entries of a run.
        removed: usize,
        /// Columns of a run.
        of: usize,
    },
}

/// What became of the weights, beside their values.
#[derive(Debug, Clone, PartialEq)]
pub struct Solved {
    /// One code for each weight, `[rows, cols]`, if there was a grid. Removed weights have the code of zero (on a
    /// grid of `±scale` none stands for zero, and they have code 1).
    pub codes: Option<Vec<u8>>,
    /// The scales and zero points, if they were fitted on the way.
    pub scales: Option<Scales>,
    /// Which weights are kept, if any were removed, now or before.
    pub keep: Option<Vec<bool>>,
    /// `Σ e²`: the error made on what was seen, damping included.
    pub loss: f64,
}

impl Columns<'_> {
    /// Solves for `w` `[rows, cols]` in place. It becomes what the codes stand for, or what is left of it without a
    /// grid. Weights whose `keep` is false are made zero, and their error is pushed on.
    ///
    /// # Errors
    /// [`Error::Bits`], [`Error::Group`], or [`Error::Length`] if a slice does not fit the shape.
    ///
    /// # Panics
    /// If the factor has not as many inputs as `w`, or is not in natural order where that is needed.
    ///
    /// # Cost
    /// `rows cols²` operations; beside the result about 6 bytes for each weight with [`Prune::Count`], and those of
    /// one tile for each thread without.
    pub fn solve(&self, w: &mut [f32], shape: [usize; 2], keep: Option<&[bool]>) -> Result<Solved, Error> {
        let [rows, cols] = shape;
        let groups = self.check(w.len(), shape, keep)?;
        let mut codes = self.grid.map(|_| vec![0u8; w.len()]);
        let dynamic = self.is_dynamic();
        let mut scales = if dynamic { vec![1.0f32; rows * groups] } else { Vec::new() };
        let mut zeros = if dynamic { vec![0u8; rows * groups] } else { Vec::new() };
        let mut kept = (keep.is_some() || self.prune.is_some()).then(|| vec![true; w.len()]);
        let mut loss = 0.0;
        if !w.is_empty() {
            let blocks = Block::all(self, cols);
            let size = (rows / 8).next_multiple_of(LANES).clamp(LANES, TILE);
            let count = rows.div_ceil(size);
            let mut jobs = Vec::with_capacity(count);
            {
                let mut w = w.chunks_mut(size * cols);
                let mut codes = codes.as_mut().map(|codes| codes.chunks_mut(size * cols));
                let mut kept = kept.as_mut().map(|kept| kept.chunks_mut(size * cols));
                let mut scales = scales.chunks_mut((size * groups).max(1));
                let mut zeros = zeros.chunks_mut((size * groups).max(1));
                for first in (0..rows).step_by(size) {
                    jobs.push(Job {
                        first,
                        w: w.next().expect("as many pieces as tiles"),
                        codes: codes.as_mut().and_then(Iterator::next),
                        kept: kept.as_mut().and_then(Iterator::next),
                        scales: scales.next().unwrap_or_default(),
                        zeros: zeros.next().unwrap_or_default(),
                    });
                }
            }
            let losses: Vec<f64> = match self.prune {
                Some(Prune::Count(count)) => {
                    let mut tiles: Vec<Tile> = jobs.par_iter().map(|job| Tile::new(self, job, groups, keep)).collect();
                    let mut shares = select::Shares::new(count, &blocks, &tiles);
                    for block in &blocks {
                        select::block(&mut tiles, block, shares.next(block));
                        tiles.par_iter_mut().for_each(|tile| tile.step(self, block));
                    }
                    tiles.into_par_iter().zip(jobs).map(|(tile, job)| tile.finish(self, job)).collect()
                }
                _ => jobs
                    .into_par_iter()
                    .map(|job| {
                        let mut tile = Tile::new(self, &job, groups, keep);
                        blocks.iter().for_each(|block| tile.step(self, block));
                        tile.finish(self, job)
                    })
                    .collect(),
            };
            loss = losses.iter().sum();
        }
        let scales = dynamic.then(|| {
            let spec = self.grid.expect("what is fitted on the way is a grid").spec;
            Scales { scales, zeros: (!spec.symmetric).then_some(zeros) }
        });
        Ok(Solved { codes, scales, keep: kept, loss })
    }

    fn is_dynamic(&self) -> bool {
        matches!(self.grid, Some(Grid { fit: Fit::Dynamic, .. }))
    }

    /// Groups of a row.
    fn check(&self, count: usize, [rows, cols]: [usize; 2], keep: Option<&[bool]>) -> Result<usize, Error> {
        check_len("the weights", count, rows * cols)?;
        if let Some(keep) = keep {
            check_len("the mask", keep.len(), count)?;
        }
        assert_eq!(self.factor.size(), cols, "the factor is of the inputs of the weight");
        assert!(self.block > 0, "a block has columns");
        let natural = self.factor.order().iter().enumerate().all(|(at, &input)| at == input as usize);
        assert!(natural || !matches!(self.prune, Some(Prune::Pattern { .. })), "runs are of inputs in natural order");
        let Some(Grid { spec, fit }) = self.grid else { return Ok(0) };
        let spec = Spec { ragged: true, ..*spec };
        let scales = spec.scales([rows, cols])?;
        match fit {
            Fit::Static(fitted) => {
                check_len("the scales", fitted.scales.len(), scales)?;
                if let Some(zeros) = &fitted.zeros {
                    check_len("the zero points", zeros.len(), scales)?;
                }
            }
            Fit::Dynamic => {
                assert!(natural, "groups are fitted in natural order");
                assert!(spec.group != Group::Tensor, "rows that share a scale are not fitted one by one");
            }
        }
        Ok(match spec.group {
            Group::Size(size) => cols.div_ceil(size),
            Group::Row | Group::Tensor => 1,
        })
    }
}

impl Grid<'_> {
    /// Inputs of a group.
    fn run(&self, cols: usize) -> usize {
        match self.spec.group {
            Group::Size(size) => size,
            Group::Row | Group::Tensor => cols.max(1),
        }
    }

    /// Whether the levels are `±scale`.
    fn is_sign(&self) -> bool {
        self.spec.bits == 1 && self.spec.symmetric
    }
}

/// A tile of rows and where its results go.
struct Job<'a> {
    /// Its first row.
    first: usize,
    w: &'a mut [f32],
    codes: Option<&'a mut [u8]>,
    kept: Option<&'a mut [bool]>,
    /// Where fitted scales and zero points go.
    scales: &'a mut [f32],
    zeros: &'a mut [u8],
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
