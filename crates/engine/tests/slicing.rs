//! Streams that are turned and narrowed, on every architecture.

mod common;

use std::path::Path;

use brevity_engine::{Error, Plan, RunOptions};
use brevity_formats::Checkpoint;
use brevity_kernels::ops::Compute;
use brevity_model::{STRUCTURE, Stage};
use brevity_runtime::Resident;
use common::{Llama, StopAfter, files, golden, options, recipe, run, weight_bytes};

/// Architectures whose norms stand in front of sublayers alone.
const TURNED: [&str; 20] = [
    "gpt2",
    "gpt2-bare-names",
    "gpt_neo",
    "gpt_neo-old-keys",
    "gpt_neox",
    "gpt_neox-sequential-old-keys",
    "llama",
    "llama-bias-tied",
    "llama-scaled-linear-old-keys",
    "llama-scaled-llama3",
    "llama-scaled-yarn",
    "mistral",
    "mistral-no-window",
    "opt",
    "phi3",
    "phi3-long",
    "phi3-long-within-context",
    "qwen2",
    "qwen3",
    "smollm3",
];

fn logits(checkpoint: &Checkpoint) -> Vec<f32> {
    let model = Resident::load(checkpoint, Compute::F32).unwrap();
    let ids: Vec<u32> = (0..9).map(|n| n * 5 % checkpoint.model().vocabulary.min(40) as u32).collect();
    model.logits(&ids).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = a.iter().fold(1.0f32, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

fn sliced(settings: &str) -> String {
    format!("format: native\nsteps:\n  - decompose.slice: {{{settings}}}\n")
}

#[test]
fn a_stream_that_is_turned_and_not_cut_gives_the_same_logits_on_every_architecture() {
    let dir = tempfile::tempdir().unwrap();
    let mut turned = Vec::new();
    for (name, path) in golden(dir.path()) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let text = sliced("sparsity: 0, grow: true");
        let plan = match Plan::make(&checkpoint, &recipe(&text), &options(&checkpoint, 2)) {
            Ok(plan) => plan,
            Err(error) => {
                assert!(!TURNED.contains(&name.as_str()), "{name}: {error}");
                let Error::Method { source, .. } = &error else { panic!("{name}: {error}") };
                assert!(matches!(source, brevity_methods::Error::Stream { .. }), "{name}: {error}");
                assert!(error.hint().is_some());
                continue;
            }
        };
        let out = dir.path().join(format!("{name} turned"));
        plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let written = Checkpoint::open(&out).unwrap_or_else(|e| panic!("{name}: {e}"));
        let gone = distance(&logits(&checkpoint), &logits(&written));
        assert!(gone < 1e-4, "{name}: {gone}");
        assert_eq!(weight_bytes(&out), plan.size.size_bytes_after, "{name}");
        turned.push(name);
    }
    for name in TURNED {
        assert!(turned.iter().any(|done| done == name), "{name}");
    }
}

#[test]
fn a_narrower_stream_runs_and_can_be_quantized_on_every_architecture() {
    let dir = tempfile::tempdir().unwrap();
    for (name, path) in golden(dir.path()).into_iter().filter(|(name, _)| TURNED.contains(&name.as_str())) {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let hidden = checkpoint.model().hidden;
        for (what, more) in [
            ("alone", ""),
            ("rtn", "  - quantize.rtn: {bits: 8, group: channel}\n"),
            (
                "more",
                "  - decompose.modegpt: {sparsity: 0.3, multiple: 4}\n  - quantize.gptq: {bits: 4, group: 8, ragged: pad}\n",
            ),
        ] {
            let out = dir.path().join(format!("{name} {what}"));
            let text = sliced("width: 24, multiple: 4, head: true, grow: true") + more;
            let plan = Plan::make(&checkpoint, &recipe(&text), &options(&checkpoint, 2));
            let plan = plan.unwrap_or_else(|e| panic!("{name} {what}: {e}"));
            let report = plan.run(&checkpoint, &out, &RunOptions::default(), &mut ());
            report.unwrap_or_else(|e| panic!("{name} {what}: {e}"));
            let written = Checkpoint::open(&out).unwrap_or_else(|e| panic!("{name} {what}: {e}"));
            assert_eq!(written.model().hidden, 24, "{name}, which was {hidden} wide");
            assert!(logits(&written).iter().all(|x| x.is_finite()), "{name} {what}");
            assert_eq!(weight_bytes(&out), plan.size.size_bytes_after, "{name} {what}");
        }
    }
}

/// A llama whose stream uses only its first `inner` entries.
fn within(dir: &Path, inner: usize) -> Checkpoint {
    let (hidden, mut llama) = (32, Llama::new(2, 32, 48, false));
    for (name, (shape, values)) in &mut llama.tensors {
        let writes = name.contains("o_proj") || name.contains("down_proj");
        let columns = *shape.last().unwrap();
        for (at, value) in values.iter_mut().enumerate() {
            let entry = if writes { at / columns } else { at % columns };
            if (writes || name.contains("embed_tokens")) && entry >= inner {
                *value = 0.0;
            }
        }
        assert!(columns <= 48 && hidden == 32);
    }
    llama.checkpoint(dir)
}

#[test]
fn a_stream_that_lives_in_a_few_directions_is_narrowed_without_loss() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = within(&dir.path().join("in"), 20);
    let out = dir.path().join("out");
    run(&checkpoint, &recipe(&sliced("width: 20, multiple: 1, head: true")), &out);
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.model().hidden, 20);
    // Weights of the source are bf16, and so are those of the result.
    let gone = distance(&logits(&checkpoint), &logits(&written));
    assert!(gone < 0.03, "{gone}");
    let out = dir.path().join("narrower");
    run(&checkpoint, &recipe(&sliced("width: 12, multiple: 1, head: true")), &out);
    let cut = distance(&logits(&checkpoint), &logits(&Checkpoint::open(&out).unwrap()));
    assert!(cut > 2.0 * gone, "{cut} and {gone}");
}

#[test]
fn a_tied_table_becomes_two_and_the_configuration_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(4, 32, 96, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    run(&checkpoint, &recipe(&sliced("sparsity: 0.4, multiple: 4")), &out);
    let written = Checkpoint::open(&out).unwrap();
    assert!(!written.model().is_tied());
    let config = written.config();
    assert_eq!(config.get("tie_word_embeddings").unwrap(), false);
    assert_eq!(config.get("head_dim").unwrap(), 8);
    let stream = &config.get(STRUCTURE).unwrap()["stream"];
    assert_eq!((&stream["norm"], &stream["last"]), (&"rms".into(), &32.into()));
    let width = config.get("hidden_size").unwrap().as_u64().unwrap() as usize;
    assert!(width < 32 && width == written.model().hidden);
    let Stage::Block(block) = &written.model().stages[4] else { panic!("a block") };
    let shortcut = |w: &Option<brevity_model::Source>| w.as_ref().unwrap().form.shape();
    assert_eq!(shortcut(&block.attn.as_ref().unwrap().shortcut), [width, width]);
    assert_eq!(shortcut(&block.mlp.as_ref().unwrap().shortcut), [32, width]);
}

#[test]
fn it_comes_first_and_takes_the_whole_model_and_no_sublayer_goes_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, false).checkpoint(&dir.path().join("in"));
    let refused =
        |text: &str| Plan::make(&checkpoint, &recipe(text), &options(&checkpoint, 1)).map(|_| ()).unwrap_err();
    for text in [
        "format: native\nsteps:\n  - prune.heads: {sparsity: 0.5}\n  - decompose.slice: {sparsity: 0.4}\n",
        "format: native\nsteps:\n  - decompose.slice: {sparsity: 0.4, at: mlp}\n",
    ] {
        assert!(matches!(refused(text), Error::First { .. }), "{text}");
    }
    let gone = refused(
        "format: native\nsteps:\n  - decompose.slice: {sparsity: 0.4}\n  - prune.layers: {count: 1, first: 0}\n",
    );
    assert!(gone.to_string().contains("the residual stream is turned there"), "{gone}");
    for format in ["dense", "compressed-tensors"] {
        let error = refused(&format!("format: {format}\nsteps:\n  - decompose.slice: {{sparsity: 0.4}}\n"));
        assert!(matches!(error, Error::Unholdable { .. }) && error.hint().unwrap().contains("native"), "{error}");
    }
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_bytes_at_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    let text =
        sliced("sparsity: 0.4, multiple: 4, grow: true") + "  - quantize.gptq: {bits: 4, group: 8, ragged: pad}\n";
    let recipe = recipe(&text);
    let whole = dir.path().join("whole");
    run(&checkpoint, &recipe, &whole);
    let expected = files(&whole);
    for (threads, questions) in [(1, 3), (2, 17), (1, 40), (2, 60)] {
        let out = dir.path().join(format!("{questions}"));
        let plan = Plan::make(&checkpoint, &recipe, &options(&checkpoint, threads)).unwrap();
        if plan.run(&checkpoint, &out, &RunOptions::default(), &mut StopAfter::questions(questions)).is_err() {
            plan.run(&checkpoint, &out, &RunOptions::default(), &mut ()).unwrap();
        }
        assert!(files(&out) == expected, "after {questions} questions");
    }
}

#[test]
fn what_was_sliced_can_be_quantized_later() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 48, false).checkpoint(&dir.path().join("in"));
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    run(&checkpoint, &recipe(&sliced("sparsity: 0.4, multiple: 4")), &first);
    let sliced = Checkpoint::open(&first).unwrap();
    run(&sliced, &recipe("format: native\nsteps:\n  - quantize.rtn: {bits: 8, group: channel}\n"), &second);
    let written = Checkpoint::open(&second).unwrap();
    assert_eq!(written.model().hidden, sliced.model().hidden);
    assert!(distance(&logits(&sliced), &logits(&written)) < 0.1);
}

#[test]
fn code_for_transformers_holds_a_sliced_stream_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, true).checkpoint(&dir.path().join("in"));
    let open = |name: &str| Checkpoint::open(&dir.path().join(name)).unwrap();
    let text = sliced("sparsity: 0.4, multiple: 4, grow: true");
    run(&checkpoint, &recipe(&text), &dir.path().join("native"));
    run(&checkpoint, &recipe(&text.replace("native", "custom")), &dir.path().join("custom"));
    assert!(dir.path().join("custom/modeling_brevity.py").exists());
    assert_eq!(logits(&open("custom")), logits(&open("native")));
    let names = open("custom").container().stored();
    for name in ["model.layers.0.attn_shortcut.weight", "model.layers.2.mlp_shortcut.weight", "lm_head.weight"] {
        assert!(names.iter().any(|stored| stored == name), "{name} is not among {names:?}");
    }
    let gpt2 = golden(&dir.path().join("golden")).into_iter().find(|(name, _)| name == "gpt2").unwrap().1;
    let gpt2 = Checkpoint::open(&gpt2).unwrap();
    let error =
        Plan::make(&gpt2, &recipe(&text.replace("native", "custom")), &options(&gpt2, 1)).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("llama"), "{error}");
}

#[test]
fn heads_cut_behind_a_slice_turn_by_the_frequencies_that_they_had() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(3, 32, 48, false).checkpoint(&dir.path().join("in"));
    let open = |name: &str| Checkpoint::open(&dir.path().join(name)).unwrap();
    let cut = "  - decompose.modegpt: {sparsity: 0.4, multiple: 2, allocation: uniform}\n";
    let slice = sliced("sparsity: 0, grow: true");
    run(&checkpoint, &recipe(&(slice.clone() + cut)), &dir.path().join("both"));
    run(&checkpoint, &recipe(&slice), &dir.path().join("slice"));
    run(&open("slice"), &recipe(&format!("format: native\nsteps:\n{cut}")), &dir.path().join("cut"));
    let width = |name: &str| match &open(name).model().stages[1] {
        Stage::Block(block) => block.attn.as_ref().unwrap().heads.qk_dim,
        _ => unreachable!(),
    };
    assert!(width("both") < 8 && width("cut") < 8);
    assert_eq!(open("both").config().get("head_dim").unwrap(), 8);
    let gone = distance(&logits(&open("both")), &logits(&open("cut")));
    let cut = distance(&logits(&open("both")), &logits(&checkpoint));
    assert!(gone < 0.05 && gone < cut / 2.0, "{gone}, and {cut} from the original");
}

#[test]
fn what_a_plan_says_of_a_turned_stream_is_true() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(4, 32, 96, true).checkpoint(&dir.path().join("in"));
    let text = sliced("sparsity: 0.4, multiple: 4");
    let plan = Plan::make(&checkpoint, &recipe(&text), &options(&checkpoint, 1)).unwrap();
    // The token table is no longer the output table, and every layer changes.
    let said: Vec<&str> = plan.lints.iter().map(|lint| lint.what.as_str()).collect();
    assert!(!said.iter().any(|what| what.contains("output table") || what.contains("changes nothing")), "{said:?}");
    let table = plan.sites.iter().find(|site| site.site.to_string() == "head.out").unwrap();
    assert_eq!((table.shape, table.after.shape()), ([0, 0], [64, 32]));
    assert!(table.bytes_before == 0 && table.bytes_after > 0);
    assert!(plan.spilled_bytes() > 0, "directions lie in a file");
    assert!(
        Plan::make(
            &checkpoint,
            &recipe(&text),
            &brevity_engine::PlanOptions { calibration: None, ..options(&checkpoint, 1) }
        )
        .unwrap()
        .can_calibrate()
        .is_err()
    );
}

#[test]
fn too_little_memory_to_turn_a_stream_is_known_before() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 256, 256, false).checkpoint(&dir.path().join("in"));
    let plan = |text: &str, limit| {
        let options = brevity_engine::PlanOptions { max_memory: Some(limit), ..options(&checkpoint, 1) };
        Plan::make(&checkpoint, &recipe(text), &options)
    };
    let needs = |text: &str| match plan(text, 1) {
        Err(Error::Memory { needed, .. }) => needed,
        other => panic!("{:?}", other.map(|_| ())),
    };
    let needed = needs(&sliced("sparsity: 0.4"));
    assert!(plan(&sliced("sparsity: 0.4"), needed).is_ok());
    assert!(matches!(plan(&sliced("sparsity: 0.4"), needed - 1), Err(Error::Memory { .. })));
    // Finding directions takes eigenvectors as wide as the stream was, whatever is left of it.
    let narrow = needs(&sliced("width: 64"));
    assert!(narrow.abs_diff(needed) < 1 << 20 && narrow > 48 * 256 * 256, "{narrow} and {needed}");
}

#[test]
fn blocks_change_a_turned_stream_as_much_as_one_that_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(4, 32, 48, false).checkpoint(&dir.path().join("in"));
    let ranks = |before: &str| {
        let text = format!(
            "format: native\nsteps:\n{before}  - decompose.svd: {{ratio: 0.5, allocation: influence, band: 0.4, multiple: 1}}\n"
        );
        let plan = Plan::make(&checkpoint, &recipe(&text), &options(&checkpoint, 2)).unwrap();
        let rank = |site: &brevity_engine::PlannedSite| site.after.leaves().first().map(|(_, leaf)| leaf.shape[1]);
        let blocks = plan.sites.iter().filter(|site| site.site.to_string().starts_with("blocks"));
        blocks.map(rank).collect::<Vec<_>>()
    };
    let (as_it_is, turned) = (ranks(""), ranks("  - decompose.slice: {sparsity: 0, grow: true}\n"));
    assert_eq!(as_it_is, turned);
    assert!(as_it_is.windows(7).any(|some| some[0] != as_it_is[0]), "blocks differ: {as_it_is:?}");
}
