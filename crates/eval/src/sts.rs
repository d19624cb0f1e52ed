//! Semantic similarity: whether the cosines of embeddings order pairs of sentences as people do.

use std::path::Path;

use crate::data;
use crate::error::{Error, Result};
use crate::stats::{ranks, spearman};

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

/// The same pair by pair: values whose mean is the correlation, and whose spread is that of its error. To compare models on the
/// same pairs, compare these.
///
/// # Shapes
/// As [`score`].
///
/// # Panics
/// As [`score`].
///
/// # Source
/// The influence of a pair on Pearson's correlation of standardised ranks, `x y - r (x² + y²) / 2` (Devlin, Gnanadesikan and
/// Kettenring 1975, Biometrika 62), moved to the mean `r`.
pub fn each(first: &[f32], second: &[f32], width: usize, gold: &[f64]) -> Option<Vec<f64>> {
    let r = score(first, second, width, gold)?;
    let cosines: Vec<f64> = first.chunks(width).zip(second.chunks(width)).map(|(a, b)| cosine(a, b)).collect();
    let (x, y) = (standardised(&ranks(&cosines)), standardised(&ranks(gold)));
    Some(x.iter().zip(&y).map(|(x, y)| r + x * y - r * (x * x + y * y) / 2.0).collect())
}

/// Values with mean zero and mean square one.
fn standardised(values: &[f64]) -> Vec<f64> {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    values.iter().map(|x| (x - mean) / spread).collect()
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

    #[test]
    fn the_mean_over_pairs_is_the_score() {
        let first: Vec<f32> = (0..40).map(|i| ((i * 7) % 11) as f32 - 4.5).collect();
        let second: Vec<f32> = (0..40).map(|i| ((i * 5) % 13) as f32 - 6.5).collect();
        let gold: Vec<f64> = (0..20).map(|i| f64::from((i * 3) % 7)).collect();
        let each = each(&first, &second, 2, &gold).unwrap();
        let want = score(&first, &second, 2, &gold).unwrap();
        assert!((each.iter().sum::<f64>() / 20.0 - want).abs() < 1e-12);
    }
}
