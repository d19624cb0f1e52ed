//! Fewer numbers that are not zero.

pub(crate) mod magnitude;
