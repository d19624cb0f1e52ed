//! Probabilities from rows of logits: softmax, losses, best tokens and divergences.
//!
//! Exponentials are summed in fixed blocks whose sums are added in double precision, so vocabularies of
//! 128,000 and more lose nothing and the answer never depends on the number of threads.

mod divergence;
mod top;

pub use divergence::{kl, kl_scalar};
pub use top::{TopK, argmax, top_k};

use crate::cpu::dispatch;
use crate::math;
use crate::parallel;

/// Elements whose exponentials are summed in single precision before the sum is widened.
const BLOCK: usize = 256;
/// Independent sums per block.
const LANES: usize = 16;

/// The largest element; NaN is passed over.
#[inline(always)]
pub(crate) fn maximum(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 4 * LANES];
    let (whole, tail) = x.as_chunks::<{ 4 * LANES }>();
    for c in whole {
        for (l, x) in lanes.iter_mut().zip(c) {
            *l = if *x > *l { *x } else { *l };
        }
    }
    for (l, x) in lanes.iter_mut().zip(tail) {
        *l = if *x > *l { *x } else { *l };
    }
    lanes.iter().fold(f32::NEG_INFINITY, |m, l| if *l > m { *l } else { m })
}

/// `Σ e^(x - max)`.
#[inline(always)]
fn sum_exp<const FMA: bool>(x: &[f32], max: f32) -> f64 {
    let mut total = 0.0;
    for block in x.chunks(BLOCK) {
        let mut lanes = [0.0f32; LANES];
        let (whole, tail) = block.as_chunks::<LANES>();
        for c in whole {
            for (l, x) in lanes.iter_mut().zip(c) {
                *l += math::exp::<FMA>(x - max);
            }
        }
        for (l, x) in lanes.iter_mut().zip(tail) {
            *l += math::exp::<FMA>(x - max);
        }
        total += lanes.iter().map(|l| *l as f64).sum::<f64>();
    }
    total
}

#[inline(always)]
fn max_and_log_sum<const FMA: bool>(x: &[f32]) -> (f32, f64) {
    let max = maximum(x);
    (max, sum_exp::<FMA>(x, max).ln())
}

#[inline(always)]
fn softmax_body<const FMA: bool>(x: &[f32], cols: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let max = maximum(x);
        let mut total = 0.0f64;
        for (x, out) in x.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
            for (o, x) in out.iter_mut().zip(x) {
                *o = math::exp::<FMA>(x - max);
            }
            let mut lanes = [0.0f32; LANES];
            for c in out.chunks(LANES) {
                for (l, o) in lanes.iter_mut().zip(c) {
                    *l += o;
                }
            }
            total += lanes.iter().map(|l| *l as f64).sum::<f64>();
        }
        let scale = (1.0 / total) as f32;
        for o in out {
            *o *= scale;
        }
    }
}

#[inline(always)]
fn log_softmax_body<const FMA: bool>(x: &[f32], cols: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let (max, log_sum) = max_and_log_sum::<FMA>(x);
        let log_sum = log_sum as f32;
        for (o, x) in out.iter_mut().zip(x) {
            *o = (x - max) - log_sum;
        }
    }
}

#[inline(always)]
fn nll_body<const FMA: bool>(x: &[f32], vocab: usize, targets: &[u32], out: &mut [f64]) {
    for ((x, t), o) in x.chunks_exact(vocab).zip(targets).zip(out) {
        let (max, log_sum) = max_and_log_sum::<FMA>(x);
        *o = log_sum + (max as f64 - x[*t as usize] as f64);
    }
}

#[inline(always)]
fn log_sum_exp_body<const FMA: bool>(x: &[f32]) -> f64 {
    let (max, log_sum) = max_and_log_sum::<FMA>(x);
    max as f64 + log_sum
}

dispatch! { fn softmax_piece(x: &[f32], cols: usize, out: &mut [f32]) = softmax_body }
dispatch! { fn log_softmax_piece(x: &[f32], cols: usize, out: &mut [f32]) = log_softmax_body }
dispatch! { fn nll_piece(x: &[f32], vocab: usize, targets: &[u32], out: &mut [f64]) = nll_body }
dispatch! {
    /// `ln Σ e^x` of one row, shifted by its largest element.
    pub fn log_sum_exp(row: &[f32]) -> f64 = log_sum_exp_body
}

/// `out = e^x / Σ e^x`, over rows of `cols`.
pub fn softmax(x: &[f32], cols: usize, out: &mut [f32]) {
    check_rows(x, cols);
    assert_eq!(x.len(), out.len(), "softmax keeps the shape");
    parallel::rows2(x, cols, out, cols, |_, x, out| softmax_piece(x, cols, out));
}

/// `out = x - ln Σ e^x`, over rows of `cols`.
pub fn log_softmax(x: &[f32], cols: usize, out: &mut [f32]) {
    check_rows(x, cols);
    assert_eq!(x.len(), out.len(), "softmax keeps the shape");
    parallel::rows2(x, cols, out, cols, |_, x, out| log_softmax_piece(x, cols, out));
}

/// The negative log-likelihood in nats of one target per row, without writing the row's probabilities.
///
/// # Shapes
/// `logits` is `[rows, vocab]`; `targets` and `out` have one element per row, targets below `vocab`.
pub fn nll(logits: &[f32], vocab: usize, targets: &[u32], out: &mut [f64]) {
    check_rows(logits, vocab);
    assert_eq!(logits.len(), targets.len() * vocab, "one target per row");
    assert_eq!(targets.len(), out.len(), "one loss per row");
    parallel::rows2(logits, vocab, out, 1, |row, x, out| {
        nll_piece(x, vocab, &targets[row..][..out.len()], out);
    });
}

pub(crate) fn check_rows(x: &[f32], cols: usize) {
    assert!(x.is_empty() || (cols > 0 && x.len().is_multiple_of(cols)), "whole rows");
}

/// The definition of [`softmax`], in double precision.
pub fn softmax_scalar(x: &[f32], cols: usize, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v as f64));
        let sum: f64 = x.iter().map(|v| (*v as f64 - max).exp()).sum();
        for (o, v) in out.iter_mut().zip(x) {
            *o = ((*v as f64 - max).exp() / sum) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + 5) % 4001) as f32 / 200.0 - 12.0).collect()
    }

    #[test]
    fn rows_of_any_length_equal_the_definition() {
        for (rows, cols) in [(0, 3), (1, 1), (4, 7), (3, 257), (2, 49_153)] {
            let x = logits(rows * cols);
            let (mut got, mut want, mut logs) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; x.len()]);
            softmax(&x, cols, &mut got);
            softmax_scalar(&x, cols, &mut want);
            log_softmax(&x, cols, &mut logs);
            for i in 0..x.len() {
                // a difference of 20 to the maximum is itself rounded by 1e-6
                assert!((got[i] - want[i]).abs() <= 2e-6 * want[i], "{} {}", got[i], want[i]);
                assert!((logs[i] as f64 - (want[i] as f64).ln()).abs() < 3e-6);
            }
            let targets: Vec<u32> = (0..rows).map(|r| (r * 31 % cols) as u32).collect();
            let mut loss = vec![0.0; rows];
            nll(&x, cols, &targets, &mut loss);
            for r in 0..rows {
                let p = want[r * cols + targets[r] as usize] as f64;
                assert!((loss[r] + p.ln()).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn equal_logits_are_uniform_at_any_offset() {
        for offset in [-1000.0f32, 0.0, 80_000.0] {
            let x = vec![offset; 131_072];
            assert!((log_sum_exp(&x) - offset as f64 - (131_072f64).ln()).abs() < 1e-9);
        }
    }

    #[test]
    fn minus_infinity_has_no_mass_and_nan_is_reported() {
        let mut y = [0.0; 3];
        softmax(&[0.0, f32::NEG_INFINITY, 0.0], 3, &mut y);
        assert_eq!(y, [0.5, 0.0, 0.5]);
        softmax(&[0.0, f32::NAN, 0.0], 3, &mut y);
        assert!(y.iter().all(|v| v.is_nan()));
    }

    #[test]
    fn the_portable_code_agrees() {
        let x = logits(5003);
        let d = log_sum_exp(&x) - log_sum_exp_body::<false>(&x);
        assert!(d.abs() < 1e-7);
    }
}
