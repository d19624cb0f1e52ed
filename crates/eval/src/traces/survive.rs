//! What became of value vectors from one model to another.

use std::collections::{BTreeMap, HashSet};

use brevity_model::{Stages, Weight};
use serde::{Deserialize, Serialize};

use super::columns::{blocks, columns, down};
use super::lens::Lens;
use super::narrowed::{Narrowed, Rest};
use super::{Reading, Trace};
use crate::error::{Error, Result};
use crate::stats::{Estimate, mean_of};
use crate::sts::cosine;

/// Tokens whose ranks are listed.
const LISTED: usize = 20;

/// What became of a value vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Its column is there.
    Kept,
    /// Its column is all zeros.
    Zeroed,
    /// Its MLP, or its block, is gone.
    Dropped,
    /// Its MLP has fewer channels, and nothing says which were taken away.
    Narrowed,
}

/// A token that describes a vector, and its rank among all tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRank {
    /// The token.
    pub token: u32,
    /// Its rank before, counted from one.
    pub before: usize,
    /// Its rank after.
    pub after: usize,
}

/// What became of one vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Survival {
    /// The vector.
    pub trace: Trace,
    /// What became of it. All below is only there if it was kept.
    pub fate: Fate,
    /// The cosine of the vector before and after; none if widths differ.
    pub cosine: Option<f64>,
    /// Its length after, of that before.
    pub norm_ratio: Option<f64>,
    /// The overlap (Jaccard) of the tokens that describe it.
    pub overlap: Option<f64>,
    /// The median rank after of the tokens that described it before; half of their number if nothing changed.
    pub median_rank: Option<f64>,
    /// The first of these tokens.
    pub tokens: Vec<TokenRank>,
    /// If its MLP was narrowed and the models are as wide as each other.
    pub narrowed: Option<Narrowed>,
}

/// What became of some vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traces {
    /// How many were kept.
    pub kept: usize,
    /// How many were zeroed or dropped.
    pub lost: usize,
    /// Of how many that cannot be said.
    pub unknown: usize,
    /// The mean cosine of those kept.
    pub cosine: Option<Estimate>,
    /// The mean overlap of those kept.
    pub overlap: Option<Estimate>,
    /// One by one, in the order they were asked for.
    pub each: Vec<Survival>,
}

/// Looks at value vectors in two models of one vocabulary. Each model's vectors are seen through its own output table.
///
/// # Cost
/// One stage of one model at a time, and one output table in single precision. Where an MLP was narrowed, a `[hidden,
/// hidden]` matrix in double precision is factored for its block.
///
/// # Errors
/// [`Error::Vocabularies`]; [`Error::Trace`] for a vector that the first model does not have; if a stage cannot be read,
/// or a model has no head.
pub fn compare(models: [&dyn Stages; 2], traces: &[Trace], reading: &Reading) -> Result<Traces> {
    let [before, after] = models.map(|model| model.model().vocabulary);
    if before != after {
        return Err(Error::Vocabularies { before, after });
    }
    let mut asked: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    traces.iter().enumerate().for_each(|(n, trace)| asked.entry(trace.block).or_default().push(n));
    let mut each: Vec<Option<Vectors>> = vec![None; traces.len()];
    for (block, of) in asked {
        let here: Vec<&Trace> = of.iter().map(|&n| &traces[n]).collect();
        for (n, found) in of.iter().zip(in_block(models, block, &here)?) {
            each[*n] = Some(found);
        }
    }
    let mut each: Vec<Vectors> = each.into_iter().flatten().collect();
    name(models, &mut each, reading)?;
    let each: Vec<Survival> = each.into_iter().map(|vectors| vectors.survival).collect();
    let count = |fates: &[Fate]| each.iter().filter(|survival| fates.contains(&survival.fate)).count();
    let mean = |f: fn(&Survival) -> Option<f64>| mean_of(&each.iter().filter_map(f).collect::<Vec<_>>());
    Ok(Traces {
        kept: count(&[Fate::Kept]),
        lost: count(&[Fate::Zeroed, Fate::Dropped]),
        unknown: count(&[Fate::Narrowed]),
        cosine: mean(|survival| survival.cosine),
        overlap: mean(|survival| survival.overlap),
        each,
    })
}

/// What is known of a vector while it is looked at.
#[derive(Clone, Debug)]
struct Vectors {
    survival: Survival,
    before: Vec<f32>,
    /// Empty if it was not kept.
    after: Vec<f32>,
}

/// The vectors of one block, and what can be said without tokens.
fn in_block(models: [&dyn Stages; 2], block: usize, traces: &[&Trace]) -> Result<Vec<Vectors>> {
    let channels: Vec<usize> = traces.iter().map(|trace| trace.channel).collect();
    let load = |model: &dyn Stages| match blocks(model).get(block) {
        Some(&stage) => down(model, stage),
        None => Ok(None),
    };
    let missing = |channel| Error::Trace { block, channel };
    let weight = load(models[0])?.ok_or_else(|| missing(channels[0]))?;
    let [hidden, width] = weight.shape();
    if let Some(&channel) = channels.iter().find(|&&channel| channel >= width) {
        return Err(missing(channel));
    }
    let old = columns(&weight, &channels);
    drop(weight);
    let after = load(models[1])?;
    let left = after.as_ref().map(Weight::shape);
    let new =
        after.as_ref().filter(|_| left.is_some_and(|[_, channels]| channels == width)).map(|w| columns(w, &channels));
    let rest = after.filter(|_| new.is_none() && left.is_some_and(|[rows, _]| rows == hidden));
    let rest = rest.map(|weight| Rest::new(&weight));
    let one = |(n, trace): (usize, &&Trace)| {
        let old = old[n * hidden..][..hidden].to_vec();
        let new = new.as_ref().zip(left).map(|(new, [rows, _])| new[n * rows..][..rows].to_vec());
        let fate = match (&new, left) {
            (Some(new), _) if new.iter().all(|&x| x == 0.0) => Fate::Zeroed,
            (Some(_), _) => Fate::Kept,
            (None, Some(_)) => Fate::Narrowed,
            (None, None) => Fate::Dropped,
        };
        let new = new.filter(|_| fate == Fate::Kept);
        let survival = Survival {
            trace: (*trace).clone(),
            fate,
            cosine: new.as_ref().filter(|new| new.len() == hidden).map(|new| cosine(&old, new)),
            norm_ratio: new.as_ref().and_then(|new| Some(norm(new) / norm(&old)).filter(|ratio| ratio.is_finite())),
            overlap: None,
            median_rank: None,
            tokens: Vec::new(),
            narrowed: rest.as_ref().filter(|_| fate == Fate::Narrowed).and_then(|rest| rest.narrowed(&old)),
        };
        Vectors { survival, before: old, after: new.unwrap_or_default() }
    };
    Ok(traces.iter().enumerate().map(one).collect())
}

/// Adds what tokens say of the vectors that were kept; one output table after the other.
fn name(models: [&dyn Stages; 2], each: &mut [Vectors], reading: &Reading) -> Result<()> {
    let kept: Vec<&mut Vectors> = each.iter_mut().filter(|vectors| vectors.survival.fate == Fate::Kept).collect();
    if kept.is_empty() {
        return Ok(());
    }
    let lens = Lens::load(models[0])?;
    let tops: Vec<Vec<u32>> = kept.iter().flat_map(|vectors| lens.tops(&vectors.before, reading.top)).collect();
    drop(lens);
    let lens = Lens::load(models[1])?;
    for (Vectors { survival, after: new, .. }, top) in kept.into_iter().zip(tops) {
        let logits = lens.logits(new);
        let ranks: Vec<usize> = top.iter().map(|&token| rank(&logits, token)).collect();
        survival.overlap = Some(jaccard(&top, &lens.tops(new, reading.top)[0]));
        survival.median_rank = median(&ranks);
        let listed = top.iter().zip(&ranks).enumerate().take(LISTED);
        survival.tokens = listed.map(|(n, (&token, &after))| TokenRank { token, before: n + 1, after }).collect();
    }
    Ok(())
}

fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// The rank of a token, counted from one; of equals the lower one comes first.
fn rank(logits: &[f32], token: u32) -> usize {
    let own = logits[token as usize];
    let before = |(n, &other): (usize, &f32)| other > own || other == own && n < token as usize;
    1 + logits.iter().enumerate().filter(|&pair| before(pair)).count()
}

fn median(ranks: &[usize]) -> Option<f64> {
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle] as f64),
        _ => Some((sorted[middle - 1] + sorted[middle]) as f64 / 2.0),
    }
}

/// The share of two sets that both have.
pub(super) fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (a, b): (HashSet<u32>, HashSet<u32>) = (a.iter().copied().collect(), b.iter().copied().collect());
    let both = a.intersection(&b).count();
    both as f64 / (a.len() + b.len() - both).max(1) as f64
}
