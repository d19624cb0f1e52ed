//! What an encoder is trained for.

use brevity_kernels::ops::log_softmax;
use candle_core::{D, DType, Result, Tensor};
use serde::{Deserialize, Serialize};

/// A cut of an encoder: so many blocks, so many dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cut {
    /// Blocks, from the first on.
    pub layers: usize,
    /// Dimensions, from the first on.
    pub dims: usize,
}

/// How much the losses of shallow layers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerWeighting {
    /// As much as that of the last.
    #[default]
    Uniform,
    /// Layer `n`, counted from one, `1 / n`.
    Linear,
    /// Layer `n` `1 / (1 + ln n)`.
    Log,
}

impl LayerWeighting {
    /// The weight of a layer, counted from one.
    pub fn weight(self, layer: usize) -> f64 {
        match self {
            LayerWeighting::Uniform => 1.0,
            LayerWeighting::Linear => 1.0 / layer.max(1) as f64,
            LayerWeighting::Log => 1.0 / (1.0 + (layer.max(1) as f64).ln()),
        }
    }
}

/// What an encoder is trained for.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// That cuts say of raw texts what a teacher says. No labels.
    ///
    /// Hinton et al. 2015, arXiv:1503.02531, with similarities of a batch for the soft targets.
    Distil {
        /// The cuts.
        cuts: Vec<Cut>,
    },
    /// That prefixes of the vectors work as well as the whole.
    ///
    /// Kusupati et al. 2022 (Matryoshka), arXiv:2205.13147.
    Matryoshka {
        /// Lengths of the prefixes.
        dims: Vec<usize>,
    },
    /// That any layer with any prefix works: each step takes one of either at random beside the last layer.
    ///
    /// Li et al. 2024 (2DMSE), arXiv:2402.14776.
    AnyCut {
        /// Lengths of the prefixes.
        dims: Vec<usize>,
        /// How much shallow layers count.
        weighting: LayerWeighting,
    },
    /// That some cuts work, all of them in every step.
    ///
    /// Zhuang et al. 2024 (Starbucks), arXiv:2410.13230.
    FixedCuts {
        /// The cuts.
        cuts: Vec<Cut>,
    },
    /// That a text is near the same text with some tokens said twice, and far from others. No labels.
    ///
    /// Wu et al. 2022 (ESimCSE), arXiv:2109.04380.
    Repetition,
}

/// Divides cosines of the contrastive losses.
const SCALE: f64 = 20.0;
/// The temperature at which shallow layers are held against the last, and how much that counts.
const ALIGN: f64 = 0.3;
/// How much similarities count beside directions in [`distil`].
const SIMILARITIES: f64 = 10.0;

/// Rows divided by their lengths.
///
/// # Errors
/// What tensors refuse.
pub fn unit(rows: &Tensor) -> Result<Tensor> {
    let length = (rows.sqr()?.sum_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
    rows.broadcast_div(&length)
}

/// The first entries of rows, divided by their lengths.
///
/// # Errors
/// What tensors refuse.
pub fn prefix(rows: &Tensor, dims: usize) -> Result<Tensor> {
    unit(&rows.narrow(D::Minus1, 0, dims)?.contiguous()?)
}

/// Each of `first` is to be nearer to its own of `second` than to the others: cross-entropy of the cosines, 20 times as large.
///
/// # Shapes
/// Both `[batch, width]`, of length one.
///
/// # Source
/// Henderson et al. 2017, arXiv:1705.00652, section 4.4 (multiple negatives ranking).
pub fn contrastive(first: &Tensor, second: &Tensor) -> Result<Tensor> {
    let scores = (first.matmul(&second.t()?.contiguous()?)? * SCALE)?; // [batch, batch]
    let own = Tensor::eye(scores.dim(0)?, DType::F32, scores.device())?;
    (log_softmax(&scores)? * own)?.sum_all()?.neg()? / scores.dim(0)? as f64
}

/// Pairs that people find more alike are to have the larger cosine: `ln (1 + Σ e^{20 (cos_j - cos_i)})` over pairs of pairs with
/// `score_i > score_j`.
///
/// # Shapes
/// `first` and `second` are `[batch, width]`, of length one; `scores` has one for each pair.
///
/// # Source
/// Su 2022 (CoSENT).
pub fn ranking(first: &Tensor, second: &Tensor, scores: &[f32]) -> Result<Tensor> {
    let n = scores.len();
    let cosines = ((first * second)?.sum(D::Minus1)? * SCALE)?; // [batch]
    let apart = cosines.reshape((1, n))?.broadcast_sub(&cosines.reshape((n, 1))?)?; // [i, j]: cos_j - cos_i
    let hidden = scores.iter().flat_map(|i| scores.iter().map(move |j| if i > j { 0.0 } else { -1e9f32 })).collect();
    let apart = (apart + Tensor::from_vec(hidden, (n, n), first.device())?)?.flatten_all()?;
    let all = Tensor::cat(&[apart, Tensor::zeros(1, DType::F32, first.device())?], 0)?;
    let most = all.max(0)?.detach();
    all.broadcast_sub(&most)?.exp()?.sum_all()?.log()? + most
}

/// How far the distribution that the entries of a vector make is from that of a better one, which is not moved: KL divergence at
/// temperature 0.3, a mean over the batch.
///
/// # Shapes
/// Both `[batch, width]`.
pub fn align(shallow: &Tensor, deep: &Tensor) -> Result<Tensor> {
    // Without the cut the last layer would be drawn towards the shallow one.
    let deep = deep.detach();
    let target = log_softmax(&(&deep / ALIGN)?)?;
    let own = log_softmax(&(shallow / ALIGN)?)?;
    let divergence = (target.exp()? * (target - own)?)?.sum_all()?;
    divergence * (ALIGN / shallow.dim(0)? as f64)
}

/// How far vectors are from those of a teacher: in direction, read through a matrix, and in what they find alike.
///
/// # Shapes
/// `own` is `[batch, dims]`, of length one, `reader` `[width, dims]`, `teacher` `[batch, width]`, of length one.
pub fn distil(own: &Tensor, reader: &Tensor, teacher: &Tensor) -> Result<Tensor> {
    let n = own.dim(0)? as f64;
    let read = unit(&own.matmul(&reader.t()?)?)?;
    let directions = ((read * teacher)?.sum_all()?.neg()? / n)?;
    let alike = |rows: &Tensor| rows.matmul(&rows.t()?.contiguous()?);
    let off = (alike(own)? - alike(teacher)?)?.sqr()?.sum_all()?;
    (directions + (off * (SIMILARITIES / (n * n)))?)? + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn rows(values: &[[f32; 2]]) -> Tensor {
        Tensor::from_vec(values.concat(), (values.len(), 2), &Device::Cpu).unwrap()
    }

    fn number(tensor: Result<Tensor>) -> f32 {
        tensor.unwrap().to_scalar().unwrap()
    }

    #[test]
    fn losses_are_known_by_hand() {
        let axes = rows(&[[1.0, 0.0], [0.0, 1.0]]);
        let turned = rows(&[[0.0, 1.0], [1.0, 0.0]]);
        // Own cosine one, the other zero: ln(1 + e^-20); the other way round 20 more.
        assert!(number(contrastive(&axes, &axes)) < 1e-6);
        assert!((number(contrastive(&axes, &turned)) - 20.0).abs() < 1e-4);
        // Cosines 1 and 0 with scores 1 and 0: ln(1 + e^-20), or ln(1 + e^20) with the scores changed.
        let second = rows(&[[1.0, 0.0], [1.0, 0.0]]);
        assert!(number(ranking(&axes, &second, &[1.0, 0.0])) < 1e-6);
        assert!((number(ranking(&axes, &second, &[0.0, 1.0])) - 20.0).abs() < 1e-4);
        assert_eq!(number(ranking(&axes, &second, &[1.0, 1.0])), 0.0, "no pair is more alike than another");
        assert!(number(align(&axes, &axes)).abs() < 1e-7);
        let eye = Tensor::eye(2, DType::F32, &Device::Cpu).unwrap();
        assert!(number(distil(&axes, &eye, &axes)).abs() < 1e-5);
        // Directions are off by a quarter turn, what is alike is not.
        assert!((number(distil(&axes, &eye, &turned)) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_better_layer_is_not_moved() {
        let [shallow, deep] = [rows(&[[0.3, 0.1]]), rows(&[[0.9, -0.2]])].map(|t| Var::from_tensor(&t).unwrap());
        let gradients = align(shallow.as_tensor(), deep.as_tensor()).unwrap().backward().unwrap();
        assert!(gradients.get(&shallow).is_some() && gradients.get(&deep).is_none());
    }

    #[test]
    fn layers_weigh_what_the_published_variants_have() {
        let weights = |weighting: LayerWeighting| [1, 2, 4].map(|layer| weighting.weight(layer));
        assert_eq!(weights(LayerWeighting::Uniform), [1.0; 3]);
        assert_eq!(weights(LayerWeighting::Linear), [1.0, 0.5, 0.25]);
        assert!((LayerWeighting::Log.weight(2) - 1.0 / (1.0 + 2f64.ln())).abs() < 1e-12);
    }
}
