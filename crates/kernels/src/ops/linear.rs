//! Linear layers over prepared weights.

use super::{Compute, fast, output, with_optional, with_slice};
use crate::matmul::{Dims, PackedBf16, Rows, RowsMut, linear_bf16, linear_f32};
use crate::packed::{PackedGrid, Panel};
use candle_core::{DType, Device, Result, Tensor};
use std::sync::Arc;

/// A weight made ready for multiplication, `[out, in]`. Cloning shares the numbers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Prepared {
    /// Single precision, or whatever type and device the tensor has.
    F32(Tensor),
    /// Packed bfloat16.
    Bf16(Arc<PackedBf16>),
    /// Packed codes of a grid; the precision is that of products with more than a few rows.
    Grid(Arc<PackedGrid>, Compute),
}

impl Prepared {
    /// Prepares a dense `[out, in]` weight for products of the given precision.
    ///
    /// A weight on another device, or one that is a variable or descends from one, stays the tensor it is.
    ///
    /// # Errors
    /// If the tensor is not a matrix of floats.
    pub fn dense(w: &Tensor, compute: Compute) -> Result<Self> {
        let (outputs, inputs) = w.dims2()?;
        if !w.device().is_cpu() || w.track_op() {
            return Ok(Prepared::F32(w.clone()));
        }
        let w = w.to_dtype(DType::F32)?;
        Ok(match compute {
            Compute::F32 => Prepared::F32(w.contiguous()?),
            Compute::Bf16 => Prepared::Bf16(Arc::new(with_slice(&w, |w| PackedBf16::from_f32(w, outputs, inputs))?)),
        })
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Prepared::F32(w) => [w.dims().first().copied().unwrap_or(0), w.dims().get(1).copied().unwrap_or(0)],
            Prepared::Bf16(w) => [w.outputs(), w.inputs()],
            Prepared::Grid(w, _) => [w.outputs(), w.inputs()],
        }
    }

    /// Memory held by the numbers.
    pub fn size_bytes(&self) -> usize {
        match self {
            Prepared::F32(w) => w.elem_count() * w.dtype().size_in_bytes(),
            Prepared::Bf16(w) => w.size_bytes(),
            Prepared::Grid(w, _) => w.size_bytes(),
        }
    }

    /// The weight as an `[out, in]` tensor on `device`, in the values that are multiplied.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn dense_tensor(&self, device: &Device) -> Result<Tensor> {
        let [outputs, inputs] = self.shape();
        match self {
            Prepared::F32(w) => w.to_device(device),
            Prepared::Bf16(w) => Tensor::from_vec(w.to_f32(), (outputs, inputs), device),
            Prepared::Grid(w, _) => Tensor::from_vec(w.to_f32(), (outputs, inputs), device),
        }
    }
}

/// `x wᵀ + bias`.
///
/// # Shapes
/// `x` is `[.., in]`, `bias` is `[out]`, the result is `[.., out]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn linear(x: &Tensor, w: &Prepared, bias: Option<&Tensor>) -> Result<Tensor> {
    let [outputs, inputs] = w.shape();
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == inputs => *last = outputs,
        _ => candle_core::bail!("a [{outputs}, {inputs}] weight cannot take inputs of shape {:?}", x.dims()),
    }
    if let Some(b) = bias
        && b.dims() != [outputs]
    {
        candle_core::bail!("a bias of shape {:?} for {outputs} outputs", b.dims());
    }
    let quick = match (w, bias) {
        (Prepared::F32(w), Some(b)) => fast(&[x, w, b]),
        (Prepared::F32(w), None) => fast(&[x, w]),
        (_, Some(b)) => fast(&[x, b]),
        (_, None) => fast(&[x]),
    };
    if !quick {
        return plain(x, w, bias, &shape);
    }
    let m = shape[..shape.len() - 1].iter().product();
    with_slice(x, |x| {
        with_optional(bias, |bias| match w {
            Prepared::F32(w) => {
                with_slice(w, |w| output(&shape, |y| linear_f32(Dims { m, k: inputs, n: outputs }, x, w, bias, y)))?
            }
            Prepared::Bf16(w) => output(&shape, |y| linear_bf16(m, Rows::F32(x), w, bias, RowsMut::F32(y))),
            Prepared::Grid(w, compute) => {
                let panel = match compute {
                    Compute::F32 => Panel::F32,
                    Compute::Bf16 => Panel::Bf16,
                };
                output(&shape, |y| w.linear(m, x, bias, y, panel))
            }
        })?
    })?
}

/// The same in candle operations.
fn plain(x: &Tensor, w: &Prepared, bias: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
    let w = w.dense_tensor(x.device())?.to_dtype(x.dtype())?;
    let inputs = w.dim(1)?;
    let rows = shape[..shape.len() - 1].iter().product::<usize>();
    let y = x.reshape((rows, inputs))?.matmul(&w.t()?)?;
    let y = match bias {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    };
    y.reshape(shape)
}
