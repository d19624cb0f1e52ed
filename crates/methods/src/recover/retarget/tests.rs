use brevity_model::{Expr, Mask};

use super::*;
use crate::samples::{fold, noise, outputs, seen, squared};

const M: usize = 24;
const N: usize = 16;
const SAMPLES: usize = 400;

fn site() -> Site {
    "blocks.1.mlp.up".parse().unwrap()
}

fn layer(w: &[f32]) -> Linear<Weight> {
    Linear { weight: Weight::float([w.len() / N, N], Floats::F32(w.to_vec())), bias: None }
}

fn retarget(settings: Value, layer: &mut Linear<Weight>, seen: &Seen) -> (Vec<String>, Vec<(String, f64)>) {
    let site = site();
    let mut cx = Cx::with(&site, 0, seen);
    Retarget::parse(settings).unwrap().rewrite(layer, &mut cx).unwrap();
    (cx.notes, cx.figures)
}

/// Inputs as a damaged model would have them: the references, mixed a little and with some noise.
fn drifted(seed: u64, mix: f32, spread: f32) -> (Vec<f32>, Vec<f32>) {
    let r = noise(SAMPLES * N, seed);
    let (a, e) = (noise(N * N, seed + 1), noise(SAMPLES * N, seed + 2));
    let mixed = outputs(N, &r, &a);
    let x = r.iter().zip(&mixed).zip(&e).map(|((r, m), e)| r + mix * *m as f32 + spread * e).collect();
    (x, r)
}

#[test]
fn the_same_inputs_change_nothing() {
    let x = noise(SAMPLES * N, 1);
    for settings in [json!({}), json!({"lambda": 0}), json!({"lambda": 0.1})] {
        let before = layer(&noise(M * N, 2));
        let mut after = before.clone();
        let (notes, figures) = retarget(settings, &mut after, &seen(N, &x, &x));
        assert_eq!(after, before);
        assert_eq!(notes, ["not retargeted: its inputs are those of the original model"]);
        assert!(figures.is_empty());
    }
}

#[test]
fn a_boundless_lambda_changes_nothing() {
    let (x, r) = drifted(1, 0.3, 0.1);
    let before = layer(&noise(M * N, 2));
    let mut after = before.clone();
    retarget(json!({"lambda": 1e12}), &mut after, &seen(N, &x, &r));
    assert_eq!(after, before);
}

#[test]
fn a_chain_is_repaired_exactly_after_an_invertible_damage() {
    // The first layer gives `A r` where it should give `r`, so the second has to become `W A⁻¹`.
    let r = noise(SAMPLES * N, 1);
    let mut a: Vec<f32> = noise(N * N, 3);
    (0..N).for_each(|j| a[j * N + j] += 3.0);
    let x: Vec<f32> = outputs(N, &r, &a).iter().map(|&x| x as f32).collect();
    let w = noise(M * N, 2);
    let mut after = layer(&w);
    retarget(json!({"lambda": 1e-9}), &mut after, &seen(N, &x, &r));
    let (right, now) = (outputs(N, &r, &w), outputs(N, &x, &after.weight.to_f32()));
    assert!(squared(&right, &now) < 1e-11 * squared(&right, &vec![0.0; right.len()]));
    let without = squared(&right, &outputs(N, &x, &w));
    assert!(without > 0.1 * squared(&right, &vec![0.0; right.len()]), "there was something to repair");
}

#[test]
fn a_product_is_repaired_too() {
    let (x, r) = drifted(1, 0.5, 0.0);
    let (a, b) = (noise(M * 8, 4), noise(8 * N, 5));
    let product = |a: &[f32], b: &[f32]| {
        Weight::product(Weight::float([M, 8], Floats::F32(a.into())), Weight::float([8, N], Floats::F32(b.into())))
    };
    let mut layer = Linear { weight: product(&a, &b), bias: None };
    let right = outputs(N, &r, &layer.weight.to_f32());
    let before = squared(&right, &outputs(N, &x, &layer.weight.to_f32()));
    let (_, figures) = retarget(json!({"lambda": 1e-9}), &mut layer, &seen(N, &x, &r));
    assert!(squared(&right, &outputs(N, &x, &layer.weight.to_f32())) < 1e-9 * before);
    assert_eq!(figures.len(), 2, "both factors are looked at: {figures:?}");
}

#[test]
fn at_lambda_zero_the_error_of_any_weight_splits_exactly() {
    let (x, r) = drifted(7, 0.3, 0.3);
    let w = noise(M * N, 2);
    let seen = seen(N, &x, &r);
    let mut best = layer(&w);
    retarget(json!({"lambda": 0}), &mut best, &seen);
    let best = best.weight.to_f32();
    let right = outputs(N, &r, &w);
    let residual = squared(&right, &outputs(N, &x, &best));
    for seed in [8, 9] {
        let other: Vec<f32> = best.iter().zip(noise(M * N, seed)).map(|(b, e)| b + 0.2 * e).collect();
        let error = squared(&right, &outputs(N, &x, &other));
        let apart = squared(&outputs(N, &x, &best), &outputs(N, &x, &other));
        assert!((error - residual - apart).abs() < 1e-6 * error, "{error} {residual} {apart}");
    }
}

#[test]
fn held_out_error_is_never_worse_than_without() {
    let mut refitted = 0;
    // From drift that can be undone to nothing but noise, seen often and seen seldom.
    for (n, (mix, spread)) in [(0.5, 0.05), (0.2, 0.2), (0.02, 0.5), (0.0, 0.5), (0.0, 0.0)].into_iter().enumerate() {
        for samples in [24, SAMPLES] {
            let (x, r) = drifted(10 * n as u64, mix, spread);
            let (x, r) = (&x[..samples * N], &r[..samples * N]);
            let at = samples / 4 * 3 * N;
            let w = noise(M * N, 2);
            let mut after = layer(&w);
            let (notes, figures) = retarget(json!({}), &mut after, &seen(N, x, r));
            let right = outputs(N, &r[at..], &w);
            let without = squared(&right, &outputs(N, &x[at..], &w));
            let with = squared(&right, &outputs(N, &x[at..], &after.weight.to_f32()));
            assert!(with <= without, "{mix} {spread} {samples}");
            if after.weight.to_f32() == w {
                assert!(notes[0].starts_with("not retargeted: "), "{notes:?}");
            } else {
                refitted += 1;
                let energy = squared(&outputs(N, &x[at..], &w), &vec![0.0; right.len()]);
                assert_eq!((&*figures[0].0, &*figures[1].0), ("lambda", "held_out_gain"));
                assert!((figures[1].1 - (without - with) / energy).abs() < 1e-5);
            }
        }
    }
    assert!(refitted >= 4, "{refitted}");
}

#[test]
fn a_fit_that_does_not_carry_over_is_left_out_by_name() {
    let r = noise(SAMPLES * N, 1);
    let before = layer(&noise(M * N, 2));
    let mut opposite = before.clone();
    // What grew in the samples to fit to shrinks in those held out.
    let turned = Seen {
        fit: fold(N, &r[..300 * N], &r[..300 * N].iter().map(|r| 1.5 * r).collect::<Vec<f32>>()),
        held_out: fold(N, &r[300 * N..], &r[300 * N..].iter().map(|r| 0.5 * r).collect::<Vec<f32>>()),
        ..Seen::default()
    };
    let (notes, _) = retarget(json!({}), &mut opposite, &turned);
    assert_eq!(opposite, before);
    assert_eq!(notes, ["not retargeted: no lambda makes it better on held-out samples"]);
    let mut none = before.clone();
    let (notes, _) = retarget(json!({}), &mut none, &Seen { held_out: Fold::default(), ..turned });
    assert_eq!((none, &*notes[0]), (before, "not retargeted: no samples were held out to choose lambda on"));
}

#[test]
fn a_layer_whose_inputs_leave_the_fit_open_stays_as_it_is() {
    // Fewer samples than inputs, and nothing that holds the layer back.
    let (x, r) = drifted(1, 0.3, 0.2);
    let few = seen(N, &x[..4 * N], &r[..4 * N]);
    let before = layer(&noise(M * N, 2));
    let mut after = before.clone();
    let (notes, _) = retarget(json!({"lambda": 0}), &mut after, &few);
    assert_eq!(after, before);
    assert_eq!(notes, [format!("not retargeted: {SINGULAR}")]);
    let (notes, _) = retarget(json!({}), &mut after, &few);
    assert!(notes.iter().all(|note| !note.contains(SINGULAR)), "`auto` finds a lambda that holds: {notes:?}");
}

#[test]
fn removed_entries_stay_removed_and_the_type_stays() {
    let (x, r) = drifted(1, 0.5, 0.05);
    let keep: Vec<bool> = (0..M * N).map(|n| n % 3 > 0).collect();
    let mut leaf = Leaf::float([M, N], Floats::from_f32(noise(M * N, 2), Dtype::Bf16));
    leaf.mask = Some(Mask::from_bools([M, N], &keep));
    let mut layer = Linear { weight: Expr::Leaf(leaf.clone()), bias: None };
    let (_, figures) = retarget(json!({}), &mut layer, &seen(N, &x, &r));
    assert!(figures[1].1 > 0.0);
    let Expr::Leaf(after) = &layer.weight else { panic!("a leaf stays a leaf") };
    let Code::Float(values) = &after.code else { panic!("floats stay floats") };
    assert_eq!((values.dtype(), &after.mask), (Dtype::Bf16, &leaf.mask));
    assert!(values.to_f32().iter().zip(&keep).all(|(&x, &keep)| keep || x == 0.0));
    assert_ne!(*after, leaf);
}

#[test]
fn layers_of_one_tap_share_their_factors_and_get_what_they_would_get_alone() {
    let (x, r) = drifted(1, 0.3, 0.2);
    let shared = seen(N, &x, &r);
    for seed in [2, 3, 4] {
        let (mut one, mut other) = (layer(&noise(M * N, seed)), layer(&noise(M * N, seed)));
        retarget(json!({}), &mut one, &shared);
        retarget(json!({}), &mut other, &seen(N, &x, &r));
        assert_eq!(one, other);
    }
    let kept = shared.shared.get("retarget.fit.0.1", || Err("was not kept")).map(|_: std::sync::Arc<Ridge>| ());
    assert_eq!(kept, Ok(()));
}

#[test]
fn single_and_double_precision_agree() {
    let (x, r) = drifted(1, 0.3, 0.2);
    let fold = fold(N, &x, &r);
    let (gram, drift, w) = (fold.gram.unwrap(), fold.drift.unwrap(), noise(M * N, 2));
    // On either side of the ratio at which precision changes.
    let least = N as f64 / (1 << 20) as f64;
    let steps = [least * 1.0001, least * 0.9999].map(|l| Ridge::new(&gram, l).unwrap().step(&w, drift.as_f64()));
    let apart = steps[0].iter().zip(&steps[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 0.0 && apart < 1e-4, "{apart}");
}

#[test]
fn a_coded_layer_or_one_without_samples_is_refused() {
    let mut layer = layer(&noise(M * N, 1));
    let unseen = Retarget::parse(json!({})).unwrap().rewrite(&mut layer, &mut Cx::new(&site(), 0)).unwrap_err();
    assert_eq!(
        unseen.to_string(),
        "`recover.retarget` needs to see its inputs in both models to rewrite `blocks.1.mlp.up`"
    );
    crate::method("quantize.rtn", json!({"group": 8})).unwrap().rewrite(&mut layer, &mut Cx::new(&site(), 0)).unwrap();
    let (x, r) = drifted(1, 0.3, 0.2);
    let (at, seen) = (site(), seen(N, &x, &r));
    let coded = Retarget::parse(json!({})).unwrap().rewrite(&mut layer, &mut Cx::with(&at, 0, &seen)).unwrap_err();
    assert!(matches!(coded, Error::Coded { .. }), "{coded}");
    let error = Retarget::parse(json!({"lambda": -1})).unwrap_err();
    assert_eq!(error.to_string(), "`recover.retarget` cannot take `lambda: -1.0`");
    assert!(Retarget::parse(json!({"lambda": "some"})).is_err());
}
