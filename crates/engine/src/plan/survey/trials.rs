//! The model with single layers in other versions, all carried along beside the whole one.

use brevity_kernels::ops;
use brevity_model::{Block, Embed, Head, Linear, Role, Stage, Weight};
use brevity_runtime::{Applied, Forward, Prepare, values};
use candle_core::Tensor;

use super::blocks::divergence;
use crate::error::Error;

/// The most tokens of one sample.
const EACH: usize = 256;

/// Versions of the layers of a stage, each made ready.
type Versions = Vec<(Role, Vec<Linear<Applied>>)>;

/// What the model loses with single layers in other versions.
pub(super) struct Trials<'a> {
    windows: Vec<&'a [u32]>,
    forward: Forward,
    prepare: Prepare,
    /// Hidden states of the whole model, one for each sample.
    whole: Vec<Tensor>,
    /// Those with each version, in the order in which they came.
    changed: Vec<Vec<Tensor>>,
    /// Versions of layers of the stage in hand.
    versions: Versions,
    /// The output table of a model whose head has none of its own.
    table: Option<Applied>,
    losses: Vec<f64>,
}

impl<'a> Trials<'a> {
    /// On the first so many tokens of some samples.
    pub fn new(tokens: usize, windows: &'a [Vec<u32>], forward: Forward, prepare: Prepare) -> Self {
        let mut left = tokens.max(1);
        let mut cut = Vec::new();
        for window in windows {
            let length = window.len().min(EACH).min(left);
            if length > 0 {
                cut.push(&window[..length]);
            }
            left -= length;
        }
        let (whole, changed, versions, losses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Trials { windows: cut, forward, prepare, whole, changed, versions, table: None, losses }
    }

    /// Takes other versions of a layer of the stage in hand.
    pub fn add(&mut self, role: Role, versions: Vec<Linear<Weight>>) -> Result<(), Error> {
        let ready = |version: Linear<Weight>| -> Result<Linear<Applied>, Error> {
            let weight = self.prepare.matrix(version.weight).map_err(Error::Run)?;
            let bias = version.bias.as_ref().map(|bias| self.prepare.vector(bias)).transpose().map_err(Error::Run)?;
            Ok(Linear { weight, bias })
        };
        let versions = versions.into_iter().map(ready).collect::<Result<Vec<_>, _>>()?;
        self.versions.push((role, versions));
        Ok(())
    }

    /// Through the embedding.
    pub fn embed(&mut self, embed: &Embed<Applied>, table: Option<Applied>) -> Result<(), Error> {
        let embedded = self.windows.iter().map(|ids| self.forward.embed(embed, ids, 1, 0));
        self.whole = embedded.collect::<Result<_, _>>().map_err(Error::Run)?;
        self.table = table;
        Ok(())
    }

    /// Through a block.
    pub fn block(&mut self, block: &Block<Applied>) -> Result<(), Error> {
        let forward = &self.forward;
        let through = |block: &Block<Applied>, states: &[Tensor]| -> Result<Vec<Tensor>, Error> {
            let through = states.iter().map(|x| forward.block(block, x, None, None));
            through.collect::<Result<_, _>>().map_err(Error::Run)
        };
        for states in &mut self.changed {
            *states = through(block, states)?;
        }
        for (role, versions) in std::mem::take(&mut self.versions) {
            for version in versions {
                let mut other = Stage::Block(block.clone());
                put(&mut other, &role, version);
                let Stage::Block(other) = other else { unreachable!("a block stays one") };
                self.changed.push(through(&other, &self.whole)?);
            }
        }
        self.whole = through(block, &self.whole)?;
        Ok(())
    }

    /// To the predictions, which are compared.
    pub fn head(&mut self, head: &Head<Applied>) -> Result<(), Error> {
        let (forward, table) = (&self.forward, self.table.as_ref());
        let logits = |head: &Head<Applied>, x: &Tensor| -> Result<Tensor, Error> {
            let logits = forward.head(head, table, x).map_err(Error::Run)?;
            ops::log_softmax(&logits).map_err(|source| Error::Run(source.into()))
        };
        let expected = self.whole.iter().map(|x| logits(head, x)).collect::<Result<Vec<_>, _>>()?;
        let tokens: usize = self.windows.iter().map(|ids| ids.len()).sum();
        let loss = |head: &Head<Applied>, states: &[Tensor]| -> Result<f64, Error> {
            let parts = expected.iter().zip(states).map(|(p, x)| divergence(p, &logits(head, x)?));
            Ok(parts.sum::<Result<f64, Error>>()? / tokens.max(1) as f64)
        };
        let mut losses = self.changed.iter().map(|states| loss(head, states)).collect::<Result<Vec<_>, _>>()?;
        for (role, versions) in std::mem::take(&mut self.versions) {
            for version in versions {
                let mut other = Stage::Head(head.clone());
                put(&mut other, &role, version);
                let Stage::Head(other) = other else { unreachable!("a head stays one") };
                losses.push(loss(&other, &self.whole)?);
            }
        }
        self.losses = losses;
        Ok(())
    }

    /// The loss with each version, in the order in which they came; of a model that predicts nothing, how far its hidden
    /// states are from what they were, as a share of their sum of squares.
    pub fn losses(self) -> Result<Vec<f64>, Error> {
        if !self.losses.is_empty() {
            return Ok(self.losses);
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
        self.changed.iter().map(moved).collect()
    }
}

/// Puts another layer in the place of a role.
fn put(stage: &mut Stage<Applied>, role: &Role, version: Linear<Applied>) {
    if let Some((_, layer)) = stage.linears_mut().into_iter().find(|(known, _)| known == role) {
        *layer = version;
    }
}
