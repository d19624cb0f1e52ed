//! Knowledge traces: value vectors of MLPs that stand for a concept, and whether they survive.
//!
//! Column `j` of `mlp.down` is what the MLP adds to the residual stream when its channel `j` fires. Seen through the
//! output table, `E (g ∘ v)` with the gain `g` of the last norm, many such columns name the words of one concept.
//!
//! # Source
//! Hong et al. 2024, arXiv:2406.11614 (ConceptVectors); Geva et al. 2022, arXiv:2203.14680 (value vectors as words).

mod columns;
mod find;
mod lens;
mod narrowed;
mod survive;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data;
use crate::error::Result;
use crate::read;

pub use find::find;
pub use narrowed::Narrowed;
pub use survive::{Fate, Survival, TokenRank, Traces, compare};

/// How traces are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Tokens that describe a vector.
    pub top: usize,
    /// Tokens that a vector is judged by when traces are looked for.
    pub judged: usize,
    /// In each block, so many columns are looked at, the longest ones.
    pub candidates: usize,
    /// Of the random tokens that coherence is compared with.
    pub seed: u64,
}

impl Default for Reading {
    /// 200 tokens, 50 of them judged, 256 columns a block.
    fn default() -> Self {
        Reading { top: 200, judged: 50, candidates: 256, seed: 0 }
    }
}

/// A value vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// What it stands for, if somebody named it.
    pub concept: Option<String>,
    /// Its block, counted from zero.
    pub block: usize,
    /// Its channel: the column of `mlp.down`.
    pub channel: usize,
    /// How coherent its words are, if it was found by that.
    pub coherence: Option<f64>,
}

/// A concept of the ConceptVectors benchmark.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Concept {
    /// Its name.
    pub concept: String,
    /// The block of its vector.
    pub layer: usize,
    /// The channel of its vector.
    pub dim: usize,
    /// Questions about it.
    #[serde(rename = "QA", default)]
    pub questions: Vec<String>,
}

impl Concept {
    /// Its vector.
    pub fn trace(&self) -> Trace {
        Trace { concept: Some(self.concept.clone()), block: self.layer, channel: self.dim, coherence: None }
    }
}

/// Reads concepts in the layout of ConceptVectors: a JSON array of `Concept`, `Layer`, `Dim` and `QA`. Other fields are
/// left alone.
///
/// # Errors
/// [`Error::Data`](crate::Error::Data) if the file cannot be read, [`Error::Items`](crate::Error::Items).
pub fn read(path: &Path) -> Result<Vec<Concept>> {
    read::json(&data::text(path)?, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concepts_of_the_benchmark_are_read() {
        let json =
            r#"[{"Concept": "Poland", "Layer": 23, "Dim": 743, "QA": [" What?\n"], "wikipedia_content": "Poland"}]"#;
        let concepts: Vec<Concept> = read::json(json, Path::new("c.json")).unwrap();
        let trace = concepts[0].trace();
        assert_eq!((trace.concept.as_deref(), trace.block, trace.channel), (Some("Poland"), 23, 743));
        assert_eq!(concepts[0].questions.len(), 1);
    }
}
