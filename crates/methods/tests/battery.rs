//! What every method must do, asked of every entry of the list.
//!
//! A new method is tested by being in [`METHODS`]. `variants` and `ladder` below go by the settings that it has; a method
//! with others names there those that are worth trying, and those that must leave less and less error.

use std::sync::OnceLock;

use brevity_kernels::gram::{Cross, Gram};
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;
use brevity_methods::{Cx, Entry, Error, Fold, Gap, Kind, LinearMethod, METHODS, Parse, Seen, method};
use brevity_model::{Code, Dtype, Expr, Floats, Form, Leaf, LeafForm, Linear, Mask, MaskForm, Site, Weight};
use serde_json::{Value, json};

/// The methods that rewrite one layer at a time; `blocks.rs` asks the others.
fn linear() -> impl Iterator<Item = &'static Entry> {
    METHODS.iter().filter(|entry| matches!(entry.parse, Parse::Linear(_)))
}

fn parse(entry: &Entry, settings: Value) -> Result<Box<dyn LinearMethod>, Error> {
    match entry.parse {
        Parse::Linear(parse) => parse(settings),
        _ => unreachable!("only methods for single layers are asked here"),
    }
}

/// Settings worth trying; the first are the defaults.
fn variants(entry: &Entry) -> Vec<Value> {
    let more = match entry.name {
        "quantize.rtn" => vec![
            json!({"bits": 1, "group": 32}),
            json!({"bits": 2, "group": 32, "symmetric": false, "range": "mse"}),
            json!({"bits": 3, "group": "channel", "scale_dtype": "f16"}),
            json!({"bits": 4, "group": 60, "ragged": "pad"}),
            json!({"bits": 5, "group": 60, "ragged": "channel", "symmetric": false}),
            json!({"bits": 8, "group": "tensor", "range": "mse"}),
        ],
        "quantize.gptq" => vec![
            json!({"bits": 1, "group": 32, "damp": 0.1}),
            json!({"bits": 2, "group": 32, "symmetric": false, "range": "auto"}),
            json!({"bits": 3, "group": "channel", "scale_dtype": "f16", "order": "natural", "groups": "dynamic"}),
            json!({"bits": 4, "group": 60, "ragged": "pad", "order": "natural", "groups": "dynamic", "block": 50}),
            json!({"bits": 5, "group": 60, "ragged": "channel", "symmetric": false, "block": 1}),
            json!({"bits": 8, "group": "tensor", "range": "mse", "damp": 0.01}),
        ],
        "prune.sparsegpt" => vec![
            json!({"sparsity": 0.0}),
            json!({"sparsity": 0.7, "block": 30}),
            json!({"pattern": "2:4", "damp": 0.1}),
            json!({"pattern": "3:5", "quantize": {"bits": 3, "group": 60, "ragged": "pad", "symmetric": false}}),
            json!({"sparsity": 0.5, "quantize": {"bits": 4, "group": 32, "range": "mse"}}),
        ],
        "prune.magnitude" => vec![
            json!({"sparsity": 0.0}),
            json!({"sparsity": 0.33, "scope": "row"}),
            json!({"sparsity": 0.7, "scope": "global"}),
            json!({"sparsity": 0.5, "allocation": "owl", "band": 0.2}),
            json!({"pattern": "2:4"}),
            json!({"pattern": "3:5"}),
        ],
        "prune.wanda" => vec![
            json!({"sparsity": 0.0}),
            json!({"sparsity": 0.33}),
            json!({"sparsity": 0.6, "allocation": "owl"}),
            json!({"sparsity": 0.6, "allocation": "influence", "band": 0.3}),
            json!({"pattern": "2:4"}),
            json!({"pattern": "3:5"}),
        ],
        "recover.retarget" => vec![json!({"lambda": "auto"}), json!({"lambda": 0.1}), json!({"lambda": 1e6})],
        "recover.residual" => {
            vec![json!({"lambda": 0.1}), json!({"centre": true}), json!({"lambda": 1e6, "centre": false})]
        }
        "decompose.svd" => vec![
            json!({"rank": 12}),
            json!({"rank": 1000}),
            json!({"ratio": 0.3, "multiple": 4}),
            json!({"energy": 0.8}),
            json!({"energy": 0.999}),
            json!({"ratio": 0.4, "allocation": "waterfill"}),
            json!({"ratio": 0.4, "allocation": "influence", "band": 0.2}),
            json!({"ratio": 0.4, "allocation": "coding_rate", "multiple": 1}),
        ],
        "decompose.svd_llm" => vec![
            json!({"rank": 12}),
            json!({"rank": 1000}),
            json!({"ratio": 0.3, "multiple": 4}),
            json!({"energy": 0.8}),
            json!({"ratio": 0.4, "allocation": "waterfill"}),
            json!({"ratio": 0.4, "allocation": "influence"}),
        ],
        "decompose.afm" => vec![
            json!({"rank": 12, "mean": false}),
            json!({"rank": 1000}),
            json!({"ratio": 0.3, "multiple": 4}),
            json!({"energy": 0.8}),
            json!({"ratio": 0.4, "allocation": "waterfill", "multiple": 3}),
            json!({"ratio": 0.4, "allocation": "coding_rate"}),
        ],
        "decompose.asvd" => vec![
            json!({"rank": 12, "alpha": 1.0}),
            json!({"rank": 1000}),
            json!({"energy": 0.8, "alpha": 0.0}),
            json!({"ratio": 0.4, "allocation": "waterfill"}),
            json!({"ratio": 0.6, "allocation": "sensitivity", "tokens": 64}),
        ],
        "decompose.mpo" => vec![
            json!({"bond": 5}),
            json!({"bond": 100000}),
            json!({"cores": 1}),
            json!({"cores": 3, "ratio": 0.3}),
            json!({"ratio": 0.4, "refine": 2}),
            json!({"cores": 3, "bond": 9, "refine": 1}),
            json!({"ratio": 0.3, "allocation": "sensitivity"}),
            json!({"cores": 3, "ratio": 0.5, "allocation": "sensitivity", "refine": 1}),
        ],
        _ => {
            let usual = [("sparsity", json!(0.33)), ("pattern", json!("3:5")), ("bits", json!(3)), ("rank", json!(12))];
            usual.into_iter().filter(|(name, _)| has(entry, name)).map(|(name, value)| json!({ name: value })).collect()
        }
    };
    [vec![Value::Null], more].concat()
}

fn has(entry: &Entry, setting: &str) -> bool {
    entry.settings.iter().any(|known| known.name == setting)
}

/// Settings that leave less error one after the other, or why there are none.
fn ladder(entry: &Entry) -> Result<Vec<Value>, &'static str> {
    match entry.kind {
        Kind::Retarget => Err("it moves the weight away from what it was, on purpose"),
        Kind::Correct => Err("it takes nothing away"),
        _ if has(entry, "bits") => Ok((1..=8).map(|bits| json!({"bits": bits, "group": 32})).collect()),
        _ if has(entry, "sparsity") => Ok([0.9, 0.6, 0.3, 0.1].iter().map(|s| json!({"sparsity": s})).collect()),
        _ if has(entry, "bond") => Ok([1, 8, 16, 40].iter().map(|b| json!({"bond": b})).collect()),
        _ if has(entry, "rank") => Ok([1, 8, 16, 40].iter().map(|r| json!({"rank": r})).collect()),
        _ => panic!("say which settings of `{}` leave less and less error", entry.name),
    }
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    // The sum of three is bell-shaped enough to have a tail.
    (0..count).map(|_| next() + next() + next()).collect()
}

fn float(shape: [usize; 2], seed: u64, dtype: Dtype) -> Weight {
    Weight::float(shape, Floats::from_f32(noise(shape[0] * shape[1], seed), dtype))
}

fn masked(shape: [usize; 2], seed: u64) -> Weight {
    let keep: Vec<bool> = (0..shape[0] * shape[1]).map(|i| i % 7 > 2 || i % 3 == 0).collect();
    let leaf = Leaf::float(shape, Floats::from_f32(noise(keep.len(), seed), Dtype::Bf16));
    Expr::Leaf(Leaf { mask: Some(Mask::from_bools(shape, &keep)), ..leaf })
}

/// Layers of all the kinds that a method can meet, by name.
fn layers() -> Vec<(&'static str, Linear<Weight>)> {
    let product = || Weight::product(float([128, 128], 4, Dtype::Bf16), float([128, 256], 5, Dtype::Bf16));
    let weights = vec![
        ("f32", float([96, 128], 1, Dtype::F32)),
        ("bf16", float([128, 256], 2, Dtype::Bf16)),
        ("f16", float([64, 128], 3, Dtype::F16)),
        ("masked", masked([64, 256], 6)),
        ("product", product()),
        ("sum", Weight::sum(product(), masked([128, 256], 7))),
        ("one row", float([1, 128], 8, Dtype::F32)),
        ("empty", float([0, 128], 9, Dtype::F32)),
    ];
    let bias = |weight: &Weight| Some(float([1, weight.shape()[0]], 10, Dtype::F32));
    let biased = weights.into_iter().map(|(name, weight)| (name, Linear { bias: bias(&weight), weight }));
    biased.chain([("no bias", Linear { weight: float([96, 128], 11, Dtype::Bf16), bias: None })]).collect()
}

/// `samples` inputs that have much in common and differ in size.
fn inputs(samples: usize, n: usize, seed: u64) -> Vec<f32> {
    let (own, common) = (noise(samples * n, seed), noise(samples * 4, seed + 100));
    let one = |at: usize| {
        let (t, j) = (at / n, at % n);
        (0.6 * own[at] + common[t * 4 + j % 4] + 0.5 * common[t * 4 + j / 4 % 4]) * (1.0 + (j % 7) as f32 / 3.0) + 0.1
    };
    (0..samples * n).map(one).collect()
}

/// What is seen of such inputs, which have grown and drifted a little.
fn fold(samples: usize, n: usize, seed: u64) -> Fold {
    let (x, drift) = (inputs(samples, n, seed), noise(samples * n, seed + 200));
    let gone: Vec<f32> = drift.iter().zip(&x).map(|(d, x)| 0.1 * d - 0.2 * x).collect();
    let sum = |f: &dyn Fn(usize) -> f32| -> Vec<f64> {
        (0..n).map(|j| (0..samples).map(|t| f64::from(f(t * n + j))).sum()).collect()
    };
    let (mut gram, mut cross) = (Gram::new(n), Cross::new(n));
    gram.add(samples, Rows::F32(&x), Compute::F32);
    cross.add(samples, Rows::F32(&gone), Rows::F32(&x), Compute::F32);
    Fold {
        count: samples as u64,
        gram: Some(gram),
        drift: Some(cross),
        sum: sum(&|at| x[at]),
        sum_sq: sum(&|at| x[at] * x[at]),
        sum_abs: sum(&|at| x[at].abs()),
        reference_sum: sum(&|at| x[at] + gone[at]),
        reference_dot: sum(&|at| x[at] * (x[at] + gone[at])),
        gap: None,
    }
}

/// What the residual stream lacks behind a layer of so many outputs, of which its inputs know a part.
fn gap(samples: usize, [m, n]: [usize; 2], seed: u64) -> Gap {
    let (x, own) = (inputs(samples, n, seed), noise(samples * m, seed + 300));
    let one = |at: usize| {
        let x = &x[at / m * n..];
        0.3 * x[at % m % n] - 0.2 * x[(7 * (at % m) + 1) % n] + 0.1 * own[at] + 0.05
    };
    let e: Vec<f32> = (0..samples * m).map(one).collect();
    let mut gap = Gap::new([m, n]);
    gap.add(&e, &x);
    gap
}

/// What is seen of the inputs of a layer.
fn seen(layer: &Linear<Weight>) -> Seen {
    static FOLDS: [OnceLock<[Fold; 2]>; 2] = [const { OnceLock::new() }; 2];
    let n = layer.weight.shape()[1];
    assert!(n == 128 || n == 256, "all layers have one of two widths");
    let folds = FOLDS[usize::from(n == 256)].get_or_init(|| [fold(300, n, 1), fold(80, n, 2)]);
    let beside =
        |fold: &Fold, samples, seed| Fold { gap: Some(gap(samples, layer.weight.shape(), seed)), ..fold.clone() };
    let influence = Some(n as f64 / 1024.0);
    let coding_rate = Some(n as f64 / 2048.0);
    let (fit, held_out) = (beside(&folds[0], 300, 1), beside(&folds[1], 80, 2));
    Seen { fit, held_out, influence, coding_rate, ..Seen::default() }
}

fn site(n: usize) -> Site {
    format!("blocks.{n}.mlp.up").parse().unwrap()
}

/// The method as it is when all layers have been looked at.
fn ready(entry: &Entry, settings: &Value, layers: &[(&'static str, Linear<Weight>, Seen)]) -> Box<dyn LinearMethod> {
    let method = parse(entry, settings.clone()).unwrap();
    let Some(mut survey) = method.survey() else { return method };
    let mut losses = Vec::new();
    loop {
        for (n, (_, layer, seen)) in layers.iter().enumerate() {
            survey.look(&site(n), layer, seen).unwrap();
            let trials = survey.trials(&site(n), layer, seen).unwrap();
            losses.extend(trials.iter().map(|trial| 1.0 / trial.weight.leaves()[0].1.shape[1] as f64));
        }
        survey.losses(&losses);
        losses.clear();
        if !survey.next_pass() {
            return survey.finish().unwrap();
        }
    }
}

/// Calls `f` on each layer before and after each method with each of its settings.
fn for_all(mut f: impl FnMut(&str, &dyn LinearMethod, &Site, &Linear<Weight>, &Linear<Weight>, &[String])) {
    let with_seen = |(name, layer)| {
        let seen = seen(&layer);
        (name, layer, seen)
    };
    let layers: Vec<_> = layers().into_iter().map(with_seen).collect();
    for entry in linear() {
        for settings in variants(entry) {
            let method = ready(entry, &settings, &layers);
            for (n, (name, before, seen)) in layers.iter().enumerate() {
                let (site, mut after) = (site(n), before.clone());
                let mut cx = Cx::with(&site, 5, seen).of(before);
                let case = format!("{} {settings} on {name}", entry.name);
                method.rewrite(&mut after, &mut cx).unwrap_or_else(|e| panic!("{case}: {e}"));
                f(&case, &*method, &site, before, &after, &cx.notes);
            }
        }
    }
}

/// A form in which only the kind of a mask is left out.
fn without_shares(form: &Form) -> Form {
    form.try_map(&mut |_, leaf| {
        let mask = leaf.mask.map(|_| MaskForm::Free(0.0));
        Ok::<_, Error>(LeafForm { mask, ..leaf.clone() })
    })
    .unwrap()
}

fn forms(layer: &Linear<Weight>) -> Linear<Form> {
    Linear { weight: Form::of(&layer.weight), bias: layer.bias.as_ref().map(Form::of) }
}

#[test]
fn prediction_equals_reality() {
    for_all(|case, method, site, before, after, _| {
        let mut predicted = forms(before);
        method.predict(site, &mut predicted).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(without_shares(&predicted.weight), without_shares(&Form::of(&after.weight)), "{case}");
        assert_eq!(predicted.weight.bits(), Form::of(&after.weight).bits(), "{case}");
        assert_eq!(predicted.bias, after.bias.as_ref().map(Form::of), "{case}");
    });
}

#[test]
fn the_same_seed_gives_the_same_layer_whatever_the_threads() {
    let run = |threads| {
        let mut all = Vec::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| for_all(|_, _, _, _, after, notes| all.push((after.clone(), notes.to_vec()))));
        all
    };
    let one = run(1);
    assert!(one == run(2), "two threads give what one gives");
    assert!(one == run(1), "twice gives what once gives");
}

#[test]
fn a_method_keeps_the_shape_and_gives_finite_weights() {
    for_all(|case, _, _, before, after, _| {
        assert_eq!(before.weight.shape(), after.weight.shape(), "{case}");
        if case.starts_with("recover.bias") {
            assert_eq!(before.weight, after.weight, "{case}");
        } else if !["decompose.afm", "recover.residual"].iter().any(|moves| case.starts_with(moves)) {
            assert_eq!(before.bias, after.bias, "{case}");
        }
        let bias = |layer: &Linear<Weight>| layer.bias.as_ref().map(Weight::to_f32);
        assert!(before.bias.is_none() || bias(before).map(|b| b.len()) == bias(after).map(|b| b.len()), "{case}");
        assert!(bias(after).is_none_or(|bias| bias.iter().all(|x| x.is_finite())), "{case}");
        assert!(after.weight.to_f32().iter().all(|x| x.is_finite()), "{case}");
    });
}

#[test]
fn masks_are_kept_or_their_loss_is_told() {
    for_all(|case, _, _, before, after, notes| {
        let told = notes.iter().any(|note| note.contains("mask"));
        let after = after.weight.leaves();
        for (n, (_, leaf)) in before.weight.leaves().into_iter().enumerate() {
            let Some(mask) = &leaf.mask else { continue };
            if told {
                continue;
            }
            let Some((_, Leaf { mask: Some(now), .. })) = after.get(n) else { panic!("{case}: the mask is gone") };
            let values = after[n].1.to_f32();
            for i in (0..values.len()).filter(|&i| !mask.keeps(i)) {
                assert!(!now.keeps(i) && values[i] == 0.0, "{case}: entry {i} came back");
            }
        }
    });
}

#[test]
fn settings_survive_writing_and_reading() {
    for entry in linear() {
        for settings in variants(entry) {
            let written = parse(entry, settings.clone()).unwrap().settings();
            let text = written.to_string();
            let read = parse(entry, serde_json::from_str(&text).unwrap()).unwrap().settings();
            assert_eq!(read, written, "{} {settings}", entry.name);
            for (name, value) in settings.as_object().into_iter().flatten() {
                assert!(same(&written[name], value), "{} {settings}: {name} became {}", entry.name, written[name]);
            }
            for name in written.as_object().unwrap().keys() {
                assert!(entry.settings.iter().any(|s| s.name == name), "{}: `{name}` is not listed", entry.name);
            }
        }
    }
}

/// Whether a setting as written says what was set; settings within it may be more than those that were set.
fn same(written: &Value, set: &Value) -> bool {
    let all = |set: &serde_json::Map<String, Value>| set.iter().all(|(name, value)| same(&written[name], value));
    let number = written.as_f64().zip(set.as_f64()).is_some_and(|(a, b)| a == b);
    written == set || number || set.as_object().is_some_and(all)
}

#[test]
fn an_unknown_setting_is_an_error_that_names_the_nearest() {
    for entry in linear() {
        for setting in entry.settings {
            let misspelt = format!("{}x", setting.name);
            let error = parse(entry, json!({ &misspelt: 1 })).unwrap_err();
            assert_eq!(error.hint(), Some(format!("did you mean `{}`?", setting.name)), "{}", entry.name);
        }
        assert!(parse(entry, json!({"no such thing": 1})).is_err());
    }
}

fn relative_error(before: &Linear<Weight>, after: &Linear<Weight>) -> f64 {
    let (a, b) = (before.weight.to_f32(), after.weight.to_f32());
    let error: f64 = a.iter().zip(&b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    error / a.iter().map(|&a| (a as f64).powi(2)).sum::<f64>()
}

#[test]
fn error_falls_with_more_bits_more_rank_and_less_sparsity() {
    for entry in linear() {
        let Ok(ladder) = ladder(entry) else { continue };
        for (name, before) in layers().into_iter().filter(|(name, _)| matches!(*name, "f32" | "bf16" | "masked")) {
            let seen = seen(&before);
            let error = |settings: &Value| {
                let mut after = before.clone();
                let method = parse(entry, settings.clone()).unwrap();
                method.rewrite(&mut after, &mut Cx::with(&site(0), 0, &seen)).unwrap();
                relative_error(&before, &after)
            };
            let errors: Vec<f64> = ladder.iter().map(error).collect();
            assert!(errors.windows(2).all(|e| e[1] < e[0]), "{} on {name}: {errors:?}", entry.name);
        }
    }
}

#[test]
fn peak_bytes_covers_at_least_the_result() {
    for_all(|case, method, _, before, after, _| {
        let result = Form::of(&after.weight).bits() / 8;
        let changed = before.weight != after.weight;
        assert!(!changed || method.peak_bytes(&forms(before)) >= result, "{case}");
    });
}

#[test]
fn weights_that_are_not_finite_are_refused_by_every_method() {
    for entry in linear() {
        let mut w = noise(64 * 128, 1);
        w[77] = f32::NAN;
        let mut layer = Linear { weight: Weight::float([64, 128], Floats::F32(w)), bias: None };
        let (site, seen) = (site(4), seen(&layer));
        let mut cx = Cx::with(&site, 0, &seen);
        let error = parse(entry, Value::Null).unwrap().rewrite(&mut layer, &mut cx).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`blocks.4.mlp.up` holds 1 NaN and 0 infinite values among 8192",
            "{}",
            entry.name
        );
    }
}

fn apply(name: &str, settings: Value, layer: &mut Linear<Weight>) {
    let (site, seen) = (site(0), seen(layer));
    method(name, settings).unwrap().rewrite(layer, &mut Cx::with(&site, 0, &seen)).unwrap();
}

#[test]
fn quantization_keeps_what_pruning_removed() {
    for (pruned, quantized) in [
        (json!({"pattern": "2:4"}), json!({"bits": 4})),
        (json!({"sparsity": 0.6, "scope": "row"}), json!({"bits": 3, "symmetric": false, "range": "mse"})),
        (json!({"sparsity": 0.5}), json!({"bits": 1, "group": "channel"})),
    ] {
        let mut layer = Linear { weight: float([64, 256], 1, Dtype::Bf16), bias: None };
        apply("prune.magnitude", pruned, &mut layer);
        let Expr::Leaf(Leaf { mask: Some(mask), .. }) = layer.weight.clone() else { panic!("pruning leaves a mask") };
        for name in ["quantize.rtn", "quantize.gptq"] {
            let mut layer = layer.clone();
            apply(name, quantized.clone(), &mut layer);
            let values = layer.weight.to_f32();
            assert!((0..values.len()).all(|i| mask.keeps(i) || values[i].to_bits() & 0x7FFF_FFFF == 0), "{name}");
            assert!(matches!(&layer.weight, Expr::Leaf(Leaf { mask: Some(now), .. }) if *now == mask), "{name}");
        }
    }
}

#[test]
fn quantization_after_decomposition_codes_both_factors() {
    for name in ["quantize.rtn", "quantize.gptq"] {
        let mut layer = Linear { weight: float([128, 256], 1, Dtype::Bf16), bias: None };
        apply("decompose.svd", json!({"rank": 32}), &mut layer);
        let factors = layer.clone();
        apply(name, json!({"bits": 8, "group": 32}), &mut layer);
        let Expr::Product(ab) = &layer.weight else { panic!("the factors stay factors") };
        for part in ab.iter() {
            assert!(matches!(part, Expr::Leaf(Leaf { code: Code::Grid(grid), .. }) if grid.bits == 8));
        }
        assert!(relative_error(&factors, &layer) < 1e-3, "{name}");
    }
}

#[test]
fn quantization_and_pruning_reach_every_core_of_a_train() {
    for cores in [2, 3] {
        let mut train = Linear { weight: float([128, 256], 1, Dtype::Bf16), bias: None };
        apply("decompose.mpo", json!({"cores": cores, "ratio": 0.7}), &mut train);
        for name in ["quantize.rtn", "quantize.gptq"] {
            let mut layer = train.clone();
            apply(name, json!({"bits": 8, "group": 32, "ragged": "pad"}), &mut layer);
            let Expr::Train(coded) = &layer.weight else { panic!("a train stays a train") };
            assert_eq!(coded.cores.len(), cores);
            for core in &coded.cores {
                assert!(matches!(core, Expr::Leaf(Leaf { code: Code::Grid(grid), .. }) if grid.bits == 8));
            }
            assert!(relative_error(&train, &layer) < 1e-3, "{name}");
        }
        for name in ["prune.magnitude", "prune.wanda", "prune.sparsegpt"] {
            let mut layer = train.clone();
            apply(name, json!({"sparsity": 0.25}), &mut layer);
            for (path, leaf) in layer.weight.leaves() {
                let share = LeafForm::of(leaf).sparsity();
                assert!((0.2..=0.25).contains(&share), "{name}: {share} of core {path}");
            }
        }
    }
}

#[test]
fn cores_fitted_to_what_they_see_do_better_than_rounded_ones() {
    let mut train = Linear { weight: float([128, 256], 1, Dtype::F32), bias: None };
    apply("decompose.mpo", json!({"bond": 12}), &mut train);
    let gram = seen(&train).gram().unwrap().to_f64();
    let error = |name: &str| {
        let mut layer = train.clone();
        apply(name, json!({"bits": 3, "group": "channel"}), &mut layer);
        let gone: Vec<f64> =
            train.weight.to_f32().iter().zip(layer.weight.to_f32()).map(|(a, b)| f64::from(a - b)).collect();
        let row = |d: &[f64]| -> f64 { (0..256 * 256).map(|at| d[at / 256] * gram[at] * d[at % 256]).sum() };
        gone.chunks(256).map(row).sum::<f64>()
    };
    let (rounded, fitted) = (error("quantize.rtn"), error("quantize.gptq"));
    assert!(fitted < 0.8 * rounded, "{fitted} and {rounded}");
}

#[test]
fn the_list_is_in_the_order_of_a_recipe() {
    assert!(METHODS.is_sorted_by_key(|entry| entry.kind));
    let family = |kind| match kind {
        Kind::Reduce => "",
        // Corrections recover or adjust.
        Kind::Correct => "",
        Kind::Retarget => "recover.",
        Kind::Prune => "prune.",
        Kind::Decompose => "decompose.",
        Kind::Quantize => "quantize.",
    };
    assert!(METHODS.iter().all(|entry| entry.name.starts_with(family(entry.kind))));
}
