//! The questions: one file per measure
