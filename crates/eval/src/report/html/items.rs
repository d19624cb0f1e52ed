//! The sections of single items: facts, changed answers, traces.

use crate::report::html::grid::{Cell, Grid, count, number, text};
use crate::report::html::{Block, Section};
use crate::report::{Compressed, Fact, Facts, Flip, Flips, Report, Tally, Trace, plots, words};

/// What there is to tell about one model: a sentence, and tables.
type Told = (String, Vec<Grid>);

/// All of them, in order, also those without anything to show.
pub(super) fn all(report: &Report) -> Vec<Section> {
    let section = |id, title, about: &str, of: &dyn Fn(&Compressed) -> Option<Told>| {
        let model = |(n, other): (usize, &Compressed)| {
            let (said, grids) = of(other)?;
            let key = plots::letter(report, n + 1);
            Some(Block::Model { key, name: other.model.name.clone(), said, open: n == 0, grids })
        };
        let blocks = report.others.iter().enumerate().filter_map(model).collect();
        Section { id, title, about: about.into(), blocks }
    };
    vec![
        section(
            "facts",
            "Facts lost and gained",
            "A fact is known if its answer is the likeliest continuation of its prompt. Lost are those that the reference knows and \
             the model does not, the surest first; what is gained shows how much of this is chance.",
            &|other| other.facts.as_ref().map(facts),
        ),
        section(
            "flips",
            "Changed answers",
            "Questions of multiple choice that a model answers differently from the reference. Accuracy can stay as it is while \
             many answers change.",
            &|other| (!other.flips.is_empty()).then(|| flips(&other.flips)),
        ),
        section(
            "traces",
            "Traces of concepts",
            "Columns of down projections that speak for a concept: what tokens they promote before and after. A cosine near 1 with \
             the same tokens means that the trace is intact; a removed column is lost with what it held.",
            &|other| (!other.traces.is_empty()).then(|| traces(&other.traces)),
        ),
    ]
}

fn facts(facts: &Facts) -> Told {
    let Tally { asked, known, lost, gained, .. } = facts.all;
    let p = facts.p.map_or(String::new(), |p| format!(" (McNemar p {})", with_sign(&words::p(p))));
    let said = format!("{lost} of {known} facts lost, {gained} gained{p}; {asked} were asked.");
    let mut grids = Vec::new();
    if !facts.bands.is_empty() {
        grids.push(tallies("By how sure the reference was", "probability before", &facts.bands));
    }
    if !facts.relations.is_empty() {
        grids.push(tallies("By relation", "relation", &facts.relations));
    }
    for (caption, list) in [("Lost facts", &facts.lost), ("Gained facts", &facts.gained)] {
        if !list.is_empty() {
            grids.push(fact_grid(caption, list));
        }
    }
    (said, grids)
}

/// `= 0.03`, `< 0.001`.
fn with_sign(p: &str) -> String {
    if p.starts_with('<') { p.to_owned() } else { format!("= {p}") }
}

fn tallies(caption: &str, what: &str, all: &[Tally]) -> Grid {
    let row = |tally: &Tally| {
        let share = tally.lost as f64 / tally.known.max(1) as f64;
        let percent = if tally.known == 0 { String::new() } else { format!("{:.1} %", 100.0 * share) };
        vec![
            text(&tally.name),
            count(tally.asked),
            count(tally.known),
            count(tally.lost),
            count(tally.gained),
            number(percent, share).bar(share),
        ]
    };
    let columns = [what, "#asked", "#known before", "#lost", "#gained", "#lost, share of known"];
    Grid::new(caption, &columns, all.iter().map(row).collect())
}

fn fact_grid(caption: &str, facts: &[Fact]) -> Grid {
    let rank = |rank: Option<u64>| rank.map_or_else(Cell::default, count);
    let chance = |chance: Option<f64>| {
        chance.map_or_else(Cell::default, |p| number(format!("{} %", words::digits(100.0 * p, 2)), p))
    };
    let mut sorted: Vec<&Fact> = facts.iter().collect();
    let surest = |fact: &Fact| fact.probability_before.unwrap_or(0.0).max(fact.probability_after.unwrap_or(0.0));
    sorted.sort_by(|a, b| surest(b).total_cmp(&surest(a)));
    let row = |fact: &Fact| {
        vec![
            text(&fact.prompt),
            text(&fact.answer).class("strong"),
            text(&fact.relation),
            rank(fact.rank_before),
            rank(fact.rank_after),
            chance(fact.probability_before),
            chance(fact.probability_after),
        ]
    };
    let columns = ["prompt", "answer", "relation", "#rank before", "#after", "#probability before", "#after"];
    Grid::new(caption, &columns, sorted.into_iter().map(row).collect()).unnamed()
}

fn flips(all: &[Flips]) -> Told {
    let (changed, asked) = all.iter().fold((0, 0), |(c, a), flips| (c + flips.changed(), a + flips.asked));
    let said = format!("{changed} of {asked} answers changed.");
    let row = |flips: &Flips| {
        let share = flips.changed() as f64 / flips.asked.max(1) as f64;
        vec![
            text(&flips.task),
            count(flips.asked),
            count(flips.lost),
            count(flips.gained),
            count(flips.moved),
            number(format!("{:.1} %", 100.0 * share), share).bar(share),
            flips.p.map_or_else(Cell::default, |p| number(words::p(p), p)),
        ]
    };
    let columns = ["task", "#asked", "#right to wrong", "#wrong to right", "#wrong to wrong", "#changed", "#p"];
    let mut grids = vec![Grid::new("By task", &columns, all.iter().map(row).collect())];
    let item = |(task, flip): (&str, &Flip)| {
        let class = |answer: &str| if answer == flip.gold { "good" } else { "bad" };
        let mark = |answer: &str| if answer == flip.gold { "\u{2713}" } else { "\u{2717}" };
        let answer = |answer: &str| text(format!("{} {answer}", mark(answer))).class(class(answer));
        vec![
            text(task).small(&flip.item),
            text(&flip.question),
            answer(&flip.before),
            answer(&flip.after),
            text(&flip.gold),
        ]
    };
    let items = all.iter().flat_map(|flips| flips.items.iter().map(|flip| (flips.task.as_str(), flip)));
    let rows: Vec<Vec<Cell>> = items.map(item).collect();
    if !rows.is_empty() {
        let listed =
            if (rows.len() as u64) < changed { format!(", {} of {changed}", rows.len()) } else { String::new() };
        let columns = ["task", "question", "before", "after", "right answer"];
        grids.push(Grid::new(format!("Changed answers{listed}"), &columns, rows).unnamed());
    }
    (said, grids)
}

fn traces(all: &[Trace]) -> Told {
    let lost = all.iter().filter(|trace| trace.lost).count();
    let cosines: Vec<f64> = all.iter().filter_map(|trace| trace.cosine).collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    let mean = if cosines.is_empty() { String::new() } else { format!("; mean cosine of the others {mean:.3}") };
    let said = format!("{lost} of {} columns removed{mean}.", all.len());
    let value = |value: Option<f64>| value.map_or_else(Cell::default, |v| number(format!("{v:.3}"), v));
    let row = |trace: &Trace| {
        let after = match trace.lost {
            true => text("\u{2717} removed").class("bad"),
            false => text(trace.tokens_after.join(" \u{b7} ")),
        };
        vec![
            text(trace.concept.clone().unwrap_or_default())
                .small(format!("block {}, column {}", trace.block, trace.column)),
            text(trace.tokens.join(" \u{b7} ")),
            after,
            value(trace.cosine),
            value(trace.jaccard),
        ]
    };
    let columns = ["concept", "tokens before", "tokens after", "#cosine", "#shared tokens"];
    (said, vec![Grid::new("Value vectors", &columns, all.iter().map(row).collect())])
}
