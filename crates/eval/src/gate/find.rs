//! What a limit is about: the value in a report that its name stands for.

use crate::error::{Error, Result};
use crate::gate::Limit;
use crate::report::names::{self, KNOWN};
use crate::report::{Compressed, Difference, Kind, Measured, Model, On, Report, Unit, words};

/// A value that a limit is about, in the unit of the bound.
pub(super) struct Found {
    pub on: Option<String>,
    pub value: f64,
    pub interval: Option<[f64; 2]>,
}

/// Figures that are no scores.
const COUNTED: [(&str, bool); 4] =
    [("facts.lost", true), ("facts.gained", true), ("size_ratio", true), ("bits_per_weight", false)];

/// Refuses a limit whose figure is neither known, nor a task's, nor in the report, and percentages that mean nothing.
pub(super) fn check(limit: &Limit, report: Option<&Report>, tasks: &[&str]) -> Result<()> {
    let name = limit.name.as_str();
    let refused = |relative: bool| match limit.percent && !relative {
        true => Err(Error::Percent { name: name.to_owned() }),
        false => Ok(()),
    };
    if let Some((_, relative)) = COUNTED.iter().find(|(counted, _)| *counted == name) {
        return refused(*relative);
    }
    let models = || report.into_iter().flat_map(Report::models);
    let scores = || models().flat_map(|model| &model.scores);
    let differences = || report.into_iter().flat_map(|report| &report.others).flat_map(|other| &other.differences);
    let measured = || {
        let of_scores = scores().map(|score| (score.on.clone(), score.name.clone()));
        of_scores.chain(differences().map(|d| (d.on.clone(), d.name.clone()))).collect::<Vec<_>>()
    };
    if let Some(kind) = names::find(name).filter(|_| !is_metric(name)).map(|known| known.kind) {
        return refused(kind.is_none_or(is_share));
    }
    if let Some(difference) = differences().find(|d| d.name == name && !d.on.is_task()) {
        return refused(is_share(difference.kind));
    }
    if scores().any(|score| score.name == name && !score.on.is_task()) {
        return Ok(());
    }
    let measured = measured();
    let has = |task: &str| tasks.contains(&task) || measured.iter().any(|(on, _)| *on == On::Task(task.to_owned()));
    if has(name) {
        return Ok(());
    }
    let mut known: Vec<String> = Vec::new();
    if let Some((task, metric)) = split(name, &has) {
        let metrics: Vec<&str> =
            measured.iter().filter(|(on, _)| on.as_str() == task).map(|(_, metric)| metric.as_str()).collect();
        if metric == "flips" || metrics.is_empty() || metrics.contains(&metric) {
            return Ok(());
        }
        known.extend(metrics.iter().map(|metric| format!("{task}.{metric}")));
        known.push(format!("{task}.flips"));
    } else {
        known.extend(COUNTED.iter().map(|(name, _)| (*name).to_owned()));
        known.extend(KNOWN.iter().filter(|k| !is_metric(k.name)).map(|k| k.name.to_owned()));
        known.extend(tasks.iter().map(|task| (*task).to_owned()));
        known
            .extend(measured.iter().map(|(on, name)| if on.is_task() { on.as_str().to_owned() } else { name.clone() }));
    }
    let mut seen = std::collections::HashSet::new();
    known.retain(|name| seen.insert(name.clone()));
    Err(Error::Limit { name: name.to_owned(), known })
}

/// The values that a limit is about, one for each text; or why there is none.
pub(super) fn find(limit: &Limit, reference: &Model, other: &Compressed) -> Result<Vec<Found>, String> {
    let name = limit.name.as_str();
    let scale = if limit.percent { 100.0 } else { 1.0 };
    let one = |value: f64| Ok(vec![Found { on: None, value: value * scale, interval: None }]);
    match name {
        "facts.lost" => return one(other.facts_lost().ok_or("no facts were asked that the reference knows")?),
        "facts.gained" => {
            let all = &other.facts.as_ref().ok_or("no facts were asked")?.all;
            let share = (all.known > 0).then(|| all.gained as f64 / all.known as f64);
            return one(share.ok_or("no facts were asked that the reference knows")?);
        }
        "size_ratio" => return one(other.model.size_bytes as f64 / reference.size_bytes as f64),
        "bits_per_weight" => return one(other.model.bits_per_weight),
        _ => {}
    }
    let wanted = |on: &On| limit.text.as_deref().is_none_or(|text| on.as_str() == text);
    let on_text = |on: &On| !on.is_task() && wanted(on);

    let differences = other.differences.iter().filter(|d| d.name == name && on_text(&d.on));
    // A change of a score has the score's name; limits are about the score itself then.
    let pairs: Vec<&Difference> =
        differences.filter(|d| reference.score(name, Some(d.on.as_str())).is_none()).collect();
    if !pairs.is_empty() {
        let found = |d: &&Difference| Found {
            on: Some(d.on.as_str().to_owned()),
            value: d.value * scale,
            interval: d.interval.map(|ends| ends.map(|end| end * scale)),
        };
        return Ok(pairs.iter().map(found).collect());
    }
    let scores: Vec<&Measured> = other.model.scores.iter().filter(|s| s.name == name && on_text(&s.on)).collect();
    if !scores.is_empty() {
        return scores.into_iter().map(|score| of_text(limit, score, reference, other)).collect();
    }
    let has = |task: &str| {
        other.model.scores.iter().any(|s| s.on == On::Task(task.to_owned()))
            || other.flips.iter().any(|flips| flips.task == task)
    };
    let (task, metric) =
        if has(name) { (name, None) } else { split(name, &has).map_or((name, None), |(t, m)| (t, Some(m))) };
    if metric == Some("flips") {
        let flips = other.flips.iter().find(|flips| flips.task == task && flips.asked > 0);
        let flips = flips.ok_or("answers were not compared one by one")?;
        let value = scale * flips.changed() as f64 / flips.asked as f64;
        return Ok(vec![Found { on: Some(task.to_owned()), value, interval: None }]);
    }
    let of_task = |s: &&Measured| {
        // A task alone means the first of its scores of which more is better, since that is how its limits read.
        s.on == On::Task(task.to_owned()) && metric.map_or(s.higher_is_better, |metric| s.name == metric)
    };
    match other.model.scores.iter().find(of_task) {
        Some(after) => Ok(vec![of_task_score(limit, after, reference, other)?]),
        None => Err("nothing of this name was measured".into()),
    }
}

/// A score on a text: the value, or its change relative to the reference.
fn of_text(limit: &Limit, score: &Measured, reference: &Model, other: &Compressed) -> Result<Found, String> {
    let on = Some(score.on.as_str().to_owned());
    if limit.percent {
        // Paired, if it was: the same value, and an interval that the two values alone do not give.
        if let Some(ratio) = words::change_of(other, score).filter(|d| d.kind == Kind::Ratio) {
            let percent = |ratio: f64| 100.0 * (ratio - 1.0);
            return Ok(Found {
                on,
                value: percent(ratio.value),
                interval: ratio.interval.map(|ends| ends.map(percent)),
            });
        }
        let before = positive(before(reference, score)?)?;
        return Ok(Found { on, value: 100.0 * (score.value / before - 1.0), interval: None });
    }
    let interval = score.error.map(|error| [score.value - 1.96 * error, score.value + 1.96 * error]);
    Ok(Found { on, value: score.value, interval })
}

/// A score on a task: after minus before, or that relative to before.
fn of_task_score(limit: &Limit, after: &Measured, reference: &Model, other: &Compressed) -> Result<Found, String> {
    let paired = other.differences.iter().find(|d| d.on == after.on && d.name == after.name && d.kind == Kind::Change);
    let (change, interval) = match paired {
        Some(difference) => (difference.value, difference.interval),
        None => (after.value - before(reference, after)?, None),
    };
    let scale = if limit.percent { 100.0 / positive(before(reference, after)?)? } else { 1.0 };
    let found = Found {
        on: Some(format!("{}.{}", after.on.as_str(), after.name)),
        value: change * scale,
        interval: interval.map(|ends| ends.map(|end| end * scale)),
    };
    Ok(found)
}

/// What the reference scores.
fn before(reference: &Model, after: &Measured) -> Result<f64, String> {
    let before = reference.scores.iter().find(|s| s.on == after.on && s.name == after.name);
    before.map(|before| before.value).ok_or_else(|| "the reference was not measured".into())
}

/// A score that changes can be relative to: a share of a negative number, such as a log-probability, would say the opposite.
fn positive(before: f64) -> Result<f64, String> {
    if before > 0.0 {
        Ok(before)
    } else {
        Err("the reference scores no more than 0, so no change is relative to it".into())
    }
}

/// A task and its score: `arc_easy.acc_norm`. Names of tasks may have dots themselves.
fn split<'a>(name: &'a str, is_task: &dyn Fn(&str) -> bool) -> Option<(&'a str, &'a str)> {
    name.rmatch_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..])).find(|(task, _)| is_task(task))
}

/// Whether a percentage of such a value means something.
fn is_share(kind: Kind) -> bool {
    matches!(kind, Kind::Ratio | Kind::Agreement)
}

/// Whether a known figure is a metric of tasks, and so says nothing without one.
fn is_metric(name: &str) -> bool {
    let of_tasks = ["log_prob", "spearman", "ndcg_at_10", "mrr_at_10", "recall_at_100"];
    of_tasks.contains(&name) || names::find(name).is_some_and(|known| known.unit == Unit::Share && known.kind.is_none())
}
