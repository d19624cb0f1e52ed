//! Runs models over windows and shows the logits to measures.

use std::time::Instant;

use brevity_model::{LoadError, Stages};
use brevity_runtime::{
    Boundary, Chunk, Compute, Cross, FirstRows, Looks, Progress, StreamOptions, Visit, run_lockstep, run_streamed,
};

use crate::error::{Error, Result};
use crate::measure::{HiddenMeasure, Measure, PairMeasure, Rows};
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
    /// A part of the work begins; shares are of this part from now on.
    fn part(&mut self, _what: &str) {}

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
    compare_with(models, windows, alone, together, &mut [], options, observer)
}

/// Like [`compare`], in the same pass with measures that look at hidden states.
///
/// # Errors
/// As [`compare`].
pub fn compare_with(
    models: [&dyn Stages; 2],
    windows: &Windows,
    alone: [&mut [Box<dyn Measure>]; 2],
    together: &mut [Box<dyn PairMeasure>],
    hidden: &mut [&mut dyn HiddenMeasure],
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
    let mut visit = |chunk: Chunk<'_>| -> Result<(), LoadError> {
        let (before, after) = (rows(&chunk, 0), rows(&chunk, 1));
        first.iter_mut().try_for_each(|measure| measure.observe(&before))?;
        second.iter_mut().try_for_each(|measure| measure.observe(&after))?;
        Ok(together.iter_mut().try_for_each(|measure| measure.observe(&before, &after))?)
    };
    lockstep(models, windows, Some(&mut visit), hidden, options, observer)?;
    let seconds = start.elapsed().as_secs_f64();
    let mut scores = Vec::new();
    for measure in together {
        scores.extend(measure.report(windows)?);
    }
    let (before, after) = (reports(first, windows)?, reports(second, windows)?);
    Ok(Comparison { before, after, scores, tokens: windows.tokens(), seconds })
}

/// Runs windows through two models for measures of hidden states alone. The models may differ in vocabulary (as long
/// as both have the tokens), width and depth, and need no heads.
///
/// # Errors
/// As [`evaluate`].
pub fn compare_hidden(
    models: [&dyn Stages; 2],
    windows: &Windows,
    hidden: &mut [&mut dyn HiddenMeasure],
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<()> {
    models.iter().try_for_each(|model| windows.check(model.model().vocabulary))?;
    lockstep(models, windows, None, hidden, options, observer)
}

fn lockstep(
    models: [&dyn Stages; 2],
    windows: &Windows,
    logits: Option<Visit<'_>>,
    hidden: &mut [&mut dyn HiddenMeasure],
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<()> {
    let looked_at = !hidden.is_empty();
    let mut cross = |boundary: Boundary<'_>| -> Result<(), LoadError> {
        Ok(hidden.iter_mut().try_for_each(|measure| measure.observe(&boundary))?)
    };
    let boundaries: Option<Cross<'_>> = if looked_at { Some(&mut cross) } else { None };
    let options = stream_options(windows, options);
    let looks = Looks { boundaries, logits };
    run_lockstep(&models, &windows.windows, &options, looks, &mut |progress| watch(observer, progress))
        .map_err(unwrapped)
}

fn stream_options(windows: &Windows, options: &Options) -> StreamOptions {
    StreamOptions {
        compute: options.compute,
        budget_bytes: options.budget_bytes,
        first_rows: FirstRows::Each((0..windows.windows.len()).map(|n| windows.first_row(n)).collect()),
        run_last: windows.runs_last(),
    }
}

/// The runtime has checked that logits are finite, and `evaluate` that tokens are known.
fn rows<'a>(chunk: &Chunk<'a>, model: usize) -> Rows<'a> {
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
pub(crate) fn unwrapped(error: brevity_runtime::Error) -> Error {
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
