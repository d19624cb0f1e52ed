//! Runs whose methods look at activations.

mod common;

use std::path::Path;

use brevity_engine::{Calibration, Error, Plan, PlanOptions, Recipe, Report, RunOptions, Samples, Wanted};
use brevity_formats::Checkpoint;
use brevity_kernels::ops::Compute;
use brevity_model::{Mask, Place, Stage, Weight};
use brevity_runtime::Resident;
use common::{Llama, StopAfter, files, golden, is_stop, recipe, samples};

fn options(threads: usize, calibration: Calibration) -> PlanOptions {
    PlanOptions { threads, calibration: Some(calibration), model: Some("m".into()), ..PlanOptions::default() }
}

fn plan(checkpoint: &Checkpoint, recipe: &Recipe, threads: usize) -> Plan {
    plan_with(checkpoint, recipe, &options(threads, samples(6, 24, 64, Compute::F32)))
}

fn plan_with(checkpoint: &Checkpoint, recipe: &Recipe, options: &PlanOptions) -> Plan {
    Plan::make(checkpoint, recipe, options).unwrap_or_else(|error| panic!("{error} {:?}", error.hint()))
}

fn carry_out(plan: &Plan, checkpoint: &Checkpoint, out: &Path) -> Report {
    plan.run(checkpoint, out, &RunOptions::default(), &mut ())
        .unwrap_or_else(|error| panic!("{error} {:?}", error.hint()))
}

const RECIPES: &[&str] = &[
    "format: compressed-tensors\nsteps: [{recover.retarget: {}}, {quantize.gptq: {group: 16, scale_dtype: f16}}]",
    "format: dense\nsteps: [{recover.retarget: {}}, {prune.sparsegpt: {sparsity: 0.5}}]",
    "format: native\nsteps: [{prune.wanda: {pattern: '2:4'}}, {quantize.gptq: {bits: 3, group: 16, symmetric: false}}]",
    "format: dense\nsteps: [{quantize.gptq: {group: 16}}]",
    "format: native\nsteps: [{decompose.svd: {rank: 8}}, {quantize.gptq: {bits: 8, group: 8}}]",
    "format: native\nsteps: [{prune.sparsegpt: {pattern: '2:4', quantize: {bits: 4, group: 16}}}]",
    "format: native\nsteps: [{decompose.afm: {ratio: 0.5, allocation: waterfill, multiple: 1}}, {quantize.rtn: {group: 8, ragged: pad}}]",
];

#[test]
fn a_run_that_was_stopped_anywhere_ends_with_the_bytes_of_one_that_was_not_at_any_number_of_threads() {
    for text in RECIPES {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("m"));
        let recipe = recipe(text);
        carry_out(&plan(&checkpoint, &recipe, 2), &checkpoint, &dir.path().join("whole"));
        let whole = files(&dir.path().join("whole"));
        for (questions, threads) in [(20, 1), (45, 2), (70, 1)] {
            let out = dir.path().join(format!("stopped-{questions}"));
            let plan = plan(&checkpoint, &recipe, threads);
            let stopped =
                plan.run(&checkpoint, &out, &RunOptions::default(), &mut StopAfter::questions(questions)).unwrap_err();
            assert!(is_stop(&stopped), "{text}: {stopped}");
            carry_out(&plan, &checkpoint, &out);
            assert_eq!(files(&out), whole, "{text} stopped after {questions}");
        }
    }
}

#[test]
fn activations_in_files_change_no_byte_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, false).checkpoint(&dir.path().join("m"));
    for compute in [Compute::F32, Compute::Bf16] {
        let recipe = recipe(RECIPES[0]);
        let mut options = options(1, samples(40, 100, 64, compute));
        let free = plan_with(&checkpoint, &recipe, &options);
        assert_eq!(free.spilled_bytes(), 0);
        let name = |kind: &str| dir.path().join(format!("{kind}-{compute:?}"));
        carry_out(&free, &checkpoint, &name("memory"));
        // A little less than everything in memory: what lies between taps goes to a file; then hidden states too.
        for (limit, out) in [(free.peak_memory_bytes - 1, "between"), (free.peak_memory_bytes - 1_200_000, "files")] {
            options.max_memory = Some(limit);
            let tight = plan_with(&checkpoint, &recipe, &options);
            assert!(tight.spilled_bytes() > 0 && tight.peak_memory_bytes <= limit);
            carry_out(&tight, &checkpoint, &name(out));
            assert_eq!(files(&name(out)), files(&name("memory")));
        }
    }
}

#[test]
fn less_memory_than_the_plan_needs_is_refused_before_work_starts() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, false).checkpoint(&dir.path().join("m"));
    let mut options = options(1, samples(40, 100, 64, Compute::F32));
    options.max_memory = Some(1 << 20);
    let error = Plan::make(&checkpoint, &recipe(RECIPES[0]), &options).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
}

#[test]
fn without_a_text_a_plan_can_be_made_and_not_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, false).checkpoint(&dir.path().join("m"));
    let plan = plan_with(&checkpoint, &recipe(RECIPES[0]), &PlanOptions::default());
    let error = plan.run(&checkpoint, &dir.path().join("out"), &RunOptions::default(), &mut ()).unwrap_err();
    assert!(error.to_string().contains("there is no text to calibrate on"), "{error}");
    assert!(error.hint().unwrap().contains("--text"));
    assert!(!dir.path().join("out").exists());
}

#[test]
fn a_table_that_no_tap_shows_is_refused_in_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 48, false).checkpoint(&dir.path().join("m"));
    let recipe = recipe("steps: [{quantize.gptq: {group: 16, at: [embed.tokens]}}]");
    let error = Plan::make(&checkpoint, &recipe, &PlanOptions::default()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot be seen for `embed.tokens`"), "{error}");
}

#[test]
fn the_output_table_is_looked_at_behind_all_rewritten_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, false).checkpoint(&dir.path().join("m"));
    let recipe = recipe("format: native\nsteps: [{quantize.gptq: {bits: 3, group: 16, at: [blocks, head.out]}}]");
    let report = carry_out(&plan(&checkpoint, &recipe, 2), &checkpoint, &dir.path().join("out"));
    let head = report.sites.iter().find(|row| row.site.to_string() == "head.out").unwrap();
    assert!(head.data_error.is_some_and(|error| error > 0.0 && Some(error) < head.relative_error), "{head:?}");
}

#[test]
fn every_layer_reports_its_error_on_what_it_reads_and_the_record_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("m"));
    let report = carry_out(&plan(&checkpoint, &recipe(RECIPES[0]), 2), &checkpoint, &dir.path().join("out"));
    assert_eq!(report.sites.len(), 14);
    for row in &report.sites {
        assert!(row.data_error.is_some_and(|error| error > 0.0), "{row:?}");
        assert!(row.figures.contains_key("damp"), "{row:?}");
    }
    assert!(report.phases.is_some_and(|phases| phases.forward_seconds > 0.0));
    let record = std::fs::read_to_string(dir.path().join("out/compression.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["calibration"]["samples"], 6);
    assert!(record["sites"][0]["data_error"].as_f64().is_some());
}

#[test]
fn gptq_loses_less_of_what_layers_return_than_rounding_does() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("m"));
    let error = |step: &str, out: &str| {
        // A step of no effect that looks, so that rounding reports its error in the same way.
        let text = format!("format: native\nsteps: [{{prune.wanda: {{sparsity: 0.0}}}}, {step}]");
        let text = text.replace("prune.wanda: {sparsity: 0.0}", "prune.sparsegpt: {sparsity: 0.0, damp: 0.01}");
        let report = carry_out(&plan(&checkpoint, &recipe(&text), 2), &checkpoint, &dir.path().join(out));
        report.sites.iter().map(|row| row.data_error.unwrap().powi(2)).sum::<f64>()
    };
    let rounded = error("{quantize.rtn: {bits: 3, group: 16}}", "rtn");
    let solved = error("{quantize.gptq: {bits: 3, group: 16}}", "gptq");
    assert!(solved < 0.9 * rounded, "{solved} {rounded}");
}

#[test]
fn an_activation_that_leaves_the_range_of_numbers_names_block_and_tap_or_sample() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(2, 32, 48, true);
    // Gate and up so large that their product is infinite.
    for name in ["gate_proj", "up_proj"] {
        let (_, values) = llama.tensors.get_mut(&format!("model.layers.1.mlp.{name}.weight")).unwrap();
        values.iter_mut().for_each(|x| *x *= 1e20);
    }
    let checkpoint = llama.checkpoint(&dir.path().join("m"));
    let out = dir.path().join("out");
    let error = plan(&checkpoint, &recipe(RECIPES[3]), 2)
        .run(&checkpoint, &out, &RunOptions::default(), &mut ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("`blocks.1`") && error.contains("in window 0"), "{error}");
    assert!(!out.join("config.json").exists());
}

#[test]
fn activations_too_large_to_be_summed_up_name_block_and_tap() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(2, 32, 48, true);
    // What the middle of the MLP holds is finite, and its squares are not.
    let (_, values) = llama.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
    values.iter_mut().for_each(|x| *x *= 1e22);
    let checkpoint = llama.checkpoint(&dir.path().join("m"));
    for compute in [Compute::F32, Compute::Bf16] {
        let options = options(2, samples(6, 24, 64, compute));
        let out = dir.path().join(format!("out-{compute:?}"));
        let error = plan_with(&checkpoint, &recipe(RECIPES[3]), &options)
            .run(&checkpoint, &out, &RunOptions::default(), &mut ())
            .unwrap_err();
        assert_eq!(error.to_string(), "what `blocks.1` shows at `mlp.mid` is too large to be summed up");
        assert!(error.hint().is_some() && !out.join("config.json").exists());
    }
}

#[test]
fn a_layer_that_only_ever_sees_zeros_is_rewritten_all_the_same_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(1, 32, 48, true);
    let (_, values) = llama.tensors.get_mut("model.layers.0.mlp.up_proj.weight").unwrap();
    values.fill(0.0);
    let checkpoint = llama.checkpoint(&dir.path().join("m"));
    for (n, steps) in [
        "{quantize.gptq: {group: 16}}",
        "{prune.sparsegpt: {sparsity: 0.5}}",
        "{prune.wanda: {sparsity: 0.5}}",
        "{recover.retarget: {}}, {quantize.gptq: {group: 16}}, {recover.bias: {}}",
    ]
    .into_iter()
    .enumerate()
    {
        let recipe = recipe(&format!("format: native\nsteps: [{steps}]"));
        let report = carry_out(&plan(&checkpoint, &recipe, 2), &checkpoint, &dir.path().join(format!("out-{n}")));
        let down = report.sites.iter().find(|row| row.site.to_string() == "blocks.0.mlp.down").unwrap();
        assert!(down.notes.iter().any(|note| note.contains("its inputs were always zero")), "{steps}: {down:?}");
        assert!(down.data_error.is_none_or(|error| error == 0.0), "{steps}: {down:?}");
    }
}

#[test]
fn a_mask_of_an_earlier_step_survives_every_method_that_looks() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("m"));
    let masks = |steps: &str, out: &str| -> Vec<Mask> {
        let out = dir.path().join(out);
        let recipe = recipe(&format!("format: native\nsteps: [{{prune.magnitude: {{sparsity: 0.5}}}}{steps}]"));
        carry_out(&plan(&checkpoint, &recipe, 2), &checkpoint, &out);
        let written = Checkpoint::open(&out).unwrap();
        let stages = (0..written.model().stages.len()).map(|n| written.load_stage(n).unwrap());
        let masks = |mut stage: Stage<Weight>| -> Vec<Mask> {
            stage.linears_mut().into_iter().filter_map(|(_, layer)| layer.weight.as_leaf()?.mask.clone()).collect()
        };
        stages.flat_map(masks).collect()
    };
    let pruned = masks("", "pruned");
    assert_eq!(pruned.len(), 14);
    for (n, steps) in [
        ", {quantize.gptq: {bits: 3, group: 16}}",
        ", {prune.sparsegpt: {sparsity: 0.5}}",
        ", {prune.sparsegpt: {sparsity: 0.0, quantize: {bits: 4, group: 16}}}",
        ", {recover.retarget: {lambda: 0.1}}",
        ", {prune.wanda: {sparsity: 0.0}}, {recover.retarget: {}}, {quantize.gptq: {group: 16}}, {recover.bias: {}}",
    ]
    .into_iter()
    .enumerate()
    {
        assert!(masks(steps, &format!("out-{n}")) == pruned, "{steps}");
    }
}

#[test]
fn a_text_that_the_tokenizer_hardly_knows_is_told_in_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    Llama::new(1, 32, 48, true).write(&dir.path().join("m"));
    let words = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"<unk>": 0, "one": 1, "two": 2, "three": 3, "four": 4}, "unk_token": "<unk>"},
    });
    std::fs::write(dir.path().join("m/tokenizer.json"), words.to_string()).unwrap();
    let checkpoint = Checkpoint::open(&dir.path().join("m")).unwrap();
    let lints = |tokens: &[u32]| -> Vec<String> {
        let wanted = Wanted { length: Some(10), ..Wanted::default() };
        let samples = Samples::draw("t", tokens, &wanted, None, 0).unwrap();
        let options = options(1, Calibration { samples, compute: Compute::F32, lines: Vec::new() });
        let lints = plan_with(&checkpoint, &recipe("steps: [{quantize.gptq: {group: 16}}]"), &options).lints;
        lints.into_iter().map(|lint| lint.what).collect()
    };
    let known: Vec<u32> = (0..120).map(|n| 1 + n % 4).collect();
    let unknown: Vec<u32> = known.iter().map(|&token| if token < 3 { 0 } else { token }).collect();
    assert!(lints(&known).iter().all(|lint| !lint.contains("`t`")));
    assert!(lints(&known[..40]).contains(&"the samples have 40 tokens, and layers up to 48 inputs".to_owned()));
    assert!(lints(&unknown).contains(&"60 of 120 tokens of `t` are `<unk>`".to_owned()), "{:?}", lints(&unknown));
}

#[test]
fn one_sample_or_two_are_enough_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 48, true).checkpoint(&dir.path().join("m"));
    for count in [1, 2] {
        let options = options(2, samples(count, 9, 64, Compute::F32));
        let plan = plan_with(&checkpoint, &recipe(RECIPES[0]), &options);
        let report = carry_out(&plan, &checkpoint, &dir.path().join(format!("out-{count}")));
        let told = report.sites.iter().flat_map(|row| &row.notes).any(|note| note.contains("more would serve"));
        assert!(told, "fewer tokens than inputs are told");
    }
}

#[test]
fn every_architecture_is_calibrated_or_says_why_not() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = recipe(
        "format: native\nsteps: [{recover.retarget: {}}, {quantize.gptq: {group: 8, ragged: channel}}, {recover.bias: {}}]",
    );
    for (name, path) in golden(dir.path()) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let vocabulary = checkpoint.model().vocabulary as u32;
        let options = options(2, samples(3, 12, vocabulary, Compute::F32));
        let plan = plan_with(&checkpoint, &recipe, &options);
        let report = carry_out(&plan, &checkpoint, &dir.path().join(format!("{name}-out")));
        assert!(report.sites.iter().all(|row| row.data_error.is_some()), "{name}");
        assert_eq!(common::weight_bytes(&dir.path().join(format!("{name}-out"))), plan.size.size_bytes_after, "{name}");
    }
}

#[test]
fn a_bias_that_a_method_adds_is_written_and_read_on_every_architecture() {
    let dir = tempfile::tempdir().unwrap();
    // Only the keys, which share a tensor with others in some architectures.
    let recipe = recipe("format: native\nsteps: [{decompose.afm: {rank: 2, at: [attn.k, mlp.up]}}]");
    for (name, path) in golden(dir.path()) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let vocabulary = checkpoint.model().vocabulary as u32;
        let out = dir.path().join(format!("{name}-out"));
        let plan = plan_with(&checkpoint, &recipe, &options(2, samples(3, 12, vocabulary, Compute::F32)));
        let report = carry_out(&plan, &checkpoint, &out);
        assert_eq!(common::weight_bytes(&out), plan.size.size_bytes_after, "{name}");
        let written = Checkpoint::open(&out).unwrap();
        for row in report.sites.iter().filter(|row| row.notes.iter().any(|note| note.starts_with("rank 2"))) {
            let place = |n: &usize| written.model().place(*n) == row.site.place;
            let n = (0..written.model().stages.len()).find(place).unwrap();
            let mut stage = written.load_stage(n).unwrap();
            let (_, layer) = stage.linears_mut().into_iter().find(|(role, _)| *role == row.site.role).unwrap();
            let bias = layer.bias.as_ref().unwrap_or_else(|| panic!("{name}: {} has no bias", row.site));
            assert!(bias.to_f32().iter().any(|&b| b != 0.0), "{name}: {}", row.site);
        }
        let factored = |row: &&brevity_engine::SiteReport| row.notes.iter().any(|note| note.starts_with("rank 2"));
        assert!(report.sites.iter().any(|row| factored(&row)), "{name}");
    }
}

#[test]
fn ranks_are_spread_within_the_budget_by_what_the_samples_show() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("m"));
    let all: u64 = 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48);
    for name in ["svd", "asvd", "svd_llm", "afm"] {
        for spread in ["waterfill", "influence", "coding_rate"] {
            let text = format!(
                "format: native\nsteps: [{{decompose.{name}: {{ratio: 0.6, allocation: {spread}, multiple: 1}}}}]"
            );
            let plan = plan(&checkpoint, &recipe(&text), 2);
            carry_out(&plan, &checkpoint, &dir.path().join(format!("{name}-{spread}")));
            let held: u64 = plan.sites.iter().filter(|s| !s.methods.is_empty()).map(|s| s.after.parameters()).sum();
            assert!(held * 10 <= all * 6, "{name}, {spread}: {held} of {all}");
            assert!(held * 10 > all * 5, "{name}, {spread}: {held} of {all}");
        }
    }
}

#[test]
fn the_output_table_can_be_spread_over_too() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 48, false).checkpoint(&dir.path().join("m"));
    let text = "format: native\nsteps: [{decompose.afm: {ratio: 0.5, allocation: waterfill, multiple: 1, at: [head.out, mlp]}}]";
    let plan = plan(&checkpoint, &recipe(text), 2);
    let report = carry_out(&plan, &checkpoint, &dir.path().join("out"));
    let head = report.sites.iter().find(|row| row.site.to_string() == "head.out").unwrap();
    assert!(head.notes.iter().any(|note| note.starts_with("rank ")), "{:?}", head.notes);
    assert!(head.data_error.is_some());
}

#[test]
fn blocks_that_change_more_are_pruned_less_and_the_budget_is_met() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(3, 32, 48, true);
    // The last block hardly changes what goes through it.
    for name in ["self_attn.o_proj", "mlp.down_proj"] {
        let (_, values) = llama.tensors.get_mut(&format!("model.layers.2.{name}.weight")).unwrap();
        values.iter_mut().for_each(|x| *x *= 0.01);
    }
    let checkpoint = llama.checkpoint(&dir.path().join("m"));
    for (n, format) in ["dense", "native"].into_iter().enumerate() {
        let text =
            format!("format: {format}\nsteps: [{{prune.wanda: {{sparsity: 0.5, allocation: influence, band: 0.3}}}}]");
        let plan = plan(&checkpoint, &recipe(&text), 2);
        let report = carry_out(&plan, &checkpoint, &dir.path().join(format!("out-{n}")));
        let share = |block: usize| {
            let rows = report.sites.iter().filter(|row| row.site.to_string().starts_with(&format!("blocks.{block}.")));
            let (removed, all) = rows.fold((0.0, 0.0), |(removed, all), row| {
                let count = (row.shape[0] * row.shape[1]) as f64;
                (removed + row.sparsity * count, all + count)
            });
            removed / all
        };
        assert!(share(2) > share(0) + 0.1 && share(2) > share(1) + 0.1, "{} {} {}", share(0), share(1), share(2));
        assert!(((share(0) + share(1) + share(2)) / 3.0 - 0.5).abs() < 0.02);
        assert_eq!(common::weight_bytes(&dir.path().join(format!("out-{n}"))), plan.size.size_bytes_after);
    }
}

#[test]
fn the_token_table_keeps_the_components_of_the_tokens_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    for tied in [true, false] {
        let checkpoint = Llama::new(2, 32, 48, tied).checkpoint(&dir.path().join(format!("m-{tied}")));
        let out = dir.path().join(format!("out-{tied}"));
        let text = "format: native\nsteps: [{decompose.afm: {rank: 12, at: [embed.tokens]}}]";
        let plan = plan(&checkpoint, &recipe(text), 2);
        let report = carry_out(&plan, &checkpoint, &out);
        assert_eq!(common::weight_bytes(&out), plan.size.size_bytes_after);
        assert!(report.sites[0].notes.iter().any(|note| note.starts_with("rank 12")), "{:?}", report.sites[0].notes);
        let written = Checkpoint::open(&out).unwrap();
        let Stage::Embed(embed) = written.load_stage(0).unwrap() else { panic!("the first stage is the embedding") };
        assert_eq!(embed.tokens.bias.as_ref().map(|bias| bias.shape()), Some([1, 32]));
        assert_eq!(embed.tokens.weight.leaves().len(), 2);
        Resident::load(&written, Compute::F32).unwrap().logits(&[1, 2, 3]).unwrap();
    }
}

#[test]
fn a_mean_that_capped_logits_would_lack_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_, path) = golden(dir.path()).into_iter().find(|(name, _)| name == "gemma2").unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let made = |mean: bool| {
        let text = format!("format: native\nsteps: [{{decompose.afm: {{rank: 2, mean: {mean}, at: [embed.tokens]}}}}]");
        Plan::make(&checkpoint, &recipe(&text), &PlanOptions::default()).map(|_| ())
    };
    let error = made(true).unwrap_err();
    assert!(matches!(error, Error::Capped { .. }) && error.hint().unwrap().contains("mean: false"), "{error}");
    made(false).unwrap();
}

#[test]
fn ranks_by_the_loss_of_the_model_leave_whole_what_hurts_most() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(3, 32, 48, true);
    // Block 1 hardly adds anything, so what happens to it hurts least.
    for name in ["self_attn.o_proj", "mlp.down_proj"] {
        let (_, values) = llama.tensors.get_mut(&format!("model.layers.1.{name}.weight")).unwrap();
        values.iter_mut().for_each(|x| *x *= 0.001);
    }
    let checkpoint = llama.checkpoint(&dir.path().join("m"));
    let text =
        "format: native\nsteps: [{decompose.asvd: {ratio: 0.8, allocation: sensitivity, multiple: 1, tokens: 30}}]";
    let plan = plan(&checkpoint, &recipe(text), 2);
    let report = carry_out(&plan, &checkpoint, &dir.path().join("out"));
    let held = |block: u32| -> u64 {
        let own = plan.sites.iter().filter(|site| site.site.place == Place::Block(block));
        own.map(|site| site.after.parameters()).sum()
    };
    let all = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48;
    assert!((held(0) + held(1) + held(2)) * 10 <= 3 * all * 8);
    assert!(held(1) * 2 < held(0).min(held(2)) + held(1), "{} {} {}", held(0), held(1), held(2));
    assert!(held(1) * 10 < all * 5);
    let said = |note: &String| note.contains("by the loss of the model on 30 tokens with each matrix alone");
    assert!(report.sites.iter().any(|row| row.notes.iter().any(said)));
    // There is nothing below the smallest ratio that is tried.
    let low =
        Recipe::parse("steps: [{decompose.asvd: {ratio: 0.3, allocation: sensitivity}}]", "low.yaml").unwrap_err();
    assert!(low.to_string().contains("at least 0.4"), "{low}");
}
