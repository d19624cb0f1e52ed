//! The questions: one file per measure.
//!
//! A [`Text`] becomes tokens, tokens become [`Windows`], and a model's logits over these are shown, some rows at a
//! time, to [`Measure`]s (of one model) and [`PairMeasure`]s (of two on the same rows); each has [`Score`]s at
//! the end, with standard errors. [`evaluate`] runs one model, [`compare`] two side by side in one pass, so that
//! nothing as wide as the vocabulary is ever kept.
//!
//! Measures need no model to be tried:
//!
//! ```
//! use brevity_eval::{Measure, Perplexity, Rows, Windows};
//!
//! let windows = Windows::cut("a text", &[0, 1, 2], 3, None)?;
//! let mut perplexity = Perplexity::default();
//! let logits = [0.0; 8]; // two rows, four tokens, all equally likely
//! perplexity.observe(&Rows::new(0, 0, 4, &[1, 2], &logits)?)?;
//! assert!((perplexity.report(&windows)?[0].value - 4.0).abs() < 1e-6);
//! # Ok::<(), brevity_eval::Error>(())
//! ```
//!
//! This crate reads no checkpoints (see `brevity-formats`) and runs models by `brevity-runtime`.
#![forbid(unsafe_code)]

mod agreement;
mod data;
mod divergence;
mod error;
pub mod facts;
mod harness;
pub mod layers;
mod loss;
mod measure;
mod memory;
mod perplexity;
mod random;
mod reference;
pub mod representation;
pub mod retrieval;
mod run;
mod score;
mod size;
pub mod stats;
pub mod sts;
mod text;
pub mod traces;
mod windows;

pub use agreement::Agreement;
pub use divergence::Divergence;
pub use error::{Error, Result};
pub use harness::{Document, pages};
pub use loss::Loss;
pub use measure::{Entry, HiddenMeasure, MEASURES, Make, Measure, PairMeasure, Rows, measures};
pub use memory::peak_rss_bytes;
pub use perplexity::Perplexity;
pub use reference::{FromReference, Recorder, TOP};
pub use run::{Comparison, Observer, Options, Outcome, compare, compare_hidden, compare_with, evaluate};
pub use score::{Evaluation, Score};
pub use size::Size;
pub use text::{Text, first_token};
pub use windows::{Extent, Protocol, Windows};
