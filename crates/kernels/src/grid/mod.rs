//! Uniform and tabulated grids: fitting, encoding, decoding.
//!
//! With scale `s` and zero point `z` a weight `w` is stored as `q = clamp(round(w / s) + z, 0, 2^bits - 1)`,
//! rounding ties to even, and read back as `s (q - z)`. Codes and zero points are unsigned here; a format
//! with signed codes subtracts `2^(bits - 1)` from both.
//!
//! | | scale | zero point |
//! |---|---|---|
//! | symmetric | `absmax / ((2^bits - 1) / 2)` | `2^(bits - 1)`, not stored |
//! | asymmetric | `(max(0, max) - min(0, min)) / (2^bits - 1)` | `round(-min / s)`, in the code range |
//!
//! The scale is rounded to the type it will be stored in *before* the zero point and the codes are computed
//! with it, so that the file holds exactly the weights that were measured. Nothing here uses fused
//! multiply-add, so codes are the same on every processor.

mod code;
mod fit;
mod levels;

pub(crate) use code::{code_of, steps};
pub use code::{decode, decode_scalar, encode, encode_scalar};
pub(crate) use fit::fit_group;
pub use fit::{fit, fit_scalar};
pub use levels::{Levels, NF4};

use crate::error::Error;

/// Which weights share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Runs of this many inputs of one row.
    Size(usize),
    /// A whole row: one scale per output channel.
    Row,
    /// The whole matrix.
    Tensor,
}

/// How the range of a group is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// The smallest range that holds every weight.
    MinMax,
    /// The smallest and largest weight, shrunk by the factor among `1, 1 - 1/steps, .., 1 - shrink` with the
    /// least `Σ |w - ŵ|^2.4` (the search of the GPTQ reference code).
    Mse {
        /// Candidates per unit of shrinking; 100 is usual.
        steps: u32,
        /// The most a range is shrunk by; 0.8 is usual.
        shrink: f32,
    },
}

impl Range {
    /// The usual clip search: 100 steps per unit, down to a fifth of the range.
    pub const MSE: Range = Range::Mse { steps: 100, shrink: 0.8 };
}

/// The type scales are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl ScaleType {
    /// The nearest positive finite value of this type; a scale of zero becomes the smallest positive one.
    pub fn round(self, scale: f32) -> f32 {
        match self {
            ScaleType::F32 => scale.clamp(f32::from_bits(1), f32::MAX),
            ScaleType::F16 => half::f16::from_f32(scale.clamp(5.960_464_5e-8, 65504.0)).to_f32(),
            ScaleType::Bf16 => {
                let (least, most) = (half::bf16::from_bits(1), half::bf16::MAX);
                half::bf16::from_f32(scale.clamp(least.to_f32(), most.to_f32())).to_f32()
            }
        }
    }
}

/// A uniform grid: everything but the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// Bits per code, 1 to 8.
    pub bits: u32,
    /// Which weights share a scale.
    pub group: Group,
    /// Whether the zero point is fixed at the middle code.
    pub symmetric: bool,
    /// How ranges are chosen.
    pub range: Range,
    /// The type of the stored scales.
    pub scale: ScaleType,
    /// Whether the last group of a row may be shorter than the others.
    pub ragged: bool,
}

impl Spec {
    /// The largest code.
    pub fn max_code(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// The code that decodes to zero on a symmetric grid.
    pub fn middle(&self) -> u8 {
        1 << (self.bits - 1)
    }

    /// Groups per row and weights per group for a `[rows, cols]` matrix; a tensor-wide group is one group of a
    /// single long row.
    pub(crate) fn layout(&self, [rows, cols]: [usize; 2]) -> Result<Layout, Error> {
        if !(1..=8).contains(&self.bits) {
            return Err(Error::Bits { bits: self.bits });
        }
        layout(self.group, self.ragged, [rows, cols])
    }

    /// How many scales a `[rows, cols]` matrix has.
    ///
    /// # Errors
    /// [`Error::Bits`], or [`Error::Group`] if the group does not divide `cols` and may not be ragged.
    pub fn scales(&self, shape: [usize; 2]) -> Result<usize, Error> {
        self.layout(shape).map(|l| l.rows * l.groups)
    }
}

/// A matrix as runs that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Rows; one if the whole tensor is one group.
    pub rows: usize,
    /// Weights per row.
    pub cols: usize,
    /// Weights per group, at least one.
    pub group: usize,
    /// Groups per row.
    pub groups: usize,
}

pub(crate) fn layout(group: Group, ragged: bool, [rows, cols]: [usize; 2]) -> Result<Layout, Error> {
    Ok(match group {
        Group::Size(group) => {
            if group == 0 || (!ragged && !cols.is_multiple_of(group)) {
                return Err(Error::Group { inputs: cols, group });
            }
            Layout { rows, cols, group, groups: cols.div_ceil(group) }
        }
        Group::Row => Layout { rows, cols, group: cols.max(1), groups: 1 },
        Group::Tensor => Layout { rows: 1, cols: rows * cols, group: (rows * cols).max(1), groups: 1 },
    })
}

/// The fitted scales and zero points of a matrix, `[rows, groups]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Scales {
    /// One positive scale per group, already representable in the stored type.
    pub scales: Vec<f32>,
    /// One unsigned zero point per group; none on a symmetric grid, where it is `2^(bits - 1)`.
    pub zeros: Option<Vec<u8>>,
}

impl Scales {
    /// The zero point of group `i`.
    #[inline(always)]
    pub(crate) fn zero(&self, spec: &Spec, i: usize) -> u8 {
        match &self.zeros {
            Some(z) => z[i],
            None => spec.middle(),
        }
    }
}

pub(crate) fn check_len(what: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::Length { what, found, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bits: u32, group: Group) -> Spec {
        Spec { bits, group, symmetric: true, range: Range::MinMax, scale: ScaleType::F32, ragged: false }
    }

    #[test]
    fn a_group_must_divide_unless_a_short_one_is_allowed() {
        assert_eq!(spec(4, Group::Size(3)).scales([2, 7]), Err(Error::Group { inputs: 7, group: 3 }));
        assert_eq!(Spec { ragged: true, ..spec(4, Group::Size(3)) }.scales([2, 7]), Ok(6));
        assert_eq!(spec(4, Group::Row).scales([2, 7]), Ok(2));
        assert_eq!(spec(4, Group::Tensor).scales([2, 7]), Ok(1));
        assert_eq!(spec(9, Group::Row).scales([2, 7]), Err(Error::Bits { bits: 9 }));
        assert_eq!(spec(4, Group::Size(0)).scales([2, 7]), Err(Error::Group { inputs: 7, group: 0 }));
    }

    #[test]
    fn scales_are_rounded_into_their_type_and_never_zero() {
        assert_eq!(ScaleType::F16.round(0.1), half::f16::from_f32(0.1).to_f32());
        assert_eq!(ScaleType::F16.round(1e-30), 5.960_464_5e-8);
        assert_eq!(ScaleType::F16.round(f32::INFINITY), 65504.0);
        assert!(ScaleType::Bf16.round(0.0) > 0.0 && ScaleType::F32.round(0.0) > 0.0);
        assert_eq!(ScaleType::Bf16.round(0.1), half::bf16::from_f32(0.1).to_f32());
    }
}
