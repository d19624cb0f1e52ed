//! Rows in bfloat16 as the AVX-512 dot product wants them: two rows of a column side by side in a word.
//!
//! Pairs of rows are cut in blocks of [`BLOCK`]. In a block the left operand lies `(panel of 8 columns, pair, 8)`, or for AMX
//! `(panel of 16 columns, step of 16 pairs, column, pair)`, and the right one `(panel of 48 columns, pair, 48)`, so that a panel
//! of the right one stays in the first-level cache while those of the left one pass by. Columns beyond the last, the second
//! row of the last pair of an odd number, and pairs up to the next whole step are zero.

use super::TILE;
use crate::buffer::scratch;
use crate::cast;
use crate::matmul::{DEEP, HIGH, Lines, PANEL, ROWS, Rows, Tiles, dots};
use rayon::prelude::*;
use std::arch::x86_64::*;
use std::ops::Range;

/// Pairs of rows in a block.
const BLOCK: usize = 128;
/// Words of a block of 48 columns: one panel on the right, six on the left.
const GROUP: usize = BLOCK * PANEL;
/// Groups that one task packs.
const RUN: usize = 8;

/// Both operands of `aᵀb`, packed.
pub(super) struct Words<'a> {
    n: usize,
    /// Whether they are packed for AMX.
    tiles: bool,
    left: &'a [u32],
    right: &'a [u32],
}

/// Packs `rows` rows of both operands, for AMX or not, and runs `work` on them; without a `b` the operands are one.
///
/// # Safety
/// The processor must have AVX-512 BF16; for `tiles` the system must have granted AMX.
pub(super) unsafe fn packed(
    n: usize,
    rows: usize,
    a: Rows<'_>,
    b: Option<Rows<'_>>,
    tiles: bool,
    work: impl FnOnce(Words<'_>),
) {
    let regroup = if tiles { turn } else { regroup };
    let block = n.div_ceil(PANEL) * GROUP;
    let len = rows.div_ceil(2 * BLOCK) * block;
    scratch::<u32, _>(2 * len, |room| {
        let (left, right) = room.split_at_mut(len);
        let blocks = left.par_chunks_mut(block).zip(right.par_chunks_mut(block)).with_max_len(1).enumerate();
        blocks.for_each(|(i, (left, right))| {
            let from = i * 2 * BLOCK * n;
            let at = from..(from + 2 * BLOCK * n).min(rows * n);
            let runs = left.par_chunks_mut(RUN * GROUP).zip(right.par_chunks_mut(RUN * GROUP)).enumerate();
            runs.for_each(|(run, (left, right))| {
                let column = run * RUN * PANEL;
                // SAFETY: passed on to the caller.
                let fill = |x: Rows<'_>, out: &mut [u32]| unsafe {
                    match x.slice(at.clone()) {
                        Rows::F32(x) => pair_up(n, column, x, out, |x| u32::from(cast::to_bf16(x).to_bits())),
                        Rows::Bf16(x) => pair_up(n, column, x, out, |x| u32::from(x.to_bits())),
                    }
                };
                fill(b.unwrap_or(a), right);
                match b {
                    None => regroup(right, left),
                    Some(_) => scratch::<u32, _>(left.len(), |room| {
                        fill(a, room);
                        regroup(room, left);
                    }),
                }
            });
        });
        work(Words { n, tiles, left, right });
    });
}

/// Pairs up rows, from `column` on as many columns as there is room for; rows are read along, as memory likes it.
///
/// # Safety
/// The processor must have AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pair_up<T: Copy + Default>(n: usize, column: usize, x: &[T], out: &mut [u32], bits: impl Fn(T) -> u32) {
    let pairs = x.len().div_ceil(2 * n);
    for out in out.chunks_exact_mut(GROUP) {
        out[pairs * PANEL..pairs.next_multiple_of(DEEP) * PANEL].fill(0);
    }
    for (p, pair) in x.chunks(2 * n).enumerate() {
        let (low, high) = pair.split_at(n);
        for (g, out) in out.chunks_exact_mut(GROUP).enumerate() {
            let at = column + g * PANEL;
            let words = &mut out.as_chunks_mut::<PANEL>().0[p];
            let whole = |row: &[T]| row.get(at..).and_then(|row| row.first_chunk::<PANEL>().copied());
            if let (Some(low), Some(high)) = (whole(low), whole(high)) {
                for c in 0..PANEL {
                    words[c] = bits(low[c]) | bits(high[c]) << 16;
                }
            } else {
                let one = |row: &[T], c: usize| bits(row.get(at + c).copied().unwrap_or_default());
                for c in 0..PANEL {
                    words[c] = one(low, c) | one(high, c) << 16;
                }
            }
        }
    }
}

/// From panels of 48 columns to panels of 8.
fn regroup(wide: &[u32], narrow: &mut [u32]) {
    for (wide, narrow) in wide.chunks_exact(GROUP).zip(narrow.chunks_exact_mut(GROUP)) {
        for (pair, words) in wide.as_chunks::<PANEL>().0.iter().enumerate() {
            for (q, words) in words.as_chunks::<ROWS>().0.iter().enumerate() {
                narrow[q * BLOCK * ROWS + pair * ROWS..][..ROWS].copy_from_slice(words);
            }
        }
    }
}

/// From panels of 48 columns to tiles of 16 columns, each of which lies in a line of the cache.
fn turn(wide: &[u32], narrow: &mut [u32]) {
    for (wide, narrow) in wide.chunks_exact(GROUP).zip(narrow.chunks_exact_mut(GROUP)) {
        for (panel, narrow) in narrow.chunks_exact_mut(BLOCK * HIGH).enumerate() {
            for (step, tile) in narrow.chunks_exact_mut(DEEP * HIGH).enumerate() {
                for (column, line) in tile.chunks_exact_mut(DEEP).enumerate() {
                    let at = step * DEEP * PANEL + panel * HIGH + column;
                    line.iter_mut().zip(wide[at..].iter().step_by(PANEL)).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
}

impl Words<'_> {
    /// The part of `aᵀb` at columns `rows` of `a` and `cols` of `b`, summed over all `tokens`, into `sums` whose rows lie
    /// [`TILE`] apart. Of an `upper` triangle, tiles left of the diagonal keep what they held.
    ///
    /// # Safety
    /// The processor must have AVX-512 BF16.
    pub(super) unsafe fn product(
        &self,
        tokens: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        upper: bool,
        sums: &mut [f32],
    ) {
        if self.tiles {
            let lent = |tiles: &Tiles| {
                self.each::<HIGH>(tokens, rows, cols, upper, sums, |pairs, x, w, sums, keep| {
                    tiles.product(pairs.div_ceil(DEEP), Lines::packed(x), w, sums, TILE, keep);
                });
            };
            // SAFETY: whoever packed for AMX knew that the system has granted it.
            unsafe { Tiles::lend(lent) }
        } else {
            self.each::<ROWS>(tokens, rows, cols, upper, sums, |pairs, x, w, sums, keep| {
                // SAFETY: passed on to the caller.
                unsafe { micro(&x[..pairs * ROWS], &w[..pairs * PANEL], sums, keep) };
            });
        }
    }

    /// Calls `add(pairs, left panel, right panel, sums, keep)` for each tile of `R` rows and 48 columns and each block of pairs.
    fn each<const R: usize>(
        &self,
        tokens: usize,
        rows: Range<usize>,
        cols: Range<usize>,
        upper: bool,
        sums: &mut [f32],
        add: impl Fn(usize, &[u32], &[u32], &mut [f32], bool),
    ) {
        let groups = self.n.div_ceil(PANEL);
        for first in (0..tokens).step_by(2 * BLOCK) {
            let pairs = (tokens - first).div_ceil(2).min(BLOCK);
            let block = first / (2 * BLOCK) * groups * GROUP;
            for j in cols.start / PANEL..cols.end.div_ceil(PANEL) {
                let w = &self.right[block + j * GROUP..][..GROUP];
                let ends = if upper { rows.end.min((j + 1) * PANEL) } else { rows.end };
                for i in rows.start / R..ends.div_ceil(R) {
                    let x = &self.left[block + i * BLOCK * R..][..BLOCK * R];
                    let at = (i * R - rows.start) * TILE + j * PANEL - cols.start;
                    add(pairs, x, w, &mut sums[at..at + (R - 1) * TILE + PANEL], first > 0);
                }
            }
        }
    }
}

/// Eight rows of 48 sums, added to what they held if `keep`.
///
/// # Safety
/// The processor must have AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn micro(x: &[u32], w: &[u32], sums: &mut [f32], keep: bool) {
    assert_eq!(sums.len(), (ROWS - 1) * TILE + PANEL, "eight rows of a tile");
    let mut acc = [[_mm512_setzero_ps(); 3]; ROWS];
    for (r, row) in acc.iter_mut().enumerate().filter(|_| keep) {
        for v in 0..3 {
            // SAFETY: the assertion covers sixteen floats from `16 v` of row `r`.
            row[v] = unsafe { _mm512_loadu_ps(sums.as_ptr().add(r * TILE + 16 * v)) };
        }
    }
    // SAFETY: this function has the instruction set.
    unsafe { dots(x, w, &mut acc) };
    for (r, row) in acc.iter().enumerate() {
        for v in 0..3 {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add(r * TILE + 16 * v), row[v]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gram::gram_scalar;
    use crate::ops::Compute;

    #[test]
    fn both_ways_of_packing_give_the_definition() {
        let features = crate::cpu::features();
        for tiles in [(features.avx512_bf16, false), (features.amx_bf16, true)].into_iter().filter(|(has, _)| *has) {
            for (n, rows) in [(1, 1), (50, 3), (96, 256), (97, 257), (130, 613)] {
                let x: Vec<f32> = (0..n * rows).map(|i| ((i * 7919) % 2003) as f32 / 1000.0 - 1.0).collect();
                let want = gram_scalar(n, rows, Rows::F32(&x), Compute::Bf16);
                let mut sums = vec![0.0; 96 * TILE];
                let (all, first) = (0..n.min(TILE), 0..n.min(96));
                // SAFETY: the processor has what is asked for.
                unsafe {
                    packed(n, rows, Rows::F32(&x), None, tiles.1, |words| {
                        words.product(rows, first.clone(), all.clone(), false, &mut sums);
                    });
                }
                for (r, c) in first.clone().flat_map(|r| all.clone().map(move |c| (r, c))) {
                    let (got, want) = (f64::from(sums[r * TILE + c]), want[r * n + c]);
                    assert!((got - want).abs() < 1e-3, "{n} {rows} {tiles:?} at {r} {c}: {got} {want}");
                }
            }
        }
    }
}
