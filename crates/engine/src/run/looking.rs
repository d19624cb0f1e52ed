//! Rewriting the layers of a stage behind what the samples show of their inputs.
//!
//! The samples move from tap to tap. At each tap all samples are looked at, the layers that read it are rewritten, and
//! only then are they applied: so the errors of every layer are in what the next one sees, and every layer is applied
//! once. With a reference the original model runs beside, on the same samples.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use brevity_formats::Checkpoint;
use brevity_kernels::gram::{Cross, Gram};
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;
use brevity_methods::{Fold, Gap, Method, Needs, Seen};
use brevity_model::{Block, Linear, Place, Role, Site, Stage, Sublayer, Weight};
use brevity_runtime::{Applied, Flow, Keep, Prepare, Tap, values};
use candle_core::Tensor;
use rayon::prelude::*;

use super::layer::Job;
use super::parts::{Done, Parts};
use crate::error::Error;
use crate::plan::Plan;
use crate::report::{Phases, SiteReport};
use crate::samples::Calibration;
use crate::turned::Base;
use crate::work::Work;

/// What each tap of each stage must show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looks {
    /// To methods that rewrite single layers.
    stages: Vec<Vec<(Tap, Needs)>>,
    /// To methods that rewrite whole sublayers.
    parts: Vec<Vec<(Tap, Needs)>>,
    /// Whether the original model must run beside.
    pub reference: bool,
}

impl Looks {
    /// Asks the methods of a recipe.
    pub fn of(work: &Work, methods: &[Method], stages: usize) -> Self {
        let mut looks = Looks { stages: vec![Vec::new(); stages], parts: vec![Vec::new(); stages], reference: false };
        let put = |into: &mut Vec<(Tap, Needs)>, tap: Tap, needs: Needs| match into
            .iter_mut()
            .find(|(known, _)| *known == tap)
        {
            Some((_, all)) => *all = all.or(needs),
            None => into.push((tap, needs)),
        };
        for n in 0..stages {
            for (site, steps) in work.of(n) {
                let linear = steps.iter().filter_map(|&step| methods[step].linear());
                let mut needs = linear.map(|method| method.needs()).fold(Needs::default(), Needs::or);
                // So that the error of what a layer returns can be told, whatever its methods look at.
                needs.gram |= needs.moments | needs.absolute;
                let Some(tap) = Tap::of(&site.role).filter(|_| !needs.is_nothing()) else { continue };
                looks.reference |= needs.reference | needs.stream;
                put(&mut looks.stages[n], tap, needs);
            }
            for part in [Sublayer::Attn, Sublayer::Mlp] {
                let methods: Vec<_> =
                    work.of_part(n, part, methods).into_iter().filter_map(|step| methods[step].block()).collect();
                for tap in taps(part) {
                    let needs = methods.iter().map(|method| method.needs(tap)).fold(Needs::default(), Needs::or);
                    if !needs.is_nothing() {
                        looks.reference |= needs.reference;
                        put(&mut looks.parts[n], tap, needs);
                    }
                }
            }
        }
        looks
    }

    /// The stage behind which nothing is looked at any more; none if nothing ever is.
    pub fn end(&self) -> Option<usize> {
        let looked = self.stages.iter().zip(&self.parts).collect::<Vec<_>>();
        looked.iter().rposition(|(layers, parts)| !layers.is_empty() || !parts.is_empty()).map(|last| last + 1)
    }

    /// What a tap must show to methods for single layers.
    pub fn at(&self, stage: usize, tap: Tap) -> Needs {
        needs_at(&self.stages[stage], tap)
    }

    /// What a tap must show to methods for whole sublayers.
    pub fn of_parts(&self, stage: usize, tap: Tap) -> Needs {
        needs_at(&self.parts[stage], tap)
    }

    /// What a tap must show to any method.
    pub fn most(&self, stage: usize, tap: Tap) -> Needs {
        self.at(stage, tap).or(self.of_parts(stage, tap))
    }
}

fn needs_at(taps: &[(Tap, Needs)], tap: Tap) -> Needs {
    taps.iter().find(|(known, _)| *known == tap).map_or(Needs::default(), |(_, needs)| *needs)
}

/// The taps of a sublayer: in front of it, and between its matrices.
fn taps(part: Sublayer) -> [Tap; 2] {
    match part {
        Sublayer::Attn => [Tap::AttnIn, Tap::AttnMix],
        Sublayer::Mlp => [Tap::MlpIn, Tap::MlpMid],
    }
}

/// How samples come to show what a tap has.
enum Way {
    /// They go on from the tap in front of it.
    On,
    /// They have been there, and come once more, since what lies in front of it is another.
    Anew,
    /// They are there, and go through the norm in front of it once more.
    Again,
    /// They are there, in the middle of an MLP of which only these channels are left.
    Narrowed(Vec<usize>),
    /// They are there, and hold what they held.
    There,
}

/// The samples, wherever they are in the model.
pub(super) struct Looking<'a> {
    looks: &'a Looks,
    compute: Compute,
    flow: Flow<'a>,
    reference: Option<Flow<'a>>,
    held_out: Vec<bool>,
    prepare: Prepare,
    pub phases: Phases,
}

impl<'a> Looking<'a> {
    /// Samples in front of the first stage; `dir` is where files may be made.
    pub fn new(plan: &'a Plan, calibration: &'a Calibration, dir: &Path) -> Result<Self, Error> {
        let (windows, compute) = (&calibration.samples.windows[..], calibration.compute);
        let flow = |keep: Keep| Flow::new(windows, compute, keep, dir).map_err(Error::Run);
        let reference = plan.looks.reference.then(|| flow(plan.keep)).transpose()?;
        Ok(Looking {
            looks: &plan.looks,
            compute,
            flow: flow(plan.keep)?,
            reference,
            held_out: calibration.samples.held_out(),
            prepare: Prepare::new(compute),
            phases: Phases::default(),
        })
    }

    /// Whether anything is looked at in stage `n` or behind it.
    pub fn is_needed(&self, n: usize) -> bool {
        self.looks.end().is_some_and(|end| n < end)
    }

    /// Takes the samples through a stage that an earlier run has written.
    pub fn pass(&mut self, n: usize, original: Base<'_>, written: &Checkpoint, job: &Job<'_, '_>) -> Result<(), Error> {
        if !self.is_needed(n + 1) {
            return Ok(());
        }
        let place = original.model().place(n);
        let (prepare, samples) = (self.prepare.clone(), self.flow.samples());
        let ready = |stage: Stage<Weight>| -> Result<Stage<Applied>, Error> {
            job.pool.install(|| prepare.stage_owned(stage)).map_err(Error::Run)
        };
        let now = ready(written.load_stage(n)?)?;
        written.release_stage(n);
        for sample in 0..samples {
            job.go_on()?;
            job.pool.install(|| through(&mut self.flow, place, &now, sample))?;
        }
        drop(now);
        if let Some(reference) = &mut self.reference {
            let then = ready(original.load(n)?)?;
            for sample in 0..samples {
                job.go_on()?;
                job.pool.install(|| through(reference, place, &then, sample))?;
            }
        }
        Ok(())
    }

    /// Rewrites the layers of a stage, and takes the samples through it.
    pub fn rewrite(
        &mut self,
        n: usize,
        stage: &mut Stage<Weight>,
        job: &Job<'_, '_>,
    ) -> Result<Vec<SiteReport>, Error> {
        let place = job.plan.stages[n].place;
        let samples = self.flow.samples();
        let mut rows = Vec::new();
        let mut applied = job.pool.install(|| self.prepare.stage(stage)).map_err(Error::Run)?;
        let reference = self.reference.is_some().then(|| applied.clone());
        if let Stage::Block(block) = stage {
            let parts = Parts::of(n, block, job);
            let sources = self.sources(n, block, &parts, job);
            let mut done = parts.unseen(block, job)?;
            if !done.is_empty() {
                applied = job.pool.install(|| self.prepare.stage(stage)).map_err(Error::Run)?;
            }
            for part in [Sublayer::Attn, Sublayer::Mlp] {
                let [front, between] = taps(part);
                let needs = self.looks.most(n, front);
                let before = self.look(place, &applied, reference.as_ref(), front, needs, Way::On, job)?;
                let steps = parts.seen(part, job);
                let mut way = Way::On;
                if let Some(mut before) = before {
                    if !steps.is_empty() {
                        let needs = self.looks.of_parts(n, between);
                        let inside = self.look(place, &applied, reference.as_ref(), between, needs, Way::On, job)?;
                        let mut seen = BTreeMap::from([(front, before)]);
                        seen.extend(inside.map(|inside| (between, inside)));
                        let Stage::Block(block) = &mut *stage else { unreachable!("it was a block before") };
                        let start = Instant::now();
                        let new = parts.rewrite(part, &steps, block, &seen, job)?;
                        let moves = parts.moves_inputs(&steps, job);
                        // What makes the channels that are left is as it was, and so is what they hold.
                        let same = part == Sublayer::Mlp && !moves && !self.rewrites(n, front, job);
                        way = Done::kept(&new).filter(|_| same).map_or(Way::Anew, Way::Narrowed);
                        done.extend(new);
                        self.phases.rewrite_seconds += start.elapsed().as_secs_f64();
                        self.ready_part(part, stage, &mut applied, job)?;
                        before = seen.remove(&front).unwrap_or_default();
                        let needs = self.looks.at(n, front);
                        if moves
                            && !needs.is_nothing()
                            && let Some(anew) =
                                self.look(place, &applied, reference.as_ref(), front, needs, Way::Again, job)?
                        {
                            before = anew;
                        }
                    }
                    self.layers(n, Some(front), stage, &mut applied, &sources, &before, job, &mut rows)?;
                }
                let needs = self.looks.at(n, between);
                if let Some(inside) = self.look(place, &applied, reference.as_ref(), between, needs, way, job)? {
                    self.layers(n, Some(between), stage, &mut applied, &sources, &inside, job, &mut rows)?;
                }
            }
            parts.report(stage, done, &mut rows, job);
        } else {
            let needs = self.looks.at(n, Tap::HeadIn);
            let seen = match &applied {
                Stage::Embed(embed) if !self.looks.at(n, Tap::Ids).is_nothing() => {
                    let rows = embed.tokens.weight.table().map_err(Error::Run)?.shape()[0];
                    counts(self.flow.windows(), rows)
                }
                _ if needs.is_nothing() => Seen::nothing(),
                _ => self
                    .look(place, &applied, reference.as_ref(), Tap::HeadIn, needs, Way::On, job)?
                    .unwrap_or_else(Seen::nothing),
            };
            self.layers(n, None, stage, &mut applied, &[], &seen, job, &mut rows)?;
        }
        if self.is_needed(n + 1) {
            let start = Instant::now();
            for sample in 0..samples {
                job.go_on()?;
                job.pool.install(|| leave(&mut self.flow, place, &applied, sample))?;
                if let (Some(flow), Some(applied)) = (&mut self.reference, &reference) {
                    job.pool.install(|| leave(flow, place, applied, sample))?;
                }
            }
            self.phases.forward_seconds += start.elapsed().as_secs_f64();
        }
        Ok(rows)
    }

    /// The last matrices of the sublayers of a block that are rewritten as wholes, where a step for single layers compares
    /// what they return in both models.
    fn sources(
        &self,
        n: usize,
        block: &Block<Weight>,
        parts: &Parts,
        job: &Job<'_, '_>,
    ) -> Vec<(Role, Linear<Weight>)> {
        let attn = block.attn.as_ref().map(|attn| (Sublayer::Attn, Role::O, &attn.o));
        let mlp = block.mlp.as_ref().map(|mlp| (Sublayer::Mlp, Role::Down, &mlp.down));
        let last = [attn, mlp].into_iter().flatten();
        let compared =
            last.filter(|(part, ..)| parts.rewrites(*part, job) && self.looks.at(n, taps(*part)[1]).reference);
        compared.map(|(_, role, layer)| (role, layer.clone())).collect()
    }

    /// Whether a step for single layers rewrites any that reads a tap.
    fn rewrites(&self, n: usize, tap: Tap, job: &Job<'_, '_>) -> bool {
        let reads = |site: &Site| Tap::of(&site.role) == Some(tap);
        job.plan.work.of(n).iter().any(|(site, steps)| reads(site) && !job.linear(steps).is_empty())
    }

    /// Takes the samples to a tap and looks at them; `None` if the stage has no such tap (any more).
    #[allow(clippy::too_many_arguments)]
    fn look(
        &mut self,
        place: Place,
        applied: &Stage<Applied>,
        reference: Option<&Stage<Applied>>,
        tap: Tap,
        needs: Needs,
        way: Way,
        job: &Job<'_, '_>,
    ) -> Result<Option<Seen>, Error> {
        let there = has(applied, tap);
        let mut seen = Seen::nothing();
        // Nothing but the norm lies between the boundary and this tap.
        if needs.is_nothing() && tap == Tap::AttnIn {
            return Ok(there.then_some(seen));
        }
        for sample in 0..self.flow.samples() {
            job.go_on()?;
            let start = Instant::now();
            let x = match there {
                true => Some(job.pool.install(|| to_tap(&mut self.flow, place, applied, tap, sample, &way))?),
                false => None,
            };
            // The original model goes its way whatever was taken out of the other.
            let r = match (&mut self.reference, reference) {
                (Some(flow), Some(applied)) if has(applied, tap) => {
                    // The original is as it was.
                    let way = if matches!(way, Way::Anew | Way::Narrowed(_)) { &Way::There } else { &way };
                    Some(job.pool.install(|| to_tap(flow, place, applied, tap, sample, way))?)
                }
                _ => None,
            };
            self.phases.forward_seconds += start.elapsed().as_secs_f64();
            let Some(x) = x.filter(|_| !needs.is_nothing()) else { continue };
            let start = Instant::now();
            let fold = if needs.held_out && self.held_out[sample] { &mut seen.held_out } else { &mut seen.fit };
            let r = r.filter(|_| needs.reference);
            job.pool.install(|| add(fold, needs, &x, r.as_ref(), self.compute))?;
            self.phases.gram_seconds += start.elapsed().as_secs_f64();
            if let (true, Some(flow), Some(Stage::Block(then)), Stage::Block(now)) =
                (needs.stream, &mut self.reference, reference, applied)
                && is_added(now, tap)
            {
                let start = Instant::now();
                let behind = |flow: &mut Flow<'_>, block| {
                    job.pool.install(|| flow.behind(place, block, tap, sample)).map_err(Error::Run)
                };
                let (then, now) = (behind(flow, then)?, behind(&mut self.flow, now)?);
                self.phases.forward_seconds += start.elapsed().as_secs_f64();
                let start = Instant::now();
                job.pool.install(|| add_gap(fold, &x, &then, &now))?;
                self.phases.gram_seconds += start.elapsed().as_secs_f64();
            }
        }
        if !there {
            return Ok(None);
        }
        let sound = |fold: &Fold| fold.gram.as_ref().is_none_or(Gram::is_finite);
        if !sound(&seen.fit) || !sound(&seen.held_out) {
            return Err(Error::Overflow { place, tap: tap.name() });
        }
        Ok(Some(seen))
    }

    /// Rewrites the layers that read a tap (all, without one), and makes them ready to be applied.
    #[allow(clippy::too_many_arguments)]
    fn layers(
        &mut self,
        n: usize,
        tap: Option<Tap>,
        stage: &mut Stage<Weight>,
        applied: &mut Stage<Applied>,
        sources: &[(Role, Linear<Weight>)],
        seen: &Seen,
        job: &Job<'_, '_>,
        rows: &mut Vec<SiteReport>,
    ) -> Result<(), Error> {
        for ((role, layer), (_, ready)) in stage.linears_mut().into_iter().zip(applied.linears_mut()) {
            let (at, site, steps) = job.plan.work.at(n, &role);
            let steps = job.linear(steps);
            if steps.is_empty() || tap.is_some_and(|tap| Tap::of(&role) != Some(tap)) {
                continue;
            }
            let start = Instant::now();
            let source = sources.iter().find(|(of, _)| *of == role).map(|(_, source)| source);
            rows.push(job.one(n, at, site, &steps, layer, source, seen)?);
            self.phases.rewrite_seconds += start.elapsed().as_secs_f64();
            let start = Instant::now();
            *ready = job.pool.install(|| self.ready(layer, ready))?;
            self.phases.forward_seconds += start.elapsed().as_secs_f64();
        }
        Ok(())
    }

    /// Makes a sublayer that was rewritten ready to be applied.
    fn ready_part(
        &mut self,
        part: Sublayer,
        stage: &Stage<Weight>,
        applied: &mut Stage<Applied>,
        job: &Job<'_, '_>,
    ) -> Result<(), Error> {
        let (Stage::Block(block), Stage::Block(ready)) = (stage, applied) else { return Ok(()) };
        let start = Instant::now();
        let alone = match part {
            Sublayer::Attn => Block { attn: block.attn.clone(), mlp: None, parallel: block.parallel },
            Sublayer::Mlp => Block { attn: None, mlp: block.mlp.clone(), parallel: block.parallel },
        };
        let new = job.pool.install(|| self.prepare.stage_owned(Stage::Block(alone))).map_err(Error::Run)?;
        let Stage::Block(new) = new else { unreachable!("a block stays one") };
        match part {
            Sublayer::Attn => ready.attn = new.attn,
            Sublayer::Mlp => ready.mlp = new.mlp,
        }
        self.phases.forward_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn ready(&self, layer: &Linear<Weight>, old: &Linear<Applied>) -> Result<Linear<Applied>, Error> {
        let weight = match &old.weight {
            Applied::Table(_) => self.prepare.table(layer.weight.clone()),
            _ => self.prepare.matrix(layer.weight.clone()),
        };
        let bias = layer.bias.as_ref().map(|bias| self.prepare.vector(bias)).transpose();
        Ok(Linear { weight: weight.map_err(Error::Run)?, bias: bias.map_err(Error::Run)? })
    }
}

/// Whether a stage has what a tap belongs to.
fn has(stage: &Stage<Applied>, tap: Tap) -> bool {
    match (stage, tap) {
        (Stage::Block(block), Tap::AttnIn | Tap::AttnMix) => block.attn.is_some(),
        (Stage::Block(block), _) => block.mlp.is_some(),
        _ => true,
    }
}

/// Whether what is made of what a tap shows is added to the residual stream, and nothing else happens to either.
fn is_added(block: &Block<Applied>, tap: Tap) -> bool {
    match tap {
        Tap::AttnMix => block.adds(Sublayer::Attn),
        Tap::MlpMid => block.adds(Sublayer::Mlp),
        _ => false,
    }
}

fn to_tap(
    flow: &mut Flow<'_>,
    place: Place,
    stage: &Stage<Applied>,
    tap: Tap,
    sample: usize,
    way: &Way,
) -> Result<Tensor, Error> {
    match (stage, way) {
        (Stage::Block(block), Way::On | Way::Anew) => flow.tap(place, block, tap, sample),
        (Stage::Block(block), Way::Again) => flow.again(place, block, tap, sample),
        (Stage::Block(_), Way::Narrowed(channels)) => flow.narrow(sample, channels),
        (Stage::Block(_), Way::There) => flow.middle(sample),
        (Stage::Head(head), _) => flow.head_in(head, sample),
        _ => unreachable!("only blocks and heads have taps"),
    }
    .map_err(Error::Run)
}

/// From the last tap of a stage to its end.
fn leave(flow: &mut Flow<'_>, place: Place, stage: &Stage<Applied>, sample: usize) -> Result<(), Error> {
    match stage {
        Stage::Embed(embed) => flow.embed(embed, sample),
        Stage::Block(block) => flow.leave(place, block, sample),
        Stage::Head(_) | Stage::Loose(_) => Ok(()),
    }
    .map_err(Error::Run)
}

/// Through a whole stage.
fn through(flow: &mut Flow<'_>, place: Place, stage: &Stage<Applied>, sample: usize) -> Result<(), Error> {
    match stage {
        Stage::Block(block) => flow.pass(place, block, sample).map_err(Error::Run),
        _ => leave(flow, place, stage, sample),
    }
}

/// How often each token is there: the sum of the inputs of a table of so many rows.
pub(crate) fn counts(windows: &[Vec<u32>], rows: usize) -> Seen {
    let mut sum = vec![0.0; rows];
    for &token in windows.iter().flatten() {
        if let Some(count) = sum.get_mut(token as usize) {
            *count += 1.0;
        }
    }
    let count = windows.iter().map(|window| window.len() as u64).sum();
    Seen { fit: Fold { count, sum, ..Fold::default() }, ..Seen::default() }
}

/// Adds what one sample shows.
pub(crate) fn add(
    fold: &mut Fold,
    needs: Needs,
    x: &Tensor,
    r: Option<&Tensor>,
    compute: Compute,
) -> Result<(), Error> {
    let (_, rows, width) = x.dims3().map_err(|source| Error::Run(source.into()))?;
    fold.count += rows as u64;
    values(x, |x| {
        if needs.gram {
            fold.gram.get_or_insert_with(|| Gram::new(width)).add(rows, Rows::F32(x), compute);
        }
        if needs.moments {
            sums(&mut fold.sum, x, width, |x| x);
            sums(&mut fold.sum_sq, x, width, |x| x * x);
        }
        if needs.absolute {
            sums(&mut fold.sum_abs, x, width, f64::abs);
        }
        let Some(r) = r else { return Ok(()) };
        values(r, |r| {
            if needs.moments {
                // What was taken out of a sublayer is still there in the original model.
                sums(&mut fold.reference_sum, r, r.len() / rows.max(1), |r| r);
            }
            if r.len() != x.len() {
                return;
            }
            if needs.moments {
                fold.reference_dot.resize(width, 0.0);
                fold.reference_dot.par_chunks_mut(COLUMNS).enumerate().for_each(|(n, totals)| {
                    for (r, x) in r.chunks_exact(width).zip(x.chunks_exact(width)) {
                        let dots = r[n * COLUMNS..].iter().zip(&x[n * COLUMNS..]);
                        let dots = dots.map(|(&r, &x)| f64::from(r) * f64::from(x));
                        totals.iter_mut().zip(dots).for_each(|(total, dot)| *total += dot);
                    }
                });
            }
            if needs.gram {
                let gone = r.par_iter().zip(x).with_min_len(1 << 14).map(|(r, x)| r - x);
                let gone: Vec<f32> = gone.collect();
                let drift = fold.drift.get_or_insert_with(|| Cross::new(width));
                drift.add(rows, Rows::F32(&gone), Rows::F32(x), compute);
            }
        })
    })
    .and_then(|done| done)
    .map_err(Error::Run)
}

/// Adds how far the residual stream of one sample is from that of the original model, beside the inputs of the layer in
/// front of it.
fn add_gap(fold: &mut Fold, x: &Tensor, then: &Tensor, now: &Tensor) -> Result<(), Error> {
    let width = |x: &Tensor| x.dims3().map(|(_, _, width)| width).map_err(|source| Error::Run(source.into()));
    let shape = [width(now)?, width(x)?];
    let gap = values(then, |then| {
        values(now, |now| {
            let gap = then.par_iter().zip(now).with_min_len(1 << 14).map(|(then, now)| then - now);
            gap.collect::<Vec<f32>>()
        })
    });
    let gap = gap.and_then(|gap| gap).map_err(Error::Run)?;
    let sums = fold.gap.get_or_insert_with(|| Gap::new(shape));
    values(x, |x| sums.add(&gap, x)).map_err(Error::Run)
}

/// Columns whose sums one task adds up.
const COLUMNS: usize = 64;

/// Adds `f` of each column's values to its sum, row by row.
fn sums(totals: &mut Vec<f64>, x: &[f32], width: usize, f: impl Fn(f64) -> f64 + Sync) {
    totals.resize(width, 0.0);
    totals.par_chunks_mut(COLUMNS).enumerate().for_each(|(n, totals)| {
        for row in x.chunks_exact(width) {
            totals.iter_mut().zip(&row[n * COLUMNS..]).for_each(|(total, &x)| *total += f(f64::from(x)));
        }
    });
}
