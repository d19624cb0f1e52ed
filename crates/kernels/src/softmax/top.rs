//! The most likely tokens of a row.

use super::{check_rows, log_sum_exp, maximum};
use crate::cpu::dispatch;
use crate::parallel;

/// Elements compared with the current bound at once.
const CHUNK: usize = 64;

/// The `k` most likely entries of a row and the probability of all others together.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    /// Indices, most likely first; the lower index first where logits are equal.
    pub ids: Vec<u32>,
    /// Natural logarithms of their probabilities.
    pub log_probs: Vec<f32>,
    /// One minus the sum of their probabilities, never below zero.
    pub tail_mass: f32,
}

#[inline(always)]
fn argmax_body<const FMA: bool>(row: &[f32]) -> u32 {
    let (mut best, mut at) = (f32::NEG_INFINITY, 0);
    for (i, chunk) in row.chunks(4 * CHUNK).enumerate() {
        let m = maximum(chunk);
        if m > best {
            (best, at) = (m, i * 4 * CHUNK);
        }
    }
    let place = row.iter().skip(at).position(|v| *v == best);
    place.map_or(0, |p| (at + p) as u32)
}

#[inline(always)]
fn candidates_body<const FMA: bool>(row: &[f32], k: usize, best: &mut Vec<(f32, u32)>) {
    let mut bound = f32::NEG_INFINITY;
    for (i, chunk) in row.chunks(CHUNK).enumerate() {
        if best.len() == k && maximum(chunk) <= bound {
            continue;
        }
        for (j, v) in chunk.iter().enumerate() {
            if best.len() < k && !v.is_nan() || *v > bound {
                let place = best.partition_point(|b| b.0 >= *v);
                best.truncate(k - 1);
                best.insert(place, (*v, (i * CHUNK + j) as u32));
                if best.len() == k {
                    bound = best[k - 1].0;
                }
            }
        }
    }
}

dispatch! { fn argmax_row(row: &[f32]) -> u32 = argmax_body }
dispatch! { fn candidates(row: &[f32], k: usize, best: &mut Vec<(f32, u32)>) = candidates_body }

/// The index of the largest logit of each row, the lowest one where several are equal.
pub fn argmax(logits: &[f32], vocab: usize, out: &mut [u32]) {
    check_rows(logits, vocab);
    assert_eq!(logits.len(), out.len() * vocab, "one index per row");
    parallel::rows2(logits, vocab, out, 1, |_, x, out| {
        for (row, o) in x.chunks_exact(vocab).zip(out) {
            *o = argmax_row(row);
        }
    });
}

/// The `k` most likely entries of one row of logits; fewer if the row is shorter. NaN is never among them.
pub fn top_k(row: &[f32], k: usize) -> TopK {
    let k = k.min(row.len());
    let mut best = Vec::with_capacity(k + 1);
    if k > 0 {
        candidates(row, k, &mut best);
    }
    let total = log_sum_exp(row);
    let logs = best.iter().map(|b| b.0 as f64 - total);
    let mass: f64 = logs.clone().map(f64::exp).sum();
    TopK {
        ids: best.iter().map(|b| b.1).collect(),
        log_probs: logs.map(|l| l as f32).collect(),
        tail_mass: (1.0 - mass).max(0.0) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_of_a_small_row_is_known() {
        // probabilities 1/8, 1/2, 1/4, 1/8
        let row = [0.125f32, 0.5, 0.25, 0.125].map(f32::ln);
        let top = top_k(&row, 3);
        assert_eq!(top.ids, [1, 2, 0]);
        assert!((top.log_probs[0].exp() - 0.5).abs() < 1e-6);
        assert!((top.tail_mass - 0.125).abs() < 1e-6);
        assert_eq!(top_k(&row, 9).ids.len(), 4);
        assert_eq!(top_k(&[], 2).ids.len(), 0);
        assert_eq!(top_k(&row, 0).tail_mass, 1.0);
    }

    #[test]
    fn top_k_and_argmax_agree_with_sorting() {
        let row: Vec<f32> = (0..5001).map(|i| ((i * 7919) % 977) as f32 * 0.01).collect();
        let mut order: Vec<u32> = (0..5001).collect();
        order.sort_by(|a, b| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b)));
        for k in [1, 5, 64, 200] {
            assert_eq!(top_k(&row, k).ids, order[..k]);
        }
        let mut first = [0];
        argmax(&row, 5001, &mut first);
        assert_eq!(first[0], order[0]);
    }

    #[test]
    fn argmax_passes_over_nan_and_takes_the_first_of_equals() {
        let mut out = [9, 9, 9];
        argmax(&[f32::NAN, 1.0, 1.0, f32::NEG_INFINITY, -5.0, f32::NAN, f32::NAN, f32::NAN, f32::NAN], 3, &mut out);
        assert_eq!(out, [1, 1, 0]);
    }
}
