use serde_json::json;

use super::*;
use crate::method;
use crate::samples::{outputs, seen, squared};
use crate::testing::{layer, noise, related};

fn site() -> Site {
    "blocks.0.mlp.down".parse().unwrap()
}

fn decompose(name: &str, settings: Value, layer: &Linear<Weight>, seen: &Seen) -> Linear<Weight> {
    let (site, mut layer) = (site(), layer.clone());
    method(name, settings).unwrap().rewrite(&mut layer, &mut Cx::with(&site, 0, seen)).unwrap();
    layer
}

/// Inputs with much in common that have a mean.
fn shifted(samples: usize, n: usize) -> Vec<f32> {
    related(samples, n, 1).iter().enumerate().map(|(at, x)| x + (at % n % 5) as f32 * 0.4 - 0.3).collect()
}

/// What a layer returns for rows `x`.
fn returned(layer: &Linear<Weight>, n: usize, x: &[f32]) -> Vec<f64> {
    let mut y = outputs(n, x, &layer.weight.to_f32());
    if let Some(bias) = &layer.bias {
        let bias = bias.to_f32();
        y.iter_mut().enumerate().for_each(|(at, y)| *y += f64::from(bias[at % bias.len()]));
    }
    y
}

fn biased(shape: [usize; 2], seed: u64) -> Linear<Weight> {
    let bias = Weight::float([1, shape[0]], Floats::F32(noise(shape[0], seed + 50)));
    Linear { bias: Some(bias), ..layer(shape, seed) }
}

#[test]
fn without_the_mean_it_is_svd_llm() {
    for shape @ [_, n] in [[24, 40], [40, 24]] {
        let (x, w) = (shifted(300, n), biased(shape, 3));
        let seen = seen(n, &x, &x);
        let ours = decompose("decompose.afm", json!({"rank": 6, "mean": false}), &w, &seen);
        assert_eq!(ours, decompose("decompose.svd_llm", json!({"rank": 6}), &w, &seen));
    }
}

#[test]
fn it_never_changes_more_than_svd_llm_at_the_same_rank() {
    for shape @ [_, n] in [[24, 40], [40, 24], [37, 53]] {
        let (x, w) = (shifted(400, n), biased(shape, 3));
        let seen = seen(n, &x, &x);
        let y = returned(&w, n, &x);
        for rank in [1, 3, 8, 13] {
            let [ours, other] = ["decompose.afm", "decompose.svd_llm"]
                .map(|name| squared(&y, &returned(&decompose(name, json!({"rank": rank}), &w, &seen), n, &x)));
            assert!(ours < other, "{shape:?}, {rank}: {ours} {other}");
        }
    }
}

#[test]
fn the_error_is_the_sum_of_the_eigenvalues_left_out() {
    let (shape @ [_, n], samples) = ([24, 40], 400);
    let (x, w) = (shifted(samples, n), biased(shape, 3));
    let seen = seen(n, &x, &x);
    let afm = Afm::parse(json!({"rank": 5})).unwrap();
    let metric = afm.metric(&site(), &seen, &mut Vec::new()).unwrap();
    let told: f64 = factors::errors(NAME, &site(), &w.weight, &metric).unwrap()[5..].iter().sum();
    let after = decompose("decompose.afm", json!({"rank": 5}), &w, &seen);
    let found = squared(&returned(&w, n, &x), &returned(&after, n, &x)) / samples as f64;
    assert!((found / told - 1.0).abs() < 1e-4, "{found} {told}");
}

#[test]
fn outputs_that_never_change_are_returned_by_the_bias() {
    for w in [layer([24, 40], 3), biased([24, 40], 3)] {
        let x: Vec<f32> = noise(40, 1).into_iter().cycle().take(40 * 100).collect();
        let after = decompose("decompose.afm", json!({"rank": 1}), &w, &seen(40, &x, &x));
        let (y, now) = (returned(&w, 40, &x), returned(&after, 40, &x));
        assert!(y.iter().zip(&now).all(|(y, now)| (y - now).abs() < 1e-6));
    }
}

#[test]
fn the_mean_output_is_kept_whatever_rounding_does_to_the_factors() {
    let n = 40;
    let x = shifted(300, n);
    let mut w = biased([24, n], 3);
    w.weight = Weight::float([24, n], Floats::from_f32(w.weight.to_f32(), Dtype::Bf16));
    let after = decompose("decompose.afm", json!({"rank": 6}), &w, &seen(n, &x, &x));
    let mean = |y: &[f64], i: usize| y.iter().skip(i).step_by(24).sum::<f64>() / 300.0;
    let (y, now) = (returned(&w, n, &x), returned(&after, n, &x));
    assert!((0..24).all(|i| (mean(&y, i) - mean(&now, i)).abs() < 1e-5));
}

#[test]
fn inputs_around_zero_add_nothing_to_the_bias() {
    // Each input comes with its opposite.
    let n = 32;
    let x: Vec<f32> =
        related(100, n, 1).chunks(n).flat_map(|x| x.iter().copied().chain(x.iter().map(|x| -x))).collect();
    let w = biased([20, n], 3);
    let fold = crate::samples::fold(n, &x, &x);
    let after = decompose("decompose.afm", json!({"rank": 5}), &w, &Seen { fit: fold, ..Seen::default() });
    assert_eq!(after.bias, w.bias);
}

#[test]
fn the_order_of_samples_does_not_matter() {
    let n = 40;
    let x = shifted(200, n);
    let back: Vec<f32> = x.chunks(n).rev().flatten().copied().collect();
    let fold = |x: &[f32]| Seen { fit: crate::samples::fold(n, x, x), ..Seen::default() };
    let w = biased([24, n], 3);
    let [a, b] = [fold(&x), fold(&back)].map(|seen| decompose("decompose.afm", json!({"rank": 6}), &w, &seen));
    let (a, b) = (returned(&a, n, &x), returned(&b, n, &x));
    assert!(squared(&a, &b) < 1e-9 * squared(&a, &vec![0.0; a.len()]));
}

#[test]
fn a_layer_without_a_bias_gets_one_of_the_type_of_its_weight() {
    let n = 32;
    let (x, mut w) = (shifted(200, n), layer([24, n], 3));
    w.weight = Weight::float([24, n], Floats::from_f32(w.weight.to_f32(), Dtype::Bf16));
    let after = decompose("decompose.afm", json!({"rank": 4}), &w, &seen(n, &x, &x));
    assert_eq!(after.bias.as_ref().map(Form::of), Some(Form::float([1, 24], Dtype::Bf16)));
    let mut form = Linear { weight: Form::of(&w.weight), bias: None };
    Afm::parse(json!({"rank": 4})).unwrap().predict(&site(), &mut form).unwrap();
    assert_eq!(form, Linear { weight: Form::of(&after.weight), bias: after.bias.as_ref().map(Form::of) });
    // What stays dense gets none.
    let whole = decompose("decompose.afm", json!({"rank": 20}), &w, &seen(n, &x, &x));
    assert_eq!(whole, w);
}

#[test]
fn a_new_bias_counts_among_the_parameters() {
    // 0.5 * 24 * 32 = 384; without a bias ⌊384 / 56⌋ = 6, with a new one ⌊360 / 56⌋ = 6, and at 0.44 ⌊338 / 56⌋ and
    // ⌊314 / 56⌋.
    let rank = |ratio: f64, bias: bool| {
        let layer = if bias { biased([24, 32], 3) } else { layer([24, 32], 3) };
        let mut form = Linear { weight: Form::of(&layer.weight), bias: layer.bias.as_ref().map(Form::of) };
        Afm::parse(json!({"ratio": ratio, "multiple": 1})).unwrap().predict(&site(), &mut form).unwrap();
        form.weight.leaves()[0].1.shape[1]
    };
    assert_eq!((rank(0.5, true), rank(0.5, false)), (6, 6));
    assert_eq!((rank(0.44, true), rank(0.44, false)), (6, 5));
}

#[test]
fn sums_that_were_not_taken_are_asked_for() {
    let x = related(100, 16, 1);
    let mut seen = seen(16, &x, &x);
    (seen.fit.sum, seen.held_out.sum) = (Vec::new(), Vec::new());
    let mut w = layer([16, 16], 1);
    let error = Afm::parse(json!({"rank": 2})).unwrap().rewrite(&mut w, &mut Cx::with(&site(), 0, &seen)).unwrap_err();
    assert_eq!(error.to_string(), "`decompose.afm` needs to see its inputs to rewrite `blocks.0.mlp.down`");
    assert!(Afm::parse(json!({})).unwrap().needs().moments);
    assert!(!Afm::parse(json!({"mean": false})).unwrap().needs().moments);
}

#[test]
fn a_mean_that_is_no_yes_or_no_says_what_it_takes() {
    let error = Afm::parse(json!({"mean": 3})).unwrap_err();
    assert_eq!(error.to_string(), "`decompose.afm` cannot take `mean: 3`");
    assert!(error.hint().unwrap().contains("`true` or `false`"));
}
