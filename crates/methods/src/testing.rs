//! Weights and inputs for tests.

use brevity_kernels::gram::{Cross, Gram};
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;
use brevity_model::{Attention, Dtype, Floats, Heads, Linear, Reach, Rope, Weight};

use crate::seen::{Fold, Seen};

/// Bell-shaped numbers.
pub(crate) fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| uniform() + uniform() + uniform()).collect()
}

/// A layer of such numbers.
pub(crate) fn layer(shape: [usize; 2], seed: u64) -> Linear<Weight> {
    let values = Floats::from_f32(noise(shape[0] * shape[1], seed), Dtype::F32);
    Linear { weight: Weight::float(shape, values), bias: None }
}

/// What is seen of the rows `x` of `n` inputs.
pub(crate) fn fold(n: usize, x: &[f32]) -> Fold {
    let mut gram = Gram::new(n);
    gram.add(x.len() / n, Rows::F32(x), Compute::F32);
    Fold { count: (x.len() / n) as u64, gram: Some(gram), ..Fold::default() }
}

/// The same with the sums of the inputs.
pub(crate) fn fold_with_sums(n: usize, x: &[f32]) -> Fold {
    Fold { sum: sums(n, x), ..fold(n, x) }
}

/// What is seen of the rows `x` of `n` inputs, beside what the original model has there.
pub(crate) fn fold_beside(n: usize, x: &[f32], r: &[f32]) -> Fold {
    let samples = x.len() / n;
    let gone: Vec<f32> = r.iter().zip(x).map(|(r, x)| r - x).collect();
    let mut drift = Cross::new(n);
    drift.add(samples, Rows::F32(&gone), Rows::F32(x), Compute::F32);
    let own = fold_with_sums(n, x);
    let sum_sq = own.gram.as_ref().expect("it was summed up").diagonal();
    Fold { sum_sq, drift: Some(drift), reference_sum: sums(n, r), ..own }
}

fn sums(n: usize, x: &[f32]) -> Vec<f64> {
    (0..n).map(|j| x.iter().skip(j).step_by(n).map(|&x| f64::from(x)).sum()).collect()
}

/// Attention without norms or biases, whose query heads of `dim` read these key heads.
pub(crate) fn attention(
    kv_of: Vec<u16>,
    dim: usize,
    hidden: usize,
    rope: Option<Rope>,
    seed: u64,
) -> Attention<Weight> {
    let (count, kv) = (kv_of.len(), kv_of.iter().map(|&kv| usize::from(kv) + 1).max().unwrap_or(0));
    let scale = (dim as f32).powf(-0.5);
    Attention {
        before: None,
        q: layer([count * dim, hidden], seed),
        k: layer([kv * dim, hidden], seed + 1),
        v: layer([kv * dim, hidden], seed + 2),
        o: layer([hidden, count * dim], seed + 3),
        q_norm: None,
        k_norm: None,
        after: None,
        sum: None,
        relative: None,
        shortcut: None,
        heads: Heads {
            kv_of,
            qk_dim: dim,
            v_dim: dim,
            scale,
            rope,
            reach: Reach::Causal,
            softcap: None,
            relative: None,
        },
    }
}

/// Inputs that have much in common and differ in size.
pub(crate) fn related(samples: usize, n: usize, seed: u64) -> Vec<f32> {
    let (own, common) = (noise(samples * n, seed), noise(samples * 4, seed + 1000));
    let one = |at: usize| {
        let (t, j) = (at / n, at % n);
        (0.6 * own[at] + common[t * 4 + j % 4] + 0.5 * common[t * 4 + j / 4 % 4]) * (1.0 + (j % 7) as f32 / 3.0)
    };
    (0..samples * n).map(one).collect()
}

/// Both folds of such inputs.
pub(crate) fn seen(samples: usize, n: usize) -> Seen {
    let (fit, held_out) = (fold(n, &related(samples, n, 1)), fold(n, &related(samples / 4, n, 2)));
    Seen { fit, held_out, ..Seen::default() }
}

/// Inputs of one size that have nothing to do with each other.
pub(crate) fn unrelated(n: usize) -> Seen {
    let x: Vec<f32> = (0..n * n).map(|at| if at / n == at % n { 2.0 } else { 0.0 }).collect();
    Seen { fit: fold(n, &x), ..Seen::default() }
}

/// `tr((W - Q) H (W - Q)ᵀ)` on all that was seen.
pub(crate) fn error(seen: &Seen, before: &Linear<Weight>, after: &Linear<Weight>) -> f64 {
    let (w, q) = (before.weight.to_f32(), after.weight.to_f32());
    let mut all = seen.fit.clone();
    all.merge(&seen.held_out);
    let columns = before.weight.shape()[1];
    crate::inputs::error_on(all.gram.as_ref().expect("inputs were seen"), columns, &w, &q)
}
