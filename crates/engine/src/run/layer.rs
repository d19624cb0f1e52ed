//! Rewriting the layers of one stage.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use brevity_formats::multiplied_out;
use brevity_kernels::ops::Compute;
use brevity_methods::{Cx, Kind, Method, Seen};
use brevity_model::{Floats, Form, Linear, Site, Stage, Weight};
use rayon::prelude::*;

use super::Observer;
use super::parts::Parts;
use crate::decode::Rows;
use crate::error::Error;
use crate::plan::Plan;
use crate::report::SiteReport;
use crate::work::step_place;

/// What is needed to rewrite layers.
pub(super) struct Job<'a, 'o> {
    pub plan: &'a Plan,
    pub methods: &'a [Method],
    pub pool: &'a rayon::ThreadPool,
    pub observer: &'a Mutex<&'o mut dyn Observer>,
}

impl Job<'_, '_> {
    /// Rewrites the layers of stage `n`, and reports on each in forward order.
    ///
    /// As many layers are in hand at once as there are threads, and no more: what they need is in the plan's bound of
    /// memory. So layers are dealt out to threads of their own, which only then ask the pool for help; the pool
    /// itself would begin another layer while it waits for a part of one.
    pub fn rewrite(&self, n: usize, stage: &mut Stage<Weight>) -> Result<Vec<SiteReport>, Error> {
        let parts = match stage {
            Stage::Block(block) => {
                let parts = Parts::of(n, block, self);
                let done = parts.unseen(block, self)?;
                Some((parts, done))
            }
            _ => None,
        };
        let layers = stage.linears_mut().into_iter().map(|(role, layer)| {
            let (at, site, steps) = self.plan.work.at(n, &role);
            (at, site, self.linear(steps), layer)
        });
        let layers: Vec<_> =
            layers.filter(|(_, _, steps, _)| !steps.is_empty()).map(|layer| Mutex::new(Some(layer))).collect();
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            let mut rows = Vec::new();
            while !failed.load(Ordering::Relaxed) {
                let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                let taken = layer.lock().expect("no one panics with a layer in hand").take();
                let (at, site, steps, layer) = taken.expect("every layer is taken once");
                let row = self.one(n, at, site, &steps, layer, None, &Seen::nothing());
                if row.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                rows.push((at, row));
            }
            rows
        };
        let threads = self.plan.threads.min(layers.len());
        let mut rows: Vec<(usize, Result<SiteReport, Error>)> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let theirs = others
                .into_iter()
                .flat_map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            mine.into_iter().chain(theirs).collect()
        });
        // Of several errors the one of the first layer is told, whichever came first.
        rows.sort_by_key(|(at, _)| *at);
        let mut rows = rows.into_iter().map(|(_, row)| row).collect::<Result<Vec<_>, Error>>()?;
        if let Some((parts, done)) = parts {
            parts.report(stage, done, &mut rows, self);
        }
        Ok(rows)
    }

    /// Those of some steps that rewrite single layers.
    pub fn linear(&self, steps: &[usize]) -> Vec<usize> {
        steps.iter().copied().filter(|&step| self.methods[step].linear().is_some()).collect()
    }

    /// Stops if the observer says so.
    pub fn go_on(&self) -> Result<(), Error> {
        match self.observer.lock().expect("no one panics while watching").cancelled() {
            true => Err(Error::Cancelled { done: 0, total: 0 }),
            false => Ok(()),
        }
    }

    /// One layer through all its steps, unless the observer stops it, who is told of it then. `source` is what it was in the
    /// original model, if a step for whole sublayers has changed its inputs.
    #[allow(clippy::too_many_arguments)]
    pub fn one(
        &self,
        n: usize,
        at: usize,
        site: &Site,
        steps: &[usize],
        layer: &mut Linear<Weight>,
        source: Option<&Linear<Weight>>,
        seen: &Seen,
    ) -> Result<SiteReport, Error> {
        self.go_on()?;
        let row = self.pool.install(|| self.layer(n, at, site, steps, layer, source, seen))?;
        self.observer.lock().expect("no one panics while watching").layer(&row);
        Ok(row)
    }

    /// One layer through all its steps.
    #[allow(clippy::too_many_arguments)]
    fn layer(
        &self,
        n: usize,
        at: usize,
        site: &Site,
        steps: &[usize],
        layer: &mut Linear<Weight>,
        source: Option<&Linear<Weight>>,
        seen: &Seen,
    ) -> Result<SiteReport, Error> {
        let start = Instant::now();
        let original = layer.clone();
        let mut notes = Vec::new();
        let mut figures = BTreeMap::new();
        // What the layer should be, in the eyes of the steps that take something from it.
        let mut aim = None;
        for &step in steps {
            let kind = self.plan.recipe.steps[step].entry().map(|entry| entry.kind);
            if aim.is_none() && !matches!(kind, Some(Kind::Retarget | Kind::Correct)) {
                aim = Some(layer.clone());
            }
            let mut cx = Cx { source, ..Cx::with(site, self.plan.seed, seen).of(&original) };
            let Some(method) = self.methods[step].linear() else { continue };
            method
                .rewrite(layer, &mut cx)
                .map_err(|source| Error::Method { place: step_place(&self.plan.recipe, step), source })?;
            notes.append(&mut cx.notes);
            figures.extend(cx.figures.into_iter().map(|(name, value)| (name, figure(value))));
        }
        let empty = || Weight::float([0, 0], Floats::F32(Vec::new()));
        let source = self.plan.source(n, at);
        if self.plan.materialize {
            layer.weight = multiplied_out(std::mem::replace(&mut layer.weight, empty()), source);
        }
        let form = Form::of(&layer.weight);
        // A bias that makes up for what other layers lost is no error of this one.
        let corrects = |step: &usize| self.plan.recipe.steps[*step].entry().is_some_and(|e| e.kind == Kind::Correct);
        if let Some(aim) = aim.as_mut().filter(|_| steps.iter().any(corrects)) {
            aim.bias.clone_from(&layer.bias);
        }
        let data_error = aim.and_then(|aim| data_error(&aim, layer, seen, self.plan.compute()));
        if !steps.is_empty() && self.plan.is_calibrated() {
            let weight = std::mem::replace(&mut layer.weight, empty());
            layer.weight = self.plan.format.held(weight, source);
        }
        let planned = self.plan.planned(n, at);
        let [rows, columns] = planned.shape;
        let removed: f64 = form.leaves().iter().map(|(_, leaf)| leaf.sparsity() * leaf.parameters() as f64).sum();
        Ok(SiteReport {
            site: site.clone(),
            method: planned.methods.join(" + "),
            shape: planned.shape,
            bits: figure(8.0 * planned.bytes_after as f64 / ((rows * columns) as f64).max(1.0)),
            sparsity: figure(removed / (form.parameters() as f64).max(1.0)),
            relative_error: Some(figure(relative_error(&original.weight, &layer.weight))),
            data_error: data_error.map(figure),
            figures,
            notes,
            seconds: Some(start.elapsed().as_secs_f64()),
        })
    }
}

/// A number with six digits, so that it is read back as it was written.
pub(super) fn figure(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

/// `‖X (W - Ŵ)ᵀ + 1 (b - b̂)ᵀ‖ / ‖X Wᵀ‖` over the inputs that were seen, if they were. A bias that moved counts where the
/// mean of the inputs is known.
fn data_error(aim: &Linear<Weight>, rewritten: &Linear<Weight>, seen: &Seen, compute: Compute) -> Option<f64> {
    let gram = seen.gram()?;
    let w = aim.weight.to_f32();
    let gone: Vec<f32> = w.iter().zip(rewritten.weight.to_f32()).map(|(w, v)| w - v).collect();
    let [rows, columns] = aim.weight.shape();
    let sum = |of: &[f32]| gram.quadratic(rows, of, compute);
    let bias = match (seen.mean(|fold| &fold.sum), aim.bias.is_some() || rewritten.bias.is_some()) {
        (Some(mean), true) => {
            let values = |bias: &Option<Weight>| bias.as_ref().map_or_else(|| vec![0.0; rows], Weight::to_f32);
            let moved = values(&aim.bias).into_iter().zip(values(&rewritten.bias)).map(|(b, c)| f64::from(b - c));
            let count = (seen.fit.count + seen.held_out.count) as f64;
            let of_row = |(gone, moved): (&[f32], f64)| {
                let dot: f64 = gone.iter().zip(&mean).map(|(&gone, mean)| f64::from(gone) * mean).sum();
                count * moved * (2.0 * dot + moved)
            };
            gone.chunks_exact(columns.max(1)).zip(moved).map(of_row).sum()
        }
        _ => 0.0,
    };
    match ((sum(&gone) + bias).max(0.0), sum(&w)) {
        (0.0, _) => Some(0.0),
        (error, norm) => (norm > 0.0).then(|| (error / norm).sqrt()),
    }
}

/// `‖W - Ŵ‖ / ‖W‖`; zero if both are zero, one if only `W` is.
fn relative_error(original: &Weight, rewritten: &Weight) -> f64 {
    let (before, after) = (Rows::of(original), Rows::of(rewritten));
    // The pieces depend on the shape alone and are added in order, so the sum does not depend on threads.
    let pieces: Vec<(f64, f64)> = before
        .pieces()
        .into_par_iter()
        .map(|rows| {
            let (w, v) = (before.decode(rows.clone()), after.decode(rows));
            w.chunks(4096).zip(v.chunks(4096)).fold((0.0, 0.0), |(error, norm), (w, v)| {
                let (e, n) = squares(w, v);
                (error + e, norm + n)
            })
        })
        .collect();
    let (error, norm) = pieces.into_iter().fold((0.0, 0.0), |(e, n), (error, norm)| (e + error, n + norm));
    match (error, norm) {
        (0.0, _) => 0.0,
        (_, 0.0) => 1.0,
        (error, norm) => (error / norm).sqrt(),
    }
}

/// `Σ (w - v)²` and `Σ w²`, in eight interleaved sums.
fn squares(w: &[f32], v: &[f32]) -> (f64, f64) {
    let (mut errors, mut norms) = ([0f64; 8], [0f64; 8]);
    for (w, v) in w.chunks(8).zip(v.chunks(8)) {
        for (n, (&w, &v)) in w.iter().zip(v).enumerate() {
            let (w, d) = (f64::from(w), f64::from(w) - f64::from(v));
            errors[n] += d * d;
            norms[n] += w * w;
        }
    }
    (errors.iter().sum(), norms.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::Floats;

    #[test]
    fn the_relative_error_is_that_of_the_whole_expression() {
        let weight = |values: &[f32]| Weight::float([2, 2], Floats::F32(values.to_vec()));
        let w = weight(&[3.0, 0.0, 0.0, 4.0]);
        assert_eq!(relative_error(&w, &w), 0.0);
        assert_eq!(relative_error(&w, &weight(&[3.0, 0.0, 0.0, 3.0])), 0.2);
        let a = Weight::float([2, 1], Floats::F32(vec![3.0, 0.0]));
        let b = Weight::float([1, 2], Floats::F32(vec![1.0, 0.0]));
        assert_eq!(relative_error(&w, &Weight::product(a, b)), 0.8);
        let zero = weight(&[0.0; 4]);
        assert_eq!(relative_error(&zero, &zero), 0.0);
        assert_eq!(relative_error(&zero, &w), 1.0);
    }

    #[test]
    fn the_error_of_what_a_layer_returns_counts_its_bias() {
        // x = (1, 0) and (1, 2); the second column is gone, and a bias of its mean stands in its place.
        let x = [1.0, 0.0, 1.0, 2.0];
        let mut gram = brevity_kernels::gram::Gram::new(2);
        gram.add(2, brevity_kernels::matmul::Rows::F32(&x), Compute::F32);
        let fit = brevity_methods::Fold { count: 2, gram: Some(gram), sum: vec![2.0, 2.0], ..Default::default() };
        let seen = Seen { fit, ..Seen::default() };
        let linear = |row: [f32; 2], bias: Option<f32>| Linear {
            weight: Weight::float([1, 2], Floats::F32(row.to_vec())),
            bias: bias.map(|bias| Weight::float([1, 1], Floats::F32(vec![bias]))),
        };
        let error = |bias| data_error(&linear([0.0, 1.0], None), &linear([0.0, 0.0], bias), &seen, Compute::F32);
        assert_eq!(error(None), Some(1.0));
        // What is left is (-1, 1) of (0, 2).
        assert!((error(Some(1.0)).unwrap() - 0.5f64.sqrt()).abs() < 1e-12, "{:?}", error(Some(1.0)));
    }

    #[test]
    fn figures_have_six_digits() {
        assert_eq!(figure(0.123456789), 0.123457);
        assert_eq!(figure(4.25), 4.25);
        assert_eq!(figure(1.0 / 3.0 * 1e-9), 3.33333e-10);
        assert_eq!(figure(0.0), 0.0);
    }
}
