//! What can go wrong while a model runs.

use std::io;
use std::path::PathBuf;

use brevity_model::{LoadError, Place};

/// Why a model could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A stage could not be read.
    #[error("cannot read `{place}`: {source}")]
    Load {
        /// The stage.
        place: Place,
        /// What the checkpoint says.
        source: LoadError,
    },
    /// A tensor operation was refused, mostly because shapes do not fit together.
    #[error("cannot run `{place}`: {source}")]
    Stage {
        /// The stage.
        place: Place,
        /// What the tensor library says.
        source: candle_core::Error,
    },
    /// A tensor operation was refused outside any stage.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A token id that the model has no row for.
    #[error("token {token} of window {window} is not in the vocabulary of {vocabulary}")]
    Token {
        /// The window, counted from zero.
        window: usize,
        /// The id.
        token: u32,
        /// Rows of the token table.
        vocabulary: usize,
    },
    /// A window without tokens.
    #[error("window {window} is empty")]
    Empty {
        /// The window, counted from zero.
        window: usize,
    },
    /// More tokens than the table of learned positions has rows for.
    #[error("{tokens} tokens are more than the {positions} positions that the model has learned")]
    Length {
        /// Tokens asked for.
        tokens: usize,
        /// Positions in the table.
        positions: usize,
    },
    /// A cache or batch that holds inputs from both sides of the length at which rotary frequencies change.
    #[error(
        "inputs beyond {beyond} tokens have other rotary frequencies: {tokens} tokens cannot share a cache or batch with fewer"
    )]
    Mixed {
        /// Tokens of the longest input.
        tokens: usize,
        /// The length at which frequencies change.
        beyond: usize,
    },
    /// Activations or logits that are NaN or infinite.
    #[error("`{place}` returns {count} values that are NaN or infinite in window {window}")]
    NonFinite {
        /// The stage that returned them.
        place: Place,
        /// The window, counted from zero.
        window: usize,
        /// How many there are.
        count: usize,
    },
    /// Weights that no architecture claims.
    #[error("`{place}` holds weights of no known architecture, which cannot be run")]
    Loose {
        /// The stage.
        place: Place,
    },
    /// The model lacks the part that the task needs.
    #[error("the model has no {what}, which this task needs")]
    Missing {
        /// The part.
        what: &'static str,
    },
    /// Two models whose logits cannot be compared.
    #[error("the models have vocabularies of {left} and {right} tokens, so their logits cannot be compared")]
    Vocabularies {
        /// Rows of the first model's output table.
        left: usize,
        /// Rows of the second model's output table.
        right: usize,
    },
    /// Activations cannot be kept in a file.
    #[error("cannot keep activations in a file in `{}`: {source}", dir.display())]
    Spill {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller's own function failed, or asked to stop.
    #[error(transparent)]
    Caller(LoadError),
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Token { .. } => {
                Some("the tokenizer does not belong to this model, or tokens were added to it".into())
            }
            Error::Length { positions, .. } => Some(format!("use windows of at most {positions} tokens")),
            Error::Mixed { beyond, .. } => {
                Some(format!("run the whole input at once without a cache, or keep to {beyond} tokens"))
            }
            Error::NonFinite { .. } => {
                Some("a weight may be damaged; in 16-bit formats a value may have left the range of the type".into())
            }
            Error::Loose { .. } => Some("such weights can be compressed by methods that need no data".into()),
            Error::Missing { .. } => Some("a model that maps text to text has an embedding, blocks and a head".into()),
            Error::Spill { .. } => Some(
                "free some space there and run the same command again: what is finished is kept; or let activations \
                 stay in memory, with more of it (`--max-memory`) or with fewer samples (`--samples`)"
                    .into(),
            ),
            Error::Empty { .. } => Some("give at least one token".into()),
            _ => None,
        }
    }

    /// Puts the stage beside what the tensor library says.
    pub(crate) fn at(self, place: Place) -> Self {
        match self {
            Error::Tensor(source) => Error::Stage { place, source },
            other => other,
        }
    }
}

/// Results of running a model.
pub type Result<T> = std::result::Result<T, Error>;
