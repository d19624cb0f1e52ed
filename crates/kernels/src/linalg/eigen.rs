//! The eigendecomposition of a symmetric matrix.

use super::parts;
use super::svd::check_finite;
use crate::error::Error;
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::{Mat, MatRef};

/// `a = vectorsᵀ diag(values) vectors`.
#[derive(Debug, Clone, PartialEq)]
pub struct Eigen {
    /// The eigenvalues, largest first.
    pub values: Vec<f64>,
    /// The eigenvectors as rows in the same order, `[n, n]`, row-major, orthonormal.
    pub vectors: Vec<f64>,
}

/// The eigendecomposition of a symmetric `[n, n]` matrix in double precision.
///
/// The sign of each vector is fixed: its entry of the largest magnitude (the first of equals) is positive. Eigenvalues
/// that are zero come out within rounding of it, on either side: about `n ε` times the largest.
///
/// # Errors
/// [`Error::NotFinite`] if the matrix holds NaN or infinity; [`Error::NoConvergence`].
///
/// # Cost
/// `O(n³)`, and five matrices of its size: about 0.15 s at 576 on one core.
pub fn eigen_f64(a: &[f64], n: usize) -> Result<Eigen, Error> {
    let a = MatRef::from_row_major_slice(a, n, n);
    check_finite(a)?;
    let mut s = Diag::<f64>::zeros(n);
    let mut u = Mat::<f64>::zeros(n, n);
    let room = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, parts(), Default::default());
    let mut room = MemBuffer::new(room);
    self_adjoint_evd(a, s.as_mut(), Some(u.as_mut()), parts(), MemStack::new(&mut room), Default::default())
        .map_err(|_| Error::NoConvergence { rows: n, cols: n })?;
    // They come in rising order.
    let values = s.column_vector().iter().rev().copied().collect();
    let mut vectors = Vec::with_capacity(n * n);
    for j in (0..n).rev() {
        let largest = (0..n).fold(0.0f64, |most, i| if u[(i, j)].abs() > most.abs() { u[(i, j)] } else { most });
        let sign = if largest < 0.0 { -1.0 } else { 1.0 };
        vectors.extend((0..n).map(|i| sign * u[(i, j)]));
    }
    Ok(Eigen { values, vectors })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix that is not positive definite.
    fn symmetric(n: usize) -> Vec<f64> {
        let mut state = 11u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
        };
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                a[i * n + j] = next();
                a[j * n + i] = a[i * n + j];
            }
        }
        a
    }

    #[test]
    fn a_matrix_of_two_has_the_vectors_that_it_has_by_hand() {
        // [[2, 1], [1, 2]] is 3 along (1, 1) and 1 along (1, -1).
        let eigen = eigen_f64(&[2.0, 1.0, 1.0, 2.0], 2).unwrap();
        let h = 0.5f64.sqrt();
        assert!(eigen.values.iter().zip([3.0, 1.0]).all(|(a, b)| (a - b).abs() < 1e-14));
        assert!(eigen.vectors[..2].iter().all(|x| (x - h).abs() < 1e-14));
        assert!((eigen.vectors[2] + eigen.vectors[3]).abs() < 1e-14 && (eigen.vectors[2].abs() - h).abs() < 1e-14);
    }

    #[test]
    fn the_parts_multiply_back_and_fall_in_order() {
        for n in [0, 1, 2, 7, 33, 150] {
            let a = symmetric(n);
            let Eigen { values, vectors } = eigen_f64(&a, n).unwrap();
            assert!(values.windows(2).all(|w| w[0] >= w[1]));
            for i in 0..n {
                for j in 0..n {
                    let back: f64 = (0..n).map(|k| vectors[k * n + i] * values[k] * vectors[k * n + j]).sum();
                    assert!((back - a[i * n + j]).abs() < 1e-12, "{n}: {i}, {j}");
                    let dot: f64 = (0..n).map(|k| vectors[i * n + k] * vectors[j * n + k]).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-12);
                }
            }
        }
    }

    #[test]
    fn eigenvalues_at_zero_are_zero() {
        // The outer product of (1, 2, 2) with itself: nine along it, nothing else.
        let eigen = eigen_f64(&[1.0, 2.0, 2.0, 2.0, 4.0, 4.0, 2.0, 4.0, 4.0], 3).unwrap();
        assert!((eigen.values[0] - 9.0).abs() < 1e-13 && eigen.values[1..].iter().all(|x| x.abs() < 1e-13));
        assert!(eigen.vectors[..3].iter().zip([1.0, 2.0, 2.0]).all(|(a, b)| (a - b / 3.0).abs() < 1e-13));
        assert_eq!(eigen_f64(&[0.0; 4], 2).unwrap().values, [0.0, 0.0]);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let a = symmetric(260);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| eigen_f64(&a, 260).unwrap())
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }

    #[test]
    fn values_that_are_not_finite_are_an_error_with_their_count() {
        let e = eigen_f64(&[1.0, f64::NAN, f64::NAN, 0.0], 2).unwrap_err();
        assert_eq!(e, Error::NotFinite { rows: 2, cols: 2, count: 2 });
    }
}
