//! Data files: rows of CSV, TSV, JSON, JSON lines, Parquet and whole texts, each with the place it came from.

mod error;
mod json;
mod parquet;
mod story;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use error::DataError;

/// Where rows are, and how they are laid out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A path or a pattern such as `mmlu/test/*.csv`, relative to the folder of data or to a folder in it.
    pub files: String,
    /// The format; by the ending of the name if it is not said.
    pub format: Option<Format>,
    /// Names of columns of CSV, if they are not in the first row.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Whether the first row of CSV names the columns; it does unless `columns` does.
    pub header: Option<bool>,
    /// What separates columns; a comma, or a tab in `.tsv`.
    pub delimiter: Option<char>,
    /// Whether `"` quotes texts of CSV; it does.
    pub quote: Option<bool>,
    /// Whether rows of CSV may have more columns than have names; these are left out. They may not.
    #[serde(default)]
    pub extra: bool,
    /// Where in a JSON file the rows are: `data[].paragraphs[].qas[]`. Rows have the fields of all they lie in.
    pub rows: Option<String>,
}

/// A format of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Separated by commas.
    Csv,
    /// Separated by tabs.
    Tsv,
    /// One JSON value.
    Json,
    /// A JSON object on each line.
    Jsonl,
    /// Parquet.
    Parquet,
    /// The whole file is one row with a field `text`.
    Text,
    /// The same, and `article` and `highlights` as CNN stories have them.
    Story,
}

/// One row of data.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its fields. There are always `file` (its name without ending), `folder` (the name of the folder it is in) and
    /// `row`, unless the data has fields of these names.
    pub fields: Map<String, Value>,
    /// Where it came from.
    pub place: Place,
}

/// Where a row came from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Its line in a file of lines, else its number among the rows; counted from one.
    pub row: usize,
    /// What `row` counts: `line` or `row`.
    pub unit: &'static str,
}

/// Rows that were read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The rows that were asked for, file by file.
    pub records: Vec<Record>,
    /// How many rows there are in all.
    pub total: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of `{}`", self.unit, self.row, self.file.display())
    }
}

impl Source {
    /// Files with all defaults.
    pub fn new(files: &str) -> Self {
        Source {
            files: files.to_owned(),
            format: None,
            columns: Vec::new(),
            header: None,
            delimiter: None,
            quote: None,
            extra: false,
            rows: None,
        }
    }

    /// The files, in order of their names: those in the folder, or if there are none, those in folders in it.
    ///
    /// # Errors
    /// [`DataError::Pattern`]. That there are no files is no error.
    pub fn find(&self, folder: &Path) -> Result<Vec<PathBuf>, DataError> {
        let literal = glob::Pattern::escape(&folder.to_string_lossy());
        for prefix in [literal.clone(), format!("{literal}/*")] {
            let pattern = Path::new(&prefix).join(&self.files);
            let found = glob::glob(&pattern.to_string_lossy())
                .map_err(|bad| DataError::Pattern { pattern: self.files.clone(), why: bad.msg.to_owned() })?;
            let files: Vec<PathBuf> = found.filter_map(Result::ok).filter(|path| path.is_file()).collect();
            if !files.is_empty() {
                return Ok(files);
            }
        }
        Ok(Vec::new())
    }

    /// Reads one file: all of its rows, or the first so many.
    ///
    /// # Errors
    /// [`DataError`] says where in the file; a file without rows is an error.
    pub fn read_file(&self, path: &Path, keep: Option<usize>) -> Result<Table, DataError> {
        let keep = keep.unwrap_or(usize::MAX);
        let table = match self.format_of(path)? {
            Format::Csv => table::read(&text(path)?, path, self, ',', keep),
            Format::Tsv => table::read(&text(path)?, path, self, '\t', keep),
            Format::Json => json::read(&text(path)?, path, self.rows.as_deref(), keep),
            Format::Jsonl => json::lines(&text(path)?, path, keep),
            Format::Parquet => parquet::read(path, keep),
            Format::Text => Ok(story::whole(text(path)?, path, keep)),
            Format::Story => Ok(story::read(text(path)?, path, keep)),
        }?;
        if table.total == 0 { Err(DataError::Empty { path: path.to_owned() }) } else { Ok(table) }
    }

    fn format_of(&self, path: &Path) -> Result<Format, DataError> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        let by_name = match ending.as_deref() {
            Some("csv") => Some(Format::Csv),
            Some("tsv" | "tab") => Some(Format::Tsv),
            Some("json") => Some(Format::Json),
            Some("jsonl" | "ndjson") => Some(Format::Jsonl),
            Some("parquet") => Some(Format::Parquet),
            Some("txt") => Some(Format::Text),
            Some("story") => Some(Format::Story),
            _ => None,
        };
        self.format.or(by_name).ok_or_else(|| DataError::Format { path: path.to_owned() })
    }
}

/// Reads the first of some sources that has files in a folder: all rows, or so many, evenly from its files.
///
/// With a limit, each file gives its first row, then each its second, until there are enough; so every subject of a
/// benchmark is asked about. The rows are still in order of files.
///
/// # Errors
/// [`DataError::NoFile`] if no source has files, and those of [`Source::read_file`].
pub fn read(sources: &[Source], folder: &Path, limit: Option<usize>) -> Result<Table, DataError> {
    for source in sources {
        let files = source.find(folder)?;
        if files.is_empty() {
            continue;
        }
        let tables = files.iter().map(|path| source.read_file(path, limit)).collect::<Result<Vec<_>, _>>()?;
        let total = tables.iter().map(|table| table.total).sum();
        let counts: Vec<usize> = tables.iter().map(|table| table.records.len()).collect();
        let takes = evenly(&counts, limit.unwrap_or(usize::MAX));
        let rows = tables.into_iter().zip(takes).flat_map(|(table, take)| table.records.into_iter().take(take));
        return Ok(Table { records: rows.collect(), total });
    }
    let patterns = sources.iter().map(|source| source.files.clone()).collect();
    Err(DataError::NoFile { patterns, folder: folder.to_owned() })
}

/// How many to take of each, in turns, until there are enough.
fn evenly(counts: &[usize], limit: usize) -> Vec<usize> {
    let mut takes = vec![0; counts.len()];
    let mut left = limit.min(counts.iter().sum());
    while left > 0 {
        for (take, &count) in takes.iter_mut().zip(counts) {
            if *take < count && left > 0 {
                *take += 1;
                left -= 1;
            }
        }
    }
    takes
}

impl Record {
    /// A row with its fields and `file`, `folder` and `row`.
    fn new(mut fields: Map<String, Value>, path: &Path, row: usize, unit: &'static str) -> Self {
        let name = |part: Option<&std::ffi::OsStr>| Value::from(part.unwrap_or_default().to_string_lossy());
        let folder = path.parent().and_then(Path::file_name);
        for (key, value) in [("file", name(path.file_stem())), ("folder", name(folder)), ("row", row.into())] {
            if !fields.contains_key(key) {
                fields.insert(key.to_owned(), value);
            }
        }
        Record { fields, place: Place { file: path.to_owned(), row, unit } }
    }
}

/// The text of a file, without a byte order mark.
pub(crate) fn text(path: &Path) -> Result<String, DataError> {
    let mut bytes = std::fs::read(path).map_err(|source| DataError::File { path: path.to_owned(), source })?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).map_err(|bad| {
        let before = &bad.as_bytes()[..bad.utf8_error().valid_up_to()];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |n| n + 1);
        DataError::Encoding {
            path: path.to_owned(),
            line: before.iter().filter(|&&byte| byte == b'\n').count() + 1,
            byte: before.len() - line_start + 1,
            utf16: bad.as_bytes().starts_with(b"\xff\xfe") || bad.as_bytes().starts_with(b"\xfe\xff"),
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder with files in it.
    pub(crate) fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        dir
    }

    #[test]
    fn rows_know_their_file_and_folder() {
        let dir = folder(&[("b/astronomy_test.csv", b"q,row\nx,own\n")]);
        let table = read(&[Source::new("*_test.csv")], dir.path(), None).unwrap();
        let fields = Value::Object(table.records[0].fields.clone());
        assert_eq!(fields, serde_json::json!({"q": "x", "row": "own", "file": "astronomy_test", "folder": "b"}));
        assert!(table.records[0].place.to_string().starts_with("line 2 of `"));
    }

    #[test]
    fn a_limit_is_taken_evenly_from_all_files() {
        assert_eq!(evenly(&[1, 5, 5], 7), [1, 3, 3]);
        assert_eq!(evenly(&[2, 2], 100), [2, 2]);
        assert_eq!(evenly(&[2, 2], 0), [0, 0]);
        let dir = folder(&[("a.csv", b"q\n1\n2\n3\n"), ("b.csv", b"q\n4\n5\n")]);
        let table = read(&[Source::new("*.csv")], dir.path(), Some(3)).unwrap();
        let rows: Vec<Value> = table.records.iter().map(|record| record.fields["q"].clone()).collect();
        assert_eq!((Value::from(rows), table.total), (serde_json::json!(["1", "2", "4"]), 5));
    }

    #[test]
    fn the_first_source_that_has_files_is_read() {
        let dir = folder(&[("x.jsonl", b"{\"a\": 1}\n"), ("y.jsonl", b"{\"a\": 2}\n")]);
        let sources = ["none.jsonl", "y.jsonl", "x.jsonl"].map(Source::new);
        assert_eq!(read(&sources, dir.path(), None).unwrap().records[0].fields["a"], 2);
        let error = read(&sources[..1], dir.path(), None).unwrap_err();
        assert!(error.to_string().starts_with("there is no file `none.jsonl` in `"), "{error}");
    }

    #[test]
    fn other_encodings_are_refused_with_their_place() {
        let dir = folder(&[
            ("latin.csv", b"q\nok\ncaf\xe9\n"),
            ("utf16.csv", b"\xff\xfeq\x00"),
            ("mark.csv", b"\xef\xbb\xbfq\nx\n"),
        ]);
        let read = |name: &str| Source::new(name).read_file(&dir.path().join(name), None);
        let error = read("latin.csv").unwrap_err();
        assert!(error.to_string().ends_with("is not UTF-8: byte 4 of line 3 belongs to no character"), "{error}");
        assert_eq!(
            error.hint().unwrap(),
            "convert it: `iconv -f windows-1252 -t utf-8 latin.csv`, if that is what it is"
        );
        assert!(read("utf16.csv").unwrap_err().hint().unwrap().contains("-f utf-16"));
        assert_eq!(read("mark.csv").unwrap().records[0].fields["q"], "x");
    }

    #[test]
    fn files_without_rows_or_of_unknown_format_are_refused() {
        let dir = folder(&[("a.csv", b"q,a\n"), ("b.jsonl", b"\n\n"), ("c.json", b"[]"), ("d.xls", b"x")]);
        for name in ["a.csv", "b.jsonl", "c.json"] {
            let error = Source::new(name).read_file(&dir.path().join(name), None).unwrap_err();
            assert!(error.to_string().ends_with("has no rows"), "{error}");
        }
        let error = Source::new("d.xls").read_file(&dir.path().join("d.xls"), None).unwrap_err();
        assert!(error.hint().unwrap().contains("format: jsonl"), "{error}");
    }
}
