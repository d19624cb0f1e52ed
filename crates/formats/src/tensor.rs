//! One tensor of a file to be written: its name, type and shape, and its bytes.

use brevity_model::Dtype;

/// Name, type and shape of one stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name in the file.
    pub name: String,
    /// The name of its type in safetensors files, such as `BF16`.
    pub dtype: &'static str,
    /// Its dimensions, slowest first.
    pub shape: Vec<usize>,
}

/// One stored tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name, type and shape.
    pub spec: TensorSpec,
    /// Its bytes, little-endian, row-major; as many as [`TensorSpec::bytes`] says.
    pub data: Vec<u8>,
}

impl TensorSpec {
    /// The tensor of this name, type and shape.
    pub fn new(name: impl Into<String>, dtype: &'static str, shape: impl Into<Vec<usize>>) -> Self {
        TensorSpec { name: name.into(), dtype, shape: shape.into() }
    }

    /// How many bytes its values take.
    pub fn bytes(&self) -> u64 {
        let count: u64 = self.shape.iter().map(|&n| n as u64).product();
        (count * dtype_bits(self.dtype)).div_ceil(8)
    }

    /// The same with its bytes.
    pub(crate) fn with(self, data: Vec<u8>) -> Tensor {
        debug_assert_eq!(self.bytes(), data.len() as u64, "{self:?}");
        Tensor { spec: self, data }
    }
}

/// Bits of one value of a safetensors type.
pub(crate) fn dtype_bits(dtype: &str) -> u64 {
    match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => 8,
    }
}

/// The name of a type in safetensors files.
pub(crate) fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
        Dtype::F8E4m3 => "F8_E4M3",
    }
}
