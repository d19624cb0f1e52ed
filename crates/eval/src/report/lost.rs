//! What was lost, item by item: hidden states, facts, answers, traces of concepts.

use serde::{Deserialize, Serialize};

/// How far the hidden states behind one place are from those of the reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The place: `embed`, `blocks.3`, `head`.
    pub place: String,
    /// `‖h - ĥ‖ / ‖h‖` over all tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
    /// The mean cosine of `h` and `ĥ`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// Centred kernel alignment of the two, linear and debiased: 1 for the same geometry, whatever its rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cka: Option<f64>,
}

/// Facts that the reference was asked for, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// All of them.
    pub all: Tally,
    /// McNemar's test, exact: how likely it is that losses and gains are as uneven by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// By relation: capital, author.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relations: Vec<Tally>,
    /// By how sure the reference was, from least to most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bands: Vec<Tally>,
    /// Facts that the reference knows and the model does not.
    #[serde(default)]
    pub lost: Vec<Fact>,
    /// Facts that the model knows and the reference does not.
    #[serde(default)]
    pub gained: Vec<Fact>,
}

/// Facts of one sort, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Which.
    pub name: String,
    /// How many were asked.
    pub asked: u64,
    /// How many the reference knows.
    pub known: u64,
    /// How many of these the model does not know.
    pub lost: u64,
    /// How many the model knows and the reference does not.
    pub gained: u64,
}

/// A fact that one of two models knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// What was asked.
    pub prompt: String,
    /// The answer that was looked for.
    pub answer: String,
    /// What sort of fact it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub relation: String,
    /// The place of the answer among the reference's predictions, 1 being the likeliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_before: Option<u64>,
    /// Its place among the model's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank_after: Option<u64>,
    /// How likely the reference finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability_before: Option<f64>,
    /// How likely the model finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability_after: Option<f64>,
}

/// Answers to the questions of one task that changed. Accuracy can stay as it is while many do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flips {
    /// The task.
    pub task: String,
    /// How many questions were asked.
    pub asked: u64,
    /// From right to wrong.
    pub lost: u64,
    /// From wrong to right.
    pub gained: u64,
    /// From one wrong answer to another.
    pub moved: u64,
    /// McNemar's test, exact, of losses against gains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// The questions; not all, if there are too many to list.
    #[serde(default)]
    pub items: Vec<Flip>,
}

impl Flips {
    /// How many answers changed.
    pub fn changed(&self) -> u64 {
        self.lost + self.gained + self.moved
    }
}

/// A question that two models answer differently.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Flip {
    /// Its number or name in the task.
    pub item: String,
    /// The question.
    pub question: String,
    /// What the reference chose.
    pub before: String,
    /// What the model chose.
    pub after: String,
    /// What is right.
    pub gold: String,
}

/// A value vector: a column of the down projection of a block that speaks for a concept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The block.
    pub block: usize,
    /// The column, as the reference counts.
    pub column: usize,
    /// The concept, if it has a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concept: Option<String>,
    /// The tokens that it speaks for most, in the reference.
    pub tokens: Vec<String>,
    /// Those of the model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tokens_after: Vec<String>,
    /// The cosine of the two vectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// How many of the most spoken-for tokens (200 unless the method says otherwise) the two share, of those of either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jaccard: Option<f64>,
    /// Whether the column was removed.
    #[serde(default)]
    pub lost: bool,
}
