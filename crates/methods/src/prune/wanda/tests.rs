use brevity_model::{Expr, Floats};
use serde_json::json;

use super::*;
use crate::samples::{noise, sizes};

fn site() -> Site {
    "blocks.0.mlp.up".parse().unwrap()
}

fn layer(shape: [usize; 2], w: &[f32]) -> Linear<Weight> {
    Linear { weight: Weight::float(shape, Floats::F32(w.to_vec())), bias: None }
}

fn prune(settings: Value, layer: &mut Linear<Weight>, seen: &Seen) -> Vec<String> {
    let site = site();
    let mut cx = Cx::with(&site, 0, seen);
    Wanda::parse(settings).unwrap().rewrite(layer, &mut cx).unwrap();
    cx.notes
}

fn mask(layer: &Linear<Weight>) -> Vec<bool> {
    layer.weight.as_leaf().unwrap().mask.as_ref().unwrap().to_bools()
}

#[test]
fn a_small_weight_of_a_large_input_outlives_a_large_one_of_a_small_input() {
    // Scores 1·10, 2·1, 3·4, 4·1 and 4·10, 3·1, 2·4, 1·1; two of each row go.
    let mut layer = layer([2, 4], &[1.0, -2.0, 3.0, 4.0, 4.0, 3.0, -2.0, 1.0]);
    prune(json!({}), &mut layer, &sizes(&[10.0, 1.0, 4.0, 1.0]));
    assert_eq!(layer.weight.to_f32(), [1.0, 0.0, 3.0, 0.0, 4.0, 0.0, -2.0, 0.0]);
}

#[test]
fn constant_activations_give_magnitude_by_rows() {
    for (settings, same) in [
        (json!({"sparsity": 0.6}), json!({"sparsity": 0.6, "scope": "row"})),
        (json!({"pattern": "2:4"}), json!({"pattern": "2:4"})),
    ] {
        let mut one = layer([9, 31], &noise(9 * 31, 1));
        let mut other = one.clone();
        prune(settings, &mut one, &sizes(&[0.7; 31]));
        crate::method("prune.magnitude", same).unwrap().rewrite(&mut other, &mut Cx::new(&site(), 0)).unwrap();
        assert_eq!(one, other);
    }
}

#[test]
fn the_weights_of_an_input_that_is_always_zero_go_first() {
    let mut pruned = layer([4, 5], &[1.0; 20].map(|x: f32| x * 3.0));
    prune(json!({"sparsity": 0.2}), &mut pruned, &sizes(&[1.0, 1.0, 0.0, 1.0, 1.0]));
    assert_eq!(mask(&pruned), [true, true, false, true, true].repeat(4));
}

#[test]
fn scaling_an_input_against_its_column_leaves_the_mask_alone() {
    let (w, a) = (noise(12 * 40, 3), noise(40, 4).iter().map(|&a| f64::from(a).abs() + 0.1).collect::<Vec<f64>>());
    let scale = |j: usize| [1.0f32, 0.25, 8.0, 2.0][j % 4];
    let scaled: Vec<f32> = w.iter().enumerate().map(|(n, w)| w / scale(n % 40)).collect();
    let grown: Vec<f64> = a.iter().enumerate().map(|(j, a)| a * f64::from(scale(j))).collect();
    for settings in [json!({"sparsity": 0.37}), json!({"pattern": "3:5"})] {
        let (mut one, mut other) = (layer([12, 40], &w), layer([12, 40], &scaled));
        prune(settings.clone(), &mut one, &sizes(&a));
        prune(settings, &mut other, &sizes(&grown));
        assert_eq!(mask(&one), mask(&other));
    }
}

#[test]
fn each_row_loses_exactly_its_share_and_ties_go_in_order() {
    // floor(0.5 * 7) = 3.
    let mut tied = layer([2, 7], &[2.0; 14]);
    prune(json!({"sparsity": 0.5}), &mut tied, &sizes(&[1.0; 7]));
    assert_eq!(mask(&tied), [false, false, false, true, true, true, true].repeat(2));
    let mut zero = layer([2, 7], &[0.0; 14]);
    let before = zero.clone();
    prune(json!({"sparsity": 0}), &mut zero, &sizes(&[1.0; 7]));
    assert_eq!(zero, before, "nothing changes at sparsity zero");
}

#[test]
fn two_of_four_go_and_the_tail_stays_dense() {
    let mut layer = layer([1, 10], &[1.0, -4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0, 0.1, 0.2]);
    let mut a = [1.0; 10];
    (a[0], a[7]) = (9.0, 0.5);
    let notes = prune(json!({"pattern": "2:4"}), &mut layer, &sizes(&a));
    assert_eq!(layer.weight.to_f32(), [1.0, -4.0, 0.0, 0.0, 0.0, 5.0, 5.0, 0.0, 0.1, 0.2]);
    assert_eq!(notes, ["the last 2 of 10 inputs stay dense"]);
}

#[test]
fn entries_that_are_gone_stay_gone_and_count() {
    let mut pruned = layer([1, 4], &[9.0, 1.0, 2.0, 3.0]);
    let Expr::Leaf(leaf) = &mut pruned.weight else { unreachable!() };
    leaf.mask = Some(Mask::from_bools([1, 4], &[false, true, true, true]));
    prune(json!({"sparsity": 0.5}), &mut pruned, &sizes(&[9.0, 9.0, 1.0, 1.0]));
    assert_eq!(pruned.weight.to_f32(), [0.0, 1.0, 0.0, 3.0]);
}

#[test]
fn both_folds_and_the_gram_matrix_count_as_moments() {
    let x = noise(20 * 6, 1);
    let mut whole = crate::samples::fold(6, &x, &x);
    let parts = crate::samples::seen(6, &x, &x);
    let right = mean_squares(&Seen { fit: whole.clone(), ..Seen::default() }, 6).unwrap();
    whole.sum_sq.clear();
    assert_eq!(mean_squares(&Seen { fit: whole, ..Seen::default() }, 6).unwrap(), right);
    let parts = mean_squares(&parts, 6).unwrap();
    assert!(parts.iter().zip(&right).all(|(a, b)| (a - b).abs() < 1e-6));
    assert_eq!(mean_squares(&Seen::nothing(), 6), None);
}

#[test]
fn a_layer_that_saw_nothing_is_pruned_by_magnitude_and_says_so() {
    let mut layer = layer([1, 4], &[4.0, 1.0, 2.0, 3.0]);
    let notes = prune(json!({}), &mut layer, &Seen::nothing());
    assert_eq!(layer.weight.to_f32(), [4.0, 0.0, 0.0, 3.0]);
    assert_eq!(notes, ["pruned by magnitude: nothing was seen of its inputs"]);
}

#[test]
fn a_layer_that_only_ever_saw_zeros_is_pruned_by_magnitude_and_says_so() {
    let mut layer = layer([1, 4], &[4.0, 1.0, 2.0, 3.0]);
    let notes = prune(json!({}), &mut layer, &sizes(&[0.0; 4]));
    assert_eq!(layer.weight.to_f32(), [4.0, 0.0, 0.0, 3.0]);
    assert_eq!(notes, ["pruned by magnitude: its inputs were always zero"]);
}

#[test]
fn settings_that_make_no_sense_say_so() {
    let parse = |settings| Wanda::parse(settings).unwrap_err().to_string();
    assert_eq!(parse(json!({"sparsity": 1})), "`prune.wanda` cannot take `sparsity: 1.0`");
    assert_eq!(parse(json!({"pattern": "4:4"})), "`prune.wanda` cannot take `pattern: \"4:4\"`");
    assert_eq!(parse(json!({"pattern": "2:4", "sparsity": 0.5})), "`prune.wanda` needs either `pattern` or `sparsity`");
    assert_eq!(
        parse(json!({"pattern": "2:4", "allocation": "owl"})),
        "`prune.wanda` needs either `pattern`, or `sparsity` and `allocation`"
    );
    assert_eq!(
        parse(json!({"band": 0.1})),
        "`prune.wanda` needs `allocation: owl` or `allocation: influence` with `band`"
    );
    assert_eq!(parse(json!({"allocation": "owl", "band": 0})), "`prune.wanda` cannot take `band: 0.0`");
    assert_eq!(parse(json!({"allocation": "even"})), "`prune.wanda` cannot take `allocation: \"even\"`");
}
