use brevity_model::{Dtype, Floats, Place};
use serde_json::json;

use super::*;
use crate::method;
use crate::method::Cx;
use crate::testing::{layer, noise};

fn size(rows: usize, columns: usize) -> Size {
    Size { shape: [rows, columns], held: (rows * columns) as u64, beside: 0 }
}

fn site(block: usize, role: &str) -> Site {
    format!("blocks.{block}.{role}").parse().unwrap()
}

#[test]
fn the_rank_for_an_energy_is_the_smallest_that_holds_it() {
    assert_eq!(rank_for(0.5, &[4.0, 3.0, 2.0, 1.0]), 2);
    assert_eq!(rank_for(0.4, &[4.0, 3.0, 2.0, 1.0]), 1);
    assert_eq!(rank_for(1.0, &[4.0, 3.0, 2.0, 1.0]), 4);
    assert_eq!(rank_for(0.9, &[0.0, 0.0]), 1);
    assert_eq!(rank_for(0.9, &[]), 1);
}

#[test]
fn a_share_of_the_parameters_is_never_exceeded_where_a_rank_can_keep_it() {
    for (rows, columns, ratio, multiple, rank) in [
        (64, 64, 0.5, 8, Some(16)),
        (64, 64, 0.34, 1, Some(10)),
        (37, 53, 0.8, 1, Some(17)), // ⌊0.8 * 37 * 53 / 90⌋
        (37, 53, 0.8, 8, Some(16)),
        (64, 64, 0.001, 8, Some(1)),
        (64, 64, 1.0, 8, None),
        (1, 64, 0.5, 8, None),
        (0, 64, 0.5, 8, None),
    ] {
        assert_eq!(size(rows, columns).of_share(ratio, multiple), rank, "{rows} {columns} {ratio}");
    }
    // Of 2048 numbers 64 are for the bias, which leaves 15 ranks of 128.
    assert_eq!(Size { beside: 64, ..size(64, 64) }.of_share(0.5, 1), Some(15));
    assert_eq!(Size { beside: 64, ..size(64, 64) }.most(), 31);
    assert_eq!(Size { beside: 65, ..size(64, 64) }.most(), 31);
    assert_eq!(Size { beside: 128, ..size(64, 64) }.most(), 30);
}

/// Two matrices in each of three blocks, of more and more rank.
fn layers() -> Vec<(Site, Linear<Weight>)> {
    let mut all = Vec::new();
    for block in 0..3 {
        for (role, rows) in [("attn.q", 48), ("mlp.up", 96)] {
            let rank = 4 + 16 * block;
            let (a, b) = (noise(rows * rank, block as u64), noise(rank * 48, 7));
            let w =
                (0..rows * 48).map(|at| (0..rank).map(|k| a[at / 48 * rank + k] * b[k * 48 + at % 48]).sum::<f32>());
            let w: Vec<f32> = w.zip(noise(rows * 48, 9)).map(|(w, noise)| w + 0.05 * noise).collect();
            let weight = Weight::float([rows, 48], Floats::from_f32(w, Dtype::F32));
            all.push((site(block, role), Linear { weight, bias: None }));
        }
    }
    all
}

/// After a survey in which blocks have these influences and changes of the coding rate.
fn surveyed(name: &str, settings: Value, influence: [f64; 3], rate: [f64; 3]) -> Box<dyn LinearMethod> {
    let method = method(name, settings).unwrap();
    assert!(method.must_survey_to_predict());
    let mut survey = method.survey().unwrap();
    for (site, layer) in layers() {
        let Place::Block(n) = site.place else { unreachable!() };
        let (influence, coding_rate) = (Some(influence[n as usize]), Some(rate[n as usize]));
        survey.look(&site, &layer, &Seen { influence, coding_rate, ..Seen::default() }).unwrap();
    }
    assert!(!survey.next_pass());
    let method = survey.finish().unwrap();
    assert!(!method.must_survey_to_predict() && method.survey().is_none(), "it has learned what it needs");
    method
}

/// Numbers that each layer is held in afterwards, as predicted, which is what comes out.
fn numbers(method: &dyn LinearMethod) -> Vec<u64> {
    let number = |(site, mut layer): (Site, Linear<Weight>)| {
        let mut form = Linear { weight: Form::of(&layer.weight), bias: None };
        method.predict(&site, &mut form).unwrap();
        method.rewrite(&mut layer, &mut Cx::new(&site, 0)).unwrap();
        assert_eq!(form.weight, Form::of(&layer.weight));
        form.weight.parameters()
    };
    layers().into_iter().map(number).collect()
}

const ALL: u64 = 3 * (48 * 48 + 96 * 48);

#[test]
fn waterfill_spends_the_budget_and_gives_more_rank_to_matrices_that_need_it() {
    for ratio in [0.3, 0.5, 0.8] {
        let settings = json!({"ratio": ratio, "allocation": "waterfill", "multiple": 1});
        let numbers = numbers(&*surveyed("decompose.svd", settings, [0.0; 3], [0.0; 3]));
        let (spent, budget) = (numbers.iter().sum::<u64>(), (ratio * ALL as f64) as u64);
        // Less than one rank of the largest is left over.
        assert!(spent <= budget && spent + 144 > budget, "{ratio}: {spent} of {budget}");
        // With little to spend; with much, what is nearly done is done whole.
        assert!(ratio > 0.3 || numbers[0] < numbers[2] && numbers[2] < numbers[4], "{numbers:?}");
    }
}

#[test]
fn waterfill_leaves_less_error_than_the_same_share_of_each() {
    let errors = |method: &dyn LinearMethod| -> f64 {
        let error = |(site, before): (Site, Linear<Weight>)| {
            let mut after = before.clone();
            method.rewrite(&mut after, &mut Cx::new(&site, 0)).unwrap();
            let (w, v) = (before.weight.to_f32(), after.weight.to_f32());
            let gone: f64 = w.iter().zip(v).map(|(w, v)| f64::from(w - v).powi(2)).sum();
            gone / w.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
        };
        layers().into_iter().map(error).sum()
    };
    let uniform = method("decompose.svd", json!({"ratio": 0.5, "multiple": 1})).unwrap();
    let settings = json!({"ratio": 0.5, "allocation": "waterfill", "multiple": 1});
    let waterfill = surveyed("decompose.svd", settings, [0.0; 3], [0.0; 3]);
    assert!(errors(&*waterfill) < 0.8 * errors(&*uniform));
}

#[test]
fn blocks_that_change_more_keep_more_and_the_budget_is_kept() {
    let (more, less) = ([0.2, 0.1, 0.15], [0.15, 0.1, 0.2]);
    for (name, influence, rate) in [("influence", more, less), ("coding_rate", less, more)] {
        let settings = json!({"ratio": 0.5, "allocation": name, "band": 0.2, "multiple": 1});
        let numbers = numbers(&*surveyed("decompose.svd", settings, influence, rate));
        let spent: u64 = numbers.iter().sum();
        assert!(spent <= ALL / 2 && spent + 6 * 144 > ALL / 2, "{spent}");
        assert!(numbers[0] > numbers[4] && numbers[4] > numbers[2], "{numbers:?}");
        assert!(numbers.iter().step_by(2).all(|&n| n as f64 > 0.28 * 48.0 * 48.0 && (n as f64) < 0.7 * 48.0 * 48.0));
    }
}

#[test]
fn what_stays_whole_says_why() {
    let settings = json!({"ratio": 0.95, "allocation": "waterfill"});
    let method = surveyed("decompose.svd", settings, [0.0; 3], [0.0; 3]);
    let mut stays = 0;
    for (site, mut layer) in layers() {
        let mut cx = Cx::new(&site, 0);
        method.rewrite(&mut layer, &mut cx).unwrap();
        if layer.weight.as_leaf().is_some() {
            assert_eq!(cx.notes, ["stays dense: that is its part of what all matrices may hold"]);
            stays += 1;
        }
    }
    assert!(stays > 0 && stays < 6, "{stays}");
}

#[test]
fn equal_blocks_share_equally() {
    let settings = json!({"ratio": 0.5, "allocation": "influence", "multiple": 1});
    let spread = numbers(&*surveyed("decompose.svd", settings, [0.1; 3], [0.0; 3]));
    let same = numbers(&*method("decompose.svd", json!({"ratio": 0.5, "multiple": 1})).unwrap());
    assert_eq!(spread, same);
}

#[test]
fn a_layer_that_the_survey_did_not_see_is_refused() {
    let settings = json!({"ratio": 0.5, "allocation": "waterfill"});
    let unready = method("decompose.svd", settings.clone()).unwrap();
    let other = site(7, "attn.q");
    let form = || Linear { weight: Form::of(&layer([48, 48], 1).weight), bias: None };
    let error = unready.predict(&other, &mut form()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`decompose.svd` must look at all layers before `blocks.7.attn.q` can be rewritten or its size predicted"
    );
    let ready = surveyed("decompose.svd", settings, [0.0; 3], [0.0; 3]);
    let error = ready.predict(&other, &mut form()).unwrap_err();
    assert_eq!(error.to_string(), "`blocks.7.attn.q` is not the layer that `decompose.svd` looked at before");
}

#[test]
fn a_layer_shown_twice_is_refused() {
    let method = method("decompose.svd", json!({"allocation": "waterfill"})).unwrap();
    let mut survey = method.survey().unwrap();
    survey.look(&site(0, "attn.q"), &layer([8, 8], 1), &Seen::nothing()).unwrap();
    assert!(survey.look(&site(0, "attn.q"), &layer([8, 8], 1), &Seen::nothing()).is_err());
}
