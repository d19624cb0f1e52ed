//! Models built from configurations and the names and shapes of tensors.

use std::collections::BTreeMap;

use brevity_model::{
    Attention, Block, Config, Dtype, Error, Form, Head, Model, Source, Stage, Tensors, architectures, build,
    build_loose,
};
use serde_json::json;

/// Tensors that are names and shapes only.
#[derive(Default)]
struct Names(BTreeMap<String, Option<[usize; 2]>>);

impl Tensors for Names {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        self.0.get(name).copied().flatten().map(|shape| Form::float(shape, Dtype::F16))
    }
}

impl Names {
    fn with(mut self, name: &str, shape: [usize; 2]) -> Self {
        self.0.insert(name.to_owned(), Some(shape));
        self
    }

    fn without(mut self, name: &str) -> Self {
        assert!(self.0.remove(name).is_some(), "{name}");
        self
    }
}

/// Two blocks, 8 wide, 4 query and 2 key heads of 2, 12 words.
fn llama() -> (Config, Names) {
    let config = json!({
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 6, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": false, "max_position_embeddings": 64
    });
    let mut names = Names::default()
        .with("model.embed_tokens.weight", [12, 8])
        .with("model.norm.weight", [1, 8])
        .with("lm_head.weight", [12, 8]);
    for n in 0..2 {
        for (name, shape) in [
            ("input_layernorm", [1, 8]),
            ("self_attn.q_proj", [8, 8]),
            ("self_attn.k_proj", [4, 8]),
            ("self_attn.v_proj", [4, 8]),
            ("self_attn.o_proj", [8, 8]),
            ("post_attention_layernorm", [1, 8]),
            ("mlp.gate_proj", [6, 8]),
            ("mlp.up_proj", [6, 8]),
            ("mlp.down_proj", [8, 6]),
        ] {
            names = names.with(&format!("model.layers.{n}.{name}.weight"), shape);
        }
    }
    (Config::parse(&config.to_string()).unwrap(), names)
}

#[test]
fn a_configuration_of_the_wrong_kind_is_refused_rather_than_passed_over() {
    let (mut config, names) = llama();
    config.set("rope_scaling", json!(17));
    let error = build(&config, &names).unwrap_err().to_string();
    assert!(error.contains("`rope_scaling`") && error.contains("17"), "{error}");
    config.set("rope_scaling", json!(null));
    assert!(build(&config, &names).is_ok());
    config.set("model_type", json!(["llama"]));
    let error = build(&config, &names).unwrap_err().to_string();
    assert!(error.contains("names no architecture"), "{error}");
}

fn attention(model: &Model<Source>, n: usize) -> &Attention<Source> {
    match &model.stages[n + 1] {
        Stage::Block(Block { attn: Some(attn), .. }) => attn,
        other => panic!("stage {} is {other:?}", n + 1),
    }
}

fn head(model: &Model<Source>) -> &Head<Source> {
    let head = model.stages.iter().find_map(|stage| match stage {
        Stage::Head(head) => Some(head),
        _ => None,
    });
    head.expect("the model has a head")
}

#[test]
fn a_llama_is_an_embedding_its_blocks_and_a_head() {
    let (config, names) = llama();
    let model = build(&config, &names).unwrap();
    assert_eq!(model.name, "llama");
    assert_eq!((model.hidden, model.vocabulary, model.context), (8, 12, Some(64)));
    assert_eq!(model.stages.len(), 4);
    let attn = attention(&model, 1);
    assert_eq!(attn.k.weight.tensor, "model.layers.1.self_attn.k_proj.weight");
    assert_eq!(attn.k.bias, None);
    assert_eq!(attn.heads.kv_of, [0, 0, 1, 1]);
    assert_eq!((attn.heads.qk_dim, attn.heads.v_dim), (2, 2));
    assert_eq!(attn.heads.scale, 0.5f32.sqrt());
    assert_eq!(attn.heads.rope.as_ref().unwrap().inv_freq, [1.0]);
    assert_eq!(attn.before.as_ref().unwrap().eps, 1e-5);
    assert!(!model.is_tied());
}

#[test]
fn names_without_the_prefix_of_the_language_model_are_found() {
    let (config, names) = llama();
    let bare = names.0.into_iter().map(|(name, shape)| (name.trim_start_matches("model.").to_owned(), shape));
    let model = build(&config, &Names(bare.collect())).unwrap();
    assert_eq!(attention(&model, 0).q.weight.tensor, "layers.0.self_attn.q_proj.weight");
    assert_eq!(model.stages.len(), 4);
}

#[test]
fn a_bias_exists_if_its_tensor_does() {
    let (config, names) = llama();
    let model = build(&config, &names.with("model.layers.0.self_attn.q_proj.bias", [1, 8])).unwrap();
    assert!(attention(&model, 0).q.bias.is_some());
    assert!(attention(&model, 1).q.bias.is_none());
}

#[test]
fn tied_models_have_no_output_table_even_if_the_file_has_one() {
    let (mut config, names) = llama();
    config.set("tie_word_embeddings", true.into());
    let model = build(&config, &names).unwrap();
    assert_eq!(head(&model).out, None);
    assert_eq!(model.stages.len(), 4, "the second copy is not carried along");
}

#[test]
fn a_silent_config_without_an_output_table_is_tied_and_one_that_denies_it_is_an_error() {
    let (mut config, names) = llama();
    let names = names.without("lm_head.weight");
    let error = build(&config, &names).unwrap_err();
    assert_eq!(error.to_string(), "`head.out` is missing: the checkpoint has no tensor `lm_head.weight`");
    config.remove("tie_word_embeddings");
    assert!(build(&config, &names).unwrap().is_tied());
}

#[test]
fn tensors_that_no_description_claims_are_loose() {
    let (config, names) = llama();
    let mut names = names.with("vision.proj.weight", [3, 5]).with("vision.proj.bias", [1, 3]);
    names.0.insert("model.layers.0.position_ids".into(), None);
    let model = build(&config, &names).unwrap();
    let Some(Stage::Loose(loose)) = model.stages.last() else { panic!("no loose stage") };
    assert_eq!(loose.matrices.keys().collect::<Vec<_>>(), ["vision.proj.weight"]);
    assert_eq!(loose.others, ["model.layers.0.position_ids", "vision.proj.bias"]);
}

#[test]
fn loose_stages_are_split_by_size() {
    let big = [1 << 13, 1 << 13]; // 128 MiB in f16
    let names = Names::default().with("a", big).with("b", big).with("c", big).with("d", [1, 4]);
    let model = build_loose(&names);
    assert_eq!(model.stages.len(), 2);
    let sites: Vec<String> = model.weights().map(|(site, _, _)| site.to_string()).collect();
    assert_eq!(sites, ["loose.0.a", "loose.0.b", "loose.1.c"]);
}

#[test]
fn an_unknown_architecture_is_refused_with_those_that_are_known() {
    let (mut config, names) = llama();
    config.set("model_type", "mamba".into());
    let error = build(&config, &names).unwrap_err();
    assert_eq!(error.to_string(), "unknown architecture `mamba`");
    let hint = error.hint().unwrap();
    assert!(hint.contains("llama") && hint.contains("--loose"), "{hint}");
}

#[test]
fn a_config_that_lacks_a_key_is_refused_with_key_and_file() {
    let (mut config, names) = llama();
    config.remove("num_hidden_layers");
    let error = build(&config, &names).unwrap_err();
    assert_eq!(error.to_string(), "`config.json` has no `num_hidden_layers`, which `models/llama.yaml` needs");
}

#[test]
fn a_config_value_of_the_wrong_kind_is_refused() {
    let (mut config, names) = llama();
    config.set("num_hidden_layers", "two".into());
    let error = build(&config, &names).unwrap_err();
    assert_eq!(error.to_string(), "`num_hidden_layers` in `config.json` is \"two\", not a count");
    config.set("num_hidden_layers", (-2).into());
    assert!(matches!(build(&config, &names), Err(Error::WrongValue { .. })));
}

#[test]
fn absurd_counts_are_refused_before_anything_is_made_of_them() {
    for (key, value, text) in [
        ("num_hidden_layers", 4_000_000_000u64, "a number of blocks that 21 tensors can make up"),
        ("num_hidden_layers", 1 << 40, "a count"),
        ("num_attention_heads", 4_000_000_000, "a number of heads that 8 features can be shared by"),
        ("num_attention_heads", 0, "a positive count"),
        ("hidden_size", 0, "a positive count"),
        ("head_dim", 0, "a positive count"),
    ] {
        let (mut config, names) = llama();
        config.set(key, value.into());
        let error = build(&config, &names).unwrap_err();
        assert_eq!(error.to_string(), format!("`{key}` in `config.json` is {value}, not {text}"));
    }
    let (mut config, names) = llama();
    config.set("head_dim", 4_000_000_000u64.into());
    assert!(matches!(build(&config, &names), Err(Error::Shape { .. })));
}

#[test]
fn fused_matrices_of_the_wrong_height_are_refused() {
    let (mut config, names) = llama();
    config.set("model_type", "phi3".into());
    let names = names.with("model.layers.0.self_attn.qkv_proj.weight", [15, 8]);
    let text = "`blocks.0.attn.q` does not fit: tensor `model.layers.0.self_attn.qkv_proj.weight` is [15, 8], \
                expected 16 rows for 4 query and 2 x 2 key and value heads of 2";
    assert_eq!(build(&config, &names).unwrap_err().to_string(), text);
    config.set("num_key_value_heads", 4_000_000_000u64.into());
    config.set("head_dim", 4_000_000_000u64.into());
    assert!(matches!(build(&config, &names), Err(Error::Shape { .. })));
}

#[test]
fn a_missing_tensor_is_named_with_its_site() {
    let (config, names) = llama();
    let error = build(&config, &names.without("model.layers.1.mlp.up_proj.weight")).unwrap_err();
    let text = "`blocks.1.mlp.up` is missing: the checkpoint has no tensor `model.layers.1.mlp.up_proj.weight`";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_what_would_fit() {
    for (tensor, shape, expected) in [
        (
            "model.layers.1.mlp.down_proj.weight",
            [8, 7],
            "`blocks.1.mlp.down` does not fit: tensor `model.layers.1.mlp.down_proj.weight` is [8, 7], expected [8, 6]",
        ),
        (
            "model.layers.0.self_attn.k_proj.weight",
            [5, 8],
            "`blocks.0.attn.k` does not fit: tensor `model.layers.0.self_attn.k_proj.weight` is [5, 8], expected rows for heads of 2",
        ),
        (
            "model.layers.0.self_attn.q_proj.weight",
            [8, 9],
            "`blocks.0.attn.q` does not fit: tensor `model.layers.0.self_attn.q_proj.weight` is [8, 9], expected [*, 8]",
        ),
        (
            "model.norm.weight",
            [1, 7],
            "`head.norm` does not fit: tensor `model.norm.weight` is [1, 7], expected [1, 8]",
        ),
    ] {
        let (config, names) = llama();
        assert_eq!(build(&config, &names.with(tensor, shape)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn unknown_rope_scaling_is_refused_rather_than_ignored() {
    let (mut config, names) = llama();
    config.set("rope_scaling", json!({"type": "dynamic", "factor": 2.0}));
    let error = build(&config, &names).unwrap_err();
    let text = "`rope_scaling.type` in `config.json` is \"dynamic\", which is not supported for `llama`";
    assert!(error.to_string().starts_with(text), "{error}");
}

#[test]
fn flags_that_are_not_implemented_are_refused() {
    for (model_type, key, value) in [
        ("gemma2", "use_bidirectional_attention", json!(true)),
        ("bert", "position_embedding_type", json!("relative_key")),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true)),
        ("opt", "layer_norm_elementwise_affine", json!(false)),
        ("roberta", "pad_token_id", json!(0)),
        ("mpnet", "relative_attention_num_buckets", json!(64)),
        ("nomic_bert", "activation_function", json!("gelu")),
        ("nomic_bert", "rotary_scaling_factor", json!(2.0)),
    ] {
        let (mut config, names) = llama();
        config.set("model_type", model_type.into());
        config.set(key, value);
        let error = build(&config, &names).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { key: named, .. } if named == key), "{error}");
    }
}

#[test]
fn kinds_of_layers_that_are_not_known_are_refused() {
    let (mut config, names) = llama();
    config.set("model_type", "qwen2".into());
    config.set("use_sliding_window", true.into());
    config.set("layer_types", json!(["full_attention", "chunked_attention"]));
    assert!(matches!(build(&config, &names), Err(Error::Unsupported { .. })));
    config.set("layer_types", json!(["full_attention"]));
    let text = "`layer_types` in `config.json` is a list of 1, not one of 2, an entry for each block";
    assert_eq!(build(&config, &names).unwrap_err().to_string(), text);
}

#[test]
fn both_spellings_of_rotary_parameters_mean_the_same() {
    let (mut config, names) = llama();
    let scaling = json!({"rope_type": "linear", "factor": 4.0});
    config.set("rope_scaling", scaling);
    let old = build(&config, &names).unwrap();
    config.remove("rope_scaling");
    config.remove("rope_theta");
    config.set("rope_parameters", json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}));
    let new = build(&config, &names).unwrap();
    assert_eq!(old, new);
    assert_eq!(attention(&old, 0).heads.rope.as_ref().unwrap().inv_freq, [0.25]);
}

#[test]
fn every_description_is_listed_with_its_types() {
    let listed = architectures();
    assert!(listed.iter().any(|(name, types)| *name == "llama" && types == &["llama"]));
    assert!(listed.iter().all(|(_, types)| !types.is_empty()));
}
