//! Matrix products in single precision and with bfloat16 operands.
//!
//! Weights are `[n, k]` = `[out, in]`; activations are rows. Few rows (up to [`FEW`]) go through kernels that
//! read the weights once and are bound by memory; more rows go through blocked products.

#[cfg(target_arch = "x86_64")]
mod amx;
mod bf16;
mod dense;
#[cfg(target_arch = "x86_64")]
mod dot;
mod few;
#[cfg(target_arch = "x86_64")]
mod panels;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::{DEEP, HIGH, Lines, Tiles, granted};
pub(crate) use bf16::PANEL;
#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::linear_made;
pub use bf16::{PackedBf16, Rows, RowsMut, linear_bf16, linear_bf16_scalar};
pub(crate) use dense::{columns, tile_tn};
pub use dense::{linear_f32, matmul_f32, matmul_nt_f32, matmul_scalar, matmul_tn_f32};
#[cfg(target_arch = "x86_64")]
pub(crate) use dot::{ROWS, dots};

/// Up to this many rows a product is bound by reading the weights.
pub const FEW: usize = 8;

/// The sizes of a product: `m` rows times `n` columns, each a sum over `k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// Rows of the result.
    pub m: usize,
    /// Length of the sums.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
}
