use brevity_kernels::linalg::svd_f64;
use brevity_model::{Code, Dtype, Expr, Floats, Leaf, Mask};
use serde_json::json;

use super::*;
use crate::error::Error;

fn site() -> Site {
    "blocks.0.attn.o".parse().unwrap()
}

fn layer(shape: [usize; 2], w: &[f32]) -> Linear<Weight> {
    Linear { weight: Weight::float(shape, Floats::F32(w.to_vec())), bias: None }
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next()).collect()
}

/// A matrix of a rank, by multiplying two random factors.
fn of_rank([rows, columns]: [usize; 2], rank: usize) -> Vec<f32> {
    let (a, b) = (noise(rows * rank, 1), noise(rank * columns, 2));
    let entry = |at: usize| (0..rank).map(|k| a[at / columns * rank + k] * b[k * columns + at % columns]).sum();
    (0..rows * columns).map(entry).collect()
}

fn squares(w: &[f32]) -> f64 {
    w.iter().map(|&x| (x as f64).powi(2)).sum()
}

fn error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum()
}

fn multiply(a: &[f32], b: &[f32], [rows, columns]: [usize; 2], rank: usize) -> Vec<f32> {
    let entry = |at: usize| -> f64 {
        (0..rank).map(|k| a[at / columns * rank + k] as f64 * b[k * columns + at % columns] as f64).sum()
    };
    (0..rows * columns).map(|at| entry(at) as f32).collect()
}

/// The factors of a rank.
fn factors(w: &[f32], shape: [usize; 2], rank: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    Metric::Plain.directions(w, shape, Some(rank), seed).unwrap().factors(w, shape, rank)
}

fn decompose(settings: Value, layer: &mut Linear<Weight>) -> Vec<String> {
    let site = site();
    let mut cx = Cx::new(&site, 0);
    Svd::parse(settings).unwrap().rewrite(layer, &mut cx).unwrap();
    cx.notes
}

fn rank_of(layer: &Linear<Weight>) -> Option<usize> {
    match &layer.weight {
        Expr::Product(ab) => Some(ab[0].shape()[1]),
        _ => None,
    }
}

#[test]
fn the_full_rank_is_exact() {
    for shape in [[30, 20], [20, 30], [1, 5], [4, 4]] {
        let w = noise(shape[0] * shape[1], 3);
        let full = shape[0].min(shape[1]);
        let (a, b) = factors(&w, shape, full, 0);
        assert!((error(&w, &multiply(&a, &b, shape, full)) / squares(&w)).sqrt() < 1e-6);
    }
}

#[test]
fn a_matrix_of_low_rank_is_recovered() {
    let w = of_rank([48, 80], 5);
    let mut layer = layer([48, 80], &w);
    assert_eq!(decompose(json!({"rank": 5}), &mut layer), ["rank 5 of 48"]);
    assert!((error(&w, &layer.weight.to_f32()) / squares(&w)).sqrt() < 1e-6);
}

#[test]
fn the_error_is_the_sum_of_the_squares_left_out() {
    let shape = [40, 64];
    let w = noise(40 * 64, 7);
    let wide: Vec<f64> = w.iter().map(|&x| x as f64).collect();
    let s = svd_f64(&wide, shape).unwrap().s;
    for rank in [1, 8, 20, 39] {
        let (a, b) = factors(&w, shape, rank, 0);
        let left_out: f64 = s[rank..].iter().map(|s| s * s).sum();
        let found = error(&w, &multiply(&a, &b, shape, rank));
        assert!((found / left_out - 1.0).abs() < 1e-6, "{rank}: {found} {left_out}");
    }
}

#[test]
fn large_matrices_take_the_single_and_the_random_path_alike() {
    let shape = [1032, 1040];
    let w = of_rank(shape, 4);
    for rank in [4, 300] {
        let (a, b) = factors(&w, shape, rank, 1);
        let found = (error(&w, &multiply(&a, &b, shape, rank)) / squares(&w)).sqrt();
        assert!(found < 1e-5, "{rank}: {found}");
    }
}

#[test]
fn more_rank_never_gives_more_error() {
    let w = noise(64 * 64, 9);
    let found: Vec<f64> = [1, 4, 8, 16, 31]
        .iter()
        .map(|rank| {
            let mut layer = layer([64, 64], &w);
            decompose(json!({"rank": rank}), &mut layer);
            error(&w, &layer.weight.to_f32())
        })
        .collect();
    assert!(found.windows(2).all(|e| e[1] < e[0]), "{found:?}");
}

#[test]
fn the_rank_follows_from_the_share_of_parameters() {
    // 64 * 64 / 128 = 32 is where nothing is saved; half of it is 16, a third 10, a twentieth 1.
    let rank = |settings: Value| {
        let mut layer = layer([64, 64], &noise(64 * 64, 1));
        decompose(settings, &mut layer);
        rank_of(&layer)
    };
    assert_eq!(rank(json!({})), Some(16));
    assert_eq!(rank(json!({"ratio": 0.34})), Some(8));
    assert_eq!(rank(json!({"ratio": 0.34, "multiple": 1})), Some(10));
    assert_eq!(rank(json!({"ratio": 0.05})), Some(1));
    assert_eq!(rank(json!({"ratio": 0.001})), Some(1));
    assert_eq!(rank(json!({"ratio": 1.0})), None);
    assert_eq!(rank(json!({"rank": 31})), Some(31));
    assert_eq!(rank(json!({"rank": 31, "multiple": 8})), Some(24));
    assert_eq!(rank(json!({"rank": 32})), None);
}

#[test]
fn a_layer_that_would_not_shrink_stays_dense_and_says_so() {
    let mut dense = layer([64, 64], &noise(64 * 64, 1));
    let before = dense.clone();
    let notes = decompose(json!({"rank": 40}), &mut dense);
    assert_eq!(notes, ["stays dense: a [64, 64] matrix saves nothing above rank 31"]);
    assert_eq!(dense, before);
    let mut row = layer([1, 64], &noise(64, 1));
    decompose(json!({"rank": 1}), &mut row);
    assert_eq!(rank_of(&row), None);
    let mut empty = layer([0, 64], &[]);
    decompose(json!({}), &mut empty);
    assert_eq!(rank_of(&empty), None);
}

#[test]
fn energy_looks_at_the_weights_first() {
    let w = of_rank([64, 64], 3);
    let method = Svd::parse(json!({"energy": 0.999999, "multiple": 1})).unwrap();
    assert!(method.must_survey_to_predict());
    let mut dense = layer([64, 64], &w);
    let mut form = Linear { weight: Form::of(&dense.weight), bias: None };
    let error = Error::NeedsSurvey { method: NAME, site: site() };
    assert_eq!(method.predict(&site(), &mut form), Err(error.clone()));
    assert_eq!(method.rewrite(&mut dense, &mut Cx::new(&site(), 0)), Err(error));
    let method = crate::surveyed(Box::new(method), &[(site(), &dense)]).unwrap();
    assert!(!method.must_survey_to_predict());
    method.predict(&site(), &mut form).unwrap();
    method.rewrite(&mut dense, &mut Cx::new(&site(), 0)).unwrap();
    assert_eq!(rank_of(&dense), Some(3));
    assert_eq!(form.weight, Form::of(&dense.weight));
}

#[test]
fn factors_are_stored_as_the_weight_is() {
    let weight = Weight::float([32, 32], Floats::from_f32(noise(1024, 5), Dtype::Bf16));
    let mut layer = Linear { weight, bias: None };
    decompose(json!({"rank": 4}), &mut layer);
    for (_, leaf) in layer.weight.leaves() {
        assert!(matches!(&leaf.code, Code::Float(Floats::Bf16(_))));
    }
}

#[test]
fn a_product_is_decomposed_anew_and_a_lost_mask_is_told() {
    let w = noise(64 * 64, 5);
    let mut twice = layer([64, 64], &w);
    decompose(json!({"rank": 16}), &mut twice);
    decompose(json!({"rank": 4}), &mut twice);
    let mut once = layer([64, 64], &w);
    decompose(json!({"rank": 4}), &mut once);
    assert_eq!(rank_of(&twice), Some(4));
    let (a, b) = (twice.weight.to_f32(), once.weight.to_f32());
    assert!(error(&a, &b) / squares(&b) < 1e-9, "the best of the best is the best");
    let mut pruned = layer([8, 8], &noise(64, 1));
    let Expr::Leaf(leaf) = &mut pruned.weight else { unreachable!() };
    leaf.mask = Some(Mask::from_bools([8, 8], &[[true, false, true, true]; 16].concat()));
    assert_eq!(decompose(json!({"rank": 2}), &mut pruned), ["the mask over 16 removed entries is lost", "rank 2 of 8"]);
}

#[test]
fn coded_and_damaged_weights_are_refused() {
    let svd = Svd::parse(json!({"rank": 1})).unwrap();
    let error = |layer: &mut Linear<Weight>| svd.rewrite(layer, &mut Cx::new(&site(), 0)).unwrap_err().to_string();
    let mut nan = layer([4, 4], &[f32::NAN; 16]);
    assert_eq!(error(&mut nan), "`blocks.0.attn.o` holds 16 NaN and 0 infinite values among 16");
    let codes = brevity_model::Grid {
        bits: 4,
        codes: vec![0; 16],
        scales: vec![1.0; 4],
        zeros: None,
        group: brevity_model::Group::Channel,
        scale_dtype: Dtype::F32,
        levels: None,
    };
    let leaf = Leaf { shape: [4, 4], code: Code::Grid(codes), mask: None };
    let mut coded = Linear { weight: Expr::Leaf(leaf), bias: None };
    assert_eq!(
        error(&mut coded),
        "cannot apply `decompose.svd` to `blocks.0.attn.o`: it is already coded as a 4-bit grid"
    );
}

#[test]
fn settings_that_make_no_sense_say_so() {
    for (settings, wanted) in [
        (json!({"rank": 0}), "`decompose.svd` cannot take `rank: 0`"),
        (json!({"ratio": 1.5}), "`decompose.svd` cannot take `ratio: 1.5`"),
        (json!({"energy": 0.0}), "`decompose.svd` cannot take `energy: 0.0`"),
        (json!({"multiple": 0}), "`decompose.svd` cannot take `multiple: 0`"),
        (json!({"rank": 4, "allocation": "waterfill"}), "`decompose.svd` needs `ratio` with `allocation`"),
        (json!({"ratio": 0.5, "allocation": "most"}), "`decompose.svd` cannot take `allocation: \"most\"`"),
        (json!({"allocation": "influence", "band": 2.0}), "`decompose.svd` cannot take `band: 2.0`"),
        (
            json!({"allocation": "waterfill", "band": 0.1}),
            "`decompose.svd` needs `allocation: influence` or `allocation: coding_rate` with `band`",
        ),
        (json!({"rank": 4, "ratio": 0.5}), "`decompose.svd` needs one of `rank`, `ratio` and `energy`"),
    ] {
        assert_eq!(Svd::parse(settings).unwrap_err().to_string(), wanted);
    }
}
