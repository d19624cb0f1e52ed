//! What can go wrong with tasks.

use std::fmt;

use crate::data::Place;

/// Why a task cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The task is wrong in itself.
    #[error("{0}")]
    Bad(BadTask),
    /// A row lacks what a template reads.
    #[error("`{key}` of the task `{task}` reads `{field}`, which a row does not have\n  {place}")]
    Field {
        /// The task.
        task: String,
        /// The key of the template or expression.
        key: String,
        /// What it reads.
        field: String,
        /// The row.
        place: Place,
        /// The fields that the row has.
        found: Vec<String>,
    },
    /// A template or expression fails on a row.
    #[error("`{key}` of the task `{task}` fails on a row: {why}\n  {place}")]
    Template {
        /// The task.
        task: String,
        /// The key of the template or expression.
        key: String,
        /// What is wrong.
        why: String,
        /// The row.
        place: Place,
    },
    /// A template or expression gives something that is of no use.
    #[error("`{key}` of the task `{task}` is {found}, not {wanted}\n  {place}")]
    Value {
        /// The task.
        task: String,
        /// The key of the template or expression.
        key: &'static str,
        /// What it gives.
        found: String,
        /// What is needed.
        wanted: String,
        /// The row.
        place: Place,
    },
    /// Too few rows to make examples of.
    #[error("the task `{task}` shows {wanted} examples, {found} were found{}", same.as_ref().map_or(String::new(), |same| format!(" for `{same}`")))]
    Shots {
        /// The task.
        task: String,
        /// How many are wanted.
        wanted: usize,
        /// How many there are.
        found: usize,
        /// What they are to have in common with the question.
        same: Option<String>,
    },
    /// An answer to another question.
    #[error("item {item} of the task `{task}` asks for {wanted}, the answer is {found}")]
    Answer {
        /// The task.
        task: String,
        /// The item.
        item: usize,
        /// What was asked for.
        wanted: String,
        /// What came.
        found: String,
    },
}

/// What is wrong with the text of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTask {
    /// The file, or the name of an embedded task.
    pub origin: String,
    /// The line, counted from one, if it is known.
    pub line: Option<u64>,
    /// A sentence.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for BadTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  in `{}`", self.what, self.origin)?;
        self.line.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

impl std::error::Error for BadTask {}

impl TaskError {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            TaskError::Bad(bad) => bad.hint.clone(),
            TaskError::Field { field, found, .. } => {
                let known: Vec<&str> = found.iter().map(String::as_str).collect();
                let close = closest(field, &known).map_or(String::new(), |best| format!("did you mean `{best}`? "));
                Some(format!("{close}the row has the fields {}", found.join(", ")))
            }
            TaskError::Shots { .. } => Some("lower `shots.count`, or add rows to the file of examples".into()),
            _ => None,
        }
    }
}

/// `did you mean ...?` if a known name is near, else the list of all of them.
pub(super) fn nearest(name: &str, known: &[&str], what: &str) -> String {
    match closest(name, known) {
        Some(best) => format!("did you mean `{best}`?"),
        None => format!("{what} are {}", known.join(", ")),
    }
}

pub(crate) fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |candidate: &str| strsim::damerau_levenshtein(name, candidate);
    let near = |known: &str| distance(known) <= 1.max(name.len().max(known.len()) / 3) && distance(known) < name.len();
    let close = known.iter().filter(|known| near(known));
    close.min_by_key(|known| distance(known)).copied()
}
