//! The maths of compression: one file per method.
//!
//! A method is a function on one layer ([`LinearMethod::rewrite`]) that can also say what it will leave behind
//! without seeing the weights ([`LinearMethod::predict`]). All methods are in one list, [`METHODS`], from which
//! recipe keys, help and the test battery are made.
//!
//! ```
//! use brevity_methods::{Cx, method};
//! use brevity_model::{Floats, Linear, Weight};
//! use serde_json::json;
//!
//! let site = "blocks.0.mlp.up".parse().unwrap();
//! let weight = Weight::float([1, 4], Floats::F32(vec![0.9, -0.1, 0.2, -0.7]));
//! let mut layer = Linear { weight, bias: None };
//! method("prune.magnitude", json!({"sparsity": 0.5}))?.rewrite(&mut layer, &mut Cx::new(&site, 0))?;
//! assert_eq!(layer.weight.to_f32(), [0.9, 0.0, 0.0, -0.7]);
//! # Ok::<(), brevity_methods::Error>(())
//! ```
//!
//! This crate opens no files and runs no model: it takes and gives `brevity-model`'s layers.
#![forbid(unsafe_code)]

mod block;
mod compensation;
mod cores;
mod cut;
mod error;
mod even;
mod inputs;
mod ladder;
mod leaves;
mod method;
mod rate;
mod refit;
#[cfg(test)]
mod samples;
mod seen;
mod settings;
mod shares;
mod stream;
#[cfg(test)]
mod testing;

/// Fewer numbers that are not zero.
mod prune {
    pub(crate) mod allocate;
    pub(crate) mod channels;
    pub(crate) mod heads;
    pub(crate) mod layers;
    pub(crate) mod magnitude;
    mod pattern;
    mod remove;
    mod select;
    pub(crate) mod sparsegpt;
    pub(crate) mod wanda;
}

/// Fewer numbers: thin factors in place of one matrix.
mod decompose {
    pub(crate) mod afm;
    pub(crate) mod asvd;
    mod directions;
    mod factors;
    pub(crate) mod modegpt;
    pub(crate) mod mpo;
    mod ranks;
    pub(crate) mod slice;
    pub(crate) mod svd;
    pub(crate) mod svd_llm;
}

/// Changing what a model does, not what it takes.
mod adjust {
    pub(crate) mod temperature;
}

/// Fewer bits for each number.
mod quantize {
    pub(crate) mod gptq;
    pub(crate) mod grid;
    pub(crate) mod rtn;
}

/// Making up for what other steps took.
mod recover {
    pub(crate) mod bias;
    pub(crate) mod norm;
    pub(crate) mod residual;
    pub(crate) mod retarget;
    mod ridge;
}

use std::sync::Arc;

use serde_json::Value;

pub use adjust::temperature::Temperature;
pub use block::{BlockCx, BlockMethod, BlockSurvey, Influence, Part, Sizes, part_of};
pub use decompose::afm::Afm;
pub use decompose::asvd::Asvd;
pub use decompose::modegpt::Modegpt;
pub use decompose::mpo::Mpo;
pub use decompose::slice::Slice;
pub use decompose::svd::Svd;
pub use decompose::svd_llm::SvdLlm;
pub use error::{Error, Result};
pub use even::even;
pub use inputs::{Auto, Damp, Order};
pub use method::{Cx, LinearMethod, Method, Survey, surveyed};
pub use prune::channels::Channels;
pub use prune::heads::Heads;
pub use prune::layers::Layers;
pub use prune::magnitude::Magnitude;
pub use prune::sparsegpt::SparseGpt;
pub use prune::wanda::Wanda;
pub use quantize::gptq::{Choice, Gptq, Groups};
pub use quantize::grid::{Clip, GridSettings, Ragged, ScaleDtype, Share, Whole};
pub use quantize::rtn::Rtn;
pub use rate::coding_rate;
pub use recover::bias::Bias;
pub use recover::norm::Norm;
pub use recover::residual::Residual;
pub use recover::retarget::Retarget;
pub use seen::{Both, Fold, Gap, Needs, Seen, Shared};
pub use settings::Setting;
pub use stream::{Directions, StreamMethod};

/// What a method does to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Takes channels, heads, dimensions or layers out of whole sublayers, or dimensions out of the residual stream.
    Reduce,
    /// Aims the layer at what it should return, before anything is taken from it.
    Retarget,
    /// Removes entries.
    Prune,
    /// Puts factors in place of a matrix.
    Decompose,
    /// Codes numbers with fewer bits.
    Quantize,
    /// Corrects what the steps before left.
    Correct,
}

/// A method in the list: all that a recipe, a help page or a test needs to know of it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its key in recipes: `quantize.rtn`.
    pub name: &'static str,
    /// One sentence on what it does.
    pub about: &'static str,
    /// What can be set.
    pub settings: &'static [Setting],
    /// The method with settings from JSON, an object or `null`.
    pub parse: Parse,
    /// What it does to a layer.
    pub kind: Kind,
}

impl Entry {
    /// The method with settings from JSON, an object or `null`.
    ///
    /// # Errors
    /// Whatever the method says of its settings.
    pub fn read(&self, settings: Value) -> Result<Method> {
        Ok(match self.parse {
            Parse::Linear(parse) => Method::Linear(parse(settings)?),
            Parse::Block(parse) => Method::Block(parse(settings)?),
            Parse::Stream(parse) => Method::Stream(parse(settings)?),
        })
    }
}

/// How a method is made from settings.
#[derive(Clone, Copy, Debug)]
pub enum Parse {
    /// One that rewrites one layer at a time.
    Linear(fn(Value) -> Result<Box<dyn LinearMethod>>),
    /// One that rewrites whole sublayers.
    Block(fn(Value) -> Result<Box<dyn BlockMethod>>),
    /// One that changes the residual stream of the whole model.
    Stream(fn(Value) -> Result<Arc<dyn StreamMethod>>),
}

/// All methods, in the order in which they make sense in a recipe.
pub const METHODS: &[Entry] = &[
    decompose::slice::ENTRY,
    prune::layers::ENTRY,
    prune::heads::ENTRY,
    prune::channels::ENTRY,
    decompose::modegpt::ENTRY,
    recover::retarget::ENTRY,
    prune::magnitude::ENTRY,
    prune::wanda::ENTRY,
    prune::sparsegpt::ENTRY,
    decompose::svd::ENTRY,
    decompose::asvd::ENTRY,
    decompose::svd_llm::ENTRY,
    decompose::afm::ENTRY,
    decompose::mpo::ENTRY,
    quantize::rtn::ENTRY,
    quantize::gptq::ENTRY,
    recover::norm::ENTRY,
    recover::residual::ENTRY,
    recover::bias::ENTRY,
    adjust::temperature::ENTRY,
];

/// The method of a name that rewrites one layer at a time, with settings from JSON, an object or `null`.
///
/// # Errors
/// [`Error::Method`] for an unknown name, [`Error::Sublayers`] for a method of the other kind, and whatever the method says
/// of its settings.
pub fn method(name: &str, settings: Value) -> Result<Box<dyn LinearMethod>> {
    match any_method(name, settings)? {
        Method::Linear(method) => Ok(method),
        Method::Block(_) | Method::Stream(_) => Err(Error::Sublayers { method: name.to_owned() }),
    }
}

/// The method of a name with settings from JSON, an object or `null`.
///
/// # Errors
/// [`Error::Method`] for an unknown name, and whatever the method says of its settings.
pub fn any_method(name: &str, settings: Value) -> Result<Method> {
    let names: Vec<&'static str> = METHODS.iter().map(|entry| entry.name).collect();
    match METHODS.iter().find(|entry| entry.name == name) {
        Some(entry) => entry.read(settings),
        None => Err(Error::Method { name: name.to_owned(), nearest: settings::nearest(name, &names) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_method_names_the_nearest() {
        let hint = |name| method(name, Value::Null).unwrap_err().hint().unwrap();
        assert_eq!(hint("quantise.rtn"), "did you mean `quantize.rtn`?");
        assert_eq!(hint("svd"), "did you mean `decompose.svd`?");
        assert!(hint("x").starts_with("the methods are decompose.slice, prune.layers, prune.heads, "));
    }
}
