//! Continuing many prompts side by side, the likeliest token each time.

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::bundle::Bundle;
use crate::cache::Cache;
use crate::error::Result;
use crate::read;
use crate::resident::Resident;
use brevity_kernels::softmax::argmax;

/// A prompt to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writing {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// At most so many tokens are written.
    pub max_tokens: usize,
}

/// Rows of prompts that are read at once.
const ROWS: usize = 4096;
/// Prompts that are continued side by side: as many rows as matrix products need to be worth their weights.
const BESIDE: usize = 32;

/// Continues each of several prompts with the likeliest tokens (of equals the first). `on_token` is called with the number of a
/// prompt and all that was written behind it so far, each time that a token was added, and may end it. Returns what was
/// written, prompt by prompt; a token of `stop` ends a text and is no part of it. What else is asked for
/// changes logits by no more than rounding.
///
/// # Errors
/// As [`Resident::forward`]; the window of an error is the prompt.
pub fn write(
    model: &Resident,
    writings: &[Writing],
    stop: &[u32],
    on_token: &mut dyn FnMut(usize, &[u32]) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>> {
    let mut written = vec![Vec::new(); writings.len()];
    // Long ones together, so that few rows are idle at the end.
    let mut order: Vec<usize> = (0..writings.len()).filter(|&n| writings[n].max_tokens > 0).collect();
    order.sort_by_key(|&n| (writings[n].max_tokens, writings[n].prompt.len()));
    let mut waiting = &order[..];
    let mut open: Vec<Open> = Vec::new();
    while !open.is_empty() || !waiting.is_empty() {
        let mut rows = 0;
        let free = BESIDE - open.len();
        let fits = |&&n: &&usize| {
            rows += writings[n].prompt.len();
            rows <= ROWS
        };
        // Prompts come in when there is room for a good many, so that reading them is done for several at once.
        let come = if free * 4 >= BESIDE { waiting.iter().take(free).take_while(fits).count().max(1) } else { 0 };
        let (new, rest) = waiting.split_at(come.min(waiting.len()));
        waiting = rest;
        if !new.is_empty() {
            let mut fresh: Vec<Open> =
                new.iter().map(|&prompt| Open { prompt, cache: model.cache(), next: 0 }).collect();
            let ids: Vec<&[u32]> = new.iter().map(|&n| &writings[n].prompt[..]).collect();
            step(model, &mut fresh, &ids)?;
            open.extend(fresh);
        }
        open.retain(|one| {
            let text = &mut written[one.prompt];
            if stop.contains(&one.next) {
                return false;
            }
            text.push(one.next);
            on_token(one.prompt, text).is_continue() && text.len() < writings[one.prompt].max_tokens
        });
        if !open.is_empty() {
            let last: Vec<[u32; 1]> = open.iter().map(|one| [one.next]).collect();
            let ids: Vec<&[u32]> = last.iter().map(|id| &id[..]).collect();
            step(model, &mut open, &ids)?;
        }
    }
    Ok(written)
}

/// A text that is being written.
struct Open {
    prompt: usize,
    cache: Cache,
    /// The token that comes next.
    next: u32,
}

/// Runs tokens behind those in the caches, and finds the token that comes next in each text.
fn step(model: &Resident, open: &mut [Open], ids: &[&[u32]]) -> Result<()> {
    let behind: Vec<usize> = open.iter().map(|one| one.cache.len()).collect();
    let bundle = Bundle::beside(ids, &behind);
    let numbers: Vec<usize> = open.iter().map(|one| one.prompt).collect();
    let caches = open.iter_mut().map(|one| &mut one.cache).collect();
    let logits: Tensor = model.forward_bundle(&bundle, caches, &numbers)?; // [texts, vocabulary]
    let mut best = vec![0; open.len()];
    read::values(&logits, |logits| argmax(logits, model.vocabulary(), &mut best))?;
    open.iter_mut().zip(best).for_each(|(one, next)| one.next = next);
    Ok(())
}
