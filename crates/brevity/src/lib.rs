//! The front door for applications: load, compress, run and evaluate transformer checkpoints
