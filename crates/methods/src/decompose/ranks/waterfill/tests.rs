use super::*;
use crate::samples::noise;

fn size(rows: usize, columns: usize) -> Size {
    Size { shape: [rows, columns], held: (rows * columns) as u64, beside: 0 }
}

/// Squared errors of a matrix that fall at some rate.
fn errors(count: usize, rate: f64, seed: u64) -> Vec<f64> {
    let mut errors: Vec<f64> =
        noise(count, seed).iter().enumerate().map(|(n, x)| rate.powi(n as i32) * (1.0 + f64::from(*x))).collect();
    errors.sort_by(|a, b| b.total_cmp(a));
    errors
}

fn cost(curves: &[Curve], ranks: &[Option<usize>]) -> u64 {
    curves.iter().zip(ranks).map(|(curve, rank)| rank.map_or(curve.size.held, |rank| curve.size.cost(rank))).sum()
}

fn left(curves: &[Curve], ranks: &[Option<usize>]) -> f64 {
    curves.iter().zip(ranks).map(|(curve, rank)| rank.map_or(0.0, |rank| curve.left(rank))).sum()
}

/// The least sum of errors within a budget, by trying everything.
fn brute(curves: &[Curve], budget: u64, multiple: usize) -> Option<f64> {
    let choices: Vec<Vec<Choice>> = curves.iter().map(|curve| curve.choices(multiple)).collect();
    fn go(choices: &[Vec<Choice>], free: u64) -> Option<f64> {
        let Some((first, rest)) = choices.split_first() else { return Some(0.0) };
        let with = |choice: &Choice| Some(choice.left + go(rest, free.checked_sub(choice.cost)?)?);
        first.iter().filter_map(with).min_by(f64::total_cmp)
    }
    go(&choices, budget)
}

/// Matrices whose errors fall fast, slowly and hardly at all.
fn some() -> Vec<Curve> {
    vec![
        Curve::new(size(12, 12), &errors(12, 0.5, 1)),
        Curve::new(size(8, 20), &errors(8, 0.8, 2)),
        Curve::new(size(16, 6), &errors(6, 0.95, 3)),
        Curve::new(size(10, 10), &errors(10, 0.7, 4)),
    ]
}

#[test]
fn two_matrices_by_hand() {
    // [4, 4]: 8 numbers a rank, 16 as it is. The first bears 8, 1, 1, 0, the second 4, 3, 2, 1: at rank one each, 0.2 and
    // 0.6 are left, for 16 numbers. With 24 one of them stays as it is: the second, which gains more. With 31 too.
    let curves = [Curve::new(size(4, 4), &[8.0, 1.0, 1.0, 0.0]), Curve::new(size(4, 4), &[4.0, 3.0, 2.0, 1.0])];
    assert_eq!(fill(&curves, 16, 1), [Some(1), Some(1)]);
    assert_eq!(fill(&curves, 23, 1), [Some(1), Some(1)]);
    assert_eq!(fill(&curves, 24, 1), [Some(1), None]);
    assert_eq!(fill(&curves, 31, 1), [Some(1), None]);
    assert_eq!(fill(&curves, 32, 1), [None, None]);
    // One rank each is the least that there is.
    assert_eq!(fill(&curves, 3, 1), [Some(1), Some(1)]);
}

#[test]
fn no_other_ranks_of_the_same_cost_leave_less() {
    for multiple in [1, 2] {
        let curves = some();
        let all: u64 = curves.iter().map(|curve| curve.size.held).sum();
        let mut met = 0;
        for budget in 100..=all {
            let ranks = fill(&curves, budget, multiple);
            let spent = cost(&curves, &ranks);
            assert!(spent <= budget);
            let best = brute(&curves, budget, multiple).unwrap();
            let found = left(&curves, &ranks);
            // Where all that can be paid for was taken in order, nothing is better. Elsewhere the last few numbers may be
            // spent better, for less than one more move gains.
            met += usize::from(found <= best + 1e-12);
            let next = curves.iter().map(|curve| curve.left(1)).fold(0.0, f64::max);
            assert!(found >= best - 1e-12 && found <= best + next, "{budget}: {found} {best}");
        }
        assert!(2 * met > (all - 100) as usize, "{met} of {}", all - 100);
    }
}

#[test]
fn what_is_spent_at_each_move_is_spent_best() {
    // With nothing left over the ranks are on the lower hull of all that could be, so the sum is the least.
    let curves = some();
    let all: u64 = curves.iter().map(|curve| curve.size.held).sum();
    let mut checked = 0;
    for budget in 100..=all {
        let ranks = fill(&curves, budget, 1);
        // On the way to the end without a move that could not be paid.
        if cost(&curves, &ranks) == budget && on_the_way(&curves, &ranks) {
            let best = brute(&curves, budget, 1).unwrap();
            assert!((left(&curves, &ranks) - best).abs() < 1e-12, "{budget}");
            checked += 1;
        }
    }
    assert!(checked > 5, "{checked}");
}

/// Whether the ranks are met on the way to a larger budget.
fn on_the_way(curves: &[Curve], ranks: &[Option<usize>]) -> bool {
    let choices: Vec<Vec<Choice>> = curves.iter().map(|curve| curve.choices(1)).collect();
    let mut at = vec![0; curves.len()];
    loop {
        let now: Vec<Option<usize>> = choices.iter().zip(&at).map(|(choices, &at)| choices[at].rank).collect();
        if now == ranks {
            return true;
        }
        let moves = (0..at.len()).filter_map(|n| Some((n, next(&choices[n], at[n], u64::MAX)?)));
        let Some((n, taken)) = moves.reduce(|a, b| if b.1.gain > a.1.gain { b } else { a }) else { return false };
        at[n] = taken.to;
    }
}

#[test]
fn a_larger_budget_never_leaves_more() {
    for multiple in [1, 4] {
        let curves = some();
        let all: u64 = curves.iter().map(|curve| curve.size.held).sum();
        let mut before = f64::INFINITY;
        for budget in 0..=all + 5 {
            let ranks = fill(&curves, budget, multiple);
            let now = left(&curves, &ranks);
            assert!(now <= before + 1e-12, "{budget}: {before} then {now}");
            before = now;
        }
        assert!(before < 1e-12, "all of it is enough");
    }
}

#[test]
fn what_one_matrix_does_not_need_goes_to_the_others() {
    // Three directions are all there is of the first; the second takes the rest.
    let curves = [Curve::new(size(20, 20), &[1.0, 1.0, 1.0]), Curve::new(size(20, 20), &errors(20, 0.99, 1))];
    let ranks = fill(&curves, 400, 1);
    assert_eq!(ranks, [Some(3), Some(7)]);
    let uniform = [Some(5), Some(5)];
    assert!(left(&curves, &ranks) < left(&curves, &uniform));
}

#[test]
fn matrices_that_factors_never_make_smaller_stay_and_are_paid_for() {
    let curves = [Curve::new(size(1, 64), &[1.0]), Curve::new(size(0, 5), &[]), Curve::new(size(20, 20), &[2.0, 1.0])];
    assert_eq!(fill(&curves, 104, 1), [None, None, Some(1)]);
    assert_eq!(fill(&curves, 144, 1), [None, None, Some(2)]);
}

#[test]
fn what_comes_with_factors_is_paid_for_too() {
    let curves = [Curve::new(Size { beside: 20, ..size(20, 20) }, &errors(20, 0.9, 1))];
    assert_eq!(fill(&curves, 40 * 5 + 19, 1), [Some(4)]);
    assert_eq!(fill(&curves, 40 * 5 + 20, 1), [Some(5)]);
}

#[test]
fn errors_that_are_all_zero_are_no_reason_to_spend() {
    let curves = [Curve::new(size(9, 9), &[0.0; 9]), Curve::new(size(9, 9), &errors(9, 0.9, 1))];
    assert_eq!(fill(&curves, 162, 1), [Some(1), None]);
}
