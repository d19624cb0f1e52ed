//! Putting two thin factors in place of a matrix: what is the same whichever directions they keep.

use brevity_model::{Code, Floats, Form, Linear, Site, Weight};

use super::directions::Metric;
use super::ranks::Ranks;
use crate::cut::{float_dtype, masked};
use crate::error::{Error, Result};
use crate::leaves::check_finite;
use crate::method::Cx;

/// Puts the factors of a layer in place of its weight, or says in the notes why it stays. Gives the weight as it was if
/// it does not.
///
/// # Errors
/// [`Error::Coded`] if the weight is coded, [`Error::NotFinite`] if a weight is NaN or infinite, and what `metric` and
/// [`Ranks::rank`] refuse.
pub(crate) fn rewrite<'a>(
    method: &'static str,
    ranks: &Ranks,
    layer: &mut Linear<Weight>,
    cx: &mut Cx<'a>,
    metric: impl FnOnce(&mut Vec<String>) -> Result<Metric<'a>>,
) -> Result<Option<Vec<f32>>> {
    let form = Form::of(&layer.weight);
    let dtype = float_dtype(method, cx.site, &form)?;
    let shape @ [rows, columns] = form.shape();
    let size = ranks.size(&Linear { weight: form, bias: layer.bias.as_ref().map(Form::of) });
    let Some(rank) = ranks.rank(method, cx.site, size)? else {
        let what = if layer.weight.as_leaf().is_some() { "dense" } else { "as it was" };
        let why = match size.most() {
            most if most > 0 && ranks.is_surveyed() => "that is its part of what all matrices may hold".to_owned(),
            most => format!("a [{rows}, {columns}] matrix saves nothing above rank {most}"),
        };
        cx.notes.push(format!("stays {what}: {why}"));
        return Ok(None);
    };
    let w = finite(cx.site, &layer.weight)?;
    let removed = masked(layer);
    if removed > 0 {
        cx.notes.push(format!("the mask over {removed} removed entries is lost"));
    }
    let metric = metric(&mut cx.notes)?;
    let directions = metric.directions(&w, shape, Some(rank), cx.seed).map_err(|source| {
        let (site, leaf) = (cx.site.clone(), String::new());
        Error::Kernel { method, site, leaf, source }
    })?;
    let (a, b) = directions.factors(&w, shape, rank);
    let float = |shape, values| Weight::float(shape, Floats::from_f32(values, dtype));
    layer.weight = Weight::product(float([rows, rank], a), float([rank, columns], b));
    cx.notes.push(format!("rank {rank} of {}", rows.min(columns)));
    Ok(Some(w))
}

/// The form that [`rewrite`] leaves; says whether it is another one.
pub(crate) fn predict(method: &'static str, ranks: &Ranks, site: &Site, layer: &mut Linear<Form>) -> Result<bool> {
    let dtype = float_dtype(method, site, &layer.weight)?;
    let [rows, columns] = layer.weight.shape();
    let Some(rank) = ranks.rank(method, site, ranks.size(layer))? else { return Ok(false) };
    layer.weight = Form::product(Form::float([rows, rank], dtype), Form::float([rank, columns], dtype));
    Ok(true)
}

/// The squared error that each direction of a layer bears, greatest first, for a survey.
///
/// # Errors
/// As [`rewrite`].
pub(crate) fn errors(method: &'static str, site: &Site, weight: &Weight, metric: &Metric<'_>) -> Result<Vec<f64>> {
    float_dtype(method, site, &Form::of(weight))?;
    let w = finite(site, weight)?;
    let directions = metric.directions(&w, weight.shape(), None, 0).map_err(|source| {
        let (site, leaf) = (site.clone(), String::new());
        Error::Kernel { method, site, leaf, source }
    })?;
    Ok(directions.errors)
}

/// The whole matrix as singles, every leaf of it finite.
pub(super) fn finite(site: &Site, weight: &Weight) -> Result<Vec<f32>> {
    for (path, leaf) in weight.leaves() {
        if let Code::Float(values) = &leaf.code {
            check_finite(site, &path, &values.to_f32())?;
        }
    }
    Ok(weight.to_f32())
}
