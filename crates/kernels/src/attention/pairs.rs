//! The tile of [`super::tile`] with products of bfloat16 pairs (AVX-512 BF16).
//!
//! A dot-product instruction takes two terms of each of sixteen sums. For scores the two terms are neighbouring
//! features, so keys are rounded as they lie; for outputs they are neighbouring keys, so values are interleaved
//! key by key. Both are done once per call. Weights are rounded as they are made; their total is not.

use super::tile::{HIDDEN, LOWEST, hide};
use super::{Spec, Tokens, head, pieces, run};
use crate::buffer::{Shared, scratch};
use crate::cast;
use crate::math;
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Keys per tile; even.
const KEYS: usize = 64;
/// Queries per tile: three vectors.
pub(super) const WIDTH: usize = 48;
/// Keys or value features whose sums are in registers at once.
const ROWS: usize = 8;

/// # Safety
/// The processor must have AVX-512 BF16; the caller has checked the shapes.
pub(super) unsafe fn attend(s: &Spec<'_>, t: &Tokens<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let (half_dim, half_keys) = (s.qk_dim.div_ceil(2), t.keys.div_ceil(2));
    let heads = t.batch * s.kv_heads;
    let out = Shared::new(out);
    scratch::<u32, _>(heads * (t.keys * half_dim + half_keys * s.v_dim), |room| {
        let (keys, values) = room.split_at_mut(heads * t.keys * half_dim);
        round_keys(s, t, k, keys);
        interleave_values(s, t, v, values);
        let (keys, values) = (&*keys, &*values);
        run(&pieces(s, t, WIDTH), |b, h, first| {
            let g = b * s.kv_heads + s.kv_of[h] as usize;
            let piece = Piece {
                s,
                t,
                q: head(s, t, q, k, v, b, h).q,
                keys: &keys[g * t.keys * half_dim..][..t.keys * half_dim],
                values: &values[g * half_keys * s.v_dim..][..half_keys * s.v_dim],
                out,
                b,
                h,
                first,
            };
            let size = half_dim + KEYS + KEYS / 2 + s.v_dim + 3;
            scratch::<f32, _>(size * WIDTH, |room| {
                // SAFETY: passed on to the caller.
                unsafe { piece.compute(room) }
            });
        });
    });
}

/// `[batch, kv_heads, keys, pairs of features]`.
fn round_keys(s: &Spec<'_>, t: &Tokens<'_>, k: &[f32], out: &mut [u32]) {
    let pairs = s.qk_dim.div_ceil(2);
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(64 * pairs).enumerate().for_each(|(chunk, out)| {
        for (n, out) in out.chunks_exact_mut(pairs).enumerate() {
            let row = chunk * 64 + n;
            let (head, j) = (row / t.keys, row % t.keys);
            let (b, g) = (head / s.kv_heads, head % s.kv_heads);
            let from = &k[(b * t.keys + j) * s.k_width() + g * s.qk_dim..][..s.qk_dim];
            round_pairs(from, out);
        }
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

/// `[batch, kv_heads, pairs of keys, v_dim]`, zero beyond the last real key.
fn interleave_values(s: &Spec<'_>, t: &Tokens<'_>, v: &[f32], out: &mut [u32]) {
    let half_keys = t.keys.div_ceil(2);
    if out.is_empty() {
        return;
    }
    out.par_chunks_mut(32 * s.v_dim).enumerate().for_each(|(chunk, out)| {
        scratch::<bf16, _>(2 * s.v_dim, |room| {
            let (low, high) = room.split_at_mut(s.v_dim);
            for (n, out) in out.chunks_exact_mut(s.v_dim).enumerate() {
                let row = chunk * 32 + n;
                let (head, j) = (row / half_keys, row % half_keys * 2);
                let (b, g) = (head / s.kv_heads, head % s.kv_heads);
                let round = |j: usize, to: &mut [bf16]| {
                    if j < t.real_keys(b) {
                        cast::f32_to_bf16(&v[(b * t.keys + j) * s.v_width() + g * s.v_dim..][..s.v_dim], to);
                    } else {
                        to.fill(bf16::ZERO);
                    }
                };
                round(j, low);
                round(j + 1, high);
                for ((o, l), h) in out.iter_mut().zip(&*low).zip(&*high) {
                    *o = l.to_bits() as u32 | (h.to_bits() as u32) << 16;
                }
            }
        });
    });
}

/// Some queries of one head of one sequence.
struct Piece<'a> {
    s: &'a Spec<'a>,
    t: &'a Tokens<'a>,
    q: &'a [f32],
    /// `[keys, pairs of features]` of the head.
    keys: &'a [u32],
    /// `[pairs of keys, v_dim]` of the head.
    values: &'a [u32],
    out: Shared<f32>,
    b: usize,
    h: usize,
    first: usize,
}

impl Piece<'_> {
    /// # Safety
    /// The processor must have AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
    unsafe fn compute(&self, room: &mut [f32]) {
        let (s, t) = (self.s, self.t);
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
        let pairs = s.qk_dim.div_ceil(2);
        let (queries, room) = room.split_at_mut(pairs * WIDTH);
        let (scores, room) = room.split_at_mut(KEYS * WIDTH);
        let (weights, room) = room.split_at_mut(KEYS / 2 * WIDTH);
        let (sums, room) = room.split_at_mut(s.v_dim * WIDTH);
        let (max, room) = room.split_at_mut(WIDTH);
        let (total, fade) = room.split_at_mut(WIDTH);
        let queries: &mut [u32] = bytemuck::cast_slice_mut(queries);
        let weights: &mut [u32] = bytemuck::cast_slice_mut(weights);
        let factor = s.softcap.map_or(s.scale * std::f32::consts::LOG2_E, |c| s.scale / c);
        self.transpose_queries(factor, count, queries);
        sums.fill(0.0);
        max.fill(LOWEST);
        total.fill(0.0);
        // tiles begin at even keys, where pairs of values do
        let mut j = start & !1;
        while j < end {
            let keys = KEYS.min(end - j);
            self.multiply_keys(j, keys, queries, scores);
            let seen = &mut scores[..keys * WIDTH];
            if let Some(cap) = s.softcap {
                for x in seen.iter_mut() {
                    *x = math::tanh::<true>(*x) * (cap * std::f32::consts::LOG2_E);
                }
            }
            hide(seen, WIDTH, j as u32, &from, &to);
            if keys % 2 == 1 {
                scores[keys * WIDTH..(keys + 1) * WIDTH].fill(HIDDEN);
            }
            weigh(scores, keys.div_ceil(2), weights, max, total, fade);
            self.add_values(j / 2, keys.div_ceil(2), weights, fade, sums);
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

    /// `queries[pair][i] = factor * q[i][pair]`, rounded; zero beyond the last query.
    fn transpose_queries(&self, factor: f32, count: usize, queries: &mut [u32]) {
        let (dim, pairs) = (self.s.qk_dim, self.s.qk_dim.div_ceil(2));
        if count < WIDTH {
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

    /// `scores[j][i] = k[j] · q[i]` for `keys` keys from `first`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn multiply_keys(&self, first: usize, keys: usize, queries: &[u32], scores: &mut [f32]) {
        let pairs = self.s.qk_dim.div_ceil(2);
        for j in (0..keys).step_by(ROWS) {
            // rows beyond the last key repeat it and are not looked at
            let rows: [&[u32]; ROWS] =
                std::array::from_fn(|r| &self.keys[(first + (j + r).min(keys - 1)) * pairs..][..pairs]);
            let mut sums = [[_mm512_setzero_ps(); 3]; ROWS];
            for (p, q) in queries.as_chunks::<WIDTH>().0.iter().enumerate() {
                let q = vectors(q);
                for r in 0..ROWS {
                    // SAFETY: `queries` has `pairs` rows, as many words as every key.
                    let k = broadcast(unsafe { *rows[r].get_unchecked(p) });
                    for v in 0..3 {
                        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], q[v], k);
                    }
                }
            }
            let tile: &mut [f32; ROWS * WIDTH] =
                (&mut scores[j * WIDTH..][..ROWS * WIDTH]).try_into().expect("tiles are whole");
            for r in 0..ROWS {
                for v in 0..3 {
                    // SAFETY: sixteen floats inside the tile.
                    unsafe { _mm512_storeu_ps(tile.as_mut_ptr().add(r * WIDTH + 16 * v), sums[r][v]) };
                }
            }
        }
    }

    /// `sums[d][i] = fade[i] sums[d][i] + Σ_j v[j][d] weights[j][i]` for `pairs` pairs of keys from pair `first`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn add_values(&self, first: usize, pairs: usize, weights: &[u32], fade: &[f32], sums: &mut [f32]) {
        let dim = self.s.v_dim;
        let values = &self.values[first * dim..(first + pairs) * dim];
        let mut d = 0;
        while d < dim {
            let step = if d + ROWS <= dim { ROWS } else { 1 };
            let part = &mut sums[d * WIDTH..(d + step) * WIDTH];
            match step {
                ROWS => add_rows::<ROWS>(&values[d..], dim, pairs, weights, fade, part),
                _ => add_rows::<1>(&values[d..], dim, pairs, weights, fade, part),
            }
            d += step;
        }
    }
}

/// `R` features of [`Piece::add_values`]; `values` starts at the first.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn add_rows<const R: usize>(
    values: &[u32],
    stride: usize,
    pairs: usize,
    weights: &[u32],
    fade: &[f32],
    sums: &mut [f32],
) {
    assert!(sums.len() == R * WIDTH && fade.len() == WIDTH && weights.len() >= pairs * WIDTH);
    assert!(values.len() >= (pairs - 1) * stride + R);
    let mut acc = [[_mm512_setzero_ps(); 3]; R];
    for r in 0..R {
        for v in 0..3 {
            // SAFETY: the lengths asserted above.
            acc[r][v] = unsafe {
                let sum = _mm512_loadu_ps(sums.as_ptr().add(r * WIDTH + 16 * v));
                _mm512_mul_ps(sum, _mm512_loadu_ps(fade.as_ptr().add(16 * v)))
            };
        }
    }
    for (p, w) in weights.as_chunks::<WIDTH>().0[..pairs].iter().enumerate() {
        let w = vectors(w);
        for r in 0..R {
            // SAFETY: the length asserted above.
            let x = broadcast(unsafe { *values.get_unchecked(p * stride + r) });
            for v in 0..3 {
                acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w[v], x);
            }
        }
    }
    for r in 0..R {
        for v in 0..3 {
            // SAFETY: the lengths asserted above.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(r * WIDTH + 16 * v), acc[r][v]) };
        }
    }
}

/// Turns the scores of `pairs` pairs of keys into weights `2^(score - max)`, rounded and interleaved, and moves
/// `max` and `total` on. `fade` is the factor by which what was summed before shrinks.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn weigh(
    scores: &[f32],
    pairs: usize,
    weights: &mut [u32],
    max: &mut [f32],
    total: &mut [f32],
    fade: &mut [f32],
) {
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

#[inline]
#[target_feature(enable = "avx512f")]
fn vectors(words: &[u32; WIDTH]) -> [__m512bh; 3] {
    // SAFETY: three times sixteen words; the types are 512 bits without invalid patterns.
    unsafe {
        [0, 1, 2]
            .map(|v| std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(words.as_ptr().add(16 * v).cast())))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn broadcast(word: u32) -> __m512bh {
    // SAFETY: both types are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(_mm512_set1_epi32(word as i32)) }
}
