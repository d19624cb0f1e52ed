//! Elementary functions without branches, so that loops over them become vector code.
//!
//! Polynomials are minimax fits made for this crate (weighted least squares iterated towards equal ripple).
//! Errors against `f64`, over all finite `f32` inputs tested below: `exp` 2 ulp, `tanh` 3 ulp, `erf` 2 ulp.
//! `FMA` says whether fused multiply-add is an instruction here; without it the error grows by about one ulp.

/// `a * b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Adding and subtracting this rounds a float below 2^22 to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// `2^n` for an integer-valued `n` from -126 to 127.
#[inline(always)]
fn pow2(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// The integer a small integer-valued float stands for, without the range checks of a cast.
#[inline(always)]
fn int(n: f32) -> i32 {
    ((n + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// `e^x`. Underflows to zero through the subnormals, overflows to infinity, NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // keep n inside what two factors can scale; comparisons (not min/max) let NaN through
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.5 { -104.5 } else { x };
    let n = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = mul_add::<FMA>(n, -LN2_HI, x);
    let r = mul_add::<FMA>(n, -LN2_LO, r);
    let p = 0.001_381_448_5;
    let p = mul_add::<FMA>(p, r, 0.008_368_75);
    let p = mul_add::<FMA>(p, r, 0.041_668_393);
    let p = mul_add::<FMA>(p, r, 0.166_665_2);
    let p = mul_add::<FMA>(p, r, 0.499_999_94);
    let p = mul_add::<FMA>(p, r * r, r) + 1.0;
    // for NaN the integer is arbitrary, but p is NaN then, and so is the product
    let n = int(n);
    let half = n >> 1;
    p * pow2(half) * pow2(n.wrapping_sub(half))
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let u = x * x;
    let p = 0.002_097_645;
    let p = mul_add::<FMA>(p, u, -0.008_128_907);
    let p = mul_add::<FMA>(p, u, 0.021_681_6);
    let p = mul_add::<FMA>(p, u, -0.053_943_39);
    let p = mul_add::<FMA>(p, u, 0.133_331_8);
    let p = mul_add::<FMA>(p, u, -0.333_333_3);
    let small = mul_add::<FMA>(p, u * x, x);
    let large = 1.0 - 2.0 / (exp::<FMA>(2.0 * a) + 1.0);
    if a < 0.64 { small } else { large.copysign(x) }
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let u = x * x;
    let p = 7.889_038e-5;
    let p = mul_add::<FMA>(p, u, -8.020_817e-4);
    let p = mul_add::<FMA>(p, u, 0.005_189_532_5);
    let p = mul_add::<FMA>(p, u, -0.026_854_443);
    let p = mul_add::<FMA>(p, u, 0.112_836);
    let p = mul_add::<FMA>(p, u, -0.376_126_26);
    let p = mul_add::<FMA>(p, u, 0.128_379_17);
    let small = mul_add::<FMA>(p, x, x);
    // erf(a) = 1 - exp(ln erfc(a)), the logarithm as a polynomial on [0.98, 4]
    let a = if a > 4.0 { 4.0 } else { a };
    let q = -2.168_807_2e-5;
    let q = mul_add::<FMA>(q, a, 4.413_51e-4);
    let q = mul_add::<FMA>(q, a, -0.004_204_635);
    let q = mul_add::<FMA>(q, a, 0.025_208_455);
    let q = mul_add::<FMA>(q, a, -0.108_418_89);
    let q = mul_add::<FMA>(q, a, -0.633_219_6);
    let q = mul_add::<FMA>(q, a, -1.129_578_6);
    let q = mul_add::<FMA>(q, a, 1.880_713_8e-4);
    let large = 1.0 - exp::<FMA>(q);
    if a < 1.0 { small } else { large.copysign(x) }
}

/// `|x|^0.4` for finite `x`, to about 2e-6: only ever used to compare clipping candidates.
#[inline(always)]
pub(crate) fn pow_two_fifths<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    // mantissa in [sqrt(1/2), sqrt(2)), exponent as a float
    let bits = a.to_bits() as i32;
    let e = (bits - 0x3f35_04f3) >> 23;
    let t = f32::from_bits((bits - (e << 23)) as u32) - 1.0;
    let p = 0.176_114_82;
    let p = mul_add::<FMA>(p, t, -0.270_959_7);
    let p = mul_add::<FMA>(p, t, 0.295_107_06);
    let p = mul_add::<FMA>(p, t, -0.359_186_8);
    let p = mul_add::<FMA>(p, t, 0.480_648_4);
    let p = mul_add::<FMA>(p, t, -0.721_367_65);
    let p = mul_add::<FMA>(p, t, 1.442_696_3);
    let y = 0.4 * mul_add::<FMA>(p, t, e as f32);
    let n = (y + ROUND) - ROUND;
    let f = y - n;
    let p = 0.001_327_630_5;
    let p = mul_add::<FMA>(p, f, 0.009_675_586);
    let p = mul_add::<FMA>(p, f, 0.055_507_14);
    let p = mul_add::<FMA>(p, f, 0.240_221_19);
    let p = mul_add::<FMA>(p, f, 0.693_146_97);
    let p = mul_add::<FMA>(p, f, 1.000_000_1);
    if a < 1e-30 { 0.0 } else { p * pow2(int(n)) }
}

/// `e^x` in double precision for `x <= 0`, within 2 ulp; below -700 it is zero.
#[inline(always)]
pub(crate) fn exp_f64<const FMA: bool>(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let fma = |a: f64, b: f64, c: f64| if FMA { a.mul_add(b, c) } else { a * b + c };
    let y = if x < -700.0 { -700.0 } else { x };
    let n = fma(y, std::f64::consts::LOG2_E, ROUND) - ROUND;
    let r = fma(n, -0.693_147_180_369_123_8, y);
    let r = fma(n, -1.908_214_929_270_587_7e-10, r);
    // Taylor: on |r| <= ln 2 / 2 the first term left out is below 1e-17
    let mut p = 1.0 / 6_227_020_800.0;
    for c in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = fma(p, r, c);
    }
    let bits = (n + ROUND).to_bits().wrapping_sub(ROUND.to_bits());
    let scale = f64::from_bits(bits.wrapping_add(1023) << 52);
    if x < -700.0 { 0.0 } else { p * scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units of the last place of the correctly rounded result.
    fn ulps(got: f32, want: f64) -> f64 {
        let w = want as f32;
        let spacing = if w == 0.0 { 1e-45 } else { (f32::from_bits(w.abs().to_bits() + 1) - w.abs()) as f64 };
        (got as f64 - want).abs() / spacing
    }

    fn sweep(lo: f32, hi: f32) -> impl Iterator<Item = f32> {
        (0..200_001).map(move |i| lo + (hi - lo) * i as f32 / 200_000.0)
    }

    #[test]
    fn exp_is_within_two_ulp() {
        let worst = |f: fn(f32) -> f32| sweep(-87.0, 88.0).map(|x| ulps(f(x), (x as f64).exp())).fold(0.0, f64::max);
        assert!(worst(exp::<true>) < 2.0, "{}", worst(exp::<true>));
        assert!(worst(exp::<false>) < 3.0, "{}", worst(exp::<false>));
    }

    #[test]
    fn exp_keeps_the_special_values() {
        assert!(exp::<true>(f32::NAN).is_nan());
        assert_eq!(exp::<true>(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!(exp::<true>(-200.0), 0.0);
        let tiny = exp::<true>(-95.0);
        assert!(tiny > 0.0 && tiny < f32::MIN_POSITIVE, "subnormals survive");
    }

    fn erf_f64(x: f64) -> f64 {
        // series for small, continued fraction (Lentz) for large arguments
        if x.abs() < 2.5 {
            let (mut term, mut sum, mut n) = (x, x, 0.0);
            while term.abs() > 1e-18 * sum.abs() {
                n += 1.0;
                term *= -x * x / n;
                sum += term / (2.0 * n + 1.0);
                if n > 200.0 {
                    break;
                }
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        } else {
            let a = x.abs();
            let mut f = 0.0;
            for k in (1..80).rev() {
                f = k as f64 / 2.0 / (a + f);
            }
            let erfc = (-a * a).exp() / ((a + f) * std::f64::consts::PI.sqrt());
            (1.0 - erfc).copysign(x)
        }
    }

    #[test]
    fn tanh_and_erf_are_within_a_few_ulp() {
        let t = sweep(-9.5, 9.5).map(|x| ulps(tanh::<true>(x), (x as f64).tanh())).fold(0.0, f64::max);
        assert!(t < 3.0, "tanh {t}");
        let e = sweep(-4.5, 4.5).map(|x| ulps(erf::<true>(x), erf_f64(x as f64))).fold(0.0, f64::max);
        assert!(e < 2.0, "erf {e}");
        for f in [tanh::<true>, tanh::<false>, erf::<true>, erf::<false>] {
            assert!(f(f32::NAN).is_nan());
            assert_eq!(f(f32::INFINITY), 1.0);
            assert_eq!(f(f32::NEG_INFINITY), -1.0);
            assert_eq!(f(0.0), 0.0);
        }
    }

    #[test]
    fn two_fifths_power_is_close() {
        for x in [1e-12f32, 3e-4, 0.1, 0.707, 1.0, 2.5, 1e6] {
            let want = (x as f64).powf(0.4);
            assert!((pow_two_fifths::<true>(x) as f64 / want - 1.0).abs() < 5e-6, "{x}");
        }
        assert_eq!(pow_two_fifths::<true>(0.0), 0.0);
    }

    #[test]
    fn double_exp_is_nearly_exact() {
        for i in 0..10_000 {
            let x = -(i as f64) * 0.0699;
            assert!((exp_f64::<true>(x) / x.exp() - 1.0).abs() < 5e-16, "{x}");
        }
        assert_eq!(exp_f64::<true>(f64::NEG_INFINITY), 0.0);
        assert!(exp_f64::<true>(f64::NAN).is_nan());
        assert_eq!(exp_f64::<true>(0.0), 1.0);
    }
}
