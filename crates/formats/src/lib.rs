//! The bytes: checkpoints in and out.
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and are read as they lie; big-endian machines are not supported");

mod checkpoint;
mod container;
mod error;
mod finite;
mod folder;
mod fp8;
mod gguf;
mod header;
mod hf;
#[allow(unsafe_code)]
mod map;
mod safetensors;
#[cfg(test)]
mod testing;
mod tokenizer;
mod view;

pub use crate::safetensors::SafetensorsFiles;
pub use checkpoint::{Checkpoint, Open};
pub use container::{Container, Raw};
pub use error::{Error, FileFault, TensorFault, VocabularyFault};
pub use folder::Folder;
pub use fp8::Fp8;
pub use gguf::Gguf;
pub use header::{Header, HeaderEntry};
pub use hf::{Index, WeightFiles};
pub use map::Bytes;
pub use tokenizer::{check_tokenizer, read_tokenizer};
pub use view::ViewFault;
