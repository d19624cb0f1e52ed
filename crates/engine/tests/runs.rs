//! Runs: the same bytes however they came about, and nothing half done that looks whole.

mod common;

use std::path::Path;

use brevity_engine::{Error, Plan, RECORD, Recipe, RunOptions, Turn};
use brevity_formats::Checkpoint;
use brevity_model::{Expr, Linear, Stage, Weight};
use common::{Llama, StopAfter, files, is_stop, options, plan, recipe, run};

/// A layer of an opened output.
fn layer(checkpoint: &Checkpoint, site: &str) -> Linear<Weight> {
    let site: brevity_model::Site = site.parse().unwrap();
    for n in 0..checkpoint.model().stages.len() {
        let mut stage: Stage<Weight> = checkpoint.load_stage(n).unwrap();
        if checkpoint.model().place(n) == site.place {
            return stage.linears_mut().into_iter().find(|(role, _)| *role == site.role).unwrap().1.clone();
        }
    }
    panic!("no {site}");
}

#[test]
fn threads_do_not_change_a_byte() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 64, 96, true).checkpoint(&dir.path().join("in"));
    for stock in Recipe::list() {
        let mut recipe = stock.recipe().unwrap();
        if let Some(cut) = &mut recipe.vectors {
            // There is no tokenizer to find the best dimensions with.
            (cut.dims, cut.turn) = (8, Turn::None);
        }
        let outputs = [1, 2, 5].map(|threads| {
            let out = dir.path().join(format!("{}-{threads}", stock.name));
            let plan = Plan::make(&checkpoint, &recipe, &options(&checkpoint, threads)).unwrap();
            plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap();
            files(&out)
        });
        assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2], "{}", stock.name);
    }
}

#[test]
fn a_run_that_was_stopped_anywhere_ends_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 64, false).checkpoint(&dir.path().join("in"));
    let recipe = recipe(
        "format: native\nsteps:\n  - prune.magnitude: {sparsity: 0.6}\n  - quantize.rtn: {bits: 3, group: 32}\n",
    );
    let whole = dir.path().join("whole");
    run(&checkpoint, &recipe, &whole);
    let expected = files(&whole);
    // Each question is a stage or a layer about to begin: 5 stages, 21 layers.
    for questions in [0, 1, 2, 3, 5, 9, 10, 13, 18, 20, 25] {
        let out = dir.path().join(format!("stopped-{questions}"));
        let plan = plan(&checkpoint, &recipe);
        let error = plan
            .run(&checkpoint, &out, &RunOptions::default(), &mut StopAfter::questions(questions))
            .expect_err("the run is stopped");
        assert!(is_stop(&error), "{error}");
        assert!(Checkpoint::open(&out).is_err(), "what is half done does not look whole");
        let report = plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap();
        assert_eq!(files(&out), expected, "after {questions} questions");
        assert!(report.sites.len() == 21 && report.resumed <= 5);
    }
}

#[test]
fn a_run_killed_while_it_wrote_a_shard_writes_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 64, true).checkpoint(&dir.path().join("in"));
    let recipe = Recipe::named("int8").unwrap();
    let whole = dir.path().join("whole");
    run(&checkpoint, &recipe, &whole);
    let out = dir.path().join("killed");
    let plan = plan(&checkpoint, &recipe);
    plan.run(&checkpoint, &out, &RunOptions::default(), &mut StopAfter::questions(10)).unwrap_err();
    // What a kill leaves: the beginning of a shard beside its place, and a shard that never reached the disk whole.
    std::fs::write(out.join(".model-00003-of-00004.safetensors.part"), b"half").unwrap();
    let first = out.join("model-00001-of-00004.safetensors");
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&first, &bytes[..bytes.len() / 2]).unwrap();
    plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap();
    assert_eq!(files(&out), files(&whole));
}

#[test]
fn a_finished_output_is_found_finished() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 64, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    let recipe = Recipe::named("int8").unwrap();
    let first = run(&checkpoint, &recipe, &out);
    let before = files(&out);
    let again = run(&checkpoint, &recipe, &out);
    assert_eq!(files(&out), before);
    assert_eq!((again.resumed, again.sites.len()), (4, first.sites.len()));
    assert_eq!(again.sites[0].relative_error, first.sites[0].relative_error);
    // A shard that was damaged since is written anew.
    let shard = out.join("model-00002-of-00004.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&shard, bytes).unwrap();
    assert_eq!(run(&checkpoint, &recipe, &out).resumed, 3);
    assert_eq!(files(&out), before);
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 64, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("thesis.txt"), "years of work").unwrap();
    let plan = plan(&checkpoint, &Recipe::named("int8").unwrap());
    for fresh in [false, true] {
        let error = plan.run(&checkpoint, &out, &RunOptions { fresh }, &mut ()).unwrap_err();
        assert!(error.to_string().contains("thesis.txt"), "{error}");
        assert!(error.hint().is_some());
    }
    assert_eq!(files(&out).len(), 1);
}

#[test]
fn another_recipe_needs_another_directory_or_a_fresh_start() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 64, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    run(&checkpoint, &Recipe::named("int8").unwrap(), &out);
    let other = plan(&checkpoint, &Recipe::named("sparse50").unwrap());
    let error = other.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap_err();
    assert!(error.hint().unwrap().contains("--fresh"), "{error}");
    other.run(&checkpoint, &out, &RunOptions { fresh: true }, &mut ()).unwrap();
    let clean = dir.path().join("clean");
    run(&checkpoint, &Recipe::named("sparse50").unwrap(), &clean);
    assert_eq!(files(&out), files(&clean));
}

#[test]
fn another_input_under_the_same_name_is_another_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(1, 32, 64, true);
    let input = dir.path().join("in");
    let recipe = Recipe::named("int8").unwrap();
    let out = dir.path().join("out");
    let first = plan(&llama.checkpoint(&input), &recipe);
    first
        .run(&Checkpoint::open(&input).unwrap(), &out, &RunOptions::default(), &mut StopAfter::questions(4))
        .unwrap_err();
    llama.tensors.values_mut().for_each(|(_, values)| values.iter_mut().for_each(|x| *x *= 2.0));
    let tuned = llama.checkpoint(&input);
    let error = plan(&tuned, &recipe).run(&tuned, &out, &RunOptions::default(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("another recipe, input or seed"), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_named_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(2, 32, 64, true);
    let (_, values) = llama.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
    (values[3], values[9], values[11]) = (f32::NAN, f32::INFINITY, f32::NAN);
    let checkpoint = llama.checkpoint(&dir.path().join("in"));
    let plan = plan(&checkpoint, &Recipe::named("int8").unwrap());
    let out = dir.path().join("out");
    let error = plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("model.layers.1.mlp.up_proj.weight") && text.contains('2') && text.contains('1'), "{text}");
    assert!(Checkpoint::open(&out).is_err());
}

#[test]
fn untouched_tensors_and_files_are_carried_through() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    let checkpoint = Llama::new(2, 64, 128, false).checkpoint(&input);
    let out = dir.path().join("out");
    run(&checkpoint, &Recipe::named("int4").unwrap(), &out);
    let written = Checkpoint::open(&out).unwrap();
    for name in
        ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"]
    {
        let (before, after) = (checkpoint.container().raw(name).unwrap(), written.container().raw(name).unwrap());
        assert_eq!((before.dtype, before.shape, before.bytes), (after.dtype, after.shape, after.bytes), "{name}");
    }
    let files = files(&out);
    assert_eq!(files["generation_config.json"], b"{\"eos_token_id\": 2}");
    let config: serde_json::Value = serde_json::from_slice(&files["config.json"]).unwrap();
    assert_eq!(config["custom_key"]["kept"], true);
    let card = String::from_utf8(files["README.md"].clone()).unwrap();
    assert!(card.contains("license: \"mit\"") && card.contains("quantize.rtn: {bits: 4"), "{card}");
}

#[test]
fn the_record_says_what_was_done_and_nothing_that_changes_from_run_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 64, 64, true).checkpoint(&dir.path().join("a llama"));
    let out = dir.path().join("out");
    let report = run(&checkpoint, &Recipe::named("int4").unwrap(), &out);
    let text = std::fs::read_to_string(out.join(RECORD)).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["model"], "a llama");
    assert_eq!(record["recipe"]["steps"][0]["quantize.rtn"]["bits"], 4);
    assert_eq!(record["sites"].as_array().unwrap().len(), 7);
    assert_eq!(record["inputs"].as_array().unwrap().len(), 3);
    let q = &record["sites"][0];
    assert_eq!((q["site"].as_str(), q["method"].as_str()), (Some("blocks.0.attn.q"), Some("quantize.rtn")));
    let error = q["relative_error"].as_f64().unwrap();
    assert!(error > 0.03 && error < 0.2, "{error}");
    for absent in ["second", "thread", "rss", dir.path().to_str().unwrap()] {
        assert!(!text.contains(absent), "{absent}");
    }
    let json = report.to_json("out");
    for key in [
        "out",
        "format",
        "size_bytes_before",
        "size_bytes_after",
        "bits_per_weight",
        "seconds",
        "peak_rss_bytes",
        "sites",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
}

#[test]
fn factors_are_quantized() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 64, 128, true).checkpoint(&dir.path().join("in"));
    let recipe = recipe(
        "format: native\nsteps:\n  - decompose.svd: {rank: 16, at: mlp}\n  - quantize.rtn: {bits: 8, group: 16, at: mlp}\n",
    );
    let out = dir.path().join("out");
    let report = run(&checkpoint, &recipe, &out);
    assert!(report.sites.iter().all(|site| site.method == "decompose.svd + quantize.rtn"));
    let up = layer(&Checkpoint::open(&out).unwrap(), "blocks.0.mlp.up");
    let Expr::Product(factors) = &up.weight else { panic!("a product") };
    assert_eq!(factors.each_ref().map(|factor| factor.shape()), [[128, 16], [16, 64]]);
    assert!(brevity_model::Form::of(&up.weight).leaves().iter().all(|(_, leaf)| leaf.is_coded()));
}

#[test]
fn what_was_pruned_is_zero_after_quantization() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 64, 128, true).checkpoint(&dir.path().join("in"));
    for format in ["compressed-tensors", "native", "dense"] {
        let mut recipe = Recipe::named("sparse-2-4-int4").unwrap();
        recipe.set(&format!("format={format}")).unwrap();
        let out = dir.path().join(format);
        let report = run(&checkpoint, &recipe, &out);
        assert!(report.sites.iter().all(|site| site.sparsity == 0.5));
        let down = layer(&Checkpoint::open(&out).unwrap(), "blocks.0.mlp.down").weight.to_f32();
        assert!(down.chunks(4).all(|four| four.iter().filter(|x| **x == 0.0).count() >= 2), "{format}");
        assert!(down.iter().filter(|x| **x != 0.0).count() > down.len() / 3, "{format}");
    }
}

#[test]
fn a_global_threshold_is_found_before_the_first_layer_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(2, 32, 64, true);
    // The second block is ten times larger: a global threshold takes everything from the first.
    for (name, (_, values)) in &mut llama.tensors {
        if name.contains("layers.1.") && !name.contains("norm") {
            values.iter_mut().for_each(|x| *x *= 10.0);
        }
    }
    let checkpoint = llama.checkpoint(&dir.path().join("in"));
    for format in ["dense", "native"] {
        let text = format!("format: {format}\nsteps:\n  - prune.magnitude: {{sparsity: 0.4, scope: global}}\n");
        let recipe = recipe(&text);
        let out = dir.path().join(format);
        let planned = plan(&checkpoint, &recipe);
        let report = run(&checkpoint, &recipe, &out);
        assert_eq!(common::weight_bytes(&out), planned.size.size_bytes_after, "{format}");
        let sparsity = |block: &str| {
            let rows = report.sites.iter().filter(|site| site.site.to_string().starts_with(block));
            rows.clone().map(|site| site.sparsity).sum::<f64>() / rows.count() as f64
        };
        assert!(sparsity("blocks.0") > 0.6 && sparsity("blocks.1") < 0.2, "{format}");
        // Stopped and resumed, the threshold is found again.
        let stopped = dir.path().join(format!("{format}-stopped"));
        planned.run(&checkpoint, &stopped, &RunOptions::default(), &mut StopAfter::questions(12)).unwrap_err();
        planned.run(&checkpoint, &stopped, &RunOptions::default(), &mut ()).unwrap();
        assert_eq!(files(&stopped), files(&out), "{format}");
    }
}

#[test]
fn ranks_by_energy_are_known_in_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 64, true).checkpoint(&dir.path().join("in"));
    let recipe = recipe("format: native\nsteps:\n  - decompose.svd: {energy: 0.6}\n");
    let planned = plan(&checkpoint, &recipe);
    let out = dir.path().join("out");
    run(&checkpoint, &recipe, &out);
    assert_eq!(common::weight_bytes(&out), planned.size.size_bytes_after);
}

#[test]
fn a_recipe_without_steps_changes_the_format_alone() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    let checkpoint = Llama::new(2, 64, 64, false).checkpoint(&input);
    for (name, step) in [
        ("grids", "quantize.rtn: {bits: 4, group: 32}"),
        ("factors", "decompose.svd: {ratio: 0.5}"),
        ("trains", "decompose.mpo: {ratio: 0.5}"),
    ] {
        let coded = dir.path().join(name);
        run(&checkpoint, &recipe(&format!("format: native\nsteps:\n  - {step}\n")), &coded);
        let coded = Checkpoint::open(&coded).unwrap();
        let mut carry = Recipe::named("int4").unwrap();
        carry.steps.clear();
        carry.format = Some("dense".to_owned());
        let out = dir.path().join(format!("dense {name}"));
        let report = run(&coded, &carry, &out);
        assert!(report.sites.is_empty());
        let dense = Checkpoint::open(&out).unwrap();
        let (before, after) = (layer(&coded, "blocks.1.mlp.up").weight, layer(&dense, "blocks.1.mlp.up").weight);
        assert!(before.to_f32().iter().zip(after.to_f32()).all(|(a, b)| (a - b).abs() <= a.abs() / 128.0), "{name}");
    }
}

#[test]
fn a_shard_that_does_not_read_back_is_named_and_nothing_looks_whole() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 64, true).checkpoint(&dir.path().join("in"));
    let plan = plan(&checkpoint, &Recipe::named("int8").unwrap());
    let out = dir.path().join("out");
    let mut vandal = Vandal(out.clone());
    let error = plan.run(&checkpoint, &out, &RunOptions::default(), &mut vandal).unwrap_err();
    match &error {
        Error::Verify { file, .. } => assert_eq!(file, "model-00001-of-00003.safetensors"),
        other => panic!("{other}"),
    }
    assert!(Checkpoint::open(&out).is_err());
    // The same command again puts it right.
    plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap();
    assert!(Checkpoint::open(&out).is_ok());
}

/// Flips a bit of the first shard as soon as it is there.
struct Vandal(std::path::PathBuf);

impl Vandal {
    fn flip(path: &Path) {
        let mut bytes = std::fs::read(path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

impl brevity_engine::Observer for Vandal {
    fn stage(&mut self, done: usize, _: usize, _: &[brevity_engine::SiteReport]) {
        if done == 1 {
            Self::flip(&self.0.join("model-00001-of-00003.safetensors"));
        }
    }
}
