//! `prune.magnitude`: removes the weights of smallest magnitude.

mod global;
mod select;

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_model::{Code, Floats, Form, Grid, Group, Leaf, LeafForm, Linear, Mask, MaskForm, Site, Weight};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::leaves::{check_finite, each_mut, is_rule, is_rule_leaf};
use crate::method::{Cx, LinearMethod, Survey};
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind};

pub(crate) const NAME: &str = "prune.magnitude";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Removes the weights of smallest magnitude",
    settings: SETTINGS,
    parse: |settings| Ok(Box::new(Magnitude::parse(settings)?)),
    kind: Kind::Prune,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "sparsity",
        about: "the share of weights to remove, from 0 up to but not including 1",
        default: "0.5",
    },
    Setting {
        name: "scope",
        about: "which weights compete with each other: `layer`, `row` (one output) or `global` (all selected layers)",
        default: "layer",
    },
    Setting {
        name: "pattern",
        about: "`none`, or `n:m` to remove n of every m consecutive inputs instead of a share, such as \"2:4\"",
        default: "none",
    },
];

/// Removes the weights of smallest magnitude.
///
/// In each comparison group of `N` weights exactly `floor(sparsity * N)` are removed in the end; of equal
/// magnitudes the first in order go first. Weights that a mask has removed already stay removed and count.
/// With a pattern `n:m`, `n` of every `m` consecutive inputs of a row are removed; inputs left over at the end
/// of a row stay dense, and the notes say so. A product or sum is pruned matrix by matrix.
///
/// # Cost
/// `O(out * in)` and one copy of the weight in single precision. Needs no calibration data; with `scope: global`
/// the survey reads all layers two or three times.
///
/// # Errors
/// [`Error::NotFinite`] if a weight is NaN or infinite.
///
/// # Source
/// Han et al. 2015, arXiv:1506.02626; N:M as in Zhou et al. 2021, arXiv:2102.04010.
#[derive(Clone, Debug, PartialEq)]
pub struct Magnitude {
    /// Which entries go.
    pub rule: Rule,
    cut: Option<Arc<Cut>>,
}

/// Which entries of a matrix go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// A share of each comparison group.
    Share {
        /// The share, in `[0, 1)`.
        sparsity: f64,
        /// The comparison group.
        scope: Scope,
    },
    /// Some of every run of consecutive inputs.
    Pattern {
        /// Removed entries in a run.
        removed: usize,
        /// Inputs in a run.
        of: usize,
    },
}

/// Which weights compete with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Those of one matrix.
    #[default]
    Layer,
    /// Those of one output.
    Row,
    /// Those of all selected layers.
    Global,
}

/// What the survey found: where to cut through all layers.
#[derive(Debug, PartialEq)]
struct Cut {
    /// Magnitudes with smaller bits than this go.
    bits: u32,
    /// How many with exactly these bits go, for each matrix, and how many entries it had left.
    ties: BTreeMap<(Site, String), Ties>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ties {
    /// Entries on the cut that go.
    remove: usize,
    /// Entries below the cut, which go too.
    below: usize,
    /// Entries that were there before.
    kept: usize,
}

impl Ties {
    /// The mask that the matrix will have.
    fn predicted(&self, form: &LeafForm) -> Option<MaskForm> {
        let count = form.shape[0] * form.shape[1];
        let gone = self.below + self.remove;
        if gone == 0 {
            return form.mask;
        }
        let left = self.kept.saturating_sub(gone);
        Some(MaskForm::Free(1.0 - left as f64 / count as f64))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    sparsity: Option<f64>,
    scope: Option<Scope>,
    pattern: Option<String>,
}

impl Magnitude {
    /// Removes by this rule.
    pub fn new(rule: Rule) -> Self {
        Magnitude { rule, cut: None }
    }

    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let pattern = s.pattern.filter(|pattern| pattern != "none");
        let Some(pattern) = pattern else {
            let sparsity = s.sparsity.unwrap_or(0.5);
            if !(0.0..1.0).contains(&sparsity) {
                return Err(value_error(NAME, SETTINGS, "sparsity", &sparsity.into()));
            }
            return Ok(Self::new(Rule::Share { sparsity, scope: s.scope.unwrap_or_default() }));
        };
        if s.sparsity.is_some() || s.scope.is_some() {
            return Err(Error::Settings { method: NAME, wants: "either `pattern`, or `sparsity` and `scope`" });
        }
        let numbers = pattern.split_once(':').and_then(|(n, m)| Some((n.parse().ok()?, m.parse().ok()?)));
        match numbers {
            Some((removed, of)) if 0 < removed && removed < of => Ok(Self::new(Rule::Pattern { removed, of })),
            _ => Err(value_error(NAME, SETTINGS, "pattern", &pattern.into())),
        }
    }

    /// Which entries of one matrix go, or `None` if nothing changes.
    fn keep(&self, site: &Site, path: &str, leaf: &Leaf, w: &[f32]) -> Result<Option<Vec<bool>>> {
        let [rows, columns] = leaf.shape;
        let mut keep = leaf.mask.as_ref().map_or_else(|| vec![true; rows * columns], Mask::to_bools);
        match self.rule {
            _ if w.is_empty() => return Ok(None),
            Rule::Share { sparsity, scope: Scope::Layer } => {
                let count = share(sparsity, w.len());
                if count == 0 {
                    return Ok(None);
                }
                select::smallest(w, &mut keep, count);
            }
            Rule::Share { sparsity, scope: Scope::Row } => {
                let count = share(sparsity, columns);
                if count == 0 {
                    return Ok(None);
                }
                select::smallest_of_rows(w, &mut keep, columns, count);
            }
            Rule::Share { sparsity: 0.0, scope: Scope::Global } => return Ok(None),
            Rule::Share { scope: Scope::Global, .. } => {
                let cut = self.cut.as_ref().ok_or_else(|| Error::NeedsSurvey { method: NAME, site: site.clone() })?;
                let changed = || Error::Changed { method: NAME, site: site.clone() };
                let ties = cut.ties.get(&(site.clone(), path.to_owned())).ok_or_else(changed)?;
                if ties.kept != keep.iter().filter(|&&k| k).count() {
                    return Err(changed());
                }
                select::below(w, &mut keep, cut.bits, ties.remove);
            }
            Rule::Pattern { of, .. } if columns < of => return Ok(None),
            Rule::Pattern { removed, of } => select::smallest_of_runs(w, &mut keep, columns, removed, of),
        }
        Ok(Some(keep))
    }
}

/// How many of `count` entries a share is: `floor(share * count)`, and exact where the product should be whole.
pub(super) fn share(share: f64, count: usize) -> usize {
    let product = share * count as f64;
    // 0.7 * 10 is a little less than 7 in binary; half a millionth of an entry is below any real setting.
    (product + 5e-7).floor() as usize
}

impl LinearMethod for Magnitude {
    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let (site, notes) = (cx.site, &mut cx.notes);
        each_mut(&mut layer.weight, &mut |path, leaf| {
            if is_rule_leaf(leaf) {
                return Ok(());
            }
            let w = leaf.to_f32();
            check_finite(site, path, &w)?;
            if let Rule::Pattern { of, .. } = self.rule
                && leaf.shape[1] % of != 0
            {
                notes.push(format!("the last {} of {} inputs stay dense", leaf.shape[1] % of, leaf.shape[1]));
            }
            if let Some(keep) = self.keep(site, path, leaf, &w)? {
                remove(leaf, &keep);
            }
            Ok(())
        })
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        each_mut(&mut layer.weight, &mut |path, form| {
            if !is_rule(form) {
                let known = self.cut.as_ref().and_then(|cut| cut.ties.get(&(site.clone(), path.to_owned())));
                form.mask = match known {
                    Some(ties) => ties.predicted(form),
                    None => self.predicted(form),
                };
            }
            Ok(())
        })
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        match self.rule {
            Rule::Share { sparsity, scope: Scope::Global } if self.cut.is_none() && sparsity > 0.0 => {
                Some(Box::new(global::GlobalCut::new(sparsity)))
            }
            _ => None,
        }
    }

    fn settings(&self) -> Value {
        match self.rule {
            Rule::Share { sparsity, scope } => serde_json::json!({ "sparsity": sparsity, "scope": scope }),
            Rule::Pattern { removed, of } => serde_json::json!({ "pattern": format!("{removed}:{of}") }),
        }
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        // Singles, one flag and up to one order of four bytes for each entry, then bits and new floats.
        layer.weight.leaves().iter().map(|(_, form)| form.parameters() * 14).max().unwrap_or(0)
    }
}

impl Magnitude {
    /// What is known of the mask afterwards.
    fn predicted(&self, form: &LeafForm) -> Option<MaskForm> {
        let [rows, columns] = form.shape;
        let before = form.sparsity();
        let free = |share: f64| Some(MaskForm::Free(share.max(before)));
        match self.rule {
            _ if rows * columns == 0 => form.mask,
            Rule::Share { sparsity, scope: Scope::Layer } => match share(sparsity, rows * columns) {
                0 => form.mask,
                count => free(count as f64 / (rows * columns) as f64),
            },
            Rule::Share { sparsity, scope: Scope::Row } => match share(sparsity, columns) {
                0 => form.mask,
                count => free(count as f64 / columns as f64),
            },
            Rule::Share { sparsity: 0.0, scope: Scope::Global } => form.mask,
            Rule::Share { sparsity, scope: Scope::Global } => free(sparsity),
            Rule::Pattern { of, .. } if columns < of => form.mask,
            Rule::Pattern { removed, of } => match form.mask {
                None => Some(MaskForm::Pattern { removed, of }),
                Some(_) => free(removed as f64 / of as f64),
            },
        }
    }
}

/// Takes the entries that are not kept out of a leaf: by the mask, and as zeros in its code where it has one.
fn remove(leaf: &mut Leaf, keep: &[bool]) {
    fn zero<T: Copy>(values: &mut [T], keep: &[bool], zero: T) {
        values.iter_mut().zip(keep).filter(|(_, keep)| !**keep).for_each(|(value, _)| *value = zero);
    }
    match &mut leaf.code {
        Code::Float(Floats::F32(values)) => zero(values, keep, 0.0),
        Code::Float(Floats::F16(values)) => zero(values, keep, f16::ZERO),
        Code::Float(Floats::Bf16(values)) => zero(values, keep, bf16::ZERO),
        Code::Float(Floats::F8E4m3(values)) => zero(values, keep, 0),
        Code::Grid(grid) if grid.levels.is_none() => zero_codes(grid, leaf.shape, keep),
        // No code need stand for zero here: the mask alone says so.
        Code::Grid(_) | Code::Codebook(_) | Code::Rule(_) => (),
    }
    leaf.mask = Some(Mask::from_bools(leaf.shape, keep));
}

/// Gives the entries that are not kept the code of zero, so that readers without masks see zeros.
fn zero_codes(grid: &mut Grid, [_, columns]: [usize; 2], keep: &[bool]) {
    let run = grid.group.columns(columns);
    for (n, code) in grid.codes.iter_mut().enumerate().filter(|(n, _)| !keep[*n]) {
        let at = match grid.group {
            Group::Tensor => 0,
            _ => n / columns * columns.div_ceil(run) + n % columns / run,
        };
        *code = grid.zeros.as_ref().map_or(1 << (grid.bits - 1), |zeros| zeros[at]);
    }
}

#[cfg(test)]
mod tests;
