//! The bytes: checkpoints in and out.
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and are read as they lie; big-endian machines are not supported");

mod container;
mod error;
mod folder;
mod header;
#[allow(unsafe_code)]
mod map;
mod safetensors;
mod view;

pub use crate::safetensors::SafetensorsFiles;
pub use container::{Container, Raw};
pub use error::{Error, FileFault, TensorFault};
pub use folder::Folder;
pub use header::{Header, HeaderEntry};
pub use map::Bytes;
pub use view::ViewFault;
