//! What a matrix makes of the inputs it is given: the sums of outer products on its far side.

use super::upper::places;
use super::{Cross, Gram, span};
use crate::matmul::Dims;

impl Gram {
    /// The totals `whole`, `[n, n]`, of which the symmetric part is kept.
    pub fn from_f64(n: usize, whole: &[f64]) -> Gram {
        assert_eq!(whole.len(), n * n, "the totals have their shape");
        let mut out = Gram::new(n);
        for ((i, j), tile) in places(n).zip(&mut out.tiles) {
            let cols = span(n, j);
            for (a, row) in span(n, i).zip(tile.chunks_mut(cols.len())) {
                for (b, value) in cols.clone().zip(row).filter(|(b, _)| *b >= a) {
                    *value = 0.5 * (whole[a * n + b] + whole[b * n + a]);
                }
            }
        }
        out
    }

    /// `B G Bᵀ` for `b` `[rows, n]`: what was seen of `B x`, from what was seen of `x`.
    ///
    /// # Cost
    /// `2 rows n² + 2 rows² n` operations in double precision, and `n² + 2 rows n` numbers.
    pub fn through(&self, rows: usize, b: &[f32]) -> Gram {
        let n = self.n;
        assert_eq!(b.len(), rows * n, "the matrix has its shape");
        let b: Vec<f64> = b.iter().map(|&x| x.into()).collect();
        let half = times(Dims { m: rows, k: n, n }, &b, &self.to_f64(), false);
        let whole = times(Dims { m: rows, k: n, n: rows }, &half, &b, true);
        Gram::from_f64(rows, &whole)
    }
}

impl Cross {
    /// What was seen of `Σ (r' - x') x'ᵀ` with `r' = before r` and `x' = after x`, from `self = Σ (r - x) xᵀ` and
    /// `gram = Σ x xᵀ`: `before D afterᵀ + (before - after) G afterᵀ`. Both matrices are `[rows, n]`.
    ///
    /// # Cost
    /// `4 rows n² + 2 rows² n` operations in double precision, and `n² + 4 rows n` numbers.
    pub fn through(&self, gram: &Gram, rows: usize, before: &[f32], after: &[f32]) -> Cross {
        let n = self.n;
        assert_eq!(gram.n, n, "both saw rows of one length");
        assert!(before.len() == rows * n && after.len() == rows * n, "the matrices have their shape");
        let wide = |b: &[f32]| b.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let (before, after) = (wide(before), wide(after));
        let d = Dims { m: rows, k: n, n };
        let mut half = times(d, &before, &self.total, false);
        let change: Vec<f64> = before.iter().zip(&after).map(|(b, a)| b - a).collect();
        half.iter_mut().zip(times(d, &change, &gram.to_f64(), false)).for_each(|(a, b)| *a += b);
        Cross { n: rows, total: times(Dims { m: rows, k: n, n: rows }, &half, &after, true) }
    }
}

/// `a b`, or `a bᵀ`, in double precision; all row-major.
fn times(d: Dims, a: &[f64], b: &[f64], transposed: bool) -> Vec<f64> {
    let mut c = vec![0.0; d.m * d.n];
    if d.m * d.n * d.k == 0 {
        return c;
    }
    let (row, col) = if transposed { (1, d.k as isize) } else { (d.n as isize, 1) };
    assert!(a.len() == d.m * d.k && b.len() == d.k * d.n, "the operands have their shape");
    // SAFETY: the slices have the sizes that shapes and strides say, by the assertion and the line that makes `c`.
    unsafe {
        gemm::gemm(
            d.m,
            d.n,
            d.k,
            c.as_mut_ptr(),
            1,
            d.n as isize,
            false,
            a.as_ptr(),
            1,
            d.k as isize,
            b.as_ptr(),
            col,
            row,
            1.0f64,
            1.0f64,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(0),
        );
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::Rows;
    use crate::ops::Compute;

    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step + 1) % 17) as f32 / 8.0 - 1.0).collect()
    }

    /// `x bᵀ`, row by row.
    fn mapped(x: &[f32], b: &[f32], rows: usize, n: usize) -> Vec<f32> {
        let dot = |x: &[f32], b: &[f32]| x.iter().zip(b).map(|(x, b)| x * b).sum();
        x.chunks(n).flat_map(|x| b.chunks(n).take(rows).map(move |b| dot(x, b))).collect()
    }

    fn close(a: &[f64], b: &[f64]) {
        let most = b.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * most), "{a:?} {b:?}");
    }

    #[test]
    fn what_a_factor_passes_on_is_what_would_be_seen_behind_it() {
        for (samples, n, rows) in [(50, 7, 3), (20, 5, 9), (9, 230, 200)] {
            let (x, reference) = (numbers(samples * n, 5), numbers(samples * n, 7));
            let (before, after) = (numbers(rows * n, 3), numbers(rows * n, 11));
            let mut gram = Gram::new(n);
            gram.add(samples, Rows::F32(&x), Compute::F32);
            let mut drift = Cross::new(n);
            let gone: Vec<f32> = reference.iter().zip(&x).map(|(r, x)| r - x).collect();
            drift.add(samples, Rows::F32(&gone), Rows::F32(&x), Compute::F32);

            let (x2, r2) = (mapped(&x, &after, rows, n), mapped(&reference, &before, rows, n));
            let mut behind = Gram::new(rows);
            behind.add(samples, Rows::F32(&x2), Compute::F32);
            close(&gram.through(rows, &after).to_f64(), &behind.to_f64());
            let gone: Vec<f32> = r2.iter().zip(&x2).map(|(r, x)| r - x).collect();
            let mut behind = Cross::new(rows);
            behind.add(samples, Rows::F32(&gone), Rows::F32(&x2), Compute::F32);
            close(drift.through(&gram, rows, &before, &after).as_f64(), behind.as_f64());
        }
    }
}
