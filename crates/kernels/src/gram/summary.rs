//! Numbers drawn from what was seen.

use super::{Gram, TILE, places, width};
use crate::matmul::{Dims, matmul_f32};

impl Gram {
    /// The sum of the diagonal.
    pub fn trace(&self) -> f64 {
        self.diagonal().iter().sum()
    }

    /// The whole symmetric matrix with entry `(i, j)` taken from `(order[i], order[j])`.
    pub fn ordered_f64(&self, order: &[u32], out: &mut [f64]) {
        self.ordered(order, out, |x| x);
    }

    /// Like [`Gram::ordered_f64`], in single precision.
    pub fn ordered_f32(&self, order: &[u32], out: &mut [f32]) {
        self.ordered(order, out, |x| x as f32);
    }

    fn ordered<T>(&self, order: &[u32], out: &mut [T], narrow: impl Fn(f64) -> T) {
        let n = self.n;
        assert!(order.len() == n && out.len() == n * n, "one place for each input");
        let mut place = vec![0; n];
        order.iter().enumerate().for_each(|(at, &input)| place[input as usize] = at);
        for ((i, j), tile) in places(n).zip(&self.tiles) {
            let w = width(n, j);
            for (r, row) in tile.chunks(w).enumerate() {
                for (c, &value) in row.iter().enumerate() {
                    let (a, b) = (place[i * TILE + r], place[j * TILE + c]);
                    out[a * n + b] = narrow(value);
                    out[b * n + a] = narrow(value);
                }
            }
        }
    }

    /// `tr(D G Dᵀ)` for `d` `[rows, n]`: the squared error that a change `D` of a weight makes on what was seen.
    pub fn quadratic(&self, rows: usize, d: &[f32]) -> f64 {
        let n = self.n;
        assert_eq!(d.len(), rows * n, "the matrix has its shape");
        let mut product = vec![0.0; rows * n];
        matmul_f32(Dims { m: rows, k: n, n }, d, &self.to_f32(), &mut product);
        d.iter().zip(&product).map(|(&d, &p)| f64::from(d) * f64::from(p)).sum()
    }
}
