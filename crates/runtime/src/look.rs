//! What there is to see while models are evaluated, and how they are.

use brevity_kernels::ops::Compute;
use brevity_model::{LoadError, Place};

/// How a model is evaluated.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The arithmetic of products.
    pub compute: Compute,
    /// Bytes for the hidden states of the windows. If they need more, the windows are done in several passes over
    /// the weights; at least one window is kept in any case.
    pub budget_bytes: u64,
    /// The first row of each window whose logits are wanted.
    pub first_rows: FirstRows,
    /// Whether the last token of each window is run too, though no logits behind it are shown. Without it a window
    /// may have one token more than the model has positions.
    pub run_last: bool,
}

/// The first row whose logits are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstRows {
    /// Of all windows.
    Same(usize),
    /// Of each window.
    Each(Vec<usize>),
}

impl FirstRows {
    /// That of a window.
    pub fn of(&self, window: usize) -> usize {
        match self {
            FirstRows::Same(row) => *row,
            FirstRows::Each(rows) => rows[window],
        }
    }
}

impl StreamOptions {
    /// Every row, with at most 1 GiB of hidden states.
    pub fn new(compute: Compute) -> Self {
        StreamOptions { compute, budget_bytes: 1 << 30, first_rows: FirstRows::Same(0), run_last: true }
    }
}

/// Logits of some rows of one window, and the tokens that they predict.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The window, counted from zero.
    pub window: usize,
    /// The position of the first row.
    pub first_row: usize,
    /// `[rows, vocabulary]`, of the model or of each of two.
    pub logits: &'a [&'a [f32]],
    /// Columns of the logits.
    pub vocabulary: usize,
    /// The token behind each row. The last token of a window is predicted by no chunk but predicts nothing itself.
    pub targets: &'a [u32],
}

/// Hidden states of one window between two stages, or in front of the output table.
#[derive(Clone, Copy, Debug)]
pub struct Boundary<'a> {
    /// The stage that was passed. [`Place::Head`] stands for the last norm.
    pub place: Place,
    /// The window, counted from zero.
    pub window: usize,
    /// `[tokens, width]` of each model; widths may differ.
    pub hidden: &'a [&'a [f32]],
    /// Rows of each.
    pub tokens: usize,
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The stage that is running.
    pub place: Place,
    /// The share of the whole work that is done, by parameters times tokens.
    pub fraction: f64,
}

/// What is called with hidden states. An error ends the evaluation.
pub type Cross<'a> = &'a mut dyn FnMut(Boundary<'_>) -> std::result::Result<(), LoadError>;

/// What is called with each chunk. An error ends the evaluation.
pub type Visit<'a> = &'a mut dyn FnMut(Chunk<'_>) -> std::result::Result<(), LoadError>;

/// What is called as the work goes on. An error ends the evaluation.
pub type Watch<'a> = &'a mut dyn FnMut(Progress) -> std::result::Result<(), LoadError>;

/// What is looked at while models run.
#[derive(Default)]
pub struct Looks<'b, 'l> {
    /// Hidden states between stages.
    ///
    /// After each stage that all models have, in order, every window of a pass is shown. Models of different depth
    /// share their first blocks; those that only one has are not shown. Last, every window is shown as it stands
    /// behind the last norm, under [`Place::Head`].
    pub boundaries: Option<Cross<'b>>,
    /// Logits. Without them models need no head, nor one vocabulary.
    pub logits: Option<Visit<'l>>,
}
