//! Putting two thin factors in place of a matrix: what is the same whichever directions they keep.

use brevity_model::{Code, Dtype, Floats, Form, Linear, Site, Weight};

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
    let (site, seed, shape) = (cx.site, cx.seed, layer.weight.shape());
    put(method, ranks, layer, cx, |w, rank, notes| {
        let directions = metric(notes)?.directions(w, shape, Some(rank), seed);
        Ok(directions.map_err(refused(method, site))?.factors(w, shape, rank))
    })
}

/// The same with factors `[out, r]` and `[r, in]` of the weight that `make` works out.
pub(crate) fn put(
    method: &'static str,
    ranks: &Ranks,
    layer: &mut Linear<Weight>,
    cx: &mut Cx<'_>,
    make: impl FnOnce(&[f32], usize, &mut Vec<String>) -> Result<(Vec<f32>, Vec<f32>)>,
) -> Result<Option<Vec<f32>>> {
    let form = Form::of(&layer.weight);
    let dtype = float_dtype(method, cx.site, &form)?;
    let [rows, columns] = form.shape();
    let size = ranks.size(cx.site, &Linear { weight: form, bias: layer.bias.as_ref().map(Form::of) });
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
    layer.weight = product([rows, columns], rank, make(&w, rank, &mut cx.notes)?, dtype);
    let how = ranks.how().map_or_else(String::new, |how| format!(", {how}"));
    cx.notes.push(format!("rank {rank} of {}{how}", rows.min(columns)));
    Ok(Some(w))
}

/// The form that [`rewrite`] leaves; says whether it is another one.
pub(crate) fn predict(method: &'static str, ranks: &Ranks, site: &Site, layer: &mut Linear<Form>) -> Result<bool> {
    let dtype = float_dtype(method, site, &layer.weight)?;
    let [rows, columns] = layer.weight.shape();
    let Some(rank) = ranks.rank(method, site, ranks.size(site, layer))? else { return Ok(false) };
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
    Ok(metric.directions(&w, weight.shape(), None, 0).map_err(refused(method, site))?.errors)
}

/// The factors of a layer at each of some ranks, as [`rewrite`] would leave them.
///
/// # Errors
/// As [`rewrite`].
pub(crate) fn at_ranks(
    method: &'static str,
    site: &Site,
    weight: &Weight,
    metric: &Metric<'_>,
    ranks: &[usize],
) -> Result<Vec<Weight>> {
    let dtype = float_dtype(method, site, &Form::of(weight))?;
    let (w, shape) = (finite(site, weight)?, weight.shape());
    if ranks.is_empty() {
        return Ok(Vec::new());
    }
    let directions = metric.directions(&w, shape, None, 0).map_err(refused(method, site))?;
    Ok(ranks.iter().map(|&rank| product(shape, rank, directions.factors(&w, shape, rank), dtype)).collect())
}

/// Two factors of a matrix `[out, in]` as a weight.
fn product([rows, columns]: [usize; 2], rank: usize, (a, b): (Vec<f32>, Vec<f32>), dtype: Dtype) -> Weight {
    let float = |shape, values| Weight::float(shape, Floats::from_f32(values, dtype));
    Weight::product(float([rows, rank], a), float([rank, columns], b))
}

/// The error for what a kernel refuses of a layer.
fn refused(method: &'static str, site: &Site) -> impl FnOnce(brevity_kernels::Error) -> Error {
    move |source| Error::Kernel { method, site: site.clone(), leaf: String::new(), source }
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
