//! A chunk of rows made ready to multiply, and its products with double-precision totals.

use super::{STRIP, TILE};
use crate::buffer::scratch;
use crate::cast;
use crate::cpu::dispatch;
use crate::matmul::{Rows, tile_tn};
use crate::ops::Compute;
use half::bf16;
use std::ops::Range;

/// Rows of a chunk: few enough to be summed in single precision, and for their packed form to stay in the cache that
/// cores share. Four times as many measured the same, and take four times the memory.
const SUM: usize = 1024;

/// Some rows of both operands of `aᵀb`.
pub(super) struct Chunk<'a> {
    n: usize,
    rows: usize,
    operands: Operands<'a>,
}

enum Operands<'a> {
    Floats(&'a [f32], &'a [f32]),
    #[cfg(target_arch = "x86_64")]
    Words(super::words::Words<'a>),
}

/// Runs `work` on chunk after chunk of the rows of `aᵀb`, or of `aᵀa` where there is no `b`.
pub(super) fn chunks(
    n: usize,
    rows: usize,
    a: Rows<'_>,
    b: Option<Rows<'_>>,
    compute: Compute,
    mut work: impl FnMut(&Chunk<'_>),
) {
    assert!([Some(a), b].iter().flatten().all(|x| x.len() == rows * n), "the rows have their shape");
    if n == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if compute == Compute::Bf16 && crate::cpu::features().avx512_bf16 {
        let tiles = crate::cpu::features().amx_bf16;
        for first in (0..rows).step_by(SUM) {
            let count = SUM.min(rows - first);
            let at = first * n..(first + count) * n;
            // SAFETY: the processor has AVX-512 BF16.
            unsafe {
                super::words::packed(n, count, a.slice(at.clone()), b.map(|b| b.slice(at)), tiles, |words| {
                    work(&Chunk { n, rows: count, operands: Operands::Words(words) });
                });
            }
        }
        return;
    }
    single(n, rows, a, b, compute == Compute::Bf16, work);
}

/// [`chunks`] in single precision, of operands rounded to bfloat16 first where `round` says so.
pub(super) fn single(
    n: usize,
    rows: usize,
    a: Rows<'_>,
    b: Option<Rows<'_>>,
    round: bool,
    mut work: impl FnMut(&Chunk<'_>),
) {
    for first in (0..rows).step_by(SUM) {
        let rows = SUM.min(rows - first);
        let at = first * n..(first + rows) * n;
        floats(a.slice(at.clone()), round, |a| match b {
            None => work(&Chunk { n, rows, operands: Operands::Floats(a, a) }),
            Some(b) => floats(b.slice(at.clone()), round, |b| {
                work(&Chunk { n, rows, operands: Operands::Floats(a, b) });
            }),
        });
    }
}

fn floats(x: Rows<'_>, round: bool, work: impl FnOnce(&[f32])) {
    match x {
        Rows::F32(x) if !round => work(x),
        Rows::F32(x) => scratch::<f32, _>(x.len(), |room| {
            room.iter_mut().zip(x).for_each(|(r, &x)| *r = bf16::from_f32(x).to_f32());
            work(room);
        }),
        Rows::Bf16(x) => scratch::<f32, _>(x.len(), |room| {
            cast::bf16_to_f32(x, room);
            work(room);
        }),
    }
}

impl Chunk<'_> {
    /// Works out rows `rows` (at most [`STRIP`]) and columns `cols` (at most [`TILE`]) of `aᵀb` on this thread and
    /// hands them to `work(row, column, sums)`: the sums of a row from a column on, counted from the first of each.
    /// Of an `upper` triangle a row begins at the diagonal.
    ///
    /// `rows` begins at a multiple of [`STRIP`], `cols` at one of [`TILE`].
    pub(super) fn product(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        upper: bool,
        mut work: impl FnMut(usize, usize, &[f32]),
    ) {
        scratch::<f32, _>(STRIP * TILE, |sums| {
            match &self.operands {
                Operands::Floats(a, b) => {
                    let skip = if upper { rows.start.saturating_sub(cols.start) } else { 0 };
                    let (from, d) = (cols.start + skip, [rows.len(), self.rows, cols.len() - skip]);
                    tile_tn(d, &a[rows.start..], &b[from..], self.n, &mut sums[skip..], TILE);
                }
                #[cfg(target_arch = "x86_64")]
                // SAFETY: words are only made where there is AVX-512 BF16.
                Operands::Words(words) => unsafe { words.product(self.rows, rows.clone(), cols.clone(), upper, sums) },
            }
            for r in 0..rows.len() {
                let c = if upper { (rows.start + r).saturating_sub(cols.start) } else { 0 };
                work(r, c, &sums[r * TILE + c..r * TILE + cols.len()]);
            }
        });
    }
}

#[inline(always)]
fn add_body<const FMA: bool>(total: &mut [f64], sums: &[f32]) {
    total.iter_mut().zip(sums).for_each(|(t, s)| *t += f64::from(*s));
}

#[inline(always)]
fn dot_body<const FMA: bool>(total: &[f64], sums: &[f32]) -> f64 {
    let mut lanes = [0.0; 16];
    let ((t, t_tail), (s, s_tail)) = (total.as_chunks::<16>(), sums.as_chunks::<16>());
    for (t, s) in t.iter().zip(s) {
        for l in 0..16 {
            lanes[l] += t[l] * f64::from(s[l]);
        }
    }
    let tail: f64 = t_tail.iter().zip(s_tail).map(|(t, s)| t * f64::from(*s)).sum();
    lanes.iter().sum::<f64>() + tail
}

dispatch! {
    /// `total += sums`.
    pub(super) fn add(total: &mut [f64], sums: &[f32]) = add_body
}
dispatch! {
    /// `Σ total · sums`.
    pub(super) fn dot(total: &[f64], sums: &[f32]) -> f64 = dot_body
}
