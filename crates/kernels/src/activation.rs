//! Activation functions, alone or multiplied with the gated branch in the same pass.

use crate::cpu::dispatch;
use crate::math;
use crate::parallel;

/// A pointwise nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// `x / (1 + e^-x)`, also called swish.
    Silu,
    /// `x/2 (1 + erf(x / sqrt 2))`.
    Gelu,
    /// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x³)))`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x / (1 + e^(-1.702 x))`.
    QuickGelu,
    /// `x`.
    Identity,
}

impl Act {
    /// The definition, in double precision.
    pub fn eval(self, x: f64) -> f64 {
        match self {
            Act::Silu => x / (1.0 + (-x).exp()),
            Act::Gelu => {
                let t = x * std::f64::consts::FRAC_1_SQRT_2;
                0.5 * x * (1.0 + math::erf::<false>(t as f32) as f64)
            }
            Act::GeluTanh => {
                let c = (2.0 / std::f64::consts::PI).sqrt();
                0.5 * x * (1.0 + (c * (x + 0.044715 * x * x * x)).tanh())
            }
            Act::Relu => {
                if x < 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Act::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Act::Identity => x,
        }
    }
}

#[inline(always)]
fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + math::exp::<FMA>(-x))
}

#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    let half = 0.5 * x;
    math::mul_add::<FMA>(half, math::erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2), half)
}

#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const C: f32 = 0.797_884_6;
    let half = 0.5 * x;
    let inner = C * math::mul_add::<FMA>(0.044_715 * x * x, x, x);
    math::mul_add::<FMA>(half, math::tanh::<FMA>(inner), half)
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn quick_gelu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + math::exp::<FMA>(-1.702 * x))
}

#[inline(always)]
fn each(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = f(*x);
    }
}

#[inline(always)]
fn each_mul(gate: &[f32], up: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for ((o, g), u) in out.iter_mut().zip(gate).zip(up) {
        *o = f(*g) * *u;
    }
}

#[inline(always)]
fn apply_body<const FMA: bool>(act: Act, x: &[f32], out: &mut [f32]) {
    match act {
        Act::Silu => each(x, out, silu::<FMA>),
        Act::Gelu => each(x, out, gelu::<FMA>),
        Act::GeluTanh => each(x, out, gelu_tanh::<FMA>),
        Act::Relu => each(x, out, relu),
        Act::QuickGelu => each(x, out, quick_gelu::<FMA>),
        Act::Identity => out.copy_from_slice(x),
    }
}

#[inline(always)]
fn apply_mul_body<const FMA: bool>(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match act {
        Act::Silu => each_mul(gate, up, out, silu::<FMA>),
        Act::Gelu => each_mul(gate, up, out, gelu::<FMA>),
        Act::GeluTanh => each_mul(gate, up, out, gelu_tanh::<FMA>),
        Act::Relu => each_mul(gate, up, out, relu),
        Act::QuickGelu => each_mul(gate, up, out, quick_gelu::<FMA>),
        Act::Identity => each_mul(gate, up, out, |x| x),
    }
}

#[inline(always)]
fn exp_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    each(x, out, math::exp::<FMA>);
}

#[inline(always)]
fn tanh_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    each(x, out, math::tanh::<FMA>);
}

#[inline(always)]
fn erf_body<const FMA: bool>(x: &[f32], out: &mut [f32]) {
    each(x, out, math::erf::<FMA>);
}

#[inline(always)]
fn add_body<const FMA: bool>(a: &[f32], b: &[f32], out: &mut [f32]) {
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = a + b;
    }
}

dispatch! { fn apply_piece(act: Act, x: &[f32], out: &mut [f32]) = apply_body }
dispatch! { fn apply_mul_piece(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]) = apply_mul_body }
dispatch! { fn exp_piece(x: &[f32], out: &mut [f32]) = exp_body }
dispatch! { fn tanh_piece(x: &[f32], out: &mut [f32]) = tanh_body }
dispatch! { fn erf_piece(x: &[f32], out: &mut [f32]) = erf_body }
dispatch! { fn add_piece(a: &[f32], b: &[f32], out: &mut [f32]) = add_body }

/// `out = act(x)`. Absolute error below `3e-7 * max(1, |x|)`.
pub fn apply(act: Act, x: &[f32], out: &mut [f32]) {
    parallel::map(x, out, |x, out| apply_piece(act, x, out));
}

/// `out = act(gate) * up`, the middle of a gated MLP, in one pass over memory.
pub fn apply_mul(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]) {
    parallel::map2(gate, up, out, |g, u, out| apply_mul_piece(act, g, u, out));
}

/// `out = e^x`, within 2 ulp; subnormal results and special values as in IEEE 754.
pub fn exp(x: &[f32], out: &mut [f32]) {
    parallel::map(x, out, exp_piece);
}

/// `out = tanh(x)`, within 3 ulp.
pub fn tanh(x: &[f32], out: &mut [f32]) {
    parallel::map(x, out, tanh_piece);
}

/// `out = erf(x)`, within 2 ulp.
pub fn erf(x: &[f32], out: &mut [f32]) {
    parallel::map(x, out, erf_piece);
}

/// `out = a + b`.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    parallel::map2(a, b, out, add_piece);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Act; 6] = [Act::Silu, Act::Gelu, Act::GeluTanh, Act::Relu, Act::QuickGelu, Act::Identity];

    fn numbers(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919) % 2003) as f32 / 100.0 - 10.0).collect()
    }

    #[test]
    fn every_activation_equals_its_definition_on_odd_and_empty_lengths() {
        for act in ALL {
            for n in [0, 1, 3, 17, 1001, 70_001] {
                let x = numbers(n);
                let mut y = vec![f32::NAN; n];
                apply(act, &x, &mut y);
                for (x, y) in x.iter().zip(&y) {
                    let want = act.eval(*x as f64);
                    let bound = 3e-7 * x.abs().max(1.0) as f64;
                    assert!((*y as f64 - want).abs() < bound, "{act:?}({x}) = {y}, want {want}");
                }
            }
        }
    }

    #[test]
    fn the_gated_form_multiplies_by_the_other_branch() {
        let gate = numbers(4099);
        let up: Vec<f32> = gate.iter().rev().copied().collect();
        for act in ALL {
            let (mut alone, mut both) = (vec![0.0; 4099], vec![0.0; 4099]);
            apply(act, &gate, &mut alone);
            apply_mul(act, &gate, &up, &mut both);
            for i in 0..4099 {
                assert_eq!(both[i], alone[i] * up[i], "{act:?}");
            }
        }
    }

    #[test]
    fn nan_stays_nan_and_unaligned_slices_work() {
        let mut x = numbers(41);
        x[20] = f32::NAN;
        for act in ALL {
            let mut y = [0.0; 41];
            apply(act, &x[3..], &mut y[3..]);
            assert!(y[20].is_nan(), "{act:?}");
            assert_eq!(y.iter().filter(|v| v.is_nan()).count(), 1);
            let portable = {
                let mut p = vec![0.0; 41];
                apply_body::<false>(act, &x[3..], &mut p[3..]);
                p
            };
            for (a, b) in y.iter().zip(&portable) {
                assert!((a - b).abs() < 2e-6 || a.is_nan(), "{act:?}: {a} {b}");
            }
        }
    }
}
