//! How the words of a checkpoint become tokens, and how one speaks to it.

use brevity_eval::Words;
use brevity_formats::Checkpoint;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::chat::Template;
use crate::open::TextError;

/// The tokens that end a text of a model: those of its generation settings, or else of its configuration.
pub fn end_tokens(model: &Checkpoint) -> Vec<u32> {
    ids(model, "eos_token_id")
}

/// What questions in words need of a model. The tokenizer is the model's own.
pub fn words<'a>(model: &Checkpoint, tokenizer: &'a Tokenizer) -> Words<'a> {
    let begin = ids(model, "bos_token_id").first().copied();
    Words::new(tokenizer, begin, &end_tokens(model), model.model().context)
}

/// What a user says, in the chat template of a model, with what makes the assistant speak.
///
/// # Errors
/// [`TextError::NoTemplate`], [`TextError::Template`].
pub fn chat(model: &Checkpoint, said: &str) -> Result<String, TextError> {
    Template::of(model)?.render(&json!([{"role": "user", "content": said}]), true)
}

fn ids(model: &Checkpoint, key: &str) -> Vec<u32> {
    let settings = model.folder().read("generation_config.json").ok();
    let settings: Value = settings.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match settings.get(key).or_else(|| model.config().get(key)) {
        Some(Value::Array(several)) => several.iter().filter_map(id).collect(),
        Some(one) => id(one).into_iter().collect(),
        None => Vec::new(),
    }
}
