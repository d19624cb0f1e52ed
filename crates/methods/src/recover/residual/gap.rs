//! What the residual stream behind a layer lacks, and how much of it a change of the layer would give.

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::matmul_f64;
use brevity_kernels::matmul::Dims;
use brevity_kernels::ops::Compute;
use brevity_model::{Linear, Weight};

use super::super::ridge::Ridge;
use crate::inputs::rows_of;
use crate::seen::Fold;

/// What some samples show of the inputs `z` of a layer and of the gap `e` behind it.
pub(super) struct View {
    count: f64,
    /// `Σ z zᵀ`, `[in, in]`.
    gram: Gram,
    /// `Σ e zᵀ`, `[out, in]`.
    pull: Vec<f64>,
    /// `Σ z`.
    sum: Vec<f64>,
    /// `Σ e`.
    gap: Vec<f64>,
    /// `Σ ‖e‖²`.
    squares: f64,
}

impl View {
    /// What a fold shows, if it shows both.
    pub fn of(fold: &Fold) -> Option<Self> {
        let (gram, gap) = (fold.gram.clone()?, fold.gap.as_ref()?);
        let sum = if fold.sum.is_empty() { vec![0.0; gram.size()] } else { fold.sum.clone() };
        Some(View {
            count: fold.count as f64,
            gram,
            pull: gap.pull.as_f64().to_vec(),
            sum,
            gap: gap.sum.clone(),
            squares: gap.squares,
        })
    }

    pub fn outputs(&self) -> usize {
        self.gap.len()
    }

    pub fn squares(&self) -> f64 {
        self.squares
    }

    /// Whether nothing is lacking.
    pub fn is_closed(&self) -> bool {
        self.squares <= 0.0
    }

    /// Whether anything but zeros was seen of the inputs.
    pub fn is_known(&self) -> bool {
        self.gram.trace() > 0.0
    }

    /// Both together.
    pub fn merged(&self, other: &View) -> View {
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        let mut gram = self.gram.clone();
        gram.merge(&other.gram);
        View {
            count: self.count + other.count,
            gram,
            pull: add(&self.pull, &other.pull),
            sum: add(&self.sum, &other.sum),
            gap: add(&self.gap, &other.gap),
            squares: self.squares + other.squares,
        }
    }

    /// Takes account of what steps have changed of the layer since its inputs were looked at.
    pub fn behind(&mut self, before: &Linear<Weight>, now: &Linear<Weight>) {
        if before.weight == now.weight && before.bias == now.bias {
            return;
        }
        let (m, n) = (self.outputs(), self.sum.len());
        let gone = |before: &Weight, now: &Weight| -> Vec<f32> {
            before.to_f32().iter().zip(now.to_f32()).map(|(b, now)| now - b).collect()
        };
        let change = gone(&before.weight, &now.weight);
        let shift: Vec<f64> = match (&before.bias, &now.bias) {
            (Some(before), Some(now)) => gone(before, now).into_iter().map(f64::from).collect(),
            (None, Some(now)) => now.to_f32().into_iter().map(f64::from).collect(),
            _ => vec![0.0; m],
        };
        if change.iter().all(|&x| x == 0.0) && shift.iter().all(|&x| x == 0.0) {
            return;
        }
        let rows: Vec<usize> = (0..m).collect();
        self.squares = (self.squares - self.gain(&rows, &change, Some(&shift))).max(f64::MIN_POSITIVE);
        let wide: Vec<f64> = change.iter().map(|&x| f64::from(x)).collect();
        let given = matmul_f64(Dims { m, k: n, n }, &wide, &self.gram.to_f64());
        for (i, row) in self.pull.chunks_mut(n).enumerate() {
            let given = &given[i * n..(i + 1) * n];
            row.iter_mut().zip(given.iter().zip(&self.sum)).for_each(|(p, (g, z))| *p -= g + shift[i] * z);
            self.gap[i] -= dot(&wide[i * n..(i + 1) * n], &self.sum) + self.count * shift[i];
        }
    }

    /// What is seen behind a matrix `[rows, in]` that the inputs pass first.
    pub fn through(self, b: &[f32], rows: usize) -> View {
        let (m, n) = (self.outputs(), self.sum.len());
        let turned: Vec<f64> = (0..n * rows).map(|at| f64::from(b[at % rows * n + at / rows])).collect();
        let wide = |row: &[f32]| row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        View {
            gram: self.gram.through(rows, b),
            pull: matmul_f64(Dims { m, k: n, n: rows }, &self.pull, &turned),
            sum: b.chunks(n).map(|row| dot(&wide(row), &self.sum)).collect(),
            ..self
        }
    }

    /// The change of some rows of the matrix, and of the bias if there is one, that closes the gap best; `None` if the
    /// samples leave it open.
    pub fn fit(&self, rows: &[usize], lambda: f64, centre: bool) -> Option<(Vec<f32>, Option<Vec<f64>>)> {
        let n = self.sum.len();
        let mut pull = rows_of(&self.pull, n, rows.iter().copied());
        let ridge = match centre {
            false => Ridge::new(&self.gram, lambda),
            true => {
                let mut whole = self.gram.to_f64();
                for (i, row) in whole.chunks_mut(n).enumerate() {
                    row.iter_mut().zip(&self.sum).for_each(|(h, z)| *h -= self.sum[i] * z / self.count);
                }
                for (row, &i) in pull.chunks_mut(n).zip(rows) {
                    row.iter_mut().zip(&self.sum).for_each(|(p, z)| *p -= self.gap[i] * z / self.count);
                }
                let gram = Gram::from_f64(n, &whole);
                if gram.trace() <= 0.0 {
                    return None;
                }
                Ridge::new(&gram, lambda)
            }
        };
        let change = ridge.ok()?.toward(&pull);
        let shift = |(row, &i): (&[f32], &usize)| {
            let given: f64 = row.iter().zip(&self.sum).map(|(&w, z)| f64::from(w) * z).sum();
            (self.gap[i] - given) / self.count
        };
        let shift = centre.then(|| change.chunks(n).zip(rows).map(shift).collect());
        change.iter().all(|x| x.is_finite()).then_some((change, shift))
    }

    /// By how much a change of these rows, and of their bias, lowers the squared gap:
    /// `2 tr(D Δᵀ) - tr(Δ H Δᵀ) + Σ δ (2 (Σ e - Δ Σ z) - T δ)`.
    pub fn gain(&self, rows: &[usize], change: &[f32], shift: Option<&[f64]>) -> f64 {
        let n = self.sum.len();
        let mut gain = -self.gram.quadratic(rows.len(), change, Compute::F32);
        for ((row, &i), at) in change.chunks(n).zip(rows).zip(0..) {
            let (mut along, mut given) = (0.0, 0.0);
            for ((&w, p), z) in row.iter().zip(&self.pull[i * n..]).zip(&self.sum) {
                along += f64::from(w) * p;
                given += f64::from(w) * z;
            }
            let of_bias = shift.map_or(0.0, |shift| {
                let shift: f64 = shift[at];
                shift * (2.0 * (self.gap[i] - given) - self.count * shift)
            });
            gain += 2.0 * along + of_bias;
        }
        gain
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
