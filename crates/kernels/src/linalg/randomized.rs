//! The leading terms of a singular value decomposition, from a random sketch.
//!
//! Halko, Martinsson and Tropp 2011, arXiv:0909.4061, algorithms 4.4 and 5.1.

use super::parts;
use super::svd::{Real, Svd, check_finite, fixed_signs, thin};
use crate::error::Error;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::householder::{
    apply_block_householder_sequence_on_the_left_in_place_scratch as apply_scratch,
    apply_block_householder_sequence_on_the_left_in_place_with_conj as apply,
};
use faer::linalg::matmul::matmul;
use faer::linalg::qr::no_pivoting::factor::{qr_in_place, qr_in_place_scratch, recommended_block_size};
use faer::{Accum, Conj, Mat, MatRef};

/// Columns of the sketch beyond the rank.
const OVERSAMPLING: usize = 16;
/// Multiplications with `a aᵀ`, each time followed by a new orthonormal basis.
const POWER_ITERATIONS: usize = 2;

/// The `rank` leading terms of the decomposition of a `[rows, cols]` matrix in single precision.
///
/// Falls back to the full decomposition where a sketch would be no smaller. Signs as in [`super::svd_f32`];
/// the same seed gives the same bits.
///
/// # Errors
/// As [`super::svd_f32`].
///
/// # Cost
/// `O(rows * cols * rank)`: about 0.2 s for 64 terms at 4096 on one core.
pub fn randomized_svd_f32(a: &[f32], shape: [usize; 2], rank: usize, seed: u64) -> Result<Svd<f32>, Error> {
    leading(MatRef::from_row_major_slice(a, shape[0], shape[1]), rank, seed)
}

/// Like [`randomized_svd_f32`], in double precision.
///
/// # Errors
/// As [`super::svd_f32`].
pub fn randomized_svd_f64(a: &[f64], shape: [usize; 2], rank: usize, seed: u64) -> Result<Svd<f64>, Error> {
    leading(MatRef::from_row_major_slice(a, shape[0], shape[1]), rank, seed)
}

fn leading<T: Real>(a: MatRef<'_, T>, rank: usize, seed: u64) -> Result<Svd<T>, Error> {
    let (rows, cols) = a.shape();
    let full = rows.min(cols);
    let rank = rank.min(full);
    let width = rank + OVERSAMPLING;
    if width >= full {
        return Ok(truncated(thin(a)?, [rows, cols], rank));
    }
    check_finite(a)?;
    let mut normal = Normal(seed);
    let mut sketch = Mat::<T>::zeros(cols, width);
    for j in 0..width {
        for i in 0..cols {
            sketch[(i, j)] = T::narrow(normal.next());
        }
    }
    let mut q = basis(times(a, sketch.as_ref()));
    for _ in 0..POWER_ITERATIONS {
        let z = basis(times(a.transpose(), q.as_ref()));
        q = basis(times(a, z.as_ref()));
    }
    // a ≈ q (qᵀ a): decompose the small right factor
    let small = times(q.transpose(), a); // [width, cols]
    let inner = thin(small.as_ref())?;
    let left = MatRef::from_row_major_slice(&inner.u, width, width);
    let u = times(q.as_ref(), left);
    let vt = MatRef::from_row_major_slice(&inner.vt, width, cols);
    Ok(fixed_signs(u.as_ref().subcols(0, rank), inner.s[..rank].to_vec(), vt.transpose().subcols(0, rank)))
}

fn times<T: Real>(a: MatRef<'_, T>, b: MatRef<'_, T>) -> Mat<T> {
    let mut c = Mat::<T>::zeros(a.nrows(), b.ncols());
    matmul(c.as_mut(), Accum::Replace, a, b, T::narrow(1.0), parts());
    c
}

/// An orthonormal basis of the columns.
fn basis<T: Real>(mut a: Mat<T>) -> Mat<T> {
    // not `Mat::qr`: that splits work by the number of threads
    let (rows, cols) = a.shape();
    let block = recommended_block_size::<T>(rows, cols);
    let mut coefficients = Mat::<T>::zeros(block, cols);
    let room = qr_in_place_scratch::<T>(rows, cols, block, parts(), Default::default());
    let mut room = MemBuffer::new(room);
    qr_in_place(a.as_mut(), coefficients.as_mut(), parts(), MemStack::new(&mut room), Default::default());
    let mut q = Mat::<T>::identity(rows, cols);
    let mut room = MemBuffer::new(apply_scratch::<T>(rows, block, cols));
    apply(a.as_ref(), coefficients.as_ref(), Conj::No, q.as_mut(), parts(), MemStack::new(&mut room));
    q
}

fn truncated<T: Real>(svd: Svd<T>, [rows, cols]: [usize; 2], rank: usize) -> Svd<T> {
    let full = svd.s.len();
    if full == rank {
        return svd;
    }
    Svd {
        u: (0..rows).flat_map(|i| svd.u[i * full..i * full + rank].iter().copied()).collect(),
        s: svd.s[..rank].to_vec(),
        vt: svd.vt[..rank * cols].to_vec(),
    }
}

/// Standard normal numbers from a seed: SplitMix64 and the Box-Muller transform.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn next(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::super::svd_f64;
    use super::*;

    /// A matrix with singular values `1, 1/2, 1/4, ..`.
    fn decaying(rows: usize, cols: usize) -> Vec<f64> {
        let mut normal = Normal(3);
        let mut random = |r: usize, c: usize| basis(Mat::<f64>::from_fn(r, c, |_, _| normal.next()));
        let n = rows.min(cols);
        let (u, v) = (random(rows, n), random(cols, n));
        let scaled = Mat::from_fn(rows, n, |i, j| u[(i, j)] * 0.5f64.powi(j as i32));
        let a = times(scaled.as_ref(), v.transpose());
        (0..rows * cols).map(|i| a[(i / cols, i % cols)]).collect()
    }

    #[test]
    fn leading_values_and_vectors_equal_the_full_decomposition() {
        for (rows, cols) in [(120, 70), (60, 150)] {
            let a = decaying(rows, cols);
            let (full, some) =
                (svd_f64(&a, [rows, cols]).unwrap(), randomized_svd_f64(&a, [rows, cols], 8, 1).unwrap());
            let width = full.s.len();
            for j in 0..8 {
                assert!((full.s[j] - some.s[j]).abs() < 1e-10);
                for i in 0..rows {
                    assert!((full.u[i * width + j] - some.u[i * 8 + j]).abs() < 1e-8);
                }
                for i in 0..cols {
                    assert!((full.vt[j * cols + i] - some.vt[j * cols + i]).abs() < 1e-8);
                }
            }
        }
    }

    #[test]
    fn a_rank_near_the_full_one_is_decomposed_exactly() {
        let a = decaying(20, 12);
        let some = randomized_svd_f64(&a, [20, 12], 5, 1).unwrap();
        assert_eq!((some.u.len(), some.s.len(), some.vt.len()), (100, 5, 60));
        assert_eq!(randomized_svd_f64(&a, [20, 12], 99, 1).unwrap(), svd_f64(&a, [20, 12]).unwrap());
        assert!(randomized_svd_f32(&[0.0; 6], [2, 3], 0, 0).unwrap().s.is_empty());
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_whatever_the_threads() {
        let a: Vec<f32> = decaying(300, 400).iter().map(|v| *v as f32).collect();
        let run = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| randomized_svd_f32(&a, [300, 400], 10, seed).unwrap())
        };
        assert_eq!(run(1, 5), run(2, 5));
        assert_ne!(run(1, 5), run(1, 6));
    }
}
