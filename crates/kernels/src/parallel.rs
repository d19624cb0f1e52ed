//! Cutting work into fixed pieces.

use rayon::prelude::*;

/// Elements one task should handle, so that starting it costs little beside its work.
const PIECE: usize = 1 << 15;

/// Rows of `cols` elements per task; depends on the shape only.
pub(crate) fn rows_per_task(cols: usize) -> usize {
    (PIECE / cols.max(1)).max(1)
}

/// Runs `work(first_row, rows_of_x, rows_of_y)` over pieces of two matrices with `rows` rows.
pub(crate) fn rows2<X: Sync, Y: Send>(
    x: &[X],
    x_cols: usize,
    y: &mut [Y],
    y_cols: usize,
    work: impl Fn(usize, &[X], &mut [Y]) + Sync,
) {
    if x_cols == 0 || y_cols == 0 || y.is_empty() {
        return;
    }
    let rows = rows_per_task(x_cols.max(y_cols));
    if y.len() <= rows * y_cols {
        return work(0, x, y);
    }
    y.par_chunks_mut(rows * y_cols)
        .zip(x.par_chunks(rows * x_cols))
        .enumerate()
        .for_each(|(i, (y, x))| work(i * rows, x, y));
}

/// Runs `work` over pieces of an elementwise map.
pub(crate) fn map<X: Sync, Y: Send>(x: &[X], y: &mut [Y], work: impl Fn(&[X], &mut [Y]) + Sync) {
    assert_eq!(x.len(), y.len(), "input and output of an elementwise map have one length");
    if x.len() <= PIECE {
        return work(x, y);
    }
    y.par_chunks_mut(PIECE).zip(x.par_chunks(PIECE)).for_each(|(y, x)| work(x, y));
}

/// Runs `work` over pieces of an elementwise map of two inputs.
pub(crate) fn map2<X: Sync, Y: Send>(a: &[X], b: &[X], y: &mut [Y], work: impl Fn(&[X], &[X], &mut [Y]) + Sync) {
    assert_eq!(a.len(), y.len(), "input and output of an elementwise map have one length");
    assert_eq!(b.len(), y.len(), "input and output of an elementwise map have one length");
    if a.len() <= PIECE {
        return work(a, b, y);
    }
    y.par_chunks_mut(PIECE).zip(a.par_chunks(PIECE).zip(b.par_chunks(PIECE))).for_each(|(y, (a, b))| work(a, b, y));
}
