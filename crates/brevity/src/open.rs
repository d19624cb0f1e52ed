//! Models and texts by name.

use std::path::Path;

use brevity_eval::Text;
use brevity_formats::{Checkpoint, Folder, Open};

/// Why a model could not be opened by its name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It was found and could not be read, or could not be fetched.
    #[error(transparent)]
    Formats(#[from] brevity_formats::Error),
    /// There is no such file or directory, and the name is not a hub id either.
    #[error("there is no model `{name}`")]
    NotFound {
        /// The name.
        name: String,
    },
}

impl OpenError {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            OpenError::Formats(error) => error.hint(),
            OpenError::NotFound { .. } => Some(
                "give a directory in Hugging Face layout, a `.gguf` file, a hub id `owner/name[@revision]`, or `tiny`"
                    .into(),
            ),
        }
    }
}

/// Why a text to calibrate on could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The file cannot be read as a text.
    #[error(transparent)]
    Text(#[from] brevity_eval::Error),
    /// A specification that names no field.
    #[error("`chat:{spec}` does not say which field holds the messages")]
    Field {
        /// What stands behind `chat:`.
        spec: String,
    },
    /// A line of a file of conversations that is none.
    #[error("line {line} of `{path}` has no list of messages in `{field}`: {what}")]
    Line {
        /// The file.
        path: String,
        /// The line, counted from one.
        line: usize,
        /// The field.
        field: String,
        /// What is wrong.
        what: String,
    },
    /// The model says nothing of conversations.
    #[error("the model has no chat template")]
    NoTemplate,
    /// The template of the model cannot be used.
    #[error("the chat template of the model cannot be used: {what}")]
    Template {
        /// What the template engine says.
        what: String,
    },
}

impl TextError {
    /// What the reader can do about it, if we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            TextError::Text(error) => error.hint(),
            TextError::Field { spec } => Some(format!("add its name: `chat:{}#messages`", spec.trim_end_matches('#'))),
            TextError::Line { .. } => {
                Some("each line is a JSON object whose field is a list of `{\"role\": ..., \"content\": ...}`".into())
            }
            TextError::NoTemplate => {
                Some("use a plain text, or put `chat_template` into its `tokenizer_config.json`".into())
            }
            TextError::Template { .. } => Some("use a plain text instead".into()),
        }
    }
}

/// Whether a name stands for the checkpoint inside the program.
pub fn is_embedded(name: &str) -> bool {
    name == "tiny" && !Path::new(name).exists()
}

/// Opens a model: a directory, a `.gguf` file, a hub id `owner/name[@revision]`, or `tiny`.
///
/// What lies at the path wins over a hub id of the same spelling.
///
/// # Errors
/// If there is nothing of this name, or it is not a model.
pub fn open(name: &str, options: Open) -> Result<Checkpoint, OpenError> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(Checkpoint::open_with(path, with_tables(path, options))?);
    }
    if is_embedded(name) {
        return Ok(Checkpoint::from_folder(Folder::embedded("tiny", crate::TINY), options)?);
    }
    if is_hub_id(name) {
        let path = brevity_formats::hub::fetch(name)?;
        return Ok(Checkpoint::open_with(&path, with_tables(&path, options))?);
    }
    Err(OpenError::NotFound { name: name.to_owned() })
}

/// Static models are opened as the loose matrices that they are.
fn with_tables(path: &Path, options: Open) -> Open {
    Open { loose: options.loose || brevity_embed::is_static_at(path) }
}

/// Loads a text: `heldout`, which is part of the program, or anything [`Text::load`] takes.
///
/// # Errors
/// If the file cannot be read.
pub fn text(spec: &str) -> Result<Text, brevity_eval::Error> {
    if spec == "heldout" && !Path::new(spec).exists() {
        return Text::from_bytes(spec, crate::HELDOUT.as_bytes());
    }
    Text::load(spec)
}

/// Loads a text to calibrate on: `calibration`, which is part of the program, `chat:FILE#field`, conversations put
/// through the template of the model, or anything [`text`] takes.
///
/// # Errors
/// If the file cannot be read, or the model has no template.
pub fn calibration_text(spec: &str, model: &Checkpoint) -> Result<Text, TextError> {
    if spec == "calibration" && !Path::new(spec).exists() {
        return Ok(Text::from_bytes(spec, crate::CALIBRATION.as_bytes())?);
    }
    match spec.strip_prefix("chat:") {
        Some(rest) => crate::chat::load(rest, model),
        None => Ok(text(spec)?),
    }
}

/// `owner/name`, perhaps with `@revision`.
fn is_hub_id(name: &str) -> bool {
    let (id, _) = name.split_once('@').unwrap_or((name, ""));
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    matches!(id.split_once('/'), Some((owner, rest)) if part(owner) && part(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_ids_are_told_from_paths() {
        for (name, is) in [
            ("owner/name", true),
            ("HuggingFaceTB/SmolLM2-135M@main", true),
            ("owner/name@refs/pr/3", true),
            ("./model", false),
            ("../a", false),
            ("a/b/c", false),
            ("model", false),
            ("/tmp/x", false),
            ("owner/", false),
        ] {
            assert_eq!(is_hub_id(name), is, "{name}");
        }
    }

    #[test]
    fn a_name_that_is_nothing_says_what_names_there_are() {
        let error = open("no-such-model", Open::default()).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "there is no model `no-such-model`");
        assert!(error.hint().unwrap().contains("hub id"));
    }
}
