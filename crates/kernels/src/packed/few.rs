//! A few rows times packed codes (AVX-512): codes are expanded in registers and met by broadcast inputs.

use super::{LANES, PackedGrid};
use crate::buffer::{Shared, scratch};
use rayon::prelude::*;
use std::arch::x86_64::*;

/// Words of codes per task: 64 kB.
const TASK: usize = 1 << 14;

/// `y = x wᵀ + bias` for up to eight rows.
///
/// # Safety
/// The processor must have AVX-512; the caller has checked the shapes.
pub(super) unsafe fn linear(w: &PackedGrid, m: usize, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let y = Shared::new(y);
    // the zero point of a group meets the sum of its inputs
    scratch::<f32, _>(m * w.groups, |sums| {
        for (row, sums) in x.chunks_exact(w.inputs).zip(sums.chunks_exact_mut(w.groups)) {
            for (group, sum) in row.chunks(w.group).zip(sums) {
                *sum = group.iter().sum();
            }
        }
        let call = Call { w, m, x, sums, bias, y };
        let panels = w.outputs.div_ceil(LANES);
        let per_task = (TASK / (w.row_words() * LANES)).max(1);
        let work = |task: usize| {
            for p in task * per_task..((task + 1) * per_task).min(panels) {
                // SAFETY: passed on to the caller.
                unsafe { call.panel(p) };
            }
        };
        let tasks = panels.div_ceil(per_task);
        if tasks <= 1 {
            (0..tasks).for_each(work);
        } else {
            (0..tasks).into_par_iter().for_each(work);
        }
    });
}

struct Call<'a> {
    w: &'a PackedGrid,
    m: usize,
    x: &'a [f32],
    /// `[m, groups]`.
    sums: &'a [f32],
    bias: Option<&'a [f32]>,
    y: Shared<f32>,
}

impl Call<'_> {
    /// # Safety
    /// The processor must have AVX-512.
    unsafe fn panel(&self, p: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            match self.w.bits {
                1 => self.rows::<1>(p),
                2 => self.rows::<2>(p),
                3 => self.rows::<3>(p),
                4 => self.rows::<4>(p),
                5 => self.rows::<5>(p),
                6 => self.rows::<6>(p),
                7 => self.rows::<7>(p),
                _ => self.rows::<8>(p),
            }
        }
    }

    /// # Safety
    /// The processor must have AVX-512.
    unsafe fn rows<const BITS: usize>(&self, p: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            match self.m {
                // one row alone would wait for its own sums: four of them take turns
                1 => self.times::<BITS, 1, 4>(p),
                2 => self.times::<BITS, 2, 2>(p),
                3 => self.times::<BITS, 3, 2>(p),
                4 => self.times::<BITS, 4, 1>(p),
                5 => self.times::<BITS, 5, 1>(p),
                6 => self.times::<BITS, 6, 1>(p),
                7 => self.times::<BITS, 7, 1>(p),
                _ => self.times::<BITS, 8, 1>(p),
            }
        }
    }

    /// Panel `p` for `R` rows, with `P` partial sums per row.
    ///
    /// # Safety
    /// The processor must have AVX-512.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn times<const BITS: usize, const R: usize, const P: usize>(&self, p: usize) {
        let w = self.w;
        let per_word = 32 / BITS;
        // SAFETY: sixteen floats.
        let table = unsafe { _mm512_loadu_ps(w.table.as_ptr()) };
        let row_words = w.row_words();
        let mut words = w.words[p * row_words * LANES..][..row_words * LANES].as_chunks::<LANES>().0.iter();
        let rows: [&[f32]; R] = std::array::from_fn(|r| &self.x[r * w.inputs..][..w.inputs]);
        let mut total = [_mm512_setzero_ps(); R];
        for g in 0..w.groups {
            let first = g * w.group;
            let count = w.group.min(w.inputs - first);
            let mut sums = [[_mm512_setzero_ps(); R]; P];
            let mut k = first;
            for word in words.by_ref().take(count / per_word) {
                // SAFETY: sixteen words.
                let word = unsafe { _mm512_loadu_si512(word.as_ptr().cast()) };
                let x: [&[f32]; R] = std::array::from_fn(|r| &rows[r][k..k + per_word]);
                for j in 0..per_word {
                    let value = expand::<BITS>(word, j, table);
                    for r in 0..R {
                        sums[j % P][r] = _mm512_fmadd_ps(value, _mm512_set1_ps(x[r][j]), sums[j % P][r]);
                    }
                }
                k += per_word;
            }
            if !count.is_multiple_of(per_word) {
                let word = words.next().expect("a last word for the rest of a group");
                // SAFETY: sixteen words.
                let word = unsafe { _mm512_loadu_si512(word.as_ptr().cast()) };
                for j in 0..count % per_word {
                    let value = expand::<BITS>(word, j, table);
                    for r in 0..R {
                        sums[0][r] = _mm512_fmadd_ps(value, _mm512_set1_ps(rows[r][k + j]), sums[0][r]);
                    }
                }
            }
            let place = (p * w.groups + g) * LANES;
            let scale = load(&w.scales[place..]);
            for r in 0..R {
                let mut sum = sums[0][r];
                for part in &sums[1..] {
                    sum = _mm512_add_ps(sum, part[r]);
                }
                if let Some(zeros) = &w.zeros {
                    let inputs = _mm512_set1_ps(self.sums[r * w.groups + g]);
                    sum = _mm512_fnmadd_ps(load(&zeros[place..]), inputs, sum);
                }
                total[r] = _mm512_fmadd_ps(scale, sum, total[r]);
            }
        }
        let width = LANES.min(w.outputs - p * LANES);
        for (r, total) in total.iter().enumerate() {
            let mut out = [0.0; LANES];
            // SAFETY: sixteen floats.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *total) };
            // SAFETY: these outputs are this task's alone; the result outlives the call.
            let y = unsafe { self.y.part(r * w.outputs + p * LANES, width) };
            match self.bias {
                Some(b) => y.iter_mut().zip(&out).zip(&b[p * LANES..]).for_each(|((y, o), b)| *y = o + b),
                None => y.copy_from_slice(&out[..width]),
            }
        }
    }
}

/// The values of code `j` of sixteen words.
#[inline]
#[target_feature(enable = "avx512f")]
fn expand<const BITS: usize>(word: __m512i, j: usize, table: __m512) -> __m512 {
    if BITS <= 4 {
        // a permutation looks at four bits only, and the table repeats itself for fewer
        let index = _mm512_srlv_epi32(word, _mm512_set1_epi32((j * BITS) as i32));
        _mm512_permutexvar_ps(index, table)
    } else {
        let up = _mm512_sllv_epi32(word, _mm512_set1_epi32((32 - BITS - j * BITS) as i32));
        _mm512_cvtepi32_ps(_mm512_srav_epi32(up, _mm512_set1_epi32((32 - BITS) as i32)))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32]) -> __m512 {
    let x: &[f32; LANES] = x[..LANES].try_into().expect("a whole panel");
    // SAFETY: sixteen floats.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}
