//! Differences from the reference as dots with whiskers, on one scale with a line at no difference.

use crate::report::plots::{CHARACTER, Frame, heading, letter, series, verticals};
use crate::report::svg::{Anchor, Axis, Drawing, shortened};
use crate::report::{Difference, Report, words};

/// A figure of all models.
pub(in crate::report) struct Row<'a> {
    /// The figure.
    pub label: String,
    /// The number of each model, counted from 1, and its difference.
    pub marks: Vec<(usize, &'a Difference)>,
}

/// Rows that share a scale.
#[derive(Clone, Copy)]
pub(in crate::report) struct Panel {
    pub title: &'static str,
    pub axis: &'static str,
    pub higher_is_better: bool,
}

const TOP: f64 = 26.0;
const LINE: f64 = 18.0;
const GAP: f64 = 12.0;

/// Rows that share a scale: changes of perplexity in percent, of tasks in points, or of correlations as they are.
pub(in crate::report) fn draw(report: &Report, rows: &[Row<'_>], panel: Panel, width: f64, id: &str) -> String {
    let Panel { title, axis: said, higher_is_better } = panel;
    let wide = width > 500.0;
    let (left, right) = if wide { (250.0, width - 160.0) } else { (28.0, width - 8.0) };
    let head = if wide { 0.0 } else { LINE };
    let heights: Vec<f64> = rows.iter().map(|row| head + LINE * row.marks.len() as f64 + GAP).collect();
    let bottom = TOP + heights.iter().sum::<f64>();
    let frame = Frame { left, right, top: TOP, bottom };

    let shown = |d: &Difference, value: f64| words::scale(d).of(value);
    let all = rows.iter().flat_map(|row| &row.marks);
    let ends = all.flat_map(|(_, d)| d.interval.into_iter().flatten().chain([d.value]).map(|value| shown(d, value)));
    let axis = Axis::around(ends, left, right).with(0.0);

    let mut drawing = Drawing::new(width, bottom + 40.0);
    heading(&mut drawing, width, title, higher_is_better);
    verticals(&mut drawing, frame, &axis, if wide { 6 } else { 4 });
    drawing.line([axis.at(0.0), TOP], [axis.at(0.0), bottom], "zero");
    drawing.text([(left + right) / 2.0, bottom + 34.0], Anchor::Middle, "tick", said);
    let mut top = TOP + 4.0;
    for (row, height) in rows.iter().zip(heights) {
        let room = if wide { 210.0 } else { width } / CHARACTER;
        drawing.text([0.0, top + 14.0], Anchor::Start, "label", &shortened(&row.label, room as usize));
        for (line, (n, d)) in row.marks.iter().enumerate() {
            let y = top + head + LINE * (line as f64 + 0.5) + 1.0;
            let name = &report.others[n - 1].model.name;
            let about = format!("{name}: {} {}", row.label, words::difference(d));
            if report.others.len() > 1 {
                drawing.text([left - 10.0, y + 4.0], Anchor::End, "key", &letter(report, *n));
            }
            if let Some([low, high]) = d.interval {
                let ends = [low, high].map(|end| axis.at(shown(d, end)));
                drawing.line([ends[0], y], [ends[1], y], &format!("whisker {}", series(*n)));
            }
            if d.value.is_finite() {
                let filled = if d.is_clear().unwrap_or(true) { "" } else { "hollow " };
                let place = [axis.at(shown(d, d.value)), y];
                drawing.mark(n - 1, place, &format!("mark {filled}{}", series(*n)), &about);
            }
            if wide {
                let (value, interval) = words::parts_of(d);
                let text = format!("{value} {interval}");
                drawing.text([width, y + 4.0], Anchor::End, "tick", &text);
            }
        }
        top += height;
        if top < bottom - 5.0 {
            drawing.line([0.0, top - GAP / 2.0], [width, top - GAP / 2.0], "rule");
        }
    }
    let about = "Each mark is the change of one model against the reference, each line its interval. A filled mark has an interval \
                 that leaves out no change, a hollow one could be chance. The table below has the numbers.";
    drawing.finish(id, title, about)
}
