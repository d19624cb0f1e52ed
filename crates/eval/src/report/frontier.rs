//! Quality against size: which models are worth their bytes.
//!
//! A model is on the frontier if no other is at least as small and at least as good, and better in one of the two.

use crate::report::{Measured, On, Report, Table, plots, words};

/// A score that models are compared by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name: `perplexity`.
    pub name: String,
    /// What it is measured on.
    pub on: On,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// A model as a point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point<'a> {
    /// Its number in the report: 0 is the reference.
    pub number: usize,
    /// The model.
    pub model: &'a str,
    /// How large it is.
    pub size_bytes: u64,
    /// How good it is.
    pub score: &'a Measured,
    /// Whether it is on the frontier.
    pub best: bool,
}

/// What models can be compared by: perplexity on each text, and the first score of each task, where at least two models
/// have them.
pub fn metrics(report: &Report) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for score in report.models().flat_map(|model| &model.scores) {
        let wanted = score.on.is_task() || score.name.starts_with("perplexity") || score.name == "bits_per_byte";
        let seen = metrics.iter().any(|m| m.on == score.on && (m.on.is_task() || m.name == score.name));
        if wanted && !seen {
            let Measured { name, on, higher_is_better, .. } = score.clone();
            metrics.push(Metric { name, on, higher_is_better });
        }
    }
    metrics.retain(|metric| frontier(report, metric).len() > 1);
    metrics
}

/// The models that have the score, from small to large.
pub fn frontier<'a>(report: &'a Report, metric: &Metric) -> Vec<Point<'a>> {
    let mut points: Vec<Point<'a>> = Vec::new();
    for (number, model) in report.models().enumerate() {
        let score = model.scores.iter().find(|s| s.name == metric.name && s.on == metric.on && s.value.is_finite());
        points.extend(score.map(|score| Point {
            number,
            model: &model.name,
            size_bytes: model.size_bytes,
            score,
            best: true,
        }));
    }
    let good = |point: &Point<'_>| if metric.higher_is_better { point.score.value } else { -point.score.value };
    let beaten: Vec<bool> = points
        .iter()
        .map(|one| {
            points.iter().any(|other| {
                let (size, quality) = (other.size_bytes <= one.size_bytes, good(other) >= good(one));
                size && quality && (other.size_bytes < one.size_bytes || good(other) > good(one))
            })
        })
        .collect();
    points.iter_mut().zip(beaten).for_each(|(point, beaten)| point.best = !beaten);
    points.sort_by_key(|point| (point.size_bytes, point.number));
    points
}

/// The frontier as a drawing that is a file of its own.
pub fn frontier_svg(report: &Report, metric: &Metric) -> String {
    plots::frontier::draw(report, metric, plots::WIDE, None)
}

/// The frontier as rows, from small to large.
pub fn frontier_table(report: &Report, metric: &Metric) -> Table {
    let header = ["model", "size", "", "bits per weight", &words::title(&metric.name, &metric.on), "frontier"];
    let row = |point: Point<'_>| {
        let model = report.models().nth(point.number).expect("points are models");
        let times = match point.number {
            0 => "reference".to_owned(),
            _ => words::times_smaller(report.reference.size_bytes, point.size_bytes),
        };
        vec![
            point.model.to_owned(),
            words::bytes(point.size_bytes),
            times,
            format!("{:.2}", model.bits_per_weight),
            words::score_with_error(point.score),
            if point.best { "yes".into() } else { String::new() },
        ]
    };
    let rows = frontier(report, metric).into_iter().map(row).collect();
    Table { header: header.map(str::to_owned).to_vec(), right: vec![1, 3, 4], rows }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Compressed, Model, Unit};

    fn report(name: &str, higher_is_better: bool, models: &[(u64, f64)]) -> Report {
        let model = |&(size_bytes, value): &(u64, f64)| Model {
            name: format!("{size_bytes}"),
            size_bytes,
            scores: vec![Measured {
                name: name.into(),
                on: On::Text("wiki".into()),
                value,
                error: Some(0.1),
                n: None,
                unit: Unit::Number,
                higher_is_better,
            }],
            ..Model::default()
        };
        let mut report = Report::new(model(&models[0]));
        report.others = models[1..].iter().map(|m| Compressed { model: model(m), ..Compressed::default() }).collect();
        report
    }

    fn best(report: &Report) -> Vec<u64> {
        let [metric] = &metrics(report)[..] else { panic!("one metric") };
        frontier(report, metric).iter().filter(|point| point.best).map(|point| point.size_bytes).collect()
    }

    #[test]
    fn a_model_that_another_beats_in_both_is_not_on_the_frontier() {
        // 500 is larger and worse than 400; 400 and 300 each have something for them.
        let lower = report("perplexity", false, &[(1000, 10.0), (500, 13.0), (400, 12.0), (300, 15.0)]);
        assert_eq!(best(&lower), [300, 400, 1000]);
        let higher = report("bits_per_byte", true, &[(1000, 10.0), (500, 13.0), (400, 12.0), (300, 15.0)]);
        assert_eq!(best(&higher), [300]);
    }

    #[test]
    fn equals_are_both_on_the_frontier_and_what_is_no_number_is_not_shown() {
        let report = report("perplexity", false, &[(1000, 10.0), (1000, 10.0), (400, f64::NAN)]);
        assert_eq!(best(&report), [1000, 1000]);
        let table = frontier_table(&report, &metrics(&report)[0]);
        assert_eq!(table.rows[0], ["1000", "1000 B", "reference", "0.00", "10.00 ± 0.10", "yes"]);
    }

    #[test]
    fn a_drawing_stands_alone() {
        let report = report("perplexity", false, &[(1000, 10.0), (500, 13.0)]);
        let svg = frontier_svg(&report, &metrics(&report)[0]);
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.contains("prefers-color-scheme"));
        assert!(svg.contains("<title>1000: 10.00 ± 0.10 at 1000 B</title>"), "{svg}");
    }
}
