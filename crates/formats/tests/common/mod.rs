//! Small files and models for tests, made on the spot.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::path::Path;

use serde_json::{Map, Value, json};

/// A tensor: name, type, shape, bytes.
pub type Tensor = (String, &'static str, Vec<usize>, Vec<u8>);

/// The content of a safetensors file.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header, sound or not.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Numbers that look random and are always the same.
pub fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The configuration of a tiny llama: one block, 8 wide, two heads, 16 tokens, tied.
pub fn llama_config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32, "hidden_act": "silu", "rope_theta": 10000.0, "vocab_size": 16,
        "tie_word_embeddings": true,
    })
}

/// Names and shapes of its tensors.
pub const LLAMA: &[(&str, &[usize])] = &[
    ("model.embed_tokens.weight", &[16, 8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 12]),
    ("model.layers.0.mlp.gate_proj.weight", &[12, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[12, 8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
    ("model.norm.weight", &[8]),
];

/// The tensors of the tiny llama.
pub fn llama_tensors() -> Vec<Tensor> {
    let tensor = |(n, (name, shape)): (usize, &(&str, &[usize]))| {
        let values = numbers(shape.iter().product(), n as u64);
        (name.to_string(), "F32", shape.to_vec(), f32_bytes(&values))
    };
    LLAMA.iter().enumerate().map(tensor).collect()
}

/// Writes the tiny llama with these tensors.
pub fn write_llama(dir: &Path, tensors: &[Tensor]) {
    std::fs::write(dir.join("config.json"), llama_config().to_string()).unwrap();
    std::fs::write(dir.join("model.safetensors"), safetensors(tensors)).unwrap();
}

/// A word-level tokenizer of so many words.
pub fn tokenizer_json(words: usize) -> String {
    let vocabulary: Map<String, Value> = (0..words).map(|id| (format!("w{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    })
    .to_string()
}

/// A value of GGUF metadata.
pub enum Meta {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'static str),
    Texts(Vec<String>),
    U32s(Vec<u32>),
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor of a GGUF file: name, dimensions slowest first, type number, bytes.
pub type Blocks = (String, Vec<u64>, u32, Vec<u8>);

/// The content of a GGUF file.
pub fn gguf(meta: &[(&str, Meta)], tensors: &[Blocks]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((meta.len() as u64).to_le_bytes());
    for (key, value) in meta {
        text(&mut out, key);
        let mut number = |id: u32, bytes: &[u8]| {
            out.extend(id.to_le_bytes());
            out.extend(bytes);
        };
        match value {
            Meta::U32(n) => number(4, &n.to_le_bytes()),
            Meta::F32(x) => number(6, &x.to_le_bytes()),
            Meta::Bool(b) => number(7, &[u8::from(*b)]),
            Meta::Text(t) => {
                number(8, &[]);
                text(&mut out, t);
            }
            Meta::Texts(all) => {
                number(9, &8u32.to_le_bytes());
                out.extend((all.len() as u64).to_le_bytes());
                all.iter().for_each(|t| text(&mut out, t));
            }
            Meta::U32s(all) => {
                number(9, &4u32.to_le_bytes());
                out.extend((all.len() as u64).to_le_bytes());
                all.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
        }
    }
    let mut offset = 0u64;
    for (name, shape, id, bytes) in tensors {
        text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += (bytes.len() as u64).next_multiple_of(32);
    }
    for (_, _, _, bytes) in tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(bytes);
    }
    out
}

/// Metadata of the tiny llama.
pub fn llama_meta() -> Vec<(&'static str, Meta)> {
    vec![
        ("general.architecture", Meta::Text("llama")),
        ("llama.embedding_length", Meta::U32(8)),
        ("llama.feed_forward_length", Meta::U32(12)),
        ("llama.block_count", Meta::U32(1)),
        ("llama.attention.head_count", Meta::U32(2)),
        ("llama.attention.head_count_kv", Meta::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ("llama.context_length", Meta::U32(32)),
        ("llama.rope.freq_base", Meta::F32(10000.0)),
        ("tokenizer.ggml.model", Meta::Text("gpt2")),
        ("tokenizer.ggml.pre", Meta::Text("gpt-2")),
        ("tokenizer.ggml.tokens", Meta::Texts(["a", "b", "Ġ", "ab"].map(str::to_owned).to_vec())),
        ("tokenizer.ggml.token_type", Meta::U32s(vec![1; 4])),
        ("tokenizer.ggml.merges", Meta::Texts(vec!["a b".into()])),
        ("tokenizer.ggml.add_bos_token", Meta::Bool(false)),
    ]
}

/// Its tensors, with the names and the order of rows of GGUF files.
pub fn llama_blocks() -> Vec<Blocks> {
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let tensors = llama_tensors().into_iter().map(|(name, _, shape, bytes)| {
        let stem = name.strip_suffix(".weight").unwrap();
        let inner = stem.strip_prefix("model.layers.0.").unwrap_or(stem);
        let part = names.iter().find(|(hf, _)| *hf == inner).unwrap().1;
        let name = if inner == stem { format!("{part}.weight") } else { format!("blk.0.{part}.weight") };
        // Heads are 4 wide: rows 0 1 2 3 of a head become 0 2 1 3.
        let bytes = match part {
            "attn_q" | "attn_k" => {
                let rows: Vec<&[u8]> = bytes.chunks(8 * 4).collect();
                let order = (0..rows.len()).map(|row| row / 4 * 4 + [0, 2, 1, 3][row % 4]);
                order.flat_map(|row| rows[row].to_vec()).collect()
            }
            _ => bytes,
        };
        (name, shape.into_iter().map(|n| n as u64).collect(), 0, bytes)
    });
    tensors.collect()
}
