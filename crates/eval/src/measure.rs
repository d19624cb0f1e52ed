//! What a measure is: something that looks at logits row by row and has scores at the end.

use brevity_kernels::cast::count_non_finite;
use brevity_runtime::Boundary;

use crate::error::{Error, Result};
use crate::score::Score;
use crate::windows::Windows;

/// Logits of some rows of one window, and the tokens that come next.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    pub(crate) window: usize,
    pub(crate) first: usize,
    pub(crate) vocabulary: usize,
    pub(crate) targets: &'a [u32],
    pub(crate) logits: &'a [f32],
}

impl<'a> Rows<'a> {
    /// Rows `first..` of window `window`: `logits` is `[targets, vocabulary]`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first position whose logits are not finite; [`Error::Token`].
    ///
    /// # Panics
    /// If there are not as many rows as targets.
    pub fn new(
        window: usize,
        first: usize,
        vocabulary: usize,
        targets: &'a [u32],
        logits: &'a [f32],
    ) -> Result<Rows<'a>> {
        assert_eq!(logits.len(), targets.len() * vocabulary, "one row for each target");
        if let Some(&token) = targets.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::Token { token, vocabulary });
        }
        if count_non_finite(logits) > 0 {
            let row = logits.chunks(vocabulary).position(|row| count_non_finite(row) > 0).unwrap_or(0);
            return Err(Error::NotFinite { what: "a logit", window, position: first + row });
        }
        Ok(Rows { window, first, vocabulary, targets, logits })
    }

    /// The window, counted from zero.
    pub fn window(&self) -> usize {
        self.window
    }

    /// The position of the first row in its window.
    pub fn first(&self) -> usize {
        self.first
    }

    /// Columns of the logits.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The token behind each row.
    pub fn targets(&self) -> &'a [u32] {
        self.targets
    }

    /// `[rows, vocabulary]`.
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// One row of logits.
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.logits[row * self.vocabulary..][..self.vocabulary]
    }

    /// Refuses values, one for each row, that are not finite.
    pub(crate) fn check(&self, what: &'static str, values: &[f64]) -> Result<()> {
        match values.iter().position(|value| !value.is_finite()) {
            Some(row) => Err(Error::NotFinite { what, window: self.window, position: self.first + row }),
            None => Ok(()),
        }
    }
}

/// A measure of one model.
///
/// Rows come in order: window by window, from the first that counts to the last.
pub trait Measure: Send {
    /// Looks at some rows.
    fn observe(&mut self, rows: &Rows<'_>) -> Result<()>;

    /// The scores over all rows seen. Called once, at the end.
    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>>;
}

/// A measure of two models on the same rows.
pub trait PairMeasure: Send {
    /// Looks at the same rows of both models.
    fn observe(&mut self, before: &Rows<'_>, after: &Rows<'_>) -> Result<()>;

    /// The scores over all rows seen. Called once, at the end.
    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>>;
}

/// A measure of hidden states. What it says is not scores, so it has a report of its own kind.
pub trait HiddenMeasure: Send {
    /// Looks at one window between two stages: place by place, and at each window by window. If memory is short all
    /// places come again for the next windows.
    fn observe(&mut self, boundary: &Boundary<'_>) -> Result<()>;
}

/// A measure in the list.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name, as `--measures` takes it.
    pub name: &'static str,
    /// One sentence on what it tells.
    pub about: &'static str,
    /// A fresh one.
    pub make: Make,
}

/// How a measure begins.
#[derive(Clone, Copy, Debug)]
pub enum Make {
    /// It looks at one model.
    One(fn() -> Box<dyn Measure>),
    /// It looks at two.
    Pair(fn() -> Box<dyn PairMeasure>),
}

/// All measures.
pub const MEASURES: &[Entry] =
    &[crate::perplexity::ENTRY, crate::loss::ENTRY, crate::divergence::ENTRY, crate::agreement::ENTRY];

/// Measures of one model, and of two, that have seen nothing.
pub type Fresh = (Vec<Box<dyn Measure>>, Vec<Box<dyn PairMeasure>>);

/// Fresh measures.
pub fn make(entries: impl IntoIterator<Item = &'static Entry>) -> Fresh {
    let (mut single, mut pairs) = (Vec::new(), Vec::new());
    for entry in entries {
        match entry.make {
            Make::One(make) => single.push(make()),
            Make::Pair(make) => pairs.push(make()),
        }
    }
    (single, pairs)
}

/// The measures of these names; of all names if there are none.
///
/// # Errors
/// [`Error::Measure`] for a name that is not in the list.
pub fn measures(names: &[String]) -> Result<Vec<&'static Entry>> {
    if names.is_empty() {
        return Ok(MEASURES.iter().collect());
    }
    let find = |name: &String| MEASURES.iter().find(|entry| entry.name == *name);
    let known = || MEASURES.iter().map(|entry| entry.name).collect();
    names.iter().map(|name| find(name).ok_or_else(|| Error::Measure { name: name.clone(), known: known() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logit_that_is_not_finite_is_found_by_window_and_position() {
        let logits = [0.0, 1.0, 2.0, f32::NAN];
        let error = Rows::new(3, 10, 2, &[0, 1], &logits).unwrap_err();
        assert_eq!(error.to_string(), "a logit of window 3, position 11 is not finite");
        let error = Rows::new(0, 0, 2, &[2], &[0.0, 0.0]).unwrap_err();
        assert_eq!(error.to_string(), "token 2 is not in the model's vocabulary of 2");
    }

    #[test]
    fn an_unknown_measure_lists_the_known_ones() {
        let error = measures(&["perplexity".into(), "bleu".into()]).unwrap_err();
        assert_eq!(error.to_string(), "there is no measure `bleu`");
        assert_eq!(error.hint().unwrap(), "the measures are perplexity, loss, kl, agreement");
        assert_eq!(measures(&[]).unwrap().len(), MEASURES.len());
    }
}
