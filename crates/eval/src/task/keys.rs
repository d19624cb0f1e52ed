//! The keys of a task's YAML, as they are written.

use std::fmt;
use std::marker::PhantomData;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::error::{BadTask, nearest};
use super::metric::Metric;
use crate::answer::Alike;
use crate::data::Source;

/// All keys; which of them a task needs depends on its kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub about: Option<String>,
    pub source: Option<String>,
    pub version: Option<f64>,
    pub data: Option<OneOrMany<PathOrSource>>,
    pub fields: Option<IndexMap<String, Words>>,
    pub kind: Option<Kind>,
    pub shots: Option<ShotKeys>,
    pub prompt: Option<Words>,
    pub join: Option<OneOrMany<String>>,
    pub choices: Option<Several>,
    pub contexts: Option<Several>,
    pub continuation: Option<Words>,
    pub gold: Option<Words>,
    pub answers: Option<Words>,
    pub max_tokens: Option<usize>,
    pub total_times_prompt: Option<usize>,
    pub until: Option<OneOrMany<String>>,
    pub alike: Option<Alike>,
    pub group: Option<Words>,
    pub groups: Option<IndexMap<String, Vec<String>>>,
    pub metrics: Option<Vec<Metric>>,
    pub filter: Option<String>,
    pub chat: Option<bool>,
    pub fit: Option<usize>,
    pub compat: Option<Box<Keys>>,
}

/// How a task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Which of some continuations is likeliest?
    Choice,
    /// How much of the probability of some continuations have the true ones?
    Mass,
    /// Behind which of some contexts is a continuation likeliest?
    Contexts,
    /// How likely is one continuation?
    Continuation,
    /// What does the model write?
    Write,
    /// The same, for a judge to compare.
    Pairs,
}

/// Examples in front of the question.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShotKeys {
    pub data: OneOrMany<PathOrSource>,
    pub count: usize,
    pub header: Option<Words>,
    pub separator: Option<String>,
    pub same: Option<Words>,
}

/// A template or expression, and the line it begins on.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub text: String,
    pub line: u64,
}

/// Some templates, or one expression for all.
#[derive(Clone, Debug)]
pub(super) enum Several {
    Templates(Vec<Words>),
    Expression(Words),
}

/// A value, or a list of such.
#[derive(Clone, Debug)]
pub(super) struct OneOrMany<T> {
    pub all: Vec<T>,
    pub is_list: bool,
}

/// A source that may be written as just its `files`.
#[derive(Clone, Debug)]
pub(super) struct PathOrSource(pub Source);

impl Keys {
    /// Reads YAML.
    pub fn parse(text: &str, origin: &str) -> Result<Keys, BadTask> {
        serde_saphyr::from_str(text).map_err(|error| {
            let error = error.without_snippet();
            let line = error.location().map(|at| at.line()).filter(|&line| line > 0);
            let (what, hint) = match error {
                serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
                    (format!("there is no key `{field}` here"), Some(nearest(field, expected, "the keys")))
                }
                serde_saphyr::Error::SerdeUnknownVariant { variant, expected, .. } => (
                    format!("`{variant}` is nothing that can stand here"),
                    Some(nearest(variant, expected, "the words")),
                ),
                other => (format!("this is no task: {other}"), None),
            };
            BadTask { origin: origin.to_owned(), line, what, hint }
        })
    }

    /// These keys, and those of another task for what they leave out.
    pub fn over(self, base: &Keys) -> Keys {
        macro_rules! or {
            ($($key:ident),*) => { Keys { $($key: self.$key.or_else(|| base.$key.clone()),)* compat: None } };
        }
        or!(
            about,
            source,
            version,
            data,
            fields,
            kind,
            shots,
            prompt,
            join,
            choices,
            contexts,
            continuation,
            gold,
            answers,
            max_tokens,
            total_times_prompt,
            until,
            alike,
            group,
            groups,
            metrics,
            filter,
            chat,
            fit
        )
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<String>::deserialize(deserializer)?;
        Ok(Words { line: spanned.referenced.line(), text: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Several {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<OneOrMany<String>>::deserialize(deserializer)?;
        let line = spanned.referenced.line();
        let mut words = spanned.value.all.into_iter().map(|text| Words { text, line });
        Ok(match words.len() {
            1 if !spanned.value.is_list => Several::Expression(words.next().expect("there is one")),
            _ => Several::Templates(words.collect()),
        })
    }
}

impl<'de> Deserialize<'de> for PathOrSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = PathOrSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a file, or a mapping with `files`")
            }

            fn visit_str<E>(self, files: &str) -> Result<PathOrSource, E> {
                Ok(PathOrSource(Source::new(files)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PathOrSource, A::Error> {
                Source::deserialize(MapAccessDeserializer::new(map)).map(PathOrSource)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(StrDeserializer::new(text)).map(|one| OneOrMany { all: vec![one], is_list: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany<T>, A::Error> {
                let one = T::deserialize(MapAccessDeserializer::new(map))?;
                Ok(OneOrMany { all: vec![one], is_list: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<OneOrMany<T>, A::Error> {
                let all = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(OneOrMany { all, is_list: true })
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}
