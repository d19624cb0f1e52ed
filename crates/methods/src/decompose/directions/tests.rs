use super::*;
use crate::testing::{fold, noise, related};

fn site() -> Site {
    "blocks.0.mlp.up".parse().unwrap()
}

/// `A B`.
fn product(a: &[f32], b: &[f32], [m, n]: [usize; 2], rank: usize) -> Vec<f64> {
    matmul_f64(Dims { m, k: rank, n }, &wide(a), &wide(b))
}

fn moments(seen: &Seen) -> Metric<'_> {
    Metric::moments("m", &site(), seen, false, &mut Vec::new()).unwrap()
}

/// `Σ ‖D x‖² / T` by the rows themselves.
fn error(x: &[f32], d: &[f64], [m, n]: [usize; 2]) -> f64 {
    let rows = x.len() / n;
    let y = matmul_f64(Dims { m: rows, k: n, n: m }, &wide(x), &transposed(d, n));
    y.iter().map(|y| y * y).sum::<f64>() / rows as f64
}

fn gone(w: &[f32], v: &[f64]) -> Vec<f64> {
    w.iter().zip(v).map(|(w, v)| f64::from(*w) - v).collect()
}

#[test]
fn the_error_on_the_inputs_is_the_sum_of_what_is_left_out() {
    // More inputs than outputs, as many, and fewer; prime sizes.
    for shape @ [m, n] in [[23, 41], [31, 31], [47, 29]] {
        let (w, x) = (noise(m * n, 3), related(400, n, 5));
        let seen = Seen { fit: fold(n, &x), ..Seen::default() };
        let directions = moments(&seen).directions(&w, shape, None, 0).unwrap();
        for rank in [1, 7, 20] {
            let (a, b) = directions.factors(&w, shape, rank);
            let found = error(&x, &gone(&w, &product(&a, &b, shape, rank)), shape);
            let told: f64 = directions.errors[rank..].iter().sum();
            assert!((found / told - 1.0).abs() < 1e-5, "{shape:?}, {rank}: {found} {told}");
        }
    }
}

#[test]
fn sums_of_whole_numbers_make_it_exact_to_a_millionth() {
    // Inputs whose squares single precision adds without rounding.
    let shape @ [m, n] = [20, 32];
    let x: Vec<f32> = related(256, n, 5).iter().map(|x| (x * 8.0).round()).collect();
    let w = noise(m * n, 3);
    let seen = Seen { fit: fold(n, &x), ..Seen::default() };
    let directions = moments(&seen).directions(&w, shape, None, 0).unwrap();
    for rank in [1, 7, 19] {
        let rows = &directions.rows[..rank * m];
        let b = matmul_f64(Dims { m: rank, k: m, n }, rows, &wide(&w));
        let v = matmul_f64(Dims { m, k: rank, n }, &transposed(rows, m), &b);
        let (found, told) = (error(&x, &gone(&w, &v), shape), directions.errors[rank..].iter().sum::<f64>());
        assert!((found / told - 1.0).abs() < 1e-6, "{rank}: {found} {told}");
    }
}

#[test]
fn both_ways_to_the_directions_agree() {
    // A square matrix goes by its outputs; with a row of zeros more, by the root of the moments.
    let n = 24;
    let (w, x) = (noise(n * n, 3), related(300, n, 5));
    let seen = Seen { fit: fold(n, &x), ..Seen::default() };
    let outputs = moments(&seen).directions(&w, [n, n], None, 0).unwrap();
    let taller: Vec<f32> = w.iter().copied().chain(vec![0.0; n]).collect();
    let root = moments(&seen).directions(&taller, [n + 1, n], None, 0).unwrap();
    for k in 0..n {
        assert!((outputs.errors[k] / root.errors[k] - 1.0).abs() < 1e-8, "{k}");
    }
    let (a, b) = outputs.factors(&w, [n, n], 5);
    let (c, d) = root.factors(&taller, [n + 1, n], 5);
    let (v, u) = (product(&a, &b, [n, n], 5), product(&c, &d, [n + 1, n], 5));
    assert!(v.iter().zip(&u).all(|(v, u)| (v - u).abs() < 1e-5));
}

#[test]
fn all_directions_are_the_whole_matrix() {
    for shape @ [m, n] in [[13, 29], [17, 17], [29, 13]] {
        let (w, x) = (noise(m * n, 3), related(200, n, 5));
        let seen = Seen { fit: fold(n, &x), ..Seen::default() };
        for metric in [Metric::Plain, Metric::Sizes((1..=n).map(|j| j as f64).collect()), moments(&seen)] {
            let rank = m.min(n);
            let (a, b) = metric.directions(&w, shape, None, 0).unwrap().factors(&w, shape, rank);
            let v = product(&a, &b, shape, rank);
            assert!(w.iter().zip(&v).all(|(w, v)| (f64::from(*w) - v).abs() < 1e-5), "{shape:?}");
        }
    }
}

#[test]
fn both_factors_carry_the_same_weight() {
    let shape @ [m, n] = [20, 50];
    let (mut w, rank) = (noise(m * n, 3), 6);
    w.iter_mut().for_each(|w| *w *= 1e-3);
    let (a, b) = Metric::Plain.directions(&w, shape, None, 0).unwrap().factors(&w, shape, rank);
    for k in 0..rank {
        let column: f64 = (0..m).map(|i| f64::from(a[i * rank + k]).powi(2)).sum();
        let row: f64 = b[k * n..(k + 1) * n].iter().map(|&b| f64::from(b).powi(2)).sum();
        assert!((column / row - 1.0).abs() < 1e-5, "{k}: {column} {row}");
    }
}

#[test]
fn inputs_that_were_never_seen_are_ordered_by_weight() {
    // The first input is all that was seen; then the weights of the others decide: 3 before 2 before 1.
    let seen = Seen { fit: fold(4, &[1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0]), ..Seen::default() };
    for rows in [4, 5] {
        let mut w = vec![0.0; rows * 4];
        for (at, value) in [(0, 0.5), (5, 1.0), (10, 3.0), (15, 2.0)] {
            w[at] = value;
        }
        let directions = moments(&seen).directions(&w, [rows, 4], None, 0).unwrap();
        let first: Vec<usize> = (0..4)
            .map(|k| {
                let row = &directions.rows[k * rows..(k + 1) * rows];
                row.iter().position(|x| x.abs() > 0.999).unwrap()
            })
            .collect();
        assert_eq!(first, [0, 2, 3, 1], "{rows} rows");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let shape @ [m, n] = [150, 90];
    let (w, seen) = (noise(m * n, 3), Seen { fit: fold(n, &related(200, n, 5)), ..Seen::default() });
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let fresh = Seen { fit: seen.fit.clone(), ..Seen::default() };
            moments(&fresh).directions(&w, shape, None, 0).unwrap().factors(&w, shape, 20)
        })
    };
    assert!(run(1) == run(2));
}
