//! A few rows times a matrix: reading the weights once is the cost.

use super::{Dims, FEW};
use crate::buffer::Shared;
use crate::cpu::dispatch;
use crate::math::mul_add;
use rayon::prelude::*;

const LANES: usize = 16;

/// `y[r][j] = x[r] · w[j] + bias[j]` for `R` rows and the outputs `j` of this piece.
#[inline(always)]
fn dots<const FMA: bool, const R: usize>(k: usize, x: &[f32], w: &[f32], mut write: impl FnMut(usize, [f32; R])) {
    let whole = k / LANES * LANES;
    for (j, w) in w.chunks_exact(k).enumerate() {
        let mut sums = [[0.0f32; LANES]; R];
        let mut at = 0;
        while at < whole {
            let wc: &[f32; LANES] = w[at..at + LANES].try_into().expect("a whole chunk");
            for r in 0..R {
                let xc: &[f32; LANES] = x[r * k + at..][..LANES].try_into().expect("a whole chunk");
                for i in 0..LANES {
                    sums[r][i] = mul_add::<FMA>(wc[i], xc[i], sums[r][i]);
                }
            }
            at += LANES;
        }
        let mut out = [0.0; R];
        for r in 0..R {
            for i in whole..k {
                sums[r][i - whole] = mul_add::<FMA>(w[i], x[r * k + i], sums[r][i - whole]);
            }
            let s = &mut sums[r];
            for half in [8, 4, 2, 1] {
                for i in 0..half {
                    s[i] += s[i + half];
                }
            }
            out[r] = s[0];
        }
        write(j, out);
    }
}

/// The outputs `first..first + w.len() / k` of all rows; `y` is the whole `[m, n]` result.
#[inline(always)]
fn piece_body<const FMA: bool>(d: Dims, x: &[f32], w: &[f32], bias: Option<&[f32]>, first: usize, y: Shared<f32>) {
    fn put<const R: usize>(
        d: Dims,
        row: usize,
        bias: Option<&[f32]>,
        first: usize,
        y: Shared<f32>,
    ) -> impl Fn(usize, [f32; R]) {
        move |j, sums| {
            let b = bias.map_or(0.0, |b| b[first + j]);
            for (r, s) in sums.iter().enumerate() {
                // SAFETY: output `first + j` belongs to this piece alone; the result outlives the call.
                unsafe { y.part((row + r) * d.n + first + j, 1)[0] = s + b };
            }
        }
    }
    let mut row = 0;
    while row < d.m {
        let x = &x[row * d.k..];
        let left = d.m - row;
        if left >= 4 {
            dots::<FMA, 4>(d.k, x, w, put::<4>(d, row, bias, first, y));
            row += 4;
        } else if left >= 2 {
            dots::<FMA, 2>(d.k, x, w, put::<2>(d, row, bias, first, y));
            row += 2;
        } else {
            dots::<FMA, 1>(d.k, x, w, put::<1>(d, row, bias, first, y));
            row += 1;
        }
    }
}

dispatch! { fn piece(d: Dims, x: &[f32], w: &[f32], bias: Option<&[f32]>, first: usize, y: Shared<f32>) = piece_body }

/// `y = x wᵀ + bias` for at most [`FEW`] rows; the caller has checked the shapes.
pub(super) fn few_rows(d: Dims, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    debug_assert!(d.m <= FEW);
    if y.is_empty() {
        return;
    }
    if d.k == 0 {
        for row in y.chunks_exact_mut(d.n) {
            match bias {
                Some(b) => row.copy_from_slice(b),
                None => row.fill(0.0),
            }
        }
        return;
    }
    // pieces of 64 kB of weights: the second pass over rows finds them in the second-level cache
    let outputs = ((1 << 14) / d.k).max(1);
    let y = Shared::new(y);
    if d.n <= outputs {
        return piece(d, x, w, bias, 0, y);
    }
    w.par_chunks(outputs * d.k).enumerate().for_each(|(i, w)| piece(d, x, w, bias, i * outputs, y));
}
