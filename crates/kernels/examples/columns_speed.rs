//! How long GPTQ takes on one layer: the factor of its inputs, and its columns.
//!
//! `cargo run --release -p brevity-kernels --example columns_speed [threads]`

use std::time::Instant;

use brevity_kernels::columns::{Columns, Fit, Grid, Prune};
use brevity_kernels::gram::Gram;
use brevity_kernels::grid::{Group, Range, ScaleType, Spec, fit};
use brevity_kernels::linalg::InverseFactor;
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| uniform() + uniform() + uniform()).collect()
}

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |n| n.parse().expect("a number of threads"));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the first pool");
    println!("{}", brevity_kernels::cpu::describe());
    for [rows, n] in [[576, 1536], [1536, 576], [4096, 4096]] {
        let mut gram = Gram::new(n);
        gram.add(512, Rows::F32(&numbers(512 * n, 7)), Compute::F32);
        let w = numbers(rows * n, 1);
        let group = if n.is_multiple_of(128) { 128 } else { 64 };
        let (symmetric, range, scale) = (false, Range::MinMax, ScaleType::F32);
        let spec = Spec { bits: 4, group: Group::Size(group), symmetric, range, scale, ragged: false };
        let mut order: Vec<u32> = (0..n as u32).collect();
        let diagonal = gram.diagonal();
        order.sort_by(|&a, &b| diagonal[b as usize].total_cmp(&diagonal[a as usize]));
        for round in 0..3 {
            let start = Instant::now();
            let factor = InverseFactor::new(&gram, Some(&order), 0.1).expect("damped");
            let factored = start.elapsed();
            let scales = fit(&spec, &w, [rows, n], None).expect("the group divides");
            let mut q = w.clone();
            let grid = Some(Grid { spec: &spec, fit: Fit::Static(&scales) });
            let solver = Columns { factor: &factor, grid, prune: None, block: 128 };
            let solved = solver.solve(&mut q, [rows, n], None).expect("the shapes fit");
            let both = start.elapsed();
            let mut q = w.clone();
            let prune = Some(Prune::Count(rows * n / 2));
            Columns { grid: None, prune, ..solver }.solve(&mut q, [rows, n], None).expect("the shapes fit");
            println!(
                "{rows} x {n}, round {round}: factor {:.1} ms, int4 in all {:.1} ms, half pruned {:.1} ms, loss {:.6e}",
                1e3 * factored.as_secs_f64(),
                1e3 * both.as_secs_f64(),
                1e3 * (start.elapsed() - both).as_secs_f64(),
                solved.loss,
            );
        }
    }
}
