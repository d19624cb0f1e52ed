//! The `config.json` that belongs to the metadata of a GGUF file.

use serde_json::{Map, Value, json};

use super::meta::Meta;
use crate::error::Error;

/// What the tensors say that the metadata does not.
pub struct Facts {
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Rows of the table of token types.
    pub types: Option<usize>,
    /// Whether there is an output table.
    pub output: bool,
    /// The number type of most weights, as configurations name it.
    pub dtype: &'static str,
    /// The divisors of the rotary frequencies, if they are stored.
    pub divisors: Option<Vec<f32>>,
    /// Those for long and short inputs, if they are stored.
    pub long_short: Option<[Vec<f32>; 2]>,
}

/// The configuration of a model of a known architecture.
///
/// # Errors
/// If a key is missing or wrong, or if it asks for something that the keys of a configuration cannot say.
pub fn config(architecture: &str, meta: &Meta, facts: &Facts) -> Result<Map<String, Value>, Error> {
    let key = |name: &str| format!("{architecture}.{name}");
    let mut out = Map::new();
    let (class, model_type) = match architecture {
        // The tensors say the shape of each block.
        "llama" | "deci" => ("LlamaForCausalLM", "llama"),
        "qwen2" => ("Qwen2ForCausalLM", "qwen2"),
        "qwen3" => ("Qwen3ForCausalLM", "qwen3"),
        "gemma" => ("GemmaForCausalLM", "gemma"),
        "gemma2" => ("Gemma2ForCausalLM", "gemma2"),
        "gemma3" => ("Gemma3ForCausalLM", "gemma3_text"),
        "phi3" => ("Phi3ForCausalLM", "phi3"),
        "gpt2" => ("GPT2LMHeadModel", "gpt2"),
        _ => ("BertModel", "bert"),
    };
    out.insert("architectures".into(), json!([class]));
    out.insert("model_type".into(), json!(model_type));
    if meta.number(&key("expert_count"))?.is_some_and(|count| count > 0) {
        return Err(Error::GgufKey { key: key("expert_count"), wanted: "zero, as mixtures of experts are not read" });
    }
    match architecture {
        "gpt2" => gpt2(meta, &mut out)?,
        "bert" => bert(meta, facts, &mut out)?,
        _ => decoder(architecture, meta, facts, &mut out)?,
    }
    out.insert("vocab_size".into(), json!(facts.vocabulary));
    for (name, id) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = meta.number(&format!("tokenizer.ggml.{id}_token_id"))? {
            out.insert(name.into(), json!(id));
        }
    }
    if architecture != "bert" {
        out.insert("tie_word_embeddings".into(), json!(!facts.output));
    }
    out.insert("torch_dtype".into(), json!(facts.dtype));
    Ok(out)
}

/// The family of llama.
fn decoder(architecture: &str, meta: &Meta, facts: &Facts, out: &mut Map<String, Value>) -> Result<(), Error> {
    let key = |name: &str| format!("{architecture}.{name}");
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    let gemma = architecture.starts_with("gemma");
    let hidden = meta.need_number(&key("embedding_length"))?;
    // Of blocks with numbers of their own the largest.
    let shape = |name: &str| match architecture {
        "deci" => meta.largest(&key(name)),
        _ => meta.number(&key(name)),
    };
    let need = |name: &str| shape(name)?.ok_or_else(|| Error::GgufKey { key: key(name), wanted: "there" });
    let heads = need("attention.head_count")?;
    let layers = meta.need_number(&key("block_count"))?;
    if heads == 0 {
        return Err(Error::GgufKey { key: key("attention.head_count"), wanted: "more than zero" });
    }
    let head_dim = meta.number(&key("attention.key_length"))?;
    set("hidden_size", json!(hidden));
    set("intermediate_size", json!(need("feed_forward_length")?));
    set("num_hidden_layers", json!(layers));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(shape("attention.head_count_kv")?.unwrap_or(heads)));
    let width = head_dim.unwrap_or(hidden / heads);
    if let Some(value) = meta.number(&key("attention.value_length"))?
        && value != width
    {
        return Err(Error::GgufKey { key: key("attention.value_length"), wanted: "the key length" });
    }
    if head_dim.is_some() || gemma || architecture == "qwen3" {
        set("head_dim", json!(width));
    }
    set("rms_norm_eps", json!(meta.need_float(&key("attention.layer_norm_rms_epsilon"))?));
    set("max_position_embeddings", json!(meta.need_number(&key("context_length"))?));
    if gemma {
        set("hidden_activation", json!("gelu_pytorch_tanh"));
        set("hidden_act", json!("gelu_pytorch_tanh"));
    } else {
        set("hidden_act", json!("silu"));
    }
    let default_theta = if architecture == "gemma3" { 1e6 } else { 1e4 };
    set("rope_theta", json!(meta.float(&key("rope.freq_base"))?.unwrap_or(default_theta)));
    if let Some(rotated) = meta.number(&key("rope.dimension_count"))?
        && rotated != width
    {
        set("partial_rotary_factor", json!(rotated as f64 / width as f64));
    }
    if let Some(scaling) = scaling(architecture, meta, facts)? {
        set("rope_scaling", scaling);
    }
    if architecture == "phi3"
        && let Some(original) = meta.number(&key("rope.scaling.original_context_length"))?
    {
        set("original_max_position_embeddings", json!(original));
    }
    // llama.cpp makes this exception in code: the largest models of both generations scale by the width of all heads.
    let largest = matches!((architecture, layers), ("gemma2", 46) | ("gemma3", 62));
    if matches!(architecture, "gemma2" | "gemma3") {
        set("query_pre_attn_scalar", json!(if largest { hidden / heads } else { width }));
    }
    let window = meta.number(&key("attention.sliding_window"))?;
    match (architecture, window) {
        ("gemma2" | "gemma3" | "phi3", Some(window)) => set("sliding_window", json!(window)),
        ("qwen2" | "qwen3", _) => set("use_sliding_window", json!(false)),
        _ => None,
    };
    if architecture == "gemma2" {
        set("attn_logit_softcapping", json!(meta.float(&key("attn_logit_softcapping"))?.unwrap_or(50.0)));
        set("final_logit_softcapping", json!(meta.float(&key("final_logit_softcapping"))?.unwrap_or(30.0)));
    }
    if architecture == "gemma3" {
        set("sliding_window_pattern", json!(6));
        set("rope_local_base_freq", json!(1e4));
    }
    Ok(())
}

fn gpt2(meta: &Meta, out: &mut Map<String, Value>) -> Result<(), Error> {
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    let context = meta.need_number("gpt2.context_length")?;
    set("n_embd", json!(meta.need_number("gpt2.embedding_length")?));
    set("n_layer", json!(meta.need_number("gpt2.block_count")?));
    set("n_head", json!(meta.need_number("gpt2.attention.head_count")?));
    set("n_inner", json!(meta.need_number("gpt2.feed_forward_length")?));
    set("n_positions", json!(context));
    set("n_ctx", json!(context));
    set("layer_norm_epsilon", json!(meta.need_float("gpt2.attention.layer_norm_epsilon")?));
    set("activation_function", json!("gelu_new"));
    Ok(())
}

fn bert(meta: &Meta, facts: &Facts, out: &mut Map<String, Value>) -> Result<(), Error> {
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    set("hidden_size", json!(meta.need_number("bert.embedding_length")?));
    set("num_hidden_layers", json!(meta.need_number("bert.block_count")?));
    set("num_attention_heads", json!(meta.need_number("bert.attention.head_count")?));
    set("intermediate_size", json!(meta.need_number("bert.feed_forward_length")?));
    set("max_position_embeddings", json!(meta.need_number("bert.context_length")?));
    set("layer_norm_eps", json!(meta.need_float("bert.attention.layer_norm_epsilon")?));
    set("type_vocab_size", json!(facts.types.unwrap_or(2)));
    set("hidden_act", json!("gelu"));
    set("position_embedding_type", json!("absolute"));
    Ok(())
}

/// The rule that changes rotary frequencies, as `rope_scaling` says it.
fn scaling(architecture: &str, meta: &Meta, facts: &Facts) -> Result<Option<Value>, Error> {
    let key = |name: &str| format!("{architecture}.rope.scaling.{name}");
    let original = meta.number(&key("original_context_length"))?;
    if let Some([long, short]) = &facts.long_short {
        let mut value =
            json!({"rope_type": "longrope", "type": "longrope", "long_factor": long, "short_factor": short});
        if let Some(factor) = meta.float(&key("attn_factor"))? {
            value["attention_factor"] = json!(factor);
        }
        if let Some(original) = original {
            value["original_max_position_embeddings"] = json!(original);
        }
        return Ok(Some(value));
    }
    if let Some(divisors) = &facts.divisors {
        return llama3(architecture, meta, divisors);
    }
    // Old files have the factor of the linear rule alone.
    let old = meta.float(&format!("{architecture}.rope.scale_linear"))?;
    let factor = meta.float(&key("factor"))?.or(old);
    match (meta.text(&key("type"))?, factor) {
        (None, None) | (Some("none"), _) | (Some("linear"), None) => Ok(None),
        (None | Some("linear"), Some(1.0)) => Ok(None),
        (None | Some("linear"), Some(factor)) => {
            Ok(Some(json!({"rope_type": "linear", "type": "linear", "factor": factor})))
        }
        (Some(other), factor) => {
            let mut value = json!({"rope_type": other, "type": other});
            if let Some(factor) = factor {
                value["factor"] = json!(factor);
            }
            if let Some(original) = original {
                value["original_max_position_embeddings"] = json!(original);
            }
            Ok(Some(value))
        }
    }
}

/// The rule of Llama 3, found again from the divisors it gives.
///
/// Frequencies of wavelength below `original / 4` are kept, those above `original` divided by `factor`, and those
/// between are blended. The file has the result alone; the one free number behind it is tried.
fn llama3(architecture: &str, meta: &Meta, divisors: &[f32]) -> Result<Option<Value>, Error> {
    if divisors.iter().all(|&d| d == 1.0) {
        return Ok(None);
    }
    let theta = meta.float(&format!("{architecture}.rope.freq_base"))?.unwrap_or(1e4);
    let factor = f64::from(divisors.iter().copied().fold(1.0, f32::max));
    let divisor = |i: usize, original: f64| {
        let wavelength = std::f64::consts::TAU * theta.powf(i as f64 / divisors.len() as f64);
        let blend = ((original / wavelength - 1.0) / 3.0).clamp(0.0, 1.0);
        1.0 / ((1.0 - blend) / factor + blend)
    };
    for original in [8192u32, 4096, 2048, 16384, 32768, 65536, 131072] {
        let fits = |(i, &d): (usize, &f32)| (f64::from(d) / divisor(i, original.into()) - 1.0).abs() < 1e-4;
        if divisors.iter().enumerate().all(fits) {
            return Ok(Some(json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            })));
        }
    }
    Err(Error::GgufKey { key: "rope_freqs.weight".into(), wanted: "the divisors that the rule of Llama 3 gives" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::Value as Gguf;

    fn meta(extra: &[(&str, Gguf)]) -> Meta {
        let keys = [
            ("llama.embedding_length", Gguf::U32(64)),
            ("llama.attention.head_count", Gguf::U32(4)),
            ("llama.attention.head_count_kv", Gguf::U32(2)),
            ("llama.block_count", Gguf::U32(3)),
            ("llama.feed_forward_length", Gguf::U32(96)),
            ("llama.context_length", Gguf::U32(512)),
            ("llama.attention.layer_norm_rms_epsilon", Gguf::F32(1e-5)),
            ("llama.rope.freq_base", Gguf::F32(500000.0)),
            ("tokenizer.ggml.eos_token_id", Gguf::U32(2)),
        ];
        Meta(keys.into_iter().chain(extra.iter().cloned()).map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn facts() -> Facts {
        Facts { vocabulary: 100, types: None, output: false, dtype: "float32", divisors: None, long_short: None }
    }

    #[test]
    fn a_llama_has_the_keys_of_its_metadata() {
        let config = config("llama", &meta(&[]), &facts()).unwrap();
        let expected = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 512, "hidden_act": "silu", "rope_theta": 500000.0, "vocab_size": 100,
            "eos_token_id": 2, "tie_word_embeddings": true, "torch_dtype": "float32",
        });
        assert_eq!(Value::Object(config), expected);
    }

    #[test]
    fn the_rule_of_llama_3_is_found_in_its_divisors() {
        // Written out for theta 500000, 4 frequencies, factor 8, original 8192: wavelengths 6.28, 167, 4443, 118146.
        // The third blends: (8192 / 4443 - 1) / 3 = 0.28127, so 1 / (0.71873 / 8 + 0.28127) = 2.69466.
        let mut facts = Facts { divisors: Some(vec![1.0, 1.0, 2.694_66, 8.0]), ..facts() };
        let rope = config("llama", &meta(&[]), &facts).unwrap()["rope_scaling"].clone();
        assert_eq!(rope["rope_type"], "llama3");
        assert_eq!(rope["factor"], 8.0);
        assert_eq!(rope["original_max_position_embeddings"], 8192);
        facts.divisors = Some(vec![1.0, 3.0, 5.0, 8.0]);
        assert!(config("llama", &meta(&[]), &facts).is_err());
        facts.divisors = Some(vec![1.0; 4]);
        assert!(!config("llama", &meta(&[]), &facts).unwrap().contains_key("rope_scaling"));
    }

    #[test]
    fn linear_scaling_and_explicit_head_widths_are_kept() {
        let extra = [
            ("llama.rope.scaling.type", Gguf::String("linear".into())),
            ("llama.rope.scaling.factor", Gguf::F32(4.0)),
            ("llama.attention.key_length", Gguf::U32(32)),
            ("llama.attention.value_length", Gguf::U32(32)),
            ("llama.rope.dimension_count", Gguf::U32(16)),
        ];
        let config = config("llama", &meta(&extra), &facts()).unwrap();
        assert_eq!(config["rope_scaling"], json!({"rope_type": "linear", "type": "linear", "factor": 4.0}));
        assert_eq!((&config["head_dim"], &config["partial_rotary_factor"]), (&json!(32), &json!(0.5)));
    }

    #[test]
    fn what_is_missing_or_cannot_be_said_is_named() {
        let mut short = meta(&[]);
        short.0.remove("llama.block_count");
        let error = config("llama", &short, &facts()).unwrap_err().to_string();
        assert!(error.contains("`llama.block_count`"), "{error}");
        let widths = Gguf::Array(vec![Gguf::U32(96), Gguf::U32(64)]);
        let error = config("llama", &meta(&[("llama.feed_forward_length", widths)]), &facts()).unwrap_err();
        assert!(error.to_string().contains("the same for all layers"), "{error}");
        assert!(config("llama", &meta(&[("llama.expert_count", Gguf::U32(8))]), &facts()).is_err());
    }
}
