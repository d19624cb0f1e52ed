//! `decompose.svd`: two thin factors in place of one matrix.

use brevity_model::{Form, Linear, Site, Weight};
use serde_json::Value;

use super::directions::{Metric, peak_bytes};
use super::factors;
use super::ranks::{ALLOCATION, BAND, ENERGY, Given, MULTIPLE, RANK, RATIO, Ranks};
use crate::error::Result;
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::Needs;
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

const NAME: &str = "decompose.svd";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Puts the two thin factors of a truncated singular value decomposition in place of a matrix",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Svd::parse(settings)?))),
    kind: Kind::Decompose,
};

const SETTINGS: &[Setting] = &[RANK, RATIO, ENERGY, MULTIPLE, ALLOCATION, BAND];

/// Puts the two thin factors of a truncated singular value decomposition in place of a matrix.
///
/// With `W = U S Vᵀ` and a rank `r`, the weight becomes the product of `U_r √S_r` and `√S_r V_rᵀ`, in the float type
/// of the weight. The squared error is the sum of the squared singular values left out, which is the least that a
/// matrix of rank `r` can have. Where `r (out + in)` is no less than the numbers held before, the weight
/// stays as it is, and the notes say so. A product or sum is multiplied out and decomposed anew, and loses its
/// masks, which the notes say too.
///
/// # Shapes
/// A weight `[out, in]` becomes `[out, r]` times `[r, in]`. With `ratio` `ρ`, `r = ⌊ρ out in / (out + in)⌋`; with
/// `energy` `e`, `r` is the smallest with `Σ_{i ≤ r} s_i² ≥ e Σ s_i²`; an `allocation` spreads `ρ` over all matrices.
///
/// # Cost
/// `O(out * in * min(out, in))`, in double precision up to 1024 inputs or outputs. Ranks far below a large matrix's
/// are found from a random sketch in `O(out * in * r)`. Needs no calibration data, but for `allocation: influence` and
/// `coding_rate`; `energy` and any allocation but `uniform` need a survey, even for a prediction.
///
/// # Errors
/// [`Error::Coded`](crate::Error::Coded) if the weight is coded, [`Error::NotFinite`](crate::Error::NotFinite) if a
/// weight is NaN or infinite, [`Error::NeedsSurvey`](crate::Error::NeedsSurvey) before the survey.
///
/// # Source
/// Eckart and Young 1936; the sketch is from Halko et al. 2011, arXiv:0909.4061.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    ranks: Ranks,
}

impl Svd {
    fn parse(settings: Value) -> Result<Self> {
        let given: Given = read(NAME, SETTINGS, settings)?;
        Ok(Svd { ranks: Ranks::parse(NAME, SETTINGS, given)? })
    }
}

impl LinearMethod for Svd {
    fn survey_needs(&self) -> Needs {
        self.ranks.survey_needs(Needs::default())
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        factors::rewrite(NAME, &self.ranks, layer, cx, |_| Ok(Metric::Plain)).map(|_| ())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        factors::predict(NAME, &self.ranks, site, layer).map(|_| ())
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        let errors =
            |site: &Site, layer: &Linear<Weight>, _: &_| factors::errors(NAME, site, &layer.weight, &Metric::Plain);
        self.ranks.survey(NAME, errors, |ranks| Box::new(Svd { ranks }))
    }

    fn must_survey_to_predict(&self) -> bool {
        self.ranks.must_survey()
    }

    fn settings(&self) -> Value {
        self.ranks.settings()
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        peak_bytes(layer.weight.shape(), false)
    }
}

#[cfg(test)]
mod tests;
