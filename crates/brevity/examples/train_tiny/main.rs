//! Makes the checkpoint in `models/tiny` from Princeton WordNet, and measures it.
//!
//! ```console
//! $ RAYON_NUM_THREADS=1 cargo run --release -p brevity --example train_tiny -- --wordnet /usr/share/wordnet --out models/tiny
//! $ cargo run --release -p brevity --example train_tiny -- --evaluate models/tiny
//! ```
//!
//! Everything follows from the seed: the split of the text, the facts, the tokenizer, the first weights and the order of
//! training. Two training threads work on the two halves of each batch, so the matrix products need one thread each.

mod adam;
mod attention;
mod corpus;
mod evaluation;
mod facts;
mod model;
mod ops;
mod random;
mod relations;
mod sampling;
mod training;
mod vocabulary;
mod wordnet;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use serde_json::json;
use tokenizers::Tokenizer;

use crate::corpus::Corpus;
use crate::evaluation::Scores;
use crate::model::{Llama, Shape};
use crate::sampling::Sampler;
use crate::training::Schedule;

// candle asks for fresh memory at every operation; the system's allocator gives it back to the kernel each time
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: train_tiny --wordnet DIR --out DIR [--seed N] [--steps N] [--state FILE] [--corpus-only]
       train_tiny --evaluate DIR

  --wordnet DIR   the WordNet database (Debian: package wordnet-base, /usr/share/wordnet)
  --out DIR       where the checkpoint, its texts and facts.jsonl are written
  --state FILE    write the training state here now and then, and go on from it if it is there
  --corpus-only   write heldout.txt, calibration.txt, facts.jsonl and the tokenizer, and stop
  --evaluate DIR  measure a checkpoint: perplexity of heldout.txt, recall of facts.jsonl";

const VOCABULARY: usize = 3072;
const PEAK_RATE: f64 = 3e-3;
const WARMUP: usize = 60;
const DESCENT: usize = 300;

struct Arguments {
    wordnet: PathBuf,
    out: PathBuf,
    seed: u64,
    steps: usize,
    state: Option<PathBuf>,
    corpus_only: bool,
    evaluate: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut parsed = Self {
            wordnet: PathBuf::new(),
            out: PathBuf::new(),
            seed: 2006,
            steps: 850,
            state: None,
            corpus_only: false,
            evaluate: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("`{word}` wants a value\n{USAGE}"));
            match word.as_str() {
                "--wordnet" => parsed.wordnet = value()?.into(),
                "--out" => parsed.out = value()?.into(),
                "--seed" => parsed.seed = value()?.parse().context("--seed wants a whole number")?,
                "--steps" => parsed.steps = value()?.parse().context("--steps wants a whole number")?,
                "--state" => parsed.state = Some(value()?.into()),
                "--corpus-only" => parsed.corpus_only = true,
                "--evaluate" => parsed.evaluate = Some(value()?.into()),
                _ => bail!("`{word}` is not an argument\n{USAGE}"),
            }
        }
        if parsed.evaluate.is_none() && (parsed.wordnet.as_os_str().is_empty() || parsed.out.as_os_str().is_empty()) {
            bail!("{USAGE}");
        }
        Ok(parsed)
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    match &arguments.evaluate {
        Some(folder) => println!("{}", evaluation::evaluate(folder)?),
        None => make(&arguments)?,
    }
    Ok(())
}

fn make(arguments: &Arguments) -> Result<()> {
    let corpus = corpus::build(&wordnet::WordNet::read(&arguments.wordnet)?, arguments.seed);
    let all: Vec<String> = corpus.texts.iter().chain(corpus.wordings.iter().flatten()).cloned().collect();
    let tokenizer = vocabulary::train(&all, VOCABULARY)?;
    let shape = Shape {
        vocabulary: tokenizer.get_vocab_size(true),
        hidden: 256,
        inner: 512,
        layers: 4,
        heads: 8,
        kv_heads: 4,
        head_size: 32,
        positions: 512,
    };
    let mut sampler = Sampler::new(&corpus, &tokenizer, training::MIXES[0].1, arguments.seed)?;
    fs::create_dir_all(&arguments.out)?;
    write_corpus(&corpus, &tokenizer, &shape, &arguments.out)?;
    eprintln!(
        "{} texts, {} tokens; {} facts; {} held-out bytes",
        corpus.texts.len(),
        sampler.text_tokens(),
        corpus.facts.len(),
        corpus.heldout.len()
    );
    if arguments.corpus_only {
        return Ok(());
    }
    let model = match &arguments.state {
        Some(file) if file.exists() => Llama::read(shape, file)?,
        _ => Llama::random(shape, arguments.seed)?,
    };
    let mut optimizer = training::optimizer(&model)?;
    let start = match &arguments.state {
        Some(file) if file.exists() => optimizer.restore(&candle_core::safetensors::load(file, &Device::Cpu)?)?,
        _ => 0,
    };
    eprintln!("{} weights", model.size());
    let schedule = Schedule { steps: arguments.steps, peak_rate: PEAK_RATE, warmup: WARMUP, descent: DESCENT };
    training::train(&model, &mut optimizer, &mut sampler, &schedule, start, |steps, optimizer| {
        if steps % 100 == 0 && steps < schedule.steps {
            let held = vocabulary::encode(&tokenizer, &corpus.heldout)?;
            let (perplexity, _) = evaluation::perplexity(&model, &held, 16)?;
            let sample: Vec<_> = corpus.facts.iter().step_by(16).cloned().collect();
            let recall = evaluation::recall(&model, &tokenizer, &sample)?;
            let right: usize = recall.iter().map(|(_, right, _)| right).sum();
            let asked = sample.len();
            eprintln!("after {steps}: perplexity {perplexity:.2} of 16 windows, {right} of {asked} facts");
        }
        match &arguments.state {
            Some(file) if steps % 50 == 0 => training::write_state(&model, optimizer, file),
            _ => Ok(()),
        }
    })?;
    let passes = |drawn: usize, of: usize| drawn as f64 / of as f64;
    eprintln!(
        "every fact was met {:.1} times, every text {:.1} times",
        passes(sampler.facts_drawn, corpus.facts.len()),
        passes(sampler.texts_drawn, corpus.texts.len())
    );
    write_weights(&model, &arguments.out)?;
    println!("{}", Scores::measure(&model, &tokenizer, &corpus.heldout, &corpus.facts)?);
    println!("as stored, in bf16:\n{}", evaluation::evaluate(&arguments.out)?);
    Ok(())
}

fn write_corpus(corpus: &Corpus, tokenizer: &Tokenizer, shape: &Shape, out: &Path) -> Result<()> {
    vocabulary::write(tokenizer, out, shape.positions)?;
    fs::write(out.join("heldout.txt"), &corpus.heldout)?;
    fs::write(out.join("calibration.txt"), corpus.calibration())?;
    let mut lines = String::new();
    for fact in &corpus.facts {
        lines.push_str(&serde_json::to_string(fact)?);
        lines.push('\n');
    }
    fs::write(out.join("facts.jsonl"), lines)?;
    fs::write(out.join("config.json"), serde_json::to_string_pretty(&shape.config())? + "\n")?;
    let generation = json!({ "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0 });
    fs::write(out.join("generation_config.json"), serde_json::to_string_pretty(&generation)? + "\n")?;
    Ok(())
}

/// Writes `model.safetensors` in bf16; a reader never sees half of it.
fn write_weights(model: &Llama, out: &Path) -> Result<()> {
    let tensors = model.tensors(DType::BF16)?;
    let format = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let partial = out.join("model.safetensors.partial");
    fs::write(&partial, safetensors::serialize(tensors.iter(), Some(format))?)?;
    Ok(fs::rename(partial, out.join("model.safetensors"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Fact;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
    }

    #[test]
    fn the_embedded_checkpoint_is_small_and_its_facts_are_well_formed() {
        let sizes = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() <= 12_000_000);
        let facts = fs::read_to_string(folder().join("facts.jsonl")).unwrap();
        let facts: Vec<Fact> = facts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(facts.len() >= 2000);
        let heldout = fs::read_to_string(folder().join("heldout.txt")).unwrap();
        assert!((50_000..=100_000).contains(&heldout.len()));
        for Fact { prompt, answer, choices, .. } in &facts {
            let distinct: std::collections::HashSet<&String> = choices.iter().collect();
            assert!(distinct.len() == 4 && distinct.contains(answer), "{prompt}");
            assert!(!heldout.contains(&format!("{prompt} {answer}.")), "{prompt}");
        }
    }

    #[test]
    fn the_embedded_checkpoint_recalls_its_facts() {
        let read = |name: &str| fs::read_to_string(folder().join(name)).unwrap();
        let shape = Shape::from_config(&serde_json::from_str(&read("config.json")).unwrap()).unwrap();
        let model = Llama::read(shape, &folder().join("model.safetensors")).unwrap();
        let tokenizer: Tokenizer = read("tokenizer.json").parse().unwrap();
        let facts: Vec<Fact> =
            read("facts.jsonl").lines().step_by(20).map(|line| serde_json::from_str(line).unwrap()).collect();
        let right: usize =
            evaluation::recall(&model, &tokenizer, &facts).unwrap().iter().map(|(_, right, _)| right).sum();
        assert!(right * 100 >= facts.len() * 85, "{right} of {}", facts.len());
    }
}
