use brevity_model::{Code, Dtype, Expr, Floats, Grid, Group};
use serde_json::json;

use super::*;
use crate::method::surveyed;
use crate::seen::Seen;

fn site(n: usize) -> Site {
    format!("blocks.{n}.mlp.up").parse().unwrap()
}

fn layer(shape: [usize; 2], w: &[f32]) -> Linear<Weight> {
    Linear { weight: Weight::float(shape, Floats::F32(w.to_vec())), bias: None }
}

fn prune(settings: Value, layer: &mut Linear<Weight>) -> Vec<String> {
    let site = site(0);
    let mut cx = Cx::new(&site, 0);
    Magnitude::parse(settings).unwrap().rewrite(layer, &mut cx).unwrap();
    cx.notes
}

#[test]
fn exactly_the_smallest_share_goes_and_ties_go_in_order() {
    // floor(0.5 * 7) = 3: 0.1 and the first two of the four twos.
    let mut layer = layer([1, 7], &[2.0, -2.0, 0.1, 3.0, 2.0, -2.0, 5.0]);
    prune(json!({"sparsity": 0.5}), &mut layer);
    assert_eq!(layer.weight.to_f32(), [0.0, 0.0, 0.0, 3.0, 2.0, -2.0, 5.0]);
}

#[test]
fn a_share_that_should_be_whole_is_not_lost_to_binary_fractions() {
    assert_eq!(share(0.7, 10), 7);
    assert_eq!(share(0.29, 100), 29);
    assert_eq!(share(0.5, 7), 3);
    assert_eq!(share(0.0, 7), 0);
    assert_eq!(share(0.999, 999), 998);
}

#[test]
fn nothing_changes_at_sparsity_zero() {
    let before = layer([2, 2], &[0.0, 1.0, -2.0, 0.5]);
    for scope in ["layer", "row", "global"] {
        let mut after = before.clone();
        prune(json!({"sparsity": 0, "scope": scope}), &mut after);
        assert_eq!(after, before, "{scope}");
    }
}

#[test]
fn rows_lose_the_same_count_when_they_compete_alone() {
    let mut layer = layer([2, 4], &[1.0, 2.0, 3.0, 4.0, 40.0, 30.0, 20.0, 10.0]);
    prune(json!({"sparsity": 0.6, "scope": "row"}), &mut layer);
    assert_eq!(layer.weight.to_f32(), [0.0, 0.0, 3.0, 4.0, 40.0, 30.0, 0.0, 0.0]);
}

#[test]
fn two_of_four_go_and_the_tail_stays_dense() {
    let mut layer = layer([1, 10], &[1.0, -4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0, 0.1, 0.2]);
    let notes = prune(json!({"pattern": "2:4"}), &mut layer);
    assert_eq!(layer.weight.to_f32(), [0.0, -4.0, 3.0, 0.0, 0.0, 0.0, 5.0, 5.0, 0.1, 0.2]);
    assert_eq!(notes, ["the last 2 of 10 inputs stay dense"]);
}

#[test]
fn entries_that_are_gone_stay_gone_and_count() {
    // The mask has removed the largest entry; of the two to go in all, only one more does.
    let mut pruned = layer([1, 4], &[9.0, 1.0, 2.0, 3.0]);
    let Expr::Leaf(leaf) = &mut pruned.weight else { unreachable!() };
    leaf.mask = Some(Mask::from_bools([1, 4], &[false, true, true, true]));
    let before = pruned.clone();
    prune(json!({"sparsity": 0.5}), &mut pruned);
    assert_eq!(pruned.weight.to_f32(), [0.0, 0.0, 2.0, 3.0]);
    let mut pattern = before.clone();
    prune(json!({"pattern": "2:4"}), &mut pattern);
    assert_eq!(pattern.weight.to_f32(), [0.0, 0.0, 2.0, 3.0]);
    let mut less = before;
    prune(json!({"sparsity": 0.25}), &mut less);
    assert_eq!(less.weight.to_f32(), [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn removed_codes_of_a_grid_stand_for_zero() {
    let grid = Grid {
        bits: 4,
        codes: vec![9, 3, 5, 15],
        scales: vec![0.5],
        zeros: Some(vec![4]),
        group: Group::Channel,
        scale_dtype: Dtype::F32,
        levels: None,
    };
    let leaf = Leaf { shape: [1, 4], code: Code::Grid(grid), mask: None };
    let mut layer = Linear { weight: Expr::Leaf(leaf), bias: None };
    prune(json!({"sparsity": 0.5}), &mut layer);
    let Expr::Leaf(Leaf { code: Code::Grid(grid), mask: Some(mask), .. }) = &layer.weight else { panic!() };
    assert_eq!(grid.codes, [9, 4, 4, 15]);
    assert_eq!(mask.to_bools(), [true, false, false, true]);
}

fn global(sparsity: f64, layers: &mut [Linear<Weight>]) {
    let looked: Vec<(Site, &Linear<Weight>)> = layers.iter().enumerate().map(|(n, l)| (site(n), l)).collect();
    let method = Magnitude::parse(json!({"sparsity": sparsity, "scope": "global"})).unwrap();
    let method = surveyed(Box::new(method), &looked).unwrap();
    for (n, layer) in layers.iter_mut().enumerate() {
        method.rewrite(layer, &mut Cx::new(&site(n), 0)).unwrap();
    }
}

#[test]
fn all_layers_compete_when_the_scope_is_global() {
    let mut layers = [layer([1, 4], &[0.1, 0.2, 0.3, 0.4]), layer([1, 4], &[10.0, 20.0, 30.0, 0.15])];
    global(0.5, &mut layers);
    assert_eq!(layers[0].weight.to_f32(), [0.0, 0.0, 0.0, 0.4]);
    assert_eq!(layers[1].weight.to_f32(), [10.0, 20.0, 30.0, 0.0]);
}

#[test]
fn global_ties_go_by_layer_and_then_by_index() {
    let mut layers = [layer([1, 3], &[1.0, -1.0, 0.5]), layer([1, 3], &[1.0, 1.0, 1.0])];
    global(0.7, &mut layers); // floor(4.2) = 4
    assert_eq!(layers[0].weight.to_f32(), [0.0, 0.0, 0.0]);
    assert_eq!(layers[1].weight.to_f32(), [0.0, 1.0, 1.0]);
}

#[test]
fn a_global_cut_equals_sorting_everything() {
    let noise = |seed: u64, n: usize| -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        (0..n).map(|_| next()).collect()
    };
    for sparsity in [0.001, 0.1, 0.5, 0.93, 0.999] {
        let mut layers = [layer([20, 31], &noise(1, 620)), layer([7, 90], &noise(2, 630))];
        let mut sorted: Vec<f32> = layers.iter().flat_map(|l| l.weight.to_f32()).map(f32::abs).collect();
        sorted.sort_by(f32::total_cmp);
        let count = share(sparsity, 1250);
        global(sparsity, &mut layers);
        let mut left: Vec<f32> =
            layers.iter().flat_map(|l| l.weight.to_f32()).map(f32::abs).filter(|&x| x > 0.0).collect();
        left.sort_by(f32::total_cmp);
        assert_eq!(left, sorted[count..], "{sparsity}");
    }
}

#[test]
fn a_global_cut_needs_its_survey() {
    let method = Magnitude::parse(json!({"scope": "global"})).unwrap();
    let error = method.rewrite(&mut layer([1, 2], &[1.0, 2.0]), &mut Cx::new(&site(3), 0)).unwrap_err();
    assert_eq!(error, Error::NeedsSurvey { method: NAME, site: site(3) });
}

#[test]
fn nan_is_refused_by_name_and_count() {
    for settings in [json!({}), json!({"pattern": "2:4"})] {
        let method = Magnitude::parse(settings).unwrap();
        let mut layer = layer([1, 4], &[1.0, f32::NAN, f32::INFINITY, 2.0]);
        let error = method.rewrite(&mut layer, &mut Cx::new(&site(2), 0)).unwrap_err();
        assert_eq!(error.to_string(), "`blocks.2.mlp.up` holds 1 NaN and 1 infinite values among 4");
    }
    let mut survey = Magnitude::parse(json!({"scope": "global"})).unwrap().survey().unwrap();
    assert!(survey.look(&site(1), &layer([1, 1], &[f32::NAN]), &Seen::nothing()).is_err());
}

#[test]
fn the_mask_follows_permuted_inputs() {
    let w: Vec<f32> = (0..24).map(|i| ((i * 7) % 24) as f32 + 1.0).collect();
    let backwards = |w: &[f32]| -> Vec<f32> { w.chunks(6).flat_map(|row| row.iter().rev().copied()).collect() };
    let (mut there, mut back) = (layer([4, 6], &w), layer([4, 6], &backwards(&w)));
    prune(json!({"sparsity": 0.4}), &mut there);
    prune(json!({"sparsity": 0.4}), &mut back);
    assert_eq!(backwards(&there.weight.to_f32()), back.weight.to_f32());
}

#[test]
fn settings_that_make_no_sense_say_so() {
    let parse = |settings| Magnitude::parse(settings).unwrap_err().to_string();
    assert_eq!(parse(json!({"sparsity": 1.0})), "`prune.magnitude` cannot take `sparsity: 1.0`");
    assert_eq!(parse(json!({"pattern": "4:2"})), "`prune.magnitude` cannot take `pattern: \"4:2\"`");
    assert_eq!(
        parse(json!({"pattern": "2:4", "sparsity": 0.5})),
        "`prune.magnitude` needs either `pattern` or `sparsity`"
    );
    assert_eq!(
        parse(json!({"pattern": "2:4", "scope": "row"})),
        "`prune.magnitude` needs either `pattern`, or `sparsity` and `scope`"
    );
}
