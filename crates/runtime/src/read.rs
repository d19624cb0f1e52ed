//! The values of a tensor as a slice.

use candle_core::{CpuStorage, Storage, Tensor};

use crate::error::Result;

/// Calls `f` on the values of a tensor of singles, row by row; without a copy if they are contiguous on the processor.
///
/// # Errors
/// If the tensor is of another type.
pub fn values<R>(x: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    if let (Storage::Cpu(CpuStorage::F32(all)), Some((from, to))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(f(&all[from..to]));
    }
    drop(storage);
    Ok(f(&x.flatten_all()?.to_vec1()?))
}
