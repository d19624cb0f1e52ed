//! What can go wrong on the way from texts to vectors.

use std::path::PathBuf;

use crate::pool::Pooling;

/// Why there are no vectors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model cannot be read, or the model cannot be opened.
    #[error(transparent)]
    Formats(#[from] brevity_formats::Error),
    /// The model cannot be run.
    #[error(transparent)]
    Run(#[from] brevity_runtime::Error),
    /// A tensor operation was refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file beside the weights that does not say what it should.
    #[error("`{file}` {why}")]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, as the end of a sentence.
        why: String,
    },
    /// A module that is not known.
    #[error("`{file}` names the module `{kind}`, which is not known")]
    Module {
        /// `modules.json` of the model.
        file: PathBuf,
        /// Its type.
        kind: String,
    },
    /// A pooling that is not known.
    #[error("`{file}` pools by `{mode}`, which is not known")]
    Pooling {
        /// The configuration of the pooling.
        file: PathBuf,
        /// What it says.
        mode: String,
    },
    /// The tokenizer fails.
    #[error("text {text} cannot be tokenized: {why}")]
    Tokenize {
        /// Which of the texts, counted from zero.
        text: usize,
        /// What the tokenizer says.
        why: String,
    },
    /// A dense layer for vectors of another width.
    #[error("a dense layer for {inputs} entries stands behind vectors of {width}")]
    Width {
        /// Inputs of the layer.
        inputs: usize,
        /// Width of what is in front of it.
        width: usize,
    },
    /// More dimensions than there are.
    #[error("{asked} dimensions are more than the {width} that the vectors have")]
    Dims {
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        width: usize,
    },
    /// More layers than there are.
    #[error("{asked} layers are more than the {layers} that the model has")]
    Layers {
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        layers: usize,
    },
    /// A table with fewer rows than there are tokens.
    #[error("the table has {rows} rows, and there are {tokens} tokens")]
    Table {
        /// Rows.
        rows: usize,
        /// Tokens.
        tokens: usize,
    },
    /// A tokenizer that no table can be made for.
    #[error("no table can be made for the vocabulary: {why}")]
    Vocabulary {
        /// Why.
        why: String,
    },
    /// An encoder that cannot be trained as was asked.
    #[error("the encoder {what}")]
    Untrainable {
        /// Why, as the end of a sentence.
        what: String,
    },
    /// Too few vectors.
    #[error("{count} vectors are too few for {what}, which need {needed}")]
    Few {
        /// How many there are.
        count: usize,
        /// How many are needed.
        needed: usize,
        /// What for.
        what: &'static str,
    },
    /// Fewer tokens than rows they should share.
    #[error("{tokens} tokens cannot share {clusters} rows")]
    Clusters {
        /// Tokens.
        tokens: usize,
        /// Rows that were asked for.
        clusters: usize,
    },
    /// A kernel refuses its input.
    #[error(transparent)]
    Kernel(#[from] brevity_kernels::Error),
    /// A prompt that the model does not have.
    #[error("the model has no prompt `{name}`")]
    Prompt {
        /// Its name.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A vector that is no vector.
    #[error("the vector of text {text} has values that are NaN or infinite")]
    NotFinite {
        /// Which of the texts, counted from zero.
        text: usize,
    },
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Formats(error) => error.hint(),
            Error::Run(error) => error.hint(),
            Error::Module { .. } => Some("known are Transformer, Pooling, Dense, Normalize and StaticEmbedding".into()),
            Error::Pooling { .. } => Some(format!("known are {}", Pooling::ALL.map(Pooling::name).join(", "))),
            Error::Dims { width, .. } => Some(format!("take at most {width}")),
            Error::Layers { layers, .. } => Some(format!("take at most {layers}")),
            Error::Prompt { known, .. } if known.is_empty() => Some("it has none".into()),
            Error::Prompt { known, .. } => Some(format!("it has {}", known.join(", "))),
            Error::Table { .. } => Some("the tokenizer does not belong to this table".into()),
            Error::Clusters { tokens, .. } => Some(format!("take 1 to {tokens}")),
            Error::Few { .. } => Some("give more texts".into()),
            Error::NotFinite { .. } => {
                Some("a weight may be damaged; in 16-bit formats a value may have left the range of the type".into())
            }
            _ => None,
        }
    }
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
