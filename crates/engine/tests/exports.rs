//! What was cut and factored, written for others: the code beside it, factors multiplied out, blocks that stay alike, and
//! what the plan says of readers.

mod common;

use std::path::Path;

use brevity_engine::{Error, Plan, PlanOptions, Recipe, RunOptions};
use brevity_formats::Checkpoint;
use brevity_kernels::ops::Compute;
use brevity_runtime::Resident;
use common::{Llama, StopAfter, files, golden, options, recipe, weight_bytes};

/// Recipes whose results stock classes cannot hold.
const RECIPES: [(&str, &str); 6] = [
    ("factors", "steps:\n  - decompose.svd: {ratio: 0.6, multiple: 1}\n"),
    ("factors and biases", "steps:\n  - decompose.afm: {rank: 4}\n"),
    ("modegpt", "steps:\n  - decompose.modegpt: {sparsity: 0.4, multiple: 4}\n"),
    ("a slice", "steps:\n  - decompose.slice: {sparsity: 0.4, multiple: 4, grow: true}\n"),
    ("sublayers", "steps:\n  - prune.layers: {count: 1, unit: sublayer, first: 0, last: 0, by: loss}\n"),
    (
        "all of it",
        "steps:\n  - prune.layers: {count: 1, unit: attn, first: 0, last: 0}\n  - prune.heads: {sparsity: 0.4}\n  - prune.channels: {sparsity: 0.3, multiple: 2, centre: true}\n  - decompose.svd: {ratio: 0.6, at: mlp}\n  - quantize.rtn: {bits: 8, group: channel}\n",
    ),
];

fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let model = Resident::load(checkpoint, Compute::F32).unwrap();
    let ids: Vec<u32> = (0..9).map(|n| n * 5 % checkpoint.model().vocabulary.min(40) as u32).collect();
    model.logits(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Options for a format.
fn as_format(checkpoint: &Checkpoint, format: &str) -> PlanOptions {
    PlanOptions { format: Some(format.to_owned()), ..options(checkpoint, 2) }
}

fn written(checkpoint: &Checkpoint, recipe: &Recipe, options: &PlanOptions, out: &Path) -> (Plan, Checkpoint) {
    let plan = Plan::make(checkpoint, recipe, options).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    plan.run(checkpoint, out, &RunOptions::default(), &mut ())
        .unwrap_or_else(|error| panic!("{}: {error}", out.display()));
    assert_eq!(weight_bytes(out), plan.size.size_bytes_after, "{}", out.display());
    (plan, Checkpoint::open(out).unwrap_or_else(|error| panic!("{}: {error}", out.display())))
}

fn nothing() -> Recipe {
    Recipe { steps: Vec::new(), ..recipe("steps:\n  - quantize.rtn: {}\n") }
}

#[test]
fn what_stock_classes_cannot_hold_is_written_with_code_for_llama_and_its_kin_and_refused_for_others() {
    let dir = tempfile::tempdir().unwrap();
    for (name, path) in golden(dir.path()) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let kind = checkpoint.config().model_type().to_owned();
        let known = ["llama", "mistral", "qwen2", "qwen3", "smollm3"].contains(&kind.as_str());
        for (what, text) in RECIPES {
            let out = |format: &str| dir.path().join(format!("{name}-{what}-{format}"));
            if !known {
                let error = Plan::make(&checkpoint, &recipe(text), &as_format(&checkpoint, "custom")).err();
                // There are streams that cannot be turned.
                if what == "a slice" && matches!(error, Some(Error::Method { .. })) {
                    continue;
                }
                let Some(error @ Error::Unholdable { .. }) = error else { panic!("{name}, {what}: {error:?}") };
                assert!(error.hint().unwrap().contains("native"), "{name}, {what}: {error}");
                continue;
            }
            let (plan, custom) = written(&checkpoint, &recipe(text), &as_format(&checkpoint, "custom"), &out("custom"));
            assert_eq!(plan.consumers.transformers(), "trust_remote_code", "{name}, {what}");
            assert_eq!(custom.format(), "custom", "{name}, {what}");
            assert!(out("custom").join("modeling_brevity.py").exists(), "{name}, {what}");
            assert!(out("custom").join("model.safetensors.index.json").exists(), "{name}, {what}");
            // In our own layout the same; codes were decoded to floats of the source, here singles.
            let (_, native) = written(&checkpoint, &recipe(text), &as_format(&checkpoint, "native"), &out("native"));
            assert!(apart(&logits(&native), &logits(&custom)) < 1e-4, "{name}, {what}");
            // And back.
            let (plan, again) = written(&custom, &nothing(), &as_format(&custom, "native"), &out("again"));
            assert!(plan.lints.is_empty(), "{name}, {what}: {:?}", plan.lints);
            assert!(logits(&again) == logits(&custom), "{name}, {what}");
            assert_eq!(again.config().get("model_type"), checkpoint.config().get("model_type"));
            assert_eq!(again.config().get("auto_map"), None);
            assert!(!out("again").join("modeling_brevity.py").exists(), "{name}, {what}");
        }
    }
}

#[test]
fn a_directory_with_code_that_was_stopped_anywhere_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    for (what, text) in RECIPES {
        let (plan, _) = written(&checkpoint, &recipe(text), &as_format(&checkpoint, "custom"), &dir.path().join(what));
        let expected = files(&dir.path().join(what));
        for questions in [3, 11, 25] {
            let out = dir.path().join(format!("{what} {questions}"));
            if plan.run(&checkpoint, &out, &RunOptions::default(), &mut StopAfter::questions(questions)).is_err() {
                assert!(Checkpoint::open(&out).is_err(), "what is half done does not look whole");
                plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            assert!(files(&out) == expected, "{what} after {questions} questions");
        }
    }
}

#[test]
fn factors_and_trains_are_multiplied_out_for_formats_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("in"));
    for (what, text) in [
        ("product", "steps:\n  - decompose.svd_llm: {ratio: 0.6, multiple: 1, at: mlp}\n"),
        ("train", "steps:\n  - decompose.mpo: {ratio: 0.5, cores: 3, at: mlp}\n"),
        (
            "codes",
            "steps:\n  - decompose.svd: {rank: 8, at: mlp}\n  - quantize.rtn: {bits: 8, group: channel, at: mlp}\n",
        ),
    ] {
        let recipe = recipe(text);
        let out = |name: &str| dir.path().join(format!("{what}-{name}"));
        let (_, dense) = written(&checkpoint, &recipe, &as_format(&checkpoint, "dense"), &out("dense"));
        for format in ["compressed-tensors", "custom", "native", "dense"] {
            let refused = Plan::make(&checkpoint, &recipe, &as_format(&checkpoint, format));
            let holds = match format {
                "native" | "dense" => true,
                "custom" => what != "train",
                _ => false,
            };
            assert_eq!(refused.is_ok(), holds, "{what} as {format}");
            let options = PlanOptions { materialize: true, ..as_format(&checkpoint, format) };
            let (plan, out) = written(&checkpoint, &recipe, &options, &out(format!("{format}-out").as_str()));
            assert_eq!(plan.consumers.transformers(), "stock", "{what} as {format}");
            let leaves = |site: &brevity_engine::PlannedSite| site.after.as_leaf().is_some();
            assert!(plan.sites.iter().all(leaves), "{what} as {format}");
            assert!(logits(&out) == logits(&dense), "{what} as {format}");
            assert!(!plan.lints.iter().any(|lint| lint.what.contains("multiplies")), "{:?}", plan.lints);
        }
        // Factors of the source as well.
        let (_, native) = written(&checkpoint, &recipe, &as_format(&checkpoint, "native"), &out("native"));
        let options = PlanOptions { materialize: true, ..as_format(&native, "compressed-tensors") };
        let (_, late) = written(&native, &nothing(), &options, &out("late"));
        let (_, dense) = written(&native, &nothing(), &as_format(&native, "dense"), &out("late-dense"));
        assert!(logits(&late) == logits(&dense), "{what}");
    }
}

#[test]
fn what_is_made_even_is_as_wide_in_every_block() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    let mut uneven = recipe(
        "steps:\n  - prune.heads: {sparsity: 0.5, allocation: influence, most: 0.6}\n  - prune.channels: {sparsity: 0.5, allocation: influence, temperature: 0.05, multiple: 4}\n",
    );
    let refused = Plan::make(&checkpoint, &uneven, &as_format(&checkpoint, "dense")).map(|_| ()).unwrap_err();
    assert!(refused.hint().unwrap().contains("custom"), "{refused}");
    uneven.even();
    let (plan, even) = written(&checkpoint, &uneven, &as_format(&checkpoint, "dense"), &dir.path().join("out"));
    assert_eq!(plan.consumers.transformers(), "stock");
    assert_eq!(even.config().get("num_attention_heads").unwrap(), 2);
    assert_eq!(even.config().get("intermediate_size").unwrap(), 24);
}

#[test]
fn the_plan_says_who_opens_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    let said = |text: &str, format: &str| {
        let plan =
            Plan::make(&checkpoint, &recipe(text), &as_format(&checkpoint, format)).unwrap_or_else(|e| panic!("{e}"));
        let json = plan.consumers.to_json();
        let word = |key: &str| json[key].as_str().unwrap_or("-").to_owned();
        [word("transformers"), word("candle"), word("llama_cpp")].join(" ")
    };
    let channels = "steps:\n  - prune.channels: {sparsity: 0.5, multiple: 4}\n";
    let wider = "steps:\n  - prune.channels: {sparsity: 0.5, multiple: 4, at: blocks.0}\n";
    let heads = "steps:\n  - prune.heads: {sparsity: 0.25}\n";
    let attention = "steps:\n  - prune.layers: {count: 1, unit: attn, first: 1}\n";
    let factors = "steps:\n  - decompose.svd: {ratio: 0.5, multiple: 1}\n";
    for (text, format, expected) in [
        (channels, "dense", "stock files llama"),
        (channels, "native", "stock files llama"),
        (channels, "custom", "stock files llama"),
        (wider, "custom", "trust_remote_code no deci"),
        (wider, "native", "no no deci"),
        (attention, "custom", "trust_remote_code no deci"),
        (heads, "custom", "trust_remote_code no -"),
        (factors, "custom", "trust_remote_code gguf llama"),
        (factors, "native", "no gguf llama"),
        (factors, "dense", "stock files llama"),
        ("steps:\n  - quantize.rtn: {bits: 4, group: 8}\n", "compressed-tensors", "stock gguf llama"),
        ("steps:\n  - decompose.modegpt: {sparsity: 0.3, multiple: 4}\n", "native", "no no -"),
    ] {
        assert_eq!(said(text, format), expected, "{text} as {format}");
    }
    let modegpt = recipe("steps:\n  - decompose.modegpt: {sparsity: 0.3, multiple: 4}\n");
    let plan = Plan::make(&checkpoint, &modegpt, &as_format(&checkpoint, "native")).unwrap();
    assert_eq!(plan.consumers.files, "brevity only");
    let why = plan.consumers.gguf.unwrap().unwrap_err();
    assert!(why.contains("entries in a head"), "{why}");
}

#[test]
fn heads_that_transformers_would_refuse_are_not_called_stock() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(2, 32, 48, true);
    // Each query head has its own key head, so three of four are evenly shared, and 32 is no multiple of three.
    llama.config["num_key_value_heads"] = 4.into();
    for (name, (shape, values)) in &mut llama.tensors {
        if name.contains("k_proj") || name.contains("v_proj") {
            shape[0] = 32;
            values.extend(values.clone());
        }
    }
    let checkpoint = llama.checkpoint(&dir.path().join("in"));
    let heads = recipe("steps:\n  - prune.heads: {sparsity: 0.25, unit: group}\n");
    let error = Plan::make(&checkpoint, &heads, &as_format(&checkpoint, "dense")).map(|_| ()).unwrap_err();
    assert!(error.hint().unwrap().contains("custom"), "{error}");
    let plan = Plan::make(&checkpoint, &heads, &as_format(&checkpoint, "custom")).unwrap();
    assert_eq!(plan.consumers.to_json()["llama_cpp"], "llama", "which has no such rule");
}
