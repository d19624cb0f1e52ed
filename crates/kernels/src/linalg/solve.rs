//! Solving with a symmetric positive definite matrix from the right, by its Cholesky factor.

use super::parts;
use super::svd::Real;
use crate::error::Error;
use crate::matmul::Dims;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::{Accum, MatMut, MatRef};

/// A factored symmetric positive definite matrix `a`, with which `y = x a⁻¹` costs as much as a product.
#[derive(Debug, Clone, PartialEq)]
pub struct Solver<T> {
    n: usize,
    /// `l` of `a = l lᵀ`, column by column; what lies above the diagonal means nothing.
    lower: Vec<T>,
}

/// Factors a symmetric positive definite `[n, n]` matrix in single precision. Only one triangle is read.
///
/// # Errors
/// [`Error::NotFinite`] if it holds NaN or infinity; [`Error::NotPositive`] if it is not positive definite, or is so
/// by less than rounding takes away: keep the ratio of its eigenvalues below a million.
///
/// # Cost
/// `n³ / 3` multiplications, and no memory beside the matrix: about 1.3 s at 4096 on one core.
pub fn solver_f32(a: Vec<f32>, n: usize) -> Result<Solver<f32>, Error> {
    factor(a, n)
}

/// Like [`solver_f32`], in double precision.
///
/// # Errors
/// As [`solver_f32`].
pub fn solver_f64(a: Vec<f64>, n: usize) -> Result<Solver<f64>, Error> {
    factor(a, n)
}

impl Solver<f32> {
    /// Puts `x a⁻¹` in place of `x` `[m, n]`.
    ///
    /// # Cost
    /// `m n²` multiplications: about 7 s for 4096 rows of 4096 in single precision on one core.
    pub fn solve(&self, x: &mut [f32]) {
        solve(self, x);
    }
}

impl Solver<f64> {
    /// Like [`Solver::<f32>::solve`], in double precision.
    pub fn solve(&self, x: &mut [f64]) {
        solve(self, x);
    }
}

impl<T> Solver<T> {
    /// Rows and columns of the matrix.
    pub fn size(&self) -> usize {
        self.n
    }

    /// The logarithm of the determinant of the matrix.
    pub fn log_determinant(&self) -> f64
    where
        T: Copy + Into<f64>,
    {
        self.lower.iter().step_by(self.n + 1).map(|&x| 2.0 * x.into().ln()).sum()
    }

    /// Memory that the factor takes.
    pub fn bytes(&self) -> u64 {
        size_of_val(self.lower.as_slice()) as u64
    }
}

/// `a b` in double precision with `a` `[m, k]`, `b` `[k, n]`.
pub fn matmul_f64(d: Dims, a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut c = vec![0.0; d.m * d.n];
    let (a, b) = (MatRef::from_row_major_slice(a, d.m, d.k), MatRef::from_row_major_slice(b, d.k, d.n));
    matmul(MatMut::from_row_major_slice_mut(&mut c, d.m, d.n), Accum::Replace, a, b, 1.0, parts());
    c
}

fn factor<T: Real>(mut a: Vec<T>, n: usize) -> Result<Solver<T>, Error> {
    let count = a.iter().filter(|x| !x.wide().is_finite()).count();
    if count > 0 {
        return Err(Error::NotFinite { rows: n, cols: n, count });
    }
    let mut room = MemBuffer::new(cholesky_in_place_scratch::<T>(n, parts(), Default::default()));
    let matrix = MatMut::from_column_major_slice_mut(&mut a, n, n);
    cholesky_in_place(matrix, Default::default(), parts(), MemStack::new(&mut room), Default::default())
        .map_err(|_| Error::NotPositive { size: n })?;
    Ok(Solver { n, lower: a })
}

fn solve<T: Real>(solver: &Solver<T>, x: &mut [T]) {
    let n = solver.n;
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(n), "rows as long as the matrix is wide");
    // As columns, the rows of x solve `a yᵀ = xᵀ`, for `a` is symmetric.
    let m = x.len() / n;
    let lower = MatRef::from_column_major_slice(&solver.lower, n, n);
    let mut columns = MatMut::from_column_major_slice_mut(x, n, m);
    solve_lower_triangular_in_place(lower, columns.as_mut(), parts());
    solve_upper_triangular_in_place(lower.transpose(), columns, parts());
}

/// The definition: `x a⁻¹` for `x` `[m, n]`, by Cholesky's factor and two substitutions, one number at a time.
///
/// # Errors
/// As [`solver_f64`].
pub fn solve_scalar(a: &[f64], n: usize, x: &[f64]) -> Result<Vec<f64>, Error> {
    let count = a.iter().filter(|x| !x.is_finite()).count();
    if count > 0 {
        return Err(Error::NotFinite { rows: n, cols: n, count });
    }
    let mut l = vec![0.0; n * n];
    for j in 0..n {
        for i in j..n {
            let rest = a[i * n + j] - (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum::<f64>();
            if i == j && rest <= 0.0 {
                return Err(Error::NotPositive { size: n });
            }
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[j * n + j] };
        }
    }
    let mut y = x.to_vec();
    for y in y.chunks_mut(n.max(1)) {
        for i in 0..n {
            let rest = y[i] - (0..i).map(|k| l[i * n + k] * y[k]).sum::<f64>();
            y[i] = rest / l[i * n + i];
        }
        for i in (0..n).rev() {
            let rest = y[i] - (i + 1..n).map(|k| l[k * n + i] * y[k]).sum::<f64>();
            y[i] = rest / l[i * n + i];
        }
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1 << 24) as f64 - 0.5
        };
        (0..count).map(|_| next()).collect()
    }

    /// `b bᵀ + n/8 I` for `b` `[n, n]`.
    fn definite(n: usize) -> Vec<f64> {
        let b = numbers(n * n, 7);
        let entry = |i: usize, j: usize| (0..n).map(|k| b[i * n + k] * b[j * n + k]).sum::<f64>();
        (0..n * n).map(|at| entry(at / n, at % n) + if at / n == at % n { n as f64 / 8.0 } else { 0.0 }).collect()
    }

    fn singles(x: &[f64]) -> Vec<f32> {
        x.iter().map(|&x| x as f32).collect()
    }

    #[test]
    fn a_two_by_two_system_is_solved_by_hand() {
        // [2 1; 1 1]⁻¹ = [1 -1; -1 2], so (3, 5) becomes (3 - 5, -3 + 10).
        let mut x = vec![3.0, 5.0];
        solver_f64(vec![2.0, 1.0, 1.0, 1.0], 2).unwrap().solve(&mut x);
        assert!((x[0] + 2.0).abs() < 1e-14 && (x[1] - 7.0).abs() < 1e-14, "{x:?}");
        let y = solve_scalar(&[2.0, 1.0, 1.0, 1.0], 2, &[3.0, 5.0]).unwrap();
        assert!((y[0] + 2.0).abs() < 1e-14 && (y[1] - 7.0).abs() < 1e-14, "{y:?}");
    }

    #[test]
    fn the_determinant_is_that_by_hand() {
        // 4 * 3 - 2 * 2 = 8, and 1 where there is nothing.
        let solver = solver_f64(vec![4.0, 2.0, 2.0, 3.0], 2).unwrap();
        assert!((solver.log_determinant() - 8.0f64.ln()).abs() < 1e-14);
        assert_eq!(solver_f32(Vec::new(), 0).unwrap().log_determinant(), 0.0);
    }

    #[test]
    fn every_size_equals_the_definition() {
        for (m, n) in [(0, 5), (3, 0), (1, 1), (5, 1), (1, 7), (33, 65), (70, 130)] {
            let (a, x) = (definite(n), numbers(m * n, 3));
            let right = solve_scalar(&a, n, &x).unwrap();
            let mut double = x.clone();
            solver_f64(a.clone(), n).unwrap().solve(&mut double);
            assert!(double.iter().zip(&right).all(|(a, b)| (a - b).abs() < 1e-12), "{m} {n}");
            let mut single = singles(&x);
            solver_f32(singles(&a), n).unwrap().solve(&mut single);
            assert!(single.iter().zip(&right).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{m} {n}");
        }
    }

    #[test]
    fn a_double_product_equals_its_definition() {
        let d = Dims { m: 5, k: 70, n: 9 };
        let (a, b) = (numbers(d.m * d.k, 1), numbers(d.k * d.n, 2));
        let c = matmul_f64(d, &a, &b);
        for (at, c) in c.iter().enumerate() {
            let (i, j) = (at / d.n, at % d.n);
            let right: f64 = (0..d.k).map(|l| a[i * d.k + l] * b[l * d.n + j]).sum();
            assert!((c - right).abs() < 1e-13);
        }
        assert!(matmul_f64(Dims { m: 2, k: 0, n: 2 }, &[], &[]) == [0.0; 4]);
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_an_error() {
        let error = Error::NotPositive { size: 2 };
        for bad in [vec![1.0, 2.0, 2.0, 1.0], vec![0.0; 4]] {
            assert_eq!(solver_f64(bad.clone(), 2), Err(error.clone()));
            assert_eq!(solver_f32(singles(&bad), 2), Err(error.clone()));
            assert_eq!(solve_scalar(&bad, 2, &[1.0, 1.0]), Err(error.clone()));
        }
        let nan = solver_f32(vec![1.0, f32::NAN, 0.0, 1.0], 2).unwrap_err();
        assert_eq!(nan, Error::NotFinite { rows: 2, cols: 2, count: 1 });
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (a, x) = (singles(&definite(300)), singles(&numbers(200 * 300, 3)));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (solver, mut x) = (solver_f32(a.clone(), 300).unwrap(), x.clone());
                solver.solve(&mut x);
                (solver, x)
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(3));
    }
}
