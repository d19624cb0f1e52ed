//! Whole documents, cut and counted as lm-evaluation-harness does, so that perplexities by word and byte can be compared.

use regex::{Captures, Regex};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::text::Text;
use crate::windows::{Extent, Protocol, Windows};

/// A document as tokens, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its tokens, without special ones.
    pub tokens: Vec<u32>,
    /// Words: parts between runs of white space. An empty part at either end counts too, as it does in the harness.
    pub words: usize,
    /// Bytes.
    pub bytes: usize,
}

impl Document {
    /// Tokenizes a document.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn new(document: &Text, tokenizer: &Tokenizer) -> Result<Document> {
        Ok(Document { tokens: document.tokens(tokenizer)?, words: words(&document.text), bytes: document.text.len() })
    }

    /// Tokenizes a page of WikiText as the harness's task `wikitext` does: words and bytes are those of the page, the
    /// tokens those of the page with ordinary spacing.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn of_page(page: &Text, tokenizer: &Tokenizer) -> Result<Document> {
        let clean = Text { name: page.name.clone(), text: detokenized(&page.text) };
        Ok(Document { tokens: clean.tokens(tokenizer)?, words: words(&page.text), bytes: page.text.len() })
    }
}

impl Windows {
    /// Cuts documents into windows in which each token is predicted once: the first behind `prefix`, the last window of
    /// a document with as much in front of it as fits.
    ///
    /// `length` is the most tokens that a model reads at once (the harness's `max_length`); the last token of a window
    /// is not read, only predicted. `prefix` is the token that begins a text, or else the one that ends it.
    ///
    /// # Errors
    /// [`Error::Window`] if the length is zero, [`Error::Short`] if no document has a token.
    ///
    /// # Source
    /// lm-evaluation-harness 0.4.13, `lm_eval/utils.py`, `get_rolling_token_windows` with a context of one.
    pub fn harness(text: &str, documents: &[Document], prefix: u32, length: usize) -> Result<Windows> {
        if length == 0 {
            return Err(Error::Window { window: length });
        }
        let mut all = Windows {
            text: text.to_owned(),
            length,
            protocol: Protocol::Harness,
            windows: Vec::new(),
            documents: Vec::new(),
            first_rows: Vec::new(),
        };
        for document in documents {
            let tokens: Vec<u32> = std::iter::once(prefix).chain(document.tokens.iter().copied()).collect();
            let starts = (0..document.tokens.len()).step_by(length);
            all.documents.push(Extent { words: document.words, bytes: document.bytes, windows: starts.len() });
            for start in starts {
                // Token `t` of the document is token `t + 1` here.
                let end = (start + length).min(document.tokens.len());
                let first = (end + 1).saturating_sub(length + 1).min(start);
                all.windows.push(tokens[first..=end].to_vec());
                all.first_rows.push(start - first);
            }
        }
        if all.windows.is_empty() {
            return Err(Error::Short { text: text.to_owned(), tokens: 0, needed: 1, window: length, limited: false });
        }
        Ok(all)
    }
}

/// The pages of a WikiText file: each begins with a line `= Title =`.
///
/// # Source
/// The script of the data set that the harness's task `wikitext` loads, `EleutherAI/wikitext_document_level`.
pub fn pages(raw: &str) -> Vec<String> {
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    for line in raw.split('\n') {
        let title = line.replace("= = =", "===").replace("= =", "==");
        let title = title.trim();
        if title.starts_with("= ") && title.ends_with(" =") {
            pages.push(std::mem::take(&mut page).join("\n"));
        }
        page.push(line);
    }
    pages.push(page.join("\n"));
    pages.retain(|page| !page.trim().is_empty());
    pages
}

/// Parts between runs of white space, as Python's `len(re.split(r"\s+", text))` counts them.
fn words(text: &str) -> usize {
    // Python takes four separators for white space that Unicode does not.
    let blank = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    let starts = text.chars().scan(false, |before, c| {
        let starts = blank(c) && !*before;
        *before = blank(c);
        Some(starts)
    });
    1 + starts.filter(|&starts| starts).count()
}

/// A page of WikiText with the spacing of ordinary text.
///
/// # Source
/// lm-evaluation-harness 0.4.13, `lm_eval/tasks/wikitext/preprocess_wikitext.py`; the order of the steps matters.
fn detokenized(page: &str) -> String {
    let all = |text: String, pairs: &[(&str, &str)]| pairs.iter().fold(text, |text, (from, to)| text.replace(from, to));
    let text = all(page.to_owned(), &[("s '", "s'")]);
    let text = replaced(&text, r"/' [0-9]/", |_| "/'[0-9]/".to_owned());
    let text = all(text, &[(" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")]);
    let text = all(text, &[(" : ", ": "), (" ; ", "; "), (" . ", ". "), (" ! ", "! "), (" ? ", "? "), (" , ", ", ")]);
    let within = |text: String, pattern: &str, open: &str, close: &str| {
        replaced(&text, pattern, |inner| format!("{open}{}{close}", &inner[1]))
    };
    let text = within(text, r"\(\s*([^\)]*?)\s*\)", "(", ")");
    let text = within(text, r"\[\s*([^\]]*?)\s*\]", "[", "]");
    let text = within(text, r"\{\s*([^}]*?)\s*\}", "{", "}");
    let text = within(text, r#""\s*([^"]*?)\s*""#, "\"", "\"");
    let text = within(text, r"'\s*([^']*?)\s*'", "'", "'");
    let text = all(text, &[("= = = =", "===="), ("= = =", "==="), ("= =", "==")]);
    all(text, &[(" ° ", "°"), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")])
}

fn replaced(text: &str, pattern: &str, with: impl Fn(&Captures<'_>) -> String) -> String {
    let pattern = Regex::new(pattern).expect("a pattern of ours");
    pattern.replace_all(text, with).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../tests/vectors/harness.json")).unwrap()
    }

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    #[test]
    fn windows_are_those_of_the_harness() {
        for case in golden()["windows"].as_array().unwrap() {
            let tokens = ids(&case["tokens"]);
            let length = case["length"].as_u64().unwrap() as usize;
            let expected: Vec<(Vec<u32>, Vec<u32>)> =
                case["windows"].as_array().unwrap().iter().map(|pair| (ids(&pair[0]), ids(&pair[1]))).collect();
            let document = Document { tokens: tokens.clone(), words: 1, bytes: 1 };
            let windows = Windows::harness("t", &[document], 7, length);
            let Ok(windows) = windows else {
                assert!(expected.is_empty());
                continue;
            };
            let found: Vec<(Vec<u32>, Vec<u32>)> = (0..windows.windows.len())
                .map(|n| {
                    let (context, predicted) = windows.windows[n].split_at(windows.first_row(n) + 1);
                    (context.to_vec(), predicted.to_vec())
                })
                .collect();
            assert_eq!(found, expected, "{} tokens by {length}", tokens.len());
            assert_eq!(windows.predictions(), tokens.len());
            assert_eq!(windows.documents[0].windows, windows.windows.len());
            assert!(windows.windows.iter().all(|window| window.len() <= length + 1));
        }
    }

    #[test]
    fn pages_are_cleaned_and_counted_as_the_harness_does() {
        for case in golden()["texts"].as_array().unwrap() {
            let page = case["page"].as_str().unwrap();
            assert_eq!(detokenized(page), case["text"].as_str().unwrap());
            assert_eq!(
                (words(page) as u64, page.len() as u64),
                (case["words"].as_u64().unwrap(), case["bytes"].as_u64().unwrap())
            );
        }
        assert_eq!((words(""), words("a"), words(" a  b ")), (1, 1, 4));
    }

    #[test]
    fn a_page_begins_with_a_title_of_the_first_level() {
        let raw = " \n = One = \n \n Text . \n = = Part = = \n More . \n = Two = \n \n End . \n";
        let pages = pages(raw);
        assert_eq!(pages.len(), 2);
        assert_eq!(pages[1], " = Two = \n \n End . \n");
    }
}
