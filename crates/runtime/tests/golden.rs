//! The forward pass agrees with the reference implementation on a tiny random model of every architecture.
//!
//! `tests/golden/make.py` makes the files; they name the generator of the weights.

mod common;

use std::path::{Path, PathBuf};

use brevity_formats::Checkpoint;
use brevity_runtime::{Compute, Error, Resident, StreamOptions, run_streamed};
use common::Lcg;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

/// Largest difference, as a share of the largest value: rounding in another order, in single precision.
const TOLERANCE: f32 = 1e-5;

/// The golden files, each with its model as a checkpoint on disk.
struct Golden {
    name: String,
    checkpoint: Checkpoint,
    ids: Vec<u32>,
    has_head: bool,
    /// Logits or hidden states, and how many there are for each token.
    expected: Vec<f32>,
    width: usize,
    _folder: tempfile::TempDir,
}

fn golden() -> impl Iterator<Item = Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    assert!(paths.len() >= 14, "at least one for each architecture");
    paths.into_iter().map(|path| open(&serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()))
}

fn open(fixture: &Value) -> Golden {
    let name = fixture["name"].as_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    write(fixture, folder.path());
    let checkpoint = Checkpoint::open(folder.path()).unwrap_or_else(|why| panic!("{name}: {why}"));
    let array = fixture.get("logits").unwrap_or(&fixture["last_hidden_state"]);
    let hex = array["data_hex"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    Golden {
        checkpoint,
        ids: serde_json::from_value(fixture["input_ids"].clone()).unwrap(),
        has_head: fixture.get("logits").is_some(),
        expected: (0..hex.len()).step_by(8).map(|n| f32::from_le_bytes([0, 2, 4, 6].map(|at| byte(n + at)))).collect(),
        width: array["shape"][1].as_u64().unwrap() as usize,
        name,
        _folder: folder,
    }
}

/// The language model of a golden file as a part of a model of text and images.
fn wrapped(fixture: &Value, model_type: &str, prefix: &str) -> Value {
    let mut wrapped = fixture.clone();
    wrapped["config"] = serde_json::json!({ "model_type": model_type, "text_config": fixture["config"] });
    for parameter in wrapped["parameters"].as_array_mut().unwrap() {
        let name = parameter["name"].as_str().unwrap().replacen("model.", prefix, 1);
        parameter["name"] = name.into();
    }
    // Behind the others, so that their random numbers stay the same.
    let tower = serde_json::json!({ "name": "vision_tower.encoder.fc1.weight", "shape": [6, 4], "norm": false });
    wrapped["parameters"].as_array_mut().unwrap().push(tower);
    wrapped
}

#[test]
fn the_language_model_of_gemma_3_runs_within_a_model_of_text_and_images() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/gemma3.json");
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    check(["language_model.model.", "model.language_model."].into_iter().map(|prefix| {
        let golden = open(&wrapped(&fixture, "gemma3", prefix));
        let resident = Resident::load(&golden.checkpoint, Compute::F32).unwrap();
        let got: Vec<f32> = resident.logits(&golden.ids).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (prefix.to_owned(), difference(&got, &golden.expected))
    }));
}

/// Writes the model of a golden file as a checkpoint.
fn write(fixture: &Value, folder: &Path) {
    let mut numbers = Lcg(fixture["seed"].as_u64().unwrap());
    let parameters = fixture["parameters"].as_array().unwrap().iter().map(|parameter| {
        let shape: Vec<usize> = serde_json::from_value(parameter["shape"].clone()).unwrap();
        let values = numbers.values(shape.iter().product(), parameter["norm"].as_bool().unwrap());
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        (parameter["name"].as_str().unwrap(), shape, bytes)
    });
    let tensors: Vec<_> = parameters.collect();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(folder.join("config.json"), fixture["config"].to_string()).unwrap();
}

/// The largest difference, as a share of the largest value.
fn difference(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    got.iter().zip(expected).fold(0.0f32, |most, (a, b)| if a.is_nan() { f32::NAN } else { most.max((a - b).abs()) })
        / largest
}

/// Prints the error of each model and fails with the list of those that are off.
fn check(errors: impl Iterator<Item = (String, f32)>) {
    let mut off = Vec::new();
    for (name, error) in errors {
        println!("{name}: {error:.1e}");
        if error.is_nan() || error > TOLERANCE {
            off.push(format!("{name}: {error:.1e}"));
        }
    }
    assert!(off.is_empty(), "{off:#?}");
}

#[test]
fn every_golden_model_returns_what_the_reference_does() {
    check(golden().map(|golden| {
        let resident = Resident::load(&golden.checkpoint, Compute::F32).unwrap();
        let output = if golden.has_head { resident.logits(&golden.ids) } else { resident.hidden(&golden.ids) };
        let got: Vec<f32> = output.unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (golden.name, difference(&got, &golden.expected))
    }));
}

#[test]
fn every_golden_model_with_a_head_streams_the_same_logits() {
    check(golden().filter(|golden| golden.has_head).map(|golden| {
        let mut got = Vec::new();
        let mut visit = |chunk: brevity_runtime::Chunk<'_>| {
            got.extend_from_slice(chunk.logits[0]);
            Ok(())
        };
        let options = StreamOptions::new(Compute::F32);
        let windows = [golden.ids.clone()];
        run_streamed(&golden.checkpoint, &windows, &options, &mut visit, &mut |_| Ok(())).unwrap();
        // The last token predicts nothing.
        (golden.name, difference(&got, &golden.expected[..(golden.ids.len() - 1) * golden.width]))
    }));
}

#[test]
fn every_golden_model_with_a_head_continues_from_its_cache() {
    check(golden().filter(|golden| golden.has_head).map(|golden| {
        let resident = Resident::load(&golden.checkpoint, Compute::F32).unwrap();
        let mut cache = resident.cache();
        // Where windows are full, and where the model with other frequencies for long inputs has them already.
        let (start, rest) = golden.ids.split_at(10);
        let mut got: Vec<f32> = resident.forward(start, &mut cache).unwrap().to_vec1().unwrap();
        for &id in rest {
            got.extend(resident.forward(&[id], &mut cache).unwrap().to_vec1::<f32>().unwrap());
        }
        (golden.name, difference(&got, &golden.expected[9 * golden.width..]))
    }));
}

#[test]
fn a_cache_filled_before_the_frequencies_change_is_not_continued_behind_it() {
    let golden = golden().find(|golden| golden.name == "phi3-long").unwrap();
    let resident = Resident::load(&golden.checkpoint, Compute::F32).unwrap();
    let mut cache = resident.cache();
    resident.forward(&golden.ids[..8], &mut cache).unwrap();
    let error = resident.forward(&golden.ids[8..9], &mut cache).unwrap_err();
    assert!(matches!(error, Error::Mixed { tokens: 9, beyond: 8 }), "{error}");
}
