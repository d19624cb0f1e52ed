//! ROUGE: how many words, pairs of words, or words in order a summary shares with a reference.

use std::collections::HashMap;

use unicode_normalization::UnicodeNormalization;

use crate::answer::words;

/// Shares of what two texts have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rouge {
    /// Of the candidate.
    pub precision: f64,
    /// Of the reference.
    pub recall: f64,
    /// Their harmonic mean.
    pub f: f64,
}

impl Rouge {
    fn new(same: usize, candidate: usize, reference: usize) -> Self {
        if same == 0 {
            return Rouge::default();
        }
        let (precision, recall) = (same as f64 / candidate as f64, same as f64 / reference as f64);
        Rouge { precision, recall, f: 2.0 * precision * recall / (precision + recall) }
    }
}

/// ROUGE-N: runs of `n` words that both have, each as often as both have it. Zero if either has none.
///
/// Words are runs of letters and digits in lower case, without stemming; each Chinese or Japanese character is a word.
/// For ASCII text that is what the `rouge_score` package does by default.
///
/// # Source
/// Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 2.
pub fn rouge_n(candidate: &str, reference: &str, n: usize) -> Rouge {
    let (candidate, reference) = (plain(candidate), plain(reference));
    let (candidate, reference) = (words(&candidate), words(&reference));
    let mut counts: HashMap<&[&str], usize> = HashMap::new();
    reference.windows(n).for_each(|run| *counts.entry(run).or_default() += 1);
    let mut same = 0;
    for run in candidate.windows(n) {
        if let Some(count) = counts.get_mut(run).filter(|count| **count > 0) {
            *count -= 1;
            same += 1;
        }
    }
    let runs = |words: &[&str]| (words.len() + 1).saturating_sub(n);
    Rouge::new(same, runs(&candidate), runs(&reference))
}

/// ROUGE-L: the longest sequence of words that both have in order, over the whole texts. Words as in [`rouge_n`].
///
/// # Cost
/// The product of the numbers of words.
///
/// # Source
/// Lin 2004, section 3.1.
pub fn rouge_l(candidate: &str, reference: &str) -> Rouge {
    let (candidate, reference) = (plain(candidate), plain(reference));
    let (candidate, reference) = (words(&candidate), words(&reference));
    let mut above = vec![0; reference.len() + 1]; // longest with the candidate's words so far, by words of the reference
    for word in &candidate {
        let mut row = vec![0; reference.len() + 1];
        for (n, other) in reference.iter().enumerate() {
            row[n + 1] = if word == other { above[n] + 1 } else { row[n].max(above[n + 1]) };
        }
        above = row;
    }
    Rouge::new(above[reference.len()], candidate.len(), reference.len())
}

/// Lower case, with blanks for all that is no letter, digit or mark on one.
fn plain(text: &str) -> String {
    let blank = |c: char| if c.is_alphanumeric() { c } else { ' ' };
    text.to_lowercase().nfkc().map(blank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: Rouge, precision: f64, recall: f64) {
        let f = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        for (got, wanted) in [(got.precision, precision), (got.recall, recall), (got.f, f)] {
            assert!((got - wanted).abs() < 1e-12, "{got} {wanted}");
        }
    }

    #[test]
    fn a_case_known_by_hand() {
        // Shared: the, cat, the, mat. Pairs shared: "the cat", "the mat". In order: the cat the mat.
        let (candidate, reference) = ("The cat sat on the mat.", "the cat is under the mat today");
        close(rouge_n(candidate, reference, 1), 4.0 / 6.0, 4.0 / 7.0);
        close(rouge_n(candidate, reference, 2), 2.0 / 5.0, 2.0 / 6.0);
        close(rouge_l(candidate, reference), 4.0 / 6.0, 4.0 / 7.0);
        // In another order, words are shared and sequences are not.
        close(rouge_n("b a", "a b", 1), 1.0, 1.0);
        close(rouge_l("b a", "a b"), 0.5, 0.5);
    }

    #[test]
    fn a_repeated_word_counts_as_often_as_the_reference_has_it() {
        close(rouge_n("the the the the", "the cat", 1), 0.25, 0.5);
    }

    #[test]
    fn empty_texts_share_nothing() {
        for (candidate, reference) in [("", "a b"), ("a b", ""), ("", ""), ("...", "a"), ("one", "one")] {
            let two = rouge_n(candidate, reference, 2);
            assert_eq!((two.precision, two.recall, two.f), (0.0, 0.0, 0.0));
        }
        assert_eq!(rouge_l("", ""), Rouge::default());
    }

    #[test]
    fn letters_of_all_scripts_count() {
        close(rouge_n("Caf\u{e9}!", "cafe\u{301}", 1), 1.0, 1.0);
        close(rouge_l("東京は大きい", "東京は小さい"), 4.0 / 6.0, 4.0 / 6.0);
    }
}
