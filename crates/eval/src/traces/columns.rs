//! Columns of a weight, without more of it than they need.

use brevity_kernels::matmul::{Dims, matmul_f32};
use brevity_model::{Expr, Mlp, Place, Shaped, Stage, Stages, Weight};

use crate::error::{Error, Result};

/// Some columns of a matrix, each `[out]`, one behind the other. Of a product only these columns are multiplied out.
pub(super) fn columns(weight: &Weight, at: &[usize]) -> Vec<f32> {
    match weight {
        Expr::Leaf(leaf) => taken(&leaf.to_f32(), leaf.shape(), at),
        // The columns of a train are spread over all of its cores.
        Expr::Train(train) => taken(&train.to_f32(), train.shape, at),
        Expr::Sum(terms) => {
            let mut sum = columns(&terms[0], at);
            sum.iter_mut().zip(columns(&terms[1], at)).for_each(|(sum, x)| *sum += x);
            sum
        }
        Expr::Product(factors) => {
            let [outputs, inner] = factors[0].shape();
            // [columns, inner] times [inner, outputs]
            let (right, left) = (columns(&factors[1], at), columns(&factors[0], &(0..inner).collect::<Vec<_>>()));
            let mut product = vec![0.0; at.len() * outputs];
            matmul_f32(Dims { m: at.len(), k: inner, n: outputs }, &right, &left, &mut product);
            product
        }
    }
}

fn taken(values: &[f32], [rows, width]: [usize; 2], at: &[usize]) -> Vec<f32> {
    at.iter().flat_map(|&column| (0..rows).map(move |row| row * width + column)).map(|at| values[at]).collect()
}

/// Where the blocks of a model are among its stages.
pub(super) fn blocks(model: &dyn Stages) -> Vec<usize> {
    let tree = model.model();
    (0..tree.stages.len()).filter(|&n| matches!(tree.place(n), Place::Block(_))).collect()
}

/// The down projection of a block's MLP, if it has one; nothing else of the block stays.
pub(super) fn down(model: &dyn Stages, stage: usize) -> Result<Option<Weight>> {
    let Stage::Block(block) = load(model, stage)? else { return Ok(None) };
    model.release(stage);
    Ok(block.mlp.map(|mlp: Mlp<Weight>| mlp.down.weight))
}

pub(super) fn load(model: &dyn Stages, stage: usize) -> Result<Stage<Weight>> {
    let place = model.model().place(stage);
    model.load(stage).map_err(|source| Error::Run(brevity_runtime::Error::Load { place, source }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{Floats, Train};

    #[test]
    fn columns_of_sums_products_and_trains_are_those_of_the_whole() {
        let leaf = |shape: [usize; 2], seed: usize| {
            let values = (0..shape[0] * shape[1]).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect();
            Weight::float(shape, Floats::F32(values))
        };
        let weight = Weight::sum(leaf([3, 5], 1), Weight::product(leaf([3, 2], 2), leaf([2, 5], 3)));
        let whole = weight.to_f32();
        let expected: Vec<f32> =
            [4, 0].iter().flat_map(|j| (0..3).map(move |i| (i, j))).map(|(i, j)| whole[i * 5 + j]).collect();
        assert_eq!(columns(&weight, &[4, 0]), expected);
        assert!(columns(&weight, &[]).is_empty());
        let cores = vec![leaf([1, 6], 4), leaf([6, 3], 5)];
        let train = Weight::train(Train { shape: [3, 5], rows: vec![1, 3], columns: vec![3, 3], cores });
        let whole = train.to_f32();
        assert_eq!(columns(&train, &[4]), [whole[4], whole[9], whole[14]]);
    }
}
