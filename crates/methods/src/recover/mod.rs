//! Making up for what other steps took.

pub(crate) mod bias;
pub(crate) mod retarget;
