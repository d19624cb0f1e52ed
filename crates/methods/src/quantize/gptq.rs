//! `quantize.gptq`: rounds one input after the other, and lets the inputs that follow make up for it.

use brevity_kernels::columns::{Columns, Fit, Grid as Target, Solved};
use brevity_kernels::grid::{Scales, Spec};
use brevity_kernels::linalg::InverseFactor;
use brevity_model::{Code, Form, Group, Leaf, LeafForm, Linear, Mask, Site, Weight};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::grid::{BITS, Clip, GROUP, GridSettings, RAGGED, SCALE_DTYPE, SYMMETRIC, coded};
use crate::error::{Error, Result};
use crate::inputs::{DAMP, Damp, Inputs, Order, error_on, figures, rows_of, sample};
use crate::leaves::{check_finite, each_seen, figure};
use crate::method::{Cx, LinearMethod};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

const NAME: &str = "quantize.gptq";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Rounds weights to a grid one input after the other, and lets the inputs that follow make up for it",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Gptq::parse(settings)?))),
    kind: Kind::Quantize,
};

const SETTINGS: &[Setting] = &[
    BITS,
    GROUP,
    SYMMETRIC,
    Setting {
        name: "range",
        about: "`min_max` to hold every weight, `mse` to clip the range where that leaves less error, or `auto` for \
                the better of the two on samples that were kept apart",
        default: "min_max",
    },
    SCALE_DTYPE,
    RAGGED,
    DAMP,
    Setting {
        name: "order",
        about: "which inputs are rounded first: `activation` (the largest) or `natural` (as they lie in the weight)",
        default: "activation",
    },
    Setting {
        name: "groups",
        about: "`static` to fit scales to the weights as they are, `dynamic` to what they have become when their \
                group is reached (with `order: natural`)",
        default: "static",
    },
    Setting { name: "block", about: "inputs that are worked through together, 1 or more", default: "128" },
];

/// Rounds weights to a grid one input after the other, and lets the inputs that follow make up for it.
///
/// Makes `tr((W - Q) H (W - Q)ᵀ)` small, the squared change of the outputs on all samples with `H = Σ x xᵀ`, and not
/// only the change of the weights. With `(H + damp I)⁻¹ = Uᵀ U`, each input `j` in turn is rounded, and its error
/// over `U_jj` times row `j` of `U` is taken from the inputs after it.
///
/// Little damping fits the samples closely and anything else badly, so `damp: auto` fits to one part of the samples
/// and takes the damping with the least error on the other, for each matrix. If rounding alone does better there, it
/// is kept. With the choice made, both parts are used. Where `H + damp I` is not positive definite, ten times the
/// damping is tried, up to once the mean of the diagonal; then rounding is kept. The notes say so.
///
/// A product is quantized from right to left: the left factor is fitted to what the rounded right one gives. So is a
/// train, from its last core to its first; a core of `[bond i, j bond']` sees `j bond'` inputs. Removed entries stay
/// exactly zero, and the kept ones make up for them too.
///
/// # Shapes
/// A weight is `[out, in]`; what was seen is `[in, in]`.
///
/// # Cost
/// `2 in³ / 3` operations once for all layers that read the same activations, and `out in²` for each; with
/// `damp: auto` three to five times the first and about half more of the second.
///
/// # Errors
/// [`Error::Unseen`] without calibration, [`Error::Inputs`] if an activation was not finite; [`Error::Group`],
/// [`Error::Coded`] and [`Error::NotFinite`] as for `quantize.rtn`.
///
/// # Source
/// Frantar et al. 2022, arXiv:2210.17323.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gptq {
    /// The grid.
    #[serde(flatten)]
    pub grid: GridSettings,
    /// How the range of a group is chosen.
    pub range: Choice,
    /// How much inputs are damped.
    pub damp: Damp,
    /// Which inputs are rounded first.
    pub order: Order,
    /// When scales are fitted.
    pub groups: Groups,
    /// Inputs that are worked through together.
    pub block: usize,
}

/// How the range of a group is chosen, as written in a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// It holds every weight.
    MinMax,
    /// It is clipped.
    Mse,
    /// What is better on samples that were kept apart.
    Auto,
}

/// When scales are fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    /// Before anything is rounded.
    Static,
    /// When the first input of the group is reached.
    Dynamic,
}

impl Default for Gptq {
    fn default() -> Self {
        Gptq {
            grid: GridSettings::default(),
            range: Choice::MinMax,
            damp: Damp::default(),
            order: Order::Activation,
            groups: Groups::Static,
            block: 128,
        }
    }
}

/// A matrix and the grid it is to be on.
struct Rounding<'a> {
    gptq: &'a Gptq,
    site: &'a Site,
    path: &'a str,
    group: Group,
    dtype: brevity_model::Dtype,
}

impl Rounding<'_> {
    /// The scales that a range gives, if they are fitted before anything is rounded.
    fn scales(&self, clip: Clip, w: &[f32], shape: [usize; 2], keep: Option<&[bool]>) -> Result<Option<Scales>> {
        match self.is_dynamic() {
            true => Ok(None),
            false => self.gptq.grid.fit(&self.spec(clip), w, shape, keep).map(Some).map_err(|e| self.refused(e)),
        }
    }

    fn spec(&self, clip: Clip) -> Spec {
        self.gptq.grid.spec(self.group, self.dtype, clip)
    }

    /// Rounds `w` in place, in the light of the factor, to the scales of this range.
    fn round(
        &self,
        factor: &InverseFactor,
        (clip, scales): &(Clip, Option<Scales>),
        w: &mut [f32],
        shape: [usize; 2],
        keep: Option<&[bool]>,
    ) -> Result<Solved> {
        let fit = scales.as_ref().map_or(Fit::Dynamic, Fit::Static);
        let grid = Some(Target { spec: &self.spec(*clip), fit });
        let columns = Columns { factor, grid, prune: None, block: self.gptq.block };
        columns.solve(w, shape, keep).map_err(|e| self.refused(e))
    }

    /// Whether scales are fitted on the way. Those of the whole tensor are the same at the start.
    fn is_dynamic(&self) -> bool {
        self.gptq.groups == Groups::Dynamic && self.group != Group::Tensor
    }

    fn refused(&self, source: brevity_kernels::Error) -> Error {
        Error::Kernel { method: NAME, site: self.site.clone(), leaf: self.path.into(), source }
    }

    /// What is best on the held-out samples, tried on some of the rows: the damping, or `None` if rounding is, and
    /// the range.
    fn choose(
        &self,
        inputs: &Inputs<'_>,
        held_out: &brevity_kernels::gram::Gram,
        w: &[f32],
        [rows, columns]: [usize; 2],
        keep: Option<&[bool]>,
    ) -> Result<(Option<Damp>, Clip)> {
        let some = rows_of(w, columns, sample(rows));
        let keep = keep.map(|keep| rows_of(keep, columns, sample(rows)));
        let shape = [some.len() / columns, columns];
        let error = |factor: &InverseFactor, range: &(Clip, Option<Scales>)| -> Result<f64> {
            let mut q = some.clone();
            self.round(factor, range, &mut q, shape, keep.as_deref())?;
            Ok(error_on(held_out, columns, &some, &q))
        };
        let clips: &[Clip] = match self.gptq.range {
            Choice::MinMax => &[Clip::MinMax],
            Choice::Mse => &[Clip::Mse],
            Choice::Auto => &[Clip::MinMax, Clip::Mse],
        };
        let range = |clip: Clip| Ok((clip, self.scales(clip, &some, shape, keep.as_deref())?));
        let mut taken = range(clips[0])?;
        // The damping of the first trial and its error, which need not be found twice.
        let mut known = None;
        if let [_, second] = clips
            && let Some(factor) = inputs.middle(self.gptq.damp)
        {
            let second = range(*second)?;
            let errors = [error(&factor, &taken)?, error(&factor, &second)?];
            if errors[1] < errors[0] {
                taken = second;
            }
            known = Some((factor.damp(), errors[0].min(errors[1])));
        }
        let Damp::Auto(_) = self.gptq.damp else { return Ok((Some(self.gptq.damp), taken.0)) };
        let rounding = error(&InverseFactor::identity(columns), &taken)?;
        let chosen = inputs.choose(|factor| match known {
            Some((damp, least)) if damp == factor.damp() => Ok(least),
            _ => error(factor, &taken),
        })?;
        Ok((chosen.filter(|(_, least)| *least <= rounding).map(|(damp, _)| Damp::Times(damp)), taken.0))
    }
}

impl Gptq {
    fn parse(settings: Value) -> Result<Self> {
        let gptq: Gptq = read(NAME, SETTINGS, settings)?;
        gptq.grid.check(NAME, SETTINGS)?;
        if let Damp::Times(damp) = gptq.damp
            && !gptq.damp.is_sound()
        {
            return Err(value_error(NAME, SETTINGS, "damp", &damp.into()));
        }
        if gptq.block == 0 {
            return Err(value_error(NAME, SETTINGS, "block", &0.into()));
        }
        if gptq.groups == Groups::Dynamic && gptq.order != Order::Natural {
            return Err(Error::Settings { method: NAME, wants: "`order: natural` with `groups: dynamic`" });
        }
        Ok(gptq)
    }

    fn rewrite_leaf(&self, site: &Site, path: &str, leaf: &mut Leaf, seen: &Seen, out: &mut Report<'_>) -> Result<()> {
        let Code::Float(values) = &leaf.code else { return Err(coded(NAME, site, path, &LeafForm::of(leaf))) };
        let shape @ [rows, columns] = leaf.shape;
        let group = self.grid.group(site, path, columns)?;
        let dtype = self.grid.scale_dtype(values.dtype());
        if rows * columns == 0 {
            leaf.code = Code::Grid(self.grid.empty(group, dtype, shape));
            return Ok(());
        }
        let w = leaf.to_f32();
        check_finite(site, path, &w)?;
        let keep = leaf.mask.as_ref().map(Mask::to_bools);
        let inputs = Inputs::new(NAME, site, path, seen, self.order, out.notes)?;
        let rounding = Rounding { gptq: self, site, path, group, dtype };
        let (damp, clip) = match inputs.held_out {
            Some(held_out) if self.damp.is_auto() || self.range == Choice::Auto => {
                rounding.choose(&inputs, held_out, &w, shape, keep.as_deref())?
            }
            _ => (Some(self.damp), if self.range == Choice::Mse { Clip::Mse } else { Clip::MinMax }),
        };
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        if damp.is_none() {
            out.notes.push(format!("{place}rounded only: on samples kept apart, no damping does better"));
        }
        let factor = damp.and_then(|damp| {
            let factor = inputs.damped(damp);
            if factor.is_none() {
                out.notes.push(format!("{place}rounded only: what was seen of its inputs is not positive definite"));
            }
            factor
        });
        if let (Some(factor), Some(Damp::Times(wanted))) = (&factor, damp)
            && factor.damp() != wanted
        {
            out.notes.push(format!("{place}damped by {} instead of {wanted}, to be positive definite", factor.damp()));
        }
        let mut q = w.clone();
        let alone;
        let with = match &factor {
            Some(factor) => factor,
            None => {
                alone = InverseFactor::identity(columns);
                &alone
            }
        };
        let range = (clip, rounding.scales(clip, &w, shape, keep.as_deref())?);
        let mut solved = rounding.round(with, &range, &mut q, shape, keep.as_deref())?;
        let scales = range.1.or(solved.scales.take()).expect("scales are given, or fitted on the way");
        if let Some(factor) = &factor {
            out.figures.extend([(figure(path, "damp"), factor.damp()), (figure(path, "loss"), solved.loss)]);
        }
        figures(&inputs, path, shape, &w, &q, out.figures);
        leaf.code = Code::Grid(self.grid.grid(group, dtype, solved.codes.expect("there was a grid"), scales));
        Ok(())
    }
}

/// Where a method says what it did.
struct Report<'a> {
    notes: &'a mut Vec<String>,
    figures: &'a mut Vec<(String, f64)>,
}

impl LinearMethod for Gptq {
    fn needs(&self) -> Needs {
        let held_out = self.damp.is_auto() || self.range == Choice::Auto;
        Needs { gram: true, held_out, ..Needs::default() }
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        self.grid.note(&layer.weight, &mut cx.notes);
        let (site, seen) = (cx.site, cx.seen);
        let mut out = Report { notes: &mut cx.notes, figures: &mut cx.figures };
        each_seen(&mut layer.weight, seen, &mut |path, leaf, seen| self.rewrite_leaf(site, path, leaf, seen, &mut out))
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        self.grid.predict(NAME, site, layer)
    }

    fn settings(&self) -> Value {
        serde_json::to_value(self).expect("numbers, words and flags are JSON")
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        // Weights before and after, flags of the mask, and tiles on their way.
        let leaf = |form: &LeafForm| 12 * (form.shape[0] * form.shape[1]) as u64;
        let leaf = layer.weight.leaves().iter().map(|(_, form)| leaf(form)).max().unwrap_or(0);
        self.grid.coded_bytes(&layer.weight) + leaf + Inputs::peak_bytes(layer, self.needs().held_out)
    }
}

#[cfg(test)]
mod tests;
