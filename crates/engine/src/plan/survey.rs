//! Methods that must see all layers before they touch the first.

mod blocks;
mod trials;

use std::collections::BTreeMap;
use std::path::Path;

use brevity_formats::{Checkpoint, Format, StageView};
use brevity_kernels::ops::Compute;
use brevity_methods::{Cx, Fold, Method, Needs, Seen, Survey, coding_rate};
use brevity_model::{Block, Form, Head, LeafForm, Linear, Model, Place, Role, Site, Stage, Weight};
use brevity_runtime::{Applied, Flow, Forward, Keep, Prepare, Tap, values};
use candle_core::Tensor;
use rayon::prelude::*;

use self::trials::Trials;
use crate::error::Error;
use crate::recipe::Recipe;
use crate::run::looking::{add, counts};
use crate::samples::Calibration;
use crate::turned::Base;
use crate::work::{Work, step_place};

/// The most tokens of one sample that single layers are tried on.
const TRIAL: usize = 256;

/// What surveys that look at activations go by.
#[derive(Clone, Copy)]
pub(crate) struct Ground<'a> {
    /// Where randomness comes from.
    pub seed: u64,
    /// The samples, if there are any.
    pub calibration: Option<&'a Calibration>,
    /// Where their activations are kept.
    pub keep: Keep,
    /// Where files may be made.
    pub dir: &'a Path,
}

/// What the surveys of some methods keep that measure the loss of the model with layers and blocks in other versions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TrialRows {
    /// Rows of hidden states of all versions.
    pub all: usize,
    /// The most rows of one sample.
    pub longest: usize,
}

impl TrialRows {
    pub fn of(methods: &[Method], work: &Work, stages: usize) -> Self {
        let layers = |step: usize| {
            let touched = |n: usize| work.of(n).iter().filter(|(_, steps)| steps.contains(&step)).count();
            (0..stages).map(touched).sum::<usize>()
        };
        let blocks =
            |step: usize| (0..stages).filter(|&n| !blocks::selected(work, n, methods, step).is_empty()).count();
        let of = |(step, method): (usize, &Method)| match method {
            // Six versions of each layer.
            Method::Linear(method) => {
                let tokens = method.survey().and_then(|survey| survey.tokens())?;
                Some(TrialRows { all: tokens * (6 * layers(step) + 1), longest: TRIAL })
            }
            Method::Block(method) => {
                let wanted = method.survey()?.losses().into_iter().filter(|wanted| *wanted).count();
                let [tokens, longest] = blocks::LOSS_TOKENS;
                (wanted > 0).then(|| TrialRows { all: tokens * (wanted * blocks(step) + 1), longest })
            }
            Method::Stream(_) => None,
        };
        let most = |a: TrialRows, b: TrialRows| TrialRows { all: a.all.max(b.all), longest: a.longest.max(b.longest) };
        methods.iter().enumerate().filter_map(of).fold(TrialRows::default(), most)
    }
}

/// Makes the surveys that shapes depend on.
pub(super) fn for_shapes(
    base: Base<'_>,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Method],
    ground: Ground<'_>,
) -> Result<(), Error> {
    for step in 0..methods.len() {
        let must = match &methods[step] {
            Method::Linear(method) => method.must_survey_to_predict(),
            Method::Block(method) => method.survey().is_some(),
            Method::Stream(_) => false,
        };
        if must {
            // What it looks at is what the steps before it leave, so those must know what they do.
            (0..=step).try_for_each(|step| survey(base, recipe, work, methods, step, ground))?;
        }
    }
    Ok(())
}

/// Makes all surveys if the number of removed entries, which only they can tell exactly, decides how much is written.
/// Says whether anything was surveyed.
pub(super) fn for_masks(
    base: Base<'_>,
    format: &'static dyn Format,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Method],
    forms: &Model<Form>,
    ground: Ground<'_>,
) -> Result<bool, Error> {
    if !methods.iter().any(Method::surveys) || !depends_on_masks(base.checkpoint, format, forms)? {
        return Ok(false);
    }
    the_rest(base, recipe, work, methods, ground)?;
    Ok(true)
}

/// Makes the surveys that have not been made.
pub(crate) fn the_rest(
    base: Base<'_>,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Method],
    ground: Ground<'_>,
) -> Result<(), Error> {
    (0..methods.len()).try_for_each(|step| survey(base, recipe, work, methods, step, ground))
}

/// Whether the format writes anything else for weights with entries removed.
fn depends_on_masks(checkpoint: &Checkpoint, format: &'static dyn Format, forms: &Model<Form>) -> Result<bool, Error> {
    let model = checkpoint.model();
    let bare = |form: &Form| -> Form {
        form.try_map(&mut |_, leaf| Ok::<_, std::convert::Infallible>(LeafForm { mask: None, ..leaf.clone() }))
            .unwrap_or_else(|never| match never {})
    };
    for (n, (source, forms)) in model.stages.iter().zip(&forms.stages).enumerate() {
        let at = StageView { place: model.place(n), source, container: Some(checkpoint.container()), numbers: None };
        let without = forms
            .try_map(|_, _, form| Ok::<_, std::convert::Infallible>(bare(form)))
            .unwrap_or_else(|never| match never {});
        if format.layout(&at, forms)? != format.layout(&at, &without)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts the method of a step, with what it learned, in its place.
fn survey(
    base: Base<'_>,
    recipe: &Recipe,
    work: &Work,
    methods: &mut [Method],
    step: usize,
    ground: Ground<'_>,
) -> Result<(), Error> {
    let method = match &methods[step] {
        Method::Linear(method) => method,
        Method::Block(_) => return blocks::survey(base, recipe, work, methods, step, ground),
        Method::Stream(_) => return Ok(()),
    };
    let Some(mut survey) = method.survey() else { return Ok(()) };
    base.find(ground.calibration, ground.dir)?;
    let needs = method.survey_needs();
    loop {
        if needs.is_nothing() {
            pass(base, recipe, work, &methods[..step], step, survey.as_mut(), ground.seed)?;
        } else {
            let method = recipe.steps[step].method.clone();
            let calibration =
                ground.calibration.ok_or_else(|| Error::NoText { method, place: step_place(recipe, step) })?;
            looking(base, recipe, work, &methods[..step], step, survey.as_mut(), needs, calibration, ground)?;
        }
        if !survey.next_pass() {
            break;
        }
    }
    let known = survey.finish().map_err(|source| Error::Method { place: step_place(recipe, step), source })?;
    methods[step] = Method::Linear(known);
    Ok(())
}

/// Shows every layer of a step to its survey, as the steps before it leave it.
fn pass(
    base: Base<'_>,
    recipe: &Recipe,
    work: &Work,
    before: &[Method],
    step: usize,
    survey: &mut dyn Survey,
    seed: u64,
) -> Result<(), Error> {
    for n in 0..base.model().stages.len() {
        if !work.of(n).iter().any(|(_, steps)| steps.contains(&step)) {
            continue;
        }
        let mut stage = base.load(n)?;
        let mut layers: Vec<_> = stage
            .linears_mut()
            .into_iter()
            .zip(work.of(n))
            .filter(|(_, (_, steps))| steps.contains(&step))
            .map(|((_, layer), (site, steps))| (site, steps, layer))
            .collect();
        layers.par_iter_mut().try_for_each(|(site, steps, layer)| apply(recipe, before, site, steps, layer, seed))?;
        for (site, _, layer) in &layers {
            survey
                .look(site, layer, &Seen::nothing())
                .map_err(|source| Error::Method { place: step_place(recipe, step), source })?;
        }
    }
    Ok(())
}

/// Runs the original model on the samples, and shows every layer of a step to its survey with what was seen of its
/// inputs. Earlier steps that look at activations themselves have not been taken.
#[allow(clippy::too_many_arguments)]
fn looking(
    base: Base<'_>,
    recipe: &Recipe,
    work: &Work,
    before: &[Method],
    step: usize,
    survey: &mut dyn Survey,
    needs: Needs,
    calibration: &Calibration,
    ground: Ground<'_>,
) -> Result<(), Error> {
    let Calibration { samples, compute, .. } = calibration;
    let prepare = Prepare::new(*compute);
    let mut flow = Flow::new(&samples.windows, *compute, ground.keep, ground.dir).map_err(Error::Run)?;
    let mut trials = survey.tokens().map(|tokens| Trials::new(tokens, TRIAL, &samples.windows, Forward::new(*compute)));
    let mut table = None;
    for n in 0..base.model().stages.len() {
        let place = base.model().place(n);
        let mut stage = base.load(n)?;
        let ready = prepare.stage(&stage).map_err(Error::Run)?;
        let seen = match &ready {
            Stage::Embed(embed) => {
                (0..flow.samples()).try_for_each(|sample| flow.embed(embed, sample)).map_err(Error::Run)?;
                let rows = embed.tokens.weight.table().map_err(Error::Run)?.shape()[0];
                BTreeMap::from([(Tap::Ids, counts(&samples.windows, rows))])
            }
            Stage::Block(block) => seen_of(&mut flow, place, block, needs, *compute)?,
            Stage::Head(head) => seen_of_head(&mut flow, head, needs, *compute)?,
            Stage::Loose(_) => BTreeMap::new(),
        };
        let nothing = Seen::nothing();
        if let (Stage::Embed(embed), true) = (&stage, trials.is_some() && base.model().is_tied()) {
            table = Some(prepare.matrix(embed.tokens.weight.clone()).map_err(Error::Run)?);
        }
        let mut versions = Vec::new();
        for ((role, layer), (site, steps)) in stage.linears_mut().into_iter().zip(work.of(n)) {
            if steps.contains(&step) {
                let blind: Vec<usize> =
                    steps.iter().copied().filter(|&s| s < step && before[s].needs(None).is_nothing()).collect();
                apply(recipe, before, site, &blind, layer, ground.seed)?;
                let seen = Tap::of(&role).and_then(|tap| seen.get(&tap)).unwrap_or(&nothing);
                let refused = |source| Error::Method { place: step_place(recipe, step), source };
                survey.look(site, layer, seen).map_err(refused)?;
                if trials.is_some() {
                    let others = survey.trials(site, layer, seen).map_err(refused)?;
                    versions.extend(others.into_iter().map(|other| (role.clone(), other)));
                }
            }
        }
        if let Some(trials) = &mut trials {
            let versions = versions.into_iter().map(|(role, layer)| with(&ready, &role, layer, &prepare));
            trials.pass(&ready, table.as_ref(), versions)?;
        }
    }
    if let Some(trials) = trials {
        survey.losses(&trials.losses()?);
    }
    Ok(())
}

/// A stage with another layer in the place of a role.
fn with(
    stage: &Stage<Applied>,
    role: &Role,
    layer: Linear<Weight>,
    prepare: &Prepare,
) -> Result<Stage<Applied>, Error> {
    let weight = prepare.matrix(layer.weight).map_err(Error::Run)?;
    let bias = layer.bias.as_ref().map(|bias| prepare.vector(bias)).transpose().map_err(Error::Run)?;
    let mut other = stage.clone();
    if let Some((_, place)) = other.linears_mut().into_iter().find(|(known, _)| known == role) {
        *place = Linear { weight, bias };
    }
    Ok(other)
}

/// Takes all samples through a block: what each tap shows, and how much the block changes.
fn seen_of(
    flow: &mut Flow<'_>,
    place: Place,
    block: &Block<Applied>,
    needs: Needs,
    compute: Compute,
) -> Result<BTreeMap<Tap, Seen>, Error> {
    let mut seen: BTreeMap<Tap, Seen> = BTreeMap::new();
    let (mut cosines, mut tokens) = (0.0, 0);
    // What is needed of the hidden states for their coding rate, in front of the block and behind it.
    let of_states = Needs { gram: true, moments: true, ..Needs::default() };
    let mut states = [Fold::default(), Fold::default()];
    for sample in 0..flow.samples() {
        let x = flow.hidden(sample).map_err(Error::Run)?;
        for tap in Tap::OF_BLOCK {
            let there = match tap {
                Tap::AttnIn | Tap::AttnMix => block.attn.is_some(),
                _ => block.mlp.is_some(),
            };
            if there {
                let at = flow.tap(place, block, tap, sample).map_err(Error::Run)?;
                add(&mut seen.entry(tap).or_default().fit, needs, &at, None, compute)?;
            }
        }
        flow.leave(place, block, sample).map_err(Error::Run)?;
        let y = flow.hidden(sample).map_err(Error::Run)?;
        // As it would be if the sublayers returned nothing.
        let x = beside(block, x)?;
        let width = x.dims3().map_err(|source| Error::Run(source.into()))?.2;
        let sum = values(&x, |x| values(&y, |y| x.chunks(width).zip(y.chunks(width)).map(|(x, y)| cosine(x, y)).sum()));
        cosines += sum.and_then(|sum: Result<f64, _>| sum).map_err(Error::Run)?;
        tokens += flow.length(sample);
        if needs.coding_rate {
            for (state, at) in states.iter_mut().zip([&x, &y]) {
                add(state, of_states, at, None, compute)?;
            }
        }
    }
    let influence = (tokens > 0).then(|| 1.0 - cosines / tokens as f64);
    let [before, after] =
        states.map(|state| Some(coding_rate(state.gram.as_ref()?, &state.sum, state.count)).filter(|x| x.is_finite()));
    let change = before.zip(after).map(|(before, after)| (after - before).abs());
    seen.values_mut().for_each(|seen| (seen.influence, seen.coding_rate) = (influence, change));
    Ok(seen)
}

/// The residual stream past a block: itself, unless shortcuts turn it.
fn beside(block: &Block<Applied>, x: Tensor) -> Result<Tensor, Error> {
    let attn = block.attn.iter().filter_map(|attn| attn.shortcut.as_ref());
    let mlp = block.mlp.iter().filter_map(|mlp| mlp.shortcut.as_ref());
    attn.chain(mlp).try_fold(x, |x, shortcut| shortcut.apply(&x, None)).map_err(Error::Run)
}

/// Takes all samples to the output table, if there is one of its own.
fn seen_of_head(
    flow: &mut Flow<'_>,
    head: &Head<Applied>,
    needs: Needs,
    compute: Compute,
) -> Result<BTreeMap<Tap, Seen>, Error> {
    if head.out.is_none() {
        return Ok(BTreeMap::new());
    }
    let mut seen = Seen::nothing();
    for sample in 0..flow.samples() {
        let at = flow.head_in(head, sample).map_err(Error::Run)?;
        add(&mut seen.fit, needs, &at, None, compute)?;
    }
    Ok(BTreeMap::from([(Tap::HeadIn, seen)]))
}

/// The cosine of the angle between two vectors; zero if either is zero.
fn cosine(x: &[f32], y: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let norms = (dot(x, x) * dot(y, y)).sqrt();
    if norms > 0.0 { dot(x, y) / norms } else { 0.0 }
}

fn apply(
    recipe: &Recipe,
    methods: &[Method],
    site: &Site,
    steps: &[usize],
    layer: &mut Linear<Weight>,
    seed: u64,
) -> Result<(), Error> {
    for &step in steps.iter().filter(|&&step| step < methods.len()) {
        // What whole sublayers lose is not known to surveys of single layers.
        let Some(method) = methods[step].linear() else { continue };
        method
            .rewrite(layer, &mut Cx::new(site, seed))
            .map_err(|source| Error::Method { place: step_place(recipe, step), source })?;
    }
    Ok(())
}
