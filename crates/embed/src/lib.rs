//! Texts to vectors: encoders, what stands behind them, and the directories of sentence-transformers they come in.
//!
//! An [`Encoder`] is a transformer, a [`Pooling`] of the states of its tokens, and the layers of [`Modules`] behind that:
//!
//! ```no_run
//! use brevity_embed::{Ask, Encoder, Load};
//!
//! let checkpoint = brevity_formats::Checkpoint::open("all-MiniLM-L6-v2".as_ref())?;
//! let encoder = Encoder::load(&checkpoint, &Load { layers: Some(3), ..Load::default() })?;
//! let vectors = encoder.encode(&["a text"], &Ask { dims: Some(128), ..Ask::default() })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Vectors become codes of few bits by a [`Codec`](codec::Codec), which is fitted to some of them and scores the codes of others:
//!
//! ```
//! use brevity_embed::codec::{Codec, Index, Settings, Vectors};
//!
//! // four vectors of two dimensions
//! let corpus = Vectors::new(&[1.0, 0.1, -0.2, 0.9, -0.7, -0.7, 0.8, -0.6], 2)?;
//! let codec = Codec::fit(corpus, &Settings::Int8, 0)?;
//! let codes = codec.encode(corpus)?;
//! assert_eq!(codes.size_bytes(), 8);
//! let found = Index::new(&codec, &codes)?.search(Vectors::new(&[0.0, 1.0], 2)?, 1)?;
//! assert_eq!(found[0][0].row, 1);
//! # Ok::<(), brevity_embed::codec::Error>(())
//! ```
//!
//! Vectors are looked for by their dot product, which is the cosine if they have unit length. Search reads all codes: it is exact on
//! them, and made for up to some millions, not for a cluster of machines.
//!
//! This crate scores no vectors (see `brevity-eval`) and rewrites no weights (see `brevity-methods`).
#![forbid(unsafe_code)]

mod clusters;
pub mod codec;
mod embedder;
mod encoder;
mod error;
mod fit;
pub mod modules;
mod pool;
mod random;
mod rotate;
mod statics;
mod tokens;
pub mod train;
mod vectors;
mod written;

pub use embedder::Embedder;
pub use encoder::{Ask, Encoder, Load, normalise};
pub use error::{Error, Result};
pub use fit::{Fitted, fit};
pub use modules::Modules;
pub use pool::Pooling;
pub use rotate::Rotation;
pub use statics::{Distill, Rows, StaticModel, Table, TableType, distill, is_static, is_static_at};
pub use vectors::Vectors;
pub use written::write_files;
