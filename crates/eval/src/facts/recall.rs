//! Asks a model for facts.

use brevity_model::Stages;
use brevity_runtime::{Sequence, WeighOptions, weigh};
use rayon::prelude::*;

use super::{Fact, FactScore};
use crate::asker::AskOptions;
use crate::error::{Error, Result};
use crate::run::{Observer, unwrapped};
use crate::words::Words;

/// How well a model knows each of some facts: where the first token of the answer, tokenized on its own with a blank in
/// front, stands among the tokens that the model expects behind the prompt.
///
/// # Errors
/// [`Error::Tokenize`], [`Error::Prompt`], [`Error::Cancelled`] and [`Error::Run`].
pub fn recall(
    model: &dyn Stages,
    words: &Words<'_>,
    facts: &[Fact],
    options: &AskOptions,
    observer: &mut dyn Observer,
) -> Result<Vec<FactScore>> {
    let sequence = |fact: &Fact| -> Result<Sequence> {
        let (mut ids, _, _) = words.to_continue(&fact.prompt, |_| 1)?;
        let from = ids.len();
        ids.push(words.plain(&fact.continuation())?.first().copied().ok_or(Error::Prompt)?);
        Ok(Sequence { ids, from })
    };
    let sequences = facts.par_iter().map(sequence).collect::<Result<Vec<Sequence>>>()?;
    let mut scores = vec![FactScore { rank: usize::MAX, log_prob: f64::NEG_INFINITY }; facts.len()];
    let AskOptions { compute, budget_bytes, rows } = *options;
    weigh(
        model,
        &sequences,
        &WeighOptions { compute, budget_bytes, rows },
        &mut |seen| {
            // A token as likely as the answer, but of lower id, would be taken in its place.
            let rank = seen.rank() + 1;
            let rank = if rank == 1 && seen.best != seen.target { 2 } else { rank };
            scores[seen.sequence] = FactScore { rank, log_prob: seen.log_prob() };
        },
        &mut |progress| {
            observer.progress(progress.fraction);
            if observer.cancelled() { Err(Box::new(Error::Cancelled)) } else { Ok(()) }
        },
    )
    .map_err(unwrapped)?;
    Ok(scores)
}
