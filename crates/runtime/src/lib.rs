//! Running models: one forward pass over the typed tree, streamed or resident.
//!
//! [`Forward`] runs the parts of a model (embedding, block, head) over candle tensors. It is generic in how a weight
//! is stored: [`Prepare`] turns a `Stage<Weight>` into a `Stage<Applied>`, where each [`Applied`] weight follows
//! the expression that it came from. Around it are two ways to run a whole model:
//!
//! * streamed, for evaluation: [`run_streamed`] loads one stage at a time, takes all windows through it and drops it,
//!   so that memory holds one stage and the hidden states, whatever the size of the model;
//! * resident, for generation: [`Resident`] keeps all stages and a [`Cache`] of keys and values; [`generate`]
//!   continues a text.
//!
//! Questions are answered by the same two: [`weigh`] says how likely token sequences are, sharing what they have in common
//! at the beginning ([`Bundle`]); [`write()`] continues many prompts side by side.
//!
//! [`Flow`] runs calibration samples from tap to tap, for methods that look at the inputs of layers.
//!
//! Results depend neither on how windows are batched nor on the number of threads. This crate reads no files (see
//! `brevity-formats`) and rewrites no weights (see `brevity-methods`).
#![forbid(unsafe_code)]

mod applied;
mod bundle;
mod cache;
mod error;
mod flow;
mod forward;
mod generate;
mod look;
mod prepare;
mod read;
mod relative;
mod resident;
mod store;
mod stream;
mod streamed;
mod table;
mod train;
mod weigh;
mod write;

pub use applied::Applied;
pub use brevity_kernels::ops::Compute;
pub use brevity_model::Tap;
pub use bundle::Bundle;
pub use cache::{Cache, Kv};
pub use error::{Error, Result};
pub use flow::{Flow, Keep};
pub use forward::Forward;
pub use generate::{Sampling, generate};
pub use look::{Boundary, Chunk, Cross, FirstRows, Looks, Progress, StreamOptions, Visit, Watch};
pub use prepare::{Prepare, Trains};
pub use read::values;
pub use resident::Resident;
pub use stream::Stream;
pub use streamed::{run_lockstep, run_streamed, run_streamed_pair};
pub use table::Table;
pub use train::Chain;
pub use weigh::{Prediction, Sequence, WeighOptions, weigh};
pub use write::{Writing, write};
