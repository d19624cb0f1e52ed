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
//! [`report::Report`] holds what was found about several models, for programs and for people; [`Gate`] holds it against
//! limits.
//!
//! This crate reads no checkpoints (see `brevity-formats`) and runs models by `brevity-runtime`.
#![forbid(unsafe_code)]

mod agreement;
mod divergence;
mod error;
mod gate;
mod loss;
mod measure;
mod memory;
mod perplexity;
mod reference;
pub mod report;
mod run;
mod score;
mod size;
mod stats;
mod text;
mod windows;

pub use agreement::Agreement;
pub use divergence::Divergence;
pub use error::{Error, Result};
pub use gate::{Compare, Gate, Limit, Outcome as LimitOutcome, Verdict};
pub use loss::Loss;
pub use measure::{Entry, MEASURES, Make, Measure, PairMeasure, Rows, measures};
pub use memory::peak_rss_bytes;
pub use perplexity::Perplexity;
pub use reference::{FromReference, Recorder, TOP};
pub use run::{Comparison, Observer, Options, Outcome, compare, evaluate};
pub use score::{Evaluation, Score};
pub use size::Size;
pub use text::{Text, first_token};
pub use windows::{Protocol, Windows};
