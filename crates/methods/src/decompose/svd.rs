//! `decompose.svd`: two thin factors in place of one matrix.

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_kernels::linalg::{self, svd_f32, svd_f64};
use brevity_model::{Code, CodeForm, Dtype, Floats, Form, Linear, Site, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::leaves::{check_finite, describe};
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::Seen;
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind};

const NAME: &str = "decompose.svd";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Puts the two thin factors of a truncated singular value decomposition in place of a matrix",
    settings: SETTINGS,
    parse: |settings| Ok(Box::new(Svd::parse(settings)?)),
    kind: Kind::Decompose,
};

const SETTINGS: &[Setting] = &[
    Setting { name: "rank", about: "the rank to keep, at least 1", default: "none" },
    Setting {
        name: "ratio",
        about: "the share of parameters to keep, above 0 and up to 1; the rank follows",
        default: "0.5",
    },
    Setting {
        name: "energy",
        about: "the share of the squared singular values to keep, above 0 and up to 1; the rank follows, matrix by \
                matrix",
        default: "none",
    },
    Setting {
        name: "multiple",
        about: "round the rank to a multiple of this, at least 1: down, or up if `energy` is set",
        default: "8, or 1 if `rank` is set",
    },
];

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
/// `energy` `e`, `r` is the smallest with `Σ_{i ≤ r} s_i² ≥ e Σ s_i²`.
///
/// # Cost
/// `O(out * in * min(out, in))`, in double precision up to 1024 inputs or outputs. Ranks far below a large matrix's
/// are found from a random sketch in `O(out * in * r)`. Needs no calibration data; `energy` needs a survey, even for
/// a prediction.
///
/// # Errors
/// [`Error::Coded`] if the weight is coded, [`Error::NotFinite`] if a weight is NaN or infinite.
///
/// # Source
/// Eckart and Young 1936; the sketch is from Halko et al. 2011, arXiv:0909.4061.
#[derive(Clone, Debug, PartialEq)]
pub struct Svd {
    /// How the rank is chosen.
    pub keep: Keep,
    /// The rank is rounded to a multiple of this, unless that saves nothing or leaves nothing.
    pub multiple: usize,
    /// The ranks that the survey found.
    ranks: Option<Arc<BTreeMap<Site, usize>>>,
}

/// How a rank is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// This rank.
    Rank(usize),
    /// This share of the parameters.
    Ratio(f64),
    /// This share of the squared singular values.
    Energy(f64),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    rank: Option<usize>,
    ratio: Option<f64>,
    energy: Option<f64>,
    multiple: Option<usize>,
}

/// The smaller side up to which matrices are decomposed in double precision.
pub(super) const DOUBLE: usize = 1024;

impl Svd {
    /// Keeps so much of each matrix, with ranks rounded as by default.
    pub fn new(keep: Keep) -> Self {
        let multiple = if matches!(keep, Keep::Rank(_)) { 1 } else { 8 };
        Svd { keep, multiple, ranks: None }
    }

    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let bad = |name, value: Value| Err(value_error(NAME, SETTINGS, name, &value));
        let share = |x: f64| x > 0.0 && x <= 1.0;
        let keep = match (s.rank, s.ratio, s.energy) {
            (Some(0), None, None) => return bad("rank", 0.into()),
            (Some(rank), None, None) => Keep::Rank(rank),
            (None, Some(ratio), None) if !share(ratio) => return bad("ratio", ratio.into()),
            (None, Some(ratio), None) => Keep::Ratio(ratio),
            (None, None, Some(energy)) if !share(energy) => return bad("energy", energy.into()),
            (None, None, Some(energy)) => Keep::Energy(energy),
            (None, None, None) => Keep::Ratio(0.5),
            _ => return Err(Error::Settings { method: NAME, wants: "one of `rank`, `ratio` and `energy`" }),
        };
        let svd = Self::new(keep);
        match s.multiple {
            Some(0) => bad("multiple", 0.into()),
            Some(multiple) => Ok(Svd { multiple, ..svd }),
            None => Ok(svd),
        }
    }

    /// The rank for a matrix of a shape that is held in so many numbers now, or `None` if that is no smaller.
    fn rank(&self, site: &Site, [rows, columns]: [usize; 2], held: u64) -> Result<Option<usize>> {
        let full = rows.min(columns);
        let saves = |rank: usize| ((rank * (rows + columns)) as u64) < held;
        let exact = match self.keep {
            Keep::Rank(rank) => rank,
            Keep::Ratio(ratio) => (ratio * (rows * columns) as f64 / (rows + columns).max(1) as f64).floor() as usize,
            Keep::Energy(_) => {
                let ranks =
                    self.ranks.as_ref().ok_or_else(|| Error::NeedsSurvey { method: NAME, site: site.clone() })?;
                *ranks.get(site).ok_or_else(|| Error::Changed { method: NAME, site: site.clone() })?
            }
        };
        let exact = exact.clamp(1, full.max(1));
        let rounded = match self.keep {
            Keep::Energy(_) => exact.next_multiple_of(self.multiple),
            _ => exact / self.multiple * self.multiple,
        };
        let fits = rounded > 0 && rounded <= full && saves(rounded);
        let rank = if fits { rounded } else { exact };
        Ok((full > 0 && saves(rank)).then_some(rank))
    }
}

impl LinearMethod for Svd {
    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let form = Form::of(&layer.weight);
        let dtype = float_dtype(NAME, cx.site, &form)?;
        let shape @ [rows, columns] = layer.weight.shape();
        let Some(rank) = self.rank(cx.site, shape, form.parameters())? else {
            cx.notes.push(kept_dense(shape, &form));
            return Ok(());
        };
        let removed: usize = layer
            .weight
            .leaves()
            .iter()
            .filter_map(|(_, leaf)| leaf.mask.as_ref())
            .map(|mask| mask.shape()[0] * mask.shape()[1] - mask.kept())
            .sum();
        if removed > 0 {
            cx.notes.push(format!("the mask over {removed} removed entries is lost"));
        }
        let w = finite(cx.site, &layer.weight)?;
        let (a, b) = factors(&w, shape, rank, cx.seed).map_err(|source| Error::Kernel {
            method: NAME,
            site: cx.site.clone(),
            leaf: String::new(),
            source,
        })?;
        drop(w);
        let float = |shape, values| Weight::float(shape, Floats::from_f32(values, dtype));
        layer.weight = Weight::product(float([rows, rank], a), float([rank, columns], b));
        cx.notes.push(format!("rank {rank} of {}", rows.min(columns)));
        Ok(())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        let dtype = float_dtype(NAME, site, &layer.weight)?;
        let shape @ [rows, columns] = layer.weight.shape();
        if let Some(rank) = self.rank(site, shape, layer.weight.parameters())? {
            layer.weight = Form::product(Form::float([rows, rank], dtype), Form::float([rank, columns], dtype));
        }
        Ok(())
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        match self.keep {
            Keep::Energy(_) if self.ranks.is_none() => {
                Some(Box::new(Ranks { svd: self.clone(), ranks: BTreeMap::new() }))
            }
            _ => None,
        }
    }

    fn must_survey_to_predict(&self) -> bool {
        matches!(self.keep, Keep::Energy(_)) && self.ranks.is_none()
    }

    fn settings(&self) -> Value {
        let multiple = self.multiple;
        match self.keep {
            Keep::Rank(rank) => json!({ "rank": rank, "multiple": multiple }),
            Keep::Ratio(ratio) => json!({ "ratio": ratio, "multiple": multiple }),
            Keep::Energy(energy) => json!({ "energy": energy, "multiple": multiple }),
        }
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let [rows, columns] = layer.weight.shape();
        let (full, all) = (rows.min(columns) as u64, (rows * columns) as u64);
        let width = if full as usize <= DOUBLE { 8 } else { 4 };
        // The matrix as singles and as what is decomposed; its copy in the solver; vectors in column and in row
        // order, on both sides, with the solver's square workspaces.
        let vectors = full * (rows + columns) as u64;
        all * (4 + 2 * width) + width * (2 * vectors + 6 * full * full)
    }
}

/// The float type of the factors: the widest one in the expression.
pub(super) fn float_dtype(method: &'static str, site: &Site, form: &Form) -> Result<Dtype> {
    let mut widest: Option<Dtype> = None;
    for (path, leaf) in form.leaves() {
        let dtype = match &leaf.code {
            CodeForm::Float(dtype) => *dtype,
            CodeForm::Blocks(_) => Dtype::F32,
            _ if crate::leaves::is_rule(leaf) => continue,
            code => {
                let code = describe(code);
                return Err(Error::Coded { method, site: site.clone(), leaf: path, code });
            }
        };
        widest = Some(match widest {
            Some(before) if before == dtype => before,
            Some(before) if before.size_bytes() == dtype.size_bytes() => Dtype::F32,
            Some(before) if before.size_bytes() > dtype.size_bytes() => before,
            _ => dtype,
        });
    }
    Ok(widest.unwrap_or(Dtype::F32))
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

fn kept_dense([rows, columns]: [usize; 2], form: &Form) -> String {
    let what = if form.as_leaf().is_some() { "dense" } else { "as it was" };
    let limit = form.parameters().saturating_sub(1) / (rows + columns).max(1) as u64;
    format!("stays {what}: a [{rows}, {columns}] matrix saves nothing above rank {limit}")
}

/// `U_r √S_r` `[rows, r]` and `√S_r V_rᵀ` `[r, columns]`.
fn factors(
    w: &[f32],
    shape: [usize; 2],
    rank: usize,
    seed: u64,
) -> Result<(Vec<f32>, Vec<f32>), brevity_kernels::Error> {
    let full = shape[0].min(shape[1]);
    if full <= DOUBLE {
        let wide: Vec<f64> = w.iter().map(|&x| x as f64).collect();
        let svd = svd_f64(&wide, shape)?;
        return Ok(split(&svd, shape, rank, |x| x, |x| x as f32));
    }
    let svd = if rank <= full / 4 { linalg::randomized_svd_f32(w, shape, rank, seed)? } else { svd_f32(w, shape)? };
    Ok(split(&svd, shape, rank, |x| x as f64, |x| x as f32))
}

fn split<T: Copy>(
    svd: &linalg::Svd<T>,
    [rows, columns]: [usize; 2],
    rank: usize,
    wide: impl Fn(T) -> f64,
    narrow: impl Fn(f64) -> f32,
) -> (Vec<f32>, Vec<f32>) {
    let terms = svd.s.len();
    let roots: Vec<f64> = svd.s[..rank].iter().map(|&s| wide(s).max(0.0).sqrt()).collect();
    let a = (0..rows * rank).map(|i| narrow(wide(svd.u[i / rank * terms + i % rank]) * roots[i % rank])).collect();
    let b = (0..rank * columns).map(|i| narrow(wide(svd.vt[i]) * roots[i / columns])).collect();
    (a, b)
}

/// The survey for `energy`: how many singular values of each matrix hold that share.
struct Ranks {
    svd: Svd,
    ranks: BTreeMap<Site, usize>,
}

impl Survey for Ranks {
    fn look(&mut self, site: &Site, layer: &Linear<Weight>, _: &Seen) -> Result<()> {
        let Keep::Energy(energy) = self.svd.keep else { unreachable!("only energy needs ranks") };
        float_dtype(NAME, site, &Form::of(&layer.weight))?;
        let w = finite(site, &layer.weight)?;
        let shape = layer.weight.shape();
        let fail = |source| Error::Kernel { method: NAME, site: site.clone(), leaf: String::new(), source };
        let squares: Vec<f64> = if shape[0].min(shape[1]) <= DOUBLE {
            let wide: Vec<f64> = w.iter().map(|&x| x as f64).collect();
            svd_f64(&wide, shape).map_err(fail)?.s.iter().map(|s| s * s).collect()
        } else {
            svd_f32(&w, shape).map_err(fail)?.s.iter().map(|&s| (s as f64).powi(2)).collect()
        };
        self.ranks.insert(site.clone(), rank_for(energy, &squares));
        Ok(())
    }

    fn next_pass(&mut self) -> bool {
        false
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn LinearMethod>> {
        Ok(Box::new(Svd { ranks: Some(Arc::new(self.ranks)), ..self.svd }))
    }
}

/// The smallest count of leading squares that hold this share of their sum; at least 1.
fn rank_for(energy: f64, squares: &[f64]) -> usize {
    let wanted = energy * squares.iter().sum::<f64>();
    let mut held = 0.0;
    let enough = squares.iter().position(|square| {
        held += square;
        held >= wanted
    });
    enough.map_or(squares.len(), |n| n + 1).max(1)
}

#[cfg(test)]
mod tests;
