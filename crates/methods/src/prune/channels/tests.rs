use std::collections::BTreeMap;

use brevity_model::{Activation, Floats, Linear};

use super::*;
use crate::testing::{fold_with_sums, noise};

const HIDDEN: usize = 5;

fn float(shape: [usize; 2], values: Vec<f32>) -> Weight {
    Weight::float(shape, Floats::F32(values))
}

fn mlp(channels: usize, seed: u64) -> Mlp<Weight> {
    let linear =
        |shape: [usize; 2], seed| Linear { weight: float(shape, noise(shape[0] * shape[1], seed)), bias: None };
    Mlp {
        before: None,
        gate: Some(linear([channels, HIDDEN], seed)),
        up: linear([channels, HIDDEN], seed + 1),
        down: linear([HIDDEN, channels], seed + 2),
        act: Activation::Silu,
        after: None,
        sum: None,
        shortcut: None,
    }
}

/// What the middle of an MLP holds for some inputs.
fn middle(mlp: &Mlp<Weight>, x: &[f32]) -> Vec<f32> {
    let times = |w: &Weight, x: &[f32]| -> Vec<f32> {
        w.to_f32().chunks(HIDDEN).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let silu = |x: f32| x / (1.0 + (-x).exp());
    let gate = &mlp.gate.as_ref().unwrap().weight;
    x.chunks(HIDDEN)
        .flat_map(|x| {
            times(gate, x).into_iter().zip(times(&mlp.up.weight, x)).map(|(g, u)| silu(g) * u).collect::<Vec<_>>()
        })
        .collect()
}

fn output(mlp: &Mlp<Weight>, x: &[f32]) -> Vec<f32> {
    let z = middle(mlp, x);
    let channels = mlp.up.weight.shape()[0];
    let w = mlp.down.weight.to_f32();
    let bias = mlp.down.bias.as_ref().map_or_else(|| vec![0.0; HIDDEN], Weight::to_f32);
    z.chunks(channels)
        .flat_map(|z| {
            let rows = w.chunks(channels).zip(&bias);
            rows.map(|(row, b)| row.iter().zip(z).map(|(w, z)| w * z).sum::<f32>() + b).collect::<Vec<_>>()
        })
        .collect()
}

fn seen(z: &[f32], channels: usize) -> BTreeMap<Tap, Seen> {
    let fit = fold_with_sums(channels, z);
    BTreeMap::from([(Tap::MlpMid, Seen { fit, ..Seen::default() })])
}

fn rewrite(settings: Value, mlp: &mut Mlp<Weight>, seen: &BTreeMap<Tap, Seen>) -> (Vec<String>, Vec<(String, f64)>) {
    let mut cx = BlockCx::new(Place::Block(0), Sizes { attn: 10, mlp: 30 }, 0, seen);
    Channels::parse(settings).unwrap().mlp(mlp, &mut cx).unwrap();
    (cx.notes, cx.figures)
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>();
    let gone = squares(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)));
    gone / squares(&mut a.iter().map(|&a| f64::from(a)))
}

#[test]
fn two_equal_channels_become_one_without_loss() {
    let mut one = mlp(6, 1);
    // Channel 5 computes what channel 2 does, and is read in another way.
    for layer in [one.gate.as_mut().unwrap(), &mut one.up] {
        let mut rows = layer.weight.to_f32();
        rows.copy_within(2 * HIDDEN..3 * HIDDEN, 5 * HIDDEN);
        layer.weight = float([6, HIDDEN], rows);
    }
    let x = noise(300 * HIDDEN, 7);
    let before = output(&one, &x);
    let seen = seen(&middle(&one, &x), 6);
    let settings = json!({"sparsity": 0.17, "score": "leverage", "ridge": 0.0, "multiple": 1});
    let (notes, _) = rewrite(settings, &mut one, &seen);
    assert_eq!(notes, ["5 of 6 channels"]);
    assert!(distance(&before, &output(&one, &x)) < 1e-8);
}

#[test]
fn a_channel_that_is_always_zero_goes_first_and_changes_nothing() {
    let mut one = mlp(5, 2);
    let mut rows = one.up.weight.to_f32();
    rows[3 * HIDDEN..4 * HIDDEN].fill(0.0);
    one.up.weight = float([5, HIDDEN], rows);
    let x = noise(100 * HIDDEN, 8);
    let before = output(&one, &x);
    let seen = seen(&middle(&one, &x), 5);
    for score in ["wanda", "flap", "leverage", "magnitude"] {
        for compensate in ["none", "mean", "least_squares"] {
            let mut other = one.clone();
            let settings = json!({"sparsity": 0.2, "score": score, "compensate": compensate, "multiple": 1});
            rewrite(settings, &mut other, &seen);
            assert_eq!(other.up.weight.shape(), [4, HIDDEN]);
            assert!(distance(&before, &output(&other, &x)) < 1e-5, "{score} {compensate}");
        }
    }
}

#[test]
fn least_squares_are_better_than_a_mean_and_that_is_better_than_nothing() {
    let one = mlp(40, 3);
    let x: Vec<f32> = noise(900 * HIDDEN, 9).iter().map(|x| 2.0 * x + 0.4).collect();
    let before = output(&one, &x);
    let seen = seen(&middle(&one, &x), 40);
    let error = |settings: Value| {
        let mut other = one.clone();
        rewrite(settings, &mut other, &seen);
        distance(&before, &output(&other, &x))
    };
    let none = error(json!({"sparsity": 0.4, "compensate": "none"}));
    let mean = error(json!({"sparsity": 0.4, "compensate": "mean"}));
    let fitted = error(json!({"sparsity": 0.4}));
    let centred = error(json!({"sparsity": 0.4, "centre": true}));
    assert!(mean < none && fitted < mean && centred <= fitted * (1.0 + 1e-6), "{none} {mean} {fitted} {centred}");
}

#[test]
fn a_layer_asked_to_lose_everything_keeps_a_multiple() {
    let mut one = mlp(40, 4);
    let x = noise(200 * HIDDEN, 10);
    let seen = seen(&middle(&one, &x), 40);
    let (notes, _) = rewrite(json!({"sparsity": 0.99}), &mut one, &seen);
    assert_eq!(notes, ["8 of 40 channels"]);
    assert!(Channels::parse(json!({"sparsity": 1.0})).is_err());
}

#[test]
fn prime_widths_and_fewer_tokens_than_channels_are_damped_and_said() {
    let mut one = mlp(37, 5);
    let x = noise(9 * HIDDEN, 11);
    let seen = seen(&middle(&one, &x), 37);
    let (notes, _) = rewrite(json!({"sparsity": 0.3}), &mut one, &seen);
    assert_eq!(one.down.weight.shape(), [HIDDEN, 24]);
    assert!(notes.iter().any(|note| note.contains("9 tokens")), "{notes:?}");
    assert!(one.down.weight.to_f32().iter().all(|x| x.is_finite()));
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    let wrong = |settings| Channels::parse(settings).unwrap_err().to_string();
    assert!(wrong(json!({"compensate": "none", "ridge": 0.1})).contains("least_squares"));
    assert!(wrong(json!({"temperature": 0.1})).contains("allocation: influence"));
    assert!(wrong(json!({"ridge": -1.0})).contains("ridge"));
    assert!(wrong(json!({"multiple": 0})).contains("multiple"));
}
