//! How much is removed: a share of the weights, or a pattern `n:m`, `n` of every `m` consecutive inputs.

use brevity_model::{LeafForm, MaskForm};
use serde_json::{Value, json};

use super::select::share;
use crate::error::{Error, Result};
use crate::settings::{Setting, value_error};

pub(crate) const SPARSITY: Setting = Setting {
    name: "sparsity",
    about: "the share of weights to remove, from 0 up to but not including 1",
    default: "0.5",
};

pub(crate) const PATTERN: Setting = Setting {
    name: "pattern",
    about: "`none`, or `n:m` to remove n of every m consecutive inputs instead of a share, such as \"2:4\"",
    default: "none",
};

/// How many entries of a matrix go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// This share of them, in `[0, 1)`.
    Share(f64),
    /// Some of every run of consecutive inputs.
    Pattern {
        /// Removed entries in a run.
        removed: usize,
        /// Inputs in a run.
        of: usize,
    },
}

impl Amount {
    /// From the settings `sparsity` and `pattern` of a method.
    pub(super) fn parse(
        method: &'static str,
        known: &[Setting],
        sparsity: Option<f64>,
        pattern: Option<String>,
    ) -> Result<Self> {
        match (pattern.filter(|pattern| pattern != "none"), sparsity) {
            (Some(_), Some(_)) => Err(Error::Settings { method, wants: "either `pattern` or `sparsity`" }),
            (Some(text), None) => match parse(&text) {
                Some((removed, of)) => Ok(Amount::Pattern { removed, of }),
                None => Err(value_error(method, known, "pattern", &text.into())),
            },
            (None, sparsity) => match sparsity.unwrap_or(0.5) {
                share if (0.0..1.0).contains(&share) => Ok(Amount::Share(share)),
                share => Err(value_error(method, known, "sparsity", &share.into())),
            },
        }
    }

    /// The settings as they are written.
    pub(super) fn settings(self) -> Value {
        match self {
            Amount::Share(share) => json!({ "sparsity": share }),
            Amount::Pattern { removed, of } => json!({ "pattern": format!("{removed}:{of}") }),
        }
    }

    /// What is known of the mask of a matrix afterwards, if shares are taken from so many entries at a time.
    pub(super) fn mask(self, form: &LeafForm, among: usize) -> Option<MaskForm> {
        let [rows, columns] = form.shape;
        let free = |share: f64| Some(MaskForm::Free(share.max(form.sparsity())));
        match self {
            _ if rows * columns == 0 => form.mask,
            Amount::Share(sparsity) => match share(sparsity, among) {
                0 => form.mask,
                count => free(count as f64 / among as f64),
            },
            Amount::Pattern { of, .. } if columns < of => form.mask,
            Amount::Pattern { removed, of } => match form.mask {
                None => Some(MaskForm::Pattern { removed, of }),
                Some(_) => free(removed as f64 / of as f64),
            },
        }
    }

    /// What to note of a row of so many columns, if a pattern leaves some of them dense.
    pub(super) fn tail(self, columns: usize) -> Option<String> {
        match self {
            Amount::Pattern { of, .. } if !columns.is_multiple_of(of) => {
                Some(format!("the last {} of {columns} inputs stay dense", columns % of))
            }
            _ => None,
        }
    }
}

/// Reads `n:m` with `0 < n < m`.
fn parse(text: &str) -> Option<(usize, usize)> {
    let (removed, of) = text.split_once(':')?;
    let (removed, of) = (removed.parse().ok()?, of.parse().ok()?);
    (0 < removed && removed < of).then_some((removed, of))
}
