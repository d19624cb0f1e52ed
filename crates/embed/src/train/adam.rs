//! AdamW in one pass over memory.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};

/// Adam with decoupled weight decay on matrices, none on vectors, with gradients clipped to a norm.
///
/// # Source
/// Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
#[derive(Debug)]
pub struct Adam {
    /// Of the decay of matrices.
    pub weight_decay: f64,
    /// Gradients of a greater norm, all together, are made this long.
    pub clip: f64,
    steps: i32,
    moments: Vec<Moments>,
}

#[derive(Debug)]
struct Moments {
    var: Var,
    first: Vec<f32>,
    second: Vec<f32>,
}

const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f32 = 1e-8;

impl Adam {
    /// For some variables, none of which has moved.
    pub fn new(vars: Vec<Var>, weight_decay: f64) -> Adam {
        let start = |var: Var| {
            let count = var.as_tensor().elem_count();
            Moments { var, first: vec![0.0; count], second: vec![0.0; count] }
        };
        Adam { weight_decay, clip: 1.0, steps: 0, moments: vars.into_iter().map(start).collect() }
    }

    /// Moments and steps as tensors, for a file from which training goes on.
    ///
    /// # Errors
    /// What tensors refuse.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::from([("adam.steps".to_owned(), Tensor::new(&[self.steps as u32], &Device::Cpu)?)]);
        for (n, moments) in self.moments.iter().enumerate() {
            state.insert(format!("adam.first.{n}"), Tensor::new(&moments.first[..], &Device::Cpu)?);
            state.insert(format!("adam.second.{n}"), Tensor::new(&moments.second[..], &Device::Cpu)?);
        }
        Ok(state)
    }

    /// Goes on from a state.
    ///
    /// # Errors
    /// If the state is not one of these variables.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let get = |name: String| {
            state.get(&name).ok_or_else(|| candle_core::Error::Msg(format!("the training state has no `{name}`")))
        };
        self.steps = get("adam.steps".into())?.to_vec1::<u32>()?.first().copied().unwrap_or(0) as i32;
        for (n, moments) in self.moments.iter_mut().enumerate() {
            let [first, second] = [get(format!("adam.first.{n}"))?, get(format!("adam.second.{n}"))?];
            let [first, second] = [first.to_vec1::<f32>()?, second.to_vec1::<f32>()?];
            if first.len() != moments.first.len() || second.len() != first.len() {
                candle_core::bail!("the training state is of other variables");
            }
            (moments.first, moments.second) = (first, second);
        }
        Ok(())
    }

    /// Moves the variables against the mean of some gradients; those without a gradient stay. Returns the norm of the mean.
    ///
    /// # Errors
    /// What tensors refuse.
    pub fn step(&mut self, gradients: &[GradStore], rate: f64) -> Result<f64> {
        let mut means: Vec<Option<Vec<f32>>> = Vec::new();
        let mut square = 0f64;
        for Moments { var, .. } in &self.moments {
            let mut mean: Option<Vec<f32>> = None;
            for store in gradients {
                let Some(gradient) = store.get(var) else { continue };
                let values = gradient.flatten_all()?.to_vec1::<f32>()?;
                match &mut mean {
                    Some(mean) => mean.iter_mut().zip(values).for_each(|(mean, g)| *mean += g),
                    None => mean = Some(values),
                }
            }
            if let Some(mean) = &mut mean {
                mean.iter_mut().for_each(|g| *g /= gradients.len() as f32);
                square += mean.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
            }
            means.push(mean);
        }
        let norm = square.sqrt();
        let scale = if norm > self.clip { (self.clip / norm) as f32 } else { 1.0 };
        self.steps += 1;
        let [first_scale, second_scale] = BETAS.map(|beta| (1.0 / (1.0 - beta.powi(self.steps))) as f32);
        let [beta1, beta2] = BETAS.map(|beta| beta as f32);
        let rate32 = rate as f32;
        for (Moments { var, first, second }, gradient) in self.moments.iter_mut().zip(means) {
            let Some(gradient) = gradient else { continue };
            let mut weights = var.as_tensor().flatten_all()?.to_vec1::<f32>()?;
            let keep = if var.as_tensor().rank() > 1 { (1.0 - rate * self.weight_decay) as f32 } else { 1.0 };
            for (((w, g), m), v) in weights.iter_mut().zip(gradient).zip(first).zip(second) {
                let g = g * scale;
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *w = *w * keep - rate32 * (*m * first_scale) / ((*v * second_scale).sqrt() + EPS);
            }
            var.set(&Tensor::from_vec(weights, var.as_tensor().shape(), &Device::Cpu)?)?;
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::{AdamW, Optimizer, ParamsAdamW};

    fn start() -> Var {
        Var::new(&[[0.5f32, -1.0, 2.0], [1.5, 0.1, -3.0]], &Device::Cpu).unwrap()
    }

    fn loss(var: &Var) -> Tensor {
        var.as_tensor().sqr().unwrap().affine(1.0, 0.5).unwrap().log().unwrap().sum_all().unwrap()
    }

    #[test]
    fn steps_equal_those_of_candle_nn() {
        let (ours, theirs) = (start(), start());
        let params = ParamsAdamW { lr: 0.1, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.05 };
        let mut reference = AdamW::new(vec![theirs.clone()], params).unwrap();
        let mut adam = Adam { clip: f64::INFINITY, ..Adam::new(vec![ours.clone()], 0.05) };
        for _ in 0..5 {
            let gradients = loss(&ours).backward().unwrap();
            adam.step(&[gradients], 0.1).unwrap();
            reference.step(&loss(&theirs).backward().unwrap()).unwrap();
        }
        let values = |var: &Var| var.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(values(&ours).iter().zip(values(&theirs)).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn what_is_restored_goes_on_as_if_nothing_had_happened() {
        let [straight, broken] = [start(), start()];
        let values = |var: &Var| var.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let walk = |var: &Var, adam: &mut Adam, steps: usize| {
            (0..steps).for_each(|_| _ = adam.step(&[loss(var).backward().unwrap()], 0.1).unwrap());
        };
        walk(&straight, &mut Adam::new(vec![straight.clone()], 0.0), 6);
        let mut first = Adam::new(vec![broken.clone()], 0.0);
        walk(&broken, &mut first, 3);
        let mut second = Adam::new(vec![broken.clone()], 0.0);
        second.restore(&first.state().unwrap()).unwrap();
        walk(&broken, &mut second, 3);
        assert_eq!(values(&straight), values(&broken));
        let other = Var::new(&[1f32], &Device::Cpu).unwrap();
        assert!(Adam::new(vec![other], 0.0).restore(&first.state().unwrap()).is_err());
    }

    #[test]
    fn the_mean_of_gradients_is_taken_and_long_ones_are_cut() {
        let [one, two] = [start(), start()];
        let mut a = Adam::new(vec![one.clone()], 0.0);
        let mut b = Adam::new(vec![two.clone()], 0.0);
        let norm = a.step(&[loss(&one).backward().unwrap()], 0.1).unwrap();
        let again = b.step(&[loss(&two).backward().unwrap(), loss(&two).backward().unwrap()], 0.1).unwrap();
        assert!((norm - again).abs() < 1e-9 && norm > 1.0);
        let values = |var: &Var| var.as_tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(&one), values(&two));
    }
}
