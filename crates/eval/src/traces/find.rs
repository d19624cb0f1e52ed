//! Finding value vectors that seem to stand for something.

use brevity_model::Stages;
use rayon::prelude::*;

use super::columns::{blocks, columns, down};
use super::lens::Lens;
use super::survive::jaccard;
use super::{Reading, Trace};
use crate::error::Result;
use crate::random::{Random, SeedableRng, below};

/// Two vectors whose judged tokens overlap by more than this are one.
const SAME: f64 = 0.5;

/// Random tokens that coherence is compared with.
const RANDOM: usize = 1024;

/// The `count` most coherent value vectors of the middle-to-late half of a model, most coherent first.
///
/// Coherence is the mean cosine of all pairs of the tokens that a vector names most strongly, less that of random
/// tokens. Only tokens that are `ordinary` are judged, and only vectors of which most tokens are: tokens that were never
/// trained have embeddings that are all alike. Of vectors that name the same tokens only the most coherent is listed. Looking
/// at all columns would cost more than running the model, so only the longest of each block are looked at.
///
/// # Cost
/// One stage at a time and the output table in single precision; `candidates * vocabulary * hidden` a block.
///
/// # Errors
/// If a stage cannot be read, or the model has no head.
pub fn find(
    model: &dyn Stages,
    count: usize,
    reading: &Reading,
    ordinary: &(dyn Fn(u32) -> bool + Sync),
) -> Result<Vec<Trace>> {
    let lens = Lens::load(model)?;
    let mut random = Random::seed_from_u64(reading.seed);
    let words: Vec<u32> = (0..lens.vocabulary() as u32).into_par_iter().filter(|&token| ordinary(token)).collect();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let tokens: Vec<u32> = (0..RANDOM).map(|_| words[below(&mut random, words.len())]).collect();
    let usual = lens.likeness(&tokens);
    let mut found: Vec<(Trace, Vec<u32>)> = Vec::new();
    let stages = blocks(model);
    for (block, &stage) in stages.iter().enumerate().skip(stages.len() / 2) {
        let Some(down) = down(model, stage)? else { continue };
        let [hidden, width] = down.shape();
        let all = columns(&down, &(0..width).collect::<Vec<_>>());
        drop(down);
        for channel in longest(&all, hidden, reading.candidates) {
            let mut tokens = lens.tops(&all[channel * hidden..][..hidden], reading.judged).swap_remove(0);
            let all_tokens = tokens.len();
            tokens.retain(|token| words.binary_search(token).is_ok());
            if 2 * tokens.len() <= all_tokens {
                continue;
            }
            tokens.sort_unstable(); // so that the same tokens are as coherent to the last bit
            let coherence = Some(lens.likeness(&tokens) - usual);
            found.push((Trace { concept: None, block, channel, coherence }, tokens));
        }
    }
    found.sort_by(|(a, _), (b, _)| b.coherence.unwrap_or(0.0).total_cmp(&a.coherence.unwrap_or(0.0)));
    let mut kept: Vec<(Trace, Vec<u32>)> = Vec::new();
    for (trace, tokens) in found {
        if kept.len() == count {
            break;
        }
        if kept.iter().all(|(_, others)| jaccard(&tokens, others) <= SAME) {
            kept.push((trace, tokens));
        }
    }
    Ok(kept.into_iter().map(|(trace, _)| trace).collect())
}

/// The longest of some vectors, by their places; those of zeros are none.
fn longest(vectors: &[f32], width: usize, most: usize) -> Vec<usize> {
    let squares: Vec<f32> = vectors.chunks(width.max(1)).map(|v| v.iter().map(|x| x * x).sum()).collect();
    crate::rows::first(&squares, most).into_iter().filter(|&at| squares[at] > 0.0).collect()
}
