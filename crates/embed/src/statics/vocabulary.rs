//! The vocabulary of a static model: that of the encoder without what texts never have.

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// A tokenizer for a table, and which of the encoder's tokens its rows are.
pub(super) struct Vocabulary {
    /// Without padding, cutting, added tokens and what stands around texts.
    pub tokenizer: Tokenizer,
    /// For each of its tokens, the id it has in the encoder.
    pub old_ids: Vec<u32>,
    /// The tokens themselves.
    pub words: Vec<String>,
}

/// Leaves out added tokens, but for the unknown one and padding, and tokens `[unusedN]`; what is left is numbered anew in the
/// order it had.
pub(super) fn cleaned(tokenizer: &Tokenizer) -> Result<Vocabulary> {
    let refused = |why: String| Error::Vocabulary { why };
    let text = tokenizer.to_string(false).map_err(|why| refused(why.to_string()))?;
    let mut json: Value = serde_json::from_str(&text).map_err(|why| refused(why.to_string()))?;
    let unknown = json["model"]["unk_token"].as_str().map(str::to_owned);
    let added: Vec<String> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|token| token["content"].as_str().map(str::to_owned))
        .collect();
    let goes = |word: &str| {
        let keeps = Some(word) == unknown.as_deref() || word == "[PAD]";
        is_unused(word) || (added.iter().any(|one| one == word) && !keeps)
    };
    let mut kept: Vec<(u32, String)> = Vec::new();
    match &json["model"]["vocab"] {
        Value::Object(map) => {
            for (word, id) in map {
                let id = id.as_u64().ok_or_else(|| refused(format!("token `{word}` has no number")))?;
                if !goes(word) {
                    kept.push((id as u32, word.clone()));
                }
            }
            kept.sort();
            let map: Map<String, Value> =
                kept.iter().enumerate().map(|(n, (_, word))| (word.clone(), n.into())).collect();
            json["model"]["vocab"] = Value::Object(map);
        }
        Value::Array(list) => {
            let mut left = Vec::new();
            let mut unknown = None;
            for (n, entry) in list.iter().enumerate() {
                let word = entry[0].as_str().ok_or_else(|| refused(format!("token {n} is no text")))?;
                let is_unknown = json["model"]["unk_id"].as_u64() == Some(n as u64);
                if is_unknown || !goes(word) {
                    if is_unknown {
                        unknown = Some(left.len());
                    }
                    kept.push((n as u32, word.to_owned()));
                    left.push(entry.clone());
                }
            }
            json["model"]["vocab"] = Value::Array(left);
            if let Some(unknown) = unknown {
                json["model"]["unk_id"] = unknown.into();
            }
        }
        _ => return Err(refused("it has no vocabulary".into())),
    }
    if kept.is_empty() {
        return Err(refused("nothing is left of its vocabulary".into()));
    }
    json["added_tokens"] = Value::Array(Vec::new());
    for part in ["post_processor", "padding", "truncation"] {
        json[part] = Value::Null;
    }
    let tokenizer = Tokenizer::from_bytes(json.to_string()).map_err(|why| refused(why.to_string()))?;
    let (old_ids, words) = kept.into_iter().unzip();
    Ok(Vocabulary { tokenizer, old_ids, words })
}

/// `[unused12]`
fn is_unused(word: &str) -> bool {
    let number = word.strip_prefix("[unused").and_then(|rest| rest.strip_suffix(']'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_texts_never_have_goes_and_the_rest_moves_up() {
        let text = r###"{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "decoder": null, "pre_tokenizer": {"type": "Whitespace"},
            "added_tokens": [{"id": 2, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}, {"id": 3, "content": "[CLS]", "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}],
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": {"[PAD]": 0, "[unused0]": 1, "[UNK]": 2, "[CLS]": 3, "a": 4, "##b": 5, "[unused]": 6}}}"###;
        let vocabulary = cleaned(&Tokenizer::from_bytes(text).unwrap()).unwrap();
        assert_eq!(vocabulary.old_ids, [0, 2, 4, 5, 6]);
        assert_eq!(vocabulary.words, ["[PAD]", "[UNK]", "a", "##b", "[unused]"]);
        let ids = vocabulary.tokenizer.encode_fast("ab c", true).unwrap();
        assert_eq!(ids.get_ids(), [2, 3, 1]);
    }
}
