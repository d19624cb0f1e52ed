//! How fast codes are scored beside dot products of as many vectors in single precision.
//!
//! Every round does each once, one after the other, and medians are printed: per vector and query, and how many times
//! faster than the product with as many queries. The products are those of `brevity_kernels::matmul`, which reads vectors once
//! for few queries and is bound by arithmetic for many.
//!
//! `cargo run --release -p brevity-embed --example codecs_speed [VECTORS [ROUNDS [WIDTH]]]`

use std::time::Instant;

use brevity_embed::codec::{Codec, Index, Settings, Turn, Vectors};
use brevity_kernels::cpu;
use brevity_kernels::matmul::{Dims, matmul_nt_f32};
use brevity_kernels::popcount::BitPlanes;
use rayon::prelude::*;

/// Codes that are scored before the next query, as a search does.
const BLOCK: usize = 8192;

struct Work<'a> {
    name: String,
    queries: usize,
    run: Box<dyn FnMut() + 'a>,
}

fn main() {
    let arg = |n: usize, default| std::env::args().nth(n).map_or(default, |text| text.parse().expect("a number"));
    let (rows, rounds, width) = (arg(1, 262_144), arg(2, 9), arg(3, 384));
    let corpus = noise(rows * width, 1);
    let queries = noise(64 * width, 2);
    let corpus = Vectors::new(&corpus, width).expect("noise is finite");
    let some = Vectors::new(&corpus.values()[..width * rows.min(4096)], width).expect("noise is finite");
    let plain =
        |dims: usize, steps: usize| Settings::Recurrent { dims: Some(dims), steps, turn: Turn::Random, centre: false };
    let settings = [
        ("sign", Settings::Sign { dims: None, turn: Turn::None, centre: false }),
        ("recurrent, 2 bits", plain(width, 1)),
        ("product, 8 dimensions a part", Settings::Product { parts: width / 8, bits: 8, rotate: false }),
        ("int8", Settings::Int8),
    ];
    let made: Vec<(&str, Codec)> = settings
        .into_iter()
        .map(|(name, settings)| (name, Codec::fit(some, &settings, 0).expect("the settings fit")))
        .collect();
    let coded: Vec<_> = made.iter().map(|(_, codec)| codec.encode(corpus).expect("the width is the same")).collect();
    let mut works = Vec::new();
    for count in [1, 64] {
        let mut scores = vec![0.0; count * rows];
        let asked = &queries[..count * width];
        works.push(Work {
            name: format!("f32 dot products, {count} queries"),
            queries: count,
            run: Box::new(move || {
                matmul_nt_f32(Dims { m: count, k: width, n: rows }, asked, corpus.values(), &mut scores)
            }),
        });
    }
    for (dims, steps) in [(width, 0), (width / 2, 1), (width, 1), (width, 3)] {
        let codec = Codec::fit(some, &plain(dims, steps), 0).expect("the settings fit");
        let codes = codec.encode(corpus).expect("the width is the same");
        let asked = codec.encode(Vectors::new(&queries, width).expect("noise")).expect("the width is the same");
        for count in [1, 64] {
            let (asked, planes) = (asked.clone(), BitPlanes::new(codes.bytes(), rows, steps + 1, dims));
            works.push(Work {
                name: format!("{dims} values of {} bits, {count} queries", steps + 1),
                queries: count,
                run: Box::new(move || {
                    (0..rows.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
                        let mut dots = vec![0; BLOCK.min(rows - block * BLOCK)];
                        for q in 0..count {
                            planes.dots(asked.row(q), block * BLOCK, &mut dots);
                            std::hint::black_box(&dots);
                        }
                    });
                }),
            });
        }
    }
    for ((name, codec), codes) in made.iter().zip(&coded) {
        let index = Index::new(codec, codes).expect("the codes are its own");
        let index = std::rc::Rc::new(index);
        for count in [1, 64] {
            let (index, asked) = (index.clone(), &queries[..count * width]);
            works.push(Work {
                name: format!("search for 40, {name}, {count} queries"),
                queries: count,
                run: Box::new(move || {
                    let queries = Vectors::new(asked, width).expect("noise");
                    std::hint::black_box(index.search(queries, 40).expect("the width is the same"));
                }),
            });
        }
    }
    let mut seconds = vec![Vec::new(); works.len()];
    for round in 0..=rounds {
        for (work, seconds) in works.iter_mut().zip(&mut seconds) {
            let start = Instant::now();
            (work.run)();
            // the first round touches memory for the first time
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    println!("{}; {rows} vectors of {width}, medians of {rounds} rounds", cpu::describe());
    println!("{:<52} {:>10} {:>12} {:>8}", "", "ms", "ns a score", "times");
    let medians: Vec<f64> = seconds.into_iter().map(median).collect();
    for (work, &median) in works.iter().zip(&medians) {
        let beside = medians[usize::from(work.queries > 1)];
        let each = 1e9 * median / (work.queries * rows) as f64;
        println!("{:<52} {:>10.2} {each:>12.3} {:>8.1}", work.name, 1e3 * median, beside / median);
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}
