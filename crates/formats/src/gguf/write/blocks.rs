//! From floats to the blocks of GGUF files.
//!
//! A block is a run of weights of one row with a scale of its own. What the bytes mean is fixed by their readers; how
//! good scales are found is not, and here is the search that ggml does without data, so that files lose what files of
//! llama.cpp lose. Each function takes the weights of one block and is the definition of its type.

mod super_blocks;
#[cfg(test)]
mod tests;

use half::{bf16, f16};
use rayon::prelude::*;

/// How the values of one tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Block {
    /// Its name in ggml.
    pub fn name(self) -> &'static str {
        match self {
            Block::F32 => "F32",
            Block::F16 => "F16",
            Block::Bf16 => "BF16",
            Block::Q4_0 => "Q4_0",
            Block::Q5_0 => "Q5_0",
            Block::Q5_1 => "Q5_1",
            Block::Q8_0 => "Q8_0",
            Block::Q4K => "Q4_K",
            Block::Q5K => "Q5_K",
            Block::Q6K => "Q6_K",
        }
    }

    /// Its number in files.
    pub fn id(self) -> u32 {
        match self {
            Block::F32 => 0,
            Block::F16 => 1,
            Block::Bf16 => 30,
            Block::Q4_0 => 2,
            Block::Q5_0 => 6,
            Block::Q5_1 => 7,
            Block::Q8_0 => 8,
            Block::Q4K => 12,
            Block::Q5K => 13,
            Block::Q6K => 14,
        }
    }

    /// Weights in a block.
    pub fn values(self) -> usize {
        match self {
            Block::F32 | Block::F16 | Block::Bf16 => 1,
            Block::Q4_0 | Block::Q5_0 | Block::Q5_1 | Block::Q8_0 => 32,
            Block::Q4K | Block::Q5K | Block::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Block::F32 => 4,
            Block::F16 | Block::Bf16 => 2,
            Block::Q4_0 => 18,
            Block::Q5_0 => 22,
            Block::Q5_1 => 24,
            Block::Q8_0 => 34,
            Block::Q4K => 144,
            Block::Q5K => 176,
            Block::Q6K => 210,
        }
    }

    /// Whether scales or values are halves, so that weights beyond 65504 become infinite or lose their scale.
    pub fn is_half(self) -> bool {
        !matches!(self, Block::F32 | Block::Bf16)
    }

    /// The blocks of some whole rows. Rows are encoded side by side, each on its own, so that the number of threads
    /// changes nothing.
    pub fn encode_rows(self, columns: usize, rows: &[f32]) -> Vec<u8> {
        let width = columns / self.values() * self.bytes();
        let mut out = vec![0; rows.len() / columns.max(1) * width];
        if width > 0 {
            // Narrow rows are taken together, so that there is something to do for each thread.
            let at_once = (4096 / columns).max(1);
            out.par_chunks_mut(at_once * width)
                .zip(rows.par_chunks(at_once * columns))
                .for_each(|(out, rows)| self.encode(rows, out));
        }
        out
    }

    /// The blocks of some weights, one behind the other.
    pub fn encode(self, weights: &[f32], out: &mut [u8]) {
        let blocks = weights.chunks_exact(self.values()).zip(out.chunks_exact_mut(self.bytes()));
        match self {
            Block::F32 => blocks.for_each(|(x, out)| out.copy_from_slice(&x[0].to_le_bytes())),
            Block::F16 => blocks.for_each(|(x, out)| out.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes())),
            Block::Bf16 => blocks.for_each(|(x, out)| out.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes())),
            Block::Q4_0 => blocks.for_each(|(x, out)| q4_0(x, out)),
            Block::Q5_0 => blocks.for_each(|(x, out)| q5_0(x, out)),
            Block::Q5_1 => blocks.for_each(|(x, out)| q5_1(x, out)),
            Block::Q8_0 => blocks.for_each(|(x, out)| q8_0(x, out)),
            Block::Q4K => blocks.for_each(|(x, out)| super_blocks::q4_k(x, out)),
            Block::Q5K => blocks.for_each(|(x, out)| super_blocks::q5_k(x, out)),
            Block::Q6K => blocks.for_each(|(x, out)| super_blocks::q6_k(x, out)),
        }
    }
}

/// `d (q - 8)` with `d` such that the weight of largest magnitude is the code 0. Bytes: `d`, nibbles.
fn q4_0(x: &[f32], out: &mut [u8]) {
    let d = farthest(x) / -8.0;
    let inverse = inverse(d);
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    put_half(out, 0, d);
    nibbles(x, code, &mut out[2..]);
}

/// As Q4_0 with five bits: `d (q - 16)`. Bytes: `d`, a word with the fifth bits, nibbles.
fn q5_0(x: &[f32], out: &mut [u8]) {
    let d = farthest(x) / -16.0;
    let inverse = inverse(d);
    let code = |x: f32| ((x * inverse + 16.5) as u8).min(31);
    put_half(out, 0, d);
    put_fifth_bits(x, code, &mut out[2..]);
}

/// `d q + m` from the least weight to the largest. Bytes: `d`, `m`, a word with the fifth bits, nibbles.
fn q5_1(x: &[f32], out: &mut [u8]) {
    let least = x.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let d = (largest - least) / 31.0;
    let inverse = inverse(d);
    let code = |x: f32| (((x - least) * inverse + 0.5) as u8).min(31);
    put_half(out, 0, d);
    put_half(out, 2, least);
    put_fifth_bits(x, code, &mut out[4..]);
}

/// `d q` with signed bytes, halves rounded away from zero. Bytes: `d`, codes.
fn q8_0(x: &[f32], out: &mut [u8]) {
    let d = x.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
    let inverse = inverse(d);
    put_half(out, 0, d);
    for (out, x) in out[2..].iter_mut().zip(x) {
        *out = (x * inverse).round() as i8 as u8;
    }
}

/// The weight of largest magnitude, with its sign; the first of several.
fn farthest(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most })
}

/// `1 / x`, and zero of zero.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

fn put_half(out: &mut [u8], at: usize, x: f32) {
    out[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

/// Weight `j` of 32 in the low half of byte `j`, weight `j + 16` in the high one.
fn nibbles(x: &[f32], code: impl Fn(f32) -> u8, out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = code(x[j]) & 15 | (code(x[j + 16]) & 15) << 4;
    }
}

/// Fifth bits in a word, the first weight in its lowest bit, then nibbles.
fn put_fifth_bits(x: &[f32], code: impl Fn(f32) -> u8, out: &mut [u8]) {
    let bits = x.iter().enumerate().fold(0u32, |bits, (j, &x)| bits | u32::from(code(x) >> 4) << j);
    out[..4].copy_from_slice(&bits.to_le_bytes());
    nibbles(x, code, &mut out[4..]);
}
