//! The bytes: checkpoints in and out.
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and are read as they lie; big-endian machines are not supported");

mod container;
mod error;
mod folder;
mod fp8;
mod header;
mod hf;
#[allow(unsafe_code)]
mod map;
mod safetensors;
#[cfg(test)]
mod testing;
mod view;

pub use crate::safetensors::SafetensorsFiles;
pub use container::{Container, Raw};
pub use error::{Error, FileFault, TensorFault};
pub use folder::Folder;
pub use fp8::Fp8;
pub use header::{Header, HeaderEntry};
pub use hf::{Index, WeightFiles};
pub use map::Bytes;
pub use view::ViewFault;
