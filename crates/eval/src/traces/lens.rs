//! The output table of a model as a lens on its hidden states.

use brevity_kernels::matmul::{Dims, matmul_f32, matmul_nt_f32};
use brevity_kernels::softmax::top_k;
use brevity_model::{Head, Linear, NormKind, Stage, Stages, Weight};
use rayon::prelude::*;

use super::columns::load;
use crate::error::{Error, Result};

/// The output table times the gain of the last norm, `[vocabulary, hidden]`.
///
/// What else the last norm does, a length or a mean taken away, does not depend on the token and is left out; so are
/// biases, which would be the same for all vectors.
pub(super) struct Lens {
    pub table: Vec<f32>,
    pub hidden: usize,
}

impl Lens {
    /// Loads the head of a model, and its token table if that is the output table.
    ///
    /// # Cost
    /// The table in single precision.
    pub fn load(model: &dyn Stages) -> Result<Lens> {
        let tree = model.model();
        let missing = |what| Error::Run(brevity_runtime::Error::Missing { what });
        let at = tree
            .stages
            .iter()
            .position(|stage| matches!(stage, Stage::Head(head) if head.logits))
            .ok_or(missing("head"))?;
        let Stage::Head(Head { norm, project, out, .. }) = load(model, at)? else { return Err(missing("head")) };
        model.release(at);
        let out: Linear<Weight> = match out {
            Some(out) => out,
            None => {
                let is_embed = |stage: &_| matches!(stage, Stage::Embed(_));
                let at = tree.stages.iter().position(is_embed).ok_or(missing("embedding"))?;
                let Stage::Embed(embed) = load(model, at)? else { return Err(missing("embedding")) };
                model.release(at);
                embed.tokens
            }
        };
        let [vocabulary, width] = out.weight.shape();
        let mut table = out.weight.to_f32();
        drop(out);
        let mut hidden = width;
        if let Some(project) = project {
            // From the width of the blocks to that of the table: E P.
            hidden = project.weight.shape()[1];
            let mut product = vec![0.0; vocabulary * hidden];
            matmul_f32(Dims { m: vocabulary, k: width, n: hidden }, &table, &project.weight.to_f32(), &mut product);
            table = product;
        }
        if let Some(norm) = norm {
            let offset = if norm.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
            let gain: Vec<f32> = norm.gain.to_f32().iter().map(|gain| gain + offset).collect();
            table
                .par_chunks_mut(hidden.max(1))
                .for_each(|row| row.iter_mut().zip(&gain).for_each(|(x, gain)| *x *= gain));
        }
        Ok(Lens { table, hidden })
    }

    /// Tokens of the table.
    pub fn vocabulary(&self) -> usize {
        self.table.len().checked_div(self.hidden).unwrap_or(0)
    }

    /// How strongly a vector names each token, `[vocabulary]`.
    pub fn logits(&self, vector: &[f32]) -> Vec<f32> {
        let mut logits = vec![0.0; self.vocabulary()];
        let dims = Dims { m: 1, k: self.hidden, n: self.vocabulary() };
        matmul_nt_f32(dims, vector, &self.table, &mut logits);
        logits
    }

    /// The tokens that each of some vectors names most strongly, `[vectors, hidden]`; some at a time, so that little is
    /// kept.
    pub fn tops(&self, vectors: &[f32], k: usize) -> Vec<Vec<u32>> {
        let vocabulary = self.vocabulary();
        let mut tops = Vec::new();
        for some in vectors.chunks(64 * self.hidden) {
            let m = some.len() / self.hidden;
            let mut logits = vec![0.0; m * vocabulary];
            matmul_nt_f32(Dims { m, k: self.hidden, n: vocabulary }, some, &self.table, &mut logits);
            tops.par_extend(logits.par_chunks(vocabulary).map(|row| top_k(row, k).ids));
        }
        tops
    }

    /// The mean cosine of all pairs of some tokens: `(‖Σ u‖² - n) / (n (n - 1))` with `u` their rows of length one.
    pub fn likeness(&self, tokens: &[u32]) -> f64 {
        let (mut sum, n) = (vec![0f64; self.hidden], tokens.len() as f64);
        for &token in tokens {
            let row = &self.table[token as usize * self.hidden..][..self.hidden];
            let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) / norm);
        }
        (sum.iter().map(|x| x * x).sum::<f64>() - n) / (n * (n - 1.0)).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeness_is_the_mean_cosine_of_pairs() {
        let lens = Lens { table: vec![1.0, 0.0, 3.0, 0.0, 0.0, 2.0], hidden: 2 };
        assert!((lens.likeness(&[0, 1]) - 1.0).abs() < 1e-12);
        assert!((lens.likeness(&[0, 1, 2]) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(lens.tops(&[0.0, 1.0, 1.0, 0.1], 2), [vec![2, 0], vec![1, 0]]);
        assert_eq!(lens.logits(&[1.0, 1.0]), [1.0, 3.0, 2.0]);
    }
}
