//! Every format with weights of every kind: layouts are kept, files read back, what cannot be held is refused.

use std::collections::BTreeMap;
use std::path::Path;

use brevity_formats::{Checkpoint, Error, FORMATS, Format, Output, StageView, Tensor, TensorSpec, format};
use brevity_model::{Code, CodeForm, Dtype, Expr, Form, Group, Leaf, LeafForm, Model, Stage, Weight};

use crate::models::{MATRICES, kinds, llama, rewritten};

fn view<'a>(checkpoint: &'a Checkpoint, stage: usize) -> StageView<'a> {
    let model = checkpoint.model();
    StageView {
        place: model.place(stage),
        source: &model.stages[stage],
        container: Some(checkpoint.container()),
        numbers: None,
    }
}

fn forms(stage: &Stage<Weight>) -> Stage<Form> {
    stage.try_map(|_, _, weight| Ok::<_, ()>(Form::of(weight))).unwrap()
}

fn model_of(checkpoint: &Checkpoint, stages: &[Stage<Weight>]) -> Model<Form> {
    let model = checkpoint.model();
    Model {
        name: model.name.clone(),
        hidden: model.hidden,
        vocabulary: model.vocabulary,
        block_name: None,
        context: model.context,
        stages: stages.iter().map(forms).collect(),
    }
}

/// The tensors of a model, or why it cannot be held. Layouts are checked on the way.
pub fn encode(
    format: &dyn Format,
    checkpoint: &Checkpoint,
    stages: &[Stage<Weight>],
) -> Result<Vec<Vec<Tensor>>, Error> {
    let encode = |n: usize| {
        let layout = format.layout(&view(checkpoint, n), &forms(&stages[n]));
        let tensors = format.encode(&view(checkpoint, n), &stages[n]);
        match (layout, tensors) {
            (Ok(layout), Ok(tensors)) => {
                let specs: Vec<&TensorSpec> = tensors.iter().map(|tensor| &tensor.spec).collect();
                assert_eq!(specs, layout.iter().collect::<Vec<_>>(), "the layout is what is encoded");
                Ok(tensors)
            }
            (Err(layout), Err(error)) => {
                assert_eq!(layout.to_string(), error.to_string());
                Err(error)
            }
            (layout, tensors) => panic!("layout {:?}, encode {:?}", layout.err(), tensors.err()),
        }
    };
    (0..stages.len()).map(encode).collect()
}

/// Writes a model, checks that the files have the predicted size, and opens it again.
pub fn write(format: &dyn Format, checkpoint: &Checkpoint, stages: &[Stage<Weight>], dir: &Path) -> Checkpoint {
    let tensors = encode(format, checkpoint, stages).unwrap();
    let specs = |stage: &Vec<Tensor>| stage.iter().map(|tensor| tensor.spec.clone()).collect();
    let layouts: Vec<Vec<TensorSpec>> = tensors.iter().map(specs).collect();
    let mut output = Output::open(dir, "battery", &layouts, false).unwrap();
    let predicted = output.predicted_bytes();
    for (n, tensors) in tensors.into_iter().enumerate() {
        output.write(n, tensors).unwrap();
    }
    let model = model_of(checkpoint, stages);
    let config = format.config(checkpoint.config(), checkpoint.model(), &model).unwrap();
    output.finish(vec![("config.json".into(), config.to_json().into_bytes())]).unwrap();
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let shards = files.filter(|file| file.path().extension().is_some_and(|e| e == "safetensors"));
    assert_eq!(shards.map(|file| file.metadata().unwrap().len()).sum::<u64>(), predicted);
    Checkpoint::open(dir).unwrap()
}

pub fn load(checkpoint: &Checkpoint) -> Vec<Stage<Weight>> {
    (0..checkpoint.model().stages.len()).map(|n| checkpoint.load_stage(n).unwrap()).collect()
}

/// What a kind of weight reads as after it was written in a format.
fn expected(format: &str, weight: &Weight) -> Weight {
    let grid = matches!(weight, Expr::Leaf(Leaf { code: Code::Grid(_), .. }));
    match (format, weight) {
        ("native", _) => weight.clone(),
        ("custom", Expr::Product(parts)) => Weight::product(expected(format, &parts[0]), expected(format, &parts[1])),
        ("dense" | "custom", _) => {
            Weight::float(weight.shape(), brevity_model::Floats::from_f32(weight.to_f32(), Dtype::Bf16))
        }
        _ if grid => weight.clone(),
        _ => expected("dense", weight),
    }
}

/// The form without masks, and with one group for a row as what it is.
fn bare(format: &str, form: &Form) -> Form {
    let strip = |leaf: &LeafForm| {
        let mut code = leaf.code.clone();
        if let CodeForm::Grid { group: group @ Group::Columns(_), .. } = &mut code
            && format != "native"
            && group.columns(0) >= leaf.shape[1]
        {
            *group = Group::Channel;
        }
        LeafForm { code, mask: None, ..leaf.clone() }
    };
    form.try_map(&mut |_, leaf| Ok::<_, ()>(strip(leaf))).unwrap()
}

/// Checks that weights are the same, whatever removed entries hold.
fn same(format: &str, what: &str, got: &Weight, wanted: &Weight) {
    let bits = |weight: &Weight| weight.to_f32().iter().map(|x| (x + 0.0).to_bits()).collect::<Vec<u32>>();
    assert_eq!(bare(format, &Form::of(got)), bare(format, &Form::of(wanted)), "{what}");
    assert_eq!(bits(got), bits(wanted), "{what}");
    if format == "native" {
        for ((_, got), (_, wanted)) in got.leaves().into_iter().zip(wanted.leaves()) {
            match (&got.mask, &wanted.mask) {
                (None, None) => {}
                // A kept zero may be taken for a removed one where no bitmap is stored, never the other way round.
                (Some(got), Some(wanted)) => {
                    let mut both = got.clone();
                    both.and(wanted);
                    assert_eq!(&both, got, "{what}");
                }
                masks => panic!("{what}: {masks:?}"),
            }
        }
    }
}

/// A model with one kind of weight everywhere.
fn all_of(original: &[Stage<Weight>], kind: usize) -> Vec<Stage<Weight>> {
    original.iter().map(|stage| rewritten(stage, |_| kind)).collect()
}

#[test]
fn every_format_lays_out_what_it_encodes_and_refuses_what_it_cannot_hold() {
    let source = tempfile::tempdir().unwrap();
    let checkpoint = llama(source.path());
    let original = load(&checkpoint);
    let mut refused: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for format in FORMATS {
        for (kind, (name, _)) in kinds([1, 8]).into_iter().enumerate() {
            match encode(*format, &checkpoint, &all_of(&original, kind)) {
                Ok(_) => {}
                Err(error @ Error::Unholdable { .. }) => {
                    assert!(error.hint().unwrap().contains("native"), "{name}: {error}");
                    refused.entry(format.name()).or_default().push(name);
                }
                Err(error) => panic!("{name} in {}: {error}", format.name()),
            }
        }
    }
    let not_expressions = ["table", "table, half removed", "codebook", "codebook, half removed", "product"];
    let trains = ["train", "train of grids, half removed"];
    let not_expressions =
        [&not_expressions[..], &["product of grids", "grid and product", "rules around floats"], &trains].concat();
    let with = |more: &[&'static str]| {
        let mut all = [&not_expressions[..], more].concat();
        all.sort_by_key(|name| kinds([1, 8]).iter().position(|(kind, _)| kind == name));
        all
    };
    assert_eq!(refused.remove("dense"), None);
    assert_eq!(refused.remove("native"), None);
    let no_chains = ["train", "train of grids, half removed", "grid and product", "rules around floats"];
    assert_eq!(refused.remove("custom").unwrap(), no_chains);
    let odd = ["int3 group", "int4 ragged group", "int5 channel, zeros", "int1 tensor"];
    assert_eq!(refused.remove("compressed-tensors").unwrap(), with(&odd));
    assert_eq!(refused.remove("compressed-tensors-naive").unwrap(), with(&["int4 ragged group", "int1 tensor"]));
    let eight = kinds([1, 8]).into_iter().map(|(name, _)| name).filter(|name| name.starts_with("int"));
    let not_eight: Vec<&str> = eight.filter(|name| !name.starts_with("int8")).collect();
    assert_eq!(refused.remove("compressed-tensors-int").unwrap(), with(&not_eight));
}

/// Writes, reads back and compares.
fn round_trip(format: &dyn Format, checkpoint: &Checkpoint, stages: &[Stage<Weight>]) {
    let dir = tempfile::tempdir().unwrap();
    let reopened = write(format, checkpoint, stages, dir.path());
    let products = stages.iter().any(|stage| stage.weights().iter().any(|(_, _, weight)| weight.as_leaf().is_none()));
    let opened_as = match format.name() {
        "native" => "native",
        "custom" if products => "custom",
        "dense" | "custom" => "safetensors",
        _ => "compressed-tensors",
    };
    assert_eq!(reopened.format(), opened_as);
    let got = load(&reopened);
    let wanted = |stage: &Stage<Weight>| stage.try_map(|_, _, weight| Ok::<_, ()>(expected(format.name(), weight)));
    let wanted: Vec<Stage<Weight>> = stages.iter().map(|stage| wanted(stage).unwrap()).collect();
    for (n, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        for ((role, slot, got), (_, _, wanted)) in got.weights().into_iter().zip(wanted.weights()) {
            same(format.name(), &format!("{}: stage {n} {role} {slot:?}", format.name()), got, wanted);
        }
    }
    // The plain floats are the same whether they are written now or from what was written.
    let dense = |checkpoint: &Checkpoint, stages: &[Stage<Weight>]| {
        let mut tensors = encode(&brevity_formats::Dense, checkpoint, stages).unwrap().concat();
        tensors.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        tensors
    };
    assert_eq!(dense(&reopened, &got), dense(checkpoint, &wanted), "{}", format.name());
}

#[test]
fn weights_of_every_kind_read_back_from_every_format() {
    let source = tempfile::tempdir().unwrap();
    let checkpoint = llama(source.path());
    let original = load(&checkpoint);
    for format in FORMATS {
        let holds = |kind: &usize| {
            let name = kinds([1, 8])[*kind].0;
            // Singles have no bfloat16 twin, so nothing is the same after them.
            name != "singles" && encode(*format, &checkpoint, &all_of(&original, *kind)).is_ok()
        };
        let held: Vec<usize> = (0..kinds([1, 8]).len()).filter(holds).collect();
        for first in (0..held.len()).step_by(2 * MATRICES) {
            let stages = original
                .iter()
                .enumerate()
                .map(|(n, stage)| rewritten(stage, |site| held[(first + n % 2 * MATRICES + site) % held.len()]));
            round_trip(*format, &checkpoint, &stages.collect::<Vec<_>>());
        }
    }
}

#[test]
fn one_scheme_for_all_linear_layers_reads_back() {
    let source = tempfile::tempdir().unwrap();
    let checkpoint = llama(source.path());
    let original = load(&checkpoint);
    for (format, kind) in [("ct", "int4 group, zeros"), ("compressed-tensors-int", "int8 channel")] {
        let kind = kinds([1, 8]).iter().position(|(name, _)| *name == kind).unwrap();
        round_trip(brevity_formats::format(format).unwrap(), &checkpoint, &all_of(&original, kind));
    }
}

#[test]
fn singles_stay_singles_in_the_native_layout_alone() {
    let source = tempfile::tempdir().unwrap();
    let checkpoint = llama(source.path());
    let kind = kinds([1, 8]).iter().position(|(name, _)| *name == "singles").unwrap();
    let stages = all_of(&load(&checkpoint), kind);
    for format in FORMATS {
        let tensors = encode(*format, &checkpoint, &stages).unwrap().concat();
        let singles = tensors.iter().filter(|tensor| tensor.spec.dtype == "F32").count();
        assert_eq!(singles, if format.name() == "native" { 2 * MATRICES } else { 0 }, "{}", format.name());
    }
}

#[test]
fn what_nothing_was_done_to_comes_out_byte_for_byte() {
    let source = tempfile::tempdir().unwrap();
    let checkpoint = llama(source.path());
    let stages = load(&checkpoint);
    for format in FORMATS {
        let mut written = encode(*format, &checkpoint, &stages).unwrap().concat();
        written.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let container = checkpoint.container();
        assert_eq!(written.iter().map(|t| t.spec.name.clone()).collect::<Vec<_>>(), container.stored());
        for tensor in written {
            let raw = container.raw(&tensor.spec.name).unwrap();
            assert_eq!((tensor.spec.dtype, &tensor.spec.shape[..]), (raw.dtype, raw.shape), "{}", tensor.spec.name);
            assert_eq!(tensor.data, raw.bytes, "{}", tensor.spec.name);
        }
    }
}

#[test]
fn a_configuration_changes_where_it_must_and_nowhere_else() {
    let source = tempfile::tempdir().unwrap();
    let checkpoint = llama(source.path());
    let kind = kinds([1, 8]).iter().position(|(name, _)| *name == "int4 group").unwrap();
    let stages = all_of(&load(&checkpoint), kind);
    let model = model_of(&checkpoint, &stages);
    let before: Vec<&str> = checkpoint.config().keys().collect();
    for (name, added) in [("dense", None), ("ct", Some("quantization_config")), ("native", Some("brevity"))] {
        let mut config = format(name).unwrap().config(checkpoint.config(), checkpoint.model(), &model).unwrap();
        let after: Vec<&str> = config.keys().collect();
        assert_eq!(after, before.iter().copied().chain(added).collect::<Vec<_>>(), "{name}");
        // What was added is taken out again when the result is written as plain floats.
        let mut quantized = config.clone();
        quantized.set("quantization_config", serde_json::json!({"quant_method": "gptq"}));
        let dense = format("dense").unwrap().config(&quantized, checkpoint.model(), &model).unwrap();
        assert_eq!(&dense, checkpoint.config());
        added.map(|key| config.remove(key));
        assert_eq!(&config, checkpoint.config());
    }
}
