use brevity_kernels::gram::Gram;
use brevity_model::Expr;
use serde_json::json;

use super::*;
use crate::seen::Fold;
use crate::testing::{error, fold, layer, seen, unrelated};

fn rewritten(name: &str, settings: Value, layer: &Linear<Weight>, seen: &Seen) -> (Linear<Weight>, Vec<String>) {
    let (site, mut layer) = ("blocks.2.mlp.up".parse().unwrap(), layer.clone());
    let mut cx = Cx::with(&site, 0, seen);
    crate::method(name, settings).unwrap().rewrite(&mut layer, &mut cx).unwrap();
    (layer, cx.notes)
}

fn sparse(settings: Value, layer: &Linear<Weight>, seen: &Seen) -> Linear<Weight> {
    rewritten(NAME, settings, layer, seen).0
}

fn flags(layer: &Linear<Weight>) -> Vec<bool> {
    let Expr::Leaf(Leaf { mask: Some(mask), .. }) = &layer.weight else { panic!("there is a mask") };
    mask.to_bools()
}

#[test]
fn removing_nothing_changes_nothing() {
    let before = layer([16, 40], 1);
    assert_eq!(sparse(json!({"sparsity": 0.0}), &before, &seen(100, 40)), before);
    assert_eq!(sparse(json!({"pattern": "30:64"}), &before, &seen(100, 40)), before);
}

#[test]
fn exactly_the_share_is_removed() {
    let before = layer([19, 90], 1);
    let seen = seen(300, 90);
    for share in [0.1f64, 0.5, 0.77] {
        for block in [16, 128] {
            let keep = flags(&sparse(json!({"sparsity": share, "block": block}), &before, &seen));
            let gone = keep.iter().filter(|k| !**k).count();
            assert_eq!(gone, (share * 19.0 * 90.0).floor() as usize, "{share} {block}");
        }
    }
}

#[test]
fn a_pattern_is_exact_in_every_group_and_the_tail_stays_dense() {
    let before = layer([30, 67], 1);
    let (after, notes) = rewritten(NAME, json!({"pattern": "2:4"}), &before, &seen(300, 67));
    assert_eq!(notes, ["the last 3 of 67 inputs stay dense"]);
    for row in flags(&after).chunks(67) {
        let runs = row.chunks_exact(4);
        assert!(runs.remainder().iter().all(|&keep| keep));
        runs.for_each(|run| assert_eq!(run.iter().filter(|keep| !**keep).count(), 2));
    }
}

#[test]
fn inputs_that_have_nothing_in_common_leave_kept_weights_alone() {
    let before = layer([30, 64], 1);
    for settings in [json!({"sparsity": 0.6}), json!({"pattern": "1:4"})] {
        let after = sparse(settings, &before, &unrelated(64));
        let (w, q) = (before.weight.to_f32(), after.weight.to_f32());
        assert!(flags(&after).iter().zip(w.iter().zip(&q)).all(|(keep, (w, q))| *q == if *keep { *w } else { 0.0 }));
    }
}

#[test]
fn what_is_left_does_better_than_after_magnitude_pruning() {
    let before = layer([96, 128], 3);
    let seen = seen(600, 128);
    for (own, plain) in [
        (json!({"sparsity": 0.5}), json!({"sparsity": 0.5})),
        (json!({"sparsity": 0.7, "damp": 0.01}), json!({"sparsity": 0.7})),
        (json!({"pattern": "2:4"}), json!({"pattern": "2:4"})),
    ] {
        let magnitude = error(&seen, &before, &rewritten("prune.magnitude", plain, &before, &seen).0);
        let own = error(&seen, &before, &sparse(own, &before, &seen));
        assert!(own < 0.7 * magnitude, "{own} {magnitude}");
    }
}

#[test]
fn what_an_earlier_step_removed_stays_removed_and_counts() {
    let mut before = layer([40, 64], 3);
    let keep: Vec<bool> = (0..40 * 64).map(|i| i % 5 != 0).collect();
    let Expr::Leaf(leaf) = &mut before.weight else { unreachable!() };
    leaf.mask = Some(Mask::from_bools([40, 64], &keep));
    let seen = seen(300, 64);
    let exact = sparse(json!({"sparsity": 0.1}), &before, &seen);
    assert_eq!(flags(&exact), keep, "more is gone than was asked for");
    for settings in [json!({"sparsity": 0.5}), json!({"sparsity": 0.5, "quantize": {"group": 32}})] {
        let after = sparse(settings, &before, &seen);
        let now = flags(&after);
        assert!(keep.iter().zip(&now).all(|(before, now)| *before || !*now));
        assert_eq!(now.iter().filter(|k| !**k).count(), 40 * 64 / 2);
        assert!(now.iter().zip(after.weight.to_f32()).all(|(keep, x)| *keep || x == 0.0));
    }
}

#[test]
fn without_a_positive_definite_factor_the_smallest_go_and_the_notes_say_so() {
    let n = 16;
    let whole: Vec<f64> = (0..n * n).map(|at| if at / n == at % n { 1.0 } else { 5.0 }).collect();
    let fit = Fold { count: 100, gram: Some(Gram::from_f64(n, &whole)), ..Fold::default() };
    let seen = Seen { fit, ..Seen::default() };
    let before = layer([8, n], 4);
    let (after, notes) = rewritten(NAME, json!({"sparsity": 0.5}), &before, &seen);
    assert_eq!(notes, ["magnitude only: what was seen of its inputs is not positive definite"]);
    assert_eq!(after, rewritten("prune.magnitude", json!({"sparsity": 0.5}), &before, &seen).0);
}

#[test]
fn a_layer_that_only_ever_saw_zeros_loses_its_smallest_weights_and_says_so() {
    let zeros = || fold(16, &[0.0; 160]);
    let seen = Seen { fit: zeros(), held_out: zeros(), ..Seen::default() };
    let before = layer([8, 16], 4);
    let (after, notes) = rewritten(NAME, json!({"sparsity": 0.5}), &before, &seen);
    assert_eq!(notes, ["its inputs were always zero, so nothing is made up for"]);
    assert_eq!(after, rewritten("prune.magnitude", json!({"sparsity": 0.5}), &before, &seen).0);
}

#[test]
fn fewer_samples_than_inputs_are_told() {
    let (_, notes) = rewritten(NAME, json!({}), &layer([8, 64], 4), &seen(20, 64));
    assert_eq!(notes[0], "only 25 samples were seen of 64 inputs; more would serve it better");
}

#[test]
fn pruning_and_rounding_in_one_pass_beats_one_after_the_other() {
    let before = layer([96, 128], 3);
    let seen = seen(600, 128);
    for rule in [json!({"sparsity": 0.5}), json!({"pattern": "2:4"})] {
        let pruned = sparse(rule.clone(), &before, &seen);
        let (apart, _) = rewritten("quantize.rtn", json!({"group": 32}), &pruned, &seen);
        let mut joint = rule.clone();
        joint["quantize"] = json!({"group": 32});
        let joint = sparse(joint, &before, &seen);
        assert!(matches!(&joint.weight, Expr::Leaf(Leaf { code: Code::Grid(_), mask: Some(_), .. })));
        let (joint, apart) = (error(&seen, &before, &joint), error(&seen, &before, &apart));
        assert!(joint < apart, "{rule}: {joint} {apart}");
    }
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    for (settings, name) in [
        (json!({"sparsity": 1.0}), "sparsity"),
        (json!({"pattern": "4:2"}), "pattern"),
        (json!({"damp": -0.1}), "damp"),
        (json!({"block": 0}), "block"),
        (json!({"quantize": 4}), "quantize"),
        (json!({"quantize": {"bits": 9}}), "bits"),
    ] {
        match SparseGpt::parse(settings) {
            Err(Error::Value { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(SparseGpt::parse(json!({"quantize": {"bit": 4}})), Err(Error::Setting { .. })));
    assert!(matches!(SparseGpt::parse(json!({"pattern": "2:4", "sparsity": 0.1})), Err(Error::Settings { .. })));
}
