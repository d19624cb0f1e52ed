//! A step of ridge regression: `W D (H + λ h I)⁻¹`.

use brevity_kernels::Error;
use brevity_kernels::linalg::{Solver, matmul_f64, solver_f32, solver_f64};
use brevity_kernels::matmul::{Dims, matmul_f32};

/// The most inputs for single precision, and the largest ratio of eigenvalues.
const SINGLE: usize = 8192;
const CONDITION: f64 = (1 << 20) as f64;

/// `H / h + λ I`, factored; `h` is the mean of the diagonal of `H`.
#[derive(Debug)]
pub(super) struct Ridge {
    n: usize,
    h: f64,
    solver: Precision,
}

#[derive(Debug)]
enum Precision {
    Single(Solver<f32>),
    Double(Solver<f64>),
}

impl Ridge {
    /// Factors `gram` `[n, n]`, which is not zero, with a ridge.
    ///
    /// # Errors
    /// Those of [`solver_f64`]; only for `λ` near zero is a finite Gram matrix refused.
    pub fn new(mut gram: Vec<f64>, n: usize, lambda: f64) -> Result<Self, Error> {
        let h = (0..n).map(|j| gram[j * n + j]).sum::<f64>() / n as f64;
        gram.iter_mut().for_each(|x| *x /= h);
        (0..n).for_each(|j| gram[j * n + j] += lambda);
        // The eigenvalues of `H / h` sum to n, so those of the sum lie between λ and λ + n.
        let solver = if n <= SINGLE && n as f64 <= CONDITION * lambda {
            let singles = gram.iter().map(|&x| x as f32).collect();
            drop(gram);
            Precision::Single(solver_f32(singles, n)?)
        } else {
            Precision::Double(solver_f64(gram, n)?)
        };
        Ok(Ridge { n, h, solver })
    }

    /// `W D (H + λ h I)⁻¹` for `w` `[m, n]` and `drift` `[n, n]`.
    pub fn step(&self, w: &[f32], drift: &[f64]) -> Vec<f32> {
        let n = self.n;
        let d = Dims { m: w.len() / n, k: n, n };
        match &self.solver {
            Precision::Single(solver) => {
                let drift: Vec<f32> = drift.iter().map(|&x| (x / self.h) as f32).collect();
                let mut step = vec![0.0; w.len()];
                matmul_f32(d, w, &drift, &mut step);
                solver.solve(&mut step);
                step
            }
            Precision::Double(solver) => {
                let wide: Vec<f64> = w.iter().map(|&x| f64::from(x) / self.h).collect();
                let mut step = matmul_f64(d, &wide, drift);
                solver.solve(&mut step);
                step.into_iter().map(|x| x as f32).collect()
            }
        }
    }
}
