//! Products of packed rows with panels of weights, whichever instructions take them.

use super::bf16::{PANEL, PackedBf16, Rows, RowsMut};
use crate::buffer::{Shared, scratch};
use crate::cast;
use half::bf16;
use rayon::prelude::*;

/// Rows packed at once.
const BAND: usize = 4096;
/// Panels of outputs that one task multiplies.
const TASK_PANELS: usize = 8;

/// Instructions that multiply panels of rows with panels of weights.
pub(super) trait Kernel {
    /// Rows of a panel.
    const ROWS: usize;
    /// Panels of rows that one task multiplies.
    const TASK_ROWS: usize;
    /// Rows are filled up with zeros to a multiple of so many pairs of inputs.
    const PAIRS: usize;

    /// Puts the pairs of row `r` of a panel into its words.
    fn place(row: &[u32], r: usize, panel: &mut [u32]);

    /// Multiplies the panels of rows `from..to`, at most [`TASK_ROWS`](Self::TASK_ROWS).
    ///
    /// # Safety
    /// The processor must have the instructions; no other task writes what these rows and this panel make.
    unsafe fn times(p: &Panel<'_>, rows: &[u32], from: usize, to: usize);
}

/// Where sums go.
#[derive(Clone, Copy)]
pub(super) enum Out {
    F32(Shared<f32>),
    Bf16(Shared<bf16>),
}

/// One panel of outputs and where its products go.
pub(super) struct Panel<'a> {
    /// Rows of the result.
    pub m: usize,
    /// Pairs of inputs.
    pub pairs: usize,
    /// Columns of the result.
    pub n: usize,
    /// Which panel it is.
    pub panel: usize,
    /// `[pairs, PANEL]`.
    pub weights: &'a [u32],
    pub bias: Option<&'a [f32]>,
    pub y: Out,
}

/// `y = x wᵀ + bias`.
///
/// # Safety
/// The processor must have the instructions of `K`; the caller has checked the shapes.
pub(super) unsafe fn linear<K: Kernel>(
    m: usize,
    x: Rows<'_>,
    w: &PackedBf16,
    bias: Option<&[f32]>,
    mut y: RowsMut<'_>,
) {
    let (k, n, pairs) = (w.inputs(), w.outputs(), w.inputs().div_ceil(2));
    for first in (0..m).step_by(BAND) {
        let m = BAND.min(m - first);
        let (from, to) = (first * n, (first + m) * n);
        let y = match &mut y {
            RowsMut::F32(y) => Out::F32(Shared::new(&mut y[from..to])),
            RowsMut::Bf16(y) => Out::Bf16(Shared::new(&mut y[from..to])),
        };
        packed::<K>(m, k, x.slice(first * k..(first + m) * k), |rows| {
            let (row_panels, panels) = (m.div_ceil(K::ROWS), n.div_ceil(PANEL));
            let row_tasks = row_panels.div_ceil(K::TASK_ROWS);
            let tasks = (0..row_tasks * panels.div_ceil(TASK_PANELS)).into_par_iter().with_max_len(1);
            tasks.for_each(|task| {
                let (i, j) = (task % row_tasks * K::TASK_ROWS, task / row_tasks * TASK_PANELS);
                for panel in j..(j + TASK_PANELS).min(panels) {
                    let weights = &w.words()[panel * pairs * PANEL..][..pairs * PANEL];
                    let p = Panel { m, pairs, n, panel, weights, bias, y };
                    // SAFETY: passed on to the caller; tasks do not overlap.
                    unsafe { K::times(&p, rows, i, (i + K::TASK_ROWS).min(row_panels)) };
                }
            });
        });
    }
}

/// `y = x wᵀ + bias` for `x` `[m, k]` and `y` `[m, n]`, where `make` writes the panels of the weight, `[pairs, PANEL]`, as
/// they are needed.
///
/// # Safety
/// As [`linear`].
pub(super) unsafe fn made<K: Kernel>(
    [m, k, n]: [usize; 3],
    x: Rows<'_>,
    make: impl Fn(usize, &mut [u32]) + Sync,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let (pairs, y) = (k.div_ceil(2), Out::F32(Shared::new(y)));
    packed::<K>(m, k, x, |rows| {
        (0..n.div_ceil(PANEL)).into_par_iter().with_max_len(1).for_each(|panel| {
            scratch::<u32, _>(pairs * PANEL, |weights| {
                make(panel, weights);
                let p = Panel { m, pairs, n, panel, weights, bias, y };
                let all = m.div_ceil(K::ROWS);
                for first in (0..all).step_by(K::TASK_ROWS) {
                    // SAFETY: passed on to the caller; panels of outputs do not overlap.
                    unsafe { K::times(&p, rows, first, (first + K::TASK_ROWS).min(all)) };
                }
            });
        });
    });
}

/// Rounds rows to bfloat16 and packs them panel by panel. Rows beyond the last of the last panel hold anything; their sums
/// are never stored.
fn packed<K: Kernel>(m: usize, k: usize, x: Rows<'_>, work: impl FnOnce(&[u32])) {
    let pairs = k.div_ceil(2).next_multiple_of(K::PAIRS);
    scratch::<u32, _>(m.div_ceil(K::ROWS) * K::ROWS * pairs, |packed| {
        packed.par_chunks_mut((K::ROWS * pairs).max(1)).enumerate().for_each(|(panel, words)| {
            scratch::<bf16, _>(2 * pairs, |row| {
                row[k..].fill(bf16::ZERO);
                for r in 0..K::ROWS.min(m - panel * K::ROWS) {
                    let at = (panel * K::ROWS + r) * k;
                    match x {
                        Rows::F32(x) => cast::f32_to_bf16(&x[at..at + k], &mut row[..k]),
                        Rows::Bf16(x) => row[..k].copy_from_slice(&x[at..at + k]),
                    }
                    K::place(bytemuck::cast_slice(row), r, words);
                }
            });
        });
        work(packed);
    });
}
