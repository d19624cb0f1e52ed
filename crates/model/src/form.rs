//! How weights are stored, without the weights: shapes, kinds and bits.

use serde::{Deserialize, Serialize};

use crate::code::{Code, Dtype, Group, Leaf, Rule};
use crate::expr::{Expr, Shaped};

/// How a weight is stored: the same expression as the weight, over shapes and kinds.
pub type Form = Expr<LeafForm>;

/// Shape and kind of one coded matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LeafForm {
    /// `[rows, columns]`.
    pub shape: [usize; 2],
    /// How the values are coded.
    pub code: CodeForm,
    /// What is known of the mask, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskForm>,
}

/// Kind and parameters of a code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeForm {
    /// Floating-point numbers.
    Float(Dtype),
    /// Codes on a grid.
    Grid {
        /// Bits of a code.
        bits: u8,
        /// Which entries share a scale.
        group: Group,
        /// The type of the scales.
        scale_dtype: Dtype,
        /// Whether zero points are stored.
        zeros: bool,
        /// How many levels a table grid has; none for a uniform grid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        levels: Option<usize>,
    },
    /// Vector codes.
    Codebook {
        /// Inputs in a run.
        dim: usize,
        /// Entries of each book.
        entries: Vec<usize>,
        /// The type of books and scales.
        dtype: Dtype,
    },
    /// A diagonal matrix.
    Diagonal,
    /// A permutation.
    Permutation,
    /// A Hadamard matrix.
    Hadamard,
    /// Blocks of codes and scales as GGUF files hold them; read as floats.
    Blocks(BlockKind),
}

/// A block type of GGUF files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockKind {
    /// Its name there, such as `Q4_K`.
    pub name: String,
    /// Values in a block.
    pub values: usize,
    /// Bytes of a block.
    pub bytes: usize,
}

/// What a plan knows of a mask.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskForm {
    /// This share of the entries is removed, anywhere.
    Free(f64),
    /// In each run of `of` columns, `removed` are.
    Pattern {
        /// Removed entries in a run.
        removed: usize,
        /// Columns of a run.
        of: usize,
    },
}

impl Shaped for LeafForm {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
}

impl LeafForm {
    /// Floats of a type.
    pub fn float(shape: [usize; 2], dtype: Dtype) -> Self {
        LeafForm { shape, code: CodeForm::Float(dtype), mask: None }
    }

    /// The form of a leaf. The mask is reported as a free one, with its real share of removed entries.
    pub fn of(leaf: &Leaf) -> Self {
        let code = match &leaf.code {
            Code::Float(floats) => CodeForm::Float(floats.dtype()),
            Code::Grid(grid) => CodeForm::Grid {
                bits: grid.bits,
                group: grid.group,
                scale_dtype: grid.scale_dtype,
                zeros: grid.zeros.is_some(),
                levels: grid.levels.as_ref().map(|levels| levels.len()),
            },
            Code::Codebook(book) => CodeForm::Codebook {
                dim: book.dim,
                entries: book.books.iter().map(|b| b.len() / book.dim).collect(),
                dtype: book.dtype,
            },
            Code::Rule(Rule::Diagonal(_)) => CodeForm::Diagonal,
            Code::Rule(Rule::Permutation(_)) => CodeForm::Permutation,
            Code::Rule(Rule::Hadamard(_)) => CodeForm::Hadamard,
        };
        let count = (leaf.shape[0] * leaf.shape[1]).max(1);
        let mask = leaf.mask.as_ref().map(|mask| MaskForm::Free(1.0 - mask.kept() as f64 / count as f64));
        LeafForm { shape: leaf.shape, code, mask }
    }

    /// Bits of the values, scales, zero points, tables and mask when nothing is wasted.
    pub fn bits(&self) -> u64 {
        let count = (self.shape[0] * self.shape[1]) as u64;
        let width = |dtype: Dtype| 8 * dtype.size_bytes() as u64;
        let values = match &self.code {
            CodeForm::Float(dtype) => count * width(*dtype),
            CodeForm::Grid { bits, group, scale_dtype, zeros, levels } => {
                let [r, c] = group.scales(self.shape);
                let table = levels.map_or(0, |n| 32 * n as u64);
                count * *bits as u64
                    + (r * c) as u64 * (width(*scale_dtype) + if *zeros { *bits as u64 } else { 0 })
                    + table
            }
            CodeForm::Codebook { dim, entries, dtype } => {
                let index: u64 = entries.iter().map(|&n| n.max(2).next_power_of_two().ilog2() as u64).sum();
                let books: u64 = entries.iter().map(|&n| (n * dim) as u64).sum();
                count / *dim as u64 * index + (books + self.shape[0] as u64) * width(*dtype)
            }
            CodeForm::Diagonal | CodeForm::Permutation => 32 * self.shape[0] as u64,
            CodeForm::Hadamard => 0,
            CodeForm::Blocks(kind) => count / kind.values as u64 * kind.bytes as u64 * 8,
        };
        values + if self.mask.is_some() { count } else { 0 }
    }

    /// Numbers that the leaf holds: removed entries count, rules count what they store.
    pub fn parameters(&self) -> u64 {
        match self.code {
            CodeForm::Diagonal | CodeForm::Permutation => self.shape[0] as u64,
            CodeForm::Hadamard => 0,
            _ => (self.shape[0] * self.shape[1]) as u64,
        }
    }

    /// The share of entries that a mask removes.
    pub fn sparsity(&self) -> f64 {
        match self.mask {
            None => 0.0,
            Some(MaskForm::Free(share)) => share,
            Some(MaskForm::Pattern { removed, of }) => {
                (self.shape[1] / of * removed) as f64 / self.shape[1].max(1) as f64
            }
        }
    }

    /// Whether the values are something other than floats.
    pub fn is_coded(&self) -> bool {
        !matches!(self.code, CodeForm::Float(_))
    }
}

impl Expr<LeafForm> {
    /// The form of a weight.
    pub fn of(weight: &Expr<Leaf>) -> Form {
        weight
            .try_map(&mut |_, leaf| Ok::<_, std::convert::Infallible>(LeafForm::of(leaf)))
            .unwrap_or_else(|never| match never {})
    }

    /// A lone matrix of floats.
    pub fn float(shape: [usize; 2], dtype: Dtype) -> Form {
        Expr::Leaf(LeafForm::float(shape, dtype))
    }

    /// Bits of all leaves when nothing is wasted.
    pub fn bits(&self) -> u64 {
        self.leaves().iter().map(|(_, leaf)| leaf.bits()).sum()
    }

    /// Numbers that the expression holds.
    pub fn parameters(&self) -> u64 {
        self.leaves().iter().map(|(_, leaf)| leaf.parameters()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_count_codes_scales_zeros_and_masks() {
        // 2 x 64 weights of 4 bits, groups of 32: 512 + 4 scales of 16 + 4 zeros of 4 = 592, and a mask of 128.
        let grid =
            CodeForm::Grid { bits: 4, group: Group::Columns(32), scale_dtype: Dtype::Bf16, zeros: true, levels: None };
        let mut form = LeafForm { shape: [2, 64], code: grid, mask: None };
        assert_eq!(form.bits(), 592);
        form.mask = Some(MaskForm::Free(0.5));
        assert_eq!(form.bits(), 720);
        assert_eq!(form.parameters(), 128);
    }
}
