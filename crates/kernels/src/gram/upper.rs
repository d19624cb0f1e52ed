//! The symmetric sum, kept as its upper triangle.

use super::chunk::{self, chunks};
use super::{STRIP, TILE, span};
use crate::buffer::{Plain, filled, scratch};
use crate::matmul::Rows;
use crate::ops::Compute;
use rayon::prelude::*;

/// `Σ xᵀx` over rows `x` of `n` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    pub(super) n: usize,
    /// Row by row, the tiles on and right of the diagonal; each row-major and as large as the matrix leaves it.
    /// What lies left of the diagonal in a tile on it stays zero.
    pub(super) tiles: Vec<Vec<f64>>,
}

impl Gram {
    /// Nothing seen yet.
    pub fn new(n: usize) -> Self {
        let tiles = places(n).map(|(i, j)| vec![0.0; span(n, i).len() * span(n, j).len()]).collect();
        Gram { n, tiles }
    }

    /// Rows and columns.
    pub fn size(&self) -> usize {
        self.n
    }

    /// Memory that the totals of rows of `n` numbers take.
    pub fn bytes(n: usize) -> u64 {
        places(n).map(|(i, j)| 8 * (span(n, i).len() * span(n, j).len()) as u64).sum()
    }

    /// Adds `xᵀx` for `x` `[rows, n]`.
    ///
    /// # Cost
    /// `rows n (n + 1)` operations and a little more: no square of side 96 left of the diagonal is worked out.
    pub fn add(&mut self, rows: usize, x: Rows<'_>, compute: Compute) {
        let n = self.n;
        let places: Vec<(usize, usize)> = places(n).collect();
        chunks(n, rows, x, None, compute, |chunk| {
            self.tiles.par_iter_mut().zip(&places).with_max_len(1).for_each(|(tile, &(i, j))| {
                let (cols, w) = (span(n, j), span(n, j).len());
                tile.par_chunks_mut(STRIP * w).with_max_len(1).enumerate().for_each(|(s, strip)| {
                    chunk.product(super::strip(n, i, s), cols.clone(), i == j, |r, c, sums| {
                        chunk::add(&mut strip[r * w..][c..w], sums);
                    });
                });
            });
        });
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Gram) {
        assert_eq!(self.n, other.n, "both saw rows of one length");
        self.tiles.par_iter_mut().zip(&other.tiles).for_each(|(a, b)| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        });
    }

    /// The diagonal: `Σ x_j²`.
    pub fn diagonal(&self) -> Vec<f64> {
        let on = places(self.n).zip(&self.tiles).filter(|((i, j), _)| i == j);
        on.flat_map(|((i, _), tile)| tile.iter().step_by(span(self.n, i).len() + 1)).copied().collect()
    }

    /// The sum of the diagonal: `Σ |x|²`.
    pub fn trace(&self) -> f64 {
        self.diagonal().iter().sum()
    }

    /// Whether all of it is finite: no row had a NaN or an infinity, and nothing overflowed.
    pub fn is_finite(&self) -> bool {
        self.tiles.par_iter().all(|tile| tile.iter().all(|x| x.is_finite()))
    }

    /// `tr(D G Dᵀ)`: what a change `d` `[rows, n]` of a weight adds to the squared error of its outputs, summed over
    /// all that was seen.
    ///
    /// `DᵀD` is worked out in single precision (in bfloat16 with operands rounded to it), tile by tile and 1024 rows at
    /// a time, and multiplied by the totals in double precision. Where the exact value is far below `|D|² tr G`, rounding can leave it slightly negative.
    ///
    /// # Cost
    /// `rows n (n + 1)` operations in single precision; no memory to speak of.
    pub fn quadratic(&self, rows: usize, d: &[f32], compute: Compute) -> f64 {
        let (n, mut sum) = (self.n, 0.0);
        let places: Vec<(usize, usize)> = places(n).collect();
        chunks(n, rows, Rows::F32(d), None, compute, |chunk| {
            let parts = self.tiles.par_iter().zip(&places).with_max_len(1).map(|(tile, &(i, j))| {
                let (cols, w) = (span(n, j), span(n, j).len());
                let strips = tile.par_chunks(STRIP * w).with_max_len(1).enumerate().map(|(s, strip)| {
                    let mut part = 0.0;
                    chunk.product(super::strip(n, i, s), cols.clone(), i == j, |r, c, sums| {
                        let total = &strip[r * w..][c..w];
                        // both triangles, but the diagonal once
                        part += 2.0 * chunk::dot(total, sums);
                        if i == j {
                            part -= total[0] * f64::from(sums[0]);
                        }
                    });
                    part
                });
                strips.collect::<Vec<f64>>().iter().sum()
            });
            sum += parts.collect::<Vec<f64>>().iter().sum::<f64>();
        });
        sum
    }

    /// The whole symmetric matrix, `[n, n]`.
    pub fn to_f64(&self) -> Vec<f64> {
        filled(self.n * self.n, |out| self.rows(None, out, |x| x)).0
    }

    /// The whole symmetric matrix in single precision, `[n, n]`.
    pub fn to_f32(&self) -> Vec<f32> {
        filled(self.n * self.n, |out| self.rows(None, out, |x| x as f32)).0
    }

    /// The rows and columns named by `order`, in that order: `out[a m + b] = G[order[a]][order[b]]`, with `m` names.
    pub fn ordered_f64(&self, order: &[u32], out: &mut [f64]) {
        self.rows(Some(order), out, |x| x);
    }

    /// [`ordered_f64`](Self::ordered_f64) in single precision.
    pub fn ordered_f32(&self, order: &[u32], out: &mut [f32]) {
        self.rows(Some(order), out, |x| x as f32);
    }

    fn rows<T: Plain>(&self, order: Option<&[u32]>, out: &mut [T], cast: impl Fn(f64) -> T + Sync) {
        let m = order.map_or(self.n, <[u32]>::len);
        assert_eq!(out.len(), m * m, "the result has its shape");
        if m == 0 {
            return;
        }
        out.par_chunks_mut(m).enumerate().with_min_len(8).for_each(|(a, out)| {
            scratch::<f64, _>(self.n, |row| {
                self.row(order.map_or(a, |order| order[a] as usize), row);
                match order {
                    None => out.iter_mut().zip(&*row).for_each(|(o, &x)| *o = cast(x)),
                    Some(order) => out.iter_mut().zip(order).for_each(|(o, &b)| *o = cast(row[b as usize])),
                }
            });
        });
    }

    /// Row `i` of the whole matrix: down a column above the diagonal, then along.
    fn row(&self, i: usize, out: &mut [f64]) {
        let (n, (at, r)) = (self.n, (i / TILE, i % TILE));
        let w = span(n, at).len();
        for above in 0..=at {
            let cols = span(n, above).start..span(n, above).end.min(i);
            let tile = &self.tiles[self.place(above, at)];
            out[cols].iter_mut().zip(tile[r..].iter().step_by(w)).for_each(|(o, x)| *o = *x);
        }
        for j in at..n.div_ceil(TILE) {
            let cols = span(n, j);
            let skip = i.saturating_sub(cols.start);
            let row = &self.tiles[self.place(at, j)][r * cols.len()..(r + 1) * cols.len()];
            out[cols.start + skip..cols.end].copy_from_slice(&row[skip..]);
        }
    }

    /// Where tile `(i, j)` is kept.
    fn place(&self, i: usize, j: usize) -> usize {
        let tiles = self.n.div_ceil(TILE);
        i * tiles - i * i.saturating_sub(1) / 2 + j - i
    }
}

/// The tiles on and right of the diagonal, row by row.
pub(super) fn places(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = n.div_ceil(TILE);
    (0..tiles).flat_map(move |i| (i..tiles).map(move |j| (i, j)))
}
