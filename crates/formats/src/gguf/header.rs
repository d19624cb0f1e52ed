//! A first pass over the header of a GGUF file that believes nothing in it.
//!
//! candle reads the header after this pass. It trusts counts and dimensions more than one should: an alignment of zero
//! or dimensions whose product overflows end the program, and a list of small numbers is held in memory many times
//! over.

use std::collections::BTreeSet;
use std::path::Path;

use brevity_model::BlockKind;

use crate::error::{Error, FileFault, TensorFault};
use crate::header::EMPTY_LIMIT;

/// Elements of all lists of a header together.
const ELEMENT_LIMIT: u64 = 1 << 24;

/// Names that block types have in ggml, by number.
const TYPE_NAMES: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// The types that candle decodes: values and bytes of a block.
const READABLE: &[(u32, usize, usize)] = &[
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (30, 1, 2),
];

/// The block type of a number, if it can be read.
pub fn block_kind(id: u32) -> Option<BlockKind> {
    let (_, values, bytes) = *READABLE.iter().find(|(known, ..)| *known == id)?;
    Some(BlockKind { name: type_name(id), values, bytes })
}

fn type_name(id: u32) -> String {
    TYPE_NAMES.iter().find(|(known, _)| *known == id).map_or_else(|| format!("number {id}"), |(_, name)| (*name).into())
}

/// Checks the header of a file with this content; `file` is named in errors.
///
/// What is checked: magic and version, that all counts and lengths fit in the file, that texts are UTF-8, that no name
/// occurs twice, that every type can be read, that every tensor lies in the file, where it should, and on no other one.
pub fn check(file: &Path, bytes: &[u8]) -> Result<(), Error> {
    let damaged = |fault| Error::File { file: file.to_owned(), fault };
    let mut scan = Scan { bytes, at: 0 };
    let (tensors, alignment) = scan.begin().map_err(damaged)?;

    let mut names = BTreeSet::new();
    let mut ranges = Vec::new();
    for _ in 0..tensors {
        let name = scan.text("the name of a tensor").map_err(damaged)?;
        let broken = |fault| Error::Tensor { tensor: name.to_owned(), file: file.to_owned(), fault };
        let dimensions = scan.u32("a tensor").map_err(damaged)?;
        if dimensions > 4 {
            return Err(broken(TensorFault::Dimensions { count: dimensions }));
        }
        let mut shape =
            (0..dimensions).map(|_| scan.u64("a tensor")).collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        let id = scan.u32("a tensor").map_err(damaged)?;
        let offset = scan.u64("a tensor").map_err(damaged)?;
        let Some(kind) = block_kind(id) else {
            return Err(Error::BlockType { tensor: name.to_owned(), file: file.to_owned(), block: type_name(id) });
        };
        let columns = shape.first().copied().unwrap_or(1);
        if columns % kind.values as u64 != 0 {
            return Err(broken(TensorFault::Block { columns, block: kind.name, values: kind.values }));
        }
        if offset % alignment != 0 {
            return Err(broken(TensorFault::Unaligned { offset, alignment }));
        }
        shape.reverse();
        let count = shape.iter().try_fold(1u64, |count, &n| count.checked_mul(n));
        let needs = count.and_then(|count| (count / kind.values as u64).checked_mul(kind.bytes as u64));
        let Some(needs) = needs else {
            return Err(broken(TensorFault::Size { dtype: kind.name, shape, needs: None, has: bytes.len() as u64 }));
        };
        if needs == 0 && shape.iter().any(|&n| n > EMPTY_LIMIT) {
            return Err(broken(TensorFault::Empty { shape }));
        }
        if !names.insert(name) {
            return Err(broken(TensorFault::Twice));
        }
        ranges.push((offset, needs, name));
    }

    let start = (scan.at as u64).next_multiple_of(alignment);
    let available = (bytes.len() as u64).saturating_sub(start);
    ranges.sort();
    let mut last = (0, "");
    for (begin, needs, name) in ranges {
        let broken = |fault| Error::Tensor { tensor: name.to_owned(), file: file.to_owned(), fault };
        let end = begin.saturating_add(needs);
        if end > available {
            return Err(broken(TensorFault::Range { begin, end, available }));
        }
        if begin < last.0 && needs > 0 {
            return Err(broken(TensorFault::Overlap { begin, end, other: last.1.to_owned() }));
        }
        last = (end.max(last.0), name);
    }
    Ok(())
}

/// A place in the bytes of a header.
struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Everything in front of the list of tensors. Returns their number and the alignment.
    fn begin(&mut self) -> Result<(u64, u64), FileFault> {
        if self.take(4, "the magic number")? != b"GGUF" {
            return Err(FileFault::NotGguf);
        }
        let version = self.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(FileFault::GgufVersion { version });
        }
        // A tensor takes at least a name, dimensions, a type and an offset; a key a name, a type and a value.
        let tensors = self.count("tensors", 8 + 4 + 4 + 8)?;
        let keys = self.count("keys", 8 + 4 + 1)?;
        let mut known = BTreeSet::new();
        let mut elements = 0;
        let mut alignment = 32;
        for _ in 0..keys {
            let key = self.text("a key")?;
            if !known.insert(key) {
                return Err(FileFault::KeyTwice { key: key.to_owned() });
            }
            let id = self.u32("a value")?;
            let value = self.at;
            self.value(key, id, &mut elements)?;
            if key == "general.alignment" {
                // candle takes the alignment from integers of up to 32 bits and the default otherwise.
                let number = self.bytes[value..self.at].iter().rev().fold(0u64, |n, &byte| n << 8 | byte as u64);
                if !matches!(id, 0..=5) || !number.is_power_of_two() || number > 1 << 20 {
                    return Err(FileFault::Alignment { alignment: number });
                }
                alignment = number;
            }
        }
        Ok((tensors, alignment))
    }

    /// A value of type `id`.
    fn value(&mut self, key: &str, id: u32, elements: &mut u64) -> Result<(), FileFault> {
        let unknown = |id| FileFault::ValueType { key: key.to_owned(), id };
        match id {
            7 => self.flag(key),
            8 => self.text("a text").map(drop),
            9 => {
                let id = self.u32("a list")?;
                let least = if id == 8 { 8 } else { width(id).ok_or_else(|| unknown(id))? };
                let count = self.count("elements of a list", least as u64)?;
                *elements += count;
                if *elements > ELEMENT_LIMIT {
                    return Err(FileFault::Count {
                        what: "elements of lists",
                        count: *elements,
                        at_byte: self.at as u64,
                    });
                }
                match id {
                    7 => (0..count).try_for_each(|_| self.flag(key)),
                    8 => (0..count).try_for_each(|_| self.text("a text").map(drop)),
                    _ => self.take(count as usize * least, "a list").map(drop),
                }
            }
            _ => self.take(width(id).ok_or_else(|| unknown(id))?, "a value").map(drop),
        }
    }

    fn flag(&mut self, key: &str) -> Result<(), FileFault> {
        match self.take(1, "a value")?[0] {
            0 | 1 => Ok(()),
            byte => Err(FileFault::Flag { key: key.to_owned(), byte }),
        }
    }

    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], FileFault> {
        let cut = FileFault::Cut { what, at_byte: self.at as u64 };
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(cut)?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, FileFault> {
        Ok(u32::from_le_bytes(self.take(4, what)?.try_into().expect("four bytes were taken")))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, FileFault> {
        Ok(u64::from_le_bytes(self.take(8, what)?.try_into().expect("eight bytes were taken")))
    }

    /// A number of things of at least `least` bytes each, which must fit in the rest of the file.
    fn count(&mut self, what: &'static str, least: u64) -> Result<u64, FileFault> {
        let at_byte = self.at as u64;
        let count = self.u64(what)?;
        if count > (self.bytes.len() - self.at) as u64 / least.max(1) {
            return Err(FileFault::Count { what, count, at_byte });
        }
        Ok(count)
    }

    /// A text without zero bytes at its end, which candle would cut off.
    fn text(&mut self, what: &'static str) -> Result<&'a str, FileFault> {
        let length = self.count(what, 1)?;
        let at = self.at as u64;
        let bytes = self.take(length as usize, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.trim_end_matches('\0')),
            Err(e) => Err(FileFault::HeaderNotText { at_byte: at + e.valid_up_to() as u64 }),
        }
    }
}

/// Bytes of a number of this type.
fn width(id: u32) -> Option<usize> {
    Some(match id {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}
