//! How error grows through the blocks: one curve for each model.

use crate::report::plots::{Frame, heading, horizontals, letter, series};
use crate::report::svg::{Anchor, Axis, Drawing};
use crate::report::{Layer, Report, words};

/// A figure of layers that is 0 where two models are equal.
#[derive(Clone, Copy)]
pub(in crate::report) struct Curve {
    /// Its name.
    pub title: &'static str,
    /// Its value at a place.
    pub of: fn(&Layer) -> Option<f64>,
}

/// What can be drawn, all of them distances so that more is always worse.
pub(in crate::report) const CURVES: [Curve; 3] = [
    Curve { title: "relative error", of: |layer| layer.relative_error },
    Curve { title: "1 \u{2212} cosine", of: |layer| layer.cosine.map(|cosine| 1.0 - cosine) },
    Curve { title: "1 \u{2212} CKA", of: |layer| layer.cka.map(|cka| 1.0 - cka) },
];

/// The curves of all models that have values.
pub(in crate::report) fn draw(report: &Report, curve: Curve, width: f64, id: &str) -> String {
    let height = if width > 500.0 { 340.0 } else { 240.0 };
    let frame = Frame { left: 46.0, right: width - 24.0, top: 28.0, bottom: height - 40.0 };
    let values = || report.others.iter().flat_map(|other| other.layers.iter().filter_map(curve.of));
    // What rounding leaves of zero would stretch a scale by powers of ten without end.
    let most = values().filter(|value| value.is_finite()).fold(0.0, f64::max);
    let drawn: Vec<f64> = values().filter(|value| *value > 1e-6 * most).collect();
    let axis = Axis::around_or_log(drawn, frame.bottom, frame.top);
    let axis = if axis.is_log() { axis } else { axis.with(0.0) };
    let Some(longest) = report.others.iter().map(|other| &other.layers).max_by_key(|layers| layers.len()) else {
        return String::new();
    };
    let step = (frame.right - frame.left) / (longest.len().max(2) - 1) as f64;
    let x = |n: usize| frame.left + step * n as f64;

    let mut drawing = Drawing::new(width, height);
    heading(&mut drawing, width, curve.title, false);
    horizontals(&mut drawing, frame, &axis, 5);
    let every = (longest.len() as f64 / ((frame.right - frame.left) / 52.0)).ceil().max(1.0) as usize;
    for (n, layer) in longest.iter().enumerate().step_by(every) {
        let place = layer.place.strip_prefix("blocks.").unwrap_or(&layer.place);
        drawing.text([x(n), frame.bottom + 16.0], Anchor::Middle, "tick", place);
    }
    drawing.text([(frame.left + frame.right) / 2.0, height - 6.0], Anchor::Middle, "tick", "block");
    let mut ends: Vec<(f64, usize)> = Vec::new();
    for (n, other) in report.others.iter().enumerate().map(|(n, other)| (n + 1, other)) {
        let points: Vec<(usize, &Layer, f64)> = other
            .layers
            .iter()
            .enumerate()
            .filter_map(|(at, l)| Some((at, l, (curve.of)(l).filter(|v| v.is_finite())?)))
            .collect();
        let places: Vec<[f64; 2]> = points.iter().map(|&(at, _, value)| [x(at), axis.at(value)]).collect();
        drawing.path(&places, &format!("curve d{} {}", (n - 1) % 6, series(n)));
        let apart = (points.len() / 8).max(1);
        for (&(at, layer, value), place) in points.iter().zip(&places) {
            // Marks of different models at different places, so that they do not hide each other.
            if at % apart == (n * 2) % apart || points.len() < 9 {
                let said = format!("{}, {}: {}", other.model.name, layer.place, words::digits(value, 3));
                drawing.mark(n - 1, *place, &format!("mark {}", series(n)), &said);
            }
        }
        ends.extend(places.last().map(|place| (place[1], n)));
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = frame.top;
    for (y, n) in ends.into_iter().filter(|_| report.others.len() > 1) {
        let y = y.max(free);
        free = y + 13.0;
        drawing.text([frame.right + 8.0, y + 4.0], Anchor::Start, &format!("key {}", series(n)), &letter(report, n));
    }
    let scale = if axis.is_log() { "The scale goes by powers of ten. " } else { "" };
    let about =
        format!("One curve for each model, from the first block to the last. {scale}The table below has the numbers.");
    drawing.finish(id, &format!("Error of hidden states by layer: {}", curve.title), &about)
}
