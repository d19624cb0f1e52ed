//! From weights as they are stored to weights as they are applied.

use std::collections::VecDeque;
use std::sync::Arc;

use brevity_kernels::cast;
use brevity_kernels::matmul::PackedBf16;
use brevity_kernels::ops::{Compute, Prepared};
use brevity_model::{Code, Expr, Floats, Leaf, Role, Rule, Slot, Stage, Train, Weight};
use candle_core::{Device, Tensor};

use crate::applied::Applied;
use crate::error::{Error, Result};
use crate::table::Table;
use crate::train::Chain;

/// How weights are made ready.
#[derive(Clone, Debug)]
pub struct Prepare {
    /// The arithmetic of products.
    pub compute: Compute,
    /// Where the tensors are.
    pub device: Device,
    /// How trains are applied.
    pub trains: Trains,
}

/// How tensor trains are applied to activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trains {
    /// Whichever takes fewer multiplications for a row of activations: [`Train::is_cheaper`] says.
    #[default]
    Cheaper,
    /// Core by core; the matrix never exists.
    Contracted,
    /// As the matrix, multiplied out once when it is loaded: the train saves space in files and none in memory.
    Rebuilt,
}

impl Prepare {
    /// For the processor.
    pub fn new(compute: Compute) -> Self {
        Prepare { compute, device: Device::Cpu, trains: Trains::default() }
    }

    /// A stage ready to run, without changing the weights.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn stage(&self, stage: &Stage<Weight>) -> Result<Stage<Applied>> {
        stage.try_map(|role, slot, weight| self.weight(&role, slot, weight.clone()))
    }

    /// A stage ready to run; each weight is freed as soon as it has been made ready.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn stage_owned(&self, mut stage: Stage<Weight>) -> Result<Stage<Applied>> {
        let mut ready = VecDeque::new();
        stage.try_for_each_mut(|role, slot, weight| {
            let empty = Weight::float([0, 0], Floats::F32(Vec::new()));
            ready.push_back(self.weight(&role, slot, std::mem::replace(weight, empty))?);
            Ok::<_, Error>(())
        })?;
        stage.try_map(|_, _, _| Ok(ready.pop_front().expect("both walks visit the same weights")))
    }

    /// A matrix that rows of activations are multiplied with.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn matrix(&self, weight: Weight) -> Result<Applied> {
        let both = |parts: Box<[Weight; 2]>| -> Result<Box<[Applied; 2]>> {
            let [a, b] = *parts;
            Ok(Box::new([self.matrix(a)?, self.matrix(b)?]))
        };
        match weight {
            Expr::Leaf(leaf) => self.leaf(leaf),
            Expr::Product(factors) => Ok(Applied::Product(both(factors)?)),
            Expr::Sum(terms) => Ok(Applied::Sum(both(terms)?)),
            Expr::Train(train) => self.train(*train),
        }
    }

    fn train(&self, train: Train<Leaf>) -> Result<Applied> {
        let contracted = match self.trains {
            Trains::Cheaper => train.is_cheaper(),
            Trains::Contracted => true,
            Trains::Rebuilt => false,
        };
        if !contracted {
            return self.leaf(Leaf::float(train.shape, Floats::F32(train.to_f32())));
        }
        let bonds = train.bonds();
        let cores = train.cores.into_iter().map(|core| self.matrix(core)).collect::<Result<_>>()?;
        let (shape, rows, columns) = (train.shape, train.rows, train.columns);
        Ok(Applied::Train(Box::new(Chain { shape, rows, columns, bonds, cores })))
    }

    fn weight(&self, role: &Role, slot: Slot, weight: Weight) -> Result<Applied> {
        match (slot, role) {
            (Slot::Bias, _) => self.vector(&weight),
            (_, Role::Tokens | Role::Positions | Role::Types | Role::Relative | Role::AttnRelative) => {
                self.table(weight)
            }
            (_, role) if role.is_norm() => self.vector(&weight),
            _ => self.matrix(weight),
        }
    }

    /// A table whose rows are looked up.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn table(&self, weight: Weight) -> Result<Applied> {
        Ok(Applied::Table(Table::new(weight, &self.device)?))
    }

    /// A bias, or the gain of a norm.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn vector(&self, weight: &Weight) -> Result<Applied> {
        let values = weight.to_f32();
        let count = values.len();
        Ok(Applied::Vector(Tensor::from_vec(values, count, &self.device)?))
    }

    fn leaf(&self, leaf: Leaf) -> Result<Applied> {
        let [outputs, inputs] = leaf.shape;
        Ok(match (&leaf.code, &leaf.mask) {
            (Code::Rule(Rule::Diagonal(d)), None) => Applied::Diagonal(Tensor::from_slice(d, d.len(), &self.device)?),
            (Code::Rule(Rule::Permutation(p)), None) => {
                Applied::Permutation(Tensor::from_slice(p, p.len(), &self.device)?)
            }
            (Code::Rule(Rule::Hadamard(n)), None) => Applied::Hadamard(*n),
            (Code::Float(Floats::Bf16(values)), None) if self.compute == Compute::Bf16 && self.device.is_cpu() => {
                Applied::Matrix(Prepared::Bf16(Arc::new(PackedBf16::from_bf16(values, outputs, inputs))))
            }
            _ => self.dense(leaf)?,
        })
    }

    fn dense(&self, leaf: Leaf) -> Result<Applied> {
        let (rows, columns) = (leaf.shape[0], leaf.shape[1]);
        let tensor = Tensor::from_vec(decode(leaf), (rows, columns), &self.device)?;
        Ok(Applied::Matrix(Prepared::dense(&tensor, self.compute)?))
    }
}

/// The values of a leaf as singles, without a copy where they are singles already.
fn decode(leaf: Leaf) -> Vec<f32> {
    let mut values = match leaf.code {
        Code::Float(Floats::F32(values)) => values,
        Code::Float(Floats::Bf16(bits)) => {
            let mut values = vec![0.0; bits.len()];
            cast::bf16_to_f32(&bits, &mut values);
            values
        }
        code => Leaf { code, shape: leaf.shape, mask: None }.to_f32(),
    };
    if let Some(mask) = &leaf.mask {
        mask.apply(&mut values);
    }
    values
}
