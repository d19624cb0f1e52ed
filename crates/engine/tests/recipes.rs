//! Recipes: what is read, what is refused and in which words.

use brevity_engine::{BadRecipe, Recipe};
use serde_json::json;

fn parse(text: &str) -> Result<Recipe, BadRecipe> {
    Recipe::parse(text, "my/test.yaml")
}

/// The error as a person sees it.
fn refusal(text: &str) -> String {
    let bad = parse(text).expect_err(text);
    match &bad.hint {
        Some(hint) => format!("{bad}\nhint: {hint}"),
        None => bad.to_string(),
    }
}

#[test]
fn an_empty_list_of_steps_does_nothing_unless_vectors_are_cut() {
    let cut = Recipe::parse("vectors: {dims: 8}\nsteps: []\n", "cut.yaml").unwrap();
    assert_eq!((cut.steps.len(), cut.vectors.unwrap().dims), (0, 8));
    let error = Recipe::parse("format: native\nsteps: []\n", "none.yaml").unwrap_err();
    assert!(error.to_string().contains("`steps` is empty"), "{error}");
}

#[test]
fn a_recipe_has_a_name_a_format_and_steps_in_order() {
    let recipe = parse(
        "about: both\nformat: native\nsteps:\n  - prune.magnitude: {sparsity: 0.25, at: mlp}\n  - quantize.rtn:\n      bits: 3\n      except: [mlp.down, blocks.0]\n  - quantize.rtn\n",
    )
    .unwrap();
    assert_eq!((recipe.name.as_str(), recipe.about.as_str()), ("test", "both"));
    assert_eq!(recipe.format.as_deref(), Some("native"));
    let methods: Vec<&str> = recipe.steps.iter().map(|step| step.method.as_str()).collect();
    assert_eq!(methods, ["prune.magnitude", "quantize.rtn", "quantize.rtn"]);
    assert_eq!(recipe.steps[0].at[0].to_string(), "mlp");
    assert_eq!(recipe.steps[1].except.len(), 2);
    assert_eq!(recipe.steps[1].settings["bits"], json!(3));
    assert_eq!(recipe.steps[1].line, Some(5));
    assert!(recipe.steps[2].settings.is_empty());
}

#[test]
fn defaults_go_where_they_fit_and_are_not_set() {
    let recipe = parse(
        "defaults: {bits: 3, except: [blocks.0]}\nsteps:\n  - prune.magnitude: {sparsity: 0.5}\n  - quantize.rtn: {group: 32}\n  - quantize.rtn: {bits: 8, except: [mlp]}\n",
    )
    .unwrap();
    assert!(!recipe.steps[0].settings.contains_key("bits"));
    assert_eq!(recipe.steps[1].settings["bits"], json!(3));
    assert_eq!(recipe.steps[2].settings["bits"], json!(8));
    let excepts: Vec<String> = recipe.steps.iter().map(|step| step.except[0].to_string()).collect();
    assert_eq!(excepts, ["blocks.0", "blocks.0", "mlp"]);
}

#[test]
fn an_unknown_key_names_the_line_and_the_nearest() {
    insta::assert_snapshot!(refusal("about: x\nstepz:\n  - quantize.rtn: {bits: 4}\n"), @r"
    a recipe has no key `stepz`
      in `my/test.yaml`, line 2
    hint: did you mean `steps`?
    ");
    insta::assert_snapshot!(refusal("steps:\n  - prune.magnitude: {sparsity: 0.5}\n  - quantize.rtm: {bits: 4}\n"), @r"
    there is no method `quantize.rtm`
      in `my/test.yaml`, line 3
    hint: did you mean `quantize.rtn`?
    ");
    insta::assert_snapshot!(refusal("steps:\n  - quantize.rtn:\n      bits: 4\n      gruop: 64\n"), @r"
    `quantize.rtn` has no setting `gruop`
      in `my/test.yaml`, line 4
    hint: did you mean `group`?
    ");
    insta::assert_snapshot!(refusal("defaults:\n  bitz: 4\nsteps:\n  - quantize.rtn\n"), @r"
    no step has a setting `bitz` for the default to apply to
      in `my/test.yaml`, line 2
    hint: did you mean `bits`?
    ");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_line() {
    for (text, line, part) in [
        ("", 1, "mapping"),
        ("- a\n- b\n", 1, "mapping with `steps`"),
        ("about: x\n", 1, "no `steps`"),
        ("steps: []\n", 1, "does nothing"),
        ("about: x\nsteps: quantize.rtn\n", 2, "`steps` is a list"),
        ("steps:\n  - 4\n", 2, "a step is a method"),
        ("steps:\n  - quantize.rtn: {bits: 4}\n    prune.magnitude: {}\n", 3, "one step has one method"),
        ("steps:\n  - quantize.rtn: [4]\n", 2, "stand its settings"),
        ("steps:\n  - quantize.rtn: {bits: 9}\n", 2, "bits: 9"),
        ("steps:\n  - quantize.rtn:\n      group: 64\n      bits: many\n", 4, "bits: \"many\""),
        ("steps:\n  - prune.magnitude: {pattern: \"2:4\", sparsity: 0.5}\n", 2, "either `pattern`"),
        ("steps:\n  - quantize.rtn:\n      at: [blocks.5-2]\n", 3, "ends before it begins"),
        ("steps:\n  - quantize.rtn: {at: \"\"}\n", 2, "it is empty"),
        ("steps:\n  - quantize.rtn: {except: [4]}\n", 2, "not a text"),
        ("about: [x]\nsteps:\n  - quantize.rtn\n", 1, "`about` is a text"),
        ("steps:\n  - quantize.rtn: {bits: 4, bits: 3}\n", 2, "duplicate"),
        ("steps:\n  - quantize.rtn: {bits: 4\n", 2, "not YAML"),
        ("defaults: 4\nsteps:\n  - quantize.rtn\n", 1, "mapping of settings"),
    ] {
        let bad = parse(text).expect_err(text);
        assert!(bad.what.to_lowercase().contains(&part.to_lowercase()), "{text:?}: {bad}");
        if !text.is_empty() {
            assert_eq!(bad.line, Some(line), "{text:?}: {bad}");
        }
    }
}

#[test]
fn a_key_is_set_by_method_or_number() {
    let mut recipe = parse("steps:\n  - prune.magnitude: {sparsity: 0.5}\n  - quantize.rtn: {bits: 4}\n").unwrap();
    for assignment in
        ["quantize.rtn.bits=3", "2.group=channel", "rtn.except=[mlp, blocks.0]", "1.at=attn", "format=native"]
    {
        recipe.set(assignment).unwrap();
    }
    assert_eq!(recipe.steps[1].settings["bits"], json!(3));
    assert_eq!(recipe.steps[1].settings["group"], json!("channel"));
    assert_eq!(recipe.steps[1].except.len(), 2);
    assert_eq!(recipe.steps[0].at[0].to_string(), "attn");
    assert_eq!(recipe.format.as_deref(), Some("native"));
    for (assignment, part) in [
        ("quantize.rtn.bitz=3", "no setting `bitz`"),
        ("quantize.rtn.bits=9", "bits: 9"),
        ("3.bits=3", "no step 3"),
        ("0.bits=3", "no step 0"),
        ("decompose.svd.rank=3", "no step `decompose.svd`"),
        ("bits=3", "which step"),
        ("format=3", "is a text"),
        ("quantize.rtn.bits", "no `=`"),
        ("2.at=[blocks.3-1]", "ends before it begins"),
        ("2.bits=[", "not a YAML value"),
    ] {
        let bad = recipe.set(assignment).expect_err(assignment);
        assert!(bad.what.contains(part), "{assignment}: {bad}");
        assert!(bad.origin.contains(assignment));
    }
    let mut twice = parse("steps:\n  - quantize.rtn: {at: attn}\n  - quantize.rtn: {at: mlp}\n").unwrap();
    let together = ["quantize.gptq.groups=dynamic", "quantize.gptq.order=natural"];
    for order in [[0, 1], [1, 0]] {
        let mut recipe = Recipe::named("gptq-int4-classic").unwrap();
        recipe.set_all(&order.map(|n| together[n])).expect("settings that need each other come in any order");
    }
    let mut alone = Recipe::named("gptq-int4-classic").unwrap();
    let before = alone.to_yaml();
    assert!(alone.set_all(&["1.bits=3", together[0]]).unwrap_err().what.contains("`order: natural`"));
    assert_eq!(alone.to_yaml(), before, "what is refused changes nothing");
    assert!(twice.set("quantize.rtn.bits=3").unwrap_err().what.contains("several steps: 1, 2"));
    twice.set("2.bits=3").unwrap();
    assert!(twice.steps[0].settings.is_empty());
}

#[test]
fn every_recipe_that_comes_with_the_program_is_read() {
    let names: Vec<&str> = Recipe::list().iter().map(|named| named.name).collect();
    let expected = "afm-20 channels-20 encoder-half encoder-int4 gptq-int2-g32 gptq-int3 gptq-int4 gptq-int4-classic heads-20 int3 int4 int4-asym \
                    int8 layers-15 modegpt-10 modegpt-20 modegpt-20-gptq-int4 modegpt-30 mpo-50 slicegpt-20 \
                    sparse-2-4 sparse-2-4-int4 sparse50 sparsegpt-2-4 sparsegpt-2-4-int4 sparsegpt50 svd-half svd-llm-20 wanda50";
    assert_eq!(names.join(" "), expected);
    for named in Recipe::list() {
        let recipe = named.recipe().unwrap_or_else(|bad| panic!("{bad}"));
        assert_eq!(recipe.name, named.name);
        assert!(!recipe.about.is_empty() && recipe.format.is_some(), "{}", named.name);
    }
    let bad = Recipe::named("int5").unwrap_err();
    assert!(bad.hint.unwrap().contains("did you mean"));
}

#[test]
fn a_recipe_that_is_written_reads_back_the_same() {
    let text = "about: \"colons: and [brackets]\"\nformat: native\nsteps:\n  - prune.magnitude: {pattern: \"2:4\", at: [\"*.down\", attn]}\n  - quantize.rtn: {bits: 3, symmetric: false, group: channel}\n";
    let own = parse(text).unwrap();
    for recipe in Recipe::list().iter().map(|named| named.recipe().unwrap()).chain([own]) {
        let yaml = recipe.to_yaml();
        let again = Recipe::parse(&yaml, &recipe.origin).unwrap_or_else(|bad| panic!("{bad}\n{yaml}"));
        assert_eq!(again.normalised(), recipe.normalised(), "{yaml}");
        assert_eq!(again.to_yaml(), yaml);
        assert_eq!(again.format, recipe.format);
    }
}

#[test]
fn settings_by_default_are_spelled_out() {
    let terse = parse("steps:\n  - quantize.rtn: {bits: 4}\n").unwrap().normalised();
    assert_eq!(terse["steps"][0]["quantize.rtn"]["ragged"], json!("refuse"));
    let full = parse("steps:\n  - quantize.rtn: {bits: 4, group: 128, ragged: refuse}\n").unwrap().normalised();
    assert_eq!(terse, full);
}
