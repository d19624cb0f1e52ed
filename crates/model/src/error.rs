//! What can be wrong with a configuration, a description or the tensors it names.

use crate::site::Site;

/// Why no model could be made of a checkpoint.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is not a JSON object.
    #[error("`config.json` is not a JSON object: {why}")]
    NotJson {
        /// What the parser says, with line and column.
        why: String,
    },
    /// The configuration lacks a key.
    #[error("`config.json` has no `{key}`, which `models/{description}.yaml` needs")]
    MissingKey {
        /// The key.
        key: String,
        /// The description that asks for it.
        description: String,
    },
    /// A key of the configuration has a value that cannot be used.
    #[error("`{key}` in `config.json` is {value}, not {expected}")]
    WrongValue {
        /// The key, with dots between levels.
        key: String,
        /// What it is.
        value: String,
        /// What it should be.
        expected: String,
    },
    /// The configuration asks for something that is not implemented, so the numbers would be wrong.
    #[error("`{key}` in `config.json` is {value}, which is not supported for `{architecture}` ({supported})")]
    Unsupported {
        /// The key, with dots between levels.
        key: String,
        /// What it is.
        value: String,
        /// The description in use.
        architecture: String,
        /// What is supported.
        supported: String,
    },
    /// No description knows the architecture.
    #[error("{}", unknown(model_type))]
    UnknownArchitecture {
        /// `model_type` of the configuration.
        model_type: String,
        /// The types that are known.
        known: Vec<String>,
    },
    /// A description does not follow the vocabulary.
    #[error("`models/{name}.yaml`: {why}")]
    Description {
        /// Its name.
        name: String,
        /// What is wrong in it.
        why: String,
    },
    /// A tensor named by the description is not in the checkpoint.
    #[error("`{site}` is missing: the checkpoint has no tensor `{tensor}`")]
    MissingTensor {
        /// The site it belongs to.
        site: Site,
        /// Its name in the checkpoint.
        tensor: String,
    },
    /// A tensor has a shape that does not fit the rest of the model.
    #[error("`{site}` does not fit: tensor `{tensor}` is {shape:?}, expected {expected}")]
    Shape {
        /// The site it belongs to.
        site: Site,
        /// Its name in the checkpoint.
        tensor: String,
        /// `[rows, columns]` as stored.
        shape: [usize; 2],
        /// What would fit, such as `[*, 64]`.
        expected: String,
    },
}

fn unknown(model_type: &str) -> String {
    match model_type {
        "" => "`config.json` names no architecture: it has no text under `model_type`".to_owned(),
        name => format!("unknown architecture `{name}`"),
    }
}

impl Error {
    /// What the reader can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::UnknownArchitecture { known, .. } => Some(format!(
                "known are {}; methods that need no data can still rewrite the weights as loose matrices (`--loose`)",
                known.join(", ")
            )),
            Error::MissingKey { .. } => {
                Some("is this the `config.json` that belongs to the weights? compare it with the model's source".into())
            }
            Error::MissingTensor { .. } => {
                Some("a shard may be missing, or the weights may belong to another architecture".into())
            }
            Error::Shape { .. } => Some("`config.json` and the weights may belong to different models".into()),
            Error::Unsupported { .. } => {
                Some("methods that need no data can still rewrite the weights as loose matrices (`--loose`)".into())
            }
            Error::Description { .. } => Some("`models/README.md` lists every key".into()),
            Error::NotJson { .. } | Error::WrongValue { .. } => None,
        }
    }
}
