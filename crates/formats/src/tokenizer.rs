//! Tokenizers of checkpoints, and whether they fit the token table.

use tokenizers::Tokenizer;

use crate::error::Error;
use crate::folder::Folder;

/// The tokenizer of a directory: its `tokenizer.json`, without the truncation and padding that may be set there.
///
/// # Errors
/// If there is none, or one that the tokenizers library refuses.
pub fn read_tokenizer(folder: &Folder) -> Result<Tokenizer, Error> {
    const FILE: &str = "tokenizer.json";
    if !folder.has(FILE) {
        let older = ["tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"];
        let found = older.into_iter().filter(|name| folder.has(name)).map(str::to_owned).collect();
        return Err(Error::NoTokenizer { path: folder.path().to_owned(), found });
    }
    let refused = |what: String| Error::Tokenizer { file: folder.path().join(FILE), what };
    let mut tokenizer = Tokenizer::from_bytes(folder.read(FILE)?).map_err(|e| refused(e.to_string()))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|e| refused(e.to_string()))?;
    Ok(tokenizer)
}

/// Checks that every id a tokenizer can give has a row in a token table of so many rows.
///
/// Fewer ids than rows are common: tables are padded.
///
/// # Errors
/// If there is an id past the table.
pub fn check_tokenizer(tokenizer: &Tokenizer, rows: usize) -> Result<(), Error> {
    let vocabulary = tokenizer.get_vocab(true);
    // Of tokens with the same number the alphabetically first is named, whatever the order of the map.
    match vocabulary.into_iter().map(|(token, id)| (id, std::cmp::Reverse(token))).max() {
        Some((id, std::cmp::Reverse(token))) if id as usize >= rows => Err(Error::TokenTable { id, token, rows }),
        _ => Ok(()),
    }
}
