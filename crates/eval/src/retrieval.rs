//! Retrieval: whether what was found is what is relevant. Files are in the layout of BEIR.
//!
//! ```
//! use std::collections::HashMap;
//! use brevity_eval::retrieval::ndcg;
//!
//! let relevant = HashMap::from([("d1".to_owned(), 1)]);
//! assert_eq!(ndcg(&["d1", "d2"], &relevant, 10), Some(1.0));
//! assert!((ndcg(&["d2", "d1"], &relevant, 10).unwrap() - 1.0 / 3f64.log2()).abs() < 1e-12);
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data;
use crate::error::{Error, Result};
use crate::read;

/// A document of a corpus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Passage {
    /// Its name in judgements.
    #[serde(rename = "_id")]
    pub id: String,
    /// Its title; may be empty.
    #[serde(default)]
    pub title: String,
    /// What it says.
    pub text: String,
}

impl Passage {
    /// What is embedded: title and text with a blank between, as BEIR does.
    pub fn whole(&self) -> String {
        format!("{} {}", self.title, self.text).trim().to_owned()
    }
}

/// A question to a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Query {
    /// Its name in judgements.
    #[serde(rename = "_id")]
    pub id: String,
    /// What it asks.
    pub text: String,
}

/// For each query, how relevant documents are to it; those that are not named are not.
pub type Judgements = BTreeMap<String, HashMap<String, u32>>;

/// Reads `corpus.jsonl`.
///
/// # Errors
/// [`Error::File`], [`Error::Utf8`], [`Error::Items`].
pub fn read_corpus(path: &Path) -> Result<Vec<Passage>> {
    read::json_lines(&data::text(path)?, path)
}

/// Reads `queries.jsonl`.
///
/// # Errors
/// As [`read_corpus`].
pub fn read_queries(path: &Path) -> Result<Vec<Query>> {
    read::json_lines(&data::text(path)?, path)
}

/// Reads `qrels/test.tsv`: query, document and relevance separated by tabs, below a line of titles.
///
/// # Errors
/// As [`read_corpus`].
pub fn read_judgements(path: &Path) -> Result<Judgements> {
    parse_judgements(&data::text(path)?, path)
}

fn parse_judgements(text: &str, path: &Path) -> Result<Judgements> {
    let mut judgements = Judgements::new();
    for (n, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |why: &str| Error::Items { path: path.to_owned(), line: Some(n + 1), why: why.to_owned() };
        let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
        let [query, document, relevance] = fields[..] else { return Err(bad("does not have three fields")) };
        let relevance: i64 = relevance.parse().map_err(|_| bad("has a relevance that is no whole number"))?;
        // Negative judgements are as good as none.
        let relevance = relevance.clamp(0, i64::from(u32::MAX)) as u32;
        judgements.entry(query.to_owned()).or_default().insert(document.to_owned(), relevance);
    }
    Ok(judgements)
}

/// Normalised discounted cumulative gain of the first `k`: `Σ rel_i / log2(i + 1)`, of what is possible.
///
/// `None` if nothing is relevant.
///
/// # Source
/// Järvelin and Kekäläinen 2002, with the gain as trec_eval and BEIR take it: the relevance itself.
pub fn ndcg(ranked: &[&str], relevant: &HashMap<String, u32>, k: usize) -> Option<f64> {
    let gain = |relevances: &mut dyn Iterator<Item = u32>| -> f64 {
        relevances.take(k).enumerate().map(|(i, relevance)| f64::from(relevance) / (i as f64 + 2.0).log2()).sum()
    };
    let mut best: Vec<u32> = relevant.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let possible = gain(&mut best.into_iter());
    let found = gain(&mut ranked.iter().map(|&id| relevant.get(id).copied().unwrap_or(0)));
    (possible > 0.0).then(|| found / possible)
}

/// One over the rank of the first relevant document among the first `k`; zero if there is none. `None` if nothing is
/// relevant.
pub fn reciprocal_rank(ranked: &[&str], relevant: &HashMap<String, u32>, k: usize) -> Option<f64> {
    relevant.values().any(|&relevance| relevance > 0).then(|| {
        let rank = ranked.iter().take(k).position(|&id| relevant.get(id).is_some_and(|&relevance| relevance > 0));
        rank.map_or(0.0, |rank| 1.0 / (rank + 1) as f64)
    })
}

/// The share of the relevant documents that is among the first `k`. `None` if nothing is relevant.
pub fn recall(ranked: &[&str], relevant: &HashMap<String, u32>, k: usize) -> Option<f64> {
    let all = relevant.values().filter(|&&relevance| relevance > 0).count();
    let found = ranked.iter().take(k).filter(|&&id| relevant.get(id).is_some_and(|&relevance| relevance > 0)).count();
    (all > 0).then(|| found as f64 / all as f64)
}

/// A score of one query: of ranked documents, those that are relevant, and `k`.
type OfQuery = fn(&[&str], &HashMap<String, u32>, usize) -> Option<f64>;

/// How good a retrieval is, over the queries that have relevant documents. Values of each query are in the order of their names, to
/// compare models query by query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// How many documents of each query count for [`ndcg`] and [`reciprocal_rank`].
    pub k: usize,
    /// How many count for [`recall`].
    pub depth: usize,
    /// [`ndcg`] of each query.
    pub ndcg: Vec<f64>,
    /// [`reciprocal_rank`] of each query.
    pub mrr: Vec<f64>,
    /// [`recall`] of each query.
    pub recall: Vec<f64>,
}

/// Scores ranked documents of queries, the first `k` of each, and for recall the first `depth`. Queries without relevant documents do not
/// count, as in BEIR; judged queries that were not asked count as nothing found. `None` if no query counts.
pub fn score(ranked: &HashMap<&str, Vec<&str>>, judgements: &Judgements, k: usize, depth: usize) -> Option<Retrieval> {
    let each = |f: OfQuery, k: usize| -> Vec<f64> {
        let one = |(query, relevant): (&String, &HashMap<String, u32>)| {
            f(ranked.get(query.as_str()).map_or(&[][..], Vec::as_slice), relevant, k)
        };
        judgements.iter().filter_map(one).collect()
    };
    let found = Retrieval { k, depth, ndcg: each(ndcg, k), mrr: each(reciprocal_rank, k), recall: each(recall, depth) };
    (!found.ndcg.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relevant(pairs: &[(&str, u32)]) -> HashMap<String, u32> {
        pairs.iter().map(|&(id, relevance)| (id.to_owned(), relevance)).collect()
    }

    #[test]
    fn ndcg_is_that_of_the_worked_example() {
        // The example of the Wikipedia article "Discounted cumulative gain": relevances 3, 2, 3, 0, 1, 2 are found, and
        // 3 and 2 are not. Their gain is 6.861, that of the best order is 8.740.
        let judged = relevant(&[("a", 3), ("b", 2), ("c", 3), ("e", 1), ("f", 2), ("g", 3), ("h", 2)]);
        let found = ndcg(&["a", "b", "c", "d", "e", "f"], &judged, 6).unwrap();
        assert!((found - 6.861 / 8.740).abs() < 1e-4, "{found}");
        assert_eq!(ndcg(&["a"], &relevant(&[("a", 0)]), 10), None);
    }

    #[test]
    fn rank_and_recall_are_known_by_hand() {
        let judged = relevant(&[("a", 1), ("b", 1), ("c", 0)]);
        let ranked = ["x", "c", "b", "a"];
        assert_eq!(reciprocal_rank(&ranked, &judged, 10), Some(1.0 / 3.0));
        assert_eq!(reciprocal_rank(&ranked, &judged, 2), Some(0.0));
        assert_eq!((recall(&ranked, &judged, 3), recall(&ranked, &judged, 4)), (Some(0.5), Some(1.0)));
        assert_eq!((recall(&ranked, &relevant(&[]), 3), reciprocal_rank(&ranked, &relevant(&[]), 3)), (None, None));
    }

    #[test]
    fn judgements_and_scores_go_by_query() {
        let text = "query-id\tcorpus-id\tscore\nq1\ta\t1\nq1\tb\t1\nq2\tc\t1\nq3\td\t0\n";
        let judgements = parse_judgements(text, Path::new("test.tsv")).unwrap();
        assert_eq!(judgements["q1"].len(), 2);
        // The first is perfect, the second was not asked, the third has nothing to find.
        let ranked = HashMap::from([("q1", vec!["a", "b"]), ("q3", vec!["d"])]);
        let found = score(&ranked, &judgements, 10, 100).unwrap();
        let half = vec![1.0, 0.0];
        assert_eq!((found.ndcg, found.mrr, found.recall), (half.clone(), half.clone(), half));
        assert!(score(&ranked, &Judgements::new(), 10, 100).is_none());
        let error = parse_judgements("h\nq1\ta\tx\n", Path::new("t.tsv")).unwrap_err();
        assert_eq!(error.to_string(), "`t.tsv`, line 2, has a relevance that is no whole number");
    }
}
