//! The layer curve: how far the hidden states of two models are apart behind each stage, and so where damage begins.

mod cka;

use brevity_model::{Place, Stages};
use brevity_runtime::Boundary;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::measure::HiddenMeasure;
use crate::run::{Observer, Options, compare_hidden};
use crate::stats::{Estimate, Samples};
use crate::sts::cosine;
use crate::windows::Windows;

use cka::Hsic;

/// Rows of all windows together that CKA looks at, if that leaves each between [`ROWS_OF_WINDOW`].
const ROWS: usize = 1024;

/// How few and how many rows of a window CKA looks at.
const ROWS_OF_WINDOW: [usize; 2] = [64, 512];

/// How far hidden states are apart behind one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerPoint {
    /// The stage: `embed`, `blocks.3`; `head` stands for what is behind the last norm.
    pub place: String,
    /// The mean over tokens of `‖after - before‖ / ‖before‖`. None if the models differ in width.
    pub relative_error: Option<Estimate>,
    /// The mean over tokens of the cosine of the two states. None if the models differ in width.
    pub cosine: Option<Estimate>,
    /// Linear centred kernel alignment, debiased: 1 if the states are the same but for a rotation and a factor. None if
    /// there are too few tokens to tell.
    pub cka: Option<Estimate>,
}

/// The layer curve of two models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerCurve {
    /// Width of each model.
    pub widths: [usize; 2],
    /// Blocks of each model. If one has more, they are compared by position as far as both have them, and then again
    /// behind the last norm.
    pub blocks: [usize; 2],
    /// Stage by stage.
    pub points: Vec<LayerPoint>,
}

/// Compares the hidden states of two models on their way.
///
/// The first token of each window is left out: in many models its states are hundreds of times longer than all others,
/// so that it alone would decide. Standard errors take windows as independent.
///
/// CKA is computed in batches, one for each window, of at most 512 evenly spread rows, so that nothing is kept.
///
/// # Source
/// Kornblith et al. 2019, arXiv:1905.00414 (CKA); Nguyen, Raghu and Kornblith 2021, arXiv:2010.15327, equations 2 and 3
/// (batches, with the unbiased estimator of Song et al. 2012, JMLR 13).
#[derive(Debug)]
pub struct Layers {
    rows: usize,
    widths: [usize; 2],
    blocks: [usize; 2],
    seen: Vec<(Place, Seen)>,
}

/// What was seen at one place.
#[derive(Debug, Default)]
struct Seen {
    error: Samples,
    cosine: Samples,
    alignment: Vec<Hsic>,
}

impl Layers {
    /// Nothing seen yet of two models that will run these windows.
    pub fn new(models: [&dyn Stages; 2], windows: &Windows) -> Layers {
        let [least, most] = ROWS_OF_WINDOW;
        let rows = (ROWS / windows.windows.len().max(1)).clamp(least, most);
        let widths = models.map(|model| model.model().hidden);
        let is_block = |model: &&dyn Stages| {
            let model = model.model();
            (0..model.stages.len()).filter(|&n| matches!(model.place(n), Place::Block(_))).count()
        };
        Layers { rows, widths, blocks: [is_block(&models[0]), is_block(&models[1])], seen: Vec::new() }
    }

    /// The curve.
    ///
    /// # Errors
    /// [`Error::Nothing`] if nothing was seen.
    pub fn report(&self) -> Result<LayerCurve> {
        let point = |(place, seen): &(Place, Seen)| LayerPoint {
            place: place.to_string(),
            relative_error: seen.error.mean(),
            cosine: seen.cosine.mean(),
            cka: cka::alignment(&seen.alignment),
        };
        let points: Vec<LayerPoint> = self.seen.iter().map(point).collect();
        if points.is_empty() {
            Err(Error::Nothing)
        } else {
            Ok(LayerCurve { widths: self.widths, blocks: self.blocks, points })
        }
    }
}

impl HiddenMeasure for Layers {
    fn observe(&mut self, boundary: &Boundary<'_>) -> Result<()> {
        let [before, after] = boundary.hidden else { return Ok(()) };
        let at = self.seen.iter().position(|(place, _)| *place == boundary.place).unwrap_or_else(|| {
            self.seen.push((boundary.place, Seen::default()));
            self.seen.len() - 1
        });
        let seen = &mut self.seen[at].1;
        let [left, right] = [before, after].map(|hidden| hidden.len() / boundary.tokens);
        if left == right {
            let tokens = || before.chunks_exact(left).zip(after.chunks_exact(left)).skip(1);
            let errors: Vec<f64> = tokens().filter_map(|(before, after)| relative_error(before, after)).collect();
            let cosines: Vec<f64> = tokens().map(|(before, after)| cosine(before, after)).collect();
            seen.error.extend(boundary.window, &errors);
            seen.cosine.extend(boundary.window, &cosines);
        }
        let rows = spread(1..boundary.tokens, self.rows);
        seen.alignment.extend(Hsic::of(&pick(before, left, &rows), &pick(after, right, &rows), rows.len()));
        Ok(())
    }
}

/// `‖after - before‖ / ‖before‖`; none if there is nothing to divide by.
fn relative_error(before: &[f32], after: &[f32]) -> Option<f64> {
    let square = |x: f64| x * x;
    let apart: f64 = before.iter().zip(after).map(|(&b, &a)| square(f64::from(a) - f64::from(b))).sum();
    let length: f64 = before.iter().map(|&b| square(f64::from(b))).sum();
    (length > 0.0).then(|| (apart / length).sqrt())
}

/// At most so many of some rows, evenly spread.
fn spread(rows: std::ops::Range<usize>, most: usize) -> Vec<usize> {
    let count = rows.len().min(most);
    (0..count).map(|i| rows.start + i * rows.len() / count).collect()
}

fn pick(matrix: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| &matrix[row * width..][..width]).copied().collect()
}

/// The layer curve of two models on windows, without anything else.
///
/// # Errors
/// As [`compare_hidden`].
pub fn layer_curve(
    models: [&dyn Stages; 2],
    windows: &Windows,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<LayerCurve> {
    let mut layers = Layers::new(models, windows);
    compare_hidden(models, windows, &mut [&mut layers], options, observer)?;
    layers.report()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        Layers { rows: 64, widths: [2, 2], blocks: [1, 1], seen: Vec::new() }
    }

    #[test]
    fn errors_and_cosines_are_known_by_hand() {
        let mut layers = layers();
        // The first token does not count; the second is turned by a right angle, the third doubled.
        let (before, after) = ([9.0, 9.0, 3.0, 4.0, 1.0, 0.0], [0.0, 0.0, -4.0, 3.0, 2.0, 0.0]);
        let hidden: [&[f32]; 2] = [&before, &after];
        for window in 0..2 {
            layers.observe(&Boundary { place: Place::Block(0), window, hidden: &hidden, tokens: 3 }).unwrap();
        }
        let curve = layers.report().unwrap();
        let point = &curve.points[0];
        assert_eq!(point.place, "blocks.0");
        let error = point.relative_error.unwrap();
        assert!((error.value - (2f64.sqrt() + 1.0) / 2.0).abs() < 1e-12);
        assert_eq!(error.error, Some(0.0));
        assert_eq!(point.cosine.unwrap().value, 0.5);
        assert_eq!(point.cka, None);
        assert!(matches!(self::layers().report(), Err(Error::Nothing)));
    }

    #[test]
    fn rows_are_spread_evenly() {
        assert_eq!(spread(1..9, 4), [1, 3, 5, 7]);
        assert_eq!(spread(1..4, 8), [1, 2, 3]);
        assert!(spread(1..1, 8).is_empty());
    }
}
