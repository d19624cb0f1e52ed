//! Tiny models made in memory.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;

use brevity_model::{
    Config, Dtype, Expr, Floats, Form, LoadError, Model, Slot, Source, Stage, Stages, Tensors, Weight, build,
};

/// Numbers as the recorded cases were filled with them.
pub struct Lcg(pub u64);

impl Lcg {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }

    /// Roughly normal, within ±2.
    pub fn normal(&mut self) -> f64 {
        (0..4).map(|_| self.uniform()).sum::<f64>() - 2.0
    }

    pub fn values(&mut self, count: usize, norm: bool) -> Vec<f32> {
        let one = |n: f64| if norm { 1.0 + 0.1 * n } else { 0.25 * n };
        (0..count).map(|_| one(self.normal()) as f32).collect()
    }
}

/// Named tensors with their shapes, in memory.
#[derive(Default)]
pub struct Named(pub BTreeMap<String, ([usize; 2], Vec<f32>)>);

impl Tensors for Named {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        Some(Form::float(self.0.get(name)?.0, Dtype::F32))
    }
}

/// A model in memory that is handed out stage by stage.
pub struct Memory {
    pub model: Model<Source>,
    pub stages: Vec<Stage<Weight>>,
}

impl Memory {
    /// The model of a configuration over tensors.
    pub fn new(config: &str, named: &Named) -> Self {
        let model = build(&Config::parse(config).unwrap(), named).unwrap();
        let weight = |_, slot: Slot, source: &Source| -> Result<Weight, std::convert::Infallible> {
            let (_, values) = &named.0[&source.tensor];
            let shape = source.form.shape();
            let columns = shape[1];
            let mut part = Vec::new();
            match (&source.view.rows, slot) {
                (None, _) => part.extend_from_slice(values),
                (Some(rows), Slot::Bias) => rows.iter().for_each(|r| part.extend_from_slice(&values[r.clone()])),
                (Some(rows), Slot::Weight) => {
                    rows.iter().for_each(|r| part.extend_from_slice(&values[r.start * columns..r.end * columns]));
                }
            }
            assert!(!source.view.transposed, "these models store [out, in]");
            Ok(Weight::float(shape, Floats::F32(part)))
        };
        let stages = model.stages.iter().map(|stage| stage.try_map(weight).unwrap()).collect();
        Memory { model, stages }
    }

    /// A llama with random weights, two blocks of four heads over two.
    pub fn llama(tied: bool, seed: u64) -> Self {
        let config = format!(
            r#"{{"model_type": "llama", "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 64, "hidden_act": "silu",
                "tie_word_embeddings": {tied}}}"#
        );
        let mut shapes =
            vec![("model.embed_tokens.weight".to_owned(), [50, 32]), ("model.norm.weight".into(), [1, 32])];
        if !tied {
            shapes.push(("lm_head.weight".into(), [50, 32]));
        }
        for i in 0..2 {
            for (name, shape) in [
                ("input_layernorm", [1, 32]),
                ("post_attention_layernorm", [1, 32]),
                ("self_attn.q_proj", [32, 32]),
                ("self_attn.k_proj", [16, 32]),
                ("self_attn.v_proj", [16, 32]),
                ("self_attn.o_proj", [32, 32]),
                ("mlp.gate_proj", [48, 32]),
                ("mlp.up_proj", [48, 32]),
                ("mlp.down_proj", [32, 48]),
            ] {
                shapes.push((format!("model.layers.{i}.{name}.weight"), shape));
            }
        }
        let mut numbers = Lcg(seed);
        let filled = shapes.into_iter().map(|(name, shape)| {
            let values = numbers.values(shape[0] * shape[1], name.contains("norm"));
            (name, (shape, values))
        });
        Memory::new(&config, &Named(filled.collect()))
    }

    /// The same model with every matrix of its blocks replaced.
    pub fn rewritten(mut self, f: impl Fn(Weight) -> Weight) -> Self {
        for stage in &mut self.stages {
            for (_, linear) in stage.linears_mut() {
                let empty = Weight::float([0, 0], Floats::F32(Vec::new()));
                linear.weight = f(std::mem::replace(&mut linear.weight, empty));
            }
        }
        self
    }
}

impl Stages for Memory {
    fn model(&self) -> &Model<Source> {
        &self.model
    }

    fn load(&self, stage: usize) -> Result<Stage<Weight>, LoadError> {
        Ok(self.stages[stage].clone())
    }
}

/// The matrix that an expression stands for, as one leaf.
pub fn expanded(weight: Weight) -> Weight {
    match weight {
        Expr::Leaf(ref leaf) if leaf.mask.is_none() => weight,
        _ => Weight::float(weight.shape(), Floats::F32(weight.to_f32())),
    }
}

/// `|a - b| / |b|` in the Euclidean norm.
pub fn relative(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    (error / b.iter().map(|b| square(f64::from(*b))).sum::<f64>()).sqrt()
}
