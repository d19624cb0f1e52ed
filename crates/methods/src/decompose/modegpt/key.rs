//! Queries and keys: the dimensions that make the scores, in pairs where they are rotated.

use brevity_kernels::linalg::{eigen_f64, matmul_f64, svd_f64};
use brevity_kernels::matmul::Dims;
use brevity_model::{Attention, Form, Heads, Linear, Place, Role, RopeStyle, Site, Weight};

use super::{Inputs, NAME};
use crate::block::BlockCx;
use crate::cut::{cut_output_forms, cut_outputs, doubles, float_dtype, matrix};
use crate::error::{Error, Result};
use crate::shares::highest;

/// How many pairs that are rotated, and how many dimensions that are not, stay of each head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    pairs: usize,
    rest: usize,
}

impl Room {
    fn width(self) -> usize {
        2 * self.pairs + self.rest
    }

    /// What heads have now.
    fn before(heads: &Heads) -> Self {
        let pairs = heads.rope.as_ref().map_or(0, |rope| rope.pairs_per_head(heads.kv()));
        Room { pairs, rest: heads.qk_dim - 2 * pairs }
    }

    /// What stays of it: at least one pair or dimension of what there is, and an even width if it was even.
    fn after(self, share: f64) -> Self {
        let stays = |count: usize| match count {
            0 => 0,
            _ => (((1.0 - share) * count as f64).round() as usize).clamp(1, count),
        };
        let (pairs, mut rest) = (stays(self.pairs), stays(self.rest));
        if self.rest.is_multiple_of(2) && !rest.is_multiple_of(2) {
            rest += 1;
        }
        Room { pairs, rest: rest.min(self.rest) }
    }
}

pub(super) fn shrink(attn: &mut Attention<Weight>, share: f64, inputs: &Inputs, cx: &mut BlockCx<'_>) -> Result<()> {
    let heads = attn.heads.clone();
    let (before, kv, dim) = (Room::before(&heads), heads.kv(), heads.qk_dim);
    let after = before.after(share);
    if after == before {
        return Ok(());
    }
    let (q_site, k_site) = (cx.site(Role::Q), cx.site(Role::K));
    let (q, k) = (doubles(&q_site, &attn.q.weight)?, doubles(&k_site, &attn.k.weight)?);
    let bias = |layer: &Linear<Weight>, site: &Site| layer.bias.as_ref().map(|b| doubles(site, b)).transpose();
    let (q_bias, k_bias) = (bias(&attn.q, &q_site)?, bias(&attn.k, &k_site)?);
    let n = inputs.n;
    let of_head = |w: &[f64], b: &Option<Vec<f64>>, head: usize| {
        let rows = head * dim..(head + 1) * dim;
        inputs.outputs(&w[rows.start * n..rows.end * n], b.as_ref().map(|b| &b[rows]))
    };
    let kv_of = &heads.kv_of;
    let readers = |group: usize| (0..kv_of.len()).filter(move |&head| usize::from(kv_of[head]) == group);
    let (mut kept_energy, mut all_energy) = (0.0, 0.0);
    if heads.rope.is_none() {
        // The optimum: both sides are multiplied with matrices of their own.
        let width = after.width();
        let (mut new_q, mut new_q_bias) =
            (vec![0.0; heads.kv_of.len() * width * n], vec![0.0; heads.kv_of.len() * width]);
        let (mut new_k, mut new_k_bias) = (vec![0.0; kv * width * n], vec![0.0; kv * width]);
        for group in 0..kv {
            let mut of_queries = vec![0.0; dim * dim];
            for head in readers(group) {
                of_queries.iter_mut().zip(of_head(&q, &q_bias, head)).for_each(|(sum, x)| *sum += x);
            }
            let of_keys = of_head(&k, &k_bias, group);
            let [m_q, m_k, energy] = joint(&of_queries, &of_keys, dim, width).map_err(|source| Error::Kernel {
                method: NAME,
                site: k_site.clone(),
                leaf: String::new(),
                source,
            })?;
            kept_energy += energy[0];
            all_energy += energy[1];
            let mut put = |m: &[f64], from: usize, w: &[f64], b: &Option<Vec<f64>>, to: usize, queries: bool| {
                let rows = matmul_f64(Dims { m: width, k: dim, n }, m, &w[from * dim * n..(from + 1) * dim * n]);
                let (into, bias) = if queries { (&mut new_q, &mut new_q_bias) } else { (&mut new_k, &mut new_k_bias) };
                into[to * width * n..(to + 1) * width * n].copy_from_slice(&rows);
                if let Some(b) = b {
                    let part = matmul_f64(Dims { m: width, k: dim, n: 1 }, m, &b[from * dim..(from + 1) * dim]);
                    bias[to * width..(to + 1) * width].copy_from_slice(&part);
                }
            };
            readers(group).for_each(|head| put(&m_q, head, &q, &q_bias, head, true));
            put(&m_k, group, &k, &k_bias, group, false);
        }
        let count = heads.kv_of.len();
        replace(&mut attn.q, &q_site, [count * width, n], &new_q, &new_q_bias)?;
        replace(&mut attn.k, &k_site, [kv * width, n], &new_k, &new_k_bias)?;
        attn.heads.qk_dim = width;
    } else {
        let rope = heads.rope.clone().expect("there is one here");
        let mut stay: Vec<Vec<usize>> = Vec::new();
        let mut pairs = Vec::new();
        for group in 0..kv {
            let mut queries = vec![0.0; dim];
            for head in readers(group) {
                let moments = of_head(&q, &q_bias, head);
                queries.iter_mut().enumerate().for_each(|(i, sum)| *sum += moments[i * dim + i]);
            }
            let moments = of_head(&k, &k_bias, group);
            let keys: Vec<f64> = (0..dim).map(|i| moments[i * dim + i]).collect();
            let members = |pair: usize| match rope.style {
                RopeStyle::Half => [pair, pair + before.pairs],
                RopeStyle::Pairs => [2 * pair, 2 * pair + 1],
            };
            let both = |of: &[f64], pair: usize| members(pair).iter().map(|&i| of[i]).sum::<f64>();
            let of_pairs: Vec<f64> = (0..before.pairs).map(|p| both(&queries, p) * both(&keys, p)).collect();
            let rest: Vec<f64> = (2 * before.pairs..dim).map(|i| queries[i] * keys[i]).collect();
            let (first, second) = (highest(&of_pairs, after.pairs), highest(&rest, after.rest));
            kept_energy +=
                first.iter().map(|&p| of_pairs[p]).sum::<f64>() + second.iter().map(|&i| rest[i]).sum::<f64>();
            all_energy += of_pairs.iter().chain(&rest).sum::<f64>();
            let known = rope.pairs_of(group, kv);
            pairs.extend(first.iter().map(|&p| known[p]));
            let mut rows: Vec<usize> = match rope.style {
                RopeStyle::Half => {
                    let half = |second: usize| first.iter().map(move |&p| members(p)[second]);
                    half(0).chain(half(1)).collect()
                }
                RopeStyle::Pairs => first.iter().flat_map(|&p| members(p)).collect(),
            };
            rows.extend(second.iter().map(|&i| 2 * before.pairs + i));
            stay.push(rows);
        }
        let rows_of = |head: usize, group: usize| stay[group].iter().map(move |&i| head * dim + i);
        let q_rows: Vec<usize> =
            (0..heads.kv_of.len()).flat_map(|head| rows_of(head, usize::from(heads.kv_of[head]))).collect();
        let k_rows: Vec<usize> = (0..kv).flat_map(|group| rows_of(group, group)).collect();
        cut_outputs(NAME, &q_site, &mut attn.q, &q_rows)?;
        cut_outputs(NAME, &k_site, &mut attn.k, &k_rows)?;
        attn.heads.qk_dim = after.width();
        if let Some(rope) = &mut attn.heads.rope {
            rope.pairs = Some(pairs);
        }
    }
    cx.notes.push(format!("{} of {dim} query and key dimensions", after.width()));
    if all_energy > 0.0 {
        cx.figures.push(("query_key_error".into(), (1.0 - kept_energy / all_energy).max(0.0)));
    }
    Ok(())
}

/// The matrices `[width, dim]` for queries and keys, and the sum of squares that they keep of all.
fn joint(q: &[f64], k: &[f64], dim: usize, width: usize) -> Result<[Vec<f64>; 3], brevity_kernels::Error> {
    let [q_root, q_back] = roots(q, dim)?;
    let [k_root, k_back] = roots(k, dim)?;
    let square = Dims { m: dim, k: dim, n: dim };
    let svd = svd_f64(&matmul_f64(square, &q_root, &k_root), [dim, dim])?;
    let thin = |rows: Vec<f64>, back: &[f64]| matmul_f64(Dims { m: width, k: dim, n: dim }, &rows, back);
    let root = |i: usize| svd.s[i].max(0.0).sqrt();
    let left: Vec<f64> = (0..width * dim).map(|at| root(at / dim) * svd.u[at % dim * dim + at / dim]).collect();
    let right: Vec<f64> = (0..width * dim).map(|at| root(at / dim) * svd.vt[at]).collect();
    let energy = |s: &[f64]| s.iter().map(|s| s * s).sum::<f64>();
    Ok([thin(left, &q_back), thin(right, &k_back), vec![energy(&svd.s[..width]), energy(&svd.s)]])
}

/// The square root of a symmetric matrix and the inverse of that, without directions that are nothing.
fn roots(a: &[f64], n: usize) -> Result<[Vec<f64>; 2], brevity_kernels::Error> {
    let eigen = eigen_f64(a, n)?;
    let least = 1e-12 * eigen.values.first().copied().unwrap_or(0.0);
    let of = |f: &dyn Fn(f64) -> f64| {
        let scale = |s: f64| if s > least { f(s) } else { 0.0 };
        let scaled: Vec<f64> =
            (0..n * n).map(|at| eigen.vectors[at % n * n + at / n] * scale(eigen.values[at % n])).collect();
        matmul_f64(Dims { m: n, k: n, n }, &scaled, &eigen.vectors)
    };
    Ok([of(&f64::sqrt), of(&|s| 1.0 / s.sqrt())])
}

fn replace(layer: &mut Linear<Weight>, site: &Site, shape: [usize; 2], w: &[f64], bias: &[f64]) -> Result<()> {
    let dtype = float_dtype(NAME, site, &Form::of(&layer.weight))?;
    layer.weight = matrix(shape, w, dtype);
    if let Some(old) = &mut layer.bias {
        let dtype = float_dtype(NAME, site, &Form::of(old))?;
        *old = matrix([1, shape[0]], bias, dtype);
    }
    Ok(())
}

pub(super) fn predict(attn: &mut Attention<Form>, share: f64, place: Place) -> Result<()> {
    let before = Room::before(&attn.heads);
    let after = before.after(share);
    if after == before {
        return Ok(());
    }
    let (kv, count) = (attn.heads.kv(), attn.heads.kv_of.len());
    for (role, layer, heads) in [(Role::Q, &mut attn.q, count), (Role::K, &mut attn.k, kv)] {
        let site = Site::new(place, role);
        if attn.heads.rope.is_none() {
            let dtype = float_dtype(NAME, &site, &layer.weight)?;
            layer.weight = Form::float([heads * after.width(), layer.weight.shape()[1]], dtype);
            if let Some(bias) = &mut layer.bias {
                *bias = Form::float([1, heads * after.width()], float_dtype(NAME, &site, bias)?);
            }
        } else {
            cut_output_forms(NAME, &site, layer, heads * after.width())?;
        }
    }
    attn.heads.qk_dim = after.width();
    if let Some(rope) = &mut attn.heads.rope {
        // Which of them is known only once the inputs were seen.
        rope.pairs = Some((0..kv).flat_map(|group| rope.pairs_of(group, kv).into_iter().take(after.pairs)).collect());
    }
    Ok(())
}
