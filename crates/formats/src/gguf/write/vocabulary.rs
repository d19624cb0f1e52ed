//! From a `tokenizer.json` to the vocabulary of a GGUF file.
//!
//! Such a vocabulary is tokens, merges or scores, and the name of a way to cut text; what other programs do under that
//! name is fixed. So a vocabulary is written only if our own reader, given what would be written, gives the ids that
//! the tokenizer of the model gives, for a text with something of everything and for words of the vocabulary itself.

use std::collections::{BTreeMap, HashMap};

use brevity_model::Config;
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::super::vocabulary::{self as reader, BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED};
use super::fault::NoVocabulary;
use super::keys::{Keys, Value};

/// Something of everything that tokenizers treat in ways of their own.
const SAMPLE: &str = "The small Garden, isn't it? IT'S what they'RE saying: I'm, we've, he'd.  Two  spaces   three\t\ttabs\n\n\
    new lines\r\n   \n a1 22 333 4444 55555 3.14 $5.00 (quiet)... [river]! ~~ <s> {\"key\": [1, 2]}\nfn main() { x += y_z; }\n\
    na\u{ef}ve caf\u{e9} \u{dc}nlit e\u{301}tude \u{65e5}\u{672c}\u{8a9e}\u{306e}\u{6587} \u{41f}\u{440}\u{438}\u{432}\u{435}\u{442} \
    \u{645}\u{631}\u{62d}\u{628}\u{627} \u{1f642}\u{1f643} ok\u{a0}nbsp \u{2014} \u{201c}quoted\u{201d}\n";

/// Words of the vocabulary that are tried.
const WORDS: usize = 2000;

/// The keys of the vocabulary of a model, from the files beside its weights; `rows` are those of its token table.
///
/// # Errors
/// If there is no tokenizer, or one that such files cannot say.
pub fn keys(files: &[(String, Vec<u8>)], config: &Config, rows: usize) -> Result<Keys, NoVocabulary> {
    let file = |name: &str| files.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice());
    let text = file("tokenizer.json").ok_or(NoVocabulary::Missing)?;
    let damaged = |what: String| NoVocabulary::Damaged { what };
    let json: Json = serde_json::from_slice(text).map_err(|e| damaged(e.to_string()))?;
    let mut tokenizer = Tokenizer::from_bytes(text).map_err(|e| damaged(e.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| damaged(e.to_string()))?;
    let about: Json =
        file("tokenizer_config.json").and_then(|text| serde_json::from_slice(text).ok()).unwrap_or_default();

    let vocabulary = Vocabulary::of(&json, &tokenizer, rows)?;
    let mut keys = match json["model"]["type"].as_str() {
        Some("BPE") if pre_tokenizers(&json).iter().any(|step| step["type"] == "ByteLevel") => {
            vocabulary.byte_level()?
        }
        Some("BPE") if json["model"]["byte_fallback"] == true => vocabulary.sentence_piece(),
        Some("WordPiece") => vocabulary.word_piece(),
        kind => return Err(NoVocabulary::Kind { kind: kind.unwrap_or("without a name").to_owned() }),
    };
    vocabulary.special(&about, config, &mut keys);
    let template = match &about["chat_template"] {
        Json::String(template) => Some(template.clone()),
        // Several under names: one of them is that of a conversation.
        Json::Array(all) => {
            let usual = all.iter().find(|one| one["name"] == "default").or(all.first());
            usual.and_then(|one| Some(one["template"].as_str()?.to_owned()))
        }
        _ => file("chat_template.jinja").and_then(|text| String::from_utf8(text.to_vec()).ok()),
    };
    if let Some(template) = template {
        keys.add("tokenizer.chat_template", template.as_str());
    }
    vocabulary.check(&keys)?;
    Ok(keys)
}

/// The keys of a file without a vocabulary.
pub fn none() -> Keys {
    let mut keys = Keys::default();
    keys.add("tokenizer.ggml.model", "no_vocab");
    keys
}

struct Vocabulary<'a> {
    json: &'a Json,
    tokenizer: &'a Tokenizer,
    /// The tokens, one for each row of the table.
    tokens: Vec<String>,
    /// What each is.
    kinds: Vec<u64>,
    ids: HashMap<String, u32>,
}

impl<'a> Vocabulary<'a> {
    fn of(json: &'a Json, tokenizer: &'a Tokenizer, rows: usize) -> Result<Self, NoVocabulary> {
        let ids = tokenizer.get_vocab(true);
        let mut tokens: Vec<Option<String>> = vec![None; rows];
        // Of two tokens with one id the alphabetically first, whatever the order of the map.
        let sorted: BTreeMap<&String, u32> = ids.iter().map(|(token, id)| (token, *id)).collect();
        for (token, id) in sorted {
            let Some(slot) = tokens.get_mut(id as usize) else { return Err(NoVocabulary::TooMany { id, rows }) };
            slot.get_or_insert_with(|| token.clone());
        }
        let mut kinds: Vec<u64> = tokens.iter().map(|token| if token.is_some() { NORMAL } else { UNUSED }).collect();
        for added in json["added_tokens"].as_array().into_iter().flatten() {
            if let Some(kind) = added["id"].as_u64().and_then(|id| kinds.get_mut(id as usize)) {
                *kind = if added["special"] == true { CONTROL } else { USER_DEFINED };
            }
        }
        let tokens = tokens.into_iter().enumerate().map(|(id, token)| token.unwrap_or_else(|| format!("[PAD{id}]")));
        Ok(Vocabulary { json, tokenizer, tokens: tokens.collect(), kinds, ids })
    }

    /// Byte-level BPE: merges, and the name of the way in which text is cut.
    fn byte_level(&self) -> Result<Keys, NoVocabulary> {
        let mut splits = Vec::new();
        for step in pre_tokenizers(self.json) {
            match step["type"].as_str() {
                Some("Digits") if step["individual_digits"] == true => splits.push(r"\p{N}".to_owned()),
                Some("ByteLevel") if step["add_prefix_space"] != true => {
                    if step["use_regex"] != false {
                        splits.push(reader::GPT2.to_owned());
                    }
                }
                Some("Split") => splits.extend(step["pattern"]["Regex"].as_str().map(str::to_owned)),
                _ => return Err(NoVocabulary::Cut),
            }
        }
        let composed = match self.json["normalizer"]["type"].as_str() {
            None => false,
            Some("NFC") => true,
            Some(_) => return Err(NoVocabulary::Cut),
        };
        let whole_first = self.json["model"]["ignore_merges"] == true;
        let pre = reader::name_of_cut(&splits, whole_first, composed).ok_or(NoVocabulary::Cut)?;
        let mut keys = self.begin("gpt2", self.tokens.clone(), &self.kinds);
        keys.add("tokenizer.ggml.pre", pre);
        keys.add("tokenizer.ggml.merges", Value::Texts(self.merges().map(|[a, b]| format!("{a} {b}")).collect()));
        Ok(keys)
    }

    /// SentencePiece's BPE: a score for each token, which is better the earlier it is merged.
    fn sentence_piece(&self) -> Keys {
        let mut kinds = self.kinds.clone();
        for (kind, token) in kinds.iter_mut().zip(&self.tokens) {
            if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') {
                *kind = BYTE;
            }
        }
        if let Some(unknown) = self.unknown() {
            kinds[unknown as usize] = UNKNOWN;
        }
        let mut rank: HashMap<String, usize> = HashMap::new();
        for [a, b] in self.merges() {
            let next = rank.len();
            rank.entry(format!("{a}{b}")).or_insert(next);
        }
        let scores = self.tokens.iter().map(|token| rank.get(token).map_or(0.0, |&rank| -(rank as f32)));
        let scores = Value::F32s(scores.collect());
        let mut keys = self.begin("llama", self.tokens.clone(), &kinds);
        keys.add("tokenizer.ggml.pre", "default");
        keys.add("tokenizer.ggml.scores", scores);
        // The fast way of encoding leaves the tokens out.
        let spaced = self.tokenizer.encode("a", false).is_ok_and(|a| a.get_tokens().concat().starts_with(SPACE));
        keys.add("tokenizer.ggml.add_space_prefix", spaced);
        keys
    }

    /// WordPiece: files mark tokens that begin a word, where a vocabulary marks those that do not.
    fn word_piece(&self) -> Keys {
        let marked = |(token, kind): (&String, &u64)| match token.strip_prefix("##") {
            Some(rest) => rest.to_owned(),
            None if token.starts_with('[') && token.ends_with(']') && token.len() > 1 => token.clone(),
            None if *kind == UNUSED => token.clone(),
            None => format!("{SPACE}{token}"),
        };
        let tokens = self.tokens.iter().zip(&self.kinds).map(marked).collect();
        let mut keys = self.begin("bert", tokens, &self.kinds);
        keys.add("tokenizer.ggml.pre", "default");
        keys
    }

    fn begin(&self, model: &str, tokens: Vec<String>, kinds: &[u64]) -> Keys {
        let mut keys = Keys::default();
        keys.add("tokenizer.ggml.model", model);
        keys.add("tokenizer.ggml.tokens", Value::Texts(tokens));
        keys.add("tokenizer.ggml.token_type", Value::I32s(kinds.iter().map(|&kind| kind as i32).collect()));
        keys
    }

    /// Pairs that are merged, the first first; older files have them as one text.
    fn merges(&self) -> impl Iterator<Item = [&str; 2]> {
        let merges = self.json["model"]["merges"].as_array().into_iter().flatten();
        merges.filter_map(|merge| match merge {
            Json::String(both) => both.split_once(' ').map(|(a, b)| [a, b]),
            both => Some([both[0].as_str()?, both[1].as_str()?]),
        })
    }

    fn unknown(&self) -> Option<u32> {
        self.ids.get(self.json["model"]["unk_token"].as_str()?).copied()
    }

    /// Ids and flags of special tokens.
    fn special(&self, about: &Json, config: &Config, keys: &mut Keys) {
        let named = |name: &str| {
            let token = &about[name];
            self.ids.get(token.as_str().or_else(|| token["content"].as_str())?).copied()
        };
        let configured = |name: &str| {
            let id = config.get(name)?;
            id.as_u64()
                .or_else(|| id.get(0)?.as_u64())
                .filter(|id| (*id as usize) < self.tokens.len())
                .map(|id| id as u32)
        };
        let word_piece = self.json["model"]["type"] == "WordPiece";
        let (front, back) = self.frame();
        let bos = front.or(named("bos_token")).or_else(|| configured("bos_token_id"));
        let eos = named("eos_token").or_else(|| configured("eos_token_id")).or(back);
        let mut add = |name: &str, id: Option<u32>| {
            if let Some(id) = id {
                keys.add(format!("tokenizer.ggml.{name}_token_id"), id);
            }
        };
        add("bos", bos);
        add("eos", eos.filter(|_| !word_piece));
        add("unknown", self.unknown().or(named("unk_token")));
        add("padding", named("pad_token").or_else(|| configured("pad_token_id")));
        if word_piece {
            add("cls", named("cls_token").or(front));
            // As ggml spells it.
            add("seperator", named("sep_token").or(back));
            add("mask", named("mask_token"));
        }
        keys.add("tokenizer.ggml.add_bos_token", front.is_some());
        keys.add("tokenizer.ggml.add_eos_token", back.is_some());
    }

    /// The tokens that are put in front of a text and behind it.
    fn frame(&self) -> (Option<u32>, Option<u32>) {
        let (bare, framed) = (self.encode("a", false), self.encode("a", true));
        let at = (0..=framed.len().saturating_sub(bare.len())).find(|&at| framed[at..].starts_with(&bare));
        let Some(at) = at.filter(|_| !bare.is_empty()) else { return (None, None) };
        let one = |ids: &[u32]| ids.first().copied();
        (one(&framed[..at]), one(&framed[at + bare.len()..]))
    }

    /// The ids of a text.
    fn encode(&self, text: &str, framed: bool) -> Vec<u32> {
        self.tokenizer.encode_fast(text, framed).map_or_else(|_| Vec::new(), |all| all.get_ids().to_vec())
    }

    /// Reads the vocabulary back and tries it.
    fn check(&self, keys: &Keys) -> Result<(), NoVocabulary> {
        let read = reader::tokenizer(&keys.as_read()).map_err(|e| NoVocabulary::Damaged { what: e.to_string() })?;
        let step = (self.tokens.len() / WORDS).max(1) as u32;
        let words = (0..self.tokens.len() as u32)
            .step_by(step as usize)
            .filter_map(|id| self.tokenizer.decode(&[id], true).ok());
        let specials = self.json["added_tokens"].as_array().into_iter().flatten().take(8).filter_map(|added| {
            let stripped = added["lstrip"] == true || added["rstrip"] == true || added["single_word"] == true;
            (!stripped).then(|| format!("a {} b", added["content"].as_str().unwrap_or_default()))
        });
        for text in
            SAMPLE.split_inclusive('\n').map(str::to_owned).chain([SAMPLE.to_owned()]).chain(specials).chain(words)
        {
            let ids = read.encode_fast(text.as_str(), true).map(|all| all.get_ids().to_vec()).unwrap_or_default();
            if ids != self.encode(&text, true) {
                return Err(NoVocabulary::Differs { text });
            }
        }
        Ok(())
    }
}

/// The steps that cut text, in order.
fn pre_tokenizers(json: &Json) -> Vec<&Json> {
    match &json["pre_tokenizer"] {
        Json::Null => Vec::new(),
        one if one["type"] == "Sequence" => one["pretokenizers"].as_array().into_iter().flatten().collect(),
        one => vec![one],
    }
}

#[cfg(test)]
mod tests;
