//! Factorizations, by faer, with fixed signs and results that do not depend on the number of threads.

mod eigen;
mod inverse;
mod randomized;
mod solve;
mod svd;

pub use eigen::{Eigen, eigen_f64};
pub use inverse::InverseFactor;
pub use randomized::{randomized_svd_f32, randomized_svd_f64};
pub use solve::{Solver, matmul_f64, solve_scalar, solver_f32, solver_f64};
pub use svd::{Svd, svd_f32, svd_f64};

use faer::Par;

/// How faer may split work: into a fixed number of parts, however many threads then run them.
fn parts() -> Par {
    Par::rayon(PARTS)
}

/// Parts of a parallel factorization.
const PARTS: usize = 4;
