use std::path::Path;

use brevity_model::Config;
use serde_json::{Value as Json, json};

use super::{NoVocabulary, keys, none};
use crate::gguf::Gguf;
use crate::gguf::write::keys::Keys;
use crate::map::Bytes;

fn read(name: &str) -> Gguf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    Gguf::open(&path, Bytes::map(&path).unwrap()).unwrap()
}

/// The keys for a tokenizer and what is said about it.
fn write(tokenizer: &Json, about: Json, rows: usize) -> Result<Keys, NoVocabulary> {
    let files = [("tokenizer.json", tokenizer.to_string()), ("tokenizer_config.json", about.to_string())];
    let files: Vec<(String, Vec<u8>)> = files.map(|(name, text)| (name.to_owned(), text.into_bytes())).into();
    keys(&files, &Config::default(), rows)
}

fn json_of(gguf: &Gguf) -> Json {
    serde_json::from_str(&gguf.tokenizer().unwrap().to_string(false).unwrap()).unwrap()
}

#[test]
fn vocabularies_of_every_kind_come_back_as_they_were() {
    for (name, kind, pre) in [
        ("gpt-2", "gpt2", "gpt-2"),
        ("smollm", "gpt2", "smollm"),
        ("qwen2", "gpt2", "qwen2"),
        ("llama-bpe", "gpt2", "llama-bpe"),
        ("spm", "llama", "default"),
        ("bert", "bert", "default"),
    ] {
        let source = read(&format!("vocabulary-{name}.gguf"));
        let rows = source.tokenizer().unwrap().get_vocab_size(true);
        let about = Json::Object(source.tokenizer_config().unwrap());
        let written = write(&json_of(&source), about, rows).unwrap_or_else(|why| panic!("{name}: {why}"));
        let meta = written.as_read();
        assert_eq!(meta.text("tokenizer.ggml.model").unwrap(), Some(kind), "{name}");
        assert_eq!(meta.text("tokenizer.ggml.pre").unwrap(), Some(pre), "{name}");
        for key in ["tokens", "merges"] {
            let key = format!("tokenizer.ggml.{key}");
            assert_eq!(meta.texts(&key).unwrap(), source.meta.texts(&key).unwrap(), "{name}: {key}");
        }
        let key = "tokenizer.ggml.token_type";
        assert_eq!(meta.numbers(key).unwrap(), source.meta.numbers(key).unwrap(), "{name}");
        for id in ["bos", "unknown", "padding", "cls", "seperator", "mask"] {
            let key = format!("tokenizer.ggml.{id}_token_id");
            let wanted = source.meta.number(&key).unwrap();
            // What a file of WordPiece calls cls starts a text, and is told under both names.
            assert!(wanted.is_none() || meta.number(&key).unwrap() == wanted, "{name}: {key}");
        }
    }
}

#[test]
fn a_table_with_more_rows_than_tokens_is_filled_up_with_unused_ones() {
    let source = read("vocabulary-gpt-2.gguf");
    let rows = source.tokenizer().unwrap().get_vocab_size(true) + 2;
    let meta = write(&json_of(&source), json!({"bos_token": {"content": "<|end|>"}, "chat_template": "{{ x }}"}), rows)
        .unwrap()
        .as_read();
    let tokens = meta.texts("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!((tokens.len(), tokens[rows - 1]), (rows, format!("[PAD{}]", rows - 1).as_str()));
    assert_eq!(meta.numbers("tokenizer.ggml.token_type").unwrap().unwrap()[rows - 2..], [5, 5]);
    assert_eq!(meta.text("tokenizer.chat_template").unwrap(), Some("{{ x }}"));
    let bos = meta.number("tokenizer.ggml.bos_token_id").unwrap().unwrap();
    assert_eq!(tokens[bos as usize], "<|end|>");
    assert_eq!(meta.flag("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
    let short = write(&json_of(&source), json!({}), 10).unwrap_err();
    assert!(matches!(short, NoVocabulary::TooMany { rows: 10, .. }), "{short}");
}

#[test]
fn a_tokenizer_that_files_cannot_say_is_left_out_with_a_reason() {
    assert_eq!(keys(&[], &Config::default(), 4).unwrap_err(), NoVocabulary::Missing);
    assert_eq!(none().as_read().text("tokenizer.ggml.model").unwrap(), Some("no_vocab"));
    let words = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
    });
    assert_eq!(write(&words, json!({}), 1).unwrap_err(), NoVocabulary::Kind { kind: "WordLevel".into() });
    let source = read("vocabulary-gpt-2.gguf");
    let rows = source.tokenizer().unwrap().get_vocab_size(true);
    let spoilt = |spoil: &dyn Fn(&mut Json)| {
        let mut json = json_of(&source);
        spoil(&mut json);
        write(&json, json!({}), rows).unwrap_err()
    };
    let steps = "pre_tokenizer";
    assert_eq!(spoilt(&|json| json["normalizer"] = json!({"type": "Lowercase"})), NoVocabulary::Cut);
    assert_eq!(
        spoilt(&|json| json[steps]["pretokenizers"][0]["pattern"]["Regex"] = json!("[a-z]+")),
        NoVocabulary::Cut
    );
    // Nothing in the keys would tell that pieces are taken out of the text; the ids do.
    let behaviour = spoilt(&|json| json[steps]["pretokenizers"][0]["behavior"] = json!("Removed"));
    assert!(matches!(behaviour, NoVocabulary::Differs { .. }), "{behaviour}");
}
