//! What is trained on: texts and pairs, and batches of them in an order that a seed decides.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::random::{Random, SeedableRng, below};

/// One example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The text.
    pub first: String,
    /// What is like it, if anything is.
    pub second: Option<String>,
    /// How alike people find them.
    pub score: Option<f32>,
}

impl Example {
    /// A text alone.
    pub fn text(text: impl Into<String>) -> Example {
        Example { first: text.into(), second: None, score: None }
    }
}

/// Pairs that belong together, from JSON lines with `anchor` (or `query`) and `positive`.
///
/// # Errors
/// [`Error::File`] with the line.
pub fn pairs(path: &Path) -> Result<Vec<Example>> {
    let wrong = |why: String| Error::File { file: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|source| wrong(format!("cannot be read: {source}")))?;
    let one = |(n, line): (usize, &str)| -> Result<Example> {
        let json: Value = serde_json::from_str(line).unwrap_or_default();
        let get = |keys: &[&str]| keys.iter().find_map(|key| json.get(key)?.as_str().map(str::to_owned));
        match (get(&["anchor", "query"]), get(&["positive"])) {
            (Some(first), Some(second)) => Ok(Example { first, second: Some(second), score: None }),
            _ => Err(wrong(format!("has no `anchor` and `positive` in line {}", n + 1))),
        }
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(one).collect()
}

/// Pairs with scores, of whatever kind they were read.
pub fn scored(pairs: impl IntoIterator<Item = (String, String, f32)>) -> Vec<Example> {
    let one = |(first, second, score)| Example { first, second: Some(second), score: Some(score) };
    pairs.into_iter().map(one).collect()
}

/// Batches of examples: all of them in a new order each time through.
#[derive(Debug)]
pub(super) struct Batches {
    order: Vec<usize>,
    at: usize,
    random: Random,
}

impl Batches {
    pub fn new(count: usize, seed: u64) -> Batches {
        Batches { order: (0..count).collect(), at: count, random: Random::seed_from_u64(seed) }
    }

    /// The numbers of the next examples, fewer than asked for only if there are fewer in all.
    pub fn next(&mut self, size: usize) -> Vec<usize> {
        let size = size.min(self.order.len());
        if self.at + size > self.order.len() {
            for n in (1..self.order.len()).rev() {
                let other = below(&mut self.random, n + 1);
                self.order.swap(n, other);
            }
            self.at = 0;
        }
        self.at += size;
        self.order[self.at - size..self.at].to_vec()
    }
}

/// A text with some of its tokens said twice, up to a share of them: another text of the same meaning. What stands at both ends
/// stays as it is.
///
/// # Source
/// Wu et al. 2022 (ESimCSE), arXiv:2109.04380, section 3.1.
pub(super) fn repeated(ids: &[u32], share: f64, most: usize, random: &mut Random) -> Vec<u32> {
    if ids.len() < 4 {
        return ids.to_vec();
    }
    let inner = ids.len() - 2;
    let highest = ((share * inner as f64) as usize).max(1);
    let count = below(random, highest + 1).min(most.saturating_sub(ids.len()));
    let mut twice = vec![false; ids.len()];
    for _ in 0..count {
        twice[1 + below(random, inner)] = true;
    }
    ids.iter().zip(twice).flat_map(|(&id, twice)| std::iter::repeat_n(id, 1 + usize::from(twice))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_comes_once_before_any_comes_again() {
        let mut batches = Batches::new(10, 1);
        let mut seen: Vec<usize> = [batches.next(5), batches.next(5)].concat();
        assert_ne!(seen, (0..10).collect::<Vec<_>>());
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert_eq!(Batches::new(3, 1).next(8).len(), 3);
        assert_eq!(Batches::new(10, 7).next(4), Batches::new(10, 7).next(4));
    }

    #[test]
    fn repetition_adds_tokens_and_keeps_their_order() {
        let mut random = Random::seed_from_u64(3);
        let ids = [1, 10, 11, 12, 13, 14, 15, 2];
        let mut longer = 0;
        for _ in 0..50 {
            let more = repeated(&ids, 0.32, 64, &mut random);
            let mut once = more.clone();
            once.dedup();
            assert_eq!(once, ids);
            assert_eq!((more[0], *more.last().unwrap()), (1, 2));
            longer += usize::from(more.len() > ids.len());
        }
        assert!((20..50).contains(&longer));
        assert_eq!(repeated(&ids, 0.32, 8, &mut random), ids, "no room");
        assert_eq!(repeated(&[1, 5, 2], 0.32, 64, &mut random), [1, 5, 2]);
    }

    #[test]
    fn pairs_are_read_and_what_is_none_is_told_by_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "{\"anchor\": \"a\", \"positive\": \"b\"}\n\n{\"query\": \"c\", \"positive\": \"d\"}\n",
        )
        .unwrap();
        let read = pairs(file.path()).unwrap();
        assert_eq!(read[1], Example { first: "c".into(), second: Some("d".into()), score: None });
        std::fs::write(file.path(), "{\"anchor\": \"a\"}\n").unwrap();
        assert!(pairs(file.path()).unwrap_err().to_string().ends_with("in line 1"));
    }
}
