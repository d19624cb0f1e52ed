//! Products of a tile of attention with AVX-512 BF16: eight keys or value features and forty-eight queries in registers.

use super::pairs::{Piece, Products, WIDTH};
use std::arch::x86_64::*;

/// Keys or value features whose sums are in registers at once.
const ROWS: usize = 8;

/// The instructions.
pub(super) struct Dot(());

impl Products for Dot {
    const STEP: usize = 2;
    const PAIRS: usize = 1;
    const FEATURES: usize = 1;

    unsafe fn lend(work: impl FnOnce(&Self)) {
        work(&Dot(()));
    }

    fn multiply_keys(&self, p: &Piece<'_>, first: usize, keys: usize, queries: &[u32], scores: &mut [f32]) {
        // SAFETY: whoever lent the instructions knew that the processor has them.
        unsafe { multiply_keys(p, first, keys, queries, scores) }
    }

    fn add_values(&self, p: &Piece<'_>, first: usize, keys: usize, weights: &[u32], fade: &[f32], sums: &mut [f32]) {
        // SAFETY: as above.
        unsafe { add_values(p, first / 2, keys / 2, weights, fade, sums) }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply_keys(p: &Piece<'_>, first: usize, keys: usize, queries: &[u32], scores: &mut [f32]) {
    let pairs = p.size.pairs;
    for j in (0..keys).step_by(ROWS) {
        // rows beyond the last key repeat it and are not looked at
        let rows: [&[u32]; ROWS] = std::array::from_fn(|r| &p.keys[(first + (j + r).min(keys - 1)) * pairs..][..pairs]);
        let mut sums = [[_mm512_setzero_ps(); 3]; ROWS];
        for (n, q) in queries.as_chunks::<WIDTH>().0.iter().enumerate() {
            let q = vectors(q);
            for r in 0..ROWS {
                // SAFETY: `queries` has `pairs` rows, as many words as every key.
                let k = broadcast(unsafe { *rows[r].get_unchecked(n) });
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

#[target_feature(enable = "avx512f,avx512bf16")]
fn add_values(p: &Piece<'_>, first: usize, pairs: usize, weights: &[u32], fade: &[f32], sums: &mut [f32]) {
    let dim = p.size.features;
    let values = &p.values[first * dim..(first + pairs) * dim];
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

/// `R` features of [`add_values`]; `values` starts at the first.
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
