//! A comparison as rows for a terminal.

use crate::report::svg::shortened;
use crate::report::{Compressed, Difference, Measured, Model, On, Report, Unit, words};

/// A table: its header, the columns that are set flush right, its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// One word for each column.
    pub header: Vec<String>,
    /// The columns of numbers.
    pub right: Vec<usize>,
    /// One cell for each column.
    pub rows: Vec<Vec<String>>,
}

/// Sizes, scores and differences. One other model gets the columns `before`, `after` and `change`, with intervals;
/// several get a column each.
pub fn table(report: &Report) -> Table {
    let mut header = vec![String::new()];
    match &report.others[..] {
        [_] => header.extend(["before", "after", "change"].map(String::from)),
        _ => header.extend(report.models().map(|model| shortened(&model.name, 20))),
    }
    let mut rows = accounting(report);
    for score in &report.reference.scores {
        rows.push(score_row(report, score));
    }
    for (name, on) in between(report) {
        rows.push(between_row(report, &name, &on));
    }
    rows.extend(facts_row(report));
    rows.extend(flips_rows(report));
    rows.extend(gate_row(report));
    rows.retain(|row| row[1..].iter().any(|cell| !cell.is_empty()));
    if let Some(text) = only_text(report) {
        // What all figures share need not stand in every row; how it was measured is said elsewhere.
        let ending = format!(" on {text}");
        for row in &mut rows {
            if row[0].ends_with(&ending) {
                let label = row[0].len() - ending.len();
                row[0].truncate(label);
            }
        }
    }
    Table { right: (1..header.len()).collect(), header, rows }
}

/// The text that all figures on texts were measured on, if there is just one.
fn only_text(report: &Report) -> Option<&str> {
    let mut texts: Vec<&str> =
        report.reference.scores.iter().map(|score| &score.on).filter(|on| !on.is_task()).map(On::as_str).collect();
    texts.dedup();
    match texts[..] {
        [text] => Some(text),
        _ => None,
    }
}

/// Size, bits, speed and memory.
fn accounting(report: &Report) -> Vec<Vec<String>> {
    let row = |label: &str, of: &dyn Fn(&Model) -> Option<f64>, write: &dyn Fn(f64) -> String| {
        let before = of(&report.reference);
        let mut cells = vec![label.to_owned(), before.map_or(String::new(), write)];
        for other in &report.others {
            let after = of(&other.model);
            cells.push(after.map_or(String::new(), write));
            if report.others.len() == 1 {
                let ratio = before.zip(after).filter(|(before, _)| *before > 0.0).map(|(before, after)| after / before);
                cells.push(ratio.map_or(String::new(), |ratio| format!("{ratio:.3} x")));
            }
        }
        cells
    };
    let bytes = |value: f64| words::bytes(value as u64);
    let speed = |value: f64| format!("{} tokens/s", words::digits(value, 3));
    vec![
        row("size", &|m| Some(m.size_bytes as f64), &bytes),
        row("parameters", &|m| Some(m.parameters as f64), &|value| words::count(value as u64)),
        row("bits per weight", &|m| Some(m.bits_per_weight), &|value| format!("{value:.2}")),
        row("reads a prompt", &|m| Some(m.speed.as_ref()?.prefill_tokens_per_second), &speed),
        row("writes", &|m| m.speed.as_ref()?.decode_tokens_per_second, &speed),
        row("peak memory", &|m| m.peak_memory_bytes.map(|bytes| bytes as f64), &bytes),
    ]
}

/// A score of every model, and its change.
fn score_row(report: &Report, before: &Measured) -> Vec<String> {
    let single = report.others.len() == 1;
    let write = |score: &Measured| if single { words::score_with_error(score) } else { words::score(score) };
    let mut cells = vec![words::title(&before.name, &before.on), write(before)];
    for other in &report.others {
        let after = other.model.scores.iter().find(|s| s.name == before.name && s.on == before.on);
        let change = after.map_or(String::new(), |after| change(other, before, after, single));
        let after = after.map_or(String::new(), write);
        match single {
            true => cells.extend([after, change]),
            false => cells.push(if change.is_empty() { after } else { format!("{after} ({change})") }),
        }
    }
    cells
}

/// The change of a score, as it was measured or as the two values give it; without its interval if columns are narrow.
fn change(other: &Compressed, before: &Measured, after: &Measured, single: bool) -> String {
    match words::change_of(other, before) {
        Some(difference) if single => words::difference(difference),
        Some(difference) => format!("{}{}", words::parts_of(difference).0, words::scale(difference).unit),
        None => plain_change(before, after),
    }
}

/// The change that two values give, of which no interval is known.
pub(super) fn plain_change(before: &Measured, after: &Measured) -> String {
    match before.unit {
        Unit::Share => format!("{:+.1} points", 100.0 * (after.value - before.value)),
        _ if before.value > 0.0 => format!("{:+.2} %", 100.0 * (after.value / before.value - 1.0)),
        _ => format!("{:+.4}", after.value - before.value),
    }
}

/// The figures that are of two models only, each once.
pub(super) fn between(report: &Report) -> Vec<(String, On)> {
    let mut found: Vec<(String, On)> = Vec::new();
    for other in &report.others {
        let of_scores: Vec<&Difference> =
            report.reference.scores.iter().filter_map(|score| words::change_of(other, score)).collect();
        for difference in &other.differences {
            let key = (difference.name.clone(), difference.on.clone());
            if !of_scores.contains(&difference) && !found.contains(&key) {
                found.push(key);
            }
        }
    }
    found
}

fn between_row(report: &Report, name: &str, on: &On) -> Vec<String> {
    let mut cells = vec![words::title(name, on), String::new()];
    for other in &report.others {
        let found = other.differences.iter().find(|d| d.name == name && d.on == *on);
        match report.others.len() {
            1 => cells.extend([String::new(), found.map(words::difference).unwrap_or_default()]),
            _ => {
                cells.push(found.map_or(String::new(), |d| format!("{}{}", words::parts_of(d).0, words::scale(d).unit)))
            }
        }
    }
    cells
}

/// One cell for each other model, in the column of changes if there is just one.
fn row(report: &Report, label: &str, of: &dyn Fn(&Compressed) -> Option<String>) -> Vec<String> {
    let mut cells = vec![label.to_owned(), String::new()];
    for other in &report.others {
        if report.others.len() == 1 {
            cells.push(String::new());
        }
        cells.push(of(other).unwrap_or_default());
    }
    cells
}

fn facts_row(report: &Report) -> Option<Vec<String>> {
    report.others.iter().any(|other| other.facts.is_some()).then(|| {
        row(report, "facts lost, gained, of those known", &|other| {
            let all = &other.facts.as_ref()?.all;
            Some(format!("{}, {} of {}", all.lost, all.gained, all.known))
        })
    })
}

fn flips_rows(report: &Report) -> Vec<Vec<String>> {
    let mut tasks: Vec<&str> = Vec::new();
    for flips in report.others.iter().flat_map(|other| &other.flips) {
        if !tasks.contains(&flips.task.as_str()) {
            tasks.push(&flips.task);
        }
    }
    let cell = |task: &str, other: &Compressed| {
        let flips = other.flips.iter().find(|flips| flips.task == task)?;
        Some(format!("{} of {}", flips.changed(), flips.asked))
    };
    tasks.into_iter().map(|task| row(report, &format!("answers changed in {task}"), &|o| cell(task, o))).collect()
}

fn gate_row(report: &Report) -> Option<Vec<String>> {
    report.others.iter().any(|other| !other.gate.is_empty()).then(|| {
        row(report, "limits kept", &|other| {
            let kept = other.gate.iter().filter(|verdict| verdict.is_kept()).count();
            (!other.gate.is_empty()).then(|| format!("{kept} of {}", other.gate.len()))
        })
    })
}

/// The gate's verdicts, one row each; a single model is not named.
pub fn verdicts(report: &Report) -> Table {
    let single = usize::from(report.others.len() == 1);
    let header = ["model", "limit", "", "value", "on"][single..].iter().map(|&name| name.to_owned()).collect();
    let mut rows = Vec::new();
    for verdict in report.others.iter().flat_map(|other| &other.gate) {
        let value = match (verdict.value, verdict.interval) {
            (None, _) => verdict.why.clone().unwrap_or_default(),
            (Some(value), None) => words::digits(value, 3),
            (Some(value), Some([low, high])) => {
                format!("{} [{}, {}]", words::digits(value, 3), words::digits(low, 3), words::digits(high, 3))
            }
        };
        let outcome = verdict.outcome.as_str().to_owned();
        let on = verdict.on.clone().unwrap_or_default();
        let cells = [verdict.model.clone(), verdict.limit.to_string(), outcome, value, on];
        rows.push(cells[single..].to_vec());
    }
    Table { header, right: Vec::new(), rows }
}
