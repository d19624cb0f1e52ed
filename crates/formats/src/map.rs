//! The bytes of a file without reading it: a memory map, or bytes that are part of the program.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

/// The bytes of one file. Cloning is free.
///
/// A mapped file must not be shortened while it is in use; the operating system ends the program if a page that is no
/// longer there is touched. Nothing in this crate writes to a file that could be mapped: output goes to new files.
#[derive(Clone)]
pub struct Bytes(Inner);

#[derive(Clone)]
enum Inner {
    Mapped(Arc<Mmap>),
    Static(&'static [u8]),
    Owned(Arc<Vec<u8>>),
}

impl Bytes {
    /// Maps a file.
    pub fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Bytes(Inner::Static(&[])));
        }
        // SAFETY: the map is only read. Another program that shortens the file can still end this one with a bus
        // error, as with any reader that maps files; that is documented on the type.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Bytes(Inner::Mapped(Arc::new(map))))
    }

    /// Bytes that are already in memory.
    pub fn owned(bytes: Vec<u8>) -> Self {
        Bytes(Inner::Owned(Arc::new(bytes)))
    }

    /// Gives the pages of a range back to the system, so that they no longer count as this program's memory. The bytes
    /// can be read again at any time. Nothing happens if they are not mapped.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Inner::Mapped(map) = &self.0 {
            let end = range.end.min(map.len());
            if range.start < end {
                // SAFETY: the map is a read-only view of a file: a page given back is read from the file again when
                // it is next touched, so no byte changes under a borrow. The range lies within the map.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, end - range.start)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Tells the system that a range will be read now, from its start to its end, so that it is brought in at once
    /// and not page by page. Nothing happens where that is not known.
    pub fn expect(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Inner::Mapped(map) = &self.0 {
            let end = range.end.min(map.len());
            if range.start < end {
                let _ = map.advise_range(memmap2::Advice::PopulateRead, range.start, end - range.start);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }
}

impl From<&'static [u8]> for Bytes {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes(Inner::Static(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(map) => map,
            Inner::Static(bytes) => bytes,
            Inner::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_read_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = Bytes::map(&path).unwrap();
        assert_eq!(&map[..], bytes);
        map.release(1..99_999);
        map.expect(5000..60_000);
        map.release(90_000..usize::MAX);
        assert_eq!(&map[..], bytes);
    }

    #[test]
    fn an_empty_file_maps_to_no_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, []).unwrap();
        assert!(Bytes::map(&path).unwrap().is_empty());
    }
}
