//! The numbers: matmul, casts, and what else models are computed with.

pub mod cast;
pub mod matmul;
