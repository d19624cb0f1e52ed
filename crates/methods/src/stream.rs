//! Methods that change the residual stream, and with it every matrix that reads it or writes to it.

use std::fmt;

use brevity_kernels::gram::Gram;
use brevity_model::{Form, Model, Place, Stage, Weight};

use crate::error::Result;

/// Orthonormal directions of the residual stream that are kept, the strongest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Directions {
    /// How many.
    pub kept: usize,
    /// Entries of each: the width of the stream in the original model.
    pub hidden: usize,
    /// `[kept, hidden]`, row-major.
    pub rows: Vec<f32>,
}

/// A method that turns and narrows the residual stream of a whole model.
///
/// The stream has a stop in front of each norm that sublayers and head read it through; parts that stand side by side
/// share one. Between two stops lies one sublayer (or two, side by side), and whoever drives the method gives
/// [`StreamMethod::turn`] blocks of just that. At each stop there are directions of its own, found from what the samples
/// show there. The same method with the same settings, weights and samples gives the same bytes, whatever the number of
/// threads.
pub trait StreamMethod: Send + Sync + fmt::Debug {
    /// The forms of the model that is left.
    ///
    /// # Errors
    /// If the model is not of a kind whose stream can be turned, or if what is left would not be smaller.
    fn predict(&self, model: &Model<Form>) -> Result<Model<Form>>;

    /// Stage `n` of a model with its norms folded into the matrices behind them, as single-precision floats: what it returns is what
    /// it returned, but for rounding. `table` is the token table for a head that has none of its own.
    ///
    /// # Errors
    /// [`crate::Error::NotFinite`].
    fn fold(
        &self,
        model: &Model<Form>,
        n: usize,
        stage: Stage<Weight>,
        table: Option<&Weight>,
    ) -> Result<Stage<Weight>>;

    /// The directions to keep at a stop, from the second moments of what the norms give there.
    ///
    /// # Errors
    /// What the eigensolver refuses.
    fn directions(&self, place: Place, gram: &Gram, kept: usize) -> Result<Directions>;

    /// A folded stage that reads the stream as it is in the directions of one stop, and writes to it in those of the
    /// next; without the next, as it was in the original model.
    fn turn(&self, stage: Stage<Weight>, from: Option<&Directions>, to: Option<&Directions>) -> Stage<Weight>;

    /// All settings with their values, those by default too; reading them back gives the same method.
    fn settings(&self) -> serde_json::Value;
}
