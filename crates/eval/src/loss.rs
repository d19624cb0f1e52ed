//! `loss`: how much likelihood of the text was lost between two models, prediction by prediction.

use crate::error::{Error, Result};
use crate::measure::{Entry, Make, PairMeasure, Rows};
use crate::perplexity::{document_sums, losses};
use crate::score::Score;
use crate::stats::{Bootstrap, Estimate, Interval, Samples, ratio};
use crate::windows::{Protocol, Windows};

pub(crate) const ENTRY: Entry = Entry {
    name: "loss",
    about: "How much likelihood of the text was lost from one model to the other, prediction by prediction",
    make: Make::Pair(|| Box::<Loss>::default()),
};

/// The mean change of the negative log-likelihood, and the ratio of perplexities that it means.
///
/// By the harness's protocol the second score is `word_perplexity_ratio`.
///
/// Its standard error is that of paired differences, which is far less than that of either model's perplexity.
#[derive(Debug, Default)]
pub struct Loss {
    changes: Samples,
}

impl Loss {
    /// The change of the loss of all documents by their words.
    fn by_word(&self, windows: &Windows) -> Result<(Estimate, Option<Interval>)> {
        let words: Vec<f64> = windows.documents.iter().map(|document| document.words as f64).collect();
        let changes = document_sums(&self.changes, windows);
        Ok((ratio(&changes, &words).ok_or(Error::Nothing)?, Bootstrap::default().ratio(&changes, &words)))
    }
}

impl PairMeasure for Loss {
    fn observe(&mut self, before: &Rows<'_>, after: &Rows<'_>) -> Result<()> {
        let changes: Vec<f64> =
            losses(after)?.iter().zip(losses(before)?).map(|(after, before)| after - before).collect();
        self.changes.extend(before.window(), &changes);
        Ok(())
    }

    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>> {
        let (change, within) = (self.changes.mean().ok_or(Error::Nothing)?, self.changes.interval());
        let (name, power, of_power) = match windows.protocol {
            Protocol::Window | Protocol::LlamaCpp => ("perplexity_ratio", change, within),
            Protocol::Harness => {
                let (power, within) = self.by_word(windows)?;
                ("word_perplexity_ratio", power, within)
            }
        };
        Ok(vec![
            Score::new("nll_change", windows, change).within(within),
            Score::new(name, windows, power.exp()).within(of_power.map(Interval::exp)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_change_is_that_of_the_true_token() {
        // From 1/2 to 1/4 for the target: ln 2 more loss, twice the perplexity.
        let windows = Windows::cut("t", &[0; 4], 2, None).unwrap();
        let mut measure = Loss::default();
        for window in 0..2 {
            let before = Rows::new(window, 0, 2, &[1], &[0.0, 0.0]).unwrap();
            let logits = [3f32.ln(), 0.0];
            let after = Rows::new(window, 0, 2, &[1], &logits).unwrap();
            measure.observe(&before, &after).unwrap();
        }
        let scores = measure.report(&windows).unwrap();
        assert!((scores[0].value - 2f64.ln()).abs() < 1e-7);
        assert!((scores[1].value - 2.0).abs() < 1e-6);
        assert_eq!(scores[0].error, Some(0.0));
        assert!(scores[1].interval.is_some_and(|[low, high]| low == high));
    }
}
