//! Fewer bits for each number.

pub(crate) mod rtn;
