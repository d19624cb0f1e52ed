//! `decompose.asvd`: a truncated singular value decomposition in which large inputs count more.

use brevity_model::{Form, Linear, Site, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use super::directions::{Metric, peak_bytes};
use super::factors;
use super::ranks::{BAND, ENERGY, Given, MULTIPLE, RANK, RATIO, Ranks, SEARCHED, TOKENS};
use crate::error::{Error, Result};
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

const NAME: &str = "decompose.asvd";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Puts two thin factors in place of a matrix, with more care for inputs that are large",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Asvd::parse(settings)?))),
    kind: Kind::Decompose,
};

const SETTINGS: &[Setting] = &[
    RANK,
    RATIO,
    ENERGY,
    MULTIPLE,
    SEARCHED,
    BAND,
    TOKENS,
    Setting {
        name: "alpha",
        about: "the power of the mean magnitude of an input by which its weights count, at least 0",
        default: "0.5",
    },
];

/// Puts two thin factors in place of a matrix, with more care for inputs that are large.
///
/// With `D` the diagonal matrix of `(Σ |x_j| / T)^α` and `W D = U S Vᵀ`, the weight becomes `U_r S_r V_rᵀ D⁻¹`, which is
/// the product of `U_r` and `U_rᵀ W`: inputs that were always zero do no harm. Of all matrices of rank `r` it has the
/// least `‖(W - Ŵ) D‖`. `alpha: 0` is `decompose.svd`. What inputs have to do with each other is not seen, so
/// `decompose.svd_llm` changes less of what the layer returns, at the same rank, for a Gram matrix more. Ranks and what
/// stays as it is are those of `decompose.svd`, with the singular values of `W D`.
///
/// `allocation: sensitivity` is the search of the paper: the loss of the whole model is measured with each matrix alone at
/// each of six ratios, all losses are sorted, and each matrix takes the smallest ratio whose loss is within the bound that
/// meets the budget. Losses are divergences from the original model's predictions in place of perplexities, so that few
/// tokens tell them apart.
///
/// # Shapes
/// A weight `[out, in]` becomes `[out, r]` times `[r, in]`.
///
/// # Cost
/// That of `decompose.svd`, and a sum of magnitudes. The search takes `tokens` through half the blocks, on average, and
/// the output table, six times for each matrix, and holds the hidden states of all trials at a time: `24 tokens hidden` bytes
/// for each matrix.
///
/// # Errors
/// Those of `decompose.svd`; [`Error::Unseen`] if the inputs were not looked at.
///
/// # Source
/// Yuan et al. 2023, arXiv:2312.05821.
#[derive(Clone, Debug, PartialEq)]
pub struct Asvd {
    ranks: Ranks,
    /// The power of the mean magnitude of an input.
    pub alpha: f64,
}

#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    #[serde(flatten)]
    ranks: Given,
    alpha: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { ranks: Given::default(), alpha: 0.5 }
    }
}

impl Asvd {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        if !(s.alpha >= 0.0 && s.alpha.is_finite()) {
            return Err(value_error(NAME, SETTINGS, "alpha", &s.alpha.into()));
        }
        Ok(Asvd { ranks: Ranks::parse(NAME, SETTINGS, s.ranks)?, alpha: s.alpha })
    }

    fn metric(&self, site: &Site, seen: &Seen, notes: &mut Vec<String>) -> Result<Metric<'static>> {
        let unseen = || Error::Unseen { method: NAME, site: site.clone(), what: "its inputs" };
        let magnitudes = seen.mean(|fold| &fold.sum_abs).ok_or_else(unseen)?;
        Metric::sizes(NAME, site, magnitudes.into_iter().map(|x| x.powf(self.alpha)).collect(), notes)
    }
}

impl LinearMethod for Asvd {
    fn needs(&self) -> Needs {
        Needs { absolute: true, ..Needs::default() }
    }

    fn survey_needs(&self) -> Needs {
        self.ranks.survey_needs(self.needs())
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let (site, seen) = (cx.site, cx.seen);
        factors::rewrite(NAME, &self.ranks, layer, cx, |notes| self.metric(site, seen, notes)).map(|_| ())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        factors::predict(NAME, &self.ranks, site, layer).map(|_| ())
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        let (alpha, asvd) = (self.alpha, self.clone());
        let again = self.clone();
        let errors = move |site: &Site, layer: &Linear<Weight>, seen: &Seen| {
            let metric = asvd.metric(site, seen, &mut Vec::new())?;
            factors::errors(NAME, site, &layer.weight, &metric)
        };
        let at = move |site: &Site, layer: &Linear<Weight>, seen: &Seen, ranks: &[usize]| {
            let metric = again.metric(site, seen, &mut Vec::new())?;
            factors::at_ranks(NAME, site, &layer.weight, &metric, ranks)
        };
        self.ranks.search(NAME, errors, at, move |ranks| Box::new(Asvd { ranks, alpha }))
    }

    fn must_survey_to_predict(&self) -> bool {
        self.ranks.must_survey()
    }

    fn settings(&self) -> Value {
        let mut settings = self.ranks.settings();
        settings["alpha"] = json!(self.alpha);
        settings
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let shape @ [rows, columns] = layer.weight.shape();
        peak_bytes(shape, false) + 4 * (rows * columns) as u64
    }
}

#[cfg(test)]
mod tests;
