//! Weights and inputs for tests.

use crate::gram::Gram;
use crate::matmul::Rows;
use crate::ops::Compute;

/// Bell-shaped numbers.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| uniform() + uniform() + uniform()).collect()
}

/// What is seen of inputs that have much in common and differ in size.
pub(crate) fn gram(samples: usize, n: usize, seed: u64) -> Gram {
    let own = numbers(samples * n, seed);
    let common = numbers(samples * 4, seed + 1);
    let x: Vec<f32> = (0..samples * n)
        .map(|at| {
            let (t, j) = (at / n, at % n);
            (own[at] + common[t * 4 + j % 4] + 0.5 * common[t * 4 + (j / 4) % 4]) * (1.0 + (j % 7) as f32 / 3.0)
        })
        .collect();
    let mut gram = Gram::new(n);
    gram.add(samples, Rows::F32(&x), Compute::F32);
    gram
}
