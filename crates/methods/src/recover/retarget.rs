//! `recover.retarget`: aims a layer at the original model's outputs, given the compressed model's inputs.

use std::convert::Infallible;
use std::sync::Arc;

use brevity_kernels::gram::Cross;
use brevity_kernels::ops::Compute;
use brevity_model::{Code, CodeForm, Dtype, Floats, Form, Leaf, LeafForm, Linear, Site, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ridge::{Ridge, product, singles};
use crate::error::{Error, Result};
use crate::inputs::{Part, rows_of, sample};
use crate::ladder;
use crate::leaves::{check_finite, describe, each_mut, each_seen, figure, is_rule};
use crate::method::{Cx, LinearMethod};
use crate::seen::{Fold, KEEP, Needs, Seen};
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

const NAME: &str = "recover.retarget";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Refits a layer to the original model's outputs on the inputs it gets in the compressed one",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Retarget::parse(settings)?))),
    kind: Kind::Retarget,
};

const SETTINGS: &[Setting] = &[Setting {
    name: "lambda",
    about: "how much the layer is held back, in mean squares of an input, at least 0; or `auto`, which tries 0.01, \
            0.03, 0.1, 0.3, 1 and 3 on samples held out",
    default: "auto",
}];

/// Refits a layer to the original model's outputs on the inputs it gets in the compressed one.
///
/// With `x` the inputs of the layer in the compressed model and `r` those in the original one, the weight that
/// minimises `Σ ‖W r - W* x‖² + λ h ‖W* - W‖²` is
///
/// `W* = W + W D (H + λ h I)⁻¹`, where `H = Σ x xᵀ`, `D = Σ (r - x) xᵀ` and `h` is the mean of the diagonal of `H`.
/// `W` is the weight as the step gets it, so this step belongs in front of those that take something away.
///
/// The steps that follow then have `W*` to keep to on `x`. At `λ = 0` the error of any `Ŵ` is that of `W*` plus
/// `tr((W* - Ŵ) H (W* - Ŵ)ᵀ)`; `λ → ∞` changes nothing. `auto` fits to the samples that are not held out and takes
/// the greatest `λ` that keeps nine tenths of the gain on those that are, judged on an eighth of the outputs: other
/// texts differ more from the samples than these do. Then it fits to all samples. A layer that would not be better on
/// the held-out samples as it is stored stays as it is, and the notes say so. Masks are kept. Of a product
/// the right factor is refitted first, then the left one on what the right one gives now.
///
/// # Shapes
/// For a weight `[out, in]`, `H` and `D` are `[in, in]`.
///
/// # Cost
/// `in³ / 3` multiplications for each `λ` tried, once for all layers that read the same activations, and about
/// `5 out in²` for a layer. In single precision, or in double above 8192 inputs and for `λ < in / 2²⁰`.
///
/// # Errors
/// [`Error::Coded`] if the weight is coded, [`Error::NotFinite`] if it holds NaN or infinity, [`Error::Unseen`] if the
/// inputs were not looked at. If `H + λ h I` is singular, the layer stays as it is, and the notes say so.
///
/// # Source
/// The target is that of asymmetric calibration, Li et al. 2025 (GPTAQ), arXiv:2504.02692, here in closed form and
/// ahead of any other step.
#[derive(Clone, Debug, PartialEq)]
pub struct Retarget {
    /// How much the layer is held back.
    pub lambda: Lambda,
}

/// How much a refitted layer is held back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lambda {
    /// As much as is best on samples held out.
    Auto,
    /// This much, in units of the mean square of an input.
    Fixed(f64),
}

/// The rung of the ladder that `auto` begins with, and up to how many inputs all that it tried is kept for the next layer.
const START: usize = 2;
/// How much of the greatest gain is as good.
const ENOUGH: f64 = 0.9;
/// Why a layer stays if `H + λ h I` cannot be factored.
const SINGULAR: &str = "what was seen of its inputs is not positive definite with this lambda";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    lambda: Option<Given>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Given {
    Number(f64),
    Word(Word),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Auto,
}

impl Retarget {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        match s.lambda {
            None | Some(Given::Word(Word::Auto)) => Ok(Retarget { lambda: Lambda::Auto }),
            Some(Given::Number(lambda)) if lambda >= 0.0 && lambda.is_finite() => {
                Ok(Retarget { lambda: Lambda::Fixed(lambda) })
            }
            Some(Given::Number(lambda)) => Err(value_error(NAME, SETTINGS, "lambda", &lambda.into())),
        }
    }
}

/// What was done to one matrix.
enum Outcome {
    /// It was refitted with this `λ`; the share of its squared output on held-out samples by which that lowers the
    /// error, if any were held out for it.
    Refitted(f64, Option<f64>),
    /// It stays, because of this.
    Kept(&'static str),
}

impl LinearMethod for Retarget {
    fn needs(&self) -> Needs {
        Needs { gram: true, reference: true, held_out: self.lambda == Lambda::Auto, ..Needs::default() }
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let (site, notes, figures) = (cx.site, &mut cx.notes, &mut cx.figures);
        check(site, &mut Form::of(&layer.weight))?;
        each_seen(&mut layer.weight, cx.seen, &mut |path, leaf, seen| {
            let fit = Fit { site, path, shape: leaf.shape, seen };
            match fit.refit(self.lambda, leaf)? {
                Outcome::Refitted(lambda, gain) => {
                    figures.push((figure(path, "lambda"), lambda));
                    figures.extend(gain.map(|gain| (figure(path, "held_out_gain"), gain)));
                }
                Outcome::Kept(why) if path.is_empty() => notes.push(format!("not retargeted: {why}")),
                Outcome::Kept(why) => notes.push(format!("matrix {path} not retargeted: {why}")),
            }
            Ok(())
        })
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        check(site, &mut layer.weight)
    }

    fn settings(&self) -> Value {
        match self.lambda {
            Lambda::Auto => json!({ "lambda": "auto" }),
            Lambda::Fixed(lambda) => json!({ "lambda": lambda }),
        }
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let leaf = |form: &LeafForm| {
            let [m, n] = form.shape.map(|x| x as u64);
            let tried = match self.lambda {
                Lambda::Auto if form.shape[1] <= KEEP => 6,
                Lambda::Auto => 1,
                Lambda::Fixed(_) => 0,
            };
            let width = if n <= 8192 && self.lambda == Lambda::Auto { 4 } else { 8 };
            // The factors that are kept; the sums of both folds while one is made; the weight, its change, what they
            // are multiplied to, and the result.
            n * n * (width * (tried + 1) + 24) + m * n * (4 * 5 + width)
        };
        layer.weight.leaves().iter().map(|(_, form)| leaf(form)).max().unwrap_or(0)
    }
}

/// Refuses what is coded.
fn check(site: &Site, form: &mut Form) -> Result<()> {
    each_mut(form, &mut |path, form| match &form.code {
        CodeForm::Float(_) => Ok(()),
        _ if is_rule(form) => Ok(()),
        CodeForm::Blocks(_) => {
            form.code = CodeForm::Float(Dtype::F32); // as it is read
            Ok(())
        }
        code => Err(Error::Coded { method: NAME, site: site.clone(), leaf: path.into(), code: describe(code) }),
    })
}

/// One matrix and what was seen of its inputs.
struct Fit<'a> {
    site: &'a Site,
    path: &'a str,
    shape: [usize; 2],
    seen: &'a Seen,
}

impl Fit<'_> {
    fn refit(&self, lambda: Lambda, leaf: &mut Leaf) -> Result<Outcome> {
        let w = leaf.to_f32();
        check_finite(self.site, self.path, &w)?;
        if w.is_empty() {
            return Ok(Outcome::Kept("it is empty"));
        }
        let (fit, held_out) = (&self.seen.fit, &self.seen.held_out);
        if fit.gram.is_none() || fit.drift.is_none() {
            let what = "its inputs in both models";
            return Err(Error::Unseen { method: NAME, site: self.site.clone(), what });
        }
        if !nonzero(fit) && !nonzero(held_out) {
            return Ok(Outcome::Kept("nothing was seen of its inputs"));
        }
        let drifts = |fold: &Fold| fold.drift.as_ref().is_some_and(|drift| drift.as_f64().iter().any(|&d| d != 0.0));
        if !drifts(fit) && !drifts(held_out) {
            return Ok(Outcome::Kept("its inputs are those of the original model"));
        }
        let trial = match lambda {
            Lambda::Fixed(lambda) => {
                return Ok(match self.all(leaf, w, lambda)? {
                    Some(_) => Outcome::Refitted(lambda, None),
                    None => Outcome::Kept(SINGULAR),
                });
            }
            Lambda::Auto if !nonzero(held_out) || !nonzero(fit) => {
                return Ok(Outcome::Kept("no samples were held out to choose lambda on"));
            }
            Lambda::Auto => Trial::new(self, &w),
        };
        let Some(lambda) = self.choose(leaf, &trial)? else {
            return Ok(Outcome::Kept("no lambda makes it better on held-out samples"));
        };
        let before = leaf.clone();
        let Some(change) = self.all(leaf, w, lambda)? else { return Ok(Outcome::Kept(SINGULAR)) };
        let gain = trial.gain(&rows_of(&change, self.shape[1], sample(self.shape[0])));
        if gain <= 0.0 {
            *leaf = before;
            return Ok(Outcome::Kept("it would be no better on held-out samples"));
        }
        Ok(Outcome::Refitted(lambda, Some(gain / trial.energy())))
    }

    /// The `λ` that lowers the error on held-out samples most, if one lowers it, after a fit to the others.
    fn choose(&self, leaf: &Leaf, trial: &Trial<'_>) -> Result<Option<f64>> {
        let n = self.shape[1];
        let pull = product(&trial.w, n, &self.drift(Part::Fit));
        let score = |lambda: f64| {
            let ridge = self.seen.shared.get(&format!("retarget.fit.{lambda}"), || {
                if n > KEEP {
                    self.seen.shared.forget("retarget.fit.");
                }
                Ridge::new(self.seen.fit.gram.as_ref().expect("the fit has been looked at"), lambda)
            });
            // What is not positive definite is never taken.
            let Ok(ridge) = ridge else { return Ok(f64::INFINITY) };
            let mut change = ridge.solve(&pull);
            if let Some(mask) = &leaf.mask {
                for (row, change) in sample(self.shape[0]).zip(change.chunks_mut(n)) {
                    change.iter_mut().enumerate().filter(|(j, _)| !mask.keeps(row * n + j)).for_each(|(_, x)| *x = 0.0);
                }
            }
            Ok(-trial.gain(&change))
        };
        let chosen = ladder::choose(START, score, |least| ENOUGH * least)?;
        Ok(chosen.filter(|(_, score)| *score < 0.0).map(|(lambda, _)| lambda))
    }

    /// Fits to all samples; gives the change of the weight as it is stored, or nothing if they leave it open.
    fn all(&self, leaf: &mut Leaf, w: Vec<f32>, lambda: f64) -> Result<Option<Vec<f32>>> {
        let n = self.shape[1];
        let ridge = self.seen.shared.get(&format!("retarget.all.{lambda}"), || {
            self.seen.shared.forget("retarget.all.");
            Ridge::new(&self.seen.gram().expect("the fit has been looked at"), lambda)
        });
        let Ok(ridge) = ridge else { return Ok(None) };
        let mut aim = match ridge.is_delicate() {
            true => ridge.step(&w, &self.whole_drift()),
            false => ridge.solve(&product(&w, n, &self.drift(Part::All))),
        };
        aim.iter_mut().zip(&w).for_each(|(aim, w)| *aim += w);
        check_finite(self.site, self.path, &aim)?;
        replace(leaf, aim);
        let mut change = leaf.to_f32();
        change.iter_mut().zip(w).for_each(|(change, w)| *change -= w);
        Ok(Some(change))
    }

    /// The drift of some of the samples in single precision. Layers that read the same activations share it.
    fn drift(&self, part: Part) -> Arc<Vec<f32>> {
        let make = || match part {
            Part::Fit => self.seen.fit.drift.as_ref().map_or_else(Vec::new, Cross::to_f32),
            Part::All => singles(&self.whole_drift()),
        };
        if self.shape[1] > KEEP {
            return Arc::new(make());
        }
        let made = self.seen.shared.get(&format!("retarget.drift.{part:?}"), || Ok::<_, Infallible>(make()));
        made.unwrap_or_else(|never| match never {})
    }

    fn whole_drift(&self) -> Vec<f64> {
        let mut drift = self.seen.fit.drift.as_ref().expect("the fit has been looked at").as_f64().to_vec();
        if let Some(other) = &self.seen.held_out.drift {
            drift.iter_mut().zip(other.as_f64()).for_each(|(a, b)| *a += b);
        }
        drift
    }
}

/// Whether anything but zeros was seen.
fn nonzero(fold: &Fold) -> bool {
    fold.gram.as_ref().is_some_and(|gram| gram.diagonal().iter().any(|&x| x > 0.0))
}

/// Puts other numbers in place of those of a leaf of floats; removed entries stay removed, and read as zero.
fn replace(leaf: &mut Leaf, mut values: Vec<f32>) {
    if let Some(mask) = &leaf.mask {
        mask.apply(&mut values);
    }
    let Code::Float(floats) = &mut leaf.code else { unreachable!("only floats are refitted") };
    *floats = Floats::from_f32(values, floats.dtype());
}

/// Some rows of a matrix, on which changes are judged by the samples held out.
struct Trial<'a> {
    held_out: &'a Fold,
    n: usize,
    w: Vec<f32>,
    /// `W D` of these rows on the samples held out.
    pull: Vec<f32>,
}

impl<'a> Trial<'a> {
    fn new(fit: &Fit<'a>, w: &[f32]) -> Self {
        let ([m, n], held_out) = (fit.shape, &fit.seen.held_out);
        let w = rows_of(w, n, sample(m));
        let pull = |drift: &Cross| product(&w, n, &drift.to_f32());
        let pull = held_out.drift.as_ref().map_or_else(|| vec![0.0; w.len()], pull);
        Trial { held_out, n, w, pull }
    }

    /// By how much a change of these rows lowers their squared error, `2 tr(W D Δᵀ) - tr(Δ H Δᵀ)`.
    fn gain(&self, change: &[f32]) -> f64 {
        // A row at a time, so that the sum of millions loses nothing.
        let rows = self.pull.chunks(self.n).zip(change.chunks(self.n));
        let dot = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
        2.0 * rows.map(dot).sum::<f64>() - self.quadratic(change)
    }

    /// What these rows give in all, `tr(W H Wᵀ)`.
    fn energy(&self) -> f64 {
        self.quadratic(&self.w)
    }

    fn quadratic(&self, rows: &[f32]) -> f64 {
        self.held_out.gram.as_ref().map_or(0.0, |gram| gram.quadratic(rows.len() / self.n, rows, Compute::F32))
    }
}

#[cfg(test)]
mod tests;
