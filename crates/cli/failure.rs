//! Errors as text and exit codes.

use std::io::{self, Write};
use std::process::ExitCode;

use brevity::{OpenError, TextError, engine, eval, formats, methods, model, runtime};

/// A sentence of the command itself, with a hint.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Usage {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Limits that were not kept.
#[derive(Debug, thiserror::Error)]
#[error("the gate failed: {}", broken.join("; "))]
pub struct GateFailed {
    /// Each in words.
    pub broken: Vec<String>,
}

/// A gate.
const GATE_FAILED: u8 = 3;
/// Usage or bad input.
const BAD_INPUT: u8 = 2;
/// Memory or disk.
const WOULD_NOT_FIT: u8 = 4;
/// The format.
const CANNOT_HOLD: u8 = 5;
/// Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Prints an error and says with which code to end.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // Nobody may be listening; the code is told all the same.
    let _ = tell(error);
    ExitCode::from(error.chain().find_map(code).unwrap_or(BAD_INPUT))
}

fn tell(error: &anyhow::Error) -> io::Result<()> {
    let mut out = io::stderr().lock();
    writeln!(out, "error: {error}")?;
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !said.contains(&text) {
            writeln!(out, "  because {text}")?;
            said.push_str(&text);
        }
    }
    if let Some(hint) = error.chain().find_map(hint) {
        writeln!(out, "hint: {hint}")?;
    }
    Ok(())
}

fn hint(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    macro_rules! first {
        ($($kind:ty),*) => { $(if let Some(error) = error.downcast_ref::<$kind>() { return error.hint(); })* };
    }
    first!(
        OpenError,
        TextError,
        formats::Error,
        engine::Error,
        methods::Error,
        eval::Error,
        runtime::Error,
        model::Error
    );
    first!(brevity::embed::Error, brevity::embed::codec::Error, brevity::vectors::VectorError);
    first!(crate::machine::TooSmall);
    if let Some(brevity::compare::CompareError::Eval { source, .. }) = error.downcast_ref() {
        return source.hint();
    }
    if let Some(brevity::compare::CompareError::Vectors { source, .. }) = error.downcast_ref() {
        return source.hint();
    }
    if let Some(bad) = error.downcast_ref::<eval::BadTask>() {
        return bad.hint.clone();
    }
    if let Some(bad) = error.downcast_ref::<engine::BadRecipe>() {
        return bad.hint.clone();
    }
    error.downcast_ref::<Usage>().and_then(|usage| usage.hint.clone())
}

fn code(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if error.is::<GateFailed>() {
        return Some(GATE_FAILED);
    }
    if error.is::<crate::machine::TooSmall>() {
        return Some(WOULD_NOT_FIT);
    }
    if error.is::<crate::export::Stopped>() {
        return Some(INTERRUPTED);
    }
    if let Some(eval::Error::Cancelled) = error.downcast_ref() {
        return Some(INTERRUPTED);
    }
    if let Some(brevity::compare::CompareError::Eval { source: eval::Error::Cancelled, .. }) = error.downcast_ref() {
        return Some(INTERRUPTED);
    }
    if let Some(error) = error.downcast_ref::<formats::Error>() {
        return of_files(error);
    }
    match error.downcast_ref::<engine::Error>()? {
        engine::Error::Memory { .. } | engine::Error::Disk { .. } => Some(WOULD_NOT_FIT),
        engine::Error::Unholdable { .. } => Some(CANNOT_HOLD),
        engine::Error::Cancelled { .. } => Some(INTERRUPTED),
        engine::Error::Files(error) => of_files(error),
        engine::Error::Run(runtime::Error::Spill { source, .. }) if is_full(source) => Some(WOULD_NOT_FIT),
        _ => None,
    }
}

/// Whether a disk, a quota or a limit on files is what does not suffice.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

fn of_files(error: &formats::Error) -> Option<u8> {
    match error {
        formats::Error::Output { fault: formats::OutputFault::Full { .. }, .. } => Some(WOULD_NOT_FIT),
        formats::Error::Unholdable { .. } | formats::Error::Gguf { .. } => Some(CANNOT_HOLD),
        _ => None,
    }
}
