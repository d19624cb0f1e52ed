//! What the methods that put weights on a grid have in common: its settings, its fit and its form.

use std::sync::Arc;

use brevity_kernels::grid::{self, Range, ScaleType, Scales, Spec};
use brevity_model::{CodeForm, Dtype, Form, Grid, Group, LeafForm, Linear, Site, Weight};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::leaves::{describe, each_mut, is_rule, is_rule_leaf};
use crate::settings::{Setting, value_error};

pub(crate) const BITS: Setting = Setting { name: "bits", about: "bits of a code, 1 to 8", default: "4" };

pub(crate) const GROUP: Setting = Setting {
    name: "group",
    about: "which weights share a scale: so many consecutive inputs of an output, `channel` (one output) or \
            `tensor` (all of the matrix)",
    default: "128",
};

pub(crate) const SYMMETRIC: Setting = Setting {
    name: "symmetric",
    about: "`true` for a grid around zero, `false` to store a zero point beside each scale",
    default: "true",
};

pub(crate) const SCALE_DTYPE: Setting = Setting {
    name: "scale_dtype",
    about: "how scales are stored: `auto` (as the weight is), `f32`, `f16` or `bf16`",
    default: "auto",
};

pub(crate) const RAGGED: Setting = Setting {
    name: "ragged",
    about: "what to do where the group does not divide the inputs: `refuse`, `pad` (a shorter last group) or \
            `channel` (one group for each output there)",
    default: "refuse",
};

/// A grid, as written in a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GridSettings {
    /// Bits of a code, 1 to 8.
    pub bits: u8,
    /// Which weights share a scale.
    pub group: Share,
    /// Whether the zero point is fixed at the middle code.
    pub symmetric: bool,
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

impl Default for GridSettings {
    fn default() -> Self {
        GridSettings {
            bits: 4,
            group: Share::Inputs(128),
            symmetric: true,
            scale_dtype: ScaleDtype::Auto,
            ragged: Ragged::Refuse,
        }
    }
}

impl GridSettings {
    /// Refuses values out of range.
    pub(crate) fn check(&self, method: &'static str, known: &[Setting]) -> Result<()> {
        if !(1..=8).contains(&self.bits) {
            return Err(value_error(method, known, "bits", &self.bits.into()));
        }
        if self.group == Share::Inputs(0) {
            return Err(value_error(method, known, "group", &0.into()));
        }
        Ok(())
    }

    /// The groups of a matrix with so many inputs, unless its rows cannot be cut into them.
    pub(crate) fn groups(&self, inputs: usize) -> Option<Group> {
        match (self.group, self.ragged) {
            (Share::Whole(Whole::Tensor), _) => Some(Group::Tensor),
            (Share::Whole(Whole::Channel), _) => Some(Group::Channel),
            (Share::Inputs(group), Ragged::Channel) if !inputs.is_multiple_of(group) => Some(Group::Channel),
            (Share::Inputs(group), Ragged::Refuse) if !inputs.is_multiple_of(group) => None,
            (Share::Inputs(group), _) => Some(Group::Columns(group)),
        }
    }

    /// Like [`GridSettings::groups`], with the error that says so.
    pub(crate) fn group(&self, site: &Site, path: &str, inputs: usize) -> Result<Group> {
        let group = match self.group {
            Share::Inputs(group) => group,
            Share::Whole(_) => inputs,
        };
        self.groups(inputs).ok_or_else(|| Error::Group { site: site.clone(), leaf: path.into(), inputs, group })
    }

    pub(crate) fn scale_dtype(&self, weight: Dtype) -> Dtype {
        match (self.scale_dtype, weight) {
            (ScaleDtype::F32, _) | (ScaleDtype::Auto, Dtype::F32) => Dtype::F32,
            (ScaleDtype::F16, _) | (ScaleDtype::Auto, Dtype::F16) => Dtype::F16,
            (ScaleDtype::Bf16, _) | (ScaleDtype::Auto, Dtype::Bf16 | Dtype::F8E4m3) => Dtype::Bf16,
        }
    }

    /// One bit around zero has the levels `±1`, which no grid of steps has.
    pub(crate) fn is_sign(&self) -> bool {
        self.bits == 1 && self.symmetric
    }

    /// What the kernels call it.
    pub(crate) fn spec(&self, group: Group, scale_dtype: Dtype, clip: Clip) -> Spec {
        Spec {
            bits: self.bits.into(),
            group: match group {
                Group::Tensor => grid::Group::Tensor,
                Group::Channel => grid::Group::Row,
                Group::Columns(size) => grid::Group::Size(size),
            },
            symmetric: self.symmetric,
            range: match clip {
                Clip::MinMax => Range::MinMax,
                Clip::Mse => Range::MSE,
            },
            scale: scale_type(scale_dtype),
            ragged: true,
        }
    }

    /// The scales and zero points of a matrix.
    pub(crate) fn fit(
        &self,
        spec: &Spec,
        w: &[f32],
        shape: [usize; 2],
        keep: Option<&[bool]>,
    ) -> Result<Scales, brevity_kernels::Error> {
        match self.is_sign() {
            true => Ok(Scales { scales: magnitudes(spec, w, shape, keep), zeros: None }),
            false => grid::fit(spec, w, shape, keep),
        }
    }

    /// A grid with these codes and scales.
    pub(crate) fn grid(&self, group: Group, scale_dtype: Dtype, codes: Vec<u8>, scales: Scales) -> Grid {
        Grid {
            bits: self.bits,
            codes,
            scales: scales.scales,
            zeros: scales.zeros,
            group,
            scale_dtype,
            levels: self.is_sign().then(|| Arc::from([-1.0f32, 1.0])),
        }
    }

    /// The grid of a matrix without entries: nothing is fitted, but the table of scales still has its shape.
    pub(crate) fn empty(&self, group: Group, scale_dtype: Dtype, shape: [usize; 2]) -> Grid {
        let [r, c] = group.scales(shape);
        let zeros = (!self.symmetric).then(|| vec![0; r * c]);
        self.grid(group, scale_dtype, Vec::new(), Scales { scales: vec![1.0; r * c], zeros })
    }

    /// The forms that the matrices of a layer will have.
    pub(crate) fn predict(&self, method: &'static str, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        each_mut(&mut layer.weight, &mut |path, form| {
            if !is_rule(form) {
                form.code = self.code(method, site, path, form)?;
            }
            Ok(())
        })
    }

    /// The code that a leaf of this form will have.
    pub(crate) fn code(&self, method: &'static str, site: &Site, path: &str, form: &LeafForm) -> Result<CodeForm> {
        let dtype = match &form.code {
            CodeForm::Float(dtype) => *dtype,
            CodeForm::Blocks(_) => Dtype::F32,
            _ => return Err(coded(method, site, path, form)),
        };
        Ok(CodeForm::Grid {
            bits: self.bits,
            group: self.group(site, path, form.shape[1])?,
            scale_dtype: self.scale_dtype(dtype),
            zeros: !self.symmetric,
            levels: self.is_sign().then_some(2),
        })
    }

    /// Says where the group does not divide the inputs, and what is done there.
    pub(crate) fn note(&self, weight: &Weight, notes: &mut Vec<String>) {
        let (Share::Inputs(group), Ragged::Pad | Ragged::Channel) = (self.group, self.ragged) else { return };
        for (_, leaf) in weight.leaves() {
            let inputs = leaf.shape[1];
            if !inputs.is_multiple_of(group) && !is_rule_leaf(leaf) {
                let then = if self.ragged == Ragged::Pad { "the last group is shorter" } else { "a group a row" };
                notes.push(format!("group {group} does not divide {inputs} inputs: {then}"));
            }
        }
    }

    /// Bytes of codes, scales and zero points while they are worked on.
    pub(crate) fn coded_bytes(&self, form: &Form) -> u64 {
        let coded = |form: &LeafForm| {
            let [r, c] = self.groups(form.shape[1]).unwrap_or(Group::Channel).scales(form.shape);
            (form.shape[0] * form.shape[1] + 5 * r * c) as u64 + 8
        };
        form.leaves().iter().map(|(_, form)| coded(form)).sum()
    }
}

/// The error for a leaf that is coded already.
pub(crate) fn coded(method: &'static str, site: &Site, path: &str, form: &LeafForm) -> Error {
    Error::Coded { method, site: site.clone(), leaf: path.into(), code: describe(&form.code) }
}

fn scale_type(dtype: Dtype) -> ScaleType {
    match dtype {
        Dtype::F32 => ScaleType::F32,
        Dtype::F16 => ScaleType::F16,
        Dtype::Bf16 | Dtype::F8E4m3 => ScaleType::Bf16,
    }
}

/// The mean magnitude of each group.
fn magnitudes(spec: &Spec, w: &[f32], [rows, columns]: [usize; 2], keep: Option<&[bool]>) -> Vec<f32> {
    let (rows, columns, run) = match spec.group {
        grid::Group::Tensor => (1, rows * columns, rows * columns),
        grid::Group::Row => (rows, columns, columns.max(1)),
        grid::Group::Size(size) => (rows, columns, size),
    };
    let groups = columns.div_ceil(run.max(1));
    let mean = |at: usize| {
        let start = at / groups * columns + at % groups * run;
        let end = (start + run).min((at / groups + 1) * columns);
        let kept = (start..end).filter(|&i| keep.is_none_or(|keep| keep[i]));
        let (count, sum) = kept.fold((0u64, 0.0f64), |(count, sum), i| (count + 1, sum + w[i].abs() as f64));
        if sum == 0.0 { 1.0 } else { spec.scale.round((sum / count as f64) as f32) }
    };
    (0..rows * groups).into_par_iter().map(mean).collect()
}
