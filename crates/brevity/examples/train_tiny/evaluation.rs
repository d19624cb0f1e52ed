//! Perplexity of the held-out text and four-way recall of the facts.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use tokenizers::Tokenizer;

use crate::facts::Fact;
use crate::model::{Llama, Shape};
use crate::ops::log_sum_exp;
use crate::vocabulary::encode;

/// What a checkpoint scores.
pub struct Scores {
    pub perplexity: f64,
    pub predictions: usize,
    /// Per relation in alphabetical order: its name, how many were right, how many were asked.
    pub recall: Vec<(String, usize, usize)>,
}

/// The length of the windows in which perplexity is measured.
pub const WINDOW: usize = 256;

impl Scores {
    /// Measures both.
    pub fn measure(
        model: &Llama,
        tokenizer: &Tokenizer,
        heldout: &str,
        facts: &[Fact],
    ) -> Result<Self> {
        let (perplexity, predictions) =
            perplexity(model, &encode(tokenizer, heldout)?, usize::MAX)?;
        Ok(Self {
            perplexity,
            predictions,
            recall: recall(model, tokenizer, facts)?,
        })
    }

    /// Facts recalled and facts asked.
    pub fn total(&self) -> (usize, usize) {
        self.recall
            .iter()
            .fold((0, 0), |(right, asked), (_, r, a)| (right + r, asked + a))
    }
}

impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "held-out perplexity  {:.3} ({} predictions in windows of {WINDOW})",
            self.perplexity, self.predictions
        )?;
        let (right, asked) = self.total();
        let percent = |right: usize, asked: usize| 100.0 * right as f64 / asked.max(1) as f64;
        write!(
            f,
            "facts recalled       {:.1} % ({right} of {asked}, four choices)",
            percent(right, asked)
        )?;
        for (relation, right, asked) in &self.recall {
            write!(
                f,
                "\n  {relation:<18} {:.1} % ({right} of {asked})",
                percent(*right, *asked)
            )?;
        }
        Ok(())
    }
}

/// Measures the checkpoint in a folder as it is stored.
pub fn evaluate(folder: &Path) -> Result<Scores> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))
    };
    let shape = Shape::from_config(&serde_json::from_str(&read("config.json")?)?)?;
    let model = Llama::read(shape, &folder.join("model.safetensors"))?;
    let tokenizer: Tokenizer = read("tokenizer.json")?
        .parse()
        .map_err(|error| anyhow::anyhow!("tokenizer.json: {error}"))?;
    let facts = read("facts.jsonl")?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Fact>, _>>()?;
    Scores::measure(&model, &tokenizer, &read("heldout.txt")?, &facts)
}

/// `exp` of the mean loss over the first windows, which do not overlap; the remainder is dropped.
pub fn perplexity(model: &Llama, tokens: &[u32], windows: usize) -> Result<(f64, usize)> {
    let windows: Vec<&[u32]> = tokens.chunks_exact(WINDOW).take(windows).collect();
    let (mut total, mut count) = (0f64, 0);
    for batch in windows.chunks(8) {
        let logits = logits(model, batch)?;
        for (window, logits) in batch.iter().zip(&logits) {
            for (row, next) in logits.iter().zip(&window[1..]) {
                total += f64::from(log_sum_exp(row) - row[*next as usize]);
                count += 1;
            }
        }
    }
    Ok(((total / count.max(1) as f64).exp(), count))
}

/// For each fact the choice with the greatest log-probability after the prompt, counted by relation.
pub fn recall(
    model: &Llama,
    tokenizer: &Tokenizer,
    facts: &[Fact],
) -> Result<Vec<(String, usize, usize)>> {
    let mut counts = std::collections::BTreeMap::<String, (usize, usize)>::new();
    for batch in facts.chunks(32) {
        let mut starts = Vec::new();
        let mut texts = Vec::new();
        for fact in batch {
            for choice in &fact.choices {
                starts.push(encode(tokenizer, &fact.prompt)?.len());
                texts.push(encode(tokenizer, &format!("{} {choice}", fact.prompt))?);
            }
        }
        // what follows a text cannot change its score, so shorter ones are filled up with anything
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let filled: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| {
                text.iter()
                    .copied()
                    .chain(std::iter::repeat(0))
                    .take(longest)
                    .collect()
            })
            .collect();
        let logits = logits(model, &filled.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let scores: Vec<f32> = (0..texts.len())
            .map(|i| {
                (starts[i]..texts[i].len())
                    .map(|at| {
                        logits[i][at - 1][texts[i][at] as usize] - log_sum_exp(&logits[i][at - 1])
                    })
                    .sum()
            })
            .collect();
        for (fact, scores) in batch.iter().zip(scores.chunks(4)) {
            let best = (0..4)
                .max_by(|a, b| scores[*a].total_cmp(&scores[*b]))
                .expect("four choices");
            let count = counts.entry(fact.relation.clone()).or_default();
            count.0 += usize::from(fact.choices[best] == fact.answer);
            count.1 += 1;
        }
    }
    Ok(counts
        .into_iter()
        .map(|(relation, (right, asked))| (relation, right, asked))
        .collect())
}

/// Logits of texts of one length: `[text][position][vocabulary]`.
fn logits(model: &Llama, texts: &[&[u32]]) -> Result<Vec<Vec<Vec<f32>>>> {
    let length = texts[0].len();
    let tokens = Tensor::from_vec(texts.concat(), (texts.len(), length), &Device::Cpu)?;
    Ok(model
        .forward(&tokens)?
        .detach()
        .reshape((texts.len(), length, ()))?
        .to_vec3()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Llama {
        let shape = Shape {
            vocabulary: 40,
            hidden: 16,
            inner: 32,
            layers: 1,
            heads: 4,
            kv_heads: 2,
            head_size: 4,
            positions: 512,
        };
        Llama::random(shape, 1).unwrap()
    }

    #[test]
    fn a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary() {
        let tokens: Vec<u32> = (0..600).map(|i| i * 7 % 40).collect();
        let (perplexity, predictions) = perplexity(&model(), &tokens, usize::MAX).unwrap();
        assert_eq!(predictions, 2 * (WINDOW - 1));
        assert!((perplexity - 40.0).abs() < 1.0, "{perplexity}");
    }

    #[test]
    fn a_later_token_does_not_change_earlier_logits() {
        let model = model();
        let short = logits(&model, &[&[1, 2, 3]]).unwrap();
        let long = logits(&model, &[&[1, 2, 3, 9, 9]]).unwrap();
        for position in 0..3 {
            for (a, b) in short[0][position].iter().zip(&long[0][position]) {
                assert!((a - b).abs() < 1e-6);
            }
        }
    }
}
