//! Bars of sizes, one for each model, by part.

use crate::report::plots::{CHARACTER, letter};
use crate::report::svg::{Anchor, Drawing, shortened};
use crate::report::{Report, words};

const ROW: f64 = 54.0;
const BAR: f64 = 24.0;

/// All models on one scale.
pub(in crate::report) fn draw(report: &Report, width: f64, id: &str) -> String {
    let most = report.models().map(|model| model.size_bytes.max(model.parts.total())).max().unwrap_or(0).max(1) as f64;
    let mut drawing = Drawing::new(width, ROW * report.models().count() as f64);
    for (n, model) in report.models().enumerate() {
        let top = ROW * n as f64;
        let total = match n {
            0 => words::bytes(model.size_bytes),
            _ => {
                let times = words::times_smaller(report.reference.size_bytes, model.size_bytes);
                format!("{}, {times}", words::bytes(model.size_bytes))
            }
        };
        let room = width / CHARACTER - total.chars().count() as f64 - 6.0;
        let key = if report.others.len() > 1 { letter(report, n) } else { String::new() };
        drawing.text([0.0, top + 14.0], Anchor::Start, "key", &key);
        drawing.text(
            [if key.is_empty() { 0.0 } else { 26.0 }, top + 14.0],
            Anchor::Start,
            "label",
            &shortened(&model.name, room.max(8.0) as usize),
        );
        drawing.text([width, top + 14.0], Anchor::End, "tick", &total);
        let mut x = 0.0;
        for (part, (name, bytes)) in model.parts.named().into_iter().enumerate().filter(|(_, (_, bytes))| *bytes > 0) {
            let long = width * bytes as f64 / most;
            let share = 100.0 * bytes as f64 / model.parts.total() as f64;
            let title = format!("{name}: {} ({share:.1} %)", words::bytes(bytes));
            drawing.rect([x, top + 20.0], [(long - 1.0).max(0.5), BAR], &format!("part p{part}"), &title);
            if long > CHARACTER * name.len() as f64 + 8.0 {
                drawing.text([x + 5.0, top + 36.0], Anchor::Start, "inside", name);
            }
            x += long;
        }
    }
    let about = "One bar for each model, its length the bytes of its weight files, divided by part. The table below has the \
                 numbers.";
    drawing.finish(id, "Size by part", about)
}
