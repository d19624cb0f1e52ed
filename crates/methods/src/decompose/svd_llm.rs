//! `decompose.svd_llm`: the two thin factors that change least of what a layer returns.

use brevity_model::{Form, Linear, Site, Weight};
use serde_json::Value;

use super::directions::{Metric, peak_bytes};
use super::factors;
use super::ranks::{ALLOCATION, BAND, ENERGY, Given, MULTIPLE, RANK, RATIO, Ranks};
use crate::error::Result;
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

const NAME: &str = "decompose.svd_llm";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Puts the two thin factors in place of a matrix that change least of what it returns",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(SvdLlm::parse(settings)?))),
    kind: Kind::Decompose,
};

/// Energy of outputs, for methods that go by them.
pub(super) const OUTPUT_ENERGY: Setting = Setting {
    about: "the share of the squared outputs to keep, above 0 and up to 1; the rank follows, matrix by matrix",
    ..ENERGY
};

const SETTINGS: &[Setting] = &[RANK, RATIO, OUTPUT_ENERGY, MULTIPLE, ALLOCATION, BAND];

/// Puts the two thin factors in place of a matrix that change least of what it returns.
///
/// With `H = Σ x xᵀ / T` over the inputs seen and `U` the eigenvectors of `W H Wᵀ`, greatest eigenvalue first, the weight
/// becomes the product of `U_r` and `U_rᵀ W`. Its error `Σ ‖(W - Ŵ) x‖² / T` is the sum of the eigenvalues left out, the
/// least that a matrix of rank `r` can have. That is the truncation of `W L` with `H = L Lᵀ`, without the inverse of
/// `L`: eigenvalues of `H` at zero do no harm, and among directions that no input ever had, weights decide. With more
/// outputs than inputs the same `U` are the left singular vectors of `W R`, `H = R Rᵀ`. Columns of the one factor are as
/// long as the rows of the other that they meet, so that both can be quantized alike; the factors have the float type
/// of the weight. Ranks, and what stays as it is, are those of `decompose.svd`, with eigenvalues in place of squared
/// singular values. Fewer inputs seen than there are, and inputs that were always zero, are told in the notes.
///
/// `recover.retarget` in front of this step makes its target what the original model returns on its own inputs, `r`:
/// with `W*` the least squares fit of `W r` on `x`, any `Ŵ` has the error of `W*` and `Σ ‖(W* - Ŵ) x‖²`, so that these
/// factors of `W*` are the best of their rank. No refit of one factor behind the step can then gain on the same samples,
/// which is why there is none.
///
/// # Shapes
/// A weight `[out, in]` becomes `[out, r]` times `[r, in]`.
///
/// # Cost
/// `2 out in² + 2 out² in` operations and an eigendecomposition of `[out, out]`; for more outputs than inputs one of
/// `[in, in]`, shared by the layers of a tap, and a singular value decomposition of `[out, in]`. All in double precision.
/// `energy` and any allocation but `uniform` need a survey of the original model, even for a prediction.
///
/// # Errors
/// [`Error::Coded`](crate::Error::Coded) if the weight is coded, [`Error::NotFinite`](crate::Error::NotFinite) if a
/// weight is NaN or infinite, [`Error::Unseen`](crate::Error::Unseen) if the inputs were not looked at,
/// [`Error::NeedsSurvey`](crate::Error::NeedsSurvey) before the survey.
///
/// # Source
/// Wang et al. 2024 (SVD-LLM), arXiv:2403.07378, with eigenvectors in place of its Cholesky factor.
#[derive(Clone, Debug, PartialEq)]
pub struct SvdLlm {
    ranks: Ranks,
}

impl SvdLlm {
    fn parse(settings: Value) -> Result<Self> {
        let given: Given = read(NAME, SETTINGS, settings)?;
        Ok(SvdLlm { ranks: Ranks::parse(NAME, SETTINGS, given)? })
    }
}

impl LinearMethod for SvdLlm {
    fn needs(&self) -> Needs {
        Needs { gram: true, ..Needs::default() }
    }

    fn survey_needs(&self) -> Needs {
        self.ranks.survey_needs(self.needs())
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let (site, seen) = (cx.site, cx.seen);
        let metric = |notes: &mut Vec<String>| Metric::moments(NAME, site, seen, false, notes);
        factors::rewrite(NAME, &self.ranks, layer, cx, metric).map(|_| ())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        factors::predict(NAME, &self.ranks, site, layer).map(|_| ())
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        let errors = |site: &Site, layer: &Linear<Weight>, seen: &Seen| {
            let metric = Metric::moments(NAME, site, seen, false, &mut Vec::new())?;
            factors::errors(NAME, site, &layer.weight, &metric)
        };
        self.ranks.survey(NAME, errors, |ranks| Box::new(SvdLlm { ranks }))
    }

    fn must_survey_to_predict(&self) -> bool {
        self.ranks.must_survey()
    }

    fn settings(&self) -> Value {
        self.ranks.settings()
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        peak_bytes(layer.weight.shape(), true)
    }
}

#[cfg(test)]
mod tests;
