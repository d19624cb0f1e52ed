//! Directories of small files, whole or not at all.

use std::path::Path;

use crate::error::{Error, Result};

/// Writes files into a directory that is new or empty, whole or not at all.
///
/// # Errors
/// If there is something in the directory, or the disk refuses.
pub fn write_files(dir: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    let refused =
        |source: std::io::Error| Error::File { file: dir.to_owned(), why: format!("cannot be written: {source}") };
    if dir.exists() && std::fs::read_dir(dir).map_err(refused)?.next().is_some() {
        return Err(Error::File { file: dir.to_owned(), why: "is not empty".into() });
    }
    let part = dir.with_added_extension("part");
    let write = || {
        let _ = std::fs::remove_dir_all(&part);
        for (name, bytes) in files {
            let path = part.join(name);
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            let mut out = std::fs::File::create(&path)?;
            std::io::Write::write_all(&mut out, bytes)?;
            out.sync_all()?;
        }
        if dir.exists() {
            std::fs::remove_dir(dir)?;
        }
        std::fs::rename(&part, dir)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_dir_all(&part);
        refused(source)
    })
}
