//! The definition.

use super::{Spec, Tokens, head};

/// Attention as it is written down, in double precision.
pub fn attend_scalar(s: &Spec<'_>, t: &Tokens<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    for b in 0..t.batch {
        for h in 0..s.kv_of.len() {
            let at = head(s, t, q, k, v, b, h);
            for i in 0..t.queries {
                let (from, to) = t.visible(s.reach, b, i);
                let score = |j: usize| {
                    let dot: f64 = (0..s.qk_dim)
                        .map(|d| at.q[i * at.q_stride + d] as f64 * at.k[j * at.k_stride + d] as f64)
                        .sum();
                    let x = dot * s.scale as f64;
                    let capped = s.softcap.map_or(x, |c| c as f64 * (x / c as f64).tanh());
                    capped + s.bias.map_or(0.0, |bias| bias.at(h, t.first() + i, j) as f64)
                };
                let scores: Vec<f64> = (from..to).map(score).collect();
                let max = scores.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
                let weights: Vec<f64> = scores.iter().map(|x| (x - max).exp()).collect();
                let total: f64 = weights.iter().sum();
                let row = &mut out[(b * t.queries + i) * s.out_width() + h * s.v_dim..][..s.v_dim];
                for (d, o) in row.iter_mut().enumerate() {
                    let sum: f64 = weights.iter().zip(from..).map(|(w, j)| w * at.v[j * at.v_stride + d] as f64).sum();
                    *o = if from == to { 0.0 } else { (sum / total) as f32 };
                }
            }
        }
    }
}
