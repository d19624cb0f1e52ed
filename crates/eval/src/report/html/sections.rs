//! The sections of numbers: sizes, quality, frontier, layers, speed.

use crate::report::frontier::{frontier_table, metrics};
use crate::report::html::grid::{Cell, Grid, number, text};
use crate::report::html::{Block, Section};
use crate::report::plots::{self, NARROW, SMALL, WIDE, forest, layers};
use crate::report::{
    Compressed, Cuts, Difference, Kind, Layer, Measured, Model, On, Report, Unit, names, table, words,
};

/// Sizes, quality, frontier and layers, also those without anything to show.
pub(super) fn all(report: &Report) -> Vec<Section> {
    vec![sizes(report), quality(report), cuts(report), frontier(report), by_layer(report)]
}

/// A drawing at both widths.
fn plot(id: &str, draw: impl Fn(f64, &str) -> String) -> Block {
    Block::Plot([draw(WIDE, &format!("{id}-wide")), draw(NARROW, &format!("{id}-narrow"))])
}

/// The letter and name of a model.
pub(super) fn named(report: &Report, n: usize, model: &Model) -> Cell {
    text(&model.name).small(match n {
        0 => "reference".to_owned(),
        _ if report.others.len() == 1 => String::new(),
        n => plots::letter(report, n),
    })
}

fn sizes(report: &Report) -> Section {
    let parts = report.reference.parts.named();
    let used = |n: usize| report.models().any(|model| model.parts.named()[n].1 > 0);
    let used: Vec<usize> = (0..parts.len()).filter(|&n| used(n)).collect();
    let mut columns = vec!["model", "#size", "#bits per weight", "#parameters"];
    let names: Vec<String> = used.iter().map(|&n| format!("#{}", parts[n].0)).collect();
    columns.extend(names.iter().map(String::as_str));
    let bytes = |count: u64| number(words::bytes(count), count as f64);
    let row = |(n, model): (usize, &Model)| {
        let times =
            if n == 0 { String::new() } else { words::times_smaller(report.reference.size_bytes, model.size_bytes) };
        let mut cells = vec![
            named(report, n, model),
            bytes(model.size_bytes).small(times),
            number(format!("{:.2}", model.bits_per_weight), model.bits_per_weight),
            number(words::count(model.parameters), model.parameters as f64),
        ];
        cells.extend(used.iter().map(|&part| bytes(model.parts.named()[part].1)));
        cells
    };
    let rows = report.models().enumerate().map(row).collect();
    let mut blocks = Vec::new();
    if !used.is_empty() {
        blocks.push(Block::Legend(used.iter().map(|&n| (n, parts[n].0)).collect()));
        blocks.push(plot("sizes", |width, id| plots::sizes::draw(report, width, id)));
    }
    blocks.push(Block::Grid(Grid::new("Sizes", &columns, rows)));
    let about = "Bytes of the weight files, headers, scales and padding included. Bits per weight count these bytes for every \
                 entry of the original matrices, so that removed weights make the figure smaller.";
    Section { id: "size", title: "Size", about: about.into(), blocks }
}

fn quality(report: &Report) -> Section {
    let mut section = Section { id: "quality", title: "Quality", ..Section::default() };
    let shown = |d: &&Difference| d.kind == Kind::Ratio || (d.kind == Kind::Change && d.on.is_task());
    let mut keys: Vec<(&str, &On)> = Vec::new();
    for difference in report.others.iter().flat_map(|other| &other.differences).filter(shown) {
        if !keys.iter().any(|(_, on)| **on == difference.on && (on.is_task() || difference.kind == Kind::Ratio)) {
            keys.push((&difference.name, &difference.on));
        }
    }
    let row = |&(name, on): &(&str, &On)| forest::Row {
        label: on.as_str().to_owned(),
        marks: (1..).zip(&report.others).filter_map(|(n, other)| Some((n, find(other, name, on)?))).collect(),
    };
    let (tasks, texts): (Vec<_>, Vec<_>) = keys.iter().partition(|(_, on)| on.is_task());
    // Shares are told in points, correlations and gains as they are.
    let is_share = |&(name, on): &(&str, &On)| {
        report.others.iter().find_map(|other| find(other, name, on)).is_none_or(|d| d.unit == Unit::Share)
    };
    let (tasks, others): (Vec<_>, Vec<_>) = tasks.into_iter().partition(is_share);
    if keys.iter().any(|key| !row(key).marks.is_empty()) && report.others.len() > 1 {
        section.blocks.push(Block::Keys);
    }
    let panel = |title, axis, higher_is_better| forest::Panel { title, axis, higher_is_better };
    for (keys, id, panel) in [
        (texts, "texts", panel("Change of perplexity", "change in %", false)),
        (tasks, "tasks", panel("Change of tasks", "change in percentage points", true)),
        (others, "vectors", panel("Change of similarity and retrieval", "change", true)),
    ] {
        let rows: Vec<forest::Row<'_>> = keys.iter().map(row).collect();
        if !rows.is_empty() {
            section.blocks.push(plot(id, |width, id| forest::draw(report, &rows, panel, width, id)));
        }
    }
    let rows = quality_rows(report);
    if !rows.is_empty() {
        let names: Vec<String> = match &report.others[..] {
            [_] => ["figure", "#before", "#after", "#change", "#p"].map(String::from).to_vec(),
            all => {
                let keys = (1..=all.len()).map(|n| format!("#{}", plots::letter(report, n)));
                ["figure".to_owned(), "#reference".to_owned()].into_iter().chain(keys).collect()
            }
        };
        let columns: Vec<&str> = names.iter().map(String::as_str).collect();
        section.blocks.push(Block::Grid(Grid::new("Quality, figure by figure", &columns, rows).unsearched()));
        section.about = format!(
            "Every figure of the reference and of what was made from it. In brackets the interval that holds the true difference \
             in {:.0} of 100 repetitions; differences whose interval leaves room for none are set faint.",
            100.0 * report.confidence
        );
    }
    section
}

fn find<'a>(other: &'a Compressed, name: &str, on: &On) -> Option<&'a Difference> {
    other.differences.iter().find(|d| d.name == name && d.on == *on)
}

/// A row for each score of the reference, then for each figure of two models.
fn quality_rows(report: &Report) -> Vec<Vec<Cell>> {
    let single = report.others.len() == 1;
    let mut rows = Vec::new();
    for before in &report.reference.scores {
        let n = before.n.map_or(String::new(), |n| format!("n = {n}"));
        let value = |score: &Measured| number(words::score_with_error(score), score.value);
        let mut cells = vec![text(words::title(&before.name, &before.on)).small(n), value(before)];
        for other in &report.others {
            let after = other.model.scores.iter().find(|s| s.name == before.name && s.on == before.on);
            let change = words::change_of(other, before);
            let plain = after.map_or(String::new(), |after| table::plain_change(before, after));
            cells.extend(match (single, after) {
                (true, _) => vec![
                    after.map_or_else(Cell::default, value),
                    change.map_or_else(|| number(&plain, f64::NAN), difference),
                    p(change),
                ],
                (false, None) => vec![Cell::default()],
                (false, Some(after)) => {
                    let small = change.map_or(plain, short);
                    let class = change.map_or("", faint);
                    vec![number(words::score(after), after.value).class(class).small(small)]
                }
            });
        }
        rows.push(cells);
    }
    for (name, on) in table::between(report) {
        let mut cells = vec![text(words::title(&name, &on)), Cell::default()];
        for other in &report.others {
            let found = find(other, &name, &on);
            cells.extend(match (single, found) {
                (true, _) => vec![Cell::default(), found.map_or_else(Cell::default, difference), p(found)],
                (false, None) => vec![Cell::default()],
                (false, Some(d)) => {
                    let (value, interval) = words::parts_of(d);
                    vec![number(value + words::scale(d).unit, d.value).class(faint(d)).small(interval)]
                }
            });
        }
        rows.push(cells);
    }
    rows
}

/// A difference and its interval.
fn difference(d: &Difference) -> Cell {
    number(words::difference(d), d.value).class(faint(d))
}

/// The same where there is little room: points are `pt`.
fn short(d: &Difference) -> String {
    let (value, interval) = words::parts_of(d);
    format!("{value}{} {interval}", words::scale(d).unit.replace("points", "pt"))
}

/// The class of a difference that could be none.
fn faint(d: &Difference) -> &'static str {
    if d.is_clear() == Some(false) { "faint" } else { "" }
}

fn p(d: Option<&Difference>) -> Cell {
    d.and_then(|d| d.p).map_or_else(Cell::default, |p| number(words::p(p), p))
}

fn frontier(report: &Report) -> Section {
    let mut section = Section { id: "frontier", title: "Quality against size", ..Section::default() };
    let metrics = metrics(report);
    let Some((first, rest)) = metrics.split_first().filter(|_| report.others.len() > 1) else { return section };
    section.about =
        "One mark for each model. Filled marks are joined by a line: none of these is beaten by another in both size \
                     and quality. Whiskers are 1.96 standard errors to both sides, of each model on its own."
            .into();
    section.blocks.push(plot("frontier", |width, id| plots::frontier::draw(report, first, width, Some(id))));
    if !rest.is_empty() {
        let small = |(n, metric)| plots::frontier::draw(report, metric, SMALL, Some(&format!("frontier-{n}")));
        section.blocks.push(Block::Plots(rest.iter().enumerate().map(small).collect()));
    }
    let grid = |metric| {
        let table = frontier_table(report, metric);
        let number = |n| if table.right.contains(&n) { "#" } else { "" };
        let columns: Vec<String> =
            table.header.iter().enumerate().map(|(n, name)| format!("{}{name}", number(n))).collect();
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let cells = table.rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect();
        Grid::new(words::title(&metric.name, &metric.on), &columns, cells)
    };
    section.blocks.push(Block::More { title: "The numbers", grids: metrics.iter().map(grid).collect() });
    section
}

fn cuts(report: &Report) -> Section {
    let mut section = Section { id: "cuts", title: "Layers and dimensions", ..Section::default() };
    let all: Vec<(&Model, &Cuts)> =
        report.models().flat_map(|model| model.cuts.iter().map(move |c| (model, c))).collect();
    let Some((_, first)) = all.first() else { return section };
    section.about = format!(
        "What a model scores when only its first layers run and only some dimensions of its vectors are kept: {}. Framed are the \
         cuts that score more than everything smaller. All are from one pass over the texts.",
        first.how
    );
    for (n, (model, cuts)) in all.iter().enumerate() {
        let drawn = [WIDE, NARROW].map(|width| plots::cuts::draw(cuts, width, &format!("cuts-{n}-{width}")));
        section.blocks.push(Block::Named(model.name.clone()));
        section.blocks.push(Block::Plot(drawn));
    }
    let grid = |(model, cuts): &(&Model, &Cuts)| {
        let row = |&(i, j): &(usize, usize)| {
            let value = cuts.values[i][j];
            let count = |n: usize| number(n.to_string(), n as f64);
            vec![count(cuts.layers[i]), count(cuts.dims[j]), number(words::digits(value, 4), value)]
        };
        let caption = format!("{}: {}", model.name, words::title(&cuts.name, &cuts.on));
        let score = format!("#{}", names::label(&cuts.name));
        Grid::new(caption, &["#layers", "#dimensions", &score], cuts.frontier().iter().map(row).collect())
            .unsearched()
            .unnamed()
    };
    section
        .blocks
        .push(Block::More { title: "The cuts that nothing smaller beats", grids: all.iter().map(grid).collect() });
    section
}

fn by_layer(report: &Report) -> Section {
    let mut section = Section { id: "layers", title: "Error by layer", ..Section::default() };
    let has = |curve: &layers::Curve| report.others.iter().any(|o| o.layers.iter().any(|l| (curve.of)(l).is_some()));
    let curves: Vec<layers::Curve> = layers::CURVES.into_iter().filter(has).collect();
    let Some((first, rest)) = curves.split_first() else { return section };
    section.about =
        "How far what leaves each block is from what leaves the same block of the reference, on the same text. A step \
                     shows where damage begins; a slope, how it adds up."
            .into();
    if report.others.len() > 1 {
        section.blocks.push(Block::Keys);
    }
    section.blocks.push(plot("layers", |width, id| layers::draw(report, *first, width, id)));
    if !rest.is_empty() {
        let small = |(n, curve): (usize, &layers::Curve)| layers::draw(report, *curve, NARROW, &format!("layers-{n}"));
        section.blocks.push(Block::Plots(rest.iter().enumerate().map(small).collect()));
    }
    let value = |value: Option<f64>| value.map_or_else(Cell::default, |v| number(words::digits(v, 3), v));
    let row =
        |layer: &Layer| vec![text(&layer.place), value(layer.relative_error), value(layer.cosine), value(layer.cka)];
    let grid = |other: &Compressed| {
        let rows = other.layers.iter().map(row).collect();
        Grid::new(&other.model.name, &["place", "#relative error", "#cosine", "#CKA"], rows).unsearched()
    };
    let measured = report.others.iter().filter(|other| !other.layers.is_empty());
    section.blocks.push(Block::More { title: "The numbers", grids: measured.map(grid).collect() });
    section
}

pub(super) fn speed(report: &Report) -> Section {
    let mut section = Section { id: "speed", title: "Speed and memory", ..Section::default() };
    if report.models().all(|model| model.speed.is_none() && model.peak_memory_bytes.is_none()) {
        return section;
    }
    let before = report.reference.speed.as_ref();
    let rate = |value: Option<f64>, before: Option<f64>| {
        let Some(value) = value else { return Cell::default() };
        let times = before.filter(|before| *before > 0.0).map(|before| format!("{:.2} \u{d7}", value / before));
        number(words::digits(value, 3), value).small(times.unwrap_or_default())
    };
    let row = |(n, model): (usize, &Model)| {
        let speed = model.speed.as_ref();
        let before = before.filter(|_| n > 0);
        let memory =
            model.peak_memory_bytes.map_or_else(Cell::default, |bytes| number(words::bytes(bytes), bytes as f64));
        vec![
            named(report, n, model),
            rate(speed.map(|s| s.prefill_tokens_per_second), before.map(|s| s.prefill_tokens_per_second)),
            rate(speed.and_then(|s| s.decode_tokens_per_second), before.and_then(|s| s.decode_tokens_per_second)),
            memory,
        ]
    };
    let rows = report.models().enumerate().map(row).collect();
    let columns = ["model", "#prompt, tokens/s", "#writing, tokens/s", "#peak memory"];
    section.blocks.push(Block::Grid(Grid::new("Speed and memory", &columns, rows)));
    let mut conditions: Vec<&str> =
        report.models().filter_map(|m| Some(m.speed.as_ref()?.conditions.as_str())).collect();
    conditions.retain(|text| !text.is_empty());
    conditions.dedup();
    section.about = match &conditions[..] {
        [] => "Peak memory is the largest resident set of the process, mapped weight files included.".into(),
        all => format!("Measured with {}. Peak memory is the largest resident set of the process.", all.join("; ")),
    };
    section
}
