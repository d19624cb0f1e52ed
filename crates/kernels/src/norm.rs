//! Root-mean-square and layer normalisation of rows.

use crate::cpu::dispatch;
use crate::parallel;

/// Sums are kept in this many independent lanes, whatever the vector width of the processor.
const LANES: usize = 16;

/// Adds the lanes pairwise, always in the same order.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut n = LANES / 2;
    while n > 0 {
        for i in 0..n {
            lanes[i] += lanes[i + n];
        }
        n /= 2;
    }
    lanes[0]
}

/// `Σ (x - shift)²`, over at most a few thousand elements.
#[inline(always)]
fn sum_squares<const FMA: bool>(x: &[f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for c in whole {
        for (l, x) in lanes.iter_mut().zip(c) {
            let d = x - shift;
            *l = crate::math::mul_add::<FMA>(d, d, *l);
        }
    }
    for (l, x) in lanes.iter_mut().zip(tail) {
        let d = x - shift;
        *l = crate::math::mul_add::<FMA>(d, d, *l);
    }
    fold(lanes)
}

#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole, tail) = x.as_chunks::<LANES>();
    for c in whole {
        for (l, x) in lanes.iter_mut().zip(c) {
            *l += x;
        }
    }
    for (l, x) in lanes.iter_mut().zip(tail) {
        *l += x;
    }
    fold(lanes)
}

#[inline(always)]
fn rms_body<const FMA: bool>(x: &[f32], gain: &[f32], offset: f32, eps: f32, out: &mut [f32]) {
    let cols = gain.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = sum_squares::<FMA>(x, 0.0) / cols as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for ((o, x), g) in out.iter_mut().zip(x).zip(gain) {
            *o = x * scale * (offset + g);
        }
    }
}

#[inline(always)]
fn layer_body<const FMA: bool>(x: &[f32], gain: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    let cols = gain.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = sum(x) / cols as f32;
        let scale = 1.0 / (sum_squares::<FMA>(x, mean) / cols as f32 + eps).sqrt();
        match bias {
            Some(bias) => {
                for (((o, x), g), b) in out.iter_mut().zip(x).zip(gain).zip(bias) {
                    *o = (x - mean) * scale * g + b;
                }
            }
            None => {
                for ((o, x), g) in out.iter_mut().zip(x).zip(gain) {
                    *o = (x - mean) * scale * g;
                }
            }
        }
    }
}

dispatch! { fn rms_piece(x: &[f32], gain: &[f32], offset: f32, eps: f32, out: &mut [f32]) = rms_body }
dispatch! { fn layer_piece(x: &[f32], gain: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) = layer_body }

/// `out = x / sqrt(mean(x²) + eps) * (offset + gain)`, row by row.
///
/// # Shapes
/// `x` and `out` are `[rows, gain.len()]`. `offset` is 0 for Llama and its relatives, 1 for Gemma, whose
/// checkpoints store the gain minus one. A norm per head is the same call with `gain` as long as a head.
pub fn rms_norm(x: &[f32], gain: &[f32], offset: f32, eps: f32, out: &mut [f32]) {
    check(x, gain, out);
    parallel::rows2(x, gain.len(), out, gain.len(), |_, x, out| rms_piece(x, gain, offset, eps, out));
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * gain + bias`, row by row.
///
/// # Shapes
/// `x` and `out` are `[rows, gain.len()]`, `bias` is as long as `gain`.
pub fn layer_norm(x: &[f32], gain: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    check(x, gain, out);
    assert!(bias.is_none_or(|b| b.len() == gain.len()), "gain and bias have one length");
    parallel::rows2(x, gain.len(), out, gain.len(), |_, x, out| layer_piece(x, gain, bias, eps, out));
}

fn check(x: &[f32], gain: &[f32], out: &[f32]) {
    assert_eq!(x.len(), out.len(), "a norm keeps the shape");
    assert!(x.is_empty() || x.len().is_multiple_of(gain.len()), "rows are as long as the gain");
}

/// The definition of [`rms_norm`], in double precision.
pub fn rms_norm_scalar(x: &[f32], gain: &[f32], offset: f32, eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len())) {
        let mean = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / x.len() as f64;
        let root = (mean + eps as f64).sqrt();
        for i in 0..x.len() {
            out[i] = (x[i] as f64 / root * (offset as f64 + gain[i] as f64)) as f32;
        }
    }
}

/// The definition of [`layer_norm`], in double precision.
pub fn layer_norm_scalar(x: &[f32], gain: &[f32], bias: Option<&[f32]>, eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(gain.len()).zip(out.chunks_exact_mut(gain.len())) {
        let n = x.len() as f64;
        let mean = x.iter().map(|v| *v as f64).sum::<f64>() / n;
        let var = x.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n;
        for i in 0..x.len() {
            let b = bias.map_or(0.0, |b| b[i] as f64);
            out[i] = ((x[i] as f64 - mean) / (var + eps as f64).sqrt() * gain[i] as f64 + b) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + 13) % 2003) as f32 / 500.0 - 2.0).collect()
    }

    fn close(a: &[f32], b: &[f32]) {
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
        }
    }

    #[test]
    fn both_norms_equal_their_definition_on_odd_shapes() {
        for (rows, cols) in [(0, 5), (1, 1), (3, 7), (5, 64), (9, 577), (200, 576)] {
            let x = numbers(rows * cols);
            let (gain, bias) = (numbers(cols), numbers(cols + 1)[1..].to_vec());
            let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            for offset in [0.0, 1.0] {
                rms_norm(&x, &gain, offset, 1e-5, &mut got);
                rms_norm_scalar(&x, &gain, offset, 1e-5, &mut want);
                close(&got, &want);
            }
            for bias in [None, Some(&bias[..])] {
                layer_norm(&x, &gain, bias, 1e-5, &mut got);
                layer_norm_scalar(&x, &gain, bias, 1e-5, &mut want);
                close(&got, &want);
            }
        }
    }

    #[test]
    fn rms_of_three_four_is_known() {
        // mean square 12.5, root 3.5355
        let mut y = [0.0; 2];
        rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0, 0.0, &mut y);
        assert!((y[0] - 0.848_528).abs() < 1e-6 && (y[1] - 2.262_742).abs() < 1e-6);
    }

    #[test]
    fn a_nan_spoils_its_own_row_only() {
        let mut x = numbers(12);
        x[5] = f32::NAN;
        let mut y = vec![0.0; 12];
        rms_norm(&x, &[1.0; 4], 0.0, 1e-6, &mut y);
        assert!(y[4..8].iter().all(|v| v.is_nan()));
        assert!(y[..4].iter().chain(&y[8..]).all(|v| v.is_finite()));
    }
}
