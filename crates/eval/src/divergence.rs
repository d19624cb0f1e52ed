//! `kl`: how far the predictions of a model are from those of another.

use brevity_kernels::softmax::kl;

use crate::error::{Error, Result};
use crate::measure::{Entry, Make, PairMeasure, Rows};
use crate::score::Score;
use crate::stats::Samples;
use crate::windows::Windows;

pub(crate) const ENTRY: Entry = Entry {
    name: "kl",
    about: "How far predictions have moved: the Kullback-Leibler divergence, mean, median and 99th percentile",
    make: Make::Pair(|| Box::<Divergence>::default()),
};

/// The Kullback-Leibler divergence in nats over the whole vocabulary, of the predictions before from those after.
///
/// Scores: `kl`, the mean over windows of `KL(before ‖ after)`; `kl_median` and `kl_p99` over all predictions; and
/// `kl_reverse`, the mean of `KL(after ‖ before)`.
#[derive(Debug, Default)]
pub struct Divergence {
    forward: Samples,
    reverse: Samples,
}

impl Divergence {
    /// Adds the divergences of some rows of a window, both ways.
    pub(crate) fn add(&mut self, window: usize, forward: &[f64], reverse: &[f64]) {
        self.forward.extend(window, forward);
        self.reverse.extend(window, reverse);
    }

    pub(crate) fn scores(&self, windows: &Windows) -> Result<Vec<Score>> {
        let mean = self.forward.mean().ok_or(Error::Nothing)?;
        let [median, high] = self.forward.quantiles([0.5, 0.99]).ok_or(Error::Nothing)?;
        let reverse = self.reverse.mean().ok_or(Error::Nothing)?;
        let (forward, backward) = (self.forward.interval(), self.reverse.interval());
        Ok(vec![
            Score::new("kl_mean", windows, mean).within(forward),
            Score::new("kl_median", windows, median),
            Score::new("kl_p99", windows, high),
            Score::new("kl_reverse", windows, reverse).within(backward),
        ])
    }
}

impl PairMeasure for Divergence {
    fn observe(&mut self, before: &Rows<'_>, after: &Rows<'_>) -> Result<()> {
        let (p, q, vocabulary) = (before.logits(), after.logits(), before.vocabulary());
        let (mut forward, mut reverse) = (vec![0.0; before.targets().len()], vec![0.0; before.targets().len()]);
        kl(p, q, vocabulary, &mut forward);
        kl(q, p, vocabulary, &mut reverse);
        before.check("the divergence", &forward)?;
        before.check("the divergence", &reverse)?;
        self.add(before.window(), &forward, &reverse);
        Ok(())
    }

    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>> {
        self.scores(windows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(pairs: &[([f32; 3], [f32; 3])]) -> Vec<Score> {
        let windows = Windows::cut("t", &vec![0; 2 * pairs.len()], 2, None).unwrap();
        let mut measure = Divergence::default();
        for (window, (before, after)) in pairs.iter().enumerate() {
            let before = Rows::new(window, 0, 3, &[0], before).unwrap();
            let after = Rows::new(window, 0, 3, &[0], after).unwrap();
            measure.observe(&before, &after).unwrap();
        }
        measure.report(&windows).unwrap()
    }

    #[test]
    fn identical_models_do_not_diverge() {
        let row = [0.3, -1.0, 2.0];
        for score in measured(&[(row, row), (row, row)]) {
            assert_eq!((score.value, score.error), (0.0, Some(0.0)), "{}", score.name);
        }
    }

    #[test]
    fn small_divergences_are_known_by_hand() {
        // Before (1/2, 1/4, 1/4), after (1/4, 1/4, 1/2): KL = ln 2 / 4 both ways.
        let (p, q) = ([2f32.ln(), 0.0, 0.0], [0.0, 0.0, 2f32.ln()]);
        let scores = measured(&[(p, q), (p, p), (p, p)]);
        let values: Vec<(&str, f64)> = scores.iter().map(|s| (s.name.as_str(), s.value)).collect();
        let quarter = 2f64.ln() / 4.0;
        let expected =
            [("kl_mean", quarter / 3.0), ("kl_median", 0.0), ("kl_p99", 0.98 * quarter), ("kl_reverse", quarter / 3.0)];
        for ((name, value), (expected_name, expected)) in values.iter().zip(expected) {
            assert_eq!(*name, expected_name);
            assert!((value - expected).abs() < 1e-7, "{name}: {value} {expected}");
        }
    }

    #[test]
    fn a_divergence_is_never_negative() {
        let rows: Vec<([f32; 3], [f32; 3])> = (0..100)
            .map(|i| {
                let row = |k: usize| [0, 1, 2].map(|j| ((i * 31 + j * 17 + k * 7) % 23) as f32 * 0.4);
                (row(1), row(2))
            })
            .collect();
        assert!(measured(&rows).iter().all(|score| score.value >= 0.0));
    }
}
