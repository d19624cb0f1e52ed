//! McNemar's test: whether as many answers were gained as lost.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF, DiscreteCDF};

/// With more changed answers than this the test is the approximate one.
pub const EXACT_UP_TO: u64 = 1000;

/// What McNemar's test says of answers that changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Right before, wrong after.
    pub lost: u64,
    /// Wrong before, right after.
    pub gained: u64,
    /// How likely a difference as large as this is if both are equally likely, two-sided.
    pub p: f64,
    /// The test statistic, chi-square with continuity correction; none where the test is exact.
    pub statistic: Option<f64>,
}

/// McNemar's test of paired answers. Those that did not change do not matter.
///
/// Up to [`EXACT_UP_TO`] changes it is exact, by the binomial distribution: `min(1, 2 P(X ≤ min(lost, gained)))` with
/// `X` binomial over all changes, one half each. With more it is `(|lost - gained| - 1)² / (lost + gained)` against
/// chi-square of one degree of freedom (Edwards 1948).
///
/// # Source
/// McNemar 1947, Psychometrika 12.
pub fn mcnemar(lost: u64, gained: u64) -> McNemar {
    let (changed, fewer) = (lost + gained, lost.min(gained));
    let (p, statistic) = if changed == 0 {
        (1.0, None)
    } else if changed <= EXACT_UP_TO {
        let binomial = Binomial::new(0.5, changed).expect("one half is a probability");
        ((2.0 * binomial.cdf(fewer)).min(1.0), None)
    } else {
        let statistic = (lost.abs_diff(gained) as f64 - 1.0).max(0.0).powi(2) / changed as f64;
        let chi_square = ChiSquared::new(1.0).expect("one degree of freedom");
        (chi_square.sf(statistic), Some(statistic))
    };
    McNemar { lost, gained, p, statistic }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_test_is_known_by_hand() {
        // Five lost, none gained: 2 / 2^5. One of six: 2 (1 + 6) / 2^6.
        assert!((mcnemar(5, 0).p - 2.0 / 32.0).abs() < 1e-12);
        assert!((mcnemar(5, 1).p - 14.0 / 64.0).abs() < 1e-12);
        assert_eq!(mcnemar(5, 1).p, mcnemar(1, 5).p);
        assert_eq!((mcnemar(0, 0).p, mcnemar(3, 3).p), (1.0, 1.0));
    }

    #[test]
    fn the_exact_test_is_that_of_statsmodels() {
        // statsmodels 0.15.0: mcnemar([[0, lost], [gained, 0]], exact=True).
        let cases = [(13, 4, 0.049041748046875), (7, 25, 0.0021024015732109547), (540, 460, 0.012444146277171799)];
        for (lost, gained, p) in cases {
            assert!((mcnemar(lost, gained).p / p - 1.0).abs() < 1e-9, "{lost} {gained}");
        }
    }

    #[test]
    fn many_changes_are_tested_by_chi_square() {
        // (|600 - 500| - 1)² / 1100 = 8.91; its p is erfc(sqrt(8.91 / 2)).
        let test = mcnemar(600, 500);
        assert!((test.statistic.unwrap() - 8.91).abs() < 1e-12);
        assert!((test.p - 0.0028361326556546836).abs() < 1e-9, "{}", test.p);
        assert_eq!(mcnemar(600, 600).p, 1.0);
    }

    #[test]
    fn both_tests_meet_where_one_takes_over() {
        let (exact, approximate) = (mcnemar(540, 460).p, mcnemar(541, 460).p);
        assert!((exact - approximate).abs() < 2e-3, "{exact} {approximate}");
    }
}
