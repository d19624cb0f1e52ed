//! Any text as the configuration of a tiny llama.
#![no_main]

use brevity_model::{Config, Dtype, Form, Tensors, build};
use libfuzzer_sys::fuzz_target;

const TENSORS: &[(&str, [usize; 2])] = &[
    ("model.embed_tokens.weight", [16, 8]),
    ("model.layers.0.input_layernorm.weight", [1, 8]),
    ("model.layers.0.mlp.down_proj.weight", [8, 12]),
    ("model.layers.0.mlp.gate_proj.weight", [12, 8]),
    ("model.layers.0.mlp.up_proj.weight", [12, 8]),
    ("model.layers.0.post_attention_layernorm.weight", [1, 8]),
    ("model.layers.0.self_attn.k_proj.weight", [4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", [8, 8]),
    ("model.layers.0.self_attn.q_proj.weight", [8, 8]),
    ("model.layers.0.self_attn.v_proj.weight", [4, 8]),
    ("model.norm.weight", [1, 8]),
];

struct Llama;

impl Tensors for Llama {
    fn names(&self) -> Vec<String> {
        TENSORS.iter().map(|(name, _)| name.to_string()).collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        let (_, shape) = TENSORS.iter().find(|(known, _)| *known == name)?;
        Some(Form::float(*shape, Dtype::Bf16))
    }
}

fuzz_target!(|text: &str| {
    let Ok(config) = Config::parse(text) else { return };
    assert_eq!(Config::parse(&config.to_json()).expect("what was written can be read"), config);
    let _ = build(&config, &Llama);
});
