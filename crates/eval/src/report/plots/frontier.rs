//! Models as points of size and quality, the best of them joined by a line.

use crate::report::frontier::{Metric, Point, frontier};
use crate::report::plots::{CHARACTER, Frame, heading, horizontals, letter, series, verticals};
use crate::report::svg::{Anchor, Axis, Drawing, shortened};
use crate::report::{Report, Unit, words};

/// The drawing, for a page under this id, or as a file of its own.
pub(in crate::report) fn draw(report: &Report, metric: &Metric, width: f64, id: Option<&str>) -> String {
    let points = frontier(report, metric);
    let wide = width > 500.0;
    let height = if wide { 380.0 } else { 240.0 };
    let frame = Frame { left: 52.0, right: width - 14.0, top: 28.0, bottom: height - 44.0 };
    let share = points.first().is_some_and(|point| point.score.unit == Unit::Share);
    let scale = if share { 100.0 } else { 1.0 };
    let most = points.iter().map(|point| point.size_bytes).max().unwrap_or(0);
    let (unit, divisor) = if most < 1 << 30 { ("MiB", 1 << 20) } else { ("GiB", 1 << 30) };
    let size = |point: &Point<'_>| point.size_bytes as f64 / f64::from(divisor);
    let ends = |point: &Point<'_>| {
        let error = 1.96 * point.score.error.unwrap_or(0.0);
        [point.score.value - error, point.score.value + error].map(|value| scale * value)
    };
    let across = Axis::around_or_log(points.iter().map(size).collect::<Vec<_>>(), frame.left, frame.right);
    let up = Axis::around_or_log(points.iter().flat_map(ends).collect::<Vec<_>>(), frame.bottom, frame.top);

    let mut drawing = Drawing::new(width, height);
    horizontals(&mut drawing, frame, &up, 6);
    verticals(&mut drawing, frame, &across, if wide { 7 } else { 4 });
    let percent = if share { " in %" } else { "" };
    let title = format!("{}{percent}", words::title(&metric.name, &metric.on));
    // What it was measured on tells small drawings apart.
    let head = if wide { title.clone() } else { format!("{}{percent}", metric.on.as_str()) };
    heading(&mut drawing, width, &head, metric.higher_is_better);
    drawing.text([(frame.left + frame.right) / 2.0, height - 8.0], Anchor::Middle, "tick", &format!("size, {unit}"));
    let place = |point: &Point<'_>| [across.at(size(point)), up.at(scale * point.score.value)];
    let best: Vec<[f64; 2]> = points.iter().filter(|point| point.best).map(place).collect();
    drawing.path(&best, "best");
    for point in &points {
        let [x, y] = place(point);
        let colour = series(point.number);
        if point.score.error.is_some() {
            let [low, high] = ends(point).map(|value| up.at(value));
            drawing.line([x, low], [x, high], &format!("whisker {colour}"));
        }
        let said =
            format!("{}: {} at {}", point.model, words::score_with_error(point.score), words::bytes(point.size_bytes));
        let hollow = if point.best { "" } else { "hollow " };
        drawing.mark(point.number.saturating_sub(1), [x, y], &format!("mark {hollow}{colour}"), &said);
    }
    let mut taken: Vec<[f64; 4]> =
        points.iter().map(place).map(|[x, y]| [x - 6.0, y - 6.0, x + 6.0, y + 6.0]).collect();
    for point in &points {
        let key = letter(report, point.number);
        let text = match wide && id.is_none() {
            true => shortened(point.model, 34),
            false if wide => format!("{key}  {}", shortened(point.model, 28)),
            false => key,
        };
        let (at, anchor) = free_place(place(point), CHARACTER * text.chars().count() as f64, frame, &mut taken);
        drawing.text(at, anchor, "key", &text);
    }
    let about = "Each mark is a model, its place across the size of its weight files, its place up the score, with a line of 1.96 \
                 standard errors to both sides. Filled marks are joined: of these, none is beaten in both size and score.";
    let title = format!("Quality against size: {title}");
    match id {
        Some(id) => drawing.finish(id, &title, about),
        None => drawing.standalone(&title, about),
    }
}

/// A place beside a mark at which a text hides neither marks nor other texts: right, left, above, below, then farther off.
fn free_place([x, y]: [f64; 2], long: f64, frame: Frame, taken: &mut Vec<[f64; 4]>) -> ([f64; 2], Anchor) {
    let mut places = Vec::new();
    for off in [0.0, 14.0, 28.0, 42.0] {
        places.extend([
            ([x + 9.0, y + 4.0 - off], Anchor::Start),
            ([x - 9.0, y + 4.0 - off], Anchor::End),
            ([x + 9.0, y + 4.0 + off], Anchor::Start),
            ([x - 9.0, y + 4.0 + off], Anchor::End),
        ]);
    }
    let outline = |([x, y], anchor): &([f64; 2], Anchor)| {
        let left = if matches!(anchor, Anchor::End) { x - long } else { *x };
        [left, y - 10.0, left + long, y + 3.0]
    };
    let inside =
        |b: &[f64; 4]| b[0] >= 0.0 && b[2] <= frame.right + 14.0 && b[1] >= frame.top - 8.0 && b[3] <= frame.bottom;
    let hits = |b: &[f64; 4]| taken.iter().any(|t| b[0] < t[2] && t[0] < b[2] && b[1] < t[3] && t[1] < b[3]);
    let free = places.iter().find(|place| inside(&outline(place)) && !hits(&outline(place)));
    let chosen = *free.unwrap_or(&places[0]);
    taken.push(outline(&chosen));
    chosen
}
