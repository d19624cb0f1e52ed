//! What became of value vectors, as a report has it.

use brevity_eval::report::{self, Report};
use brevity_eval::stats::Estimate;
use brevity_eval::traces::{self, Fate, Reading, Survival, TokenRank, Trace};

use super::{CompareError, Named};

/// Follows vectors of the reference into model `n` of the others, and puts what became of them into the report.
pub(super) fn tell(
    report: &mut Report,
    n: usize,
    reference: &Named<'_>,
    other: &Named<'_>,
    traces: &[Trace],
) -> Result<(), CompareError> {
    let tokenizer = reference.model.tokenizer()?;
    let found = traces::compare([reference.model, other.model], traces, &Reading::default())
        .map_err(|source| other.failed(source))?;
    let mean = |mean: Option<Estimate>| mean.map_or("unknown".to_owned(), |mean| format!("{:.3}", mean.value));
    report.method.push(format!(
        "Traces of {}: {} value vectors kept, {} lost; mean cosine {}, mean overlap of what they name {}.",
        other.name,
        found.kept,
        found.lost,
        mean(found.cosine),
        mean(found.overlap)
    ));
    let token = |id: u32| tokenizer.id_to_token(id).unwrap_or_default();
    report.others[n].traces = found.each.iter().map(|trace| trace_of(trace, &token)).collect();
    Ok(())
}

/// Tokens of a trace that are shown.
const SHOWN: usize = 12;

fn trace_of(survival: &Survival, token: &dyn Fn(u32) -> String) -> report::Trace {
    let words = |tokens: &[TokenRank]| tokens.iter().take(SHOWN).map(|t| token(t.token)).collect();
    report::Trace {
        block: survival.trace.block,
        column: survival.trace.channel,
        concept: survival.trace.concept.clone(),
        tokens: words(&survival.tokens),
        tokens_after: Vec::new(),
        cosine: survival.cosine,
        jaccard: survival.overlap,
        lost: matches!(survival.fate, Fate::Zeroed | Fate::Dropped),
    }
}
