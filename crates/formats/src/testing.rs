//! Files for tests, made on the spot.

use crate::map::Bytes;

/// A safetensors file of tensors given by name, type, shape and bytes.
pub(crate) fn safetensors(tensors: &[(&str, &str, &[usize], &[u8])]) -> Bytes {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert((*name).into(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
    }
    let header = serde_json::to_string(&header).unwrap();
    Bytes::owned([&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat())
}
