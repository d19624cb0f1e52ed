//! Parquet.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Map, Value};

use super::{DataError, Record, Table};

/// Reads the first rows of a file.
pub(super) fn read(path: &Path, keep: usize) -> Result<Table, DataError> {
    let file = File::open(path).map_err(|source| DataError::File { path: path.to_owned(), source })?;
    let wrong = |bad: ParquetError| DataError::Parquet { path: path.to_owned(), why: bad.to_string() };
    let reader = SerializedFileReader::new(file).map_err(wrong)?;
    let total = usize::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
    let mut records = Vec::new();
    for (n, row) in reader.get_row_iter(None).map_err(wrong)?.take(keep).enumerate() {
        let fields = match row.map_err(wrong)?.to_json_value() {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        records.push(Record::new(fields, path, n + 1, "row"));
    }
    Ok(Table { records, total })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::{Compression, GzipLevel, ZstdLevel};
    use parquet::data_type::{ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    const SCHEMA: &str = "message rows {
        optional binary question (UTF8);
        required group choices { optional group text (LIST) { repeated group list { optional binary element (UTF8); } } }
        required int64 label;
    }";

    /// Two rows: a question with two choices, and nothing with none.
    fn write(path: &Path, compression: Compression) {
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&["Caf\u{e9}?".into()], Some(&[1, 0]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let texts = ["a".into(), "b".into()];
        column.typed::<ByteArrayType>().write_batch(&texts, Some(&[3, 3, 1]), Some(&[0, 1, 0])).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[1, -1], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn rows_of_nested_lists_are_read_in_all_usual_compressions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            write(&path, compression);
            let table = read(&path, 9).unwrap();
            let row = |n: usize, key: &str| table.records[n].fields[key].clone();
            assert_eq!(table.total, 2);
            assert_eq!((row(0, "question"), row(0, "label")), ("Caf\u{e9}?".into(), 1.into()));
            assert_eq!(row(0, "choices"), serde_json::json!({"text": ["a", "b"]}));
            assert_eq!((row(1, "question"), row(1, "choices")), (Value::Null, serde_json::json!({"text": []})));
            assert_eq!(table.records[1].place.to_string(), format!("row 2 of `{}`", path.display()));
            assert_eq!(read(&path, 1).unwrap().records.len(), 1);
        }
    }

    #[test]
    fn what_is_no_parquet_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.parquet");
        write(&path, Compression::SNAPPY);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&b"PAR1"[..], b"", &whole[..whole.len() / 2], b"PAR1 this is text PAR1"] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path, 9).unwrap_err();
            assert!(error.to_string().contains("cannot be read as Parquet: "), "{error}");
            assert!(error.hint().unwrap().contains("zstd"));
        }
    }
}
