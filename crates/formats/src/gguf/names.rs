//! What the tensors of a GGUF file are called in a Hugging Face checkpoint, and how they differ from it.

/// How the values of a GGUF tensor differ from those of the checkpoint it was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Not at all.
    None,
    /// Rows of each head are in another order: pairs that are rotated together stand side by side.
    Pairs {
        /// Heads of the tensor.
        heads: usize,
    },
    /// The matrix is transposed.
    Transposed,
    /// One was added to every value.
    PlusOne,
}

const LLAMA: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const GEMMA2: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Gate and up are one tensor, which has the name of the latter.
const PHI3: &[(&str, &str)] = &[("ffn_up", "mlp.gate_up_proj")];

const GPT2: &[(&str, &str)] = &[
    ("attn_norm", "ln_1"),
    ("attn_qkv", "attn.c_attn"),
    ("attn_output", "attn.c_proj"),
    ("ffn_norm", "ln_2"),
    ("ffn_up", "mlp.c_fc"),
    ("ffn_down", "mlp.c_proj"),
];

const BERT: &[(&str, &str)] = &[
    ("attn_q", "attention.self.query"),
    ("attn_k", "attention.self.key"),
    ("attn_v", "attention.self.value"),
    ("attn_output", "attention.output.dense"),
    ("attn_output_norm", "attention.output.LayerNorm"),
    ("ffn_up", "intermediate.dense"),
    ("ffn_down", "output.dense"),
    ("layer_output_norm", "output.LayerNorm"),
];

const ROOT: &[(&str, &str)] =
    &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
const GPT2_ROOT: &[(&str, &str)] =
    &[("token_embd", "wte"), ("position_embd", "wpe"), ("output_norm", "ln_f"), ("output", "lm_head")];
const BERT_ROOT: &[(&str, &str)] = &[
    ("token_embd", "embeddings.word_embeddings"),
    ("position_embd", "embeddings.position_embeddings"),
    ("token_types", "embeddings.token_type_embeddings"),
    ("token_embd_norm", "embeddings.LayerNorm"),
];

/// The architectures whose names are known here.
pub const ARCHITECTURES: &[&str] =
    &["llama", "deci", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "gpt2", "bert"];

/// The name of a GGUF tensor in a checkpoint of an architecture, and what its values need; `heads` are those of
/// queries and of keys of a block. `None` if the tensor has no counterpart.
pub fn in_checkpoint(
    architecture: &str,
    name: &str,
    heads: &dyn Fn(u32) -> (usize, usize),
) -> Option<(String, Change)> {
    let (root, block, tables): (_, _, &[&[(&str, &str)]]) = match architecture {
        "llama" | "deci" | "qwen2" | "qwen3" | "gemma" => (ROOT, "model.layers", &[LLAMA]),
        "gemma2" | "gemma3" => (ROOT, "model.layers", &[GEMMA2, LLAMA]),
        "phi3" => (ROOT, "model.layers", &[PHI3, LLAMA]),
        "gpt2" => (GPT2_ROOT, "h", &[GPT2]),
        "bert" => (BERT_ROOT, "encoder.layer", &[BERT]),
        _ => return None,
    };
    let (stem, ending) = name.rsplit_once('.').filter(|(_, ending)| matches!(*ending, "weight" | "bias"))?;
    let find = |table: &[(&str, &'static str)], part: &str| table.iter().find(|(known, _)| *known == part).map(|f| f.1);
    let (part, block, path) = match stem.strip_prefix("blk.") {
        None => (stem, 0, find(root, stem)?.to_owned()),
        Some(rest) => {
            let (number, part) = rest.split_once('.')?;
            let number: u32 = number.parse().ok()?;
            let inside = tables.iter().find_map(|table| find(table, part))?;
            (part, number, format!("{block}.{number}.{inside}"))
        }
    };
    let change = match (architecture, part) {
        ("llama" | "deci", "attn_q") => Change::Pairs { heads: heads(block).0 },
        ("llama" | "deci", "attn_k") => Change::Pairs { heads: heads(block).1 },
        ("gpt2", "attn_qkv" | "attn_output" | "ffn_up" | "ffn_down") if ending == "weight" => Change::Transposed,
        ("gemma" | "gemma2" | "gemma3", part) if part.ends_with("norm") => Change::PlusOne,
        _ => Change::None,
    };
    Some((format!("{path}.{ending}"), change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_changes_follow_the_architecture() {
        for (architecture, name, expected, change) in [
            ("llama", "token_embd.weight", "model.embed_tokens.weight", Change::None),
            ("llama", "blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight", Change::Pairs { heads: 8 }),
            ("llama", "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias", Change::Pairs { heads: 2 }),
            ("qwen2", "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", Change::None),
            ("qwen3", "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight", Change::None),
            ("gemma2", "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight", Change::PlusOne),
            ("gemma2", "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight", Change::PlusOne),
            ("phi3", "blk.0.ffn_up.weight", "model.layers.0.mlp.gate_up_proj.weight", Change::None),
            ("gpt2", "blk.3.attn_qkv.weight", "h.3.attn.c_attn.weight", Change::Transposed),
            ("gpt2", "blk.3.attn_qkv.bias", "h.3.attn.c_attn.bias", Change::None),
            ("bert", "blk.3.layer_output_norm.bias", "encoder.layer.3.output.LayerNorm.bias", Change::None),
        ] {
            assert_eq!(in_checkpoint(architecture, name, &|_| (8, 2)), Some((expected.into(), change)), "{name}");
        }
        let each = |block: u32| (block as usize, 1);
        let (_, change) = in_checkpoint("deci", "blk.3.attn_q.weight", &each).unwrap();
        assert_eq!(change, Change::Pairs { heads: 3 }, "blocks have their own heads");
        for name in ["rope_freqs.weight", "blk.x.attn_q.weight", "blk.0.attn_q", "blk.0.unheard_of.weight"] {
            assert_eq!(in_checkpoint("llama", name, &|_| (8, 2)), None, "{name}");
        }
        assert!(ARCHITECTURES.iter().all(|name| in_checkpoint(name, "token_embd.weight", &|_| (1, 1)).is_some()));
    }
}
