//! A step of ridge regression: `W D (H + λ h I)⁻¹`, or `P (H + λ h I)⁻¹`.

use brevity_kernels::Error;
use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::{Solver, matmul_f64, solver_f32, solver_f64};
use brevity_kernels::matmul::{Dims, matmul_f32};

/// The most inputs for single precision, and the largest ratio of eigenvalues.
const SINGLE: usize = 8192;
const CONDITION: f64 = (1 << 20) as f64;

/// `H / h + λ I`, factored; `h` is the mean of the diagonal of `H`.
#[derive(Debug)]
pub(crate) struct Ridge {
    n: usize,
    h: f64,
    delicate: bool,
    solver: Precision,
}

#[derive(Debug)]
enum Precision {
    Single(Solver<f32>),
    Double(Solver<f64>),
}

impl Ridge {
    /// Factors a Gram matrix, which is not zero, with a ridge.
    ///
    /// # Errors
    /// Those of [`solver_f64`]; only for `λ` near zero is a finite Gram matrix refused.
    pub fn new(gram: &Gram, lambda: f64) -> Result<Self, Error> {
        let n = gram.size();
        let h = gram.trace() / n as f64;
        // The eigenvalues of `H / h` sum to n, so those of the sum lie between λ and λ + n.
        let delicate = n as f64 > CONDITION * lambda;
        let solver = if n <= SINGLE && !delicate {
            let mut a = gram.to_f32();
            let scale = (1.0 / h) as f32;
            a.iter_mut().for_each(|x| *x *= scale);
            (0..n).for_each(|j| a[j * n + j] += lambda as f32);
            Precision::Single(solver_f32(a, n)?)
        } else {
            let mut a = gram.to_f64();
            a.iter_mut().for_each(|x| *x /= h);
            (0..n).for_each(|j| a[j * n + j] += lambda);
            Precision::Double(solver_f64(a, n)?)
        };
        Ok(Ridge { n, h, delicate, solver })
    }

    /// Whether `λ` is so small that `W D` must be in double precision too.
    pub fn is_delicate(&self) -> bool {
        self.delicate
    }

    /// `W D (H + λ h I)⁻¹` for `w` `[m, n]` and `drift` `[n, n]`, in double precision as far as this is.
    pub fn step(&self, w: &[f32], drift: &[f64]) -> Vec<f32> {
        match &self.solver {
            Precision::Single(_) => self.solve(&product(w, self.n, &singles(drift))),
            Precision::Double(solver) => {
                let n = self.n;
                let wide: Vec<f64> = w.iter().map(|&x| f64::from(x) / self.h).collect();
                let mut step = matmul_f64(Dims { m: w.len() / n, k: n, n }, &wide, drift);
                solver.solve(&mut step);
                step.into_iter().map(|x| x as f32).collect()
            }
        }
    }

    /// `P (H + λ h I)⁻¹` for a `P` in double precision.
    pub fn toward(&self, pull: &[f64]) -> Vec<f32> {
        match &self.solver {
            Precision::Single(_) => self.solve(&singles(pull)),
            Precision::Double(solver) => {
                let mut step: Vec<f64> = pull.iter().map(|x| x / self.h).collect();
                solver.solve(&mut step);
                step.into_iter().map(|x| x as f32).collect()
            }
        }
    }

    /// The same from `W D`, where that is not delicate.
    pub fn solve(&self, product: &[f32]) -> Vec<f32> {
        match &self.solver {
            Precision::Single(solver) => {
                let scale = (1.0 / self.h) as f32;
                let mut step: Vec<f32> = product.iter().map(|x| x * scale).collect();
                solver.solve(&mut step);
                step
            }
            Precision::Double(solver) => {
                let mut step: Vec<f64> = product.iter().map(|&x| f64::from(x) / self.h).collect();
                solver.solve(&mut step);
                step.into_iter().map(|x| x as f32).collect()
            }
        }
    }
}

/// `W D` in single precision.
pub(crate) fn product(w: &[f32], n: usize, drift: &[f32]) -> Vec<f32> {
    let mut product = vec![0.0; w.len()];
    matmul_f32(Dims { m: w.len() / n, k: n, n }, w, drift, &mut product);
    product
}

pub(crate) fn singles(drift: &[f64]) -> Vec<f32> {
    drift.iter().map(|&x| x as f32).collect()
}
