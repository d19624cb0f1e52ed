//! Choosing the scale and zero point of every group.

use super::{Layout, Range, ScaleType, Scales, Spec, check_len};
use crate::cpu::dispatch;
use crate::error::Error;
use crate::math::pow_two_fifths;
use rayon::prelude::*;

const LANES: usize = 16;
/// Elements whose losses are added in single precision.
const BLOCK: usize = 1024;
/// Elements per task when a whole tensor is one group.
const PIECE: usize = 1 << 16;
const SIGNED: f32 = 12_582_912.0;

/// The smallest and largest of zero and the kept weights. NaN is passed over.
#[inline(always)]
fn bounds_body<const FMA: bool>(w: &[f32], keep: Option<&[bool]>) -> (f32, f32) {
    let (mut lo, mut hi) = ([0.0f32; LANES], [0.0f32; LANES]);
    match keep {
        None => {
            let (whole, tail) = w.as_chunks::<LANES>();
            for c in whole {
                for i in 0..LANES {
                    lo[i] = if c[i] < lo[i] { c[i] } else { lo[i] };
                    hi[i] = if c[i] > hi[i] { c[i] } else { hi[i] };
                }
            }
            for x in tail {
                lo[0] = if *x < lo[0] { *x } else { lo[0] };
                hi[0] = if *x > hi[0] { *x } else { hi[0] };
            }
        }
        Some(keep) => {
            for (w, k) in w.chunks(LANES).zip(keep.chunks(LANES)) {
                for (i, (x, k)) in w.iter().zip(k).enumerate() {
                    let x = if *k { *x } else { 0.0 };
                    lo[i] = if x < lo[i] { x } else { lo[i] };
                    hi[i] = if x > hi[i] { x } else { hi[i] };
                }
            }
        }
    }
    let min = lo.iter().fold(0.0, |m, x| if *x < m { *x } else { m });
    let max = hi.iter().fold(0.0, |m, x| if *x > m { *x } else { m });
    (min, max)
}

/// `Σ |w - ŵ|^2.4` over the kept weights.
#[inline(always)]
fn loss_body<const FMA: bool>(w: &[f32], keep: Option<&[bool]>, scale: f32, zero: f32, max: f32) -> f64 {
    // the same bytes everywhere: no fused multiply-add even where it exists
    let one = |w: f32| {
        let v = w / scale;
        let v = if v > -zero { v } else { -zero };
        let v = if v < max - zero { v } else { max - zero };
        let e = w - scale * ((v + SIGNED) - SIGNED);
        e * e * pow_two_fifths::<false>(e)
    };
    let mut total = 0.0;
    for (b, block) in w.chunks(BLOCK).enumerate() {
        let mut lanes = [0.0f32; LANES];
        match keep {
            None => {
                let (whole, tail) = block.as_chunks::<LANES>();
                for c in whole {
                    for i in 0..LANES {
                        lanes[i] += one(c[i]);
                    }
                }
                for (l, x) in lanes.iter_mut().zip(tail) {
                    *l += one(*x);
                }
            }
            Some(keep) => {
                let keep = &keep[b * BLOCK..][..block.len()];
                for (c, k) in block.chunks(LANES).zip(keep.chunks(LANES)) {
                    for ((l, x), k) in lanes.iter_mut().zip(c).zip(k) {
                        let e = one(*x);
                        *l += if *k { e } else { 0.0 };
                    }
                }
            }
        }
        total += lanes.iter().map(|l| *l as f64).sum::<f64>();
    }
    total
}

dispatch! { fn bounds(w: &[f32], keep: Option<&[bool]>) -> (f32, f32) = bounds_body }
dispatch! { fn loss(w: &[f32], keep: Option<&[bool]>, scale: f32, zero: f32, max: f32) -> f64 = loss_body }

/// The stored scale and zero point of a range. A range without extent gets scale one.
fn grid_of(spec: &Spec, lo: f32, hi: f32) -> (f32, u8) {
    let max = spec.max_code() as f32;
    let wide = if spec.symmetric { hi.max(-lo) / (max / 2.0) } else { (hi - lo) / max };
    if wide == 0.0 && lo == 0.0 && hi == 0.0 {
        let zero = if spec.symmetric { spec.middle() } else { 0 };
        return (1.0, zero);
    }
    let scale = spec.scale.round(wide);
    let zero = if spec.symmetric { spec.middle() } else { (-lo / scale).clamp(0.0, max).round_ties_even() as u8 };
    (scale, zero)
}

/// The best grid of one group, given its bounds and a way to compute the loss of a candidate.
///
/// A candidate that clips the largest weight by more than the least loss so far allows to all weights is passed over:
/// the result is the same, at about a third of the cost for 4 bits in groups of 64.
fn search(spec: &Spec, (lo, hi): (f32, f32), loss: impl Fn(f32, f32) -> f64) -> (f32, u8) {
    let mut best = grid_of(spec, lo, hi);
    let Range::Mse { steps, shrink } = spec.range else {
        return best;
    };
    if lo == 0.0 && hi == 0.0 {
        return best;
    }
    let max = spec.max_code() as f32;
    let clipped = |(scale, zero): (f32, u8)| (hi - scale * (max - zero as f32)).max(-lo - scale * zero as f32);
    // The margin is for rounding, and for the approximate power in the loss.
    let room = |least: f64| (1.001 * least.powf(1.0 / 2.4)) as f32;
    let mut least = loss(best.0, best.1 as f32);
    let mut most = room(least);
    for i in 1..=(shrink * steps as f32).round() as u32 {
        let p = 1.0 - i as f32 / steps as f32;
        if p <= 0.0 {
            break;
        }
        let candidate = grid_of(spec, lo * p, hi * p);
        if candidate == best || clipped(candidate) > most {
            continue;
        }
        let l = loss(candidate.0, candidate.1 as f32);
        if l < least {
            (least, best, most) = (l, candidate, room(l));
        }
    }
    best
}

/// One group that is small enough for one task.
pub(crate) fn fit_group(spec: &Spec, w: &[f32], keep: Option<&[bool]>) -> (f32, u8) {
    search(spec, bounds(w, keep), |s, z| loss(w, keep, s, z, spec.max_code() as f32))
}

/// One group as long as a tensor: the same, with sums over fixed pieces.
fn fit_long(spec: &Spec, w: &[f32], keep: Option<&[bool]>) -> (f32, u8) {
    let pieces = w.len().div_ceil(PIECE);
    let piece = |i: usize| {
        let range = i * PIECE..((i + 1) * PIECE).min(w.len());
        (&w[range.clone()], keep.map(|k| &k[range]))
    };
    let all: Vec<(f32, f32)> = (0..pieces).into_par_iter().map(|i| bounds(piece(i).0, piece(i).1)).collect();
    let range = all.iter().fold((0.0f32, 0.0f32), |a, b| (a.0.min(b.0), a.1.max(b.1)));
    search(spec, range, |s, z| {
        let losses: Vec<f64> =
            (0..pieces).into_par_iter().map(|i| loss(piece(i).0, piece(i).1, s, z, spec.max_code() as f32)).collect();
        losses.iter().sum()
    })
}

/// Chooses scale and zero point of every group of a `[rows, cols]` matrix.
///
/// Weights whose `keep` is false take no part. A group of zeros gets scale 1. NaN is passed over and an
/// infinite weight gives the largest scale of the stored type: look for such values before.
///
/// # Errors
/// [`Error::Bits`], [`Error::Group`], or [`Error::Length`] if a slice does not fit the shape.
///
/// # Cost
/// `O(rows * cols)` for [`Range::MinMax`], about eighty times that for [`Range::MSE`].
pub fn fit(spec: &Spec, w: &[f32], shape: [usize; 2], keep: Option<&[bool]>) -> Result<Scales, Error> {
    let l = spec.layout(shape)?;
    check_len("the weights", w.len(), l.rows * l.cols)?;
    if let Some(keep) = keep {
        check_len("the mask", keep.len(), w.len())?;
    }
    let mut scales = vec![1.0; l.rows * l.groups];
    let mut zeros = vec![spec.middle(); l.rows * l.groups];
    if l.rows == 1 && l.groups == 1 {
        (scales[0], zeros[0]) = fit_long(spec, w, keep);
    } else if l.groups > 0 && l.cols > 0 {
        let rows = ((1 << 15) / l.cols).max(1);
        scales.par_chunks_mut(rows * l.groups).zip(zeros.par_chunks_mut(rows * l.groups)).enumerate().for_each(
            |(i, (scales, zeros))| {
                for (j, (s, z)) in scales.iter_mut().zip(zeros).enumerate() {
                    let (from, to) = group_range(&l, i * rows * l.groups + j);
                    (*s, *z) = fit_group(spec, &w[from..to], keep.map(|k| &k[from..to]));
                }
            },
        );
    }
    let zeros = (!spec.symmetric).then_some(zeros);
    Ok(Scales { scales, zeros })
}

/// Where group `g` of the matrix lies.
fn group_range(l: &Layout, g: usize) -> (usize, usize) {
    let (row, g) = (g / l.groups, g % l.groups);
    let start = row * l.cols;
    (start + g * l.group, start + ((g + 1) * l.group).min(l.cols))
}

/// The definition of [`fit`] for one group of kept weights, in double precision up to the stored scale.
pub fn fit_scalar(bits: u32, symmetric: bool, scale: ScaleType, w: &[f32]) -> (f32, u8) {
    let lo = w.iter().fold(0.0f64, |m, x| m.min(*x as f64));
    let hi = w.iter().fold(0.0f64, |m, x| m.max(*x as f64));
    let max = ((1u32 << bits) - 1) as f64;
    let middle = 1u8 << (bits - 1);
    if lo == 0.0 && hi == 0.0 {
        return (1.0, if symmetric { middle } else { 0 });
    }
    let wide = if symmetric { hi.max(-lo) / (max / 2.0) } else { (hi - lo) / max };
    let s = scale.round(wide as f32);
    let zero = (-lo / s as f64).clamp(0.0, max).round_ties_even() as u8;
    (s, if symmetric { middle } else { zero })
}

#[cfg(test)]
mod tests {
    use super::super::{Group, decode, encode};
    use super::*;

    /// Normal numbers from sums of uniform ones.
    fn normal(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n)
            .map(|_| {
                let (a, b) = (uniform().max(1e-9), uniform());
                (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
            })
            .collect()
    }

    fn spec(bits: u32, group: usize, symmetric: bool, range: Range) -> Spec {
        Spec { bits, group: Group::Size(group), symmetric, range, scale: ScaleType::F32, ragged: true }
    }

    fn rms_error(spec: &Spec, w: &[f32], shape: [usize; 2]) -> f64 {
        let s = fit(spec, w, shape, None).unwrap();
        let (mut q, mut back) = (vec![0; w.len()], vec![0.0; w.len()]);
        encode(spec, &s, w, shape, None, &mut q).unwrap();
        decode(spec, &s, &q, shape, &mut back).unwrap();
        let sum: f64 = w.iter().zip(&back).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
        (sum / w.len() as f64).sqrt()
    }

    #[test]
    fn groups_equal_the_definition_with_a_short_last_one() {
        let w = normal(7 * 77);
        for symmetric in [true, false] {
            for bits in 1..=8 {
                for scale in [ScaleType::F32, ScaleType::F16, ScaleType::Bf16] {
                    let spec = Spec { scale, ..spec(bits, 32, symmetric, Range::MinMax) };
                    let s = fit(&spec, &w, [7, 77], None).unwrap();
                    for r in 0..7 {
                        for (g, group) in w[r * 77..][..77].chunks(32).enumerate() {
                            let (scale, zero) = fit_scalar(bits, symmetric, scale, group);
                            let got = s.scales[r * 3 + g];
                            assert!((got / scale - 1.0).abs() < 3e-7, "{got} {scale}");
                            if got == scale {
                                assert_eq!(s.zero(&spec, r * 3 + g), zero);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_group_of_zeros_has_scale_one_and_stays_zero() {
        for symmetric in [true, false] {
            for range in [Range::MinMax, Range::MSE] {
                let s = fit(&spec(4, 4, symmetric, range), &[0.0; 8], [2, 4], None).unwrap();
                assert_eq!(s.scales, [1.0, 1.0]);
                let all_masked = fit(&spec(4, 4, symmetric, range), &[5.0; 4], [1, 4], Some(&[false; 4])).unwrap();
                assert_eq!(all_masked.scales, [1.0]);
            }
        }
        // without extent in its last bits only: not zero, so not scale one
        let s = fit(&spec(4, 4, true, Range::MinMax), &[1e-44; 4], [1, 4], None).unwrap();
        assert!(s.scales[0] < 1e-40);
    }

    #[test]
    fn clipping_never_loses_on_its_own_measure_and_wins_at_few_bits() {
        let w = normal(64 * 128);
        for symmetric in [true, false] {
            for bits in [2, 3, 4] {
                let plain = rms_error(&spec(bits, 128, symmetric, Range::MinMax), &w, [64, 128]);
                let clipped = rms_error(&spec(bits, 128, symmetric, Range::MSE), &w, [64, 128]);
                assert!(clipped < plain, "{bits} {symmetric}: {clipped} {plain}");
            }
        }
    }

    #[test]
    fn no_candidate_that_is_passed_over_would_have_been_better() {
        let w = normal(2000);
        for symmetric in [true, false] {
            for (bits, group) in [(2, 8), (3, 32), (4, 64), (8, 100)] {
                let spec = spec(bits, group, symmetric, Range::MSE);
                for (n, w) in w.chunks_exact(group).enumerate() {
                    let w: Vec<f32> = w.iter().map(|x| x * 10f32.powi(n as i32 % 9 - 6)).collect();
                    let loss = |(s, z): (f32, u8)| loss(&w, None, s, z as f32, spec.max_code() as f32);
                    let (lo, hi) = bounds(&w, None);
                    let all =
                        (0..80).map(|i| grid_of(&spec, lo * (1.0 - i as f32 / 100.0), hi * (1.0 - i as f32 / 100.0)));
                    let least = all.map(loss).fold(f64::INFINITY, f64::min);
                    assert_eq!(loss(fit_group(&spec, &w, None)), least);
                }
            }
        }
    }

    #[test]
    fn the_whole_tensor_is_one_group_whatever_the_threads() {
        let w = normal(300 * 401);
        for range in [Range::MinMax, Range::Mse { steps: 10, shrink: 0.8 }] {
            let spec = Spec { group: Group::Tensor, ..spec(4, 1, false, range) };
            let all = fit(&spec, &w, [300, 401], None).unwrap();
            assert_eq!(all.scales.len(), 1);
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(one.install(|| fit(&spec, &w, [300, 401], None).unwrap()), all);
        }
    }

    #[test]
    fn eight_bits_lose_less_than_half_a_percent() {
        let w = normal(4096);
        let rms = (w.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / 4096.0).sqrt();
        assert!(rms_error(&spec(8, 64, true, Range::MinMax), &w, [64, 64]) / rms < 0.01);
        assert!(rms_error(&spec(8, 64, false, Range::MinMax), &w, [64, 64]) / rms < 0.01);
    }
}
