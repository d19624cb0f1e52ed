//! A choice among a few strengths of regularization, made on samples that were kept apart.

use crate::error::Result;

/// Strengths that are tried, as multiples of the mean of the diagonal of `Σ x xᵀ`.
pub(crate) const LADDER: [f64; 6] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0];

/// The strength to take: of those whose score is as good as `enough` says of the least score, the greatest.
///
/// Samples that were kept apart are still of the same text. On other texts more regularization does better than they
/// say, so where it costs them little it is taken. Begins at rung `start` and tries as few others as decide it: up for
/// as long as scores stay good enough, then down for as long as they fall. Scores that are not finite are never taken.
pub(crate) fn choose(
    start: usize,
    mut score: impl FnMut(f64) -> Result<f64>,
    enough: impl Fn(f64) -> f64,
) -> Result<Option<(f64, f64)>> {
    let mut scores = [f64::INFINITY; LADDER.len()];
    scores[start] = score(LADDER[start])?;
    let mut least = scores[start];
    for n in start + 1..LADDER.len() {
        scores[n] = score(LADDER[n])?;
        if scores[n] > enough(least.min(scores[n])) {
            break;
        }
        least = least.min(scores[n]);
    }
    if least == scores[start] {
        for n in (0..start).rev() {
            scores[n] = score(LADDER[n])?;
            if scores[n] >= least || scores[n].is_nan() {
                break;
            }
            least = scores[n];
        }
    }
    if !least.is_finite() {
        return Ok(None);
    }
    let taken = (0..LADDER.len()).rev().find(|&n| scores[n] <= enough(least));
    Ok(taken.map(|n| (LADDER[n], scores[n])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(scores: [f64; 6], start: usize, leeway: f64) -> (Option<f64>, Vec<f64>) {
        let mut tried = Vec::new();
        let score = |x: f64| {
            tried.push(x);
            Ok(scores[LADDER.iter().position(|&l| l == x).unwrap()])
        };
        let found = choose(start, score, |least| least * leeway).unwrap();
        (found.map(|(x, _)| x), tried)
    }

    #[test]
    fn the_greatest_strength_that_is_good_enough_is_taken() {
        // The least is 0.9 at 0.03; 0.1 is within a tenth of it, 0.3 is not.
        assert_eq!(chosen([1.0, 0.9, 0.95, 1.1, 1.3, 2.0], 2, 1.1).0, Some(0.1));
        assert_eq!(chosen([1.0, 0.9, 0.95, 1.1, 1.3, 2.0], 2, 1.0).0, Some(0.03));
        assert_eq!(chosen([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], 2, 1.0).0, Some(3.0));
    }

    #[test]
    fn no_more_is_tried_than_decides_it() {
        let (taken, tried) = chosen([9.0, 9.0, 1.0, 2.0, 3.0, 4.0], 2, 1.05);
        assert_eq!((taken, tried), (Some(0.1), vec![0.1, 0.3, 0.03]));
    }

    #[test]
    fn scores_below_zero_are_gains_and_strengths_that_fail_are_passed_over() {
        assert_eq!(chosen([-1.0, -2.0, -1.9, -1.0, 0.0, 0.0], 2, 0.9).0, Some(0.1));
        let inf = f64::INFINITY;
        assert_eq!(chosen([inf, inf, inf, inf, 5.0, inf], 3, 1.0).0, Some(1.0));
        assert_eq!(chosen([inf; 6], 3, 1.0).0, None);
    }
}
