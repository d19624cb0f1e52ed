//! Products with bfloat16 operands and single-precision sums.
//!
//! Weights are packed once into panels of [`PANEL`] outputs in which the two inputs of a pair lie side by side:
//! word `(panel, pair, output)` holds inputs `2 pair` (low half) and `2 pair + 1` of one output. That is the
//! operand order of the AVX-512 BF16 dot product, and it costs other processors nothing to widen.

use super::{Dims, linear_f32};
#[cfg(target_arch = "x86_64")]
use super::{amx::Amx, dot::Dot, panels};
use crate::buffer::{Shared, scratch};
use crate::cast;
use half::bf16;
use rayon::prelude::*;

/// Outputs per panel: three vectors of sixteen sums.
pub(crate) const PANEL: usize = 48;

/// A `[outputs, inputs]` weight in bfloat16, packed for [`linear_bf16`].
#[derive(Debug, Clone, PartialEq)]
pub struct PackedBf16 {
    outputs: usize,
    inputs: usize,
    /// `[panels, pairs, PANEL]`, zero beyond the last output and input.
    words: Vec<Line>,
}

/// Sixteen words that begin where a line of the cache does.
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

impl PackedBf16 {
    /// Rounds and packs a single-precision weight.
    pub fn from_f32(w: &[f32], outputs: usize, inputs: usize) -> Self {
        Self::pack(w, outputs, inputs, cast::f32_to_bf16)
    }

    /// Packs a bfloat16 weight as it is.
    pub fn from_bf16(w: &[bf16], outputs: usize, inputs: usize) -> Self {
        Self::pack(w, outputs, inputs, |x, out| out.copy_from_slice(x))
    }

    fn pack<T: Sync>(w: &[T], outputs: usize, inputs: usize, round: impl Fn(&[T], &mut [bf16]) + Sync) -> Self {
        assert_eq!(w.len(), outputs * inputs, "the weight has its shape");
        let pairs = inputs.div_ceil(2);
        let mut lines = vec![Line([0; 16]); outputs.div_ceil(PANEL) * pairs * (PANEL / 16)];
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut lines);
        if !words.is_empty() {
            words.par_chunks_mut(pairs * PANEL).zip(w.par_chunks(PANEL * inputs)).for_each(|(panel, rows)| {
                scratch::<bf16, _>(inputs, |row| {
                    for (j, w) in rows.chunks_exact(inputs).enumerate() {
                        round(w, row);
                        pack_row(row, panel, j);
                    }
                });
            });
        }
        PackedBf16 { outputs, inputs, words: lines }
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
        size_of_val(self.words.as_slice())
    }

    /// The weight in single precision, `[outputs, inputs]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.outputs * self.inputs];
        if !out.is_empty() {
            out.par_chunks_mut(PANEL * self.inputs).enumerate().for_each(|(p, out)| self.widen(p, out));
        }
        out
    }

    fn pairs(&self) -> usize {
        self.inputs.div_ceil(2)
    }

    /// The packed pairs, `[panels, pairs, PANEL]`.
    pub(crate) fn words(&self) -> &[u32] {
        bytemuck::cast_slice(&self.words)
    }

    /// The rows of panel `p` in single precision.
    fn widen(&self, p: usize, out: &mut [f32]) {
        let panel = &self.words()[p * self.pairs() * PANEL..][..self.pairs() * PANEL];
        for (j, row) in out.chunks_exact_mut(self.inputs).enumerate() {
            for (i, x) in row.iter_mut().enumerate() {
                let word = panel[i / 2 * PANEL + j];
                *x = f32::from_bits(if i % 2 == 0 { word << 16 } else { word & 0xffff_0000 });
            }
        }
    }
}

/// Puts one output's inputs into column `j` of its panel.
fn pack_row(row: &[bf16], panel: &mut [u32], j: usize) {
    for (word, pair) in panel[j..].iter_mut().step_by(PANEL).zip(row.chunks(2)) {
        let high = pair.get(1).map_or(0, |h| h.to_bits() as u32);
        *word = pair[0].to_bits() as u32 | high << 16;
    }
}

/// Rows of activations in either precision.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// Single precision; rounded to bfloat16 where it is multiplied.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl<'a> Rows<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Rows::F32(x) => x.len(),
            Rows::Bf16(x) => x.len(),
        }
    }

    pub(crate) fn slice(self, at: std::ops::Range<usize>) -> Rows<'a> {
        match self {
            Rows::F32(x) => Rows::F32(&x[at]),
            Rows::Bf16(x) => Rows::Bf16(&x[at]),
        }
    }
}

/// Rows to write in either precision.
#[derive(Debug)]
pub enum RowsMut<'a> {
    /// Single precision: the sums as they are.
    F32(&'a mut [f32]),
    /// bfloat16: the sums rounded.
    Bf16(&'a mut [bf16]),
}

impl RowsMut<'_> {
    fn len(&self) -> usize {
        match self {
            RowsMut::F32(y) => y.len(),
            RowsMut::Bf16(y) => y.len(),
        }
    }
}

/// `y = x wᵀ + bias` with operands rounded to bfloat16 and sums, bias and result in single precision.
///
/// # Shapes
/// `x` is `[m, inputs]`, `bias` is `[outputs]`, `y` is `[m, outputs]`, written without being read.
pub fn linear_bf16(m: usize, x: Rows<'_>, w: &PackedBf16, bias: Option<&[f32]>, y: RowsMut<'_>) {
    assert_eq!(x.len(), m * w.inputs, "the input has its shape");
    assert_eq!(y.len(), m * w.outputs, "the result has its shape");
    assert!(bias.is_none_or(|b| b.len() == w.outputs), "one bias per output");
    #[cfg(target_arch = "x86_64")]
    match crate::cpu::features() {
        // SAFETY: the system has granted AMX and the shapes are checked above.
        features if features.amx_bf16 => return unsafe { panels::linear::<Amx>(m, x, w, bias, y) },
        // SAFETY: the processor has AVX-512 BF16 and the shapes are checked above.
        features if features.avx512_bf16 => return unsafe { panels::linear::<Dot>(m, x, w, bias, y) },
        _ => {}
    }
    match y {
        RowsMut::F32(y) => widened(m, x, w, bias, y),
        RowsMut::Bf16(out) => scratch::<f32, _>(out.len(), |y| {
            widened(m, x, w, bias, y);
            cast::f32_to_bf16(y, out);
        }),
    }
}

/// `y = x wᵀ + bias` for `x` `[m, k]` and `y` `[m, n]`, where `make` writes the panels of the weight as they are needed, word
/// `(pair, output)` at `PANEL pair + output`. The processor must have AVX-512 BF16.
#[cfg(target_arch = "x86_64")]
pub(crate) fn linear_made(
    d: Dims,
    x: &[f32],
    make: impl Fn(usize, &mut [u32]) + Sync,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let (features, shape) = (crate::cpu::features(), [d.m, d.k, d.n]);
    assert!(features.avx512_bf16 && x.len() == d.m * d.k && y.len() == d.m * d.n, "the processor and the shapes");
    match features.amx_bf16 {
        // SAFETY: the system has granted AMX; the shapes are checked above.
        true => unsafe { panels::made::<Amx>(shape, Rows::F32(x), make, bias, y) },
        // SAFETY: the processor has AVX-512 BF16; the shapes are checked above.
        false => unsafe { panels::made::<Dot>(shape, Rows::F32(x), make, bias, y) },
    }
}

/// Outputs decoded at a time where there is no bfloat16 arithmetic.
const STRIP: usize = 16 * PANEL;

/// The product in single precision over operands rounded to bfloat16, for processors without bfloat16 arithmetic.
fn widened(m: usize, x: Rows<'_>, w: &PackedBf16, bias: Option<&[f32]>, y: &mut [f32]) {
    if y.is_empty() {
        return;
    }
    let (k, n) = (w.inputs, w.outputs);
    scratch::<f32, _>(m * k, |rounded| {
        match x {
            Rows::Bf16(x) => cast::bf16_to_f32(x, rounded),
            Rows::F32(x) => {
                for (r, x) in rounded.iter_mut().zip(x) {
                    *r = bf16::from_f32(*x).to_f32();
                }
            }
        }
        let mut first = 0;
        while first < n {
            let count = STRIP.min(n - first);
            scratch::<f32, _>(count * (k + m), |room| {
                let (strip, part) = room.split_at_mut(count * k);
                if k > 0 {
                    let rows = strip.par_chunks_mut(PANEL * k).enumerate();
                    rows.for_each(|(p, out)| w.widen(first / PANEL + p, out));
                }
                let bias = bias.map(|b| &b[first..first + count]);
                linear_f32(Dims { m, k, n: count }, rounded, strip, bias, part);
                let y = Shared::new(y);
                for (r, part) in part.chunks_exact(count).enumerate() {
                    // SAFETY: one part is alive at a time and `y` is borrowed for the whole call.
                    unsafe { y.part(r * n + first, count) }.copy_from_slice(part);
                }
            });
            first += count;
        }
    });
}

/// The definition of [`linear_bf16`] on single-precision rows: operands rounded, sums in double precision.
pub fn linear_bf16_scalar(d: Dims, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let r = |v: f32| bf16::from_f32(v).to_f64();
    for i in 0..d.m {
        for j in 0..d.n {
            let sum: f64 = (0..d.k).map(|l| r(x[i * d.k + l]) * r(w[j * d.k + l])).sum();
            y[i * d.n + j] = (sum + bias.map_or(0.0, |b| b[j] as f64)) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 31) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    const SHAPES: [(usize, usize, usize); 9] = [
        (0, 4, 4),
        (3, 0, 5),
        (1, 1, 1),
        (1, 577, 97),
        (5, 64, 48),
        (8, 31, 49),
        (9, 100, 96),
        (33, 130, 145),
        (130, 1030, 100),
    ];

    #[test]
    fn products_equal_the_definition_in_every_precision_of_input_and_output() {
        for (m, k, n) in SHAPES {
            let d = Dims { m, k, n };
            let (x, w, b) = (numbers(m * k, 1), numbers(n * k, 2), numbers(n, 3));
            let packed = PackedBf16::from_f32(&w, n, k);
            let x16: Vec<bf16> = x.iter().map(|v| bf16::from_f32(*v)).collect();
            for bias in [None, Some(&b[..])] {
                let mut want = vec![0.0; m * n];
                linear_bf16_scalar(d, &x, &w, bias, &mut want);
                let (mut y, mut y16, mut wide) =
                    (vec![f32::NAN; m * n], vec![bf16::ZERO; m * n], vec![f32::NAN; m * n]);
                linear_bf16(m, Rows::F32(&x), &packed, bias, RowsMut::F32(&mut y));
                linear_bf16(m, Rows::Bf16(&x16), &packed, bias, RowsMut::Bf16(&mut y16));
                #[cfg(target_arch = "x86_64")]
                if crate::cpu::features().avx512_bf16 {
                    let mut y = vec![f32::NAN; m * n];
                    // SAFETY: the processor has AVX-512 BF16; one with AMX as well has taken the other way above.
                    unsafe {
                        panels::linear::<Dot>(m, Rows::F32(&x), &packed, bias, RowsMut::F32(&mut y));
                    }
                    let bound = 1e-6 * (k as f32 + 8.0);
                    assert!(y.iter().zip(&want).all(|(y, want)| (y - want).abs() < bound), "{d:?}");
                }
                widened(m, Rows::F32(&x), &packed, bias, &mut wide);
                for i in 0..m * n {
                    let bound = 1e-6 * (k as f32 + 8.0);
                    assert!((y[i] - want[i]).abs() < bound, "{d:?} {} {}", y[i], want[i]);
                    assert!((wide[i] - want[i]).abs() < bound);
                    assert!((y16[i].to_f32() - want[i]).abs() < bound + want[i].abs() / 200.0);
                }
            }
        }
    }

    #[test]
    fn packing_keeps_every_weight() {
        for (n, k) in [(0, 3), (1, 1), (48, 2), (50, 7)] {
            let w: Vec<f32> = numbers(n * k, 1).iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            let packed = PackedBf16::from_f32(&w, n, k);
            assert_eq!(packed.to_f32(), w);
            let same: Vec<bf16> = w.iter().map(|v| bf16::from_f32(*v)).collect();
            assert_eq!(PackedBf16::from_bf16(&same, n, k), packed);
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for (m, k, n) in [(1, 300, 500), (150, 700, 300)] {
            let (x, w) = (numbers(m * k, 1), PackedBf16::from_f32(&numbers(n * k, 2), n, k));
            let run = |threads| {
                let mut y = vec![0.0; m * n];
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| linear_bf16(m, Rows::F32(&x), &w, None, RowsMut::F32(&mut y)));
                y
            };
            assert_eq!(run(1), run(3));
        }
    }

    #[test]
    fn nan_and_infinity_stay_in_their_row() {
        let (m, k, n) = (10, 33, 50);
        let w = PackedBf16::from_f32(&vec![1.0; n * k], n, k);
        let mut x = vec![1.0; m * k];
        x[0] = f32::NAN;
        x[k + 1] = f32::INFINITY;
        let mut y = vec![0.0; m * n];
        linear_bf16(m, Rows::F32(&x), &w, None, RowsMut::F32(&mut y));
        assert!(y[..n].iter().all(|v| v.is_nan()));
        assert!(y[n..2 * n].iter().all(|v| *v == f32::INFINITY));
        assert!(y[2 * n..].iter().all(|v| *v == 33.0));
    }
}
