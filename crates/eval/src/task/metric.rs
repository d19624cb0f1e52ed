//! What is measured of an answer, and how many of these become one number.

use serde::Deserialize;

use super::keys::Kind;
use super::kick;
use crate::stats::{Estimate, mean_of};

/// A number for each item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(super) enum Metric {
    /// The right option is the likeliest, or all of a continuation is what the model would write; or the share of
    /// probability of the true options.
    #[serde(rename = "acc")]
    Acc,
    /// The right option is the likeliest for its number of characters.
    #[serde(rename = "acc_norm")]
    AccNorm,
    /// The right option is the likeliest for its number of bytes.
    #[serde(rename = "acc_bytes")]
    AccBytes,
    /// The log-probability of a continuation.
    #[serde(rename = "perplexity")]
    Perplexity,
    /// The answer is one of those accepted.
    #[serde(rename = "exact_match")]
    ExactMatch,
    /// Words shared with an accepted answer.
    #[serde(rename = "f1")]
    F1,
    /// An accepted answer stands in the answer.
    #[serde(rename = "contains")]
    Contains,
    #[serde(rename = "rouge1")]
    Rouge1,
    #[serde(rename = "rouge2")]
    Rouge2,
    #[serde(rename = "rougeL")]
    RougeL,
    /// Words of the answer.
    #[serde(rename = "words")]
    Words,
    /// The answer is blank.
    #[serde(rename = "empty")]
    Empty,
    /// The share of runs of four words that were there before in the same answer.
    #[serde(rename = "repeats")]
    Repeats,
    #[serde(rename = "kick_contained")]
    KickContained,
    #[serde(rename = "kick_letter")]
    KickLetter,
    #[serde(rename = "kick_exact_match")]
    KickExactMatch,
    #[serde(rename = "kick_f1")]
    KickF1,
}

use Metric::*;

impl Metric {
    /// The name in YAML and in results.
    pub fn name(self) -> &'static str {
        match self {
            Acc => "acc",
            AccNorm => "acc_norm",
            AccBytes => "acc_bytes",
            Perplexity => "perplexity",
            ExactMatch => "exact_match",
            F1 => "f1",
            Contains => "contains",
            Rouge1 => "rouge1",
            Rouge2 => "rouge2",
            RougeL => "rougeL",
            Words => "words",
            Empty => "empty",
            Repeats => "repeats",
            KickContained => "kick_contained",
            KickLetter => "kick_letter",
            KickExactMatch => "kick_exact_match",
            KickF1 => "kick_f1",
        }
    }

    /// What a kind of task can measure; what it does measure if nothing is said comes first.
    pub fn of(kind: Kind) -> &'static [Metric] {
        match kind {
            Kind::Choice => &[Acc, AccNorm, AccBytes],
            Kind::Mass | Kind::Contexts => &[Acc],
            Kind::Continuation => &[Perplexity, Acc],
            Kind::Write => &[
                ExactMatch,
                F1,
                Contains,
                Rouge1,
                Rouge2,
                RougeL,
                Words,
                Empty,
                Repeats,
                KickContained,
                KickLetter,
                KickExactMatch,
                KickF1,
            ],
            Kind::Pairs => &[Words, Empty, Repeats],
        }
    }

    /// Measured where a task says nothing.
    pub fn usual(kind: Kind) -> &'static [Metric] {
        match kind {
            Kind::Choice => &[Acc, AccNorm],
            Kind::Write => &[ExactMatch, F1],
            other => Metric::of(other),
        }
    }

    /// Whether more is better; none if neither is.
    pub fn higher_is_better(self) -> Option<bool> {
        match self {
            Perplexity | Empty | Repeats => Some(false),
            Words => None,
            _ => Some(true),
        }
    }

    /// One number, and its standard error, of those of all items. `None` if there are none.
    pub fn estimate(self, values: &[f64]) -> Option<Estimate> {
        let mean = mean_of(values)?;
        Some(match self {
            // By the delta method: the derivative of exp(-x) is -exp(-x).
            Perplexity => {
                let value = (-mean.value).exp();
                Estimate { value, error: mean.error.map(|error| error * value) }
            }
            KickContained => Estimate { value: kick::mean_over_one_less(values), error: mean.error },
            _ => mean,
        })
    }
}
