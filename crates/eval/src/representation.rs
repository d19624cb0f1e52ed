//! Representation fidelity: whether a model still finds the same texts alike, whatever its width.
//!
//! A sample is a run of [`RUN`] tokens, its embedding the mean of the last hidden states. Two models are compared by
//! what each says of the samples among themselves, so a rotation or a factor changes nothing, and widths may differ.

mod compare;

use brevity_model::{Place, Stages};
use brevity_runtime::Boundary;

use crate::error::{Error, Result};
use crate::measure::HiddenMeasure;
use crate::run::{Observer, Options, compare_hidden};
use crate::windows::Windows;

pub use compare::{Alikeness, Choice, Representation, representation};

/// Tokens of a sample.
pub const RUN: usize = 32;

/// More samples than this are thinned out evenly: neighbours are found by looking at all pairs.
pub const MOST_SAMPLES: usize = 2048;

/// Embeddings of samples, `[samples, width]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// Columns.
    pub width: usize,
    /// Row by row.
    pub values: Vec<f32>,
}

impl Embeddings {
    /// How many there are.
    pub fn samples(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// One of them.
    pub fn row(&self, sample: usize) -> &[f32] {
        &self.values[sample * self.width..][..self.width]
    }
}

/// Embeds runs of the windows that two models pass through: the mean over each whole run of the states behind the last
/// norm. A shorter run at the end of a window is left out.
#[derive(Debug)]
pub struct Samples {
    every: usize,
    runs: usize,
    embeddings: [Embeddings; 2],
}

impl Samples {
    /// Nothing seen yet of models that will run these windows.
    pub fn new(windows: &Windows) -> Samples {
        let last = usize::from(!windows.runs_last());
        let runs: usize = windows.windows.iter().map(|window| (window.len() - last) / RUN).sum();
        Samples { every: runs.div_ceil(MOST_SAMPLES).max(1), runs: 0, embeddings: Default::default() }
    }

    /// What the models say of the samples.
    ///
    /// # Errors
    /// [`Error::Nothing`] if there are too few to compare: about 30 are needed.
    pub fn report(&self, choice: &Choice) -> Result<Representation> {
        let [before, after] = &self.embeddings;
        representation(before, after, choice).ok_or(Error::Nothing)
    }

    /// The embeddings of both models.
    pub fn embeddings(&self) -> &[Embeddings; 2] {
        &self.embeddings
    }
}

impl HiddenMeasure for Samples {
    fn observe(&mut self, boundary: &Boundary<'_>) -> Result<()> {
        if boundary.place != Place::Head {
            return Ok(());
        }
        for run in 0..boundary.tokens / RUN {
            if (self.runs + run).is_multiple_of(self.every) {
                for (embeddings, hidden) in self.embeddings.iter_mut().zip(boundary.hidden) {
                    embeddings.width = hidden.len() / boundary.tokens;
                    let width = embeddings.width;
                    embeddings.values.extend(mean_row(&hidden[run * RUN * width..][..RUN * width], width));
                }
            }
        }
        self.runs += boundary.tokens / RUN;
        Ok(())
    }
}

fn mean_row(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0f64; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
    }
    let count = (rows.len() / width) as f64;
    sum.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// Compares what two models say of the runs of windows, without anything else.
///
/// # Errors
/// As [`compare_hidden`], and [`Error::Nothing`] if there are too few runs.
pub fn compare_representations(
    models: [&dyn Stages; 2],
    windows: &Windows,
    choice: &Choice,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Representation> {
    let mut samples = Samples::new(windows);
    compare_hidden(models, windows, &mut [&mut samples], options, observer)?;
    samples.report(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_the_mean_of_a_run() {
        let windows = Windows::cut("t", &[0; 70], 70, None).unwrap();
        let mut samples = Samples::new(&windows);
        // Two runs and six tokens: the first is all (1, 0), the second half (0, 2) and half (0, 4).
        let rows = |t: usize| {
            if t < 32 {
                [1.0, 0.0]
            } else if t < 48 {
                [0.0, 2.0]
            } else {
                [0.0, 4.0]
            }
        };
        let hidden: Vec<f32> = (0..70).flat_map(rows).collect();
        let both: [&[f32]; 2] = [&hidden, &hidden];
        for place in [Place::Block(0), Place::Head] {
            samples.observe(&Boundary { place, window: 0, hidden: &both, tokens: 70 }).unwrap();
        }
        let [before, after] = samples.embeddings();
        assert_eq!((before.samples(), before.row(0), before.row(1)), (2, &[1.0, 0.0][..], &[0.0, 3.0][..]));
        assert_eq!(before, after);
        assert!(matches!(samples.report(&Choice::default()), Err(Error::Nothing)));
    }

    #[test]
    fn too_many_samples_are_thinned_out() {
        let windows = Windows::cut("t", &vec![0; 3 * 64 * RUN * 32], 64 * RUN, None).unwrap();
        let mut samples = Samples::new(&windows);
        let hidden = vec![1.0; 64 * RUN];
        let both: [&[f32]; 2] = [&hidden, &hidden];
        for window in 0..windows.windows.len() {
            samples.observe(&Boundary { place: Place::Head, window, hidden: &both, tokens: 64 * RUN }).unwrap();
        }
        assert_eq!(samples.embeddings()[0].samples(), MOST_SAMPLES * 3 / 3);
    }
}
