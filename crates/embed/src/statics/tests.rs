use serde::Deserialize;

use super::*;
use crate::written::write_files;

#[derive(Deserialize)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    normalize: bool,
    texts: Vec<String>,
    vectors: Tensor,
}

#[derive(Deserialize)]
struct Clustered {
    table: Tensor,
    mapping: Tensor,
    texts: Vec<String>,
    embeddings: Tensor,
}

#[derive(Deserialize)]
struct Golden {
    vocab: serde_json::Map<String, Value>,
    table: Tensor,
    weights: Tensor,
    int8: Tensor,
    cases: Vec<Case>,
    clustered: Clustered,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/vectors/static.json")).unwrap()
}

fn tokenizer(vocabulary: &serde_json::Map<String, Value>) -> Tokenizer {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocabulary},
    });
    json.to_string().parse().unwrap()
}

fn close(found: &Vectors, want: &Tensor) {
    assert_eq!([found.count(), found.width], want.shape[..]);
    let far = found.values.iter().zip(&want.values).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(far < 1e-6, "{far}");
}

fn encoded(model: &StaticModel, texts: &[String]) -> Vectors {
    model.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>(), None).unwrap()
}

#[test]
fn texts_have_the_vectors_that_model2vec_gives_them() {
    let golden = golden();
    for case in &golden.cases {
        let table = Table::F32(golden.table.values.clone());
        let weights = Some(golden.weights.values.clone());
        let model =
            StaticModel::new(tokenizer(&golden.vocab), table, golden.table.shape[1], None, weights, case.normalize)
                .unwrap();
        close(&encoded(&model, &case.texts), &case.vectors);
    }
    let Clustered { table, mapping, texts, embeddings } = &golden.clustered;
    let rows = mapping.values.iter().map(|&row| row as u32).collect();
    let weights = Some(golden.weights.values.clone());
    let values = Table::F32(table.values.clone());
    let model = StaticModel::new(tokenizer(&golden.vocab), values, table.shape[1], Some(rows), weights, true).unwrap();
    close(&encoded(&model, texts), embeddings);
}

#[test]
fn whole_numbers_are_those_of_model2vec() {
    let golden = golden();
    let Table::I8(codes) = Table::quantized(&golden.table.values) else { panic!("whole numbers") };
    assert_eq!(codes.iter().map(|&code| f32::from(code)).collect::<Vec<_>>(), golden.int8.values);
    assert_eq!(Table::quantized(&[0.0, 0.0]), Table::I8(vec![0, 0]));
}

#[test]
fn the_error_of_whole_numbers_is_at_most_half_a_step() {
    let values: Vec<f32> = (0..1000).map(|i| ((i * 37) % 211) as f32 / 100.0 - 1.0).collect();
    let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let Table::I8(codes) = Table::quantized(&values) else { panic!("whole numbers") };
    for (x, code) in values.iter().zip(codes) {
        // Half a step, and what half precision takes from the scale and the quotient.
        assert!((x - f32::from(code) * most / 127.0).abs() < most / 127.0 * 0.57, "{x} {code}");
    }
}

fn model() -> StaticModel {
    let golden = golden();
    StaticModel::new(tokenizer(&golden.vocab), Table::F32(golden.table.values), 6, None, None, false).unwrap()
}

#[test]
fn a_sentence_of_one_token_is_its_row() {
    let golden = golden();
    let vectors = model().encode(&["cat", "cat cat", "cat ziggurat"], None).unwrap();
    for n in 0..3 {
        assert_eq!(vectors.row(n), &golden.table.values[18..24], "unknown tokens are left out");
    }
}

#[test]
fn empty_strings_and_unknown_words_have_the_vector_zero() {
    assert!(model().encode(&["", "ziggurat", " \n"], None).unwrap().values.iter().all(|&x| x == 0.0));
}

#[test]
fn a_document_of_50000_tokens_is_cut_to_512() {
    let long = "the cat ".repeat(25_000);
    let vectors = model().encode(&[&long, &"the cat ".repeat(256)], None).unwrap();
    assert_eq!(vectors.row(0), vectors.row(1));
}

#[test]
fn what_is_written_is_read_again() {
    let model = model();
    let dir = tempfile::tempdir().unwrap();
    let texts = ["the cat sat", "dog"];
    let want = model.encode(&texts, None).unwrap();
    for (kind, far) in [(TableType::F32, 0.0), (TableType::F16, 1e-3)] {
        let path = dir.path().join(format!("{kind:?}"));
        write_files(&path, &model.files(kind, &[]).unwrap()).unwrap();
        let folder = Folder::open(&path).unwrap();
        assert!(is_static(&folder));
        let found = StaticModel::read(&folder).unwrap().encode(&texts, None).unwrap();
        assert!(found.values.iter().zip(&want.values).all(|(a, b)| (a - b).abs() <= far), "{kind:?}");
    }
    let path = dir.path().join("I8");
    write_files(&path, &model.files(TableType::I8, &[]).unwrap()).unwrap();
    let found = StaticModel::read(&Folder::open(&path).unwrap()).unwrap().encode(&texts, None).unwrap();
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    assert!(cosine(found.row(0), want.row(0)) > 0.9995);
    let error = write_files(&path, &[]).unwrap_err();
    assert!(error.to_string().ends_with("is not empty"), "{error}");
}

#[test]
fn a_table_with_too_few_rows_is_refused() {
    let golden = golden();
    let short = Table::F32(golden.table.values[..42].to_vec());
    let error = StaticModel::new(tokenizer(&golden.vocab), short, 6, None, None, true).unwrap_err();
    assert_eq!(error.to_string(), "the table has 7 rows, and there are 8 tokens");
    let mapping = Some(vec![0, 1, 2, 3, 4, 5, 6, 8]);
    let table = Table::F32(golden.table.values);
    assert!(StaticModel::new(tokenizer(&golden.vocab), table, 6, mapping, None, true).is_err());
}

#[test]
fn truncation_past_the_dimension_is_refused() {
    for dims in [0, 7] {
        assert!(matches!(model().encode(&["cat"], Some(dims)), Err(Error::Dims { width: 6, .. })));
    }
}
