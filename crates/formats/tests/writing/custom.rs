//! Directories with a file of code: what is in them, and what is refused.

use std::path::Path;

use brevity_formats::{Checkpoint, Custom, Dense, Error, Format, Native, Opens, StageView, Why};
use brevity_model::{Dtype, Floats, Form, Linear, Model, Role, Stage, Weight};
use serde_json::{Value, json};

use crate::architectures;
use crate::battery::{encode, load, write};
use crate::common::numbers;
use crate::models::llama;

fn floats(shape: [usize; 2], seed: u64) -> Weight {
    Weight::float(shape, Floats::from_f32(numbers(shape[0] * shape[1], seed), Dtype::Bf16))
}

/// Puts something in the place of one layer of the first block.
fn change(stages: &mut [Stage<Weight>], role: Role, change: impl FnOnce(&mut Linear<Weight>)) {
    let (_, layer) = stages[1].linears_mut().into_iter().find(|(found, _)| *found == role).unwrap();
    change(layer);
}

/// A llama whose first `down` is a product of three matrices, with a bias, and whose first `q` has one, too.
fn factored(dir: &Path) -> (Checkpoint, Vec<Stage<Weight>>) {
    let checkpoint = llama(dir);
    let mut stages = load(&checkpoint);
    change(&mut stages, Role::Down, |layer| {
        let inner = Weight::product(floats([16, 3], 1), floats([3, 5], 2));
        *layer = Linear { weight: Weight::product(inner, floats([5, 32], 3)), bias: Some(floats([1, 16], 4)) };
    });
    change(&mut stages, Role::Q, |layer| layer.bias = Some(floats([1, 16], 5)));
    (checkpoint, stages)
}

fn forms(model: &Checkpoint, stages: &[Stage<Weight>]) -> Model<Form> {
    let form = |stage: &Stage<Weight>| stage.try_map(|_, _, weight| Ok::<_, ()>(Form::of(weight))).unwrap();
    let like = model.model().try_map(|_, _, source| Ok::<_, ()>(source.form.clone())).unwrap();
    Model { stages: stages.iter().map(form).collect(), ..like }
}

#[test]
fn factors_are_tensors_of_their_own_and_come_back_as_a_product() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (checkpoint, stages) = factored(source.path());
    let written = encode(&Custom, &checkpoint, &stages).unwrap().concat();
    let down = written.iter().filter(|tensor| tensor.spec.name.starts_with("model.layers.0.mlp.down_proj"));
    let mut down: Vec<(&str, &[usize])> = down.map(|t| (t.spec.name.as_str(), &t.spec.shape[..])).collect();
    down.sort_unstable();
    let expected: [(&str, &[usize]); 4] = [
        ("model.layers.0.mlp.down_proj.0.weight", &[5, 32]),
        ("model.layers.0.mlp.down_proj.1.weight", &[3, 5]),
        ("model.layers.0.mlp.down_proj.2.bias", &[16]),
        ("model.layers.0.mlp.down_proj.2.weight", &[16, 3]),
    ];
    assert_eq!(down, expected);
    let reopened = write(&Custom, &checkpoint, &stages, out.path());
    assert_eq!(reopened.format(), "custom");
    let mut names = checkpoint.container().names();
    names.extend(["mlp.down_proj", "self_attn.q_proj"].map(|name| format!("model.layers.0.{name}.bias")));
    names.sort();
    assert_eq!(reopened.container().names(), names);
    for (got, wanted) in load(&reopened).iter().zip(&stages) {
        for ((role, slot, got), (_, _, wanted)) in got.weights().into_iter().zip(wanted.weights()) {
            // The product is put together from the other side.
            let (got, wanted) =
                (Custom.held(got.clone(), &Form::of(got)), Custom.held(wanted.clone(), &Form::of(wanted)));
            assert_eq!(got, wanted, "{role} {slot:?}");
        }
    }
    // As it was, it comes out as it was.
    let again = tempfile::tempdir().unwrap();
    let twice = write(&Custom, &reopened, &load(&reopened), again.path());
    for name in reopened.container().stored() {
        assert_eq!(twice.container().raw(&name), reopened.container().raw(&name), "{name}");
    }
    let config = |dir: &Path| std::fs::read_to_string(dir.join("config.json")).unwrap();
    assert_eq!(config(out.path()), config(again.path()));
}

#[test]
fn a_configuration_that_only_the_code_understands_becomes_the_stock_one_again() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (checkpoint, stages) = factored(source.path());
    let reopened = write(&Custom, &checkpoint, &stages, out.path());
    let text = std::fs::read_to_string(out.path().join("config.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written["model_type"], "brevity_llama");
    assert_eq!(written["architectures"], json!(["BrevityForCausalLM"]));
    assert_eq!(written["auto_map"]["AutoModelForCausalLM"], "modeling_brevity.BrevityForCausalLM");
    assert_eq!(written["auto_map"]["AutoConfig"], "modeling_brevity.BrevityConfig");
    let expected = json!({
        "layout": "custom", "version": 1, "stock": {"architectures": ["LlamaForCausalLM"]},
        "linears": {
            "model.layers.0.mlp.down_proj": {"widths": [32, 5, 3, 16], "bias": true, "added": true},
            "model.layers.0.self_attn.q_proj": {"widths": [16, 16], "bias": true, "added": true},
        },
    });
    assert_eq!(written["brevity"], expected);
    assert_eq!(reopened.config(), checkpoint.config());
}

/// Why a format cannot hold the first block.
fn refusal(format: &dyn Format, checkpoint: &Checkpoint, stages: &[Stage<Weight>]) -> Option<Why> {
    let at = StageView {
        place: checkpoint.model().place(1),
        source: &checkpoint.model().stages[1],
        container: Some(checkpoint.container()),
        numbers: None,
    };
    match format.layout(&at, &forms(checkpoint, stages).stages[1]) {
        Err(Error::Unholdable { why, .. }) => Some(why),
        _ => None,
    }
}

#[test]
fn biases_that_only_our_files_could_hold_are_not_passed_on_to_readers_that_would_not_look_for_them() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let checkpoint = llama(source.path());
    let mut stages = load(&checkpoint);
    change(&mut stages, Role::Q, |layer| layer.bias = Some(floats([1, 16], 5)));
    for (format, dir) in [(&Native as &dyn Format, "native"), (&Custom, "custom")] {
        let reopened = write(format, &checkpoint, &stages, &out.path().join(dir));
        for reader in [&Dense as &dyn Format, brevity_formats::format("ct").unwrap()] {
            let why = refusal(reader, &reopened, &load(&reopened));
            assert!(matches!(why, Some(Why::Bias)), "{dir} as {}: {why:?}", reader.name());
        }
        let config = Custom.config(reopened.config(), reopened.model(), &forms(&reopened, &load(&reopened))).unwrap();
        assert_eq!(config.get("brevity").unwrap()["linears"]["model.layers.0.self_attn.q_proj"]["bias"], true);
    }
}

#[test]
fn without_a_need_for_code_there_is_none() {
    let source = tempfile::tempdir().unwrap();
    let checkpoint = llama(source.path());
    let stages = load(&checkpoint);
    let config = Custom.config(checkpoint.config(), checkpoint.model(), &forms(&checkpoint, &stages)).unwrap();
    assert_eq!(&config, checkpoint.config());
    assert_eq!(Custom.opens(&config, &[]), Opens::Stock);
    assert!(Custom.files(&config).is_empty());
    let (checkpoint, stages) = factored(source.path());
    let config = Custom.config(checkpoint.config(), checkpoint.model(), &forms(&checkpoint, &stages)).unwrap();
    assert_eq!(Custom.opens(&config, &[]), Opens::Code);
    assert_eq!(Custom.opened_by(Opens::Code), "transformers with `trust_remote_code=True`");
}

#[test]
fn the_code_is_made_for_the_architecture_and_is_short() {
    let mut made = Vec::new();
    for (name, golden) in architectures::golden() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = architectures::checkpoint(dir.path(), &golden);
        let mut stages = load(&checkpoint);
        change(&mut stages, Role::Down, |layer| {
            let [rows, columns] = layer.weight.shape();
            layer.weight = Weight::product(floats([rows, 2], 1), floats([2, columns], 2));
        });
        let config = Custom.config(checkpoint.config(), checkpoint.model(), &forms(&checkpoint, &stages));
        let kind = checkpoint.config().model_type().to_owned();
        match config {
            Ok(config) => {
                let files = Custom.files(&config);
                let [(file, code)] = files.as_slice() else { panic!("{name}: {} files", files.len()) };
                let code = std::str::from_utf8(code).unwrap();
                assert_eq!(file, "modeling_brevity.py");
                assert!(code.lines().count() < 60 && code.lines().all(|line| line.len() <= 140), "{name}");
                assert!(code.contains(&format!("models.{kind}.modeling_{kind} import")), "{name}");
                assert!(code.contains(&format!("= \"brevity_{kind}\"")), "{name}");
                assert!(kind == "llama" || !code.to_lowercase().contains("llama"), "{name}");
                assert_eq!(refusal(&Custom, &checkpoint, &stages), None, "{name}");
                made.push(kind);
            }
            Err(error) => {
                assert!(matches!(error, Error::Unholdable { why: Why::Architecture { .. }, .. }), "{name}: {error}");
                assert!(error.hint().unwrap().contains("native"), "{name}");
            }
        }
    }
    made.dedup();
    assert_eq!(made, ["llama", "mistral", "qwen2", "qwen3", "smollm3"]);
}

#[test]
fn what_is_not_as_the_configuration_says_is_refused() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (checkpoint, stages) = factored(source.path());
    write(&Custom, &checkpoint, &stages, out.path());
    let file = out.path().join("config.json");
    let whole: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let error = |spoil: &dyn Fn(&mut Value)| {
        let mut config = whole.clone();
        spoil(&mut config["brevity"]);
        std::fs::write(&file, config.to_string()).unwrap();
        Checkpoint::open(out.path()).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let down = "model.layers.0.mlp.down_proj";
    for (part, spoil) in [
        (
            "version 2 of the custom layout, which is newer",
            &(|ours: &mut Value| ours["version"] = json!(2)) as &dyn Fn(&mut Value),
        ),
        ("does not say which version", &|ours| ours["version"] = Value::Null),
        ("`linears`: invalid type", &|ours| ours["linears"] = json!([1])),
        ("unknown field `rank`", &|ours| ours["linears"][down]["rank"] = json!(1)),
        ("is [5, 32], where its widths are 32 to 4", &|ours| ours["linears"][down]["widths"] = json!([32, 4, 3, 16])),
        ("`model.layers.0.mlp.down_proj.3.weight` is missing", &|ours| {
            ours["linears"][down]["widths"] = json!([32, 5, 3, 16, 16])
        }),
        ("model.layers.0.mlp.down_proj.weight", &|ours| ours["linears"] = json!({})),
    ] {
        let said = error(spoil);
        assert!(said.contains(part), "{part}: {said}");
    }
}
