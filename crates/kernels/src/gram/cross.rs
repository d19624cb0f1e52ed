//! The sum of outer products of two sequences of rows.

use super::chunk::{self, chunks};
use super::{STRIP, TILE, span};
use crate::matmul::Rows;
use crate::ops::Compute;
use rayon::prelude::*;

/// `Σ aᵀb` over pairs of rows of `n` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Cross {
    pub(super) n: usize,
    pub(super) total: Vec<f64>,
}

impl Cross {
    /// Nothing seen yet.
    pub fn new(n: usize) -> Self {
        Cross { n, total: vec![0.0; n * n] }
    }

    /// The totals `total`, `[n, n]`.
    pub fn from_f64(n: usize, total: Vec<f64>) -> Self {
        assert_eq!(total.len(), n * n, "the totals have their shape");
        Cross { n, total }
    }

    /// Rows and columns.
    pub fn size(&self) -> usize {
        self.n
    }

    /// Memory that the totals of rows of `n` numbers take.
    pub fn bytes(n: usize) -> u64 {
        8 * (n * n) as u64
    }

    /// Adds `aᵀb` for `a` and `b` `[rows, n]`.
    pub fn add(&mut self, rows: usize, a: Rows<'_>, b: Rows<'_>, compute: Compute) {
        let n = self.n;
        chunks(n, rows, a, Some(b), compute, |chunk| {
            self.total.par_chunks_mut(STRIP * n).with_max_len(1).enumerate().for_each(|(i, strip)| {
                for j in 0..n.div_ceil(TILE) {
                    let cols = span(n, j);
                    chunk.product(super::strip(n, 0, i), cols.clone(), false, |r, _, sums| {
                        chunk::add(&mut strip[r * n..][cols.clone()], sums);
                    });
                }
            });
        });
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Cross) {
        assert_eq!(self.n, other.n, "both saw rows of one length");
        self.total.par_iter_mut().zip(&other.total).with_min_len(1 << 15).for_each(|(a, b)| *a += b);
    }

    /// `tr(A C Bᵀ)`: the sum over `t` of `a_t C b_tᵀ`, for `a` and `b` `[rows, n]`.
    ///
    /// `AᵀB` is worked out in single precision, tile by tile and 1024 rows at a time, and multiplied by the totals in
    /// double precision.
    ///
    /// # Cost
    /// `2 rows n²` operations in single precision; no memory to speak of.
    pub fn inner(&self, rows: usize, a: &[f32], b: &[f32]) -> f64 {
        let (n, mut sum) = (self.n, 0.0);
        chunks(n, rows, Rows::F32(a), Some(Rows::F32(b)), Compute::F32, |chunk| {
            let strips = self.total.par_chunks(STRIP * n).with_max_len(1).enumerate();
            let parts = strips.map(|(i, strip)| {
                let mut part = 0.0;
                for j in 0..n.div_ceil(TILE) {
                    let cols = span(n, j);
                    chunk.product(super::strip(n, 0, i), cols.clone(), false, |r, _, sums| {
                        part += chunk::dot(&strip[r * n..][cols.clone()], sums);
                    });
                }
                part
            });
            sum += parts.collect::<Vec<f64>>().iter().sum::<f64>();
        });
        sum
    }

    /// The totals, `[n, n]`.
    pub fn as_f64(&self) -> &[f64] {
        &self.total
    }

    /// The totals in single precision, `[n, n]`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.total.par_iter().with_min_len(1 << 15).map(|&x| x as f32).collect()
    }
}
