//! The bytes: checkpoints in and out.
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and are read as they lie; big-endian machines are not supported");

mod carried;
mod checkpoint;
mod coded;
mod compressed_tensors;
mod container;
mod dense;
mod error;
mod finite;
mod folder;
mod format;
mod fp8;
mod gather;
mod gguf;
mod header;
mod hf;
#[cfg(feature = "hub")]
pub mod hub;
#[allow(unsafe_code)]
mod map;
mod native;
mod output;
mod safetensors;
mod tensor;
#[cfg(test)]
mod testing;
mod tokenizer;
mod unholdable;
mod view;

pub use crate::safetensors::SafetensorsFiles;
pub use carried::carried_files;
pub use checkpoint::{Checkpoint, Open};
pub use coded::CodedFault;
pub use compressed_tensors::{CompressedFiles, CompressedTensors, open as open_compressed_tensors};
pub use container::{Container, Raw};
pub use dense::Dense;
pub use error::{Error, FileFault, HubFault, TensorFault, VocabularyFault};
pub use folder::Folder;
pub use format::{FORMATS, Format, format};
pub use fp8::Fp8;
pub use gather::StageView;
pub use gguf::Gguf;
pub use header::{Header, HeaderEntry};
pub use hf::{Index, WeightFiles};
pub use map::Bytes;
pub use native::{Native, NativeFiles, open as open_native};
pub use output::{INDEX, Output, OutputFault, free_bytes, predicted_bytes};
pub use tensor::{Tensor, TensorSpec};
pub use tokenizer::{check_tokenizer, read_tokenizer};
pub use unholdable::Why;
pub use view::ViewFault;
