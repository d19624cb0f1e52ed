//! The maths of compression: one file per method
