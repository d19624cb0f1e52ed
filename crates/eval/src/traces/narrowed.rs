//! What can be said of a value vector whose MLP has lost channels, when nothing says which.

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::{Solver, solver_f64};
use brevity_kernels::matmul::Rows;
use brevity_model::Weight;
use brevity_runtime::Compute;
use serde::{Deserialize, Serialize};

use super::columns::columns;
use crate::sts::cosine;

/// What can be said of a vector whose MLP has fewer channels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Narrowed {
    /// Channels that are left.
    pub channels: usize,
    /// The largest cosine of the vector with a column that is left: 1 if it has only moved.
    pub nearest: f64,
    /// The share of the vector's square that the columns left can make up together. It is 1 for any vector once there
    /// are as many columns as the model is wide.
    pub r_squared: f64,
}

/// The columns that are left of a narrowed MLP.
pub(super) struct Rest {
    /// Rows are columns of the weight.
    columns: Vec<f32>,
    channels: usize,
    hidden: usize,
    ridge: f64,
    /// Of `G + λ`, with `G` the sum of `v vᵀ` over the columns; none if they are all zero.
    solver: Option<Solver<f64>>,
}

impl Rest {
    /// Of a weight `[hidden, channels]`.
    pub fn new(weight: &Weight) -> Rest {
        let [hidden, channels] = weight.shape();
        let columns = columns(weight, &(0..channels).collect::<Vec<_>>());
        let mut gram = Gram::new(hidden);
        gram.add(channels, Rows::F32(&columns), Compute::F32);
        let ridge = 1e-6 * gram.trace() / hidden as f64;
        let mut gram = gram.to_f64();
        (0..hidden).for_each(|i| gram[i * hidden + i] += ridge);
        Rest { columns, channels, hidden, ridge, solver: solver_f64(gram, hidden).ok() }
    }

    /// By least squares with a ridge `λ` of a millionth of the mean diagonal, `1 - λ vᵀ (G + λ)⁻¹ v / ‖v‖²`: what columns
    /// can make up only by cancelling each other does not count.
    pub fn narrowed(&self, vector: &[f32]) -> Option<Narrowed> {
        let vector64: Vec<f64> = vector.iter().map(|&x| f64::from(x)).collect();
        let mut solved = vector64.clone();
        self.solver.as_ref()?.solve(&mut solved);
        let missed = self.ridge * vector64.iter().zip(&solved).map(|(v, s)| v * s).sum::<f64>();
        let square = vector64.iter().map(|v| v * v).sum::<f64>();
        let nearest = self.columns.chunks(self.hidden).map(|column| cosine(vector, column)).fold(-1.0, f64::max);
        let r_squared = (1.0 - missed / square).clamp(0.0, 1.0);
        (square > 0.0).then_some(Narrowed { channels: self.channels, nearest, r_squared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::Floats;

    #[test]
    fn what_is_in_the_span_can_be_made_up() {
        // Columns (1, 0, 0) and (1, 1, 0) in three dimensions.
        let rest = Rest::new(&Weight::float([3, 2], Floats::F32(vec![1.0, 1.0, 0.0, 1.0, 0.0, 0.0])));
        let inside = rest.narrowed(&[2.0, 2.0, 0.0]).unwrap();
        assert_eq!(inside.channels, 2);
        assert!((inside.nearest - 1.0).abs() < 1e-9 && inside.r_squared > 0.9999, "{inside:?}");
        let turned = rest.narrowed(&[1.0, -2.0, 0.0]).unwrap();
        assert!(turned.nearest < 0.5 && turned.r_squared > 0.9999, "{turned:?}");
        let outside = rest.narrowed(&[0.0, 0.0, 1.0]).unwrap();
        assert!(outside.nearest.abs() < 1e-9 && outside.r_squared < 1e-9, "{outside:?}");
        let half = rest.narrowed(&[0.0, 1.0, 1.0]).unwrap();
        assert!((half.r_squared - 0.5).abs() < 1e-4, "{half:?}");
    }
}
