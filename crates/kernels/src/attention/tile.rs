//! Many queries at once: a tile of queries against tiles of keys.
//!
//! Lanes of a vector are queries. So scores are stored with one row per key, the running maximum and sum are
//! taken lane by lane, and keys and values are read as they lie, one broadcast number at a time. Only the
//! queries are transposed, once per tile, and the outputs on the way out.

use super::vector::{Plain, Vector};
use super::{Head, Spec, Tokens, head, pieces, run};
use crate::buffer::{Shared, scratch};
use crate::cpu;
use crate::math;

/// Keys per tile: with 48 queries the scores take 12 kB of the first-level cache.
const KEYS: usize = 64;
/// Vectors of queries at most; short sequences fill fewer. No lane depends on its neighbours, so the results are the same.
const MOST: usize = 3;
/// Where running maxima start: below any score, yet finite, so that differences are never NaN.
pub(super) const LOWEST: f32 = -1e30;
/// The score of a key that a query does not see: its weight is zero even before any visible key.
pub(super) const HIDDEN: f32 = -2e30;

pub(super) fn attend(s: &Spec<'_>, t: &Tokens<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let out = Shared::new(out);
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn wide(piece: &Piece<'_>, room: &mut [f32]) {
            // SAFETY: compiled for AVX-512.
            unsafe { filled::<__m512, 8, true>(piece, room) }
        }
        #[target_feature(enable = "avx2,fma")]
        fn narrow(piece: &Piece<'_>, room: &mut [f32]) {
            // SAFETY: compiled for AVX2 and FMA.
            unsafe { filled::<__m256, 4, true>(piece, room) }
        }
        if cpu::features().avx512 {
            // SAFETY: the processor has AVX-512.
            return each(s, t, [q, k, v], out, __m512::LANES, |p, room| unsafe { wide(p, room) });
        }
        if cpu::features().avx2 {
            // SAFETY: the processor has AVX2 and FMA.
            return each(s, t, [q, k, v], out, __m256::LANES, |p, room| unsafe { narrow(p, room) });
        }
    }
    plain(s, t, [q, k, v], out);
}

/// The same without any instruction set.
pub(super) fn plain(s: &Spec<'_>, t: &Tokens<'_>, rows: [&[f32]; 3], out: Shared<f32>) {
    // SAFETY: plain arrays need no instruction set.
    each(s, t, rows, out, Plain::LANES, |p, room| unsafe { filled::<Plain, 4, false>(p, room) });
}

/// Runs `work` on every piece, with scratch memory for one tile.
fn each(
    s: &Spec<'_>,
    t: &Tokens<'_>,
    [q, k, v]: [&[f32]; 3],
    out: Shared<f32>,
    lanes: usize,
    work: impl Fn(&Piece<'_>, &mut [f32]) + Sync,
) {
    let vectors = t.queries.div_ceil(lanes).clamp(1, MOST);
    let width = vectors * lanes;
    run(&pieces(s, t, width), |b, h, first| {
        let piece = Piece { s, t, at: head(s, t, q, k, v, b, h), out, vectors, b, h, first };
        scratch::<f32, _>((s.qk_dim + KEYS + s.v_dim + 3) * width, |room| work(&piece, room));
    });
}

/// Some queries of one head of one sequence.
struct Piece<'a> {
    s: &'a Spec<'a>,
    t: &'a Tokens<'a>,
    at: Head<'a>,
    out: Shared<f32>,
    /// Vectors of queries.
    vectors: usize,
    b: usize,
    h: usize,
    first: usize,
}

/// The tile of as many vectors as the queries of a sequence fill.
///
/// # Safety
/// The processor must have the instruction set of `V`.
#[inline(always)]
unsafe fn filled<V: Vector, const R: usize, const FMA: bool>(p: &Piece<'_>, room: &mut [f32]) {
    // SAFETY: passed on to the caller.
    unsafe {
        match p.vectors {
            1 => tile::<V, R, 1, FMA>(p, room),
            2 => tile::<V, R, 2, FMA>(p, room),
            _ => tile::<V, R, MOST, FMA>(p, room),
        }
    }
}

/// # Safety
/// The processor must have the instruction set of `V`.
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const VECTORS: usize, const FMA: bool>(p: &Piece<'_>, room: &mut [f32]) {
    let (s, t) = (p.s, p.t);
    let width = VECTORS * V::LANES;
    let count = width.min(t.queries - p.first);
    let (mut from, mut to) = ([0u32; 64], [0u32; 64]);
    let (mut start, mut end) = (usize::MAX, 0);
    for i in 0..count {
        let (a, b) = t.visible(s.reach, p.b, p.first + i);
        (from[i], to[i]) = (a as u32, b as u32);
        if a < b {
            (start, end) = (start.min(a), end.max(b));
        }
    }
    let (queries, room) = room.split_at_mut(s.qk_dim * width);
    let (scores, room) = room.split_at_mut(KEYS * width);
    let (sums, room) = room.split_at_mut(s.v_dim * width);
    let (max, room) = room.split_at_mut(width);
    let (total, fade) = room.split_at_mut(width);
    let factor = s.softcap.map_or(s.scale * std::f32::consts::LOG2_E, |c| s.scale / c);
    transpose_queries(p, factor, count, width, queries);
    sums.fill(0.0);
    max.fill(LOWEST);
    total.fill(0.0);
    let mut j = start;
    while j < end {
        let keys = KEYS.min(end - j);
        // SAFETY: the caller has the instruction set; keys `j..j + keys` exist, and the scratch slices
        // have the sizes the functions ask for.
        unsafe { multiply_keys::<V, R, VECTORS>(&p.at, s.qk_dim, j, keys, queries, scores) };
        let scores = &mut scores[..keys * width];
        if let Some(cap) = s.softcap {
            for x in scores.iter_mut() {
                *x = math::tanh::<FMA>(*x) * (cap * std::f32::consts::LOG2_E);
            }
        }
        if let Some(bias) = s.bias {
            bias.add(p.h, std::f32::consts::LOG2_E, scores, width, [count, t.first() + p.first, j]);
        }
        hide(scores, width, j as u32, &from[..width], &to[..width]);
        // SAFETY: as above.
        unsafe {
            weigh::<V, VECTORS>(scores, keys, max, total, fade);
            add_values::<V, R, VECTORS>(&p.at, s.v_dim, j, keys, scores, fade, sums);
        }
        j += keys;
    }
    let row = s.out_width();
    for i in 0..count {
        // SAFETY: this piece alone writes these queries of this head; the output outlives the call.
        let out = unsafe { p.out.part((p.b * t.queries + p.first + i) * row + p.h * s.v_dim, s.v_dim) };
        let scale = if total[i] == 0.0 { 0.0 } else { 1.0 / total[i] };
        for (d, o) in out.iter_mut().enumerate() {
            *o = sums[d * width + i] * scale;
        }
    }
}

/// `queries[d][i] = factor * q[i][d]`, zero beyond the last query.
#[inline(always)]
fn transpose_queries(p: &Piece<'_>, factor: f32, count: usize, width: usize, queries: &mut [f32]) {
    if count < width {
        queries.fill(0.0);
    }
    for i in 0..count {
        let q = &p.at.q[(p.first + i) * p.at.q_stride..][..p.s.qk_dim];
        for (d, x) in q.iter().enumerate() {
            queries[d * width + i] = x * factor;
        }
    }
}

/// Hides the keys a query does not see.
#[inline(always)]
pub(super) fn hide(scores: &mut [f32], width: usize, first: u32, from: &[u32], to: &[u32]) {
    let last = first + (scores.len() / width) as u32;
    if from.iter().all(|f| *f <= first) && to.iter().all(|t| *t >= last) {
        return;
    }
    for (row, j) in scores.chunks_exact_mut(width).zip(first..) {
        for ((x, from), to) in row.iter_mut().zip(from).zip(to) {
            *x = if j >= *from && j < *to { *x } else { HIDDEN };
        }
    }
}

/// `scores[j][i] = Σ_d k[j][d] queries[d][i]` for `keys` keys from `first`.
///
/// # Safety
/// The processor must have the instruction set of `V`; the keys must exist; `queries` must be `[dim, width]` and
/// `scores` `[KEYS, width]`.
#[inline(always)]
unsafe fn multiply_keys<V: Vector, const R: usize, const VECTORS: usize>(
    at: &Head<'_>,
    dim: usize,
    first: usize,
    keys: usize,
    queries: &[f32],
    scores: &mut [f32],
) {
    let width = VECTORS * V::LANES;
    assert!(dim == 0 || at.k.len() >= (first + keys - 1) * at.k_stride + dim);
    assert!(queries.len() >= dim * width && scores.len() >= keys.next_multiple_of(R) * width);
    let mut j = 0;
    while j < keys {
        // SAFETY: bounds asserted above; rows beyond the last key repeat it.
        unsafe {
            // no closures around vectors: a closure is not compiled for the caller's instruction set
            let mut rows = [at.k.as_ptr(); R];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = row.add((first + (j + r).min(keys - 1)) * at.k_stride);
            }
            let mut sums = [[V::splat(0.0); VECTORS]; R];
            for d in 0..dim {
                let q = queries.as_ptr().add(d * width);
                let mut lanes = [V::splat(0.0); VECTORS];
                for (v, lanes) in lanes.iter_mut().enumerate() {
                    *lanes = V::load(q.add(v * V::LANES));
                }
                for r in 0..R {
                    let k = V::splat(*rows[r].add(d));
                    for v in 0..VECTORS {
                        sums[r][v] = k.mul_add(lanes[v], sums[r][v]);
                    }
                }
            }
            for r in 0..R {
                for v in 0..VECTORS {
                    sums[r][v].store(scores.as_mut_ptr().add((j + r) * width + v * V::LANES));
                }
            }
        }
        j += R;
    }
}

/// Turns scores into weights `2^(score - max)`, moving `max` and `total` on. `fade` is the factor by which what
/// was summed before shrinks.
///
/// # Safety
/// The processor must have the instruction set of `V`; all slices must hold whole rows of `VECTORS` vectors.
#[inline(always)]
unsafe fn weigh<V: Vector, const VECTORS: usize>(
    scores: &mut [f32],
    keys: usize,
    max: &mut [f32],
    total: &mut [f32],
    fade: &mut [f32],
) {
    let width = VECTORS * V::LANES;
    assert!(scores.len() >= keys * width && max.len() == width && total.len() == width && fade.len() == width);
    for at in (0..width).step_by(V::LANES) {
        // SAFETY: bounds asserted above.
        unsafe {
            let before = V::load(max.as_ptr().add(at));
            let mut highest = before;
            for j in 0..keys {
                highest = highest.max(V::load(scores.as_ptr().add(j * width + at)));
            }
            let shrink = before.sub(highest).exp2();
            let mut sum = V::load(total.as_ptr().add(at)).mul(shrink);
            for j in 0..keys {
                let x = scores.as_mut_ptr().add(j * width + at);
                let weight = V::load(x).sub(highest).exp2();
                weight.store(x);
                sum = sum.add(weight);
            }
            highest.store(max.as_mut_ptr().add(at));
            shrink.store(fade.as_mut_ptr().add(at));
            sum.store(total.as_mut_ptr().add(at));
        }
    }
}

/// `sums[d][i] = fade[i] sums[d][i] + Σ_j v[j][d] weights[j][i]`.
///
/// # Safety
/// The processor must have the instruction set of `V`; the values must exist; slices must hold whole rows.
#[inline(always)]
unsafe fn add_values<V: Vector, const R: usize, const VECTORS: usize>(
    at: &Head<'_>,
    dim: usize,
    first: usize,
    keys: usize,
    weights: &[f32],
    fade: &[f32],
    sums: &mut [f32],
) {
    let width = VECTORS * V::LANES;
    assert!(dim == 0 || at.v.len() >= (first + keys - 1) * at.v_stride + dim);
    assert!(weights.len() >= keys * width && fade.len() == width && sums.len() == dim * width);
    let mut d = 0;
    while d + R <= dim {
        // SAFETY: bounds asserted above.
        unsafe { add_rows::<V, R, VECTORS>(at, first, keys, weights, fade, sums, d) };
        d += R;
    }
    while d < dim {
        // SAFETY: bounds asserted above.
        unsafe { add_rows::<V, 1, VECTORS>(at, first, keys, weights, fade, sums, d) };
        d += 1;
    }
}

/// `R` features of [`add_values`].
///
/// # Safety
/// As there, with features `d..d + R`.
#[inline(always)]
unsafe fn add_rows<V: Vector, const R: usize, const VECTORS: usize>(
    at: &Head<'_>,
    first: usize,
    keys: usize,
    weights: &[f32],
    fade: &[f32],
    sums: &mut [f32],
    d: usize,
) {
    let width = VECTORS * V::LANES;
    // SAFETY: the caller checked the bounds.
    unsafe {
        let place = sums.as_mut_ptr().add(d * width);
        let fade: [V; VECTORS] = std::array::from_fn(|v| V::load(fade.as_ptr().add(v * V::LANES)));
        let mut acc: [[V; VECTORS]; R] =
            std::array::from_fn(|r| std::array::from_fn(|v| V::load(place.add(r * width + v * V::LANES)).mul(fade[v])));
        let mut value = at.v.as_ptr().add(first * at.v_stride + d);
        let mut weight = weights.as_ptr();
        for _ in 0..keys {
            let mut w = [V::splat(0.0); VECTORS];
            for (v, w) in w.iter_mut().enumerate() {
                *w = V::load(weight.add(v * V::LANES));
            }
            for r in 0..R {
                let x = V::splat(*value.add(r));
                for v in 0..VECTORS {
                    acc[r][v] = x.mul_add(w[v], acc[r][v]);
                }
            }
            value = value.wrapping_add(at.v_stride);
            weight = weight.add(width);
        }
        for r in 0..R {
            for v in 0..VECTORS {
                acc[r][v].store(place.add(r * width + v * V::LANES));
            }
        }
    }
}
