//! The section on limits: what a gate was asked to keep, and whether it is kept.

use crate::gate::{Outcome, Verdict};
use crate::report::html::grid::{Cell, Grid, number, text};
use crate::report::html::{Block, Section};
use crate::report::{Report, plots, words};

/// One row for each limit, one column for each model.
pub(super) fn section(report: &Report) -> Section {
    let mut section = Section { id: "limits", title: "Limits", ..Section::default() };
    let same = |a: &Verdict, b: &Verdict| a.limit == b.limit && a.on == b.on;
    let mut limits: Vec<&Verdict> = Vec::new();
    for verdict in report.others.iter().flat_map(|other| &other.gate) {
        if !limits.iter().any(|seen| same(seen, verdict)) {
            limits.push(verdict);
        }
    }
    if limits.is_empty() {
        return section;
    }
    let single = report.others.len() == 1;
    let row = |limit: &&Verdict| {
        let on = limit.on.clone().unwrap_or_default();
        let mut cells = vec![text(limit.limit.to_string()).class("code").small(on)];
        for other in &report.others {
            let found = other.gate.iter().find(|verdict| same(verdict, limit));
            let [outcome, value] = found.map_or_else(Default::default, cells_of);
            match single {
                true => cells.extend([outcome, value]),
                false => {
                    cells.push(Cell { text: format!("{} {}", mark(found), value.text), class: outcome.class, ..value })
                }
            }
        }
        cells
    };
    let rows = limits.iter().map(row).collect();
    let names: Vec<String> = match single {
        true => ["limit", "outcome", "#value"].map(String::from).to_vec(),
        false => {
            let letters = (1..=report.others.len()).map(|n| format!("#{}", plots::letter(report, n)));
            std::iter::once("limit".to_owned()).chain(letters).collect()
        }
    };
    let columns: Vec<&str> = names.iter().map(String::as_str).collect();
    section.about = "What was asked to be kept: \u{2713} passed, \u{2717} failed, ? not measured and so not kept. The measured value \
                     is compared, not the end of its interval; ~ marks a bound that lies within the interval, so that other \
                     questions could have turned the verdict."
        .into();
    section.blocks.push(Block::Grid(Grid::new("Limits", &columns, rows)));
    section
}

fn mark(verdict: Option<&Verdict>) -> &'static str {
    match verdict.map(|verdict| verdict.outcome) {
        Some(Outcome::Passed) => "\u{2713}",
        Some(Outcome::Failed) => "\u{2717}",
        Some(Outcome::NotMeasured) => "?",
        None => "",
    }
}

/// The outcome, and the value with its interval or the reason why there is none.
fn cells_of(verdict: &Verdict) -> [Cell; 2] {
    let class = if verdict.is_kept() { "good" } else { "bad" };
    let outcome = text(format!("{} {}", mark(Some(verdict)), verdict.outcome.as_str())).class(class);
    let percent = if verdict.limit.percent { " %" } else { "" };
    let value = match verdict.value {
        Some(value) => number(format!("{}{percent}", words::digits(value, 3)), value),
        None => text("").small(verdict.why.as_deref().unwrap_or_default()),
    };
    let close = if verdict.is_close() { "~\u{a0}" } else { "" };
    let value = match verdict.interval {
        Some([low, high]) => value.small(format!("{close}[{}, {}]", words::digits(low, 3), words::digits(high, 3))),
        None => value,
    };
    [outcome, value]
}
