//! Small checkpoints made on the spot.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use brevity_engine::{
    Calibration, Draw, Error, Observer, Plan, PlanOptions, Recipe, Report, RunOptions, Samples, SiteReport, Wanted,
};
use brevity_formats::Checkpoint;
use brevity_kernels::ops::Compute;
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// The generator of the golden files.
pub struct Lcg(pub u64);

impl Lcg {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }

    /// Roughly normal values of a matrix, or values around one of a norm.
    pub fn values(&mut self, count: usize, norm: bool) -> Vec<f32> {
        let mut sample = || self.uniform() + self.uniform() + self.uniform() + self.uniform() - 2.0;
        (0..count).map(|_| if norm { 1.0 + 0.1 * sample() } else { 0.25 * sample() } as f32).collect()
    }
}

/// Names, shapes and values of a small llama.
pub struct Llama {
    pub config: Value,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Llama {
    /// So many blocks of this width, with an output table of its own unless `tied`.
    pub fn new(blocks: usize, hidden: usize, ffn: usize, tied: bool) -> Self {
        let vocabulary = 64;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
            "intermediate_size": ffn, "num_hidden_layers": blocks, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": hidden / 4, "vocab_size": vocabulary, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "custom_key": {"kept": true},
        });
        let mut shapes: Vec<(String, Vec<usize>)> =
            vec![("model.embed_tokens.weight".into(), vec![vocabulary, hidden])];
        for n in 0..blocks {
            let mut add = |name: &str, shape: &[usize]| {
                shapes.push((format!("model.layers.{n}.{name}.weight"), shape.to_vec()));
            };
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
        shapes.push(("model.norm.weight".into(), vec![hidden]));
        if !tied {
            shapes.push(("lm_head.weight".into(), vec![vocabulary, hidden]));
        }
        let mut numbers = Lcg(7);
        let tensors = shapes.into_iter().map(|(name, shape)| {
            let values = numbers.values(shape.iter().product(), shape.len() == 1);
            (name, (shape, values))
        });
        Llama { config, tensors: tensors.collect() }
    }

    /// Writes it in bf16, with a few files that go with a model.
    pub fn write(&self, dir: &Path) {
        std::fs::create_dir_all(dir).unwrap();
        let tensors: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                (name, shape, values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect())
            })
            .collect();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::BF16, shape.to_vec(), bytes).unwrap()));
        std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        std::fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        std::fs::write(dir.join("generation_config.json"), "{\"eos_token_id\": 2}").unwrap();
        std::fs::write(dir.join("README.md"), "---\nlicense: mit\n---\n# A llama\n").unwrap();
    }

    /// The same in a directory of its own, opened.
    pub fn checkpoint(&self, dir: &Path) -> Checkpoint {
        self.write(dir);
        Checkpoint::open(dir).unwrap()
    }
}

/// The golden models, each written as a checkpoint below `dir`: name and path.
pub fn golden(dir: &Path) -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
            let name = fixture["name"].as_str().unwrap().to_owned();
            let at = dir.join(&name);
            write_golden(&fixture, &at);
            (name, at)
        })
        .collect()
}

fn write_golden(fixture: &Value, dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let mut numbers = Lcg(fixture["seed"].as_u64().unwrap());
    let parameters = fixture["parameters"].as_array().unwrap().iter().map(|parameter| {
        let shape: Vec<usize> = serde_json::from_value(parameter["shape"].clone()).unwrap();
        let values = numbers.values(shape.iter().product(), parameter["norm"].as_bool().unwrap());
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        (parameter["name"].as_str().unwrap(), shape, bytes)
    });
    let tensors: Vec<_> = parameters.collect();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(dir.join("config.json"), fixture["config"].to_string()).unwrap();
}

/// A recipe from a text.
pub fn recipe(text: &str) -> Recipe {
    Recipe::parse(text, "test.yaml").unwrap_or_else(|bad| panic!("{bad}"))
}

/// Samples of made-up tokens.
pub fn samples(count: usize, length: usize, vocabulary: u32, compute: Compute) -> Calibration {
    let mut state = 9u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32 % vocabulary
    };
    let tokens: Vec<u32> = (0..count * length).map(|_| next()).collect();
    let wanted = Wanted { samples: Some(count), length: Some(length), draw: Some(Draw::First), text: None };
    Calibration { samples: Samples::draw("made up", &tokens, &wanted, None, 0).unwrap(), compute, lines: Vec::new() }
}

/// So many threads, and a few samples for methods that look at activations.
pub fn options(checkpoint: &Checkpoint, threads: usize) -> PlanOptions {
    let calibration = samples(3, 12, checkpoint.model().vocabulary.max(1) as u32, Compute::F32);
    PlanOptions { threads, calibration: Some(calibration), ..PlanOptions::default() }
}

/// Plans with two threads.
pub fn plan(checkpoint: &Checkpoint, recipe: &Recipe) -> Plan {
    let options = options(checkpoint, 2);
    Plan::make(checkpoint, recipe, &options).unwrap_or_else(|error| panic!("{error}"))
}

/// Plans and runs.
pub fn run(checkpoint: &Checkpoint, recipe: &Recipe, out: &Path) -> Report {
    plan(checkpoint, recipe)
        .run(checkpoint, out, &RunOptions::default(), &mut ())
        .unwrap_or_else(|error| panic!("{error} {:?}", error.hint()))
}

/// Every file of a directory, and of those in it, with its bytes.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let (name, path) = (entry.file_name().into_string().unwrap(), entry.path());
        match path.is_dir() {
            true => found.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes))),
            false => drop(found.insert(name, std::fs::read(path).unwrap())),
        }
    }
    found
}

/// Bytes of the weight files of a directory.
pub fn weight_bytes(dir: &Path) -> u64 {
    files(dir)
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors") && !name.contains('/'))
        .map(|(_, bytes)| bytes.len() as u64)
        .sum()
}

/// Stops a run when it has been asked so many times whether to go on.
pub struct StopAfter(pub AtomicUsize);

impl StopAfter {
    pub fn questions(count: usize) -> Self {
        StopAfter(AtomicUsize::new(count))
    }
}

impl Observer for StopAfter {
    fn stage(&mut self, _: usize, _: usize, _: &[SiteReport]) {}

    fn cancelled(&mut self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

/// Whether an error is that of a run that was stopped.
pub fn is_stop(error: &Error) -> bool {
    matches!(error, Error::Cancelled { .. })
}
