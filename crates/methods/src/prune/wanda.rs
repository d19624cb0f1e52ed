//! `prune.wanda`: removes the weights that matter least for the inputs that a layer sees.

use brevity_model::{Form, Leaf, LeafForm, Linear, Mask, MaskForm, Site, Weight};
use serde::Deserialize;
use serde_json::Value;

use super::allocate::{ALLOCATION, Allocation, BAND, Spread};
use super::pattern::{Amount, PATTERN, SPARSITY};
use super::remove::remove;
use super::select::{share, smallest_of_rows, smallest_of_runs};
use crate::error::{Error, Result};
use crate::leaves::{check_finite, each_mut, each_seen, is_rule};
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::{Fold, Needs, Seen};
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

const NAME: &str = "prune.wanda";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Removes the weights of smallest magnitude times the size of their input",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Wanda::parse(settings)?))),
    kind: Kind::Prune,
};

const SETTINGS: &[Setting] = &[
    Setting { about: "the share of weights to remove from each row, from 0 up to but not including 1", ..SPARSITY },
    PATTERN,
    ALLOCATION,
    BAND,
];

/// Removes the weights of smallest magnitude times the size of their input.
///
/// The score of `w_ij` is `|w_ij| √(Σ x_j²)`, over all samples seen. Of each row of `n` weights exactly
/// `floor(sparsity * n)` are removed in the end; of equal scores the first in order go first. Weights that a mask has
/// removed already stay removed and count. With a pattern `n:m`, `n` of every `m` consecutive inputs of a row are
/// removed; inputs left over at the end of a row stay dense, and the notes say so. Where nothing was seen of the inputs
/// (an expert that no token reached, a left factor without its Gram matrix), or nothing but zeros, the magnitude alone
/// decides, and the notes say so too. No weight is changed otherwise.
///
/// # Cost
/// `O(out * in)`, and one copy of the weight in single precision; with an allocation other than `uniform`, a survey of
/// all selected layers.
///
/// # Errors
/// [`Error::NotFinite`] if a weight is NaN or infinite, [`Error::NeedsSurvey`] before the survey of an allocation.
///
/// # Source
/// Sun et al. 2023, arXiv:2306.11695.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanda {
    /// How many entries of a row go.
    pub amount: Amount,
    allocation: Allocation,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    sparsity: Option<f64>,
    pattern: Option<String>,
    allocation: Option<Spread>,
    band: Option<f64>,
}

impl Wanda {
    /// Removes so much of each row, the same from all layers.
    pub fn new(amount: Amount) -> Self {
        Wanda { amount, allocation: Allocation::default() }
    }

    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let amount = Amount::parse(NAME, SETTINGS, s.sparsity, s.pattern)?;
        if let Amount::Pattern { .. } = amount
            && (s.allocation.is_some() || s.band.is_some())
        {
            let wants = "either `pattern`, or `sparsity` and `allocation`";
            return Err(Error::Settings { method: NAME, wants });
        }
        Ok(Wanda { amount, allocation: Allocation::parse(NAME, SETTINGS, s.allocation, s.band)? })
    }

    /// Which entries of one matrix go, or `None` if nothing changes.
    fn keep(&self, site: &Site, leaf: &Leaf, w: &[f32], squares: Option<&[f64]>) -> Result<Option<Vec<bool>>> {
        let columns = leaf.shape[1];
        let size: Vec<f32> = match squares {
            Some(squares) => squares.iter().map(|x| x.sqrt() as f32).collect(),
            None => vec![1.0; columns],
        };
        // The product of two singles is exact in double precision, so there are no ties but true ones; the bits of
        // what is not negative order as the numbers do.
        let key = |n: usize| (f64::from(w[n].abs()) * f64::from(size[n % columns])).to_bits();
        let keep = || leaf.mask.as_ref().map_or_else(|| vec![true; w.len()], Mask::to_bools);
        match self.amount {
            _ if w.is_empty() => Ok(None),
            Amount::Share(sparsity) => {
                let count = share(self.allocation.sparsity(NAME, site, sparsity)?, columns);
                Ok((count > 0).then(|| {
                    let mut keep = keep();
                    smallest_of_rows(key, &mut keep, columns, count);
                    keep
                }))
            }
            Amount::Pattern { of, .. } if columns < of => Ok(None),
            Amount::Pattern { removed, of } => {
                let mut keep = keep();
                smallest_of_runs(key, &mut keep, columns, removed, of);
                Ok(Some(keep))
            }
        }
    }

    /// What is known of the mask afterwards.
    fn predicted(&self, site: &Site, form: &LeafForm) -> Option<MaskForm> {
        let amount = match self.amount {
            Amount::Share(sparsity) => Amount::Share(self.allocation.predicted(site, sparsity)),
            pattern => pattern,
        };
        amount.mask(form, form.shape[1])
    }
}

impl LinearMethod for Wanda {
    fn needs(&self) -> Needs {
        Needs { moments: true, ..Needs::default() }
    }

    fn survey_needs(&self) -> Needs {
        self.allocation.survey_needs()
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let (site, notes) = (cx.site, &mut cx.notes);
        each_seen(&mut layer.weight, cx.seen, &mut |path, leaf, seen| {
            let w = leaf.to_f32();
            check_finite(site, path, &w)?;
            notes.extend(self.amount.tail(leaf.shape[1]));
            let squares = mean_squares(seen, leaf.shape[1]);
            // Where all scores are zero they decide nothing.
            let telling = squares.as_deref().filter(|squares| squares.iter().any(|&x| x != 0.0));
            if let Some(keep) = self.keep(site, leaf, &w, telling)? {
                remove(leaf, &keep);
                if telling.is_none() {
                    let why = if squares.is_none() {
                        "nothing was seen of its inputs"
                    } else {
                        "its inputs were always zero"
                    };
                    notes.push(format!("pruned by magnitude: {why}"));
                }
            }
            Ok(())
        })?;
        if let Amount::Share(sparsity) = self.amount {
            cx.figures.push(("sparsity".to_owned(), self.allocation.sparsity(NAME, site, sparsity)?));
        }
        Ok(())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        each_mut(&mut layer.weight, &mut |_, form| {
            if !is_rule(form) {
                form.mask = self.predicted(site, form);
            }
            Ok(())
        })
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        let Amount::Share(sparsity) = self.amount else { return None };
        let amount = self.amount;
        self.allocation.survey(NAME, sparsity, move |allocation| Box::new(Wanda { amount, allocation }))
    }

    fn settings(&self) -> Value {
        let mut settings = self.amount.settings();
        if let Amount::Share(_) = self.amount {
            self.allocation.write(&mut settings);
        }
        settings
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        // Singles and one flag for each entry, the keys of a row, then bits and new floats. Of a product, what was seen
        // behind the right factor is worked out in between.
        let leaf = |form: &LeafForm| form.parameters() * 10 + 8 * (form.shape[1] as u64) * 64;
        let factors = if layer.weight.as_leaf().is_some() { 0 } else { 8 * layer.weight.parameters() };
        layer.weight.leaves().iter().map(|(_, form)| leaf(form)).max().unwrap_or(0) + factors
    }
}

/// The mean square of each of `n` inputs over both folds, if any were seen: from the moments, or from the diagonal of
/// the Gram matrix.
pub(super) fn mean_squares(seen: &Seen, n: usize) -> Option<Vec<f64>> {
    let squares = |fold: &Fold| match &fold.gram {
        _ if fold.sum_sq.len() == n => fold.sum_sq.clone(),
        Some(gram) => gram.diagonal(),
        None => Vec::new(),
    };
    let (mut total, mut count) = (vec![0.0; n], 0);
    for fold in [&seen.fit, &seen.held_out] {
        let squares = squares(fold);
        if squares.len() == n {
            count += fold.count;
            total.iter_mut().zip(squares).for_each(|(a, b)| *a += b);
        }
    }
    (count > 0).then(|| total.into_iter().map(|x| x / count as f64).collect())
}

#[cfg(test)]
mod tests;
