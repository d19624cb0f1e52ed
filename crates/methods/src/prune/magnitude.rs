//! `prune.magnitude`: removes the weights of smallest magnitude.

mod global;

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_model::{Form, Leaf, LeafForm, Linear, Mask, MaskForm, Site, Weight};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::allocate::{ALLOCATION, Allocation, BAND, Spread};
use super::pattern::{Amount, PATTERN, SPARSITY};
use super::remove::remove;
use super::select::{self, bits, share};
use crate::error::{Error, Result};
use crate::leaves::{check_finite, each_mut, is_rule, is_rule_leaf};
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::Needs;
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

pub(crate) const NAME: &str = "prune.magnitude";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Removes the weights of smallest magnitude",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Magnitude::parse(settings)?))),
    kind: Kind::Prune,
};

const SETTINGS: &[Setting] = &[
    SPARSITY,
    Setting {
        name: "scope",
        about: "which weights compete with each other: `layer`, `row` (one output) or `global` (all selected layers)",
        default: "layer",
    },
    PATTERN,
    ALLOCATION,
    BAND,
];

/// Removes the weights of smallest magnitude.
///
/// In each comparison group of `N` weights exactly `floor(sparsity * N)` are removed in the end; of equal
/// magnitudes the first in order go first. Weights that a mask has removed already stay removed and count.
/// With a pattern `n:m`, `n` of every `m` consecutive inputs of a row are removed; inputs left over at the end
/// of a row stay dense, and the notes say so. A product or sum is pruned matrix by matrix. With an allocation other than
/// `uniform`, blocks differ in the share that they lose.
///
/// # Cost
/// `O(out * in)` and one copy of the weight in single precision. Needs no calibration data, unless an allocation looks
/// at the inputs of all layers; with `scope: global` the survey reads all layers two or three times.
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
    allocation: Allocation,
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
    allocation: Option<Spread>,
    band: Option<f64>,
}

impl Magnitude {
    /// Removes by this rule.
    pub fn new(rule: Rule) -> Self {
        Magnitude { rule, cut: None, allocation: Allocation::default() }
    }

    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let sparsity = match Amount::parse(NAME, SETTINGS, s.sparsity, s.pattern)? {
            Amount::Share(sparsity) => sparsity,
            Amount::Pattern { .. } if s.scope.is_some() || s.allocation.is_some() || s.band.is_some() => {
                return Err(Error::Settings { method: NAME, wants: "either `pattern`, or `sparsity` and `scope`" });
            }
            Amount::Pattern { removed, of } => return Ok(Self::new(Rule::Pattern { removed, of })),
        };
        let allocation = Allocation::parse(NAME, SETTINGS, s.allocation, s.band)?;
        let scope = s.scope.unwrap_or_default();
        if scope == Scope::Global && s.allocation.is_some_and(|spread| spread != Spread::Uniform) {
            let wants = "`scope: layer` or `scope: row` with `allocation`";
            return Err(Error::Settings { method: NAME, wants });
        }
        Ok(Magnitude { allocation, ..Self::new(Rule::Share { sparsity, scope }) })
    }

    /// Which entries of one matrix go, or `None` if nothing changes.
    fn keep(&self, site: &Site, path: &str, leaf: &Leaf, w: &[f32]) -> Result<Option<Vec<bool>>> {
        let [rows, columns] = leaf.shape;
        let key = |n: usize| bits(w[n]);
        let mut keep = leaf.mask.as_ref().map_or_else(|| vec![true; rows * columns], Mask::to_bools);
        match self.rule {
            _ if w.is_empty() => return Ok(None),
            Rule::Share { sparsity, scope: Scope::Layer } => {
                let count = share(self.allocation.sparsity(NAME, site, sparsity)?, w.len());
                if count == 0 {
                    return Ok(None);
                }
                select::smallest(key, &mut keep, count);
            }
            Rule::Share { sparsity, scope: Scope::Row } => {
                let count = share(self.allocation.sparsity(NAME, site, sparsity)?, columns);
                if count == 0 {
                    return Ok(None);
                }
                select::smallest_of_rows(key, &mut keep, columns, count);
            }
            Rule::Share { sparsity: 0.0, scope: Scope::Global } => return Ok(None),
            Rule::Share { scope: Scope::Global, .. } => {
                let cut = self.cut.as_ref().ok_or_else(|| Error::NeedsSurvey { method: NAME, site: site.clone() })?;
                let changed = || Error::Changed { method: NAME, site: site.clone() };
                let ties = cut.ties.get(&(site.clone(), path.to_owned())).ok_or_else(changed)?;
                if ties.kept != keep.iter().filter(|&&k| k).count() {
                    return Err(changed());
                }
                select::below(key, &mut keep, cut.bits, ties.remove);
            }
            Rule::Pattern { of, .. } if columns < of => return Ok(None),
            Rule::Pattern { removed, of } => select::smallest_of_runs(key, &mut keep, columns, removed, of),
        }
        Ok(Some(keep))
    }
}

impl LinearMethod for Magnitude {
    fn survey_needs(&self) -> Needs {
        self.allocation.survey_needs()
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let (site, notes) = (cx.site, &mut cx.notes);
        each_mut(&mut layer.weight, &mut |path, leaf| {
            if is_rule_leaf(leaf) {
                return Ok(());
            }
            let w = leaf.to_f32();
            check_finite(site, path, &w)?;
            notes.extend(self.amount().tail(leaf.shape[1]));
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
                    None => self.predicted(site, form),
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
            Rule::Share { sparsity, scope: Scope::Layer | Scope::Row } => {
                let rule = self.rule;
                let finish = move |allocation| -> Box<dyn LinearMethod> {
                    Box::new(Magnitude { allocation, ..Self::new(rule) })
                };
                self.allocation.survey(NAME, sparsity, finish)
            }
            _ => None,
        }
    }

    fn settings(&self) -> Value {
        let mut settings = self.amount().settings();
        if let Rule::Share { scope, .. } = self.rule {
            settings["scope"] = serde_json::json!(scope);
            self.allocation.write(&mut settings);
        }
        settings
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        // Singles, one flag and up to one order of four bytes for each entry, then bits and new floats.
        layer.weight.leaves().iter().map(|(_, form)| form.parameters() * 14).max().unwrap_or(0)
    }
}

impl Magnitude {
    fn amount(&self) -> Amount {
        match self.rule {
            Rule::Share { sparsity, .. } => Amount::Share(sparsity),
            Rule::Pattern { removed, of } => Amount::Pattern { removed, of },
        }
    }

    /// What is known of the mask afterwards.
    fn predicted(&self, site: &Site, form: &LeafForm) -> Option<MaskForm> {
        let [rows, columns] = form.shape;
        let here = |sparsity: f64| Amount::Share(self.allocation.predicted(site, sparsity));
        match self.rule {
            Rule::Share { sparsity, scope: Scope::Layer } => here(sparsity).mask(form, rows * columns),
            Rule::Share { sparsity, scope: Scope::Row } => here(sparsity).mask(form, columns),
            Rule::Share { sparsity, scope: Scope::Global } if sparsity > 0.0 && rows * columns > 0 => {
                Some(MaskForm::Free(sparsity.max(form.sparsity())))
            }
            Rule::Share { scope: Scope::Global, .. } => form.mask,
            Rule::Pattern { .. } => self.amount().mask(form, columns),
        }
    }
}

#[cfg(test)]
mod tests;
