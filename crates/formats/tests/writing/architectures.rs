//! Every architecture: tensors that are fused or transposed in files come apart and are put together again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use brevity_formats::{Checkpoint, Dense, Error, FORMATS, Native, Why, format};
use brevity_model::{Expr, Group};
use serde_json::Value;

use crate::battery::{encode, load, write};
use crate::common::{Tensor, f32_bytes, numbers, safetensors};
use crate::models::{grid, kinds, rewritten};

/// The configurations and tensors that the golden logits were made with.
pub fn golden() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "json"));
    files.sort();
    let read = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).unwrap();
        (file.file_stem().unwrap().to_string_lossy().into_owned(), serde_json::from_str(&text).unwrap())
    };
    files.into_iter().map(read).collect()
}

/// A checkpoint of this configuration with numbers of our own.
pub fn checkpoint(dir: &Path, golden: &Value) -> Checkpoint {
    let tensors: Vec<Tensor> = golden["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(n, parameter)| {
            let shape: Vec<usize> =
                parameter["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            let values = numbers(shape.iter().product(), n as u64);
            (parameter["name"].as_str().unwrap().to_owned(), "F32", shape, f32_bytes(&values))
        })
        .collect();
    std::fs::write(dir.join("config.json"), golden["config"].to_string()).unwrap();
    std::fs::write(dir.join("model.safetensors"), safetensors(&tensors)).unwrap();
    Checkpoint::open(dir).unwrap()
}

#[test]
fn every_architecture_comes_out_as_it_was() {
    let mut types = BTreeSet::new();
    for (name, golden) in golden() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoint = checkpoint(dir.path(), &golden);
        types.insert(checkpoint.config().model_type().to_owned());
        let stages = load(&checkpoint);
        for format in FORMATS {
            let written = encode(*format, &checkpoint, &stages).unwrap().concat();
            assert_eq!(written.len(), checkpoint.container().stored().len(), "{name} {}", format.name());
            for tensor in written {
                let raw = checkpoint.container().raw(&tensor.spec.name).unwrap();
                assert_eq!(tensor.spec.shape, raw.shape, "{name} {}", tensor.spec.name);
                assert_eq!(tensor.data, raw.bytes, "{name} {}", tensor.spec.name);
            }
        }
    }
    let known: BTreeSet<String> = brevity_model::architectures().into_iter().flat_map(|(_, types)| types).collect();
    let missing: Vec<_> = known.difference(&types).filter(|name| *name != "gemma3" && *name != "gemma").collect();
    assert!(types.len() >= 14 && missing.is_empty(), "no golden file for {missing:?}");
}

#[test]
fn every_architecture_keeps_its_codes_in_the_native_layout() {
    for (name, golden) in golden() {
        let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let checkpoint = checkpoint(source.path(), &golden);
        let all = kinds([1, 8]);
        let mixed: Vec<usize> =
            (0..all.len()).filter(|&kind| all[kind].0.contains("int") || all[kind].0.contains("product")).collect();
        let stages: Vec<_> =
            load(&checkpoint).iter().map(|stage| rewritten(stage, |site| mixed[site % mixed.len()])).collect();
        let reopened = write(&Native, &checkpoint, &stages, out.path());
        assert_eq!(reopened.container().names(), checkpoint.container().names(), "{name}");
        for (before, after) in checkpoint.model().weights().zip(reopened.model().weights()) {
            assert_eq!((before.0, before.1, &before.2.tensor), (after.0, after.1, &after.2.tensor), "{name}");
            assert_eq!(before.2.view, after.2.view, "{name}");
        }
        let got = load(&reopened);
        for (got, wanted) in got.iter().zip(&stages) {
            for ((role, _, got), (_, _, wanted)) in got.weights().into_iter().zip(wanted.weights()) {
                assert_eq!(got.to_f32(), wanted.to_f32(), "{name} {role}");
            }
        }
        // A fused tensor as such, too, is what its parts are.
        for tensor in encode(&Dense, &reopened, &got).unwrap().concat() {
            let whole = reopened.container().load(&tensor.spec.name).unwrap();
            let again = brevity_model::Floats::from_f32(whole.to_f32(), brevity_model::Dtype::F32);
            let values = f32_bytes(&again.to_f32());
            if tensor.spec.dtype == "F32" {
                assert_eq!(tensor.data, values, "{name} {}", tensor.spec.name);
            }
        }
    }
}

#[test]
fn modules_of_every_architecture_read_back_from_compressed_tensors() {
    let ct = format("ct").unwrap();
    let mut refused = BTreeSet::new();
    for (name, golden) in golden() {
        let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let checkpoint = checkpoint(source.path(), &golden);
        let kind = kinds([1, 8]).iter().position(|(name, _)| *name == "int4 group, zeros").unwrap();
        let stages: Vec<_> = load(&checkpoint).iter().map(|stage| rewritten(stage, |_| kind)).collect();
        if let Err(error) = encode(ct, &checkpoint, &stages) {
            assert!(matches!(error, Error::Unholdable { why: Why::Transposed { .. }, .. }), "{name}: {error}");
            refused.insert(name);
            continue;
        }
        let reopened = write(ct, &checkpoint, &stages, out.path());
        for (got, wanted) in load(&reopened).iter().zip(&stages) {
            for ((role, _, got), (_, _, wanted)) in got.weights().into_iter().zip(wanted.weights()) {
                assert_eq!(got, wanted, "{name} {role}");
            }
        }
    }
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), ["gpt2", "gpt2-bare-names"]);
}

#[test]
fn parts_of_one_tensor_must_be_stored_alike() {
    let phi3 = golden().into_iter().find(|(name, _)| name == "phi3").unwrap().1;
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(dir.path(), &phi3);
    let mut block = load(&checkpoint).swap_remove(1);
    let at = brevity_formats::StageView {
        place: checkpoint.model().place(1),
        source: &checkpoint.model().stages[1],
        container: Some(checkpoint.container()),
        numbers: None,
    };
    let mut put = |role: &str, bits: u8, group: Group| {
        let (_, linear) = block.linears_mut().into_iter().find(|(found, _)| found.as_str() == role).unwrap();
        linear.weight = Expr::Leaf(grid(linear.weight.shape(), bits, group, false));
        format("ct").unwrap().encode(&at, &block).map(|tensors| tensors.len())
    };
    let why = |result: Result<usize, Error>| match result {
        Err(Error::Unholdable { site, why, .. }) => (site.to_string(), why),
        other => panic!("{other:?}"),
    };
    let tensor = "model.layers.0.self_attn.qkv_proj.weight".to_owned();
    let fused = || Why::Fused { tensor: tensor.clone() };
    assert_eq!(why(put("attn.q", 4, Group::Channel)), ("blocks.0.attn.k".into(), fused()));
    assert_eq!(why(put("attn.k", 8, Group::Channel)), ("blocks.0.attn.k".into(), fused()));
    assert_eq!(why(put("attn.k", 4, Group::Channel)), ("blocks.0.attn.v".into(), fused()));
    assert!(put("attn.v", 4, Group::Channel).is_ok());
    assert_eq!(why(put("attn.q", 4, Group::Tensor)), ("blocks.0.attn.q".into(), Why::FusedScale { tensor }));
}
