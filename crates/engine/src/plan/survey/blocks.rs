//! Surveys of whole blocks: how much each changes the residual stream, and what the model loses without it.

use brevity_methods::{Influence, Method, Sizes};
use brevity_model::{Block, Place, Source, Stage, Sublayer, Tap};
use brevity_runtime::{Applied, Flow, Forward, Prepare, values};
use candle_core::Tensor;

use super::trials::Trials;
use super::{Ground, cosine};
use crate::error::Error;
use crate::recipe::Recipe;
use crate::turned::Base;
use crate::work::{Work, step_place};

/// Samples on which influences are measured: means over so many tokens hardly change with more.
const SAMPLES: usize = 16;

/// Tokens on which losses are measured, of so many in each sample.
pub(super) const LOSS_TOKENS: [usize; 2] = [2048, 512];

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
    let wanted = survey.losses();
    let [tokens, each] = LOSS_TOKENS;
    let mut trials = wanted.contains(&true).then(|| Trials::new(tokens, each, windows, Forward::new(compute)));
    // The block and the part of it, of which each trial is without.
    let mut without = Vec::new();
    let mut found = Vec::new();
    let mut table = None;
    for n in 0..model.stages.len() {
        // Hidden states in front of a block and behind it can be compared in the original model, whose stream is not turned.
        let stage = base.original(n)?;
        if let (Stage::Embed(embed), true) = (&stage, trials.is_some() && base.checkpoint.model().is_tied()) {
            table = Some(prepare.matrix(embed.tokens.weight.clone()).map_err(Error::Run)?);
        }
        let ready = prepare.stage_owned(stage).map_err(Error::Run)?;
        let mut versions = Vec::new();
        match &ready {
            Stage::Embed(embed) => {
                (0..flow.samples()).try_for_each(|sample| flow.embed(embed, sample)).map_err(Error::Run)?;
            }
            Stage::Block(block) => {
                let parts = selected(work, n, methods, step);
                let influence = influence(&mut flow, model.place(n), block)?;
                if let Some(sizes) = sizes(&model.stages[n]).filter(|_| !parts.is_empty()) {
                    for at in (0..3).filter(|&at| wanted[at]) {
                        without.push((found.len(), at));
                        versions.push(Ok(Stage::Block(bare(block, at))));
                    }
                    found.push((model.place(n), parts, sizes, influence));
                }
            }
            Stage::Head(_) | Stage::Loose(_) => {}
        }
        if let Some(trials) = &mut trials {
            trials.pass(&ready, table.as_ref(), versions.into_iter())?;
        }
    }
    if let Some(trials) = trials {
        for ((block, at), loss) in without.into_iter().zip(trials.losses()?) {
            found[block].3.loss.get_or_insert([f64::INFINITY; 3])[at] = loss;
        }
    }
    for (place, parts, sizes, influence) in found {
        survey.look(place, &parts, sizes, influence);
    }
    let known = survey.finish().map_err(|source| Error::Method { place: place(), source })?;
    methods[step] = Method::Block(known);
    Ok(())
}

/// A block without all of it, its attention, or its MLP.
fn bare(block: &Block<Applied>, without: usize) -> Block<Applied> {
    let mut bare = block.clone();
    if without != 2 {
        bare.attn = None;
    }
    if without != 1 {
        bare.mlp = None;
    }
    bare
}

/// The sublayers of a stage that a step rewrites.
pub(super) fn selected(work: &Work, n: usize, methods: &[Method], step: usize) -> Vec<Sublayer> {
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
