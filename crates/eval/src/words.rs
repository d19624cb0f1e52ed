//! How texts become tokens for questions, by the rules of lm-evaluation-harness.

use tokenizers::Tokenizer;

use crate::ask::Pair;
use crate::error::{Error, Result};
use crate::text::first_token;

/// A tokenizer, and what a model says of its tokens.
#[derive(Clone, Debug)]
pub struct Words<'a> {
    tokenizer: &'a Tokenizer,
    /// The token that the tokenizer puts in front of every text, if it does.
    begin: Option<u32>,
    /// What stands in front of a continuation that has no context.
    prefix: Option<u32>,
    /// Tokens that end a text.
    end: Vec<u32>,
    /// The longest input of the model.
    context: Option<usize>,
}

/// A pair as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Split {
    /// Context, then continuation.
    pub ids: Vec<u32>,
    /// Where the continuation begins.
    pub from: usize,
    /// Whether the context was cut at the left to fit into the model's context.
    pub cut: bool,
}

impl<'a> Words<'a> {
    /// `end` are the tokens that end a text; `context` is the longest input that the model was made for. Whether a token is
    /// put in front of every text, the tokenizer says; where there is none, `bos` stands in front of continuations without a
    /// context, or else the first of `end`.
    pub fn new(tokenizer: &'a Tokenizer, bos: Option<u32>, end: &[u32], context: Option<usize>) -> Self {
        let begin = first_token(tokenizer);
        let prefix = begin.or(bos).or(end.first().copied());
        Words { tokenizer, begin, prefix, end: end.to_vec(), context }
    }

    /// The token that stands in front of what has nothing in front.
    pub fn prefix(&self) -> Option<u32> {
        self.prefix
    }

    /// Tokens that end a text.
    pub(crate) fn end(&self) -> &[u32] {
        &self.end
    }

    /// How many tokens a prompt has, with what the tokenizer puts in front.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.prompt(text)?.len())
    }

    /// The tokens of a text as it is.
    pub(crate) fn plain(&self, text: &str) -> Result<Vec<u32>> {
        let fail = |e: tokenizers::Error| Error::Tokenize { text: excerpt(text), why: e.to_string() };
        Ok(self.tokenizer.encode_fast(text, false).map_err(fail)?.get_ids().to_vec())
    }

    /// The tokens of a text that begins an input.
    pub(crate) fn prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.plain(text)?;
        if let Some(begin) = self.begin.filter(|begin| ids.first() != Some(begin)) {
            ids.insert(0, begin);
        }
        Ok(ids)
    }

    /// The tokens of a prompt to be continued by at most so many. If both do not fit into the context, the prompt keeps half of
    /// it at least and is cut at the left, and the answer may have as many tokens as are left.
    ///
    /// # Errors
    /// [`Error::Tokenize`]; [`Error::Prompt`] if there are no tokens at all.
    pub(crate) fn to_continue(&self, text: &str, most: impl Fn(usize) -> usize) -> Result<(Vec<u32>, usize, bool)> {
        let mut ids = self.prompt(text)?;
        if ids.is_empty() {
            ids.push(self.prefix.ok_or(Error::Prompt)?);
        }
        let most = most(ids.len());
        let room = self.context.map_or(usize::MAX, |context| context.saturating_sub(most).max(context.div_ceil(2)));
        let cut = ids.len() > room;
        if cut {
            ids.drain(..ids.len() - room);
        }
        let most = self.context.map_or(most, |context| most.min(context - ids.len().min(context)));
        Ok((ids, most, cut))
    }

    /// A pair: blanks at the end of the context go over to the continuation, both are tokenized together, and split where the
    /// context alone would end. A continuation has at least one token, if need be one that reaches across the border.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Prompt`], [`Error::Continuation`] if the continuation alone does not fit into the
    /// model's context.
    pub(crate) fn split(&self, pair: &Pair, context: Option<&[u32]>) -> Result<Split> {
        let (ids, from) = if pair.context.is_empty() {
            let mut ids = self.plain(&pair.continuation)?;
            let prefix = self.prefix.ok_or(Error::Prompt)?;
            if ids.first() != Some(&prefix) {
                ids.insert(0, prefix);
            }
            (ids, 1)
        } else {
            let whole = self.prompt(&[&pair.context[..], &pair.continuation].concat())?;
            let from = match context {
                Some(context) => context.len(),
                None => self.prompt(pair.context.trim_end())?.len(),
            };
            // A context that is all blanks has no tokens of its own.
            (whole, from.max(1))
        };
        let (mut ids, mut from) = (ids, from);
        if from >= ids.len() {
            // The last token reaches across the border: it counts as the continuation.
            if ids.len() == 1 {
                ids.insert(0, self.prefix.ok_or(Error::Prompt)?);
            }
            from = ids.len().saturating_sub(1).max(1);
        }
        // The last token is no input.
        let most = self.context.map_or(usize::MAX, |context| context + 1);
        let cut = ids.len() > most;
        if cut {
            let tokens = ids.len() - from;
            let over = ids.len() - most;
            if over >= from {
                return Err(Error::Continuation { tokens, context: most - 1, text: excerpt(&pair.continuation) });
            }
            ids.drain(..over);
            from -= over;
        }
        Ok(Split { ids, from, cut })
    }

    /// What tokens say.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, true).map_err(|e| Error::Decode { why: e.to_string() })
    }
}

/// The beginning of a text, for errors.
fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Words of letters, one token a letter, but "ab" is one token; `<s>` is 3.
    pub(crate) fn tokenizer(adds: bool) -> Tokenizer {
        let letters = ["<s>".to_owned()].into_iter().chain(" abxy12345678".chars().map(String::from));
        let vocabulary: serde_json::Map<_, _> =
            letters.chain(["ab".to_owned()]).zip(3..).map(|(letter, id)| (letter, id.into())).collect();
        let single = if adds {
            serde_json::json!([{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}])
        } else {
            serde_json::json!([{"Sequence": {"id": "A", "type_id": 0}}])
        };
        let json = serde_json::json!({
            "version": "1.0",
            "added_tokens": [{"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": [],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]]},
        });
        json.to_string().parse().unwrap()
    }

    fn pair(context: &str, continuation: &str) -> Pair {
        Pair { context: context.into(), continuation: continuation.into() }
    }

    #[test]
    fn blanks_at_the_end_of_a_context_go_over_to_the_continuation() {
        let tokenizer = tokenizer(false);
        let words = Words::new(&tokenizer, None, &[5], None);
        let plain = words.split(&pair("x", " y"), None).unwrap();
        assert_eq!((plain.ids.len(), plain.from), (3, 1));
        assert_eq!(words.split(&pair("x ", "y"), None).unwrap(), plain);
    }

    #[test]
    fn a_token_across_the_border_counts_as_the_continuation() {
        // "a" + "b" is one token, as many as the context has alone.
        let tokenizer = tokenizer(false);
        let words = Words::new(&tokenizer, None, &[5], None);
        let split = words.split(&pair("a", "b"), None).unwrap();
        assert_eq!((split.ids.len(), split.ids[0], split.from), (2, 5, 1));
        let split = words.split(&pair("xa", "b"), None).unwrap();
        assert_eq!((split.ids.len(), split.from), (2, 1));
    }

    #[test]
    fn a_tokenizer_that_adds_a_beginning_adds_it_once() {
        let tokenizer = tokenizer(true);
        let words = Words::new(&tokenizer, None, &[], None);
        let split = words.split(&pair("x", "y"), None).unwrap();
        assert_eq!((split.ids[0], split.ids.len(), split.from), (3, 3, 2));
        assert_eq!(words.prompt("<s>x").unwrap().len(), 2);
        assert_eq!(words.count("x").unwrap(), 2);
    }

    #[test]
    fn without_a_context_the_prefix_stands_in_front() {
        let tokenizer = tokenizer(false);
        let words = |bos, end: &[u32]| Words::new(&tokenizer, bos, end, None);
        let split = words(Some(9), &[5]).split(&pair("", "xy"), None).unwrap();
        assert_eq!((split.ids[0], split.from, split.ids.len()), (9, 1, 3));
        assert_eq!(words(None, &[5]).split(&pair("", "xy"), None).unwrap().ids[0], 5);
        assert!(matches!(words(None, &[]).split(&pair("", "xy"), None), Err(Error::Prompt)));
    }

    #[test]
    fn what_does_not_fit_the_context_is_cut_at_the_left() {
        let tokenizer = tokenizer(false);
        let words = Words::new(&tokenizer, None, &[5], Some(4));
        let split = words.split(&pair("123456", "78"), None).unwrap();
        assert_eq!((split.ids.len(), split.from, split.cut), (5, 3, true));
        let error = words.split(&pair("1", "2345678"), None).unwrap_err();
        assert_eq!(error.to_string(), "the continuation `2345678` has 7 tokens, the model reads 4");
        let (ids, most, cut) = words.to_continue("123456", |_| 1).unwrap();
        assert_eq!((ids.len(), most, cut), (3, 1, true));
        let (ids, most, cut) = words.to_continue("123456", |_| 1000).unwrap();
        assert_eq!((ids.len(), most, cut), (2, 2, true), "half is left for the prompt");
        let (ids, most, cut) = words.to_continue("12", |prompt| 2 * prompt).unwrap();
        assert_eq!((ids.len(), most, cut), (2, 2, false));
    }
}
