//! Which facts were lost and gained between two models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Fact, FactScore, Knowledge, knowledge};
use crate::stats::{Bootstrap, Interval, McNemar, mcnemar};

/// Where bands of confidence end: probabilities of the answer before.
pub const BANDS: [f64; 3] = [0.1, 0.5, 0.9];

/// A fact that one model knows and the other does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What stands in front of the answer.
    pub prompt: String,
    /// The answer.
    pub answer: String,
    /// What kind of fact it is.
    pub relation: String,
    /// Rank of the answer before and after.
    pub ranks: [usize; 2],
    /// Probability of the answer before and after.
    pub probabilities: [f64; 2],
}

/// How many facts were known before and after, lost and gained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flips {
    /// All facts.
    pub facts: usize,
    /// Known before.
    pub known: usize,
    /// Known before, not after.
    pub lost: usize,
    /// Known after, not before.
    pub gained: usize,
}

/// What became of facts from one model to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactChanges {
    /// What is known before.
    pub before: Knowledge,
    /// What is known after.
    pub after: Knowledge,
    /// The change of the share that is known.
    pub accuracy_change: Option<Interval>,
    /// The change of the mean log-probability of the answers, in nats.
    pub log_prob_change: Option<Interval>,
    /// Whether as many were gained as lost.
    pub test: McNemar,
    /// Facts that were lost, those of highest probability before first.
    pub lost: Vec<Change>,
    /// Facts that were gained, those of highest probability after first.
    pub gained: Vec<Change>,
    /// Counts of each relation.
    pub relations: BTreeMap<String, Flips>,
    /// Counts by the probability before: up to the first of [`BANDS`], between it and the next, and so on.
    pub bands: Vec<Flips>,
}

/// Compares what two models know of the same facts. `None` if there are none.
///
/// # Panics
/// If there are not as many scores as facts.
pub fn changes(
    facts: &[Fact],
    before: &[FactScore],
    after: &[FactScore],
    intervals: &Bootstrap,
) -> Option<FactChanges> {
    let (mut relations, mut bands) = (BTreeMap::<String, Flips>::new(), vec![Flips::default(); BANDS.len() + 1]);
    let (mut lost, mut gained) = (Vec::new(), Vec::new());
    let (known_before, known_after) = (knowledge(facts, before)?, knowledge(facts, after)?);
    for ((fact, before), after) in facts.iter().zip(before).zip(after) {
        let band = BANDS.partition_point(|&end| end <= before.probability());
        for flips in [&mut bands[band], relations.entry(fact.relation.clone()).or_default()] {
            flips.facts += 1;
            flips.known += usize::from(before.is_known());
            flips.lost += usize::from(before.is_known() && !after.is_known());
            flips.gained += usize::from(!before.is_known() && after.is_known());
        }
        match (before.is_known(), after.is_known()) {
            (true, false) => lost.push(change(fact, before, after)),
            (false, true) => gained.push(change(fact, before, after)),
            _ => {}
        }
    }
    lost.sort_by(|a, b| b.probabilities[0].total_cmp(&a.probabilities[0]));
    gained.sort_by(|a, b| b.probabilities[1].total_cmp(&a.probabilities[1]));
    let interval = |f: fn(&FactScore) -> f64| {
        let values = |scores: &[FactScore]| scores.iter().map(f).collect::<Vec<_>>();
        intervals.difference(&values(before), &values(after))
    };
    Some(FactChanges {
        before: known_before,
        after: known_after,
        accuracy_change: interval(|score| f64::from(u8::from(score.is_known()))),
        log_prob_change: interval(|score| score.log_prob),
        test: mcnemar(lost.len() as u64, gained.len() as u64),
        lost,
        gained,
        relations,
        bands,
    })
}

fn change(fact: &Fact, before: &FactScore, after: &FactScore) -> Change {
    Change {
        prompt: fact.prompt.clone(),
        answer: fact.answer.clone(),
        relation: fact.relation.clone(),
        ranks: [before.rank, after.rank],
        probabilities: [before.probability(), after.probability()],
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{fact, score};
    use super::*;

    #[test]
    fn lost_and_gained_facts_are_listed_and_counted() {
        let facts = [fact("a", "x"), fact("b", "x"), fact("c", "y"), fact("d", "y"), fact("e", "y")];
        let before = [score(1, 0.95), score(1, 0.4), score(1, 0.6), score(3, 0.05), score(2, 0.3)];
        let after = [score(1, 0.9), score(2, 0.2), score(5, 0.1), score(1, 0.5), score(2, 0.2)];
        let found = changes(&facts, &before, &after, &Bootstrap::default()).unwrap();
        let prompts = |list: &[Change]| list.iter().map(|change| change.prompt.clone()).collect::<Vec<_>>();
        assert_eq!((prompts(&found.lost), prompts(&found.gained)), (vec!["c".into(), "b".into()], vec!["d".into()]));
        assert_eq!(found.lost[0].ranks, [1, 5]);
        assert_eq!((found.test.lost, found.test.gained, found.test.p), (2, 1, 1.0));
        assert_eq!(found.relations["y"], Flips { facts: 3, known: 1, lost: 1, gained: 1 });
        let bands: Vec<[usize; 4]> = found.bands.iter().map(|b| [b.facts, b.known, b.lost, b.gained]).collect();
        assert_eq!(bands, [[1, 0, 0, 1], [2, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]);
        assert!((found.accuracy_change.unwrap().value + 0.2).abs() < 1e-12);
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!((&json["test"]["lost"], &json["lost"][0]["answer"]), (&2.into(), &"yes".into()));
    }

    #[test]
    fn the_same_model_loses_nothing() {
        let (facts, scores) = ([fact("a", "x"), fact("b", "x")], [score(1, 0.9), score(7, 0.01)]);
        let found = changes(&facts, &scores, &scores, &Bootstrap::default()).unwrap();
        assert!(found.lost.is_empty() && found.gained.is_empty());
        let change = found.log_prob_change.unwrap();
        assert_eq!((change.value, change.low, change.high), (0.0, 0.0, 0.0));
    }
}
