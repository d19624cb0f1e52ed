use brevity_model::Floats;
use serde_json::json;

use super::*;
use crate::method;
use crate::samples::seen;
use crate::testing::{layer, related};

fn site() -> Site {
    "blocks.0.attn.q".parse().unwrap()
}

fn decompose(name: &str, settings: Value, layer: &Linear<Weight>, seen: &Seen) -> (Linear<Weight>, Vec<String>) {
    let (site, mut layer) = (site(), layer.clone());
    let mut cx = Cx::with(&site, 0, seen);
    method(name, settings).unwrap().rewrite(&mut layer, &mut cx).unwrap();
    (layer, cx.notes)
}

#[test]
fn a_diagonal_keeps_what_is_largest_after_scaling() {
    // Mean magnitudes 16, 1 and 1: with the square root 1 counts as 4, and is kept before 3.
    let w = Linear {
        weight: Weight::float([3, 3], Floats::F32(vec![1.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 2.0])),
        bias: None,
    };
    let seen = seen(3, &[16.0, 1.0, -1.0, -16.0, 1.0, 1.0, 16.0, -1.0, 1.0, -16.0, -1.0, 1.0], &[0.0; 12]);
    let kept =
        |alpha: f64| decompose("decompose.asvd", json!({"rank": 1, "alpha": alpha}), &w, &seen).0.weight.to_f32();
    let close = |a: Vec<f32>, b: [f32; 9]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(close(kept(0.5), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    assert!(close(kept(0.25), [0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0]));
}

#[test]
fn without_the_inputs_it_is_svd() {
    let (w, x) = (layer([24, 40], 3), related(200, 40, 1));
    let seen = seen(40, &x, &x);
    let (ours, _) = decompose("decompose.asvd", json!({"rank": 6, "alpha": 0.0}), &w, &seen);
    assert_eq!(ours, decompose("decompose.svd", json!({"rank": 6}), &w, &seen).0);
}

#[test]
fn larger_inputs_all_over_change_nothing() {
    let (w, x) = (layer([24, 40], 3), related(200, 40, 1));
    let larger: Vec<f32> = x.iter().map(|x| 100.0 * x).collect();
    let [a, b] = [&x, &larger].map(|x| decompose("decompose.asvd", json!({"rank": 6}), &w, &seen(40, x, x)).0);
    assert!(a.weight.to_f32().iter().zip(b.weight.to_f32()).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn inputs_that_were_always_zero_do_no_harm() {
    let (w, mut x) = (layer([24, 40], 3), related(200, 40, 1));
    x.chunks_mut(40).for_each(|x| x[..8].fill(0.0));
    let (after, _) = decompose("decompose.asvd", json!({"rank": 12}), &w, &seen(40, &x, &x));
    assert!(after.weight.to_f32().iter().all(|w| w.is_finite() && w.abs() < 10.0));
    let nothing = vec![0.0; 400];
    let (after, notes) = decompose("decompose.asvd", json!({"rank": 12}), &w, &seen(40, &nothing, &nothing));
    assert_eq!(notes, ["its inputs were always zero, so that its weights alone decide", "rank 12 of 24"]);
    assert_eq!(after, decompose("decompose.svd", json!({"rank": 12}), &w, &Seen::nothing()).0);
}

#[test]
fn what_it_cannot_take_or_did_not_see_is_told() {
    for alpha in [-0.5, -1e-9] {
        let error = Asvd::parse(json!({ "alpha": alpha })).unwrap_err();
        assert!(error.to_string().starts_with("`decompose.asvd` cannot take `alpha: -"), "{error}");
    }
    let mut w = layer([8, 8], 1);
    let error = Asvd::parse(json!({"rank": 2})).unwrap().rewrite(&mut w, &mut Cx::new(&site(), 0)).unwrap_err();
    assert_eq!(error.to_string(), "`decompose.asvd` needs to see its inputs to rewrite `blocks.0.attn.q`");
}
