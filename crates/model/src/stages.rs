//! Models that are handed out one stage at a time, and the tensors they are made of.

use crate::code::Leaf;
use crate::expr::Expr;
use crate::form::Form;
use crate::site::{Site, Slot};
use crate::source::{Source, View};
use crate::tree::{Model, Stage};

/// Why a stage could not be loaded.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// Anything that can hand out the stages of a model, one at a time.
pub trait Stages: Send + Sync {
    /// Where the weights are, and how they are stored there.
    fn model(&self) -> &Model<Source>;

    /// The weights of stage `stage`.
    ///
    /// # Errors
    /// If they cannot be read.
    fn load(&self, stage: usize) -> Result<Stage<Expr<Leaf>>, LoadError>;

    /// Says that the stage will not be loaded again soon, so memory kept for it can be given back.
    fn release(&self, _stage: usize) {}
}

/// The logical tensors of an opened checkpoint, whatever files hold them.
pub trait Tensors {
    /// Their names, sorted.
    fn names(&self) -> Vec<String>;

    /// How a tensor is stored: matrices are `[rows, columns]`, vectors `[1, n]`.
    ///
    /// `None` if there is no such tensor, or if it is no vector or matrix of floats or codes.
    fn form(&self, name: &str) -> Option<Form>;

    /// Where the weight of a site is, if the container keeps weights by site and has this one.
    fn by_site(&self, site: &Site, slot: Slot) -> Option<Source> {
        let _ = (site, slot);
        None
    }

    /// Where the weight of a site is: by default the part `view` of the tensor called `name`.
    ///
    /// Containers that keep weights by site answer by `site` and `slot` instead.
    fn source(&self, site: &Site, slot: Slot, name: &str, view: View) -> Option<Source> {
        let _ = site;
        let form = view.form(&self.form(name)?, slot);
        Some(Source { tensor: name.to_owned(), form, view })
    }
}
