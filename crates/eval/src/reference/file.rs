//! The file of a stored reference: eight bytes that say what it is, the length of a JSON header, the header, and one
//! record a row: `k` ids (u32), `k` log-probabilities (f32), the tail's mass (f32), all little-endian.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use brevity_kernels::softmax::TopK;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::windows::{Protocol, Windows};

const MAGIC: &[u8; 8] = b"brevref1";
/// Longer headers are none of ours.
const MOST: u64 = 1 << 20;

/// What the rows are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    text: String,
    protocol: Protocol,
    window: usize,
    windows: usize,
    vocabulary: usize,
    k: usize,
    rows: usize,
    /// A hash of all tokens, FNV-1a, in hexadecimal.
    tokens: String,
}

impl Header {
    pub(super) fn new(windows: &Windows, vocabulary: usize, k: usize) -> Self {
        let hash = windows.windows.iter().flatten().flat_map(|token| token.to_le_bytes());
        let hash = hash.fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ byte as u64).wrapping_mul(0x0100_0000_01b3));
        Header {
            text: windows.text.clone(),
            protocol: windows.protocol,
            window: windows.length,
            windows: windows.windows.len(),
            vocabulary,
            k,
            rows: windows.predictions(),
            tokens: format!("{hash:016x}"),
        }
    }

    /// Refuses a header of other windows; names of texts may differ.
    fn agrees(&self, here: &Header) -> Result<()> {
        let same = |what, stored: String, found: String| {
            if stored == found { Ok(()) } else { Err(Error::Differs { what, stored, found }) }
        };
        same("vocabulary", self.vocabulary.to_string(), here.vocabulary.to_string())?;
        same("protocol", self.protocol.as_str().into(), here.protocol.as_str().into())?;
        same("windows of", self.window.to_string(), here.window.to_string())?;
        same("so many windows:", self.windows.to_string(), here.windows.to_string())?;
        same("predictions:", self.rows.to_string(), here.rows.to_string())?;
        same("tokens with the hash", self.tokens.clone(), here.tokens.clone())
    }

    fn record_bytes(&self) -> u64 {
        8 * self.k as u64 + 4
    }
}

/// Writes a reference under another name, and gives it its own when it is whole.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    part: PathBuf,
    file: BufWriter<File>,
    left: usize,
}

impl Writer {
    pub(super) fn create(path: &Path, header: &Header) -> Result<Writer> {
        if path.is_dir() {
            // Known now rather than when everything is measured.
            return Err(failed("write", path, std::io::ErrorKind::IsADirectory.into()));
        }
        let part = path.with_added_extension("part");
        let file = File::create(&part).map_err(|e| failed("write", &part, e))?;
        let mut writer = Writer { path: path.to_owned(), part, file: BufWriter::new(file), left: header.rows };
        let json = serde_json::to_vec(header).expect("a header is JSON");
        writer.write(MAGIC)?;
        writer.write(&(json.len() as u64).to_le_bytes())?;
        writer.write(&json)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| failed("write", &self.part, e))
    }

    pub(super) fn push(&mut self, top: &TopK) -> Result<()> {
        let ids = top.ids.iter().flat_map(|id| id.to_le_bytes());
        let logs = top.log_probs.iter().flat_map(|x| x.to_le_bytes());
        let bytes: Vec<u8> = ids.chain(logs).chain(top.tail_mass.to_le_bytes()).collect();
        self.left = self.left.saturating_sub(1);
        self.write(&bytes)
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        if self.left > 0 {
            let why = format!("{} rows were not seen", self.left);
            return Err(Error::Reference { path: self.part.clone(), why });
        }
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        flushed.and_then(|()| std::fs::rename(&self.part, &self.path)).map_err(|e| failed("write", &self.path, e))
    }
}

impl Drop for Writer {
    /// Takes an unfinished file away; a finished one has its own name by now.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part);
    }
}

/// Reads a reference record by record.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    k: usize,
    record: Vec<u8>,
}

impl Reader {
    /// Opens a file and compares its header with the one `here` makes for its `k`.
    pub(super) fn open(path: &Path, here: impl Fn(usize) -> Header) -> Result<Reader> {
        let bad = |why: &str| Error::Reference { path: path.to_owned(), why: why.to_owned() };
        let file = File::open(path).map_err(|e| failed("read", path, e))?;
        let size = file.metadata().map_err(|e| failed("read", path, e))?.len();
        let mut file = BufReader::new(file);
        let mut start = [0; 16];
        file.read_exact(&mut start).map_err(|_| bad("it is too short"))?;
        if !start.starts_with(MAGIC) {
            return Err(bad("it begins with other bytes"));
        }
        let length = u64::from_le_bytes(start[8..].try_into().expect("eight bytes"));
        if length > MOST.min(size - 16) {
            return Err(bad("its header is too long"));
        }
        let mut json = vec![0; length as usize];
        file.read_exact(&mut json).map_err(|e| failed("read", path, e))?;
        let header: Header = serde_json::from_slice(&json).map_err(|e| bad(&format!("its header is damaged: {e}")))?;
        header.agrees(&here(header.k))?;
        if header.k == 0 || header.k > header.vocabulary {
            return Err(bad("its rows have no size"));
        }
        let expected = (header.rows as u64).checked_mul(header.record_bytes()).and_then(|n| n.checked_add(16 + length));
        if expected != Some(size) {
            return Err(bad(&format!("it has {size} bytes instead of {}", expected.unwrap_or(u64::MAX))));
        }
        let record = vec![0; header.record_bytes() as usize];
        Ok(Reader { path: path.to_owned(), file, k: header.k, record })
    }

    pub(super) fn pull(&mut self) -> Result<TopK> {
        self.file.read_exact(&mut self.record).map_err(|e| failed("read", &self.path, e))?;
        let (words, _) = self.record.as_chunks::<4>();
        let float = |word: &[u8; 4]| f32::from_le_bytes(*word);
        Ok(TopK {
            ids: words[..self.k].iter().map(|word| u32::from_le_bytes(*word)).collect(),
            log_probs: words[self.k..2 * self.k].iter().map(float).collect(),
            tail_mass: float(&words[2 * self.k]),
        })
    }
}

fn failed(act: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { act, path: path.to_owned(), source }
}
