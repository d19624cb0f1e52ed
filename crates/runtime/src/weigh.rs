//! How likely sequences are, for models that need not fit into memory: one stage at a time, all sequences through each.

use std::collections::BTreeMap;

use brevity_kernels::ops::Compute;
use brevity_kernels::softmax::{argmax, log_sum_exp};
use brevity_model::{Place, Stage, Stages};
use candle_core::Tensor;
use rayon::prelude::*;

use crate::applied::Applied;
use crate::bundle::{Bundle, runs};
use crate::error::{Error, Result};
use crate::forward::Forward;
use crate::look::Watch;
use crate::prepare::Prepare;
use crate::read;
use crate::stream::{check_finite, check_ids};
use crate::streamed::{Ready, Work, cost, load, passes, places};

/// Bytes of logits that are made at once.
const LOGITS_BYTES: usize = 32 << 20;

/// Tokens of which some are to be predicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The tokens.
    pub ids: Vec<u32>,
    /// The first that is to be predicted; at least 1.
    pub from: usize,
}

/// How sequences are run.
#[derive(Clone, Copy, Debug)]
pub struct WeighOptions {
    /// The arithmetic of products.
    pub compute: Compute,
    /// Bytes for hidden states. If they need more, the sequences are done in several passes over the weights.
    pub budget_bytes: u64,
    /// How many rows go through a layer together; a longer sequence goes alone.
    pub rows: usize,
}

impl WeighOptions {
    /// At most 1 GiB of hidden states, 4096 rows at once.
    pub fn new(compute: Compute) -> Self {
        WeighOptions { compute, budget_bytes: 1 << 30, rows: 4096 }
    }
}

/// What a model predicted at one place.
#[derive(Clone, Copy, Debug)]
pub struct Prediction<'a> {
    /// The sequence, counted from zero.
    pub sequence: usize,
    /// The position of the token that was to be predicted.
    pub position: usize,
    /// That token.
    pub target: u32,
    /// `[vocabulary]`.
    pub logits: &'a [f32],
    /// The logarithm of the sum of the exponentials of all logits.
    pub log_sum: f64,
    /// The likeliest token, the first of several.
    pub best: u32,
}

impl Prediction<'_> {
    /// Log-probability of the target, in nats.
    pub fn log_prob(&self) -> f64 {
        f64::from(self.logits[self.target as usize]) - self.log_sum
    }

    /// How many tokens are likelier than the target.
    pub fn rank(&self) -> usize {
        let own = self.logits[self.target as usize];
        self.logits.iter().filter(|&&logit| logit > own).count()
    }
}

/// Runs sequences through a model stage by stage and shows what it predicts, in no particular order of sequences, each
/// sequence from left to right. Beginnings that sequences share are run once.
///
/// # Errors
/// If a stage cannot be loaded or run, [`Error::Token`], [`Error::Empty`], [`Error::NonFinite`] (their window is the
/// sequence), or what `watch` returns.
///
/// # Panics
/// If a sequence is to be predicted from its first token on.
pub fn weigh(
    stages: &dyn Stages,
    sequences: &[Sequence],
    options: &WeighOptions,
    visit: &mut dyn FnMut(Prediction<'_>),
    watch: Watch<'_>,
) -> Result<()> {
    let model = stages.model();
    for (n, sequence) in sequences.iter().enumerate() {
        check_ids(&sequence.ids, model.vocabulary, n)?;
        assert!(sequence.from >= 1, "the first token cannot be predicted");
    }
    let bundles = bundles(sequences, options.rows);
    let forward = Forward::new(options.compute);
    let prepare = Prepare::new(options.compute);
    let rows: Vec<usize> = bundles.iter().map(|bundle| bundle.layout.len()).collect();
    let mut work = Work::new(&[stages], rows.iter().sum(), watch);
    for pass in passes(&rows, 4 * model.hidden as u64, options.budget_bytes) {
        let pass = &bundles[pass];
        let mut hidden: Vec<Option<Tensor>> = vec![None; pass.len()];
        for (n, place) in places(model) {
            if matches!(model.stages[n], Stage::Head(_)) {
                break;
            }
            let stage = prepare.stage_owned(load(stages, n)?).map_err(|e| e.at(place))?;
            stages.release(n);
            for (bundle, x) in pass.iter().zip(&mut hidden) {
                let y = through(&forward, &stage, x.as_ref(), bundle).map_err(|e| e.at(place))?;
                check_finite(&y, place, 0).map_err(|_| blame(&y, place, bundle))?;
                *x = Some(y);
                work.done(place, cost(model, n) * bundle.layout.len() as f64)?;
            }
        }
        let head = Ready::load(&prepare, stages, true)?.ok_or(Error::Missing { what: "head" })?;
        for (bundle, x) in pass.iter().zip(hidden) {
            let x = x.ok_or(Error::Missing { what: "embedding" })?.get(0)?;
            show(&forward, &head, model.vocabulary, bundle, &x, sequences, visit)?;
            work.done(Place::Head, head.cost * bundle.layout.len() as f64)?;
        }
    }
    Ok(())
}

/// Some sequences, laid out.
struct Part {
    /// Their numbers.
    sequences: Vec<usize>,
    /// All but their last tokens.
    layout: Bundle,
}

fn bundles(sequences: &[Sequence], rows: usize) -> Vec<Part> {
    // The last token predicts nothing that is asked for. A sequence of one token asks for nothing.
    let asked: Vec<usize> = (0..sequences.len()).filter(|&n| sequences[n].from < sequences[n].ids.len()).collect();
    let run: Vec<&[u32]> = asked.iter().map(|&n| &sequences[n].ids[..sequences[n].ids.len() - 1]).collect();
    let part = |run_of: Vec<usize>| {
        let ids: Vec<&[u32]> = run_of.iter().map(|&n| run[n]).collect();
        Part { sequences: run_of.iter().map(|&n| asked[n]).collect(), layout: Bundle::new(&ids) }
    };
    runs(&run, rows).into_iter().map(part).collect()
}

fn through(forward: &Forward, stage: &Stage<Applied>, x: Option<&Tensor>, part: &Part) -> Result<Tensor> {
    match (stage, x) {
        (Stage::Embed(embed), _) => forward.embed_bundle(embed, &part.layout),
        (Stage::Block(block), Some(x)) => forward.block_bundle(block, x, &part.layout, None),
        _ => Err(Error::Missing { what: "embedding in front of its blocks" }),
    }
}

/// Says which sequence a value that is not finite belongs to.
fn blame(x: &Tensor, place: Place, part: &Part) -> Error {
    let width = x.dims().last().copied().unwrap_or(1).max(1);
    let bad: Vec<bool> = match read::values(x, |x| x.iter().map(|v| !v.is_finite()).collect()) {
        Ok(bad) => bad,
        Err(error) => return error,
    };
    let count = bad.iter().filter(|&&bad| bad).count();
    let row = bad.iter().position(|&bad| bad).unwrap_or(0) / width;
    let at = (0..part.sequences.len()).find(|&n| part.layout.rows(n).any(|of| of == row)).unwrap_or(0);
    Error::NonFinite { place, window: part.sequences[at], count }
}

/// Makes the logits of the rows that predict something, each once, and shows them.
fn show(
    forward: &Forward,
    ready: &Ready,
    vocabulary: usize,
    part: &Part,
    x: &Tensor,
    sequences: &[Sequence],
    visit: &mut dyn FnMut(Prediction<'_>),
) -> Result<()> {
    // row -> who asks for it: sequence, and position of its target
    let mut wanted: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (n, &sequence) in part.sequences.iter().enumerate() {
        for (position, row) in part.layout.rows(n).enumerate().skip(sequences[sequence].from - 1) {
            wanted.entry(row).or_default().push((sequence, position + 1));
        }
    }
    let wanted: Vec<(usize, Vec<(usize, usize)>)> = wanted.into_iter().collect();
    let chunk = (LOGITS_BYTES / (4 * vocabulary.max(1))).max(1);
    for some in wanted.chunks(chunk) {
        let rows: Vec<u32> = some.iter().map(|(row, _)| *row as u32).collect();
        let x = x.index_select(&Tensor::new(rows, x.device())?, 0)?;
        let logits = forward.head(&ready.head, ready.table.as_ref(), &x).map_err(|e| e.at(Place::Head))?;
        check_finite(&logits, Place::Head, some[0].1[0].0)?;
        read::values(&logits, |logits| {
            let mut best = vec![0; some.len()];
            argmax(logits, vocabulary, &mut best);
            let sums: Vec<f64> = logits.par_chunks(vocabulary).map(log_sum_exp).collect();
            for (n, (_, asked)) in some.iter().enumerate() {
                let logits = &logits[n * vocabulary..][..vocabulary];
                for &(sequence, position) in asked {
                    let target = sequences[sequence].ids[position];
                    visit(Prediction { sequence, position, target, logits, log_sum: sums[n], best: best[n] });
                }
            }
        })?;
    }
    Ok(())
}
