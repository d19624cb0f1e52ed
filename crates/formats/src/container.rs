//! The tensors of some files by their logical names, whatever holds them.

use brevity_model::{Form, Site, Slot, Source, Weight};

use crate::error::Error;
use crate::view;

/// The tensors of some files, by logical name.
///
/// A *stored* tensor is what a file has: a name, a type, a shape, bytes. A *logical* tensor is what the model has: an
/// FP8 weight and its scales, or packed integers with scales and zero points, are several stored tensors and one
/// logical one.
pub trait Container: Send + Sync {
    /// Names of the logical tensors, sorted.
    fn names(&self) -> Vec<String>;

    /// How a logical tensor is stored: a matrix as `[rows, columns]`, a vector as `[1, n]`. `None` if there is none of
    /// this name, or if it is neither of these, or holds something other than numbers that weights are made of.
    fn form(&self, name: &str) -> Option<Form>;

    /// The whole logical tensor in its stored code, copied out of the file.
    fn load(&self, name: &str) -> Result<Weight, Error>;

    /// The part of a logical tensor that a source names.
    fn load_view(&self, source: &Source) -> Result<Weight, Error> {
        view::of_weight(self.load(&source.tensor)?, &source.view, source.form.shape())
            .map_err(|fault| Error::View { tensor: source.tensor.clone(), fault })
    }

    /// Where the weight of a site is, for containers that know it by site: its tensor, form and view in the checkpoint
    /// that it comes from.
    fn source_at(&self, _site: &Site, _slot: Slot) -> Option<Source> {
        None
    }

    /// Whether a logical tensor is a bias that readers of the architecture do not look for, and only ours do.
    fn is_added(&self, _tensor: &str) -> bool {
        false
    }

    /// Names of the stored tensors that make up a logical one; empty if there is none of this name.
    fn parts(&self, name: &str) -> Vec<String>;

    /// The files that the stored tensors are in.
    fn files(&self) -> &dyn Files;

    /// Names of the stored tensors, sorted.
    fn stored(&self) -> Vec<String> {
        self.files().stored()
    }

    /// A stored tensor.
    fn raw(&self, stored: &str) -> Option<Raw<'_>> {
        self.files().raw(stored)
    }

    /// Gives the memory of stored tensors back to the system. They can still be read.
    fn release(&self, stored: &[String]) {
        self.files().release(stored);
    }

    /// Bytes of the files with weights.
    fn size_bytes(&self) -> u64 {
        self.files().size_bytes()
    }
}

/// Files of stored tensors; whatever understands them in another way has the same ones.
pub trait Files: Send + Sync {
    /// Names of the stored tensors, sorted.
    fn stored(&self) -> Vec<String>;

    /// A stored tensor.
    fn raw(&self, stored: &str) -> Option<Raw<'_>>;

    /// Gives the memory of stored tensors back to the system. They can still be read.
    fn release(&self, stored: &[String]);

    /// Bytes of the files with weights.
    fn size_bytes(&self) -> u64;
}

/// One stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a> {
    /// The name of its type: as safetensors names it (`BF16`), or a block type of GGUF files (`Q4_K`).
    pub dtype: &'static str,
    /// Its dimensions, slowest first.
    pub shape: &'a [usize],
    /// Its bytes as they are in the file.
    pub bytes: &'a [u8],
}
