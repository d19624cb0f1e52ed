//! Rewriting the sublayers of one stage as wholes.

use std::collections::BTreeMap;
use std::time::Instant;

use brevity_methods::{BlockCx, Seen, Sizes, part_of};
use brevity_model::{Block, Form, Place, Role, Site, Stage, Sublayer, Tap, Weight};

use super::layer::{Job, figure};
use crate::error::Error;
use crate::report::SiteReport;
use crate::work::step_place;

/// The sublayers of one stage, as the recipe finds them.
pub(super) struct Parts {
    n: usize,
    place: Place,
    sizes: Sizes,
}

/// What a step did to a sublayer.
pub(super) struct Done {
    part: Sublayer,
    notes: Vec<String>,
    figures: Vec<(String, f64)>,
    seconds: f64,
    kept: Option<Vec<usize>>,
}

impl Done {
    /// The channels that are left behind some steps, one after the other, if those changed nothing else in front of them.
    pub fn kept(steps: &[Done]) -> Option<Vec<usize>> {
        let kept =
            |before: Vec<usize>, step: &Done| Some(step.kept.as_ref()?.iter().map(|&n| before[n]).collect::<Vec<_>>());
        let (first, others) = steps.split_first()?;
        others.iter().try_fold(first.kept.clone()?, kept)
    }
}

impl Parts {
    pub fn of(n: usize, block: &Block<Weight>, job: &Job<'_, '_>) -> Self {
        let sizes = Sizes::of(block, |weight| Form::of(weight).parameters());
        Parts { n, place: job.plan.stages[n].place, sizes }
    }

    /// Whether any step rewrites a sublayer as a whole.
    pub fn rewrites(&self, part: Sublayer, job: &Job<'_, '_>) -> bool {
        !job.plan.work.of_part(self.n, part, job.methods).is_empty()
    }

    /// The steps for a sublayer that look at activations, or do not.
    fn steps(&self, part: Sublayer, looking: bool, job: &Job<'_, '_>) -> Vec<usize> {
        let looks = |step: usize| {
            let method = job.methods[step].block();
            method.is_some_and(|method| Tap::OF_BLOCK.iter().any(|&tap| !method.needs(tap).is_nothing()))
        };
        let steps = job.plan.work.of_part(self.n, part, job.methods).into_iter();
        steps.filter(|&step| looks(step) == looking).collect()
    }

    /// The steps for a sublayer that look at activations.
    pub fn seen(&self, part: Sublayer, job: &Job<'_, '_>) -> Vec<usize> {
        self.steps(part, true, job)
    }

    /// Takes the steps that look at nothing.
    pub fn unseen(&self, block: &mut Block<Weight>, job: &Job<'_, '_>) -> Result<Vec<Done>, Error> {
        let mut done = Vec::new();
        for part in [Sublayer::Attn, Sublayer::Mlp] {
            let steps = self.steps(part, false, job);
            done.extend(self.rewrite(part, &steps, block, &BTreeMap::new(), job)?);
        }
        Ok(done)
    }

    /// Takes some steps with what was seen.
    pub fn rewrite(
        &self,
        part: Sublayer,
        steps: &[usize],
        block: &mut Block<Weight>,
        seen: &BTreeMap<Tap, Seen>,
        job: &Job<'_, '_>,
    ) -> Result<Vec<Done>, Error> {
        let mut done = Vec::new();
        for &step in steps {
            job.go_on()?;
            let Some(method) = job.methods[step].block() else { continue };
            let start = Instant::now();
            let mut cx = BlockCx::new(self.place, self.sizes, job.plan.seed, seen);
            job.pool
                .install(|| method.rewrite(part_of(block, part), &mut cx))
                .map_err(|source| Error::Method { place: step_place(&job.plan.recipe, step), source })?;
            let BlockCx { notes, figures, kept, .. } = cx;
            done.push(Done { part, notes, figures, seconds: start.elapsed().as_secs_f64(), kept });
        }
        Ok(done)
    }

    /// Whether one of some steps changes what the sublayer reads.
    pub fn moves_inputs(&self, steps: &[usize], job: &Job<'_, '_>) -> bool {
        steps.iter().any(|&step| job.methods[step].block().is_some_and(|method| method.moves_inputs()))
    }

    /// Adds what was done to the rows of the layers, and rows for those that no other step touched.
    pub fn report(&self, stage: &mut Stage<Weight>, done: Vec<Done>, rows: &mut Vec<SiteReport>, job: &Job<'_, '_>) {
        if done.is_empty() {
            return;
        }
        let forms: Vec<(Role, Form)> =
            stage.linears_mut().into_iter().map(|(role, layer)| (role, Form::of(&layer.weight))).collect();
        for (at, (site, _)) in job.plan.work.of(self.n).iter().enumerate() {
            let Some(part) = Sublayer::of(&site.role) else { continue };
            if rows.iter().any(|row| row.site == *site) || !done.iter().any(|done| done.part == part) {
                continue;
            }
            let form = forms.iter().find(|(role, _)| *role == site.role).map(|(_, form)| form);
            rows.push(self.row(at, site, form, job));
        }
        let order = |row: &SiteReport| job.plan.work.of(self.n).iter().position(|(site, _)| *site == row.site);
        rows.sort_by_key(order);
        for one in done {
            let last = if one.part == Sublayer::Attn { Role::O } else { Role::Down };
            let Some(row) = rows.iter_mut().find(|row| row.site.role == last) else { continue };
            row.notes.extend(one.notes);
            row.figures.extend(one.figures.into_iter().map(|(name, value)| (name, figure(value))));
            row.seconds = Some(row.seconds.unwrap_or(0.0) + one.seconds);
        }
        for row in rows.iter().filter(|row| row.relative_error.is_none()) {
            job.observer.lock().expect("no one panics while watching").layer(row);
        }
    }

    fn row(&self, at: usize, site: &Site, form: Option<&Form>, job: &Job<'_, '_>) -> SiteReport {
        let planned = job.plan.planned(self.n, at);
        let [rows, columns] = planned.shape;
        let before = (planned.before.parameters() as f64).max(1.0);
        let left = form.map_or(0.0, |form| form.parameters() as f64);
        SiteReport {
            site: site.clone(),
            method: planned.methods.join(" + "),
            shape: planned.shape,
            bits: figure(8.0 * planned.bytes_after as f64 / ((rows * columns) as f64).max(1.0)),
            sparsity: figure((1.0 - left / before).max(0.0)),
            relative_error: None,
            data_error: None,
            figures: BTreeMap::new(),
            notes: Vec::new(),
            seconds: Some(0.0),
        }
    }
}
