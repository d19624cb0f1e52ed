//! Models beside the one that they were made from: everything that was lost, in one report.

mod asked;
mod sizes;
mod speed;
mod text;
mod traces;

use brevity_eval::report::{self, Compressed, Model, Report};
use brevity_eval::traces::Trace;
use brevity_eval::{Comparison, Observer, Options, Size, Windows};
use brevity_formats::Checkpoint;

use crate::asking::{InWords, Told};
use crate::vectors::VectorError;
use text::OnText;

pub use speed::Pace;

/// A model under the name that it has in a report.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "checkpoints have none")]
pub struct Named<'a> {
    /// The name.
    pub name: &'a str,
    /// The model.
    pub model: &'a Checkpoint,
}

impl Named<'_> {
    /// An error of a measure, with the name of the model.
    pub(crate) fn failed(&self, source: brevity_eval::Error) -> CompareError {
        CompareError::Eval { model: self.name.to_owned(), source }
    }
}

/// What is to be found out. By default nothing.
#[derive(Debug, Default)]
pub struct Questions {
    /// The text on which predictions are compared, in tokens that all models share.
    pub windows: Option<Windows>,
    /// What is asked in words.
    pub in_words: InWords,
    /// Whether hidden states are compared, place by place; it needs windows.
    pub layers: bool,
    /// Whether it is compared which runs of tokens models find alike; it needs windows.
    pub representations: bool,
    /// Value vectors of the reference.
    pub traces: Vec<Trace>,
    /// Whether and how speed is measured.
    pub pace: Option<Pace>,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// All of it, for people and programs.
    pub report: Report,
    /// What the text said, for each of the other models.
    pub texts: Vec<Comparison>,
    /// What each model answered, the reference first.
    pub told: Vec<Told>,
}

/// Why models could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A measure failed.
    #[error("{model}: {source}")]
    Eval {
        /// The model.
        model: String,
        /// Why.
        source: brevity_eval::Error,
    },
    /// A question about vectors could not be answered.
    #[error("{model}: {source}")]
    Vectors {
        /// The model.
        model: String,
        /// Why.
        source: VectorError,
    },
    /// A tokenizer cannot be read.
    #[error(transparent)]
    Formats(#[from] brevity_formats::Error),
}

/// Compares models with the one that they were made from. Nothing is kept in memory but one stage of one or two models at a
/// time, unless a task is answered in writing or speed is measured.
///
/// # Errors
/// What a measure refuses, with the name of the model.
pub fn compare(
    reference: Named<'_>,
    others: &[Named<'_>],
    questions: &Questions,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Found, CompareError> {
    let mut reports = Report::new(described(&reference));
    reports.others =
        others.iter().map(|other| Compressed { model: described(other), ..Compressed::default() }).collect();
    let mut found = Found { report: reports, texts: Vec::new(), told: Vec::new() };
    if let Some(windows) = &questions.windows {
        for (n, other) in others.iter().enumerate() {
            observer.part(&format!("{} on the text", other.name));
            let pair = [reference.model, other.model];
            let text =
                OnText::of(pair, windows, questions, options, observer).map_err(|source| other.failed(source))?;
            text.into_report(&mut found, n, windows);
        }
        found.report.method.push(text::method(windows));
    }
    for named in std::iter::once(&reference).chain(others) {
        found.told.push(questions.in_words.put(named, options, observer)?);
    }
    asked::tell(&mut found, &questions.in_words);
    if let Some(pace) = &questions.pace {
        let mut speed = |named: &Named<'_>| {
            observer.part(&format!("{}: speed", named.name));
            pace.of(named.model, options.compute).map_err(|error| named.failed(error.into()))
        };
        found.report.reference.speed = Some(speed(&reference)?);
        for (named, other) in others.iter().zip(&mut found.report.others) {
            other.model.speed = Some(speed(named)?);
        }
    }
    if !questions.traces.is_empty() {
        for (n, other) in others.iter().enumerate() {
            observer.part(&format!("{}: traces", other.name));
            traces::tell(&mut found.report, n, &reference, other, &questions.traces)?;
        }
    }
    found.report.method.push(format!("Arithmetic: {}.", arithmetic(options)));
    found.report.warnings.extend(other_words(&reference, others)?);
    Ok(found)
}

/// A warning if a model reads texts as other tokens than the reference.
fn other_words(reference: &Named<'_>, others: &[Named<'_>]) -> Result<Option<String>, CompareError> {
    let vocabulary = |named: &Named<'_>| Ok::<_, CompareError>(named.model.tokenizer()?.get_vocab(true));
    let own = vocabulary(reference)?;
    for other in others {
        if vocabulary(other)? != own {
            return Ok(Some(format!(
                "`{}` has another tokenizer than the reference: what is told token by token, such as the first token of a fact, \
                 cannot be compared number by number.",
                other.name
            )));
        }
    }
    Ok(None)
}

fn arithmetic(options: &Options) -> &'static str {
    match options.compute {
        brevity_runtime::Compute::F32 => "single precision",
        brevity_runtime::Compute::Bf16 => "products of bfloat16 numbers, summed in single precision",
    }
}

/// A model without scores.
fn described(named: &Named<'_>) -> Model {
    let checkpoint = named.model;
    let size = Size::of(checkpoint.model(), checkpoint.size_bytes());
    let record = checkpoint.folder().read("compression.json").ok();
    let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    Model {
        name: named.name.to_owned(),
        size_bytes: size.size_bytes,
        parameters: size.parameters,
        bits_per_weight: size.bits_per_weight(),
        parts: sizes::parts(checkpoint),
        provenance: report::provenance(record),
        ..Model::default()
    }
}
