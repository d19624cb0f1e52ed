//! A small random encoder, as sentence-transformers keep one.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// Width of the states.
pub const HIDDEN: usize = 16;
/// Blocks.
pub const LAYERS: usize = 3;
const POSITIONS: usize = 32;

/// Numbers between -0.5 and 0.5.
struct Random(u64);

impl Random {
    fn values(&mut self, count: usize, around: f32) -> Vec<f32> {
        let mut one = || {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            around + ((self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * if around == 0.0 { 1.0 } else { 0.2 }
        };
        (0..count).map(|_| one()).collect()
    }
}

/// A directory with a small BERT, a tokenizer of whole words, a pooling as its configuration says it, and a norm behind that.
pub fn directory(pooling: &str, settings: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put(
        "config.json",
        &format!(
            r#"{{"model_type": "bert", "hidden_size": {HIDDEN}, "num_hidden_layers": {LAYERS}, "num_attention_heads": 4,
            "intermediate_size": 24, "max_position_embeddings": {POSITIONS}, "vocab_size": 9, "hidden_act": "gelu",
            "layer_norm_eps": 1e-12, "type_vocab_size": 2}}"#
        ),
    );
    put(
        "modules.json",
        r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#,
    );
    put("1_Pooling/config.json", pooling);
    put("config_sentence_transformers.json", settings);
    put("sentence_bert_config.json", r#"{"max_seq_length": 128, "do_lower_case": true}"#);
    put("tokenizer.json", TOKENIZER);
    weights(&dir.path().join("model.safetensors"));
    dir
}

const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}], "pair": [],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
    "decoder": null,
    "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "cat": 4,
        "dog": 5, "sat": 6, "on": 7, "mat": 8}}}"#;

fn weights(path: &Path) {
    let mut random = Random(5);
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    let mut put = |name: String, shape: &[usize], around: f32| {
        tensors.push((name, shape.to_vec(), random.values(shape.iter().product(), around)));
    };
    put("embeddings.word_embeddings.weight".into(), &[9, HIDDEN], 0.0);
    put("embeddings.position_embeddings.weight".into(), &[POSITIONS, HIDDEN], 0.0);
    put("embeddings.token_type_embeddings.weight".into(), &[2, HIDDEN], 0.0);
    let norm = |put: &mut dyn FnMut(String, &[usize], f32), name: String| {
        put(format!("{name}.weight"), &[HIDDEN], 1.0);
        put(format!("{name}.bias"), &[HIDDEN], 0.0);
    };
    norm(&mut put, "embeddings.LayerNorm".into());
    for n in 0..LAYERS {
        let at = format!("encoder.layer.{n}");
        let mut linear = |name: &str, shape: [usize; 2]| {
            put(format!("{at}.{name}.weight"), &shape, 0.0);
            put(format!("{at}.{name}.bias"), &shape[..1], 0.0);
        };
        for name in ["query", "key", "value"] {
            linear(&format!("attention.self.{name}"), [HIDDEN, HIDDEN]);
        }
        linear("attention.output.dense", [HIDDEN, HIDDEN]);
        linear("intermediate.dense", [24, HIDDEN]);
        linear("output.dense", [HIDDEN, 24]);
        norm(&mut put, format!("{at}.attention.output.LayerNorm"));
        norm(&mut put, format!("{at}.output.LayerNorm"));
    }
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}
