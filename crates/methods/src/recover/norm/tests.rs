use std::collections::BTreeMap;

use brevity_model::{Activation, Floats, Mlp};

use super::*;
use crate::samples::{fold, noise};
use crate::seen::Seen;
use crate::testing;

const N: usize = 4;
const SAMPLES: usize = 60;

fn vector(values: &[f32]) -> Weight {
    Weight::float([1, values.len()], Floats::F32(values.to_vec()))
}

fn mlp(kind: NormKind, gain: &[f32], bias: Option<&[f32]>) -> Mlp<Weight> {
    let norm = brevity_model::Norm { gain: vector(gain), bias: bias.map(vector), kind, eps: 1e-6 };
    Mlp {
        before: Some(norm),
        gate: None,
        up: testing::layer([8, gain.len()], 1),
        down: testing::layer([gain.len(), 8], 2),
        act: Activation::Silu,
        after: None,
        sum: None,
        shortcut: None,
    }
}

/// What is seen of rows, with products of each channel in both models.
fn dots(n: usize, x: &[f32], r: &[f32]) -> Fold {
    let of = |j: usize| x.iter().zip(r).skip(j).step_by(n).map(|(&x, &r)| f64::from(x) * f64::from(r)).sum();
    let squares = |j: usize| x.iter().skip(j).step_by(n).map(|&x| f64::from(x) * f64::from(x)).sum();
    let (reference_dot, sum_sq) = ((0..n).map(of).collect(), (0..n).map(squares).collect());
    Fold { reference_dot, sum_sq, ..fold(n, x, r) }
}

fn refit(mlp: Mlp<Weight>, fit: Fold, held_out: Fold) -> (brevity_model::Norm<Weight>, Vec<String>) {
    let seen = BTreeMap::from([(Tap::MlpIn, Seen { fit, held_out, ..Seen::default() })]);
    let mut cx = BlockCx::new(Place::Block(0), Sizes::default(), 0, &seen);
    let mut part = Some(mlp);
    Norm.rewrite(Part::Mlp(&mut part), &mut cx).unwrap();
    (part.unwrap().before.unwrap(), cx.notes)
}

#[test]
fn gains_are_those_of_least_squares_by_hand() {
    // Channel 0: x = 1, 2 and r = 2, 4, so twice as much. Channel 1: x = 1, 1 and r = 1, 0, so half.
    let fold = || dots(2, &[1.0, 1.0, 2.0, 1.0], &[2.0, 1.0, 4.0, 0.0]);
    let (norm, notes) = refit(mlp(NormKind::Rms, &[1.0, 4.0], None), fold(), fold());
    assert_eq!((norm.gain.to_f32(), notes), (vec![2.0, 2.0], vec![]));
    // The gain of a norm that adds one is 1 + γ: 2 becomes 4, and 5 becomes 2.5.
    let (norm, _) = refit(mlp(NormKind::RmsPlusOne, &[1.0, 4.0], None), fold(), fold());
    assert_eq!(norm.gain.to_f32(), [3.0, 1.5]);
}

#[test]
fn a_bias_makes_up_for_the_mean() {
    let x = noise(SAMPLES * N, 1);
    let r: Vec<f32> = x.iter().enumerate().map(|(at, x)| (1.0 + (at % N) as f32) * x + 0.5).collect();
    let (norm, _) =
        refit(mlp(NormKind::Layer, &[1.0; N], Some(&[0.25; N])), dots(N, &x, &r), dots(N, &x[..N * 8], &r[..N * 8]));
    for (j, (gain, bias)) in norm.gain.to_f32().into_iter().zip(norm.bias.unwrap().to_f32()).enumerate() {
        let slope = 1.0 + j as f32;
        assert!((gain - slope).abs() < 1e-4 && (bias - (0.25 * slope + 0.5)).abs() < 1e-4, "{j}: {gain} {bias}");
    }
}

#[test]
fn alike_models_and_what_is_worse_on_held_out_samples_change_nothing() {
    let x = noise(SAMPLES * N, 1);
    let given = [1.0, 0.5, 2.0, 3.0];
    let (norm, notes) = refit(mlp(NormKind::Rms, &given, None), dots(N, &x, &x), dots(N, &x[..N * 8], &x[..N * 8]));
    assert_eq!(norm.gain.to_f32(), given);
    assert_eq!(notes, ["mlp.before not refitted: its outputs are those of the original model"]);
    let half: Vec<f32> = x.iter().map(|x| 0.5 * x).collect();
    let double: Vec<f32> = x.iter().map(|x| 2.0 * x).collect();
    let (norm, notes) = refit(mlp(NormKind::Rms, &given, None), dots(N, &x, &half), dots(N, &x, &double));
    assert_eq!(norm.gain.to_f32(), given);
    assert_eq!(notes, ["mlp.before not refitted: it would be no better on held-out samples"]);
}

#[test]
fn channels_that_were_always_zero_stay_and_no_norm_is_no_error() {
    let fold = || dots(2, &[1.0, 0.0, 2.0, 0.0], &[3.0, 0.0, 6.0, 0.0]);
    let (norm, _) = refit(mlp(NormKind::Rms, &[1.0, 7.0], None), fold(), fold());
    assert_eq!(norm.gain.to_f32(), [3.0, 7.0]);
    let bare = Mlp { before: None, ..mlp(NormKind::Rms, &[1.0, 1.0], None) };
    let seen = BTreeMap::new();
    let mut cx = BlockCx::new(Place::Block(0), Sizes::default(), 0, &seen);
    Norm.rewrite(Part::Mlp(&mut Some(bare)), &mut cx).unwrap();
    assert_eq!(cx.notes, ["no norm in front of it to refit"]);
}
