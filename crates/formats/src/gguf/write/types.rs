//! Which tensor is stored in which type: the mixtures of llama.cpp, by the name it gives them.

use std::fmt;
use std::str::FromStr;

use super::blocks::Block;

/// How the weights of a GGUF file are stored.
///
/// Vectors, norms, positions and token types are always single precision. The table that gives the logits (the token
/// table, if both are one) is finer than the rest in the types of four bits, as in files of llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Eight bits, a scale for each 32 weights.
    Q8_0,
    /// Four bits, a scale for each 32 weights; the output table in Q6_K.
    Q4_0,
    /// Four bits in groups of 32 with scale and minimum: the mixture that llama.cpp calls Q4_K_M. The output table, and
    /// in half of the blocks the values and the last matrix of the MLP, are Q6_K.
    Q4K,
}

impl GgufType {
    /// All of them.
    pub const ALL: [GgufType; 6] =
        [GgufType::F32, GgufType::F16, GgufType::Bf16, GgufType::Q8_0, GgufType::Q4_0, GgufType::Q4K];

    /// Its name, as users give it.
    pub fn name(self) -> &'static str {
        match self {
            GgufType::F32 => "f32",
            GgufType::F16 => "f16",
            GgufType::Bf16 => "bf16",
            GgufType::Q8_0 => "q8_0",
            GgufType::Q4_0 => "q4_0",
            GgufType::Q4K => "q4_k",
        }
    }

    /// Its number under `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Bf16 => 32,
            GgufType::Q8_0 => 7,
            GgufType::Q4_0 => 2,
            GgufType::Q4K => 15,
        }
    }

    /// Whether weights become codes.
    pub(super) fn is_quantized(self) -> bool {
        matches!(self, GgufType::Q8_0 | GgufType::Q4_0 | GgufType::Q4K)
    }

    /// The type of most matrices.
    fn base(self) -> Block {
        match self {
            GgufType::F32 => Block::F32,
            GgufType::F16 => Block::F16,
            GgufType::Bf16 => Block::Bf16,
            GgufType::Q8_0 => Block::Q8_0,
            GgufType::Q4_0 => Block::Q4_0,
            GgufType::Q4K => Block::Q4K,
        }
    }

    /// The type that a matrix should have.
    pub(super) fn wanted(self, matrix: Matrix) -> Block {
        match (self, matrix) {
            (GgufType::Q4_0 | GgufType::Q4K, Matrix::Logits) => Block::Q6K,
            (GgufType::Q4K, Matrix::Sensitive { block, of }) if gets_more(block, of) => Block::Q6K,
            (GgufType::Q4K, Matrix::Qkv) => Block::Q5K,
            _ => self.base(),
        }
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for GgufType {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        GgufType::ALL.into_iter().find(|kind| kind.name() == name).ok_or(())
    }
}

/// What a mixture tells matrices apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matrix {
    /// Gives the logits.
    Logits,
    /// Values, or the last matrix of an MLP, of one block of so many.
    Sensitive { block: usize, of: usize },
    /// Queries, keys and values in one.
    Qkv,
    /// Any other.
    Plain,
}

/// The blocks whose sensitive matrices get more bits: the first and last eighth, and each third between.
fn gets_more(block: usize, of: usize) -> bool {
    block < of / 8 || block >= 7 * of / 8 || (block - of / 8) % 3 == 2
}

/// The type that rows of this length can have: where blocks do not fit, the next simpler ones of more bits, then halves.
pub fn fitting(wanted: Block, columns: usize) -> Block {
    let fits = |block: Block| columns.is_multiple_of(block.values());
    let simpler = match wanted {
        Block::Q4K => Block::Q5_0,
        Block::Q5K => Block::Q5_1,
        Block::Q6K => Block::Q8_0,
        other => other,
    };
    [wanted, simpler].into_iter().find(|block| fits(*block)).unwrap_or(Block::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in GgufType::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert_eq!("q4_k_m".parse::<GgufType>(), Err(()));
    }

    #[test]
    fn the_table_of_the_logits_is_finer_in_four_bits() {
        for (kind, table, rest) in [
            (GgufType::F16, Block::F16, Block::F16),
            (GgufType::Q8_0, Block::Q8_0, Block::Q8_0),
            (GgufType::Q4_0, Block::Q6K, Block::Q4_0),
            (GgufType::Q4K, Block::Q6K, Block::Q4K),
        ] {
            assert_eq!((kind.wanted(Matrix::Logits), kind.wanted(Matrix::Plain)), (table, rest), "{kind}");
        }
        assert_eq!(GgufType::Q4K.wanted(Matrix::Qkv), Block::Q5K);
    }

    #[test]
    fn half_of_the_sensitive_matrices_get_six_bits() {
        // Of 16 blocks: 0, 1 and 14, 15, and from 2 on each third: 4, 7, 10, 13.
        let more: Vec<usize> =
            (0..16).filter(|&block| GgufType::Q4K.wanted(Matrix::Sensitive { block, of: 16 }) == Block::Q6K).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(GgufType::Q4_0.wanted(Matrix::Sensitive { block: 0, of: 16 }), Block::Q4_0);
    }

    #[test]
    fn widths_that_blocks_do_not_divide_get_more_bits_not_fewer() {
        for (wanted, columns, found) in [
            (Block::Q4K, 512, Block::Q4K),
            (Block::Q4K, 576, Block::Q5_0),
            (Block::Q5K, 96, Block::Q5_1),
            (Block::Q6K, 576, Block::Q8_0),
            (Block::Q4_0, 96, Block::Q4_0),
            (Block::Q4_0, 48, Block::F16),
            (Block::Q6K, 48, Block::F16),
            (Block::F32, 7, Block::F32),
        ] {
            assert_eq!(fitting(wanted, columns), found, "{wanted:?}, {columns} columns");
        }
    }
}
