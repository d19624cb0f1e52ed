//! `recover.bias`: gives a layer back the mean output that it had in the original model.

use brevity_model::{Code, CodeForm, Dtype, Expr, Floats, Form, Leaf, Linear, Site, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::leaves::{check_finite, describe};
use crate::method::{Cx, LinearMethod};
use crate::seen::{Fold, Needs};
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

const NAME: &str = "recover.bias";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Shifts the bias of a layer so that its mean output is that of the original model again",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Bias::parse(settings)?))),
    kind: Kind::Correct,
};

const SETTINGS: &[Setting] = &[];

/// Shifts the bias of a layer so that its mean output is that of the original model again.
///
/// With `W` and `b` the layer as it is in the original model (or, if a step for whole sublayers changed its outputs, as that
/// step left it), `Ŵ` the weight as the steps before left it, `r` the inputs in the
/// original model and `x` those in the compressed one, `b̂ = b + W mean(r) - Ŵ mean(x)`. Of all biases this leaves
/// the least squared error over the samples seen, `Σ ‖W r + b - Ŵ x - b̂‖²`, and rounding it to its float type never
/// makes it worse than `b`. A layer without a bias gets none, and the notes say so.
///
/// # Shapes
/// A weight `[out, in]` and a bias `[1, out]`.
///
/// # Cost
/// `2 out in`, and both weights in single precision.
///
/// # Errors
/// [`Error::Coded`] if the bias is coded, [`Error::NotFinite`] if a number is NaN or infinite, [`Error::Unseen`] if
/// the inputs were not looked at or the layer as it was is not at hand.
///
/// # Source
/// Nagel et al. 2019, arXiv:1906.04721, section 4.2, with means measured on samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bias;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {}

impl Bias {
    fn parse(settings: Value) -> Result<Self> {
        let Settings {} = read(NAME, SETTINGS, settings)?;
        Ok(Bias)
    }
}

impl LinearMethod for Bias {
    fn needs(&self) -> Needs {
        Needs { moments: true, reference: true, ..Needs::default() }
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let site = cx.site;
        let w = finite(site, &layer.weight)?;
        let unseen = |what| Error::Unseen { method: NAME, site: site.clone(), what };
        let Some(bias) = &mut layer.bias else {
            cx.notes.push("no bias to correct".into());
            return Ok(());
        };
        let dtype = float(site, &Form::of(bias))?;
        finite(site, bias)?;
        let original = cx.source.or(cx.original).ok_or_else(|| unseen("the layer as the recipe got it"))?;
        let (r, x, count) =
            means(&cx.seen.fit, &cx.seen.held_out).ok_or_else(|| unseen("its inputs in both models"))?;
        if original.weight.shape()[1] != r.len() || original.weight.shape()[0] != bias.shape()[1] {
            return Err(Error::Changed { method: NAME, site: site.clone() });
        }
        if count == 0 || w.is_empty() {
            cx.notes.push("bias not corrected: nothing was seen of its inputs".into());
            return Ok(());
        }
        let now = times(&w, &x);
        drop(w);
        let then = times(&original.weight.to_f32(), &r);
        let b = original.bias.as_ref().map_or_else(|| vec![0.0; then.len()], Weight::to_f32);
        let aim: Vec<f32> =
            b.iter().zip(then.iter().zip(&now)).map(|(&b, (then, now))| (f64::from(b) + then - now) as f32).collect();
        check_finite(site, "bias", &aim)?;
        let shift: f64 = then.iter().zip(&now).map(|(then, now)| (then - now).powi(2)).sum();
        cx.figures.push(("bias_shift".to_owned(), (shift / then.len() as f64).sqrt()));
        *bias = Expr::Leaf(Leaf::float(bias.shape(), Floats::from_f32(aim, dtype)));
        Ok(())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        layer.bias.as_ref().map_or(Ok(()), |bias| float(site, bias).map(|_| ()))
    }

    fn settings(&self) -> Value {
        json!({})
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let [rows, columns] = layer.weight.shape();
        // One weight as singles at a time, and while a product is multiplied out the parts of it.
        4 * (rows * columns) as u64 + 4 * layer.weight.parameters() + 40 * (rows + columns) as u64
    }
}

/// The float type of a bias.
fn float(site: &Site, bias: &Form) -> Result<Dtype> {
    let coded = |code| Error::Coded { method: NAME, site: site.clone(), leaf: "bias".into(), code };
    match bias {
        Expr::Leaf(leaf) => match &leaf.code {
            CodeForm::Float(dtype) => Ok(*dtype),
            code => Err(coded(describe(code))),
        },
        _ => Err(coded("a product, sum or train".into())),
    }
}

/// The whole matrix as singles, every number in it finite.
fn finite(site: &Site, weight: &Weight) -> Result<Vec<f32>> {
    for (path, leaf) in weight.leaves() {
        if let Code::Float(values) = &leaf.code {
            check_finite(site, &path, &values.to_f32())?;
        }
    }
    Ok(weight.to_f32())
}

/// Mean inputs in the original and in the compressed model, and over how many rows.
fn means(fit: &Fold, held_out: &Fold) -> Option<(Vec<f64>, Vec<f64>, u64)> {
    let mut all =
        Fold { count: fit.count, sum: fit.sum.clone(), reference_sum: fit.reference_sum.clone(), ..Fold::default() };
    all.count += held_out.count;
    for (a, b) in [(&mut all.sum, &held_out.sum), (&mut all.reference_sum, &held_out.reference_sum)] {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    }
    if all.sum.is_empty() || all.reference_sum.is_empty() {
        return None;
    }
    let mean = |sum: Vec<f64>| sum.into_iter().map(|x| x / all.count.max(1) as f64).collect();
    Some((mean(all.reference_sum), mean(all.sum), all.count))
}

/// `W x`, added in double precision.
fn times(w: &[f32], x: &[f64]) -> Vec<f64> {
    w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum()).collect()
}

#[cfg(test)]
mod tests;
