//! Tensor trains: a matrix as a chain of small ones.

use brevity_kernels::matmul::{Dims, matmul_f32};
use serde::{Deserialize, Serialize};

use crate::code::Leaf;
use crate::expr::{Expr, Shaped};

/// A tensor train, also called a matrix product operator: a matrix as a chain of cores.
///
/// Rows are numbered by digits `i_1 … i_K` with `i_k < rows[k]`, columns by `j_1 … j_K` with `j_k < columns[k]`, the most
/// significant first. With one *bond* `b_k < B_k` between two cores, and `B_0 = B_K = 1`,
///
/// `W[i, j] = Σ_b Π_k C_k[b_{k-1}, i_k, j_k, b_k]`.
///
/// # Shapes
/// Core `k` is a matrix `[B_{k-1} rows[k], columns[k] B_k]`, its row `b_{k-1} rows[k] + i_k` and its column
/// `j_k B_k + b_k`. That is the matrix which activations are multiplied with when the train is applied core by core, the
/// last one first, so a core is coded and masked like any other weight. The products of `rows` and of `columns` may be
/// more than `shape` says: what is beyond is cut off, which is how sizes without divisors are held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train<L> {
    /// `[out, in]` of the matrix.
    pub shape: [usize; 2],
    /// How many values each digit of a row has.
    pub rows: Vec<usize>,
    /// How many values each digit of a column has.
    pub columns: Vec<usize>,
    /// The cores, the most significant digits first.
    pub cores: Vec<Expr<L>>,
}

impl<L: Shaped> Train<L> {
    /// What does not fit, if anything: digits without values, cores that do not meet, too few rows or columns.
    pub fn fault(&self) -> Option<String> {
        let count = self.cores.len();
        if count == 0 || self.rows.len() != count || self.columns.len() != count {
            let (rows, columns) = (self.rows.len(), self.columns.len());
            return Some(format!("a train of {count} cores with {rows} digits for rows and {columns} for columns"));
        }
        let mut bond = 1usize;
        for (k, core) in self.cores.iter().enumerate() {
            let ([height, width], [i, j]) = (core.shape(), [self.rows[k], self.columns[k]]);
            let meets = i > 0 && j > 0 && bond > 0 && bond.checked_mul(i) == Some(height) && width.is_multiple_of(j);
            if !meets {
                return Some(format!(
                    "core {k} of a train, [{height}, {width}] behind {bond} bonds of [{i}, {j}] digits"
                ));
            }
            bond = width / j;
        }
        let room = |digits: &[usize]| digits.iter().fold(1usize, |all, &digit| all.saturating_mul(digit));
        let held = [room(&self.rows), room(&self.columns)];
        let fits = bond == 1 && held[0] >= self.shape[0] && held[1] >= self.shape[1];
        (!fits).then(|| format!("a train of {held:?} with {bond} bonds at its end for a matrix {:?}", self.shape))
    }

    /// `B_0 … B_K`: the sizes of the bonds, one at both ends.
    pub fn bonds(&self) -> Vec<usize> {
        let behind = self.cores.iter().zip(&self.columns).map(|(core, j)| core.shape()[1] / j);
        std::iter::once(1).chain(behind).collect()
    }

    /// Multiplications for one row of activations when the train is applied core by core: core `k` meets each digit of
    /// the columns before it and of the rows behind it.
    pub fn multiplications(&self) -> u64 {
        let mut rest: u64 = self.columns.iter().map(|&j| j as u64).product();
        let (mut done, mut all) = (1u64, 0u64);
        for ((core, &i), &j) in self.cores.iter().zip(&self.rows).zip(&self.columns).rev() {
            rest /= j as u64;
            let [height, width] = core.shape();
            all = all.saturating_add((rest * done).saturating_mul((height * width) as u64));
            done *= i as u64;
        }
        all
    }

    /// Whether core by core takes fewer multiplications than the matrix itself.
    pub fn is_cheaper(&self) -> bool {
        self.multiplications() < (self.shape[0] * self.shape[1]) as u64
    }

    /// One row of the matrix, `[in]`, from the values of the cores.
    ///
    /// # Cost
    /// `Σ_k columns[1] … columns[k] B_{k-1} B_k`; no other row is worked out.
    pub fn row(&self, cores: &[Vec<f32>], row: usize) -> Vec<f32> {
        let bonds = self.bonds();
        let mut below: usize = self.rows.iter().product();
        let mut digits = row;
        let mut state = vec![1.0]; // [columns so far, bond]
        for (k, core) in cores.iter().enumerate() {
            let (i, j, a, b) = (self.rows[k], self.columns[k], bonds[k], bonds[k + 1]);
            below /= i;
            let digit = digits / below;
            digits %= below;
            let width = j * b;
            let slice: Vec<f32> = (0..a).flat_map(|a| &core[(a * i + digit) * width..][..width]).copied().collect();
            let mut next = vec![0.0; state.len() / a * width];
            matmul_f32(Dims { m: state.len() / a, k: a, n: width }, &state, &slice, &mut next);
            state = next; // [columns so far * j, b]
        }
        state.truncate(self.shape[1]);
        state
    }
}

impl Train<Leaf> {
    /// The values of the matrix as singles, row by row: the cores are multiplied out from left to right.
    ///
    /// # Cost
    /// The last core takes `out in B_{K-1}` multiplications, and those before it less.
    pub fn to_f32(&self) -> Vec<f32> {
        let cores: Vec<Vec<f32>> = self.cores.iter().map(Expr::to_f32).collect();
        contracted(&cores, &self.rows, &self.columns, &self.bonds(), self.shape)
    }
}

/// The matrix of a train from the values of its cores.
fn contracted(
    cores: &[Vec<f32>],
    rows: &[usize],
    columns: &[usize],
    bonds: &[usize],
    [height, width]: [usize; 2],
) -> Vec<f32> {
    let (mut above, mut across) = (1, 1);
    let mut state = vec![1.0]; // [rows so far, columns so far, bond]
    for (k, core) in cores.iter().enumerate() {
        let (i, j, a, b) = (rows[k], columns[k], bonds[k], bonds[k + 1]);
        let mut next = vec![0.0; above * across * i * j * b];
        // A core is [a, i, j, b] as it lies.
        matmul_f32(Dims { m: above * across, k: a, n: i * j * b }, &state, core, &mut next);
        state = vec![0.0; next.len()]; // [rows, columns, i, j, b] becomes [rows, i, columns, j, b]
        for (n, run) in next.chunks_exact(j * b).enumerate() {
            let (row, column, digit) = (n / (across * i), n / i % across, n % i);
            state[((row * i + digit) * across + column) * j * b..][..j * b].copy_from_slice(run);
        }
        above *= i;
        across *= j;
    }
    if across == width {
        state.truncate(height * width);
        return state;
    }
    state.chunks_exact(across).take(height).flat_map(|row| &row[..width]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Floats;
    use crate::{Form, Weight};

    fn leaf(shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::float(shape, Floats::F32(values.to_vec()))
    }

    fn counted(shape: [usize; 2], seed: usize) -> Weight {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect();
        leaf(shape, &values)
    }

    #[test]
    fn two_cores_with_one_bond_are_a_kronecker_product() {
        // [1 2] ⊗ [10; 1]: rows (0, i), columns (j, 0).
        let cores = vec![leaf([1, 2], &[1.0, 2.0]), leaf([2, 1], &[10.0, 1.0])];
        let weight = Weight::train(Train { shape: [2, 2], rows: vec![1, 2], columns: vec![2, 1], cores });
        assert_eq!(weight.to_f32(), [10.0, 20.0, 1.0, 2.0]);
        assert_eq!(weight.shape(), [2, 2]);
        assert_eq!(Form::of(&weight).parameters(), 4);
    }

    #[test]
    fn a_train_is_the_sum_over_its_bonds_and_what_is_beyond_the_shape_is_cut_off() {
        let (rows, columns, bonds) = (vec![2, 3, 2], vec![3, 1, 2], [1, 2, 3, 1]);
        let core = |k: usize| counted([bonds[k] * rows[k], columns[k] * bonds[k + 1]], k);
        let cores: Vec<Weight> = (0..3).map(core).collect();
        let values: Vec<Vec<f32>> = cores.iter().map(Weight::to_f32).collect();
        let entry = |i: usize, j: usize| {
            let (digits_i, digits_j) = ([i / 6, i / 2 % 3, i % 2], [j / 2, 0, j % 2]);
            let at = |k: usize, a: usize, b: usize| {
                values[k][(a * rows[k] + digits_i[k]) * columns[k] * bonds[k + 1] + digits_j[k] * bonds[k + 1] + b]
            };
            (0..2).flat_map(|a| (0..3).map(move |b| (a, b))).map(|(a, b)| at(0, 0, a) * at(1, a, b) * at(2, b, 0)).sum()
        };
        let train = Train { shape: [11, 5], rows: rows.clone(), columns: columns.clone(), cores };
        let whole: Vec<f32> = (0..11).flat_map(|i| (0..5).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect();
        assert_eq!(train.to_f32(), whole);
        for row in [0, 4, 10] {
            assert_eq!(train.row(&values, row), whole[row * 5..][..5], "row {row}");
        }
        assert_eq!(train.bonds(), bonds);
        // Core 3 [6, 2] meets 3 columns, core 2 [6, 3] meets 3 columns and 2 rows, core 1 [2, 6] meets 6 rows.
        assert_eq!(train.multiplications(), 12 * 3 + 18 * 6 + 12 * 6);
        assert!(!train.is_cheaper());
    }

    #[test]
    fn cores_that_do_not_meet_are_told() {
        let train = |shape: [usize; 2], first: [usize; 2], last: [usize; 2]| {
            let cores = vec![counted(first, 0), counted(last, 0)];
            Train { shape, rows: vec![2, 2], columns: vec![2, 3], cores }.fault()
        };
        assert_eq!(train([4, 6], [2, 4], [4, 3]), None);
        assert_eq!(train([3, 5], [2, 4], [4, 3]), None);
        assert!(train([4, 7], [2, 4], [4, 3]).unwrap().contains("for a matrix [4, 7]"));
        assert!(train([4, 6], [2, 4], [6, 3]).unwrap().contains("core 1"));
        assert!(train([4, 6], [2, 4], [4, 6]).unwrap().contains("2 bonds at its end"));
        let no_digits = Train { shape: [2, 2], rows: vec![2], columns: vec![0], cores: vec![counted([2, 0], 0)] };
        assert!(no_digits.fault().unwrap().contains("core 0"));
    }
}
