//! The thin singular value decomposition.

use super::parts;
use crate::error::Error;
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use faer::traits::RealField;
use faer::{Mat, MatRef};

/// `a = u diag(s) vt` with `r = min(rows, cols)`, or fewer, terms.
#[derive(Debug, Clone, PartialEq)]
pub struct Svd<T> {
    /// Left singular vectors as columns, `[rows, r]`, row-major.
    pub u: Vec<T>,
    /// Singular values, largest first.
    pub s: Vec<T>,
    /// Right singular vectors as rows, `[r, cols]`, row-major.
    pub vt: Vec<T>,
}

/// The singular value decomposition of a `[rows, cols]` matrix in single precision.
///
/// The sign of each pair of vectors is fixed: the entry of the left vector with the largest magnitude (the
/// first of equals) is positive.
///
/// # Errors
/// [`Error::NotFinite`] if the matrix holds NaN or infinity; [`Error::NoConvergence`].
///
/// # Cost
/// `O(rows * cols * min(rows, cols))`: about 40 ms at 576 and 0.6 s at 1536 on one core.
pub fn svd_f32(a: &[f32], shape: [usize; 2]) -> Result<Svd<f32>, Error> {
    thin(MatRef::from_row_major_slice(a, shape[0], shape[1]))
}

/// Like [`svd_f32`], in double precision.
///
/// # Errors
/// As [`svd_f32`].
pub fn svd_f64(a: &[f64], shape: [usize; 2]) -> Result<Svd<f64>, Error> {
    thin(MatRef::from_row_major_slice(a, shape[0], shape[1]))
}

/// What the generic code needs of a number.
pub(super) trait Real: RealField + Copy + PartialOrd + num::Number {}
impl Real for f32 {}
impl Real for f64 {}

/// The two number types, as doubles and back.
pub(super) mod num {
    /// A float that widens to a double.
    pub trait Number {
        /// Widened.
        fn wide(self) -> f64;
        /// Rounded.
        fn narrow(x: f64) -> Self;
    }
    impl Number for f32 {
        fn wide(self) -> f64 {
            self as f64
        }
        fn narrow(x: f64) -> Self {
            x as f32
        }
    }
    impl Number for f64 {
        fn wide(self) -> f64 {
            self
        }
        fn narrow(x: f64) -> Self {
            x
        }
    }
}

pub(super) fn check_finite<T: Real>(a: MatRef<'_, T>) -> Result<(), Error> {
    let (rows, cols) = a.shape();
    let bad = |i| (0..cols).filter(|j| !a[(i, *j)].wide().is_finite()).count();
    let count = (0..rows).map(bad).sum();
    if count > 0 { Err(Error::NotFinite { rows, cols, count }) } else { Ok(()) }
}

pub(super) fn thin<T: Real>(a: MatRef<'_, T>) -> Result<Svd<T>, Error> {
    check_finite(a)?;
    let (rows, cols) = a.shape();
    let rank = rows.min(cols);
    let mut u = Mat::<T>::zeros(rows, rank);
    let mut v = Mat::<T>::zeros(cols, rank);
    let mut s = Diag::<T>::zeros(rank);
    let thin = ComputeSvdVectors::Thin;
    let room = svd_scratch::<T>(rows, cols, thin, thin, parts(), Default::default());
    svd(
        a,
        s.as_mut(),
        Some(u.as_mut()),
        Some(v.as_mut()),
        parts(),
        MemStack::new(&mut MemBuffer::new(room)),
        Default::default(),
    )
    .map_err(|_| Error::NoConvergence { rows, cols })?;
    let s: Vec<T> = s.column_vector().iter().copied().collect();
    Ok(fixed_signs(u.as_ref(), s, v.as_ref()))
}

/// Row-major factors with the sign rule applied.
pub(super) fn fixed_signs<T: Real>(u: MatRef<'_, T>, s: Vec<T>, v: MatRef<'_, T>) -> Svd<T> {
    let negative = |j: usize| {
        let mut largest = 0.0f64;
        for i in 0..u.nrows() {
            let x = u[(i, j)].wide();
            if x.abs() > largest.abs() {
                largest = x;
            }
        }
        largest < 0.0
    };
    let signs: Vec<f64> = (0..s.len()).map(|j| if negative(j) { -1.0 } else { 1.0 }).collect();
    let flip = |x: T, j: usize| T::narrow(x.wide() * signs[j]);
    let (rows, cols, rank) = (u.nrows(), v.nrows(), s.len());
    Svd {
        u: (0..rows * rank).map(|i| flip(u[(i / rank, i % rank)], i % rank)).collect(),
        vt: (0..rank * cols).map(|i| flip(v[(i % cols, i / cols)], i / cols)).collect(),
        s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<f64> {
        let mut state = 7u64;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
            })
            .collect()
    }

    fn rebuilt(svd: &Svd<f64>, rows: usize, cols: usize) -> Vec<f64> {
        let r = svd.s.len();
        let entry = |i: usize, j: usize| (0..r).map(|l| svd.u[i * r + l] * svd.s[l] * svd.vt[l * cols + j]).sum();
        (0..rows * cols).map(|i| entry(i / cols, i % cols)).collect()
    }

    #[test]
    fn a_diagonal_matrix_has_its_entries_as_singular_values() {
        let svd = svd_f64(&[0.0, -3.0, 0.0, 2.0, 0.0, 0.0], [2, 3]).unwrap();
        assert!((svd.s[0] - 3.0).abs() < 1e-14 && (svd.s[1] - 2.0).abs() < 1e-14);
        assert!((svd.u[0] - 1.0).abs() < 1e-14, "the largest left entry is positive");
        assert!((svd.vt[1] + 1.0).abs() < 1e-14);
    }

    #[test]
    fn the_factors_multiply_back_for_any_shape() {
        for (rows, cols) in [(0, 3), (3, 0), (1, 1), (1, 5), (5, 1), (7, 33), (90, 40)] {
            let a = numbers(rows * cols);
            let svd = svd_f64(&a, [rows, cols]).unwrap();
            assert!(svd.s.windows(2).all(|w| w[0] >= w[1]));
            let back = rebuilt(&svd, rows, cols);
            assert!(a.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-12));
            let single: Vec<f32> = a.iter().map(|v| *v as f32).collect();
            let svd32 = svd_f32(&single, [rows, cols]).unwrap();
            assert!(svd32.s.iter().zip(&svd.s).all(|(a, b)| (*a as f64 - b).abs() < 1e-4));
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let a: Vec<f32> = numbers(300 * 200).iter().map(|v| *v as f32).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| svd_f32(&a, [300, 200]).unwrap())
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }

    #[test]
    fn values_that_are_not_finite_are_an_error_with_their_count() {
        let e = svd_f32(&[1.0, f32::NAN, f32::INFINITY, 0.0], [2, 2]).unwrap_err();
        assert_eq!(e, Error::NotFinite { rows: 2, cols: 2, count: 2 });
        assert!(e.hint().is_some());
    }
}
