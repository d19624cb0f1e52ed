//! Which facts were lost and gained between two models.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Fact, FactScore, Knowledge, knowledge};
use crate::report::{self, Tally};
use crate::stats::{Bootstrap, Interval, mcnemar};

/// Where bands of confidence end: probabilities of the answer before.
pub const BANDS: [f64; 3] = [0.1, 0.5, 0.9];

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
    /// Counts, altogether, by relation and by the probability before ([`BANDS`]); facts lost, those of highest probability
    /// before first; facts gained, those of highest probability after first; McNemar's test.
    pub facts: report::Facts,
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
    let (known_before, known_after) = (knowledge(facts, before)?, knowledge(facts, after)?);
    let (mut all, mut relations) = (tally("all"), BTreeMap::<&str, Tally>::new());
    let mut bands: Vec<Tally> = (0..=BANDS.len()).map(|n| tally(&band(n))).collect();
    let (mut lost, mut gained) = (Vec::new(), Vec::new());
    for ((fact, before), after) in facts.iter().zip(before).zip(after) {
        let at = BANDS.partition_point(|&end| end <= before.probability());
        let relation = relations.entry(&fact.relation).or_insert_with(|| tally(&fact.relation));
        for tally in [&mut all, &mut bands[at], relation] {
            tally.asked += 1;
            tally.known += u64::from(before.is_known());
            tally.lost += u64::from(before.is_known() && !after.is_known());
            tally.gained += u64::from(!before.is_known() && after.is_known());
        }
        match (before.is_known(), after.is_known()) {
            (true, false) => lost.push(change(fact, before, after)),
            (false, true) => gained.push(change(fact, before, after)),
            _ => {}
        }
    }
    let surest_first = |list: &mut Vec<report::Fact>, of: fn(&report::Fact) -> Option<f64>| {
        list.sort_by(|a, b| of(b).unwrap_or(0.0).total_cmp(&of(a).unwrap_or(0.0)));
    };
    surest_first(&mut lost, |fact| fact.probability_before);
    surest_first(&mut gained, |fact| fact.probability_after);
    let interval = |f: fn(&FactScore) -> f64| {
        let values = |scores: &[FactScore]| scores.iter().map(f).collect::<Vec<_>>();
        intervals.difference(&values(before), &values(after))
    };
    Some(FactChanges {
        before: known_before,
        after: known_after,
        accuracy_change: interval(|score| f64::from(u8::from(score.is_known()))),
        log_prob_change: interval(|score| score.log_prob),
        facts: report::Facts {
            p: Some(mcnemar(all.lost, all.gained).p),
            all,
            relations: relations.into_values().collect(),
            bands,
            lost,
            gained,
        },
    })
}

fn tally(name: &str) -> Tally {
    Tally { name: name.to_owned(), ..Tally::default() }
}

/// The name of a band of confidence.
fn band(n: usize) -> String {
    match (n.checked_sub(1).map(|n| BANDS[n]), BANDS.get(n)) {
        (None, Some(end)) => format!("below {end}"),
        (Some(start), Some(end)) => format!("{start} to {end}"),
        (Some(start), None) => format!("{start} and more"),
        (None, None) => "any".to_owned(),
    }
}

fn change(fact: &Fact, before: &FactScore, after: &FactScore) -> report::Fact {
    report::Fact {
        prompt: fact.prompt.clone(),
        answer: fact.answer.clone(),
        relation: fact.relation.clone(),
        rank_before: Some(before.rank as u64),
        rank_after: Some(after.rank as u64),
        probability_before: Some(before.probability()),
        probability_after: Some(after.probability()),
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
        let prompts = |list: &[report::Fact]| list.iter().map(|fact| fact.prompt.clone()).collect::<Vec<_>>();
        let lists = (prompts(&found.facts.lost), prompts(&found.facts.gained));
        assert_eq!(lists, (vec!["c".into(), "b".into()], vec!["d".into()]));
        assert_eq!([found.facts.lost[0].rank_before, found.facts.lost[0].rank_after], [Some(1), Some(5)]);
        let all = &found.facts.all;
        assert_eq!((all.lost, all.gained, found.facts.p), (2, 1, Some(1.0)));
        let counts = |t: &Tally| [t.asked, t.known, t.lost, t.gained];
        assert_eq!((found.facts.relations[1].name.as_str(), counts(&found.facts.relations[1])), ("y", [3, 1, 1, 1]));
        let bands: Vec<[u64; 4]> = found.facts.bands.iter().map(counts).collect();
        assert_eq!(bands, [[1, 0, 0, 1], [2, 1, 1, 0], [1, 1, 1, 0], [1, 1, 0, 0]]);
        assert_eq!(found.facts.bands[1].name, "0.1 to 0.5");
        assert!((found.accuracy_change.unwrap().value + 0.2).abs() < 1e-12);
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!((&json["facts"]["all"]["lost"], &json["facts"]["lost"][0]["answer"]), (&2.into(), &"yes".into()));
    }

    #[test]
    fn the_same_model_loses_nothing() {
        let (facts, scores) = ([fact("a", "x"), fact("b", "x")], [score(1, 0.9), score(7, 0.01)]);
        let found = changes(&facts, &scores, &scores, &Bootstrap::default()).unwrap();
        assert!(found.facts.lost.is_empty() && found.facts.gained.is_empty());
        let change = found.log_prob_change.unwrap();
        assert_eq!((change.value, change.low, change.high), (0.0, 0.0, 0.0));
    }
}
