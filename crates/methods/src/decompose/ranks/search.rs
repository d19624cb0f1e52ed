//! Ranks by what the model loses with each matrix at each of a few ratios.

use super::Size;

/// Ratios that are tried.
pub(super) const RATIOS: [f64; 6] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// One matrix at one rank, everything else being as it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trial {
    /// Which matrix.
    pub layer: usize,
    pub rank: usize,
    /// What the model loses.
    pub loss: f64,
}

/// The rank of each matrix, none for one that stays as it is.
///
/// Trials are allowed from the least loss up to some bound, and each matrix takes the smallest rank that is allowed to it.
/// The bound is the least at which all of them together hold no more than `budget`; if none is, every trial is allowed.
pub(super) fn search(sizes: &[Size], mut trials: Vec<Trial>, budget: u64) -> Vec<Option<usize>> {
    // Of equal losses that of the later matrix, and of the greater rank, is allowed first: it is no worse.
    trials.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(b.layer.cmp(&a.layer)).then(b.rank.cmp(&a.rank)));
    let mut ranks: Vec<Option<usize>> = vec![None; sizes.len()];
    let mut held: u64 = sizes.iter().map(|size| size.held).sum();
    for trial in trials {
        if held <= budget {
            break;
        }
        let (size, now) = (sizes[trial.layer], &mut ranks[trial.layer]);
        if now.is_none_or(|now| trial.rank < now) {
            held -= now.map_or(size.held, |now| size.cost(now)) - size.cost(trial.rank);
            *now = Some(trial.rank);
        }
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(rows: usize, columns: usize) -> Size {
        Size { shape: [rows, columns], held: (rows * columns) as u64, beside: 0 }
    }

    fn trial(layer: usize, rank: usize, loss: f64) -> Trial {
        Trial { layer, rank, loss }
    }

    #[test]
    fn the_matrix_that_hurts_least_goes_first_and_no_further_than_the_budget_wants() {
        // 100 numbers each; a rank costs 20.
        let sizes = [size(10, 10), size(10, 10)];
        let trials = || vec![trial(0, 2, 0.5), trial(0, 4, 0.3), trial(1, 2, 0.4), trial(1, 4, 0.1)];
        assert_eq!(search(&sizes, trials(), 200), [None, None]);
        assert_eq!(search(&sizes, trials(), 190), [None, Some(4)]);
        assert_eq!(search(&sizes, trials(), 160), [Some(4), Some(4)]);
        assert_eq!(search(&sizes, trials(), 120), [Some(4), Some(2)]);
        assert_eq!(search(&sizes, trials(), 80), [Some(2), Some(2)]);
        assert_eq!(search(&sizes, trials(), 0), [Some(2), Some(2)], "there is no less");
    }

    #[test]
    fn a_small_rank_that_loses_less_than_a_greater_one_is_taken_for_both() {
        let sizes = [size(10, 10), size(10, 10)];
        let trials = vec![trial(0, 2, 0.1), trial(0, 4, 0.2), trial(1, 2, 0.3), trial(1, 4, 0.25)];
        assert_eq!(search(&sizes, trials, 130), [Some(2), Some(4)]);
    }
}
