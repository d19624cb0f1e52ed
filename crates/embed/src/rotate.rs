//! Rotation onto principal axes, so that the first dimensions are the ones that matter.

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::eigen_f64;
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;

use crate::error::{Error, Result};
use crate::modules::{Dense, DenseAct};
use crate::vectors::Vectors;

/// Variances below this share of the largest are noise, which whitening does not blow up further.
const FLOOR: f64 = 1e-6;

/// The principal axes of vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Dimensions.
    pub width: usize,
    /// The mean of the vectors it was found on, `[width]`.
    pub mean: Vec<f32>,
    /// The axes as rows, of the largest variance first, `[width, width]`, orthonormal.
    pub axes: Vec<f32>,
    /// The variance along each axis, falling.
    pub variances: Vec<f64>,
}

impl Rotation {
    /// Finds the axes of a sample of vectors: the eigenvectors of their covariance. The first `d` axes span the subspace in which
    /// `d` numbers leave the least squared error, for every `d`.
    ///
    /// # Cost
    /// `count * width²` for the covariance and `O(width³)` for its eigenvectors.
    ///
    /// # Errors
    /// [`Error::Few`] with fewer than two vectors, [`Error::NotFinite`] if one has NaN or infinite values.
    ///
    /// # Source
    /// Principal component analysis: Jolliffe 2002, property A5.
    pub fn fit(vectors: &Vectors) -> Result<Rotation> {
        let (count, width) = (vectors.count(), vectors.width);
        if count < 2 {
            return Err(Error::Few { count, needed: 2, what: "principal axes" });
        }
        if let Some(at) = vectors.values.iter().position(|x| !x.is_finite()) {
            return Err(Error::NotFinite { text: at / width });
        }
        let mut mean = vec![0f64; width];
        for row in vectors.values.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x));
        }
        mean.iter_mut().for_each(|mean| *mean /= count as f64);
        // The mean is taken off first: of sums of squares far from zero little would be left.
        let mut gram = Gram::new(width);
        for rows in vectors.values.chunks(1024 * width) {
            let centred: Vec<f32> = rows
                .chunks_exact(width)
                .flat_map(|row| row.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m) as f32))
                .collect();
            gram.add(centred.len() / width, Rows::F32(&centred), Compute::F32);
        }
        let covariance: Vec<f64> = gram.to_f64().into_iter().map(|sum| sum / count as f64).collect();
        let eigen = eigen_f64(&covariance, width)?;
        Ok(Rotation {
            width,
            mean: mean.into_iter().map(|x| x as f32).collect(),
            axes: eigen.vectors.into_iter().map(|x| x as f32).collect(),
            variances: eigen.values.into_iter().map(|x| x.max(0.0)).collect(),
        })
    }

    /// The layer that gives the coordinates along the first `dims` axes: `e' = S Q (e - mean)`, where `S` divides each by a power
    /// `whiten` of its spread (the standard deviation), relative to that of the first axis. At 0 coordinates are as they are and
    /// distances are kept; at 1 all spread alike. Between them cosines are no longer ruled by the few widest axes.
    ///
    /// # Errors
    /// [`Error::Dims`] if there are not so many.
    ///
    /// # Source
    /// Whitening: Su et al. 2021, arXiv:2103.15316; the power is ours.
    pub fn layer(&self, dims: usize, whiten: f64) -> Result<Dense> {
        if dims == 0 || dims > self.width {
            return Err(Error::Dims { asked: dims, width: self.width });
        }
        let mut weight = self.axes[..dims * self.width].to_vec();
        if whiten != 0.0 && self.variances[0] > 0.0 {
            for (axis, variance) in weight.chunks_exact_mut(self.width).zip(&self.variances) {
                let factor = (variance / self.variances[0]).max(FLOOR).powf(-whiten / 2.0) as f32;
                axis.iter_mut().for_each(|x| *x *= factor);
            }
        }
        let shift =
            |axis: &[f32]| -axis.iter().zip(&self.mean).map(|(&a, &m)| f64::from(a) * f64::from(m)).sum::<f64>() as f32;
        let bias = Some(weight.chunks_exact(self.width).map(shift).collect());
        Ok(Dense { shape: [dims, self.width], weight, bias, act: DenseAct::Identity })
    }

    /// The share of the variance that the first `dims` axes hold.
    pub fn share(&self, dims: usize) -> f64 {
        let all: f64 = self.variances.iter().sum();
        if all > 0.0 { self.variances[..dims.min(self.width)].iter().sum::<f64>() / all } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors near a plane in four dimensions, around a mean.
    fn sample(count: usize) -> Vectors {
        let mut state = 3u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let mut values = Vec::new();
        for _ in 0..count {
            let (a, b, noise) = (4.0 * next(), next(), 0.01 * next());
            values.extend([a + 1.0, a - b + 2.0, b, noise - 3.0]);
        }
        Vectors { width: 4, values }
    }

    #[test]
    fn the_spectrum_falls_and_the_first_axes_hold_the_variance() {
        let rotation = Rotation::fit(&sample(500)).unwrap();
        assert!(rotation.variances.windows(2).all(|pair| pair[0] >= pair[1]), "{:?}", rotation.variances);
        assert!(rotation.share(2) > 0.9999 && rotation.share(1) < 0.99);
        assert_eq!(rotation.share(4), 1.0);
        for i in 0..4 {
            for j in 0..4 {
                let dot: f32 = (0..4).map(|k| rotation.axes[i * 4 + k] * rotation.axes[j * 4 + k]).sum();
                assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn all_axes_keep_distances_and_centre() {
        let vectors = sample(50);
        let rotation = Rotation::fit(&vectors).unwrap();
        let turned = Vectors { width: 4, values: rotation.layer(4, 0.0).unwrap().apply(&vectors.values) };
        let far = |v: &Vectors, a: usize, b: usize| -> f32 {
            v.row(a).iter().zip(v.row(b)).map(|(x, y)| (x - y).powi(2)).sum::<f32>().sqrt()
        };
        assert!((far(&vectors, 0, 7) - far(&turned, 0, 7)).abs() < 1e-5);
        let mean: f32 = turned.values.iter().step_by(4).sum::<f32>() / 50.0;
        assert!(mean.abs() < 1e-5, "{mean}");
    }

    #[test]
    fn whitened_axes_spread_alike() {
        let vectors = sample(400);
        let rotation = Rotation::fit(&vectors).unwrap();
        let spread = |whiten: f64, axis: usize| {
            let turned = rotation.layer(3, whiten).unwrap().apply(&vectors.values);
            (turned.iter().skip(axis).step_by(3).map(|x| f64::from(x * x)).sum::<f64>() / 400.0).sqrt()
        };
        let deviation = |axis: usize| rotation.variances[axis].sqrt();
        for axis in 0..3 {
            assert!((spread(0.0, axis) / deviation(axis) - 1.0).abs() < 1e-3);
            assert!((spread(1.0, axis) / deviation(0) - 1.0).abs() < 1e-3, "axis {axis}");
            assert!((spread(0.5, axis) / (deviation(0) * deviation(axis)).sqrt() - 1.0).abs() < 1e-3);
        }
    }

    #[test]
    fn axes_of_one_vector_and_past_the_dimension_are_refused() {
        let error = Rotation::fit(&sample(1)).unwrap_err();
        assert_eq!(error.to_string(), "1 vectors are too few for principal axes, which need 2");
        let rotation = Rotation::fit(&sample(9)).unwrap();
        assert!(matches!(rotation.layer(5, 0.0), Err(Error::Dims { asked: 5, width: 4 })));
        let mut nan = sample(9);
        nan.values[13] = f32::NAN;
        assert!(matches!(Rotation::fit(&nan), Err(Error::NotFinite { text: 3 })));
    }
}
