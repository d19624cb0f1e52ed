//! The drawings of a report. Each is drawn at two widths, since text in a drawing that shrinks with a phone cannot be read.

pub(super) mod cuts;
pub(super) mod forest;
pub(super) mod frontier;
pub(super) mod layers;
pub(super) mod sizes;

use crate::report::Report;
use crate::report::svg::{Anchor, Axis, Drawing, shortened};

/// The width of drawings on a page.
pub(super) const WIDE: f64 = 900.0;
/// The width of drawings on a phone, and of two side by side.
pub(super) const NARROW: f64 = 340.0;
/// The width of three side by side.
pub(super) const SMALL: f64 = 280.0;
/// The width of a character of the text in drawings, on the safe side.
const CHARACTER: f64 = 7.2;

/// Places kept for lettering inside a drawing, and what remains for data.
#[derive(Clone, Copy)]
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// The letter that stands for a model in drawings: none for the reference, which is number 0, and for a single other.
pub(super) fn letter(report: &Report, n: usize) -> String {
    match n {
        0 => "ref".into(),
        n if report.others.len() <= 26 => char::from(b'A' + (n - 1) as u8).to_string(),
        n => n.to_string(),
    }
}

/// The class of the colour of a model; there are six, after which shapes and letters tell models apart.
pub(super) fn series(n: usize) -> String {
    if n == 0 { "s0".into() } else { format!("s{}", (n - 1) % 6 + 1) }
}

/// The mark of a model, for a line of text.
pub(super) fn mark(n: usize) -> String {
    let mut drawing = Drawing::new(14.0, 14.0);
    drawing.mark(n.saturating_sub(1), [7.0, 7.0], &format!("mark {}", series(n)), "");
    drawing.decoration()
}

/// What a drawing shows, above it, and which way is better.
fn heading(drawing: &mut Drawing, width: f64, text: &str, higher_is_better: bool) {
    let better = if higher_is_better { "\u{2191} better" } else { "\u{2193} better" };
    drawing.text([0.0, 12.0], Anchor::Start, "label", &shortened(text, ((width - 60.0) / CHARACTER) as usize));
    drawing.text([width, 12.0], Anchor::End, "tick", better);
}

/// Lines across at round values of the vertical axis, with the values at their left.
fn horizontals(drawing: &mut Drawing, frame: Frame, axis: &Axis, about: usize) {
    for (value, text) in axis.ticks(about) {
        let y = axis.at(value);
        drawing.line([frame.left, y], [frame.right, y], "grid");
        drawing.text([frame.left - 6.0, y + 4.0], Anchor::End, "tick", &text);
    }
}

/// Lines up at round values of the horizontal axis, with the values below.
fn verticals(drawing: &mut Drawing, frame: Frame, axis: &Axis, about: usize) {
    for (value, text) in axis.ticks(about) {
        let x = axis.at(value);
        drawing.line([x, frame.top], [x, frame.bottom], "grid");
        drawing.text([x, frame.bottom + 16.0], Anchor::Middle, "tick", &text);
    }
}
