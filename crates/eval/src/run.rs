//! Runs models over windows and shows the logits to measures.

use std::time::Instant;

use brevity_model::{LoadError, Stages};
use brevity_runtime::{Compute, FirstRows, Progress, StreamOptions, run_streamed, run_streamed_pair};

use crate::error::{Error, Result};
use crate::measure::{Measure, PairMeasure, Rows};
use crate::score::Score;
use crate::windows::Windows;

/// How models are run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The arithmetic of products.
    pub compute: Compute,
    /// Bytes for the hidden states of windows; if they need more, weights are read several times.
    pub budget_bytes: u64,
}

impl Default for Options {
    /// Single precision, and at most 1 GiB of hidden states.
    fn default() -> Self {
        Options { compute: Compute::F32, budget_bytes: 1 << 30 }
    }
}

/// Someone who wants to know how far an evaluation is, and may end it.
pub trait Observer {
    /// This share of the work is done.
    fn progress(&mut self, fraction: f64);

    /// Whether to stop now.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody.
impl Observer for () {
    fn progress(&mut self, _: f64) {}
}

/// Scores, and what it took to get them.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The scores, measure by measure.
    pub scores: Vec<Score>,
    /// Tokens that were run.
    pub tokens: usize,
    /// Seconds it took.
    pub seconds: f64,
}

impl Outcome {
    /// Tokens a second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// What comparing two models gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Scores of the first model alone.
    pub before: Vec<Score>,
    /// Scores of the second model alone.
    pub after: Vec<Score>,
    /// Scores of the two together.
    pub scores: Vec<Score>,
    /// Tokens that were run through each.
    pub tokens: usize,
    /// Seconds it took for both together.
    pub seconds: f64,
}

/// Runs windows through a model, streamed, and shows every row that counts to the measures.
///
/// # Errors
/// [`Error::Token`] before anything is run, [`Error::Cancelled`], what the measures refuse, and [`Error::Run`].
pub fn evaluate(
    model: &dyn Stages,
    windows: &Windows,
    measures: &mut [Box<dyn Measure>],
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    windows.check(model.model().vocabulary)?;
    let start = Instant::now();
    run_streamed(
        model,
        &windows.windows,
        &stream_options(windows, options),
        &mut |chunk| {
            let rows = rows(&chunk, 0);
            Ok(measures.iter_mut().try_for_each(|measure| measure.observe(&rows))?)
        },
        &mut |progress| watch(observer, progress),
    )
    .map_err(unwrapped)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Outcome { scores: reports(measures, windows)?, tokens: windows.tokens(), seconds })
}

/// Runs windows through two models side by side in one pass. Measures of one model look at each, `before` and
/// `after`; `together` look at both.
///
/// # Errors
/// [`Error::Vocabularies`], and as [`evaluate`].
pub fn compare(
    models: [&dyn Stages; 2],
    windows: &Windows,
    alone: [&mut [Box<dyn Measure>]; 2],
    together: &mut [Box<dyn PairMeasure>],
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Comparison> {
    let [before, after] = models.map(|model| model.model().vocabulary);
    if before != after {
        return Err(Error::Vocabularies { before, after });
    }
    windows.check(before)?;
    let [first, second] = alone;
    let start = Instant::now();
    run_streamed_pair(
        models[0],
        models[1],
        &windows.windows,
        &stream_options(windows, options),
        &mut |chunk| {
            let (before, after) = (rows(&chunk, 0), rows(&chunk, 1));
            first.iter_mut().try_for_each(|measure| measure.observe(&before))?;
            second.iter_mut().try_for_each(|measure| measure.observe(&after))?;
            Ok(together.iter_mut().try_for_each(|measure| measure.observe(&before, &after))?)
        },
        &mut |progress| watch(observer, progress),
    )
    .map_err(unwrapped)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut scores = Vec::new();
    for measure in together {
        scores.extend(measure.report(windows)?);
    }
    let (before, after) = (reports(first, windows)?, reports(second, windows)?);
    Ok(Comparison { before, after, scores, tokens: windows.tokens(), seconds })
}

fn stream_options(windows: &Windows, options: &Options) -> StreamOptions {
    StreamOptions {
        budget_bytes: options.budget_bytes,
        first_rows: FirstRows::Same(windows.first_row()),
        ..StreamOptions::new(options.compute)
    }
}

/// The runtime has checked that logits are finite, and `evaluate` that tokens are known.
fn rows<'a>(chunk: &brevity_runtime::Chunk<'a>, model: usize) -> Rows<'a> {
    Rows {
        window: chunk.window,
        first: chunk.first_row,
        vocabulary: chunk.vocabulary,
        targets: chunk.targets,
        logits: chunk.logits[model],
    }
}

fn watch(observer: &mut dyn Observer, progress: Progress) -> Result<(), LoadError> {
    observer.progress(progress.fraction);
    if observer.cancelled() { Err(Box::new(Error::Cancelled)) } else { Ok(()) }
}

/// Our own errors as they were, the runtime's as [`Error::Run`].
fn unwrapped(error: brevity_runtime::Error) -> Error {
    match error {
        brevity_runtime::Error::Caller(ours) => match ours.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::Run(brevity_runtime::Error::Caller(other)),
        },
        other => Error::Run(other),
    }
}

fn reports(measures: &mut [Box<dyn Measure>], windows: &Windows) -> Result<Vec<Score>> {
    let mut scores = Vec::new();
    for measure in measures {
        scores.extend(measure.report(windows)?);
    }
    Ok(scores)
}
