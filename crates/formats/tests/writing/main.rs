//! Writing checkpoints and reading them back.

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod battery;
mod custom;
mod gguf;
mod malformed;
mod models;
mod output;
mod vectors;
