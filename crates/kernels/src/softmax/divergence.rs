//! The Kullback-Leibler divergence between the distributions of two rows of logits.

use super::{check_rows, maximum};
use crate::cpu::dispatch;
use crate::math::exp_f64;
use rayon::prelude::*;

/// Independent sums.
const LANES: usize = 8;

/// `KL(p‖q) = Σ p (a - b) - (ln Σ e^a - ln Σ e^b)` with logits `a`, `b` shifted by their maxima.
///
/// Everything is in double precision: the two terms cancel almost entirely for a good compression, and
/// single-precision exponentials would leave noise of the size of the answer.
#[inline(always)]
fn kl_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f64 {
    let (shift_a, shift_b) = (maximum(a) as f64, maximum(b) as f64);
    let mut sums = [[0.0f64; LANES]; 3];
    let mut add = |i: usize, a: f32, b: f32| {
        let (a, b) = (a as f64 - shift_a, b as f64 - shift_b);
        let (p, q) = (exp_f64::<FMA>(a), exp_f64::<FMA>(b));
        // a token without mass in p adds nothing, even where its logit is minus infinity
        let d = if p == 0.0 { 0.0 } else { a - b };
        sums[0][i] += p;
        sums[1][i] += q;
        sums[2][i] += p * d;
    };
    let (aw, at) = a.as_chunks::<LANES>();
    let (bw, bt) = b.as_chunks::<LANES>();
    for (a, b) in aw.iter().zip(bw) {
        for i in 0..LANES {
            add(i, a[i], b[i]);
        }
    }
    for (i, (a, b)) in at.iter().zip(bt).enumerate() {
        add(i, *a, *b);
    }
    let [p, q, d] = sums.map(|s| s.iter().sum::<f64>());
    let kl = d / p - (p / q).ln();
    // rounding may leave a divergence of zero a hair below; NaN stays
    if kl < 0.0 { 0.0 } else { kl }
}

dispatch! { fn kl_row(a: &[f32], b: &[f32]) -> f64 = kl_body }

/// `KL(p‖q)` in nats for each pair of rows, `p = softmax(p_logits)`, `q = softmax(q_logits)`.
///
/// # Shapes
/// Both logits are `[rows, vocab]`, `out` has one element per row.
pub fn kl(p_logits: &[f32], q_logits: &[f32], vocab: usize, out: &mut [f64]) {
    check_rows(p_logits, vocab);
    assert_eq!(p_logits.len(), q_logits.len(), "both sides have one shape");
    assert_eq!(p_logits.len(), out.len() * vocab, "one divergence per row");
    out.par_iter_mut().enumerate().for_each(|(r, o)| {
        *o = kl_row(&p_logits[r * vocab..][..vocab], &q_logits[r * vocab..][..vocab]);
    });
}

/// The definition of [`kl`] for one row.
pub fn kl_scalar(p_logits: &[f32], q_logits: &[f32]) -> f64 {
    let log_sum = |x: &[f32]| {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v as f64));
        max + x.iter().map(|v| (*v as f64 - max).exp()).sum::<f64>().ln()
    };
    let (p_sum, q_sum) = (log_sum(p_logits), log_sum(q_logits));
    let terms = p_logits.iter().zip(q_logits).map(|(a, b)| {
        let (p, q) = (*a as f64 - p_sum, *b as f64 - q_sum);
        if p.exp() == 0.0 { 0.0 } else { p.exp() * (p - q) }
    });
    terms.sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(p: &[f32], q: &[f32]) -> f64 {
        let mut out = [0.0];
        kl(p, q, p.len(), &mut out);
        out[0]
    }

    #[test]
    fn two_coins_are_known() {
        // KL(1/2,1/2 ‖ 1/4,3/4) = ln 2 - ln 3 / 2
        let q = [0.25f32.ln(), 0.75f32.ln()];
        assert!((one(&[0.0, 0.0], &q) - 0.143_841_036).abs() < 1e-7);
        assert_eq!(one(&[3.0, 1.0], &[3.0, 1.0]), 0.0);
        assert!(one(&[3.0, 1.0], &[5.0, 3.0]) < 1e-15, "a shift changes nothing");
    }

    #[test]
    fn long_rows_equal_the_definition() {
        for n in [1, 7, 8, 9, 4099] {
            let p: Vec<f32> = (0..n).map(|i| ((i * 7919) % 101) as f32 * 0.1).collect();
            let q: Vec<f32> = p.iter().enumerate().map(|(i, v)| v + (i % 3) as f32 * 1e-3).collect();
            assert!((one(&p, &q) - kl_scalar(&p, &q)).abs() < 1e-13);
            assert!((kl_body::<false>(&p, &q) - kl_scalar(&p, &q)).abs() < 1e-13);
        }
    }

    #[test]
    fn missing_support_is_infinite_and_nan_is_nan() {
        let none = f32::NEG_INFINITY;
        assert_eq!(one(&[0.0, 0.0], &[0.0, none]), f64::INFINITY);
        assert!((one(&[0.0, none], &[0.0, 0.0]) - std::f64::consts::LN_2).abs() < 1e-15);
        assert!(one(&[0.0, f32::NAN], &[0.0, 0.0]).is_nan());
    }
}
