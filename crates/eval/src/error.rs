//! What can go wrong with a text, a pair of models, or the numbers that a model gives.

use std::path::PathBuf;

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// A text that is not UTF-8.
    #[error("`{}` is not UTF-8 text: byte {byte} belongs to no character", path.display())]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// The first wrong byte.
        byte: usize,
    },
    /// A text of JSON lines whose field is not named.
    #[error("`{spec}` does not say which field holds the text")]
    Field {
        /// The text as it was asked for.
        spec: String,
    },
    /// A line that is no JSON object, or lacks the field.
    #[error("line {line} of `{}` has no text in `{field}`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// The field.
        field: String,
        /// The fields that the line has, if it is an object.
        found: Vec<String>,
    },
    /// A file of facts, concepts, judgements or pairs that is none.
    #[error("`{}`{} {why}", path.display(), line.map_or_else(String::new, |line| format!(", line {line},")))]
    Items {
        /// The file.
        path: PathBuf,
        /// The line, counted from one, if one is to blame.
        line: Option<usize>,
        /// What is wrong with it: `has no field `prompt``.
        why: String,
    },
    /// The tokenizer failed.
    #[error("cannot tokenize `{text}`: {why}")]
    Tokenize {
        /// The text.
        text: String,
        /// What the tokenizer said.
        why: String,
    },
    /// Tokens that stand for no text.
    #[error("cannot read what the model wrote: {why}")]
    Decode {
        /// What the tokenizer said.
        why: String,
    },
    /// A question that is put to a chat model, of which no template can be used.
    #[error("a question needs the model's chat template: {why}")]
    Chat {
        /// What is wrong.
        why: String,
    },
    /// A question without any token, for a model that has none to begin with.
    #[error("a question is empty, and the model has no token that begins a text")]
    Prompt,
    /// A continuation longer than the model's context.
    #[error("the continuation `{text}` has {tokens} tokens, the model reads {context}")]
    Continuation {
        /// Its beginning.
        text: String,
        /// How many tokens it has.
        tokens: usize,
        /// How many the model reads.
        context: usize,
    },
    /// Fewer tokens than the protocol needs.
    #[error("`{text}` has {tokens} tokens, but {needed} are needed for windows of {window}")]
    Short {
        /// The text.
        text: String,
        /// Its tokens, or the limit if that is less.
        tokens: usize,
        /// How many are needed.
        needed: usize,
        /// The length of a window.
        window: usize,
        /// Whether a limit has cut the text.
        limited: bool,
    },
    /// A window in which nothing is predicted.
    #[error("windows of {window} tokens predict nothing")]
    Window {
        /// The length of a window.
        window: usize,
    },
    /// The tokenizer has tokens that the model does not.
    #[error("token {token} is not in the model's vocabulary of {vocabulary}")]
    Token {
        /// The token.
        token: u32,
        /// Rows of the model's table.
        vocabulary: usize,
    },
    /// Two models whose logits cannot be compared.
    #[error("the models have different vocabularies: {before} and {after} tokens")]
    Vocabularies {
        /// The first model's.
        before: usize,
        /// The second model's.
        after: usize,
    },
    /// Logits, or a loss, that are no numbers.
    #[error("{what} of window {window}, position {position} is not finite")]
    NotFinite {
        /// What is not.
        what: &'static str,
        /// The window, counted from zero.
        window: usize,
        /// The position in the window, counted from zero.
        position: usize,
    },
    /// There is no such measure.
    #[error("there is no measure `{name}`")]
    Measure {
        /// What was asked for.
        name: String,
        /// The measures there are.
        known: Vec<&'static str>,
    },
    /// A limit that cannot be read.
    #[error("`{text}` is not a limit: {why}")]
    BadLimit {
        /// The limit as it was given.
        text: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A limit on a figure that there is not.
    #[error("there is no figure `{name}` to keep within limits")]
    Limit {
        /// What was asked for.
        name: String,
        /// The figures there are.
        known: Vec<String>,
    },
    /// A limit in percent on a figure of which percentages mean nothing.
    #[error("`{name}` cannot be limited in percent")]
    Percent {
        /// The figure.
        name: String,
    },
    /// A stored reference that is none, or is damaged.
    #[error("`{}` is not a whole stored reference: {why}", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A stored reference of other windows.
    #[error("the stored reference has {what} {stored}, this evaluation has {found}")]
    Differs {
        /// What differs.
        what: &'static str,
        /// In the reference.
        stored: String,
        /// Here.
        found: String,
    },
    /// A value vector that the model does not have.
    #[error("`blocks.{block}.mlp.down` has no column {channel}")]
    Trace {
        /// The block.
        block: usize,
        /// The column.
        channel: usize,
    },
    /// Data of a task cannot be read.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// A task cannot be used.
    #[error(transparent)]
    Task(#[from] crate::task::TaskError),
    /// Nothing was observed.
    #[error("nothing was measured")]
    Nothing,
    /// The evaluation was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The model cannot be run.
    #[error(transparent)]
    Run(#[from] brevity_runtime::Error),
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Field { spec } => Some(format!("add its name: `{spec}#text`")),
            Error::Line { found, .. } if !found.is_empty() => {
                Some(format!("the line has the fields {}", found.join(", ")))
            }
            Error::Line { .. } => Some("each line is to be one JSON object".into()),
            Error::Short { limited: true, .. } => Some("raise the limit, or use shorter windows".into()),
            Error::Short { tokens, .. } if *tokens >= 4 => {
                Some(format!("use a longer text, or shorter windows (`--window {}`)", tokens / 2))
            }
            Error::Short { .. } => Some("use a longer text".into()),
            Error::Window { .. } => Some("use windows of at least 2 tokens".into()),
            Error::Token { .. } => Some("the tokenizer belongs to another model".into()),
            Error::Vocabularies { .. } => {
                Some("evaluate each alone: only bits per byte can be compared between vocabularies".into())
            }
            Error::NotFinite { .. } => {
                Some("the model overflows: try `--dtype f32`, and look for NaN in its weights with `inspect`".into())
            }
            Error::Measure { known, .. } => Some(format!("the measures are {}", known.join(", "))),
            Error::Trace { .. } => Some("the vectors are those of another model".into()),
            Error::BadLimit { .. } => Some("write a figure, a comparison and a bound: `kl_mean<=0.05`".into()),
            Error::Limit { name, known } => {
                let names: Vec<&str> = known.iter().map(String::as_str).collect();
                let near =
                    crate::task::closest(name, &names).map_or(String::new(), |near| format!("did you mean `{near}`? "));
                Some(format!("{near}there are {}", known.join(", ")))
            }
            Error::Percent { .. } => Some("write the bound as a number".into()),
            Error::Reference { .. } | Error::Differs { .. } => Some("store the reference again".into()),
            Error::Run(error) => error.hint(),
            Error::Data(error) => error.hint(),
            Error::Task(error) => error.hint(),
            _ => None,
        }
    }
}
