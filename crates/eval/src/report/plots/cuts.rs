//! Heat maps of scores by layers and dimensions.

use crate::report::Cuts;
use crate::report::plots::heading;
use crate::report::svg::{Anchor, Drawing};
use crate::report::{names, words};

const ROW: f64 = 26.0;
/// Shades from the least score to the most.
const SHADES: usize = 10;
/// From this shade on, figures are set in the colour of the ground.
const DARK: usize = 6;

/// One cell for each cut, darker where it scores more; cells that no smaller cut beats are framed.
pub(in crate::report) fn draw(cuts: &Cuts, width: f64, id: &str) -> String {
    let (left, top) = (46.0, 28.0);
    let (rows, columns) = (cuts.layers.len(), cuts.dims.len());
    let wide = ((width - left) / columns.max(1) as f64).min(96.0);
    let mut drawing = Drawing::new(width, top + ROW * rows as f64 + 40.0);
    let title = format!("{} of {}", names::label(&cuts.name), cuts.on.as_str());
    heading(&mut drawing, width, &title, cuts.higher_is_better);
    let [low, high] = cuts.range().unwrap_or([0.0, 1.0]);
    let frontier = cuts.frontier();
    // The deepest stands at the top.
    let y = |i: usize| top + ROW * (rows - 1 - i) as f64;
    for (i, layers) in cuts.layers.iter().enumerate() {
        drawing.text([left - 8.0, y(i) + 17.0], Anchor::End, "tick", &layers.to_string());
        for (j, dims) in cuts.dims.iter().enumerate() {
            let value = cuts.values[i][j];
            let share = if high > low { (value - low) / (high - low) } else { 1.0 };
            let share = if cuts.higher_is_better { share } else { 1.0 - share };
            let shade = ((share * SHADES as f64) as usize).min(SHADES - 1);
            let x = left + wide * j as f64;
            let said = words::digits(value, 4);
            let title = format!("{layers} layers, {dims} dimensions: {said}");
            let front = if frontier.contains(&(i, j)) { " front" } else { "" };
            let inset = if front.is_empty() { 0.5 } else { 1.5 };
            let size = [wide - 2.0 * inset, ROW - 2.0 * inset];
            drawing.rect([x + inset, y(i) + inset], size, &format!("heat h{shade}{front}"), &title);
            if wide > 44.0 {
                let class = if shade >= DARK { "tick on" } else { "tick off" };
                drawing.text([x + wide / 2.0, y(i) + 17.0], Anchor::Middle, class, &said);
            }
        }
    }
    let below = top + ROW * rows as f64;
    for (j, dims) in cuts.dims.iter().enumerate() {
        drawing.text([left + wide * (j as f64 + 0.5), below + 16.0], Anchor::Middle, "tick", &dims.to_string());
    }
    drawing.text([left + wide * columns as f64 / 2.0, below + 34.0], Anchor::Middle, "tick", "dimensions");
    // In the corner where both scales begin.
    drawing.text([left - 8.0, below + 16.0], Anchor::End, "tick", "layers");
    let about = "One cell for each number of layers and dimensions, darker where the score is better. Framed are the cuts that \
                 score more than everything smaller.";
    drawing.finish(id, &format!("{title}, by layers and dimensions"), about)
}
