//! A linear layer fitted so that the vectors of a cut model come near those of the whole one. No labels, and no training.

use brevity_kernels::linalg::{matmul_f64, solver_f64};
use brevity_kernels::matmul::Dims;

use crate::error::{Error, Result};
use crate::modules::{Dense, DenseAct};
use crate::vectors::Vectors;

/// Shares of the mean variance of the inputs that are tried as damping; what does best on vectors that were held out is taken.
const DAMPS: [f64; 6] = [1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0];
/// One vector in so many is held out.
const HELD_OUT: usize = 5;

/// A layer, and how well it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The layer.
    pub layer: Dense,
    /// The damping that was chosen, as a share of the mean variance of the inputs.
    pub damp: f64,
    /// What is left of the variance of the targets, on vectors that were held out.
    pub left: f64,
}

/// The layer `y = W x + b` that takes `inputs` to `targets` with the least squared error, damped.
///
/// # Shapes
/// `inputs` and `targets` have a row for each text.
///
/// # Cost
/// `count * in * (in + out)` and `O(in³)` for each damping that is tried.
///
/// # Errors
/// [`Error::Few`] with fewer than ten rows; [`Error::NotFinite`]; what the solver refuses.
///
/// # Source
/// Ridge regression: Hoerl and Kennard 1970.
pub fn fit(inputs: &Vectors, targets: &Vectors) -> Result<Fitted> {
    assert_eq!(inputs.count(), targets.count(), "a row for each text");
    let count = inputs.count();
    if count < 10 {
        return Err(Error::Few { count, needed: 10, what: "a fitted layer" });
    }
    for vectors in [inputs, targets] {
        if let Some(at) = vectors.values.iter().position(|x| !x.is_finite()) {
            return Err(Error::NotFinite { text: at / vectors.width });
        }
    }
    let seen = Sums::of(inputs, targets, |n| n % HELD_OUT != HELD_OUT - 1);
    let mut best: Option<(f64, f64)> = None;
    for damp in DAMPS {
        // A matrix that is damped too little to be solved with is no candidate.
        let Ok(layer) = seen.layer(damp) else { continue };
        let left = left(&layer, inputs, targets, |n| n % HELD_OUT == HELD_OUT - 1);
        if best.is_none_or(|(_, least)| left < least) {
            best = Some((damp, left));
        }
    }
    let (damp, left) = best.ok_or(Error::Few { count, needed: 10, what: "a fitted layer" })?;
    let layer = Sums::of(inputs, targets, |_| true).layer(damp)?;
    Ok(Fitted { layer, damp, left })
}

/// Means and centred second moments of inputs and targets.
struct Sums {
    widths: [usize; 2],
    means: [Vec<f64>; 2],
    /// `[in, in]`, of inputs with themselves.
    own: Vec<f64>,
    /// `[out, in]`, of targets with inputs.
    cross: Vec<f64>,
}

impl Sums {
    fn of(inputs: &Vectors, targets: &Vectors, counts: impl Fn(usize) -> bool) -> Sums {
        let rows: Vec<usize> = (0..inputs.count()).filter(|&n| counts(n)).collect();
        let mean = |vectors: &Vectors| {
            let mut mean = vec![0f64; vectors.width];
            for &n in &rows {
                mean.iter_mut().zip(vectors.row(n)).for_each(|(mean, &x)| *mean += f64::from(x));
            }
            mean.iter_mut().for_each(|mean| *mean /= rows.len() as f64);
            mean
        };
        let means = [mean(inputs), mean(targets)];
        let centred = |vectors: &Vectors, mean: &[f64]| -> Vec<f64> {
            rows.iter().flat_map(|&n| vectors.row(n).iter().zip(mean).map(|(&x, m)| f64::from(x) - m)).collect()
        };
        let (x, y) = (centred(inputs, &means[0]), centred(targets, &means[1]));
        let (wide, narrow) = (inputs.width, targets.width);
        // `aᵀ x`, with `a` turned so that its rows are those of the product.
        let product = |a: &[f64], m: usize| {
            let turned: Vec<f64> = (0..m).flat_map(|i| a.iter().skip(i).step_by(m)).copied().collect();
            matmul_f64(Dims { m, k: rows.len(), n: wide }, &turned, &x)
        };
        Sums { widths: [wide, narrow], own: product(&x, wide), cross: product(&y, narrow), means }
    }

    fn layer(&self, damp: f64) -> Result<Dense> {
        let [inputs, outputs] = self.widths;
        let mut own = self.own.clone();
        let mean = (0..inputs).map(|n| own[n * inputs + n]).sum::<f64>() / inputs as f64;
        (0..inputs).for_each(|n| own[n * inputs + n] += damp * mean.max(f64::MIN_POSITIVE));
        let mut weight = self.cross.clone();
        solver_f64(own, inputs)?.solve(&mut weight);
        let bias = weight
            .chunks_exact(inputs)
            .zip(&self.means[1])
            .map(|(row, mean)| (mean - row.iter().zip(&self.means[0]).map(|(w, x)| w * x).sum::<f64>()) as f32);
        let bias = Some(bias.collect());
        let weight = weight.into_iter().map(|x| x as f32).collect();
        Ok(Dense { shape: [outputs, inputs], weight, bias, act: DenseAct::Identity })
    }
}

/// What is left of the variance of the targets.
fn left(layer: &Dense, inputs: &Vectors, targets: &Vectors, counts: impl Fn(usize) -> bool) -> f64 {
    let rows: Vec<usize> = (0..inputs.count()).filter(|&n| counts(n)).collect();
    let mut mean = vec![0f64; targets.width];
    rows.iter().for_each(|&n| mean.iter_mut().zip(targets.row(n)).for_each(|(mean, &y)| *mean += f64::from(y)));
    mean.iter_mut().for_each(|mean| *mean /= rows.len().max(1) as f64);
    let (mut off, mut all) = (0.0, 0.0);
    for &n in &rows {
        let found = layer.apply(inputs.row(n));
        for ((&y, found), mean) in targets.row(n).iter().zip(found).zip(&mean) {
            off += f64::from(y - found).powi(2);
            all += (f64::from(y) - mean).powi(2);
        }
    }
    if all > 0.0 { off / all } else { off }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(count: usize, width: usize, seed: u64) -> Vectors {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        Vectors { width, values: (0..count * width).map(|_| next()).collect() }
    }

    #[test]
    fn a_linear_relation_is_found_again() {
        let inputs = random(400, 6, 1);
        let truth = Dense {
            shape: [2, 6],
            weight: random(2, 6, 2).values,
            bias: Some(vec![0.5, -2.0]),
            act: DenseAct::Identity,
        };
        let targets = Vectors { width: 2, values: truth.apply(&inputs.values) };
        let fitted = fit(&inputs, &targets).unwrap();
        assert!(fitted.left < 1e-6, "{fitted:?}");
        let found = fitted.layer.apply(&inputs.values);
        assert!(found.iter().zip(&targets.values).all(|(a, b)| (a - b).abs() < 1e-3));
    }

    #[test]
    fn noise_is_damped() {
        // As many inputs as rows: without damping the fit would be perfect where it was made and useless elsewhere.
        let (inputs, targets) = (random(40, 32, 3), random(40, 2, 4));
        let fitted = fit(&inputs, &targets).unwrap();
        assert_eq!(fitted.damp, 1.0);
        assert!(fitted.left > 0.5);
    }

    #[test]
    fn fewer_rows_than_inputs_are_no_trouble_and_too_few_are_refused() {
        assert!(fit(&random(12, 32, 5), &random(12, 2, 6)).is_ok());
        assert!(matches!(fit(&random(9, 3, 5), &random(9, 2, 6)), Err(Error::Few { count: 9, .. })));
        let constant = Vectors { width: 3, values: vec![1.0; 60] };
        let fitted = fit(&constant, &random(20, 2, 7)).unwrap();
        assert!(fitted.layer.weight.iter().all(|w| w.abs() < 1e-3));
    }
}
