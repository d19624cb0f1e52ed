//! Fitting cores to the inputs of a layer, one after the other.
//!
//! With all cores but one fixed, the matrix is linear in that one, so `tr((W - Ŵ) H (W - Ŵ)ᵀ)` is a quadratic function
//! of it. Its normal equations have as many unknowns as the core has numbers, so they are solved step by step and never
//! written down: a step of conjugate gradients needs the matrix that a change of the core makes, its product with `H`,
//! and what that is when it is seen from the core. Each step makes the function smaller.
//!
//! The cores before and behind the one in hand are kept orthogonal, so that its numbers count alike.

use brevity_kernels::Error;
use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::svd_f64;
use brevity_kernels::matmul::{Dims, matmul_f32, matmul_nt_f32, matmul_tn_f32};

use super::layout::Layout;
use super::split::turned;

/// Steps of conjugate gradients for a core, unless the gradient is gone before.
const STEPS: usize = 12;
/// The share of the squared gradient at which it is gone.
const GONE: f64 = 1e-10;

/// A train that is being fitted.
pub(super) struct Problem<'a> {
    w: &'a [f32],
    layout: &'a Layout,
    gram: Vec<f32>,
    cores: Vec<Vec<f32>>,
}

impl<'a> Problem<'a> {
    /// Of cores that are orthogonal but for the last.
    pub fn new(w: &'a [f32], layout: &'a Layout, gram: &Gram, cores: Vec<Vec<f32>>) -> Self {
        // Scaled, so that sums stay far from the ends of single precision.
        let scale = 1.0 / (gram.trace() / gram.size() as f64);
        let gram = gram.to_f64().into_iter().map(|x| (x * scale) as f32).collect();
        Problem { w, layout, gram, cores }
    }

    /// The cores as they are; all but the last are orthogonal.
    pub fn cores(&self) -> &[Vec<f32>] {
        &self.cores
    }

    /// Fits each core from the last but one to the first, then back to the last.
    ///
    /// # Errors
    /// If a decomposition does not converge.
    pub fn sweep(&mut self) -> Result<(), Error> {
        let last = self.cores.len() - 1;
        for k in (0..last).rev() {
            self.left(k + 1)?;
            self.fit(k);
        }
        for k in 1..=last {
            self.right(k - 1)?;
            self.fit(k);
        }
        Ok(())
    }

    /// Moves what is not orthogonal of core `k`, `[a, i j b]`, to the core before it.
    fn left(&mut self, k: usize) -> Result<(), Error> {
        let bonds = self.layout.bonds_of(&self.cores);
        let (a, rest) = (bonds[k], self.cores[k].len() / bonds[k]);
        let svd = svd_f64(&wide(&self.cores[k]), [a, rest])?;
        let terms = svd.s.len();
        let before = &self.cores[k - 1]; // [.., a] times [a, terms]
        let moved: Vec<f32> =
            svd.u.chunks(terms).flat_map(|row| row.iter().zip(&svd.s).map(|(u, s)| (u * s) as f32)).collect();
        let mut product = vec![0.0; before.len() / a * terms];
        matmul_f32(Dims { m: before.len() / a, k: a, n: terms }, before, &moved, &mut product);
        self.cores[k - 1] = product;
        self.cores[k] = svd.vt.into_iter().map(|x| x as f32).collect();
        Ok(())
    }

    /// Moves what is not orthogonal of core `k`, `[a i j, b]`, to the core behind it.
    fn right(&mut self, k: usize) -> Result<(), Error> {
        let b = self.layout.bonds_of(&self.cores)[k + 1];
        let rest = self.cores[k].len() / b;
        let svd = svd_f64(&wide(&self.cores[k]), [rest, b])?;
        let terms = svd.s.len();
        let moved: Vec<f32> =
            svd.vt.chunks(b).zip(&svd.s).flat_map(|(row, s)| row.iter().map(move |v| (v * s) as f32)).collect();
        let behind = &self.cores[k + 1]; // [terms, b] times [b, ..]
        let mut product = vec![0.0; terms * (behind.len() / b)];
        matmul_f32(Dims { m: terms, k: b, n: behind.len() / b }, &moved, behind, &mut product);
        self.cores[k + 1] = product;
        self.cores[k] = svd.u.into_iter().map(|x| x as f32).collect();
        Ok(())
    }

    /// Some steps of conjugate gradients on core `k`.
    fn fit(&mut self, k: usize) {
        let seat = Seat::new(self.layout, &self.cores, k);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let now = self.layout.matrix(&self.cores);
        let gone: Vec<f32> = self.w.iter().zip(now).map(|(w, v)| w - v).collect();
        // Minus half the gradient, and the way to go.
        let mut r = seat.seen(&self.weighted(&gone));
        let mut p = r.clone();
        let mut size = dot(&r, &r);
        let enough = GONE * size;
        for _ in 0..STEPS {
            if size <= enough {
                break;
            }
            let q = seat.seen(&self.weighted(&seat.matrix(&p)));
            let bend = dot(&p, &q);
            if bend <= 0.0 {
                break;
            }
            let step = (size / bend) as f32;
            self.cores[k].iter_mut().zip(&p).for_each(|(c, p)| *c += step * p);
            r.iter_mut().zip(&q).for_each(|(r, q)| *r -= step * q);
            let next = dot(&r, &r);
            let keep = (next / size) as f32;
            p.iter_mut().zip(&r).for_each(|(p, r)| *p = r + keep * *p);
            size = next;
        }
    }

    /// A change `[out, in]` times `H`.
    fn weighted(&self, d: &[f32]) -> Vec<f32> {
        let [m, n] = self.layout.shape;
        let mut product = vec![0.0; m * n];
        matmul_f32(Dims { m, k: n, n }, d, &self.gram, &mut product);
        product
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

/// A core between the others, which are multiplied out.
struct Seat<'a> {
    layout: &'a Layout,
    /// Digits and bonds of the core, `[a, i, j, b]`.
    core: [usize; 4],
    /// The cores before it: rows, columns, and `[rows, columns, a]`.
    before: (usize, usize, Vec<f32>),
    /// The cores behind it: rows, columns, and `[b, rows, columns]`.
    behind: (usize, usize, Vec<f32>),
}

impl<'a> Seat<'a> {
    fn new(layout: &'a Layout, cores: &[Vec<f32>], k: usize) -> Self {
        let bonds = layout.bonds_of(cores);
        let (mut rows, mut columns, mut before) = (1, 1, vec![1.0]);
        for l in 0..k {
            let (i, j, a, b) = (layout.rows[l], layout.columns[l], bonds[l], bonds[l + 1]);
            let mut next = vec![0.0; rows * columns * i * j * b];
            matmul_f32(Dims { m: rows * columns, k: a, n: i * j * b }, &before, &cores[l], &mut next);
            before = turned(&next, [rows, columns, i, j * b]);
            (rows, columns) = (rows * i, columns * j);
        }
        let before = (rows, columns, before);
        let (mut rows, mut columns, mut behind) = (1, 1, vec![1.0]);
        for l in (k + 1..cores.len()).rev() {
            let (i, j, a, b) = (layout.rows[l], layout.columns[l], bonds[l], bonds[l + 1]);
            let mut next = vec![0.0; a * i * j * rows * columns];
            matmul_f32(Dims { m: a * i * j, k: b, n: rows * columns }, &cores[l], &behind, &mut next);
            behind = turned(&next, [a * i, j, rows, columns]);
            (rows, columns) = (rows * i, columns * j);
        }
        let core = [bonds[k], layout.rows[k], layout.columns[k], bonds[k + 1]];
        Seat { layout, core, before, behind: (rows, columns, behind) }
    }

    /// The matrix `[out, in]` that a core here makes.
    fn matrix(&self, core: &[f32]) -> Vec<f32> {
        let [a, i, j, b] = self.core;
        let ((r1, c1, before), (r2, c2, behind)) = (&self.before, &self.behind);
        let mut half = vec![0.0; r1 * c1 * i * j * b];
        matmul_f32(Dims { m: r1 * c1, k: a, n: i * j * b }, before, core, &mut half); // [r1, c1, i, j, b]
        let half = turned(&half, [*r1, *c1, i, j * b]); // [r1, i, c1, j, b]
        let mut whole = vec![0.0; r1 * i * c1 * j * r2 * c2];
        matmul_f32(Dims { m: r1 * i * c1 * j, k: b, n: r2 * c2 }, &half, behind, &mut whole);
        let whole = turned(&whole, [r1 * i, c1 * j, *r2, *c2]); // [r1, i, r2, c1, j, c2]
        let ([m, n], [_, columns]) = (self.layout.shape, self.layout.padded());
        if columns == n {
            return whole[..m * n].to_vec();
        }
        whole.chunks(columns).take(m).flat_map(|row| &row[..n]).copied().collect()
    }

    /// The adjoint of [`Seat::matrix`]: what a matrix `[out, in]` is, seen from the core.
    fn seen(&self, d: &[f32]) -> Vec<f32> {
        let [a, i, j, b] = self.core;
        let ((r1, c1, before), (r2, c2, behind)) = (&self.before, &self.behind);
        let ([_, n], [rows, columns]) = (self.layout.shape, self.layout.padded());
        let mut whole = vec![0.0; rows * columns];
        whole.chunks_mut(columns).zip(d.chunks(n)).for_each(|(to, from)| to[..n].copy_from_slice(from));
        let whole = turned(&whole, [r1 * i, *r2, c1 * j, *c2]); // [r1, i, c1, j, r2, c2]
        let mut half = vec![0.0; r1 * i * c1 * j * b];
        matmul_nt_f32(Dims { m: r1 * i * c1 * j, k: r2 * c2, n: b }, &whole, behind, &mut half);
        let half = turned(&half, [*r1, i, *c1, j * b]); // [r1, c1, i, j, b]
        let mut core = vec![0.0; a * i * j * b];
        matmul_tn_f32(Dims { m: a, k: r1 * c1, n: i * j * b }, before, &half, &mut core);
        core
    }
}
