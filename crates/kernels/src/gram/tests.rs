use super::chunk::{self, single};
use super::*;
use crate::matmul::Rows;
use crate::ops::Compute;
use half::bf16;

const PRECISIONS: [Compute; 2] = [Compute::F32, Compute::Bf16];
/// Columns and rows: nothing, one, off every multiple of 8, 48 and 192, odd rows, more rows than a sum and a chunk.
const SHAPES: [(usize, usize); 10] =
    [(0, 3), (1, 1), (5, 0), (7, 1), (48, 2), (50, 33), (193, 257), (400, 3), (300, 1025), (9, 4100)];

fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 31) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn narrow(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

/// Sums of at most 1024 products up to 1 in single precision, the totals exact beside them.
fn close(got: &[f64], want: &[f64], rows: usize, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 2e-6 * (rows as f64 + 8.0), "{what}: {g} {w}");
    }
}

fn gram(n: usize, rows: usize, x: Rows<'_>, compute: Compute) -> Gram {
    let mut gram = Gram::new(n);
    gram.add(rows, x, compute);
    gram
}

fn threads<T: Send>(count: usize, run: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run)
}

#[test]
fn sums_equal_the_definitions_in_every_precision_of_input_and_product() {
    for (n, rows) in SHAPES {
        let (a, b) = (numbers(rows * n, 1), numbers(rows * n, 2));
        let (a16, b16) = (narrow(&a), narrow(&b));
        for compute in PRECISIONS {
            for (a, b) in
                [(Rows::F32(&a), Rows::F32(&b)), (Rows::Bf16(&a16), Rows::F32(&b)), (Rows::F32(&a), Rows::Bf16(&b16))]
            {
                let what = format!("{n} columns, {rows} rows, {compute:?}");
                close(&gram(n, rows, a, compute).to_f64(), &gram_scalar(n, rows, a, compute), rows, &what);
                let mut cross = Cross::new(n);
                cross.add(rows, a, b, compute);
                close(cross.as_f64(), &cross_scalar(n, rows, a, b, compute), rows, &what);
            }
        }
    }
}

#[test]
fn processors_without_bfloat16_arithmetic_sum_the_same_rounded_rows() {
    for (n, rows) in SHAPES.into_iter().filter(|(n, _)| *n > 0) {
        let (a, b) = (numbers(rows * n, 1), numbers(rows * n, 2));
        let mut total = vec![0.0; n * n];
        single(n, rows, Rows::F32(&a), Some(Rows::F32(&b)), true, |chunk| {
            for i in 0..n.div_ceil(STRIP) {
                for j in 0..n.div_ceil(TILE) {
                    chunk.product(strip(n, 0, i), span(n, j), false, |r, c, sums| {
                        chunk::add(&mut total[(i * STRIP + r) * n + j * TILE + c..][..sums.len()], sums);
                    });
                }
            }
        });
        let want = cross_scalar(n, rows, Rows::F32(&a), Rows::F32(&b), Compute::Bf16);
        close(&total, &want, rows, &format!("{n} columns, {rows} rows"));
    }
}

#[test]
fn a_gram_of_two_rows_is_known() {
    // rows (1, 2) and (3, -1): 1+9, 2-3, 4+1
    for compute in PRECISIONS {
        let g = gram(2, 2, Rows::F32(&[1.0, 2.0, 3.0, -1.0]), compute);
        assert_eq!(g.to_f64(), [10.0, -1.0, -1.0, 5.0]);
        assert_eq!(g.to_f32(), [10.0, -1.0, -1.0, 5.0]);
        assert_eq!((g.diagonal(), g.trace(), g.size()), (vec![10.0, 5.0], 15.0, 2));
        // (1, 1) G (1, 1)ᵀ
        assert_eq!(g.quadratic(1, &[1.0, 1.0], Compute::F32), 13.0);
    }
}

#[test]
fn two_halves_merged_equal_everything_at_once() {
    let (n, rows, half) = (250, 700, 333);
    let (a, b) = (numbers(rows * n, 1), numbers(rows * n, 2));
    for compute in PRECISIONS {
        let mut first = gram(n, half, Rows::F32(&a[..half * n]), compute);
        first.merge(&gram(n, rows - half, Rows::F32(&a[half * n..]), compute));
        close(&first.to_f64(), &gram(n, rows, Rows::F32(&a), compute).to_f64(), rows, "gram");
        let (mut all, mut first, mut second) = (Cross::new(n), Cross::new(n), Cross::new(n));
        all.add(rows, Rows::F32(&a), Rows::F32(&b), compute);
        first.add(half, Rows::F32(&a[..half * n]), Rows::F32(&b[..half * n]), compute);
        second.add(rows - half, Rows::F32(&a[half * n..]), Rows::F32(&b[half * n..]), compute);
        first.merge(&second);
        close(first.as_f64(), all.as_f64(), rows, "cross");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (n, rows) = (430, 1500);
    let (a, b) = (numbers(rows * n, 1), numbers(rows * n, 2));
    for compute in PRECISIONS {
        let run = || {
            let (gram, mut cross) = (gram(n, rows, Rows::F32(&a), compute), Cross::new(n));
            cross.add(rows, Rows::F32(&a), Rows::F32(&b), compute);
            let errors = [gram.quadratic(rows, &b, Compute::F32), cross.inner(rows, &b, &a)].map(f64::to_bits);
            (gram, cross, errors)
        };
        assert!(threads(1, run) == threads(3, run), "{compute:?}");
    }
}

#[test]
fn a_nan_stays_in_its_row_and_column_and_an_infinity_meets_no_padding() {
    // rows and columns that are padded
    let (n, rows, bad) = (205, 11, 200);
    for (value, compute) in [f32::NAN, f32::INFINITY].into_iter().flat_map(|v| PRECISIONS.map(|c| (v, c))) {
        let mut x = vec![1.0; rows * n];
        let finite = gram(n, rows, Rows::F32(&x), compute);
        assert!(finite.is_finite());
        x[(rows - 1) * n + bad] = value;
        let g = gram(n, rows, Rows::F32(&x), compute);
        assert!(!g.is_finite());
        for (at, value) in g.to_f64().into_iter().enumerate() {
            let touched = at / n == bad || at % n == bad;
            assert_eq!(value.is_finite(), !touched, "{} {}", at / n, at % n);
            assert!(touched || value == rows as f64);
        }
        assert_eq!(g.trace().is_nan(), value.is_nan());
        let mut cross = Cross::new(n);
        cross.add(rows, Rows::F32(&x), Rows::F32(&vec![1.0; rows * n]), compute);
        assert!(cross.as_f64().iter().enumerate().all(|(at, v)| v.is_finite() == (at / n != bad)));
    }
}

#[test]
fn many_rows_lose_nothing_against_double_precision() {
    // equal terms round the same way each time, so this is the worst case: 1024 terms, half a unit of 2^-24 each
    let (n, rows) = (3, 100_000);
    let x: Vec<f32> = (0..rows).flat_map(|t| [1.0, 0.1, if t % 2 == 0 { 3.0 } else { -3.0 }]).collect();
    for compute in PRECISIONS {
        let mut g = Gram::new(n);
        for x in x.chunks(n * 9_999) {
            g.add(x.len() / n, Rows::F32(x), compute);
        }
        let want = gram_scalar(n, rows, Rows::F32(&x), compute);
        for (at, (g, w)) in g.to_f64().iter().zip(&want).enumerate() {
            let size = (want[at / n * (n + 1)] * want[at % n * (n + 1)]).sqrt();
            assert!((g - w).abs() <= size * 1024.0 * 2f64.powi(-25), "{g} {w}");
        }
        assert_eq!((g.to_f64()[0], g.to_f64()[2], g.to_f64()[8]), (rows as f64, 0.0, 9.0 * rows as f64));
    }
}

#[test]
fn errors_equal_the_definitions() {
    for (n, rows) in SHAPES {
        let (a, b) = (numbers(rows * n, 3), numbers(rows * n, 4));
        // few rows seen, so that the numbers stay of one size
        let (seen, c) = (numbers(5 * n, 1), numbers(5 * n, 2));
        let g = gram(n, 5, Rows::F32(&seen), Compute::F32);
        let mut cross = Cross::new(n);
        cross.add(5, Rows::F32(&seen), Rows::F32(&c), Compute::F32);
        let whole = g.to_f64();
        let bound = 1e-6 * (1.0 + (rows * n) as f64 * (1.0 + g.trace()).sqrt());
        let (got, want) = (g.quadratic(rows, &a, Compute::F32), inner_scalar(n, rows, &a, &a, &whole));
        assert!((got - want).abs() <= bound, "{n} columns, {rows} rows: {got} {want}");
        let (got, want) = (cross.inner(rows, &a, &b), inner_scalar(n, rows, &a, &b, cross.as_f64()));
        assert!((got - want).abs() <= bound, "{n} columns, {rows} rows: {got} {want}");
    }
}

#[test]
fn a_change_of_nothing_costs_nothing() {
    let g = gram(300, 20, Rows::F32(&numbers(20 * 300, 1)), Compute::F32);
    assert_eq!(g.quadratic(7, &vec![0.0; 7 * 300], Compute::F32), 0.0);
    assert_eq!(g.quadratic(0, &[], Compute::F32), 0.0);
}

#[test]
fn ordered_rows_and_columns_come_from_their_places() {
    let (n, rows) = (401, 6);
    let g = gram(n, rows, Rows::F32(&numbers(rows * n, 1)), Compute::F32);
    let whole = g.to_f64();
    for i in 0..n {
        assert_eq!(whole[i * n + i], g.diagonal()[i]);
        assert!((0..n).all(|j| whole[i * n + j] == whole[j * n + i]));
    }
    let all: Vec<u32> = (0..n as u32).map(|i| i * 7 % n as u32).collect();
    for order in [&all[..], &all[..100], &[][..]] {
        let m = order.len();
        let (mut wide, mut narrow) = (vec![f64::NAN; m * m], vec![f32::NAN; m * m]);
        g.ordered_f64(order, &mut wide);
        g.ordered_f32(order, &mut narrow);
        for at in 0..m * m {
            assert_eq!(wide[at], whole[order[at / m] as usize * n + order[at % m] as usize]);
            assert_eq!(narrow[at], wide[at] as f32);
        }
    }
}

#[test]
fn the_bytes_of_totals_are_those_of_tiles_on_and_right_of_the_diagonal() {
    // 200 = 192 + 8: 192x192 + 192x8 + 8x8
    assert_eq!(Gram::bytes(200), 8 * (192 * 192 + 192 * 8 + 8 * 8));
    assert_eq!((Gram::bytes(0), Cross::bytes(0), Cross::bytes(10)), (0, 0, 800));
}
