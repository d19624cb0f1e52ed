//! Tokenizers from the vocabularies of GGUF files, against the programs that the vocabularies come from.

mod common;

use std::path::{Path, PathBuf};

use brevity_formats::{Bytes, Checkpoint, Error, Gguf, VocabularyFault};
use brevity_model::{Slot, Stage};
use common::{Meta, gguf};
use serde_json::Value;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn open(name: &str) -> Gguf {
    let path = vectors().join(name);
    Gguf::open(&path, Bytes::map(&path).unwrap()).unwrap()
}

#[test]
fn every_kind_of_vocabulary_gives_the_ids_of_its_own_program() {
    let text = std::fs::read_to_string(vectors().join("vocabularies.json")).unwrap();
    let all: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(
        all.keys().map(String::as_str).collect::<Vec<_>>(),
        ["spm", "gpt-2", "qwen2", "llama-bpe", "smollm", "bert"]
    );
    for (name, cases) in all {
        let tokenizer = open(&format!("vocabulary-{name}.gguf")).tokenizer().unwrap();
        for case in cases.as_array().unwrap() {
            let text = case[0].as_str().unwrap();
            let expected: Vec<u32> = serde_json::from_value(case[1].clone()).unwrap();
            let got = tokenizer.encode(text, true).unwrap();
            assert_eq!(got.get_ids(), expected, "{name}: {text:?} became {:?}", got.get_tokens());
            if let Some(decoded) = case[2].as_str() {
                assert_eq!(tokenizer.decode(got.get_ids(), true).unwrap(), decoded, "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn sentence_piece_puts_a_space_in_front_of_a_text_that_begins_with_one() {
    let tokenizer = open("vocabulary-spm.gguf").tokenizer().unwrap();
    let tokens = |text: &str| tokenizer.encode(text, false).unwrap().get_tokens().concat();
    assert_eq!(tokens("hello"), "\u{2581}hello");
    assert_eq!(tokens(" hello"), "\u{2581}\u{2581}hello");
    assert_eq!(tokens("<s>hello"), "<s>hello", "nothing goes behind a special token");
    assert_eq!(tokens("<s> hello"), "<s>\u{2581}hello");
    let ids = tokenizer.encode(" hello", false).unwrap();
    assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), " hello");
}

#[test]
fn a_file_of_the_gguf_package_is_the_model_it_was_made_from() {
    let checkpoint = Checkpoint::open(&vectors().join("llama.gguf")).unwrap();
    let record: serde_json::Map<String, Value> =
        serde_json::from_str(&std::fs::read_to_string(vectors().join("llama.json")).unwrap()).unwrap();
    let mut found = 0;
    for (n, stage) in checkpoint.model().stages.iter().enumerate() {
        assert!(!matches!(stage, Stage::Loose(_)));
        let loaded = checkpoint.load_stage(n).unwrap();
        for ((_, slot, weight), (_, _, source)) in loaded.weights().into_iter().zip(stage.weights()) {
            let expected = &record[&source.tensor];
            let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
            let shape = if shape.len() == 1 { [1, shape[0]] } else { [shape[0], shape[1]] };
            assert_eq!((slot, weight.shape()), (Slot::Weight, shape), "{}", source.tensor);
            let values = weight.to_f32();
            let first: Vec<f32> = serde_json::from_value(expected["first"].clone()).unwrap();
            assert_eq!(values[..4], first, "{}", source.tensor);
            // A sum with the places as weights sees every value that stands elsewhere. In double precision only the
            // order of the sum can differ.
            let sum: f64 = values.iter().enumerate().map(|(i, x)| (i + 1) as f64 * f64::from(*x)).sum();
            let wanted = expected["weighted_sum"].as_f64().unwrap();
            assert!((sum - wanted).abs() < 1e-6, "{}: {sum}, not {wanted}", source.tensor);
            found += 1;
        }
    }
    assert_eq!(found, record.len());
}

fn fault(meta: &[(&str, Meta)]) -> VocabularyFault {
    let file = Gguf::open("m.gguf".as_ref(), Bytes::owned(gguf(meta, &[]))).unwrap();
    match file.tokenizer() {
        Err(error @ Error::Vocabulary { .. }) => {
            assert!(error.hint().unwrap().contains("tokenizer.json"));
            let Error::Vocabulary { fault } = error else { unreachable!() };
            fault
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn vocabularies_that_make_no_tokenizer_say_why() {
    let tokens = || ("tokenizer.ggml.tokens", Meta::Texts(vec!["a".into(), "b".into()]));
    let model = |name| ("tokenizer.ggml.model", Meta::Text(name));
    let pre = |name| ("tokenizer.ggml.pre", Meta::Text(name));
    assert_eq!(fault(&[]), VocabularyFault::None);
    assert_eq!(fault(&[model("no_vocab"), tokens()]), VocabularyFault::None);
    assert_eq!(fault(&[model("rwkv"), tokens()]), VocabularyFault::Kind { kind: "rwkv".into() });
    assert_eq!(
        fault(&[model("gpt2"), tokens(), pre("unheard-of")]),
        VocabularyFault::Cut { name: "unheard-of".into() }
    );
    let types = ("tokenizer.ggml.token_type", Meta::U32s(vec![1; 3]));
    let list = "tokenizer.ggml.token_type";
    assert_eq!(fault(&[model("gpt2"), tokens(), types]), VocabularyFault::Length { list, found: 3, tokens: 2 });
    let list = "tokenizer.ggml.scores";
    assert_eq!(fault(&[model("llama"), tokens()]), VocabularyFault::Length { list, found: 0, tokens: 2 });
    let merges = ("tokenizer.ggml.merges", Meta::Texts(vec!["ab".into()]));
    assert_eq!(fault(&[model("gpt2"), tokens(), merges]), VocabularyFault::Merge { merge: "ab".into() });
    let merges = ("tokenizer.ggml.merges", Meta::Texts(vec!["a c".into()]));
    assert!(matches!(fault(&[model("gpt2"), tokens(), merges]), VocabularyFault::Refused { .. }));
    assert_eq!(fault(&[model("bert"), tokens()]), VocabularyFault::Special { token: "[UNK]".into() });
}
