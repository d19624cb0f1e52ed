//! Means and quantiles over the tokens of windows, with standard errors that take windows, not tokens, as
//! independent.

use super::bootstrap::{Bootstrap, Interval};
use super::estimate::{Estimate, mean, of_means, ratio};

/// Values of the predictions of windows, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    values: Vec<f64>,
    /// Where the values of each window end.
    ends: Vec<usize>,
    window: Option<usize>,
}

impl Samples {
    /// Adds values of a window; those of one window follow each other.
    pub(crate) fn extend(&mut self, window: usize, values: &[f64]) {
        if self.window != Some(window) {
            self.window = Some(window);
            self.ends.push(self.values.len());
        }
        self.values.extend_from_slice(values);
        *self.ends.last_mut().expect("a window has begun") = self.values.len();
    }

    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    fn windows(&self) -> impl Iterator<Item = &[f64]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.values[start..end]).filter(|values| !values.is_empty())
    }

    /// The mean of the means of the windows; where windows have different numbers of values, the mean of all values.
    /// `None` if there are no values.
    pub(crate) fn mean(&self) -> Option<Estimate> {
        let (sums, counts): (Vec<f64>, Vec<f64>) = self.totals().into_iter().unzip();
        if counts.iter().all(|&count| count == counts[0]) {
            return of_means(&self.windows().map(mean).collect::<Vec<_>>());
        }
        ratio(&sums, &counts)
    }

    /// Where [`Samples::mean`] lies, by resampling windows; none if there is just one.
    pub(crate) fn interval(&self) -> Option<Interval> {
        let (sums, counts): (Vec<f64>, Vec<f64>) = self.totals().into_iter().unzip();
        Bootstrap::default().ratio(&sums, &counts)
    }

    /// Sum and number of the values of each window that has any.
    pub(crate) fn totals(&self) -> Vec<(f64, f64)> {
        self.windows().map(|values| (values.iter().sum(), values.len() as f64)).collect()
    }

    /// The value below which a share of all values lies, between order statistics on a line.
    ///
    /// Its error is Woodruff's: the error of the share of values up to the quantile, carried over to values by
    /// the quantiles that lie one such error to both sides.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[Estimate; N]> {
        if self.values.is_empty() {
            return None;
        }
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        Some(shares.map(|share| {
            let value = at(&sorted, share);
            let below = |values: &[f64]| values.iter().filter(|&&v| v <= value).count() as f64 / values.len() as f64;
            let spread = of_means(&self.windows().map(below).collect::<Vec<_>>()).and_then(|e| e.error);
            let error = spread.map(|spread| (at(&sorted, share + spread) - at(&sorted, share - spread)) / 2.0);
            Estimate { value, error }
        }))
    }
}

pub(super) fn at(sorted: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    // Not `a + (b - a) * part`: equal neighbours must give themselves.
    if part == 0.0 { sorted[low] } else { sorted[low] * (1.0 - part) + sorted[high] * part }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(windows: &[&[f64]]) -> Samples {
        let mut samples = Samples::default();
        windows.iter().enumerate().for_each(|(n, values)| samples.extend(n, values));
        samples
    }

    #[test]
    fn the_error_of_a_mean_is_that_over_windows() {
        // Window means 1, 2, 3: standard deviation 1, error 1 / sqrt(3).
        let mean = samples(&[&[0.0, 2.0], &[2.0, 2.0], &[1.0, 5.0]]).mean().unwrap();
        assert_eq!(mean.value, 2.0);
        assert!((mean.error.unwrap() - 1.0 / 3f64.sqrt()).abs() < 1e-15);
        assert_eq!(samples(&[&[1.0, 3.0]]).mean(), Some(Estimate { value: 2.0, error: None }));
        assert_eq!(samples(&[]).mean(), None);
    }

    #[test]
    fn windows_of_different_lengths_count_by_their_values() {
        // Sums 1 and 8 over 1 and 2 values: 3. Residuals 1 - 3 and 8 - 6: sqrt(2 * 8) / 3.
        let mean = samples(&[&[1.0], &[2.0, 6.0]]).mean().unwrap();
        assert_eq!(mean.value, 3.0);
        assert!((mean.error.unwrap() - 4.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_its_windows() {
        let windows: Vec<[f64; 2]> = (0..20).map(|n| [f64::from(n), f64::from(n * n % 7)]).collect();
        let samples = samples(&windows.iter().map(|window| &window[..]).collect::<Vec<_>>());
        let means: Vec<f64> = windows.iter().map(|[a, b]| (a + b) / 2.0).collect();
        let (found, expected) = (samples.interval().unwrap(), Bootstrap::default().mean(&means).unwrap());
        assert!((found.low - expected.low).abs() < 1e-12 && (found.high - expected.high).abs() < 1e-12);
    }

    #[test]
    fn chunks_of_one_window_are_one_window() {
        let mut chunked = Samples::default();
        chunked.extend(0, &[0.0]);
        chunked.extend(0, &[2.0]);
        chunked.extend(1, &[2.0, 2.0]);
        assert_eq!(chunked.mean(), samples(&[&[0.0, 2.0], &[2.0, 2.0]]).mean());
    }

    #[test]
    fn quantiles_lie_between_order_statistics() {
        let values: Vec<f64> = (0..=100).map(f64::from).collect();
        let [median, high] = samples(&[&values]).quantiles([0.5, 0.995]).unwrap();
        assert_eq!((median.value, median.error), (50.0, None));
        assert!((high.value - 99.5).abs() < 1e-12);
        assert!(samples(&[]).quantiles([0.5]).is_none());
    }

    #[test]
    fn the_error_of_a_median_is_near_theory() {
        // 400 windows of one uniform value: the median's error is 0.5 / sqrt(400) = 0.025.
        let mut samples = Samples::default();
        (0..400).for_each(|n| samples.extend(n, &[((n * 149) % 400) as f64 / 400.0]));
        let [median] = samples.quantiles([0.5]).unwrap();
        assert!((median.error.unwrap() - 0.025).abs() < 0.001, "{median:?}");
    }
}
