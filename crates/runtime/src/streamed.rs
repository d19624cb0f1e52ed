//! Evaluating models that need not fit into memory: one stage at a time, all windows through each.

use std::ops::Range;

use brevity_model::{Head, Model, Place, Source, Stage, Stages};
use candle_core::Tensor;

use crate::applied::Applied;
use crate::error::{Error, Result};
use crate::forward::Forward;
use crate::look::{Boundary, Chunk, Cross, Looks, Progress, StreamOptions, Visit, Watch};
use crate::prepare::Prepare;
use crate::read;
use crate::stream::Stream;

/// Bytes of logits that are made at once.
const LOGITS_BYTES: usize = 64 << 20;

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
    run_lockstep(&[stages], windows, options, Looks { boundaries: None, logits: Some(visit) }, watch)
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
    run_lockstep(&[first, second], windows, options, Looks { boundaries: None, logits: Some(visit) }, watch)
}

/// Runs windows through one model or two, all models through a stage before any goes through the next, and shows
/// what is wanted of it. At most one stage is loaded at a time, but for the heads at the end.
///
/// # Errors
/// As [`run_streamed`], and [`Error::Vocabularies`] if logits are wanted.
///
/// # Panics
/// If there is no model, or more than two.
pub fn run_lockstep(
    models: &[&dyn Stages],
    windows: &[Vec<u32>],
    options: &StreamOptions,
    mut looks: Looks<'_, '_>,
    watch: Watch<'_>,
) -> Result<()> {
    assert!((1..=2).contains(&models.len()), "one model or two");
    if looks.logits.is_some() {
        check_vocabularies(models)?;
    }
    let forward = Forward::new(options.compute);
    let prepare = Prepare::new(options.compute);
    let inputs: Vec<Vec<u32>> = windows.iter().map(|ids| ids[..ran(ids, options)].to_vec()).collect();
    let lengths: Vec<usize> = inputs.iter().map(Vec::len).collect();
    let mut work = Work::new(models, lengths.iter().sum(), watch);
    let width: usize = models.iter().map(|stages| stages.model().hidden).sum();
    for batch in passes(&lengths, 4 * width as u64, options.budget_bytes) {
        let now = &inputs[batch.clone()];
        let mut runs: Vec<Run<'_>> =
            models.iter().map(|&stages| Run::new(&forward, stages, now, batch.start)).collect();
        let common = runs.iter().map(|run| run.stages.len()).min().unwrap_or(0);
        let most = runs.iter().map(|run| run.stages.len()).max().unwrap_or(0);
        for step in 0..most {
            for run in runs.iter_mut().filter(|run| step < run.stages.len()) {
                run.advance(&prepare, step, &mut work)?;
            }
            if let Some(cross) = looks.boundaries.as_mut().filter(|_| step < common) {
                let streams: Vec<&Stream<'_>> = runs.iter().map(|run| &run.stream).collect();
                let place = runs[0].stages[step].1;
                (0..now.len()).try_for_each(|at| {
                    let hidden = streams.iter().map(|stream| stream.hidden(at).clone()).collect();
                    show_hidden(place, batch.start + at, hidden, cross)
                })?;
            }
        }
        let ends = runs.into_iter().map(|run| End::new(&prepare, run, looks.logits.is_some()));
        let ends = ends.collect::<Result<Vec<End<'_>>>>()?;
        for (at, ids) in now.iter().enumerate() {
            let window = batch.start + at;
            if let Some(cross) = &mut looks.boundaries {
                let hidden = ends.iter().map(|end| end.hidden(at)).collect::<Result<_>>()?;
                show_hidden(Place::Head, window, hidden, cross)?;
            }
            if let Some(visit) = &mut looks.logits {
                show(&ends, window, at, &windows[window], options.first_rows.of(window), visit)?;
            }
            work.done(Place::Head, ends.iter().map(|end| end.cost).sum::<f64>() * ids.len() as f64)?;
        }
    }
    Ok(())
}

fn check_vocabularies(models: &[&dyn Stages]) -> Result<()> {
    let of = |stages: &&dyn Stages| stages.model().vocabulary;
    match (models.first().map(of), models.last().map(of)) {
        (Some(left), Some(right)) if left != right => Err(Error::Vocabularies { left, right }),
        _ => Ok(()),
    }
}

/// How many tokens of a window are run.
fn ran(ids: &[u32], options: &StreamOptions) -> usize {
    if options.run_last { ids.len() } else { ids.len().saturating_sub(1) }
}

/// A model on its way through its stages.
struct Run<'a> {
    model: &'a dyn Stages,
    /// The stages in front of the head.
    stages: Vec<(usize, Place)>,
    stream: Stream<'a>,
    windows: &'a [Vec<u32>],
}

impl<'a> Run<'a> {
    fn new(forward: &'a Forward, model: &'a dyn Stages, windows: &'a [Vec<u32>], first: usize) -> Self {
        let head = |&(n, _): &(usize, Place)| !matches!(model.model().stages[n], Stage::Head(_));
        let stages = places(model.model()).into_iter().take_while(head).collect();
        Run { model, stages, stream: Stream::start(forward, windows, first), windows }
    }

    /// Loads a stage, takes all windows through it, and drops it.
    fn advance(&mut self, prepare: &Prepare, step: usize, work: &mut Work<'_>) -> Result<()> {
        let (n, place) = self.stages[step];
        let stage = prepare.stage_owned(load(self.model, n)?).map_err(|e| e.at(place))?;
        self.model.release(n);
        let (cost, windows) = (cost(self.model.model(), n), self.windows);
        self.stream.advance(place, &stage, &mut |window| work.done(place, cost * windows[window].len() as f64))
    }
}

/// Shows hidden states, `[1, tokens, width]` of each model.
fn show_hidden(place: Place, window: usize, hidden: Vec<Tensor>, cross: &mut Cross<'_>) -> Result<()> {
    let tokens = hidden[0].dims()[1];
    let mut boundary = |hidden: &[&[f32]]| cross(Boundary { place, window, hidden, tokens }).map_err(Error::Caller);
    each(&hidden, &mut boundary)
}

/// Calls `f` with the values of one tensor or two.
fn each(tensors: &[Tensor], f: &mut dyn FnMut(&[&[f32]]) -> Result<()>) -> Result<()> {
    match tensors {
        [one] => read::values(one, |one| f(&[one]))?,
        [one, two] => read::values(one, |one| read::values(two, |two| f(&[one, two])))??,
        _ => unreachable!("one model or two"),
    }
}

/// Shows the logits of one window, some rows at a time.
fn show(ends: &[End<'_>], window: usize, at: usize, ids: &[u32], first: usize, visit: &mut Visit<'_>) -> Result<()> {
    let vocabulary = ends[0].vocabulary;
    let rows = (LOGITS_BYTES / (4 * vocabulary.max(1) * ends.len())).max(1);
    let last = ids.len().saturating_sub(1);
    let mut row = first;
    while row < last {
        let some = row..last.min(row + rows);
        let logits = ends.iter().map(|end| end.logits(at, some.clone()));
        let logits = logits.collect::<Result<Vec<_>>>()?;
        let targets = &ids[some.start + 1..some.end + 1];
        let mut chunk = |logits: &[&[f32]]| {
            visit(Chunk { window, first_row: row, logits, vocabulary, targets }).map_err(Error::Caller)
        };
        each(&logits, &mut chunk)?;
        row = some.end;
    }
    Ok(())
}

/// A model behind its last block, and what stands in front of its head.
struct End<'a> {
    stream: Stream<'a>,
    /// None in a model without a head, which only hidden states are wanted of.
    ready: Option<Ready>,
    vocabulary: usize,
    cost: f64,
}

impl<'a> End<'a> {
    /// The output table is made ready only if logits are wanted.
    fn new(prepare: &Prepare, run: Run<'a>, logits: bool) -> Result<Self> {
        let ready = Ready::load(prepare, run.model, logits)?;
        if logits && ready.is_none() {
            return Err(Error::Missing { what: "head" });
        }
        let cost = ready.as_ref().map_or(0.0, |ready| ready.cost);
        Ok(End { stream: run.stream, ready, vocabulary: run.model.model().vocabulary, cost })
    }

    /// Hidden states of a window behind the last norm, `[1, tokens, hidden]`.
    fn hidden(&self, at: usize) -> Result<Tensor> {
        self.stream.normed(at, self.ready.as_ref().map_or(&None, |ready| &ready.head.norm))
    }

    fn logits(&self, at: usize, rows: Range<usize>) -> Result<Tensor> {
        let ready = self.ready.as_ref().ok_or(Error::Missing { what: "head" })?;
        self.stream.logits(at, rows, &ready.head, ready.table.as_ref())
    }
}

/// A head that is ready to be applied.
pub(crate) struct Ready {
    pub head: Head<Applied>,
    /// The token table as an output table, if the head has none of its own.
    pub table: Option<Applied>,
    /// Parameters that a token is multiplied with.
    pub cost: f64,
}

impl Ready {
    /// The head of a model, if it has one; without its output table unless logits are wanted, and none for them if there are
    /// none.
    pub(crate) fn load(prepare: &Prepare, stages: &dyn Stages, logits: bool) -> Result<Option<Ready>> {
        let model = stages.model();
        let wanted = |stage: &Stage<Source>| matches!(stage, Stage::Head(head) if head.logits || !logits);
        let Some(at) = model.stages.iter().position(wanted) else { return Ok(None) };
        let mut loaded = load(stages, at)?;
        if let Stage::Head(head) = &mut loaded
            && !logits
        {
            (head.out, head.project) = (None, None);
        }
        let Stage::Head(head) = prepare.stage_owned(loaded).map_err(|e| e.at(Place::Head))? else {
            return Err(Error::Missing { what: "head" });
        };
        stages.release(at);
        let mut cost = cost(model, at);
        let mut table = None;
        if logits && head.out.is_none() {
            table = Some(tied(prepare, stages)?);
            cost += (model.hidden * model.vocabulary) as f64;
        }
        Ok(Some(Ready { head, table, cost }))
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

/// Cuts inputs of some lengths into runs whose hidden states fit into a budget; each holds at least one input.
pub(crate) fn passes(lengths: &[usize], bytes_per_token: u64, budget: u64) -> Vec<Range<usize>> {
    let mut passes = Vec::new();
    let mut start = 0;
    let mut held = 0;
    for (n, &tokens) in lengths.iter().enumerate() {
        let bytes = tokens as u64 * bytes_per_token;
        if n > start && held + bytes > budget {
            passes.push(start..n);
            (start, held) = (n, 0);
        }
        held += bytes;
    }
    if start < lengths.len() {
        passes.push(start..lengths.len());
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
        let windows = [10, 10, 30, 5];
        // 2 bytes a token: 20, 20, 60 and 10 bytes.
        assert_eq!(passes(&windows, 2, 1000), [0..4]);
        assert_eq!(passes(&windows, 2, 45), [0..2, 2..3, 3..4]);
        assert_eq!(passes(&windows, 2, 0), [0..1, 1..2, 2..3, 3..4]);
        assert!(passes(&[], 2, 10).is_empty());
    }
}
