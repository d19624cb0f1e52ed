//! Texts: files read as they are, rows of WikiText, fields of JSON lines.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// A text and the name under which scores report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its kind and file name: `wikitext:wiki.test.raw`.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// How a file becomes a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Wikitext,
    Lines { field: String },
}

impl Text {
    /// A text from its specification: `FILE`, `wikitext:FILE`, or `jsonl:FILE#field`.
    ///
    /// * `FILE` is read as it is.
    /// * `wikitext:FILE` is a WikiText `.raw` file, row by row: blank rows become empty and the others keep their
    ///   newline, and all are joined with two newlines. That is what the usual evaluation scripts do.
    /// * `jsonl:FILE#field` takes a field of each JSON line, and joins these with two newlines.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Utf8`], [`Error::Field`], [`Error::Line`].
    pub fn load(spec: &str) -> Result<Text> {
        let (path, kind) = parse(spec)?;
        let bytes = std::fs::read(&path).map_err(|source| Error::File { act: "read", path: path.clone(), source })?;
        read(bytes, &path, &kind)
    }

    /// The same from bytes at hand; the `FILE` of the specification only names them.
    ///
    /// # Errors
    /// As [`Text::load`].
    pub fn from_bytes(spec: &str, bytes: &[u8]) -> Result<Text> {
        let (path, kind) = parse(spec)?;
        read(bytes.to_vec(), &path, &kind)
    }

    /// The field of each JSON line of `jsonl:FILE#field`, one text each.
    ///
    /// # Errors
    /// As [`Text::load`]; [`Error::Field`] for any other specification.
    pub fn fields(spec: &str) -> Result<Vec<String>> {
        let (path, kind) = parse(spec)?;
        let Kind::Lines { field } = kind else { return Err(Error::Field { spec: spec.to_owned() }) };
        let bytes = std::fs::read(&path).map_err(|source| Error::File { act: "read", path: path.clone(), source })?;
        let text = String::from_utf8(bytes)
            .map_err(|e| Error::Utf8 { path: path.clone(), byte: e.utf8_error().valid_up_to() })?;
        fields(&text, &path, &field)
    }

    /// The tokens of the whole text, tokenized once, without special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn tokens(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let encoding = tokenizer
            .encode_fast(self.text.as_str(), false)
            .map_err(|e| Error::Tokenize { text: self.name.clone(), why: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As many tokens as are enough, or a few more, or all: tokenized piece by piece, which takes little memory beside the
    /// text and its tokens. Pieces of some hundred kilobytes end in front of a line or a word; where a tokenizer looks
    /// further than that, tokens at their ends can differ from those of [`Text::tokens`].
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn tokens_in_pieces(&self, tokenizer: &Tokenizer, enough: usize) -> Result<Vec<u32>> {
        let (mut tokens, mut rest) = (Vec::new(), self.text.as_str());
        while !rest.is_empty() && tokens.len() < enough {
            let (piece, behind) = rest.split_at(piece_end(rest));
            let encoding = tokenizer
                .encode_fast(piece, false)
                .map_err(|e| Error::Tokenize { text: self.name.clone(), why: e.to_string() })?;
            tokens.extend_from_slice(encoding.get_ids());
            rest = behind;
        }
        Ok(tokens)
    }
}

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

/// Where the first piece of a text ends: behind the last single end of a line in it, else in front of the last single
/// blank, else at the last whole character.
fn piece_end(text: &str) -> usize {
    if text.len() <= PIECE {
        return text.len();
    }
    let bytes = text.as_bytes();
    let single = |&n: &usize| !bytes[n - 1].is_ascii_whitespace() && !bytes[n + 1].is_ascii_whitespace();
    let last = |byte: u8| (1..PIECE).rev().filter(|&n| bytes[n] == byte).find(single);
    let whole = || (0..=PIECE).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(text.len());
    last(b'\n').map(|n| n + 1).or_else(|| last(b' ')).unwrap_or_else(whole)
}

/// The token that a tokenizer puts in front of every text, if it does.
pub fn first_token(tokenizer: &Tokenizer) -> Option<u32> {
    let plain = tokenizer.encode_fast("a", false).ok()?;
    let special = tokenizer.encode_fast("a", true).ok()?;
    let (plain, special) = (plain.get_ids(), special.get_ids());
    (special.len() > plain.len() && special[1..].starts_with(plain)).then(|| special[0])
}

fn parse(spec: &str) -> Result<(PathBuf, Kind)> {
    if let Some(path) = spec.strip_prefix("wikitext:") {
        return Ok((path.into(), Kind::Wikitext));
    }
    if let Some(rest) = spec.strip_prefix("jsonl:") {
        let named = rest.rsplit_once('#').filter(|(_, field)| !field.is_empty());
        let (path, field) = named.ok_or_else(|| Error::Field { spec: spec.trim_end_matches('#').to_owned() })?;
        return Ok((path.into(), Kind::Lines { field: field.to_owned() }));
    }
    Ok((spec.into(), Kind::Plain))
}

fn read(bytes: Vec<u8>, path: &Path, kind: &Kind) -> Result<Text> {
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::Utf8 { path: path.to_owned(), byte: e.utf8_error().valid_up_to() })?;
    let file = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    Ok(match kind {
        Kind::Plain => Text { name: file.into_owned(), text },
        Kind::Wikitext => Text { name: format!("wikitext:{file}"), text: rows(&text) },
        Kind::Lines { field } => {
            Text { name: format!("jsonl:{file}#{field}"), text: fields(&text, path, field)?.join("\n\n") }
        }
    })
}

fn rows(text: &str) -> String {
    let row = |row: &'_ str| if row.trim().is_empty() { "" } else { row }.to_owned();
    text.split_inclusive('\n').map(row).collect::<Vec<_>>().join("\n\n")
}

fn fields(text: &str, path: &Path, field: &str) -> Result<Vec<String>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let one = |(n, line): (usize, &str)| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        value.get(field).and_then(|text| text.as_str()).map(str::to_owned).ok_or_else(|| Error::Line {
            path: path.to_owned(),
            line: n + 1,
            field: field.to_owned(),
            found: value.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default(),
        })
    };
    lines.map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        std::fs::write(&path, " one\r\n\n two").unwrap();
        let text = Text::load(path.to_str().unwrap()).unwrap();
        assert_eq!(text, Text { name: "a.txt".into(), text: " one\r\n\n two".into() });
    }

    #[test]
    fn wikitext_rows_are_joined_with_two_newlines() {
        let raw = b" \n = Title = \n \n A row .\n";
        let text = Text::from_bytes("wikitext:some/where/w.raw", raw).unwrap();
        assert_eq!(text.name, "wikitext:w.raw");
        assert_eq!(text.text, "\n\n = Title = \n\n\n\n\n A row .\n");
    }

    #[test]
    fn a_field_of_json_lines_is_joined() {
        let lines = b"{\"text\": \"one\"}\n\n{\"n\": 1, \"text\": \"two\"}\n";
        let text = Text::from_bytes("jsonl:l.jsonl#text", lines).unwrap();
        assert_eq!((text.name.as_str(), text.text.as_str()), ("jsonl:l.jsonl#text", "one\n\ntwo"));
        let error = Text::from_bytes("jsonl:l.jsonl#title", lines).unwrap_err();
        assert_eq!(error.to_string(), "line 1 of `l.jsonl` has no text in `title`");
        assert_eq!(error.hint().unwrap(), "the line has the fields text");
        let error = Text::from_bytes("jsonl:l.jsonl#text", b"{\"text\": \"a\"}\nnot json").unwrap_err();
        assert_eq!(error.to_string(), "line 2 of `l.jsonl` has no text in `text`");
        let error = Text::from_bytes("jsonl:l.jsonl", lines).unwrap_err();
        assert_eq!(error.hint().unwrap(), "add its name: `jsonl:l.jsonl#text`");
    }

    #[test]
    fn a_long_text_is_tokenized_piece_by_piece_and_no_further_than_is_wanted() {
        let words = [("one".to_owned(), 0), ("two".to_owned(), 1), ("?".to_owned(), 2)];
        let model = tokenizers::models::wordlevel::WordLevel::builder().vocab(words.into_iter().collect());
        let mut tokenizer = Tokenizer::new(model.unk_token("?".into()).build().unwrap());
        tokenizer.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::whitespace::Whitespace {}));
        let text = |line: &str, count: usize| Text { name: "t".into(), text: line.repeat(count) };
        for long in [text("one two\n", 100_000), text("one two ", 100_000), text("\u{e9}", 400_000), text("one\n\n", 9)]
        {
            let whole = long.tokens(&tokenizer).unwrap();
            let pieces = long.tokens_in_pieces(&tokenizer, usize::MAX).unwrap();
            // A word longer than a piece is cut.
            assert!(pieces == whole || long.text.starts_with('\u{e9}'));
            assert!(long.tokens_in_pieces(&tokenizer, 1).unwrap().len() < whole.len() || whole.len() < 20);
        }
    }

    #[test]
    fn bytes_that_are_not_text_and_files_that_are_not_there_are_named() {
        let error = Text::from_bytes("a.txt", b"ab\xffcd").unwrap_err();
        assert_eq!(error.to_string(), "`a.txt` is not UTF-8 text: byte 2 belongs to no character");
        let error = Text::load("no/such/file.txt").unwrap_err();
        assert!(error.to_string().starts_with("cannot read `no/such/file.txt`"), "{error}");
    }
}
