//! brevity makes transformer checkpoints smaller, says what was lost, and runs what is left.
//!
//! This crate is the front door for applications: it opens models by any name the command takes, and shows the other
//! crates of the toolkit under one roof.
//!
//! ```
//! let model = brevity::open("tiny", brevity::Open::default())?;
//! assert!(model.model().is_tied());
//! let text = brevity::text("heldout")?;
//! assert!(text.text.len() > 50_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! For a whole compression see [`engine`], for running a model [`runtime`], for measures [`eval`], for models side by side
//! [`compare`], for vectors of texts [`embed`]. The example
//! `examples/library.rs` loads `tiny`, quantizes one layer and generates text.
#![forbid(unsafe_code)]

pub mod asking;
mod chat;
pub mod compare;
mod open;
mod tiny;
pub mod vectors;
mod words;

pub use brevity_embed as embed;
pub use brevity_engine as engine;
pub use brevity_eval as eval;
pub use brevity_formats as formats;
pub use brevity_formats::{Checkpoint, Open};
pub use brevity_kernels as kernels;
pub use brevity_methods as methods;
pub use brevity_model as model;
pub use brevity_runtime as runtime;
pub use open::{OpenError, TextError, calibration_text, is_embedded, open, text};
pub use tiny::{CALIBRATION, FACTS, HELDOUT, TINY};
pub use tokenizers::Tokenizer;
pub use words::{chat, end_tokens, words};
