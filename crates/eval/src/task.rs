//! Benchmarks as data: a task reads rows, makes questions of them, and grades a model's answers.
//!
//! A task is a YAML file; `recipes/tasks/README.md` says what its keys mean. It never runs a model: it gives
//! [`Ask`](crate::Ask)s and takes [`Answer`]s.

mod error;
mod form;
mod grade;
mod items;
mod jinja;
mod judge;
mod keys;
mod kick;
mod library;
mod metric;
mod result;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use error::closest;
pub use error::{BadTask, TaskError};
pub use grade::Graded;
pub use items::{Gold, Item};
pub use judge::{JudgePair, judge_pairs, write_judge_pairs};
pub use library::StockTask;
pub use result::{Part, TaskResult, TaskScore, harness_json};

use crate::ask::Answer;
use crate::data::{self, Source};
use crate::error::Result;
use form::Form;
use keys::Keys;

/// A benchmark: where its rows are, how it asks, and what it measures.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name: that of the file without its ending.
    pub name: String,
    /// One sentence.
    pub about: String,
    /// Where the data and the protocol come from.
    pub source: String,
    /// The version of the protocol; results of different versions cannot be compared.
    pub version: f64,
    /// The folder of the file it was read from, where its data is unless somebody says another; none if it is embedded.
    pub folder: Option<PathBuf>,
    strict: Form,
    compat: Option<Form>,
}

/// How answers are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As it should be.
    #[default]
    Strict,
    /// As the published code of the benchmark does it, with its quirks, for comparison with published numbers. The same
    /// as strict for tasks whose code has none.
    Compat,
}

impl Task {
    /// Reads a task from YAML; `origin` is the file it came from, and gives it its name.
    ///
    /// # Errors
    /// [`BadTask`] says what is wrong, on which line.
    pub fn parse(text: &str, origin: &str) -> Result<Self, BadTask> {
        let mut keys = Keys::parse(text, origin)?;
        let compat = keys.compat.take();
        form::check_own(&keys, origin)?;
        let compat = compat.map(|compat| {
            form::check_own(&compat, origin)?;
            Form::new(compat.over(&keys), origin)
        });
        let name = origin.rsplit(['/', '\\']).next().unwrap_or_default();
        let name = name.strip_suffix(".yaml").or(name.strip_suffix(".yml")).unwrap_or(name);
        Ok(Task {
            name: name.to_owned(),
            about: keys.about.clone().unwrap_or_default(),
            source: keys.source.clone().unwrap_or_default(),
            version: keys.version.unwrap_or(1.0),
            folder: None,
            compat: compat.transpose()?,
            strict: Form::new(keys, origin)?,
        })
    }

    /// The same task on other rows: a path or pattern, relative to the folder of data unless it is absolute.
    pub fn with_data(mut self, files: &str) -> Self {
        for form in [Some(&mut self.strict), self.compat.as_mut()].into_iter().flatten() {
            let like = form.data.first().cloned().unwrap_or_else(|| Source::new(files));
            form.data = vec![Source { files: files.to_owned(), ..like }];
        }
        self
    }

    /// Whether the published code has quirks that [`Mode::Compat`] reproduces.
    pub fn has_compat(&self) -> bool {
        self.compat.is_some()
    }

    /// The questions, in the order of the data: all of them, or the first so many, evenly from its files.
    ///
    /// # Errors
    /// Data that is not there or cannot be read, and rows that the task cannot use, with their places.
    pub fn items(&self, data: &Path, limit: Option<usize>, mode: Mode) -> Result<Vec<Item>> {
        items::items(self, mode, data, limit)
    }

    /// How many rows the data has.
    ///
    /// # Errors
    /// Data that is not there or cannot be read.
    pub fn count(&self, data: &Path) -> Result<usize> {
        Ok(data::read(&self.strict.data, data, Some(0))?.total)
    }

    /// What an answer to one of this task's items is worth.
    ///
    /// # Errors
    /// [`TaskError::Answer`] if it is no answer to that question.
    pub fn grade(&self, item: &Item, answer: &Answer) -> Result<Graded> {
        Ok(grade::grade(self, item, answer)?)
    }

    fn form(&self, mode: Mode) -> &Form {
        match mode {
            Mode::Compat => self.compat.as_ref().unwrap_or(&self.strict),
            Mode::Strict => &self.strict,
        }
    }
}

#[cfg(test)]
mod tests;
