//! Training that makes cuts of an encoder work: on raw texts or on pairs, on a processor.
//!
//! A [`Student`] is an encoder whose blocks (and what stands behind them) are variables; its token table stays as it is. An
//! [`Objective`] says what it is trained for, [`tune`] does it.

mod adam;
mod batch;
mod loss;
mod student;
mod tuning;
mod written;

pub use adam::Adam;
pub use batch::{Example, pairs, scored};
pub use loss::{Cut, LayerWeighting, Objective};
pub use student::Student;
pub use tuning::{Outcome, Step, Tuning, tune};
pub use written::write_tuned;
