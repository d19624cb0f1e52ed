//! Attention over tensors.

use super::{Compute, fast, output, softmax, with_slice};
use crate::attention::{Bias, Reach, Spec, Tokens, attend_beside, attend_by};
use candle_core::{Result, Tensor};

/// Attention of `q` to `k` and `v`; see [`crate::attention`].
///
/// # Shapes
/// `q` is `[batch, queries, heads * qk_dim]`, `k` and `v` are `[batch, keys, kv_heads * dim]`; or all without
/// `batch`. Queries are the last of the keys' positions. The result is `[.., queries, heads * v_dim]`.
///
/// # Errors
/// If the shapes do not fit the spec.
pub fn attention(
    spec: &Spec<'_>,
    compute: Compute,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    key_lengths: Option<&[usize]>,
) -> Result<Tensor> {
    let rank = q.rank();
    let (batch, queries, keys) = match (q.dims(), k.dims()) {
        (&[b, queries, _], &[_, keys, _]) => (b, queries, keys),
        (&[queries, _], &[keys, _]) => (1, queries, keys),
        _ => candle_core::bail!("queries of shape {:?} for keys of shape {:?}", q.dims(), k.dims()),
    };
    let shape = |tokens: usize, width: usize| if rank == 3 { vec![batch, tokens, width] } else { vec![tokens, width] };
    for (what, t, want) in [
        ("queries", q, shape(queries, spec.q_width())),
        ("keys", k, shape(keys, spec.k_width())),
        ("values", v, shape(keys, spec.v_width())),
    ] {
        if t.dims() != want {
            candle_core::bail!("{what} of shape {:?}, the heads need {want:?}", t.dims());
        }
    }
    if queries > keys || key_lengths.is_some_and(|l| l.len() != batch) {
        candle_core::bail!("{queries} queries, {keys} keys and lengths {key_lengths:?} do not fit {batch} sequences");
    }
    fits(spec)?;
    let tokens = Tokens { batch, queries, keys, key_lengths };
    if fast(&[q, k, v]) {
        return with_slice(q, |q| {
            with_slice(k, |k| {
                with_slice(v, |v| {
                    output(&shape(queries, spec.out_width()), |out| attend_by(compute, spec, &tokens, [q, k, v], out))
                })
            })
        })???;
    }
    plain(spec, &tokens, q, k, v)?.reshape(shape(queries, spec.out_width()))
}

/// Attention of sequences that lie one behind the other, each to itself alone.
///
/// # Shapes
/// `q` is `[1, rows, heads * qk_dim]`, `k` and `v` are `[1, rows, kv_heads * dim]`, `lengths` sums to `rows`. The result is
/// `[1, rows, heads * v_dim]`.
///
/// # Errors
/// If the shapes do not fit the spec.
pub fn attention_beside(
    spec: &Spec<'_>,
    compute: Compute,
    [q, k, v]: [&Tensor; 3],
    lengths: &[usize],
) -> Result<Tensor> {
    let rows = lengths.iter().sum::<usize>();
    for (what, t, width) in [("queries", q, spec.q_width()), ("keys", k, spec.k_width()), ("values", v, spec.v_width())]
    {
        if t.dims() != [1, rows, width] {
            candle_core::bail!("{what} of shape {:?}, the sequences need {:?}", t.dims(), [1, rows, width]);
        }
    }
    if !fast(&[q, k, v]) {
        let mut first = 0;
        let mut one = |&length: &usize| {
            let part = |t: &Tensor| t.narrow(1, first, length)?.contiguous();
            let out = attention(spec, compute, &part(q)?, &part(k)?, &part(v)?, None);
            first += length;
            out
        };
        let parts = lengths.iter().map(&mut one).collect::<Result<Vec<_>>>()?;
        return Tensor::cat(&parts, 1);
    }
    fits(spec)?;
    with_slice(q, |q| {
        with_slice(k, |k| {
            with_slice(v, |v| {
                output(&[1, rows, spec.out_width()], |out| attend_beside(spec, compute, lengths, [q, k, v], out))
            })
        })
    })???
}

/// Refuses a spec whose parts do not belong together.
fn fits(spec: &Spec<'_>) -> Result<()> {
    if let Some(g) = spec.kv_of.iter().find(|g| **g as usize >= spec.kv_heads) {
        candle_core::bail!("a query head reads key head {g} of {}", spec.kv_heads);
    }
    if spec.bias.is_some_and(|bias| bias.values.len() != spec.kv_of.len() * (2 * bias.reach + 1)) {
        candle_core::bail!("what is added to the scores needs a number for each head and distance");
    }
    Ok(())
}

/// The same in candle operations, with the whole score matrix.
fn plain(s: &Spec<'_>, t: &Tokens<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let heads = s.kv_of.len();
    let device = q.device();
    let kv_of: Vec<u32> = s.kv_of.iter().map(|g| *g as u32).collect();
    let kv_of = Tensor::new(kv_of, device)?;
    let split = |x: &Tensor, tokens: usize, heads: usize, dim: usize| {
        x.reshape((t.batch, tokens, heads, dim))?.transpose(1, 2)?.contiguous()
    };
    let q = split(q, t.queries, heads, s.qk_dim)?;
    let k = split(k, t.keys, s.kv_heads, s.qk_dim)?.index_select(&kv_of, 1)?;
    let v = split(v, t.keys, s.kv_heads, s.v_dim)?.index_select(&kv_of, 1)?;
    let scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * s.scale as f64)?; // [batch, heads, queries, keys]
    let scores = match s.softcap {
        Some(c) => ((scores / c as f64)?.tanh()? * c as f64)?,
        None => scores,
    };
    let scores = match s.bias {
        Some(bias) => scores.broadcast_add(&added(bias, t, heads, device)?.to_dtype(scores.dtype())?)?,
        None => scores,
    };
    let (hidden, seen) = masks(s.reach, t, device)?;
    let scores = scores.broadcast_add(&hidden.to_dtype(scores.dtype())?)?;
    let weights = softmax(&scores)?.broadcast_mul(&seen.to_dtype(scores.dtype())?)?;
    weights.matmul(&v)?.transpose(1, 2)
}

/// What is added to the scores for distances, `[1, heads, queries, keys]`.
fn added(bias: Bias<'_>, t: &Tokens<'_>, heads: usize, device: &candle_core::Device) -> Result<Tensor> {
    let one = |n: usize| {
        let (h, i, j) = (n / t.keys / t.queries, n / t.keys % t.queries, n % t.keys);
        bias.at(h, t.keys - t.queries + i, j)
    };
    let values: Vec<f32> = (0..heads * t.queries * t.keys).map(one).collect();
    Tensor::from_vec(values, (1, heads, t.queries, t.keys), device)
}

/// What hides keys, to be added to the scores, `[batch, 1, queries, keys]`, and a factor that is zero for queries without keys.
fn masks(reach: Reach, t: &Tokens<'_>, device: &candle_core::Device) -> Result<(Tensor, Tensor)> {
    let mut hidden = vec![f32::NEG_INFINITY; t.batch * t.queries * t.keys];
    let mut seen = vec![1.0f32; t.batch * t.queries];
    for b in 0..t.batch {
        for i in 0..t.queries {
            let (from, to) = t.visible(reach, b, i);
            let row = (b * t.queries + i) * t.keys;
            if from < to {
                hidden[row + from..row + to].fill(0.0);
            } else {
                hidden[row..row + t.keys].fill(0.0);
                seen[b * t.queries + i] = 0.0;
            }
        }
    }
    Ok((
        Tensor::from_vec(hidden, (t.batch, 1, t.queries, t.keys), device)?,
        Tensor::from_vec(seen, (t.batch, 1, t.queries, 1), device)?,
    ))
}
