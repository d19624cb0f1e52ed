//! What can go wrong with vectors, their codes, and the files of both.

use std::path::PathBuf;

use super::Digest;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why vectors cannot be encoded, scored, stored or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing to fit a codec to.
    #[error("a codec cannot be fitted to no vectors")]
    Empty,
    /// Numbers that are no whole count of vectors.
    #[error("{values} numbers are not whole vectors of {width}")]
    Ragged {
        /// How many numbers there are.
        values: usize,
        /// The width they are said to have.
        width: usize,
    },
    /// A vector with NaN or infinity.
    #[error("vector {row} holds {value} in dimension {dimension}")]
    NotFinite {
        /// The vector, counted from zero.
        row: usize,
        /// The dimension, counted from zero.
        dimension: usize,
        /// What is there.
        value: f32,
    },
    /// Vectors of another width than those that the codec was fitted to.
    #[error("vectors of {found} dimensions, where {expected} are expected")]
    Width {
        /// The width of the codec.
        expected: usize,
        /// The width of the vectors.
        found: usize,
    },
    /// Fewer vectors than centroids.
    #[error("{rows} vectors cannot make {clusters} clusters")]
    TooFew {
        /// The vectors there are.
        rows: usize,
        /// The centroids of one part.
        clusters: usize,
    },
    /// Parts that do not divide the width.
    #[error("{parts} parts do not divide {width} dimensions")]
    Parts {
        /// The width of the vectors.
        width: usize,
        /// The parts that were asked for.
        parts: usize,
    },
    /// A setting out of its range.
    #[error("{what} of {found}: it can be {low} to {high}")]
    Setting {
        /// What was set.
        what: &'static str,
        /// To what.
        found: usize,
        /// The least it can be.
        low: usize,
        /// The most it can be.
        high: usize,
    },
    /// Codes of one codec given to another.
    #[error("the codes were made by the codec {}, not by this one, {}", codes.short(), codec.short())]
    Codec {
        /// The codec that made them.
        codes: Digest,
        /// The codec they were given to.
        codec: Digest,
    },
    /// Vectors to score candidates with that are not those of the codes.
    #[error("{found} vectors to score again beside {expected} codes")]
    Rows {
        /// The codes that are searched.
        expected: usize,
        /// The vectors or codes beside them.
        found: usize,
    },
    /// A file cannot be read or written.
    #[error("cannot {act} `{}`: {source}", path.display())]
    File {
        /// `read` or `write`.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no codec or holds no codes, or is damaged.
    #[error("`{}` is not a whole file of {what}: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// `a codec` or `codes`.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Codes that faiss has no index for.
    #[error("faiss has no index for {codec} codes{}", if *planes > 1 { format!(" of {planes} bits") } else { String::new() })]
    Faiss {
        /// The kind of codec.
        codec: &'static str,
        /// Bits of a dimension.
        planes: usize,
    },
    /// A factorization failed.
    #[error(transparent)]
    Kernel(#[from] brevity_kernels::Error),
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Empty => Some("fit it to at least a thousand vectors of texts like those it is for".into()),
            Error::Ragged { .. } => Some("check the width that was given with the vectors".into()),
            Error::NotFinite { row, .. } => Some(format!("leave out or embed again text {row}, counted from zero")),
            Error::Width { .. } => Some("the vectors come from another model, or were truncated".into()),
            Error::TooFew { rows, .. } if *rows >= 2 => {
                Some(format!("fit to more vectors, or use codes of {} bits", rows.ilog2().min(8)))
            }
            Error::TooFew { .. } => Some("fit to more vectors".into()),
            Error::Parts { width, .. } => {
                let fits: Vec<String> =
                    (1..=*width).filter(|parts| width.is_multiple_of(*parts)).map(|parts| parts.to_string()).collect();
                Some(format!("{} divide {width}", fits.join(", ")))
            }
            Error::Codec { .. } => Some("read the codec file that lay beside the codes, or encode again".into()),
            Error::Rows { .. } => Some("give the vectors of the same corpus, in the same order".into()),
            Error::Damaged { .. } => Some("write it again; a file that was copied may have been cut short".into()),
            Error::Faiss { .. } => {
                Some("export sign, int8 or product codes, or decoded vectors as a flat index".into())
            }
            Error::Kernel(error) => error.hint(),
            _ => None,
        }
    }
}
