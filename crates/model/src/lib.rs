//! The vocabulary of brevity: what a model is, before anything is done to it.
//!
//! A model is a small typed tree ([`Model`]), generic in what stands for a weight. The same tree is
//! read three ways: `Model<Source>` says where the tensors are, `Model<Weight>` what they are, and
//! `Model<Form>` how they are stored (shape, kind, bits). A weight is an expression over coded
//! matrices ([`Expr`]): a leaf, a product, a sum or a train, where a leaf is a code (float, grid,
//! codebook, rule) and an optional mask. So pruning, decomposition and quantization compose in the type.
//!
//! ```
//! use brevity_model::{Floats, Form, Weight};
//!
//! // A rank-one matrix as a product of a column and a row.
//! let column = Weight::float([2, 1], Floats::F32(vec![1.0, 2.0]));
//! let row = Weight::float([1, 3], Floats::F32(vec![1.0, 0.0, -1.0]));
//! let product = Weight::product(column, row);
//! assert_eq!(product.shape(), [2, 3]);
//! assert_eq!(product.to_f32(), vec![1.0, 0.0, -1.0, 2.0, 0.0, -2.0]);
//! assert_eq!(Form::of(&product).parameters(), 5);
//! ```
//!
//! This crate reads no tensor files and runs no model: see `brevity-formats` and `brevity-runtime`.
#![forbid(unsafe_code)]

mod build;
mod code;
mod config;
mod description;
mod error;
mod expr;
mod form;
mod layers;
mod lookup;
mod loose;
mod mask;
mod rope;
mod site;
mod source;
mod stages;
mod stock;
mod structure;
mod tap;
mod temper;
mod train;
mod tree;
mod walk;

pub use build::build;
pub use code::{Code, Codebook, Dtype, Floats, Grid, Group, Leaf, Rule};
pub use config::Config;
pub use description::architectures;
pub use error::Error;
pub use expr::{Expr, Shaped};
pub use form::{BlockKind, CodeForm, Form, LeafForm, MaskForm};
pub use loose::build_loose;
pub use mask::Mask;
pub use site::{ParseSite, Place, Role, Site, Slot};
pub use source::{Source, View};
pub use stages::{LoadError, Stages, Tensors};
pub use stock::{Reshaped, reshaped};
pub use structure::{BlockRecord, HeadsRecord, STRUCTURE, StreamRecord, Sublayer, stream, structure};
pub use tap::Tap;
pub use temper::scale_queries;
pub use train::Train;
pub use tree::{
    Activation, Attention, Block, Embed, Head, Heads, Linear, LongRope, Loose, Mlp, Model, Norm, NormKind, Reach,
    Relative, Rope, RopeStyle, Stage,
};

/// A weight: an expression over coded matrices.
pub type Weight = Expr<Leaf>;
