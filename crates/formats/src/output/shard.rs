//! One safetensors file before its data: name, header, exact size.

use crate::tensor::{TensorSpec, dtype_bits};

/// A file that will hold the tensors of one stage.
#[derive(Debug)]
pub(super) struct Shard {
    /// Its name.
    pub file: String,
    /// Its tensors in the order of their bytes: wide types first, so that each starts where its type may.
    pub specs: Vec<TensorSpec>,
    /// Everything before the data: the length of the JSON, the JSON, and spaces up to a multiple of eight.
    pub header: Vec<u8>,
    /// Bytes of all tensors.
    pub data_bytes: u64,
}

impl Shard {
    pub fn new(file: String, specs: &[TensorSpec]) -> Self {
        let mut specs = specs.to_vec();
        specs.sort_by(|a, b| dtype_bits(b.dtype).cmp(&dtype_bits(a.dtype)).then_with(|| a.name.cmp(&b.name)));
        // Written by hand because the order of the keys is the order of the data.
        let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
        let mut at = 0;
        for spec in &specs {
            let end = at + spec.bytes();
            let name = serde_json::Value::from(spec.name.as_str());
            let shape = spec.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            json += &format!(r#",{name}:{{"dtype":"{}","shape":[{shape}],"data_offsets":[{at},{end}]}}"#, spec.dtype);
            at = end;
        }
        json.push('}');
        json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json.into_bytes());
        Shard { file, specs, header, data_bytes: at }
    }

    pub fn size_bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_types_come_first_and_the_header_is_padded() {
        let specs = [
            TensorSpec::new("b", "U8", [3]),
            TensorSpec::new("a\"", "BF16", [2, 2]),
            TensorSpec::new("c", "I64", [2]),
            TensorSpec::new("s", "F32", []),
        ];
        let shard = Shard::new("f".into(), &specs);
        let text = std::str::from_utf8(&shard.header[8..]).unwrap();
        assert_eq!(
            text.trim_end(),
            concat!(
                r#"{"__metadata__":{"format":"pt"},"c":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},"#,
                r#""s":{"dtype":"F32","shape":[],"data_offsets":[16,20]},"#,
                r#""a\"":{"dtype":"BF16","shape":[2,2],"data_offsets":[20,28]},"#,
                r#""b":{"dtype":"U8","shape":[3],"data_offsets":[28,31]}}"#
            )
        );
        assert_eq!(shard.header.len() % 8, 0);
        assert_eq!(u64::from_le_bytes(shard.header[..8].try_into().unwrap()), text.len() as u64);
        assert_eq!(shard.size_bytes(), shard.header.len() as u64 + 31);
    }
}
