//! compressed-tensors: quantized linear layers beside plain floats, as vLLM and transformers read them.
//!
//! A quantized module `M` has, in place of `M.weight`:
//!
//! | tensor | packed | int, naive |
//! |---|---|---|
//! | codes | `M.weight_packed` I32 `[out, ceil(in * bits / 32)]` | `M.weight` I8 `[out, in]` |
//! | scales, in the type the grid says | `M.weight_scale` `[out, in / group]`, `[out, 1]` or `[1]` | the same |
//! | zero points, if there are any | `M.weight_zero_point` I32 `[ceil(out * bits / 32), in / group]` | I8, shaped like the scales |
//! | shape | `M.weight_shape` I64 `[2]` | – |
//!
//! Packed codes are unsigned, a dense bit stream along each row; packed zero points are one down each column. One zero
//! point for a whole tensor is I8 `[1]`, even where codes are packed. Codes and zero points of the other two are signed:
//! `2^(bits-1)` is subtracted. Pruned entries get the code of zero, so they read as exactly zero.
//!
//! Reading takes more than is written: 3, 5, 6 and 7 bits (as a dense stream, and in the older way with
//! `floor(32 / bits)` codes a word), and FP8 weights with their scales.

mod config;
mod groups;
mod read;
mod scheme;
mod write;

use brevity_model::{Config, Form, Model, Source, Stage, Weight};

pub use self::read::{CompressedFiles, open};
use crate::dense::no_new_bias;
use crate::error::Error;
use crate::format::{Format, forms};
use crate::gather::{StageView, carry_others, others, wholes};
use crate::tensor::{Tensor, TensorSpec};

/// One of the three layouts that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressedTensors {
    packing: Packing,
}

/// How codes are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// Bit streams in 32-bit words; activations stay floats.
    Packed,
    /// One byte a code; the reader also quantizes activations, token by token.
    Int,
    /// One byte a code; activations stay floats.
    Naive,
}

impl CompressedTensors {
    /// `pack-quantized`: 2, 4 or 8 bits.
    pub const PACKED: CompressedTensors = CompressedTensors { packing: Packing::Packed };
    /// `int-quantized`: 8 bits, and activations in 8 bits when it is run.
    pub const INT: CompressedTensors = CompressedTensors { packing: Packing::Int };
    /// `naive-quantized`: 2 to 8 bits, one byte each.
    pub const NAIVE: CompressedTensors = CompressedTensors { packing: Packing::Naive };
}

impl Packing {
    /// The name of the layout in configurations.
    fn format(self) -> &'static str {
        match self {
            Packing::Packed => "pack-quantized",
            Packing::Int => "int-quantized",
            Packing::Naive => "naive-quantized",
        }
    }

    /// The widths that are written, and the same in words.
    fn holds(self) -> (&'static [u8], &'static str) {
        match self {
            Packing::Packed => (&[2, 4, 8], "2, 4 or 8"),
            Packing::Int => (&[8], "8"),
            Packing::Naive => (&[2, 3, 4, 5, 6, 7, 8], "2 to 8"),
        }
    }
}

impl Format for CompressedTensors {
    fn name(&self) -> &'static str {
        match self.packing {
            Packing::Packed => "compressed-tensors",
            Packing::Int => "compressed-tensors-int",
            Packing::Naive => "compressed-tensors-naive",
        }
    }

    fn about(&self) -> &'static str {
        match self.packing {
            Packing::Packed => "linear layers as packed integers of 2, 4 or 8 bits (pack-quantized)",
            Packing::Int => "linear layers as 8-bit integers, to be run with 8-bit activations (int-quantized)",
            Packing::Naive => "linear layers as integers of 2 to 8 bits, one byte each (naive-quantized)",
        }
    }

    fn consumers(&self) -> &'static str {
        match self.packing {
            Packing::Packed => {
                "transformers, vLLM, SGLang (grids with zero points in transformers with `dequantize=True`)"
            }
            Packing::Int => "transformers, vLLM, SGLang",
            Packing::Naive => "transformers",
        }
    }

    fn layout(&self, at: &StageView<'_>, forms: &Stage<Form>) -> Result<Vec<TensorSpec>, Error> {
        let mut specs = Vec::new();
        let wholes = wholes(self.name(), at, forms)?;
        no_new_bias(self.name(), at, &wholes)?;
        for whole in &wholes {
            specs.extend(self.specs(at, whole)?);
        }
        specs.extend(others(self.name(), at)?);
        Ok(specs)
    }

    fn encode(&self, at: &StageView<'_>, weights: &Stage<Weight>) -> Result<Vec<Tensor>, Error> {
        let forms = forms(weights);
        let mut tensors = Vec::new();
        for (whole, forms) in wholes(self.name(), at, weights)?.iter().zip(wholes(self.name(), at, &forms)?) {
            tensors.extend(self.tensors(at, whole, &forms)?);
        }
        tensors.extend(carry_others(self.name(), at)?);
        Ok(tensors)
    }

    fn config(&self, source: &Config, model: &Model<Source>, forms: &Model<Form>) -> Result<Config, Error> {
        config::with_schemes(*self, source, model, forms)
    }
}
