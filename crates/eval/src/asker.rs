//! Puts questions to a model.

use std::ops::ControlFlow;
use std::time::Instant;

use brevity_kernels::ops::Compute;
use brevity_model::{LoadError, Stages};
use brevity_runtime::{Resident, Sequence, WeighOptions, Writing, weigh, write};
use rayon::prelude::*;

use crate::ask::{Answer, Ask, Length, Weighed, Written};
use crate::error::{Error, Result};
use crate::run::{Observer, Options, unwrapped};
use crate::words::{Split, Words};

/// How questions are put.
#[derive(Clone, Copy, Debug)]
pub struct AskOptions {
    /// The arithmetic of products.
    pub compute: Compute,
    /// Bytes for hidden states; if they need more, weights are read several times.
    pub budget_bytes: u64,
    /// Tokens that go through a layer together.
    pub rows: usize,
}

/// Rows of activations of a layer that a row of hidden states stands for, about.
const ROWS_OF_LAYER: u64 = 16;

impl AskOptions {
    /// As other measures of a model of some width are run: no more tokens go through a layer together than fit there.
    pub fn within(options: &Options, hidden: usize) -> Self {
        let fit = options.budget_bytes / (4 * ROWS_OF_LAYER * hidden.max(1) as u64);
        let rows = (fit as usize).clamp(256, AskOptions::default().rows);
        AskOptions { compute: options.compute, budget_bytes: options.budget_bytes, rows }
    }
}

impl Default for AskOptions {
    /// Single precision, at most 1 GiB of hidden states, 4096 tokens at once.
    fn default() -> Self {
        AskOptions { compute: Compute::F32, budget_bytes: 1 << 30, rows: 4096 }
    }
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// One for each question.
    pub answers: Vec<Answer>,
    /// Texts that were cut at the left to fit into the model's context.
    pub cut: usize,
    /// Tokens of all questions with their continuations, shared beginnings counted each time, and of what was written.
    pub tokens: usize,
    /// Seconds it took.
    pub seconds: f64,
}

/// Puts questions to a model. Those about likelihood are run streamed, stage by stage, with beginnings that several share run
/// once; for those that are to be answered in writing the whole model is kept in memory. The same questions
/// get the same answers; in other company they differ by no more than rounding.
///
/// # Errors
/// [`Error::Tokenize`], [`Error::Prompt`], [`Error::Continuation`], [`Error::Cancelled`] and [`Error::Run`].
pub fn ask(
    stages: &dyn Stages,
    words: &Words<'_>,
    asks: &[&Ask],
    options: &AskOptions,
    observer: &mut dyn Observer,
) -> Result<Answers> {
    let started = Instant::now();
    let splits = asks.par_iter().map(|ask| split(words, ask)).collect::<Result<Vec<Vec<Split>>>>()?;
    let weighing = splits.iter().any(|splits| !splits.is_empty());
    let writing = asks.iter().any(|ask| matches!(ask, Ask::Write { .. }));
    let mut shown = Shown { observer, from: 0.0, share: if weighing && writing { 0.5 } else { 1.0 } };
    let mut cut = splits.iter().flatten().filter(|split| split.cut).count();
    let mut tokens: usize = splits.iter().flatten().map(|split| split.ids.len()).sum();

    let mut answers: Vec<Answer> = weights(stages, &splits, options, &mut shown)?;
    if writing {
        shown.from = 1.0 - shown.share;
        let (texts, more_cut, more_tokens) = texts(stages, words, asks, options, &mut shown)?;
        for (answer, text) in answers.iter_mut().zip(texts) {
            if let Some(text) = text {
                *answer = Answer::Text(text);
            }
        }
        (cut, tokens) = (cut + more_cut, tokens + more_tokens);
    }
    Ok(Answers { answers, cut, tokens, seconds: started.elapsed().as_secs_f64() })
}

/// The pairs of a question as tokens; contexts that are the same are tokenized once.
fn split(words: &Words<'_>, ask: &Ask) -> Result<Vec<Split>> {
    let Ask::Weigh(pairs) = ask else { return Ok(Vec::new()) };
    let mut known: Option<(&str, Vec<u32>)> = None;
    let mut splits = Vec::with_capacity(pairs.len());
    for pair in pairs {
        if known.as_ref().is_none_or(|(text, _)| *text != pair.context) {
            known = Some((&pair.context, words.prompt(pair.context.trim_end())?));
        }
        splits.push(words.split(pair, known.as_ref().map(|(_, ids)| &ids[..]))?);
    }
    Ok(splits)
}

fn weights(
    stages: &dyn Stages,
    asks: &[Vec<Split>],
    options: &AskOptions,
    shown: &mut Shown<'_>,
) -> Result<Vec<Answer>> {
    let sequences: Vec<Sequence> =
        asks.iter().flatten().map(|split| Sequence { ids: split.ids.clone(), from: split.from }).collect();
    let mut sums: Vec<Weighed> = sequences
        .iter()
        .map(|sequence| Weighed { log_prob: 0.0, tokens: sequence.ids.len() - sequence.from, greedy: true })
        .collect();
    let AskOptions { compute, budget_bytes, rows } = *options;
    weigh(
        stages,
        &sequences,
        &WeighOptions { compute, budget_bytes, rows },
        &mut |prediction| {
            let sum = &mut sums[prediction.sequence];
            sum.log_prob += prediction.log_prob();
            sum.greedy &= prediction.best == prediction.target;
        },
        &mut |progress| shown.at(progress.fraction),
    )
    .map_err(unwrapped)?;
    let mut sums = sums.into_iter();
    Ok(asks.iter().map(|splits| Answer::Weights(sums.by_ref().take(splits.len()).collect())).collect())
}

/// What is written to each question that asks for it, how many prompts were cut, and how many tokens were read and written.
fn texts(
    stages: &dyn Stages,
    words: &Words<'_>,
    asks: &[&Ask],
    options: &AskOptions,
    shown: &mut Shown<'_>,
) -> Result<(Vec<Option<Written>>, usize, usize)> {
    let (mut of, mut writings, mut cut) = (Vec::new(), Vec::new(), 0);
    for (n, ask) in asks.iter().enumerate() {
        let Ask::Write { prompt, limit, until } = ask else { continue };
        let most = |tokens: usize| match limit {
            Length::Tokens(most) => *most,
            Length::TotalTimesPrompt(times) => times.saturating_sub(1) * tokens,
        };
        let (prompt, max_tokens, was_cut) = words.to_continue(prompt, most)?;
        cut += usize::from(was_cut);
        writings.push(Writing { prompt, max_tokens });
        of.push((n, until));
    }
    let model = Resident::load(stages, options.compute)?;
    let all: usize = writings.iter().map(|writing| writing.max_tokens).sum();
    let (mut done, mut failed) = (0, None);
    let mut ended: Vec<Option<String>> = vec![None; writings.len()];
    let written = write(&model, &writings, words.end(), &mut |n, ids| {
        done += 1;
        let mut step = || -> Result<ControlFlow<()>> {
            shown.at(done as f64 / all.max(1) as f64).map_err(|_| Error::Cancelled)?;
            let until = of[n].1;
            if until.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            let text = words.decode(ids)?;
            Ok(match until.iter().filter_map(|end| text.find(&**end)).min() {
                Some(end) => {
                    ended[n] = Some(text[..end].to_owned());
                    ControlFlow::Break(())
                }
                None => ControlFlow::Continue(()),
            })
        };
        step().unwrap_or_else(|error| {
            failed = Some(error);
            ControlFlow::Break(())
        })
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut found: Vec<Option<Written>> = vec![None; asks.len()];
    let mut tokens = 0;
    for (((n, _), ids), (writing, ended)) in of.iter().zip(&written).zip(writings.iter().zip(ended)) {
        tokens += writing.prompt.len() + ids.len();
        let by_itself = ids.len() < writing.max_tokens;
        found[*n] = Some(match ended {
            Some(text) => Written { text, tokens: ids.len(), ended: true },
            None => Written { text: words.decode(ids)?, tokens: ids.len(), ended: by_itself },
        });
    }
    Ok((found, cut, tokens))
}

/// Progress of a part of the work.
struct Shown<'a> {
    observer: &'a mut dyn Observer,
    from: f64,
    share: f64,
}

impl Shown<'_> {
    fn at(&mut self, fraction: f64) -> std::result::Result<(), LoadError> {
        self.observer.progress(self.from + self.share * fraction);
        if self.observer.cancelled() { Err(Box::new(Error::Cancelled)) } else { Ok(()) }
    }
}
