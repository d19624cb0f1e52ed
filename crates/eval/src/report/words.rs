//! Figures in words and digits, the same in the terminal and in HTML.

use crate::report::{Compressed, Difference, Flips, Kind, Measured, Report, Unit, names};

/// The first thing to know about a model: `3.6 times smaller; perplexity +2.1 % [1.8, 2.4]; 14 of 300 facts lost, 3 gained`.
pub fn verdict(report: &Report, other: &Compressed) -> String {
    let mut parts = vec![times_smaller(report.reference.size_bytes, other.model.size_bytes)];
    if let Some(ratio) = other.difference("perplexity_ratio", None) {
        parts.push(format!("perplexity {}", difference(ratio)));
    } else if let Some(kl) = other.difference("kl_mean", None) {
        parts.push(format!("KL divergence {}", difference(kl)));
    }
    let tasks: Vec<&Difference> = first_of_each_task(report, other);
    let loss = |d: &&&Difference| if d.higher_is_better { d.value } else { -d.value };
    if let Some(worst) = tasks.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))) {
        let task = worst.on.as_str();
        parts.push(match tasks.len() {
            1 => format!("{task} {}", difference(worst)),
            n => format!("worst of {n} tasks: {task} {}", difference(worst)),
        });
    }
    if let Some(facts) = &other.facts {
        let all = &facts.all;
        parts.push(format!("{} of {} facts lost, {} gained", all.lost, all.known, all.gained));
    }
    parts.join("; ")
}

/// Whether a model keeps its limits, and that in words: `1 of 6 limits not kept`. None if there are none.
pub fn limits(other: &Compressed) -> Option<(bool, String)> {
    let broken = other.gate.iter().filter(|verdict| !verdict.is_kept()).count();
    match (broken, other.gate.len()) {
        (_, 0) => None,
        (0, 1) => Some((true, "the limit is kept".into())),
        (0, n) => Some((true, format!("all {n} limits are kept"))),
        (broken, n) => Some((false, format!("{broken} of {n} limits not kept"))),
    }
}

/// How a score differs from the reference's: its own difference; for a perplexity and its logarithm what was measured of pairs.
pub fn change_of<'a>(other: &'a Compressed, score: &Measured) -> Option<&'a Difference> {
    let name = match score.name.as_str() {
        "perplexity" => "perplexity_ratio",
        "nll" => "nll_change",
        own => own,
    };
    other.differences.iter().find(|d| d.name == name && d.on == score.on)
}

/// The change of the first score of each task, in the order of the reference's scores.
pub fn first_of_each_task<'a>(report: &Report, other: &'a Compressed) -> Vec<&'a Difference> {
    let mut seen = Vec::new();
    let mut first = Vec::new();
    for score in report.reference.scores.iter().filter(|score| score.on.is_task()) {
        if seen.contains(&&score.on) {
            continue;
        }
        seen.push(&score.on);
        first.extend(other.differences.iter().find(|d| d.on == score.on && d.name == score.name));
    }
    first
}

/// `3.6 times smaller`, `1.25 times larger`, `same size`.
pub fn times_smaller(before: u64, after: u64) -> String {
    let (before, after) = (before.max(1) as f64, after.max(1) as f64);
    let times = |ratio: f64| if ratio < 1.5 { format!("{ratio:.2}") } else { format!("{ratio:.1}") };
    match before / after {
        ratio if (0.995..1.005).contains(&ratio) => "same size".into(),
        ratio if ratio > 1.0 => format!("{} times smaller", times(ratio)),
        ratio => format!("{} times larger", times(1.0 / ratio)),
    }
}

/// A score: `23.41`, `71.2 %`.
pub fn score(score: &Measured) -> String {
    value(score.unit, score.value)
}

/// A score and its standard error: `23.41 ± 0.32`.
pub fn score_with_error(measured: &Measured) -> String {
    match (measured.unit, measured.error) {
        (_, None) => score(measured),
        (Unit::Share, Some(error)) => format!("{} ± {:.1}", score(measured), 100.0 * error),
        (_, Some(error)) => format!("{} ± {}", score(measured), digits(error, 2)),
    }
}

/// A number in its unit.
pub fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Share => format!("{:.1} %", 100.0 * value),
        _ => digits(value, 4),
    }
}

/// A difference with its interval: `+2.1 % [1.8, 2.4]` for ratios, `-1.2 points [-2.0, -0.4]` for changes of shares.
pub fn difference(d: &Difference) -> String {
    let (value, interval) = parts_of(d);
    let interval = if interval.is_empty() { interval } else { format!(" {interval}") };
    format!("{value}{}{interval}", scale(d).unit)
}

/// The number of a difference and its interval, without the unit: `+2.1`, `[1.8, 2.4]`.
pub fn parts_of(d: &Difference) -> (String, String) {
    let scale = scale(d);
    let places = scale.places(d);
    let number = |value: f64| finite(scale.of(value), places, false);
    let interval = d.interval.map_or(String::new(), |[low, high]| format!("[{}, {}]", number(low), number(high)));
    (finite(scale.of(d.value), places, scale.signed), interval)
}

/// How a difference is shown: in percent, in points, as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    factor: f64,
    offset: f64,
    /// What stands behind the number, with a blank in front.
    pub unit: &'static str,
    /// Whether a plus is written.
    pub signed: bool,
}

impl Scale {
    /// A value as it is shown.
    pub fn of(&self, value: f64) -> f64 {
        (value - self.offset) * self.factor
    }

    /// Digits behind the point: as many as the interval's width, or the value, makes sensible.
    fn places(&self, d: &Difference) -> usize {
        let width = d.interval.map(|[low, high]| self.factor * (high - low)).filter(|width| *width > 0.0);
        match (self.factor == 100.0, width) {
            (true, Some(width)) => usize::from(width < 20.0) + usize::from(width < 0.2) + usize::from(width < 0.02),
            (true, None) => usize::from(self.of(d.value).abs() < 1000.0),
            (false, width) => places(width.unwrap_or(self.of(d.value).abs()), 2),
        }
    }
}

/// How a difference is shown.
pub fn scale(d: &Difference) -> Scale {
    let (factor, offset, unit, signed) = match (d.kind, d.unit) {
        (Kind::Ratio, _) => (100.0, 1.0, " %", true),
        (Kind::Change, Unit::Share) => (100.0, 0.0, " points", true),
        (_, Unit::Share) => (100.0, 0.0, " %", false),
        (kind, _) => (1.0, 0.0, "", kind == Kind::Change),
    };
    Scale { factor, offset, unit, signed }
}

/// A number with so many significant digits, but all in front of the point.
pub fn digits(value: f64, significant: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    finite(value, places(value, significant), false)
}

fn places(value: f64, significant: usize) -> usize {
    let magnitude = value.abs().max(1e-6).log10().floor();
    (significant as f64 - 1.0 - magnitude).clamp(0.0, 7.0) as usize
}

fn finite(value: f64, places: usize, signed: bool) -> String {
    match value {
        v if v.is_nan() => "not a number".into(),
        v if v.is_infinite() => "infinite".into(),
        // Neither plus nor minus in front of what rounds to zero.
        v if format!("{:.places$}", v.abs()).parse() == Ok(0.0) => format!("{:.places$}", 0.0),
        v if signed => format!("{v:+.places$}"),
        v => format!("{v:.places$}"),
    }
}

/// A chance: `0.03`, `< 0.001`.
pub fn p(p: f64) -> String {
    match p {
        p if p < 0.001 => "< 0.001".into(),
        p if p < 0.1 => format!("{p:.3}"),
        p => format!("{p:.2}"),
    }
}

/// `271.4 MiB`.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `134.5 M`, for counts of parameters.
pub fn count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} B", count as f64 / 1e9),
    }
}

/// `12 of 500 answers changed: 7 lost, 3 gained, 2 moved`.
pub fn flips(flips: &Flips) -> String {
    let Flips { asked, lost, gained, moved, .. } = flips;
    format!("{} of {asked} answers changed: {lost} lost, {gained} gained, {moved} moved", flips.changed())
}

/// What a figure is and was measured on: `accuracy of arc_easy`, `perplexity on wikitext`.
pub fn title(name: &str, on: &crate::report::On) -> String {
    let word = if on.is_task() { "of" } else { "on" };
    format!("{} {word} {}", names::label(name), on.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Facts, Model, On, Tally};

    fn difference_of(kind: Kind, unit: Unit, value: f64, interval: Option<[f64; 2]>) -> Difference {
        let (name, on) = ("perplexity_ratio".into(), On::Text("wiki".into()));
        Difference { name, on, kind, value, interval, p: None, n: None, unit, higher_is_better: false }
    }

    #[test]
    fn differences_are_written_in_their_units() {
        for (kind, unit, value, interval, text) in [
            (Kind::Ratio, Unit::Number, 1.021, Some([1.018, 1.024]), "+2.1 % [1.8, 2.4]"),
            (Kind::Ratio, Unit::Number, 3.5, Some([3.2, 3.8]), "+250 % [220, 280]"),
            (Kind::Ratio, Unit::Number, 1.0, Some([1.0, 1.0]), "0.0 % [0.0, 0.0]"),
            (Kind::Change, Unit::Share, -0.012, Some([-0.02, -0.004]), "-1.2 points [-2.0, -0.4]"),
            (Kind::Agreement, Unit::Share, 0.931, None, "93.1 %"),
            (Kind::Distance, Unit::Nats, 0.01234, Some([0.0112, 0.0134]), "0.0123 [0.0112, 0.0134]"),
            (Kind::Change, Unit::Nats, f64::NAN, None, "not a number"),
        ] {
            assert_eq!(difference(&difference_of(kind, unit, value, interval)), text);
        }
    }

    #[test]
    fn sizes_are_told_as_times() {
        for (before, after, text) in [
            (3600, 1000, "3.6 times smaller"),
            (1100, 1000, "1.10 times smaller"),
            (1000, 1001, "same size"),
            (1000, 1250, "1.25 times larger"),
        ] {
            assert_eq!(times_smaller(before, after), text);
        }
    }

    #[test]
    fn the_verdict_names_size_perplexity_and_facts() {
        let report = Report::new(Model { size_bytes: 3600, ..Model::default() });
        let other = Compressed {
            model: Model { size_bytes: 1000, ..Model::default() },
            differences: vec![difference_of(Kind::Ratio, Unit::Number, 1.021, Some([1.018, 1.024]))],
            facts: Some(Facts {
                all: Tally { asked: 400, known: 300, lost: 14, gained: 3, ..Tally::default() },
                ..Facts::default()
            }),
            ..Compressed::default()
        };
        let text = "3.6 times smaller; perplexity +2.1 % [1.8, 2.4]; 14 of 300 facts lost, 3 gained";
        assert_eq!(verdict(&report, &other), text);
    }

    #[test]
    fn numbers_have_fitting_digits() {
        assert_eq!(digits(23.4567, 4), "23.46");
        assert_eq!(digits(0.000123456, 3), "0.000123");
        assert_eq!(digits(123456.7, 3), "123457");
        assert_eq!((digits(-0.0000000001, 2), digits(0.0, 4)), ("0.0000000".into(), "0".into()));
        assert_eq!((p(0.0001), p(0.0312), p(0.5)), ("< 0.001".into(), "0.031".into(), "0.50".into()));
    }
}
