//! `quantize.rtn`: rounds every weight to the nearest point of a grid.

use std::sync::Arc;

use brevity_kernels::grid::{self, Range, ScaleType, Scales, Spec};
use brevity_model::{Code, CodeForm, Dtype, Form, Grid, Group, Leaf, LeafForm, Linear, Mask, Site, Weight};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::leaves::{check_finite, describe, each_mut, floats, is_rule};
use crate::method::{Cx, LinearMethod};
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind};

const NAME: &str = "quantize.rtn";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Rounds every weight to the nearest point of a grid, one grid for each group of inputs",
    settings: SETTINGS,
    parse: |settings| Ok(Box::new(Rtn::parse(settings)?)),
    kind: Kind::Quantize,
};

const SETTINGS: &[Setting] = &[
    Setting { name: "bits", about: "bits of a code, 1 to 8", default: "4" },
    Setting {
        name: "group",
        about: "which weights share a scale: so many consecutive inputs of an output, `channel` (one output) or \
                `tensor` (all of the matrix)",
        default: "128",
    },
    Setting {
        name: "symmetric",
        about: "`true` for a grid around zero, `false` to store a zero point beside each scale",
        default: "true",
    },
    Setting {
        name: "range",
        about: "`min_max` to hold every weight, `mse` to clip the range where that leaves less error",
        default: "min_max",
    },
    Setting {
        name: "scale_dtype",
        about: "how scales are stored: `auto` (as the weight is), `f32`, `f16` or `bf16`",
        default: "auto",
    },
    Setting {
        name: "ragged",
        about: "what to do where the group does not divide the inputs: `refuse`, `pad` (a shorter last group) or \
                `channel` (one group for each output there)",
        default: "refuse",
    },
];

/// Rounds every weight to the nearest point of a grid, one grid for each group of inputs.
///
/// For a group with scale `s` and zero point `z`, a weight `w` is stored as
/// `q = clamp(round(w / s) + z, 0, 2^bits - 1)` and read back as `s * (q - z)`. A symmetric grid has
/// `s = 2 absmax / (2^bits - 1)` and `z = 2^(bits - 1)`; a symmetric grid of one bit has the two levels `±s` with
/// `s` the mean magnitude, which is the least squares choice. Scales are rounded to the type they are stored in
/// before codes are computed with them. Removed entries do not stretch a range and read back as exactly zero.
/// A product or sum is quantized matrix by matrix; matrices that a rule gives stay as they are.
///
/// # Shapes
/// A weight is `[out, in]`, row-major; with groups of `g` inputs it gets `out * ceil(in / g)` scales.
///
/// # Cost
/// `O(out * in)`, a hundred times that with `range: mse`. Needs no calibration data.
///
/// # Errors
/// [`Error::Group`] if the group does not divide the inputs and `ragged` is `refuse`, [`Error::Coded`] if the
/// weight is coded already, [`Error::NotFinite`] if a weight is NaN or infinite.
///
/// # Source
/// Jacob et al. 2018, arXiv:1712.05877, equations 1 to 3; the clip search as in Frantar et al. 2022,
/// arXiv:2210.17323; one bit as in Rastegari et al. 2016, arXiv:1603.05279, equation 6.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rtn {
    /// Bits of a code, 1 to 8.
    pub bits: u8,
    /// Which weights share a scale.
    pub group: Share,
    /// Whether the zero point is fixed at the middle code.
    pub symmetric: bool,
    /// How the range of a group is chosen.
    pub range: Clip,
    /// How scales are stored.
    pub scale_dtype: ScaleDtype,
    /// What to do where the group does not divide the inputs.
    pub ragged: Ragged,
}

/// Which weights share a scale, as written in a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Share {
    /// So many consecutive inputs of one output.
    Inputs(usize),
    /// More than that.
    Whole(Whole),
}

/// Whole rows or whole matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whole {
    /// All inputs of one output.
    Channel,
    /// All of the matrix.
    Tensor,
}

/// How the range of a group is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clip {
    /// It holds every weight.
    MinMax,
    /// It is shrunk, by up to four fifths, to where `Σ |error|^2.4` is least.
    Mse,
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleDtype {
    /// As the weight is; as bf16 beside FP8.
    Auto,
    /// In single precision.
    F32,
    /// In half precision.
    F16,
    /// As bfloat16.
    Bf16,
}

/// What to do where the group does not divide the inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ragged {
    /// Stop with an error.
    Refuse,
    /// Let the last group of a row be shorter.
    Pad,
    /// Make each row one group.
    Channel,
}

impl Default for Rtn {
    fn default() -> Self {
        Rtn {
            bits: 4,
            group: Share::Inputs(128),
            symmetric: true,
            range: Clip::MinMax,
            scale_dtype: ScaleDtype::Auto,
            ragged: Ragged::Refuse,
        }
    }
}

/// Weights that are widened and coded at once: enough for all threads, little beside a matrix.
const PIECE: usize = 1 << 20;

impl Rtn {
    fn parse(settings: Value) -> Result<Self> {
        let rtn: Rtn = read(NAME, SETTINGS, settings)?;
        if !(1..=8).contains(&rtn.bits) {
            return Err(value_error(NAME, SETTINGS, "bits", &rtn.bits.into()));
        }
        if rtn.group == Share::Inputs(0) {
            return Err(value_error(NAME, SETTINGS, "group", &0.into()));
        }
        Ok(rtn)
    }

    /// The groups of a matrix with so many inputs, unless its rows cannot be cut into them.
    fn groups(&self, inputs: usize) -> Option<Group> {
        match (self.group, self.ragged) {
            (Share::Whole(Whole::Tensor), _) => Some(Group::Tensor),
            (Share::Whole(Whole::Channel), _) => Some(Group::Channel),
            (Share::Inputs(group), Ragged::Channel) if !inputs.is_multiple_of(group) => Some(Group::Channel),
            (Share::Inputs(group), Ragged::Refuse) if !inputs.is_multiple_of(group) => None,
            (Share::Inputs(group), _) => Some(Group::Columns(group)),
        }
    }

    fn group(&self, site: &Site, path: &str, inputs: usize) -> Result<Group> {
        let group = match self.group {
            Share::Inputs(group) => group,
            Share::Whole(_) => inputs,
        };
        self.groups(inputs).ok_or_else(|| Error::Group { site: site.clone(), leaf: path.into(), inputs, group })
    }

    fn scale_dtype(&self, weight: Dtype) -> Dtype {
        match (self.scale_dtype, weight) {
            (ScaleDtype::F32, _) | (ScaleDtype::Auto, Dtype::F32) => Dtype::F32,
            (ScaleDtype::F16, _) | (ScaleDtype::Auto, Dtype::F16) => Dtype::F16,
            (ScaleDtype::Bf16, _) | (ScaleDtype::Auto, Dtype::Bf16 | Dtype::F8E4m3) => Dtype::Bf16,
        }
    }

    /// One bit around zero has the levels `±1`, which no grid of steps has.
    fn is_sign(&self) -> bool {
        self.bits == 1 && self.symmetric
    }

    fn rewrite_leaf(&self, site: &Site, path: &str, leaf: &mut Leaf) -> Result<()> {
        let values = match &leaf.code {
            Code::Rule(_) => return Ok(()),
            Code::Float(values) => values,
            _ => return Err(self.coded(site, path, &LeafForm::of(leaf))),
        };
        let [rows, columns] = leaf.shape;
        let group = self.group(site, path, columns)?;
        let scale_dtype = self.scale_dtype(values.dtype());
        let mut grid = Grid {
            bits: self.bits,
            codes: vec![0; rows * columns],
            scales: Vec::new(),
            zeros: (!self.symmetric).then(Vec::new),
            group,
            scale_dtype,
            levels: self.is_sign().then(|| Arc::from([-1.0f32, 1.0])),
        };
        // Rows are coded apart unless they share a scale, so that no whole matrix is ever widened.
        let at_once = match group {
            Group::Tensor => rows.max(1),
            _ => (PIECE / columns.max(1)).max(1),
        };
        for (n, codes) in grid.codes.chunks_mut((at_once * columns).max(1)).enumerate() {
            let start = n * at_once * columns;
            let w = floats(values, start..start + codes.len());
            if brevity_kernels::cast::count_non_finite(&w) > 0 {
                check_finite(site, path, &values.to_f32())?;
            }
            let keep = leaf.mask.as_ref().map(|mask| keep(mask, start, codes.len()));
            let shape = [codes.len() / columns, columns];
            if self.is_sign() {
                grid.scales.extend(signs(group, scale_dtype, &w, shape, keep.as_deref(), codes));
                continue;
            }
            let spec = self.spec(group, scale_dtype);
            let fail = |source| Error::Kernel { method: NAME, site: site.clone(), leaf: path.into(), source };
            let fitted: Scales = grid::fit(&spec, &w, shape, keep.as_deref()).map_err(fail)?;
            grid::encode(&spec, &fitted, &w, shape, keep.as_deref(), codes).map_err(fail)?;
            grid.scales.extend(fitted.scales);
            if let (Some(zeros), Some(fitted)) = (&mut grid.zeros, fitted.zeros) {
                zeros.extend(fitted);
            }
        }
        if grid.codes.is_empty() {
            // Nothing was fitted; the table of scales still has its shape.
            let [r, c] = group.scales(leaf.shape);
            grid.scales = vec![1.0; r * c];
            grid.zeros = grid.zeros.map(|_| vec![0; r * c]);
        }
        leaf.code = Code::Grid(grid);
        Ok(())
    }

    fn spec(&self, group: Group, scale_dtype: Dtype) -> Spec {
        Spec {
            bits: self.bits.into(),
            group: match group {
                Group::Tensor => grid::Group::Tensor,
                Group::Channel => grid::Group::Row,
                Group::Columns(size) => grid::Group::Size(size),
            },
            symmetric: self.symmetric,
            range: match self.range {
                Clip::MinMax => Range::MinMax,
                Clip::Mse => Range::MSE,
            },
            scale: scale_type(scale_dtype),
            ragged: true,
        }
    }

    fn coded(&self, site: &Site, path: &str, form: &LeafForm) -> Error {
        Error::Coded { method: NAME, site: site.clone(), leaf: path.into(), code: describe(&form.code) }
    }
}

impl LinearMethod for Rtn {
    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        if let (Share::Inputs(group), Ragged::Pad | Ragged::Channel) = (self.group, self.ragged) {
            for (_, leaf) in layer.weight.leaves() {
                let inputs = leaf.shape[1];
                if !inputs.is_multiple_of(group) {
                    let then = if self.ragged == Ragged::Pad { "the last group is shorter" } else { "a group a row" };
                    cx.notes.push(format!("group {group} does not divide {inputs} inputs: {then}"));
                }
            }
        }
        let site = cx.site;
        each_mut(&mut layer.weight, &mut |path, leaf| self.rewrite_leaf(site, path, leaf))
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        each_mut(&mut layer.weight, &mut |path, form| {
            let dtype = match &form.code {
                _ if is_rule(form) => return Ok(()),
                CodeForm::Float(dtype) => *dtype,
                CodeForm::Blocks(_) => Dtype::F32,
                _ => return Err(self.coded(site, path, form)),
            };
            form.code = CodeForm::Grid {
                bits: self.bits,
                group: self.group(site, path, form.shape[1])?,
                scale_dtype: self.scale_dtype(dtype),
                zeros: !self.symmetric,
                levels: self.is_sign().then_some(2),
            };
            Ok(())
        })
    }

    fn settings(&self) -> Value {
        serde_json::to_value(self).expect("numbers, words and flags are JSON")
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let count = |form: &LeafForm| (form.shape[0] * form.shape[1]) as u64;
        let coded = |form: &LeafForm| {
            let group = self.groups(form.shape[1]);
            let [r, c] = group.unwrap_or(Group::Channel).scales(form.shape);
            count(form) + (r * c) as u64 * 5 + 8
        };
        let leaves = layer.weight.leaves();
        let coded: u64 = leaves.iter().map(|(_, form)| coded(form)).sum();
        // Widened weights and flags of one piece beside all codes and scales.
        let piece = |form: &LeafForm| match self.group {
            Share::Whole(Whole::Tensor) => count(form),
            _ => count(form).min((PIECE + form.shape[1]) as u64),
        };
        coded + leaves.iter().map(|(_, form)| 5 * piece(form)).max().unwrap_or(0)
    }
}

fn scale_type(dtype: Dtype) -> ScaleType {
    match dtype {
        Dtype::F32 => ScaleType::F32,
        Dtype::F16 => ScaleType::F16,
        Dtype::Bf16 | Dtype::F8E4m3 => ScaleType::Bf16,
    }
}

/// The flags of `count` entries from entry `start` on.
fn keep(mask: &Mask, start: usize, count: usize) -> Vec<bool> {
    (start..start + count).map(|i| mask.keeps(i)).collect()
}

/// Codes 1 for weights that are not negative and 0 for the others, and returns the mean magnitude of each group.
fn signs(
    group: Group,
    scale_dtype: Dtype,
    w: &[f32],
    [rows, columns]: [usize; 2],
    keep: Option<&[bool]>,
    codes: &mut [u8],
) -> Vec<f32> {
    codes.iter_mut().zip(w).for_each(|(code, w)| *code = u8::from(*w >= 0.0));
    let (rows, columns, run) = match group {
        Group::Tensor => (1, rows * columns, rows * columns),
        _ => (rows, columns, group.columns(columns)),
    };
    let groups = columns.div_ceil(run);
    let mean = |at: usize| {
        let start = at / groups * columns + at % groups * run;
        let end = (start + run).min((at / groups + 1) * columns);
        let kept = (start..end).filter(|&i| keep.is_none_or(|keep| keep[i]));
        let (count, sum) = kept.fold((0u64, 0.0f64), |(count, sum), i| (count + 1, sum + w[i].abs() as f64));
        if sum == 0.0 { 1.0 } else { scale_type(scale_dtype).round((sum / count as f64) as f32) }
    };
    (0..rows * groups).into_par_iter().map(mean).collect()
}

#[cfg(test)]
mod tests;
