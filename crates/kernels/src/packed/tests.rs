use super::*;
use crate::grid::{NF4, Range, ScaleType, Spec, decode, encode, fit};
use crate::matmul::matmul_scalar;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn spec(bits: u32, group: Group, symmetric: bool) -> Spec {
    Spec { bits, group, symmetric, range: Range::MinMax, scale: ScaleType::Bf16, ragged: true }
}

/// A packed weight and the dense one it stands for.
fn packed(spec: &Spec, n: usize, k: usize) -> (PackedGrid, Vec<f32>) {
    let w = numbers(n * k, 3);
    let scales = fit(spec, &w, [n, k], None).unwrap();
    let (mut codes, mut dense) = (vec![0; n * k], vec![0.0; n * k]);
    encode(spec, &scales, &w, [n, k], None, &mut codes).unwrap();
    decode(spec, &scales, &codes, [n, k], &mut dense).unwrap();
    (PackedGrid::new(spec, &scales, &codes, [n, k]).unwrap(), dense)
}

fn check(p: &PackedGrid, dense: &[f32], m: usize) {
    let (n, k) = (p.outputs(), p.inputs());
    let (x, bias) = (numbers(m * k, 4), numbers(n, 5));
    let transposed: Vec<f32> = (0..k * n).map(|i| dense[i % n * k + i / n]).collect();
    let mut want = vec![0.0; m * n];
    matmul_scalar(Dims { m, k, n }, &x, &transposed, &mut want);
    for bias in [None, Some(&bias[..])] {
        for panel in [Panel::F32, Panel::Bf16] {
            let mut y = vec![f32::NAN; m * n];
            p.linear(m, &x, bias, &mut y, panel);
            let mut portable = vec![f32::NAN; m * n];
            p.linear_f32(m, &x, bias, &mut portable);
            let size = (k as f32).sqrt();
            let bound = if panel == Panel::Bf16 && m > FEW { 0.02 * size } else { 3e-6 * size.max(1.0) };
            for i in 0..m * n {
                let w = want[i] + bias.map_or(0.0, |b| b[i % n]);
                assert!((y[i] - w).abs() <= bound, "{panel:?} {i}: {} {w}", y[i]);
                assert!((portable[i] - w).abs() <= 3e-6 * size.max(1.0), "{i}: {} {w}", portable[i]);
            }
        }
    }
}

#[test]
fn every_width_group_and_number_of_rows_equals_the_dense_product() {
    for bits in 1..=8 {
        for (group, symmetric) in [(Group::Size(32), true), (Group::Size(20), false), (Group::Row, false)] {
            let (p, dense) = packed(&spec(bits, group, symmetric), 37, 77);
            assert_eq!(p.to_f32(), dense, "{bits} {group:?}");
            for m in [0, 1 + bits as usize % 8, 17] {
                check(&p, &dense, m);
            }
        }
    }
}

#[test]
fn large_matrices_and_single_outputs_work() {
    for (n, k, group) in [
        (1, 1, Group::Row),
        (16, 128, Group::Tensor),
        (500, 576, Group::Size(64)),
        (5, 0, Group::Size(8)),
        (0, 5, Group::Row),
    ] {
        let (p, dense) = packed(&spec(4, group, true), n, k);
        assert_eq!(p.to_f32(), dense);
        for m in [1, 2, 3, 4, 7, 8, 9, 33] {
            check(&p, &dense, m);
        }
    }
}

#[test]
fn tables_of_levels_are_multiplied_too() {
    let levels = Levels::new(&NF4, ScaleType::F16).unwrap();
    let (n, k, group) = (40, 96, Group::Size(64));
    let w = numbers(n * k, 1);
    let scales = levels.fit(group, true, &w, [n, k], None).unwrap();
    let (mut codes, mut dense) = (vec![0; n * k], vec![0.0; n * k]);
    levels.encode(group, true, &scales, &w, [n, k], None, &mut codes).unwrap();
    levels.decode(group, true, &scales, &codes, [n, k], &mut dense).unwrap();
    let p = PackedGrid::from_levels(&levels, group, true, &scales, &codes, [n, k]).unwrap();
    assert_eq!(p.to_f32(), dense);
    for m in [1, 4, 20] {
        check(&p, &dense, m);
    }
    let long: Vec<f32> = (0..17).map(|i| i as f32).collect();
    let long = Levels::new(&long, ScaleType::F32).unwrap();
    let e = PackedGrid::from_levels(&long, group, true, &scales, &codes, [n, k]);
    assert_eq!(e, Err(Error::Levels { count: 17 }));
}

#[test]
fn four_bits_take_an_eighth_of_single_precision_plus_scales() {
    let (p, _) = packed(&spec(4, Group::Size(128), true), 64, 1024);
    assert_eq!(p.size_bytes(), 64 * 1024 / 2 + 64 * 8 * 4);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (p, _) = packed(&spec(4, Group::Size(64), false), 700, 512);
    for m in [1, 5, 40] {
        let x = numbers(m * 512, 9);
        for panel in [Panel::F32, Panel::Bf16] {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut y = vec![0.0; m * 700];
                pool.install(|| p.linear(m, &x, None, &mut y, panel));
                y
            };
            assert_eq!(run(1), run(3));
        }
    }
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let s = spec(4, Group::Size(4), false);
    let scales = Scales { scales: vec![1.0; 2], zeros: Some(vec![0; 1]) };
    let e = PackedGrid::new(&s, &scales, &[0; 8], [1, 8]).unwrap_err();
    assert_eq!(e, Error::Length { what: "the zero points", found: 1, expected: 2 });
}
