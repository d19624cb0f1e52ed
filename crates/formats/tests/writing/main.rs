//! Writing checkpoints and reading them back.

#[path = "../common/mod.rs"]
mod common;

mod battery;
mod models;
mod output;
mod vectors;
