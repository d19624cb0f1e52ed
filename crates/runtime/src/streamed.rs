//! Evaluating models that need not fit into memory: one stage at a time, all windows through each.

use std::ops::Range;

use brevity_kernels::ops::Compute;
use brevity_model::{Head, LoadError, Model, Place, Source, Stage, Stages};

use crate::applied::Applied;
use crate::error::{Error, Result};
use crate::forward::Forward;
use crate::prepare::Prepare;
use crate::read;
use crate::stream::Stream;

/// Bytes of logits that are made at once.
const LOGITS_BYTES: usize = 64 << 20;

/// How a model is evaluated.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The arithmetic of products.
    pub compute: Compute,
    /// Bytes for the hidden states of the windows. If they need more, the windows are done in several passes over
    /// the weights; at least one window is kept in any case.
    pub budget_bytes: u64,
    /// The first row of each window whose logits are wanted.
    pub first_row: usize,
}

impl StreamOptions {
    /// Every row, with at most 1 GiB of hidden states.
    pub fn new(compute: Compute) -> Self {
        StreamOptions { compute, budget_bytes: 1 << 30, first_row: 0 }
    }
}

/// Logits of some rows of one window, and the tokens that they predict.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// The window, counted from zero.
    pub window: usize,
    /// The position of the first row.
    pub first_row: usize,
    /// `[rows, vocabulary]`, of the model or of each of two.
    pub logits: &'a [&'a [f32]],
    /// Columns of the logits.
    pub vocabulary: usize,
    /// The token behind each row. The last token of a window is predicted by no chunk but predicts nothing itself.
    pub targets: &'a [u32],
}

/// How far an evaluation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The stage that is running.
    pub place: Place,
    /// The share of the whole work that is done, by parameters times tokens.
    pub fraction: f64,
}

/// What is called with each chunk. An error ends the evaluation.
pub type Visit<'a> = &'a mut dyn FnMut(Chunk<'_>) -> std::result::Result<(), LoadError>;

/// What is called as the work goes on. An error ends the evaluation.
pub type Watch<'a> = &'a mut dyn FnMut(Progress) -> std::result::Result<(), LoadError>;

/// Runs windows through a model, stage by stage, and shows the logits of every row that predicts a token of its
/// window, in order. Nothing as wide as the vocabulary is kept.
///
/// # Errors
/// If a stage cannot be loaded or run, if activations are not finite, or with what `visit` or `watch` return.
pub fn run_streamed(
    stages: &dyn Stages,
    windows: &[Vec<u32>],
    options: &StreamOptions,
    visit: Visit<'_>,
    watch: Watch<'_>,
) -> Result<()> {
    run(&[stages], windows, options, visit, watch)
}

/// Like [`run_streamed`] with two models of one vocabulary side by side: each chunk has the logits of both.
///
/// # Errors
/// As [`run_streamed`], and [`Error::Vocabularies`].
pub fn run_streamed_pair(
    first: &dyn Stages,
    second: &dyn Stages,
    windows: &[Vec<u32>],
    options: &StreamOptions,
    visit: Visit<'_>,
    watch: Watch<'_>,
) -> Result<()> {
    let (left, right) = (first.model().vocabulary, second.model().vocabulary);
    if left != right {
        return Err(Error::Vocabularies { left, right });
    }
    run(&[first, second], windows, options, visit, watch)
}

fn run(
    models: &[&dyn Stages],
    windows: &[Vec<u32>],
    options: &StreamOptions,
    visit: Visit<'_>,
    watch: Watch<'_>,
) -> Result<()> {
    let forward = Forward::new(options.compute);
    let prepare = Prepare::new(options.compute);
    let mut work = Work::new(models, windows.iter().map(Vec::len).sum(), watch);
    let width: usize = models.iter().map(|stages| stages.model().hidden).sum();
    for batch in passes(windows, 4 * width as u64, options.budget_bytes) {
        let now = &windows[batch.clone()];
        let mut ends = Vec::new();
        for &stages in models {
            let mut stream = Stream::start(&forward, now, batch.start);
            for (n, place) in places(stages.model()) {
                if matches!(stages.model().stages[n], Stage::Head(_)) {
                    break;
                }
                let stage = prepare.stage_owned(load(stages, n)?).map_err(|e| e.at(place))?;
                stages.release(n);
                let cost = cost(stages.model(), n);
                stream.advance(place, &stage, &mut |window| work.done(place, cost * now[window].len() as f64))?;
            }
            ends.push((stages, stream));
        }
        let ends = ends.into_iter().map(|(stages, stream)| End::new(&prepare, stages, stream));
        let ends = ends.collect::<Result<Vec<End<'_>>>>()?;
        for (at, ids) in now.iter().enumerate() {
            show(&ends, batch.start + at, at, ids, options.first_row, visit)?;
            work.done(Place::Head, ends.iter().map(|end| end.cost).sum::<f64>() * ids.len() as f64)?;
        }
    }
    Ok(())
}

/// Shows the logits of one window, some rows at a time.
fn show(ends: &[End<'_>], window: usize, at: usize, ids: &[u32], first: usize, visit: Visit<'_>) -> Result<()> {
    let vocabulary = ends[0].vocabulary;
    let rows = (LOGITS_BYTES / (4 * vocabulary.max(1) * ends.len())).max(1);
    let last = ids.len().saturating_sub(1);
    let mut row = first;
    while row < last {
        let some = row..last.min(row + rows);
        let logits = ends.iter().map(|end| end.stream.logits(at, some.clone(), &end.head, end.table.as_ref()));
        let logits = logits.collect::<Result<Vec<_>>>()?;
        let targets = &ids[some.start + 1..some.end + 1];
        let mut chunk = |logits: &[&[f32]]| {
            visit(Chunk { window, first_row: row, logits, vocabulary, targets }).map_err(Error::Caller)
        };
        match &logits[..] {
            [one] => read::values(one, |one| chunk(&[one]))??,
            [one, two] => read::values(one, |one| read::values(two, |two| chunk(&[one, two])))???,
            _ => unreachable!("one model or two"),
        }
        row = some.end;
    }
    Ok(())
}

/// A head, and what stands in front of it.
struct End<'a> {
    stream: Stream<'a>,
    head: Head<Applied>,
    table: Option<Applied>,
    vocabulary: usize,
    cost: f64,
}

impl<'a> End<'a> {
    fn new(prepare: &Prepare, stages: &dyn Stages, stream: Stream<'a>) -> Result<Self> {
        let model = stages.model();
        let is_head = |stage: &Stage<Source>| matches!(stage, Stage::Head(_));
        let at = model.stages.iter().position(is_head).ok_or(Error::Missing { what: "head" })?;
        let Stage::Head(head) = prepare.stage_owned(load(stages, at)?).map_err(|e| e.at(Place::Head))? else {
            return Err(Error::Missing { what: "head" });
        };
        stages.release(at);
        let table = if head.out.is_none() { Some(tied(prepare, stages)?) } else { None };
        let cost = cost(model, at) + table.as_ref().map_or(0.0, |_| (model.hidden * model.vocabulary) as f64);
        Ok(End { stream, head, table, vocabulary: model.vocabulary, cost })
    }
}

/// The token table, made ready for products.
pub(crate) fn tied(prepare: &Prepare, stages: &dyn Stages) -> Result<Applied> {
    let is_embed = |stage: &Stage<Source>| matches!(stage, Stage::Embed(_));
    let at = stages.model().stages.iter().position(is_embed).ok_or(Error::Missing { what: "embedding" })?;
    let Stage::Embed(embed) = load(stages, at)? else { return Err(Error::Missing { what: "embedding" }) };
    let table = prepare.matrix(embed.tokens.weight).map_err(|e| e.at(Place::Embed))?;
    stages.release(at);
    Ok(table)
}

/// Loads a stage.
pub(crate) fn load(stages: &dyn Stages, n: usize) -> Result<Stage<brevity_model::Weight>> {
    stages.load(n).map_err(|source| Error::Load { place: stages.model().place(n), source })
}

/// The stages that are run, with their places: all but those that hold unclaimed weights.
pub(crate) fn places(model: &Model<Source>) -> Vec<(usize, Place)> {
    let run = |&n: &usize| !matches!(model.stages[n], Stage::Loose(_));
    (0..model.stages.len()).filter(run).map(|n| (n, model.place(n))).collect()
}

/// Parameters that a token is multiplied with in a stage. A table costs nothing: one row is looked up.
pub(crate) fn cost(model: &Model<Source>, n: usize) -> f64 {
    match &model.stages[n] {
        Stage::Block(_) | Stage::Head(_) => {
            model.stages[n].weights().iter().map(|(_, _, source)| source.form.parameters() as f64).sum()
        }
        _ => 0.0,
    }
}

/// Cuts windows into runs whose hidden states fit into a budget; each holds at least one window.
fn passes(windows: &[Vec<u32>], bytes_per_token: u64, budget: u64) -> Vec<Range<usize>> {
    let mut passes = Vec::new();
    let mut start = 0;
    let mut held = 0;
    for (n, window) in windows.iter().enumerate() {
        let bytes = window.len() as u64 * bytes_per_token;
        if n > start && held + bytes > budget {
            passes.push(start..n);
            (start, held) = (n, 0);
        }
        held += bytes;
    }
    if start < windows.len() {
        passes.push(start..windows.len());
    }
    passes
}

/// How much of the work is done, and who wants to know.
pub(crate) struct Work<'a> {
    done: f64,
    all: f64,
    watch: Watch<'a>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(models: &[&dyn Stages], tokens: usize, watch: Watch<'a>) -> Self {
        let parameters = |stages: &&dyn Stages| {
            let model = stages.model();
            let table = if model.is_tied() { (model.hidden * model.vocabulary) as f64 } else { 0.0 };
            (0..model.stages.len()).map(|n| cost(model, n)).sum::<f64>() + table
        };
        let all = models.iter().map(parameters).sum::<f64>() * tokens as f64;
        Work { done: 0.0, all: all.max(1.0), watch }
    }

    pub(crate) fn done(&mut self, place: Place, cost: f64) -> Result<()> {
        self.done += cost;
        (self.watch)(Progress { place, fraction: (self.done / self.all).min(1.0) }).map_err(Error::Caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_into_passes_that_fit_the_budget() {
        let windows = vec![vec![0; 10], vec![0; 10], vec![0; 30], vec![0; 5]];
        // 2 bytes a token: 20, 20, 60 and 10 bytes.
        assert_eq!(passes(&windows, 2, 1000), [0..4]);
        assert_eq!(passes(&windows, 2, 45), [0..2, 2..3, 3..4]);
        assert_eq!(passes(&windows, 2, 0), [0..1, 1..2, 2..3, 3..4]);
        assert!(passes(&[], 2, 10).is_empty());
    }
}
