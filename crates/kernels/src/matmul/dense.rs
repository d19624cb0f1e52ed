//! Products of single-precision matrices.

use super::few::few_rows;
use super::{Dims, FEW};
use gemm::Parallelism;
use rayon::prelude::*;

/// Row and column strides of an operand.
#[derive(Clone, Copy)]
struct Strides {
    row: usize,
    col: usize,
}

/// `c = a b + (keep ? c : 0)`, any layout of `a` and `b`, `c` row-major.
fn product(d: Dims, a: &[f32], sa: Strides, b: &[f32], sb: Strides, c: &mut [f32], keep: bool) {
    assert_eq!(a.len(), d.m * d.k, "the left operand has its shape");
    assert_eq!(b.len(), d.k * d.n, "the right operand has its shape");
    assert_eq!(c.len(), d.m * d.n, "the result has its shape");
    strided(d, a, sa, b, sb, c, d.n, keep, Parallelism::Rayon(0));
}

/// Like [`product`], with rows of `c` that lie `stride` apart; `b` may have more columns than `d.n`.
#[allow(clippy::too_many_arguments)]
fn strided(
    d: Dims,
    a: &[f32],
    sa: Strides,
    b: &[f32],
    sb: Strides,
    c: &mut [f32],
    stride: usize,
    keep: bool,
    parallelism: Parallelism,
) {
    if d.m * d.n == 0 {
        return;
    }
    if d.k == 0 {
        if !keep {
            c.chunks_mut(stride).for_each(|row| row[..d.n].fill(0.0));
        }
        return;
    }
    let last = |rows: usize, cols: usize, s: Strides| (rows - 1) * s.row + (cols - 1) * s.col;
    assert!(last(d.m, d.k, sa) < a.len() && last(d.k, d.n, sb) < b.len());
    assert!(d.n <= stride && last(d.m, d.n, Strides { row: stride, col: 1 }) < c.len());
    // SAFETY: the assertions above tie every pointer, stride and size to its slice; `c` is borrowed mutably,
    // so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            d.m,
            d.n,
            d.k,
            c.as_mut_ptr(),
            1,
            stride as isize,
            keep,
            a.as_ptr(),
            sa.col as isize,
            sa.row as isize,
            b.as_ptr(),
            sb.col as isize,
            sb.row as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `y = x wᵀ + bias`: a linear layer.
///
/// # Shapes
/// `x` is `[m, k]`, `w` is `[n, k]`, `bias` is `[n]`, `y` is `[m, n]`, written without being read.
pub fn linear_f32(d: Dims, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert!(bias.is_none_or(|b| b.len() == d.n), "one bias per output");
    if d.m <= FEW {
        assert_eq!(x.len(), d.m * d.k, "the input has its shape");
        assert_eq!(w.len(), d.n * d.k, "the weight has its shape");
        assert_eq!(y.len(), d.m * d.n, "the result has its shape");
        return few_rows(d, x, w, bias, y);
    }
    if let Some(bias) = bias {
        assert_eq!(y.len(), d.m * d.n, "the result has its shape");
        if d.n > 0 {
            y.par_chunks_exact_mut(d.n).with_min_len(16).for_each(|y| y.copy_from_slice(bias));
        }
    }
    let (rows, transposed) = (Strides { row: d.k, col: 1 }, Strides { row: 1, col: d.k });
    product(d, x, rows, w, transposed, y, bias.is_some());
}

/// The columns `at` of `y = x w + bias`: `w` is `[k, width]`, of which the first columns are meant, and rows of
/// `y` are `stride` long.
#[allow(clippy::too_many_arguments)]
pub(crate) fn columns(
    m: usize,
    k: usize,
    x: &[f32],
    w: &[f32],
    width: usize,
    bias: Option<&[f32]>,
    y: &mut [f32],
    stride: usize,
    at: std::ops::Range<usize>,
) {
    if let Some(bias) = bias {
        y.par_chunks_exact_mut(stride).with_min_len(16).for_each(|y| y[at.clone()].copy_from_slice(bias));
    }
    let d = Dims { m, k, n: at.len() };
    let (rows, columns) = (Strides { row: k, col: 1 }, Strides { row: width, col: 1 });
    strided(d, x, rows, w, columns, &mut y[at.start..], stride, bias.is_some(), Parallelism::Rayon(0));
}

/// A part of `c = aᵀ b` on this thread: `m` columns of `a`, `k` rows, `n` columns of `b`, each operand from its first
/// column on with rows `pitch` apart, the rows of `c` `stride` apart.
pub(crate) fn tile_tn([m, k, n]: [usize; 3], a: &[f32], b: &[f32], pitch: usize, c: &mut [f32], stride: usize) {
    let (down, along) = (Strides { row: 1, col: pitch }, Strides { row: pitch, col: 1 });
    strided(Dims { m, k, n }, a, down, b, along, c, stride, false, Parallelism::None);
}

/// `c = a b` with `a` `[m, k]`, `b` `[k, n]`.
pub fn matmul_f32(d: Dims, a: &[f32], b: &[f32], c: &mut [f32]) {
    product(d, a, Strides { row: d.k, col: 1 }, b, Strides { row: d.n, col: 1 }, c, false);
}

/// `c = a bᵀ` with `a` `[m, k]`, `b` `[n, k]`.
pub fn matmul_nt_f32(d: Dims, a: &[f32], b: &[f32], c: &mut [f32]) {
    product(d, a, Strides { row: d.k, col: 1 }, b, Strides { row: 1, col: d.k }, c, false);
}

/// `c = aᵀ b` with `a` `[k, m]`, `b` `[k, n]`.
pub fn matmul_tn_f32(d: Dims, a: &[f32], b: &[f32], c: &mut [f32]) {
    product(d, a, Strides { row: 1, col: d.m }, b, Strides { row: d.n, col: 1 }, c, false);
}

/// The definition: `c = a b` with sums in double precision.
pub fn matmul_scalar(d: Dims, a: &[f32], b: &[f32], c: &mut [f32]) {
    for i in 0..d.m {
        for j in 0..d.n {
            let sum: f64 = (0..d.k).map(|l| a[i * d.k + l] as f64 * b[l * d.n + j] as f64).sum();
            c[i * d.n + j] = sum as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 31) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..x.len()).map(|i| x[i % rows * cols + i / rows]).collect()
    }

    fn close(got: &[f32], want: &[f32], k: usize) {
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 1e-6 * (k as f32 + 8.0), "{g} {w}");
        }
    }

    #[test]
    fn every_variant_equals_the_definition_on_odd_empty_and_few_row_shapes() {
        for (m, k, n) in [
            (1, 1, 1),
            (0, 3, 4),
            (3, 0, 4),
            (4, 3, 0),
            (1, 577, 33),
            (3, 64, 100),
            (8, 129, 7),
            (9, 17, 31),
            (65, 130, 97),
        ] {
            let d = Dims { m, k, n };
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let mut want = vec![0.0; m * n];
            matmul_scalar(d, &a, &b, &mut want);
            let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
            let mut c = vec![f32::NAN; m * n];
            matmul_f32(d, &a, &b, &mut c);
            close(&c, &want, k);
            c.fill(f32::NAN);
            matmul_nt_f32(d, &a, &bt, &mut c);
            close(&c, &want, k);
            c.fill(f32::NAN);
            matmul_tn_f32(d, &at, &b, &mut c);
            close(&c, &want, k);
            c.fill(f32::NAN);
            linear_f32(d, &a, &bt, None, &mut c);
            close(&c, &want, k);
            let bias = numbers(n, 3);
            c.fill(f32::NAN);
            linear_f32(d, &a, &bt, Some(&bias), &mut c);
            for (w, b) in want.chunks_mut(n.max(1)).flat_map(|r| r.iter_mut().zip(&bias)) {
                *w += b;
            }
            close(&c, &want, k);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for (m, k, n) in [(1, 700, 900), (6, 700, 900), (200, 700, 300)] {
            let d = Dims { m, k, n };
            let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
            let run = |threads| {
                let mut y = vec![0.0; m * n];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| linear_f32(d, &x, &w, None, &mut y));
                y
            };
            let one = run(1);
            assert_eq!(one, run(2));
            assert_eq!(one, run(5));
        }
    }

    #[test]
    fn nan_and_infinity_reach_the_outputs_they_touch() {
        for m in [2, 20] {
            let d = Dims { m, k: 3, n: 2 };
            let mut x = vec![1.0; m * 3];
            x[0] = f32::NAN;
            x[4] = f32::INFINITY;
            let mut y = vec![0.0; m * 2];
            linear_f32(d, &x, &[1.0; 6], None, &mut y);
            assert!(y[0].is_nan() && y[1].is_nan());
            assert_eq!(y[2..4], [f32::INFINITY; 2]);
            assert!(y[4..].iter().all(|v| *v == 3.0));
        }
    }
}
