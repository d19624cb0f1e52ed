//! What can be wrong with tensors that hold codes, and how they are read.

use brevity_model::{Dtype, Grid, Mask};

use crate::container::{Container, Raw};
use crate::error::Error;

/// Why codes cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodedFault {
    /// A tensor that belongs to it is not there.
    #[error("its tensor `{tensor}` is missing")]
    Missing {
        /// The tensor.
        tensor: String,
    },
    /// A tensor that belongs to it has another type or shape than the rest asks for.
    #[error("its tensor `{tensor}` is {dtype} {shape:?}, expected {expected}")]
    Unfit {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
        /// Its dimensions.
        shape: Vec<usize>,
        /// What would fit.
        expected: String,
    },
    /// A code or an index is greater than it can be.
    #[error("its tensor `{tensor}` holds {value}, where values up to {limit} are possible")]
    Range {
        /// The tensor.
        tensor: String,
        /// The value.
        value: u64,
        /// The greatest possible value.
        limit: u64,
    },
    /// Neither the configuration nor the shapes say what the codes are.
    #[error("`quantization_config` does not say how it is coded")]
    Unknown,
    /// It is coded in a way that is not read.
    #[error("it is coded as {what}, which is not read")]
    Unsupported {
        /// The way.
        what: String,
    },
    /// The description of the coding is not valid.
    #[error("its description is not valid: {what}")]
    Description {
        /// What is wrong with it.
        what: String,
    },
}

impl CodedFault {
    /// The error for a logical tensor.
    pub(crate) fn of(self, tensor: &str) -> Error {
        Error::Coded { tensor: tensor.to_owned(), fault: self }
    }
}

/// The stored tensors of one coded weight.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    /// The files.
    pub files: &'a dyn Container,
    /// The weight, for messages.
    pub weight: &'a str,
}

impl<'a> Stored<'a> {
    /// A tensor that must be there.
    pub fn raw(&self, tensor: &str) -> Result<Raw<'a>, Error> {
        let missing = || CodedFault::Missing { tensor: tensor.to_owned() }.of(self.weight);
        self.files.raw(tensor).ok_or_else(missing)
    }

    /// Says that a tensor is not what it should be.
    pub fn unfit(&self, tensor: &str, raw: &Raw<'_>, expected: impl Into<String>) -> Error {
        let fault = CodedFault::Unfit {
            tensor: tensor.to_owned(),
            dtype: raw.dtype.to_owned(),
            shape: raw.shape.to_vec(),
            expected: expected.into(),
        };
        fault.of(self.weight)
    }

    /// A tensor of this type and shape.
    pub fn exact(&self, tensor: &str, dtype: &str, shape: &[usize]) -> Result<Raw<'a>, Error> {
        let raw = self.raw(tensor)?;
        if raw.dtype == dtype && raw.shape == shape {
            Ok(raw)
        } else {
            Err(self.unfit(tensor, &raw, format!("{dtype} {shape:?}")))
        }
    }

    /// Scales: the type, and for each number the single.
    pub fn floats(&self, tensor: &str, count: usize) -> Result<(Dtype, Vec<f32>), Error> {
        let raw = self.raw(tensor)?;
        let (dtype, values) = floats(&raw).ok_or_else(|| self.unfit(tensor, &raw, "floats"))?;
        if values.len() == count {
            Ok((dtype, values))
        } else {
            Err(self.unfit(tensor, &raw, format!("{count} floats")))
        }
    }

    /// Checks that no code is greater than `limit`.
    pub fn check(&self, tensor: &str, codes: &[u8], limit: u64) -> Result<(), Error> {
        match codes.iter().map(|&code| u64::from(code)).find(|&code| code > limit) {
            None => Ok(()),
            Some(value) => Err(CodedFault::Range { tensor: tensor.to_owned(), value, limit }.of(self.weight)),
        }
    }
}

/// The type of a tensor of floats that scales may have.
pub(crate) fn float_dtype(dtype: &str) -> Option<Dtype> {
    Some(match dtype {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        "F8_E4M3" => Dtype::F8E4m3,
        _ => return None,
    })
}

/// The numbers of a tensor of floats, whatever its shape.
pub(crate) fn floats(raw: &Raw<'_>) -> Option<(Dtype, Vec<f32>)> {
    let dtype = float_dtype(raw.dtype)?;
    let values = match dtype {
        Dtype::F32 => words(raw.bytes),
        Dtype::F16 => words::<half::f16>(raw.bytes).iter().map(|x| x.to_f32()).collect(),
        Dtype::Bf16 => words::<half::bf16>(raw.bytes).iter().map(|x| x.to_f32()).collect(),
        Dtype::F8E4m3 => brevity_model::Floats::F8E4m3(raw.bytes.to_vec()).to_f32(),
    };
    Some((dtype, values))
}

/// Bytes that may lie anywhere as numbers.
pub(crate) fn words<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// Gives the entries that a mask removes the code that reads as zero: the zero point, or the level that is zero.
pub(crate) fn clear(grid: &Grid, [rows, columns]: [usize; 2], mask: &Mask, codes: &mut [u8]) {
    let middle = match &grid.levels {
        None => 1 << (grid.bits - 1),
        Some(levels) => levels.iter().position(|&level| level == 0.0).unwrap_or(0) as u8,
    };
    let [_, per_row] = grid.group.scales([rows, columns]);
    let run = grid.group.columns(columns);
    let tensor = grid.group == brevity_model::Group::Tensor;
    for (eight, (byte, codes)) in mask.as_bytes().iter().zip(codes.chunks_mut(8)).enumerate() {
        if *byte == 0xFF {
            continue;
        }
        for (n, code) in codes.iter_mut().enumerate().filter(|(n, _)| byte >> n & 1 == 0) {
            let at = eight * 8 + n;
            let scale = if tensor { 0 } else { at / columns * per_row + at % columns / run };
            *code = grid.zeros.as_ref().map_or(middle, |zeros| zeros[scale]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{Code, Group, Leaf};

    #[test]
    fn cleared_codes_read_as_zero_on_every_grid() {
        let keep: Vec<bool> = (0..30).map(|i| i % 3 == 1).collect();
        let mask = Mask::from_bools([3, 10], &keep);
        for group in [Group::Tensor, Group::Channel, Group::Columns(4), Group::Columns(5)] {
            for zeroed in [false, true] {
                let [r, c] = group.scales([3, 10]);
                let mut grid = Grid {
                    bits: 4,
                    codes: (0..30).map(|i| i % 16).collect(),
                    scales: vec![0.5; r * c],
                    zeros: zeroed.then(|| (0..r * c).map(|i| i as u8 % 16).collect()),
                    group,
                    scale_dtype: Dtype::F32,
                    levels: None,
                };
                let leaf = Leaf { shape: [3, 10], code: Code::Grid(grid.clone()), mask: Some(mask.clone()) };
                let mut codes = grid.codes.clone();
                clear(&grid, [3, 10], &mask, &mut codes);
                grid.codes = codes;
                assert_eq!(grid.to_f32([3, 10]), leaf.to_f32(), "{group:?} {zeroed}");
            }
        }
    }
}
