//! Weights and inputs for tests.

use brevity_kernels::gram::Gram;
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;
use brevity_model::{Dtype, Floats, Linear, Weight};

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
