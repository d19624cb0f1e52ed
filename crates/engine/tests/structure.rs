//! Channels, heads, dimensions and layers taken out, on every architecture: what was planned comes out, runs, and goes on
//! where it was stopped.

mod common;

use brevity_engine::{Error, Plan, RunOptions};
use brevity_formats::Checkpoint;
use brevity_kernels::ops::Compute;
use brevity_model::{STRUCTURE, Stage};
use brevity_runtime::Resident;
use common::{Llama, StopAfter, files, golden, options, plan, recipe, run, weight_bytes};

/// Recipes that take something out, then factor or quantize what is left.
const RECIPES: [(&str, &str); 8] = [
    ("channels", "format: native\nsteps:\n  - prune.channels: {sparsity: 0.5, multiple: 4}\n"),
    ("heads", "format: native\nsteps:\n  - prune.heads: {sparsity: 0.5}\n"),
    ("layers", "format: native\nsteps:\n  - prune.layers: {count: 1, first: 0, last: 0}\n"),
    (
        "sublayers",
        "format: native\nsteps:\n  - prune.layers: {count: 2, unit: sublayer, first: 0, last: 0, by: loss}\n",
    ),
    ("modegpt", "format: native\nsteps:\n  - decompose.modegpt: {sparsity: 0.4, multiple: 4}\n"),
    (
        "all of it",
        "format: native\nsteps:\n  - prune.layers: {count: 1, unit: attn, first: 0, last: 0}\n  - prune.heads: {sparsity: 0.4}\n  - prune.channels: {sparsity: 0.3, multiple: 2}\n  - decompose.svd: {ratio: 0.6, at: mlp}\n  - quantize.rtn: {bits: 4, group: channel}\n",
    ),
    (
        "all of it, made up for",
        "format: native\nsteps:\n  - prune.layers: {count: 1, unit: attn, first: 0, last: 0}\n  - prune.heads: {sparsity: 0.4}\n  - prune.channels: {sparsity: 0.3, multiple: 2}\n  - recover.norm: {}\n  - recover.residual: {}\n  - recover.bias: {}\n  - quantize.rtn: {bits: 8, group: channel}\n",
    ),
    (
        "modegpt and gptq",
        "format: native\nsteps:\n  - decompose.modegpt: {sparsity: 0.3, multiple: 4}\n  - recover.retarget: {except: [attn.o, mlp.down]}\n  - quantize.gptq: {bits: 4, group: 8, ragged: pad}\n",
    ),
];

fn logits(checkpoint: &Checkpoint) -> Option<Vec<f32>> {
    let model = Resident::load(checkpoint, Compute::F32).unwrap();
    let ids: Vec<u32> = (0..9).map(|n| n * 5 % checkpoint.model().vocabulary.min(40) as u32).collect();
    let logits = if checkpoint.model().has_logits() { model.logits(&ids) } else { model.hidden(&ids) };
    let logits: Vec<f32> = logits.unwrap().flatten_all().unwrap().to_vec1().unwrap();
    logits.iter().all(|x| x.is_finite()).then_some(logits)
}

#[test]
fn on_every_architecture_what_is_planned_comes_out_and_runs() {
    let dir = tempfile::tempdir().unwrap();
    for (name, path) in golden(dir.path()) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        for (what, text) in RECIPES {
            let out = dir.path().join(format!("{name}-{what}"));
            let planned = match Plan::make(&checkpoint, &recipe(text), &options(&checkpoint, 1)) {
                Ok(planned) => planned,
                Err(error) => panic!("{name}, {what}: {error}"),
            };
            let report = planned.run(&checkpoint, &out, &RunOptions::default(), &mut ());
            let report = report.unwrap_or_else(|error| panic!("{name}, {what}: {error}"));
            assert_eq!(weight_bytes(&out), planned.size.size_bytes_after, "{name}, {what}");
            assert!(planned.size.size_bytes_after < planned.size.size_bytes_before, "{name}, {what}");
            assert!(!report.sites.is_empty(), "{name}, {what}");
            let [before, after] = planned.cache;
            assert!(!what.starts_with("modegpt") || after < before, "{name}, {what}: the cache shrinks");
            let written = Checkpoint::open(&out).unwrap_or_else(|error| panic!("{name}, {what}: {error}"));
            assert!(logits(&written).is_some(), "{name}, {what}: it runs");
        }
    }
}

#[test]
fn a_run_that_was_stopped_anywhere_ends_with_the_same_bytes_at_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    for (what, text) in RECIPES {
        let recipe = recipe(text);
        let whole = dir.path().join(format!("whole {what}"));
        run(&checkpoint, &recipe, &whole);
        let expected = files(&whole);
        for (threads, questions) in [(1, 3), (2, 17), (1, 40), (2, 90)] {
            let out = dir.path().join(format!("{what} {questions}"));
            let plan = Plan::make(&checkpoint, &recipe, &options(&checkpoint, threads)).unwrap();
            let stopped = plan.run(&checkpoint, &out, &RunOptions::default(), &mut StopAfter::questions(questions));
            if stopped.is_err() {
                assert!(Checkpoint::open(&out).is_err(), "what is half done does not look whole");
                plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            assert!(files(&out) == expected, "{what} after {questions} questions");
        }
    }
}

#[test]
fn in_the_least_memory_that_is_taken_the_same_bytes_come_out() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 64, 96, true).checkpoint(&dir.path().join("in"));
    for (what, text) in RECIPES {
        let recipe = recipe(text);
        let plan = |limit| {
            let options = brevity_engine::PlanOptions { max_memory: limit, ..options(&checkpoint, 1) };
            Plan::make(&checkpoint, &recipe, &options)
        };
        let Err(Error::Memory { needed, .. }) = plan(Some(1)) else { panic!("{what}: a byte is enough") };
        assert!(matches!(plan(Some(needed - 1)), Err(Error::Memory { .. })), "{what}");
        let (ample, least) = (dir.path().join(format!("{what} ample")), dir.path().join(format!("{what} least")));
        run(&checkpoint, &recipe, &ample);
        plan(Some(needed)).unwrap().run(&checkpoint, &least, &RunOptions::default(), &mut ()).unwrap();
        assert!(files(&least) == files(&ample), "{what}");
    }
}

#[test]
fn samples_go_on_with_the_channels_that_are_left() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, false).checkpoint(&dir.path().join("in"));
    let cut = "  - prune.channels: {sparsity: 0.5, multiple: 4, at: blocks.0}\n";
    let quantize = "  - quantize.gptq: {bits: 4, group: 8, ragged: pad, at: [blocks.0.mlp.down, blocks.1]}\n";
    let path = |name: &str| dir.path().join(name);
    run(&checkpoint, &recipe(&format!("format: native\nsteps:\n{cut}{quantize}")), &path("both"));
    run(&checkpoint, &recipe(&format!("format: native\nsteps:\n{cut}")), &path("first"));
    let first = Checkpoint::open(&path("first")).unwrap();
    run(&first, &recipe(&format!("format: native\nsteps:\n{quantize}")), &path("second"));
    // What the second block is fitted to does not depend on how the samples came to it.
    let [both, second] = ["both", "second"].map(|name| Checkpoint::open(&path(name)).unwrap());
    for n in [1, 2] {
        assert_eq!(both.load_stage(n).unwrap(), second.load_stage(n).unwrap(), "stage {n}");
    }
}

#[test]
fn dropped_blocks_are_renumbered_and_any_reader_of_the_architecture_can_open_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(4, 32, 48, false).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    run(&checkpoint, &recipe("format: dense\nsteps:\n  - prune.layers: {count: 2, first: 1, last: 0}\n"), &out);
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.config().get("num_hidden_layers").unwrap(), 2);
    assert!(written.config().get(STRUCTURE).is_none());
    assert!(out.join("model.safetensors.index.json").exists());
    let names = written.container().names();
    assert!(names.contains(&"model.layers.1.mlp.up_proj.weight".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("model.layers.2")), "{names:?}");
    assert!(logits(&written).is_some());
}

#[test]
fn a_block_that_adds_nothing_is_dropped_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(3, 32, 48, false);
    for name in ["self_attn.o_proj", "mlp.down_proj"] {
        llama.tensors.get_mut(&format!("model.layers.1.{name}.weight")).unwrap().1.fill(0.0);
    }
    let checkpoint = llama.checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    run(&checkpoint, &recipe("format: dense\nsteps:\n  - prune.layers: {count: 1, first: 0, last: 0}\n"), &out);
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.config().get("num_hidden_layers").unwrap(), 2);
    assert_eq!(logits(&checkpoint), logits(&written));
}

#[test]
fn channels_cut_alike_in_all_blocks_are_said_in_the_words_of_the_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    run(&checkpoint, &recipe("format: dense\nsteps:\n  - prune.channels: {sparsity: 0.5}\n"), &out);
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.config().get("intermediate_size").unwrap(), 24);
    assert!(written.config().get(STRUCTURE).is_none());
    let out = dir.path().join("heads");
    run(&checkpoint, &recipe("format: dense\nsteps:\n  - prune.heads: {sparsity: 0.5, unit: even}\n"), &out);
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.config().get("num_attention_heads").unwrap(), 2);
    assert_eq!(written.config().get("head_dim").unwrap(), 8);
    assert!(logits(&written).is_some());
}

#[test]
fn shapes_that_the_architecture_cannot_say_are_refused_with_a_format_that_can() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    for text in [
        "format: dense\nsteps:\n  - decompose.modegpt: {sparsity: 0.3}\n",
        "format: compressed-tensors\nsteps:\n  - prune.layers: {count: 1, unit: attn, first: 0}\n  - quantize.rtn: {bits: 4, group: 8}\n",
        "format: dense\nsteps:\n  - prune.heads: {sparsity: 0.25}\n",
        "format: dense\nsteps:\n  - prune.channels: {sparsity: 0.5, centre: true}\n",
    ] {
        let error = Plan::make(&checkpoint, &recipe(text), &options(&checkpoint, 1)).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Unholdable { .. }), "{text}: {error}");
        assert!(error.hint().unwrap().contains("native"), "{error}: {:?}", error.hint());
    }
}

#[test]
fn a_step_for_whole_sublayers_takes_no_part_of_one_and_stands_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("in"));
    let error = |text| {
        let error = Plan::make(&checkpoint, &recipe(text), &options(&checkpoint, 1)).map(|_| ()).unwrap_err();
        format!("{error}; {}", error.hint().unwrap())
    };
    let part = error("format: native\nsteps:\n  - prune.channels: {sparsity: 0.5, at: mlp.up}\n");
    assert!(
        part.contains("has `blocks.0.mlp.up` but not `blocks.0.mlp.gate`") && part.contains("as a whole"),
        "{part}"
    );
    let late = error("format: native\nsteps:\n  - quantize.rtn: {bits: 4}\n  - prune.channels: {sparsity: 0.5}\n");
    assert!(late.contains("behind `quantize.rtn`") && late.contains("in front"), "{late}");
    let narrowed =
        error("format: native\nsteps:\n  - prune.channels: {sparsity: 0.5}\n  - recover.retarget: {at: mlp}\n");
    assert!(narrowed.contains("`blocks.0.mlp.down`") && narrowed.contains("except: [mlp.down]"), "{narrowed}");
    let none = error("format: native\nsteps:\n  - prune.channels: {sparsity: 0.5, at: attn}\n");
    assert!(none.contains("leaves out every layer"), "{none}");
}

#[test]
fn without_a_text_a_plan_that_depends_on_one_is_an_estimate_and_is_not_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(4, 32, 48, true).checkpoint(&dir.path().join("in"));
    let recipe = recipe("format: native\nsteps:\n  - prune.layers: {count: 1}\n");
    let plan = Plan::make(&checkpoint, &recipe, &brevity_engine::PlanOptions::default()).unwrap();
    assert!(plan.lints.iter().any(|lint| lint.what.contains("depends on a text")), "{:?}", plan.lints);
    let error = plan.run(&checkpoint, &dir.path().join("out"), &RunOptions::default(), &mut ()).unwrap_err();
    assert!(matches!(error, Error::NoText { .. }), "{error}");
}

#[test]
fn what_was_cut_can_be_cut_again() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    let once = dir.path().join("once");
    let first = recipe(
        "format: native\nsteps:\n  - prune.layers: {count: 1, unit: attn, first: 0}\n  - decompose.modegpt: {sparsity: 0.25, multiple: 4}\n",
    );
    run(&checkpoint, &first, &once);
    let cut = Checkpoint::open(&once).unwrap();
    let again = dir.path().join("again");
    let second = recipe(
        "format: native\nsteps:\n  - decompose.modegpt: {sparsity: 0.25, multiple: 4}\n  - quantize.rtn: {bits: 8, group: channel}\n",
    );
    let planned = plan(&cut, &second);
    run(&cut, &second, &again);
    assert_eq!(weight_bytes(&again), planned.size.size_bytes_after);
    let written = Checkpoint::open(&again).unwrap();
    assert!(logits(&written).is_some());
    // Left alone it stays what it is.
    let same = dir.path().join("same");
    run(
        &cut,
        &recipe("format: native\nsteps:\n  - quantize.rtn: {bits: 8, group: channel, at: blocks.0.mlp}\n"),
        &same,
    );
    let (a, b) = (logits(&cut).unwrap(), logits(&Checkpoint::open(&same).unwrap()).unwrap());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 0.2), "only rounding lies between them");
}

/// Logits of many tokens, drawn like those of the samples.
fn many(checkpoint: &Checkpoint) -> Vec<f32> {
    let model = Resident::load(checkpoint, Compute::F32).unwrap();
    let windows = common::samples(50, 24, 64, Compute::F32).samples.windows;
    let logits = windows[40..].iter().map(|ids| model.logits(ids).unwrap().flatten_all().unwrap().to_vec1().unwrap());
    logits.collect::<Vec<Vec<f32>>>().concat()
}

/// `Σ (a - b)²`.
fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[test]
fn the_residual_stream_is_brought_back_whatever_was_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(4, 32, 48, false).checkpoint(&dir.path().join("in"));
    let dense = many(&checkpoint);
    for (n, step) in [
        "prune.layers: {count: 1, first: 1, last: 1}",
        "prune.heads: {sparsity: 0.5, compensate: none}",
        "prune.channels: {sparsity: 0.5, compensate: none}",
        "decompose.modegpt: {sparsity: 0.5, multiple: 4}",
        "decompose.svd: {ratio: 0.5, at: mlp}",
    ]
    .into_iter()
    .enumerate()
    {
        let lost = |name: &str, more: &str| {
            let out = dir.path().join(format!("{name} {n}"));
            let text = format!("format: native\nsteps:\n  - {step}\n{more}");
            let calibration = common::samples(40, 24, 64, Compute::F32);
            let options =
                brevity_engine::PlanOptions { threads: 2, calibration: Some(calibration), ..Default::default() };
            let plan = Plan::make(&checkpoint, &recipe(&text), &options).unwrap_or_else(|error| panic!("{error}"));
            let report = plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap();
            let closed = report.sites.iter().filter_map(|row| row.figures.get("gap_closed"));
            assert!(closed.clone().all(|closed| (0.0..=1.0).contains(closed)), "{step}");
            assert!(more.is_empty() == (closed.count() == 0), "{step}");
            squared(&dense, &many(&Checkpoint::open(&out).unwrap()))
        };
        let (plain, recovered) = (lost("plain", ""), lost("recovered", "  - recover.residual: {}\n"));
        println!("{step}: {plain} {recovered}");
        assert!(recovered < plain, "{step}: {plain} {recovered}");
    }
}

#[test]
fn where_nothing_was_lost_nothing_is_refitted() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    let report =
        run(&checkpoint, &recipe("format: dense\nsteps:\n  - recover.norm: {}\n  - recover.residual: {}\n"), &out);
    let notes: Vec<&String> = report.sites.iter().flat_map(|row| &row.notes).collect();
    assert_eq!(notes.len(), 8, "{notes:?}");
    assert!(notes.iter().all(|note| note.contains("not refitted")), "{notes:?}");
    assert_eq!(logits(&checkpoint), logits(&Checkpoint::open(&out).unwrap()));
}

#[test]
fn sublayers_that_are_normed_behind_are_named_in_the_plan_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let text = "format: native\nsteps:\n  - prune.channels: {sparsity: 0.5, multiple: 4}\n  - recover.residual: {}\n";
    for (name, path) in golden(dir.path()) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let normed = checkpoint.model().stages.iter().any(|stage| match stage {
            Stage::Block(block) => {
                block.attn.as_ref().is_some_and(|attn| attn.after.is_some() || attn.sum.is_some())
                    || block.mlp.as_ref().is_some_and(|mlp| mlp.after.is_some() || mlp.sum.is_some())
            }
            _ => false,
        });
        let plan = plan(&checkpoint, &recipe(text));
        let said = plan.lints.iter().any(|lint| lint.what.contains("recover.residual") && lint.hint.contains("normed"));
        assert_eq!(said, normed, "{name}: {:?}", plan.lints);
        let report = plan.run(&checkpoint, &dir.path().join(format!("{name} out")), &RunOptions::default(), &mut ());
        let rows = report.unwrap().sites;
        let left = rows.iter().filter(|row| row.notes.iter().any(|note| note.contains("is normed before")));
        assert_eq!(left.count() > 0, normed, "{name}");
    }
}

#[test]
fn biases_are_corrected_behind_channels_and_heads_that_went() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden(dir.path()).into_iter().find(|(name, _)| name == "gpt2").unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let dense = logits(&checkpoint).unwrap();
    let lost = |name: &str, more: &str| {
        let out = dir.path().join(name);
        let text = format!(
            "format: native\nsteps:\n  - prune.channels: {{sparsity: 0.5, compensate: none}}\n  - prune.heads: {{sparsity: 0.5, compensate: none}}\n{more}"
        );
        let report = run(&checkpoint, &recipe(&text), &out);
        let moved = report.sites.iter().filter(|row| row.figures.contains_key("bias_shift")).count();
        assert!(more.is_empty() || moved > 0);
        squared(&dense, &logits(&Checkpoint::open(&out).unwrap()).unwrap())
    };
    let (plain, corrected) = (lost("plain", ""), lost("corrected", "  - recover.bias: {}\n"));
    assert!(corrected < plain, "{plain} {corrected}");
}
