//! The tokenizer that the vocabulary of a GGUF file describes.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::meta::Meta;
use crate::error::{Error, VocabularyFault};

/// What a token is, as the files number it.
pub(super) const NORMAL: u64 = 1;
pub(super) const UNKNOWN: u64 = 2;
pub(super) const CONTROL: u64 = 3;
pub(super) const USER_DEFINED: u64 = 4;
pub(super) const UNUSED: u64 = 5;
pub(super) const BYTE: u64 = 6;

/// The space of SentencePiece.
pub(super) const SPACE: char = '\u{2581}';

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level vocabulary cuts text before merging.
struct Cut {
    /// Expressions that are applied one behind the other.
    splits: &'static [&'static str],
    /// Whole tokens are taken before anything is merged.
    whole_first: bool,
    /// A start token is put in front unless the file says otherwise.
    starts: bool,
    /// Text is composed (NFC) first.
    composed: bool,
}

/// The cut that a file names. The names are those of llama.cpp.
fn cut(name: &str) -> Option<Cut> {
    let plain = |splits| Cut { splits, whole_first: false, starts: false, composed: false };
    Some(match name {
        "default" => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        "gpt-2" | "phi-2" | "jina-es" | "jina-de" | "jina-v1-en" | "jina-v2-es" | "jina-v2-de" | "jina-v2-code"
        | "roberta-bpe" | "gigachat" | "mpt" | "olmo" | "mellum" | "a.x-4.0" => plain(&[GPT2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(&[r"\p{N}", GPT2])
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0" | "lfm2" => {
            Cut { whole_first: true, starts: true, ..plain(&[LLAMA3]) }
        }
        "dbrx" | "smaug-bpe" => plain(&[LLAMA3]),
        "qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" => {
            Cut { composed: name != "stablelm2", ..plain(&[QWEN2]) }
        }
        "tekken" => Cut { whole_first: true, starts: true, ..plain(&[TEKKEN]) },
        "gpt-4o" | "llama4" => plain(&[GPT4O]),
        _ => return None,
    })
}

/// The name of a way to cut text: by these expressions, with whole tokens first or not, composed or not.
pub(super) fn name_of_cut(splits: &[String], whole_first: bool, composed: bool) -> Option<&'static str> {
    // One name for each way; where several mean the same, that of the model that is best known.
    const NAMES: [&str; 8] = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "stablelm2", "tekken", "gpt-4o"];
    NAMES.into_iter().find(|name| {
        let cut = cut(name).expect("these names are known");
        (cut.splits, cut.whole_first, cut.composed) == (splits_of(splits).as_slice(), whole_first, composed)
    })
}

fn splits_of(splits: &[String]) -> Vec<&str> {
    splits.iter().map(String::as_str).collect()
}

/// The tokenizer of a file.
pub fn tokenizer(meta: &Meta) -> Result<Tokenizer, Error> {
    let fault = |fault| Error::Vocabulary { fault };
    let kind = meta.text("tokenizer.ggml.model")?.ok_or(fault(VocabularyFault::None))?;
    let tokens = meta.texts("tokenizer.ggml.tokens")?.ok_or(fault(VocabularyFault::None))?;
    let types = meta.numbers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![NORMAL; tokens.len()]);
    if types.len() != tokens.len() {
        let (list, found) = ("tokenizer.ggml.token_type", types.len());
        return Err(fault(VocabularyFault::Length { list, found, tokens: tokens.len() }));
    }
    let vocabulary = Vocabulary { meta, tokens, types };
    let json = match kind {
        "gpt2" => vocabulary.byte_level()?,
        "llama" => vocabulary.sentence_piece()?,
        "bert" => vocabulary.word_piece()?,
        "no_vocab" | "none" => return Err(fault(VocabularyFault::None)),
        other => return Err(fault(VocabularyFault::Kind { kind: other.to_owned() })),
    };
    let text = serde_json::to_vec(&json).expect("a JSON value can be written");
    Tokenizer::from_bytes(text).map_err(|e| fault(VocabularyFault::Refused { what: e.to_string() }))
}

/// The special tokens and the chat template of a file, as `tokenizer_config.json` has them.
pub fn tokenizer_config(meta: &Meta) -> Result<Map<String, Value>, Error> {
    let tokens = meta.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut out = Map::new();
    for (name, key) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
        ("cls_token", "cls"),
        ("sep_token", "seperator"),
        ("mask_token", "mask"),
    ] {
        if let Some(id) = meta.number(&format!("tokenizer.ggml.{key}_token_id"))?
            && let Some(token) = tokens.get(id as usize)
        {
            out.insert(name.to_owned(), json!(token));
        }
    }
    if let Some(template) = meta.text("tokenizer.chat_template")? {
        out.insert("chat_template".to_owned(), json!(template));
    }
    out.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    Ok(out)
}

struct Vocabulary<'a> {
    meta: &'a Meta,
    tokens: Vec<&'a str>,
    types: Vec<u64>,
}

impl Vocabulary<'_> {
    /// Byte-level BPE.
    fn byte_level(&self) -> Result<Value, Error> {
        let name = self.meta.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let cut = cut(name).ok_or_else(|| {
            let fault = VocabularyFault::Cut { name: name.to_owned() };
            Error::Vocabulary { fault }
        })?;
        let merges = self.meta.texts("tokenizer.ggml.merges")?.unwrap_or_default();
        let merges = merges.into_iter().map(|merge| {
            // The first half may itself begin with a space.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let space = merge[first..].find(' ').map(|at| at + first);
            let wrong = || Error::Vocabulary { fault: VocabularyFault::Merge { merge: merge.to_owned() } };
            let (left, right) = merge.split_at(space.ok_or_else(wrong)?);
            Ok(json!([left, &right[1..]]))
        });
        let merges = merges.collect::<Result<Vec<_>, Error>>()?;
        let mut steps: Vec<Value> = Vec::new();
        for expression in cut.splits {
            steps.push(json!({
                "type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false,
            }));
        }
        steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(),
            "normalizer": if cut.composed { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": self.frame(cut.starts)?,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": cut.whole_first, "vocab": self.ids(|token| token.to_owned()), "merges": merges,
            },
        }))
    }

    /// SentencePiece's BPE, with bytes for what the vocabulary lacks.
    ///
    /// SentencePiece has no list of merges: it merges the two neighbours whose union has the best score. So each token
    /// that two others make up is a merge, and better scores come first.
    fn sentence_piece(&self) -> Result<Value, Error> {
        let scores = self.meta.floats("tokenizer.ggml.scores")?;
        let scores = scores.filter(|scores| scores.len() == self.tokens.len()).ok_or_else(|| {
            let found = self.meta.0.get("tokenizer.ggml.scores").map_or(0, |v| v.to_vec().map_or(0, Vec::len));
            let list = "tokenizer.ggml.scores";
            Error::Vocabulary { fault: VocabularyFault::Length { list, found, tokens: self.tokens.len() } }
        })?;
        let ids: HashMap<&str, usize> = self.tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
        let mut merges: Vec<(f32, [&str; 2])> = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if !matches!(self.types[id], NORMAL | USER_DEFINED | UNUSED) {
                continue;
            }
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let mut halves: Vec<_> = cuts.filter_map(|(l, r)| Some((*ids.get(l)?, *ids.get(r)?, [l, r]))).collect();
            halves.sort_by_key(|(l, r, _)| (*l, *r));
            merges.extend(halves.into_iter().map(|(_, _, pair)| (scores[id], pair)));
        }
        let length = |text: &str| text.chars().count();
        merges.sort_by(|(a, [al, ar]), (b, [bl, br])| {
            b.total_cmp(a).then(length(bl).cmp(&length(al))).then(length(br).cmp(&length(ar)))
        });
        let merges: Vec<_> = merges.into_iter().map(|(_, pair)| pair).collect();

        let prefix = self.meta.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let from_space = json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "});
        // A space goes in front of the text, even of a space, and not once more behind a special token in the middle.
        // A lone Metaspace would leave out the space that goes in front of a space; so the spaces of the text are
        // marked first, the one in front is a blank then, and is marked last.
        let marks = |replacement: char, scheme: &str| json!({"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": false});
        let in_front = if prefix { "first" } else { "never" };
        let steps = [marks(' ', in_front), marks(SPACE, "never")];
        let mut decoders = vec![from_space, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        if prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(),
            "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": self.frame(true)?,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": self.unknown()?, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": self.ids(|token| token.to_owned()), "merges": merges,
            },
        }))
    }

    /// WordPiece. The file marks tokens that begin a word; a `vocab.txt` marks those that do not.
    fn word_piece(&self) -> Result<Value, Error> {
        let is_bracketed = |token: &str| token.starts_with('[') && token.ends_with(']') && token.len() > 1;
        let plain = |token: &str| match token.strip_prefix(SPACE) {
            Some(word) => word.to_owned(),
            None if is_bracketed(token) => token.to_owned(),
            None => format!("##{token}"),
        };
        // Nothing says whether text is put into lower case, but a vocabulary without capitals has no use for them.
        let words = self.tokens.iter().filter(|token| !is_bracketed(token));
        let lower = !words.flat_map(|token| token.chars()).any(|c| c.is_ascii_uppercase());
        let special = |key: &str, fallback: &str| -> Result<(String, usize), Error> {
            let id = self.meta.number(&format!("tokenizer.ggml.{key}_token_id"))?.map(|id| id as usize);
            let id = id.or_else(|| self.tokens.iter().position(|token| *token == fallback));
            let found = id.and_then(|id| Some((plain(self.tokens.get(id)?), id)));
            found.ok_or_else(|| Error::Vocabulary { fault: VocabularyFault::Special { token: fallback.to_owned() } })
        };
        let (unknown, _) = special("unknown", "[UNK]")?;
        let (first, first_id) = special("cls", "[CLS]").or_else(|_| special("bos", "[CLS]"))?;
        let (last, last_id) = special("seperator", "[SEP]").or_else(|_| special("eos", "[SEP]"))?;
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(),
            "normalizer": {
                "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
                "lowercase": lower,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "BertProcessing", "sep": [last, last_id], "cls": [first, first_id]},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {
                "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": self.ids(plain),
            },
        }))
    }

    /// Tokens by number, written as `spell` does.
    fn ids(&self, spell: impl Fn(&str) -> String) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| (spell(token), json!(id))).collect()
    }

    /// Tokens that are found in text before it is cut.
    fn added(&self) -> Vec<Value> {
        let added = self
            .tokens
            .iter()
            .zip(&self.types)
            .enumerate()
            .filter(|(_, (token, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED) && !token.is_empty());
        let added = added.map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != USER_DEFINED,
            })
        });
        added.collect()
    }

    fn unknown(&self) -> Result<Value, Error> {
        let id = self.meta.number("tokenizer.ggml.unknown_token_id")?.map(|id| id as usize);
        let id = id.or_else(|| self.types.iter().position(|kind| *kind == UNKNOWN));
        Ok(id.and_then(|id| self.tokens.get(id)).map_or(Value::Null, |token| json!(token)))
    }

    /// What is put around a text: a start token if the file asks for one, or by default if `starts`, and an end token
    /// if it asks for one.
    fn frame(&self, starts: bool) -> Result<Value, Error> {
        let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
        let mut pair_b = vec![json!({"Sequence": {"id": "B", "type_id": 1}})];
        let mut special = Map::new();
        for (name, default, at_front) in [("bos", starts, true), ("eos", false, false)] {
            if !self.meta.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(default) {
                continue;
            }
            let Some(id) = self.meta.number(&format!("tokenizer.ggml.{name}_token_id"))? else { continue };
            let Some(token) = self.tokens.get(id as usize) else {
                return Err(Error::Vocabulary { fault: VocabularyFault::Special { token: format!("number {id}") } });
            };
            special.insert(token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}));
            for (type_id, pieces) in [(0, &mut single), (1, &mut pair_b)] {
                let piece = json!({"SpecialToken": {"id": token, "type_id": type_id}});
                pieces.insert(if at_front { 0 } else { pieces.len() }, piece);
            }
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        let pair = [single.clone(), pair_b].concat();
        Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}))
    }
}
