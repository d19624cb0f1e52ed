//! The nonlinear pieces of a Llama, each one pass over memory, with its derivative.
//!
//! candle's own fused operations have no backward pass, and its plain ones allocate a tensor per arithmetic step, which
//! costs more here than the matrix products.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};

/// Weighted mean over positions of `-log softmax(logits)[target]`; logits are `[positions, vocabulary]`.
pub struct CrossEntropy {
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
}

impl CrossEntropy {
    /// The index of the target and its share of the mean, for each position.
    fn shares(&self) -> impl Iterator<Item = (usize, f32)> + '_ {
        let total = self.weights.iter().sum::<f32>();
        self.targets
            .iter()
            .zip(&self.weights)
            .map(move |(target, weight)| (*target as usize, weight / total))
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = slice(storage, layout)?;
        let mut total = 0f64;
        for (row, (target, share)) in logits.chunks_exact(last(layout.dims())).zip(self.shares()) {
            total += f64::from(log_sum_exp(row) - row[target]) * f64::from(share);
        }
        Ok((CpuStorage::F32(vec![total as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.to_scalar::<f32>()?;
        let vocabulary = last(logits.dims());
        let out = read([logits], |[values]| {
            let mut out = vec![0f32; values.len()];
            let rows = out
                .chunks_exact_mut(vocabulary)
                .zip(values.chunks_exact(vocabulary));
            for ((out, row), (target, share)) in rows.zip(self.shares()) {
                let total = log_sum_exp(row);
                let share = gradient * share;
                out.iter_mut()
                    .zip(row)
                    .for_each(|(out, x)| *out = (x - total).exp() * share);
                out[target] -= share;
            }
            out
        })?;
        Tensor::from_vec(out, logits.shape(), logits.device()).map(Some)
    }
}

/// `log Σ exp(x)` without overflow.
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let most = row.iter().copied().fold(f32::MIN, f32::max);
    most + row.iter().map(|x| (x - most).exp()).sum::<f32>().ln()
}

/// `x / sqrt(mean(x²) + epsilon) * gain`, the mean over the last dimension.
pub struct RmsNorm {
    pub epsilon: f32,
}

impl RmsNorm {
    fn inverse(&self, row: &[f32]) -> f32 {
        1.0 / (row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32 + self.epsilon).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, gain) = (slice(s1, l1)?, slice(s2, l2)?);
        let mut out = vec![0f32; x.len()];
        for (out, row) in out
            .chunks_exact_mut(gain.len())
            .zip(x.chunks_exact(gain.len()))
        {
            let inverse = self.inverse(row);
            out.iter_mut()
                .zip(row)
                .zip(gain)
                .for_each(|((out, x), gain)| *out = x * inverse * gain);
        }
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (for_x, for_gain) = read([x, gain, gradient], |[values, gain, g]| {
            let width = gain.len();
            let mut for_x = vec![0f32; values.len()];
            let mut for_gain = vec![0f32; width];
            for ((out, row), g) in for_x
                .chunks_exact_mut(width)
                .zip(values.chunks_exact(width))
                .zip(g.chunks_exact(width))
            {
                let inverse = self.inverse(row);
                // d(x_j r)/dx_i = r δ_ij - x_j x_i r³ / width
                let along: f32 = (0..width).map(|i| g[i] * gain[i] * row[i]).sum();
                let pull = along * inverse * inverse * inverse / width as f32;
                for i in 0..width {
                    out[i] = g[i] * gain[i] * inverse - row[i] * pull;
                    for_gain[i] += g[i] * row[i] * inverse;
                }
            }
            (for_x, for_gain)
        })?;
        let for_x = Tensor::from_vec(for_x, x.shape(), x.device())?;
        Ok((
            Some(for_x),
            Some(Tensor::from_vec(for_gain, gain.shape(), gain.device())?),
        ))
    }
}

/// `silu(gate) * up`.
pub struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(s1, l1)?, slice(s2, l2)?);
        let out = gate
            .iter()
            .zip(up)
            .map(|(gate, up)| gate * sigmoid(*gate) * up)
            .collect();
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (for_gate, for_up) = read([gate, up, gradient], |[gate, up, g]| {
            let mut for_gate = vec![0f32; gate.len()];
            let mut for_up = vec![0f32; gate.len()];
            for i in 0..gate.len() {
                let s = sigmoid(gate[i]);
                for_up[i] = g[i] * gate[i] * s;
                for_gate[i] = g[i] * up[i] * (s + gate[i] * s * (1.0 - s));
            }
            (for_gate, for_up)
        })?;
        let for_gate = Tensor::from_vec(for_gate, gate.shape(), gate.device())?;
        Ok((
            Some(for_gate),
            Some(Tensor::from_vec(for_up, up.shape(), up.device())?),
        ))
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub fn last(dims: &[usize]) -> usize {
    dims.last().copied().unwrap_or(1)
}

pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("the operation wants contiguous values")
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Runs `act` on the values of tensors without copying the contiguous ones.
pub fn read<const N: usize, T>(
    tensors: [&Tensor; N],
    act: impl FnOnce([&[f32]; N]) -> T,
) -> Result<T> {
    let tensors = tensors.map(Tensor::contiguous);
    let mut guards = Vec::with_capacity(N);
    for tensor in &tensors {
        match tensor {
            Ok(tensor) => guards.push(tensor.storage_and_layout()),
            Err(error) => bail!("{error}"),
        }
    }
    let mut slices = [&[][..]; N];
    for (place, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else {
            bail!("the operation runs on the CPU alone")
        };
        *place = slice(storage, layout)?;
    }
    Ok(act(slices))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Compares a derivative with the difference quotient of `weights · f(x)` at each input.
    pub fn check(start: &[f32], shape: &[usize], f: impl Fn(&Tensor) -> Result<Tensor>) {
        let device = Device::Cpu;
        let var = Var::from_vec(start.to_vec(), shape, &device).unwrap();
        let weigh = |y: Tensor| {
            let y = y.flatten_all().unwrap();
            let weights: Vec<f32> = (0..y.elem_count())
                .map(|i| ((i * 37 + 11) % 17) as f32 / 8.0 - 1.0)
                .collect();
            (y * Tensor::new(weights, &device).unwrap())
                .unwrap()
                .sum_all()
                .unwrap()
        };
        let gradient = weigh(f(var.as_tensor()).unwrap()).backward().unwrap();
        let gradient = gradient
            .get(&var)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let at = |i: usize, step: f32| {
            let mut moved = start.to_vec();
            moved[i] += step;
            weigh(f(&Tensor::from_vec(moved, shape, &device).unwrap()).unwrap())
                .to_scalar::<f32>()
                .unwrap()
        };
        for i in 0..start.len() {
            let quotient = (at(i, 1e-2) - at(i, -1e-2)) / 2e-2;
            assert!(
                (quotient - gradient[i]).abs() < 5e-3,
                "input {i}: {quotient} or {}",
                gradient[i]
            );
        }
    }

    pub fn values(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 29 + 5) % 23) as f32 / 10.0 - 1.1)
            .collect()
    }

    #[test]
    fn every_derivative_equals_the_difference_quotient() {
        let other = Tensor::from_vec(
            values(4).iter().map(|x| x + 0.3).collect::<Vec<_>>(),
            4,
            &Device::Cpu,
        )
        .unwrap();
        check(&values(12), &[3, 4], |x| {
            x.apply_op1(CrossEntropy {
                targets: vec![1, 0, 3],
                weights: vec![1.0, 3.0, 0.5],
            })
        });
        check(&values(12), &[3, 4], |x| {
            x.apply_op2(&other, RmsNorm { epsilon: 1e-5 })
        });
        check(&values(4), &[4], |gain| {
            Tensor::from_vec(values(12), (3, 4), &Device::Cpu)?
                .apply_op2(gain, RmsNorm { epsilon: 1e-5 })
        });
        check(&values(4), &[4], |gate| gate.apply_op2(&other, SwiGlu));
        check(&values(4), &[4], |up| other.apply_op2(up, SwiGlu));
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let loss = Tensor::zeros((2, 8), candle_core::DType::F32, &Device::Cpu)
            .and_then(|logits| {
                logits.apply_op1(CrossEntropy {
                    targets: vec![0, 5],
                    weights: vec![1.0, 4.0],
                })
            })
            .and_then(|loss| loss.to_scalar::<f32>());
        assert!((loss.unwrap() - 8f32.ln()).abs() < 1e-6);
    }
}
