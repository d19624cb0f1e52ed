//! One or a few queries against many cached keys: reading the cache is the cost.
//!
//! The keys are cut into fixed spans. Each span of each key head gives, for every query head that reads it, a
//! maximum, a sum and a weighted value; the spans are then joined in order.

use super::{Spec, Tokens, head};
use crate::buffer::{Shared, scratch};
use crate::cpu::dispatch;
use crate::math;
use rayon::prelude::*;

/// Keys per span.
const SPAN: usize = 512;
const LANES: usize = 16;

/// What to do for one span of one key head of one sequence.
#[derive(Clone, Copy)]
struct Span<'a> {
    s: &'a Spec<'a>,
    t: &'a Tokens<'a>,
    rows: [&'a [f32]; 3],
    b: usize,
    g: usize,
    span: usize,
    spans: usize,
    /// `[batch, queries, heads, spans, v_dim + 2]`: maximum, sum, weighted values.
    parts: Shared<f32>,
}

#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((aw, at), (bw, bt)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in aw.iter().zip(bw) {
        for i in 0..LANES {
            sums[i] = math::mul_add::<FMA>(a[i], b[i], sums[i]);
        }
    }
    for (i, (a, b)) in at.iter().zip(bt).enumerate() {
        sums[i] = math::mul_add::<FMA>(*a, *b, sums[i]);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}

#[inline(always)]
fn span_body<const FMA: bool>(p: Span<'_>) {
    let (s, t) = (p.s, p.t);
    let heads = s.kv_of.len();
    let part = s.v_dim + 2;
    let mut scores = [0.0f32; SPAN];
    for i in 0..t.queries {
        let (from, to) = t.visible(s.reach, p.b, i);
        let (from, to) = (from.max(p.span * SPAN), to.min((p.span + 1) * SPAN));
        for h in (0..heads).filter(|h| s.kv_of[*h] as usize == p.g) {
            let at = head(s, t, p.rows[0], p.rows[1], p.rows[2], p.b, h);
            let index = ((p.b * t.queries + i) * heads + h) * p.spans + p.span;
            // SAFETY: this span of this head is this task's alone; `parts` outlives the call.
            let out = unsafe { p.parts.part(index * part, part) };
            out.fill(0.0);
            out[0] = f32::NEG_INFINITY;
            if from >= to {
                continue;
            }
            let scores = &mut scores[..to - from];
            let q = &at.q[i * at.q_stride..][..s.qk_dim];
            for (x, j) in scores.iter_mut().zip(from..) {
                *x = dot::<FMA>(q, &at.k[j * at.k_stride..][..s.qk_dim]) * s.scale;
            }
            if let Some(cap) = s.softcap {
                for x in scores.iter_mut() {
                    *x = math::tanh::<FMA>(*x / cap) * cap;
                }
            }
            if let Some(bias) = s.bias {
                for (x, j) in scores.iter_mut().zip(from..) {
                    *x += bias.at(h, t.first() + i, j);
                }
            }
            let max = scores.iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
            let mut lanes = [0.0f32; LANES];
            for c in scores.chunks_mut(LANES) {
                for (l, x) in lanes.iter_mut().zip(c) {
                    *x = math::exp::<FMA>(*x - max);
                    *l += *x;
                }
            }
            out[0] = max;
            out[1] = lanes.iter().sum();
            let sum = &mut out[2..];
            for (x, j) in scores.iter().zip(from..) {
                for (o, v) in sum.iter_mut().zip(&at.v[j * at.v_stride..][..s.v_dim]) {
                    *o = math::mul_add::<FMA>(*x, *v, *o);
                }
            }
        }
    }
}

dispatch! { fn span(p: Span<'_>) = span_body }

pub(super) fn attend(s: &Spec<'_>, t: &Tokens<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    let spans = t.keys.div_ceil(SPAN);
    let part = s.v_dim + 2;
    scratch::<f32, _>(t.batch * t.queries * s.kv_of.len() * spans * part, |parts| {
        let shared = Shared::new(parts);
        let one = |n: usize| {
            let (b, g, j) = (n / spans / s.kv_heads, n / spans % s.kv_heads, n % spans);
            span(Span { s, t, rows: [q, k, v], b, g, span: j, spans, parts: shared });
        };
        let tasks = t.batch * s.kv_heads * spans;
        if t.keys * s.k_width() * t.batch < 1 << 15 {
            (0..tasks).for_each(one);
        } else {
            (0..tasks).into_par_iter().for_each(one);
        }
        for (out, spans) in out.chunks_exact_mut(s.v_dim.max(1)).zip(parts.chunks_exact(spans * part)) {
            join(spans, part, out);
        }
    });
}

/// Joins the spans of one query of one head.
fn join(spans: &[f32], part: usize, out: &mut [f32]) {
    let max = spans.chunks_exact(part).fold(f32::NEG_INFINITY, |m, p| if p[0] > m { p[0] } else { m });
    let mut total = 0.0;
    out.fill(0.0);
    for p in spans.chunks_exact(part).filter(|p| p[1] != 0.0) {
        let w = (p[0] - max).exp();
        total += w * p[1];
        for (o, x) in out.iter_mut().zip(&p[2..]) {
            *o += w * x;
        }
    }
    if total != 0.0 {
        out.iter_mut().for_each(|o| *o /= total);
    }
}
