//! Every model of `tests/golden` is fully described: its tensors are claimed, its numbers are read.

use std::collections::BTreeMap;
use std::path::Path;

use brevity_model::{
    Block, Config, Dtype, Form, Heads, Model, Reach, Source, Stage, Tensors, View, architectures, build,
};
use serde_json::Value;

struct Names(BTreeMap<String, Form>);

impl Tensors for Names {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        self.0.get(name).cloned()
    }
}

/// The model of a golden file: `llama`, `gpt_neo`.
fn golden(name: &str) -> Model<Source> {
    golden_with(name, &[])
}

/// The same with more vectors of 32.
fn golden_with(name: &str, more: &[&str]) -> Model<Source> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(format!("{name}.json"));
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let config = Config::parse(&file["config"].to_string()).unwrap();
    let parameters = file["parameters"].as_array().unwrap().iter().map(|parameter| {
        let shape: Vec<usize> = serde_json::from_value(parameter["shape"].clone()).unwrap();
        let shape = if let [rows, columns] = shape[..] { [rows, columns] } else { [1, shape[0]] };
        (parameter["name"].as_str().unwrap().to_owned(), Form::float(shape, Dtype::F32))
    });
    let more = more.iter().map(|name| ((*name).to_owned(), Form::float([1, 32], Dtype::F32)));
    build(&config, &Names(parameters.chain(more).collect())).unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn golden_names() -> Vec<String> {
    let folder = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let json = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let mut names: Vec<String> = json.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn blocks(model: &Model<Source>) -> Vec<&Block<Source>> {
    let mut blocks = Vec::new();
    for stage in &model.stages {
        if let Stage::Block(block) = stage {
            blocks.push(block);
        }
    }
    blocks
}

fn heads(model: &Model<Source>) -> Vec<&Heads> {
    blocks(model).into_iter().map(|block| &block.attn.as_ref().unwrap().heads).collect()
}

fn reaches(name: &str) -> Vec<Reach> {
    heads(&golden(name)).iter().map(|heads| heads.reach).collect()
}

#[test]
fn every_description_has_a_golden_file() {
    let goldens = golden_names();
    for (name, _) in architectures() {
        assert!(goldens.iter().any(|golden| golden == name), "{name}");
    }
}

#[test]
fn only_the_heads_of_encoders_are_loose() {
    for name in golden_names() {
        let model = golden(&name);
        let loose: Vec<String> = model
            .stages
            .iter()
            .filter_map(|stage| match stage {
                Stage::Loose(loose) => Some(loose.matrices.keys().chain(&loose.others).cloned()),
                _ => None,
            })
            .flatten()
            .collect();
        match name.as_str() {
            "bert" => assert_eq!(loose, ["pooler.dense.weight", "pooler.dense.bias"]),
            "roberta" | "roberta-camembert" | "roberta-xlm" | "mpnet" => {
                assert_eq!(loose, ["pooler.dense.weight", "pooler.dense.bias"]);
            }
            "bert-masked-lm" => assert!(loose.iter().all(|name| name.starts_with("cls.")) && !loose.is_empty()),
            "roberta-masked-lm" => {
                assert!(loose.iter().all(|name| name.starts_with("lm_head.")) && !loose.is_empty());
            }
            "modernbert-biases" => {
                assert_eq!(loose, ["head.dense.weight", "decoder.bias", "head.norm.bias", "head.norm.weight"]);
            }
            _ => assert_eq!(loose, [""; 0], "{name}"),
        }
    }
}

#[test]
fn windows_are_where_the_configuration_has_them() {
    use Reach::{Around, Both, Causal, Window};
    for (name, expected) in [
        ("llama", vec![Causal; 2]),
        ("bert", vec![Both; 2]),
        ("mistral", vec![Window(5); 2]),
        ("mistral-no-window", vec![Causal; 2]),
        ("qwen2", vec![Causal; 2]),
        ("qwen2-window", vec![Causal, Window(4), Window(4)]),
        ("qwen2-window-old-keys", vec![Causal, Causal, Window(4)]),
        ("gemma2", vec![Window(5), Causal, Window(5)]),
        ("gemma2-old-keys", vec![Window(4), Causal, Window(4)]),
        ("gemma3", vec![Window(5), Causal, Window(5)]),
        ("gemma3-old-keys", vec![Window(4), Window(4), Causal]),
        ("smollm3-window", vec![Causal, Window(4), Causal]),
        ("gpt_neo", vec![Causal, Window(4), Window(4)]),
        ("gpt_neo-old-keys", vec![Window(5), Causal]),
        ("roberta", vec![Both; 2]),
        ("modernbert", vec![Both, Around(3), Around(3), Both]),
        ("modernbert-biases", vec![Around(3), Both, Around(3), Both]),
        ("modernbert-old-keys", vec![Both, Around(3), Both, Around(3)]),
    ] {
        assert_eq!(reaches(name), expected, "{name}");
    }
}

#[test]
fn blocks_without_rotation_are_where_the_configuration_has_them() {
    let rotated = |name: &str| heads(&golden(name)).iter().map(|heads| heads.rope.is_some()).collect::<Vec<_>>();
    assert_eq!(rotated("smollm3"), [true, true, true, false]);
    assert_eq!(rotated("smollm3-window"), [true, false, true]);
    assert_eq!(rotated("gpt2"), [false, false]);
}

#[test]
fn local_and_global_blocks_rotate_at_their_own_speed() {
    for (name, local, global) in [("gemma3", 50.0f64, 1000.0), ("gemma3-old-keys", 70.0, 900.0)] {
        let model = golden(name);
        for heads in heads(&model) {
            let (base, factor) = match (heads.reach, name) {
                (Reach::Window(_), _) => (local, 1.0),
                (_, "gemma3") => (global, 3.0),
                _ => (global, 2.0),
            };
            let expected: Vec<f32> = (0..4).map(|i| (base.powf(-(i as f64) / 4.0) / factor) as f32).collect();
            assert_eq!(heads.rope.as_ref().unwrap().inv_freq, expected, "{name}");
        }
    }
}

#[test]
fn the_last_norm_of_an_encoder_makes_no_logits() {
    for (name, normed) in [("bert", false), ("modernbert", true), ("mpnet", false)] {
        let model = golden(name);
        assert!(!model.has_logits() && !model.is_tied(), "{name}");
        let norm = model.stages.iter().find_map(|stage| match stage {
            Stage::Head(head) => head.norm.as_ref().filter(|_| head.out.is_none()),
            _ => None,
        });
        assert_eq!(norm.is_some(), normed, "{name}");
    }
    assert!(golden("gpt2").has_logits());
}

#[test]
fn the_first_block_of_modernbert_has_no_norm_in_front_of_attention() {
    let normed =
        |name| blocks(&golden(name)).iter().map(|block| block.attn.as_ref().unwrap().before.is_some()).collect();
    let normed: Vec<bool> = normed("modernbert");
    assert_eq!(normed, [false, true, true, true]);
}

#[test]
fn a_block_that_moved_to_the_front_keeps_its_norm() {
    let model = golden_with("modernbert", &["layers.0.attn_norm.weight"]);
    assert!(blocks(&model)[0].attn.as_ref().unwrap().before.is_some());
}

#[test]
fn positions_that_are_skipped_are_not_part_of_the_context() {
    let context = |name| golden(name).context;
    assert_eq!(["bert", "opt", "roberta", "mpnet"].map(context), [Some(24), Some(24), Some(22), Some(22)]);
}

#[test]
fn the_table_of_distances_is_the_embeddings_and_blocks_read_it() {
    let model = golden("mpnet");
    let listed: Vec<String> = model.weights().map(|(site, _, _)| site.to_string()).collect();
    assert_eq!(listed.iter().filter(|site| site.ends_with("relative")).collect::<Vec<_>>(), ["embed.relative"]);
    for block in blocks(&model) {
        let attn = block.attn.as_ref().unwrap();
        assert_eq!(attn.relative.as_ref().unwrap().tensor, "encoder.relative_attention_bias.weight");
        let read = attn.heads.relative.as_ref().unwrap();
        assert_eq!((read.columns.as_slice(), read.distance), (&[0, 1, 2, 3][..], 128));
    }
}

#[test]
fn part_of_a_head_rotates_if_the_configuration_says_so() {
    let pairs = |name: &str| heads(&golden(name))[0].rope.as_ref().unwrap().inv_freq.len();
    assert_eq!(pairs("llama"), 6);
    assert_eq!(pairs("phi3"), 2);
    assert_eq!(pairs("gpt_neox"), 2);
    assert_eq!(pairs("gpt_neox-sequential-old-keys"), 1);
}

#[test]
fn fused_matrices_are_split_by_rows() {
    let rows = |ranges: &[std::ops::Range<usize>], transposed| View { transposed, rows: Some(ranges.to_vec()) };
    let view = |name: &str| {
        let model = golden(name);
        let attn = blocks(&model)[0].attn.clone().unwrap();
        (attn.k.weight.view, attn.k.bias.map(|bias| bias.view))
    };
    assert_eq!(view("phi3"), (rows(&[32..48], false), None));
    // Conv1D keeps [in, out], but its bias is as long as the outputs.
    assert_eq!(view("gpt2"), (rows(&[32..64], true), Some(rows(&[32..64], false))));
    let each_head = rows(&[8..16, 32..40, 56..64, 80..88], false);
    assert_eq!(view("gpt_neox"), (each_head.clone(), Some(each_head)));
    let model = golden("phi3");
    let mlp = blocks(&model)[1].mlp.as_ref().unwrap();
    assert_eq!(mlp.gate.as_ref().unwrap().weight.view, rows(&[0..48], false));
    assert_eq!(mlp.up.weight.view, rows(&[48..96], false));
}
