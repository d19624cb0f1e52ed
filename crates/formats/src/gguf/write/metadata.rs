//! What the metadata of a GGUF file say of a model, apart from its vocabulary.

use brevity_model::{Config, Heads, Model, Source, Stage};
use serde_json::Value as Json;

use super::GgufAbout;
use super::architecture::Shape;
use super::keys::{Keys, Value};
use super::tensors::{Planned, extra};
use super::types::GgufType;

/// Two frequencies that differ by less are one.
const SAME: f64 = 1e-5;

/// The keys of a model, and the tensors that say the rest of its rotary frequencies.
pub fn all(about: &GgufAbout<'_>, model: &Model<Source>, shape: &Shape<'_>, kind: GgufType) -> (Keys, Vec<Planned>) {
    let mut keys = Keys::default();
    let architecture = shape.architecture;
    let key = |name: &str| format!("{}.{name}", architecture.name);
    keys.add("general.architecture", architecture.name);
    keys.add("general.type", "model");
    keys.add("general.name", about.name);
    keys.add("general.quantized_by", concat!("brevity ", env!("CARGO_PKG_VERSION")));
    keys.add("general.file_type", kind.file_type());
    if kind.is_quantized() {
        keys.add("general.quantization_version", 2u32);
    }
    keys.add(key("context_length"), shape.context);
    keys.add(key("embedding_length"), model.hidden);
    keys.add(key("block_count"), shape.blocks.len());
    for (n, name) in ["attention.head_count", "attention.head_count_kv", "feed_forward_length"].into_iter().enumerate()
    {
        match architecture.uneven {
            true => keys.add(key(name), list(&shape.each, n)),
            false => keys.add(key(name), shape.each[0][n]),
        }
    }
    keys.add(key("vocab_size"), model.vocabulary);
    let heads = &shape.attention.heads;
    if architecture.head_widths {
        keys.add(key("attention.key_length"), heads.qk_dim);
        keys.add(key("attention.value_length"), heads.v_dim);
    }
    let eps = model.stages.iter().find_map(norm_eps).unwrap_or(1e-5);
    let rms = !matches!(architecture.name, "gpt2" | "bert");
    keys.add(key(if rms { "attention.layer_norm_rms_epsilon" } else { "attention.layer_norm_epsilon" }), eps);
    if let Some(window) = shape.window.filter(|_| architecture.windows) {
        keys.add(key("attention.sliding_window"), window);
    }
    if architecture.name == "gemma2" {
        keys.extend(caps(model, heads, &key));
    }
    if architecture.name == "bert" {
        keys.add(key("attention.causal"), false);
        keys.add(key("pooling_type"), pooling(about.files));
        let types = model.stages.iter().find_map(|stage| match stage {
            Stage::Embed(embed) => embed.types.as_ref().map(|types| types.form.shape()[0]),
            _ => None,
        });
        keys.add("tokenizer.ggml.token_type_count", types.unwrap_or(1));
    }
    let extras = rope(about.config, heads, shape, &key, &mut keys);
    (keys, extras)
}

fn list(each: &[[usize; 3]], n: usize) -> Value {
    Value::I32s(
        each.iter().map(|numbers| numbers[n].try_into().expect("counts of heads and channels are small")).collect(),
    )
}

fn norm_eps(stage: &Stage<Source>) -> Option<f32> {
    match stage {
        Stage::Block(block) => {
            let attn = block.attn.iter().flat_map(|attn| [&attn.before, &attn.sum]);
            let mlp = block.mlp.iter().flat_map(|mlp| [&mlp.before, &mlp.sum]);
            attn.chain(mlp).flatten().map(|norm| norm.eps).next()
        }
        _ => None,
    }
}

/// How the vectors of tokens become one, as sentence-transformers says: 0 not at all, 1 their mean, 2 that of the first
/// token, 3 that of the last.
fn pooling(files: &[(String, Vec<u8>)]) -> u32 {
    let file = files.iter().find(|(name, _)| name == "1_Pooling/config.json");
    let said: Json = file.and_then(|(_, text)| serde_json::from_slice(text).ok()).unwrap_or_default();
    let modes = [("mean_tokens", "mean", 1), ("cls_token", "cls", 2), ("lasttoken", "lasttoken", 3)];
    let is = |old: &str, new: &str| said[format!("pooling_mode_{old}")] == true || said["pooling_mode"] == new;
    modes.into_iter().find(|(old, new, _)| is(old, new)).map_or(0, |(_, _, number)| number)
}

/// Caps of scores and logits.
fn caps(model: &Model<Source>, heads: &Heads, key: &dyn Fn(&str) -> String) -> Keys {
    let mut keys = Keys::default();
    let logits = model.stages.iter().find_map(|stage| match stage {
        Stage::Head(head) => head.softcap,
        _ => None,
    });
    for (name, cap) in [("attn_logit_softcapping", heads.softcap), ("final_logit_softcapping", logits)] {
        if let Some(cap) = cap {
            keys.add(key(name), cap);
        }
    }
    keys
}

/// The base of the rotary frequencies, and what makes others of them: keys, and tensors of divisors.
fn rope(
    config: &Config,
    heads: &Heads,
    shape: &Shape<'_>,
    key: &dyn Fn(&str) -> String,
    keys: &mut Keys,
) -> Vec<Planned> {
    let Some(rope) = &heads.rope else { return Vec::new() };
    let theta = base(config).unwrap_or(if shape.architecture.name == "gemma3" { 1e6 } else { 1e4 });
    let pairs = rope.inv_freq.len();
    keys.add(key("rope.dimension_count"), 2 * pairs);
    keys.add(key("rope.freq_base"), theta as f32);
    let divisors = |frequencies: &[f32]| -> Vec<f64> {
        let plain = (0..pairs).map(|i| theta.powf(-(i as f64) / pairs as f64));
        plain.zip(frequencies).map(|(plain, &f)| plain / f64::from(f)).collect()
    };
    let singles = |all: &[f64]| all.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let short = divisors(&rope.inv_freq);
    let original = parameter(config, "original_max_position_embeddings").and_then(Json::as_u64);
    if let Some(long) = &rope.long {
        keys.add(key("rope.scaling.original_context_length"), long.beyond);
        keys.add(key("rope.scaling.attn_factor"), rope.amplitude);
        return vec![
            extra("rope_factors_long.weight", singles(&divisors(&long.inv_freq))),
            extra("rope_factors_short.weight", singles(&short)),
        ];
    }
    let is = |factor: f64| short.iter().all(|d| (d / factor - 1.0).abs() < SAME);
    if is(1.0) && rope.amplitude == 1.0 {
        return Vec::new();
    }
    let kind = parameter(config, "rope_type").or_else(|| parameter(config, "type")).and_then(Json::as_str);
    let factor = short.first().copied().unwrap_or(1.0);
    if is(factor) && rope.amplitude == 1.0 {
        keys.add(key("rope.scaling.type"), "linear");
        // A factor that was written in decimals is one in decimals again.
        keys.add(key("rope.scaling.factor"), (factor * 1e5).round() as f32 / 1e5);
    } else if kind == Some("yarn") {
        keys.add(key("rope.scaling.type"), "yarn");
        if let Some(factor) = parameter(config, "factor").and_then(Json::as_f64) {
            keys.add(key("rope.scaling.factor"), factor as f32);
        }
        if let Some(original) = original {
            keys.add(key("rope.scaling.original_context_length"), original as u32);
        }
    } else if shape.architecture.divisors && rope.amplitude == 1.0 {
        return vec![extra("rope_freqs.weight", singles(&short))];
    }
    // What is left unsaid is found when the file is held against the model.
    Vec::new()
}

/// The base that the configuration of the model, or of its language model, has.
fn base(config: &Config) -> Option<f64> {
    let theta = |value: &Json| value.get("rope_theta").and_then(Json::as_f64);
    let parameters = get(config, "rope_parameters");
    let full = parameters.and_then(|all| all.get("full_attention")).and_then(theta);
    full.or_else(|| parameters.and_then(theta)).or_else(|| get(config, "rope_theta")?.as_f64())
}

/// A parameter of the rule that changes rotary frequencies.
fn parameter<'a>(config: &'a Config, name: &str) -> Option<&'a Json> {
    let all = get(config, "rope_parameters");
    let full = all.and_then(|all| all.get("full_attention")).or(all);
    let within = |value: Option<&'a Json>| value.and_then(|value| value.get(name));
    within(get(config, "rope_scaling")).or_else(|| within(full)).or_else(|| get(config, name))
}

/// A value of the configuration that is there and not null.
fn get<'a>(config: &'a Config, key: &str) -> Option<&'a Json> {
    let nested = config.get("text_config").and_then(|inner| inner.get(key));
    nested.or_else(|| config.get(key)).filter(|value| !value.is_null())
}
