//! `prune.sparsegpt`: removes weights one input after the other, and lets the inputs that follow make up for it.

use brevity_kernels::columns::{Columns, Fit, Grid as Target, Prune, Solved};
use brevity_kernels::grid::{self, Scales, Spec};
use brevity_kernels::linalg::InverseFactor;
use brevity_model::{Code, Dtype, Floats, Form, Group, Leaf, LeafForm, Linear, Mask, Site, Weight};
use serde::Deserialize;
use serde_json::Value;

use super::pattern::{Amount, PATTERN, SPARSITY};
use super::select::share;
use crate::error::{Error, Result};
use crate::inputs::{DAMP, Damp, Inputs, Order, error_on, figures, rows_of, sample};
use crate::leaves::{check_finite, each_mut, each_seen, figure, is_rule};
use crate::method::{Cx, LinearMethod};
use crate::quantize::grid::coded;
use crate::quantize::rtn::Rtn;
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

const NAME: &str = "prune.sparsegpt";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Removes weights one input after the other, and lets the inputs that follow make up for it",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(SparseGpt::parse(settings)?))),
    kind: Kind::Prune,
};

const SETTINGS: &[Setting] = &[
    SPARSITY,
    PATTERN,
    DAMP,
    Setting {
        name: "order",
        about: "which inputs come first: `activation` (the largest) or `natural` (as they lie in the weight; the only one \
                with a pattern)",
        default: "activation, with a pattern natural",
    },
    Setting { name: "block", about: "inputs whose weights compete with each other, 1 or more", default: "128" },
    Setting {
        name: "quantize",
        about: "`none`, or the settings of `quantize.rtn` to round what is kept on the way, such as `{bits: 4}`",
        default: "none",
    },
];

/// Removes weights one input after the other, and lets the inputs that follow make up for it.
///
/// With `H = Σ x xᵀ` over the inputs that were seen and `(H + damp I)⁻¹ = Uᵀ U`, removing `w` from input `j` costs
/// `w² / U_jj²` if the inputs after it make up for it in the best way, which they then do. Of a matrix of `N` weights
/// exactly `floor(sparsity * N)` are gone in the end, those that a mask has removed already included; they go evenly
/// from all blocks of inputs, in which all rows compete. The largest inputs come first, where most can still make up for
/// them; `order: natural` is that of the paper. With a pattern `n:m`, `n` of every `m` consecutive inputs of
/// a row go, chosen when the first of them is reached; inputs left over at the end of a row stay dense.
///
/// Damping is chosen and raised as in `quantize.gptq`; where no damping does better on samples kept apart than removing
/// the smallest weights of each block, that is done instead, and the notes say so. With `quantize`, kept weights are
/// rounded in the same pass, and what is removed makes up for what is rounded and the other way round.
///
/// # Cost
/// As `quantize.gptq`.
///
/// # Errors
/// [`Error::Unseen`] without calibration, [`Error::Inputs`] if an activation was not finite, [`Error::Coded`] if the
/// weight is coded already, [`Error::NotFinite`] if a weight is NaN or infinite; [`Error::Group`] as for
/// `quantize.rtn`.
///
/// # Source
/// Frantar and Alistarh 2023, arXiv:2301.00774.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseGpt {
    /// How many entries go.
    pub amount: Amount,
    /// How much inputs are damped.
    pub damp: Damp,
    /// Which inputs come first.
    pub order: Order,
    /// Inputs whose weights compete.
    pub block: usize,
    /// The grid that kept weights are rounded to.
    pub quantize: Option<Rtn>,
}

#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    sparsity: Option<f64>,
    pattern: Option<String>,
    damp: Damp,
    order: Option<Order>,
    block: usize,
    quantize: Option<Value>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { sparsity: None, pattern: None, damp: Damp::default(), order: None, block: 128, quantize: None }
    }
}

impl SparseGpt {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let wrong = |name: &'static str, value: Value| Err(value_error(NAME, SETTINGS, name, &value));
        let amount = Amount::parse(NAME, SETTINGS, s.sparsity, s.pattern)?;
        if let Damp::Times(damp) = s.damp
            && !s.damp.is_sound()
        {
            return wrong("damp", damp.into());
        }
        if s.block == 0 {
            return wrong("block", 0.into());
        }
        let quantize = match s.quantize.filter(|value| !value.is_null() && value != "none") {
            Some(value @ Value::Object(_)) => Some(Rtn::read(NAME, value)?),
            Some(value) => return wrong("quantize", value),
            None => None,
        };
        let order = match (s.order, &amount) {
            (Some(Order::Activation), Amount::Pattern { .. }) => {
                return Err(Error::Settings { method: NAME, wants: "`order: natural` with `pattern`" });
            }
            (Some(order), _) => order,
            (None, Amount::Share(_)) => Order::Activation,
            (None, Amount::Pattern { .. }) => Order::Natural,
        };
        Ok(SparseGpt { amount, damp: s.damp, order, block: s.block, quantize })
    }

    /// What goes from a matrix of this shape; `None` if nothing does.
    fn prune(&self, [rows, columns]: [usize; 2]) -> Option<Prune> {
        match self.amount {
            Amount::Share(s) => Some(share(s, rows * columns)).filter(|&n| n > 0).map(Prune::Count),
            Amount::Pattern { removed, of } if of <= columns => Some(Prune::Pattern { removed, of }),
            Amount::Pattern { .. } => None,
        }
    }

    /// Prunes `w` in place, and rounds it if that is asked for.
    fn solve(
        &self,
        at: &Place<'_>,
        factor: &InverseFactor,
        w: &mut [f32],
        shape: [usize; 2],
        keep: Option<&[bool]>,
    ) -> Result<(Solved, Option<Scales>)> {
        let refused = |source| Error::Kernel { method: NAME, site: at.site.clone(), leaf: at.path.into(), source };
        let spec =
            self.quantize.as_ref().zip(at.grid).map(|(rtn, (group, dtype))| rtn.grid.spec(group, dtype, rtn.range));
        // What is kept grows as it makes up for what goes, so scales are fitted when their group is reached, where groups
        // are reached one by one.
        let early = |spec: &Spec| self.order == Order::Activation || spec.group == grid::Group::Tensor;
        let fitted = match (&self.quantize, &spec) {
            (Some(rtn), Some(spec)) if early(spec) => Some(rtn.grid.fit(spec, w, shape, keep).map_err(refused)?),
            _ => None,
        };
        let grid = spec.as_ref().map(|spec| Target { spec, fit: fitted.as_ref().map_or(Fit::Dynamic, Fit::Static) });
        let columns = Columns { factor, grid, prune: self.prune(shape), block: self.block };
        let mut solved = columns.solve(w, shape, keep).map_err(refused)?;
        let fitted = fitted.or(solved.scales.take());
        Ok((solved, fitted))
    }

    fn rewrite_leaf(&self, at: &Place<'_>, leaf: &mut Leaf, seen: &Seen, cx: &mut Out<'_>) -> Result<()> {
        let shape @ [rows, columns] = leaf.shape;
        let Code::Float(values) = &leaf.code else { return Err(coded(NAME, at.site, at.path, &LeafForm::of(leaf))) };
        if rows * columns == 0 {
            if let (Some(rtn), Some((group, dtype))) = (&self.quantize, at.grid) {
                leaf.code = Code::Grid(rtn.grid.empty(group, dtype, shape));
            }
            return Ok(());
        }
        let dtype = values.dtype();
        let w = leaf.to_f32();
        check_finite(at.site, at.path, &w)?;
        if self.prune(shape).is_none() && self.quantize.is_none() {
            return Ok(());
        }
        let keep = leaf.mask.as_ref().map(Mask::to_bools);
        let inputs = Inputs::new(NAME, at.site, at.path, seen, self.order, cx.notes)?;
        let damp = match inputs.held_out {
            Some(held_out) if self.damp.is_auto() => {
                let some = rows_of(&w, columns, sample(rows));
                let keep = keep.as_ref().map(|keep| rows_of(keep, columns, sample(rows)));
                let shape = [some.len() / columns, columns];
                let error = |factor: &InverseFactor| -> Result<f64> {
                    let mut q = some.clone();
                    self.solve(at, factor, &mut q, shape, keep.as_deref())?;
                    Ok(error_on(held_out, columns, &some, &q))
                };
                let alone = error(&InverseFactor::identity(columns))?;
                let chosen = inputs.choose(error)?;
                chosen.filter(|(_, least)| *least <= alone).map(|(damp, _)| Damp::Times(damp))
            }
            _ => Some(self.damp),
        };
        let place = if at.path.is_empty() { String::new() } else { format!("{}: ", at.path) };
        if damp.is_none() {
            cx.notes.push(format!("{place}magnitude only: on samples kept apart, no damping does better"));
        }
        let factor = damp.and_then(|damp| {
            let factor = inputs.damped(damp);
            if factor.is_none() {
                cx.notes.push(format!("{place}magnitude only: what was seen of its inputs is not positive definite"));
            }
            factor
        });
        let mut q = w.clone();
        let (solved, scales) = match &factor {
            Some(factor) => self.solve(at, factor, &mut q, shape, keep.as_deref())?,
            None => self.solve(at, &InverseFactor::identity(columns), &mut q, shape, keep.as_deref())?,
        };
        if let Some(factor) = &factor {
            cx.figures.extend([(figure(at.path, "damp"), factor.damp()), (figure(at.path, "loss"), solved.loss)]);
        }
        figures(&inputs, at.path, shape, &w, &q, cx.figures);
        if let Some(keep) = solved.keep {
            leaf.mask = Some(Mask::from_bools(shape, &keep));
        }
        leaf.code = match (&self.quantize, at.grid, solved.codes, scales) {
            (Some(rtn), Some((group, dtype)), Some(codes), Some(scales)) => {
                Code::Grid(rtn.grid.grid(group, dtype, codes, scales))
            }
            _ => Code::Float(Floats::from_f32(q, dtype)),
        };
        Ok(())
    }
}

/// A matrix, and its groups and the type of its scales if it is to be on a grid.
struct Place<'a> {
    site: &'a Site,
    path: &'a str,
    grid: Option<(Group, Dtype)>,
}

/// Where a method says what it did.
struct Out<'a> {
    notes: &'a mut Vec<String>,
    figures: &'a mut Vec<(String, f64)>,
}

impl LinearMethod for SparseGpt {
    fn needs(&self) -> Needs {
        Needs { gram: true, held_out: self.damp.is_auto(), ..Needs::default() }
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        if let Some(rtn) = &self.quantize {
            rtn.grid.note(&layer.weight, &mut cx.notes);
        }
        let (site, seen) = (cx.site, cx.seen);
        let mut out = Out { notes: &mut cx.notes, figures: &mut cx.figures };
        each_seen(&mut layer.weight, seen, &mut |path, leaf, seen| {
            let grid = match (&self.quantize, &leaf.code) {
                (Some(rtn), Code::Float(values)) => {
                    let group = rtn.grid.group(site, path, leaf.shape[1])?;
                    Some((group, rtn.grid.scale_dtype(values.dtype())))
                }
                _ => None,
            };
            out.notes.extend(self.amount.tail(leaf.shape[1]));
            self.rewrite_leaf(&Place { site, path, grid }, leaf, seen, &mut out)
        })
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        each_mut(&mut layer.weight, &mut |path, form| {
            if is_rule(form) {
                return Ok(());
            }
            if form.is_coded() && !matches!(form.code, brevity_model::CodeForm::Blocks(_)) {
                return Err(coded(NAME, site, path, form));
            }
            if let Some(rtn) = &self.quantize {
                form.code = rtn.grid.code(NAME, site, path, form)?;
            }
            form.mask = self.amount.mask(form, form.shape[0] * form.shape[1]);
            Ok(())
        })
    }

    fn settings(&self) -> Value {
        let mut settings = self.amount.settings();
        settings["damp"] = serde_json::to_value(self.damp).expect("a number or a word is JSON");
        settings["order"] = serde_json::to_value(self.order).expect("a word is JSON");
        settings["block"] = self.block.into();
        if let Some(rtn) = &self.quantize {
            settings["quantize"] = rtn.settings();
        }
        settings
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        // Weights before and after, flags of the mask before and after, tiles and scores on their way.
        let leaf = |form: &LeafForm| 24 * (form.shape[0] * form.shape[1]) as u64;
        let leaf = layer.weight.leaves().iter().map(|(_, form)| leaf(form)).max().unwrap_or(0);
        let coded = self.quantize.as_ref().map_or(0, |rtn| rtn.grid.coded_bytes(&layer.weight));
        coded + leaf + Inputs::peak_bytes(layer, self.needs().held_out)
    }
}

#[cfg(test)]
mod tests;
