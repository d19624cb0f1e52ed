//! The coding rate of activations: how many directions they fill, in one number.

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::solver_f64;

/// The precision that activations are coded with, in parts of their root mean square.
const PRECISION: f64 = 0.5;

/// The coding rate of centred activations, as a share of what it would be if they filled all directions alike: from 0 to
/// 1.
///
/// With `C` the covariance `[d, d]` of the rows summed up in `gram` and `sum`, `λ` the mean of its diagonal and `ε` one
/// half, it is `½ log det(I + C / (ε² λ))` over `½ d log(1 + 1 / ε²)`. It is zero for rows that are all the same, and
/// does not change if all are multiplied by a constant.
///
/// # Cost
/// `d³ / 3` multiplications in double precision.
///
/// # Source
/// Yu et al. 2020, arXiv:2006.08558, equation 4.
pub fn coding_rate(gram: &Gram, sum: &[f64], count: u64) -> f64 {
    let (d, count) = (gram.size(), count as f64);
    let mut c = gram.to_f64();
    for (i, row) in c.chunks_mut(d.max(1)).enumerate() {
        row.iter_mut().zip(sum).for_each(|(c, x)| *c = *c / count - sum[i] / count * (x / count));
    }
    let mean = c.iter().step_by(d + 1).sum::<f64>() / d as f64;
    // What a sum in single precision cannot tell from zero.
    let nothing = 1e-6 * gram.trace() / count / d as f64;
    if mean.is_nan() || mean <= nothing {
        return 0.0;
    }
    c.iter_mut().for_each(|c| *c /= PRECISION * PRECISION * mean);
    c.iter_mut().step_by(d + 1).for_each(|c| *c += 1.0);
    let full = d as f64 * (1.0 + 1.0 / (PRECISION * PRECISION)).ln();
    // Where rounding makes it indefinite there is nothing to tell.
    solver_f64(c, d).map_or(0.0, |solver| solver.log_determinant() / full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::fold;

    fn rate(n: usize, x: &[f32]) -> f64 {
        let fold = fold(n, x, x);
        coding_rate(&fold.gram.unwrap(), &fold.sum, fold.count)
    }

    #[test]
    fn it_counts_the_directions_that_are_filled() {
        // One pair of opposites fills one direction of two: C is diag(1, 0), its mean ½, and the rate ln(1 + 8) / 2 ln 5.
        assert!((rate(2, &[1.0, 0.0, -1.0, 0.0]) - 9f64.ln() / (2.0 * 5f64.ln())).abs() < 1e-9);
        // Two pairs fill both.
        let both = [1.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, -1.0];
        assert!((rate(2, &both) - 1.0).abs() < 1e-9);
        // Size and mean do not matter.
        let moved: Vec<f32> = both.iter().map(|x| 8.0 * x + 3.0).collect();
        assert!((rate(2, &moved) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_never_changes_has_no_rate() {
        assert_eq!(rate(2, &[3.0, 1.0, 3.0, 1.0]), 0.0);
        assert_eq!(rate(2, &[0.0; 4]), 0.0);
    }
}
