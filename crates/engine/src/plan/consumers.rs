//! Which tools open a result, from its shapes.

use brevity_formats::{
    Checkpoint, Dense, Format, GGUF_CONSUMERS, GgufAbout, GgufExport, GgufType, Native, Opens, TensorSpec, laid,
};
use brevity_model::{Block, Form, Model, Stage};
use serde_json::{Value, json};

use crate::error::Error;

/// Which tools open a result: the files that are written, and a GGUF file that `brevity export` makes of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumers {
    opens: Opens,
    /// The tools that open the files.
    pub files: &'static str,
    /// Whether the files are plain floats, which tools without a reader for codes take as well.
    plain: bool,
    /// The architecture of the GGUF file, or why there can be none; nothing if the model has no blocks.
    pub gguf: Option<Result<&'static str, String>>,
}

impl Consumers {
    /// Who opens a result of these forms and tensors.
    pub(super) fn of(
        checkpoint: &Checkpoint,
        format: &dyn Format,
        forms: &Model<Form>,
        specs: &[Vec<TensorSpec>],
    ) -> Result<Self, Error> {
        let (source, model) = (checkpoint.config(), checkpoint.model());
        let opens = format.opens(&format.config(source, model, forms)?, specs);
        let files = format.opened_by(opens);
        Ok(Consumers { opens, files, plain: files == Dense.consumers(), gguf: gguf(checkpoint, forms)? })
    }

    /// What transformers needs to open the files: `stock` classes, `trust_remote_code`, or `no` way.
    pub fn transformers(&self) -> &'static str {
        match self.opens {
            Opens::Stock => "stock",
            Opens::Code => "trust_remote_code",
            Opens::Brevity => "no",
        }
    }

    /// What candle opens: the `files`, a `gguf` file, or `no` file.
    pub fn candle(&self) -> &'static str {
        match (&self.gguf, self.opens) {
            (_, Opens::Stock) if self.plain => "files",
            (Some(Ok(architecture)), _) if *architecture != UNEVEN => "gguf",
            _ => "no",
        }
    }

    /// The tools that open the GGUF file, if there can be one.
    pub fn gguf_opened_by(&self) -> Option<&'static str> {
        match self.gguf.as_ref()?.as_ref().ok()? {
            &UNEVEN => Some("llama.cpp, Ollama, LM Studio"),
            _ => Some(GGUF_CONSUMERS),
        }
    }

    /// Whether nobody else opens the files, though their tensors may look like any others.
    pub(crate) fn only_ours(&self) -> bool {
        self.opens == Opens::Brevity
    }

    /// All of it.
    pub fn to_json(&self) -> Value {
        let gguf = self.gguf.as_ref();
        json!({
            "transformers": self.transformers(),
            "candle": self.candle(),
            "llama_cpp": gguf.and_then(|gguf| gguf.as_ref().ok()),
            "llama_cpp_refused": gguf.and_then(|gguf| gguf.as_ref().err()),
        })
    }
}

/// The architecture of GGUF files whose blocks differ.
const UNEVEN: &str = "deci";

/// The architecture of the GGUF file of a result, or why there can be none.
fn gguf(checkpoint: &Checkpoint, forms: &Model<Form>) -> Result<Option<Result<&'static str, String>>, Error> {
    if !forms.stages.iter().any(|stage| matches!(stage, Stage::Block(_))) {
        return Ok(None);
    }
    let config = Native.config(checkpoint.config(), checkpoint.model(), forms)?;
    let mut result = laid(checkpoint.model(), forms)?;
    // Blocks of which nothing is left are not there when the file is made.
    result.stages.retain(|stage| !matches!(stage, Stage::Block(Block { attn: None, mlp: None, .. })));
    let about = GgufAbout { name: "", config: &config, files: &[] };
    Ok(Some(match GgufExport::plan(&result, &about, GgufType::F16) {
        Ok(export) => Ok(export.architecture()),
        Err(brevity_formats::Error::Gguf { fault }) => Err(fault.to_string()),
        Err(error) => Err(error.to_string()),
    }))
}
