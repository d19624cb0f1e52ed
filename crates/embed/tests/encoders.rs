//! Encoders of small random models: what they say, and what they refuse.

use std::path::Path;

use brevity_embed::{Ask, Encoder, Error, Load, Pooling};
use brevity_formats::Checkpoint;
use brevity_runtime::{Compute, Resident};

#[path = "../../../tests/common/bert.rs"]
mod bert;

use bert::{HIDDEN, directory};

const MEAN: &str = r#"{"pooling_mode": "mean"}"#;

fn encoder(dir: &Path, load: &Load) -> Encoder {
    Encoder::load(&Checkpoint::open(dir).unwrap(), load).unwrap()
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_vector_is_the_normalised_mean_of_the_states() {
    let dir = directory(MEAN, "{}");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let states = Resident::load(&checkpoint, Compute::F32).unwrap().hidden(&[1, 3, 4, 2]).unwrap();
    let rows: Vec<Vec<f32>> = states.to_vec2().unwrap();
    let mut want: Vec<f32> = (0..HIDDEN).map(|n| rows.iter().map(|row| row[n]).sum::<f32>() / 4.0).collect();
    brevity_embed::normalise(&mut want);
    // Texts are put into lower case, and blanks around them do not count.
    let vectors = encoder(dir.path(), &Load::default()).encode(&["  A Cat "], &Ask::default()).unwrap();
    assert!(far(vectors.row(0), &want) < 1e-6);
}

#[test]
fn a_vector_does_not_depend_on_what_else_is_embedded() {
    let dir = directory(MEAN, "{}");
    let encoder = encoder(dir.path(), &Load::default());
    let texts = ["a cat", "", "a dog sat on a mat", "dog", "a cat"];
    let all = encoder.encode(&texts, &Ask::default()).unwrap();
    for (n, text) in texts.iter().enumerate() {
        let one = encoder.encode(&[text], &Ask::default()).unwrap();
        assert!(far(one.row(0), all.row(n)) < 1e-5, "{text}");
    }
    assert_eq!(all.row(0), all.row(4));
    assert_eq!(encoder.encode(&[], &Ask::default()).unwrap().count(), 0);
}

#[test]
fn an_empty_string_has_the_vector_of_its_special_tokens() {
    let dir = directory(MEAN, "{}");
    let vectors = encoder(dir.path(), &Load::default()).encode(&["", "  \n"], &Ask::default()).unwrap();
    let length: f32 = vectors.row(0).iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5);
    assert_eq!(vectors.row(0), vectors.row(1));
}

#[test]
fn a_document_of_50000_tokens_is_cut_to_what_the_model_takes() {
    let dir = directory(MEAN, "{}");
    let encoder = encoder(dir.path(), &Load::default());
    // The settings say 128 tokens, the table of positions has 32: two are special.
    let long = "a cat sat on ".repeat(12_500);
    let thirty = format!("{}a cat", "a cat sat on ".repeat(7));
    let vectors = encoder.encode(&[&long, &thirty, &thirty[..93]], &Ask::default()).unwrap();
    assert_eq!(vectors.row(0), vectors.row(1));
    assert!(far(vectors.row(0), vectors.row(2)) > 1e-4, "the last word counts");
}

#[test]
fn fewer_layers_give_what_the_cut_model_gives() {
    let dir = directory(MEAN, "{}");
    let whole = encoder(dir.path(), &Load::default());
    let texts = ["a cat sat", "dog"];
    let mut found = Vec::new();
    let layers = [0, 1, 2, 3];
    whole
        .encode_layers(&texts, &Ask::default(), &layers, &mut |_| true, &mut |n, vectors| found.push((n, vectors)))
        .unwrap();
    for (n, vectors) in found {
        let cut = encoder(dir.path(), &Load { layers: Some(n), ..Load::default() });
        assert_eq!(cut.layers(), n);
        assert!(far(&cut.encode(&texts, &Ask::default()).unwrap().values, &vectors.values) < 1e-6, "{n} layers");
    }
}

#[test]
fn fewer_dimensions_are_the_first_ones_normalised_again() {
    let dir = directory(MEAN, "{}");
    let encoder = encoder(dir.path(), &Load::default());
    let all = encoder.encode(&["a cat", "dog"], &Ask::default()).unwrap();
    let some = encoder.encode(&["a cat", "dog"], &Ask { dims: Some(5), ..Ask::default() }).unwrap();
    assert_eq!(some, all.prefix(5, true));
}

#[test]
fn dimensions_of_the_settings_are_not_normalised_again() {
    let dir = directory(MEAN, r#"{"truncate_dim": 5}"#);
    let encoder = encoder(dir.path(), &Load::default());
    let row = encoder.encode(&["a cat"], &Ask::default()).unwrap();
    assert_eq!((encoder.width(), row.width), (5, 5));
    assert!(row.values.iter().map(|x| x * x).sum::<f32>() < 0.99);
}

#[test]
fn truncation_past_the_dimension_and_layers_past_the_depth_are_refused() {
    let dir = directory(MEAN, "{}");
    let whole = encoder(dir.path(), &Load::default());
    for dims in [0, HIDDEN + 1] {
        let error = whole.encode(&["a"], &Ask { dims: Some(dims), ..Ask::default() }).unwrap_err();
        assert!(matches!(error, Error::Dims { width: HIDDEN, .. }), "{error}");
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let error = Encoder::load(&checkpoint, &Load { layers: Some(4), ..Load::default() }).unwrap_err();
    assert_eq!(error.to_string(), "4 layers are more than the 3 that the model has");
    let error = whole.encode_layers(&["a"], &Ask::default(), &[4], &mut |_| true, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::Layers { asked: 4, layers: 3 }), "{error}");
}

#[test]
fn a_prompt_stands_in_front_and_may_not_count() {
    let settings = r#"{"prompts": {"query": "a cat ", "none": ""}, "default_prompt_name": null}"#;
    let counts = encoder(directory(MEAN, settings).path(), &Load::default());
    let query = Ask { prompt: Some("query"), ..Ask::default() };
    let with = counts.encode(&["sat"], &query).unwrap();
    assert_eq!(with, counts.encode(&["a cat sat"], &Ask::default()).unwrap());

    let without =
        encoder(directory(r#"{"pooling_mode": "mean", "include_prompt": false}"#, settings).path(), &Load::default());
    let dir = directory(MEAN, "{}");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let states = Resident::load(&checkpoint, Compute::F32).unwrap().hidden(&[1, 3, 4, 6, 2]).unwrap();
    let rows: Vec<Vec<f32>> = states.to_vec2().unwrap();
    // The tokens of the prompt are the first and two words.
    let mut want: Vec<f32> = (0..HIDDEN).map(|n| (rows[3][n] + rows[4][n]) / 2.0).collect();
    brevity_embed::normalise(&mut want);
    assert!(far(without.encode(&["sat"], &query).unwrap().row(0), &want) < 1e-6);

    let error = counts.encode(&["sat"], &Ask { prompt: Some("title"), ..Ask::default() }).unwrap_err();
    assert_eq!(error.to_string(), "the model has no prompt `title`");
    assert_eq!(error.hint().unwrap(), "it has none, query");
}

#[test]
fn another_pooling_can_be_asked_for() {
    let dir = directory(MEAN, "{}");
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let rows: Vec<Vec<f32>> =
        Resident::load(&checkpoint, Compute::F32).unwrap().hidden(&[1, 3, 4, 2]).unwrap().to_vec2().unwrap();
    for (pooling, row) in [(Pooling::Cls, 0), (Pooling::Last, 3)] {
        let mut want = rows[row].clone();
        brevity_embed::normalise(&mut want);
        let encoder = encoder(dir.path(), &Load { pooling: Some(pooling), ..Load::default() });
        assert!(far(encoder.encode(&["a cat"], &Ask::default()).unwrap().row(0), &want) < 1e-6, "{pooling}");
    }
}

#[test]
fn nan_in_a_weight_is_not_passed_on() {
    let dir = directory(MEAN, "{}");
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let encoder = encoder(dir.path(), &Load::default());
    assert!(encoder.encode(&["a"], &Ask::default()).is_err());
}

/// A tensor of the vectors.
#[derive(serde::Deserialize)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

#[test]
fn pooling_agrees_with_sentence_transformers() {
    let all: std::collections::BTreeMap<String, Tensor> =
        serde_json::from_str(include_str!("vectors/pooling.json")).unwrap();
    let [texts, tokens, width] = all["hidden"].shape[..] else { panic!("states are [texts, tokens, width]") };
    let modes = [
        ("cls", Pooling::Cls),
        ("mean", Pooling::Mean),
        ("max", Pooling::Max),
        ("mean_sqrt_len", Pooling::MeanSqrtLen),
        ("lasttoken", Pooling::Last),
    ];
    for (name, pooling) in modes {
        for text in 0..texts {
            let real = all["attention_mask"].values[text * tokens..][..tokens].iter().filter(|&&m| m == 1.0).count();
            let states = &all["hidden"].values[text * tokens * width..][..real * width];
            let mut out = vec![0.0; width];
            pooling.pool(states, 0, &mut out);
            assert!(far(&out, &all[name].values[text * width..][..width]) < 1e-6, "{name} of text {text}");
        }
    }
}
