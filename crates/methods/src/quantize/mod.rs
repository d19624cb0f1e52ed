//! Fewer bits for each number.

pub(crate) mod gptq;
pub(crate) mod grid;
pub(crate) mod rtn;
