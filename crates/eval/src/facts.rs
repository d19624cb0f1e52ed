//! Facts: what a model knows by heart, and what it has forgotten.
//!
//! A fact is a prompt and an answer. A model knows it if the first token of the answer is the likeliest behind the
//! prompt. Whoever runs the model gives a [`FactScore`] for each fact; from there on it is counting.

mod changes;
mod recall;

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data;
use crate::error::Result;
use crate::read;
use crate::stats::{Estimate, mean_of};

pub use changes::{BANDS, FactChanges, changes};
pub use recall::recall;

/// Something that a model may know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What stands in front of the answer, without a blank at its end.
    pub prompt: String,
    /// The answer, without a blank in front.
    #[serde(alias = "attribute")]
    pub answer: String,
    /// What kind of fact it is: `capital_of`, `P30`.
    #[serde(alias = "relation_id")]
    pub relation: String,
    /// What it is about, if the file says.
    #[serde(default)]
    pub subject: Option<String>,
    /// Answers to choose from, if the file has them.
    #[serde(default)]
    pub choices: Vec<String>,
}

impl Fact {
    /// What the first token of is weighed: the answer with a blank in front.
    pub fn continuation(&self) -> String {
        format!(" {}", self.answer)
    }

    /// The same fact with an open book: it stands in front of the prompt itself, on a line of its own.
    pub fn opened(&self) -> Fact {
        Fact { prompt: format!("{} {}\n{}", self.prompt, self.answer, self.prompt), ..self.clone() }
    }
}

/// Reads facts from a JSON array (as `known_1000.json`: `prompt`, `attribute`, `relation_id`, `subject`) or from JSON
/// lines (`prompt`, `answer`, `relation`, `choices`). Other fields are left alone.
///
/// # Errors
/// [`Error::Data`](crate::Error::Data) if the file cannot be read, [`Error::Items`](crate::Error::Items).
pub fn read(path: &Path) -> Result<Vec<Fact>> {
    parse(&data::text(path)?, path)
}

/// The same from text at hand; the path only names it.
///
/// # Errors
/// [`Error::Items`](crate::Error::Items).
pub fn parse(text: &str, path: &Path) -> Result<Vec<Fact>> {
    if text.trim_start().starts_with('[') { read::json(text, path) } else { read::json_lines(text, path) }
}

/// How well a model knows a fact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactScore {
    /// How many tokens are at least as likely as the first of the answer, itself included: 1 if it is known.
    pub rank: usize,
    /// The log-probability of the first token of the answer, in nats.
    pub log_prob: f64,
}

impl FactScore {
    /// Whether the answer is the likeliest.
    pub fn is_known(&self) -> bool {
        self.rank == 1
    }

    /// The probability of the first token of the answer.
    pub fn probability(&self) -> f64 {
        self.log_prob.exp()
    }
}

/// What a model knows of some facts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// How many facts there are.
    pub facts: usize,
    /// The share of which the answer is the likeliest.
    pub accuracy: Estimate,
    /// The mean log-probability of the answers, in nats.
    pub log_prob: Estimate,
    /// The mean of one over the rank.
    pub reciprocal_rank: Estimate,
}

/// What a model knows, altogether and by relation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knowledge {
    /// Of all facts.
    pub all: Known,
    /// Of the facts of each relation.
    pub relations: BTreeMap<String, Known>,
}

/// What a model knows of facts that it was asked. `None` if there are none.
///
/// # Panics
/// If there are not as many scores as facts.
pub fn knowledge(facts: &[Fact], scores: &[FactScore]) -> Option<Knowledge> {
    assert_eq!(facts.len(), scores.len(), "one score for each fact");
    let mut relations: BTreeMap<String, Vec<FactScore>> = BTreeMap::new();
    for (fact, score) in facts.iter().zip(scores) {
        relations.entry(fact.relation.clone()).or_default().push(*score);
    }
    let relations = relations.into_iter().filter_map(|(relation, scores)| Some((relation, known(&scores)?))).collect();
    Some(Knowledge { all: known(scores)?, relations })
}

fn known(scores: &[FactScore]) -> Option<Known> {
    let mean = |f: fn(&FactScore) -> f64| mean_of(&scores.iter().map(f).collect::<Vec<_>>());
    Some(Known {
        facts: scores.len(),
        accuracy: mean(|score| f64::from(u8::from(score.is_known())))?,
        log_prob: mean(|score| score.log_prob)?,
        reciprocal_rank: mean(|score| 1.0 / score.rank as f64)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn fact(prompt: &str, relation: &str) -> Fact {
        let (prompt, answer, relation) = (prompt.to_owned(), "yes".to_owned(), relation.to_owned());
        Fact { prompt, answer, relation, subject: None, choices: Vec::new() }
    }

    pub(crate) fn score(rank: usize, probability: f64) -> FactScore {
        FactScore { rank, log_prob: probability.ln() }
    }

    #[test]
    fn both_layouts_of_facts_are_read() {
        let array = r#" [{"known_id": 0, "subject": "Vinson Massif", "attribute": "Antarctica", "relation_id": "P30",
            "prompt": "Vinson Massif is located in the continent of", "gpt2": true}]"#;
        let facts = parse(array, Path::new("k.json")).unwrap();
        assert_eq!((facts[0].continuation().as_str(), facts[0].relation.as_str()), (" Antarctica", "P30"));
        assert_eq!(facts[0].subject.as_deref(), Some("Vinson Massif"));
        let lines = r#"{"prompt":"the opposite of refuse is","answer":"accept","choices":["buy","accept"],"relation":"opposite"}"#;
        let facts = parse(lines, Path::new("f.jsonl")).unwrap();
        assert_eq!((facts[0].answer.as_str(), facts[0].choices.len()), ("accept", 2));
        let error = parse(r#"{"prompt": "a"}"#, Path::new("f.jsonl")).unwrap_err();
        assert!(error.to_string().contains("line 1, cannot be read: missing field `answer`"), "{error}");
    }

    #[test]
    fn knowledge_is_known_by_hand() {
        let facts = [fact("a", "x"), fact("b", "x"), fact("c", "y"), fact("d", "y")];
        let scores = [score(1, 0.5), score(2, 0.25), score(1, 1.0), score(4, 0.125)];
        let found = knowledge(&facts, &scores).unwrap();
        assert_eq!((found.all.facts, found.all.accuracy.value), (4, 0.5));
        assert_eq!(found.all.reciprocal_rank.value, (1.0 + 0.5 + 1.0 + 0.25) / 4.0);
        assert!((found.all.log_prob.value + 6.0 * 2f64.ln() / 4.0).abs() < 1e-12);
        // Ones and zeros half each: sqrt(0.25 / 3).
        assert!((found.all.accuracy.error.unwrap() - (0.25f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(found.relations["y"].accuracy.value, 0.5);
        assert_eq!(knowledge(&[], &[]), None);
    }
}
