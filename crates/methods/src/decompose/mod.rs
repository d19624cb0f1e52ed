//! Fewer numbers: thin factors in place of one matrix.

pub(crate) mod svd;
