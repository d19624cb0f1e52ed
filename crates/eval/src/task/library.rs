//! The tasks that come with the program: the files in `recipes/tasks/`, embedded.

use std::path::Path;

use include_dir::{Dir, include_dir};

use super::error::{BadTask, nearest};
use super::{Task, TaskError};
use crate::error::{Error, Result};

static FOLDER: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/../../recipes/tasks");

/// An embedded task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StockTask {
    /// Its name.
    pub name: &'static str,
    /// The YAML text, as it is in the file.
    pub text: &'static str,
}

impl Task {
    /// All embedded tasks, by name.
    pub fn list() -> Vec<StockTask> {
        let yaml = FOLDER.files().filter_map(|file| {
            let name = file.path().file_name()?.to_str()?.strip_suffix(".yaml")?;
            Some(StockTask { name, text: file.contents_utf8()? })
        });
        let mut all: Vec<StockTask> = yaml.collect();
        all.sort_by_key(|stock| stock.name);
        all
    }

    /// The embedded task of a name.
    ///
    /// # Errors
    /// [`BadTask`] with the name that was probably meant.
    pub fn named(name: &str) -> Result<Task, BadTask> {
        let all = Task::list();
        match all.iter().find(|stock| stock.name == name) {
            Some(stock) => stock.task(),
            None => {
                let known: Vec<&str> = all.iter().map(|stock| stock.name).collect();
                let (origin, what) = (name.to_owned(), format!("there is no task `{name}`"));
                Err(BadTask { origin, line: None, what, hint: Some(nearest(name, &known, "the tasks")) })
            }
        }
    }

    /// A task by what a user says: the name of an embedded one, or a YAML file.
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, [`TaskError::Bad`] if it is no task or there is none of that name.
    pub fn load(said: &str) -> Result<Task> {
        let is_file = [".yaml", ".yml"].iter().any(|ending| said.ends_with(ending));
        if !is_file {
            return Ok(Task::named(said)?);
        }
        let text = std::fs::read_to_string(Path::new(said)).map_err(|source| Error::File {
            act: "read",
            path: said.into(),
            source,
        })?;
        let folder = Path::new(said).parent().map(Path::to_owned);
        Ok(Task { folder, ..Task::parse(&text, said)? })
    }
}

impl StockTask {
    /// The task.
    ///
    /// # Errors
    /// None in a program that passes its tests.
    pub fn task(&self) -> Result<Task, BadTask> {
        Task::parse(self.text, &format!("recipes/tasks/{}.yaml", self.name))
    }
}

impl From<BadTask> for TaskError {
    fn from(bad: BadTask) -> Self {
        TaskError::Bad(bad)
    }
}

impl From<BadTask> for Error {
    fn from(bad: BadTask) -> Self {
        Error::Task(bad.into())
    }
}
