//! Tasks, facts, comparisons and gates, as a user meets them.

mod common;

use std::path::Path;

use common::{brevity, stderr, stdout};
use serde_json::Value;

/// Runs the command in a folder; its exit code, what it printed and what it said.
fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = brevity().args(args).current_dir(folder).output().expect("the command starts");
    (output.status.code().expect("no signal ended it"), stdout(&output), stderr(&output))
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let (code, out, said) = run(folder, args);
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&out).expect("JSON on stdout")
}

/// A task of two options over rows that the test writes.
const TASK: &str = "about: Which word fits\n\
    data: rows.jsonl\n\
    kind: choice\n\
    prompt: '{{ prompt }}'\n\
    choices: choices\n\
    gold: answer\n";

fn folder_with(task: &str, rows: &[u8]) -> tempfile::TempDir {
    let folder = scratch();
    std::fs::write(folder.path().join("words.yaml"), task).unwrap();
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    folder
}

/// Facts of `tiny` as rows of a task.
fn rows(count: usize) -> Vec<u8> {
    let facts = include_str!("../models/tiny/facts.jsonl");
    facts.lines().take(count).flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

#[test]
fn tiny_answers_its_own_facts_as_a_task_of_ones_own() {
    let folder = folder_with(TASK, &rows(200));
    let found = json(
        folder.path(),
        &["eval", "tiny", "--tasks", "words.yaml", "--log-samples", "log.jsonl", "--dtype", "f32", "--json"],
    );
    // Its README says 99.4 % of all.
    assert!(found["results"]["words"]["acc,none"].as_f64().unwrap() > 0.97, "{found}");
    assert_eq!(found["n-samples"]["words"]["effective"], 200);
    assert!(found["scores"].as_array().unwrap().is_empty(), "without --text no text is measured");
    let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 200);
    let first: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!((&first["task"], &first["place"]["row"]), (&"words".into(), &1.into()));
    let limited = json(folder.path(), &["eval", "tiny", "--tasks", "words.yaml", "--limit", "7", "--json"]);
    assert_eq!(limited["n-samples"]["words"], serde_json::json!({"original": 200, "effective": 7}));
}

#[test]
fn neither_threads_nor_memory_change_an_answer() {
    let folder = folder_with(TASK, &rows(60));
    let of = |more: &[&str]| {
        let args = ["eval", "tiny", "--tasks", "words.yaml", "--dtype", "f32", "--log-samples", "log.jsonl", "--json"];
        json(folder.path(), &[&args[..], more].concat());
        std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap()
    };
    let want = of(&["--threads", "1"]);
    assert_eq!(of(&["--threads", "2"]), want);
    assert_eq!(of(&["--threads", "3"]), want);
    let small = of(&["--max-memory", "240MiB"]);
    let chosen = |log: &str| {
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["chosen"].clone();
        log.lines().map(line).collect::<Vec<_>>()
    };
    assert_eq!(chosen(&small), chosen(&want));
}

#[test]
fn a_model_compared_with_itself_has_lost_nothing() {
    let folder = folder_with(TASK, &rows(40));
    let args = [
        "compare",
        "tiny",
        "tiny",
        "--text",
        "heldout",
        "--limit",
        "2048",
        "--tasks",
        "words.yaml",
        "--facts",
        "tiny",
        "--items",
        "40",
    ];
    let found = json(folder.path(), &[&args[..], &["--open-book", "--traces", "3", "--json"]].concat());
    let other = &found["report"]["others"][0];
    for difference in other["differences"].as_array().unwrap() {
        let equal = match difference["kind"].as_str().unwrap() {
            "ratio" | "agreement" => 1.0,
            _ => 0.0,
        };
        let value = difference["value"].as_f64().unwrap();
        assert!((value - equal).abs() < 1e-6, "{difference}");
    }
    for layer in other["layers"].as_array().unwrap() {
        assert_eq!(layer["relative_error"], 0.0, "{layer}");
        assert!((layer["cka"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{layer}");
    }
    assert_eq!((&other["facts"]["all"]["lost"], &other["flips"][0]["lost"]), (&0.into(), &0.into()));
    assert!(other["traces"].as_array().unwrap().iter().all(|trace| trace["jaccard"] == 1.0 && trace["lost"] == false));
}

#[test]
fn several_models_make_a_report_and_a_frontier() {
    let folder = scratch();
    for recipe in ["int4", "int8", "sparse50"] {
        let (code, _, said) =
            run(folder.path(), &["compress", "tiny", "--recipe", recipe, "--out", recipe, "--compare", "none"]);
        assert_eq!(code, 0, "{said}");
    }
    let args =
        ["compare", "tiny", "int8", "int4", "sparse50", "--text", "heldout", "--limit", "4096", "--facts", "tiny"];
    let (code, out, said) = run(folder.path(), &[&args[..], &["--items", "100", "--report", "report.html"]].concat());
    assert_eq!(code, 0, "{said}");
    for name in ["int8", "int4", "sparse50", "perplexity", "facts"] {
        assert!(out.contains(name), "{name} in {out}");
    }
    let html = std::fs::read_to_string(folder.path().join("report.html")).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("sparse50") && html.contains("<svg"), "a page");
    assert!(!html.contains("src=\"http"), "nothing is loaded");
}

#[test]
fn a_gate_that_is_kept_ends_with_0_and_one_that_is_not_with_3() {
    let folder = scratch();
    let compress = |out: &str, more: &[&str]| {
        let args = ["compress", "tiny", "--recipe", "int4", "--out", out];
        run(folder.path(), &[&args[..], more].concat())
    };
    let (code, out, said) = compress("kept", &["--gate", "kl_mean<=0.05", "--gate", "top1_agreement>=90%"]);
    assert_eq!(code, 0, "{said}");
    assert!(out.contains("2 of 2"), "{out}");
    let (code, _, said) = compress("broken", &["--gate", "kl_mean<=0.0001"]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("error: the gate failed: kl_mean<=0.0001 failed: "), "{said}");
    // The files are there all the same: nothing is thrown away.
    assert!(folder.path().join("broken/config.json").exists());
    let (code, _, said) =
        run(folder.path(), &["compare", "tiny", "kept", "--facts", "tiny", "--items", "50", "--gate", "facts.lost<0"]);
    assert_eq!(code, 3, "{said}");
    let (code, _, said) = compress("never", &["--gate", "kl_maen<=0.05"]);
    assert_eq!(code, 2);
    assert!(said.contains("did you mean `kl_mean`?"), "{said}");
    assert!(!folder.path().join("never").exists(), "known to be wrong before the work");
}

#[test]
fn a_gate_in_a_recipe_is_the_last_step_of_compress() {
    let folder = scratch();
    let recipe = "about: Four bits, and no worse than that\nformat: compressed-tensors\ngate: [kl_mean<=0.00001]\n\
        steps:\n  - quantize.rtn: {bits: 4, group: 32}\n";
    std::fs::write(folder.path().join("strict.yaml"), recipe).unwrap();
    let (code, _, said) = run(folder.path(), &["compress", "tiny", "--recipe", "strict.yaml", "--out", "out"]);
    assert_eq!(code, 3, "{said}");
}

#[test]
fn what_is_wrong_with_a_task_is_said_with_its_place() {
    let wrong = |task: &str, rows: &[u8], code: i32, sentences: &[&str]| {
        let folder = folder_with(task, rows);
        let (found, _, said) = run(folder.path(), &["eval", "tiny", "--tasks", "words.yaml"]);
        assert_eq!(found, code, "{said}");
        for sentence in sentences {
            assert!(said.contains(sentence), "`{sentence}` in {said}");
        }
    };
    let good = br#"{"prompt": "the opposite of hot is", "choices": ["cold", "red"], "answer": "cold"}"#;
    wrong(
        &TASK.replace("choices:", "choises:"),
        good,
        2,
        &["choises", "words.yaml", "line 5", "did you mean `choices`?"],
    );
    wrong(TASK, b"", 2, &["rows.jsonl"]);
    wrong(TASK, b"{\"prompt\": \"a\"}\n", 2, &["choices", "rows.jsonl", "line 1", "hint"]);
    wrong(TASK, b"{\"prompt\": \"a\", \n", 2, &["rows.jsonl", "line 1"]);
    wrong(TASK, b"{\"prompt\": \"caf\xe9\"}\n", 2, &["rows.jsonl", "UTF-8"]);
    wrong(&TASK.replace("rows.jsonl", "nowhere.jsonl"), good, 2, &["nowhere.jsonl"]);
    wrong("- not\n- a mapping\n", good, 2, &["words.yaml"]);
    let folder = scratch();
    let (code, _, said) = run(folder.path(), &["eval", "tiny", "--tasks", "ark_easy"]);
    assert_eq!(code, 2);
    assert!(said.contains("did you mean `arc_easy`?"), "{said}");
}

#[test]
fn a_question_of_100_000_characters_is_cut_at_the_left_and_said() {
    let long = "the opposite of hot is cold. ".repeat(3500);
    let row = serde_json::json!({"prompt": long.trim_end(), "choices": ["cold", "red"], "answer": "cold"});
    let folder = folder_with(TASK, row.to_string().as_bytes());
    let found = json(folder.path(), &["eval", "tiny", "--tasks", "words.yaml", "--json"]);
    assert_eq!(found["n-samples"]["words"]["effective"], 1);
    assert_eq!(found["cut_prompts"]["words"], 2, "one for each option");
}

#[test]
fn a_task_that_is_answered_in_writing_is_graded() {
    let task = "about: Complete it\ndata: rows.jsonl\nkind: write\nprompt: '{{ prompt }}'\nanswers: '[answer]'\n\
        max_tokens: 4\nuntil: [\"\\n\"]\nmetrics: [exact_match, f1, contains]\n";
    let folder = folder_with(task, &rows(50));
    let found = json(folder.path(), &["eval", "tiny", "--tasks", "words.yaml", "--dtype", "f32", "--json"]);
    let results = &found["results"]["words"];
    assert!(results["contains,none"].as_f64().unwrap() > 0.5, "{found}");
}

#[test]
fn facts_that_are_none_are_refused_with_their_line() {
    let folder = scratch();
    std::fs::write(
        folder.path().join("facts.jsonl"),
        "{\"prompt\": \"a\", \"answer\": \"b\", \"relation\": \"c\"}\n{\"prompt\": 3}\n",
    )
    .unwrap();
    let (code, _, said) = run(folder.path(), &["eval", "tiny", "--facts", "facts.jsonl"]);
    assert_eq!(code, 2);
    assert!(said.contains("`facts.jsonl`, line 2"), "{said}");
}

#[test]
fn answers_of_two_models_are_written_for_a_judge_in_both_orders() {
    let folder = scratch();
    let model = folder.path().join("chat");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    std::fs::write(folder.path().join("question.jsonl"), "{\"category\": \"animals\", \"text\": \"a poodle is\"}\n")
        .unwrap();
    let args = ["compare", "chat", "chat", "--tasks", "kick_instructions", "--judge-pairs", "pairs.jsonl"];
    let (code, _, said) = run(folder.path(), &args);
    assert_eq!(code, 2, "a model without a template cannot be spoken to");
    assert!(said.contains("chat template"), "{said}");
    std::fs::write(model.join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let (code, _, said) = run(folder.path(), &args);
    assert_eq!(code, 0, "{said}");
    let pairs = std::fs::read_to_string(folder.path().join("pairs.jsonl")).unwrap();
    let pairs: Vec<Value> = pairs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(pairs.len(), 2);
    assert_eq!((&pairs[0]["answer_1"], &pairs[0]["group"]), (&pairs[1]["answer_2"], &"animals".into()));
}

#[test]
fn the_protocol_of_the_harness_reports_words_and_bytes() {
    let folder = scratch();
    let found = json(
        folder.path(),
        &["eval", "tiny", "--protocol", "harness", "--text", "heldout", "--dtype", "f32", "--json"],
    );
    let names: Vec<&str> = found["scores"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["word_perplexity", "byte_perplexity", "bits_per_byte"]);
    assert_eq!(found["protocol"], "harness");
}

#[test]
fn a_limit_in_percent_of_a_negative_score_is_not_judged() {
    let folder = scratch();
    let args = ["compare", "tiny", "tiny", "--facts", "tiny", "--items", "20", "--gate", "facts.log_prob>=-5%"];
    let (code, out, said) = run(folder.path(), &args);
    assert_eq!(code, 3, "{out}{said}");
    assert!(said.contains("relative"), "{said}");
}

#[test]
fn limits_on_text_and_tasks_are_measured_together() {
    let folder = folder_with(TASK, &rows(20));
    let args = [
        "compare",
        "tiny",
        "tiny",
        "--limit",
        "1024",
        "--tasks",
        "words.yaml",
        "--gate",
        "kl_mean<=0.05",
        "--gate",
        "words>=-0.02",
    ];
    let (code, out, said) = run(folder.path(), &args);
    assert_eq!(code, 0, "{out}{said}");
    let (code, _, said) = run(folder.path(), &[&args[..], &["--text", "none"]].concat());
    assert_eq!(code, 2, "{said}");
}

#[test]
fn a_text_too_short_for_representations_is_compared_all_the_same() {
    let folder = scratch();
    let found = json(folder.path(), &["compare", "tiny", "tiny", "--limit", "512", "--json"]);
    assert!(found["report"]["others"][0]["differences"].as_array().unwrap().len() > 3);
}

#[test]
fn files_that_cannot_be_written_are_known_before_the_work() {
    let folder = scratch();
    for args in [
        &["compare", "tiny", "tiny", "--report", "nowhere/r.html"][..],
        &["compare", "tiny", "tiny", "--report", "."],
        &["eval", "tiny", "--log-samples", "nowhere/log.jsonl"],
    ] {
        let (code, out, said) = run(folder.path(), args);
        assert_eq!((code, out.as_str()), (2, ""), "{said}");
        assert!(said.contains("cannot write"), "{said}");
    }
    let (code, _, said) = run(folder.path(), &["eval", "tiny", "--text", "none"]);
    assert_eq!(code, 2, "{said}");
}
