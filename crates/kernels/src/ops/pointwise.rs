//! Norms, rotary positions, activations, softmax and sums.

use super::{fast, output, with_optional, with_slice};
use crate::activation::{self, Act};
use crate::rope::{Layout, Rope, rotate};
use crate::{norm, softmax as rows};
use candle_core::{D, Result, Tensor};

/// `act(x)`.
///
/// # Errors
/// Only those of the device.
pub fn act(act: Act, x: &Tensor) -> Result<Tensor> {
    if fast(&[x]) {
        return with_slice(x, |s| output(x.dims(), |y| activation::apply(act, s, y)))?;
    }
    match act {
        Act::Silu => x.silu(),
        Act::Gelu => x.gelu_erf(),
        Act::GeluTanh => x.gelu(),
        Act::Relu => x.relu(),
        Act::QuickGelu => x / (x.affine(-1.702, 0.0)?.exp()? + 1.0)?,
        Act::Identity => Ok(x.clone()),
    }
}

/// `act(gate) * up`.
///
/// # Errors
/// If the shapes differ.
pub fn act_mul(a: Act, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if fast(&[gate, up]) && gate.dims() == up.dims() {
        return with_slice(gate, |g| with_slice(up, |u| output(gate.dims(), |y| activation::apply_mul(a, g, u, y))))??;
    }
    act(a, gate)? * up
}

/// `a + b`, of one shape.
///
/// # Errors
/// If the shapes differ.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if fast(&[a, b]) && a.dims() == b.dims() {
        return with_slice(a, |x| with_slice(b, |y| output(a.dims(), |out| activation::add(x, y, out))))??;
    }
    a + b
}

/// `x / sqrt(mean(x²) + eps) * (offset + gain)` over the last dimension, or over runs of it as long as `gain`
/// (a norm per head).
///
/// # Errors
/// If the gain does not divide the last dimension.
pub fn rms_norm(x: &Tensor, gain: &Tensor, offset: f32, eps: f32) -> Result<Tensor> {
    let cols = check_gain(x, gain)?;
    if fast(&[x, gain]) {
        return with_slice(x, |s| with_slice(gain, |g| output(x.dims(), |y| norm::rms_norm(s, g, offset, eps, y))))??;
    }
    let rows = x.reshape(((), cols))?;
    let mean = rows.sqr()?.mean_keepdim(D::Minus1)?;
    let scaled = rows.broadcast_div(&(mean + eps as f64)?.sqrt()?)?;
    scaled.broadcast_mul(&(gain + offset as f64)?)?.reshape(x.dims())
}

/// `(x - mean) / sqrt(variance + eps) * gain + bias` over the last dimension.
///
/// # Errors
/// If the gain does not divide the last dimension.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: Option<&Tensor>, eps: f32) -> Result<Tensor> {
    let cols = check_gain(x, gain)?;
    if fast(&[x, gain]) && bias.is_none_or(|b| fast(&[b]) && b.dims() == gain.dims()) {
        return with_slice(x, |s| {
            with_slice(gain, |g| with_optional(bias, |b| output(x.dims(), |y| norm::layer_norm(s, g, b, eps, y))))
        })???;
    }
    let rows = x.reshape(((), cols))?;
    let centred = rows.broadcast_sub(&rows.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let y = centred.broadcast_div(&(variance + eps as f64)?.sqrt()?)?.broadcast_mul(gain)?;
    let y = match bias {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    };
    y.reshape(x.dims())
}

fn check_gain(x: &Tensor, gain: &Tensor) -> Result<usize> {
    let cols = gain.dims1()?;
    match x.dims().last() {
        Some(last) if cols > 0 && last % cols == 0 => Ok(cols),
        _ => candle_core::bail!("a gain of {cols} for rows of shape {:?}", x.dims()),
    }
}

/// Rotary positions: `x` is `[.., tokens, heads * dim]`, token `t` is at position `first + t`.
///
/// The tables are `[positions, rot / 2]`; features of a head beyond `rot` pass through. `pairs` says for each head which
/// columns of the tables its pairs turn with, one head behind the other; if it is empty every head turns with all.
///
/// # Errors
/// If the tables are too short, or a head is narrower than what they rotate.
pub fn rope(
    x: &Tensor,
    layout: Layout,
    heads: usize,
    cos: &Tensor,
    sin: &Tensor,
    first: usize,
    kept: &[u16],
) -> Result<Tensor> {
    let (tokens, width) = (x.dim(D::Minus2)?, x.dim(D::Minus1)?);
    let (positions, columns) = cos.dims2()?;
    let pairs = if kept.is_empty() { columns } else { kept.len().checked_div(heads).unwrap_or(0) };
    let head_dim = width.checked_div(heads).unwrap_or(0);
    let fits = kept.is_empty() || kept.len() == pairs * heads && kept.iter().all(|&pair| usize::from(pair) < columns);
    if sin.dims() != cos.dims() || width != heads * head_dim || 2 * pairs > head_dim || !fits {
        candle_core::bail!("tables of shape {:?} cannot rotate {heads} heads in {width} features", cos.dims());
    }
    if first + tokens > positions {
        candle_core::bail!("position {} is beyond the {positions} of the rotary tables", first + tokens - 1);
    }
    if fast(&[x, cos, sin]) {
        return with_slice(x, |s| {
            with_slice(cos, |cos| {
                with_slice(sin, |sin| {
                    let rope = Rope { layout, heads, head_dim, positions, cos, sin, pairs: kept };
                    output(x.dims(), |y| rotate(&rope, tokens, first, s, y))
                })
            })
        })???;
    }
    let table = |t: &Tensor| -> Result<Tensor> {
        let t = t.narrow(0, first, tokens)?;
        if kept.is_empty() {
            return t.reshape((tokens, 1, pairs, 1));
        }
        let columns: Vec<u32> = kept.iter().map(|&pair| u32::from(pair)).collect();
        t.index_select(&Tensor::new(columns, t.device())?, 1)?.reshape((tokens, heads, pairs, 1))
    };
    let (cos, sin) = (table(cos)?, table(sin)?);
    let split = x.reshape(((), tokens, heads, head_dim))?;
    let turned = split.narrow(D::Minus1, 0, 2 * pairs)?;
    let rest = split.narrow(D::Minus1, 2 * pairs, head_dim - 2 * pairs)?;
    // bring the two members of a pair side by side, rotate, and put them back
    let all = ((), tokens, heads, pairs, 2);
    let pair = match layout {
        Layout::Pairs => turned.contiguous()?.reshape(all)?,
        Layout::Half => turned.contiguous()?.reshape(((), tokens, heads, 2, pairs))?.transpose(3, 4)?,
    };
    let (a, b) = (pair.narrow(4, 0, 1)?, pair.narrow(4, 1, 1)?);
    let turn = |p: &Tensor, q: &Tensor| p.broadcast_mul(&cos)? + q.broadcast_mul(&sin)?;
    let pair = Tensor::cat(&[turn(&a, &b.neg()?)?, turn(&b, &a)?], 4)?;
    let turned = match layout {
        Layout::Pairs => pair,
        Layout::Half => pair.transpose(3, 4)?.contiguous()?,
    };
    let turned = turned.reshape(((), tokens, heads, 2 * pairs))?;
    Tensor::cat(&[turned, rest.contiguous()?], D::Minus1)?.reshape(x.dims())
}

/// `e^x / Σ e^x` over the last dimension.
///
/// # Errors
/// If the tensor has no dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let cols = x.dim(D::Minus1)?;
    if fast(&[x]) {
        return with_slice(x, |s| output(x.dims(), |y| rows::softmax(s, cols, y)))?;
    }
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// `x - ln Σ e^x` over the last dimension.
///
/// # Errors
/// If the tensor has no dimension.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let cols = x.dim(D::Minus1)?;
    if fast(&[x]) {
        return with_slice(x, |s| output(x.dims(), |y| rows::log_softmax(s, cols, y)))?;
    }
    let shifted = x.broadcast_sub(&x.max_keepdim(D::Minus1)?.detach())?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)
}
