//! Weights made ready to be applied to activations, as the expressions they are.

use brevity_kernels::ops::{self, Prepared};
use candle_core::{D, Tensor};

use crate::error::{Error, Result};
use crate::table::Table;
use crate::train::Chain;

/// A weight ready to be applied. It follows the expression: a product is two thin products, a sum is added,
/// and a rule costs what the rule costs.
#[derive(Clone, Debug)]
pub enum Applied {
    /// A matrix for products.
    Matrix(Prepared),
    /// A table whose rows are looked up.
    Table(Table),
    /// A vector: a bias, or the gain of a norm.
    Vector(Tensor),
    /// Each input times a number.
    Diagonal(Tensor),
    /// Output `i` is input `p[i]`.
    Permutation(Tensor),
    /// The orthogonal Hadamard matrix of this size.
    Hadamard(usize),
    /// `A (B x)`.
    Product(Box<[Applied; 2]>),
    /// `A x + B x`.
    Sum(Box<[Applied; 2]>),
    /// Core by core.
    Train(Box<Chain>),
}

impl Applied {
    /// `W x + bias` for each row of `x`, which is `[.., inputs]`; the result is `[.., outputs]`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn apply(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let y = match self {
            Applied::Matrix(matrix) => return Ok(ops::linear(x, matrix, bias)?),
            Applied::Product(factors) => return factors[0].apply(&factors[1].apply(x, None)?, bias),
            Applied::Sum(terms) => return Ok(ops::add(&terms[0].apply(x, bias)?, &terms[1].apply(x, None)?)?),
            Applied::Train(chain) => chain.apply(x)?,
            Applied::Diagonal(d) => x.broadcast_mul(d)?,
            Applied::Permutation(p) => x.contiguous()?.index_select(p, D::Minus1)?,
            Applied::Hadamard(n) => hadamard(x, *n)?,
            Applied::Table(Table::Dense(table)) => x.broadcast_matmul(&table.t()?)?,
            Applied::Table(_) | Applied::Vector(_) => {
                return Err(refused("a table or vector is looked up or added, not multiplied with"));
            }
        };
        Ok(match bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// The vector, if it is one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn vector(&self) -> Result<&Tensor> {
        match self {
            Applied::Vector(vector) => Ok(vector),
            _ => Err(refused("a bias or gain is a vector")),
        }
    }

    /// The table, if it is one.
    ///
    /// # Errors
    /// If it is something else.
    pub fn table(&self) -> Result<&Table> {
        match self {
            Applied::Table(table) => Ok(table),
            _ => Err(refused("rows are looked up in a table")),
        }
    }
}

fn refused(why: &str) -> Error {
    candle_core::Error::Msg(why.into()).into()
}

/// `H x`. With `n = a b` the Sylvester matrix of size `n` is the Kronecker product of those of sizes `a` and `b`,
/// so two small products do: `H_a X H_b` with `X` the input as an `a` by `b` matrix.
fn hadamard(x: &Tensor, n: usize) -> Result<Tensor> {
    let a = 1 << (n.ilog2() / 2);
    let b = n / a;
    let rows = x.elem_count() / n;
    let small = |size: usize| -> Result<Tensor> {
        let values = brevity_model::Rule::Hadamard(size).to_f32();
        Ok(Tensor::from_vec(values, (size, size), x.device())?.to_dtype(x.dtype())?)
    };
    let right = x.reshape((rows * a, b))?.matmul(&small(b)?)?; // [rows * a, b]
    let left = right.reshape((rows, a, b))?.transpose(1, 2)?.contiguous()?; // [rows, b, a]
    let both = left.reshape((rows * b, a))?.matmul(&small(a)?)?;
    Ok(both.reshape((rows, b, a))?.transpose(1, 2)?.contiguous()?.reshape(x.shape())?)
}
