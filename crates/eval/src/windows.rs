//! Windows of tokens, and the protocol by which they are scored.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How a text is cut into windows, and which predictions count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// Windows without overlap, nothing put in front; each token behind the first is predicted. This is the protocol
    /// of the compression literature.
    #[default]
    #[serde(rename = "window")]
    Window,
    /// That of llama.cpp's perplexity tool: the first token of each window is replaced by the tokenizer's first
    /// token if it has one, and only the second half of each window counts.
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    /// That of lm-evaluation-harness for whole documents: a token in front of each, every token of a document predicted
    /// just once, and losses summed up by words and bytes, so that tokenizers do not matter.
    #[serde(rename = "harness")]
    Harness,
}

impl Protocol {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Window => "window",
            Protocol::LlamaCpp => "llama.cpp",
            Protocol::Harness => "harness",
        }
    }
}

/// Windows cut from one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    /// The name of the text.
    pub text: String,
    /// Tokens in each window; by [`Protocol::Harness`] the most that a model reads at once.
    pub length: usize,
    /// How they are scored.
    pub protocol: Protocol,
    /// The tokens.
    pub windows: Vec<Vec<u32>>,
    /// By [`Protocol::Harness`], the documents that the windows are of; else none.
    pub documents: Vec<Extent>,
    /// By [`Protocol::Harness`], the first row of each window that counts.
    pub(crate) first_rows: Vec<usize>,
}

/// How long a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Words, as the harness counts them.
    pub words: usize,
    /// Bytes.
    pub bytes: usize,
    /// Windows; those of the documents follow each other.
    pub windows: usize,
}

impl Windows {
    /// Cuts the first `limit` tokens (all if `None`) into windows without overlap; the remainder is dropped.
    ///
    /// # Errors
    /// [`Error::Window`] if the length is less than 2, [`Error::Short`] if there is not one window.
    pub fn cut(text: &str, tokens: &[u32], length: usize, limit: Option<usize>) -> Result<Windows> {
        if length < 2 {
            return Err(Error::Window { window: length });
        }
        let used = limit.map_or(tokens, |limit| &tokens[..limit.min(tokens.len())]);
        if used.len() < length {
            return Err(short(text, tokens.len(), used.len(), length, length));
        }
        let windows = used.chunks_exact(length).map(<[u32]>::to_vec).collect();
        Ok(Windows {
            text: text.to_owned(),
            length,
            protocol: Protocol::Window,
            windows,
            documents: Vec::new(),
            first_rows: Vec::new(),
        })
    }

    /// Cuts tokens as llama.cpp's perplexity tool does. `first` is the token that the tokenizer puts in front of a
    /// text, if it does; the text then begins with it too.
    ///
    /// # Errors
    /// As [`Windows::cut`]; that tool wants at least two windows.
    pub fn llama_cpp(
        text: &str,
        tokens: &[u32],
        first: Option<u32>,
        length: usize,
        limit: Option<usize>,
    ) -> Result<Windows> {
        if length < 4 {
            return Err(Error::Window { window: length });
        }
        let all: Vec<u32> = first.iter().chain(tokens).copied().collect();
        if all.len() < 2 * length {
            return Err(short(text, all.len(), all.len(), 2 * length, length));
        }
        let mut windows = Windows::cut(text, &all, length, limit)?;
        windows.protocol = Protocol::LlamaCpp;
        if let Some(first) = first {
            windows.windows.iter_mut().for_each(|window| window[0] = first);
        }
        Ok(windows)
    }

    /// The first row of a window that counts.
    pub fn first_row(&self, window: usize) -> usize {
        match self.protocol {
            Protocol::Window => 0,
            Protocol::LlamaCpp => self.length / 2,
            Protocol::Harness => self.first_rows[window],
        }
    }

    /// Tokens that are run.
    pub fn tokens(&self) -> usize {
        let last = usize::from(!self.runs_last());
        self.windows.iter().map(|window| window.len() - last).sum()
    }

    /// Predictions of all windows that count.
    pub fn predictions(&self) -> usize {
        let rows = |(n, window): (usize, &Vec<u32>)| window.len() - 1 - self.first_row(n);
        self.windows.iter().enumerate().map(rows).sum()
    }

    /// Whether the last token of a window is run. The harness does not, so that windows may be as long as the model
    /// reads at most.
    pub(crate) fn runs_last(&self) -> bool {
        self.protocol != Protocol::Harness
    }

    /// Refuses tokens that a model does not have.
    pub(crate) fn check(&self, vocabulary: usize) -> Result<()> {
        let beyond = self.windows.iter().flatten().find(|&&token| token as usize >= vocabulary);
        beyond.map_or(Ok(()), |&token| Err(Error::Token { token, vocabulary }))
    }
}

fn short(text: &str, all: usize, used: usize, needed: usize, window: usize) -> Error {
    Error::Short { text: text.to_owned(), tokens: used, needed, window, limited: used < all }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(n: u32) -> Vec<u32> {
        (0..n).collect()
    }

    #[test]
    fn the_remainder_and_what_is_beyond_the_limit_are_dropped() {
        let cut = |limit| Windows::cut("t", &tokens(11), 3, limit).unwrap().windows;
        assert_eq!(cut(None), [[0, 1, 2], [3, 4, 5], [6, 7, 8]]);
        assert_eq!(cut(Some(6)), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(cut(Some(8)), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(cut(Some(100)).len(), 3);
    }

    #[test]
    fn the_window_count_is_tokens_over_length() {
        // WikiText-2 test with the Llama tokenizer.
        assert_eq!(Windows::cut("t", &vec![0; 341_469], 2048, None).unwrap().windows.len(), 166);
        assert_eq!(Windows::cut("t", &vec![0; 341_469], 4096, None).unwrap().windows.len(), 83);
    }

    #[test]
    fn a_text_shorter_than_one_window_says_how_many_tokens_it_has() {
        let error = Windows::cut("notes.txt", &tokens(100), 2048, None).unwrap_err();
        assert_eq!(error.to_string(), "`notes.txt` has 100 tokens, but 2048 are needed for windows of 2048");
        assert_eq!(error.hint().unwrap(), "use a longer text, or shorter windows (`--window 50`)");
        let error = Windows::cut("notes.txt", &tokens(5000), 2048, Some(100)).unwrap_err();
        assert_eq!(error.hint().unwrap(), "raise the limit, or use shorter windows");
        assert!(Windows::cut("t", &tokens(5), 1, None).is_err());
    }

    #[test]
    fn llama_cpp_replaces_the_first_token_and_counts_the_second_half() {
        let windows = Windows::llama_cpp("t", &tokens(9), Some(77), 4, None).unwrap();
        assert_eq!(windows.windows, [[77, 0, 1, 2], [77, 4, 5, 6]]);
        assert_eq!((windows.first_row(0), windows.predictions()), (2, 2));
        let without = Windows::llama_cpp("t", &tokens(9), None, 4, None).unwrap();
        assert_eq!(without.windows, [[0, 1, 2, 3], [4, 5, 6, 7]]);
        let error = Windows::llama_cpp("t", &tokens(7), None, 4, None).unwrap_err();
        assert_eq!(error.to_string(), "`t` has 7 tokens, but 8 are needed for windows of 4");
    }

    #[test]
    fn a_token_that_the_model_lacks_is_named() {
        let windows = Windows::cut("t", &[1, 2, 9, 3], 2, None).unwrap();
        assert!(windows.check(10).is_ok());
        assert_eq!(windows.check(9).unwrap_err().to_string(), "token 9 is not in the model's vocabulary of 9");
    }
}
