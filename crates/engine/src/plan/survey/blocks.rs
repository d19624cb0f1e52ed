//! Surveys of whole blocks: how much each changes the residual stream, and what the model loses without it.

use brevity_kernels::ops;
use brevity_methods::{Influence, Method, Sizes};
use brevity_model::{Block, Place, Source, Stage, Sublayer, Tap};
use brevity_runtime::{Applied, Flow, Forward, Prepare, values};
use candle_core::Tensor;

use super::{Ground, cosine};
use crate::error::Error;
use crate::recipe::Recipe;
use crate::turned::Base;
use crate::work::{Work, step_place};

/// Samples on which influences are measured: means over so many tokens hardly change with more.
const SAMPLES: usize = 16;

/// Tokens on which losses are measured, of so many in each sample.
const LOSS_TOKENS: [usize; 2] = [2048, 512];

/// Puts the method of a step, with what it learned of all selected blocks of the original model, in its place.
pub(super) fn survey(
    base: Base<'_>,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Method],
    step: usize,
    ground: Ground<'_>,
) -> Result<(), Error> {
    let Some(mut survey) = methods[step].block().and_then(|method| method.survey()) else { return Ok(()) };
    let place = || step_place(recipe, step);
    let model = base.model();
    let Some(calibration) = ground.calibration else {
        // Nothing can be carried out without a text, but a plan can be made: as if all blocks were alike.
        for n in 0..model.stages.len() {
            let parts = selected(work, n, methods, step);
            if let Some(sizes) = sizes(&model.stages[n]).filter(|_| !parts.is_empty()) {
                survey.look(model.place(n), &parts, sizes, Influence::default());
            }
        }
        let known = survey.finish().map_err(|source| Error::Method { place: place(), source })?;
        methods[step] = Method::Block(known);
        return Ok(());
    };
    let (windows, compute) = (&calibration.samples.windows[..], calibration.compute);
    let windows = &windows[..windows.len().min(SAMPLES)];
    let prepare = Prepare::new(compute);
    let mut flow = Flow::new(windows, compute, ground.keep, ground.dir).map_err(Error::Run)?;
    let mut losses = Losses::new(survey.losses(), windows, Forward::new(compute));
    let mut found = Vec::new();
    let mut table = None;
    for n in 0..model.stages.len() {
        // Hidden states in front of a block and behind it can be compared in the original model, whose stream is not turned.
        let stage = base.original(n)?;
        if let (Stage::Embed(embed), true) = (&stage, losses.are_wanted() && base.checkpoint.model().is_tied()) {
            table = Some(prepare.matrix(embed.tokens.weight.clone()).map_err(Error::Run)?);
        }
        let ready = prepare.stage_owned(stage).map_err(Error::Run)?;
        match &ready {
            Stage::Embed(embed) => {
                (0..flow.samples()).try_for_each(|sample| flow.embed(embed, sample)).map_err(Error::Run)?;
                losses.embed(embed)?;
            }
            Stage::Block(block) => {
                let parts = selected(work, n, methods, step);
                let influence = influence(&mut flow, model.place(n), block)?;
                losses.block(block, !parts.is_empty())?;
                if let Some(sizes) = sizes(&model.stages[n]).filter(|_| !parts.is_empty()) {
                    found.push((model.place(n), parts, sizes, influence));
                }
            }
            Stage::Head(head) => losses.head(head, table.as_ref())?,
            Stage::Loose(_) => {}
        }
    }
    for (at, (place, parts, sizes, mut influence)) in found.into_iter().enumerate() {
        influence.loss = losses.found.get(at).copied();
        survey.look(place, &parts, sizes, influence);
    }
    let known = survey.finish().map_err(|source| Error::Method { place: place(), source })?;
    methods[step] = Method::Block(known);
    Ok(())
}

/// The sublayers of a stage that a step rewrites.
fn selected(work: &Work, n: usize, methods: &[Method], step: usize) -> Vec<Sublayer> {
    let parts = [Sublayer::Attn, Sublayer::Mlp].into_iter();
    parts.filter(|&part| work.of_part(n, part, methods).contains(&step)).collect()
}

/// What the sublayers of a block hold.
fn sizes(stage: &Stage<Source>) -> Option<Sizes> {
    match stage {
        Stage::Block(block) => Some(Sizes::of(block, |source| source.form.parameters())),
        _ => None,
    }
}

/// Takes all samples through a block, and says how much it and its sublayers change them. Of sublayers that stand side by
/// side each counts as the block.
fn influence(flow: &mut Flow<'_>, place: Place, block: &Block<Applied>) -> Result<Influence, Error> {
    let mut sums = [0.0; 3];
    let mut tokens = 0;
    for sample in 0..flow.samples() {
        let x = flow.hidden(sample).map_err(Error::Run)?;
        let tap = |flow: &mut Flow<'_>, tap| flow.tap(place, block, tap, sample).map(|_| ()).map_err(Error::Run);
        if block.attn.is_some() {
            tap(flow, Tap::AttnMix)?;
        }
        let mut middle = None;
        if block.mlp.is_some() {
            tap(flow, Tap::MlpIn)?;
            if !block.parallel {
                middle = Some(flow.hidden(sample).map_err(Error::Run)?);
            }
            tap(flow, Tap::MlpMid)?;
        }
        flow.leave(place, block, sample).map_err(Error::Run)?;
        let y = flow.hidden(sample).map_err(Error::Run)?;
        let whole = cosines(&x, &y)?;
        let (attn, mlp) = match &middle {
            Some(middle) => (cosines(&x, middle)?, cosines(middle, &y)?),
            None => (whole, whole),
        };
        [whole, attn, mlp].iter().zip(&mut sums).for_each(|(one, sum)| *sum += one);
        tokens += flow.length(sample);
    }
    let [block, attn, mlp] = sums.map(|sum| if tokens > 0 { 1.0 - sum / tokens as f64 } else { 0.0 });
    Ok(Influence { block, attn, mlp, loss: None })
}

/// The sum over tokens of the cosine between two hidden states.
fn cosines(x: &Tensor, y: &Tensor) -> Result<f64, Error> {
    let width = x.dims3().map_err(|source| Error::Run(source.into()))?.2;
    let sum =
        values(x, |x| values(y, |y| x.chunks(width).zip(y.chunks(width)).map(|(x, y)| cosine(x, y)).sum::<f64>()));
    sum.and_then(|sum| sum).map_err(Error::Run)
}

/// The model without each block or sublayer, all carried along beside the whole one.
struct Losses<'a> {
    /// Whether blocks, attentions and MLPs are left out.
    wanted: [bool; 3],
    windows: Vec<&'a [u32]>,
    forward: Forward,
    /// Hidden states of the whole model, one for each sample.
    whole: Vec<Tensor>,
    /// For each selected block, those of the models without it, its attention or its MLP.
    without: Vec<[Option<Vec<Tensor>>; 3]>,
    found: Vec<[f64; 3]>,
}

impl<'a> Losses<'a> {
    fn new(wanted: [bool; 3], windows: &'a [Vec<u32>], forward: Forward) -> Self {
        let [all, each] = LOSS_TOKENS;
        let cut = windows.iter().map(|window| &window[..window.len().min(each)]);
        let windows = cut.take(all.div_ceil(each)).collect();
        Losses { wanted, windows, forward, whole: Vec::new(), without: Vec::new(), found: Vec::new() }
    }

    fn are_wanted(&self) -> bool {
        self.wanted.contains(&true)
    }

    fn embed(&mut self, embed: &brevity_model::Embed<Applied>) -> Result<(), Error> {
        if self.are_wanted() {
            let embedded = self.windows.iter().map(|ids| self.forward.embed(embed, ids, 1, 0));
            self.whole = embedded.collect::<Result<_, _>>().map_err(Error::Run)?;
        }
        Ok(())
    }

    fn block(&mut self, block: &Block<Applied>, selected: bool) -> Result<(), Error> {
        if !self.are_wanted() {
            return Ok(());
        }
        let forward = &self.forward;
        let through = |block: &Block<Applied>, states: &[Tensor]| -> Result<Vec<Tensor>, Error> {
            let through = states.iter().map(|x| forward.block(block, x, None, None));
            through.collect::<Result<_, _>>().map_err(Error::Run)
        };
        for states in self.without.iter_mut().flatten().flatten() {
            *states = through(block, states)?;
        }
        if selected {
            let bare = [
                Block { attn: None, mlp: None, parallel: block.parallel },
                Block { attn: None, ..block.clone() },
                Block { mlp: None, ..block.clone() },
            ];
            let mut new = [None, None, None];
            for (at, bare) in bare.iter().enumerate().filter(|(at, _)| self.wanted[*at]) {
                new[at] = Some(through(bare, &self.whole)?);
            }
            self.without.push(new);
        }
        self.whole = through(block, &self.whole)?;
        Ok(())
    }

    fn head(&mut self, head: &brevity_model::Head<Applied>, table: Option<&Applied>) -> Result<(), Error> {
        if !self.are_wanted() {
            return Ok(());
        }
        self.found = vec![[f64::INFINITY; 3]; self.without.len()];
        let tokens: usize = self.windows.iter().map(|ids| ids.len()).sum();
        let logits = |x: &Tensor| -> Result<Tensor, Error> {
            let logits = self.forward.head(head, table, x).map_err(Error::Run)?;
            ops::log_softmax(&logits).map_err(|source| Error::Run(source.into()))
        };
        let mut sums = vec![[0.0; 3]; self.without.len()];
        for (sample, x) in self.whole.iter().enumerate() {
            let p = logits(x)?;
            for (states, sums) in self.without.iter().zip(&mut sums) {
                for (states, sum) in states.iter().zip(sums).filter_map(|(states, sum)| Some((states.as_ref()?, sum))) {
                    *sum += divergence(&p, &logits(&states[sample])?)?;
                }
            }
        }
        for ((found, sums), states) in self.found.iter_mut().zip(sums).zip(&self.without) {
            for at in (0..3).filter(|&at| states[at].is_some()) {
                found[at] = sums[at] / tokens.max(1) as f64;
            }
        }
        Ok(())
    }
}

/// `Σ p (ln p - ln q)` over all rows, given logarithms.
pub(super) fn divergence(p: &Tensor, q: &Tensor) -> Result<f64, Error> {
    let sum = values(p, |p| {
        values(q, |q| {
            // The pieces depend on the shape alone and are added in order.
            p.chunks(4096)
                .zip(q.chunks(4096))
                .map(|(p, q)| {
                    p.iter().zip(q).map(|(&p, &q)| f64::from(p.exp()) * (f64::from(p) - f64::from(q))).sum::<f64>()
                })
                .sum::<f64>()
        })
    });
    sum.and_then(|sum| sum).map_err(Error::Run)
}
