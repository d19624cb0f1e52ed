//! A report: one reference model, others that were made from it, and what was lost on the way.
//!
//! [`Report`] is plain data. Whoever measures fills it in, `compare --json` prints it as it is, and everything that people
//! read is drawn from it and from nothing else: [`html`] (one file that stands alone), [`table`] (terminals), [`frontier`]
//! (quality against size). So a report that was kept can be drawn again, by a later version too. [`crate::Gate`] judges
//! it.
//!
//! ```
//! use brevity_eval::report::{self, Compressed, Model, Report};
//!
//! let model = |name: &str, size_bytes| Model { name: name.into(), size_bytes, ..Model::default() };
//! let mut report = Report::new(model("original", 4000));
//! report.others.push(Compressed { model: model("int4", 1000), ..Compressed::default() });
//! assert_eq!(report::words::verdict(&report, &report.others[0]), "4.0 times smaller");
//! assert!(report::html(&report).contains("4.0 times smaller"));
//! # let text = serde_json::to_string(&report)?;
//! # assert_eq!(serde_json::from_str::<Report>(&text)?, report);
//! # Ok::<(), serde_json::Error>(())
//! ```

mod cuts;
pub mod frontier;
mod html;
mod lost;
mod model;
pub mod names;
mod plots;
mod svg;
mod table;
pub mod words;

use serde::{Deserialize, Serialize};

pub use cuts::Cuts;
pub use html::html;
pub use lost::{Fact, Facts, Flip, Flips, Layer, Tally, Trace};
pub use model::{Difference, Kind, Measured, Model, On, Parts, Speed, Unit, provenance};
pub use table::{Table, table, verdicts};

use crate::gate::Verdict;

/// The number of this shape of a report. It grows when something that was there changes its meaning; what is added later is
/// optional, so that older reports stay readable.
pub const VERSION: u32 = 1;

/// A comparison of models with the one that they were made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`] when it was written.
    pub version: u32,
    /// The program and its version: `brevity 0.1.0`.
    pub tool: String,
    /// The share of repetitions in which an interval of this report holds the true value: 0.95.
    pub confidence: f64,
    /// What the others are held against.
    pub reference: Model,
    /// The models that were made from it, in the order in which they were named.
    pub others: Vec<Compressed>,
    /// How it was measured, one sentence each: texts, windows, shots, arithmetic, machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub method: Vec<String>,
    /// What the reader should know before relying on a figure: too few items, another vocabulary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A model that was made from the reference, and how it differs from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compressed {
    /// The model alone.
    #[serde(flatten)]
    pub model: Model,
    /// How far it is from the reference, figure by figure.
    #[serde(default)]
    pub differences: Vec<Difference>,
    /// How far hidden states are from those of the reference, in the order of the forward pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Layer>,
    /// Facts lost and gained, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// Answers to multiple-choice questions that changed, task by task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flips: Vec<Flips>,
    /// Value vectors that hold concepts, before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<Trace>,
    /// What a gate said, if there was one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gate: Vec<Verdict>,
}

impl Report {
    /// A report about a reference, with nothing to hold against it yet, and intervals of 95 %.
    pub fn new(reference: Model) -> Self {
        Report {
            version: VERSION,
            tool: format!("brevity {}", env!("CARGO_PKG_VERSION")),
            confidence: 0.95,
            reference,
            others: Vec::new(),
            method: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// The reference and the others, in that order.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        std::iter::once(&self.reference).chain(self.others.iter().map(|other| &other.model))
    }
}

impl Compressed {
    /// The difference of this name, on this text or task if one is given.
    pub fn difference(&self, name: &str, on: Option<&str>) -> Option<&Difference> {
        self.differences.iter().find(|d| d.name == name && on.is_none_or(|on| d.on.as_str() == on))
    }

    /// The share of facts that the reference knows and this model does not; none if it knows none.
    pub fn facts_lost(&self) -> Option<f64> {
        let all = &self.facts.as_ref()?.all;
        (all.known > 0).then(|| all.lost as f64 / all.known as f64)
    }
}
