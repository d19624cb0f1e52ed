//! How one matrix is coded: as floats, on a grid, from a codebook, or by a rule.

use std::sync::Arc;

use brevity_kernels::cast;
use brevity_kernels::matmul::{Dims, matmul_f32};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::expr::{Expr, Shaped};
use crate::mask::Mask;

/// One coded matrix and, if it was pruned, which of its entries are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// `[rows, columns]`; a vector is one row.
    pub shape: [usize; 2],
    /// The values.
    pub code: Code,
    /// Kept entries. Removed ones read as zero whatever the code holds there.
    pub mask: Option<Mask>,
}

/// The values of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum Code {
    /// Floating-point numbers.
    Float(Floats),
    /// Integer codes on a grid.
    Grid(Grid),
    /// Vector codes.
    Codebook(Codebook),
    /// A matrix that costs nothing, or one row, to store.
    Rule(Rule),
}

/// Number types that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// FP8 with 4 exponent and 3 mantissa bits, no infinities.
    F8E4m3,
}

impl Dtype {
    /// Bytes of one number.
    pub fn size_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::F8E4m3 => 1,
        }
    }

    /// The nearest number of this type, as a single.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Dtype::F32 => x,
            Dtype::F16 => f16::from_f32(x).to_f32(),
            Dtype::Bf16 => bf16::from_f32(x).to_f32(),
            Dtype::F8E4m3 => Floats::from_f32(vec![x], self).to_f32()[0],
        }
    }
}

/// Floating-point numbers of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Floats {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision.
    F16(Vec<f16>),
    /// The upper half of singles.
    Bf16(Vec<bf16>),
    /// FP8 E4M3, as bits.
    F8E4m3(Vec<u8>),
}

impl Floats {
    /// `values`, rounded to the nearest number of a type.
    pub fn from_f32(values: Vec<f32>, dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Floats::F32(values),
            Dtype::F16 => Floats::F16(values.into_iter().map(f16::from_f32).collect()),
            Dtype::Bf16 => Floats::Bf16(values.into_iter().map(bf16::from_f32).collect()),
            Dtype::F8E4m3 => {
                let mut bits = vec![0; values.len()];
                cast::f32_to_e4m3(&values, &mut bits);
                Floats::F8E4m3(bits)
            }
        }
    }

    /// The type of the numbers.
    pub fn dtype(&self) -> Dtype {
        match self {
            Floats::F32(_) => Dtype::F32,
            Floats::F16(_) => Dtype::F16,
            Floats::Bf16(_) => Dtype::Bf16,
            Floats::F8E4m3(_) => Dtype::F8E4m3,
        }
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Floats::F32(v) => v.len(),
            Floats::F16(v) => v.len(),
            Floats::Bf16(v) => v.len(),
            Floats::F8E4m3(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers as singles, exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Floats::F32(v) => v.clone(),
            Floats::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Floats::Bf16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Floats::F8E4m3(v) => {
                let mut values = vec![0.0; v.len()];
                cast::e4m3_to_f32(v, &mut values);
                values
            }
        }
    }
}

/// Which entries of a matrix share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// All of them.
    Tensor,
    /// Those of one row (output channel).
    Channel,
    /// Runs of so many columns (inputs) of one row; the last run of a row may be shorter.
    Columns(usize),
}

impl Group {
    /// `[rows, columns]` of the table of scales of a matrix.
    pub fn scales(self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        match self {
            Group::Tensor => [1, 1],
            Group::Channel => [rows, 1],
            Group::Columns(size) => [rows, columns.div_ceil(size)],
        }
    }

    /// How many columns of a row share a scale.
    pub fn columns(self, columns: usize) -> usize {
        match self {
            Group::Columns(size) => size,
            _ => columns.max(1),
        }
    }
}

/// Integer codes on a uniform grid, or on a table of levels, with a scale for each group.
///
/// A code `q` stands for `scale * (q - zero)`, or for `scale * levels[q]` if there is a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Bits of a code, 1 to 8.
    pub bits: u8,
    /// One unsigned code for each entry, row by row.
    pub codes: Vec<u8>,
    /// Scales, `group.scales(shape)`, row by row; each is a number of `scale_dtype`.
    pub scales: Vec<f32>,
    /// Zero points beside the scales; none for a symmetric grid, whose zero point is `2^(bits-1)`.
    pub zeros: Option<Vec<u8>>,
    /// Which entries share a scale.
    pub group: Group,
    /// The type in which scales are stored.
    pub scale_dtype: Dtype,
    /// The levels of a table grid (NF4 and the like).
    pub levels: Option<Arc<[f32]>>,
}

impl Grid {
    /// The values, row by row.
    pub fn to_f32(&self, [rows, columns]: [usize; 2]) -> Vec<f32> {
        let [_, per_row] = self.group.scales([rows, columns]);
        let run = self.group.columns(columns);
        let mut values = vec![0.0; rows * columns];
        if columns == 0 {
            return values;
        }
        for (row, out) in values.chunks_mut(columns).enumerate() {
            let codes = &self.codes[row * columns..][..columns];
            for (n, (out, codes)) in out.chunks_mut(run).zip(codes.chunks(run)).enumerate() {
                let at = if self.group == Group::Tensor { 0 } else { row * per_row + n };
                let scale = self.scales[at];
                match &self.levels {
                    Some(levels) => out.iter_mut().zip(codes).for_each(|(out, &q)| *out = scale * levels[q as usize]),
                    None => {
                        let zero = self.zeros.as_ref().map_or(1 << (self.bits - 1), |zeros| zeros[at] as i32);
                        out.iter_mut().zip(codes).for_each(|(out, &q)| *out = scale * (q as i32 - zero) as f32);
                    }
                }
            }
        }
        values
    }
}

/// Vector codes: each run of `dim` inputs of a row is a sum of entries, one from each book, times the scale of the row.
#[derive(Clone, Debug, PartialEq)]
pub struct Codebook {
    /// Inputs in a run; divides the number of columns.
    pub dim: usize,
    /// The books, each `[entries, dim]`, row by row.
    pub books: Vec<Vec<f32>>,
    /// Codes, `[rows, columns / dim, books]`.
    pub codes: Vec<u16>,
    /// One scale for each row.
    pub scales: Vec<f32>,
    /// The type in which books and scales are stored.
    pub dtype: Dtype,
}

impl Codebook {
    /// The values, row by row.
    pub fn to_f32(&self, [rows, columns]: [usize; 2]) -> Vec<f32> {
        let mut values = vec![0.0; rows * columns];
        if values.is_empty() {
            return values;
        }
        let runs_per_row = columns / self.dim;
        for (n, (run, codes)) in values.chunks_mut(self.dim).zip(self.codes.chunks(self.books.len())).enumerate() {
            for (book, &code) in self.books.iter().zip(codes) {
                let entry = &book[code as usize * self.dim..][..self.dim];
                run.iter_mut().zip(entry).for_each(|(value, e)| *value += e);
            }
            let scale = self.scales[n / runs_per_row];
            run.iter_mut().for_each(|value| *value *= scale);
        }
        values
    }
}

/// A square matrix given by a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Zero but for these numbers on the diagonal.
    Diagonal(Vec<f32>),
    /// Output `i` is input `p[i]`.
    Permutation(Vec<u32>),
    /// The orthogonal Sylvester matrix of this size, a power of two: entry `(i, j)` is `±n^(-1/2)`,
    /// negative if `i & j` has an odd number of ones.
    Hadamard(usize),
}

impl Rule {
    /// Rows, and columns, of the matrix.
    pub fn size(&self) -> usize {
        match self {
            Rule::Diagonal(d) => d.len(),
            Rule::Permutation(p) => p.len(),
            Rule::Hadamard(n) => *n,
        }
    }

    /// The values, row by row.
    pub fn to_f32(&self) -> Vec<f32> {
        let n = self.size();
        let mut values = vec![0.0; n * n];
        match self {
            Rule::Diagonal(d) => d.iter().enumerate().for_each(|(i, &x)| values[i * n + i] = x),
            Rule::Permutation(p) => p.iter().enumerate().for_each(|(i, &j)| values[i * n + j as usize] = 1.0),
            Rule::Hadamard(_) => {
                let x = 1.0 / (n as f32).sqrt();
                values.iter_mut().enumerate().for_each(|(at, value)| {
                    *value = if ((at / n) & (at % n)).count_ones().is_multiple_of(2) { x } else { -x };
                });
            }
        }
        values
    }
}

impl Shaped for Leaf {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }
}

impl Leaf {
    /// A leaf of floats.
    ///
    /// # Panics
    /// If there are not `rows * columns` of them.
    pub fn float(shape: [usize; 2], values: Floats) -> Self {
        assert_eq!(shape[0] * shape[1], values.len(), "as many values as the shape says");
        Leaf { shape, code: Code::Float(values), mask: None }
    }

    /// The values as singles, row by row; removed entries are zero.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = match &self.code {
            Code::Float(floats) => floats.to_f32(),
            Code::Grid(grid) => grid.to_f32(self.shape),
            Code::Codebook(book) => book.to_f32(self.shape),
            Code::Rule(rule) => rule.to_f32(),
        };
        if let Some(mask) = &self.mask {
            mask.apply(&mut values);
        }
        values
    }
}

impl Expr<Leaf> {
    /// A lone leaf of floats.
    pub fn float(shape: [usize; 2], values: Floats) -> Self {
        Expr::Leaf(Leaf::float(shape, values))
    }

    /// The values of the whole expression as singles, row by row. Products and trains are multiplied out.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Expr::Leaf(leaf) => leaf.to_f32(),
            Expr::Sum(ab) => {
                let mut sum = ab[0].to_f32();
                sum.iter_mut().zip(ab[1].to_f32()).for_each(|(a, b)| *a += b);
                sum
            }
            Expr::Product(ab) => {
                let ([rows, inner], [_, columns]) = (ab[0].shape(), ab[1].shape());
                let (a, b) = (ab[0].to_f32(), ab[1].to_f32());
                let mut out = vec![0.0; rows * columns];
                matmul_f32(Dims { m: rows, k: inner, n: columns }, &a, &b, &mut out);
                out
            }
            Expr::Train(train) => train.to_f32(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_reads_scale_times_code_minus_zero() {
        // Row 0: groups (1, 2) and (3): scales 0.5 and 2, zeros 1 and 0.
        let grid = Grid {
            bits: 2,
            codes: vec![0, 1, 3],
            scales: vec![0.5, 2.0],
            zeros: Some(vec![1, 0]),
            group: Group::Columns(2),
            scale_dtype: Dtype::F32,
            levels: None,
        };
        assert_eq!(grid.to_f32([1, 3]), [-0.5, 0.0, 6.0]);
        let symmetric = Grid { zeros: None, group: Group::Channel, scales: vec![0.5], ..grid.clone() };
        assert_eq!(symmetric.to_f32([1, 3]), [-1.0, -0.5, 0.5]);
        let table = Grid { levels: Some([-1.0, 0.0, 0.25, 1.0].into()), ..symmetric };
        assert_eq!(table.to_f32([1, 3]), [-0.5, 0.0, 0.5]);
    }

    #[test]
    fn a_codebook_adds_the_entries_of_its_books() {
        let book = Codebook {
            dim: 2,
            books: vec![vec![1.0, 2.0, 3.0, 4.0], vec![0.0, 0.0, 10.0, 20.0]],
            codes: vec![0, 1, 1, 0],
            scales: vec![2.0],
            dtype: Dtype::F16,
        };
        assert_eq!(book.to_f32([1, 4]), [22.0, 44.0, 6.0, 8.0]);
    }

    #[test]
    fn rules_are_the_matrices_they_name() {
        assert_eq!(Rule::Diagonal(vec![2.0, 3.0]).to_f32(), [2.0, 0.0, 0.0, 3.0]);
        assert_eq!(Rule::Permutation(vec![1, 0]).to_f32(), [0.0, 1.0, 1.0, 0.0]);
        let h = Weight4(Rule::Hadamard(4).to_f32());
        assert_eq!(h.gram(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    struct Weight4(Vec<f32>);
    impl Weight4 {
        fn gram(&self) -> Vec<f32> {
            (0..16).map(|at| (0..4).map(|k| self.0[at / 4 * 4 + k] * self.0[at % 4 * 4 + k]).sum()).collect()
        }
    }

    #[test]
    fn masked_entries_read_as_zero() {
        let mut leaf = Leaf::float([1, 2], Floats::F32(vec![1.0, 2.0]));
        leaf.mask = Some(Mask::from_bools([1, 2], &[false, true]));
        assert_eq!(leaf.to_f32(), [0.0, 2.0]);
    }
}
