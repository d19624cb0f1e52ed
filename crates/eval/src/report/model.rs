//! What there is to say about one model, and about how far another is from it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::{Cuts, names};
use crate::score::Score;

/// A model as a report describes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// What it is called in tables: short, and unlike the others'.
    pub name: String,
    /// Bytes of the weight files.
    pub size_bytes: u64,
    /// Numbers that the weights hold.
    pub parameters: u64,
    /// Bits of the weight files for each entry of a matrix or vector of the model.
    pub bits_per_weight: f64,
    /// Where the bytes are.
    #[serde(default)]
    pub parts: Parts,
    /// How fast it runs, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// The most memory held while it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Where it came from; see [`provenance`]. Null if it does not say.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub provenance: Value,
    /// What it scores, on its own.
    #[serde(default)]
    pub scores: Vec<Measured>,
    /// What it scores with fewer layers and dimensions, if that was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<Cuts>,
    /// What the reader should know about this model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Model {
    /// The score of this name, on this text or task if one is given.
    pub fn score(&self, name: &str, on: Option<&str>) -> Option<&Measured> {
        self.scores.iter().find(|s| s.name == name && on.is_none_or(|on| s.on.as_str() == on))
    }
}

/// Bytes by part of a model; they add up to the size of its weight files, headers and padding being `other`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Tables of tokens and positions.
    pub embedding: u64,
    /// Queries, keys, values, outputs.
    pub attention: u64,
    /// Up, gate, down.
    pub mlp: u64,
    /// Gains and biases of normalisations.
    pub norms: u64,
    /// The output matrix, if it is not the embedding.
    pub head: u64,
    /// Anything else.
    pub other: u64,
}

impl Parts {
    /// The parts by name, in the order in which they are shown.
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("embedding", self.embedding),
            ("attention", self.attention),
            ("mlp", self.mlp),
            ("norms", self.norms),
            ("head", self.head),
            ("other", self.other),
        ]
    }

    /// All bytes.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, bytes)| bytes).sum()
    }
}

/// How fast a model runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Tokens of a prompt read in a second.
    pub prefill_tokens_per_second: f64,
    /// Tokens written in a second, one behind the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_tokens_per_second: Option<f64>,
    /// Under which conditions: `batch 1, prompt of 512 tokens, 128 written, median of 5, 2 threads`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub conditions: String,
}

/// What a figure was measured on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// A text, of which each token is predicted.
    Text(String),
    /// A task with questions.
    Task(String),
}

impl On {
    /// The name of the text or task.
    pub fn as_str(&self) -> &str {
        match self {
            On::Text(name) | On::Task(name) => name,
        }
    }

    /// Whether it is a task.
    pub fn is_task(&self) -> bool {
        matches!(self, On::Task(_))
    }
}

/// What a number counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A number without a unit: a perplexity, a ratio, a correlation.
    #[default]
    Number,
    /// A share from 0 to 1, shown in percent; differences of shares in percentage points.
    Share,
    /// Natural units of information.
    Nats,
    /// Bits.
    Bits,
}

/// One number about a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What it is: `perplexity`, `acc_norm`. Of the scores of a task, the first is the one that the task is known by.
    pub name: String,
    /// What it was measured on; in JSON the key `text` or `task`.
    #[serde(flatten)]
    pub on: On,
    /// The number; null in JSON if it is not finite, and not a number when read back.
    #[serde(with = "number")]
    pub value: f64,
    /// Its standard error, if it can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// How many independent pieces it is a mean of: windows, questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// What it counts.
    pub unit: Unit,
    /// Whether more is better.
    pub higher_is_better: bool,
}

impl Measured {
    /// A score on a text; its unit and direction are those that are known for its name.
    pub fn of(score: &Score, n: Option<u64>) -> Measured {
        let known = names::find(&score.name);
        Measured {
            name: score.name.clone(),
            on: On::Text(score.text.clone()),
            value: score.value,
            error: score.error,
            n,
            unit: known.map_or(Unit::Number, |known| known.unit),
            higher_is_better: known.is_some_and(|known| known.higher_is_better),
        }
    }
}

/// How a difference is to be read, which decides at which value two models are equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// After minus before: equal at 0.
    #[default]
    Change,
    /// After divided by before: equal at 1.
    Ratio,
    /// A distance: equal at 0, never less.
    Distance,
    /// A share of agreement: equal at 1, never more.
    Agreement,
}

impl Kind {
    /// The value for a model that equals the reference.
    pub fn equal(self) -> f64 {
        match self {
            Kind::Change | Kind::Distance => 0.0,
            Kind::Ratio | Kind::Agreement => 1.0,
        }
    }
}

/// How far a model is from the reference in one figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// What it is: that of the score (`acc_norm`), or of a measure of two models (`kl_mean`, `perplexity_ratio`).
    pub name: String,
    /// What it was measured on; in JSON the key `text` or `task`.
    #[serde(flatten)]
    pub on: On,
    /// How it is to be read.
    pub kind: Kind,
    /// The number; null in JSON if it is not finite, and not a number when read back.
    #[serde(with = "number")]
    pub value: f64,
    /// `[low, high]` at the report's confidence, from paired differences; none if it cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// How likely a difference at least as large is between equals, if that was tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// How many pairs it is a mean of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// What it counts.
    pub unit: Unit,
    /// Whether more is better.
    pub higher_is_better: bool,
}

impl Difference {
    /// A score of two models on a text, with its own interval, or else the one of 95 % that its standard error means: the value and 1.96 errors
    /// to both sides, for ratios on the logarithm, and nowhere beyond what a distance or a share can be.
    pub fn of(score: &Score, n: Option<u64>) -> Difference {
        const Z: f64 = 1.959964;
        let known = names::find(&score.name);
        let kind = known.and_then(|known| known.kind).unwrap_or_default();
        let value = score.value;
        let interval = score.error.map(|error| match kind {
            Kind::Ratio => [value * (-Z * error / value).exp(), value * (Z * error / value).exp()],
            Kind::Distance => [(value - Z * error).max(0.0), value + Z * error],
            Kind::Agreement => [(value - Z * error).max(0.0), (value + Z * error).min(1.0)],
            Kind::Change => [value - Z * error, value + Z * error],
        });
        Difference {
            name: score.name.clone(),
            on: On::Text(score.text.clone()),
            kind,
            value,
            interval: score.interval.or(interval).filter(|ends| ends.iter().all(|end| end.is_finite())),
            p: None,
            n,
            unit: known.map_or(Unit::Number, |known| known.unit),
            higher_is_better: known.is_some_and(|known| known.higher_is_better),
        }
    }

    /// Whether the interval leaves out equality, so that there is a difference at the report's confidence; `None` without
    /// an interval.
    pub fn is_clear(&self) -> Option<bool> {
        let [low, high] = self.interval?;
        Some(!(low..=high).contains(&self.kind.equal()))
    }
}

/// What a report keeps of a `compression.json`: everything but its rows for single layers and its lines for model cards.
pub fn provenance(mut record: Value) -> Value {
    if let Value::Object(fields) = &mut record {
        fields.shift_remove("sites");
        fields.shift_remove("card");
    }
    record
}

/// Numbers in JSON, which has no word for those that are not finite.
pub(super) mod number {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(name: &str, value: f64, error: Option<f64>) -> Score {
        Score { name: name.into(), text: "t".into(), window: 8, value, error, interval: None }
    }

    #[test]
    fn a_score_of_a_text_gets_what_is_known_of_its_name() {
        let measured = Measured::of(&score("top1_agreement", 0.9, None), Some(4));
        assert_eq!((measured.unit, measured.higher_is_better, measured.n), (Unit::Share, true, Some(4)));
        let json = serde_json::to_value(&measured).unwrap();
        assert_eq!((&json["text"], &json["unit"]), (&"t".into(), &"share".into()));
        assert_eq!(serde_json::from_value::<Measured>(json).unwrap(), measured);
    }

    #[test]
    fn intervals_stay_where_values_can_be() {
        let interval = |name, value, error| Difference::of(&score(name, value, Some(error)), None).interval.unwrap();
        assert_eq!(interval("kl_mean", 0.001, 0.01)[0], 0.0);
        assert_eq!(interval("top1_agreement", 0.999, 0.01)[1], 1.0);
        let [low, high] = interval("perplexity_ratio", 1.1, 0.1);
        assert!((low * high - 1.21).abs() < 1e-9, "even around the value on the logarithm");
        let change = Difference::of(&score("nll_change", 0.5, Some(0.1)), None);
        assert_eq!(change.is_clear(), Some(true));
        assert_eq!(Difference::of(&score("nll_change", 0.1, Some(0.1)), None).is_clear(), Some(false));
        assert_eq!(Difference::of(&score("nll_change", 0.1, None), None).is_clear(), None);
    }

    #[test]
    fn what_is_no_number_survives_json_as_such() {
        let measured = Measured::of(&score("perplexity", f64::NAN, None), None);
        let text = serde_json::to_string(&measured).unwrap();
        assert!(text.contains("\"value\":null"), "{text}");
        assert!(serde_json::from_str::<Measured>(&text).unwrap().value.is_nan());
    }

    #[test]
    fn provenance_leaves_out_the_rows_of_layers() {
        let record = serde_json::json!({ "seed": 0, "sites": [1, 2], "recipe_yaml": "steps: []", "card": {} });
        assert_eq!(provenance(record), serde_json::json!({ "seed": 0, "recipe_yaml": "steps: []" }));
    }
}
