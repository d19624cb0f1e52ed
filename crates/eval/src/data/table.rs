//! CSV and TSV.

use std::path::Path;

use serde_json::{Map, Value};

use super::{DataError, Record, Source, Table};

/// Reads rows of columns; all values are texts.
pub(super) fn read(text: &str, path: &Path, source: &Source, usual: char, keep: usize) -> Result<Table, DataError> {
    let delimiter = source.delimiter.unwrap_or(usual);
    let byte = u8::try_from(delimiter).ok().filter(u8::is_ascii);
    let byte = byte.ok_or_else(|| DataError::Delimiter { path: path.to_owned(), delimiter })?;
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(byte)
        .quoting(source.quote.unwrap_or(true))
        .has_headers(false)
        .flexible(true)
        .from_reader(text.as_bytes());
    let mut columns = source.columns.clone();
    let mut header = source.header.unwrap_or(columns.is_empty());
    if columns.is_empty() && !header {
        return Err(DataError::Nameless { path: path.to_owned() });
    }
    let mut table = Table::default();
    for row in reader.records() {
        let row = row.expect("rows of any length, in UTF-8, are always read");
        if std::mem::take(&mut header) {
            if columns.is_empty() {
                columns = row.iter().map(|name| name.trim().to_owned()).collect();
            }
            continue;
        }
        let line = row.position().map_or(0, |at| at.line() as usize);
        if row.len() < columns.len() || (row.len() > columns.len() && !source.extra) {
            return Err(DataError::Ragged { path: path.to_owned(), line, found: row.len(), wanted: columns.len() });
        }
        if table.records.len() < keep {
            let fields = columns.iter().cloned().zip(row.iter().map(Value::from)).collect::<Map<_, _>>();
            table.records.push(Record::new(fields, path, line, "line"));
        }
        table.total += 1;
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, source: &Source) -> Result<Vec<Value>, DataError> {
        let table = read(text, Path::new("f.csv"), source, ',', usize::MAX)?;
        Ok(table.records.into_iter().map(|record| Value::Object(record.fields)).collect())
    }

    #[test]
    fn quotes_hold_delimiters_and_newlines_and_lines_are_counted_through_them() {
        let text = "q,a\n\"What, \"\"now\"\"?\nReally?\",x\n\nplain,y\n";
        let table = read(text, Path::new("f.csv"), &Source::new("f.csv"), ',', usize::MAX).unwrap();
        assert_eq!(table.records[0].fields["q"], "What, \"now\"?\nReally?");
        assert_eq!((table.records[0].place.row, table.total), (2, 2));
        let table = read(text, Path::new("f.csv"), &Source::new("f.csv"), ',', 1).unwrap();
        assert_eq!((table.records.len(), table.total), (1, 2));
    }

    #[test]
    fn files_without_header_or_quotes_or_with_further_columns_can_be_described() {
        let named = Source { columns: vec!["a".into(), "b".into()], ..Source::new("f") };
        assert_eq!(rows("1,2\n", &named).unwrap()[0]["b"], "2");
        let both = Source { header: Some(true), ..named.clone() };
        assert_eq!(rows("x,y\n1,2\n", &both).unwrap()[0]["a"], "1");
        let sts = Source { quote: Some(false), extra: true, delimiter: Some('\t'), ..named };
        assert_eq!(rows("he said \"no\tx\tmore\ty\n", &sts).unwrap()[0]["a"], "he said \"no");
        let neither = Source { header: Some(false), ..Source::new("f") };
        assert_eq!(rows("1,2\n", &neither).unwrap_err().to_string(), "nothing names the columns of `f.csv`");
    }

    #[test]
    fn ragged_rows_are_refused_with_their_line() {
        let error = rows("a,b\n1,2\n3\n", &Source::new("f")).unwrap_err();
        assert_eq!(error.to_string(), "line 3 of `f.csv` has 1 columns, not 2");
        let error = rows("a,b\n1,2,3\n", &Source::new("f")).unwrap_err();
        assert!(error.hint().unwrap().contains("extra: true"));
        let error = rows("a,b\n1,2\n", &Source { delimiter: Some('→'), ..Source::new("f") }).unwrap_err();
        assert_eq!(error.to_string(), "`→` cannot separate columns of `f.csv`");
    }
}
