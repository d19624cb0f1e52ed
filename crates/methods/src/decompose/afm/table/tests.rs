use brevity_model::{Floats, Form, Linear, Weight};
use serde_json::{Value, json};

use super::*;
use crate::method::Cx;
use crate::seen::Fold;
use crate::testing::{layer, noise};
use crate::{Error, method};

const TOKENS: usize = 60;
const WIDTH: usize = 8;

fn site() -> Site {
    "embed.tokens".parse().unwrap()
}

/// These counts of the tokens.
fn counted(counts: impl Iterator<Item = f64>) -> Seen {
    let sum: Vec<f64> = counts.collect();
    Seen { fit: Fold { count: sum.iter().sum::<f64>() as u64, sum, ..Fold::default() }, ..Seen::default() }
}

fn decompose(settings: Value, table: &Linear<Weight>, seen: &Seen) -> Linear<Weight> {
    let (site, mut after) = (site(), table.clone());
    let method = method("decompose.afm", settings).unwrap();
    let mut predicted = Linear { weight: Form::of(&table.weight), bias: table.bias.as_ref().map(Form::of) };
    method.predict(&site, &mut predicted).unwrap();
    method.rewrite(&mut after, &mut Cx::with(&site, 0, seen)).unwrap();
    assert_eq!(predicted.weight, Form::of(&after.weight));
    assert_eq!(predicted.bias, after.bias.as_ref().map(Form::of));
    after
}

/// `Σ p ‖row then - row now‖²`, with the bias.
fn error(then: &Linear<Weight>, now: &Linear<Weight>, shares: &[f64]) -> f64 {
    let bias = now.bias.as_ref().map_or_else(|| vec![0.0; WIDTH], Weight::to_f32);
    let (then, now) = (then.weight.to_f32(), now.weight.to_f32());
    let row = |at: usize| {
        let gone = |j: usize| f64::from(then[at * WIDTH + j] - now[at * WIDTH + j] - bias[j]).powi(2);
        (0..WIDTH).map(gone).sum::<f64>()
    };
    shares.iter().enumerate().map(|(at, share)| share * row(at)).sum()
}

fn table() -> Linear<Weight> {
    layer([TOKENS, WIDTH], 3)
}

#[test]
fn the_error_is_the_tail_of_the_spectrum_and_with_even_counts_that_of_ordinary_components() {
    let table = table();
    let values = table.weight.to_f32();
    for counts in [vec![7.0; TOKENS], (0..TOKENS).map(|at| (at % 9) as f64).collect()] {
        let seen = counted(counts.iter().copied());
        let shares = shares(&site(), &seen, TOKENS).unwrap();
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let errors = Rows::new(&site(), &values, WIDTH, &seen, true).unwrap().errors();
        for rank in [1, 3, 6] {
            let now = decompose(json!({ "rank": rank }), &table, &seen);
            let (left, tail) = (error(&table, &now, &shares), errors[rank..].iter().sum::<f64>());
            assert!((left - tail).abs() < 1e-5 * errors[0], "{rank}: {left} {tail}");
        }
    }
    // Without counts to go by, the components are those of the rows about their mean.
    let even = Rows::new(&site(), &values, WIDTH, &counted([1.0; TOKENS].into_iter()), true).unwrap().errors();
    let mean = |j: usize| values.iter().skip(j).step_by(WIDTH).map(|&x| f64::from(x)).sum::<f64>() / TOKENS as f64;
    let squares: f64 = values.iter().enumerate().map(|(at, &x)| (f64::from(x) - mean(at % WIDTH)).powi(2)).sum();
    assert!((even.iter().sum::<f64>() - squares / TOKENS as f64).abs() < 1e-6);
}

#[test]
fn frequent_tokens_are_kept_better() {
    let table = table();
    let often = |at: usize| if at < 6 { 1000.0 } else { 0.0 };
    let of_frequent: Vec<f64> = (0..TOKENS).map(|at| if at < 6 { 1.0 } else { 0.0 }).collect();
    let even = decompose(json!({"rank": 4}), &table, &counted([1.0; TOKENS].into_iter()));
    let counted = decompose(json!({"rank": 4}), &table, &counted((0..TOKENS).map(often)));
    assert!(error(&table, &counted, &of_frequent) < 0.5 * error(&table, &even, &of_frequent));
}

#[test]
fn rows_about_a_mean_that_span_little_are_kept_exactly_and_the_mean_can_be_left_alone() {
    let (a, b, mean) = (noise(TOKENS * 2, 1), noise(2 * WIDTH, 2), noise(WIDTH, 3));
    let row = |at: usize| (0..2).map(|k| a[at / WIDTH * 2 + k] * b[k * WIDTH + at % WIDTH]).sum::<f32>();
    let values = (0..TOKENS * WIDTH).map(|at| row(at) + mean[at % WIDTH]).collect();
    let table = Linear { weight: Weight::float([TOKENS, WIDTH], Floats::F32(values)), bias: None };
    let seen = counted((0..TOKENS).map(|at| at as f64));
    let shares = vec![1.0; TOKENS];
    let now = decompose(json!({"rank": 2}), &table, &seen);
    assert_eq!(now.bias.as_ref().map(Weight::shape), Some([1, WIDTH]));
    assert!(error(&table, &now, &shares) < 1e-9);
    let bare = decompose(json!({"rank": 2, "mean": false}), &table, &seen);
    assert!(bare.bias.is_none() && error(&table, &bare, &shares) > 1e-3);
    assert!(error(&table, &decompose(json!({"rank": 3, "mean": false}), &table, &seen), &shares) < 1e-9);
}

#[test]
fn without_counts_it_says_what_it_was_not_shown() {
    let (site, mut table) = (site(), table());
    let nothing = Seen::nothing();
    let error = method("decompose.afm", json!({"rank": 2}))
        .unwrap()
        .rewrite(&mut table, &mut Cx::with(&site, 0, &nothing))
        .unwrap_err();
    assert!(matches!(error, Error::Unseen { .. }) && error.to_string().contains("how often"), "{error}");
}
