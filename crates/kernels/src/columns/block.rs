//! Blocks of columns.

use super::{Columns, Prune};

/// Columns that are worked through one by one before the columns after them hear of it.
#[derive(Debug)]
pub(super) struct Block {
    /// Its first column, in the order of the factor.
    pub at: usize,
    /// The column after its last.
    pub end: usize,
    /// `U` of these columns, row by row.
    pub u: Vec<f32>,
    /// `1 / U_jj`.
    pub inverse: Vec<f32>,
}

impl Block {
    /// All blocks. A run of columns whose weights are looked at together when its first is reached (a group that is
    /// fitted then, a run of a pattern) lies in one block or begins one, so that what is looked at is up to date.
    pub fn all(columns: &Columns<'_>, n: usize) -> Vec<Block> {
        let u = columns.factor.columns();
        let mut blocks = Vec::new();
        let mut at = 0;
        while at < n {
            let end = end(columns, at, n);
            let width = end - at;
            let mut own = vec![0.0; width * width];
            for k in 0..width {
                for j in 0..=k {
                    own[j * width + k] = u[(at + k) * n + at + j];
                }
            }
            let inverse = (0..width).map(|j| 1.0 / own[j * width + j]).collect();
            blocks.push(Block { at, end, u: own, inverse });
            at = end;
        }
        blocks
    }

    pub fn width(&self) -> usize {
        self.end - self.at
    }
}

/// The end of the block that begins with column `at`.
pub(super) fn end(columns: &Columns<'_>, at: usize, n: usize) -> usize {
    let fitted = columns.grid.filter(|_| columns.is_dynamic()).map(|grid| grid.run(n));
    let pattern = match columns.prune {
        Some(Prune::Pattern { of, .. }) => Some(of),
        _ => None,
    };
    let mut end = (at + columns.block).min(n);
    loop {
        // A run that would be cut and begins inside begins the next block instead.
        let cut =
            fitted.into_iter().chain(pattern).map(|run| end / run * run).find(|&run| end < n && at < run && run < end);
        match cut {
            Some(before) => end = before,
            None => return end,
        }
    }
}
