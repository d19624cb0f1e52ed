//! The AVX-512 BF16 product: tiles of eight rows and forty-eight outputs kept in registers.
//!
//! Rows are packed in panels of eight, `(panel, pair, row)`, beside the weight's `(panel, pair, output)`. For each
//! pair of inputs a tile loads three vectors of weights and broadcasts eight pairs of activations: 24 dot-product
//! instructions for 11 loads.

use super::bf16::PANEL;
use super::panels::{Kernel, Out, Panel};
use crate::cast;
use std::arch::x86_64::*;

/// Rows per tile.
pub(crate) const ROWS: usize = 8;
/// Pairs of inputs after which sums go to memory, so that a weight panel stays in the first-level cache.
const BLOCK: usize = 128;

/// The instructions. Rows are packed `(panel, pair, row)`.
pub(super) struct Dot;

impl Kernel for Dot {
    const ROWS: usize = ROWS;
    const TASK_ROWS: usize = 32;
    const PAIRS: usize = 1;

    fn place(row: &[u32], r: usize, panel: &mut [u32]) {
        panel.iter_mut().skip(r).step_by(ROWS).zip(row).for_each(|(to, word)| *to = *word);
    }

    unsafe fn times(p: &Panel<'_>, packed: &[u32], from: usize, to: usize) {
        // a result in bfloat16 cannot hold sums in between
        let block = if matches!(p.y, Out::F32(_)) { BLOCK } else { p.pairs.max(1) };
        let mut start = 0;
        loop {
            let end = (start + block).min(p.pairs);
            for i in from..to {
                let x = &packed[i * p.pairs * ROWS..][start * ROWS..end * ROWS];
                let w = &p.weights[start * PANEL..end * PANEL];
                // SAFETY: passed on to the caller.
                unsafe {
                    match (p.m - i * ROWS).min(ROWS) {
                        1 => p.tile::<1>(i, x, w, start == 0),
                        2 => p.tile::<2>(i, x, w, start == 0),
                        3 => p.tile::<3>(i, x, w, start == 0),
                        4 => p.tile::<4>(i, x, w, start == 0),
                        5 => p.tile::<5>(i, x, w, start == 0),
                        6 => p.tile::<6>(i, x, w, start == 0),
                        7 => p.tile::<7>(i, x, w, start == 0),
                        _ => p.tile::<8>(i, x, w, start == 0),
                    }
                }
            }
            if end == p.pairs {
                return;
            }
            start = end;
        }
    }
}

impl Panel<'_> {
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
