//! A Llama that can be differentiated, with the parameter names of Hugging Face checkpoints.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Value, json};

use crate::attention::{CausalSoftmax, Rotary};
use crate::ops::{RmsNorm, SwiGlu};
use crate::random::Random;

/// The sizes of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub vocabulary: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_size: usize,
    pub positions: usize,
}

const THETA: f64 = 10_000.0;
const EPSILON: f32 = 1e-5;

impl Shape {
    /// The `config.json` of this model; token 0 begins and ends texts.
    pub fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "max_position_embeddings": self.positions,
            "rope_theta": THETA,
            "rope_scaling": null,
            "rms_norm_eps": f64::from(EPSILON * 1e7).round() / 1e7,
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "mlp_bias": false,
            "tie_word_embeddings": true,
            "initializer_range": 0.02,
            "use_cache": true,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "bfloat16",
        })
    }

    /// Reads the sizes back from a `config.json`.
    pub fn from_config(config: &Value) -> Result<Self> {
        let size = |name: &str| {
            let value = config.get(name).and_then(Value::as_u64);
            value
                .map(|value| value as usize)
                .with_context(|| format!("config.json has no number `{name}`"))
        };
        Ok(Self {
            vocabulary: size("vocab_size")?,
            hidden: size("hidden_size")?,
            inner: size("intermediate_size")?,
            layers: size("num_hidden_layers")?,
            heads: size("num_attention_heads")?,
            kv_heads: size("num_key_value_heads")?,
            head_size: size("head_dim")?,
            positions: size("max_position_embeddings")?,
        })
    }

    /// Every parameter: its name and its dimensions, `[out, in]` for matrices.
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (queries, keys) = (self.heads * self.head_size, self.kv_heads * self.head_size);
        let mut all = vec![(
            "model.embed_tokens.weight".to_string(),
            vec![self.vocabulary, self.hidden],
        )];
        for layer in 0..self.layers {
            for (name, dims) in [
                ("input_layernorm", vec![self.hidden]),
                ("self_attn.q_proj", vec![queries, self.hidden]),
                ("self_attn.k_proj", vec![keys, self.hidden]),
                ("self_attn.v_proj", vec![keys, self.hidden]),
                ("self_attn.o_proj", vec![self.hidden, queries]),
                ("post_attention_layernorm", vec![self.hidden]),
                ("mlp.gate_proj", vec![self.inner, self.hidden]),
                ("mlp.up_proj", vec![self.inner, self.hidden]),
                ("mlp.down_proj", vec![self.hidden, self.inner]),
            ] {
                all.push((format!("model.layers.{layer}.{name}.weight"), dims));
            }
        }
        all.push(("model.norm.weight".to_string(), vec![self.hidden]));
        all
    }
}

/// The parameters and the forward pass.
pub struct Llama {
    pub shape: Shape,
    /// In the order of the forward pass.
    pub parameters: Vec<(String, Var)>,
    rotary: Rotary,
}

impl Llama {
    /// A model with random parameters: normal with deviation 0.02, less where a block writes to the residual stream.
    pub fn random(shape: Shape, seed: u64) -> Result<Self> {
        let mut random = Random::new(seed, 1);
        let mut parameters = Vec::new();
        for (name, dims) in shape.parameters() {
            let count = dims.iter().product();
            let values: Vec<f32> = if dims.len() == 1 {
                vec![1.0; count]
            } else {
                let writes = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
                let deviation = if writes {
                    0.02 / (2.0 * shape.layers as f64).sqrt()
                } else {
                    0.02
                };
                (0..count)
                    .map(|_| (random.normal() * deviation) as f32)
                    .collect()
            };
            parameters.push((name, Var::from_vec(values, dims, &Device::Cpu)?));
        }
        Ok(Self::with(shape, parameters))
    }

    /// Reads parameters from a safetensors file of any float type.
    pub fn read(shape: Shape, file: &Path) -> Result<Self> {
        let tensors = candle_core::safetensors::load(file, &Device::Cpu)?;
        let mut parameters = Vec::new();
        for (name, dims) in shape.parameters() {
            let tensor = tensors
                .get(&name)
                .with_context(|| format!("`{}` has no `{name}`", file.display()))?;
            let tensor = tensor.to_dtype(DType::F32)?.reshape(dims)?;
            parameters.push((name, Var::from_tensor(&tensor)?));
        }
        Ok(Self::with(shape, parameters))
    }

    fn with(shape: Shape, parameters: Vec<(String, Var)>) -> Self {
        let rotary = Rotary::new(shape.positions, shape.head_size, THETA);
        Self {
            shape,
            parameters,
            rotary,
        }
    }

    /// The parameters by name in the given type, ready for a safetensors file.
    pub fn tensors(&self, dtype: DType) -> Result<HashMap<String, Tensor>> {
        let convert =
            |(name, var): &(String, Var)| Ok((name.clone(), var.as_tensor().to_dtype(dtype)?));
        self.parameters.iter().map(convert).collect()
    }

    /// The number of weights.
    pub fn size(&self) -> usize {
        self.parameters
            .iter()
            .map(|(_, var)| var.as_tensor().elem_count())
            .sum()
    }

    /// Logits `[batch * positions, vocabulary]` of tokens `[batch, positions]`.
    pub fn forward(&self, tokens: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, positions) = tokens.dims2()?;
        let mut next = self.parameters.iter().map(|(_, var)| var.as_tensor());
        let mut take = || next.next().expect("as many parameters as the shape lists");
        let embedding = take();
        let norm = |x: &Tensor, gain: &Tensor| x.apply_op2(gain, RmsNorm { epsilon: EPSILON });
        let linear = |x: &Tensor, weight: &Tensor| x.matmul(&weight.t()?);

        let mut x = embedding.index_select(&tokens.flatten_all()?, 0)?; // [batch * positions, hidden]
        for _ in 0..self.shape.layers {
            let h = norm(&x, take())?;
            let q = self
                .heads(linear(&h, take())?, batch, positions)?
                .apply_op1(self.rotary.clone())?;
            let k = self
                .heads(linear(&h, take())?, batch, positions)?
                .apply_op1(self.rotary.clone())?;
            let v = self.heads(linear(&h, take())?, batch, positions)?;
            x = (x + linear(&self.attend(&q, &k, &v)?, take())?)?;
            let h = norm(&x, take())?;
            let (gate, up) = (linear(&h, take())?, linear(&h, take())?);
            x = (x + linear(&gate.apply_op2(&up, SwiGlu)?, take())?)?;
        }
        linear(&norm(&x, take())?, embedding)
    }

    /// `[batch * positions, heads * size]` to `[batch, heads, positions, size]`.
    fn heads(&self, x: Tensor, batch: usize, positions: usize) -> candle_core::Result<Tensor> {
        x.reshape((batch, positions, (), self.shape.head_size))?
            .transpose(1, 2)?
            .contiguous()
    }

    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, heads, positions, size) = q.dims4()?;
        // the query heads that share a key head are one tall matrix: [batch, kv_heads, group * positions, size]
        let q = q.reshape((batch, self.shape.kv_heads, (), size))?;
        let scale = 1.0 / (size as f32).sqrt();
        let p = q.matmul(&k.transpose(2, 3)?)?.apply_op1(CausalSoftmax {
            scale,
            queries: positions,
        })?;
        let mixed = p.matmul(v)?.reshape((batch, heads, positions, size))?;
        mixed
            .transpose(1, 2)?
            .reshape((batch * positions, heads * size))
    }
}
