//! What happens on a bad day: a sentence, a hint, the documented exit code, nothing half-written that looks whole.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Toy, brevity, digests, failure, run, scratch, stderr, success, text};

const BAD_INPUT: i32 = 2;
const WOULD_NOT_FIT: i32 = 4;
const CANNOT_HOLD: i32 = 5;

fn compress<'a>(model: &'a Path, recipe: &'a str, out: &'a Path) -> [&'a str; 6] {
    ["compress", text(model), "--recipe", recipe, "--out", text(out)]
}

/// Whether a directory would pass for a finished checkpoint.
fn looks_whole(dir: &Path) -> bool {
    ["model.safetensors.index.json", "brevity.safetensors.index.json", "model.safetensors"]
        .iter()
        .any(|name| dir.join(name).exists())
}

#[test]
fn a_truncated_weight_file_is_named() {
    let (_folder, model, out) = scratch(Toy::default());
    let file = model.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    let (code, said) = failure(&compress(&model, "int4", &out));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("model.safetensors"), "{said}");
    assert!(!out.exists() || !looks_whole(&out));
}

#[test]
fn overlapping_tensors_are_named() {
    let (_folder, model, _out) = scratch(Toy::default());
    let file = model.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["model.layers.1.self_attn.q_proj.weight"]["data_offsets"] =
        header["model.layers.0.self_attn.q_proj.weight"]["data_offsets"].clone();
    let header = serde_json::to_vec(&header).unwrap();
    let mut damaged = (header.len() as u64).to_le_bytes().to_vec();
    damaged.extend(&header);
    damaged.extend(&bytes[8 + length..]);
    std::fs::write(&file, damaged).unwrap();
    let (code, said) = failure(&["inspect", text(&model)]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("self_attn.q_proj.weight"), "{said}");
}

#[test]
fn a_header_that_claims_two_to_the_sixty_bytes_is_refused() {
    let (_folder, model, _out) = scratch(Toy::default());
    let file = model.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let (code, said) = failure(&["inspect", text(&model)]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("1152921504606846976"), "{said}");
}

#[test]
fn a_missing_shard_is_named() {
    let (_folder, model, _out) = scratch(Toy::default());
    std::fs::rename(model.join("model.safetensors"), model.join("model-00001-of-00002.safetensors")).unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "model.norm.weight": "model-00002-of-00002.safetensors",
    }});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    let (code, said) = failure(&["inspect", text(&model)]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("model-00002-of-00002.safetensors"), "{said}");
}

#[test]
fn an_index_that_names_a_file_outside_is_refused() {
    let (_folder, model, _out) = scratch(Toy::default());
    let index = serde_json::json!({"metadata": {}, "weight_map": {"model.norm.weight": "../../etc/passwd"}});
    std::fs::write(model.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(model.join("model.safetensors")).unwrap();
    let (code, said) = failure(&["inspect", text(&model)]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("../../etc/passwd"), "{said}");
}

#[test]
fn nan_and_infinite_weights_are_counted_by_tensor() {
    let (_folder, model, out) = scratch(Toy::default());
    let mut tensors = Toy::default().tensors();
    let values = &mut tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().1;
    (values[3], values[70], values[71]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    Toy::default().write_tensors(&model, &tensors);
    let (code, said) = failure(&compress(&model, "int4", &out));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("model.layers.1.mlp.down_proj.weight"), "{said}");
    assert!(said.contains('1') && said.contains('2'), "one NaN and two infinities: {said}");
    assert!(!looks_whole(&out));
}

#[test]
fn an_unknown_architecture_says_which_are_known_and_runs_loose() {
    let (_folder, model, out) = scratch(Toy::default());
    let mut config = Toy::default().config();
    config["model_type"] = "unheard_of".into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let (code, said) = failure(&compress(&model, "int8", &out));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("unheard_of") && said.contains("llama") && said.contains("--loose"), "{said}");
    success(&[&compress(&model, "int8", &out)[..], &["--loose", "--format", "native"]].concat());
}

#[test]
fn a_group_that_does_not_divide_is_refused_with_those_that_do() {
    let (_folder, model, out) = scratch(Toy { ffn: 172, ..Toy::default() });
    let recipe = model.join("recipe.yaml");
    std::fs::write(&recipe, "about: a test\nsteps:\n  - quantize.rtn: {bits: 4, group: 64}\n").unwrap();
    let (code, said) = failure(&compress(&model, text(&recipe), &out));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("mlp.down") && said.contains("64") && said.contains("172"), "{said}");
    assert!(said.contains("hint: ") && said.contains("43"), "{said}");
    // The same with the shorter last group asked for.
    let set = ["--set", "quantize.rtn.ragged=pad", "--format", "native"];
    success(&[&compress(&model, text(&recipe), &out)[..], &set].concat());
}

#[test]
fn an_unknown_key_in_a_recipe_is_shown_with_its_line_and_the_nearest_key() {
    let (_folder, model, out) = scratch(Toy::default());
    let recipe = model.join("recipe.yaml");
    std::fs::write(&recipe, "about: a test\nsteps:\n  - quantize.rtn:\n      bits: 4\n      gruop: 64\n").unwrap();
    let (code, said) = failure(&compress(&model, text(&recipe), &out));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("gruop") && said.contains("group") && said.contains('5'), "{said}");
}

#[test]
fn an_output_directory_with_other_files_is_left_alone() {
    let (_folder, model, out) = scratch(Toy::default());
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("thesis.tex"), "years of work").unwrap();
    for more in [&[][..], &["--fresh"]] {
        let (code, said) = failure(&[&compress(&model, "int4", &out)[..], more].concat());
        assert_eq!(code, BAD_INPUT);
        assert!(said.contains("out"), "{said}");
        assert_eq!(std::fs::read_to_string(out.join("thesis.tex")).unwrap(), "years of work");
    }
    let (code, _) = failure(&compress(&model, "int4", &out.join("thesis.tex")));
    assert_eq!(code, BAD_INPUT);
}

#[test]
fn an_unwritable_output_directory_is_named() {
    let (_folder, model, _out) = scratch(Toy::default());
    let (code, said) = failure(&compress(&model, "int4", Path::new("/proc/no/such/place")));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("/proc/no"), "{said}");
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_work_starts() {
    let (folder, model, _out) = scratch(Toy { hidden: 256, ffn: 512, ..Toy::default() });
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs", text(&disk)])
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a small disk is not allowed here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let (code, said) = failure(&compress(&model, "int8", &disk.join("out")));
        assert_eq!(code, WOULD_NOT_FIT);
        assert!(said.contains("free"), "{said}");
        assert!(!looks_whole(&disk.join("out")));
    });
    Command::new("umount").arg(&disk).status().unwrap();
    outcome.unwrap();
}

#[test]
fn less_memory_than_the_plan_needs_is_refused_before_work_starts() {
    let (_folder, model, out) = scratch(Toy::default());
    let (code, said) = failure(&[&compress(&model, "int4", &out)[..], &["--max-memory", "1MiB"]].concat());
    assert_eq!(code, WOULD_NOT_FIT);
    assert!(said.contains("memory") && said.contains("hint: "), "{said}");
    assert!(!out.exists());
}

#[test]
fn a_run_keeps_to_the_memory_that_its_plan_asks_for() {
    let folder = tempfile::tempdir().unwrap();
    let more = ["--threads", "2", "--compare", "none", "--json"];
    let owl = "prune.magnitude.allocation=owl";
    for (n, (recipe, samples, length, set)) in [
        ("int4", "1", "16", "format=compressed-tensors"),
        ("gptq-int4-classic", "128", "512", "format=compressed-tensors"),
        ("gptq-int3", "96", "256", "format=native"),
        ("sparsegpt50", "64", "256", "format=dense"),
        ("wanda50", "96", "256", "format=dense"),
        ("sparse50", "96", "512", owl),
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(n.to_string());
        let given = ["--samples", samples, "--length", length, "--set", set];
        let args = [&compress(Path::new("tiny"), recipe, &out)[..], &given, &more].concat();
        let number = |args: &[&str], name: &str| {
            let report: serde_json::Value = serde_json::from_str(&success(args)).unwrap();
            report[name].as_u64().unwrap_or_else(|| panic!("`{name}` is a number"))
        };
        // With all activations in memory, and with as few as it can do with.
        let most = number(&[&args[..], &["--dry-run"]].concat(), "peak_memory_bytes");
        let refused = failure(&[&args[..], &["--max-memory", "1MiB"]].concat()).1;
        let least = refused.split(" bytes of memory").next().and_then(|said| said.rsplit(' ').next());
        let least = least.and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or_else(|| panic!("{refused}"));
        for limit in [most, least] {
            let limit_text = limit.to_string();
            let args = [&args[..], &["--fresh", "--max-memory", &limit_text]].concat();
            let peak = number(&args, "peak_rss_bytes");
            assert!(peak <= limit, "{recipe}: {peak} of {limit} bytes");
        }
    }
}

#[test]
fn a_format_that_cannot_hold_the_result_says_so_before_work_starts() {
    let (_folder, model, out) = scratch(Toy::default());
    let (code, said) =
        failure(&[&compress(&model, "svd-half", &out)[..], &["--format", "compressed-tensors"]].concat());
    assert_eq!(code, CANNOT_HOLD);
    assert!(said.contains("compressed-tensors") && said.contains("native"), "{said}");
    assert!(!out.exists());
}

#[test]
fn a_text_shorter_than_one_window_is_refused_with_both_lengths() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("short.txt");
    std::fs::write(&file, "a few words").unwrap();
    let (code, said) = failure(&["eval", "tiny", "--text", text(&file), "--window", "256"]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("256") && said.contains("short.txt"), "{said}");
}

#[test]
fn a_text_that_is_not_there_or_empty_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _) = failure(&["eval", "tiny", "--text", text(&folder.path().join("none.txt"))]);
    assert_eq!(code, BAD_INPUT);
    let file = folder.path().join("empty.txt");
    std::fs::write(&file, "").unwrap();
    let (code, _) = failure(&["eval", "tiny", "--text", text(&file)]);
    assert_eq!(code, BAD_INPUT);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_table_has_rows_is_refused() {
    let (_folder, model, _out) = scratch(Toy::default());
    std::fs::write(
        model.join("tokenizer.json"),
        brevity::TINY.iter().find(|(name, _)| *name == "tokenizer.json").unwrap().1,
    )
    .unwrap();
    let (code, said) = failure(&["eval", text(&model), "--window", "32"]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("64") && said.contains("token"), "{said}");
}

#[test]
fn a_model_without_a_tokenizer_says_so() {
    let (_folder, model, _out) = scratch(Toy::default());
    let (code, said) = failure(&["eval", text(&model), "--window", "32"]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("tokenizer"), "{said}");
}

#[test]
fn zero_length_and_one_row_tensors_are_carried_through() {
    let (_folder, model, out) = scratch(Toy::default());
    let mut tensors = Toy::default().tensors();
    tensors.insert("extra.empty".into(), (vec![0], vec![]));
    tensors.insert("extra.flat".into(), (vec![0, 7], vec![]));
    tensors.insert("extra.row".into(), (vec![1, 5], vec![1.0; 5]));
    Toy::default().write_tensors(&model, &tensors);
    success(&compress(&model, "int4", &out));
    let index = std::fs::read_to_string(out.join("model.safetensors.index.json")).unwrap();
    for name in ["extra.empty", "extra.flat", "extra.row"] {
        assert!(index.contains(name), "{name} in {index}");
    }
    success(&["inspect", text(&out), "--all"]);
}

#[cfg(unix)]
#[test]
fn a_pipe_called_gguf_is_refused_without_waiting_for_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("model.gguf");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = brevity().args(["inspect", text(&pipe)]).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("it waits for the pipe");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(BAD_INPUT));
    assert!(stderr(&output).contains("not an ordinary file"), "{}", stderr(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_that_turns_away_or_a_full_disk_does_not_bring_the_command_down() {
    let commands = [&["man"][..], &["completions", "bash"], &["recipes"], &["generate", "tiny", "--prompt", "a"]];
    for args in commands {
        let mut child =
            brevity().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the command starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = brevity().args(args).stdout(full).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(BAD_INPUT), "{args:?}: {said}");
        assert!(said.contains("error: ") && !said.contains("panicked"), "{args:?}: {said}");
    }
}

#[test]
fn more_threads_than_any_machine_has_are_refused() {
    let (code, said) = failure(&["eval", "tiny", "--threads", "100000"]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("100000") && said.contains("1024"), "{said}");
}

#[test]
fn a_recipe_that_is_a_directory_is_called_one() {
    let (folder, model, out) = scratch(Toy::default());
    let output =
        brevity().args(compress(&model, ".", &out)).current_dir(folder.path()).output().expect("the command starts");
    assert_eq!(output.status.code(), Some(BAD_INPUT));
    assert!(stderr(&output).contains("is a directory"), "{}", stderr(&output));
}

#[test]
fn generation_keeps_to_the_memory_it_may_have() {
    let (code, said) = failure(&["generate", "tiny", "--prompt", "a", "--max-memory", "1MiB"]);
    assert_eq!(code, WOULD_NOT_FIT);
    assert!(said.contains("memory"), "{said}");
}

#[test]
fn a_quantization_that_is_no_object_is_refused() {
    let (_folder, model, _out) = scratch(Toy::default());
    let mut config = Toy::default().config();
    config["quantization_config"] = 7.into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    let (code, said) = failure(&["inspect", text(&model)]);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains('7'), "{said}");
}

/// A checkpoint that takes long enough to be interrupted: about 60 MB in 24 blocks.
const LONG: Toy = Toy { blocks: 24, hidden: 512, ffn: 1024, vocabulary: 256 };

/// Waits until a directory holds so many finished shards.
fn wait_for_shards(out: &Path, count: usize) {
    let started = Instant::now();
    loop {
        let shards = std::fs::read_dir(out).map_or(0, |entries| {
            entries
                .filter(|e| e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().ends_with(".safetensors")))
                .count()
        });
        if shards >= count {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{shards} of {count} shards after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_run_killed_at_any_moment_finishes_with_the_same_bytes() {
    let (folder, model, whole) = scratch(LONG);
    success(&compress(&model, "int4", &whole));
    let expected = digests(&whole);
    for (n, shards) in [1, 9, 20].into_iter().enumerate() {
        let out = folder.path().join(format!("killed-{n}"));
        let mut child =
            brevity().args(compress(&model, "int4", &out)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for_shards(&out, shards);
        child.kill().unwrap();
        child.wait().unwrap();
        if !looks_whole(&out) {
            assert!(!run(&["inspect", text(&out)]).status.success(), "an unfinished directory does not open");
        }
        success(&compress(&model, "int4", &out));
        assert_eq!(digests(&out), expected, "killed after shard {shards}");
    }
}

#[test]
fn one_thread_and_two_write_the_same_bytes() {
    let (folder, model, _) = scratch(Toy { blocks: 3, hidden: 192, ffn: 320, vocabulary: 100 });
    for recipe in ["int8", "int4", "int4-asym", "int3", "sparse50", "sparse-2-4", "svd-half", "sparse-2-4-int4"] {
        let outs = [1, 2].map(|threads| {
            let out = folder.path().join(format!("{recipe}-{threads}"));
            success(&[&compress(&model, recipe, &out)[..], &["--threads", &threads.to_string()]].concat());
            digests(&out)
        });
        assert_eq!(outs[0], outs[1], "{recipe}");
    }
}

#[test]
fn ctrl_c_leaves_a_directory_that_can_be_resumed() {
    let (_folder, model, out) = scratch(LONG);
    let child =
        brevity().args(compress(&model, "int4", &out)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_shards(&out, 2);
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("run the same command again"), "{said}");
    assert!(!looks_whole(&out));
    success(&compress(&model, "int4", &out));
    assert!(looks_whole(&out));
}

#[test]
fn another_recipe_does_not_continue_an_unfinished_run() {
    let (_folder, model, out) = scratch(LONG);
    let mut child =
        brevity().args(compress(&model, "int4", &out)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_shards(&out, 2);
    child.kill().unwrap();
    child.wait().unwrap();
    if looks_whole(&out) {
        return;
    }
    let (code, said) = failure(&compress(&model, "int8", &out));
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("--fresh"), "{said}");
    success(&[&compress(&model, "int8", &out)[..], &["--fresh"]].concat());
}

/// A recipe that looks at activations, and is carried out on `tiny` within a second.
fn looking(folder: &Path) -> PathBuf {
    let file = folder.join("looking.yaml");
    let steps = "  - recover.retarget: {lambda: 0.1}\n  - quantize.gptq: {group: 64, damp: 0.01}\n";
    std::fs::write(&file, format!("about: a test\nformat: compressed-tensors\nsteps:\n{steps}")).unwrap();
    file
}

/// Compresses `tiny` by such a recipe.
fn look<'a>(recipe: &'a Path, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let samples = ["--samples", "64", "--length", "128", "--compare", "none"];
    [&compress(Path::new("tiny"), text(recipe), out)[..], &samples, more].concat()
}

/// The least memory with which a plan can be carried out: its activations are in files then.
#[cfg(target_os = "linux")]
fn least_memory(args: &[&str]) -> String {
    let planned = |limit: &str| -> serde_json::Value {
        serde_json::from_str(&success(&[args, &["--dry-run", "--json", "--max-memory", limit]].concat())).unwrap()
    };
    // What lies between two taps goes to a file first, then the hidden states.
    let mut limit = "1TiB".to_owned();
    for _ in 0..2 {
        limit = (planned(&limit)["peak_memory_bytes"].as_u64().unwrap() - 1).to_string();
    }
    assert!(planned(&limit)["spilled_bytes"].as_u64().unwrap() > 0);
    limit
}

/// Bytes in files without a name that a process has open.
fn hidden_bytes(process: u32) -> u64 {
    let Ok(files) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return 0 };
    let nameless = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|to| text(&to).ends_with(" (deleted)"));
    let files = files.filter_map(|entry| Some(entry.ok()?.path())).filter(nameless);
    files.filter_map(|path| Some(std::fs::metadata(path).ok()?.len())).sum()
}

/// Kills a run when so many shards are there and activations have been spilled, if they are to be, and runs it again.
fn killed_and_run_again(args: &[&str], out: &Path, shards: usize, spilled: bool) {
    let mut child = brevity().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_shards(out, shards);
    while spilled && hidden_bytes(child.id()) == 0 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    if !looks_whole(out) {
        assert!(!run(&["inspect", text(out)]).status.success(), "an unfinished directory does not open");
    }
    success(args);
}

#[test]
fn a_calibrated_run_killed_in_mid_block_finishes_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, whole) = (looking(folder.path()), folder.path().join("whole"));
    success(&look(&recipe, &whole, &["--threads", "2"]));
    for threads in ["1", "2"] {
        for shards in [1, 3, 4] {
            let out = folder.path().join(format!("killed-{threads}-{shards}"));
            killed_and_run_again(&look(&recipe, &out, &["--threads", threads]), &out, shards, false);
            assert_eq!(digests(&out), digests(&whole), "{threads} threads, killed after shard {shards}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_calibrated_run_killed_in_mid_spill_finishes_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, whole) = (looking(folder.path()), folder.path().join("whole"));
    success(&look(&recipe, &whole, &["--threads", "2"]));
    for threads in ["1", "2"] {
        let memory = least_memory(&look(&recipe, &whole, &["--threads", threads]));
        for shards in [0, 2, 4] {
            let out = folder.path().join(format!("killed-{threads}-{shards}"));
            let args = look(&recipe, &out, &["--threads", threads, "--max-memory", &memory]);
            killed_and_run_again(&args, &out, shards, true);
            assert_eq!(digests(&out), digests(&whole), "{threads} threads, killed after shard {shards}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_with_activations_is_named_and_the_run_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, whole, out) = (looking(folder.path()), folder.path().join("whole"), folder.path().join("out"));
    success(&look(&recipe, &whole, &["--threads", "2"]));
    let memory = least_memory(&look(&recipe, &out, &["--threads", "1"]));
    let args = look(&recipe, &out, &["--threads", "1", "--max-memory", &memory]);
    // No file may become larger than a few MiB, more than a shard has: beyond that writing fails as on a full disk.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 5000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_brevity")])
        .args(&args)
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(WOULD_NOT_FIT), "{said}");
    assert!(said.contains(&format!("cannot keep activations in a file in `{}`", text(&out))), "{said}");
    assert!(said.contains("run the same command again") && said.contains("--max-memory"), "{said}");
    assert!(!looks_whole(&out));
    success(&args);
    assert_eq!(digests(&out), digests(&whole));
}

#[test]
fn a_calibration_text_that_is_empty_is_refused_and_one_line_is_one_short_sample() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, out, file) = (looking(folder.path()), folder.path().join("out"), folder.path().join("text.txt"));
    std::fs::write(&file, "").unwrap();
    let args = look(&recipe, &out, &["--text", text(&file)]);
    let (code, said) = failure(&args);
    assert_eq!(code, BAD_INPUT);
    assert!(said.contains("`text.txt` cannot be used for calibration: it has 0 tokens"), "{said}");
    assert!(said.contains("hint: give a text"), "{said}");
    assert!(!out.exists());
    std::fs::write(&file, "a poodle is a kind of dog\n").unwrap();
    assert!(success(&args).contains("calibrated on 1 samples of "));
    let record = std::fs::read_to_string(out.join("compression.json")).unwrap();
    assert!(record.contains("samples were seen of 256 inputs; more would serve it better"));
}

#[test]
fn a_calibration_text_in_a_script_that_the_tokenizer_hardly_knows_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (recipe, file) = (looking(folder.path()), folder.path().join("text.txt"));
    for (n, (words, told)) in
        [("日本語の文章はここにあります。", true), ("ქართული ენა ლამაზია. ", true), ("a dog is an animal. ", false)]
            .into_iter()
            .enumerate()
    {
        std::fs::write(&file, words.repeat(60)).unwrap();
        let out = folder.path().join(n.to_string());
        let output = run(&look(&recipe, &out, &["--text", text(&file)]));
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("note: the tokenizer makes "), told, "{words}: {said}");
    }
}
