//! Plans: what is known before the work begins is exact, and what cannot work is refused.

mod common;

use brevity_engine::{Error, Lint, Plan, PlanOptions, Recipe, Turn};
use brevity_formats::{Checkpoint, FORMATS, Open};
use common::{Llama, golden, options, plan, recipe, run, weight_bytes};

fn refused(checkpoint: &Checkpoint, recipe: &Recipe, options: &PlanOptions) -> Error {
    Plan::make(checkpoint, recipe, options).err().expect("the plan should be refused")
}

fn lints(checkpoint: &Checkpoint, text: &str) -> Vec<String> {
    plan(checkpoint, &recipe(text)).lints.into_iter().map(|lint: Lint| lint.what).collect()
}

#[test]
fn every_recipe_keeps_its_word_in_bytes_on_every_architecture() {
    let dir = tempfile::tempdir().unwrap();
    for (name, path) in golden(dir.path()) {
        let checkpoint = Checkpoint::open(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        for stock in Recipe::list() {
            let mut recipe = stock.recipe().unwrap();
            if let Some(cut) = &mut recipe.vectors {
                // Models this small have fewer dimensions, and no tokenizer to find the best ones with.
                (cut.dims, cut.turn) = (8, Turn::None);
            }
            let out = dir.path().join("out").join(&name).join(stock.name);
            let options = options(&checkpoint, 1);
            let planned = match Plan::make(&checkpoint, &recipe, &options) {
                Ok(planned) => planned,
                // A fused or transposed tensor cannot be packed by this format; the hint names one that can.
                Err(error @ Error::Unholdable { .. }) => {
                    assert!(error.hint().unwrap().contains("native"), "{name}, {}: {error}", stock.name);
                    recipe.set("format=native").unwrap();
                    plan(&checkpoint, &recipe)
                }
                // Not every stream can be turned, and small models with large tables would grow.
                Err(Error::Method { source, .. })
                    if matches!(
                        source,
                        brevity_methods::Error::Stream { .. } | brevity_methods::Error::Grows { .. }
                    ) =>
                {
                    assert!(source.hint().is_some(), "{name}, {}: {source}", stock.name);
                    continue;
                }
                Err(error) => panic!("{name}, {}: {error}", stock.name),
            };
            run(&checkpoint, &recipe, &out);
            assert_eq!(weight_bytes(&out), planned.size.size_bytes_after, "{name}, {}", stock.name);
            let written = Checkpoint::open(&out).unwrap();
            assert_eq!(written.size_bytes(), planned.size.size_bytes_after, "{name}, {}", stock.name);
        }
    }
}

#[test]
fn every_format_keeps_its_word_for_weights_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 64, true).checkpoint(&dir.path().join("in"));
    for format in FORMATS {
        let mut recipe = recipe("steps:\n  - quantize.rtn: {bits: 8, group: channel, at: attn.q}\n");
        recipe.set(&format!("format={}", format.name())).unwrap();
        let out = dir.path().join(format.name());
        let planned = plan(&checkpoint, &recipe);
        run(&checkpoint, &recipe, &out);
        assert_eq!(weight_bytes(&out), planned.size.size_bytes_after, "{}", format.name());
    }
}

#[test]
fn sizes_of_layers_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 64, 128, true).checkpoint(dir.path());
    let planned = plan(&checkpoint, &Recipe::named("int4").unwrap());
    // q: 64 x 64 codes of 4 bits in words, 64 scales of 2 bytes, a shape of 16 bytes.
    let q = planned.sites.iter().find(|site| site.site.to_string() == "blocks.0.attn.q").unwrap();
    assert_eq!((q.bytes_before, q.bytes_after), (2 * 64 * 64, 64 * 64 / 2 + 64 * 2 + 16));
    let embed = planned.sites.iter().find(|site| site.site.to_string() == "embed.tokens").unwrap();
    assert_eq!((embed.bytes_before, embed.bytes_after), (2 * 64 * 64, 2 * 64 * 64));
    assert!(embed.methods.is_empty());
    let size = planned.size;
    assert_eq!(size.parameters, 64 * 64 + 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64));
    assert_eq!(size.size_bytes_before, std::fs::metadata(dir.path().join("model.safetensors")).unwrap().len());
    assert!(size.bits_per_touched_weight > 4.2 && size.bits_per_touched_weight < 4.4, "{size:?}");
}

#[test]
fn a_selector_that_picks_nothing_says_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 32, 64, true).checkpoint(dir.path());
    let error =
        refused(&checkpoint, &recipe("steps:\n  - quantize.rtn: {at: [attn, mpl.down]}\n"), &Default::default());
    insta::assert_snapshot!(format!("{error}\nhint: {}", error.hint().unwrap()), @r"
    `mpl.down` picks nothing in this model
      asked for by `test.yaml`, line 2, step 1 (quantize.rtn)
    hint: did you mean `mlp.down`? the model has embed.tokens, attn.q, attn.k, attn.v, attn.o, mlp.gate, mlp.up, mlp.down, in blocks 0 to 1
    ");
    let error = refused(&checkpoint, &recipe("steps:\n  - quantize.rtn: {at: blocks.7}\n"), &Default::default());
    assert!(matches!(error, Error::Unmatched { .. }), "{error}");
    let error =
        refused(&checkpoint, &recipe("steps:\n  - quantize.rtn: {at: attn, except: [attn]}\n"), &Default::default());
    assert!(matches!(error, Error::NothingLeft { .. }), "{error}");
}

#[test]
fn a_group_that_does_not_divide_names_layer_step_and_divisors() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 48, true).checkpoint(dir.path());
    let error = refused(&checkpoint, &recipe("steps:\n  - quantize.rtn: {group: 32}\n"), &Default::default());
    let text = error.to_string();
    assert!(text.contains("`blocks.0.mlp.down`") && text.contains("step 1 (quantize.rtn)"), "{text}");
    assert!(error.hint().unwrap().contains("divide 48"), "{:?}", error.hint());
}

#[test]
fn a_format_that_cannot_hold_the_result_names_those_that_can() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 64, true).checkpoint(dir.path());
    let mut int3 = Recipe::named("int3").unwrap();
    int3.set("format=compressed-tensors").unwrap();
    let error = refused(&checkpoint, &int3, &Default::default());
    assert!(matches!(error, Error::Unholdable { .. }) && error.to_string().contains("blocks.0.attn.q"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("native") && hint.contains("dense"), "{hint}");
    let error = refused(&checkpoint, &int3, &PlanOptions { format: Some("nativ".into()), ..Default::default() });
    assert!(error.hint().unwrap().contains("`native`"), "{error}");
}

#[test]
fn too_little_memory_is_refused_before_the_work_begins() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 64, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("out");
    let options = PlanOptions { max_memory: Some(1 << 20), out: Some(out.clone()), ..Default::default() };
    let error = refused(&checkpoint, &Recipe::named("int4").unwrap(), &options);
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--max-memory"));
    assert!(!out.exists());
    let enough = PlanOptions { max_memory: Some(1 << 32), out: Some(out), ..Default::default() };
    let planned = Plan::make(&checkpoint, &Recipe::named("int4").unwrap(), &enough).unwrap();
    assert!(planned.disk.1.is_some_and(|free| free > 0));
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let tied = Llama::new(2, 32, 48, true).checkpoint(&dir.path().join("tied"));
    for (text, part) in [
        (
            "format: native\nsteps:\n  - quantize.rtn: {bits: 8, group: channel}\n  - prune.magnitude: {sparsity: 0.5}\n",
            "comes behind the step that quantizes `blocks.0.attn.q` and 13 other layers",
        ),
        (
            "format: native\nsteps:\n  - quantize.gptq: {bits: 8, group: channel}\n  - prune.wanda: {sparsity: 0.5}\n",
            "step 2 (prune.wanda) comes behind the step that quantizes `blocks.0.attn.q` and 13 other layers",
        ),
        (
            "steps:\n  - prune.magnitude: {pattern: '3:5'}\n",
            "the pattern 3:5 does not divide the inputs of `blocks.0.attn.q` and 13 other layers (32 inputs)",
        ),
        (
            "steps:\n  - prune.wanda: {pattern: '2:64'}\n",
            "the pattern 2:64 does not divide the inputs of `blocks.0.attn.q` and 13 other layers (32 inputs)",
        ),
        (
            "steps:\n  - prune.sparsegpt: {pattern: '4:32'}\n",
            "the pattern 4:32 does not divide the inputs of `blocks.0.mlp.down` and one other layer (48 inputs)",
        ),
        (
            "steps:\n  - prune.magnitude: {sparsity: 0.5, at: mlp.up}\n",
            "the zeros of `blocks.0.mlp.up` and one other layer save no space in `dense`",
        ),
        (
            "steps:\n  - quantize.rtn: {group: 32, ragged: channel}\n",
            "group 32 does not divide the inputs of `blocks.0.mlp.down` and one other layer (48 inputs)",
        ),
        ("format: native\nsteps:\n  - decompose.svd: {rank: 1000}\n", "step 1 (decompose.svd) saves nothing"),
        ("format: dense\nsteps:\n  - decompose.svd: {ratio: 0.5}\n", "`dense` multiplies the factors"),
        (
            "format: native\nsteps:\n  - prune.magnitude: {sparsity: 0.5}\n  - decompose.svd: {ratio: 0.5}\n",
            "fills in again what was pruned",
        ),
        (
            "steps:\n  - prune.magnitude: {sparsity: 0.5}\n  - recover.retarget: {}\n",
            "had something taken before `recover.retarget`",
        ),
        ("steps:\n  - prune.magnitude: {sparsity: 0}\n", "the recipe changes nothing"),
        (
            "format: native\nsteps:\n  - quantize.rtn: {bits: 4, group: 32, at: embed.tokens}\n",
            "`embed.tokens` is also the output table",
        ),
        (
            "steps:\n  - quantize.rtn: {group: channel, except: [head.out]}\n",
            "`except: head.out` of step 1 (quantize.rtn) leaves nothing out",
        ),
    ] {
        let said = lints(&tied, text);
        assert!(said.iter().any(|lint| lint.contains(part)), "{text}: {said:#?}");
    }
    for calm in [
        "format: native\nsteps:\n  - prune.magnitude: {sparsity: 0.75}\n  - quantize.rtn: {bits: 4, group: 16}\n",
        // Some matrices stay whole on purpose, and biases have a place.
        "format: native\nsteps:\n  - decompose.svd: {ratio: 0.9, allocation: waterfill, multiple: 1}\n",
        "format: native\nsteps:\n  - decompose.afm: {rank: 2, at: attn}\n",
    ] {
        assert_eq!(lints(&tied, calm), [] as [String; 0], "{calm}");
    }
}

#[test]
fn pruning_that_makes_up_for_it_is_refused_behind_a_grid() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 32, 48, true).checkpoint(&dir.path().join("m"));
    for first in ["quantize.rtn", "quantize.gptq"] {
        let text =
            format!("format: native\nsteps:\n  - {first}: {{group: 16}}\n  - prune.sparsegpt: {{sparsity: 0.5}}\n");
        let error = refused(&checkpoint, &recipe(&text), &Default::default());
        let said = error.to_string();
        assert!(said.starts_with("cannot apply `prune.sparsegpt` to `blocks.0.attn.q`: it is already coded"), "{said}");
        assert!(said.contains("step 2"), "{said}");
        assert_eq!(error.hint().unwrap(), "put this step before the one that quantizes, or leave the layer out");
    }
}

#[test]
fn a_source_that_is_quantized_already_is_pointed_out() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(1, 64, 64, true).checkpoint(&dir.path().join("in"));
    let out = dir.path().join("int4");
    run(&checkpoint, &Recipe::named("int4").unwrap(), &out);
    let coded = Checkpoint::open(&out).unwrap();
    let error = refused(&coded, &Recipe::named("int8").unwrap(), &Default::default());
    assert!(matches!(error, Error::Method { .. }), "{error}");
}

#[test]
fn weights_of_an_unknown_architecture_can_be_rewritten_loose() {
    let dir = tempfile::tempdir().unwrap();
    let mut llama = Llama::new(1, 32, 64, false);
    llama.config["model_type"] = "martian".into();
    let path = dir.path().join("in");
    llama.write(&path);
    let checkpoint = Checkpoint::open_with(&path, Open { loose: true }).unwrap();
    let mut recipe = Recipe::named("int8").unwrap();
    recipe.set("format=native").unwrap();
    recipe.set("1.except=[\"*norm*\", lm_head]").unwrap();
    let planned = plan(&checkpoint, &recipe);
    let out = dir.path().join("out");
    let report = run(&checkpoint, &recipe, &out);
    assert_eq!(weight_bytes(&out), planned.size.size_bytes_after);
    assert!(report.sites.iter().any(|site| site.site.to_string().ends_with("model.layers.0.mlp.up_proj.weight")));
    assert!(!report.sites.iter().any(|site| site.site.to_string().contains("lm_head")));
}

#[test]
fn the_peak_of_memory_is_bounded_by_what_is_planned() {
    // Large enough that the work shows above what the process itself takes.
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Llama::new(2, 1024, 2048, true).checkpoint(&dir.path().join("in"));
    let recipe = Recipe::named("int4").unwrap();
    let planned = plan(&checkpoint, &recipe);
    let report = run(&checkpoint, &recipe, &dir.path().join("out"));
    if let Some(peak) = report.peak_rss_bytes {
        // Other tests of this file share the process and are small.
        assert!(peak <= planned.peak_memory_bytes + (64 << 20), "{peak} of {}", planned.peak_memory_bytes);
    }
}
