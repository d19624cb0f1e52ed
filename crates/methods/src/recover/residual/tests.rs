use brevity_model::Mask;

use super::*;
use crate::samples::{fold, noise, outputs};
use crate::seen::{Fold, Gap, Seen};

const M: usize = 6;
const N: usize = 8;
const SAMPLES: usize = 400;

fn site() -> Site {
    "blocks.1.mlp.down".parse().unwrap()
}

fn float(shape: [usize; 2], values: &[f32]) -> Weight {
    Weight::float(shape, Floats::F32(values.to_vec()))
}

fn layer(w: &[f32]) -> Linear<Weight> {
    Linear { weight: float([M, N], w), bias: None }
}

/// Inputs `z` `[samples, n]` beside gaps `e` `[samples, m]`.
fn fold_of(n: usize, m: usize, z: &[f32], e: &[f32]) -> Fold {
    let mut gap = Gap::new([m, n]);
    gap.add(e, z);
    Fold { gap: Some(gap), ..fold(n, z, z) }
}

/// The last quarter is held out.
fn seen_of(n: usize, m: usize, z: &[f32], e: &[f32]) -> Seen {
    let at = z.len() / n / 4 * 3;
    let fit = fold_of(n, m, &z[..at * n], &e[..at * m]);
    Seen { fit, held_out: fold_of(n, m, &z[at * n..], &e[at * m..]), ..Seen::default() }
}

fn refit(settings: Value, layer: &mut Linear<Weight>, before: &Linear<Weight>, seen: &Seen) -> Vec<String> {
    let site = site();
    let mut cx = Cx::with(&site, 0, seen).of(before);
    Residual::parse(settings).unwrap().rewrite(layer, &mut cx).unwrap();
    cx.notes
}

fn singles(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn close(a: &[f32], b: &[f32], within: f32) {
    assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= within), "{a:?} {b:?}");
}

/// `a + b`.
fn added(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

#[test]
fn one_input_by_hand() {
    // z = 1, 2 and e = 1, 2: D = 5, H = 5. Without λ the change is 1; at λ = 1 it is 5 / (5 + 5).
    let seen = Seen { fit: fold_of(1, 1, &[1.0, 2.0], &[1.0, 2.0]), ..Seen::default() };
    for (lambda, change) in [(0.0, 1.0), (1.0, 0.5), (4.0, 0.2)] {
        let mut one = Linear { weight: float([1, 1], &[3.0]), bias: None };
        let before = one.clone();
        refit(json!({ "lambda": lambda }), &mut one, &before, &seen);
        close(&one.weight.to_f32(), &[3.0 + change], 1e-6);
    }
}

#[test]
fn what_the_inputs_can_say_of_the_gap_is_closed() {
    let (w, a, z) = (noise(M * N, 1), noise(M * N, 2), noise(SAMPLES * N, 3));
    let seen = seen_of(N, M, &z, &singles(&outputs(N, &z, &a)));
    let mut now = layer(&w);
    let notes = refit(json!({"lambda": 0.0}), &mut now, &layer(&w), &seen);
    close(&now.weight.to_f32(), &added(&w, &a), 1e-4);
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn the_stream_of_the_original_model_and_a_great_lambda_change_nothing() {
    let (w, z) = (noise(M * N, 1), noise(SAMPLES * N, 3));
    let mut now = layer(&w);
    let notes = refit(Value::Null, &mut now, &layer(&w), &seen_of(N, M, &z, &vec![0.0; SAMPLES * M]));
    assert_eq!(notes, ["not refitted: the residual stream is that of the original model"]);
    assert_eq!(now, layer(&w));
    let seen = seen_of(N, M, &z, &singles(&outputs(N, &z, &noise(M * N, 2))));
    refit(json!({"lambda": 1e9}), &mut now, &layer(&w), &seen);
    close(&now.weight.to_f32(), &w, 1e-6);
}

#[test]
fn a_bias_takes_up_the_mean_if_there_is_one_or_one_is_asked_for() {
    let (w, a, z) = (noise(M * N, 1), noise(M * N, 2), noise(SAMPLES * N, 3));
    let z: Vec<f32> = z.iter().map(|z| z + 0.5).collect();
    let c = noise(M, 4);
    let e: Vec<f32> = outputs(N, &z, &a).iter().enumerate().map(|(at, e)| *e as f32 + c[at % M]).collect();
    let seen = seen_of(N, M, &z, &e);
    let b = noise(M, 5);
    for (given, centre) in [(true, None), (false, Some(true)), (true, Some(false)), (false, None)] {
        let mut now = layer(&w);
        now.bias = given.then(|| float([1, M], &b));
        let before = now.clone();
        let mut predicted = Linear { weight: Form::of(&now.weight), bias: now.bias.as_ref().map(Form::of) };
        let method = Residual { lambda: Damp::Times(0.0), centre };
        method.predict(&site(), &mut predicted).unwrap();
        refit(method.settings(), &mut now, &before, &seen);
        assert_eq!(predicted.bias, now.bias.as_ref().map(Form::of));
        if given && centre == Some(false) {
            assert_eq!(now.bias, before.bias);
        } else if let Some(bias) = &now.bias {
            close(&now.weight.to_f32(), &added(&w, &a), 1e-3);
            close(&bias.to_f32(), &if given { added(&b, &c) } else { c.clone() }, 1e-3);
        }
    }
}

#[test]
fn on_samples_held_out_it_is_never_worse() {
    for seed in 0..24 {
        // Few samples of a gap that the inputs hardly know of: it must know when to leave the matrix alone.
        let samples = [24, 60, 400][seed as usize % 3];
        let (w, a, z) = (noise(M * N, seed), noise(M * N, seed + 50), noise(samples * N, seed + 100));
        let (known, e) = (outputs(N, &z, &a), noise(samples * M, seed + 150));
        let share = [0.0, 0.05, 0.5][seed as usize / 3 % 3];
        let e: Vec<f32> = known.iter().zip(&e).map(|(known, e)| share * *known as f32 + e).collect();
        let seen = seen_of(N, M, &z, &e);
        let mut now = layer(&w);
        now.weight = Weight::float([M, N], Floats::from_f32(w.clone(), Dtype::Bf16));
        let before = now.clone();
        refit(json!({"lambda": "auto"}), &mut now, &before, &seen);
        let at = samples / 4 * 3;
        let change: Vec<f32> =
            now.weight.to_f32().iter().zip(before.weight.to_f32()).map(|(now, before)| now - before).collect();
        let given = outputs(N, &z[at * N..], &change);
        let squares = |given: &[f64]| -> f64 {
            e[at * M..].iter().zip(given).map(|(e, given)| (f64::from(*e) - given).powi(2)).sum()
        };
        let (left, was) = (squares(&given), squares(&vec![0.0; given.len()]));
        assert!(left <= was * (1.0 + 1e-6), "{seed}: {left} {was}");
        assert_eq!(left < was, now != before, "{seed}");
    }
}

#[test]
fn steps_between_the_look_and_this_one_are_taken_into_account() {
    let (w, a, z) = (noise(M * N, 1), noise(M * N, 2), noise(SAMPLES * N, 3));
    let seen = seen_of(N, M, &z, &singles(&outputs(N, &z, &a)));
    let mut now = layer(&added(&w, &noise(M * N, 9)));
    refit(json!({"lambda": 0.0}), &mut now, &layer(&w), &seen);
    close(&now.weight.to_f32(), &added(&w, &a), 1e-3);
}

#[test]
fn of_a_product_the_leftmost_factor_is_refitted() {
    const R: usize = 3;
    let (a, b, z) = (noise(M * R, 1), noise(R * N, 2), noise(SAMPLES * N, 3));
    let change = noise(M * R, 4);
    let inner = singles(&outputs(N, &z, &b));
    let seen = seen_of(N, M, &z, &singles(&outputs(R, &inner, &change)));
    let product = |a: &[f32]| Weight::product(float([M, R], a), float([R, N], &b));
    let mut now = Linear { weight: product(&a), bias: None };
    let before = now.clone();
    refit(json!({"lambda": 0.0}), &mut now, &before, &seen);
    let Expr::Product(factors) = &now.weight else { panic!("it stays a product") };
    close(&factors[0].to_f32(), &added(&a, &change), 1e-3);
    assert_eq!(factors[1], float([R, N], &b));
}

#[test]
fn what_was_removed_stays_removed() {
    let (w, z) = (noise(M * N, 1), noise(SAMPLES * N, 3));
    let seen = seen_of(N, M, &z, &singles(&outputs(N, &z, &noise(M * N, 2))));
    let keep: Vec<bool> = (0..M * N).map(|at| at % 3 > 0).collect();
    let mut leaf = Leaf::float([M, N], Floats::F32(w));
    leaf.mask = Some(Mask::from_bools([M, N], &keep));
    let mut now = Linear { weight: Expr::Leaf(leaf), bias: None };
    let before = now.clone();
    assert!(refit(Value::Null, &mut now, &before, &seen).is_empty());
    assert!(now != before);
    let values = now.weight.to_f32();
    assert!(keep.iter().zip(values).all(|(keep, x)| *keep || x == 0.0));
}

#[test]
fn what_cannot_be_refitted_is_said_by_name() {
    let (w, z) = (noise(M * N, 1), noise(SAMPLES * N, 3));
    let mut now = layer(&w);
    let normed = Seen { fit: fold(N, &z, &z), ..Seen::default() };
    assert_eq!(
        refit(Value::Null, &mut now, &layer(&w), &normed),
        ["not refitted: what it returns is normed before it is the residual stream"]
    );
    let seen = seen_of(N, M, &z, &singles(&outputs(N, &z, &noise(M * N, 2))));
    let mut sum = Linear { weight: Weight::sum(float([M, N], &w), float([M, N], &w)), bias: None };
    let before = sum.clone();
    assert_eq!(refit(Value::Null, &mut sum, &before, &seen), ["not refitted: it is a sum of matrices"]);
    let alone = Seen { held_out: Fold::default(), ..seen };
    assert_eq!(
        refit(Value::Null, &mut now, &layer(&w), &alone),
        ["not refitted: no samples were held out to choose lambda on"]
    );
    assert_eq!(now, layer(&w));
    let site = site();
    let nothing = Seen::nothing();
    let error = Residual::default().rewrite(&mut now, &mut Cx::with(&site, 0, &nothing)).unwrap_err();
    assert!(matches!(error, Error::Unseen { .. }), "{error}");
}

#[test]
fn only_the_last_matrices_of_sublayers_are_touched() {
    let touched = |role| Residual::default().rewrites(&role);
    assert!(touched(Role::O) && touched(Role::Down));
    assert!(![Role::Q, Role::V, Role::Up, Role::Gate, Role::Tokens, Role::Out].into_iter().any(touched));
}
