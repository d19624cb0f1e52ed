//! Keys and values of the tokens that came before.

use candle_core::Tensor;

use crate::error::Result;

/// Keys and values of one attention layer. Memory grows by doubling, so a step copies only its own token.
#[derive(Debug, Default)]
pub struct Kv {
    /// `[batch, capacity, features]` of keys and of values.
    room: Option<[Tensor; 2]>,
    len: usize,
}

impl Kv {
    /// How many tokens are kept.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends keys and values, `[batch, tokens, features]`, and returns those of all tokens.
    ///
    /// # Errors
    /// If they have other shapes than those before.
    pub fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let tokens = k.dims3()?.1;
        let all = self.len + tokens;
        let [keys, values] = match self.room.take() {
            Some(room) if room[0].dims()[1] >= all => room,
            old => {
                let capacity = all.next_power_of_two().max(64);
                let grown = |new: &Tensor, old: Option<&Tensor>| -> Result<Tensor> {
                    let (batch, _, features) = new.dims3()?;
                    let room = Tensor::zeros((batch, capacity, features), new.dtype(), new.device())?;
                    if let Some(old) = old {
                        room.slice_set(&old.narrow(1, 0, self.len)?.contiguous()?, 1, 0)?;
                    }
                    Ok(room)
                };
                let [old_k, old_v] = old.map_or([None, None], |[k, v]| [Some(k), Some(v)]);
                [grown(k, old_k.as_ref())?, grown(v, old_v.as_ref())?]
            }
        };
        keys.slice_set(&k.contiguous()?, 1, self.len)?;
        values.slice_set(&v.contiguous()?, 1, self.len)?;
        let seen = (keys.narrow(1, 0, all)?.contiguous()?, values.narrow(1, 0, all)?.contiguous()?);
        self.len = all;
        self.room = Some([keys, values]);
        Ok(seen)
    }
}

/// Keys and values of all layers of a model.
#[derive(Debug)]
pub struct Cache {
    pub(crate) layers: Vec<Kv>,
    pub(crate) len: usize,
}

impl Cache {
    /// For a model with so many stages.
    pub(crate) fn new(stages: usize) -> Self {
        Cache { layers: (0..stages).map(|_| Kv::default()).collect(), len: 0 }
    }

    /// How many tokens have been seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none have.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_cache_returns_everything_appended_in_order() {
        let mut kv = Kv::default();
        let mut next = 0.0f32;
        for tokens in [3, 1, 70, 1] {
            let one: Vec<f32> = (0..tokens * 2).map(|i| next + i as f32).collect();
            next += one.len() as f32;
            let k = Tensor::from_vec(one, (1, tokens, 2), &Device::Cpu).unwrap();
            let (keys, values) = kv.append(&k, &(&k * -1.0).unwrap()).unwrap();
            let keys: Vec<f32> = keys.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(keys, (0..kv.len() * 2).map(|i| i as f32).collect::<Vec<_>>());
            let values: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
            assert!(values.iter().zip(&keys).all(|(v, k)| *v == -k));
        }
        assert_eq!(kv.len(), 75);
    }
}
