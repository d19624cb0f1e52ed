//! The container: a header, then the data of one tensor behind the other; whole in its place, or not there at all.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::blocks::Block;
use super::keys::{self, Keys};
use crate::error::Error;
use crate::output::{OutputFault, disk};

/// Every tensor begins at a multiple of this; the value that readers take where a file does not say.
const ALIGNMENT: usize = 32;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its dimensions, slowest first.
    pub shape: Vec<usize>,
    /// How its values are stored.
    pub block: Block,
}

impl Info {
    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() / self.block.values() * self.block.bytes()
    }
}

/// Everything in front of the data, and how much data there will be.
#[derive(Debug)]
pub struct Header {
    /// Magic, version, counts, keys and tensors, up to where the data begin.
    pub bytes: Vec<u8>,
    /// Bytes of the data.
    pub data_bytes: u64,
}

impl Header {
    /// The header of a file with these keys and tensors, whose data lie in this order.
    pub fn new(keys: &Keys, tensors: &[Info]) -> Self {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((keys.len() as u64).to_le_bytes());
        keys.write(&mut bytes);
        let mut offset = 0u64;
        for tensor in tensors {
            keys::text(&mut bytes, &tensor.name);
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            // Fastest first.
            tensor.shape.iter().rev().for_each(|&n| bytes.extend((n as u64).to_le_bytes()));
            bytes.extend(tensor.block.id().to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset += padded(tensor.bytes()) as u64;
        }
        bytes.resize(padded(bytes.len()), 0);
        Header { bytes, data_bytes: offset }
    }

    /// Bytes of the file.
    pub fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64 + self.data_bytes
    }
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// A file that is being written beside its place. Dropped before it is finished, it is removed.
#[derive(Debug)]
pub struct Part {
    file: File,
    part: PathBuf,
    path: PathBuf,
    dir: PathBuf,
    size_bytes: u64,
    written: u64,
    finished: bool,
}

impl Part {
    /// Begins a file with a header. What lies in its place is left alone until the new one is whole.
    ///
    /// # Errors
    /// [`Error::Output`] if there is a directory in its place, or another run at work, if the disk has too little
    /// room, or if nothing can be written there.
    pub fn begin(path: &Path, header: &Header) -> Result<Self, Error> {
        if path.is_dir() {
            return Err(OutputFault::IsDirectory.at(path));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let unwritable = |source| OutputFault::Unwritable { source }.at(path);
        fs::create_dir_all(&dir).map_err(unwritable)?;
        let size_bytes = header.size_bytes();
        if let Some(free) = disk::free_bytes(&dir).filter(|free| *free < size_bytes) {
            return Err(OutputFault::Full { needed: size_bytes, free: Some(free) }.at(path));
        }
        let part = disk::part_of(path);
        // Not shortened before the lock is ours: another run may be writing to it.
        let file = File::options().write(true).create(true).truncate(false).open(&part).map_err(unwritable)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(OutputFault::Busy.at(path));
        }
        let mut begun = Part { file, part, path: path.to_owned(), dir, size_bytes, written: 0, finished: false };
        begun.file.set_len(0).map_err(unwritable)?;
        begun.write(&header.bytes)?;
        Ok(begun)
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|source| self.failed(source))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Appends zeros up to where the next tensor begins.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn pad(&mut self) -> Result<(), Error> {
        let zeros = [0; ALIGNMENT];
        self.write(&zeros[..self.written.next_multiple_of(ALIGNMENT as u64) as usize - self.written as usize])
    }

    /// Makes sure that everything has reached the disk, and puts the file in its place.
    ///
    /// # Errors
    /// If it is not as long as its header says, or if the system refuses.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.written != self.size_bytes {
            return Err(OutputFault::Unwritten.at(&self.path));
        }
        let done = self.file.sync_all().and_then(|()| fs::rename(&self.part, &self.path));
        done.map_err(|source| self.failed(source))?;
        self.finished = true;
        disk::sync_dir(&self.dir).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: std::io::Error) -> Error {
        disk::failed(source, self.size_bytes - self.written, &self.dir).at(&self.path)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, shape: &[usize], block: Block) -> Info {
        Info { name: name.into(), shape: shape.to_vec(), block }
    }

    #[test]
    fn a_header_has_the_bytes_that_the_format_says() {
        let mut keys = Keys::default();
        keys.add("a", 7u32);
        keys.add("bc", "x");
        let header = Header::new(&keys, &[info("w", &[2, 32], Block::Q4_0), info("v", &[3], Block::F32)]);
        let mut expected: Vec<u8> = Vec::new();
        expected.extend(b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0a\x04\0\0\0\x07\0\0\0");
        expected.extend(b"\x02\0\0\0\0\0\0\0bc\x08\0\0\0\x01\0\0\0\0\0\0\0x");
        // Dimensions fastest first; two blocks of 18 bytes, so the vector begins at 64.
        expected.extend(b"\x01\0\0\0\0\0\0\0w\x02\0\0\0\x20\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0v\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0");
        expected.resize(160, 0);
        assert_eq!(header.bytes, expected);
        assert_eq!(header.size_bytes(), 160 + 64 + 32);
    }

    #[test]
    fn a_file_is_there_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/m.gguf");
        let header = Header::new(&Keys::default(), &[info("v", &[3], Block::F32)]);
        let names =
            || fs::read_dir(dir.path().join("deep")).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let begin = || Part::begin(&path, &header).unwrap();

        let mut part = begin();
        part.write(&[1; 12]).unwrap();
        assert!(!path.exists());
        let busy = Part::begin(&path, &header).unwrap_err();
        assert!(busy.to_string().contains("another run"), "{busy}");
        drop(part);
        assert!(names().is_empty(), "{:?}", names());

        let mut part = begin();
        part.write(&[1; 11]).unwrap();
        assert!(part.finish().is_err(), "a byte is missing");
        assert!(names().is_empty(), "{:?}", names());

        // What a killed run left is written over.
        fs::write(disk::part_of(&path), [9; 1000]).unwrap();
        let mut part = begin();
        part.write(&[1; 12]).unwrap();
        part.pad().unwrap();
        part.finish().unwrap();
        assert_eq!(names(), ["m.gguf"]);
        assert_eq!(fs::metadata(&path).unwrap().len(), header.size_bytes());
        assert!(Part::begin(dir.path(), &header).is_err(), "a directory is in its place");
    }
}
