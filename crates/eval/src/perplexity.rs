//! `perplexity`: how surprised a model is by a text.

use std::f64::consts::LN_2;

use brevity_kernels::softmax::nll;

use crate::error::{Error, Result};
use crate::measure::{Entry, Make, Measure, Rows};
use crate::score::Score;
use crate::stats::{Estimate, Samples, ratio};
use crate::windows::{Extent, Protocol, Windows};

pub(crate) const ENTRY: Entry = Entry {
    name: "perplexity",
    about: "How surprised a model is by a text: e to the mean negative log-likelihood of the next token",
    make: Make::One(|| Box::<Perplexity>::default()),
};

/// Perplexity by the protocol of the windows.
///
/// * `window`: `exp` of the mean over windows of the mean over their predictions. Its standard error is that of the
///   mean over windows, times the perplexity.
/// * `llama.cpp`: `exp` of the mean over all predictions that count; its standard error takes predictions as
///   independent, as that tool prints it. The score is called `perplexity.llama.cpp`.
/// * `harness`: `word_perplexity` and `byte_perplexity`, `exp` of the loss of all documents by their words and bytes, and
///   `bits_per_byte`. Their standard errors take documents as independent.
///
/// The second score of the first two, `nll`, is the mean itself in nats.
#[derive(Debug, Default)]
pub struct Perplexity {
    losses: Samples,
}

impl Measure for Perplexity {
    fn observe(&mut self, rows: &Rows<'_>) -> Result<()> {
        self.losses.extend(rows.window(), &losses(rows)?);
        Ok(())
    }

    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>> {
        let (suffix, mean) = match windows.protocol {
            Protocol::Harness => return by_documents(&self.losses, windows),
            Protocol::Window => ("", self.losses.mean()),
            Protocol::LlamaCpp => (".llama.cpp", over_tokens(self.losses.values())),
        };
        let mean = mean.ok_or(Error::Nothing)?;
        Ok(vec![
            Score::new(&format!("perplexity{suffix}"), windows, mean.exp()),
            Score::new(&format!("nll{suffix}"), windows, mean),
        ])
    }
}

/// Loss by word and by byte.
fn by_documents(losses: &Samples, windows: &Windows) -> Result<Vec<Score>> {
    let sums = document_sums(losses, windows);
    let by = |size: fn(&Extent) -> usize| {
        let sizes: Vec<f64> = windows.documents.iter().map(|document| size(document) as f64).collect();
        ratio(&sums, &sizes).ok_or(Error::Nothing)
    };
    let (word, byte) = (by(|document| document.words)?, by(|document| document.bytes)?);
    Ok(vec![
        Score::new("word_perplexity", windows, word.exp()),
        Score::new("byte_perplexity", windows, byte.exp()),
        Score::new("bits_per_byte", windows, byte.times(1.0 / LN_2)),
    ])
}

/// The sum of the values of each document, from those of its windows.
pub(crate) fn document_sums(values: &Samples, windows: &Windows) -> Vec<f64> {
    let mut totals = values.totals().into_iter().map(|(sum, _)| sum);
    windows.documents.iter().map(|document| totals.by_ref().take(document.windows).sum()).collect()
}

/// The negative log-likelihood of each target, in nats.
pub(crate) fn losses(rows: &Rows<'_>) -> Result<Vec<f64>> {
    let mut losses = vec![0.0; rows.targets().len()];
    nll(rows.logits(), rows.vocabulary(), rows.targets(), &mut losses);
    rows.check("the loss", &losses)?;
    Ok(losses)
}

/// The mean, and `sqrt((mean of squares - square of mean) / (n - 1))`.
fn over_tokens(values: &[f64]) -> Option<Estimate> {
    let n = values.len() as f64;
    let value = values.iter().sum::<f64>() / n;
    let spread = values.iter().map(|v| (v - value).powi(2)).sum::<f64>() / n;
    (!values.is_empty()).then(|| Estimate { value, error: (n > 1.0).then(|| (spread / (n - 1.0)).sqrt()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Document;

    fn observe(measure: &mut Perplexity, window: usize, first: usize, targets: &[u32], logits: &[f32]) {
        let vocabulary = logits.len() / targets.len();
        measure.observe(&Rows::new(window, first, vocabulary, targets, logits).unwrap()).unwrap();
    }

    fn windows(count: usize, length: usize) -> Windows {
        Windows::cut("t", &vec![0; count * length], length, None).unwrap()
    }

    #[test]
    fn a_uniform_model_has_the_vocabulary_as_perplexity() {
        for vocabulary in [2, 10, 50_000] {
            let mut measure = Perplexity::default();
            observe(&mut measure, 0, 0, &[1, 0, 1], &vec![0.25; 3 * vocabulary]);
            observe(&mut measure, 1, 0, &[0, 0, 0], &vec![-3.0; 3 * vocabulary]);
            let scores = measure.report(&windows(2, 4)).unwrap();
            assert_eq!((scores[0].name.as_str(), scores[1].name.as_str()), ("perplexity", "nll"));
            assert!((scores[0].value / vocabulary as f64 - 1.0).abs() < 1e-6);
            assert!(scores[0].error.unwrap() < 1e-5);
        }
    }

    #[test]
    fn two_windows_are_known_by_hand() {
        // Probabilities 1/2, 1/4 in the first window; 1/4, 1/4 in the second.
        let (even, odd) = ([0.0f32, 0.0], [3f32.ln(), 0.0]);
        let mut measure = Perplexity::default();
        observe(&mut measure, 0, 0, &[0, 1], &[even, odd].concat());
        observe(&mut measure, 1, 0, &[1, 1], &[odd, odd].concat());
        let [perplexity, nll] = &measure.report(&windows(2, 3)).unwrap()[..] else { panic!() };
        let (first, second) = (1.5 * 2f64.ln(), 2.0 * 2f64.ln());
        assert!((nll.value - (first + second) / 2.0).abs() < 1e-7);
        assert!((nll.error.unwrap() - (second - first) / 2.0).abs() < 1e-7);
        assert!((perplexity.value - 2f64.powf(1.75)).abs() < 1e-6);
        assert!((perplexity.error.unwrap() - perplexity.value * nll.error.unwrap()).abs() < 1e-12);
    }

    #[test]
    fn chunks_change_nothing() {
        let logits: Vec<f32> = (0..60).map(|i| ((i * 7919) % 101) as f32 * 0.1).collect();
        let (mut whole, mut cut) = (Perplexity::default(), Perplexity::default());
        observe(&mut whole, 0, 0, &[1, 2, 3, 4, 5, 0], &logits);
        observe(&mut cut, 0, 0, &[1], &logits[..10]);
        observe(&mut cut, 0, 1, &[2, 3, 4, 5, 0], &logits[10..]);
        assert_eq!(whole.report(&windows(1, 7)).unwrap(), cut.report(&windows(1, 7)).unwrap());
    }

    #[test]
    fn llama_cpp_means_over_predictions() {
        let windows = Windows::llama_cpp("t", &[0; 8], None, 4, None).unwrap();
        let mut measure = Perplexity::default();
        observe(&mut measure, 0, 2, &[0], &[0.0, 0.0]);
        observe(&mut measure, 1, 2, &[1], &[3f32.ln(), 0.0]);
        let scores = measure.report(&windows).unwrap();
        assert_eq!(scores[0].name, "perplexity.llama.cpp");
        assert!((scores[0].value - 2f64.powf(1.5)).abs() < 1e-6);
        // Losses ln 2 and 2 ln 2: variance (ln 2 / 2)^2 over n - 1 = 1.
        assert!((scores[1].error.unwrap() - 2f64.ln() / 2.0).abs() < 1e-7);
    }

    #[test]
    fn the_harness_sums_losses_up_by_words_and_bytes() {
        // Windows [p a b] and [a b c]: losses ln 2, ln 2 and then 2 ln 2; 2 words and 8 bytes. A second document of one
        // token with a loss of 2 ln 2, 1 word and 4 bytes.
        let document = |tokens: &[u32], words, bytes| Document { tokens: tokens.to_vec(), words, bytes };
        let documents = [document(&[0, 1, 1], 2, 8), document(&[1], 1, 4)];
        let windows = Windows::harness("t", &documents, 0, 2).unwrap();
        assert_eq!(windows.windows, [vec![0, 0, 1], vec![0, 1, 1], vec![0, 1]]);
        let (even, odd) = ([0.0f32, 0.0], [3f32.ln(), 0.0]);
        let mut measure = Perplexity::default();
        observe(&mut measure, 0, 0, &[0, 1], &[even, even].concat());
        observe(&mut measure, 1, 1, &[1], &odd);
        observe(&mut measure, 2, 0, &[1], &odd);
        let scores = measure.report(&windows).unwrap();
        // Six times ln 2 in all.
        let expected = [("word_perplexity", 4.0), ("byte_perplexity", 2f64.sqrt()), ("bits_per_byte", 0.5)];
        for (score, (name, value)) in scores.iter().zip(expected) {
            assert_eq!((score.name.as_str(), score.window), (name, 2));
            assert!((score.value - value).abs() < 1e-6, "{score:?}");
            // Both documents lose the same by word and byte.
            assert!(score.error.unwrap() < 1e-6, "{score:?}");
        }
    }

    #[test]
    fn a_loss_that_is_not_finite_is_an_error_with_its_place() {
        let rows = Rows { window: 4, first: 7, vocabulary: 2, targets: &[0, 0], logits: &[0.0, 0.0, f32::NAN, 1.0] };
        let error = Perplexity::default().observe(&rows).unwrap_err();
        assert_eq!(error.to_string(), "the loss of window 4, position 8 is not finite");
        assert!(matches!(Perplexity::default().report(&windows(1, 2)), Err(Error::Nothing)));
    }
}
