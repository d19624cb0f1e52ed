//! JSON and JSON lines.

use std::path::Path;

use serde_json::{Map, Value};

use super::{DataError, Record, Table};

/// Reads an object from each line that is not blank.
pub(super) fn lines(text: &str, path: &Path, keep: usize) -> Result<Table, DataError> {
    let mut table = Table::default();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        table.total += 1;
        if table.records.len() < keep {
            let value = serde_json::from_str(line).map_err(|bad| broken(&bad, path, n, false))?;
            table.records.push(Record::new(object(value, path, n + 1, "line")?, path, n + 1, "line"));
        }
    }
    Ok(table)
}

/// Reads the rows of one JSON value: those at `rows`, or of the list that it is.
pub(super) fn read(text: &str, path: &Path, rows: Option<&str>, keep: usize) -> Result<Table, DataError> {
    let first_line = text.trim_start().lines().next().unwrap_or_default();
    let value = serde_json::from_str(text).map_err(|bad| {
        let lines = serde_json::from_str::<Map<String, Value>>(first_line).is_ok();
        broken(&bad, path, 0, lines)
    })?;
    let steps: Vec<Step<'_>> = match rows {
        Some(rows) => rows.split('.').flat_map(steps).collect(),
        None => vec![Step::Each],
    };
    let mut found = Vec::new();
    Expansion { path }.expand(value, &steps, &Map::new(), "", &mut found)?;
    let total = found.len();
    let records = found.into_iter().take(keep).enumerate().map(|(n, fields)| Record::new(fields, path, n + 1, "row"));
    Ok(Table { records: records.collect(), total })
}

/// A step on the way to rows: `data[]` is two of them.
#[derive(Clone, Copy)]
enum Step<'a> {
    Into(&'a str),
    Each,
}

fn steps(part: &str) -> impl Iterator<Item = Step<'_>> {
    let name = part.strip_suffix("[]");
    let into = Some(name.unwrap_or(part)).filter(|name| !name.is_empty()).map(Step::Into);
    into.into_iter().chain(name.map(|_| Step::Each))
}

struct Expansion<'a> {
    path: &'a Path,
}

impl Expansion<'_> {
    /// Adds all rows behind the steps; `outer` are fields of what they lie in.
    fn expand(
        &self,
        value: Value,
        steps: &[Step<'_>],
        outer: &Map<String, Value>,
        at: &str,
        found: &mut Vec<Map<String, Value>>,
    ) -> Result<(), DataError> {
        match (steps, value) {
            ([], value) => {
                let mut fields = outer.clone();
                fields.extend(object(value, self.path, found.len() + 1, "row")?);
                found.push(fields);
                Ok(())
            }
            ([Step::Into(name), rest @ ..], Value::Object(mut fields)) => {
                let at = if at.is_empty() { (*name).to_owned() } else { format!("{at}.{name}") };
                let Some(inner) = fields.shift_remove(*name) else {
                    let found = fields.keys().cloned().collect();
                    return Err(DataError::Rows { path: self.path.to_owned(), at, what: "list", found });
                };
                let mut around = outer.clone();
                around.extend(fields);
                self.expand(inner, rest, &around, &at, found)
            }
            ([Step::Each, rest @ ..], Value::Array(items)) => items
                .into_iter()
                .enumerate()
                .try_for_each(|(n, item)| self.expand(item, rest, outer, &format!("{at}[{n}]"), found)),
            ([step, ..], value) => {
                let what = if matches!(step, Step::Each) { "list" } else { "mapping" };
                let found = value.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
                let at = if at.is_empty() { "the top".to_owned() } else { at.to_owned() };
                Err(DataError::Rows { path: self.path.to_owned(), at, what, found })
            }
        }
    }
}

fn object(value: Value, path: &Path, row: usize, unit: &'static str) -> Result<Map<String, Value>, DataError> {
    let found = match value {
        Value::Object(fields) => return Ok(fields),
        Value::Array(_) => "a list",
        Value::String(_) => "a text",
        Value::Number(_) => "a number",
        Value::Bool(_) | Value::Null => "a word",
    };
    Err(DataError::Object { path: path.to_owned(), row, unit, found })
}

fn broken(bad: &serde_json::Error, path: &Path, lines_before: usize, lines: bool) -> DataError {
    let whole = bad.to_string();
    let why = whole.split(" at line ").next().unwrap_or_default().to_owned();
    DataError::Json { path: path.to_owned(), line: bad.line() + lines_before, column: bad.column(), why, lines }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, rows: Option<&str>) -> Result<Vec<Value>, DataError> {
        let table = read(text, Path::new("f.json"), rows, usize::MAX)?;
        Ok(table.records.into_iter().map(|record| Value::Object(record.fields)).collect())
    }

    const SQUAD: &str = r#"{"version": "1.1", "data": [{"title": "T", "paragraphs": [
        {"context": "C1", "qas": [{"id": 1, "q": "a"}, {"id": 2, "q": "b"}]},
        {"context": "C2", "qas": [{"id": 3, "q": "c", "title": "own"}]}]}]}"#;

    #[test]
    fn rows_of_nested_lists_have_the_fields_of_all_they_lie_in() {
        let rows = rows(SQUAD, Some("data[].paragraphs[].qas[]")).unwrap();
        assert_eq!(rows.len(), 3);
        let text = |row: usize, key: &str| rows[row][key].as_str().unwrap_or_default();
        assert_eq!((text(1, "context"), text(1, "title"), text(1, "version"), text(1, "q")), ("C1", "T", "1.1", "b"));
        assert_eq!((text(2, "context"), text(2, "title")), ("C2", "own"));
        assert_eq!(rows[2]["row"], 3);
    }

    #[test]
    fn rows_that_are_not_there_are_named_with_what_is() {
        let error = rows(SQUAD, Some("data[].paragraph[]")).unwrap_err();
        assert_eq!(error.to_string(), "there is no list at `data[0].paragraph` in `f.json`");
        assert!(error.hint().unwrap().ends_with("there are `title`, `paragraphs`"));
        let error = rows(SQUAD, None).unwrap_err();
        assert_eq!(error.to_string(), "there is no list at `the top` in `f.json`");
        assert!(error.hint().unwrap().ends_with("`version`, `data`"));
    }

    #[test]
    fn broken_json_has_line_column_and_a_hint() {
        let error = rows("[{\"a\": 1},\n {\"a\" 2}]", None).unwrap_err();
        assert_eq!(error.to_string(), "`f.json` is not JSON: line 2, column 7: expected `:`");
        let error = rows("{\"a\": 1}\n{\"a\": 2}\n", None).unwrap_err();
        assert!(error.hint().unwrap().contains("format: jsonl"));
        let error = lines("{\"a\": 1}\n\n{\"a\": \n", Path::new("f.jsonl"), 9).unwrap_err();
        assert!(error.to_string().starts_with("`f.jsonl` is not JSON: line 3, column "), "{error}");
        let error = lines("[1]\n", Path::new("f.jsonl"), 9).unwrap_err();
        assert_eq!(error.to_string(), "line 1 of `f.jsonl` is a list, not a JSON object");
    }
}
