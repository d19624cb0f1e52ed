//! Files that are there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use super::fault::OutputFault;
use crate::error::Error;

/// Writes a file beside its place, makes sure that it has reached the disk, and renames it into place.
/// Returns its BLAKE3 digest.
pub(crate) fn write_whole(dir: &Path, name: &str, parts: &[&[u8]]) -> Result<String, Error> {
    let path = dir.join(name);
    let part = part_of(&path);
    let written = File::create(&part)
        .and_then(|mut file| {
            let digest = pour(&mut file, parts)?;
            file.sync_all()?;
            Ok(digest)
        })
        .and_then(|digest| fs::rename(&part, &path).map(|()| digest))
        .and_then(|digest| sync_dir(path.parent().unwrap_or(dir)).map(|()| digest));
    written.map_err(|source| {
        let fault = failed(source, parts.iter().map(|part| part.len() as u64).sum(), dir);
        let _ = fs::remove_file(&part);
        fault.at(&path)
    })
}

/// Where a file is written before it is renamed.
pub(crate) fn part_of(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.part"))
}

/// Writes all parts one behind the other and returns their digest.
fn pour(file: &mut File, parts: &[&[u8]]) -> io::Result<String> {
    // Pieces small enough to be still in the cache when they are written after being hashed.
    const PIECE: usize = 1 << 20;
    let mut hasher = blake3::Hasher::new();
    for piece in parts.iter().flat_map(|part| part.chunks(PIECE)) {
        hasher.update(piece);
        file.write_all(piece)?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The digest of a file, or `None` if it is not there with this size.
pub(crate) fn digest(path: &Path, bytes: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    if file.metadata().ok()?.len() != bytes {
        return None;
    }
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Some(hasher.finalize().to_hex().to_string()),
            Ok(n) => hasher.update(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
    }
}

/// What a failure to write `needed` bytes in `dir` means.
pub(crate) fn failed(source: io::Error, needed: u64, dir: &Path) -> OutputFault {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            OutputFault::Full { needed, free: free_bytes(dir) }
        }
        _ => OutputFault::Write { source },
    }
}

/// Makes sure that the names in a directory have reached the disk.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

/// Bytes that can still be written to the disk of a directory, if the system says.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(dir).ok()?;
        // File systems that hold no files of ours (/proc) say that they have no blocks at all.
        (disk.f_blocks > 0).then(|| disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = dir;
        None
    }
}

/// Removes a file if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OutputFault::Write { source }.at(path)),
        _ => Ok(()),
    }
}

/// Whether a file name stays inside the directory.
pub(crate) fn is_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_is_whole_and_leaves_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let digest_written = write_whole(dir.path(), "a", &[b"one ", b"", b"two"]).unwrap();
        assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"one two");
        assert_eq!(digest(&dir.path().join("a"), 7), Some(digest_written.clone()));
        assert_eq!(digest_written, blake3::hash(b"one two").to_hex().to_string());
        assert_eq!(digest(&dir.path().join("a"), 8), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_from_other_failures() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let error = pour(&mut full, &[b"x"]).unwrap_err();
        let fault = failed(error, 1, Path::new("."));
        assert!(matches!(fault, OutputFault::Full { needed: 1, free: Some(_) }), "{fault}");
        let other = failed(io::ErrorKind::PermissionDenied.into(), 1, Path::new("."));
        assert!(matches!(other, OutputFault::Write { .. }));
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        assert!(write_whole(dir.path(), "a", &[b"x"]).is_err(), "a directory is in its place");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
