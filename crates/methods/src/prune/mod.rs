//! Fewer numbers that are not zero.

pub(crate) mod allocate;
pub(crate) mod magnitude;
mod pattern;
mod remove;
mod select;
pub(crate) mod sparsegpt;
pub(crate) mod wanda;
