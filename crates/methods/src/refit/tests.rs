use super::*;
use crate::testing::{fold_with_sums, noise, related};

fn seen(n: usize, x: &[f32], held_out: &[f32]) -> Seen {
    let fold = |x: &[f32]| fold_with_sums(n, x);
    Seen {
        fit: fold(x),
        held_out: if held_out.is_empty() { Fold::default() } else { fold(held_out) },
        ..Seen::default()
    }
}

fn weights(count: usize, seed: u64) -> Vec<f64> {
    noise(count, seed).into_iter().map(f64::from).collect()
}

fn refit(how: Compensate, ridge: f64, centre: bool) -> Refit {
    Refit { how, ridge: Ridge::Times(ridge), centre }
}

#[test]
fn a_duplicated_input_is_removed_without_loss() {
    // Input 2 is always input 0.
    let mut x = noise(300, 1);
    x.chunks_mut(3).for_each(|row| row[2] = row[0]);
    let w = weights(6, 2);
    let fitted = refit(Compensate::LeastSquares, 0.0, false).keep_inputs(&w, &seen(3, &x, &[]), &[0, 1]).unwrap();
    for (row, v) in w.chunks(3).zip(fitted.weight.chunks(2)) {
        assert!((v[0] - (row[0] + row[2])).abs() < 1e-5 && (v[1] - row[1]).abs() < 1e-5, "{v:?}");
    }
    assert!(fitted.error < 1e-8 && fitted.plain_error > 1e-3);
}

#[test]
fn inputs_of_rank_r_are_told_exactly_by_r_of_them() {
    // Eight inputs that are mixtures of three.
    let (base, mix) = (noise(3 * 200, 3), noise(3 * 8, 4));
    let x: Vec<f32> = base
        .chunks(3)
        .flat_map(|b| (0..8).map(|j| (0..3).map(|k| b[k] * mix[k * 8 + j]).sum::<f32>()).collect::<Vec<_>>())
        .collect();
    let w = weights(5 * 8, 5);
    let fitted = refit(Compensate::LeastSquares, 1e-9, false).keep_inputs(&w, &seen(8, &x, &[]), &[1, 4, 6]).unwrap();
    assert!(fitted.error < 1e-6, "{}", fitted.error);
}

#[test]
fn making_up_is_never_worse_than_removing_and_a_bias_never_worse_than_none() {
    for seed in 0..8 {
        let n = 12;
        let x: Vec<f32> = related(400, n, seed).iter().map(|x| x + 0.3).collect();
        let w = weights(7 * n, seed + 50);
        let kept = [0, 2, 3, 7, 8, 11];
        let seen = seen(n, &x, &[]);
        let of = |how, centre| refit(how, 1e-9, centre).keep_inputs(&w, &seen, &kept).unwrap();
        let plain = of(Compensate::None, false);
        let (mean, fitted) = (of(Compensate::Mean, true), of(Compensate::LeastSquares, false));
        let centred = of(Compensate::LeastSquares, true);
        assert!(fitted.error <= plain.error, "seed {seed}");
        assert!(mean.error <= plain.error, "seed {seed}");
        assert!(centred.error <= fitted.error + 1e-9 && centred.error <= mean.error + 1e-9, "seed {seed}");
        assert_eq!(plain.error, fitted.plain_error);
    }
}

#[test]
fn on_samples_kept_apart_making_up_is_never_worse_than_removing() {
    for seed in 0..8 {
        let n = 12;
        let seen = seen(n, &related(30, n, seed), &related(100, n, seed + 100));
        let w = weights(7 * n, seed + 50);
        let how = Refit { how: Compensate::LeastSquares, ridge: Ridge::default(), centre: false };
        let fitted = how.keep_inputs(&w, &seen, &[0, 2, 3, 7, 8, 11]).unwrap();
        assert!(fitted.error <= fitted.plain_error, "seed {seed}");
    }
}

#[test]
fn inputs_that_were_always_zero_leave_the_columns_as_they_are() {
    let fitted =
        refit(Compensate::LeastSquares, 1e-4, false).keep_inputs(&[1.0, 2.0, 3.0], &seen(3, &[0.0; 30], &[]), &[0, 2]);
    assert_eq!(fitted.unwrap().weight, [1.0, 3.0]);
}

#[test]
fn fewer_samples_than_inputs_are_damped() {
    let x = noise(3 * 16, 9);
    let w = weights(4 * 16, 10);
    let kept: Vec<usize> = (0..10).collect();
    let fitted = refit(Compensate::LeastSquares, 0.0, false).keep_inputs(&w, &seen(16, &x, &[]), &kept).unwrap();
    assert!(fitted.ridge.is_none_or(|ridge| ridge > 0.0) && fitted.weight.iter().all(|x| x.is_finite()));
}

#[test]
fn leverage_is_least_where_an_input_says_nothing_of_its_own() {
    // Independent inputs of equal size, of which the last two are the same.
    let mut x = noise(4 * 500, 11);
    x.chunks_mut(4).for_each(|row| row[3] = row[2]);
    let scores = leverage(seen(4, &x, &[]).fit.gram.as_ref().unwrap(), 1e-3).unwrap();
    assert!(scores[0] > 0.99 && scores[1] > 0.99);
    assert!((scores[2] - 0.5).abs() < 0.01 && (scores[3] - 0.5).abs() < 0.01, "{scores:?}");
}
