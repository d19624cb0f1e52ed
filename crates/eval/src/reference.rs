//! Predictions stored in a file, so that a model can be compared with another that is no longer at hand.
//!
//! Of each row the `k` most likely tokens are stored with their log-probabilities, and the probability of all others
//! together (the tail). From these the divergence is computed with the tail as one token, which is never more than
//! the exact divergence; how much less it can be is computed too, row by row, and reported as `kl_bound`.

mod file;

use std::path::Path;

use brevity_kernels::softmax::{TopK, log_sum_exp, top_k};
use rayon::prelude::*;

use crate::agreement::{Agreement, best};
use crate::divergence::Divergence;
use crate::error::{Error, Result};
use crate::measure::{Measure, Rows};
use crate::score::Score;
use crate::stats::Samples;
use crate::windows::Windows;
use file::{Header, Reader, Writer};

/// Tokens that are stored of each row unless told otherwise.
pub const TOP: usize = 64;

/// A measure that stores what it sees, and scores nothing. The file appears when the last row was seen.
#[derive(Debug)]
pub struct Recorder {
    writer: Writer,
    k: usize,
}

impl Recorder {
    /// Stores the `k` most likely tokens of each row of a model with a vocabulary into a file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(path: &Path, windows: &Windows, vocabulary: usize, k: usize) -> Result<Recorder> {
        let k = k.clamp(1, vocabulary.max(1));
        Ok(Recorder { writer: Writer::create(path, &Header::new(windows, vocabulary, k))?, k })
    }
}

impl Measure for Recorder {
    fn observe(&mut self, rows: &Rows<'_>) -> Result<()> {
        let k = self.k;
        let tops: Vec<TopK> = (0..rows.targets().len()).into_par_iter().map(|row| top_k(rows.row(row), k)).collect();
        tops.iter().try_for_each(|top| self.writer.push(top))
    }

    fn report(&mut self, _: &Windows) -> Result<Vec<Score>> {
        self.writer.finish()?;
        Ok(Vec::new())
    }
}

/// A measure of a model against a stored reference: `kl`, `kl_median`, `kl_p99`, `kl_reverse`, all with the tail as
/// one token; `kl_bound`, by how much the exact `kl` can be larger at most; and `top1_agreement`.
///
/// Stored log-probabilities are singles, so divergences below some 1e-7 nats are noise.
#[derive(Debug)]
pub struct FromReference {
    reader: Reader,
    divergence: Divergence,
    bound: Samples,
    agreement: Agreement,
}

impl FromReference {
    /// Opens a reference that was stored for the same windows and vocabulary.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Reference`] if the file is damaged, [`Error::Differs`] if it is of other windows.
    pub fn open(path: &Path, windows: &Windows, vocabulary: usize) -> Result<FromReference> {
        let reader = Reader::open(path, |k| Header::new(windows, vocabulary, k))?;
        let (divergence, agreement) = (Divergence::default(), Agreement::default());
        Ok(FromReference { reader, divergence, bound: Samples::default(), agreement })
    }
}

impl Measure for FromReference {
    fn observe(&mut self, rows: &Rows<'_>) -> Result<()> {
        let count = rows.targets().len();
        let tops = (0..count).map(|_| self.reader.pull()).collect::<Result<Vec<TopK>>>()?;
        if let Some(&beyond) = tops.iter().flat_map(|top| &top.ids).find(|&&id| id as usize >= rows.vocabulary()) {
            return Err(Error::Token { token: beyond, vocabulary: rows.vocabulary() });
        }
        let all: Vec<Apart> = (0..count).into_par_iter().map(|row| apart(&tops[row], rows.row(row))).collect();
        let column = |f: fn(&Apart) -> f64| all.iter().map(f).collect::<Vec<f64>>();
        let (forward, reverse, bound) = (column(|a| a.forward), column(|a| a.reverse), column(|a| a.bound));
        rows.check("the divergence", &forward)?;
        rows.check("the divergence", &reverse)?;
        rows.check("the divergence", &bound)?;
        self.divergence.add(rows.window(), &forward, &reverse);
        self.bound.extend(rows.window(), &bound);
        let before: Vec<u32> = tops.iter().map(|top| top.ids.first().copied().unwrap_or(0)).collect();
        self.agreement.add(rows.window(), &before, &best(rows));
        Ok(())
    }

    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>> {
        let mut scores = self.divergence.scores(windows)?;
        scores.push(Score::new("kl_bound", windows, self.bound.mean().ok_or(Error::Nothing)?));
        scores.extend(self.agreement.scores(windows)?);
        Ok(scores)
    }
}

/// Divergences of one row with the tail as one token, and how much larger the forward one can be.
#[derive(Clone, Copy, Debug)]
struct Apart {
    forward: f64,
    reverse: f64,
    bound: f64,
}

/// `KL(p ‖ q)` with `p` known by its top and `q` by its logits.
///
/// With `T` the tail, `p_T` and `q_T` its mass, the exact divergence is the coarse one plus
/// `Σ_T p_i ln((p_i / p_T) / (q_i / q_T)) ≥ 0`. No tail token is more likely in `p` than the last stored one, `c`, nor
/// less likely in `q` than the least likely of all, so the missing part is at most
/// `p_T (ln min(1, c / p_T) - ln(min q / q_T))`.
fn apart(top: &TopK, logits: &[f32]) -> Apart {
    let total = log_sum_exp(logits);
    // Without the stored tokens, for a tail mass without cancellation.
    let mut rest = logits.to_vec();
    top.ids.iter().for_each(|&id| rest[id as usize] = f32::NEG_INFINITY);
    let least = rest.iter().copied().filter(|&x| x > f32::NEG_INFINITY).fold(f32::INFINITY, f32::min);
    let (mut forward, mut reverse) = (0.0, 0.0);
    for (&id, &log_p) in top.ids.iter().zip(&top.log_probs) {
        let (log_p, log_q) = (log_p as f64, logits[id as usize] as f64 - total);
        forward += log_p.exp() * (log_p - log_q);
        reverse += log_q.exp() * (log_q - log_p);
    }
    let p_tail = top.tail_mass as f64;
    let mut bound = 0.0;
    if least < f32::INFINITY {
        let log_tail = log_sum_exp(&rest) - total;
        // A tail of no mass in `p` is rounded: it holds less than the last bit of one.
        let log_p = p_tail.max(1e-16).ln();
        forward += p_tail * (log_p - log_tail);
        reverse += log_tail.exp() * (log_tail - log_p);
        let cap = top.log_probs.last().map_or(0.0, |&c| c as f64 - log_p).min(0.0);
        bound = p_tail * (cap - (least as f64 - total - log_tail));
    }
    Apart { forward: forward.max(0.0), reverse: reverse.max(0.0), bound: bound.max(0.0) }
}

#[cfg(test)]
mod tests;
