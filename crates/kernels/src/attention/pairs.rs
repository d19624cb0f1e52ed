//! The tile of [`super::tile`] with products of bfloat16 pairs, whichever instructions take them.
//!
//! An instruction takes two terms of each of sixteen sums. For scores the two terms are neighbouring features, so keys are
//! rounded as they lie; for outputs they are neighbouring keys, so values are interleaved key by key. Both are done once
//! per call. Weights are rounded as they are made; their total is not.

use super::tile::{HIDDEN, LOWEST, hide};
use super::{Spec, Tokens, head, pieces, run};
use crate::buffer::{Shared, scratch};
use crate::cast;
use crate::math;
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Keys per tile.
const KEYS: usize = 64;
/// Queries per tile: three vectors.
pub(super) const WIDTH: usize = 48;
/// Keys that one task rounds at least.
const TASK: usize = 64;

/// Instructions that take the products of a tile.
pub(super) trait Products {
    /// Tiles begin at multiples of so many keys and hold a multiple of them; an even part of [`KEYS`].
    const STEP: usize;
    /// Keys are filled up with zeros to a multiple of so many pairs of features.
    const PAIRS: usize;
    /// Values are filled up with zeros to a multiple of so many features.
    const FEATURES: usize;

    /// Runs `work` where the instructions can be used.
    ///
    /// # Safety
    /// The processor must have them.
    unsafe fn lend(work: impl FnOnce(&Self));

    /// `scores[j][i] = k[j] · q[i]` for `keys` keys from `first`, and for any up to the next step.
    fn multiply_keys(&self, p: &Piece<'_>, first: usize, keys: usize, queries: &[u32], scores: &mut [f32]);

    /// `sums[d][i] = fade[i] sums[d][i] + Σ_j v[j][d] weights[j][i]` for the keys of whole steps from `first`.
    fn add_values(&self, p: &Piece<'_>, first: usize, keys: usize, weights: &[u32], fade: &[f32], sums: &mut [f32]);
}

/// What is packed of one head, with what fills it up.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Pairs of features of a key.
    pub pairs: usize,
    /// Keys.
    pub keys: usize,
    /// Features of a value.
    pub features: usize,
}

/// # Safety
/// The processor must have AVX-512 BF16 and the instructions of `P`; the caller has checked the shapes.
pub(super) unsafe fn attend<P: Products>(
    s: &Spec<'_>,
    t: &Tokens<'_>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
) {
    let size = Sizes {
        pairs: s.qk_dim.div_ceil(2).next_multiple_of(P::PAIRS),
        keys: t.keys.next_multiple_of(P::STEP),
        features: s.v_dim.next_multiple_of(P::FEATURES),
    };
    let heads = t.batch * s.kv_heads;
    let [of_keys, of_values] = [size.keys * size.pairs, size.keys / 2 * size.features];
    let out = Shared::new(out);
    scratch::<u32, _>(heads * (of_keys + of_values), |room| {
        let (keys, values) = room.split_at_mut(heads * of_keys);
        round_keys(s, t, size, k, keys);
        interleave_values(s, t, size, P::STEP, v, values);
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
                unsafe { P::lend(|products| piece.compute(products, room)) }
            });
        });
    });
}

/// `[batch, kv_heads, keys, pairs of features]`, zero beyond the last of each.
fn round_keys(s: &Spec<'_>, t: &Tokens<'_>, size: Sizes, k: &[f32], out: &mut [u32]) {
    let pairs = s.qk_dim.div_ceil(2);
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(size.pairs).with_min_len(TASK).enumerate().for_each(|(row, out)| {
        let (head, j) = (row / size.keys, row % size.keys);
        let (b, g) = (head / s.kv_heads, head % s.kv_heads);
        let (real, beyond) = out.split_at_mut(if j < t.keys { pairs } else { 0 });
        if j < t.keys {
            round_pairs(&k[(b * t.keys + j) * s.k_width() + g * s.qk_dim..][..s.qk_dim], real);
        }
        beyond.fill(0);
    });
}

/// Neighbours as bfloat16 in one word, the first in the low half.
pub(super) fn round_pairs(from: &[f32], out: &mut [u32]) {
    let words: &mut [bf16] = bytemuck::cast_slice_mut(out);
    if from.len() < words.len() {
        words[from.len()] = bf16::ZERO;
    }
    cast::f32_to_bf16(from, &mut words[..from.len()]);
}

/// `[batch, kv_heads, steps, features, pairs of keys of a step]`, zero beyond the last real key and the last feature.
fn interleave_values(s: &Spec<'_>, t: &Tokens<'_>, size: Sizes, step: usize, v: &[f32], out: &mut [u32]) {
    let (steps, pairs) = (size.keys / step, step / 2);
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(size.features * pairs).with_min_len(TASK / step).enumerate().for_each(|(chunk, out)| {
        let (head, first) = (chunk / steps, chunk % steps * step);
        let (b, g) = (head / s.kv_heads, head % s.kv_heads);
        let real = t.real_keys(b);
        let (values, beyond) = out.split_at_mut(s.v_dim * pairs);
        scratch::<bf16, _>(2 * s.v_dim, |room| {
            let (low, high) = room.split_at_mut(s.v_dim);
            let round = |j: usize, to: &mut [bf16]| match j < real {
                true => cast::f32_to_bf16(&v[(b * t.keys + j) * s.v_width() + g * s.v_dim..][..s.v_dim], to),
                false => to.fill(bf16::ZERO),
            };
            for pair in 0..pairs {
                round(first + 2 * pair, low);
                round(first + 2 * pair + 1, high);
                for ((o, l), h) in values[pair..].iter_mut().step_by(pairs).zip(&*low).zip(&*high) {
                    *o = l.to_bits() as u32 | (h.to_bits() as u32) << 16;
                }
            }
        });
        beyond.fill(0);
    });
}

/// Some queries of one head of one sequence.
pub(super) struct Piece<'a> {
    s: &'a Spec<'a>,
    t: &'a Tokens<'a>,
    pub size: Sizes,
    q: &'a [f32],
    /// `[keys, pairs of features]` of the head.
    pub keys: &'a [u32],
    /// `[steps, features, pairs of keys of a step]` of the head.
    pub values: &'a [u32],
    out: Shared<f32>,
    b: usize,
    h: usize,
    first: usize,
}

impl Piece<'_> {
    /// # Safety
    /// The processor must have AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute<P: Products>(&self, products: &P, room: &mut [f32]) {
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
        let mut j = start - start % P::STEP;
        while j < end {
            let keys = KEYS.min(end - j);
            let whole = keys.next_multiple_of(P::STEP);
            products.multiply_keys(self, j, keys, queries, scores);
            let seen = &mut scores[..keys * WIDTH];
            if let Some(cap) = s.softcap {
                for x in seen.iter_mut() {
                    *x = math::tanh::<true>(*x) * (cap * std::f32::consts::LOG2_E);
                }
            }
            if let Some(bias) = s.bias {
                bias.add(self.h, std::f32::consts::LOG2_E, seen, WIDTH, [count, t.first() + self.first, j]);
            }
            hide(seen, WIDTH, j as u32, &from, &to);
            scores[keys * WIDTH..whole * WIDTH].fill(HIDDEN);
            weigh(scores, whole / 2, weights, max, total, fade);
            products.add_values(self, j, whole, weights, fade, sums);
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

/// Turns the scores of `pairs` pairs of keys into weights `2^(score - max)`, rounded and interleaved, and moves
/// `max` and `total` on. `fade` is the factor by which what was summed before shrinks.
#[target_feature(enable = "avx512f,avx512dq")]
fn weigh(scores: &[f32], pairs: usize, weights: &mut [u32], max: &mut [f32], total: &mut [f32], fade: &mut [f32]) {
    assert!(scores.len() >= 2 * pairs * WIDTH && weights.len() >= pairs * WIDTH);
    assert!(max.len() == WIDTH && total.len() == WIDTH && fade.len() == WIDTH);
    let (half, upper) = (_mm512_set1_epi32(0x8000), _mm512_set1_epi32(0xffff_0000u32 as i32));
    for at in (0..WIDTH).step_by(16) {
        // SAFETY: every access is inside the lengths asserted above.
        unsafe {
            let before = _mm512_loadu_ps(max.as_ptr().add(at));
            let mut highest = before;
            for j in 0..2 * pairs {
                highest = _mm512_max_ps(highest, _mm512_loadu_ps(scores.as_ptr().add(j * WIDTH + at)));
            }
            let shrink = exp2(_mm512_sub_ps(before, highest));
            let mut sum = _mm512_mul_ps(_mm512_loadu_ps(total.as_ptr().add(at)), shrink);
            for p in 0..pairs {
                let x = scores.as_ptr().add(2 * p * WIDTH + at);
                let a = exp2(_mm512_sub_ps(_mm512_loadu_ps(x), highest));
                let b = exp2(_mm512_sub_ps(_mm512_loadu_ps(x.add(WIDTH)), highest));
                sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
                // weights are at most one: adding half a unit rounds; a NaN is kept by the total
                let a = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_castps_si512(a), half));
                let b = _mm512_add_epi32(_mm512_castps_si512(b), half);
                // a | (b & upper)
                let both = _mm512_ternarylogic_epi32::<0xf8>(a, b, upper);
                _mm512_storeu_si512(weights.as_mut_ptr().add(p * WIDTH + at).cast(), both);
            }
            _mm512_storeu_ps(max.as_mut_ptr().add(at), highest);
            _mm512_storeu_ps(fade.as_mut_ptr().add(at), shrink);
            _mm512_storeu_ps(total.as_mut_ptr().add(at), sum);
        }
    }
}

/// `2^x` for `x <= 0` or NaN, to 1e-4: a bfloat16 holds less.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exp2(x: __m512) -> __m512 {
    let f = _mm512_reduce_ps::<0>(x);
    let p = _mm512_fmadd_ps(_mm512_set1_ps(0.055_170_34), f, _mm512_set1_ps(0.242_612_93));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693_261_4));
    let p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.999_928));
    _mm512_scalef_ps(p, _mm512_roundscale_ps::<0>(x))
}
