//! Tensor trains applied core by core.

use candle_core::Tensor;

use crate::applied::Applied;
use crate::error::Result;

/// A tensor train ready to be applied without its matrix.
///
/// The last core comes first. Before core `k` the activations are `[.., j_1 … j_k, i_{k+1} … i_K, b_k]`; it takes the
/// digit `j_k` and the bond `b_k`, and gives the digit `i_k` and the bond before it.
///
/// # Cost
/// [`brevity_model::Train::multiplications`] for each row, and a copy of the activations behind each core.
#[derive(Clone, Debug)]
pub struct Chain {
    /// `[out, in]`.
    pub(crate) shape: [usize; 2],
    pub(crate) rows: Vec<usize>,
    pub(crate) columns: Vec<usize>,
    pub(crate) bonds: Vec<usize>,
    pub(crate) cores: Vec<Applied>,
}

impl Chain {
    /// `W x` for each row of `x` `[.., in]`.
    pub(crate) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let [outputs, inputs] = self.shape;
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == inputs => *last = outputs,
            _ => {
                let what = format!("a [{outputs}, {inputs}] train cannot take inputs of shape {:?}", x.dims());
                return Err(candle_core::Error::Msg(what).into());
            }
        }
        let tokens: usize = shape[..shape.len() - 1].iter().product();
        let mut before: usize = self.columns.iter().product();
        let mut behind = 1;
        let mut y = x.reshape((tokens, inputs))?.pad_with_zeros(1, 0, before - inputs)?;
        for (k, core) in self.cores.iter().enumerate().rev() {
            let (i, j, bond) = (self.rows[k], self.columns[k], self.bonds[k]);
            before /= j;
            let x = y.reshape((tokens * before * behind, j * self.bonds[k + 1]))?;
            let z = core.apply(&x, None)?; // [tokens * before * behind, bond * i]
            // The next core wants its digit and the bond side by side at the end, and the new digit before the older.
            let next = if k > 0 { self.columns[k - 1] } else { 1 };
            let z = z.reshape((tokens * before / next, next, behind, bond, i))?;
            y = z.permute((0, 4, 2, 1, 3))?.contiguous()?; // [.., i, behind, next, bond]
            behind *= i;
        }
        Ok(y.reshape((tokens, behind))?.narrow(1, 0, outputs)?.contiguous()?.reshape(shape)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Prepare, Trains};
    use brevity_kernels::ops::Compute;
    use brevity_model::{Floats, Train, Weight};
    use candle_core::Device;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 23) as f32 / 8.0 - 1.3).collect()
    }

    /// A train of these digits and bonds.
    fn train(shape: [usize; 2], rows: &[usize], columns: &[usize], bonds: &[usize]) -> Weight {
        let core = |k: usize| {
            let shape = [bonds[k] * rows[k], columns[k] * bonds[k + 1]];
            Weight::float(shape, Floats::F32(numbers(shape[0] * shape[1], k)))
        };
        let cores = (0..rows.len()).map(core).collect();
        Weight::train(Train { shape, rows: rows.to_vec(), columns: columns.to_vec(), cores })
    }

    fn trains() -> Vec<Weight> {
        vec![
            train([5, 7], &[5], &[7], &[1, 1]),
            train([6, 6], &[2, 3], &[3, 2], &[1, 1, 1]),
            train([12, 10], &[4, 3], &[2, 5], &[1, 3, 1]),
            train([11, 9], &[4, 3], &[2, 5], &[1, 3, 1]),
            train([23, 29], &[2, 3, 4], &[5, 2, 3], &[1, 4, 2, 1]),
        ]
    }

    #[test]
    fn core_by_core_equals_the_matrix() {
        for weight in trains() {
            let [outputs, inputs] = weight.shape();
            let x = Tensor::from_vec(numbers(3 * 2 * inputs, 5), (3, 2, inputs), &Device::Cpu).unwrap();
            let bias = Tensor::from_vec(numbers(outputs, 6), outputs, &Device::Cpu).unwrap();
            let applied = |trains: Trains| {
                let applied = Prepare { trains, ..Prepare::new(Compute::F32) }.matrix(weight.clone()).unwrap();
                assert_eq!(matches!(applied, Applied::Train(_)), trains == Trains::Contracted);
                applied.apply(&x, Some(&bias)).unwrap()
            };
            let (chain, matrix) = (applied(Trains::Contracted), applied(Trains::Rebuilt));
            assert_eq!(chain.dims(), [3, 2, outputs]);
            let w = Tensor::from_vec(weight.to_f32(), (outputs, inputs), &Device::Cpu).unwrap();
            let direct = x.broadcast_matmul(&w.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let largest = values(&direct).iter().fold(0f32, |most, x| most.max(x.abs()));
            for other in [&chain, &matrix] {
                let gap = values(&direct).iter().zip(values(other)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(gap <= 1e-5 * largest, "{:?}: {gap} of {largest}", weight.shape());
            }
        }
    }

    #[test]
    fn the_way_with_fewer_multiplications_is_taken() {
        // [16, 16] in two digits of 4: core by core takes 128 for a bond of 1 and 512 for a bond of 4, the matrix 256.
        for (bond, contracted) in [(1, true), (4, false)] {
            let weight = train([16, 16], &[4, 4], &[4, 4], &[1, bond, 1]);
            let applied = Prepare::new(Compute::F32).matrix(weight).unwrap();
            assert_eq!(matches!(applied, Applied::Train(_)), contracted, "bond {bond}");
        }
    }

    #[test]
    fn inputs_of_another_width_are_refused() {
        let prepare = Prepare { trains: Trains::Contracted, ..Prepare::new(Compute::F32) };
        let applied = prepare.matrix(train([6, 6], &[2, 3], &[3, 2], &[1, 1, 1])).unwrap();
        let x = Tensor::from_vec(numbers(7, 0), (1, 7), &Device::Cpu).unwrap();
        assert!(applied.apply(&x, None).unwrap_err().to_string().contains("[6, 6] train"));
    }
}
