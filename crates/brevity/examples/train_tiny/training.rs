//! The training loop: warm-up, constant rate, descent; gradients of two halves of each batch on two threads.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};

use crate::adam::Adam;
use crate::model::Llama;
use crate::ops::CrossEntropy;
use crate::sampling::{Mix, Sampler, Weighted};

/// How long and how fast: a warm-up, a constant rate, and a linear descent at the end.
///
/// Until the descent begins, the steps do not depend on how many there will be.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub steps: usize,
    pub peak_rate: f64,
    pub warmup: usize,
    /// The number of steps of the descent.
    pub descent: usize,
}

/// The mix of lines from each step on: at first the model learns to read, then it learns facts, then it does both.
pub const MIXES: [(usize, Mix); 3] = [
    (
        0,
        Mix {
            fact_share: 0.35,
            as_asked: 0.6,
            answer_weight: 1.0,
        },
    ),
    (
        400,
        Mix {
            fact_share: 0.65,
            as_asked: 0.8,
            answer_weight: 6.0,
        },
    ),
    (
        650,
        Mix {
            fact_share: 0.3,
            as_asked: 0.8,
            answer_weight: 4.0,
        },
    ),
];

/// Tokens of one step: 8 windows of 256, and every fourth time 4 windows of 512.
pub const STEP_TOKENS: usize = 2048;
/// The halves of a batch; a constant, so that sums do not depend on the machine.
const SHARDS: usize = 2;
/// The greatest norm of the gradient of all parameters.
const CLIP: f64 = 1.0;

impl Schedule {
    fn rate(&self, step: usize) -> f64 {
        let warm = ((step + 1) as f64 / self.warmup as f64).min(1.0);
        let left = self.steps.saturating_sub(step) as f64 / self.descent as f64;
        self.peak_rate * warm * left.min(1.0)
    }
}

/// The optimizer with the settings of this training.
pub fn optimizer(model: &Llama) -> Result<Adam> {
    let vars = model
        .parameters
        .iter()
        .map(|(_, var)| var.clone())
        .collect();
    Ok(Adam::new(
        vars,
        ParamsAdamW {
            lr: 0.0,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay: 0.05,
        },
    )?)
}

/// Trains from step `start` to the end and calls `every` after each step with the number of steps done.
pub fn train(
    model: &Llama,
    optimizer: &mut Adam,
    sampler: &mut Sampler,
    schedule: &Schedule,
    start: usize,
    mut every: impl FnMut(usize, &Adam) -> Result<()>,
) -> Result<()> {
    let vars: Vec<&Var> = model.parameters.iter().map(|(_, var)| var).collect();
    let clock = Instant::now();
    let mut mean_loss = None;
    for step in 0..schedule.steps {
        if let Some((_, mix)) = MIXES.iter().find(|(from, _)| *from == step) {
            sampler.set_mix(*mix);
        }
        let length = if step % 4 == 3 { 512 } else { 256 };
        let windows: Vec<Vec<Weighted>> = (0..STEP_TOKENS / length)
            .map(|_| sampler.window(length + 1))
            .collect();
        if step < start {
            continue;
        }
        let (loss, norm, gradients) = gradients(model, &vars, &windows)?;
        optimizer.set_learning_rate(schedule.rate(step));
        optimizer.step(&gradients)?;
        let mean = mean_loss.map_or(loss, |mean| 0.95 * mean + 0.05 * loss);
        mean_loss = Some(mean);
        if step % 20 == 0 || step + 1 == schedule.steps {
            let seconds = clock.elapsed().as_secs_f64();
            let speed = ((step - start + 1) * STEP_TOKENS) as f64 / seconds;
            let rate = schedule.rate(step);
            eprintln!(
                "step {step:>5}  loss {mean:.3}  norm {norm:.2}  rate {rate:.2e}  {speed:.0} tokens/s  {seconds:.0} s"
            );
        }
        every(step + 1, optimizer)?;
    }
    Ok(())
}

/// Mean loss of a batch, the norm of its gradient, and the gradient, scaled down where the norm is too great.
fn gradients(
    model: &Llama,
    vars: &[&Var],
    windows: &[Vec<Weighted>],
) -> Result<(f64, f64, GradStore)> {
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

fn backward(model: &Llama, windows: &[Vec<Weighted>]) -> Result<(f64, GradStore)> {
    let length = windows[0].len() - 1;
    let inputs = windows
        .iter()
        .flat_map(|window| &window[..length])
        .map(|(token, _)| *token);
    let (targets, weights) = windows
        .iter()
        .flat_map(|window| &window[1..])
        .copied()
        .unzip();
    let inputs = Tensor::from_vec(
        inputs.collect::<Vec<u32>>(),
        (windows.len(), length),
        &Device::Cpu,
    )?;
    let loss = model
        .forward(&inputs)?
        .apply_op1(CrossEntropy { targets, weights })?;
    Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
}

/// Writes the parameters in full precision and the optimizer's state, for a later resumption.
pub fn write_state(model: &Llama, optimizer: &Adam, file: &Path) -> Result<()> {
    let mut tensors = model.tensors(DType::F32)?;
    tensors.extend(optimizer.state()?);
    let partial = file.with_extension("partial");
    candle_core::safetensors::save(&tensors, &partial)?;
    Ok(std::fs::rename(partial, file)?)
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
            let windows = vec![(0..17).map(|i| (i % 5 + 1, 1.0)).collect::<Vec<Weighted>>(); 2];
            let all = vars.iter().map(|var| (*var).clone()).collect();
            let mut adam = Adam::new(
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
    fn the_rate_rises_stays_and_falls() {
        let schedule = Schedule {
            steps: 100,
            peak_rate: 1.0,
            warmup: 10,
            descent: 20,
        };
        let rates = [0, 9, 50, 80, 90, 99].map(|step| schedule.rate(step));
        assert_eq!(rates, [0.1, 1.0, 1.0, 1.0, 0.5, 0.05]);
    }
}
