//! The tile of [`super::pairs`] with AMX: sixteen keys, or sixteen value features, and forty-eight queries at a time.
//!
//! Keys are rounded as they lie, a row of pairs of features for each. Values are turned: in steps of 32 keys, for each
//! feature a line of sixteen pairs of keys. Features, keys and steps are filled up with zeros.

use super::pairs::{WIDTH, round_pairs, weigh};
use super::tile::{HIDDEN, LOWEST, hide};
use super::{Spec, Tokens, head, pieces, run};
use crate::buffer::{Shared, scratch};
use crate::cast;
use crate::math;
use crate::matmul::{DEEP, HIGH, Lines, Tiles};
use half::bf16;
use rayon::prelude::*;

/// Keys per tile.
const KEYS: usize = 64;
/// Keys of a step of values.
const STEP: usize = 2 * DEEP;

/// What rounds up to whole tiles.
#[derive(Clone, Copy)]
struct Sizes {
    /// Pairs of features of a key.
    pairs: usize,
    /// Keys.
    keys: usize,
    /// Features of a value.
    features: usize,
}

/// # Safety
/// The system must have granted AMX; the caller has checked the shapes.
pub(super) unsafe fn attend(s: &Spec<'_>, t: &Tokens<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let size = Sizes {
        pairs: s.qk_dim.div_ceil(2).max(1).next_multiple_of(DEEP),
        keys: t.keys.next_multiple_of(STEP),
        features: s.v_dim.next_multiple_of(HIGH),
    };
    let heads = t.batch * s.kv_heads;
    let [of_keys, of_values] = [size.keys * size.pairs, size.keys / 2 * size.features];
    let out = Shared::new(out);
    scratch::<u32, _>(heads * (of_keys + of_values), |room| {
        let (keys, values) = room.split_at_mut(heads * of_keys);
        round_keys(s, t, size, k, keys);
        turn_values(s, t, size, v, values);
        let (keys, values) = (&*keys, &*values);
        run(&pieces(s, t, WIDTH), |b, h, first| {
            let g = b * s.kv_heads + s.kv_of[h] as usize;
            let piece = Piece {
                s,
                t,
                size,
                q: head(s, t, q, k, v, b, h).q,
                keys: &keys[g * of_keys..][..of_keys],
                values: &values[g * of_values..][..of_values],
                out,
                b,
                h,
                first,
            };
            scratch::<f32, _>((size.pairs + KEYS + KEYS / 2 + size.features + 3) * WIDTH, |room| {
                // SAFETY: passed on to the caller.
                unsafe { Tiles::lend(|tiles| piece.compute(tiles, room)) }
            });
        });
    });
}

/// `[batch, kv_heads, keys, pairs of features]`, zero beyond the last of each.
fn round_keys(s: &Spec<'_>, t: &Tokens<'_>, size: Sizes, k: &[f32], out: &mut [u32]) {
    let pairs = s.qk_dim.div_ceil(2);
    out.par_chunks_mut(STEP * size.pairs).enumerate().for_each(|(chunk, out)| {
        for (n, out) in out.chunks_exact_mut(size.pairs).enumerate() {
            let row = chunk * STEP + n;
            let (head, j) = (row / size.keys, row % size.keys);
            let (b, g) = (head / s.kv_heads, head % s.kv_heads);
            let (real, beyond) = out.split_at_mut(if j < t.keys { pairs } else { 0 });
            if j < t.keys {
                round_pairs(&k[(b * t.keys + j) * s.k_width() + g * s.qk_dim..][..s.qk_dim], real);
            }
            beyond.fill(0);
        }
    });
}

/// `[batch, kv_heads, steps, features, pairs of keys]`, zero beyond the last real key and the last feature.
fn turn_values(s: &Spec<'_>, t: &Tokens<'_>, size: Sizes, v: &[f32], out: &mut [u32]) {
    let steps = size.keys / STEP;
    out.par_chunks_mut((size.features * DEEP).max(1)).enumerate().for_each(|(chunk, out)| {
        let (head, step) = (chunk / steps, chunk % steps);
        let (b, g) = (head / s.kv_heads, head % s.kv_heads);
        let real = t.real_keys(b);
        scratch::<bf16, _>(2 * s.v_dim, |room| {
            let (low, high) = room.split_at_mut(s.v_dim);
            let round = |j: usize, to: &mut [bf16]| match j < real {
                true => cast::f32_to_bf16(&v[(b * t.keys + j) * s.v_width() + g * s.v_dim..][..s.v_dim], to),
                false => to.fill(bf16::ZERO),
            };
            for pair in 0..DEEP {
                let j = step * STEP + 2 * pair;
                round(j, low);
                round(j + 1, high);
                for (line, (l, h)) in out.chunks_exact_mut(DEEP).zip(low.iter().zip(&*high)) {
                    line[pair] = l.to_bits() as u32 | (h.to_bits() as u32) << 16;
                }
            }
        });
        out[s.v_dim * DEEP..].fill(0);
    });
}

/// Some queries of one head of one sequence.
struct Piece<'a> {
    s: &'a Spec<'a>,
    t: &'a Tokens<'a>,
    size: Sizes,
    q: &'a [f32],
    /// `[keys, pairs of features]` of the head.
    keys: &'a [u32],
    /// `[steps, features, pairs of keys]` of the head.
    values: &'a [u32],
    out: Shared<f32>,
    b: usize,
    h: usize,
    first: usize,
}

impl Piece<'_> {
    fn compute(&self, tiles: &Tiles, room: &mut [f32]) {
        let (s, t, size) = (self.s, self.t, self.size);
        let count = WIDTH.min(t.queries - self.first);
        let (mut from, mut to) = ([0u32; WIDTH], [0u32; WIDTH]);
        let (mut start, mut end) = (usize::MAX, 0);
        for i in 0..count {
            let (a, b) = t.visible(s.reach, self.b, self.first + i);
            (from[i], to[i]) = (a as u32, b as u32);
            if a < b {
                (start, end) = (start.min(a), end.max(b));
            }
        }
        let (queries, room) = room.split_at_mut(size.pairs * WIDTH);
        let (scores, room) = room.split_at_mut(KEYS * WIDTH);
        let (weights, room) = room.split_at_mut(KEYS / 2 * WIDTH);
        let (sums, room) = room.split_at_mut(size.features * WIDTH);
        let (max, room) = room.split_at_mut(WIDTH);
        let (total, fade) = room.split_at_mut(WIDTH);
        let queries: &mut [u32] = bytemuck::cast_slice_mut(queries);
        let weights: &mut [u32] = bytemuck::cast_slice_mut(weights);
        let factor = s.softcap.map_or(s.scale * std::f32::consts::LOG2_E, |c| s.scale / c);
        self.transpose_queries(factor, count, queries);
        sums.fill(0.0);
        max.fill(LOWEST);
        total.fill(0.0);
        // Steps of values begin at multiples of their keys.
        let mut j = if start == usize::MAX { 0 } else { start - start % STEP };
        while j < end {
            let keys = KEYS.min(end - j);
            let whole = keys.next_multiple_of(STEP);
            for n in (0..whole).step_by(HIGH) {
                let x = Lines { words: &self.keys[(j + n) * size.pairs..], line: size.pairs, step: DEEP };
                tiles.product(size.pairs / DEEP, x, queries, &mut scores[n * WIDTH..], WIDTH, false);
            }
            let seen = &mut scores[..keys * WIDTH];
            if let Some(cap) = s.softcap {
                for x in seen.iter_mut() {
                    *x = math::tanh::<true>(*x) * (cap * std::f32::consts::LOG2_E);
                }
            }
            hide(seen, WIDTH, j as u32, &from, &to);
            scores[keys * WIDTH..whole * WIDTH].fill(HIDDEN);
            // SAFETY: a processor with AMX has AVX-512.
            unsafe { weigh(scores, whole / 2, weights, max, total, fade) };
            if fade.iter().any(|&fade| fade != 1.0) {
                for row in sums.as_chunks_mut::<WIDTH>().0 {
                    row.iter_mut().zip(&*fade).for_each(|(sum, fade)| *sum *= fade);
                }
            }
            for d in (0..size.features).step_by(HIGH) {
                let words = &self.values[(j / STEP * size.features + d) * DEEP..];
                let x = Lines { words, line: DEEP, step: size.features * DEEP };
                tiles.product(whole / STEP, x, weights, &mut sums[d * WIDTH..], WIDTH, true);
            }
            j += keys;
        }
        for i in 0..count {
            let at = (self.b * t.queries + self.first + i) * s.out_width() + self.h * s.v_dim;
            // SAFETY: this piece alone writes these queries of this head; the output outlives the call.
            let out = unsafe { self.out.part(at, s.v_dim) };
            let scale = if total[i] == 0.0 { 0.0 } else { 1.0 / total[i] };
            for (d, o) in out.iter_mut().enumerate() {
                *o = sums[d * WIDTH + i] * scale;
            }
        }
    }

    /// `queries[pair][i] = factor * q[i][pair]`, rounded; zero beyond the last query and the last feature.
    fn transpose_queries(&self, factor: f32, count: usize, queries: &mut [u32]) {
        let (dim, pairs) = (self.s.qk_dim, self.s.qk_dim.div_ceil(2));
        if count < WIDTH || pairs < self.size.pairs {
            queries.fill(0);
        }
        scratch::<f32, _>(dim + pairs, |room| {
            let (scaled, words) = room.split_at_mut(dim);
            let words: &mut [u32] = bytemuck::cast_slice_mut(words);
            for i in 0..count {
                let q = &self.q[(self.first + i) * self.s.q_width()..][..dim];
                for (s, x) in scaled.iter_mut().zip(q) {
                    *s = x * factor;
                }
                round_pairs(scaled, words);
                for (p, w) in words.iter().enumerate() {
                    queries[p * WIDTH + i] = *w;
                }
            }
        });
    }
}
