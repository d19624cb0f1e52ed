//! Whole files as one row each.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Record, Table};

/// What stands above each sentence of the summary of a CNN story.
const MARK: &str = "@highlight";

/// One row with the field `text`.
pub(super) fn whole(text: String, path: &Path, keep: usize) -> Table {
    one(Map::from_iter([("text".to_owned(), Value::from(text))]), path, keep)
}

/// The same with `article`, what stands in front of the first `@highlight`, and `highlights`, the texts behind each.
pub(super) fn read(text: String, path: &Path, keep: usize) -> Table {
    let mut parts = text.split(MARK).map(str::trim);
    let article = parts.next().unwrap_or_default().to_owned();
    let highlights: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    let Value::Object(fields) = json!({"article": article, "highlights": highlights, "text": text}) else {
        unreachable!("it is written as an object");
    };
    one(fields, path, keep)
}

fn one(fields: Map<String, Value>, path: &Path, keep: usize) -> Table {
    let records = [Record::new(fields, path, 1, "row")].into_iter().take(keep).collect();
    Table { records, total: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_split_at_its_highlights() {
        let text = "First.\n\nSecond.\n\n@highlight\n\nOne\n\n@highlight\n\nTwo\n".to_owned();
        let table = read(text.clone(), Path::new("d/s.story"), 1);
        let fields = &table.records[0].fields;
        assert_eq!(fields["article"], "First.\n\nSecond.");
        assert_eq!(fields["highlights"], json!(["One", "Two"]));
        assert_eq!((&fields["text"], &fields["file"]), (&json!(text), &json!("s")));
        assert_eq!(read("no marks".into(), Path::new("s"), 1).records[0].fields["highlights"], json!([]));
    }
}
