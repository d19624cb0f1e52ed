//! The kernels over candle tensors.
//!
//! On the processor, with single-precision tensors and nothing to differentiate, each function runs the fast
//! kernel of this crate and wraps its output. Otherwise (another device, another type, or a tensor that
//! descends from a variable) it is a composition of plain candle operations, which run anywhere and have
//! gradients. Both agree to rounding.

mod attention;
mod linear;
mod pointwise;

pub use attention::{attention, attention_beside};
pub use linear::{Prepared, linear};
pub use pointwise::{act, act_mul, add, layer_norm, log_softmax, rms_norm, rope, softmax};

use crate::buffer::filled;
use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};

/// The precision of products; sums, norms and the residual stream are always in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Single precision.
    F32,
    /// Operands rounded to bfloat16.
    Bf16,
}

/// Whether the fast kernels may take these tensors.
fn fast(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32 && !t.track_op())
}

/// Runs `work` on the numbers of a tensor, without copying them if they lie in order.
fn with_slice<R>(t: &Tensor, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let t = if t.is_contiguous() { t.clone() } else { t.contiguous()? };
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(numbers)) = &*storage else {
        candle_core::bail!("a single-precision tensor on the processor is expected here");
    };
    let (from, to) = layout.contiguous_offsets().expect("made contiguous above");
    Ok(work(&numbers[from..to]))
}

/// Like [`with_slice`] for a tensor that may be absent.
fn with_optional<R>(t: Option<&Tensor>, work: impl FnOnce(Option<&[f32]>) -> R) -> Result<R> {
    match t {
        Some(t) => with_slice(t, |x| work(Some(x))),
        None => Ok(work(None)),
    }
}

/// A tensor of `shape` that `write` fills.
fn output(shape: &[usize], write: impl FnOnce(&mut [f32])) -> Result<Tensor> {
    let (numbers, ()) = filled(shape.iter().product(), write);
    Tensor::from_vec(numbers, shape, &Device::Cpu)
}

#[cfg(test)]
mod tests;
