//! Where a weight lies in a checkpoint.

use std::ops::Range;

use crate::form::Form;

/// Where the bytes of a weight are, and how they are stored there.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The name of the logical tensor in the checkpoint, such as `model.layers.0.self_attn.q_proj.weight`.
    pub tensor: String,
    /// Shape and kind after the view is taken.
    pub form: Form,
    /// Which part of the tensor it is.
    pub view: View,
}

/// Which part of a tensor a weight is, and which way round.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct View {
    /// The tensor holds `[in, out]` and is read transposed.
    pub transposed: bool,
    /// The rows (outputs) that belong to the weight, in order; `None` for all of them.
    /// For a vector these are its entries.
    pub rows: Option<Vec<Range<usize>>>,
}

impl View {
    /// The whole tensor as it is.
    pub fn whole() -> Self {
        View::default()
    }

    /// Whether the view is the whole tensor as it is.
    pub fn is_whole(&self) -> bool {
        !self.transposed && self.rows.is_none()
    }

    /// How many rows are taken of a tensor with `rows` rows (after transposition).
    pub fn count(&self, rows: usize) -> usize {
        self.rows.as_ref().map_or(rows, |ranges| ranges.iter().map(|range| range.len()).sum())
    }
}
