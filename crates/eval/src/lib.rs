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
//! A [`Task`] is a benchmark as data: it makes [`Item`]s of the rows of a file, each with an [`Ask`] for a model, and
//! grades the [`Answer`]s. What is right is known without a model, too:
//!
//! ```
//! use brevity_eval::{Answer, Mode, Task, TaskResult, Weighed};
//!
//! let dir = std::env::temp_dir().join("brevity-eval-example");
//! std::fs::create_dir_all(&dir)?;
//! std::fs::write(dir.join("boolq.jsonl"), r#"{"passage": "Ice is cold.", "question": "is ice cold", "answer": true}"#)?;
//! let task = Task::named("boolq")?;
//! let items = task.items(&dir, None, Mode::Strict)?;
//! let [no, yes] = [-2.0, -1.0].map(|log_prob| Weighed { log_prob, tokens: 1, greedy: false });
//! let graded = task.grade(&items[0], &Answer::Weights(vec![no, yes]))?;
//! assert_eq!(TaskResult::new(&task, Mode::Strict, &[graded])?.scores[0].value, 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//! [`report::Report`] holds what was found about several models, for programs and for people; [`Gate`] holds it against
//! limits.
//!
//! This crate reads no checkpoints (see `brevity-formats`) and runs models by `brevity-runtime`.
#![forbid(unsafe_code)]

mod agreement;
mod answer;
mod ask;
mod asker;
mod data;
mod divergence;
mod error;
pub mod facts;
mod gate;
mod harness;
pub mod layers;
mod loss;
mod measure;
mod memory;
mod perplexity;
mod quiz;
mod random;
mod read;
mod reference;
pub mod report;
pub mod representation;
pub mod retrieval;
mod rouge;
mod rows;
mod run;
mod score;
mod size;
pub mod stats;
pub mod sts;
mod task;
mod text;
pub mod traces;
mod windows;
mod words;

pub use agreement::Agreement;
pub use answer::{Alike, contains};
pub use ask::{Answer, Ask, Length, Pair, Weighed, Written};
pub use asker::{Answers, AskOptions, ask};
pub use data::{DataError, Format, Place, Record, Source, Table};
pub use divergence::Divergence;
pub use error::{Error, Result};
pub use gate::{Compare, Gate, Limit, Outcome as LimitOutcome, Verdict};
pub use harness::{Document, pages};
pub use loss::Loss;
pub use measure::{Entry, Fresh, HiddenMeasure, MEASURES, Make, Measure, PairMeasure, Rows, make, measures};
pub use memory::peak_rss_bytes;
pub use perplexity::Perplexity;
pub use quiz::{Chat, Paper, Quiz};
pub use reference::{FromReference, Recorder, TOP};
pub use rouge::{Rouge, rouge_l, rouge_n};
pub use run::{Comparison, Observer, Options, Outcome, compare, compare_hidden, compare_with, evaluate};
pub use score::{Evaluation, Score};
pub use size::Size;
pub use task::{
    BadTask, Gold, Graded, Item, JudgePair, Mode, Part, StockTask, Task, TaskError, TaskResult, TaskScore,
    harness_json, judge_pairs, write_judge_pairs,
};
pub use text::{Text, first_token};
pub use windows::{Extent, Protocol, Windows};
pub use words::Words;
