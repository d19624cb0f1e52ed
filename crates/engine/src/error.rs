//! What can go wrong between a recipe and its result.

use crate::recipe::BadRecipe;

/// Why a recipe cannot be planned or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The recipe is wrong in itself.
    #[error("{0}")]
    Recipe(BadRecipe),
    /// A selector picks nothing in this model.
    #[error("`{selector}` picks nothing in this model\n  asked for by {place}")]
    Unmatched {
        /// The selector.
        selector: String,
        /// Where it is written.
        place: String,
        /// What there is to pick.
        hint: String,
    },
    /// A step leaves out everything it picks.
    #[error("the step leaves out every layer that it picks\n  asked for by {place}")]
    NothingLeft {
        /// The step.
        place: String,
    },
    /// There is no such format.
    #[error("there is no format `{name}`")]
    Format {
        /// What was asked for.
        name: String,
        /// The format that was meant, or all of them.
        hint: String,
    },
    /// The format is written from what a run has finished.
    #[error("a run cannot write the format `{name}`")]
    NotByRuns {
        /// What was asked for.
        name: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A method refuses a layer.
    #[error("{source}\n  asked for by {place}")]
    Method {
        /// The step.
        place: String,
        /// What the method says.
        source: brevity_methods::Error,
    },
    /// The format cannot hold what the recipe makes.
    #[error("{source}")]
    Unholdable {
        /// What the format says: which site, and why.
        source: brevity_formats::Error,
        /// Formats that can hold all of it.
        others: Vec<&'static str>,
    },
    /// The work needs more memory than it may use.
    #[error("the plan needs up to {needed} bytes of memory, {limit} are allowed\n  most of it for `{stage}`")]
    Memory {
        /// Bytes at the worst moment.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
        /// The stage that needs them.
        stage: String,
        /// Bytes needed with one thread.
        with_one_thread: u64,
    },
    /// The disk has too little room.
    #[error("the output needs {needed} bytes of disk, {free} are free in `{dir}`")]
    Disk {
        /// Bytes to be written.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Where.
        dir: String,
    },
    /// Vectors cannot be cut as the recipe says.
    #[error("`vectors`: {what}")]
    Vectors {
        /// Why.
        what: String,
    },
    /// A text gives no samples.
    #[error("`{text}` cannot be used for calibration: {what}")]
    Text {
        /// The text.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// Samples of such a number or length cannot be taken of any text.
    #[error("{what}")]
    Samples {
        /// What is wrong with them.
        what: String,
    },
    /// A method looks at activations, and there is no text to run.
    #[error("`{method}` looks at what layers read, and there is no text to calibrate on\n  asked for by {place}")]
    NoText {
        /// The method.
        method: String,
        /// The step.
        place: String,
    },
    /// A method looks at the inputs of a layer, and nothing shows them.
    #[error("`{method}` looks at what a layer reads, which cannot be seen for `{site}`\n  asked for by {place}")]
    Unseen {
        /// The method.
        method: String,
        /// The layer.
        site: brevity_model::Site,
        /// The step.
        place: String,
    },
    /// A method that changes the residual stream comes behind another, or was given a part of the model.
    #[error("`{method}` changes the whole model, and comes first, without `at` and `except`\n  asked for by {place}")]
    First {
        /// The method.
        method: String,
        /// The step.
        place: String,
    },
    /// A method that rewrites whole sublayers was given a part of one.
    #[error("the step rewrites whole sublayers, and has `{other}` but not `{site}`\n  asked for by {place}")]
    Part {
        /// What it has not got.
        site: brevity_model::Site,
        /// What it has.
        other: brevity_model::Site,
        /// The step.
        place: String,
    },
    /// A method that rewrites whole sublayers comes behind one that rewrites a layer of it.
    #[error("the step takes whole units out of the sublayer of `{site}`, behind `{method}`\n  asked for by {place}")]
    Late {
        /// What comes before it.
        method: String,
        /// A layer of both.
        site: brevity_model::Site,
        /// The step.
        place: String,
    },
    /// A method compares the inputs of a layer in both models, and they are no longer the same.
    #[error(
        "`{method}` compares what `{site}` reads with what it read in the original model, of which only a part is left\n  asked for by {place}"
    )]
    Narrowed {
        /// The method.
        method: String,
        /// The layer.
        site: brevity_model::Site,
        /// The step.
        place: String,
    },
    /// A method puts a constant beside the token table, which the logits would lack, and they are not free of it.
    #[error(
        "`{method}` keeps a mean beside `embed.tokens`, which is the output table as well, and its logits are capped\n  asked for by {place}"
    )]
    Capped {
        /// The method.
        method: String,
        /// The step.
        place: String,
    },
    /// The model cannot be run on the samples.
    #[error("cannot calibrate: {0}")]
    Run(brevity_runtime::Error),
    /// Activations so large that sums of their squares are infinite.
    #[error("what `{place}` shows at `{tap}` is too large to be summed up")]
    Overflow {
        /// The stage.
        place: brevity_model::Place,
        /// The tap.
        tap: &'static str,
    },
    /// The system gives no threads.
    #[error("cannot start threads: {what}")]
    Threads {
        /// What the system said.
        what: String,
    },
    /// The run was asked to stop.
    #[error("stopped after {done} of {total} stages")]
    Cancelled {
        /// Stages that are written.
        done: usize,
        /// All stages.
        total: usize,
    },
    /// What was written does not read back as what was meant.
    #[error("`{file}` does not hold what was written to it: {what}")]
    Verify {
        /// The file.
        file: String,
        /// What is different.
        what: String,
    },
    /// Files cannot be read or written.
    #[error("{0}")]
    Files(#[from] brevity_formats::Error),
    /// A file in the output directory is not as this program writes it.
    #[error("`{file}` is not as it was written: {what}")]
    Record {
        /// The file.
        file: String,
        /// What the parser says.
        what: String,
    },
}

impl From<BadRecipe> for Error {
    fn from(bad: BadRecipe) -> Self {
        Error::Recipe(bad)
    }
}

impl Error {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Recipe(bad) => bad.hint.clone(),
            Error::Unmatched { hint, .. } | Error::Format { hint, .. } => Some(hint.clone()),
            Error::NotByRuns { hint, .. } => Some((*hint).to_owned()),
            Error::NothingLeft { .. } => Some("take something out of `except`, or the step out of the recipe".into()),
            Error::Method { source, .. } => source.hint(),
            Error::Unholdable { others, .. } if others.is_empty() => {
                Some("leave the layer out with `except`, or change the step".into())
            }
            Error::Unholdable { others, .. } => {
                Some(format!("these can hold it: {}; choose one with `--format`", others.join(", ")))
            }
            Error::Memory { with_one_thread, limit, .. } if with_one_thread <= limit => {
                Some("it fits with `--threads 1`".into())
            }
            Error::Memory { with_one_thread, .. } => Some(format!(
                "allow more with `--max-memory` (with `--threads 1` it needs {with_one_thread} bytes), or leave the \
                 largest layers out with `except`"
            )),
            Error::Disk { .. } => Some("free some space, or choose a directory on a larger disk".into()),
            Error::Vectors { .. } => {
                Some("`vectors: {dims: 128}` keeps the first 128; `turn: pca` and `turn: fit` need a text of some hundred lines".into())
            }
            Error::Text { .. } => Some("give a text of some thousand words with `--text`".into()),
            Error::Samples { .. } => {
                Some("change `--samples` and `--length`, or leave them out (128 samples of 2048 tokens, or as many as the \
                      model was made for)".into())
            }
            Error::NoText { .. } => Some(
                "give one with `--text FILE`: some hundred kilobytes of what the model is for, or of general text".into(),
            ),
            Error::Unseen { .. } => {
                Some("only the linear layers of blocks and the output table are looked at; use a method that needs no data there".into())
            }
            Error::First { .. } => {
                Some("make it the first step, and cut a part of the model in a run of its own before or after".into())
            }
            Error::Part { .. } => Some("select `attn`, `mlp` or blocks as a whole".into()),
            Error::Late { .. } => Some("put it in front: first units go, then layers are rewritten".into()),
            Error::Narrowed { site, .. } => Some(format!("leave it out there: `except: [{}]`", site.role)),
            Error::Capped { .. } => Some("set `mean: false`, or leave the table out".into()),
            Error::Run(source) => source.hint(),
            Error::Overflow { .. } => Some(
                "the model leaves the range of its numbers on this text; check the checkpoint with `brevity eval`".into(),
            ),
            Error::Threads { .. } => Some("ask for fewer with `--threads`".into()),
            Error::Cancelled { .. } => Some("run the same command again to go on from there".into()),
            Error::Verify { .. } => {
                Some("check the disk, then run the same command again: the damaged part is written anew".into())
            }
            Error::Files(source) => source.hint(),
            Error::Record { .. } => Some("write to another directory, or replace the output with `--fresh`".into()),
        }
    }
}
