//! The sum of outer products of two sequences of rows of different widths.

use rayon::prelude::*;

use crate::matmul::{Dims, matmul_f32};

/// Rows that are added up in single precision at a time.
const RUN: usize = 1024;

/// `Σ aᵀb` over pairs of rows, `a` of `m` numbers and `b` of `n`.
///
/// Products are single precision, at most 1024 rows to a sum, and totals double precision.
#[derive(Debug, Clone, PartialEq)]
pub struct Outer {
    shape: [usize; 2],
    total: Vec<f64>,
}

impl Outer {
    /// Nothing seen yet, `[m, n]`.
    pub fn new(shape: [usize; 2]) -> Self {
        Outer { shape, total: vec![0.0; shape[0] * shape[1]] }
    }

    /// The totals `total`, `[m, n]`.
    pub fn from_f64(shape: [usize; 2], total: Vec<f64>) -> Self {
        assert_eq!(total.len(), shape[0] * shape[1], "the totals have their shape");
        Outer { shape, total }
    }

    /// `[m, n]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Memory that the totals take, and what adding to them takes beside.
    pub fn bytes([m, n]: [usize; 2]) -> u64 {
        (12 * m * n + 4 * RUN * m) as u64
    }

    /// Adds `aᵀb` for `a` `[rows, m]` and `b` `[rows, n]`.
    pub fn add(&mut self, a: &[f32], b: &[f32]) {
        let [m, n] = self.shape;
        assert_eq!(a.len() * n, b.len() * m, "as many rows of one as of the other");
        if m * n == 0 {
            return;
        }
        let mut sums = vec![0.0; m * n];
        for (a, b) in a.chunks(RUN * m).zip(b.chunks(RUN * n)) {
            let rows = a.len() / m;
            let mut turned = vec![0.0; a.len()]; // [m, rows]
            turned
                .par_chunks_mut(rows)
                .enumerate()
                .for_each(|(i, row)| row.iter_mut().enumerate().for_each(|(t, x)| *x = a[t * m + i]));
            matmul_f32(Dims { m, k: rows, n }, &turned, b, &mut sums);
            self.total.par_iter_mut().zip(&sums).with_min_len(1 << 15).for_each(|(a, &b)| *a += f64::from(b));
        }
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Outer) {
        assert_eq!(self.shape, other.shape, "both saw rows of the same lengths");
        self.total.par_iter_mut().zip(&other.total).with_min_len(1 << 15).for_each(|(a, b)| *a += b);
    }

    /// The totals, `[m, n]`.
    pub fn as_f64(&self) -> &[f64] {
        &self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_two_widths_are_summed_up_and_halves_merge() {
        // [1 2]ᵀ [1 0 2] + [3 4]ᵀ [0 1 1] = [1 3 5; 2 4 8]
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 2.0, 0.0, 1.0, 1.0]);
        let mut whole = Outer::new([2, 3]);
        whole.add(&a, &b);
        assert_eq!(whole.as_f64(), [1.0, 3.0, 5.0, 2.0, 4.0, 8.0]);
        let mut halves = [Outer::new([2, 3]), Outer::new([2, 3])];
        halves[0].add(&a[..2], &b[..3]);
        halves[1].add(&a[2..], &b[3..]);
        let [mut first, second] = halves;
        first.merge(&second);
        assert_eq!(first, whole);
        whole.add(&[], &[]);
        assert_eq!(first, whole);
    }

    #[test]
    fn more_rows_than_one_run_lose_nothing() {
        let (rows, shape) = (2 * RUN + 5, [1, 2]);
        let mut sum = Outer::new(shape);
        sum.add(&vec![0.5; rows], &vec![2.0; 2 * rows]);
        assert_eq!(sum.as_f64(), [rows as f64; 2]);
    }
}
