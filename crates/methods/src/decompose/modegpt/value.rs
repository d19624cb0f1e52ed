//! Values and the output matrix: the directions of values that reach the output.

use brevity_kernels::linalg::{eigen_f64, matmul_f64, solver_f64};
use brevity_kernels::matmul::Dims;
use brevity_model::{Attention, Form, Place, Role, Site, Tap, Weight};

use super::{Inputs, NAME, times_transposed};
use crate::block::BlockCx;
use crate::cut::{doubles, float_dtype, matrix};
use crate::error::{Error, Result};
use crate::refit::Ridge;

/// Dimensions of values that stay: even if they were, and at least one.
fn after(dim: usize, share: f64) -> usize {
    let step = if dim.is_multiple_of(2) { 2 } else { 1 };
    let exact = (1.0 - share) * dim as f64 / step as f64;
    (exact.round() as usize * step).clamp(step.min(dim), dim)
}

/// Directions whose values are smaller than this share of the largest are nothing.
const NOTHING: f64 = 1e-12;

pub(super) fn shrink(
    attn: &mut Attention<Weight>,
    share: f64,
    inputs: &Inputs,
    refit: Option<Ridge>,
    cx: &mut BlockCx<'_>,
) -> Result<()> {
    let heads = attn.heads.clone();
    let (dim, kv, n) = (heads.v_dim, heads.kv(), inputs.n);
    let stay = after(dim, share);
    if stay == dim {
        return Ok(());
    }
    let (v_site, o_site) = (cx.site(Role::V), cx.site(Role::O));
    let (v, o) = (doubles(&v_site, &attn.v.weight)?, doubles(&o_site, &attn.o.weight)?);
    let bias = attn.v.bias.as_ref().map(|bias| doubles(&v_site, bias)).transpose()?;
    let count = heads.kv_of.len();
    let hidden = attn.o.weight.shape()[0];
    let fail = |source| Error::Kernel { method: NAME, site: o_site.clone(), leaf: String::new(), source };
    let mut new_v = vec![0.0; kv * stay * n];
    let mut new_bias = vec![0.0; kv * stay];
    let mut new_o = vec![0.0; hidden * count * stay];
    // What each head mixes now, of what it mixed before: `[stay, dim]` for each value head.
    let mut left: Vec<Vec<f64>> = Vec::new();
    let (mut kept, mut all) = (0.0, 0.0);
    for group in 0..kv {
        let rows = group * dim..(group + 1) * dim;
        let w = &v[rows.start * n..rows.end * n];
        let b = bias.as_ref().map(|bias| &bias[rows.clone()]);
        let seen = eigen_f64(&inputs.outputs(w, b), dim).map_err(fail)?;
        let least = NOTHING * seen.values.first().copied().unwrap_or(0.0);
        let root = |i: usize| if seen.values[i] > least { seen.values[i].sqrt() } else { 0.0 };
        let back = |i: usize| if seen.values[i] > least { 1.0 / seen.values[i].sqrt() } else { 0.0 };
        // `V s`, `[dim, dim]`.
        let scaled: Vec<f64> =
            (0..dim * dim).map(|at| seen.vectors[at % dim * dim + at / dim] * root(at % dim)).collect();
        let mut through = vec![0.0; dim * dim];
        let readers: Vec<usize> = (0..count).filter(|&head| usize::from(heads.kv_of[head]) == group).collect();
        let of_head = |head: usize| -> Vec<f64> {
            o.chunks(count * dim).flat_map(|row| row[head * dim..(head + 1) * dim].iter().copied()).collect()
        };
        for &head in &readers {
            let p = matmul_f64(Dims { m: hidden, k: dim, n: dim }, &of_head(head), &scaled);
            let turned: Vec<f64> = (0..dim * hidden).map(|at| p[at % hidden * dim + at / hidden]).collect();
            let square = matmul_f64(Dims { m: dim, k: hidden, n: dim }, &turned, &p);
            through.iter_mut().zip(square).for_each(|(sum, x)| *sum += x);
        }
        let top = eigen_f64(&through, dim).map_err(fail)?;
        kept += top.values[..stay].iter().sum::<f64>();
        all += top.values.iter().sum::<f64>();
        // `Uᵀ`, its leading vectors as rows, `[stay, dim]`.
        let u = &top.vectors[..stay * dim];
        // Values are multiplied with `Uᵀ s^-1 Vᵀ` `[stay, dim]`, the output with `V s U` `[dim, stay]`.
        let shrunk: Vec<f64> = (0..stay * dim).map(|at| u[at] * back(at % dim)).collect();
        let take = matmul_f64(Dims { m: stay, k: dim, n: dim }, &shrunk, &seen.vectors);
        let stretched: Vec<f64> = (0..stay * dim).map(|at| u[at] * root(at % dim)).collect();
        let give = matmul_f64(Dims { m: stay, k: dim, n: dim }, &stretched, &seen.vectors);
        let new_rows = matmul_f64(Dims { m: stay, k: dim, n }, &take, w);
        new_v[group * stay * n..(group + 1) * stay * n].copy_from_slice(&new_rows);
        if let Some(b) = b {
            let part = matmul_f64(Dims { m: stay, k: dim, n: 1 }, &take, b);
            new_bias[group * stay..(group + 1) * stay].copy_from_slice(&part);
        }
        for &head in &readers {
            let part = times_transposed(&of_head(head), &give, [hidden, dim, stay]);
            for row in 0..hidden {
                let to = row * count * stay + head * stay;
                new_o[to..to + stay].copy_from_slice(&part[row * stay..(row + 1) * stay]);
            }
        }
        left.push(take);
    }
    if let Some(ridge) = refit
        && let Some(better) = fitted(&o, &new_o, &left, &heads.kv_of, [hidden, dim, stay], ridge, cx)
    {
        new_o = better;
    }
    let dtype = float_dtype(NAME, &v_site, &Form::of(&attn.v.weight))?;
    attn.v.weight = matrix([kv * stay, n], &new_v, dtype);
    if let Some(old) = &mut attn.v.bias {
        let dtype = float_dtype(NAME, &v_site, &Form::of(old))?;
        *old = matrix([1, kv * stay], &new_bias, dtype);
    }
    let dtype = float_dtype(NAME, &o_site, &Form::of(&attn.o.weight))?;
    attn.o.weight = matrix([hidden, count * stay], &new_o, dtype);
    attn.heads.v_dim = stay;
    cx.notes.push(format!("{stay} of {dim} value dimensions"));
    if all > 0.0 {
        cx.figures.push(("value_error".into(), (1.0 - kept / all).max(0.0)));
    }
    Ok(())
}

/// The output matrix fitted to what is mixed now, `B m` for the `m` that was mixed, if that is better than `new` on samples
/// kept apart: `W C Bᵀ (B C Bᵀ + λI)⁻¹`.
fn fitted(
    w: &[f64],
    new: &[f64],
    left: &[Vec<f64>],
    kv_of: &[u16],
    [hidden, dim, stay]: [usize; 3],
    ridge: Ridge,
    cx: &mut BlockCx<'_>,
) -> Option<Vec<f64>> {
    let seen = cx.seen.get(&Tap::AttnMix)?;
    let count = kv_of.len();
    let (n, k) = (count * dim, count * stay);
    // `x Bᵀ` for rows `x` of `n` numbers.
    let through = |x: &[f64]| -> Vec<f64> {
        let rows = x.len() / n;
        let mut y = vec![0.0; rows * k];
        for (head, &kv) in kv_of.iter().enumerate() {
            let part: Vec<f64> =
                x.chunks(n).flat_map(|row| row[head * dim..(head + 1) * dim].iter().copied()).collect();
            let part = times_transposed(&part, &left[usize::from(kv)], [rows, dim, stay]);
            for row in 0..rows {
                y[row * k + head * stay..][..stay].copy_from_slice(&part[row * stay..(row + 1) * stay]);
            }
        }
        y
    };
    let transposed = |x: &[f64], rows: usize, columns: usize| -> Vec<f64> {
        (0..rows * columns).map(|at| x[at % rows * columns + at / rows]).collect()
    };
    let solve = |gram: &[f64], ridge: f64| -> Option<Vec<f64>> {
        let half = through(gram); // C Bᵀ, [n, k]
        let mut both = through(&transposed(&half, n, k)); // B C Bᵀ, [k, k]
        let mean = (0..k).map(|i| both[i * k + i]).sum::<f64>() / k as f64;
        if mean <= 0.0 {
            return None;
        }
        (0..k).for_each(|i| both[i * k + i] += ridge * mean);
        let solver = solver_f64(both, k).ok()?;
        let mut v = matmul_f64(Dims { m: hidden, k: n, n: k }, w, &half);
        solver.solve(&mut v);
        v.iter().all(|x| x.is_finite()).then_some(v)
    };
    // `Σ ‖W m - V B m‖²`.
    let error = |gram: &[f64], v: &[f64]| -> f64 {
        let half = through(gram);
        let both = through(&transposed(&half, n, k));
        let cross = matmul_f64(Dims { m: hidden, k: n, n: k }, w, &half);
        let own = matmul_f64(Dims { m: hidden, k, n: k }, v, &both);
        let whole = matmul_f64(Dims { m: hidden, k: n, n }, w, gram);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(w, &whole) - 2.0 * dot(&cross, v) + dot(&own, v)
    };
    let fit = seen.fit.gram.as_ref()?.to_f64();
    let held_out = seen.held_out.gram.as_ref().filter(|_| seen.held_out.count > 0).map(|gram| gram.to_f64());
    let judge = held_out.as_ref().unwrap_or(&fit);
    let ridges: &[f64] = match ridge {
        Ridge::Times(ridge) => &[ridge],
        Ridge::Auto(_) if held_out.is_none() => &[1e-4],
        Ridge::Auto(_) => &[1e-5, 1e-4, 1e-3, 1e-2],
    };
    let tried = ridges.iter().filter_map(|&ridge| Some((ridge, error(judge, &solve(&fit, ridge)?))));
    let (ridge, least) = tried.min_by(|a, b| a.1.total_cmp(&b.1))?;
    let before = error(judge, new);
    if least.is_nan() || least >= before {
        return None;
    }
    let all = seen.gram()?.to_f64();
    let better = solve(&all, ridge)?;
    let whole = error(judge, &vec![0.0; hidden * k]);
    if whole > 0.0 {
        cx.figures.push(("mixed_error".into(), least.max(0.0) / whole));
        cx.figures.push(("mixed_plain_error".into(), before.max(0.0) / whole));
    }
    Some(better)
}

pub(super) fn predict(attn: &mut Attention<Form>, share: f64, place: Place) -> Result<()> {
    let dim = attn.heads.v_dim;
    let stay = after(dim, share);
    if stay == dim {
        return Ok(());
    }
    let (kv, count) = (attn.heads.kv(), attn.heads.kv_of.len());
    let (v_site, o_site) = (Site::new(place, Role::V), Site::new(place, Role::O));
    let dtype = float_dtype(NAME, &v_site, &attn.v.weight)?;
    attn.v.weight = Form::float([kv * stay, attn.v.weight.shape()[1]], dtype);
    if let Some(bias) = &mut attn.v.bias {
        *bias = Form::float([1, kv * stay], float_dtype(NAME, &v_site, bias)?);
    }
    let dtype = float_dtype(NAME, &o_site, &attn.o.weight)?;
    attn.o.weight = Form::float([attn.o.weight.shape()[0], count * stay], dtype);
    attn.heads.v_dim = stay;
    Ok(())
}
