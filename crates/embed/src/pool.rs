//! Pooling: from the states of the tokens of a text to one vector.

use std::fmt;
use std::str::FromStr;

/// How the states of tokens become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// The state of the first token.
    Cls,
    /// The mean over all tokens.
    Mean,
    /// The largest value of each feature.
    Max,
    /// The sum over all tokens, divided by the square root of their number.
    MeanSqrtLen,
    /// The mean with weights that grow with the position: 1, 2, 3 and so on.
    WeightedMean,
    /// The state of the last token.
    Last,
}

impl Pooling {
    /// All of them, in the order in which sentence-transformers puts their vectors beside each other.
    pub const ALL: [Pooling; 6] =
        [Pooling::Cls, Pooling::Max, Pooling::Mean, Pooling::MeanSqrtLen, Pooling::WeightedMean, Pooling::Last];

    /// The word for it, as newer sentence-transformers write it.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Cls => "cls",
            Pooling::Mean => "mean",
            Pooling::Max => "max",
            Pooling::MeanSqrtLen => "mean_sqrt_len_tokens",
            Pooling::WeightedMean => "weightedmean",
            Pooling::Last => "lasttoken",
        }
    }

    /// The key that says so in the configurations of older sentence-transformers.
    pub fn key(self) -> &'static str {
        match self {
            Pooling::Cls => "pooling_mode_cls_token",
            Pooling::Mean => "pooling_mode_mean_tokens",
            Pooling::Max => "pooling_mode_max_tokens",
            Pooling::MeanSqrtLen => "pooling_mode_mean_sqrt_len_tokens",
            Pooling::WeightedMean => "pooling_mode_weightedmean_tokens",
            Pooling::Last => "pooling_mode_lasttoken",
        }
    }

    /// Pools the tokens of one text into `out`; sums are in double precision. Without tokens the vector is zero.
    ///
    /// `skip` tokens at the beginning, those of a prompt, do not count; but [`Pooling::Cls`] takes the first of all, and the
    /// weights of [`Pooling::WeightedMean`] go by the position among all.
    ///
    /// # Shapes
    /// `states` is `[tokens, width]`, `out` is `[width]`.
    pub fn pool(self, states: &[f32], skip: usize, out: &mut [f32]) {
        let width = out.len();
        out.fill(0.0);
        let rows: Vec<&[f32]> = states.chunks_exact(width).collect();
        if let (Pooling::Cls, Some(first)) = (self, rows.first()) {
            return out.copy_from_slice(first);
        }
        let rows = &rows[skip.min(rows.len())..];
        if rows.is_empty() {
            return;
        }
        let weighted = |weight: &dyn Fn(usize) -> f64, by: f64, out: &mut [f32]| {
            let mut sum = vec![0f64; width];
            for (n, row) in rows.iter().enumerate() {
                let weight = weight(n);
                sum.iter_mut().zip(*row).for_each(|(sum, &x)| *sum += weight * f64::from(x));
            }
            out.iter_mut().zip(sum).for_each(|(out, sum)| *out = (sum / by) as f32);
        };
        let count = rows.len() as f64;
        match self {
            Pooling::Cls => {}
            Pooling::Last => out.copy_from_slice(rows[rows.len() - 1]),
            Pooling::Mean => weighted(&|_| 1.0, count, out),
            Pooling::MeanSqrtLen => weighted(&|_| 1.0, count.sqrt(), out),
            Pooling::WeightedMean => {
                let weight = |n: usize| (skip + n + 1) as f64;
                weighted(&weight, (0..rows.len()).map(weight).sum(), out);
            }
            Pooling::Max => {
                out.copy_from_slice(rows[0]);
                for row in &rows[1..] {
                    out.iter_mut().zip(*row).for_each(|(out, &x)| *out = out.max(x));
                }
            }
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = ();

    /// By [`Pooling::name`], or `last`, `weighted_mean`, `mean_sqrt_len`.
    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "last" => return Ok(Pooling::Last),
            "weighted_mean" => return Ok(Pooling::WeightedMean),
            "mean_sqrt_len" => return Ok(Pooling::MeanSqrtLen),
            _ => {}
        }
        Pooling::ALL.into_iter().find(|pooling| pooling.name() == word).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pooled(pooling: Pooling, skip: usize) -> [f32; 2] {
        let mut out = [9.0; 2];
        pooling.pool(&[1.0, -4.0, 3.0, 0.0, 8.0, 1.0, 0.0, 7.0], skip, &mut out);
        out
    }

    #[test]
    fn vectors_are_known_by_hand() {
        assert_eq!(pooled(Pooling::Cls, 0), [1.0, -4.0]);
        assert_eq!(pooled(Pooling::Mean, 0), [3.0, 1.0]);
        assert_eq!(pooled(Pooling::Max, 0), [8.0, 7.0]);
        assert_eq!(pooled(Pooling::MeanSqrtLen, 0), [6.0, 2.0]);
        // (1 + 6 + 24 + 0) / 10 and (-4 + 0 + 3 + 28) / 10
        assert_eq!(pooled(Pooling::WeightedMean, 0), [3.1, 2.7]);
        assert_eq!(pooled(Pooling::Last, 0), [0.0, 7.0]);
    }

    #[test]
    fn tokens_of_a_prompt_do_not_count() {
        assert_eq!(pooled(Pooling::Cls, 1), [1.0, -4.0]);
        assert_eq!(pooled(Pooling::Mean, 2), [4.0, 4.0]);
        // Positions 3 and 4 of all.
        assert_eq!(pooled(Pooling::WeightedMean, 2), [24.0 / 7.0, 31.0 / 7.0]);
        assert_eq!(pooled(Pooling::Max, 9), [0.0, 0.0]);
    }

    #[test]
    fn every_name_is_found_again() {
        for pooling in Pooling::ALL {
            assert_eq!(pooling.name().parse(), Ok(pooling));
        }
        assert_eq!("last".parse(), Ok(Pooling::Last));
        assert_eq!("median".parse::<Pooling>(), Err(()));
    }
}
