//! What a configuration says about one kind of quantized layer.

use brevity_model::{CodeForm, Group, LeafForm};
use serde_json::{Value, json};

/// The scheme of a layer: what its grid is, apart from the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scheme {
    pub bits: u8,
    pub symmetric: bool,
    pub strategy: Strategy,
}

/// Which entries share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strategy {
    Tensor,
    Channel,
    Group(usize),
}

impl Scheme {
    /// The scheme of a uniform grid.
    pub fn of(leaf: &LeafForm) -> Option<Scheme> {
        match leaf.code {
            CodeForm::Grid { bits, group, zeros, levels: None, .. } => {
                let strategy = match group {
                    Group::Tensor => Strategy::Tensor,
                    Group::Channel => Strategy::Channel,
                    // One group for a whole row is a channel whatever the group was meant to be.
                    Group::Columns(size) if size >= leaf.shape[1] => Strategy::Channel,
                    Group::Columns(size) => Strategy::Group(size),
                };
                Some(Scheme { bits, symmetric: !zeros, strategy })
            }
            _ => None,
        }
    }

    /// The object under `weights`.
    pub fn to_json(self) -> Value {
        let mut args = json!({
            "num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "strategy": self.strategy.name(),
        });
        if let Strategy::Group(size) = self.strategy {
            args["group_size"] = size.into();
        }
        args["dynamic"] = false.into();
        args
    }
}

impl Strategy {
    fn name(self) -> &'static str {
        match self {
            Strategy::Tensor => "tensor",
            Strategy::Channel => "channel",
            Strategy::Group(_) => "group",
        }
    }

    /// Rows and columns of the table of scales of a matrix.
    pub fn scales(self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        match self {
            Strategy::Tensor => [1, 1],
            Strategy::Channel => [rows, 1],
            Strategy::Group(size) => [rows, columns / size],
        }
    }

    /// Dimensions of the tensor of scales.
    pub fn shape(self, matrix: [usize; 2]) -> Vec<usize> {
        match self {
            Strategy::Tensor => vec![1],
            _ => self.scales(matrix).to_vec(),
        }
    }
}
