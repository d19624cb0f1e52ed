//! Figures on real models, where they are present: `cargo test --release --test real_models -- --ignored`.
//!
//! Looks for the data in `$BREVITY_DATA`, else in `../shared/data` beside the repository; a model that is made from packages
//! is looked for in `$BREVITY_MODELS`. What is not there is skipped, with a word on stderr.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn data() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("BREVITY_DATA").map_or_else(beside, PathBuf::from);
    folder.is_dir().then_some(folder).or_else(|| {
        eprintln!("skipped: no data folder");
        None
    })
}

fn made_model(name: &str) -> Option<PathBuf> {
    let folder =
        std::env::var_os("BREVITY_MODELS").map(|folder| PathBuf::from(folder).join(name)).filter(|f| f.is_dir());
    if folder.is_none() {
        eprintln!("skipped: `{name}` is not in $BREVITY_MODELS");
    }
    folder
}

fn brevity(args: &[&str]) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_brevity")).args(args).output().expect("the command starts");
    assert!(out.status.success(), "brevity {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("the command prints JSON")
}

fn perplexity(model: &Path, text: &Path, more: &[&str]) -> f64 {
    let text = format!("wikitext:{}", text.display());
    let model = model.display().to_string();
    let report = brevity(&[&["eval", &model, "--text", &text, "--measures", "perplexity", "--json"], more].concat());
    report["scores"][0]["value"].as_f64().expect("a number")
}

#[test]
#[ignore = "needs the data folder: cargo test --release --test real_models -- --ignored"]
fn stories260k_has_the_reference_perplexity_on_wikitext() {
    let Some(data) = data() else { return };
    let (model, text) = (data.join("models/stories260k"), data.join("text/wiki.test.raw"));
    let exact = perplexity(&model, &text, &["--window", "512", "--dtype", "f32"]);
    assert!((exact - 122.36).abs() < 0.05, "f32: {exact}");
    let bf16 = perplexity(&model, &text, &["--window", "512", "--dtype", "bf16"]);
    assert!((bf16 / exact - 1.0).abs() < 0.003, "bf16: {bf16}");
}

#[test]
#[ignore = "needs the data folder: cargo test --release --test real_models -- --ignored"]
fn smollm2_has_the_reference_perplexity_on_wikitext() {
    let (Some(data), Some(model)) = (data(), made_model("smollm2-135m-instruct")) else { return };
    let text = data.join("text/wiki.test.raw");
    let common = ["--window", "2048", "--limit", "40960"];
    let exact = perplexity(&model, &text, &[&common[..], &["--dtype", "f32"]].concat());
    assert!((exact - 20.963).abs() < 0.01, "f32: {exact}");
    let bf16 = perplexity(&model, &text, &[&common[..], &["--dtype", "bf16"]].concat());
    assert!((bf16 / exact - 1.0).abs() < 0.003, "bf16: {bf16}");
}

#[test]
#[ignore = "needs the data folder: cargo test --release --test real_models -- --ignored"]
fn every_recipe_compresses_stories260k_as_predicted() {
    let Some(data) = data() else { return };
    let model = data.join("models/stories260k").display().to_string();
    for recipe in ["int8", "int4", "int4-asym", "int3", "sparse50", "sparse-2-4", "svd-half", "sparse-2-4-int4"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = folder.path().join("out").display().to_string();
        let report = brevity(&["compress", &model, "--recipe", recipe, "--out", &out, "--json"]);
        assert_eq!(report["size_bytes_after"], report["size_bytes_predicted"], "{recipe}");
        let text = data.join("text/wiki.test.raw");
        let after = perplexity(Path::new(&out), &text, &["--window", "512", "--limit", "20480"]);
        assert!(after.is_finite() && after > 50.0, "{recipe}: {after}");
    }
}
