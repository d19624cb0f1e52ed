//! Sums of outer products over many rows: what calibration knows of the inputs of a layer.
//!
//! [`Gram`] holds `Σ xᵀx` as the tiles of its upper triangle, [`Cross`] holds `Σ aᵀb` whole. Both add blocks of rows
//! in single precision (or with operands rounded to bfloat16), at most 1024 rows to a sum, and keep the totals in
//! double precision, so that millions of rows lose nothing. Work is split among threads by places of the totals,
//! never by rows, so the number of threads changes no bit. [`Outer`] is for rows of different widths.
//!
//! Beside the totals, adding takes the packed form of 1024 rows (4 KiB a column, twice that for a [`Cross`] in single
//! precision) and a few hundred KiB per thread.

mod chunk;
mod cross;
mod outer;
mod scalar;
#[cfg(test)]
mod tests;
mod through;
mod upper;
#[cfg(target_arch = "x86_64")]
mod words;

pub use cross::Cross;
pub use outer::Outer;
pub use scalar::{cross_scalar, gram_scalar, inner_scalar};
pub use upper::Gram;

/// Rows and columns of a tile. Totals are kept, split among threads and given back tile by tile.
pub const TILE: usize = 192;

/// Rows of a tile that one task works out: small enough that a few tiles are shared evenly among threads.
const STRIP: usize = TILE / 2;

/// Columns of tile `tile` of `n` in all.
fn span(n: usize, tile: usize) -> std::ops::Range<usize> {
    tile * TILE..n.min((tile + 1) * TILE)
}

/// The rows of strip `s` of the tiles in row `i`.
fn strip(n: usize, i: usize, s: usize) -> std::ops::Range<usize> {
    let first = i * TILE + s * STRIP;
    first..n.min(first + STRIP)
}
