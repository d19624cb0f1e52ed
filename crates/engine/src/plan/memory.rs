//! How much memory the work takes at most.

use brevity_formats::TensorSpec;
use brevity_model::{CodeForm, Form, Model, Source, Stage};

use super::linears;
use super::predict::Predicted;
use crate::work::Work;

/// The process itself: code, headers, indexes, thread stacks.
const BASE: u64 = 48 << 20;

/// Pages of a mapped file that are resident while a weight is copied out of it, for each thread.
const MAPPED: u64 = 8 << 20;

/// Rows decoded at once to measure errors and to hash, for each thread.
const PIECES: u64 = 24 << 20;

/// For each stage, the most that work on it takes, in bytes.
pub(super) fn peaks(
    model: &Model<Source>,
    work: &Work,
    predicted: &Predicted,
    specs: &[Vec<TensorSpec>],
    threads: usize,
) -> Vec<u64> {
    peaks_of(model, work, &predicted.forms, &predicted.costs, specs, threads)
}

/// A stage is loaded whole. Each thread rewrites one layer, of which it keeps the original to tell the error. The
/// result is encoded while the tensors of the stage before are being written, then handed over.
pub(super) fn peaks_of(
    model: &Model<Source>,
    work: &Work,
    forms: &Model<Form>,
    costs: &[Vec<u64>],
    specs: &[Vec<TensorSpec>],
    threads: usize,
) -> Vec<u64> {
    let encoded = |n: usize| specs[n].iter().map(TensorSpec::bytes).sum::<u64>();
    let fixed = BASE + threads as u64 * (MAPPED + PIECES);
    (0..model.stages.len())
        .map(|n| {
            let before = forms_of(&model.stages[n]);
            let loaded = stage_bytes(&before);
            let rewritten = stage_bytes(&forms.stages[n]);
            // The layers in hand: their originals beside them, and what their steps need.
            let layers = linears(&before).into_iter().zip(&costs[n]).zip(work.of(n));
            let mut in_hand: Vec<u64> = layers
                .filter(|(_, (_, steps))| !steps.is_empty())
                .map(|((layer, cost), _)| held_bytes(&layer.weight) + cost)
                .collect();
            in_hand.sort_unstable_by(|a, b| b.cmp(a));
            let rewriting = in_hand.iter().take(threads).sum::<u64>() + loaded.max(rewritten);
            // Expressions are multiplied out to compare, and to write them as floats.
            let mut whole: Vec<u64> = linears(&forms.stages[n])
                .iter()
                .filter(|layer| layer.weight.as_leaf().is_none())
                .map(|layer| 12 * layer.weight.shape().iter().product::<usize>() as u64)
                .collect();
            whole.sort_unstable_by(|a, b| b.cmp(a));
            let whole: u64 = whole.iter().take(threads).sum();
            let rewriting = rewriting + whole;
            let encoding = rewritten + 2 * encoded(n) + whole;
            let writing = if n > 0 { encoded(n - 1) } else { 0 };
            fixed + writing + rewriting.max(encoding)
        })
        .collect()
}

fn forms_of(stage: &Stage<Source>) -> Stage<Form> {
    stage
        .try_map(|_, _, source| Ok::<_, std::convert::Infallible>(source.form.clone()))
        .unwrap_or_else(|never| match never {})
}

/// Bytes of all weights of a stage in memory.
fn stage_bytes(stage: &Stage<Form>) -> u64 {
    stage.weights().into_iter().map(|(_, _, form)| held_bytes(form)).sum()
}

/// Bytes of a weight in memory: a code takes a byte, or two.
pub(super) fn held_bytes(form: &Form) -> u64 {
    let leaf = |leaf: &brevity_model::LeafForm| {
        let [rows, columns] = leaf.shape;
        let count = (rows * columns) as u64;
        let values = match &leaf.code {
            CodeForm::Float(dtype) => count * dtype.size_bytes() as u64,
            CodeForm::Grid { group, .. } => {
                let [r, c] = group.scales(leaf.shape);
                count + 5 * (r * c) as u64
            }
            CodeForm::Codebook { dim, entries, .. } => {
                let books: usize = entries.iter().map(|entries| entries * dim).sum();
                count / *dim as u64 * 2 * entries.len() as u64 + 4 * (books + rows) as u64
            }
            CodeForm::Diagonal | CodeForm::Permutation => 4 * rows as u64,
            CodeForm::Hadamard => 0,
            // Decoded when they are loaded.
            CodeForm::Blocks(_) => 4 * count,
        };
        values + if leaf.mask.is_some() { count.div_ceil(8) } else { 0 }
    };
    form.leaves().into_iter().map(|(_, form)| leaf(form)).sum()
}
