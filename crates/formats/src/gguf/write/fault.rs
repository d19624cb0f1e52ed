//! Why a model cannot be said in a GGUF file, and what is worth knowing about one that can.

use std::fmt;

use brevity_model::{Place, Site};

use crate::error::Error;

/// Why a model cannot be said in a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufFault {
    /// No architecture of such files is known for the model.
    #[error("no GGUF architecture is known for models of the kind `{model}`")]
    Architecture {
        /// The kind.
        model: String,
    },
    /// The weight has no name there.
    #[error("files of the architecture `{architecture}` have no tensor for `{site}`")]
    Unnamed {
        /// The weight.
        site: Site,
        /// The architecture.
        architecture: &'static str,
    },
    /// A sublayer is gone, and files of the architecture must have it.
    #[error("`{place}` has no {part}, which files of the architecture `{architecture}` must have")]
    Dropped {
        /// The block.
        place: Place,
        /// What it lacks.
        part: &'static str,
        /// The architecture.
        architecture: &'static str,
    },
    /// The first block has no attention.
    #[error("`blocks.0` has no attention, and llama.cpp takes the width of all heads from the first block")]
    FirstBlock,
    /// No block has attention, or none an MLP.
    #[error("no block has {part}")]
    NoneLeft {
        /// What they lack.
        part: &'static str,
    },
    /// Blocks differ in something that files say once.
    #[error(
        "`{place}` has {found} {what}, and blocks before have {wanted}, where files of the architecture `{architecture}` have one number"
    )]
    Uneven {
        /// The block.
        place: Place,
        /// What differs.
        what: &'static str,
        /// What it is in that block.
        found: usize,
        /// What it is in the blocks before.
        wanted: usize,
        /// The architecture.
        architecture: &'static str,
    },
    /// Queries and values of a head have not the same width.
    #[error("the heads of `{place}` are {qk} wide in queries and keys and {v} wide in values")]
    HeadWidths {
        /// The block.
        place: Place,
        /// Width of queries and keys.
        qk: usize,
        /// Width of values.
        v: usize,
    },
    /// Query heads do not share key heads evenly and in order.
    #[error("the query heads of `{place}` do not share its key heads evenly")]
    Sharing {
        /// The block.
        place: Place,
    },
    /// The file would say something else than the model is.
    #[error("read back, {what} of `{place}` would not be what the model has")]
    Differs {
        /// Where.
        place: Place,
        /// What would differ.
        what: &'static str,
    },
    /// The file could not be read back.
    #[error("read back, it would not be this model: {source}")]
    Unreadable {
        /// What a reader would say.
        source: Box<Error>,
    },
    /// A weight is too large for the type.
    #[error("`{site}` holds {value:e}, and scales and values of the type {block} go up to 65504")]
    TooLarge {
        /// The weight.
        site: Site,
        /// The value.
        value: f32,
        /// The type.
        block: &'static str,
    },
}

impl GgufFault {
    /// What the reader can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            GgufFault::TooLarge { .. } => "use `--type bf16` or `--type f32`",
            GgufFault::Dropped { .. }
            | GgufFault::FirstBlock
            | GgufFault::NoneLeft { .. }
            | GgufFault::Uneven { .. }
            | GgufFault::HeadWidths { .. }
            | GgufFault::Sharing { .. } => "use `--format native`, which holds blocks of any shape",
            _ => {
                "use `--format dense`, which holds it as plain floats; GGUF files are written for llama, mistral, qwen2, \
                 qwen3, gemma2, gemma3, phi3, gpt2 and bert"
            }
        }
    }

    pub(super) fn error(self) -> Error {
        Error::Gguf { fault: self }
    }
}

/// Something worth knowing about a GGUF file before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GgufNote {
    /// Rows of some tensors are no multiple of a block.
    Widths {
        /// Tensors.
        tensors: usize,
        /// A name of one.
        example: String,
        /// Columns of that one.
        columns: usize,
        /// The type it should have had.
        wanted: &'static str,
        /// The type it has.
        found: &'static str,
    },
    /// The file has no vocabulary.
    NoVocabulary {
        /// Why not.
        why: NoVocabulary,
    },
    /// The architecture has no sliding windows, and the model has.
    Window {
        /// Tokens in a window.
        window: usize,
    },
    /// Tensors of the source are left out.
    LeftOut {
        /// How many.
        tensors: usize,
        /// The name of one.
        example: String,
    },
    /// The architecture is one for blocks that differ.
    Uneven,
    /// Blocks without an MLP have one of zeros.
    ZeroMlp {
        /// How many.
        blocks: usize,
    },
}

impl fmt::Display for GgufNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GgufNote::Widths { tensors, example, columns, wanted, found } => write!(
                f,
                "{tensors} tensors have rows that blocks do not divide, and get types of more bits: `{example}` with \
                 {columns} columns is {found}, not {wanted}"
            ),
            GgufNote::NoVocabulary { why } => write!(f, "the file has no vocabulary: {why}"),
            GgufNote::Window { window } => write!(
                f,
                "attention reaches {window} tokens back, which the file cannot say; it says that inputs have at most \
                 {window} tokens, where that makes no difference"
            ),
            GgufNote::LeftOut { tensors, example } => {
                write!(f, "{tensors} tensors that are not part of the language model are left out, such as `{example}`")
            }
            GgufNote::Uneven => f.write_str("blocks differ in shape, so the file is of the architecture `deci`"),
            GgufNote::ZeroMlp { blocks } => {
                write!(f, "{blocks} blocks have no MLP and get one of 32 zeros, for readers expect one")
            }
        }
    }
}

impl GgufNote {
    /// What to make of it.
    pub fn hint(&self) -> &'static str {
        match self {
            GgufNote::Widths { .. } => "as in files of llama.cpp",
            GgufNote::NoVocabulary { .. } => "programs can run it on token ids only",
            GgufNote::Window { .. } => "no other GGUF architecture fits",
            GgufNote::LeftOut { .. } => "the source keeps them",
            GgufNote::Uneven => "llama.cpp opens it; candle and mistral.rs do not",
            GgufNote::ZeroMlp { .. } => "it adds nothing to what the block computes",
        }
    }
}

/// Why a vocabulary cannot be said in a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoVocabulary {
    /// There is no tokenizer.
    #[error("the model has no `tokenizer.json`")]
    Missing,
    /// It is not a tokenizer.
    #[error("`tokenizer.json` cannot be read: {what}")]
    Damaged {
        /// What the library says.
        what: String,
    },
    /// Vocabularies of its kind are not known.
    #[error("vocabularies of the kind {kind} are not written")]
    Kind {
        /// The kind.
        kind: String,
    },
    /// No name is known for the way in which it cuts text.
    #[error("no GGUF name is known for the way in which the tokenizer cuts text")]
    Cut,
    /// It gives more ids than there are rows in the table.
    #[error("it has a token {id}, and the token table has {rows} rows")]
    TooMany {
        /// The id.
        id: u32,
        /// The rows.
        rows: usize,
    },
    /// Read back, it gives other ids.
    #[error("read back, it would give other ids for `{text}`")]
    Differs {
        /// For this text.
        text: String,
    },
}
