//! How fast sums of outer products are, beside the bfloat16 matrix product of the same run.
//!
//! Two rates: by the clock on the wall, and by the time processors spent on this process (where the system tells),
//! which other processes disturb less. Spinning while work runs out counts as spent.
//!
//! `cargo run -p brevity-kernels --release --example gram_speed [ROUNDS [matmul]]`, with `matmul` for the products alone

use brevity_kernels::cpu;
use brevity_kernels::gram::{Cross, Gram};
use brevity_kernels::matmul::{PackedBf16, Rows, RowsMut, linear_bf16};
use brevity_kernels::ops::Compute;
use std::time::Instant;

/// One thing to time: what it is called, the operations it does and how to do it once.
struct Work {
    name: String,
    operations: f64,
    run: Box<dyn FnMut()>,
}

fn main() {
    let rounds = std::env::args().nth(1).map_or(7, |n| n.parse().expect("a number of rounds"));
    let mut works = vec![matmul(2048, 576, 1536), matmul(2048, 4096, 4096)];
    let all = std::env::args().nth(2).is_none_or(|only| only != "matmul");
    let sizes: &[(usize, usize)] = if all { &[(8192, 576), (8192, 1536), (4096, 4096)] } else { &[] };
    for &(rows, n) in sizes {
        for compute in [Compute::Bf16, Compute::F32] {
            works.push(gram(rows, n, compute));
            works.push(cross(rows, n, compute));
        }
    }
    let sizes: &[usize] = if all { &[1536, 4096] } else { &[] };
    for &n in sizes {
        works.push(quadratic(n));
        works.push(ordered(n));
    }
    let mut walls = vec![Vec::new(); works.len()];
    let mut cores = walls.clone();
    for round in 0..=rounds {
        for (i, work) in works.iter_mut().enumerate() {
            let (start, spent) = (Instant::now(), spent());
            (work.run)();
            // the first round touches memory for the first time
            if round > 0 {
                walls[i].push(start.elapsed().as_secs_f64());
                cores[i].push(self::spent() - spent);
            }
        }
    }
    let walls: Vec<f64> = walls.into_iter().map(median).collect();
    let cores: Vec<f64> = cores.into_iter().map(median).collect();
    let wall_rate = |i: usize| works[i].operations / walls[i] / 1e9;
    let core_rate = |i: usize| works[i].operations / cores[i] / 1e9;
    let (wall_best, core_best) = (wall_rate(0).max(wall_rate(1)), core_rate(0).max(core_rate(1)));
    println!("{}; medians of {rounds} rounds; GFLOP/s and share of the better matrix product", cpu::describe());
    println!("{:<28} {:>9}  {:>7} {:>5}  {:>8} {:>5}", "", "ms", "wall", "", "per core", "");
    for (i, work) in works.iter().enumerate() {
        let (wall, core) = (wall_rate(i), core_rate(i));
        println!(
            "{:<28} {:>9.2}  {wall:>7.1} {:>5.2}  {core:>8.1} {:>5.2}",
            work.name,
            walls[i] * 1e3,
            wall / wall_best,
            core / core_best
        );
    }
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Seconds that processors spent on the threads of this process; not a number where the system does not tell.
fn spent() -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return f64::NAN };
    let files = threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("schedstat")));
    let nanoseconds = files.map(|text| text.ok()?.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.sum::<Option<f64>>().map_or(f64::NAN, |n| n / 1e9)
}

fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn matmul(m: usize, k: usize, n: usize) -> Work {
    let (x, w) = (numbers(m * k), PackedBf16::from_f32(&numbers(n * k), n, k));
    let mut y = vec![0.0; m * n];
    Work {
        name: format!("linear_bf16 {m}x{k}x{n}"),
        operations: 2.0 * (m * k * n) as f64,
        run: Box::new(move || linear_bf16(m, Rows::F32(&x), &w, None, RowsMut::F32(&mut y))),
    }
}

fn gram(rows: usize, n: usize, compute: Compute) -> Work {
    let (x, mut gram) = (numbers(rows * n), Gram::new(n));
    Work {
        name: format!("Gram {compute:?} {rows}x{n}"),
        operations: (rows * n * (n + 1)) as f64,
        run: Box::new(move || gram.add(rows, Rows::F32(&x), compute)),
    }
}

fn cross(rows: usize, n: usize, compute: Compute) -> Work {
    let (a, b, mut cross) = (numbers(rows * n), numbers(rows * n), Cross::new(n));
    Work {
        name: format!("Cross {compute:?} {rows}x{n}"),
        operations: 2.0 * (rows * n * n) as f64,
        run: Box::new(move || cross.add(rows, Rows::F32(&a), Rows::F32(&b), compute)),
    }
}

fn quadratic(n: usize) -> Work {
    let (gram, d) = (Gram::new(n), numbers(n * n));
    Work {
        name: format!("Gram::quadratic {n}x{n}"),
        operations: (n * n * (n + 1)) as f64,
        run: Box::new(move || {
            std::hint::black_box(gram.quadratic(n, &d, Compute::F32));
        }),
    }
}

fn ordered(n: usize) -> Work {
    let gram = Gram::new(n);
    // 4099 is prime, so this visits every index once
    let order: Vec<u32> = (0..n).map(|i| (i * 4099 % n) as u32).collect();
    let mut out = vec![0.0; n * n];
    Work {
        name: format!("Gram::ordered_f32 {n} (numbers)"),
        operations: (n * n) as f64,
        run: Box::new(move || gram.ordered_f32(&order, &mut out)),
    }
}
