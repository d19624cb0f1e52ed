//! The axes along which bits are taken: as they are, drawn at random, or fitted.

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::{eigen_f64, svd_f32};
use brevity_kernels::matmul::{Dims, Rows, linear_f32, matmul_f32, matmul_tn_f32};
use brevity_kernels::ops::Compute;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bits;
use crate::codec::error::Result;
use crate::random::{Random, normals};

/// Along which axes the bits of a vector are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// Along the dimensions as they are.
    None,
    /// Along as many axes as there are to be bits, drawn at random: orthonormal if these are no more than the
    /// dimensions (then within the principal axes, if fewer), else such that projecting back returns the vector.
    Random,
    /// Along axes of that kind that are turned, in turns with the codes, until codes and vectors are near each other.
    #[default]
    Learned,
}

/// Rounds in which axes and codes are fitted to each other; the error has settled long before.
const ROUNDS: usize = 40;
/// Rows whose products are added in single precision.
const CHUNK: usize = 2048;

/// An affine map from vectors to numbers of which bits are taken, `y = axes (x - mean)`.
///
/// `axes` is `[dims, width]`; its rows are orthonormal, or its columns if there are more of the former.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axes {
    pub(super) mean: Vec<f32>,
    pub(super) axes: Vec<f32>,
}

impl Axes {
    pub(super) fn dims(&self) -> usize {
        self.axes.len() / self.mean.len()
    }

    /// `[rows, width]` to `[rows, dims]`.
    pub(super) fn apply(&self, vectors: &[f32]) -> Vec<f32> {
        let (dims, width) = (self.dims(), self.mean.len());
        let shift: Vec<f32> = self.axes.chunks_exact(width).map(|axis| -dot(axis, &self.mean)).collect();
        let rows = vectors.len() / width;
        let mut out = vec![0.0; rows * dims];
        linear_f32(Dims { m: rows, k: width, n: dims }, vectors, &self.axes, Some(&shift), &mut out);
        out
    }

    /// `[rows, dims]` back to `[rows, width]`.
    pub(super) fn back(&self, numbers: &[f32]) -> Vec<f32> {
        let (dims, width) = (self.dims(), self.mean.len());
        let rows = numbers.len() / dims;
        let mut out = vec![0.0; rows * width];
        matmul_f32(Dims { m: rows, k: dims, n: width }, numbers, &self.axes, &mut out);
        out.par_chunks_mut(width).for_each(|row| row.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x += mean));
        out
    }

    /// Axes drawn at random, for `[rows, width]` vectors that are centred on their mean if `centre`.
    pub(super) fn random(
        vectors: &[f32],
        width: usize,
        dims: usize,
        centre: bool,
        random: &mut Random,
    ) -> Result<Self> {
        let mean = if centre { mean(vectors, width) } else { vec![0.0; width] };
        let base = Base::of(vectors, &mean, dims)?;
        let axes = base.turned(&polar(&normals(random, dims * base.width), dims, base.width)?);
        Ok(Axes { mean, axes })
    }

    /// Axes fitted to vectors, and the unit of the values of `planes` bits along them.
    ///
    /// From random axes on, `|Y - s B|²` is made less in turns: `B` are the values nearest to `Y / s`, the scale is
    /// `s = ⟨Y, B⟩ / ⟨B, B⟩`, and the axes are the polar factor of `Bᵀ X`. With one plane this is ITQ.
    ///
    /// # Source
    /// Gong and Lazebnik 2011, "Iterative quantization", section 2.2.
    pub(super) fn learned(
        vectors: &[f32],
        width: usize,
        dims: usize,
        planes: usize,
        centre: bool,
        random: &mut Random,
    ) -> Result<(Self, f32)> {
        let mean = if centre { mean(vectors, width) } else { vec![0.0; width] };
        let base = Base::of(vectors, &mean, dims)?;
        let plain = Axes { mean: mean.clone(), axes: base.turned(&identity(base.width)) };
        let x = plain.apply(vectors); // [rows, base.width]
        let rows = x.len() / base.width;
        let mut turn = polar(&normals(random, dims * base.width), dims, base.width)?;
        let mut y = vec![0.0; rows * dims];
        let mut scale = None;
        for _ in 0..ROUNDS {
            linear_f32(Dims { m: rows, k: base.width, n: dims }, &x, &turn, None, &mut y);
            let s = fit_scale(&y, planes, scale);
            scale = Some(s);
            y.par_iter_mut().for_each(|y| *y = bits::nearest(*y / s, planes));
            turn = polar(&products(&y, dims, &x, base.width), dims, base.width)?;
        }
        let axes = Axes { mean, axes: base.turned(&turn) };
        let scale = fit_scale(&axes.apply(vectors), planes, scale);
        Ok((axes, scale))
    }
}

/// The subspace that is turned: the principal axes if there are to be fewer than dimensions, else everything.
struct Base {
    width: usize,
    principal: Option<Vec<f32>>,
}

impl Base {
    fn of(vectors: &[f32], mean: &[f32], dims: usize) -> Result<Self> {
        let width = mean.len();
        if dims >= width {
            return Ok(Base { width, principal: None });
        }
        Ok(Base { width: dims, principal: Some(principal(vectors, mean)?.1[..dims * width].to_vec()) })
    }

    /// A turn `[dims, width of the base]` as axes of vectors.
    fn turned(&self, turn: &[f32]) -> Vec<f32> {
        match &self.principal {
            None => turn.to_vec(),
            Some(principal) => {
                let (dims, width) = (turn.len() / self.width, principal.len() / self.width);
                let mut axes = vec![0.0; dims * width];
                matmul_f32(Dims { m: dims, k: self.width, n: width }, turn, principal, &mut axes);
                axes
            }
        }
    }
}

/// The unit of values of `planes` bits for numbers `y`: the least squares of the values nearest at the unit before.
///
/// The first is the best for normal numbers of their variance.
///
/// # Source
/// Max 1960, "Quantizing for minimum distortion", table II, for the first.
pub(super) fn fit_scale(y: &[f32], planes: usize, before: Option<f32>) -> f32 {
    let sums = |f: &(dyn Fn(f32) -> (f64, f64) + Sync)| -> (f64, f64) {
        let parts: Vec<(f64, f64)> = y
            .par_chunks(1 << 16)
            .map(|part| part.iter().map(|&y| f(y)).fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
            .collect();
        parts.into_iter().fold((0.0, 0.0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    };
    let before = before.unwrap_or_else(|| {
        let step = [1.596, 0.9957, 0.586, 0.3352][planes - 1] * f64::from(1u32 << planes) / 4.0;
        let square = sums(&|y| (f64::from(y) * f64::from(y), 0.0)).0;
        (step * (square / y.len().max(1) as f64).sqrt()) as f32
    });
    if before <= 0.0 {
        return 1.0; // every number is zero
    }
    let (with, own) = sums(&|y| {
        let b = bits::nearest(y / before, planes);
        (f64::from(y * b), f64::from(b * b))
    });
    if with > 0.0 { (with / own) as f32 } else { before }
}

/// The mean of vectors.
pub(super) fn mean(vectors: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; width];
    for row in vectors.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let rows = (vectors.len() / width).max(1) as f64;
    sums.into_iter().map(|sum| (sum / rows) as f32).collect()
}

/// The variances along the principal axes of vectors about `mean`, and these axes as rows, largest first.
pub(super) fn principal(vectors: &[f32], mean: &[f32]) -> Result<(Vec<f64>, Vec<f32>)> {
    let width = mean.len();
    let mut gram = Gram::new(width);
    for some in vectors.chunks(CHUNK * width) {
        let centred: Vec<f32> = some.iter().zip(mean.iter().cycle()).map(|(x, mean)| x - mean).collect();
        gram.add(some.len() / width, Rows::F32(&centred), Compute::F32);
    }
    let eigen = eigen_f64(&gram.to_f64(), width)?;
    let rows = (vectors.len() / width).max(1) as f64;
    Ok((eigen.values.iter().map(|v| v / rows).collect(), eigen.vectors.iter().map(|&x| x as f32).collect()))
}

/// `bᵀ x` of `[rows, m]` and `[rows, n]`: `[m, n]`, added up in double precision.
pub(super) fn products(b: &[f32], m: usize, x: &[f32], n: usize) -> Vec<f32> {
    let (mut total, mut part) = (vec![0.0f64; m * n], vec![0.0; m * n]);
    for (b, x) in b.chunks(CHUNK * m).zip(x.chunks(CHUNK * n)) {
        matmul_tn_f32(Dims { m, k: b.len() / m, n }, b, x, &mut part);
        total.iter_mut().zip(&part).for_each(|(total, part)| *total += f64::from(*part));
    }
    total.into_iter().map(|x| x as f32).collect()
}

/// The polar factor of a `[rows, cols]` matrix: of those with orthonormal rows or columns, the one nearest to it.
pub(super) fn polar(a: &[f32], rows: usize, cols: usize) -> Result<Vec<f32>> {
    let svd = svd_f32(a, [rows, cols])?;
    let mut factor = vec![0.0; rows * cols];
    matmul_f32(Dims { m: rows, k: svd.s.len(), n: cols }, &svd.u, &svd.vt, &mut factor);
    Ok(factor)
}

fn identity(n: usize) -> Vec<f32> {
    (0..n * n).map(|i| f32::from(u8::from(i / n == i % n))).collect()
}

/// A dot product in double precision, rounded once.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::rand_core::SeedableRng;

    fn some(rows: usize, width: usize) -> Vec<f32> {
        let mut numbers = normals(&mut Random::seed_from_u64(9), rows * width);
        // of unequal variance, and about a point that is not the origin
        numbers.iter_mut().enumerate().for_each(|(i, x)| *x = *x / (1.0 + (i % width) as f32) + 0.1);
        numbers
    }

    fn squared_error(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn as_many_axes_as_dimensions_or_more_lead_back_to_the_vector() {
        let x = some(50, 12);
        for dims in [12, 30] {
            let axes = Axes::random(&x, 12, dims, true, &mut Random::seed_from_u64(1)).unwrap();
            assert!(squared_error(&axes.back(&axes.apply(&x)), &x) < 1e-8, "{dims}");
        }
    }

    #[test]
    fn fewer_axes_keep_what_the_principal_axes_keep() {
        let x = some(400, 12);
        let (values, _) = principal(&x, &mean(&x, 12)).unwrap();
        let axes = Axes::random(&x, 12, 5, true, &mut Random::seed_from_u64(1)).unwrap();
        let lost = squared_error(&axes.back(&axes.apply(&x)), &x) / 400.0;
        assert!((lost - values[5..].iter().sum::<f64>()).abs() < 1e-4);
    }

    #[test]
    fn learned_axes_are_nearer_to_their_codes_than_random_ones() {
        let x = some(500, 12);
        for (dims, planes) in [(12, 1), (12, 2), (6, 2), (24, 1)] {
            let error = |axes: &Axes, scale: f32| {
                let bits = bits::pack(&axes.apply(&x), dims, planes, scale);
                squared_error(&axes.back(&bits::unpack(&bits, dims, planes, scale)), &x)
            };
            let drawn = Axes::random(&x, 12, dims, true, &mut Random::seed_from_u64(2)).unwrap();
            let scale = fit_scale(&drawn.apply(&x), planes, None);
            let (fitted, unit) = Axes::learned(&x, 12, dims, planes, true, &mut Random::seed_from_u64(2)).unwrap();
            let (before, after) = (error(&drawn, scale), error(&fitted, unit));
            assert!(after < before, "{dims} of {planes} bits: {after} {before}");
        }
    }

    #[test]
    fn scales_of_numbers_on_the_grid_are_found() {
        let y: Vec<f32> = (0..64).map(|i| ((i % 4) as f32 - 1.5) * 0.3).collect();
        assert!((fit_scale(&y, 2, None) - 0.3).abs() < 1e-6);
        assert_eq!(fit_scale(&[0.0; 4], 2, None), 1.0);
    }
}
