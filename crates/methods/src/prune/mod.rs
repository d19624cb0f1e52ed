//! Fewer numbers that are not zero.

pub(crate) mod magnitude;
mod pattern;
pub(crate) mod sparsegpt;
