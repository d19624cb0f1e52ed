//! Items in text: JSON documents and JSON lines, with the line of what is wrong.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A JSON document.
pub(crate) fn json<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Items {
        path: path.to_owned(),
        line: Some(e.line()),
        why: format!("cannot be read: {e}"),
    })
}

/// One item from each line that is not blank.
pub(crate) fn json_lines<T: DeserializeOwned>(text: &str, path: &Path) -> Result<Vec<T>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let one = |(n, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::Items {
            path: path.to_owned(),
            line: Some(n + 1),
            why: format!("cannot be read: {e}"),
        })
    };
    lines.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_line_is_named() {
        let path = Path::new("some/facts.jsonl");
        assert_eq!(json_lines::<u32>("1\n\n2\n", path).unwrap(), [1, 2]);
        let error = json_lines::<u32>("1\n\nx\n", path).unwrap_err();
        assert!(error.to_string().starts_with("`some/facts.jsonl`, line 3, cannot be read: "), "{error}");
        let error = json::<u32>("[", path).unwrap_err();
        assert!(error.to_string().starts_with("`some/facts.jsonl`, line 1, cannot be read: "), "{error}");
    }
}
