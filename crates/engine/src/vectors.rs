//! What a recipe makes of the vectors of an encoder: fewer dimensions, chosen or fitted.

use std::fmt;

use brevity_embed::modules::{Dense, First, Layer};
use brevity_embed::{Ask, Encoder, Load, Modules, Rotation, Vectors, fit};
use brevity_formats::{Checkpoint, module_folders};
use brevity_runtime::Compute;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Texts that dimensions are found on, unless a recipe says otherwise.
const TEXTS: usize = 4096;

/// Fewer dimensions of the vectors of an encoder: a layer behind its pooling, and the norm behind that, if there was one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VectorCut {
    /// How many are kept.
    pub dims: usize,
    /// Which ones.
    #[serde(default)]
    pub turn: Turn,
    /// How far axes are brought to spread alike, from 0 to 1; see [`Rotation::layer`].
    #[serde(default)]
    pub whiten: f64,
    /// How many lines of the text for calibration they are found on, spread evenly.
    #[serde(default = "usual_texts")]
    pub texts: usize,
}

pub(crate) fn usual_texts() -> usize {
    TEXTS
}

/// Which dimensions are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// The first ones as they are, which suits models that were trained for it.
    #[default]
    None,
    /// The first principal axes of the vectors of the model that is left.
    Pca,
    /// Those from which the first principal axes of the *original* model's vectors are best told, by least squares.
    Fit,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Turn::None => "none",
            Turn::Pca => "pca",
            Turn::Fit => "fit",
        })
    }
}

impl VectorCut {
    /// Whether texts are needed.
    pub fn looks(&self) -> bool {
        self.turn != Turn::None
    }

    /// The lines of a text that dimensions are found on.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let count = self.texts.min(lines.len());
        (0..count).map(|n| lines[n * lines.len() / count].to_owned()).collect()
    }

    /// Checks what can be known before the work.
    ///
    /// # Errors
    /// If the model is no encoder with so many dimensions, or texts are needed and missing.
    pub(crate) fn check(&self, checkpoint: &Checkpoint, texts: Option<&[String]>) -> Result<(), Error> {
        let refused = |what: String| Error::Vectors { what };
        let modules = Modules::read(checkpoint.folder()).map_err(|error| refused(error.to_string()))?;
        let width = modules.width(checkpoint.model().hidden).map_err(|error| refused(error.to_string()))?;
        if modules.first != First::Transformer {
            return Err(refused("the model is a table already".into()));
        }
        if self.whiten != 0.0 && !self.looks() {
            return Err(refused(
                "the first dimensions as they are cannot be whitened, principal axes can: `turn: pca`".into(),
            ));
        }
        if self.dims == 0 || self.dims > width {
            return Err(refused(format!("{} dimensions cannot be kept of {width}", self.dims)));
        }
        match texts {
            Some(texts) if self.looks() && texts.len() < 10 => {
                Err(refused(format!("{} lines of text are too few to find dimensions on", texts.len())))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that finding dimensions takes: the model in memory, one after the other where both are looked at, and vectors.
    pub(crate) fn peak_bytes(&self, checkpoint: &Checkpoint) -> u64 {
        if !self.looks() {
            return 0;
        }
        let numbers: u64 = checkpoint.model().weights().map(|(_, _, source)| source.form.parameters()).sum();
        let vectors = self.texts * (2 * checkpoint.model().hidden + self.dims);
        4 * numbers + 4 * vectors as u64
    }

    /// Puts the files that say what stands behind the model that is left among those that go with it, in the place of those that
    /// said so of the original.
    ///
    /// # Errors
    /// If texts cannot be embedded.
    pub(crate) fn write(
        &self,
        files: &mut Vec<(String, Vec<u8>)>,
        original: &Checkpoint,
        left: &Checkpoint,
        texts: &[String],
        compute: Compute,
    ) -> Result<(), Error> {
        let refused = |error: brevity_embed::Error| Error::Vectors { what: error.to_string() };
        let mut modules = Modules::read(original.folder()).map_err(refused)?;
        let normalises = matches!(modules.layers.last(), Some(Layer::Normalize));
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let load = Load { compute: Some(compute), ..Load::default() };
        let encoded = |stages: &Checkpoint, modules: &Modules| -> Result<Vectors, Error> {
            let tokenizer = original.tokenizer()?;
            let encoder = Encoder::of(stages, original.folder(), tokenizer, modules.clone(), &load).map_err(refused)?;
            encoder.encode(&texts, &Ask::default()).map_err(refused)
        };
        modules.truncate_dim = None;
        let layer = match self.turn {
            Turn::None => Dense::prefix(modules.width(original.model().hidden).map_err(refused)?, self.dims),
            Turn::Pca => Rotation::fit(&encoded(left, &modules)?)
                .and_then(|r| r.layer(self.dims, self.whiten))
                .map_err(refused)?,
            Turn::Fit => {
                let whole = encoded(original, &modules)?;
                let axes = Rotation::fit(&whole)
                    .and_then(|rotation| rotation.layer(self.dims, self.whiten))
                    .map_err(refused)?;
                let targets = Vectors { width: self.dims, values: axes.apply(&whole.values) };
                modules.layers.truncate(1);
                fit(&encoded(left, &modules)?, &targets).map_err(refused)?.layer
            }
        };
        modules.layers.push(Layer::Dense(layer));
        if normalises {
            modules.layers.push(Layer::Normalize);
        }
        let made = modules.files(left.model().hidden);
        let old = module_folders(original.folder());
        files.retain(|(name, _)| {
            let of_module = name.split_once('/').is_some_and(|(folder, _)| old.iter().any(|module| module == folder));
            !of_module && made.iter().all(|(new, _)| new != name)
        });
        files.extend(made);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_spread_over_the_text() {
        let cut = VectorCut { dims: 8, turn: Turn::Pca, whiten: 0.0, texts: 3 };
        let text = "one\n\n two \nthree\nfour\nfive\nsix\n";
        assert_eq!(cut.lines(text), ["one", "three", "five"]);
        assert_eq!(VectorCut { texts: 99, ..cut.clone() }.lines(text).len(), 6);
        assert!(cut.lines(" \n").is_empty());
    }
}
