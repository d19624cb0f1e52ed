//! The bytes: checkpoints in and out.
//!
//! A [`Checkpoint`] is a model on disk: a directory as transformers writes it, a GGUF file, or what this program has
//! written. Opening one reads headers alone, however large it is; weights are read stage by stage, and the memory they
//! were mapped into is given back. What comes out is the same whatever held it: a tree of weights under the names and in
//! the orientation of the checkpoint. A [`Format`] turns such a tree into tensors again, and an [`Output`] is the
//! directory they are written to, whole or not at all.
//!
//! ```
//! use brevity_formats::{Bytes, Container, SafetensorsFiles};
//!
//! let header = r#"{"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
//! let mut file = (header.len() as u64).to_le_bytes().to_vec();
//! file.extend(header.as_bytes());
//! file.extend([1.5f32, -2.0].map(f32::to_le_bytes).concat());
//!
//! let files = SafetensorsFiles::from_bytes(vec![("w.safetensors".into(), Bytes::owned(file))])?;
//! assert_eq!(files.load("w")?.to_f32(), [1.5, -2.0]);
//! # Ok::<(), brevity_formats::Error>(())
//! ```
//!
//! Nothing in a file is believed before it is checked: lengths, types, ranges and names of files come from strangers.
//!
//! This crate runs no model and changes no weight: see `brevity-runtime` and `brevity-methods`.
#![deny(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("weight files are little-endian and are read as they lie; big-endian machines are not supported");

mod carried;
mod checkpoint;
mod coded;
mod compressed_tensors;
mod container;
mod custom;
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
mod renumber;
mod safetensors;
mod tensor;
#[cfg(test)]
mod testing;
mod tokenizer;
mod unholdable;
mod view;

pub use crate::safetensors::SafetensorsFiles;
pub use carried::{carried_files, module_folders};
pub use checkpoint::{Checkpoint, Open};
pub use coded::CodedFault;
pub use compressed_tensors::{CompressedFiles, CompressedTensors, open as open_compressed_tensors};
pub use container::{Container, Files, Raw};
pub use custom::{Custom, CustomFiles, open as open_custom};
pub use dense::{Dense, multiplied_out, multiplied_out_form};
pub use error::{Error, FileFault, HubFault, TensorFault, VocabularyFault};
pub use folder::Folder;
pub use format::{FORMATS, Format, Opens, behind, format};
pub use fp8::Fp8;
pub use gather::{StageView, laid};
pub use gguf::{GGUF_ABOUT, GGUF_CONSUMERS, Gguf, GgufAbout, GgufExport, GgufFault, GgufNote, GgufType, NoVocabulary};
pub use header::{Header, HeaderEntry};
pub use hf::{Index, WeightFiles};
pub use map::Bytes;
pub use native::{Native, NativeFiles, open as open_native};
pub use output::{INDEX, NATIVE_INDEX, Output, OutputFault, free_bytes, predicted_bytes};
pub use renumber::Renumber;
pub use tensor::{Tensor, TensorSpec};
pub use tokenizer::{check_tokenizer, read_tokenizer};
pub use unholdable::Why;
pub use view::ViewFault;
