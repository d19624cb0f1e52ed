//! What people read: help, tables, errors. To learn the product, read `tests/snapshots`.
//!
//! After a change that is meant: `INSTA_UPDATE=always cargo test --release --test snapshots`, then read the difference.

mod common;

use std::path::Path;

use common::{Toy, brevity, scratch, stderr, stdout, text};

/// What differs from run to run and from machine to machine, and what stands for it.
const FILTERS: [(&str, &str); 10] = [
    (r"(?m)^\d[\d.]* (ms|s)$", "[TIME]"),
    (r"in \d[\d.]* (ms|s|min)\b( \d+ s\b)?", "in [TIME]"),
    (r"arithmetic, \d[\d.]* s\b", "arithmetic, [TIME]"),
    (r"(?m)^\d[\d.]* s \(\d+ tokens/s\)", "[TIME]"),
    (r"\d[\d.]* tokens/s", "[SPEED]"),
    (r"peak memory \d[\d.]* [KMG]iB", "peak memory [MEMORY]"),
    (r"\d[\d.]* [KMGT]iB free", "[DISK] free"),
    (r"(?m)^(processor|threads|memory|hub cache)  +.*$", "$1  [MACHINE]"),
    (r"needs up to \d+ bytes", "needs up to [MEMORY] bytes"),
    (r"it needs \d+ bytes", "it needs [MEMORY] bytes"),
];

/// The command line, what it printed, and how it ended.
fn session(folder: &Path, args: &[&str]) -> String {
    let output = brevity().args(args).current_dir(folder).env("COLUMNS", "100").output().expect("the command starts");
    let quoted = |arg: &&str| if arg.is_empty() || arg.contains(' ') { format!("'{arg}'") } else { arg.to_string() };
    let line: Vec<String> = args.iter().map(quoted).collect();
    let mut shown = format!("$ brevity {}\n{}", line.join(" "), stdout(&output));
    let said = stderr(&output);
    if !said.is_empty() {
        shown += &format!("-- on stderr\n{said}");
    }
    match output.status.code() {
        Some(0) => shown,
        code => format!("{shown}-- exit code {}\n", code.expect("no signal ended it")),
    }
}

/// Compares one or more sessions with the snapshot of this name.
fn shows(name: &str, folder: &Path, sessions: &[&[&str]]) {
    let all: Vec<String> = sessions.iter().map(|args| session(folder, args)).collect();
    let place = (text(folder), "[DIR]");
    insta::with_settings!({
        filters => [place].into_iter().chain(FILTERS).collect::<Vec<_>>(),
        omit_expression => true,
        prepend_module_to_snapshot => false,
    }, { insta::assert_snapshot!(name, all.join("\n")) });
}

#[test]
fn the_help_of_the_command_and_of_each_of_its_parts() {
    let folder = tempfile::tempdir().unwrap();
    shows("help", folder.path(), &[&["--help"]]);
    for command in ["inspect", "compress", "eval", "compare", "export", "generate", "recipes", "doctor"] {
        shows(&format!("help-{command}"), folder.path(), &[&[command, "--help"]]);
    }
}

#[test]
fn what_there_is_to_choose_from() {
    let folder = tempfile::tempdir().unwrap();
    shows("recipes", folder.path(), &[&["recipes"], &["recipes", "show", "sparse-2-4-int4"]]);
    shows("methods", folder.path(), &[&["recipes", "methods", "prune.magnitude"]]);
    shows("doctor", folder.path(), &[&["doctor"]]);
}

#[test]
fn a_checkpoint_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    shows("inspect", folder.path(), &[&["inspect", "tiny"]]);
}

#[test]
fn a_plan_that_is_not_carried_out() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |recipe| ["compress", "tiny", "--recipe", recipe, "--out", "out", "--threads", "2", "--dry-run"];
    shows("plan-int4", folder.path(), &[&plan("int4")]);
    shows("plan-svd-half", folder.path(), &[&plan("svd-half")]);
}

#[test]
fn the_main_job_from_the_first_command_to_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["--limit", "4096", "--dtype", "f32", "--threads", "2"];
    let with = |args: &[&'static str]| [args, &small[..]].concat();
    let threads = ["--threads", "2"];
    shows(
        "main-job",
        folder.path(),
        &[
            &with(&["compress", "tiny", "--recipe", "int4", "--out", "out"]),
            &["inspect", "out"],
            &with(&["eval", "out"]),
            &with(&["eval", "out", "--reference", "tiny", "--measures", "kl,agreement"]),
            &with(&["compare", "tiny", "out"]),
            &[&["export", "out", "--format", "dense", "--out", "dense"][..], &threads].concat(),
            &["generate", "out", "--prompt", "a poodle is a kind of", "--max-tokens", "4", "--dtype", "f32"],
        ],
    );
}

#[test]
fn a_model_as_one_gguf_file() {
    let folder = tempfile::tempdir().unwrap();
    let export = |kind| ["export", "tiny", "--format", "gguf", "--type", kind, "--out", "tiny.gguf", "--threads", "2"];
    shows(
        "export-gguf",
        folder.path(),
        &[
            &export("q4_k"),
            &export("q8_0"),
            &[&export("q8_0")[..], &["--fresh"]].concat(),
            &["inspect", "tiny.gguf"],
            &["eval", "tiny.gguf", "--limit", "4096", "--dtype", "f32", "--threads", "2"],
            &["generate", "tiny.gguf", "--prompt", "a poodle is a kind of", "--max-tokens", "4", "--dtype", "f32"],
            &export("q5_k"),
            &["export", "tiny", "--format", "dense", "--type", "f16", "--out", "dense"],
        ],
    );
}

#[test]
fn a_gate_that_is_kept_and_one_that_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["--limit", "4096", "--dtype", "f32", "--threads", "2"];
    let with = |args: &[&'static str]| [args, &small[..]].concat();
    shows(
        "gate",
        folder.path(),
        &[
            &with(&["compress", "tiny", "--recipe", "int4", "--out", "out", "--gate", "kl_mean<=0.05"]),
            &with(&["compare", "tiny", "out", "--gate", "kl_mean<=0.001", "--gate", "perplexity<=+5%"]),
            &["compare", "tiny", "out", "--gate", "kl_mean<0.05<"],
            &["compare", "tiny", "out", "--gate", "klmean<0.05"],
        ],
    );
}

#[test]
fn what_models_are_asked() {
    let folder = tempfile::tempdir().unwrap();
    let small = ["--items", "100", "--dtype", "f32", "--threads", "2"];
    let with = |args: &[&'static str]| [args, &small[..]].concat();
    std::fs::write(folder.path().join("arc_easy.jsonl"), ARC).unwrap();
    shows("tasks", folder.path(), &[&["recipes", "tasks"], &["recipes", "tasks", "arc_easy"]]);
    shows(
        "questions",
        folder.path(),
        &[
            &with(&["eval", "tiny", "--tasks", "arc_easy", "--facts", "tiny", "--open-book"]),
            &["eval", "tiny", "--tasks", "arc_easy,mmlu"],
            &["eval", "tiny", "--tasks", "arc_eesy"],
        ],
    );
}

/// Two rows as `arc_easy.jsonl` has them.
const ARC: &str = "{\"query\": \"Question: What is a poodle?\", \"choices\": [\"a dog\", \"a stone\"], \"gold\": 0}\n\
    {\"query\": \"Question: What is granite?\", \"choices\": [\"a dog\", \"a stone\"], \"gold\": 1}\n";

#[test]
fn a_run_that_was_finished_before() {
    let (folder, ..) = scratch(Toy::default());
    let again = ["compress", "model", "--recipe", "int8", "--out", "out", "--threads", "2"];
    shows("run-again", folder.path(), &[&again, &again]);
}

#[test]
fn what_is_said_of_a_wrong_command_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("short.txt"), "a few words").unwrap();
    std::fs::write(folder.path().join("binary.txt"), [0x61, 0xff, 0xfe]).unwrap();
    shows(
        "errors-usage",
        folder.path(),
        &[
            &["compress", "tiny", "--recipe", "int4"],
            &["compress", "tiny", "--recipe", "int5", "--out", "out"],
            &["compress", "tiny", "--recipe", "int4", "--out", "out", "--format", "gguf"],
            &["compress", "tiny", "--recipe", "int4", "--out", "out", "--set", "quantize.rtn.bitz=3"],
            &["compress", "tiny", "--recipe", "int4", "--out", "out", "--set", "quantize.rtn.bits=9"],
            &["compress", "tiny", "--recipe", ".", "--out", "out"],
            &["inspect", "nowhere"],
            &["eval", "tiny", "--measures", "fluency"],
            &["eval", "tiny", "--measures", "kl"],
            &["eval", "tiny", "--text", "short.txt"],
            &["eval", "tiny", "--text", "binary.txt"],
            &["eval", "tiny", "--text", "jsonl:short.txt"],
            &["eval", "tiny", "--window", "1"],
            &["eval", "tiny", "--max-memory", "1MiB"],
            &["eval", "tiny", "--threads", "0"],
            &["eval", "tiny", "--threads", "100000"],
            &["generate", "tiny", "--prompt", "a", "--temperature", "-1"],
            &["generate", "tiny", "--prompt", "a", "--max-memory", "1MiB"],
        ],
    );
}

#[test]
fn what_is_said_of_a_plan_that_cannot_be() {
    let (folder, ..) = scratch(Toy { ffn: 172, ..Toy::default() });
    let recipe = |name: &str, step: &str| {
        std::fs::write(folder.path().join(name), format!("about: a test\nsteps:\n  - {step}\n")).unwrap();
    };
    recipe("group.yaml", "quantize.rtn: {bits: 4, group: 64}");
    recipe("key.yaml", "quantize.rtn: {bits: 4, gruop: 64}");
    recipe("method.yaml", "quantise.rtn: {bits: 4}");
    std::fs::create_dir(folder.path().join("full")).unwrap();
    std::fs::write(folder.path().join("full/thesis.tex"), "years of work").unwrap();
    let compress = |recipe, out| ["compress", "model", "--recipe", recipe, "--out", out, "--threads", "2"];
    shows(
        "errors-plan",
        folder.path(),
        &[
            &compress("group.yaml", "out"),
            &compress("key.yaml", "out"),
            &compress("method.yaml", "out"),
            &compress("int8", "full"),
            &compress("int8", "full/thesis.tex"),
            &[&compress("svd-half", "out")[..], &["--format", "compressed-tensors"]].concat(),
            &[&compress("int8", "out")[..], &["--max-memory", "1MiB"]].concat(),
        ],
    );
}

#[test]
fn what_is_said_of_a_checkpoint_that_is_not_whole() {
    let folder = tempfile::tempdir().unwrap();
    let model = |name: &str, spoil: &dyn Fn(&Path)| {
        let dir = folder.path().join(name);
        Toy::default().write(&dir);
        spoil(&dir);
    };
    let cut = |dir: &Path| {
        let file = dir.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(file, &bytes[..bytes.len() - 100]).unwrap();
    };
    let config = |dir: &Path, key: &str, value: serde_json::Value| {
        let mut config = Toy::default().config();
        config[key] = value;
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    };
    model("cut", &cut);
    model("no-config", &|dir| std::fs::remove_file(dir.join("config.json")).unwrap());
    model("no-weights", &|dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap());
    model("unknown", &|dir| config(dir, "model_type", "unheard_of".into()));
    model("other-width", &|dir| config(dir, "hidden_size", 96.into()));
    model("no-tokenizer", &|_| ());
    model("nan", &|dir| {
        let mut tensors = Toy::default().tensors();
        tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().1[3] = f32::NAN;
        Toy::default().write_tensors(dir, &tensors);
    });
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    shows(
        "errors-checkpoint",
        folder.path(),
        &[
            &["inspect", "cut"],
            &["inspect", "empty"],
            &["inspect", "no-config"],
            &["inspect", "no-weights"],
            &["inspect", "unknown"],
            &["inspect", "other-width"],
            &["eval", "no-tokenizer"],
            &["compress", "nan", "--recipe", "int8", "--out", "out", "--threads", "1"],
        ],
    );
}
