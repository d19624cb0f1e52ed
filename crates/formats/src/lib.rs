//! The bytes: checkpoints in and out
