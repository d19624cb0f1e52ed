//! The definitions, in double precision throughout.

use crate::matmul::Rows;
use crate::ops::Compute;
use half::bf16;

/// The definition of [`Gram::add`](super::Gram::add): `xᵀx`, `[n, n]`, for `x` `[rows, n]`.
pub fn gram_scalar(n: usize, rows: usize, x: Rows<'_>, compute: Compute) -> Vec<f64> {
    cross_scalar(n, rows, x, x, compute)
}

/// The definition of [`Cross::add`](super::Cross::add): `aᵀb`, `[n, n]`, for `a` and `b` `[rows, n]`.
pub fn cross_scalar(n: usize, rows: usize, a: Rows<'_>, b: Rows<'_>, compute: Compute) -> Vec<f64> {
    let (a, b) = (values(a, compute), values(b, compute));
    assert!(a.len() == rows * n && b.len() == rows * n, "the rows have their shape");
    let mut total = vec![0.0; n * n];
    for t in 0..rows {
        for i in 0..n {
            for j in 0..n {
                total[i * n + j] += a[t * n + i] * b[t * n + j];
            }
        }
    }
    total
}

/// The definition of [`Cross::inner`](super::Cross::inner), and with `a` and `b` the same of
/// [`Gram::quadratic`](super::Gram::quadratic): `tr(A C Bᵀ)` for `a` and `b` `[rows, n]` and `c` `[n, n]`.
pub fn inner_scalar(n: usize, rows: usize, a: &[f32], b: &[f32], c: &[f64]) -> f64 {
    let term = |t: usize, i: usize, j: usize| f64::from(a[t * n + i]) * c[i * n + j] * f64::from(b[t * n + j]);
    (0..rows).map(|t| (0..n).map(|i| (0..n).map(|j| term(t, i, j)).sum::<f64>()).sum::<f64>()).sum()
}

fn values(x: Rows<'_>, compute: Compute) -> Vec<f64> {
    match x {
        Rows::F32(x) if compute == Compute::Bf16 => x.iter().map(|&x| bf16::from_f32(x).to_f64()).collect(),
        Rows::F32(x) => x.iter().map(|&x| f64::from(x)).collect(),
        Rows::Bf16(x) => x.iter().map(|x| x.to_f64()).collect(),
    }
}
