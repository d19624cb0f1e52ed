//! What attention needs besides matrix products: the causal softmax and the rotary turn, with their derivatives.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::ops::{last, read, slice};

/// Softmax of `scale * scores` where query `row % queries` sees keys `0..=row % queries`; the others get 0.
///
/// Scores are `[.., rows, keys]`, and `rows` may hold several heads one after the other.
pub struct CausalSoftmax {
    pub scale: f32,
    pub queries: usize,
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let scores = slice(storage, layout)?;
        let keys = last(layout.dims());
        let mut out = vec![0f32; scores.len()];
        for (row, (out, scores)) in out
            .chunks_exact_mut(keys)
            .zip(scores.chunks_exact(keys))
            .enumerate()
        {
            let seen = row % self.queries + 1;
            let most = scores[..seen].iter().copied().fold(f32::MIN, f32::max);
            let mut sum = 0f32;
            for (out, score) in out[..seen].iter_mut().zip(scores) {
                *out = ((score - most) * self.scale).exp();
                sum += *out;
            }
            out[..seen].iter_mut().for_each(|out| *out /= sum);
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, probabilities: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let keys = last(probabilities.dims());
        let out = read([probabilities, gradient], |[p, g]| {
            let mut out = vec![0f32; p.len()];
            for (row, ((out, p), g)) in out
                .chunks_exact_mut(keys)
                .zip(p.chunks_exact(keys))
                .zip(g.chunks_exact(keys))
                .enumerate()
            {
                let seen = row % self.queries + 1;
                let mean: f32 = p[..seen].iter().zip(g).map(|(p, g)| p * g).sum();
                for ((out, p), g) in out[..seen].iter_mut().zip(p).zip(g) {
                    *out = p * (g - mean) * self.scale;
                }
            }
            out
        })?;
        Tensor::from_vec(out, probabilities.shape(), probabilities.device()).map(Some)
    }
}

/// Turns the pair `(x[i], x[i + half])` of position `t` by the angle `t * theta^(-i / half)`; x is `[.., positions, size]`.
#[derive(Clone)]
pub struct Rotary {
    /// Cosine and sine, `[positions, size / 2]`.
    table: Arc<Vec<(f32, f32)>>,
    backwards: bool,
}

impl Rotary {
    pub fn new(positions: usize, size: usize, theta: f64) -> Self {
        let half = size / 2;
        let angle =
            |at: usize| (at / half) as f64 * theta.powf(-((at % half) as f64) / half as f64);
        let table = (0..positions * half)
            .map(|at| (angle(at).cos() as f32, angle(at).sin() as f32))
            .collect();
        Self {
            table: Arc::new(table),
            backwards: false,
        }
    }
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(storage, layout)?;
        let size = last(layout.dims());
        let positions = layout.dims()[layout.dims().len() - 2];
        let half = size / 2;
        if positions * half > self.table.len() {
            bail!(
                "{positions} positions, but the rotary table has {}",
                self.table.len() / half
            )
        }
        let mut out = vec![0f32; x.len()];
        for (row, (out, x)) in out
            .chunks_exact_mut(size)
            .zip(x.chunks_exact(size))
            .enumerate()
        {
            let turns = &self.table[row % positions * half..][..half];
            for (i, (cos, sin)) in turns.iter().enumerate() {
                let sin = if self.backwards { -sin } else { *sin };
                out[i] = x[i] * cos - x[i + half] * sin;
                out[i + half] = x[i + half] * cos + x[i] * sin;
            }
        }
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            backwards: !self.backwards,
            ..self.clone()
        };
        gradient.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tests::{check, values};
    use candle_core::Device;

    #[test]
    fn both_derivatives_equal_the_difference_quotient() {
        let softmax = || CausalSoftmax {
            scale: 0.7,
            queries: 3,
        };
        check(&values(18), &[6, 3], |x| x.apply_op1(softmax()));
        check(&values(16), &[2, 2, 4], |x| {
            x.apply_op1(Rotary::new(2, 4, 100.0))
        });
    }

    #[test]
    fn a_query_does_not_see_later_keys() {
        let scores = Tensor::from_vec(vec![0f32, 9.0, 1.0, 1.0], (2, 2), &Device::Cpu).unwrap();
        let softmax = CausalSoftmax {
            scale: 1.0,
            queries: 2,
        };
        let p = scores.apply_op1(softmax).unwrap();
        assert_eq!(p.to_vec2::<f32>().unwrap(), [[1.0, 0.0], [0.5, 0.5]]);
    }

    #[test]
    fn position_one_of_the_first_pair_turns_by_one_radian() {
        let x = Tensor::from_vec(vec![5f32, 6.0, 1.0, 0.0], (1, 2, 2), &Device::Cpu).unwrap();
        let turned = x.apply_op1(Rotary::new(2, 2, 100.0)).unwrap();
        let turned = turned.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(turned, [5.0, 6.0, 1f32.cos(), 1f32.sin()]);
    }
}
