//! Grid-coded matrices that are multiplied without ever being dense.
//!
//! Outputs are taken sixteen at a time. In such a panel, word `(group, w, output)` holds as many consecutive
//! codes of one output as fit 32 bits, so one vector register holds the same inputs of sixteen outputs, and a
//! table of at most sixteen values is one permutation. Every group starts a new word.
//!
//! Few rows are multiplied straight from the codes, reading them once; more rows decode a strip at a time and
//! go through the blocked products.

mod decode;
#[cfg(target_arch = "x86_64")]
mod few;

use crate::buffer::{Shared, scratch};
use crate::error::Error;
use crate::grid::{self, Group, Levels, Scales};
use crate::matmul::{self, Dims, FEW, PANEL, linear_f32};
use rayon::prelude::*;

/// Outputs per panel.
const LANES: usize = 16;
/// Numbers decoded at a time for single-precision products: 4 MB.
const STRIP: usize = 1 << 20;

/// What strips are decoded to when there are more than a few rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Panel {
    /// Single precision.
    F32,
    /// bfloat16, where the processor multiplies it; single precision elsewhere.
    Bf16,
}

/// A grid-coded `[outputs, inputs]` weight, packed for multiplication.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedGrid {
    outputs: usize,
    inputs: usize,
    bits: u32,
    group: usize,
    groups: usize,
    /// `[panels, words of a row, LANES]`.
    words: Vec<u32>,
    /// `[panels, groups, LANES]`, zero beyond the last output.
    scales: Vec<f32>,
    /// Zero points less the middle code, laid out like the scales; none if all are zero.
    zeros: Option<Vec<f32>>,
    /// The values of codes of up to four bits, repeated to sixteen entries: the levels, or the code less the
    /// middle. Wider codes are stored less the middle, as signed numbers.
    table: [f32; LANES],
}

impl PackedGrid {
    /// Packs codes of a uniform grid, as [`grid::encode`] makes them.
    ///
    /// # Errors
    /// [`Error::Bits`], [`Error::Group`] or [`Error::Length`].
    pub fn new(spec: &grid::Spec, scales: &Scales, codes: &[u8], shape: [usize; 2]) -> Result<Self, Error> {
        let count = spec.scales(shape)?;
        let middle = spec.middle() as f32;
        if let Some(z) = &scales.zeros {
            grid::check_len("the zero points", z.len(), count)?;
        }
        let table = std::array::from_fn(|i| (i as u32 & spec.max_code()) as f32 - middle);
        let zero = |i: usize| scales.zeros.as_ref().map_or(0.0, |z| z[i] as f32 - middle);
        let zeros = scales.zeros.is_some();
        Self::pack(spec.group, spec.bits, table, &scales.scales, zeros.then_some(&zero), codes, shape)
    }

    /// Packs codes of a table of at most sixteen levels, as [`Levels::encode`] makes them.
    ///
    /// # Errors
    /// [`Error::Levels`] for a longer table; [`Error::Group`] or [`Error::Length`].
    pub fn from_levels(
        levels: &Levels,
        group: Group,
        ragged: bool,
        scales: &[f32],
        codes: &[u8],
        shape: [usize; 2],
    ) -> Result<Self, Error> {
        let values = levels.values();
        if values.len() > LANES {
            return Err(Error::Levels { count: values.len() });
        }
        grid::layout(group, ragged, shape)?;
        let mask = (1usize << levels.bits()) - 1;
        let table = std::array::from_fn(|i| values.get(i & mask).copied().unwrap_or(0.0));
        Self::pack(group, levels.bits(), table, scales, None, codes, shape)
    }

    fn pack(
        group: Group,
        bits: u32,
        table: [f32; LANES],
        scales: &[f32],
        zero: Option<&dyn Fn(usize) -> f32>,
        codes: &[u8],
        [outputs, inputs]: [usize; 2],
    ) -> Result<Self, Error> {
        let expected = grid::layout(group, true, [outputs, inputs])?;
        grid::check_len("the codes", codes.len(), outputs * inputs)?;
        grid::check_len("the scales", scales.len(), expected.rows * expected.groups)?;
        let (group, whole) = match group {
            Group::Size(n) => (n, false),
            Group::Row => (inputs.max(1), false),
            Group::Tensor => (inputs.max(1), true),
        };
        let groups = inputs.div_ceil(group);
        let panels = outputs.div_ceil(LANES);
        let mut packed = PackedGrid {
            outputs,
            inputs,
            bits,
            group,
            groups,
            words: Vec::new(),
            scales: vec![0.0; panels * groups * LANES],
            zeros: zero.map(|_| vec![0.0; panels * groups * LANES]),
            table,
        };
        for o in 0..outputs {
            for g in 0..groups {
                let from = if whole { 0 } else { o * groups + g };
                let to = (o / LANES * groups + g) * LANES + o % LANES;
                packed.scales[to] = scales[from];
                if let (Some(zeros), Some(zero)) = (&mut packed.zeros, zero) {
                    zeros[to] = zero(from);
                }
            }
        }
        let row_words = packed.row_words();
        packed.words = vec![0; panels * row_words * LANES];
        if row_words > 0 {
            let mut words = std::mem::take(&mut packed.words);
            words
                .par_chunks_mut(row_words * LANES)
                .zip(codes.par_chunks(LANES * inputs))
                .for_each(|(words, codes)| packed.pack_panel(codes, words));
            packed.words = words;
        }
        Ok(packed)
    }

    fn pack_panel(&self, codes: &[u8], words: &mut [u32]) {
        let per_word = self.per_word();
        let mask = (1u32 << self.bits) - 1;
        let middle = if self.bits > 4 { 1u32 << (self.bits - 1) } else { 0 };
        for (lane, row) in codes.chunks_exact(self.inputs).enumerate() {
            let mut at = lane;
            for group in row.chunks(self.group) {
                for part in group.chunks(per_word) {
                    let mut word = 0;
                    for (i, c) in part.iter().enumerate() {
                        word |= ((*c as u32).wrapping_sub(middle) & mask) << (i as u32 * self.bits);
                    }
                    words[at] = word;
                    at += LANES;
                }
            }
        }
    }

    /// Codes per word.
    fn per_word(&self) -> usize {
        (32 / self.bits) as usize
    }

    /// Words per output.
    fn row_words(&self) -> usize {
        if self.groups == 0 {
            return 0;
        }
        let last = self.inputs - (self.groups - 1) * self.group;
        (self.groups - 1) * self.group.div_ceil(self.per_word()) + last.div_ceil(self.per_word())
    }

    /// Rows of the weight.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the weight.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Memory held.
    pub fn size_bytes(&self) -> usize {
        4 * (self.words.len() + self.scales.len() + self.zeros.as_ref().map_or(0, Vec::len))
    }

    /// The weight in single precision, `[outputs, inputs]`: exactly what [`grid::decode`] gives.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.outputs * self.inputs];
        if !out.is_empty() {
            out.par_chunks_mut(LANES * self.inputs).enumerate().for_each(|(p, out)| {
                decode::panel(self, p, |k, values| {
                    for (row, v) in out.chunks_exact_mut(self.inputs).zip(values) {
                        row[k] = *v;
                    }
                });
            });
        }
        out
    }

    /// `y = x wᵀ + bias`.
    ///
    /// # Shapes
    /// `x` is `[m, inputs]`, `bias` is `[outputs]`, `y` is `[m, outputs]`, written without being read.
    ///
    /// # Cost
    /// For up to eight rows one pass over the codes; beyond, a dense product plus one decoding, in scratch
    /// memory of a few megabytes.
    pub fn linear(&self, m: usize, x: &[f32], bias: Option<&[f32]>, y: &mut [f32], panel: Panel) {
        assert_eq!(x.len(), m * self.inputs, "the input has its shape");
        assert_eq!(y.len(), m * self.outputs, "the result has its shape");
        assert!(bias.is_none_or(|b| b.len() == self.outputs), "one bias per output");
        if y.is_empty() {
            return;
        }
        #[cfg(target_arch = "x86_64")]
        {
            let features = crate::cpu::features();
            if m <= FEW && features.avx512 && self.inputs > 0 {
                // SAFETY: the processor has AVX-512 and the shapes are checked above.
                return unsafe { few::linear(self, m, x, bias, y) };
            }
            if m > FEW && features.avx512_bf16 && panel == Panel::Bf16 {
                return self.linear_bf16(m, x, bias, y);
            }
        }
        let _ = panel;
        self.linear_f32(m, x, bias, y);
    }

    /// Decodes strips of outputs to single precision and multiplies them.
    fn linear_f32(&self, m: usize, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let (k, n) = (self.inputs, self.outputs);
        let strip = (STRIP / k.max(1) / LANES).max(4) * LANES;
        for first in (0..n).step_by(strip) {
            let count = strip.min(n - first);
            scratch::<f32, _>(count.next_multiple_of(LANES) * k, |room| {
                // few rows want weights row by row, a blocked product takes any order
                let bias = bias.map(|b| &b[first..first + count]);
                if m <= FEW {
                    self.decode_rows(first, count, &mut room[..count * k]);
                    scratch::<f32, _>(m * count, |part| {
                        linear_f32(Dims { m, k, n: count }, x, &room[..count * k], bias, part);
                        for (y, part) in y.chunks_exact_mut(n).zip(part.chunks_exact(count)) {
                            y[first..first + count].copy_from_slice(part);
                        }
                    });
                } else {
                    let width = count.next_multiple_of(LANES);
                    self.decode_columns(first, width, room);
                    matmul::columns(m, k, x, room, width, bias, y, n, first..first + count);
                }
            });
        }
    }

    /// Rows `first..first + count` in single precision, row-major.
    fn decode_rows(&self, first: usize, count: usize, out: &mut [f32]) {
        let k = self.inputs;
        if count * k == 0 {
            return;
        }
        out.par_chunks_mut(LANES * k).enumerate().for_each(|(p, out)| {
            decode::panel(self, first / LANES + p, |i, values| {
                for (row, v) in out.chunks_exact_mut(k).zip(values) {
                    row[i] = *v;
                }
            });
        });
    }

    /// Rows `first..first + width` in single precision, column-major: `[inputs, width]`.
    fn decode_columns(&self, first: usize, width: usize, out: &mut [f32]) {
        let out = Shared::new(out);
        (0..width / LANES).into_par_iter().for_each(|p| {
            decode::panel(self, first / LANES + p, |i, values| {
                // SAFETY: these lanes of every column are this panel's alone; `out` outlives the call.
                unsafe { out.part(i * width + p * LANES, LANES) }.copy_from_slice(values);
            });
        });
    }

    /// Decodes panels of outputs to bfloat16 pairs and multiplies them.
    #[cfg(target_arch = "x86_64")]
    fn linear_bf16(&self, m: usize, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let (k, n) = (self.inputs, self.outputs);
        let make = |panel: usize, weights: &mut [u32]| {
            let parts = (n - panel * PANEL).min(PANEL).div_ceil(LANES);
            for part in 0..parts {
                decode::pairs(self, panel * (PANEL / LANES) + part, &mut weights[part * LANES..]);
            }
        };
        matmul::linear_made(Dims { m, k, n }, x, make, bias, y);
    }
}

#[cfg(test)]
mod tests;
