use super::*;
use crate::samples::{noise, outputs, seen};

const M: usize = 6;
const N: usize = 8;
const SAMPLES: usize = 40;

fn site() -> Site {
    "blocks.1.attn.q".parse().unwrap()
}

fn layer(w: Vec<f32>, bias: Option<Vec<f32>>) -> Linear<Weight> {
    let float = |shape, values| Weight::float(shape, Floats::F32(values));
    Linear { weight: float([M, N], w), bias: bias.map(|bias| float([1, M], bias)) }
}

fn correct(now: &mut Linear<Weight>, original: &Linear<Weight>, x: &[f32], r: &[f32]) -> Result<Vec<String>> {
    let (site, seen) = (site(), seen(N, x, r));
    let mut cx = Cx::with(&site, 0, &seen).of(original);
    Bias.rewrite(now, &mut cx).map(|()| cx.notes)
}

/// The mean squared error of the layer's outputs over all samples.
fn error(now: &Linear<Weight>, original: &Linear<Weight>, x: &[f32], r: &[f32]) -> f64 {
    let full = |layer: &Linear<Weight>, x: &[f32]| -> Vec<f64> {
        let b = layer.bias.as_ref().unwrap().to_f32();
        outputs(N, x, &layer.weight.to_f32()).iter().enumerate().map(|(n, y)| y + f64::from(b[n % M])).collect()
    };
    crate::samples::squared(&full(now, x), &full(original, r)) / SAMPLES as f64
}

#[test]
fn a_constant_shift_of_the_inputs_is_undone_exactly() {
    let r = noise(SAMPLES * N, 1);
    let x: Vec<f32> = r.iter().enumerate().map(|(n, r)| r + (n % N) as f32 * 0.25).collect();
    let original = layer(noise(M * N, 2), Some(noise(M, 3)));
    let mut now = original.clone();
    assert!(error(&now, &original, &x, &r) > 0.01);
    assert!(correct(&mut now, &original, &x, &r).unwrap().is_empty());
    assert!(error(&now, &original, &x, &r) < 1e-12);
    assert_eq!(now.weight, original.weight);
}

#[test]
fn the_mean_squared_error_never_rises() {
    for seed in 0..20 {
        let r = noise(SAMPLES * N, seed);
        let x: Vec<f32> = r.iter().zip(noise(SAMPLES * N, seed + 100)).map(|(r, e)| r + 0.3 * e).collect();
        let w = noise(M * N, seed + 200);
        // Tiny errors in a wide bias: rounding it may not make it worse.
        let size = [1e-4, 0.1][seed as usize % 2];
        let damaged = w.iter().zip(noise(M * N, seed + 300)).map(|(w, e)| w + size * e).collect();
        let mut original = layer(w, None);
        let bias = Floats::from_f32(noise(M, seed + 400), Dtype::Bf16);
        original.bias = Some(Weight::float([1, M], bias));
        let mut now = layer(damaged, None);
        now.bias = original.bias.clone();
        let before = error(&now, &original, &x, &r);
        correct(&mut now, &original, &x, &r).unwrap();
        let after = error(&now, &original, &x, &r);
        assert!(after <= before, "{seed}: {before} {after}");
        let once = now.clone();
        correct(&mut now, &original, &x, &r).unwrap();
        assert_eq!(now, once, "twice is once");
    }
}

#[test]
fn a_layer_without_a_bias_gets_none() {
    let x = noise(SAMPLES * N, 1);
    let original = layer(noise(M * N, 2), None);
    let mut now = layer(noise(M * N, 3), None);
    let before = now.clone();
    assert_eq!(correct(&mut now, &original, &x, &x).unwrap(), ["no bias to correct"]);
    assert_eq!(now, before);
}

#[test]
fn it_asks_for_what_it_was_not_shown() {
    let mut now = layer(noise(M * N, 2), Some(noise(M, 3)));
    let (at, x) = (site(), noise(SAMPLES * N, 1));
    let error = Bias.rewrite(&mut now, &mut Cx::with(&at, 0, &seen(N, &x, &x))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`recover.bias` needs to see the layer as the recipe got it to rewrite `blocks.1.attn.q`"
    );
    assert_eq!(error.hint().unwrap(), "leave this layer out with `except: [attn.q]`, if no activations pass it");
    let original = now.clone();
    let error = Bias.rewrite(&mut now, &mut Cx::new(&at, 0).of(&original)).unwrap_err();
    assert_eq!(error.to_string(), "`recover.bias` needs to see its inputs in both models to rewrite `blocks.1.attn.q`");
}
