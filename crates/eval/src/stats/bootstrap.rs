//! Confidence intervals by resampling.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

use super::samples::at;
use crate::random::{Random, SeedableRng, below};

/// How intervals are made: bias-corrected and accelerated (BCa), from resamples of items drawn with replacement.
///
/// Items are whatever is independent: questions, documents, windows. Pairs of values of one item stay together. The
/// generator is ChaCha8 with one stream for each 128 resamples, so the interval does not depend on threads.
///
/// # Cost
/// `resamples` times the number of items: about a second for 10,000 of 14,000.
///
/// # Source
/// Efron 1987, JASA 82; DiCiccio and Efron 1996, Statistical Science 11, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How many times items are drawn again.
    pub resamples: usize,
    /// How often the interval is to hold the true value: 0.95.
    pub level: f64,
    /// Of the random numbers.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 95 percent from 10,000 resamples.
    fn default() -> Self {
        Bootstrap { resamples: 10_000, level: 0.95, seed: 0 }
    }
}

/// A number and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The estimate.
    pub value: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// How often such intervals hold the true value.
    pub level: f64,
}

impl Interval {
    /// Whether the interval leaves out a value: zero for a difference, one for a ratio.
    pub fn excludes(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }

    /// `e` to all of it.
    pub fn exp(self) -> Interval {
        Interval { value: self.value.exp(), low: self.low.exp(), high: self.high.exp(), ..self }
    }
}

/// Resamples that share a stream of random numbers.
const CHUNK: usize = 128;

impl Bootstrap {
    /// The mean of items. `None` if there are fewer than two.
    pub fn mean(&self, values: &[f64]) -> Option<Interval> {
        self.ratio(values, &vec![1.0; values.len()])
    }

    /// The mean of `after - before` over items that have both. `None` if there are fewer than two.
    ///
    /// # Panics
    /// If there are not as many before as after.
    pub fn difference(&self, before: &[f64], after: &[f64]) -> Option<Interval> {
        assert_eq!(before.len(), after.len(), "each item has both");
        self.mean(&before.iter().zip(after).map(|(before, after)| after - before).collect::<Vec<_>>())
    }

    /// The ratio of two perplexities, `exp(mean(after) - mean(before))`, from mean losses of the same windows in nats.
    ///
    /// # Panics
    /// If there are not as many before as after.
    pub fn perplexity_ratio(&self, before: &[f64], after: &[f64]) -> Option<Interval> {
        self.difference(before, after).map(Interval::exp)
    }

    /// `Σ a / Σ b` over items that have both, such as the loss of a document and its words. `None` if there are fewer
    /// than two items, or a resample can have `Σ b = 0`.
    ///
    /// # Panics
    /// If there are not as many `a` as `b`.
    pub fn ratio(&self, a: &[f64], b: &[f64]) -> Option<Interval> {
        assert_eq!(a.len(), b.len(), "each item has both");
        let n = a.len();
        if n < 2 || b.iter().any(|&b| b <= 0.0) {
            return None;
        }
        let (sum_a, sum_b) = (a.iter().sum::<f64>(), b.iter().sum::<f64>());
        let value = sum_a / sum_b;
        let left_out: Vec<f64> = (0..n).map(|i| (sum_a - a[i]) / (sum_b - b[i])).collect();
        let mut drawn = self.drawn(a, b);
        drawn.sort_by(f64::total_cmp);
        let [low, high] = self.ends(value, &left_out, &drawn);
        Some(Interval { value, low, high, level: self.level })
    }

    /// The ratio of each resample.
    fn drawn(&self, a: &[f64], b: &[f64]) -> Vec<f64> {
        let mut drawn = vec![0.0; self.resamples.max(1)];
        drawn.par_chunks_mut(CHUNK).enumerate().for_each(|(stream, chunk)| {
            let mut random = Random::seed_from_u64(self.seed);
            random.set_stream(stream as u64);
            for ratio in chunk {
                let (mut sum_a, mut sum_b) = (0.0, 0.0);
                for _ in 0..a.len() {
                    let at = below(&mut random, a.len());
                    (sum_a, sum_b) = (sum_a + a[at], sum_b + b[at]);
                }
                *ratio = sum_a / sum_b;
            }
        });
        drawn
    }

    /// Both ends: quantiles of the resamples whose shares are shifted by their bias `z0` and by the acceleration `c`,
    /// a sixth of the skewness of the values with one item left out.
    fn ends(&self, value: f64, left_out: &[f64], drawn: &[f64]) -> [f64; 2] {
        let mean = left_out.iter().sum::<f64>() / left_out.len() as f64;
        let power = |n| left_out.iter().map(|x| (mean - x).powi(n)).sum::<f64>();
        let spread = power(2).powf(1.5);
        let c = if spread > 0.0 { power(3) / (6.0 * spread) } else { 0.0 };
        let below = drawn.partition_point(|&x| x < value) + drawn.partition_point(|&x| x <= value);
        let normal = Normal::standard();
        // Half a resample from either end, so that the shift stays finite.
        let half = 0.5 / drawn.len() as f64;
        let z0 = normal.inverse_cdf((below as f64 / (2 * drawn.len()) as f64).clamp(half, 1.0 - half));
        let tail = (1.0 - self.level) / 2.0;
        [tail, 1.0 - tail].map(|share| {
            let z = z0 + normal.inverse_cdf(share);
            at(drawn, normal.cdf(z0 + z / (1.0 - c * z)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Roughly normal numbers.
    fn noise(n: usize, seed: u64) -> Vec<f64> {
        let mut random = Random::seed_from_u64(seed);
        let uniform = |random: &mut Random| below(random, 1 << 20) as f64 / f64::from(1 << 20);
        (0..n).map(|_| (0..12).map(|_| uniform(&mut random)).sum::<f64>() - 6.0).collect()
    }

    #[test]
    fn the_interval_of_a_mean_is_near_that_of_theory() {
        let values = noise(400, 1);
        let interval = Bootstrap::default().mean(&values).unwrap();
        let error = super::super::mean_of(&values).unwrap().error.unwrap();
        assert!((interval.high - interval.value - 1.96 * error).abs() < 0.1 * error, "{interval:?} {error}");
        assert!((interval.value - interval.low - 1.96 * error).abs() < 0.1 * error, "{interval:?} {error}");
    }

    #[test]
    fn nineteen_of_twenty_intervals_hold_the_truth() {
        let few = Bootstrap { resamples: 1000, ..Bootstrap::default() };
        let held = (0..400).filter(|&seed| !few.mean(&noise(50, 1000 + seed)).unwrap().excludes(0.0)).count();
        assert!((360..=396).contains(&held), "{held} of 400");
    }

    #[test]
    fn pairs_stay_together() {
        // Items differ by far more than the change of each.
        let before: Vec<f64> = noise(50, 1).iter().map(|x| 100.0 * x).collect();
        let after: Vec<f64> = before.iter().zip(noise(50, 2)).map(|(x, noise)| x + 1.0 + 0.1 * noise).collect();
        let change = Bootstrap::default().difference(&before, &after).unwrap();
        assert!(change.excludes(0.9) && change.excludes(1.1) && !change.excludes(1.0), "{change:?}");
        let ratio = Bootstrap::default().perplexity_ratio(&before, &after).unwrap();
        assert_eq!((ratio.low, ratio.high), (change.low.exp(), change.high.exp()));
    }

    #[test]
    fn equal_items_have_no_width_and_one_item_no_interval() {
        let interval = Bootstrap::default().difference(&[1.0, 2.0, 3.0], &[3.0, 4.0, 5.0]).unwrap();
        assert_eq!((interval.value, interval.low, interval.high), (2.0, 2.0, 2.0));
        assert_eq!(Bootstrap::default().mean(&[1.0]), None);
        assert_eq!(Bootstrap::default().ratio(&[1.0, 2.0], &[0.0, 0.0]), None);
    }

    #[test]
    fn threads_change_no_bit() {
        let values = noise(100, 3);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Bootstrap::default().mean(&values))
        };
        assert_eq!(run(1), run(3));
        assert_ne!(run(1), Bootstrap { seed: 1, ..Bootstrap::default() }.mean(&values));
    }

    #[test]
    fn a_skewed_sample_has_the_interval_of_scipy() {
        // scipy 1.17.1: bootstrap((x,), np.mean, method="BCa", n_resamples=200_000), the mean of three seeds.
        let values: Vec<f64> = (1..=30).map(|i| (f64::from(i) / 6.0).exp()).collect();
        let interval = Bootstrap { resamples: 100_000, ..Bootstrap::default() }.mean(&values).unwrap();
        assert!((interval.low - 20.315).abs() < 0.15, "{interval:?}");
        assert!((interval.high - 49.57).abs() < 0.3, "{interval:?}");
    }
}
