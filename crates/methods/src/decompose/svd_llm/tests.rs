use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::{matmul_f64, solver_f64};
use brevity_kernels::matmul::Dims;
use brevity_model::{Expr, Floats, Leaf, Mask};
use serde_json::json;

use super::*;
use crate::error::Error;
use crate::method;
use crate::samples;
use crate::testing::{error, fold, layer, noise, related, seen, unrelated};

fn site() -> Site {
    "blocks.0.attn.o".parse().unwrap()
}

fn decompose(name: &str, settings: Value, layer: &Linear<Weight>, seen: &Seen) -> (Linear<Weight>, Vec<String>) {
    let (site, mut layer) = (site(), layer.clone());
    let mut cx = Cx::with(&site, 0, seen);
    method(name, settings).unwrap().rewrite(&mut layer, &mut cx).unwrap();
    (layer, cx.notes)
}

/// What is left of the outputs' squares, as a share of them.
fn relative(seen: &Seen, before: &Linear<Weight>, after: &Linear<Weight>) -> f64 {
    let nothing = Linear {
        weight: Weight::float(before.weight.shape(), Floats::F32(vec![0.0; before.weight.to_f32().len()])),
        bias: None,
    };
    error(seen, before, after) / error(seen, before, &nothing)
}

#[test]
fn independent_inputs_of_one_size_make_it_the_plain_decomposition() {
    for shape in [[24, 40], [40, 24]] {
        let (w, seen) = (layer(shape, 3), unrelated(shape[1]));
        let (ours, _) = decompose("decompose.svd_llm", json!({"rank": 6}), &w, &seen);
        let (plain, _) = decompose("decompose.svd", json!({"rank": 6}), &w, &seen);
        let (a, b) = (ours.weight.to_f32(), plain.weight.to_f32());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{shape:?}");
    }
}

#[test]
fn inputs_of_a_rank_lose_nothing_at_that_rank_though_the_weight_is_full() {
    for shape @ [_, n] in [[32, 48], [60, 36]] {
        // All inputs are sums of five.
        let (mix, parts) = (noise(5 * n, 1), noise(300 * 5, 2));
        let x: Vec<f32> =
            (0..300 * n).map(|at| (0..5).map(|k| parts[at / n * 5 + k] * mix[k * n + at % n]).sum()).collect();
        let (w, seen) = (layer(shape, 3), Seen { fit: fold(n, &x), ..Seen::default() });
        let at = |rank: usize| relative(&seen, &w, &decompose("decompose.svd_llm", json!({"rank": rank}), &w, &seen).0);
        assert!(at(5) < 1e-6 && at(7) < 1e-6, "{} {}", at(5), at(7));
        assert!(at(4) > 1e-4);
        let (plain, _) = decompose("decompose.svd", json!({"rank": 5}), &w, &seen);
        assert!(relative(&seen, &w, &plain) > 0.1, "the weight alone does not tell");
    }
}

#[test]
fn it_never_changes_more_than_methods_that_see_less() {
    for shape @ [_, n] in [[40, 64], [64, 40], [37, 53]] {
        let w = layer(shape, 3);
        let x = related(500, n, 1);
        let seen = samples::seen(n, &x, &x);
        for rank in [1, 5, 12] {
            let [ours, scaled, plain] = ["decompose.svd_llm", "decompose.asvd", "decompose.svd"]
                .map(|name| error(&seen, &w, &decompose(name, json!({"rank": rank}), &w, &seen).0));
            assert!(ours < scaled && scaled < plain, "{shape:?}, {rank}: {ours} {scaled} {plain}");
        }
    }
}

#[test]
fn more_rank_never_changes_more() {
    let (w, seen) = (layer([64, 64], 9), seen(400, 64));
    let errors: Vec<f64> = [1, 4, 8, 16, 31]
        .iter()
        .map(|rank| error(&seen, &w, &decompose("decompose.svd_llm", json!({"rank": rank}), &w, &seen).0))
        .collect();
    assert!(errors.windows(2).all(|e| e[1] < e[0]), "{errors:?}");
}

#[test]
fn fewer_samples_than_inputs_are_told_and_do_no_harm() {
    let n = 64;
    let (w, seen) = (layer([48, n], 3), Seen { fit: fold(n, &related(10, n, 1)), ..Seen::default() });
    let (after, notes) = decompose("decompose.svd_llm", json!({"rank": 16}), &w, &seen);
    assert_eq!(notes, ["only 10 samples were seen of 64 inputs; more would serve it better", "rank 16 of 48"]);
    assert!(relative(&seen, &w, &after) < 1e-6, "ten directions are enough for ten samples");
    // The six that are left over go to the weights: other inputs lose no more than they must.
    let others = Seen { fit: fold(n, &related(200, n, 5)), ..Seen::default() };
    assert!(relative(&others, &w, &after) < 0.9);
}

#[test]
fn inputs_that_were_always_zero_leave_it_to_the_weights() {
    let w = layer([24, 40], 3);
    let seen = Seen { fit: fold(40, &[0.0; 400]), ..Seen::default() };
    let (after, notes) = decompose("decompose.svd_llm", json!({"rank": 6}), &w, &seen);
    assert_eq!(notes, ["its inputs were always zero, so that its weights alone decide", "rank 6 of 24"]);
    assert_eq!(after, decompose("decompose.svd", json!({"rank": 6}), &w, &seen).0);
}

#[test]
fn some_inputs_that_were_always_zero_do_no_harm() {
    for shape @ [_, n] in [[24, 40], [40, 24]] {
        let mut x = related(300, n, 1);
        x.chunks_mut(n).for_each(|x| x[..8].fill(0.0));
        let (w, seen) = (layer(shape, 3), Seen { fit: fold(n, &x), ..Seen::default() });
        let (after, _) = decompose("decompose.svd_llm", json!({"rank": 14}), &w, &seen);
        assert!(after.weight.to_f32().iter().all(|w| w.is_finite() && w.abs() < 10.0));
        assert!(relative(&seen, &w, &after) < 0.05);
    }
}

#[test]
fn inputs_that_were_not_seen_or_not_finite_are_refused() {
    let ours = SvdLlm::parse(json!({"rank": 2})).unwrap();
    let refused = |seen: &Seen| ours.rewrite(&mut layer([8, 8], 1), &mut Cx::with(&site(), 0, seen)).unwrap_err();
    assert_eq!(
        refused(&Seen::nothing()).to_string(),
        "`decompose.svd_llm` needs to see its inputs to rewrite `blocks.0.attn.o`"
    );
    let mut whole = vec![1.0; 64];
    whole[9] = f64::INFINITY;
    let mut bad = Seen { fit: fold(8, &[1.0; 8]), ..Seen::default() };
    bad.fit.gram = Some(Gram::from_f64(8, &whole));
    assert_eq!(
        refused(&bad).to_string(),
        "cannot apply `decompose.svd_llm` to `blocks.0.attn.o`: 1 of its 8 inputs were not finite in calibration"
    );
}

#[test]
fn a_rank_that_saves_nothing_leaves_the_layer_and_says_so() {
    let (w, seen) = (layer([64, 64], 1), seen(100, 64));
    let (after, notes) = decompose("decompose.svd_llm", json!({"rank": 40}), &w, &seen);
    assert_eq!(notes, ["stays dense: a [64, 64] matrix saves nothing above rank 31"]);
    assert_eq!(after, w);
}

#[test]
fn a_lost_mask_is_told() {
    let mut pruned = layer([8, 8], 1);
    let Expr::Leaf(leaf) = &mut pruned.weight else { unreachable!() };
    leaf.mask = Some(Mask::from_bools([8, 8], &[[true, false, true, true]; 16].concat()));
    let (_, notes) = decompose("decompose.svd_llm", json!({"rank": 2}), &pruned, &seen(100, 8));
    assert_eq!(notes, ["the mask over 16 removed entries is lost", "rank 2 of 8"]);
}

#[test]
fn a_product_is_decomposed_anew() {
    let (w, seen) = (layer([64, 64], 5), seen(300, 64));
    let (once, _) = decompose("decompose.svd_llm", json!({"rank": 16}), &w, &seen);
    let (twice, _) = decompose("decompose.svd_llm", json!({"rank": 4}), &once, &seen);
    let (direct, _) = decompose("decompose.svd_llm", json!({"rank": 4}), &w, &seen);
    let (a, b) = (twice.weight.to_f32(), direct.weight.to_f32());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4), "the best of the best is the best");
}

#[test]
fn a_survey_chooses_ranks_by_what_the_inputs_make_of_the_weights() {
    let n = 48;
    let (full, x) = (layer([n, n], 3), related(400, n, 1));
    let mut flat = x.clone();
    flat.chunks_mut(n).for_each(|x| x[4..].fill(0.0));
    let (wide, narrow) =
        (Seen { fit: fold(n, &x), ..Seen::default() }, Seen { fit: fold(n, &flat), ..Seen::default() });
    let method = SvdLlm::parse(json!({"ratio": 0.5, "allocation": "waterfill", "multiple": 1})).unwrap();
    assert!(method.survey_needs().gram);
    let mut survey = LinearMethod::survey(&method).unwrap();
    let other: Site = "blocks.1.attn.o".parse().unwrap();
    survey.look(&site(), &full, &narrow).unwrap();
    survey.look(&other, &full, &wide).unwrap();
    let method = survey.finish().unwrap();
    let rank = |site: &Site| {
        let mut form = Linear { weight: Form::of(&full.weight), bias: None };
        method.predict(site, &mut form).unwrap();
        form.weight.leaves().iter().map(|(_, leaf)| leaf.shape[1]).min().unwrap()
    };
    // Four inputs are all that the first ever sees.
    assert_eq!(rank(&site()), 4);
    assert_eq!(rank(&other), 20);
}

/// `Σ ‖W r - V x‖²`.
fn asymmetric(w: &[f32], v: &[f64], x: &[f32], r: &[f32], [m, n]: [usize; 2]) -> f64 {
    let of = |matrix: &[f64], x: &[f32]| {
        let across: Vec<f64> = (0..m * n).map(|at| matrix[at % m * n + at / m]).collect();
        let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        matmul_f64(Dims { m: x.len() / n, k: n, n: m }, &x, &across)
    };
    let w: Vec<f64> = w.iter().map(|&w| w.into()).collect();
    samples::squared(&of(&w, r), &of(v, x))
}

#[test]
fn aiming_first_leaves_nothing_to_a_refit_of_one_factor() {
    let (shape @ [m, n], rank) = ([24, 32], 8);
    let w = layer(shape, 3);
    let (r, drift) = (related(600, n, 1), related(600, n, 7));
    let x: Vec<f32> = r.iter().zip(&drift).map(|(r, d)| 0.8 * r + 0.2 * d).collect();
    let seen = Seen { fit: samples::fold(n, &x, &r), ..Seen::default() };
    let whole = |layer: &Linear<Weight>| layer.weight.to_f32().iter().map(|&w| f64::from(w)).collect::<Vec<f64>>();
    let (aimed, _) = decompose("recover.retarget", json!({"lambda": 1e-6}), &w, &seen);
    let (aimed, _) = decompose("decompose.svd_llm", json!({"rank": rank}), &aimed, &seen);
    // The other way: decompose, then fit the left factor to what the original returns, `A = Y Zᵀ (Z Zᵀ)⁻¹` for `z = B x`.
    let (plain, _) = decompose("decompose.svd_llm", json!({"rank": rank}), &w, &seen);
    let Expr::Product(ab) = &plain.weight else { panic!("it is a product") };
    let b: Vec<f64> = ab[1].to_f32().iter().map(|&b| b.into()).collect();
    let across: Vec<f64> = (0..rank * n).map(|at| b[at % rank * n + at / rank]).collect();
    let samples = x.len() / n;
    let doubles = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let z = matmul_f64(Dims { m: samples, k: n, n: rank }, &doubles(&x), &across);
    let y = samples::outputs(n, &r, &w.weight.to_f32());
    let columns = |a: &[f64], k: usize| (0..a.len()).map(|at| a[at % samples * k + at / samples]).collect::<Vec<f64>>();
    let gram = matmul_f64(Dims { m: rank, k: samples, n: rank }, &columns(&z, rank), &z);
    let mut a = matmul_f64(Dims { m, k: samples, n: rank }, &columns(&y, m), &z);
    solver_f64(gram, rank).unwrap().solve(&mut a);
    let refitted = matmul_f64(Dims { m, k: rank, n }, &a, &b);
    let error = |v: &[f64]| asymmetric(&w.weight.to_f32(), v, &x, &r, shape);
    let (aimed, refitted, plain) = (error(&whole(&aimed)), error(&refitted), error(&whole(&plain)));
    assert!(aimed < refitted * 1.0001 && refitted < plain, "{aimed} {refitted} {plain}");
}

#[test]
fn settings_that_make_no_sense_say_so() {
    for (settings, wanted) in [
        (json!({"rank": 0}), "`decompose.svd_llm` cannot take `rank: 0`"),
        (json!({"energy": 1.5}), "`decompose.svd_llm` cannot take `energy: 1.5`"),
        (json!({"energy": 0.5, "allocation": "waterfill"}), "`decompose.svd_llm` needs `ratio` with `allocation`"),
    ] {
        assert_eq!(SvdLlm::parse(settings).unwrap_err().to_string(), wanted);
    }
    let coded = brevity_model::Grid {
        bits: 4,
        codes: vec![0; 16],
        scales: vec![1.0; 4],
        zeros: None,
        group: brevity_model::Group::Channel,
        scale_dtype: brevity_model::Dtype::F32,
        levels: None,
    };
    let leaf = Leaf { shape: [4, 4], code: brevity_model::Code::Grid(coded), mask: None };
    let mut layer = Linear { weight: Expr::Leaf(leaf), bias: None };
    let error = SvdLlm::parse(json!({"rank": 1})).unwrap().rewrite(&mut layer, &mut Cx::with(&site(), 0, &seen(10, 4)));
    assert!(matches!(error, Err(Error::Coded { .. })));
}
