//! Small checkpoints made on the spot, and the command.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::bf16;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

/// The size of a random llama.
#[derive(Clone, Copy)]
pub struct Toy {
    pub blocks: usize,
    pub hidden: usize,
    pub ffn: usize,
    pub vocabulary: usize,
}

impl Default for Toy {
    fn default() -> Self {
        Toy { blocks: 2, hidden: 64, ffn: 128, vocabulary: 64 }
    }
}

impl Toy {
    /// Names, shapes and values of the tensors; the same each time.
    pub fn tensors(self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let Toy { blocks, hidden, ffn, vocabulary } = self;
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden])];
        for n in 0..blocks {
            let mut add =
                |name: &str, shape: &[usize]| shapes.push((format!("model.layers.{n}.{name}.weight"), shape.to_vec()));
            add("input_layernorm", &[hidden]);
            add("self_attn.q_proj", &[hidden, hidden]);
            add("self_attn.k_proj", &[hidden / 2, hidden]);
            add("self_attn.v_proj", &[hidden / 2, hidden]);
            add("self_attn.o_proj", &[hidden, hidden]);
            add("post_attention_layernorm", &[hidden]);
            add("mlp.gate_proj", &[ffn, hidden]);
            add("mlp.up_proj", &[ffn, hidden]);
            add("mlp.down_proj", &[hidden, ffn]);
        }
        shapes.push(("model.norm.weight".to_owned(), vec![hidden]));
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut tensors = BTreeMap::new();
        for (name, shape) in shapes {
            let count = shape.iter().product();
            let base = if shape.len() == 1 { 1.0 } else { 0.0 };
            tensors.insert(name, (shape, (0..count).map(|_| base + 0.1 * random()).collect()));
        }
        tensors
    }

    /// Writes the checkpoint into a directory, in bf16 and one file.
    pub fn write(self, dir: &Path) {
        self.write_tensors(dir, &self.tensors());
    }

    /// Writes these tensors with the configuration of this size.
    pub fn write_tensors(self, dir: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
        std::fs::create_dir_all(dir).unwrap();
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .iter()
            .map(|(name, (shape, values))| {
                let bytes = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
                (name.clone(), shape.clone(), bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes).unwrap()));
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        safetensors::serialize_to_file(views, metadata, &dir.join("model.safetensors")).unwrap();
        std::fs::write(dir.join("config.json"), serde_json::to_string_pretty(&self.config()).unwrap()).unwrap();
    }

    /// The configuration.
    pub fn config(self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.ffn, "num_hidden_layers": self.blocks,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "vocab_size": self.vocabulary,
            "an_unknown_key": { "kept": true },
        })
    }
}

/// The command.
pub fn brevity() -> Command {
    Command::new(env!("CARGO_BIN_EXE_brevity"))
}

/// Runs the command to its end.
pub fn run(args: &[&str]) -> Output {
    brevity().args(args).output().expect("the command starts")
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A failed run: its exit code and what it said.
pub fn failure(args: &[&str]) -> (i32, String) {
    let output = run(args);
    assert!(!output.status.success(), "brevity {args:?} succeeded: {}", stdout(&output));
    let said = stderr(&output);
    assert!(!said.contains("panicked"), "brevity {args:?} panicked: {said}");
    assert!(said.starts_with("error: "), "brevity {args:?} says what happened: {said}");
    (output.status.code().expect("no signal ended it"), said)
}

/// A successful run: what it printed.
pub fn success(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "brevity {args:?} failed: {}", stderr(&output));
    stdout(&output)
}

/// Name and SHA-256 of every file below a directory.
pub fn digests(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(digests(&path).into_iter().map(|(inner, digest)| (format!("{name}/{inner}"), digest)));
            continue;
        }
        let digest = Sha256::digest(std::fs::read(&path).unwrap());
        found.insert(name, digest.iter().map(|byte| format!("{byte:02x}")).collect());
    }
    found
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// A scratch directory with a toy checkpoint in `model`, and `out` to write to.
pub fn scratch(toy: Toy) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("model"), folder.path().join("out"));
    toy.write(&model);
    (folder, model, out)
}
