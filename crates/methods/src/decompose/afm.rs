//! `decompose.afm`: the principal components of what a layer returns, and their mean as a bias.

mod table;

use brevity_model::{CodeForm, Dtype, Expr, Floats, Form, Linear, Role, Site, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use self::table::{Rows, lost};
use super::directions::{Metric, peak_bytes};
use super::factors;
use super::ranks::{ALLOCATION, BAND, Given, MULTIPLE, RANK, RATIO, Ranks};
use super::svd_llm::OUTPUT_ENERGY;
use crate::cut::float_dtype;
use crate::error::{Error, Result};
use crate::leaves::{check_finite, describe};
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

const NAME: &str = "decompose.afm";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Keeps the principal components of what a matrix returns, in two thin factors and a bias",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Afm::parse(settings)?))),
    kind: Kind::Decompose,
};

const SETTINGS: &[Setting] = &[
    RANK,
    RATIO,
    OUTPUT_ENERGY,
    MULTIPLE,
    ALLOCATION,
    BAND,
    Setting { name: "mean", about: "whether the mean output is kept in a bias: `true` or `false`", default: "true" },
];

/// Keeps the principal components of what a matrix returns, in two thin factors and a bias.
///
/// With `μ` the mean of the inputs seen, `C` their covariance and `U` the eigenvectors of `W C Wᵀ`, greatest eigenvalue
/// first, `W x` becomes `U_r U_rᵀ W x + (I - U_r U_rᵀ) W μ`: the weight becomes the product of `U_r` and `U_rᵀ W`, and
/// the constant is added to the bias, with what rounding the factors took from the mean. The error is the sum of the
/// eigenvalues left out, the least that a matrix of rank `r` and a constant can have: never more than that of
/// `decompose.svd_llm` at the same rank, which this is with `mean: false`. A layer without a bias gets one, of the float
/// type of its weight; it counts among the parameters.
///
/// Of the token table the rows are what is returned: with `p` how often each token was seen, and once more each, `μ` the
/// mean row and `U` the components of the rows about it, the table becomes the product of `(D - μ) U_r` and `U_rᵀ`, and
/// `μ`, with what rounding the factors took, a bias `[1, hidden]`. Where it is the output table as well, its logits lack
/// the constant that the bias would add to all of them, which softmax does not see. An output table of its own is a matrix
/// like any other.
///
/// All else is as in `decompose.svd_llm`. `recover.bias` behind this step sets the same constant, against the original
/// model's outputs on its own inputs.
///
/// # Shapes
/// A weight `[out, in]` becomes `[out, r]` times `[r, in]`, and a bias `[1, out]`.
///
/// # Cost
/// That of `decompose.svd_llm`.
///
/// # Errors
/// Those of `decompose.svd_llm`; [`Error::Coded`] too if the bias is coded.
///
/// # Source
/// Principal components of outputs from Yin et al. 2022 (atomic feature mimicking).
#[derive(Clone, Debug, PartialEq)]
pub struct Afm {
    ranks: Ranks,
    /// Whether the mean is kept.
    pub mean: bool,
}

#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    #[serde(flatten)]
    ranks: Given,
    mean: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { ranks: Given::default(), mean: true }
    }
}

impl Afm {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let ranks = Ranks::parse(NAME, SETTINGS, s.ranks)?.with_bias(s.mean);
        Ok(Afm { ranks, mean: s.mean })
    }

    fn metric<'a>(&self, site: &Site, seen: &'a Seen, notes: &mut Vec<String>) -> Result<Metric<'a>> {
        Metric::moments(NAME, site, seen, self.mean, notes)
    }

    /// The token table, by how often each row is looked up.
    fn table(&self, layer: &mut Linear<Weight>, dtype: Dtype, cx: &mut Cx<'_>) -> Result<()> {
        let (site, seen, width) = (cx.site, cx.seen, layer.weight.shape()[1]);
        let of = |w: &[f32], rank, _: &mut Vec<String>| Ok(Rows::new(site, w, width, seen, self.mean)?.factors(rank));
        let Some(was) = factors::put(NAME, &self.ranks, layer, cx, of)? else { return Ok(()) };
        if self.mean {
            let lost = lost(site, &was, &layer.weight.to_f32(), width, seen)?;
            layer.bias = Some(raised(site, layer.bias.as_ref(), lost, dtype)?);
        }
        Ok(())
    }

    /// The float type of the bias.
    fn bias_dtype(&self, site: &Site, layer: &Linear<Form>) -> Result<Dtype> {
        let coded = |code| Error::Coded { method: NAME, site: site.clone(), leaf: "bias".into(), code };
        match &layer.bias {
            None => float_dtype(NAME, site, &layer.weight),
            Some(Expr::Leaf(leaf)) => match &leaf.code {
                CodeForm::Float(dtype) => Ok(*dtype),
                code => Err(coded(describe(code))),
            },
            Some(_) => Err(coded("a product or sum".into())),
        }
    }
}

/// A bias, or none, with what is added to it.
fn raised(site: &Site, bias: Option<&Weight>, lost: Vec<f64>, dtype: Dtype) -> Result<Weight> {
    let before = bias.map_or_else(|| vec![0.0; lost.len()], Weight::to_f32);
    let bias: Vec<f32> = before.into_iter().zip(&lost).map(|(bias, lost)| (f64::from(bias) + lost) as f32).collect();
    check_finite(site, "bias", &bias)?;
    Ok(Weight::float([1, lost.len()], Floats::from_f32(bias, dtype)))
}

impl LinearMethod for Afm {
    fn counts_tokens(&self) -> bool {
        true
    }

    fn needs(&self) -> Needs {
        Needs { gram: true, moments: self.mean, ..Needs::default() }
    }

    fn survey_needs(&self) -> Needs {
        self.ranks.survey_needs(self.needs())
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let (site, seen) = (cx.site, cx.seen);
        let forms = Linear { weight: Form::of(&layer.weight), bias: layer.bias.as_ref().map(Form::of) };
        let dtype = if self.mean { self.bias_dtype(site, &forms)? } else { Dtype::F32 };
        if site.role == Role::Tokens {
            return self.table(layer, dtype, cx);
        }
        let w = factors::rewrite(NAME, &self.ranks, layer, cx, |notes| self.metric(site, seen, notes))?;
        let Some(w) = w.filter(|_| self.mean) else { return Ok(()) };
        let [rows, columns] = layer.weight.shape();
        let mut lost = vec![0.0; rows];
        if let Some(mean) = seen.mean(|fold| &fold.sum) {
            let now = layer.weight.to_f32();
            for (lost, (w, now)) in lost.iter_mut().zip(w.chunks(columns).zip(now.chunks(columns))) {
                let gone = w.iter().zip(now).map(|(w, now)| f64::from(*w) - f64::from(*now));
                *lost = gone.zip(&mean).map(|(gone, x)| gone * x).sum::<f64>();
            }
        }
        layer.bias = Some(raised(site, layer.bias.as_ref(), lost, dtype)?);
        Ok(())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        let dtype = if self.mean { self.bias_dtype(site, layer)? } else { Dtype::F32 };
        let [rows, columns] = layer.weight.shape();
        let width = if site.role == Role::Tokens { columns } else { rows };
        if factors::predict(NAME, &self.ranks, site, layer)? && self.mean {
            layer.bias = Some(Form::float([1, width], dtype));
        }
        Ok(())
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        let (mean, afm) = (self.mean, self.clone());
        let errors = move |site: &Site, layer: &Linear<Weight>, seen: &Seen| {
            if site.role == Role::Tokens {
                let w = factors::finite(site, &layer.weight)?;
                return Ok(Rows::new(site, &w, layer.weight.shape()[1], seen, afm.mean)?.errors());
            }
            let metric = afm.metric(site, seen, &mut Vec::new())?;
            factors::errors(NAME, site, &layer.weight, &metric)
        };
        self.ranks.survey(NAME, errors, move |ranks| Box::new(Afm { ranks, mean }))
    }

    fn must_survey_to_predict(&self) -> bool {
        self.ranks.must_survey()
    }

    fn settings(&self) -> Value {
        let mut settings = self.ranks.settings();
        settings["mean"] = json!(self.mean);
        settings
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let shape @ [rows, columns] = layer.weight.shape();
        peak_bytes(shape, true) + 4 * (rows * columns) as u64
    }
}

#[cfg(test)]
mod tests;
