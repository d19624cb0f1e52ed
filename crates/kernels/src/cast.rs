//! Conversions between storage types, rounding to nearest with ties to even.

mod fp8;

pub use fp8::{e4m3_to_f32, e5m2_to_f32, f32_to_e4m3, f32_to_e5m2};

use crate::cpu::dispatch;
use crate::parallel;
use half::{bf16, f16};

/// Rounds to the upper 16 bits; a NaN keeps its sign and stays a (quiet) NaN.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> bf16 {
    let u = x.to_bits();
    let rounded = u.wrapping_add(0x7fff + ((u >> 16) & 1)) >> 16;
    let nan = (u >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { nan as u16 } else { rounded as u16 })
}

#[inline(always)]
fn to_bf16_body<const FMA: bool>(x: &[f32], out: &mut [bf16]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = to_bf16(*x);
    }
}

#[inline(always)]
fn from_bf16_body<const FMA: bool>(x: &[bf16], out: &mut [f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = f32::from_bits((x.to_bits() as u32) << 16);
    }
}

#[inline(always)]
fn count_body<const FMA: bool>(x: &[f32]) -> usize {
    let mut lanes = [0u32; 32];
    let (whole, tail) = x.as_chunks::<32>();
    for c in whole {
        for (l, x) in lanes.iter_mut().zip(c) {
            *l += ((x.to_bits() & 0x7f80_0000) == 0x7f80_0000) as u32;
        }
    }
    lanes.iter().map(|l| *l as usize).sum::<usize>() + tail.iter().filter(|x| !x.is_finite()).count()
}

dispatch! { fn to_bf16_piece(x: &[f32], out: &mut [bf16]) = to_bf16_body }
dispatch! { fn from_bf16_piece(x: &[bf16], out: &mut [f32]) = from_bf16_body }
dispatch! { fn count_piece(x: &[f32]) -> usize = count_body }

/// `f32` to `bf16`.
pub fn f32_to_bf16(x: &[f32], out: &mut [bf16]) {
    parallel::map(x, out, to_bf16_piece);
}

/// `bf16` to `f32`, exact.
pub fn bf16_to_f32(x: &[bf16], out: &mut [f32]) {
    parallel::map(x, out, from_bf16_piece);
}

/// `f32` to `f16`; values beyond 65504 become infinite.
pub fn f32_to_f16(x: &[f32], out: &mut [f16]) {
    use half::slice::HalfFloatSliceExt;
    parallel::map(x, out, |x, out| out.convert_from_f32_slice(x));
}

/// `f16` to `f32`, exact.
pub fn f16_to_f32(x: &[f16], out: &mut [f32]) {
    use half::slice::HalfFloatSliceExt;
    parallel::map(x, out, |x, out| x.convert_to_f32_slice(out));
}

/// How many values are NaN or infinite.
pub fn count_non_finite(x: &[f32]) -> usize {
    use rayon::prelude::*;
    x.par_chunks(1 << 16).map(count_piece).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every exponent with mantissas around ties, both signs, and the special values.
    fn samples() -> Vec<f32> {
        let mantissas = [0, 1, 0x7fff, 0x8000, 0x8001, 0x1_8000, 0x7f_7fff, 0x7f_8000, 0x7f_ffff];
        let mut v: Vec<f32> = (0..256u32).flat_map(|e| mantissas.map(|m| f32::from_bits(e << 23 | m))).collect();
        v.extend(v.clone().iter().map(|x| -x));
        v
    }

    #[test]
    fn bf16_equals_the_half_crate_on_every_exponent() {
        let x = samples();
        let mut y = vec![bf16::ZERO; x.len()];
        f32_to_bf16(&x, &mut y);
        for (x, y) in x.iter().zip(&y) {
            assert_eq!(y.to_bits(), bf16::from_f32(*x).to_bits(), "{x}");
        }
        let mut back = vec![0.0; x.len()];
        bf16_to_f32(&y, &mut back);
        assert!(back.iter().zip(&y).all(|(b, y)| b.to_bits() == y.to_f32().to_bits()));
    }

    #[test]
    fn f16_rounds_to_even_and_comes_back() {
        let x = samples();
        let mut y = vec![f16::ZERO; x.len()];
        f32_to_f16(&x[1..], &mut y[1..]);
        for (x, y) in x.iter().zip(&y).skip(1) {
            assert!(x.is_nan() && y.is_nan() || *y == f16::from_f32_const(*x), "{x}");
        }
        let mut back = vec![0.0; x.len()];
        f16_to_f32(&y, &mut back);
        assert!(back.iter().zip(&y).all(|(b, y)| b.is_nan() || *b == y.to_f32_const()));
    }

    #[test]
    fn values_that_are_not_finite_are_counted() {
        let mut x = vec![1.0f32; 100_003];
        assert_eq!(count_non_finite(&x), 0);
        x[0] = f32::NAN;
        x[70_001] = f32::INFINITY;
        x[100_002] = f32::NEG_INFINITY;
        assert_eq!(count_non_finite(&x), 3);
        assert_eq!(count_non_finite(&[]), 0);
    }
}
