//! Samples for tests: numbers from a seed, and what would be seen of them.

use brevity_kernels::gram::{Cross, Gram};
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;

use crate::seen::{Fold, Seen};

/// Numbers between -0.5 and 0.5.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// What is seen of rows `x` `[samples, n]` with their references `r`.
pub(crate) fn fold(n: usize, x: &[f32], r: &[f32]) -> Fold {
    let samples = x.len() / n;
    let (mut gram, mut drift) = (Gram::new(n), Cross::new(n));
    gram.add(samples, Rows::F32(x), Compute::F32);
    let gone: Vec<f32> = r.iter().zip(x).map(|(r, x)| r - x).collect();
    drift.add(samples, Rows::F32(&gone), Rows::F32(x), Compute::F32);
    let sum = |x: &[f32]| (0..n).map(|j| x.iter().skip(j).step_by(n).map(|&x| f64::from(x)).sum()).collect();
    let sizes: Vec<f32> = x.iter().map(|x| x.abs()).collect();
    Fold {
        count: samples as u64,
        sum_sq: gram.diagonal(),
        gram: Some(gram),
        drift: Some(drift),
        sum: sum(x),
        sum_abs: sum(&sizes),
        reference_sum: sum(r),
        ..Fold::default()
    }
}

/// What is seen of rows to fit to and of the last quarter of them, which is held out.
pub(crate) fn seen(n: usize, x: &[f32], r: &[f32]) -> Seen {
    let at = x.len() / n / 4 * 3 * n;
    Seen { fit: fold(n, &x[..at], &r[..at]), held_out: fold(n, &x[at..], &r[at..]), ..Seen::default() }
}

/// What is seen of inputs with these root mean squares and nothing else.
pub(crate) fn sizes(sizes: &[f64]) -> Seen {
    let fit = Fold { count: 4, sum_sq: sizes.iter().map(|a| 4.0 * a * a).collect(), ..Fold::default() };
    Seen { fit, ..Seen::default() }
}

/// `x wᵀ` for rows `x` `[samples, n]` and `w` `[m, n]`.
pub(crate) fn outputs(n: usize, x: &[f32], w: &[f32]) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
    x.chunks(n).flat_map(|x| w.chunks(n).map(move |w| dot(x, w))).collect()
}

/// `Σ (a - b)²`.
pub(crate) fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}
