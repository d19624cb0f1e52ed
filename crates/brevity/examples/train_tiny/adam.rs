//! AdamW whose moments can be written down, so that an interrupted training ends with the same weights.
//!
//! The update is the one of `candle_nn::AdamW`, which keeps its moments to itself, in one pass over memory.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};

/// Decoupled weight decay on matrices, none on gains (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2).
pub struct Adam {
    params: ParamsAdamW,
    steps: i32,
    moments: Vec<Moments>,
}

struct Moments {
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Optimizer for Adam {
    type Config = ParamsAdamW;

    fn new(vars: Vec<Var>, params: ParamsAdamW) -> candle_core::Result<Self> {
        let start = |var: Var| {
            let count = var.as_tensor().elem_count();
            Moments {
                var,
                first: vec![0.0; count],
                second: vec![0.0; count],
            }
        };
        Ok(Self {
            params,
            steps: 0,
            moments: vars.into_iter().map(start).collect(),
        })
    }

    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<()> {
        self.steps += 1;
        let ParamsAdamW {
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
        } = self.params;
        let first_scale = (1.0 / (1.0 - beta1.powi(self.steps))) as f32;
        let second_scale = (1.0 / (1.0 - beta2.powi(self.steps))) as f32;
        let (beta1, beta2, eps, rate) = (beta1 as f32, beta2 as f32, eps as f32, lr as f32);
        for Moments { var, first, second } in &mut self.moments {
            let Some(gradient) = gradients.get(var) else {
                continue;
            };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            let mut weights = var.as_tensor().flatten_all()?.to_vec1::<f32>()?;
            let keep = if var.as_tensor().rank() > 1 {
                (1.0 - lr * weight_decay) as f32
            } else {
                1.0
            };
            for (((w, g), m), v) in weights.iter_mut().zip(&gradient).zip(first).zip(second) {
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *w = *w * keep - rate * (*m * first_scale) / ((*v * second_scale).sqrt() + eps);
            }
            var.set(&Tensor::from_vec(
                weights,
                var.as_tensor().shape(),
                &Device::Cpu,
            )?)?;
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.params.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.params.lr = lr;
    }
}

impl Adam {
    /// The moments and the number of steps as tensors, for a state file.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::from([(
            "steps".to_string(),
            Tensor::new(&[self.steps as u32], &Device::Cpu)?,
        )]);
        for (index, moments) in self.moments.iter().enumerate() {
            state.insert(
                format!("first.{index}"),
                Tensor::new(&moments.first[..], &Device::Cpu)?,
            );
            state.insert(
                format!("second.{index}"),
                Tensor::new(&moments.second[..], &Device::Cpu)?,
            );
        }
        Ok(state)
    }

    /// Goes on from a state; returns the number of steps it has behind it.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<usize> {
        let get = |name: String| {
            state
                .get(&name)
                .with_context(|| format!("the training state has no `{name}`"))
        };
        let steps = get("steps".into())?.to_vec1::<u32>()?[0];
        self.steps = steps as i32;
        for (index, moments) in self.moments.iter_mut().enumerate() {
            moments.first = get(format!("first.{index}"))?.to_vec1()?;
            moments.second = get(format!("second.{index}"))?.to_vec1()?;
        }
        Ok(steps as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::AdamW;

    fn params() -> ParamsAdamW {
        ParamsAdamW {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.98,
            eps: 1e-8,
            weight_decay: 0.05,
        }
    }

    fn walk<O: Optimizer<Config = ParamsAdamW>>(
        var: &Var,
        optimizer: &mut O,
        steps: usize,
    ) -> Vec<f32> {
        for _ in 0..steps {
            let loss = var
                .as_tensor()
                .sqr()
                .unwrap()
                .affine(1.0, 0.5)
                .unwrap()
                .log()
                .unwrap()
                .sum_all()
                .unwrap();
            optimizer.step(&loss.backward().unwrap()).unwrap();
        }
        var.as_tensor().flatten_all().unwrap().to_vec1().unwrap()
    }

    fn start() -> Var {
        Var::new(&[[0.5f32, -1.0, 2.0], [1.5, 0.1, -3.0]], &Device::Cpu).unwrap()
    }

    #[test]
    fn steps_equal_those_of_candle_nn() {
        let (ours, theirs) = (start(), start());
        let a = walk(
            &ours,
            &mut Adam::new(vec![ours.clone()], params()).unwrap(),
            5,
        );
        let b = walk(
            &theirs,
            &mut AdamW::new(vec![theirs.clone()], params()).unwrap(),
            5,
        );
        for (a, b) in a.iter().zip(&b) {
            assert!((a - b).abs() < 1e-5, "{a} or {b}");
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_as_if_nothing_had_happened() {
        let (straight, broken) = (start(), start());
        let expected = walk(
            &straight,
            &mut Adam::new(vec![straight.clone()], params()).unwrap(),
            6,
        );
        let mut first = Adam::new(vec![broken.clone()], params()).unwrap();
        walk(&broken, &mut first, 3);
        let mut second = Adam::new(vec![broken.clone()], params()).unwrap();
        assert_eq!(second.restore(&first.state().unwrap()).unwrap(), 3);
        assert_eq!(walk(&broken, &mut second, 3), expected);
    }
}
