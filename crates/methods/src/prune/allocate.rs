//! How sparse each block is made, so that all of them together have the share removed that was asked for.
//!
//! A method embeds an [`Allocation`] and asks it for the share of a site; that is all there is to adopting it.

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_model::{Form, Linear, Place, Site, Weight};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::wanda::mean_squares;
use crate::error::{Error, Result};
use crate::leaves::check_finite;
use crate::method::{LinearMethod, Survey};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, value_error};

/// The settings of an allocation, for the list of a method that has one.
pub(crate) const ALLOCATION: Setting = Setting {
    name: "allocation",
    about: "how the share is spread over blocks: `uniform`, `owl` (less from blocks with more outliers) or `influence` \
            (less from blocks that change more)",
    default: "uniform",
};
pub(crate) const BAND: Setting = Setting {
    name: "band",
    about: "how far the share of a block may lie from `sparsity`, above 0 and up to 1, where `allocation` is not \
            `uniform`",
    default: "0.08",
};

/// How the share of removed weights is spread over blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Spread {
    /// The same everywhere.
    #[default]
    Uniform,
    /// Blocks with more outliers keep more.
    Owl,
    /// Blocks that change their input more keep more.
    Influence,
}

/// A spread and, once all layers have been looked at, the share of each block.
///
/// With `s̄` the share asked for, the share of block `i` is
///
/// - `owl`: `s̄ - band (D_i - D̄) / max |D - D̄| + t`, where `D_i` is the share of scores `|w_ij| a_j` that are above five
///   times the mean score of their layer, and `a_j` the root mean square of input `j`;
/// - `influence`: `t exp(-B_i / 0.15)`, where `B_i` is one minus the mean cosine between what goes into the block and
///   what comes out of it;
///
/// never further than `band` from `s̄` nor outside of 0 to 0.95, with the `t` for which the mean over all blocks,
/// weighted by the parameters of the selected layers, is `s̄`. A block of which nothing was seen has `s̄`.
///
/// # Cost
/// One pass over the selected layers of the original model, with moments of their inputs.
///
/// # Source
/// Yin et al. 2023 (OWL), arXiv:2310.05175, with the band as a bound on both sides; block influence and its softmax
/// from Men et al. 2024, arXiv:2403.03853, and Lin et al. 2024 (MoDeGPT), arXiv:2408.09632.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Allocation {
    spread: Spread,
    band: f64,
    shares: Option<Arc<BTreeMap<Place, f64>>>,
}

/// A score is an outlier above so many times the mean.
const OUTLIER: f64 = 5.0;
/// The temperature of block influence.
const TEMPERATURE: f64 = 0.15;
/// No block loses more, unless more is asked for.
const MOST: f64 = 0.95;

impl Allocation {
    /// From the settings `allocation` and `band` of a method.
    pub(crate) fn parse(
        method: &'static str,
        known: &[Setting],
        spread: Option<Spread>,
        band: Option<f64>,
    ) -> Result<Self> {
        let spread = spread.unwrap_or_default();
        match band {
            Some(_) if spread == Spread::Uniform => {
                Err(Error::Settings { method, wants: "`allocation: owl` or `allocation: influence` with `band`" })
            }
            Some(band) if !(band > 0.0 && band <= 1.0) => Err(value_error(method, known, "band", &band.into())),
            band => Ok(Allocation { spread, band: band.unwrap_or(0.08), shares: None }),
        }
    }

    /// Adds the settings to those of a method.
    pub(crate) fn write(&self, settings: &mut Value) {
        settings["allocation"] = json!(self.spread);
        if self.spread != Spread::Uniform {
            settings["band"] = json!(self.band);
        }
    }

    /// What the survey must see.
    pub(crate) fn survey_needs(&self) -> Needs {
        // Moments for outliers; for influence they stand for a look at activations, with which it comes.
        Needs { moments: self.spread != Spread::Uniform, ..Needs::default() }
    }

    /// The survey that finds the shares, unless there is nothing to find; `finish` is the method with them.
    pub(crate) fn survey(
        &self,
        method: &'static str,
        sparsity: f64,
        finish: impl FnOnce(Allocation) -> Box<dyn LinearMethod> + Send + 'static,
    ) -> Option<Box<dyn Survey>> {
        let known = self.spread == Spread::Uniform || self.shares.is_some() || sparsity == 0.0;
        (!known).then(|| -> Box<dyn Survey> {
            let allocation = self.clone();
            Box::new(Look { method, sparsity, allocation, found: BTreeMap::new(), finish: Box::new(finish) })
        })
    }

    /// The share to remove at a site, of `sparsity` in all.
    ///
    /// # Errors
    /// [`Error::NeedsSurvey`] before the survey, [`Error::Changed`] for a site that it did not look at.
    pub(crate) fn sparsity(&self, method: &'static str, site: &Site, sparsity: f64) -> Result<f64> {
        if self.spread == Spread::Uniform || sparsity == 0.0 {
            return Ok(sparsity);
        }
        let shares = self.shares.as_ref().ok_or_else(|| Error::NeedsSurvey { method, site: site.clone() })?;
        shares.get(&site.place).copied().ok_or_else(|| Error::Changed { method, site: site.clone() })
    }

    /// The share to expect at a site: exact after the survey, the mean before.
    pub(crate) fn predicted(&self, site: &Site, sparsity: f64) -> f64 {
        self.shares.as_ref().and_then(|shares| shares.get(&site.place).copied()).unwrap_or(sparsity)
    }

    /// The shares of blocks from what was found of their layers.
    fn shares(&self, found: &BTreeMap<Site, Found>, sparsity: f64) -> BTreeMap<Place, f64> {
        let mut shares: BTreeMap<Place, f64> = found.keys().map(|site| (site.place, sparsity)).collect();
        let mut blocks: BTreeMap<Place, (f64, f64)> = BTreeMap::new();
        for (site, layer) in found {
            if let Some(value) = layer.value.filter(|_| layer.parameters > 0.0) {
                let (parameters, total) = blocks.entry(site.place).or_default();
                // What is left at the mean share does not weigh in.
                *parameters += layer.parameters;
                *total += layer.parameters * value;
            }
        }
        let blocks: Vec<(Place, f64, f64)> = blocks.into_iter().map(|(place, (p, v))| (place, p, v / p)).collect();
        let all: f64 = blocks.iter().map(|(_, p, _)| p).sum();
        let low = (sparsity - self.band).max(0.0);
        let high = (sparsity + self.band).min(MOST.max(sparsity));
        let shifted: Vec<f64> = match self.spread {
            _ if blocks.is_empty() => return shares,
            Spread::Uniform => return shares,
            Spread::Owl => {
                let mean = blocks.iter().map(|(_, p, d)| p * d).sum::<f64>() / all;
                let most = blocks.iter().map(|(_, _, d)| (d - mean).abs()).fold(0.0, f64::max);
                // What rounding leaves between blocks that are alike is no difference.
                let scale = if most > 1e-9 * mean { self.band / most } else { 0.0 };
                let at = |d: f64, t: f64| (sparsity - scale * (d - mean) + t).clamp(low, high);
                level(&blocks, sparsity, -2.0, 2.0, at)
            }
            Spread::Influence => {
                let least = blocks.iter().map(|(_, _, b)| *b).fold(f64::INFINITY, f64::min);
                // Beyond twenty temperatures all are at the lower limit anyway.
                let weight = |b: f64| (-((b - least) / TEMPERATURE).min(20.0)).exp();
                let at = |b: f64, t: f64| (t * weight(b)).clamp(low, high);
                level(&blocks, sparsity, 0.0, high / weight(f64::INFINITY), at)
            }
        };
        shares.extend(blocks.iter().zip(shifted).map(|((place, _, _), share)| (*place, share)));
        shares
    }
}

/// The values `at(v, t)`, which rise with `t`, for the `t` between two limits at which their weighted mean is `mean`.
fn level(
    blocks: &[(Place, f64, f64)],
    mean: f64,
    mut low: f64,
    mut high: f64,
    at: impl Fn(f64, f64) -> f64,
) -> Vec<f64> {
    let all: f64 = blocks.iter().map(|(_, p, _)| p).sum();
    // The interval is halved until it holds no number between its ends.
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        let now = blocks.iter().map(|(_, p, v)| p * at(*v, middle)).sum::<f64>() / all;
        if now < mean { low = middle } else { high = middle }
    }
    blocks.iter().map(|(_, _, v)| at(*v, high)).collect()
}

/// What the survey found of one layer: outliers or influence.
pub(crate) struct Found {
    pub parameters: f64,
    pub value: Option<f64>,
}

/// The share that each block loses by `influence`, see [`Allocation`], for any measure from 0 to 1 of what blocks do.
pub(crate) fn by_influence(found: &BTreeMap<Site, Found>, share: f64, band: f64) -> BTreeMap<Place, f64> {
    Allocation { spread: Spread::Influence, band, shares: None }.shares(found, share)
}

struct Look {
    method: &'static str,
    sparsity: f64,
    allocation: Allocation,
    found: BTreeMap<Site, Found>,
    finish: Box<dyn FnOnce(Allocation) -> Box<dyn LinearMethod> + Send>,
}

impl Survey for Look {
    fn look(&mut self, site: &Site, layer: &Linear<Weight>, seen: &Seen) -> Result<()> {
        let parameters = Form::of(&layer.weight).parameters() as f64;
        let value = match self.allocation.spread {
            Spread::Owl => outliers(site, layer, seen)?,
            Spread::Influence => seen.influence,
            Spread::Uniform => None,
        };
        match self.found.insert(site.clone(), Found { parameters, value }) {
            None => Ok(()),
            Some(_) => Err(Error::Changed { method: self.method, site: site.clone() }),
        }
    }

    fn next_pass(&mut self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn LinearMethod>> {
        let shares = Arc::new(self.allocation.shares(&self.found, self.sparsity));
        Ok((self.finish)(Allocation { shares: Some(shares), ..self.allocation }))
    }
}

/// The share of scores `|w_ij| a_j` of a layer above five times their mean, if its inputs were seen.
fn outliers(site: &Site, layer: &Linear<Weight>, seen: &Seen) -> Result<Option<f64>> {
    let [rows, columns] = layer.weight.shape();
    let Some(squares) = mean_squares(seen, columns).filter(|_| rows * columns > 0) else { return Ok(None) };
    let w = layer.weight.to_f32();
    check_finite(site, "", &w)?;
    let a: Vec<f64> = squares.iter().map(|x| x.sqrt()).collect();
    let score = |row: &[f32]| -> Vec<f64> { row.iter().zip(&a).map(|(&w, a)| f64::from(w.abs()) * a).collect() };
    // Row sums are collected in order and then added, whatever the threads.
    let sums: Vec<f64> = w.par_chunks(columns).map(|row| score(row).iter().sum()).collect();
    let limit = OUTLIER * sums.iter().sum::<f64>() / w.len() as f64;
    let above: usize = w.par_chunks(columns).map(|row| score(row).iter().filter(|&&s| s > limit).count()).sum();
    Ok(Some(above as f64 / w.len() as f64))
}

#[cfg(test)]
mod tests;
