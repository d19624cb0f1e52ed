//! Semantic similarity: whether the cosines of embeddings order pairs of sentences as people do.

use std::path::Path;

use crate::data;
use crate::error::{Error, Result};
use crate::stats::spearman;

/// Two sentences, and how similar people find them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// From 0 to 5.
    pub gold: f64,
    /// The first sentence.
    pub first: String,
    /// The second.
    pub second: String,
}

/// Reads a file of the STS benchmark: genre, file, year, id, score and two sentences, separated by tabs, without
/// quoting; further columns are left alone.
///
/// # Errors
/// [`Error::File`], [`Error::Utf8`], [`Error::Items`].
pub fn read(path: &Path) -> Result<Vec<Pair>> {
    parse(&data::text(path)?, path)
}

fn parse(text: &str, path: &Path) -> Result<Vec<Pair>> {
    let pair = |(n, line): (usize, &str)| {
        let bad = |why: &str| Error::Items { path: path.to_owned(), line: Some(n + 1), why: why.to_owned() };
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, _, _, _, gold, first, second, ..] = fields[..] else {
            return Err(bad("has fewer than seven fields"));
        };
        let gold = gold.trim().parse().map_err(|_| bad("has a score that is no number"))?;
        Ok(Pair { gold, first: first.trim().to_owned(), second: second.trim().to_owned() })
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(pair).collect()
}

/// Spearman's correlation of the cosines of embeddings with what people say: the usual score. `None` if either is
/// constant.
///
/// # Shapes
/// `first` and `second` are `[pairs, width]`.
///
/// # Panics
/// If there are not as many rows as pairs.
pub fn score(first: &[f32], second: &[f32], width: usize, gold: &[f64]) -> Option<f64> {
    assert!(first.len() == gold.len() * width && second.len() == first.len(), "one row for each sentence");
    let cosines: Vec<f64> = first.chunks(width).zip(second.chunks(width)).map(|(a, b)| cosine(a, b)).collect();
    spearman(&cosines, gold)
}

/// The cosine of the angle between two vectors; zero if either is.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { (dot(a, b) / norms).clamp(-1.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_benchmark_is_read() {
        let text = "news\tMSRpar\t2012\t1\t4.500\tA \"b\" c.\tD e.\tsource\n\nnews\tx\t2012\t2\t0\tF\tG\n";
        let pairs = parse(text, Path::new("s.csv")).unwrap();
        assert_eq!(pairs[0], Pair { gold: 4.5, first: "A \"b\" c.".into(), second: "D e.".into() });
        assert_eq!(pairs.len(), 2);
        let error = parse("a\tb\n", Path::new("s.csv")).unwrap_err();
        assert_eq!(error.to_string(), "`s.csv`, line 1, has fewer than seven fields");
    }

    #[test]
    fn cosines_in_the_order_of_people_score_one() {
        let first = [1.0, 0.0, 2.0, 0.0, 3.0, 0.0];
        let second = [0.0, 1.0, 1.0, 1.0, 5.0, 0.0]; // cosines 0, 0.7, 1
        assert_eq!(score(&first, &second, 2, &[0.0, 3.0, 5.0]), Some(1.0));
        assert_eq!(score(&first, &second, 2, &[5.0, 3.0, 0.0]), Some(-1.0));
        assert_eq!(score(&first, &second, 2, &[1.0, 1.0, 1.0]), None);
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
    }
}
