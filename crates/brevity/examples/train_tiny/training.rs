//! The training loop: AdamW, warm-up, cosine decay, gradients of two halves of each batch on two threads.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};

use crate::model::Llama;
use crate::ops::CrossEntropy;
use crate::sampling::Sampler;

/// How long and how fast.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub steps: usize,
    pub peak_rate: f64,
    pub warmup: usize,
}

/// Tokens of one step: 8 windows of 256, and every fourth time 4 windows of 512.
pub const STEP_TOKENS: usize = 2048;
/// The halves of a batch; a constant, so that sums do not depend on the machine.
const SHARDS: usize = 2;
/// The greatest norm of the gradient of all parameters.
const CLIP: f64 = 1.0;
/// The rate at the end, as a share of its peak.
const FLOOR: f64 = 0.02;

impl Schedule {
    fn rate(&self, step: usize) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup as f64).min(1.0);
        let done = step.saturating_sub(self.warmup) as f64
            / self.steps.saturating_sub(self.warmup).max(1) as f64;
        let decay =
            FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
        self.peak_rate * warm * decay
    }
}

/// Trains from step `start` to the end and calls `every` after each step with the number of steps done.
pub fn train(
    model: &Llama,
    sampler: &mut Sampler,
    schedule: &Schedule,
    start: usize,
    mut every: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let vars: Vec<&Var> = model.parameters.iter().map(|(_, var)| var).collect();
    let optimizer = |matrices: bool, weight_decay: f64| {
        let vars = vars
            .iter()
            .filter(|var| (var.as_tensor().rank() > 1) == matrices)
            .map(|var| (*var).clone())
            .collect();
        AdamW::new(
            vars,
            ParamsAdamW {
                lr: 0.0,
                beta1: 0.9,
                beta2: 0.98,
                eps: 1e-8,
                weight_decay,
            },
        )
    };
    let mut optimizers = [optimizer(true, 0.05)?, optimizer(false, 0.0)?];
    let clock = Instant::now();
    let mut mean_loss = None;
    for step in 0..schedule.steps {
        let length = if step % 4 == 3 { 512 } else { 256 };
        let windows: Vec<Vec<u32>> = (0..STEP_TOKENS / length)
            .map(|_| sampler.window(length + 1))
            .collect();
        if step < start {
            continue;
        }
        let (loss, norm, gradients) = gradients(model, &vars, &windows)?;
        // after a resumption the moments start anew, so the first steps are small
        let caution = ((step - start + 1) as f64 / 20.0).min(1.0);
        for optimizer in &mut optimizers {
            optimizer.set_learning_rate(schedule.rate(step) * caution);
            optimizer.step(&gradients)?;
        }
        let mean = mean_loss.map_or(loss, |mean| 0.95 * mean + 0.05 * loss);
        mean_loss = Some(mean);
        if step % 20 == 0 || step + 1 == schedule.steps {
            let seconds = clock.elapsed().as_secs_f64();
            let speed = ((step - start + 1) * STEP_TOKENS) as f64 / seconds;
            eprintln!(
                "step {step:>5}  loss {mean:.3}  norm {norm:.2}  rate {:.2e}  {speed:.0} tokens/s  {seconds:.0} s",
                schedule.rate(step)
            );
        }
        every(step + 1)?;
    }
    Ok(())
}

/// Mean loss of a batch, the norm of its gradient, and the gradient, scaled down where the norm is too great.
fn gradients(model: &Llama, vars: &[&Var], windows: &[Vec<u32>]) -> Result<(f64, f64, GradStore)> {
    let shards = std::thread::scope(|scope| {
        let threads: Vec<_> = windows
            .chunks(windows.len().div_ceil(SHARDS))
            .map(|shard| scope.spawn(|| backward(model, shard)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow!("a training thread panicked"))?
            })
            .collect::<Result<Vec<_>>>()
    })?;
    let loss = shards.iter().map(|(loss, _)| loss).sum::<f64>() / shards.len() as f64;
    let mut shards = shards.into_iter().map(|(_, gradients)| gradients);
    let mut total = shards.next().ok_or_else(|| anyhow!("an empty batch"))?;
    let (mut sums, mut square) = (Vec::with_capacity(vars.len()), 0f64);
    let others: Vec<GradStore> = shards.collect();
    for var in vars {
        let mut sum = total
            .get(var)
            .ok_or_else(|| anyhow!("a parameter without gradient"))?
            .contiguous()?;
        for other in &others {
            sum = (sum
                + other
                    .get(var)
                    .ok_or_else(|| anyhow!("a parameter without gradient"))?)?;
        }
        square += f64::from(sum.sqr()?.sum_all()?.to_scalar::<f32>()?);
        sums.push(sum);
    }
    let share = 1.0 / (1 + others.len()) as f64;
    let norm = square.sqrt() * share;
    let scale = share * (CLIP / norm).min(1.0);
    for (var, sum) in vars.iter().zip(sums) {
        total.insert(var, (sum * scale)?);
    }
    Ok((loss, norm, total))
}

fn backward(model: &Llama, windows: &[Vec<u32>]) -> Result<(f64, GradStore)> {
    let length = windows[0].len() - 1;
    let inputs: Vec<u32> = windows
        .iter()
        .flat_map(|window| &window[..length])
        .copied()
        .collect();
    let targets = windows
        .iter()
        .flat_map(|window| &window[1..])
        .copied()
        .collect();
    let inputs = Tensor::from_vec(inputs, (windows.len(), length), &Device::Cpu)?;
    let loss = model
        .forward(&inputs)?
        .apply_op1(CrossEntropy { targets })?;
    Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
}

/// Writes the parameters in full precision and the number of steps done, for a later resumption.
pub fn write_state(model: &Llama, steps: usize, file: &Path) -> Result<()> {
    let mut tensors = model.tensors(DType::F32)?;
    tensors.insert("steps".into(), Tensor::new(&[steps as u32], &Device::Cpu)?);
    let partial = file.with_extension("partial");
    candle_core::safetensors::save(&tensors, &partial)?;
    Ok(std::fs::rename(partial, file)?)
}

/// The number of steps that a state file has behind it.
pub fn steps_done(file: &Path) -> Result<usize> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu)?;
    let steps = tensors
        .get("steps")
        .ok_or_else(|| anyhow!("`{}` is not a training state", file.display()))?;
    Ok(steps.to_vec1::<u32>()?[0] as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Shape;

    #[test]
    fn a_few_steps_learn_a_repeated_sequence_and_repeat_exactly() {
        let run = || {
            let shape = Shape {
                vocabulary: 24,
                hidden: 16,
                inner: 32,
                layers: 1,
                heads: 4,
                kv_heads: 2,
                head_size: 4,
                positions: 32,
            };
            let model = Llama::random(shape, 5).unwrap();
            let vars: Vec<&Var> = model.parameters.iter().map(|(_, var)| var).collect();
            let windows = vec![(0..17).map(|i| i % 5 + 1).collect::<Vec<u32>>(); 2];
            let all = vars.iter().map(|var| (*var).clone()).collect();
            let mut adam = AdamW::new(
                all,
                ParamsAdamW {
                    lr: 1e-2,
                    weight_decay: 0.0,
                    ..Default::default()
                },
            )
            .unwrap();
            let mut losses = Vec::new();
            for _ in 0..40 {
                let (loss, _, store) = gradients(&model, &vars, &windows).unwrap();
                adam.step(&store).unwrap();
                losses.push(loss);
            }
            losses
        };
        let losses = run();
        assert!((losses[0] - 24f64.ln()).abs() < 0.1, "{}", losses[0]);
        assert!(losses[39] < 0.3, "{}", losses[39]);
        assert_eq!(losses, run());
    }

    #[test]
    fn the_rate_rises_then_falls_to_its_floor() {
        let schedule = Schedule {
            steps: 100,
            peak_rate: 1.0,
            warmup: 10,
        };
        assert_eq!(schedule.rate(0), 0.1);
        assert_eq!(schedule.rate(10), 1.0);
        assert!(schedule.rate(99) < 0.025);
    }
}
