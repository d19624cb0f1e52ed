//! What an evaluation says: scores, and the record that `eval --json` prints.

use serde::{Deserialize, Serialize};

use crate::run::Outcome;
use crate::size::Size;
use crate::stats::{Estimate, Interval};
use crate::windows::Windows;

/// One number about a model on a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// What it is: `perplexity`, `kl`, `top1_agreement`.
    pub name: String,
    /// The text.
    pub text: String,
    /// Tokens in a window.
    pub window: usize,
    /// The number.
    pub value: f64,
    /// Its standard error; none if there is just one window to estimate it from.
    pub error: Option<f64>,
    /// Where it lies with 95 percent, by resampling windows (or documents); only of scores of two models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

impl Score {
    pub(crate) fn new(name: &str, windows: &Windows, estimate: Estimate) -> Self {
        let Estimate { value, error } = estimate;
        Score {
            name: name.to_owned(),
            text: windows.text.clone(),
            window: windows.length,
            value,
            error,
            interval: None,
        }
    }

    /// The same with its interval.
    pub(crate) fn within(self, interval: Option<Interval>) -> Self {
        Score { interval: interval.map(|interval| [interval.low, interval.high]), ..self }
    }
}

/// All there is to say about a model, as `eval --json` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The model as it was asked for.
    pub model: String,
    /// Bytes of the weight files.
    pub size_bytes: u64,
    /// Numbers that the weights hold.
    pub parameters: u64,
    /// Bits of the weight files for each entry of a matrix or vector of the model.
    pub bits_per_weight: f64,
    /// The same over quantized matrices alone, without what surrounds them in files; none if there are none.
    pub bits_per_quantized_weight: Option<f64>,
    /// Tokens that were run.
    pub tokens: usize,
    /// Seconds it took.
    pub seconds: f64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// The most memory that the process has held so far, if the system says.
    pub peak_rss_bytes: Option<u64>,
    /// The scores.
    pub scores: Vec<Score>,
}

impl Evaluation {
    /// Puts sizes and scores of a model together; the peak of memory is read now.
    pub fn new(model: &str, size: &Size, outcome: Outcome) -> Self {
        Evaluation {
            model: model.to_owned(),
            size_bytes: size.size_bytes,
            parameters: size.parameters,
            bits_per_weight: size.bits_per_weight(),
            bits_per_quantized_weight: size.bits_per_quantized_weight(),
            tokens: outcome.tokens,
            seconds: outcome.seconds,
            tokens_per_second: outcome.tokens_per_second(),
            peak_rss_bytes: crate::memory::peak_rss_bytes(),
            scores: outcome.scores,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_has_the_documented_keys() {
        let score = Score {
            name: "perplexity".into(),
            text: "t".into(),
            window: 8,
            value: 2.5,
            error: Some(0.5),
            interval: None,
        };
        let outcome = Outcome { scores: vec![score], tokens: 100, seconds: 2.0 };
        let size = Size { size_bytes: 30, weights: 60, parameters: 50, quantized_weights: 40, quantized_bits: 160 };
        let json = serde_json::to_value(Evaluation::new("m", &size, outcome)).unwrap();
        for key in ["model", "size_bytes", "parameters", "bits_per_weight", "tokens", "seconds", "peak_rss_bytes"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        assert_eq!(json["tokens_per_second"], 50.0);
        assert_eq!(json["bits_per_weight"], 4.0);
        assert_eq!(json["bits_per_quantized_weight"], 4.0);
        let score = serde_json::json!({"name": "perplexity", "text": "t", "window": 8, "value": 2.5, "error": 0.5});
        assert_eq!(json["scores"], serde_json::json!([score]));
    }
}
