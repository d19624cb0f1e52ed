//! Products of a tile of attention with AMX: sixteen keys or value features and forty-eight queries at a time.

use super::pairs::{Piece, Products, WIDTH};
use crate::matmul::{DEEP, HIGH, Lines, Tiles};

impl Products for Tiles {
    const STEP: usize = 2 * DEEP;
    const PAIRS: usize = DEEP;
    const FEATURES: usize = HIGH;

    unsafe fn lend(work: impl FnOnce(&Self)) {
        // SAFETY: passed on to the caller.
        unsafe { Tiles::lend(work) }
    }

    fn multiply_keys(&self, p: &Piece<'_>, first: usize, keys: usize, queries: &[u32], scores: &mut [f32]) {
        let pairs = p.size.pairs;
        if pairs == 0 {
            return scores.fill(0.0);
        }
        for n in (0..keys).step_by(HIGH) {
            let x = Lines { words: &p.keys[(first + n) * pairs..], line: pairs, step: DEEP };
            self.product(pairs / DEEP, x, queries, &mut scores[n * WIDTH..], WIDTH, false);
        }
    }

    fn add_values(&self, p: &Piece<'_>, first: usize, keys: usize, weights: &[u32], fade: &[f32], sums: &mut [f32]) {
        if fade.iter().any(|&fade| fade != 1.0) {
            for row in sums.as_chunks_mut::<WIDTH>().0 {
                row.iter_mut().zip(fade).for_each(|(sum, fade)| *sum *= fade);
            }
        }
        let features = p.size.features;
        for d in (0..features).step_by(HIGH) {
            let words = &p.values[(first / Self::STEP * features + d) * DEEP..];
            let x = Lines { words, line: DEEP, step: features * DEEP };
            self.product(keys / Self::STEP, x, weights, &mut sums[d * WIDTH..], WIDTH, true);
        }
    }
}
