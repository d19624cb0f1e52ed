//! From texts to token ids, with words remembered.
//!
//! Most of the time of a small encoder goes into tokenizing, and most words of a text were seen before. Where a tokenizer looks
//! at the pieces between blanks one by one, pieces are tokenized once and then looked up; the tokenizers library does the
//! tokenizing in any case.

use std::sync::Mutex;

use hashbrown::HashMap;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Pieces are remembered in so many maps; each thread has one, and shares it only where there are more threads.
const MAPS: usize = 64;
/// A map that holds so many pieces is emptied: corpora of names and numbers never end.
const MOST: usize = 1 << 16;
/// Longer pieces are not remembered.
const LONGEST: usize = 48;

/// Pieces and their ids.
type Pieces = Mutex<HashMap<Box<str>, Box<[u32]>>>;

/// How texts are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Whether what the tokenizer puts around texts is wanted.
    pub special: bool,
    /// Whether texts are put into lower case first.
    pub lower: bool,
    /// Tokens that a text is cut to, those around it among them.
    pub most: usize,
}

/// A tokenizer that remembers the pieces between blanks.
#[derive(Debug)]
pub(crate) struct Tokens {
    tokenizer: Tokenizer,
    reading: Reading,
    /// None if the tokenizer looks across blanks.
    known: Option<Vec<Pieces>>,
    /// What stands in front of and behind every text.
    ends: [Vec<u32>; 2],
}

impl Tokens {
    /// Takes a tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if it fails on a letter.
    pub fn new(tokenizer: Tokenizer, reading: Reading) -> Result<Tokens> {
        let ends = match reading.special {
            true => around(&tokenizer).map_err(|why| refused(0, &why))?,
            false => Some([Vec::new(), Vec::new()]),
        };
        let by_piece = ends.is_some() && looks_at_pieces(&tokenizer);
        let known = by_piece.then(|| (0..MAPS).map(|_| Mutex::default()).collect());
        Ok(Tokens { tokenizer, reading, known, ends: ends.unwrap_or_default() })
    }

    /// The ids of a text. Where it is cut, what ends every text stays. In errors the text goes by `n`.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn ids(&self, n: usize, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.append(n, text, &mut ids)?;
        Ok(ids)
    }

    /// Puts the ids of a text behind others.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn append(&self, n: usize, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let lower;
        let text = match self.reading.lower {
            true => {
                lower = text.to_lowercase();
                &lower
            }
            false => text,
        };
        let done = match &self.known {
            Some(known) => self.by_piece(known, text, ids),
            None => self.whole(text).map(|whole| ids.extend(whole)),
        };
        done.map_err(|why| refused(n, &why))
    }

    fn whole(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let Reading { special, most, .. } = self.reading;
        let mut ids = self.tokenizer.encode_fast(text, special)?.get_ids().to_vec();
        if ids.len() > most {
            let last = ids.split_off(ids.len() - self.ends[1].len());
            ids.truncate(most.saturating_sub(last.len()));
            ids.extend(last);
            ids.truncate(most);
        }
        Ok(ids)
    }

    fn by_piece(&self, known: &[Pieces], text: &str, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        let [front, back] = &self.ends;
        let Reading { most, .. } = self.reading;
        let (start, room) = (ids.len(), most.saturating_sub(front.len() + back.len()));
        ids.extend(front);
        let own = &known[rayon::current_thread_index().unwrap_or(0) % MAPS];
        let mut pieces = own.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for piece in text.split(is_blank).filter(|piece| !piece.is_empty()) {
            if ids.len() - start - front.len() >= room {
                break;
            }
            if let Some(found) = pieces.get(piece) {
                ids.extend_from_slice(found);
                continue;
            }
            let encoding = self.tokenizer.encode_fast(piece, false)?;
            ids.extend_from_slice(encoding.get_ids());
            if piece.len() <= LONGEST {
                if pieces.len() >= MOST {
                    pieces.clear();
                }
                pieces.insert(piece.into(), encoding.get_ids().into());
            }
        }
        ids.truncate((start + front.len()).saturating_add(room));
        ids.extend(back);
        ids.truncate(start.saturating_add(most));
        Ok(())
    }

    /// Cuts texts to so many tokens from now on.
    pub fn cut_to(&mut self, most: usize) {
        self.reading.most = most;
    }

    /// Tokens that a text is cut to.
    pub fn most(&self) -> usize {
        self.reading.most
    }

    /// What stands in front of and behind every text.
    pub fn ends(&self) -> [&[u32]; 2] {
        [&self.ends[0], &self.ends[1]]
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

fn refused(text: usize, why: &tokenizers::Error) -> Error {
    Error::Tokenize { text, why: why.to_string() }
}

/// Whether every tokenizer that [`looks_at_pieces`] splits there: some take control characters out before they look for blanks, so
/// that a form feed joins two words.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || c.is_whitespace() && !c.is_control()
}

/// What a tokenizer puts in front of every text and behind it; `None` if that cannot be told.
fn around(tokenizer: &Tokenizer) -> tokenizers::Result<Option<[Vec<u32>; 2]>> {
    let (plain, special) = (tokenizer.encode_fast("a", false)?, tokenizer.encode_fast("a", true)?);
    let (plain, special) = (plain.get_ids(), special.get_ids());
    if plain.is_empty() {
        return Ok(None);
    }
    let at = special.windows(plain.len()).position(|run| run == plain);
    Ok(at.map(|at| [special[..at].to_vec(), special[at + plain.len()..].to_vec()]))
}

/// Whether a tokenizer looks at the pieces between blanks one by one: it splits at blanks, and what it does before looks at
/// single characters.
fn looks_at_pieces(tokenizer: &Tokenizer) -> bool {
    let Ok(text) = tokenizer.to_string(false) else { return false };
    let Ok(json) = serde_json::from_str::<Value>(&text) else { return false };
    let kind = |part: &str| json[part]["type"].as_str().unwrap_or("").to_owned();
    let normal =
        matches!(kind("normalizer").as_str(), "" | "BertNormalizer" | "Lowercase" | "NFD" | "NFC" | "StripAccents");
    let splits = matches!(kind("pre_tokenizer").as_str(), "BertPreTokenizer" | "Whitespace");
    let added = json["added_tokens"].as_array().is_none_or(|added| {
        added
            .iter()
            .all(|token| token["content"].as_str().is_some_and(|content| !content.contains(char::is_whitespace)))
    });
    normal && splits && added
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::wordpiece::WordPiece;
    use tokenizers::normalizers::BertNormalizer;
    use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
    use tokenizers::processors::template::TemplateProcessing;

    fn wordpiece() -> Tokenizer {
        let words = ["[UNK]", "[CLS]", "[SEP]", "un", "##able", "able", "a", "##b", ".", "e", "\u{65e5}"];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), words.join("\n")).unwrap();
        let model = WordPiece::from_file(file.path().to_str().unwrap()).unk_token("[UNK]".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_normalizer(Some(BertNormalizer::default())).unwrap();
        tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
        let ends = TemplateProcessing::builder()
            .try_single("[CLS] $A [SEP]")
            .unwrap()
            .special_tokens(vec![("[CLS]", 1), ("[SEP]", 2)])
            .build()
            .unwrap();
        tokenizer.with_post_processor(Some(ends));
        tokenizer
    }

    #[test]
    fn remembered_pieces_give_what_the_tokenizer_gives() {
        let plain = wordpiece();
        for special in [true, false] {
            let tokens = Tokens::new(wordpiece(), read(special, 99)).unwrap();
            assert!(tokens.known.is_some());
            for text in [
                "Unable. un\u{a0}able\tab",
                "",
                "  ",
                "\u{e9} a\u{301}b \u{65e5}a un\u{0}able",
                "unable unable zz",
                "un\u{c}able a\u{85}b a\u{2028}b",
            ] {
                for _ in 0..2 {
                    let want = plain.encode_fast(text, special).unwrap().get_ids().to_vec();
                    assert_eq!(tokens.ids(0, text).unwrap(), want, "{text:?}");
                }
            }
        }
    }

    fn read(special: bool, most: usize) -> Reading {
        Reading { special, lower: false, most }
    }

    #[test]
    fn what_ends_a_text_stays_when_it_is_cut() {
        let tokens = Tokens::new(wordpiece(), read(true, 5)).unwrap();
        assert_eq!(tokens.ids(0, "a a a a a").unwrap(), [1, 6, 6, 6, 2]);
        assert_eq!(tokens.ids(0, "unable unable").unwrap(), [1, 3, 4, 3, 2]);
        let bare = Tokens::new(wordpiece(), read(false, 3)).unwrap();
        assert_eq!(bare.ids(0, "unable unable").unwrap(), [3, 4, 3]);
    }

    #[test]
    fn a_tokenizer_that_looks_across_blanks_is_asked_for_whole_texts() {
        let across = || {
            let mut tokenizer = wordpiece();
            tokenizer.with_pre_tokenizer(None::<BertPreTokenizer>);
            tokenizer
        };
        for (most, want) in [(9, &[1, 3, 4, 2][..]), (3, &[1, 3, 2])] {
            let tokens = Tokens::new(across(), read(true, most)).unwrap();
            assert!(tokens.known.is_none());
            assert_eq!(tokens.ids(0, "unable").unwrap(), want);
        }
    }
}
