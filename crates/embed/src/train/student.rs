//! An encoder whose blocks are variables.

use brevity_formats::Checkpoint;
use brevity_kernels::ops::{Compute, Prepared};
use brevity_model::{Block, Embed, Norm, Role, Slot, Stage, Weight};
use brevity_runtime::{Applied, Forward, Prepare};
use candle_core::{Device, Tensor, Var};

use super::loss::unit;
use crate::error::{Error, Result};
use crate::modules::{DenseAct, Layer, Modules};
use crate::pool::Pooling;

/// An encoder whose blocks, last norm and dense layers are variables. Its tables stay as they are.
#[derive(Debug)]
pub struct Student {
    forward: Forward,
    embed: Embed<Applied>,
    blocks: Vec<Block<Applied>>,
    norm: Option<Norm<Applied>>,
    behind: Vec<Behind>,
    pooling: Pooling,
    parameters: Vec<Parameter>,
    width: usize,
}

/// A variable and what it is.
#[derive(Debug)]
pub(super) struct Parameter {
    pub owner: Owner,
    pub var: Var,
}

/// What a variable is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owner {
    /// A weight of a stage.
    Stage(usize, Role, Slot),
    /// The weight or bias of a dense layer, by its place among the modules.
    Dense(usize, Slot),
}

#[derive(Debug)]
enum Behind {
    Dense(Tensor, Option<Tensor>, DenseAct),
    Normalize,
}

impl Student {
    /// Makes the blocks of a checkpoint variables. Coded weights are decoded.
    ///
    /// # Errors
    /// [`Error::Untrainable`] if the states of tokens are not averaged, nor those of the first or last taken.
    pub fn new(checkpoint: &Checkpoint, modules: &Modules) -> Result<Student> {
        let pooling = match modules.layers.first() {
            Some(Layer::Pool { modes, .. }) if modes.len() == 1 => modes[0],
            _ => return Err(Error::Untrainable { what: "pools in several ways at once".into() }),
        };
        if !matches!(pooling, Pooling::Mean | Pooling::Cls | Pooling::Last) {
            return Err(Error::Untrainable { what: format!("pools by `{pooling}`") });
        }
        let prepare = Prepare::new(Compute::F32);
        let (mut embed, mut blocks, mut norm) = (None, Vec::new(), None);
        let mut parameters = Vec::new();
        for n in 0..checkpoint.model().stages.len() {
            match checkpoint.load_stage(n)? {
                stage @ Stage::Embed(_) => {
                    let Stage::Embed(ready) = prepare.stage_owned(stage)? else { unreachable!("as it went in") };
                    embed = Some(ready);
                }
                stage @ Stage::Block(_) => {
                    let Stage::Block(block) = trainable(n, &stage, &mut parameters)? else {
                        unreachable!("as it went in")
                    };
                    blocks.push(block);
                }
                Stage::Head(mut head) => {
                    (head.out, head.project) = (None, None);
                    let Stage::Head(head) = trainable(n, &Stage::Head(head), &mut parameters)? else {
                        unreachable!("as it went in")
                    };
                    norm = head.norm;
                }
                Stage::Loose(_) => {}
            }
            checkpoint.release_stage(n);
        }
        let embed = embed.ok_or(Error::Untrainable { what: "has no embedding".into() })?;
        let mut behind = Vec::new();
        for (n, layer) in modules.layers.iter().enumerate() {
            match layer {
                Layer::Pool { .. } => {}
                Layer::Normalize => behind.push(Behind::Normalize),
                Layer::Dense(dense) => {
                    let weight = Tensor::from_slice(&dense.weight, (dense.shape[0], dense.shape[1]), &Device::Cpu)?;
                    let weight = variable(Owner::Dense(n, Slot::Weight), weight, &mut parameters)?;
                    let bias = dense.bias.as_ref().map(|bias| {
                        let bias = Tensor::from_slice(bias, bias.len(), &Device::Cpu)?;
                        variable(Owner::Dense(n, Slot::Bias), bias, &mut parameters)
                    });
                    behind.push(Behind::Dense(weight, bias.transpose()?, dense.act));
                }
            }
        }
        let width = modules.width(checkpoint.model().hidden)?;
        Ok(Student { forward: Forward::new(Compute::F32), embed, blocks, norm, behind, pooling, parameters, width })
    }

    /// Blocks.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// Dimensions of the vectors.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The variables.
    pub fn vars(&self) -> Vec<Var> {
        self.parameters.iter().map(|parameter| parameter.var.clone()).collect()
    }

    /// What a variable holds now, if there is one of this kind.
    pub(super) fn values(&self, owner: &Owner) -> Result<Option<Vec<f32>>> {
        let found = self.parameters.iter().find(|parameter| parameter.owner == *owner);
        Ok(found.map(|parameter| parameter.var.as_tensor().flatten_all()?.to_vec1()).transpose()?)
    }

    /// Vectors of texts in tokens behind each of some numbers of blocks, `[texts, width]` each, in the order asked for.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn vectors(&self, texts: &[&[u32]], layers: &[usize]) -> Result<Vec<Tensor>> {
        let lengths: Vec<usize> = texts.iter().map(|ids| ids.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let padded = texts.iter().flat_map(|ids| {
            let pad = std::iter::repeat_n(0, longest - ids.len());
            ids.iter().copied().chain(pad)
        });
        let ids: Vec<u32> = padded.collect();
        let mut x = self.forward.embed(&self.embed, &ids, texts.len(), 0)?;
        let deepest = layers.iter().copied().max().unwrap_or(0);
        let mut found: Vec<Option<Tensor>> = vec![None; layers.len()];
        for passed in 0..=deepest.min(self.blocks.len()) {
            if passed > 0 {
                x = self.forward.block(&self.blocks[passed - 1], &x, Some(&lengths), None)?;
            }
            for (place, _) in layers.iter().enumerate().filter(|(_, layer)| **layer == passed) {
                let states = self.forward.norm(&self.norm, x.clone())?;
                found[place] = Some(self.through(self.pooled(&states, &lengths)?)?);
            }
        }
        found
            .into_iter()
            .map(|vectors| vectors.ok_or(Error::Layers { asked: deepest, layers: self.blocks.len() }))
            .collect()
    }

    /// `[texts, tokens, hidden]` to `[texts, hidden]`.
    fn pooled(&self, states: &Tensor, lengths: &[usize]) -> Result<Tensor> {
        let (texts, tokens, _) = states.dims3()?;
        let weight = |text: usize, token: usize| match self.pooling {
            Pooling::Cls => f32::from(u8::from(token == 0)),
            Pooling::Last => f32::from(u8::from(token + 1 == lengths[text])),
            _ if token < lengths[text] => 1.0 / lengths[text] as f32,
            _ => 0.0,
        };
        let weights = (0..texts).flat_map(|text| (0..tokens).map(move |token| (text, token)));
        let weights: Vec<f32> = weights.map(|(text, token)| weight(text, token)).collect();
        let weights = Tensor::from_vec(weights, (texts, 1, tokens), states.device())?;
        Ok(weights.matmul(&states.contiguous()?)?.squeeze(1)?)
    }

    fn through(&self, mut x: Tensor) -> Result<Tensor> {
        for layer in &self.behind {
            x = match layer {
                Behind::Normalize => unit(&x)?,
                Behind::Dense(weight, bias, act) => {
                    let y = x.matmul(&weight.t()?)?;
                    let y = match bias {
                        Some(bias) => y.broadcast_add(bias)?,
                        None => y,
                    };
                    match act {
                        DenseAct::Identity => y,
                        DenseAct::Tanh => y.tanh()?,
                    }
                }
            };
        }
        Ok(x)
    }
}

/// A stage whose weights are variables.
fn trainable(n: usize, stage: &Stage<Weight>, parameters: &mut Vec<Parameter>) -> Result<Stage<Applied>> {
    stage.try_map(|role, slot, weight| {
        if role == Role::AttnRelative {
            return Ok(Prepare::new(Compute::F32).table(weight.clone())?);
        }
        let [rows, columns] = weight.shape();
        let values = Tensor::from_vec(weight.to_f32(), (rows, columns), &Device::Cpu)?;
        let is_vector = slot == Slot::Bias || role.is_norm();
        let values = if is_vector { values.flatten_all()? } else { values };
        let tensor = variable(Owner::Stage(n, role, slot), values, parameters)?;
        Ok(if is_vector { Applied::Vector(tensor) } else { Applied::Matrix(Prepared::dense(&tensor, Compute::F32)?) })
    })
}

fn variable(owner: Owner, values: Tensor, parameters: &mut Vec<Parameter>) -> Result<Tensor> {
    let var = Var::from_tensor(&values)?;
    let tensor = var.as_tensor().clone();
    parameters.push(Parameter { owner, var });
    Ok(tensor)
}
