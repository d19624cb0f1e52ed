//! What can go wrong with data files.

use std::path::PathBuf;

/// Why data cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No file has any of the names.
    #[error("there is no file {} in `{}`", listed(patterns, " or "), folder.display())]
    NoFile {
        /// The names.
        patterns: Vec<String>,
        /// Where they were looked for.
        folder: PathBuf,
    },
    /// A pattern of names is none.
    #[error("`{pattern}` is not a pattern of file names: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// The format of a file is not known.
    #[error("the name of `{}` does not say which format it has", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// A text that is not UTF-8.
    #[error("`{}` is not UTF-8: byte {byte} of line {line} belongs to no character", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// The byte in the line, counted from one.
        byte: usize,
        /// Whether it begins as UTF-16 does.
        utf16: bool,
    },
    /// A file without rows.
    #[error("`{}` has no rows", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A row of CSV with too few or too many columns.
    #[error("line {line} of `{}` has {found} columns, not {wanted}", path.display())]
    Ragged {
        /// The file.
        path: PathBuf,
        /// The line it begins on, counted from one.
        line: usize,
        /// Columns it has.
        found: usize,
        /// Columns that have names.
        wanted: usize,
    },
    /// A delimiter that cannot be one.
    #[error("`{delimiter}` cannot separate columns of `{}`", path.display())]
    Delimiter {
        /// The file.
        path: PathBuf,
        /// The delimiter.
        delimiter: char,
    },
    /// Nothing says what the columns are called.
    #[error("nothing names the columns of `{}`", path.display())]
    Nameless {
        /// The file.
        path: PathBuf,
    },
    /// Broken JSON.
    #[error("`{}` is not JSON: line {line}, column {column}: {why}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// The column, counted from one.
        column: usize,
        /// What is wrong.
        why: String,
        /// Whether the first line alone is a JSON object.
        lines: bool,
    },
    /// A row that is no JSON object.
    #[error("{unit} {row} of `{}` is {found}, not a JSON object", path.display())]
    Object {
        /// The file.
        path: PathBuf,
        /// The line or row, counted from one.
        row: usize,
        /// Which of these.
        unit: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A JSON file that has no rows where they should be.
    #[error("there is no {what} at `{at}` in `{}`", path.display())]
    Rows {
        /// The file.
        path: PathBuf,
        /// The place in it: `data[3].paragraphs`.
        at: String,
        /// `list` or `mapping`.
        what: &'static str,
        /// The fields that are there.
        found: Vec<String>,
    },
    /// A Parquet file that cannot be read.
    #[error("`{}` cannot be read as Parquet: {why}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Names in backticks.
fn listed(names: &[String], between: &str) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(between)
}

impl DataError {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            DataError::NoFile { .. } => {
                Some("say where the data is; `recipes/tasks/README.md` lists the files of each task".into())
            }
            DataError::Format { .. } => {
                Some("add `format: jsonl` (or csv, tsv, json, parquet, text, story) beside `files`".into())
            }
            DataError::Encoding { path, utf16, .. } => Some(format!(
                "convert it: `iconv -f {} -t utf-8 {}`{}",
                if *utf16 { "utf-16" } else { "windows-1252" },
                name(path),
                if *utf16 { "" } else { ", if that is what it is" }
            )),
            DataError::Ragged { found, wanted, .. } if found > wanted => {
                Some("a text with the delimiter in it needs quotes; `extra: true` leaves further columns out".into())
            }
            DataError::Ragged { .. } => {
                Some("look for a quote that is not closed, or say `quote: false` if the file has none".into())
            }
            DataError::Delimiter { .. } => Some("it is to be one ASCII character".into()),
            DataError::Nameless { .. } => Some("name them with `columns: [...]`, or leave out `header: false`".into()),
            DataError::Json { lines: true, .. } => {
                Some("if each line is an object of its own, say `format: jsonl`".into())
            }
            DataError::Object { .. } => Some("each row is to be an object such as {\"question\": \"...\"}".into()),
            DataError::Rows { found, .. } if !found.is_empty() => {
                Some(format!("set `rows` to where the list of rows is; there are {}", listed(found, ", ")))
            }
            DataError::Parquet { .. } => Some("uncompressed, snappy, gzip and zstd files can be read".into()),
            _ => None,
        }
    }
}
