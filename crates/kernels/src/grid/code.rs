//! Weights to codes and back on a uniform grid.

use super::{Layout, Scales, Spec, check_len};
use crate::cpu::dispatch;
use crate::error::Error;
use rayon::prelude::*;

/// Adding this to a float between 0 and 2^22 leaves the nearest integer, ties to even, in the low bits.
const ROUND: f32 = 8_388_608.0;

/// `round(w / s) + z` clamped to the codes. The bounds are integers, so clamping before rounding is the same
/// and keeps the rounding trick in range.
#[inline(always)]
fn code(w: f32, scale: f32, zero: f32, max: f32) -> u8 {
    // rounding before adding the zero point: the sum could round a tie the other way
    code_of(steps(w, scale, zero, max), zero)
}

/// How many scales `w` is rounded to, from `-zero` to `max - zero`.
#[inline(always)]
pub(crate) fn steps(w: f32, scale: f32, zero: f32, max: f32) -> f32 {
    let v = w / scale;
    let v = if v > -zero { v } else { -zero };
    let v = if v < max - zero { v } else { max - zero };
    (v + SIGNED) - SIGNED
}

/// The code that stands for so many scales.
#[inline(always)]
pub(crate) fn code_of(steps: f32, zero: f32) -> u8 {
    (steps + zero + ROUND).to_bits() as u8
}

/// Like [`ROUND`], for floats of either sign.
const SIGNED: f32 = 12_582_912.0;

#[inline(always)]
fn encode_group<const FMA: bool>(w: &[f32], keep: Option<&[bool]>, scale: f32, zero: u8, max: u32, out: &mut [u8]) {
    let (z, max) = (zero as f32, max as f32);
    match keep {
        None => {
            for (o, w) in out.iter_mut().zip(w) {
                *o = code(*w, scale, z, max);
            }
        }
        Some(keep) => {
            for ((o, w), k) in out.iter_mut().zip(w).zip(keep) {
                *o = if *k { code(*w, scale, z, max) } else { zero };
            }
        }
    }
}

#[inline(always)]
fn decode_group<const FMA: bool>(codes: &[u8], scale: f32, zero: u8, out: &mut [f32]) {
    for (o, q) in out.iter_mut().zip(codes) {
        *o = scale * (*q as i32 - zero as i32) as f32;
    }
}

dispatch! { fn encode_run(w: &[f32], keep: Option<&[bool]>, scale: f32, zero: u8, max: u32, out: &mut [u8]) = encode_group }
dispatch! { fn decode_run(codes: &[u8], scale: f32, zero: u8, out: &mut [f32]) = decode_group }

/// Elements one task handles.
const PIECE: usize = 1 << 16;

/// Calls `run(group, from, to)` for the runs of one task: whole groups where groups are small, pieces of a
/// group where they are large.
fn runs(l: &Layout, from: usize, to: usize, mut run: impl FnMut(usize, usize, usize)) {
    let mut at = from;
    while at < to {
        let (row, col) = (at / l.cols, at % l.cols);
        let g = col / l.group;
        let end = (row * l.cols + ((g + 1) * l.group).min(l.cols)).min(to);
        run(row * l.groups + g, at, end);
        at = end;
    }
}

/// Encodes `[rows, cols]` weights on the grid. Weights whose `keep` is false get the code of zero.
///
/// NaN gets the lowest code: look for values that are not finite before.
///
/// # Errors
/// [`Error::Bits`], [`Error::Group`], or [`Error::Length`] if a slice does not fit the shape.
pub fn encode(
    spec: &Spec,
    scales: &Scales,
    w: &[f32],
    shape: [usize; 2],
    keep: Option<&[bool]>,
    codes: &mut [u8],
) -> Result<(), Error> {
    let l = spec.layout(shape)?;
    check(&l, scales, w.len(), codes.len())?;
    if let Some(keep) = keep {
        check_len("the mask", keep.len(), w.len())?;
    }
    codes.par_chunks_mut(PIECE).enumerate().for_each(|(i, out)| {
        let start = i * PIECE;
        runs(&l, start, start + out.len(), |g, from, to| {
            let keep = keep.map(|k| &k[from..to]);
            let (s, z) = (scales.scales[g], scales.zero(spec, g));
            encode_run(&w[from..to], keep, s, z, spec.max_code(), &mut out[from - start..to - start]);
        });
    });
    Ok(())
}

/// Decodes `[rows, cols]` codes: `s (q - z)`.
///
/// # Errors
/// [`Error::Bits`], [`Error::Group`], or [`Error::Length`] if a slice does not fit the shape.
pub fn decode(spec: &Spec, scales: &Scales, codes: &[u8], shape: [usize; 2], out: &mut [f32]) -> Result<(), Error> {
    let l = spec.layout(shape)?;
    check(&l, scales, out.len(), codes.len())?;
    out.par_chunks_mut(PIECE).enumerate().for_each(|(i, out)| {
        let start = i * PIECE;
        runs(&l, start, start + out.len(), |g, from, to| {
            let (s, z) = (scales.scales[g], scales.zero(spec, g));
            decode_run(&codes[from..to], s, z, &mut out[from - start..to - start]);
        });
    });
    Ok(())
}

fn check(l: &Layout, scales: &Scales, weights: usize, codes: usize) -> Result<(), Error> {
    check_len("the weights", weights, l.rows * l.cols)?;
    check_len("the codes", codes, l.rows * l.cols)?;
    check_len("the scales", scales.scales.len(), l.rows * l.groups)?;
    match &scales.zeros {
        Some(z) => check_len("the zero points", z.len(), l.rows * l.groups),
        None => Ok(()),
    }
}

/// The definition of [`encode`] for one weight.
pub fn encode_scalar(w: f32, scale: f32, zero: u8, bits: u32) -> u8 {
    let max = ((1u32 << bits) - 1) as f32;
    ((w / scale).round_ties_even() + zero as f32).clamp(0.0, max) as u8
}

/// The definition of [`decode`] for one code.
pub fn decode_scalar(code: u8, scale: f32, zero: u8) -> f32 {
    scale * (code as i32 - zero as i32) as f32
}

#[cfg(test)]
mod tests {
    use super::super::{Group, Range, ScaleType, fit};
    use super::*;

    fn weights(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + 1) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    #[test]
    fn codes_equal_the_definition_for_every_width_group_and_shape() {
        for bits in 1..=8 {
            for symmetric in [true, false] {
                for (group, rows, cols) in [
                    (Group::Size(5), 3, 17),
                    (Group::Size(64), 40, 576),
                    (Group::Row, 7, 33),
                    (Group::Tensor, 300, 301),
                    (Group::Size(4), 0, 8),
                    (Group::Row, 4, 0),
                ] {
                    let spec =
                        Spec { bits, group, symmetric, range: Range::MinMax, scale: ScaleType::F16, ragged: true };
                    let w = weights(rows * cols);
                    let s = fit(&spec, &w, [rows, cols], None).unwrap();
                    let (mut q, mut back) = (vec![0; w.len()], vec![0.0; w.len()]);
                    encode(&spec, &s, &w, [rows, cols], None, &mut q).unwrap();
                    decode(&spec, &s, &q, [rows, cols], &mut back).unwrap();
                    let l = spec.layout([rows, cols]).unwrap();
                    for i in 0..w.len() {
                        let g = i / l.cols * l.groups + i % l.cols / l.group;
                        let (scale, zero) = (s.scales[g], s.zero(&spec, g));
                        assert_eq!(q[i], encode_scalar(w[i], scale, zero, bits), "{bits} {group:?} {i}");
                        assert_eq!(back[i], decode_scalar(q[i], scale, zero));
                        assert!((back[i] - w[i]).abs() <= scale * 1.01, "{} {} {scale}", back[i], w[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn ties_go_to_even_and_extremes_are_clamped() {
        let spec = Spec {
            bits: 4,
            group: Group::Row,
            symmetric: true,
            range: Range::MinMax,
            scale: ScaleType::F32,
            ragged: false,
        };
        let s = Scales { scales: vec![1.0], zeros: None };
        let w = [0.5, 1.5, 2.5, -0.5, -1.5, 7.5, -8.5, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, 0.0];
        let mut q = [0; 12];
        encode(&spec, &s, &w, [1, 12], None, &mut q).unwrap();
        assert_eq!(q, [8, 10, 10, 8, 6, 15, 0, 15, 0, 15, 0, 8]);
    }

    #[test]
    fn masked_weights_decode_to_zero_on_both_kinds_of_grid() {
        for symmetric in [true, false] {
            let spec = Spec {
                bits: 3,
                group: Group::Size(4),
                symmetric,
                range: Range::MinMax,
                scale: ScaleType::Bf16,
                ragged: false,
            };
            let w = [100.0, 1.0, 2.0, 3.0, -4.0, 5.0, 6.0, -700.0];
            let keep = [false, true, true, true, true, true, true, false];
            let s = fit(&spec, &w, [1, 8], Some(&keep)).unwrap();
            assert!(s.scales.iter().all(|s| *s < 3.0), "masked outliers do not stretch the grid");
            let (mut q, mut back) = ([0; 8], [9.0; 8]);
            encode(&spec, &s, &w, [1, 8], Some(&keep), &mut q).unwrap();
            decode(&spec, &s, &q, [1, 8], &mut back).unwrap();
            assert_eq!((back[0], back[7]), (0.0, 0.0));
            assert!((back[3] - 3.0).abs() < 0.5);
        }
    }

    #[test]
    fn slices_that_do_not_fit_are_refused() {
        let spec = Spec {
            bits: 4,
            group: Group::Row,
            symmetric: true,
            range: Range::MinMax,
            scale: ScaleType::F32,
            ragged: false,
        };
        let s = Scales { scales: vec![1.0], zeros: None };
        let e = encode(&spec, &s, &[0.0; 3], [1, 4], None, &mut [0; 4]).unwrap_err();
        assert_eq!(e, Error::Length { what: "the weights", found: 3, expected: 4 });
    }
}
