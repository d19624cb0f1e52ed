//! Sums of outer products over many rows: what calibration knows of the inputs of a layer.
//!
//! [`Gram`] holds `Σ xᵀx` as the tiles of its upper triangle, [`Cross`] holds `Σ aᵀb` whole. Both add blocks of rows
//! in single precision (or with operands rounded to bfloat16) and keep the totals in double precision, so that
//! millions of rows lose nothing.

use crate::matmul::Rows;
use crate::ops::Compute;
use half::bf16;

mod summary;
mod through;

/// Rows and columns of a tile. Totals are kept, split among threads and given back tile by tile.
pub const TILE: usize = 192;

/// `Σ xᵀx` over rows `x` of `n` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    n: usize,
    /// Row by row, the tiles on and right of the diagonal; each row-major and as large as the matrix leaves it.
    tiles: Vec<Vec<f64>>,
}

impl Gram {
    /// Nothing seen yet.
    pub fn new(n: usize) -> Self {
        let tiles = places(n).map(|(i, j)| vec![0.0; width(n, i) * width(n, j)]).collect();
        Gram { n, tiles }
    }

    /// Rows and columns.
    pub fn size(&self) -> usize {
        self.n
    }

    /// Memory that the totals of rows of `n` numbers take.
    pub fn bytes(n: usize) -> u64 {
        places(n).map(|(i, j)| 8 * (width(n, i) * width(n, j)) as u64).sum()
    }

    /// Adds `xᵀx` for `x` `[rows, n]`.
    pub fn add(&mut self, rows: usize, x: Rows<'_>, compute: Compute) {
        let x = values(rows * self.n, x, compute);
        let n = self.n;
        for ((i, j), tile) in places(n).zip(&mut self.tiles) {
            outer(rows, n, &x, i, &x, j, tile);
        }
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Gram) {
        assert_eq!(self.n, other.n, "both saw rows of one length");
        for (a, b) in self.tiles.iter_mut().zip(&other.tiles) {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        }
    }

    /// The diagonal: `Σ x_j²`.
    pub fn diagonal(&self) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.n);
        for ((i, _), tile) in places(self.n).zip(&self.tiles).filter(|((i, j), _)| i == j) {
            let w = width(self.n, i);
            out.extend((0..w).map(|k| tile[k * w + k]));
        }
        out
    }

    /// The whole symmetric matrix, `[n, n]`.
    pub fn to_f64(&self) -> Vec<f64> {
        let n = self.n;
        let mut out = vec![0.0; n * n];
        for ((i, j), tile) in places(n).zip(&self.tiles) {
            let w = width(n, j);
            for (r, row) in tile.chunks(w).enumerate() {
                for (c, &value) in row.iter().enumerate() {
                    out[(i * TILE + r) * n + j * TILE + c] = value;
                    out[(j * TILE + c) * n + i * TILE + r] = value;
                }
            }
        }
        out
    }

    /// The whole symmetric matrix in single precision, `[n, n]`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.to_f64().into_iter().map(|x| x as f32).collect()
    }
}

/// `Σ aᵀb` over pairs of rows of `n` numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Cross {
    n: usize,
    total: Vec<f64>,
}

impl Cross {
    /// Nothing seen yet.
    pub fn new(n: usize) -> Self {
        Cross { n, total: vec![0.0; n * n] }
    }

    /// Rows and columns.
    pub fn size(&self) -> usize {
        self.n
    }

    /// Memory that the totals of rows of `n` numbers take.
    pub fn bytes(n: usize) -> u64 {
        8 * (n * n) as u64
    }

    /// Adds `aᵀb` for `a` and `b` `[rows, n]`.
    pub fn add(&mut self, rows: usize, a: Rows<'_>, b: Rows<'_>, compute: Compute) {
        let n = self.n;
        let (a, b) = (values(rows * n, a, compute), values(rows * n, b, compute));
        for t in 0..rows {
            for i in 0..n {
                for j in 0..n {
                    self.total[i * n + j] += f64::from(a[t * n + i]) * f64::from(b[t * n + j]);
                }
            }
        }
    }

    /// Adds what another has seen.
    pub fn merge(&mut self, other: &Cross) {
        assert_eq!(self.n, other.n, "both saw rows of one length");
        self.total.iter_mut().zip(&other.total).for_each(|(a, b)| *a += b);
    }

    /// The totals, `[n, n]`.
    pub fn as_f64(&self) -> &[f64] {
        &self.total
    }

    /// The totals in single precision, `[n, n]`.
    pub fn to_f32(&self) -> Vec<f32> {
        self.total.iter().map(|&x| x as f32).collect()
    }
}

/// The tiles on and right of the diagonal, row by row.
fn places(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = n.div_ceil(TILE);
    (0..tiles).flat_map(move |i| (i..tiles).map(move |j| (i, j)))
}

fn width(n: usize, tile: usize) -> usize {
    TILE.min(n - tile * TILE)
}

fn values(count: usize, x: Rows<'_>, compute: Compute) -> Vec<f32> {
    let values: Vec<f32> = match x {
        Rows::F32(x) if compute == Compute::Bf16 => x.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        Rows::F32(x) => x.to_vec(),
        Rows::Bf16(x) => x.iter().map(|x| x.to_f32()).collect(),
    };
    assert_eq!(values.len(), count, "the rows have their shape");
    values
}

fn outer(rows: usize, n: usize, a: &[f32], i: usize, b: &[f32], j: usize, tile: &mut [f64]) {
    let (wi, wj) = (width(n, i), width(n, j));
    for t in 0..rows {
        for r in 0..wi {
            for c in 0..wj {
                tile[r * wj + c] += f64::from(a[t * n + i * TILE + r]) * f64::from(b[t * n + j * TILE + c]);
            }
        }
    }
}
