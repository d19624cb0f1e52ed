//! The two 8-bit floats.
//!
//! | type | layout | largest | special |
//! |---|---|---|---|
//! | E4M3FN | s eeee mmm, bias 7 | 448 | NaN = 0x7f, no infinity |
//! | E5M2 | s eeeee mm, bias 15 | 57344 | infinities and NaN as in IEEE 754 |

use crate::cpu::dispatch;
use crate::parallel;

/// Rounds `|x|`, already at most the largest value, to `mantissa` bits; below `2^least` the spacing is constant.
///
/// Adding and subtracting a power of two makes the hardware round to the spacing we want, ties to even.
#[inline(always)]
fn encode(x: f32, mantissa: u32, bias: i32, largest: f32, nan: u8) -> u8 {
    let a = x.abs();
    let sign = ((x.to_bits() >> 31) << 7) as u8;
    let a = if a > largest { largest } else { a };
    let least = 1 - bias;
    // subnormal: a / 2^(least - mantissa) rounded to an integer
    let step = f32::from_bits(((127 + 23 + least - mantissa as i32) as u32) << 23);
    let subnormal = (a + step).to_bits().wrapping_sub(step.to_bits());
    // normal: round the mantissa in the integer domain and move the exponent
    let drop = 23 - mantissa;
    let u = a.to_bits();
    let rounded = u.wrapping_add((1 << (drop - 1)) - 1 + ((u >> drop) & 1));
    let normal = (rounded >> drop).wrapping_sub(((127 - bias) as u32) << mantissa);
    let small = f32::from_bits(((127 + least) as u32) << 23);
    let code = if a < small { subnormal } else { normal };
    if x.is_nan() { sign | nan } else { sign | code as u8 }
}

#[inline(always)]
fn encode_e4m3_body<const FMA: bool>(x: &[f32], out: &mut [u8]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = encode(*x, 3, 7, 448.0, 0x7f);
    }
}

#[inline(always)]
fn encode_e5m2_body<const FMA: bool>(x: &[f32], out: &mut [u8]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = encode(*x, 2, 15, 57344.0, 0x7f);
    }
}

/// The value of one E4M3FN code.
const fn e4m3(code: u8) -> f32 {
    let (e, m) = ((code >> 3) & 15, (code & 7) as u32);
    let sign = (code as u32 >> 7) << 31;
    let magnitude = if e == 15 && m == 7 {
        f32::NAN.to_bits() & 0x7fff_ffff
    } else if e == 0 {
        (m as f32 / 512.0).to_bits()
    } else {
        ((e as u32 + 120) << 23) | (m << 20)
    };
    f32::from_bits(sign | magnitude)
}

const fn table() -> [f32; 256] {
    let mut t = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        t[i] = e4m3(i as u8);
        i += 1;
    }
    t
}

static E4M3: [f32; 256] = table();

dispatch! { fn encode_e4m3(x: &[f32], out: &mut [u8]) = encode_e4m3_body }
dispatch! { fn encode_e5m2(x: &[f32], out: &mut [u8]) = encode_e5m2_body }

/// `f32` to FP8 E4M3FN. Larger magnitudes (infinity too) become ±448; NaN stays NaN.
pub fn f32_to_e4m3(x: &[f32], out: &mut [u8]) {
    parallel::map(x, out, encode_e4m3);
}

/// FP8 E4M3FN to `f32`, exact.
pub fn e4m3_to_f32(x: &[u8], out: &mut [f32]) {
    parallel::map(x, out, |x, out| {
        for (o, x) in out.iter_mut().zip(x) {
            *o = E4M3[*x as usize];
        }
    });
}

/// `f32` to FP8 E5M2. Larger magnitudes (infinity too) become ±57344; NaN stays NaN.
pub fn f32_to_e5m2(x: &[f32], out: &mut [u8]) {
    parallel::map(x, out, encode_e5m2);
}

/// FP8 E5M2 to `f32`, exact: it is the upper half of an `f16`.
pub fn e5m2_to_f32(x: &[u8], out: &mut [f32]) {
    parallel::map(x, out, |x, out| {
        for (o, x) in out.iter_mut().zip(x) {
            *o = half::f16::from_bits((*x as u16) << 8).to_f32();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(f: fn(&[f32], &mut [u8]), x: f32) -> u8 {
        let mut y = [0];
        f(&[x], &mut y);
        y[0]
    }

    #[test]
    fn known_codes() {
        assert_eq!(one(f32_to_e4m3, 448.0), 0x7e);
        assert_eq!(one(f32_to_e4m3, 1e9), 0x7e);
        assert_eq!(one(f32_to_e4m3, f32::NEG_INFINITY), 0xfe);
        assert_eq!(one(f32_to_e4m3, 1.0), 0x38);
        assert_eq!(one(f32_to_e4m3, 1.0 / 512.0), 0x01);
        assert_eq!(one(f32_to_e4m3, -0.0), 0x80);
        assert_eq!(one(f32_to_e4m3, f32::NAN), 0x7f);
        assert_eq!(one(f32_to_e5m2, 57344.0), 0x7b);
        assert_eq!(one(f32_to_e5m2, f32::INFINITY), 0x7b);
        assert_eq!(one(f32_to_e5m2, 1.0), 0x3c);
        assert_eq!(one(f32_to_e5m2, 2f32.powi(-16)), 0x01);
    }

    /// Nearest code by trying all of them, ties to the even code.
    fn nearest(values: &[f32; 256], largest: f32, x: f32) -> u8 {
        let x = x.clamp(-largest, largest);
        let finite = (0..256usize).filter(|c| values[*c].is_finite());
        let same_sign = finite.filter(|c| (*c >= 128) == x.is_sign_negative());
        let distance = |c: &usize| (values[*c] as f64 - x as f64).abs();
        same_sign.min_by(|a, b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))).unwrap() as u8
    }

    #[test]
    fn every_code_survives_and_everything_between_goes_to_the_nearest() {
        let all: Vec<u8> = (0..=255).collect();
        type Pair = (fn(&[f32], &mut [u8]), fn(&[u8], &mut [f32]), f32);
        let pairs: [Pair; 2] = [(f32_to_e4m3, e4m3_to_f32, 448.0), (f32_to_e5m2, e5m2_to_f32, 57344.0)];
        for (encode, decode, largest) in pairs {
            let mut values = [0.0; 256];
            decode(&all, &mut values);
            for c in 0..256 {
                if values[c].is_finite() {
                    assert_eq!(one(encode, values[c]) as usize, c);
                }
            }
            for i in 0..40_000 {
                let x = (i as f32 - 20_000.0) / 20_000.0;
                for x in [x * 3e-4, x * 0.1, x * 500.0, x * 70_000.0] {
                    assert_eq!(one(encode, x), nearest(&values, largest, x), "{x}");
                }
            }
            // halfway between neighbours
            for c in 0..0x7b {
                let x = (values[c] + values[c + 1]) / 2.0;
                assert_eq!(one(encode, x), nearest(&values, largest, x), "{x}");
            }
        }
    }
}
