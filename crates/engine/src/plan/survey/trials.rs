//! The model with parts of it in other versions, all carried along beside the whole one.

use brevity_kernels::ops;
use brevity_model::{Head, Stage};
use brevity_runtime::{Applied, Forward, values};
use candle_core::Tensor;

use crate::error::Error;

/// What the model loses with parts of it in other versions.
pub(super) struct Trials<'a> {
    windows: Vec<&'a [u32]>,
    forward: Forward,
    /// Hidden states of the whole model, one for each sample.
    whole: Vec<Tensor>,
    /// Those with each version, in the order in which they came.
    others: Vec<Vec<Tensor>>,
    /// Filled in behind the head.
    losses: Option<Vec<f64>>,
}

impl<'a> Trials<'a> {
    /// On the first so many tokens, at most `each` of one sample.
    pub fn new(tokens: usize, each: usize, windows: &'a [Vec<u32>], forward: Forward) -> Self {
        let mut left = tokens.max(1);
        let mut cut = Vec::new();
        for window in windows {
            let length = window.len().min(each).min(left);
            if length > 0 {
                cut.push(&window[..length]);
            }
            left -= length;
        }
        Trials { windows: cut, forward, whole: Vec::new(), others: Vec::new(), losses: None }
    }

    /// Through a stage; `versions` are others of it. `table` is the output table of a model whose head has none of its own.
    pub fn pass(
        &mut self,
        stage: &Stage<Applied>,
        table: Option<&Applied>,
        versions: impl Iterator<Item = Result<Stage<Applied>, Error>>,
    ) -> Result<(), Error> {
        match stage {
            Stage::Embed(_) | Stage::Block(_) => {
                for states in &mut self.others {
                    *states = through(&self.forward, &self.windows, stage, states)?;
                }
                for version in versions {
                    self.others.push(through(&self.forward, &self.windows, &version?, &self.whole)?);
                }
                self.whole = through(&self.forward, &self.windows, stage, &self.whole)?;
            }
            Stage::Head(head) if head.logits => {
                let heads = versions.filter_map(|version| match version {
                    Ok(Stage::Head(head)) => Some(Ok(head)),
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                });
                let heads = heads.collect::<Result<Vec<_>, _>>()?;
                self.losses = Some(self.predict(head, &heads, table)?);
            }
            Stage::Head(_) | Stage::Loose(_) => {}
        }
        Ok(())
    }

    /// The mean divergence of the predictions of each version.
    fn predict(
        &self,
        head: &Head<Applied>,
        heads: &[Head<Applied>],
        table: Option<&Applied>,
    ) -> Result<Vec<f64>, Error> {
        let logits = |head: &Head<Applied>, x: &Tensor| -> Result<Tensor, Error> {
            let logits = self.forward.head(head, table, x).map_err(Error::Run)?;
            ops::log_softmax(&logits).map_err(|source| Error::Run(source.into()))
        };
        let mut sums = vec![0.0; self.others.len() + heads.len()];
        for (sample, x) in self.whole.iter().enumerate() {
            let p = logits(head, x)?;
            let others = self.others.iter().map(|states| logits(head, &states[sample]));
            for (sum, q) in sums.iter_mut().zip(others.chain(heads.iter().map(|head| logits(head, x)))) {
                *sum += divergence(&p, &q?)?;
            }
        }
        let tokens: usize = self.windows.iter().map(|ids| ids.len()).sum();
        Ok(sums.into_iter().map(|sum| sum / tokens.max(1) as f64).collect())
    }

    /// The loss with each version, in the order in which they came: the mean KL divergence of the distribution of the next
    /// token, in nats; of a model that predicts nothing, how far its hidden states are from what they were, as a share of
    /// their sum of squares.
    pub fn losses(self) -> Result<Vec<f64>, Error> {
        if let Some(losses) = self.losses {
            return Ok(losses);
        }
        let squares =
            |x: &Tensor| values(x, |x| x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()).map_err(Error::Run);
        let sum = |states: &[Tensor]| states.iter().map(squares).sum::<Result<f64, Error>>();
        let whole = sum(&self.whole)?;
        let moved = |states: &Vec<Tensor>| -> Result<f64, Error> {
            let gone = states.iter().zip(&self.whole).map(|(x, whole)| x - whole);
            let gone = gone.collect::<candle_core::Result<Vec<_>>>().map_err(|source| Error::Run(source.into()))?;
            Ok(sum(&gone)? / whole.max(f64::MIN_POSITIVE))
        };
        self.others.iter().map(moved).collect()
    }
}

/// Hidden states of all samples behind an embedding or a block.
fn through(
    forward: &Forward,
    windows: &[&[u32]],
    stage: &Stage<Applied>,
    states: &[Tensor],
) -> Result<Vec<Tensor>, Error> {
    let through = match stage {
        Stage::Embed(embed) => windows.iter().map(|ids| forward.embed(embed, ids, 1, 0)).collect::<Result<_, _>>(),
        Stage::Block(block) => states.iter().map(|x| forward.block(block, x, None, None)).collect(),
        Stage::Head(_) | Stage::Loose(_) => unreachable!("neither passes hidden states on"),
    };
    through.map_err(Error::Run)
}

/// `Σ p (ln p - ln q)` over all rows, given logarithms.
fn divergence(p: &Tensor, q: &Tensor) -> Result<f64, Error> {
    let sum = values(p, |p| {
        values(q, |q| {
            // The pieces depend on the shape alone and are added in order.
            p.chunks(4096)
                .zip(q.chunks(4096))
                .map(|(p, q)| {
                    p.iter().zip(q).map(|(&p, &q)| f64::from(p.exp()) * (f64::from(p) - f64::from(q))).sum::<f64>()
                })
                .sum::<f64>()
        })
    });
    sum.and_then(|sum| sum).map_err(Error::Run)
}
