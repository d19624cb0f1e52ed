//! Products of matrices.

/// Rows, inner dimension and columns of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows of the result.
    pub m: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Columns of the result.
    pub n: usize,
}

/// `c = a b` for `a [m, k]`, `b [k, n]`, `c [m, n]`.
pub fn matmul_f32(Dims { m, k, n }: Dims, a: &[f32], b: &[f32], c: &mut [f32]) {
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
        }
    }
}
