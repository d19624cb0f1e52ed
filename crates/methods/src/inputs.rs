//! What the methods that work input by input make of what was seen: damped factors, and the choice of damping on
//! samples that were kept apart.

use std::sync::Arc;

use brevity_kernels::Error as Refusal;
use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::InverseFactor;
use brevity_kernels::ops::Compute;
use brevity_model::{Form, Linear, Site};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ladder::{self, LADDER};
use crate::leaves::figure;
use crate::seen::Seen;
use crate::settings::Setting;

/// The rung of the ladder that `damp: auto` starts with.
const FIRST: usize = 3;
/// How much more error than the least is as good.
const LEEWAY: f64 = 1.05;
/// What is taken where nothing can be chosen.
const CUSTOMARY: f64 = 0.01;
/// Inputs up to which all factors are kept; above, the last of each kind.
const FEW: usize = 1024;

pub(crate) const DAMP: Setting = Setting {
    name: "damp",
    about: "what is added to the mean square of each input, as a multiple of their mean, or `auto` to choose it on \
            samples that were kept apart",
    default: "auto",
};

/// How much inputs are damped, as written in a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Damp {
    /// So many times the mean of the diagonal.
    Times(f64),
    /// What is best on samples that were kept apart.
    Auto(Auto),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// Chosen by the method.
    #[default]
    Auto,
}

impl Default for Damp {
    fn default() -> Self {
        Damp::Auto(Auto::Auto)
    }
}

impl Damp {
    pub(crate) fn is_auto(self) -> bool {
        matches!(self, Damp::Auto(_))
    }

    /// Whether it is a number that can be meant.
    pub(crate) fn is_sound(self) -> bool {
        match self {
            Damp::Times(x) => x >= 0.0 && x.is_finite(),
            Damp::Auto(_) => true,
        }
    }
}

/// Which inputs come first, as written in a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Those with the largest mean square.
    Activation,
    /// As they lie in the weight.
    Natural,
}

/// Which samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Those that choices are fitted to.
    Fit,
    /// All.
    All,
}

/// What was seen of the inputs of one matrix, checked.
pub(crate) struct Inputs<'a> {
    seen: &'a Seen,
    pub fit: &'a Gram,
    /// Samples to choose on, if there are any that say something.
    pub held_out: Option<&'a Gram>,
    /// The inputs by falling mean square, if they are to be taken in that order.
    order: Option<Vec<u32>>,
}

impl<'a> Inputs<'a> {
    /// # Errors
    /// [`Error::Unseen`] if nothing was asked or seen, [`Error::Inputs`] if it is not finite.
    pub fn new(
        method: &'static str,
        site: &Site,
        path: &str,
        seen: &'a Seen,
        order: Order,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let unseen = || Error::Unseen { method, site: site.clone(), what: "its inputs" };
        let fit = seen.fit.gram.as_ref().ok_or_else(unseen)?;
        let held_out = seen.held_out.gram.as_ref().filter(|_| seen.held_out.count > 0);
        let mut diagonal = fit.diagonal();
        if let Some(held_out) = held_out {
            diagonal.iter_mut().zip(held_out.diagonal()).for_each(|(a, b)| *a += b);
        }
        let (count, inputs) = (diagonal.iter().filter(|x| !x.is_finite()).count(), diagonal.len());
        if count > 0 {
            return Err(Error::Inputs { method, site: site.clone(), leaf: path.into(), count, inputs });
        }
        let samples = seen.fit.count + seen.held_out.count;
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        if diagonal.iter().all(|&x| x == 0.0) {
            notes.push(format!("{place}its inputs were always zero, so nothing is made up for"));
        } else if samples < inputs as u64 {
            notes.push(format!(
                "{place}only {samples} samples were seen of {inputs} inputs; more would serve it better"
            ));
        }
        let order = (order == Order::Activation).then(|| {
            let mut order: Vec<u32> = (0..inputs as u32).collect();
            order.sort_by(|&a, &b| diagonal[b as usize].total_cmp(&diagonal[a as usize]).then(a.cmp(&b)));
            order
        });
        let held_out = held_out.filter(|gram| gram.diagonal().iter().any(|&x| x > 0.0));
        Ok(Inputs { seen, fit, held_out, order })
    }

    /// The factor of some of the samples. Layers that read the same activations share it.
    pub fn factor(&self, part: Part, damp: f64) -> Result<Arc<InverseFactor>, Refusal> {
        let kind = match part {
            Part::Fit => "inverse of fit",
            Part::All => "inverse of all",
        };
        let order = if self.order.is_some() { "by activation" } else { "in order" };
        self.seen.shared.get(&format!("{kind}, {order}, {damp}"), || {
            if self.fit.size() > FEW {
                self.seen.shared.forget(kind);
            }
            let all = if part == Part::All { self.seen.gram() } else { None };
            InverseFactor::new(all.as_deref().unwrap_or(self.fit), self.order.as_deref(), damp)
        })
    }

    /// The factor of the fitted samples with this damping, or that which the choice begins with.
    pub fn middle(&self, damp: Damp) -> Option<Arc<InverseFactor>> {
        let damp = match damp {
            Damp::Times(damp) => damp,
            Damp::Auto(_) => LADDER[FIRST],
        };
        self.factor(Part::Fit, damp).ok()
    }

    /// The factor of all samples with this damping, or with ten times as much, up to once the mean, where that is not
    /// positive definite; `None` if none is.
    pub fn damped(&self, damp: Damp) -> Option<Arc<InverseFactor>> {
        let mut damp = match damp {
            Damp::Times(damp) => damp,
            Damp::Auto(_) => CUSTOMARY,
        };
        loop {
            if let Ok(factor) = self.factor(Part::All, damp) {
                return Some(factor);
            }
            if damp >= 1.0 {
                return None;
            }
            damp = (10.0 * damp).clamp(0.01, 1.0);
        }
    }

    /// The damping to take, and its error: [`crate::ladder`] says which. `None` where no factor is positive definite.
    pub fn choose(&self, mut error: impl FnMut(&InverseFactor) -> Result<f64>) -> Result<Option<(f64, f64)>> {
        let at = |damp: f64| match self.factor(Part::Fit, damp) {
            Ok(factor) => error(&factor),
            Err(_) => Ok(f64::INFINITY),
        };
        ladder::choose(FIRST, at, |least| LEEWAY * least)
    }

    /// Memory that is held at most for a layer, with choices on samples `held_out` or without: for one of its matrices
    /// the factors that are kept and the one that is being worked out; and what its left factors see.
    pub fn peak_bytes(layer: &Linear<Form>, held_out: bool) -> u64 {
        let leaves = layer.weight.leaves();
        // A core is shown sums over its own inputs; a left factor sums over the rows of the right one.
        let train = layer.weight.has_train();
        let behind = |[rows, inputs]: [usize; 2]| match train {
            true => 24 * (inputs * inputs) as u64 + 8 * (4 * rows * inputs) as u64 + 2 * Gram::bytes(inputs),
            false => 8 * (inputs * inputs + 4 * rows * inputs) as u64 + 2 * Gram::bytes(rows),
        };
        let behind = if leaves.len() < 2 { 0 } else { leaves.iter().map(|(_, form)| behind(form.shape)).sum() };
        behind + leaves.iter().map(|(_, form)| Self::matrix_bytes(form.shape[1], held_out)).max().unwrap_or(0)
    }

    fn matrix_bytes(inputs: usize, held_out: bool) -> u64 {
        let kept = match (held_out, inputs > FEW) {
            (false, _) => 0,
            // That of the fit, that of all samples, and one in which inputs stand alone.
            (true, true) => 2,
            (true, false) => 2 * LADDER.len() as u64,
        };
        kept * InverseFactor::bytes(inputs) + InverseFactor::peak_bytes(inputs)
    }
}

/// Some rows of a matrix, evenly spread, on which choices are made: about an eighth, and no fewer than 64.
pub(crate) fn sample(rows: usize) -> impl Iterator<Item = usize> + Clone {
    (0..rows).step_by((rows / 64.max(rows / 8)).max(1))
}

/// These rows of a matrix with so many columns.
pub(crate) fn rows_of<T: Copy>(values: &[T], columns: usize, rows: impl Iterator<Item = usize>) -> Vec<T> {
    rows.flat_map(|row| values[row * columns..(row + 1) * columns].iter().copied()).collect()
}

/// `tr((W - Q) G (W - Q)ᵀ)` for `columns` inputs.
pub(crate) fn error_on(gram: &Gram, columns: usize, w: &[f32], q: &[f32]) -> f64 {
    let change: Vec<f32> = w.iter().zip(q).map(|(w, q)| w - q).collect();
    gram.quadratic(w.len() / columns.max(1), &change, Compute::F32)
}

/// The figures of a rewritten matrix: errors on both folds as a share of what the weight makes there, measured on
/// some of its rows.
pub(crate) fn figures(
    inputs: &Inputs<'_>,
    path: &str,
    [rows, columns]: [usize; 2],
    w: &[f32],
    q: &[f32],
    into: &mut Vec<(String, f64)>,
) {
    let (w, q) = (rows_of(w, columns, sample(rows)), rows_of(q, columns, sample(rows)));
    let relative = |gram: &Gram| {
        let whole = gram.quadratic(w.len() / columns.max(1), &w, Compute::F32);
        if whole > 0.0 { error_on(gram, columns, &w, &q) / whole } else { 0.0 }
    };
    into.push((figure(path, "fit_error"), relative(inputs.fit)));
    if let Some(held_out) = inputs.held_out {
        into.push((figure(path, "held_out_error"), relative(held_out)));
    }
}
