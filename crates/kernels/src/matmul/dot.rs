//! The AVX-512 BF16 product: tiles of eight rows and forty-eight outputs kept in registers.
//!
//! Rows are packed in panels of eight, `(panel, pair, row)`, beside the weight's `(panel, pair, output)`. For each
//! pair of inputs a tile loads three vectors of weights and broadcasts eight pairs of activations: 24 dot-product
//! instructions for 11 loads.

use super::bf16::{Out, PANEL, PackedBf16, Rows};
use crate::buffer::scratch;
use crate::cast;
use half::bf16;
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Rows per tile.
pub(crate) const ROWS: usize = 8;
/// Panels of rows that one task multiplies.
const TASK_ROWS: usize = 32;
/// Panels of outputs that one task multiplies.
const TASK_PANELS: usize = 8;
/// Pairs of inputs after which sums go to memory, so that a weight panel stays in the first-level cache.
const BLOCK: usize = 128;
/// Words that the packed rows take.
pub(super) fn packed_len(m: usize, k: usize) -> usize {
    m.div_ceil(ROWS) * k.div_ceil(2) * ROWS
}

/// `y = x wᵀ + bias` for some rows.
///
/// # Safety
/// The processor must have AVX-512 BF16; the caller has checked the shapes.
pub(super) unsafe fn band(m: usize, x: Rows<'_>, w: &PackedBf16, bias: Option<&[f32]>, y: Out) {
    let pairs = w.inputs().div_ceil(2);
    scratch::<u32, _>(packed_len(m, w.inputs()), |packed| {
        pack_rows(m, w.inputs(), x, packed);
        let packed = &*packed;
        let (row_tasks, panels) = (m.div_ceil(ROWS * TASK_ROWS), w.outputs().div_ceil(PANEL));
        let panel_tasks = panels.div_ceil(TASK_PANELS);
        (0..row_tasks * panel_tasks).into_par_iter().with_max_len(1).for_each(|task| {
            let (i, j) = (task % row_tasks * TASK_ROWS, task / row_tasks * TASK_PANELS);
            for panel in j..(j + TASK_PANELS).min(panels) {
                let weights = &w.words()[panel * pairs * PANEL..][..pairs * PANEL];
                let p = Panel { m, pairs, n: w.outputs(), panel, weights, bias, y };
                // SAFETY: passed on to the caller.
                unsafe { p.times(packed, i, (i + TASK_ROWS).min(m.div_ceil(ROWS))) };
            }
        });
    });
}

/// Columns `48 panel ..` of `y = x wᵀ + bias` for rows packed by [`pack_rows`] and one panel of weights.
///
/// # Safety
/// The processor must have AVX-512 BF16; `y` is `[m, n]` and no other task writes these columns.
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn panel_times_rows(
    m: usize,
    pairs: usize,
    n: usize,
    panel: usize,
    weights: &[u32],
    bias: Option<&[f32]>,
    y: Out,
    rows: &[u32],
) {
    let p = Panel { m, pairs, n, panel, weights, bias, y };
    // SAFETY: passed on to the caller.
    unsafe { p.times(rows, 0, m.div_ceil(ROWS)) }
}

/// Rounds rows to bfloat16 and packs them `(panel, pair, row)`; rows beyond the last are left as they are, their
/// sums are never stored.
pub(super) fn pack_rows(m: usize, k: usize, x: Rows<'_>, packed: &mut [u32]) {
    let pairs = k.div_ceil(2);
    if pairs == 0 {
        return;
    }
    packed.par_chunks_mut(pairs * ROWS).enumerate().for_each(|(panel, out)| {
        scratch::<bf16, _>(2 * pairs, |row| {
            row[2 * pairs - 1] = bf16::ZERO;
            for r in 0..ROWS.min(m - panel * ROWS) {
                let at = (panel * ROWS + r) * k;
                match x {
                    Rows::F32(x) => cast::f32_to_bf16(&x[at..at + k], &mut row[..k]),
                    Rows::Bf16(x) => row[..k].copy_from_slice(&x[at..at + k]),
                }
                let words: &[[bf16; 2]] = row.as_chunks().0;
                for (out, pair) in out.iter_mut().skip(r).step_by(ROWS).zip(words) {
                    *out = pair[0].to_bits() as u32 | (pair[1].to_bits() as u32) << 16;
                }
            }
        });
    });
}

/// One panel of outputs and where its products go.
struct Panel<'a> {
    m: usize,
    pairs: usize,
    n: usize,
    panel: usize,
    weights: &'a [u32],
    bias: Option<&'a [f32]>,
    y: Out,
}

impl Panel<'_> {
    /// Multiplies the row panels `from..to`.
    ///
    /// # Safety
    /// The processor must have AVX-512 BF16.
    unsafe fn times(&self, packed: &[u32], from: usize, to: usize) {
        // a result in bfloat16 cannot hold sums in between
        let block = if matches!(self.y, Out::F32(_)) { BLOCK } else { self.pairs.max(1) };
        let mut start = 0;
        loop {
            let end = (start + block).min(self.pairs);
            for i in from..to {
                let x = &packed[i * self.pairs * ROWS..][start * ROWS..end * ROWS];
                let w = &self.weights[start * PANEL..end * PANEL];
                // SAFETY: passed on to the caller.
                unsafe {
                    match (self.m - i * ROWS).min(ROWS) {
                        1 => self.tile::<1>(i, x, w, start == 0),
                        2 => self.tile::<2>(i, x, w, start == 0),
                        3 => self.tile::<3>(i, x, w, start == 0),
                        4 => self.tile::<4>(i, x, w, start == 0),
                        5 => self.tile::<5>(i, x, w, start == 0),
                        6 => self.tile::<6>(i, x, w, start == 0),
                        7 => self.tile::<7>(i, x, w, start == 0),
                        _ => self.tile::<8>(i, x, w, start == 0),
                    }
                }
            }
            if end == self.pairs {
                return;
            }
            start = end;
        }
    }

    /// One tile over one block of inputs: starts from the bias if `first`, from the stored sums otherwise.
    ///
    /// # Safety
    /// The processor must have AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn tile<const R: usize>(&self, i: usize, x: &[u32], w: &[u32], first: bool) {
        let column = self.panel * PANEL;
        let width = PANEL.min(self.n - column);
        let masks: [__mmask16; 3] = std::array::from_fn(|v| lanes(width.saturating_sub(16 * v)));
        let mut sums = [[_mm512_setzero_ps(); 3]; R];
        if first {
            if let Some(bias) = self.bias {
                let bias = &bias[column..column + width];
                for v in 0..3 {
                    // SAFETY: the mask keeps the load inside `bias`.
                    let b = unsafe { _mm512_maskz_loadu_ps(masks[v], bias.as_ptr().wrapping_add(16 * v)) };
                    for row in &mut sums {
                        row[v] = b;
                    }
                }
            }
        } else if let Out::F32(y) = self.y {
            for (r, row) in sums.iter_mut().enumerate() {
                // SAFETY: this tile is this task's alone.
                let y = unsafe { y.part((i * ROWS + r) * self.n + column, width) };
                for v in 0..3 {
                    // SAFETY: the mask keeps the load inside `y`.
                    row[v] = unsafe { _mm512_maskz_loadu_ps(masks[v], y.as_ptr().wrapping_add(16 * v)) };
                }
            }
        }
        // SAFETY: this function has the instruction set.
        unsafe { dots(x, w, &mut sums) };
        for (r, row) in sums.iter().enumerate() {
            let at = (i * ROWS + r) * self.n + column;
            match self.y {
                Out::F32(y) => {
                    // SAFETY: this tile is this task's alone.
                    let y = unsafe { y.part(at, width) };
                    for v in 0..3 {
                        // SAFETY: the mask keeps the store inside `y`.
                        unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr().wrapping_add(16 * v), masks[v], row[v]) };
                    }
                }
                Out::Bf16(y) => {
                    // SAFETY: this tile is this task's alone.
                    let y = unsafe { y.part(at, width) };
                    let mut wide = [0.0f32; PANEL];
                    for v in 0..3 {
                        // SAFETY: sixteen floats of `wide` from `16 v`.
                        unsafe { _mm512_storeu_ps(wide.as_mut_ptr().add(16 * v), row[v]) };
                    }
                    cast::f32_to_bf16(&wide[..width], y);
                }
            }
        }
    }
}

/// A mask of the first `count` lanes.
fn lanes(count: usize) -> __mmask16 {
    if count >= 16 { u16::MAX } else { (1u16 << count) - 1 }
}

/// `sums[r][v] += Σ_pair x[pair][r] · w[pair][v]`, pairs of `ROWS` words against pairs of `PANEL` words.
///
/// # Safety
/// The processor must have AVX-512 BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn dots<const R: usize>(x: &[u32], w: &[u32], sums: &mut [[__m512; 3]; R]) {
    let mut acc = *sums;
    for (x, w) in x.as_chunks::<ROWS>().0.iter().zip(w.as_chunks::<PANEL>().0) {
        // SAFETY: three vectors of sixteen words make up the 48 of `w`.
        let w: [__m512bh; 3] = std::array::from_fn(|v| unsafe {
            std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(w.as_ptr().add(16 * v).cast()))
        });
        for r in 0..R {
            // SAFETY: both types are 512 bits without invalid patterns.
            let x: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(x[r] as i32)) };
            for v in 0..3 {
                acc[r][v] = _mm512_dpbf16_ps(acc[r][v], w[v], x);
            }
        }
    }
    *sums = acc;
}
