//! Attention without score matrices: tiles of scores live in registers and cache and are reduced on the spot.
//!
//! Queries, keys, values and outputs are `[batch, tokens, heads * dim]`, as linear layers leave them, so
//! nothing is transposed. For query `i` of head `h`, with `g = kv_of[h]`,
//!
//! ```text
//! out[i, h] = Σ_j softmax_j(cap(scale · q[i, h] · k[j, g])) v[j, g]     over the keys j that i may see
//! ```
//!
//! where `cap(s)` is `c tanh(s / c)` if a softcap `c` is set; a [`Bias`] is added to what it gives. The sum runs over tiles of keys in order, with a
//! running maximum (Milakov and Gimelshein 2018, arXiv:1805.02867). A query that sees no key gives zeros.

#[cfg(target_arch = "x86_64")]
mod amx;
mod bias;
mod decode;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod scalar;
mod tile;
mod vector;

pub use bias::Bias;
pub use scalar::attend_scalar;

#[cfg(target_arch = "x86_64")]
use crate::matmul::Tiles;

use crate::ops::Compute;
use rayon::prelude::*;

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Its own position and those before.
    Causal,
    /// All of them.
    Both,
    /// The last so many positions up to its own, which counts.
    Window(usize),
    /// Its own position and so many on either side.
    Around(usize),
}

/// What one attention layer computes.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// For each query head, the key/value head it reads.
    pub kv_of: &'a [u16],
    /// How many key/value heads there are.
    pub kv_heads: usize,
    /// Width of a query or key head.
    pub qk_dim: usize,
    /// Width of a value head.
    pub v_dim: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Which keys a query sees.
    pub reach: Reach,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Added to the scores.
    pub bias: Option<Bias<'a>>,
}

/// How many tokens one call is about.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// Sequences.
    pub batch: usize,
    /// Queries per sequence; they are at the last positions.
    pub queries: usize,
    /// Keys per sequence, cached ones included.
    pub keys: usize,
    /// For each sequence how many of its keys are real; the rest is padding nobody sees.
    pub key_lengths: Option<&'a [usize]>,
}

impl Spec<'_> {
    /// Width of a row of queries.
    pub fn q_width(&self) -> usize {
        self.kv_of.len() * self.qk_dim
    }

    /// Width of a row of keys.
    pub fn k_width(&self) -> usize {
        self.kv_heads * self.qk_dim
    }

    /// Width of a row of values.
    pub fn v_width(&self) -> usize {
        self.kv_heads * self.v_dim
    }

    /// Width of a row of outputs.
    pub fn out_width(&self) -> usize {
        self.kv_of.len() * self.v_dim
    }
}

impl Tokens<'_> {
    /// The keys of sequence `b` that are not padding.
    fn real_keys(&self, b: usize) -> usize {
        self.key_lengths.map_or(self.keys, |l| l[b].min(self.keys))
    }

    /// The position of the first query.
    fn first(&self) -> usize {
        self.keys - self.queries
    }

    /// The keys `from..to` that query `i` of sequence `b` sees.
    pub(crate) fn visible(&self, reach: Reach, b: usize, i: usize) -> (usize, usize) {
        let real = self.real_keys(b);
        let position = self.first() + i;
        match reach {
            Reach::Both => (0, real),
            Reach::Causal => (0, real.min(position + 1)),
            Reach::Window(n) => ((position + 1).saturating_sub(n).min(real), real.min(position + 1)),
            Reach::Around(n) => {
                (position.saturating_sub(n).min(real), real.min(position.saturating_add(n).saturating_add(1)))
            }
        }
    }
}

/// One head of one sequence: where its rows start and how far apart they are.
#[derive(Clone, Copy)]
struct Head<'a> {
    q: &'a [f32],
    q_stride: usize,
    k: &'a [f32],
    k_stride: usize,
    v: &'a [f32],
    v_stride: usize,
}

fn head<'a>(s: &Spec<'_>, t: &Tokens<'_>, q: &'a [f32], k: &'a [f32], v: &'a [f32], b: usize, h: usize) -> Head<'a> {
    let g = s.kv_of[h] as usize;
    Head {
        q: q.get(b * t.queries * s.q_width() + h * s.qk_dim..).unwrap_or(&[]),
        q_stride: s.q_width(),
        k: k.get(b * t.keys * s.k_width() + g * s.qk_dim..).unwrap_or(&[]),
        k_stride: s.k_width(),
        v: v.get(b * t.keys * s.v_width() + g * s.v_dim..).unwrap_or(&[]),
        v_stride: s.v_width(),
    }
}

fn check(s: &Spec<'_>, t: &Tokens<'_>, q: usize, k: usize, v: usize, out: usize) {
    assert!(s.kv_of.iter().all(|g| (*g as usize) < s.kv_heads), "every query head has its key head");
    assert!(t.queries <= t.keys, "queries are the last of the keys' positions");
    let biases = |b: &Bias<'_>| b.values.len() == s.kv_of.len() * (2 * b.reach + 1);
    assert!(s.bias.as_ref().is_none_or(biases), "a number for each head and distance");
    assert!(t.key_lengths.is_none_or(|l| l.len() == t.batch), "one key length per sequence");
    assert_eq!(q, t.batch * t.queries * s.q_width(), "queries have their shape");
    assert_eq!(k, t.batch * t.keys * s.k_width(), "keys have their shape");
    assert_eq!(v, t.batch * t.keys * s.v_width(), "values have their shape");
    assert_eq!(out, t.batch * t.queries * s.out_width(), "outputs have their shape");
}

/// Up to this many queries per sequence go key by key instead of in tiles.
const FEW: usize = 4;

/// Attention in single precision.
///
/// # Shapes
/// `q` is `[batch, queries, heads * qk_dim]`, `k` and `v` are `[batch, keys, kv_heads * dim]`, `out` is
/// `[batch, queries, heads * v_dim]`, written without being read.
pub fn attend(s: &Spec<'_>, t: &Tokens<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    check(s, t, q.len(), k.len(), v.len(), out.len());
    if out.is_empty() {
        return;
    }
    if t.queries <= FEW {
        return decode::attend(s, t, q, k, v, out);
    }
    tile::attend(s, t, q, k, v, out);
}

/// Attention on single-precision rows with products of bfloat16 and sums in single precision.
///
/// # Shapes
/// As [`attend`].
pub fn attend_bf16(s: &Spec<'_>, t: &Tokens<'_>, q: &[f32], k: &[f32], v: &[f32], out: &mut [f32]) {
    check(s, t, q.len(), k.len(), v.len(), out.len());
    #[cfg(target_arch = "x86_64")]
    if t.queries > FEW && !out.is_empty() {
        match crate::cpu::features() {
            // SAFETY: the system has granted AMX and the shapes are checked above.
            features if features.amx_bf16 => return unsafe { pairs::attend::<Tiles>(s, t, q, k, v, out) },
            // SAFETY: the processor has AVX-512 BF16 and the shapes are checked above.
            features if features.avx512_bf16 => return unsafe { pairs::attend::<dot::Dot>(s, t, q, k, v, out) },
            _ => {}
        }
    }
    // reading the cache, or a processor without bfloat16 products, gains nothing from rounding
    attend(s, t, q, k, v, out);
}

/// Attention of sequences that lie one behind the other, each to itself alone.
///
/// # Shapes
/// `q` is `[rows, heads * qk_dim]`, `k` and `v` are `[rows, kv_heads * dim]`, `out` is `[rows, heads * v_dim]`, written without
/// being read; `lengths` sums to `rows`.
pub fn attend_beside(
    s: &Spec<'_>,
    compute: Compute,
    lengths: &[usize],
    [mut q, mut k, mut v]: [&[f32]; 3],
    mut out: &mut [f32],
) {
    let rows = lengths.iter().sum::<usize>();
    assert_eq!(out.len(), rows * s.out_width(), "outputs have their shape");
    let mut parts = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let (one_q, one_k, one_v, one_out);
        (one_q, q) = q.split_at(length * s.q_width());
        (one_k, k) = k.split_at(length * s.k_width());
        (one_v, v) = v.split_at(length * s.v_width());
        (one_out, out) = out.split_at_mut(length * s.out_width());
        parts.push((length, one_q, one_k, one_v, one_out));
    }
    parts.into_par_iter().for_each(|(length, q, k, v, out)| {
        let tokens = Tokens { batch: 1, queries: length, keys: length, key_lengths: None };
        attend_by(compute, s, &tokens, [q, k, v], out);
    });
}

/// Attention on single-precision rows with products of the given precision: [`attend`] or [`attend_bf16`].
///
/// # Shapes
/// As [`attend`].
pub fn attend_by(compute: Compute, s: &Spec<'_>, t: &Tokens<'_>, [q, k, v]: [&[f32]; 3], out: &mut [f32]) {
    match compute {
        Compute::F32 => attend(s, t, q, k, v, out),
        Compute::Bf16 => attend_bf16(s, t, q, k, v, out),
    }
}

/// The work of one call in pieces of `width` queries of one head, the longest first.
fn pieces(s: &Spec<'_>, t: &Tokens<'_>, width: usize) -> Vec<(usize, usize, usize)> {
    let heads = s.kv_of.len();
    let tiles = t.queries.div_ceil(width);
    // late queries see the most keys; neighbours in the list share a key head
    (0..tiles).rev().flat_map(|i| (0..t.batch).flat_map(move |b| (0..heads).map(move |h| (b, h, i * width)))).collect()
}

fn run(pieces: &[(usize, usize, usize)], work: impl Fn(usize, usize, usize) + Sync) {
    pieces.par_iter().with_max_len(1).for_each(|(b, h, first)| work(*b, *h, *first));
}

#[cfg(test)]
mod tests;
