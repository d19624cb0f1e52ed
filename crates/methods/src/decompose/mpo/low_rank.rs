//! What a product of two thin matrices would leave, to set a train beside.

use std::sync::Arc;

use brevity_kernels::Error;
use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::{matmul_f64, svd_f32, svd_f64};
use brevity_kernels::matmul::Dims;

use super::split::scaled;
use crate::decompose::mpo::DOUBLE;
use crate::seen::{KEEP, Shared};

/// The least relative error of a matrix of this rank: `‖X (W - Ŵ)ᵀ‖ / ‖X Wᵀ‖` where inputs were seen, which follows from
/// the eigenvalues of `W H Wᵀ`, else `‖W - Ŵ‖ / ‖W‖`, from the squared singular values.
///
/// Where there are fewer inputs than outputs, the same eigenvalues are found as those of `√H WᵀW √H`.
pub(super) fn error(
    w: &[f32],
    [rows, columns]: [usize; 2],
    rank: usize,
    gram: Option<&Gram>,
    shared: &Shared,
) -> Result<f64, Error> {
    let squares = match gram {
        None => {
            let wide: Vec<f64> = w.iter().map(|&x| x.into()).collect();
            values(&wide, [rows, columns])?.into_iter().map(|s| s * s).collect()
        }
        Some(gram) if rows <= columns => values(&gram.through(rows, w).to_f64(), [rows, rows])?,
        Some(gram) => {
            let root = match columns <= KEEP {
                true => shared.get("root of all", || root(gram))?,
                false => Arc::new(root(gram)?),
            };
            // [n, m] times [m, n]
            let wide: Vec<f64> = w.iter().map(|&x| x.into()).collect();
            let turned: Vec<f64> = (0..wide.len()).map(|n| wide[n % rows * columns + n / rows]).collect();
            let inner = matmul_f64(Dims { m: columns, k: rows, n: columns }, &turned, &wide);
            let d = Dims { m: columns, k: columns, n: columns };
            let back: Vec<f64> = (0..root.len()).map(|n| root[n % columns * columns + n / columns]).collect();
            values(&matmul_f64(d, &matmul_f64(d, &root, &inner), &back), [columns, columns])?
        }
    };
    let whole: f64 = squares.iter().sum();
    let tail: f64 = squares.iter().skip(rank).sum();
    Ok(if whole > 0.0 { (tail / whole).max(0.0).sqrt() } else { 0.0 })
}

/// `√S Uᵀ` of a Gram matrix `U S Uᵀ`.
fn root(gram: &Gram) -> Result<Vec<f64>, Error> {
    let n = gram.size();
    let whole = gram.to_f64();
    let (s, vt) = if n <= DOUBLE {
        let svd = svd_f64(&whole, [n, n])?;
        (svd.s, svd.vt)
    } else {
        let single: Vec<f32> = whole.iter().map(|&x| x as f32).collect();
        let svd = svd_f32(&single, [n, n])?;
        (svd.s.into_iter().map(f64::from).collect(), svd.vt.into_iter().map(f64::from).collect())
    };
    let roots: Vec<f64> = s.iter().map(|s| s.max(0.0).sqrt()).collect();
    Ok(scaled(&roots, &vt, n))
}

/// Singular values; in single precision from a few thousand rows and columns on, where doubles would take minutes.
fn values(a: &[f64], shape: [usize; 2]) -> Result<Vec<f64>, Error> {
    if shape[0].min(shape[1]) <= DOUBLE {
        return Ok(svd_f64(a, shape)?.s);
    }
    let single: Vec<f32> = a.iter().map(|&x| x as f32).collect();
    Ok(svd_f32(&single, shape)?.s.into_iter().map(f64::from).collect())
}
