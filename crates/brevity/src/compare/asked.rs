//! What models answered, as a report has it.

use brevity_eval::facts::{self, FactScore};
use brevity_eval::report::{Difference, Kind, Measured, On, Report, Unit};
use brevity_eval::stats::{Bootstrap, Interval};
use brevity_eval::{Quiz, TaskResult, TaskScore};

use super::Found;
use crate::asking::{FactSet, InWords};
use crate::vectors::{Asked, VectorPaper, VectorScore};

/// Puts what models answered into the report.
pub(super) fn tell(found: &mut Found, asked: &InWords) {
    tasks(found, &asked.quizzes);
    vectors(found, asked);
    for (k, set) in asked.facts.iter().enumerate() {
        facts(&mut found.report, set, &found.told.iter().map(|told| &told.facts[k][..]).collect::<Vec<_>>());
    }
}

fn tasks(found: &mut Found, quizzes: &[Quiz]) {
    for (k, quiz) in quizzes.iter().enumerate() {
        let before = &found.told[0].papers[k];
        found.report.reference.scores.extend(measured(&before.result));
        for (n, other) in found.report.others.iter_mut().enumerate() {
            let after = &found.told[n + 1].papers[k];
            other.model.scores.extend(measured(&after.result));
            other.differences.extend(changed(&before.result, &after.result));
            other.flips.extend(quiz.flips(before, after));
        }
        let shots = quiz.items.iter().map(|item| item.shots()).max().unwrap_or(0);
        let examples = if shots > 0 { format!(", {shots} examples in front") } else { String::new() };
        let task = &quiz.task.name;
        found.report.method.push(format!(
            "Task {task}: {} of {} items{examples}.",
            quiz.items.len(),
            before.result.original
        ));
        let cut = found.told.iter().map(|told| told.papers[k].cut).max().unwrap_or(0);
        if cut > 0 {
            found
                .report
                .warnings
                .push(format!("{cut} prompts of {task} were cut at the left to fit into the model's context."));
        }
    }
}

/// Puts what vectors scored into the report.
fn vectors(found: &mut Found, asked: &InWords) {
    found.report.reference.cuts = found.told[0].cuts.clone();
    for (other, told) in found.report.others.iter_mut().zip(&found.told[1..]) {
        other.model.cuts = told.cuts.clone();
    }
    for (k, task) in asked.vectors.iter().enumerate() {
        let before = &found.told[0].vectors[k];
        found.report.reference.scores.extend(scored(before));
        for (n, other) in found.report.others.iter_mut().enumerate() {
            let after = &found.told[n + 1].vectors[k];
            other.model.scores.extend(scored(after));
            let pairs = before.scores.iter().zip(&after.scores);
            other.differences.extend(pairs.map(|(one, two)| Difference {
                name: one.metric.to_owned(),
                on: On::Task(task.name.clone()),
                kind: Kind::Change,
                value: two.value.value - one.value.value,
                interval: Bootstrap::default().difference(&one.each, &two.each).map(ends),
                p: None,
                n: Some(one.each.len() as u64),
                unit: Unit::Number,
                higher_is_better: true,
            }));
        }
        let what = match &task.asked {
            Asked::Similarity(pairs) => format!("{} pairs of texts, cosines against what people say", pairs.len()),
            Asked::Retrieval { corpus, queries, .. } => {
                format!("{} queries to {} documents, by cosine over all of them", queries.len(), corpus.len())
            }
        };
        found.report.method.push(format!("Vectors {}: {what}.", task.name));
    }
}

fn scored(paper: &VectorPaper) -> Vec<Measured> {
    let one = |score: &VectorScore| Measured {
        name: score.metric.to_owned(),
        on: On::Task(paper.task.clone()),
        value: score.value.value,
        error: score.value.error,
        n: Some(score.each.len() as u64),
        unit: Unit::Number,
        higher_is_better: true,
    };
    paper.scores.iter().map(one).collect()
}

fn measured(result: &TaskResult) -> Vec<Measured> {
    let one = |score: &TaskScore| Measured {
        name: score.metric.to_owned(),
        on: On::Task(result.task.clone()),
        value: score.value,
        error: score.error,
        n: Some(result.effective as u64),
        unit: unit(score.metric),
        higher_is_better: score.higher_is_better.unwrap_or(true),
    };
    result.scores.iter().map(one).collect()
}

/// What a metric of a task counts.
fn unit(metric: &str) -> Unit {
    if matches!(metric, "perplexity" | "words") { Unit::Number } else { Unit::Share }
}

/// Paired differences of a task's metrics; that of a perplexity, whose values are log-probabilities, as a ratio.
fn changed(before: &TaskResult, after: &TaskResult) -> Vec<Difference> {
    let intervals = Bootstrap::default();
    before
        .scores
        .iter()
        .filter_map(|score| {
            let values = |result: &TaskResult| result.values.get(score.metric).cloned().unwrap_or_default();
            if score.metric == "perplexity" {
                let minus = |values: Vec<f64>| values.into_iter().map(|value| -value).collect::<Vec<f64>>();
                let ratio = intervals.perplexity_ratio(&minus(values(before)), &minus(values(after)))?;
                return Some(Difference {
                    name: "perplexity_ratio".to_owned(),
                    on: On::Task(before.task.clone()),
                    kind: Kind::Ratio,
                    value: ratio.value,
                    interval: Some(ends(ratio)),
                    p: None,
                    n: Some(before.effective as u64),
                    unit: Unit::Number,
                    higher_is_better: false,
                });
            }
            let interval = intervals.difference(&values(before), &values(after));
            let after = after.scores.iter().find(|other| other.metric == score.metric)?;
            Some(Difference {
                name: score.metric.to_owned(),
                on: On::Task(before.task.clone()),
                kind: Kind::Change,
                value: after.value - score.value,
                interval: interval.map(ends),
                p: None,
                n: Some(before.effective as u64),
                unit: unit(score.metric),
                higher_is_better: score.higher_is_better.unwrap_or(true),
            })
        })
        .collect()
}

fn ends(interval: Interval) -> [f64; 2] {
    [interval.low, interval.high]
}

/// Puts what models know of facts into the report, the reference's scores first; those lost and gained are listed for facts
/// that were asked by heart.
fn facts(report: &mut Report, set: &FactSet, scores: &[&[FactScore]]) {
    let Some((before, afters)) = scores.split_first() else { return };
    let Some(knowledge) = facts::knowledge(&set.facts, before) else { return };
    report.reference.scores.extend(known(set.name, &knowledge));
    for (other, after) in report.others.iter_mut().zip(afters) {
        let Some(found) = facts::changes(&set.facts, before, after, &Bootstrap::default()) else { continue };
        other.model.scores.extend(known(set.name, &found.after));
        let changes = [
            ("acc", found.accuracy_change, Unit::Share, found.facts.p),
            ("log_prob", found.log_prob_change, Unit::Nats, None),
        ];
        for (metric, change, unit, p) in changes {
            let Some(change) = change else { continue };
            other.differences.push(Difference {
                name: metric.into(),
                on: On::Task(set.name.to_owned()),
                kind: Kind::Change,
                value: change.value,
                interval: Some(ends(change)),
                p,
                n: Some(set.facts.len() as u64),
                unit,
                higher_is_better: true,
            });
        }
        if set.name == FactSet::BY_HEART {
            other.facts = Some(found.facts);
        }
    }
    report.method.push(match set.name {
        FactSet::BY_HEART => format!(
            "Facts: {} prompts; one is known if the first token of its answer is the likeliest next token.",
            set.facts.len()
        ),
        _ => "Facts, open book: the same with the fact itself in front, on a line of its own.".into(),
    });
}

fn known(on: &str, knowledge: &facts::Knowledge) -> Vec<Measured> {
    let all = &knowledge.all;
    [("acc", all.accuracy, Unit::Share), ("log_prob", all.log_prob, Unit::Nats)]
        .map(|(name, estimate, unit)| Measured {
            name: name.into(),
            on: On::Task(on.to_owned()),
            value: estimate.value,
            error: estimate.error,
            n: Some(all.facts as u64),
            unit,
            higher_is_better: true,
        })
        .into()
}
