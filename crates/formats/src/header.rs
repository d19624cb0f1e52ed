//! Headers of safetensors files, checked before anything in them is used.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype as Stored;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::error::{Error, FileFault, TensorFault};

/// Bytes that a header may have at most, as in the reference implementation.
const HEADER_LIMIT: u64 = 100_000_000;

/// The largest dimension of a tensor that has no bytes.
pub(crate) const EMPTY_LIMIT: u64 = 1 << 24;

/// What one header says, checked against the size of its file.
#[derive(Debug)]
pub struct Header {
    /// The tensors by name.
    pub tensors: BTreeMap<String, HeaderEntry>,
    /// The texts under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// One tensor of a header.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderEntry {
    /// Its number type.
    pub dtype: Stored,
    /// Its dimensions, slowest first.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the start of the file.
    pub range: Range<usize>,
}

impl Header {
    /// Reads and checks the header of a file with this content.
    ///
    /// Types are known, ranges lie in the file and have the length that type and shape ask for, no two tensors share
    /// a byte, and every byte belongs to a tensor. `file` is named in errors.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let damaged = |fault| Error::File { file: file.to_owned(), fault };
        let size = bytes.len() as u64;
        let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
            return Err(damaged(FileFault::TooShort { size }));
        };
        let claimed = u64::from_le_bytes(*length);
        if claimed > rest.len() as u64 || claimed > HEADER_LIMIT {
            return Err(damaged(FileFault::HeaderLength { claimed, size, limit: HEADER_LIMIT }));
        }
        let (header, data) = rest.split_at(claimed as usize);
        let text = std::str::from_utf8(header)
            .map_err(|e| damaged(FileFault::HeaderNotText { at_byte: 8 + e.valid_up_to() as u64 }))?;
        let Pairs(pairs) =
            serde_json::from_str(text).map_err(|e| damaged(FileFault::HeaderJson { what: e.to_string() }))?;

        let start = 8 + header.len();
        let mut tensors = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (tensor, value) in pairs {
            if tensor == "__metadata__" {
                metadata = serde_json::from_value(value)
                    .map_err(|e| damaged(FileFault::HeaderJson { what: format!("`__metadata__`: {e}") }))?;
                continue;
            }
            let broken = |fault| Error::Tensor { tensor: tensor.clone(), file: file.to_owned(), fault };
            let entry = entry(&value, start, data.len()).map_err(broken)?;
            if tensors.insert(tensor.clone(), entry).is_some() {
                return Err(broken(TensorFault::Twice));
            }
        }
        cover(&tensors, start, bytes.len(), file)?;
        Ok(Header { tensors, metadata })
    }
}

/// One entry of a header whose data begin at byte `start` of the file and are `available` bytes long.
fn entry(value: &Value, start: usize, available: usize) -> Result<HeaderEntry, TensorFault> {
    let wrong = |what: &str| TensorFault::Entry { what: what.to_owned() };
    let number = |value: &Value| value.as_u64().ok_or_else(|| wrong("a dimension or offset is not a whole number"));
    let field = |name: &str| value.get(name).ok_or_else(|| wrong(&format!("`{name}` is missing")));

    let name = field("dtype")?.as_str().ok_or_else(|| wrong("`dtype` is not a text"))?;
    let dtype: Stored = serde_json::from_value(Value::from(name))
        .map_err(|_| TensorFault::Dtype { dtype: name.chars().take(64).collect() })?;
    let shape = field("shape")?.as_array().ok_or_else(|| wrong("`shape` is not a list"))?;
    let shape: Vec<u64> = shape.iter().map(number).collect::<Result<_, _>>()?;
    let offsets = field("data_offsets")?.as_array().ok_or_else(|| wrong("`data_offsets` is not a list"))?;
    let [begin, end] = offsets.as_slice() else { return Err(wrong("`data_offsets` are not two numbers")) };
    let (begin, end) = (number(begin)?, number(end)?);
    if begin > end || end > available as u64 {
        return Err(TensorFault::Range { begin, end, available: available as u64 });
    }

    let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, &n| bits.checked_mul(n));
    let needs = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
    if needs != Some(end - begin) {
        return Err(TensorFault::Size { dtype: name.to_owned(), shape, needs, has: end - begin });
    }
    // The size of a tensor without bytes bounds none of its dimensions.
    if shape.contains(&0) && shape.iter().any(|&n| n > EMPTY_LIMIT) {
        return Err(TensorFault::Empty { shape });
    }
    let shape = shape.into_iter().map(usize::try_from).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| wrong("a dimension is too large"))?;
    Ok(HeaderEntry { dtype, shape, range: start + begin as usize..start + end as usize })
}

/// Checks that the ranges lie one behind the other from `start` to `end`.
fn cover(tensors: &BTreeMap<String, HeaderEntry>, start: usize, end: usize, file: &Path) -> Result<(), Error> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(_, entry)| (entry.range.start, entry.range.end));
    let mut covered = start;
    let mut last = "";
    let hole = |from: usize, to: usize| {
        let fault = FileFault::Uncovered { start: (from - start) as u64, end: (to - start) as u64 };
        Err(Error::File { file: file.to_owned(), fault })
    };
    for (name, entry) in sorted {
        let Range { start: begin, end } = entry.range;
        if begin < covered && begin < end {
            let (begin, end) = ((begin - start) as u64, (end - start) as u64);
            let fault = TensorFault::Overlap { begin, end, other: last.to_owned() };
            return Err(Error::Tensor { tensor: name.clone(), file: file.to_owned(), fault });
        }
        if begin > covered {
            return hole(covered, begin);
        }
        if end > covered {
            (covered, last) = (end, name);
        }
    }
    if covered < end { hole(covered, end) } else { Ok(()) }
}

/// The pairs of a JSON object in the order of the text, names that occur twice included.
struct Pairs(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with an entry for each tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this header and `data` bytes of data.
    fn file(header: &str, data: usize) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    }

    fn parse(bytes: &[u8]) -> Result<Header, Error> {
        Header::parse(Path::new("m.safetensors"), bytes)
    }

    /// The message for a file with this header and `data` bytes of data.
    fn message(header: &str, data: usize) -> String {
        parse(&file(header, data)).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_header_is_read() {
        let text = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
            "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}  "#;
        let bytes = file(text, 16);
        let header = parse(&bytes).unwrap();
        let start = bytes.len() - 16;
        assert_eq!(header.metadata["format"], "pt");
        assert_eq!(header.tensors["a"].range, start..start + 4);
        assert_eq!(
            header.tensors["b"],
            HeaderEntry { dtype: Stored::BF16, shape: vec![2, 3], range: start + 4..start + 16 }
        );
        assert!(parse(&file("{}", 0)).unwrap().tensors.is_empty());
    }

    #[test]
    fn zero_length_and_one_row_tensors_are_sound() {
        let text = r#"{"empty":{"dtype":"F32","shape":[0,5],"data_offsets":[8,8]},
            "first":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},
            "row":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},
            "middle":{"dtype":"F32","shape":[7,0],"data_offsets":[4,4]}}"#;
        assert_eq!(parse(&file(text, 8)).unwrap().tensors.len(), 4);
    }

    #[test]
    fn a_header_that_claims_2_to_the_60_bytes_is_refused() {
        let mut bytes = file("{}", 0);
        bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
        let error = parse(&bytes).unwrap_err();
        assert!(
            matches!(error, Error::File { fault: FileFault::HeaderLength { claimed, .. }, .. } if claimed == 1 << 60)
        );
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(parse(&bytes).is_err());
    }

    #[test]
    fn a_truncated_file_is_refused_wherever_it_ends() {
        let whole = file(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4);
        assert!(parse(&whole).is_ok());
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length} bytes");
        }
        let cut = parse(&whole[..whole.len() - 1]).unwrap_err();
        assert_eq!(
            cut.to_string(),
            "tensor `a` in `m.safetensors` is damaged: it claims bytes 0..4 of the 3 bytes of data"
        );
        assert!(cut.hint().unwrap().contains("fetch it again"));
    }

    #[test]
    fn a_header_that_is_not_utf8_is_refused_with_the_byte() {
        let mut bytes = file(r#"{"a":1}"#, 0);
        bytes[8 + 2] = 0xFF;
        let error = parse(&bytes).unwrap_err();
        assert!(matches!(error, Error::File { fault: FileFault::HeaderNotText { at_byte: 10 }, .. }));
    }

    #[test]
    fn overlapping_tensors_are_refused_by_name() {
        let text = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
            "b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#;
        let message = message(text, 7);
        assert_eq!(message, "tensor `b` in `m.safetensors` is damaged: its bytes 3..7 overlap those of `a`");
    }

    #[test]
    fn each_fault_is_named() {
        let one = |entry: &str| format!(r#"{{"a":{entry}}}"#);
        let sound = r#""dtype":"F32","shape":[2],"data_offsets":[0,8]"#;
        for (header, data, part) in [
            ("[]".into(), 0, "its header is not valid"),
            ("{".into(), 0, "its header is not valid"),
            (r#"{"__metadata__":{"n":1}}"#.into(), 0, "`__metadata__`"),
            (one(r#"{"dtype":"F7","shape":[2],"data_offsets":[0,8]}"#), 8, "its type `F7` is not known"),
            (one(r#"{"dtype":4,"shape":[2],"data_offsets":[0,8]}"#), 8, "`dtype` is not a text"),
            (one(r#"{"shape":[2],"data_offsets":[0,8]}"#), 8, "`dtype` is missing"),
            (one(r#"{"dtype":"F32","shape":2,"data_offsets":[0,8]}"#), 8, "`shape` is not a list"),
            (one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#), 8, "not a whole number"),
            (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0]}"#), 8, "not two numbers"),
            (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#), 8, "it claims bytes 8..0"),
            (
                one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#),
                8,
                "shape [3] of F32 needs 12 bytes, but it has 8",
            ),
            (
                one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#),
                8,
                "needs too many bytes, but it has 8",
            ),
            (one(r#"{"dtype":"F4","shape":[3],"data_offsets":[0,2]}"#), 2, "shape [3] of F4 needs too many bytes"),
            (one(r#"{"dtype":"F32","shape":[0,1099511627776],"data_offsets":[0,0]}"#), 0, "too large for no values"),
            (format!(r#"{{"a":{{{sound}}},"a":{{{sound}}}}}"#), 8, "the header names it twice"),
            (one(&format!("{{{sound}}}")), 9, "bytes 8..9 of its data belong to no tensor"),
            (
                one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#),
                8,
                "bytes 0..4 of its data belong to no tensor",
            ),
        ] {
            let message = message(&header, data);
            assert!(message.contains(part), "{header}: {message}");
        }
    }
}
