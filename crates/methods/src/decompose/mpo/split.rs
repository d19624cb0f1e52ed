//! The cores of a matrix by successive truncated singular value decompositions.

use brevity_kernels::Error;
use brevity_kernels::linalg::{Svd, randomized_svd_f32, svd_f32, svd_f64};

use super::layout::Layout;
use crate::decompose::mpo::DOUBLE;

/// The cores, `[B_{k-1} i_k, j_k B_k]` each; all but the last have orthonormal columns as `[B_{k-1} i_k j_k, B_k]`.
pub(super) fn cores(w: &[f32], layout: &Layout, bonds: &[usize], seed: u64) -> Result<Vec<Vec<f32>>, Error> {
    let [rows, columns] = layout.padded();
    let mut rest = vec![0.0; rows * columns];
    for (padded, row) in rest.chunks_mut(columns).zip(w.chunks(layout.shape[1])) {
        padded.iter_mut().zip(row).for_each(|(padded, &x)| *padded = f64::from(x));
    }
    let [mut rows, mut columns] = [rows, columns];
    let mut cores = Vec::new();
    for (k, (&i, &j)) in layout.rows.iter().zip(&layout.columns).enumerate() {
        if k + 1 == layout.rows.len() {
            break;
        }
        (rows, columns) = (rows / i, columns / j);
        // [bond, i, rows, j, columns] becomes [bond i j, rows columns].
        let cut = turned(&rest, [bonds[k] * i, rows, j, columns]);
        let shape = [bonds[k] * i * j, rows * columns];
        let (core, left) = leading(&cut, shape, bonds[k + 1], seed)?;
        cores.push(core);
        rest = left;
    }
    cores.push(rest.into_iter().map(|x| x as f32).collect());
    Ok(cores)
}

/// `[a, b, c, d]` with the middle two swapped.
pub(super) fn turned<T: Copy>(x: &[T], [a, b, c, d]: [usize; 4]) -> Vec<T> {
    let mut out = Vec::with_capacity(x.len());
    for a in 0..a {
        for c_at in 0..c {
            (0..b).for_each(|b_at| out.extend_from_slice(&x[((a * b + b_at) * c + c_at) * d..][..d]));
        }
    }
    out
}

/// `U_r` `[rows, r]` and `S_r V_rᵀ` `[r, columns]`.
fn leading(a: &[f64], shape: [usize; 2], rank: usize, seed: u64) -> Result<(Vec<f32>, Vec<f64>), Error> {
    let full = shape[0].min(shape[1]);
    if full <= DOUBLE {
        let Svd { u, s, vt } = svd_f64(a, shape)?;
        let left = u.chunks(full).flat_map(|row| row[..rank].iter().map(|&x| x as f32)).collect();
        return Ok((left, scaled(&s[..rank], &vt[..rank * shape[1]], shape[1])));
    }
    let single: Vec<f32> = a.iter().map(|&x| x as f32).collect();
    let svd = if rank <= full / 4 { randomized_svd_f32(&single, shape, rank, seed)? } else { svd_f32(&single, shape)? };
    let terms = svd.s.len();
    let left = svd.u.chunks(terms).flat_map(|row| row[..rank].iter().copied()).collect();
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    Ok((left, scaled(&wide(&svd.s[..rank]), &wide(&svd.vt[..rank * shape[1]]), shape[1])))
}

/// Each row times its number.
pub(super) fn scaled(s: &[f64], rows: &[f64], columns: usize) -> Vec<f64> {
    rows.chunks(columns).zip(s).flat_map(|(row, s)| row.iter().map(move |x| x * s)).collect()
}
