use std::sync::Arc;

use brevity_kernels::gram::Gram;
use brevity_model::{Dtype, Expr, Floats};
use serde_json::json;

use super::*;
use crate::inputs::Part;
use crate::seen::Fold;
use crate::testing::{error, fold, layer, noise, related, seen, unrelated};

fn site() -> Site {
    "blocks.2.mlp.up".parse().unwrap()
}

/// The layer, the notes and the figures that a method leaves.
#[allow(clippy::type_complexity)]
fn rewritten(
    name: &str,
    settings: Value,
    layer: &Linear<Weight>,
    seen: &Seen,
) -> Result<(Linear<Weight>, Vec<String>, Vec<(String, f64)>)> {
    let (site, mut layer) = (site(), layer.clone());
    let mut cx = Cx::with(&site, 0, seen);
    crate::method(name, settings)?.rewrite(&mut layer, &mut cx)?;
    Ok((layer, cx.notes, cx.figures))
}

fn gptq(settings: Value, layer: &Linear<Weight>, seen: &Seen) -> Linear<Weight> {
    rewritten(NAME, settings, layer, seen).unwrap().0
}

fn rtn(settings: Value, layer: &Linear<Weight>) -> Linear<Weight> {
    rewritten("quantize.rtn", settings, layer, &Seen::nothing()).unwrap().0
}

fn figure(figures: &[(String, f64)], name: &str) -> f64 {
    figures.iter().find(|(found, _)| *found == name).unwrap_or_else(|| panic!("{name} is not in {figures:?}")).1
}

#[test]
fn inputs_that_have_nothing_in_common_leave_plain_rounding() {
    let layer = layer([40, 96], 1);
    let seen = unrelated(96);
    for grid in [
        json!({"group": 32}),
        json!({"bits": 3, "group": "channel", "symmetric": false, "range": "mse"}),
        json!({"bits": 2, "group": 40, "ragged": "pad"}),
        json!({"bits": 4, "group": "tensor"}),
        json!({"bits": 1, "group": 32}),
    ] {
        for own in [json!({}), json!({"damp": 0.1}), json!({"groups": "dynamic", "order": "natural"})] {
            let mut settings = grid.clone();
            own.as_object().unwrap().iter().for_each(|(k, v)| settings[k] = v.clone());
            assert_eq!(gptq(settings.clone(), &layer, &seen), rtn(grid.clone(), &layer), "{settings}");
        }
    }
}

#[test]
fn weights_on_the_grid_stay_where_they_are() {
    let on_grid = rtn(json!({"group": 32, "symmetric": false}), &layer([20, 64], 3)).weight.to_f32();
    let before = Linear { weight: Weight::float([20, 64], Floats::F32(on_grid)), bias: None };
    let after = gptq(json!({"group": 32, "symmetric": false}), &before, &seen(300, 64));
    let (w, q) = (before.weight.to_f32(), after.weight.to_f32());
    assert!(w.iter().zip(&q).all(|(w, q)| (w - q).abs() < 1e-6));
}

#[test]
fn eight_bits_are_nearly_exact_and_every_column_keeps_its_place() {
    let before = layer([64, 96], 5);
    let seen = seen(300, 96);
    for order in ["activation", "natural"] {
        let after = gptq(json!({"bits": 8, "group": 32, "order": order}), &before, &seen);
        let (w, q) = (before.weight.to_f32(), after.weight.to_f32());
        assert!(w.iter().zip(&q).all(|(w, q)| (w - q).abs() < 0.05), "{order}");
    }
}

#[test]
fn the_damped_error_is_the_loss_and_less_than_that_of_rounding() {
    let before = layer([96, 128], 7);
    let seen = seen(600, 128);
    let mut all = seen.fit.clone();
    all.merge(&seen.held_out);
    let gram = all.gram.unwrap();
    for bits in [2, 3, 4] {
        for damp in [0.01, 0.3] {
            for order in ["activation", "natural"] {
                let grid = json!({"bits": bits, "group": 32, "symmetric": false});
                let mut settings = grid.clone();
                settings["damp"] = damp.into();
                settings["order"] = order.into();
                let damped = |after: &Linear<Weight>| {
                    let (w, q) = (before.weight.to_f32(), after.weight.to_f32());
                    let squares: f64 = w.iter().zip(&q).map(|(w, q)| f64::from(w - q).powi(2)).sum();
                    error(&seen, &before, after) + damp * gram.trace() / 128.0 * squares
                };
                let (after, _, figures) = rewritten(NAME, settings, &before, &seen).unwrap();
                let (own, plain) = (damped(&after), damped(&rtn(grid, &before)));
                assert!((figure(&figures, "loss") / own - 1.0).abs() < 1e-4, "{figures:?} {own}");
                assert!(own < 0.8 * plain, "{bits} {damp} {order}: {own} {plain}");
            }
        }
    }
}

#[test]
fn damping_is_chosen_by_what_was_kept_apart() {
    // Few samples to fit to: the customary damping fits their noise.
    let n = 128;
    let (fit, held_out) = (fold(n, &related(150, n, 1)), fold(n, &related(400, n, 2)));
    let seen = Seen { fit, held_out, ..Seen::default() };
    let before = layer([256, n], 9);
    let (_, _, chosen) = rewritten(NAME, json!({"group": 32}), &before, &seen).unwrap();
    assert!(figure(&chosen, "damp") > 0.02, "{chosen:?}");
    // What is chosen on one fold and then fitted to both is fitted better than what is fitted to one.
    let (fit, held_out) = (seen.fit.clone(), Fold::default());
    let one = Seen { fit, held_out, ..Seen::default() };
    let held_out = seen.held_out.gram.as_ref().unwrap();
    let held =
        |after: &Linear<Weight>| crate::inputs::error_on(held_out, n, &before.weight.to_f32(), &after.weight.to_f32());
    let auto = held(&gptq(json!({"group": 32}), &before, &seen));
    let customary = held(&gptq(json!({"group": 32, "damp": 0.01}), &before, &one));
    assert!(auto < customary, "{auto} {customary}");
    // The range can be chosen too, and at two bits clipping pays.
    let range = |range: &str| held(&gptq(json!({"bits": 2, "group": 32, "range": range}), &before, &seen));
    assert!(range("auto") <= range("min_max").min(range("mse")) * 1.01);
}

#[test]
fn rounding_is_kept_where_making_up_for_it_harms_what_was_kept_apart() {
    // Pairs of inputs that move together in the fitted samples move apart in the others.
    let n = 32;
    let (own, common) = (noise(200 * n, 1), noise(100 * n, 2));
    let samples = |sign: f32| -> Vec<f32> {
        let one = |at: usize| 0.1 * own[at] + common[at / 2] * if at.is_multiple_of(2) { 1.0 } else { sign };
        (0..200 * n).map(one).collect()
    };
    let seen = Seen { fit: fold(n, &samples(1.0)), held_out: fold(n, &samples(-1.0)), ..Seen::default() };
    let before = layer([64, n], 4);
    let (after, notes, _) = rewritten(NAME, json!({"bits": 3, "group": 16}), &before, &seen).unwrap();
    assert_eq!(after, rtn(json!({"bits": 3, "group": 16}), &before));
    assert_eq!(notes, ["rounded only: on samples kept apart, no damping does better"]);
}

#[test]
fn what_is_not_positive_definite_is_damped_more_and_then_rounded_only() {
    let n = 16;
    let with = |off: f64| {
        let whole: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 1.0 } else { off }).collect();
        let fit = Fold { count: 100, gram: Some(Gram::from_f64(n, &whole)), ..Fold::default() };
        Seen { fit, ..Seen::default() }
    };
    let before = layer([8, n], 4);
    // The smallest eigenvalue is 1 + 15 off.
    let (_, notes, figures) = rewritten(NAME, json!({"group": 16}), &before, &with(-0.07)).unwrap();
    assert_eq!(notes, [] as [&str; 0], "no damping was asked for, so there is nothing to tell: {figures:?}");
    assert!(figure(&figures, "damp") > 0.05);
    let (_, notes, _) = rewritten(NAME, json!({"group": 16, "damp": 0.02}), &before, &with(-0.07)).unwrap();
    assert_eq!(notes, ["damped by 0.2 instead of 0.02, to be positive definite"]);
    for damp in [json!("auto"), json!(0.01), json!(0.0)] {
        let settings = json!({"group": 16, "damp": damp});
        let (after, notes, _) = rewritten(NAME, settings, &before, &with(5.0)).unwrap();
        assert_eq!(after, rtn(json!({"group": 16}), &before));
        assert_eq!(notes, ["rounded only: what was seen of its inputs is not positive definite"]);
    }
}

#[test]
fn a_layer_that_only_ever_saw_zeros_is_rounded() {
    let before = layer([8, 16], 4);
    let zeros = || fold(16, &[0.0; 160]);
    let seen = Seen { fit: zeros(), held_out: zeros(), ..Seen::default() };
    let (after, notes, _) = rewritten(NAME, json!({"group": 16}), &before, &seen).unwrap();
    assert_eq!(after, rtn(json!({"group": 16}), &before));
    assert_eq!(notes, ["its inputs were always zero, so nothing is made up for"]);
}

#[test]
fn fewer_samples_than_inputs_are_told() {
    let (_, notes, _) = rewritten(NAME, json!({"group": 32}), &layer([8, 64], 4), &seen(20, 64)).unwrap();
    assert_eq!(notes[0], "only 25 samples were seen of 64 inputs; more would serve it better");
}

#[test]
fn what_was_not_seen_or_not_finite_is_refused_by_name() {
    let before = layer([8, 16], 4);
    let error = rewritten(NAME, json!({"group": 16}), &before, &Seen::nothing()).unwrap_err();
    assert_eq!(error.to_string(), "`quantize.gptq` needs to see its inputs to rewrite `blocks.2.mlp.up`");
    let mut x = related(40, 16, 1);
    x[18] = f32::INFINITY;
    let seen = Seen { fit: fold(16, &x), ..Seen::default() };
    let error = rewritten(NAME, json!({"group": 16}), &before, &seen).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot apply `quantize.gptq` to `blocks.2.mlp.up`: 1 of its 16 inputs were not finite in calibration"
    );
    assert!(error.hint().unwrap().contains("except: [mlp.up]"));
}

#[test]
fn a_mask_survives_and_what_is_left_makes_up_for_rounding() {
    let mut before = layer([48, 96], 4);
    let keep: Vec<bool> = (0..48 * 96).map(|i| i % 5 > 1 || i % 7 == 0).collect();
    let Expr::Leaf(leaf) = &mut before.weight else { unreachable!() };
    leaf.mask = Some(Mask::from_bools([48, 96], &keep));
    let seen = seen(400, 96);
    for settings in [json!({"group": 32}), json!({"bits": 3, "group": 32, "groups": "dynamic", "order": "natural"})] {
        let after = gptq(settings.clone(), &before, &seen);
        let Expr::Leaf(leaf) = &after.weight else { unreachable!() };
        assert_eq!(leaf.mask.as_ref().map(Mask::to_bools).as_ref(), Some(&keep));
        let Code::Grid(grid) = &leaf.code else { panic!("it is on a grid") };
        let stored = grid.to_f32([48, 96]);
        assert!(stored.iter().zip(&keep).all(|(x, keep)| *keep || *x == 0.0), "readers without masks see zeros");
        let plain = json!({"group": 32, "bits": settings.get("bits").unwrap_or(&json!(4))});
        assert!(error(&seen, &before, &after) < error(&seen, &before, &rtn(plain, &before)));
    }
}

#[test]
fn the_left_factor_is_fitted_to_what_the_rounded_right_one_gives() {
    let (a, b) = (layer([64, 32], 1).weight, layer([32, 96], 2).weight);
    let before = Linear { weight: Weight::product(a, b), bias: None };
    let seen = seen(500, 96);
    let settings = json!({"group": 32});
    let (after, notes, figures) = rewritten(NAME, settings.clone(), &before, &seen).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!(figures.iter().filter(|(name, _)| ["0.damp", "1.damp"].contains(&&**name)).count(), 2);
    let (own, plain) = (error(&seen, &before, &after), error(&seen, &before, &rtn(settings, &before)));
    assert!(own < 0.8 * plain, "{own} {plain}");
}

#[test]
fn layers_that_read_the_same_activations_share_a_factor() {
    let seen = seen(100, 16);
    let inputs = || Inputs::new(NAME, &site(), "", &seen, Order::Activation, &mut Vec::new()).unwrap();
    let first = inputs().factor(Part::All, 0.1).unwrap();
    assert!(Arc::ptr_eq(&first, &inputs().factor(Part::All, 0.1).unwrap()));
    assert!(!Arc::ptr_eq(&first, &inputs().factor(Part::Fit, 0.1).unwrap()));
    assert!(!Arc::ptr_eq(&first, &inputs().factor(Part::All, 0.3).unwrap()));
}

#[test]
fn scales_are_stored_as_the_weight_is() {
    let values = Floats::from_f32(noise(8 * 32, 1), Dtype::Bf16);
    let before = Linear { weight: Weight::float([8, 32], values), bias: None };
    let after = gptq(json!({"group": 32}), &before, &seen(100, 32));
    let Expr::Leaf(Leaf { code: Code::Grid(grid), .. }) = after.weight else { panic!("it is on a grid") };
    assert_eq!(grid.scale_dtype, Dtype::Bf16);
    assert!(grid.scales.iter().all(|&s| Dtype::Bf16.round(s) == s));
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    for (settings, name) in [
        (json!({"damp": -1.0}), "damp"),
        (json!({"damp": "some"}), "damp"),
        (json!({"order": "random"}), "order"),
        (json!({"block": 0}), "block"),
        (json!({"bits": 9}), "bits"),
        (json!({"range": "max"}), "range"),
    ] {
        match Gptq::parse(settings) {
            Err(Error::Value { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{other:?}"),
        }
    }
    let error = Gptq::parse(json!({"groups": "dynamic"})).unwrap_err();
    assert_eq!(error.to_string(), "`quantize.gptq` needs `order: natural` with `groups: dynamic`");
    assert!(!Gptq::parse(json!({"damp": 0.1})).unwrap().needs().held_out);
    assert!(Gptq::parse(json!({"damp": 0.1, "range": "auto"})).unwrap().needs().held_out);
}
