//! Means and ratios with their standard errors.

use serde::{Deserialize, Serialize};

/// An estimate and its standard error; none if there is just one item to estimate it from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Its standard error.
    pub error: Option<f64>,
}

impl Estimate {
    /// `e` to the number; the error is carried over by the slope.
    pub fn exp(self) -> Estimate {
        let value = self.value.exp();
        Estimate { value, error: self.error.map(|error| error * value) }
    }

    /// The number in other units.
    pub fn times(self, factor: f64) -> Estimate {
        Estimate { value: self.value * factor, error: self.error.map(|error| error * factor.abs()) }
    }
}

/// The mean of independent items, with the standard error `s / sqrt(n)`. `None` if there are none.
pub fn mean_of(values: &[f64]) -> Option<Estimate> {
    of_means(values)
}

/// The share of items that have a property: a mean of ones and zeros, so with the error `sqrt(p (1 - p) / (n - 1))`.
///
/// `None` if there are no items.
pub fn share(count: usize, of: usize) -> Option<Estimate> {
    let (n, value) = (of as f64, count as f64 / of as f64);
    (of > 0).then(|| Estimate { value, error: (of > 1).then(|| (value * (1.0 - value) / (n - 1.0)).sqrt()) })
}

/// `Σ a / Σ b` over independent items that each have an `a` and a `b`, such as the loss of a document and its words.
///
/// The error is that of the linearised ratio, `sqrt(n / (n - 1) Σ (a - r b)²) / Σ b`. `None` if `Σ b` is zero.
///
/// # Panics
/// If there are not as many `a` as `b`.
///
/// # Source
/// Cochran 1977, Sampling Techniques, section 6.4.
pub fn ratio(a: &[f64], b: &[f64]) -> Option<Estimate> {
    assert_eq!(a.len(), b.len(), "each item has both");
    let (n, below) = (a.len() as f64, b.iter().sum::<f64>());
    if below == 0.0 {
        return None;
    }
    let value = a.iter().sum::<f64>() / below;
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - value * b).powi(2)).sum();
    Some(Estimate { value, error: (n > 1.0).then(|| (n / (n - 1.0) * squares).sqrt() / below.abs()) })
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(super) fn of_means(means: &[f64]) -> Option<Estimate> {
    let n = means.len();
    if n == 0 {
        return None;
    }
    let value = mean(means);
    let squares: f64 = means.iter().map(|m| (m - value).powi(2)).sum();
    let error = (n > 1).then(|| (squares / (n - 1) as f64 / n as f64).sqrt());
    Some(Estimate { value, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_the_mean_of_ones_and_zeros() {
        let (share, mean) = (share(3, 4).unwrap(), mean_of(&[1.0, 0.0, 1.0, 1.0]).unwrap());
        assert_eq!(share.value, mean.value);
        assert!((share.error.unwrap() - mean.error.unwrap()).abs() < 1e-15);
        assert_eq!(super::share(0, 0), None);
        assert_eq!(super::share(1, 1), Some(Estimate { value: 1.0, error: None }));
    }

    #[test]
    fn a_ratio_over_equal_parts_is_a_mean() {
        let (ratio, mean) = (ratio(&[2.0, 4.0, 9.0], &[1.0; 3]).unwrap(), mean_of(&[2.0, 4.0, 9.0]).unwrap());
        assert_eq!(ratio.value, mean.value);
        assert!((ratio.error.unwrap() - mean.error.unwrap()).abs() < 1e-12);
        assert_eq!(super::ratio(&[1.0], &[0.0]), None);
    }
}
