//! Models written to GGUF files by the command, read back by it, and what is left when that goes wrong.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Toy, brevity, failure, scratch, stderr, success, text};
use serde_json::Value;

const BAD_INPUT: i32 = 2;
const WOULD_NOT_FIT: i32 = 4;
const CANNOT_HOLD: i32 = 5;

fn export<'a>(model: &'a str, kind: &'a str, out: &'a Path) -> [&'a str; 8] {
    ["export", model, "--format", "gguf", "--type", kind, "--out", text(out)]
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&success(&[args, &["--json"]].concat())).unwrap()
}

fn perplexity(model: &str) -> f64 {
    let report = json(&["eval", model, "--limit", "8192", "--dtype", "f32", "--measures", "perplexity"]);
    report["scores"][0]["value"].as_f64().unwrap()
}

/// A checkpoint that takes a while to write.
const LONG: Toy = Toy { blocks: 24, hidden: 512, ffn: 1024, vocabulary: 256 };

/// Names of the files in a directory, hidden ones as well.
fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn tiny_predicts_in_every_type_what_it_predicted_before() {
    let folder = tempfile::tempdir().unwrap();
    let before = perplexity("tiny");
    let mut sizes = Vec::new();
    for (kind, limit) in [("f32", 1e-6), ("bf16", 1e-6), ("f16", 1e-4), ("q8_0", 3e-3), ("q4_0", 0.05), ("q4_k", 0.02)]
    {
        let out = folder.path().join(format!("{kind}.gguf"));
        let report = json(&export("tiny", kind, &out));
        assert_eq!(report["size_bytes_after"], std::fs::metadata(&out).unwrap().len(), "{kind}");
        assert_eq!((&report["architecture"], &report["notes"]), (&"llama".into(), &Value::Array(Vec::new())), "{kind}");
        let after = perplexity(text(&out));
        assert!((after / before - 1.0).abs() < limit, "{kind}: {before} became {after}");
        assert_eq!(json(&["inspect", text(&out)])["tied"], true, "a table that is both stays both");
        sizes.push(report["size_bytes_after"].as_u64().unwrap());
    }
    assert_eq!(sizes[1], sizes[2]);
    assert!(sizes[0] > sizes[1] && sizes[2] > sizes[3] && sizes[3] > sizes[5] && sizes[5] > sizes[4], "{sizes:?}");
}

#[test]
fn what_a_recipe_did_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for recipe in ["int4", "svd-half", "sparse50"] {
        let (native, out) = (folder.path().join(recipe), folder.path().join(format!("{recipe}.gguf")));
        let work = ["compress", "tiny", "--recipe", recipe, "--format", "native", "--compare", "none"];
        success(&[&work[..], &["--out", text(&native)]].concat());
        success(&export(text(&native), "f32", &out));
        let (before, after) = (perplexity(text(&native)), perplexity(text(&out)));
        assert!((after / before - 1.0).abs() < 1e-5, "{recipe}: {before} became {after}");
    }
}

#[test]
fn a_gguf_file_can_be_made_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second, third] = ["a", "b", "c"].map(|name| folder.path().join(format!("{name}.gguf")));
    success(&export("tiny", "bf16", &first));
    success(&export(text(&first), "q8_0", &second));
    success(&export("tiny", "q8_0", &third));
    // Under its own name, and otherwise the same.
    let [a, b] = [&second, &third].map(|path| std::fs::metadata(path).unwrap().len());
    assert!(a.abs_diff(b) < 256, "{a} and {b}");
    assert_eq!(perplexity(text(&second)), perplexity(text(&third)));
}

#[test]
fn blocks_of_a_gguf_file_can_be_written_as_plain_floats() {
    let folder = tempfile::tempdir().unwrap();
    let [file, dense] = ["m.gguf", "dense"].map(|name| folder.path().join(name));
    success(&export("tiny", "q8_0", &file));
    // Eight bits times a half do not fit into a half; the check of what was written must know.
    success(&["export", text(&file), "--format", "dense", "--out", text(&dense)]);
    assert!((perplexity(text(&dense)) / perplexity(text(&file)) - 1.0).abs() < 1e-4);
}

#[test]
fn a_model_without_an_architecture_there_is_refused_and_told_where_to_go() {
    let (folder, model, _) = scratch(Toy::default());
    let mut config = Toy::default().config();
    config["model_type"] = "smollm3".into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let (code, said) = failure(&export(text(&model), "f16", &folder.path().join("m.gguf")));
    assert_eq!(code, CANNOT_HOLD);
    assert!(said.contains("models of the kind `smollm3`") && said.contains("--format dense"), "{said}");
    assert_eq!(files(folder.path()), ["model"]);
}

#[test]
fn a_run_says_how_to_get_to_a_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (code, said) = failure(&["compress", "tiny", "--recipe", "int4", "--format", "gguf", "--out", text(&out)]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("--format native") && said.contains("brevity export DIR --format gguf"), "{said}");
    assert!(!out.exists());
}

#[test]
fn a_file_that_is_there_is_kept_unless_it_is_to_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    std::fs::write(&out, "years of work").unwrap();
    let (code, said) = failure(&export("tiny", "q8_0", &out));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("--fresh"), "{said}");
    assert_eq!(std::fs::read(&out).unwrap(), b"years of work");
    success(&[&export("tiny", "q8_0", &out)[..], &["--fresh"]].concat());
    assert!(std::fs::metadata(&out).unwrap().len() > 1 << 20);
    assert_eq!(files(folder.path()), ["m.gguf"]);
    let (code, _) = failure(&export("tiny", "q8_0", folder.path()));
    assert_eq!(code, BAD_INPUT, "a directory is in its place");
}

#[test]
fn too_little_memory_is_known_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    let (code, said) = failure(&[&export("tiny", "q8_0", &out)[..], &["--max-memory", "1MiB"]].concat());
    assert_eq!(code, WOULD_NOT_FIT);
    assert!(said.contains("the export needs about"), "{said}");
    assert!(files(folder.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing_behind() {
    let (folder, model, _) = scratch(LONG);
    let out = folder.path().join("m.gguf");
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 20000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_brevity")])
        .args(export(text(&model), "f32", &out))
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("m.gguf"), "{}", stderr(&output));
    assert_eq!(files(folder.path()), ["model"]);
}

#[test]
fn a_killed_export_leaves_no_file_of_that_name_and_the_next_one_is_whole() {
    let (folder, model, _) = scratch(LONG);
    let whole = folder.path().join("whole.gguf");
    success(&export(text(&model), "q4_k", &whole));
    let out = folder.path().join("out.gguf");
    for milliseconds in [1, 60, 150] {
        let mut child = brevity()
            .args(export(text(&model), "q4_k", &out))
            .args(["--threads", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        let finished = child.wait().unwrap().success();
        assert!(finished || !out.exists() || std::fs::read(&out).unwrap() == std::fs::read(&whole).unwrap());
        let _ = std::fs::remove_file(&out);
    }
    success(&export(text(&model), "q4_k", &out));
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&whole).unwrap(), "threads and kills change nothing");
    assert_eq!(files(folder.path()), ["model", "out.gguf", "whole.gguf"]);
}
