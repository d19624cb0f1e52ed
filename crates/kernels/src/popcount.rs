//! Dot products of vectors of a few bits, by counting bits where their planes differ.
//!
//! A value of `p` bits is an odd whole number, `v = Σ_t 2^(p-1-t) d_t` with `d_t` of plus or minus one, the first
//! plane the heaviest; a bit that is set stands for plus one. So for vectors of `n` values
//!
//! ```text
//! ⟨a, b⟩ = Σ_{s,t} 2^(2(p-1)-s-t) (n - 2 popcount(a_s xor b_t))
//!        = n (2^p - 1)² - 2 Σ_{s,t} 2^(2(p-1)-s-t) popcount(a_s xor b_t)
//! ```
//!
//! which is exact. Bits that pad a plane are equal in both vectors and count nothing.

use rayon::prelude::*;

/// Rows side by side: one word of each fills a line of the cache.
pub const LANES: usize = 8;
/// The most planes a vector may have.
pub const PLANES: usize = 4;
/// Sums of products by the weight that they share: `s + t` is at most `2 (PLANES - 1)`.
const LEVELS: usize = 2 * PLANES - 1;

/// One word of eight rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u64; LANES]);

/// Bit planes of many vectors, laid out so that eight of them are compared with another at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitPlanes {
    rows: usize,
    dims: usize,
    planes: usize,
    /// `[blocks of eight rows, planes, words]`; rows beyond the last are zero.
    lines: Vec<Line>,
}

impl BitPlanes {
    /// Lays out packed vectors.
    ///
    /// # Shapes
    /// `packed` is `[rows, planes, ceil(dims / 8)]` bytes; the order of bits in a byte does not matter.
    ///
    /// # Cost
    /// One pass over the bytes, and as many again in memory, every plane rounded up to eight bytes.
    pub fn new(packed: &[u8], rows: usize, planes: usize, dims: usize) -> Self {
        assert!((1..=PLANES).contains(&planes), "vectors have 1 to 4 planes");
        assert_eq!(packed.len(), rows * planes * dims.div_ceil(8), "every row has its planes");
        let block = planes * dims.div_ceil(64);
        let mut lines = vec![Line([0; LANES]); rows.div_ceil(LANES) * block];
        if !lines.is_empty() {
            let row_bytes = planes * dims.div_ceil(8);
            lines.par_chunks_mut(block).zip(packed.par_chunks(LANES * row_bytes)).with_min_len(64).for_each(
                |(lines, packed)| {
                    let mut row = vec![0; block];
                    for (lane, packed) in packed.chunks_exact(row_bytes).enumerate() {
                        words(packed, planes, &mut row);
                        lines.iter_mut().zip(&row).for_each(|(line, word)| line.0[lane] = *word);
                    }
                },
            );
        }
        BitPlanes { rows, dims, planes, lines }
    }

    /// How many vectors there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Memory held.
    pub fn size_bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }

    /// The dot products of `query` with the vectors from `first` on, in units of the lightest plane: exact.
    ///
    /// # Shapes
    /// `query` is `[planes, ceil(dims / 8)]` bytes. `first` is a multiple of [`LANES`]. As many products are made as
    /// `out` is long.
    ///
    /// # Cost
    /// `planes² * dims / 64` counts of a word for each vector; eight of them in one instruction with AVX-512
    /// VPOPCNTDQ.
    pub fn dots(&self, query: &[u8], first: usize, out: &mut [i32]) {
        self.dots_by(Way::best(), query, first, out);
    }

    fn dots_by(&self, way: Way, query: &[u8], first: usize, out: &mut [i32]) {
        assert_eq!(query.len(), self.planes * self.dims.div_ceil(8), "the query has its planes");
        assert!(first.is_multiple_of(LANES) && first + out.len() <= self.rows, "the vectors are there");
        let mut asked = vec![0; self.planes * self.dims.div_ceil(64)];
        words(query, self.planes, &mut asked);
        let lines = &self.lines[first / LANES * asked.len()..][..out.len().div_ceil(LANES) * asked.len()];
        match self.planes {
            1 => way.run::<1>(lines, &asked, self.dims, out),
            2 => way.run::<2>(lines, &asked, self.dims, out),
            3 => way.run::<3>(lines, &asked, self.dims, out),
            _ => way.run::<4>(lines, &asked, self.dims, out),
        }
    }
}

/// Bytes of planes as words, each plane from a new word on.
fn words(packed: &[u8], planes: usize, words: &mut [u64]) {
    let (bytes, per) = (packed.len() / planes, words.len() / planes);
    if per == 0 {
        return;
    }
    for (plane, words) in packed.chunks_exact(bytes).zip(words.chunks_exact_mut(per)) {
        for (chunk, word) in plane.chunks(8).zip(words) {
            let mut eight = [0; 8];
            eight[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_le_bytes(eight);
        }
    }
}

/// The instructions that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Word by word.
    Plain,
    /// Counts of half bytes looked up in a register.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Counts of eight words by one instruction.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Way {
    /// Those that this processor has, the best last.
    fn all() -> impl DoubleEndedIterator<Item = Way> {
        #[cfg(target_arch = "x86_64")]
        let ways = {
            let features = crate::cpu::features();
            [(Way::Plain, true), (Way::Avx2, features.avx2), (Way::Avx512, features.avx512_popcount)]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let ways = [(Way::Plain, true)];
        ways.into_iter().filter(|(_, there)| *there).map(|(way, _)| way)
    }

    fn best() -> Way {
        Way::all().next_back().expect("the plain way is always there")
    }

    fn run<const P: usize>(self, lines: &[Line], query: &[u64], dims: usize, out: &mut [i32]) {
        let agreed = dims as i64 * ((1 << P) - 1) * ((1 << P) - 1);
        match self {
            Way::Plain => plain::<P>(lines, query, agreed, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `all` saw AVX2 on this processor.
            Way::Avx2 => unsafe { wide::avx2::<P>(lines, query, agreed, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `all` saw AVX-512 VPOPCNTDQ on this processor.
            Way::Avx512 => unsafe { wide::avx512::<P>(lines, query, agreed, out) },
        }
    }
}

fn plain<const P: usize>(lines: &[Line], query: &[u64], agreed: i64, out: &mut [i32]) {
    let per = query.len() / P;
    for (b, out) in out.chunks_mut(LANES).enumerate() {
        let block = &lines[b * query.len()..][..query.len()];
        let mut differ = [0i64; LANES];
        for (s, q) in query.chunks_exact(per.max(1)).enumerate() {
            for (t, plane) in block.chunks_exact(per.max(1)).enumerate() {
                let weight = 2 * (P - 1) - s - t;
                for (line, q) in plane.iter().zip(q) {
                    differ
                        .iter_mut()
                        .zip(line.0)
                        .for_each(|(sum, d)| *sum += i64::from((d ^ q).count_ones()) << weight);
                }
            }
        }
        out.iter_mut().zip(differ).for_each(|(out, differ)| *out = (agreed - 2 * differ) as i32);
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{LANES, LEVELS, Line};
    use std::arch::x86_64::*;

    /// Eight lines of AVX-512 at a time would gain nothing: the counts are what takes the time.
    #[target_feature(enable = "avx512f,avx512vl,avx512vpopcntdq")]
    pub(super) fn avx512<const P: usize>(lines: &[Line], query: &[u64], agreed: i64, out: &mut [i32]) {
        let per = query.len() / P;
        let (whole, rest) = out.as_chunks_mut::<LANES>();
        let block = |b: usize| -> __m256i {
            let block = &lines[b * query.len()..][..query.len()];
            let mut sums = [_mm512_setzero_si512(); LEVELS];
            for w in 0..per {
                for t in 0..P {
                    // SAFETY: a line is 64 bytes, aligned.
                    let d = unsafe { _mm512_load_si512(block[t * per + w].0.as_ptr().cast()) };
                    for s in 0..P {
                        let differ = _mm512_xor_si512(d, _mm512_set1_epi64(query[s * per + w] as i64));
                        sums[s + t] = _mm512_add_epi64(sums[s + t], _mm512_popcnt_epi64(differ));
                    }
                }
            }
            let mut total = sums[0];
            for sum in &sums[1..2 * P - 1] {
                total = _mm512_add_epi64(_mm512_add_epi64(total, total), *sum);
            }
            let dots = _mm512_sub_epi64(_mm512_set1_epi64(agreed), _mm512_add_epi64(total, total));
            _mm512_cvtepi64_epi32(dots)
        };
        for (b, out) in whole.iter_mut().enumerate() {
            // SAFETY: eight integers.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), block(b)) };
        }
        if !rest.is_empty() {
            let mut last = [0i32; LANES];
            // SAFETY: eight integers.
            unsafe { _mm256_storeu_si256(last.as_mut_ptr().cast(), block(whole.len())) };
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn avx2<const P: usize>(lines: &[Line], query: &[u64], agreed: i64, out: &mut [i32]) {
        let per = query.len() / P;
        for (b, out) in out.chunks_mut(LANES).enumerate() {
            let block = &lines[b * query.len()..][..query.len()];
            let mut dots = [0i64; LANES];
            for (half, dots) in dots.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let mut sums = [_mm256_setzero_si256(); LEVELS];
                for w in 0..per {
                    for t in 0..P {
                        let four = &block[t * per + w].0[4 * half..][..4];
                        // SAFETY: four words.
                        let d = unsafe { _mm256_loadu_si256(four.as_ptr().cast()) };
                        for s in 0..P {
                            let differ = _mm256_xor_si256(d, _mm256_set1_epi64x(query[s * per + w] as i64));
                            sums[s + t] = _mm256_add_epi64(sums[s + t], count(differ));
                        }
                    }
                }
                let mut total = sums[0];
                for sum in &sums[1..2 * P - 1] {
                    total = _mm256_add_epi64(_mm256_add_epi64(total, total), *sum);
                }
                let four = _mm256_sub_epi64(_mm256_set1_epi64x(agreed), _mm256_add_epi64(total, total));
                // SAFETY: four words.
                unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), four) };
            }
            out.iter_mut().zip(dots).for_each(|(out, dot)| *out = dot as i32);
        }
    }

    /// The bits set in each of four words: those of half bytes from a table, added up by the sum of differences to zero.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn count(x: __m256i) -> __m256i {
        let table = _mm256_setr_epi8(
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        );
        let mask = _mm256_set1_epi8(15);
        let low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, mask));
        let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask));
        _mm256_sad_epu8(_mm256_add_epi8(low, high), _mm256_setzero_si256())
    }
}

/// The definition of [`BitPlanes::dots`]: whole numbers are made of the bits, multiplied and added.
///
/// # Shapes
/// `a` and `b` are `[planes, ceil(dims / 8)]` bytes, the first value in the most significant bit.
pub fn dot_scalar(a: &[u8], b: &[u8], planes: usize, dims: usize) -> i32 {
    (0..dims).map(|i| value_scalar(a, planes, dims, i) * value_scalar(b, planes, dims, i)).sum()
}

/// The `i`-th value of a packed vector, an odd whole number.
pub fn value_scalar(packed: &[u8], planes: usize, dims: usize, i: usize) -> i32 {
    let bit = |t: usize| packed[t * dims.div_ceil(8) + i / 8] >> (7 - i % 8) & 1;
    (0..planes).map(|t| (2 * i32::from(bit(t)) - 1) << (planes - 1 - t)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packed vectors of any bits, those that pad a plane zero.
    fn packed(rows: usize, planes: usize, dims: usize, seed: u64) -> Vec<u8> {
        let bytes = dims.div_ceil(8);
        let mut state = seed;
        let mut all = Vec::with_capacity(rows * planes * bytes);
        for i in 0..rows * planes * bytes {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let keep = if i % bytes == bytes - 1 && !dims.is_multiple_of(8) { 0xff << (8 - dims % 8) } else { 0xff };
            all.push((state >> 56) as u8 & keep as u8);
        }
        all
    }

    #[test]
    fn counted_bits_are_the_products_of_whole_numbers_on_every_way_the_processor_has() {
        for planes in 1..=PLANES {
            for (rows, dims) in [(0, 9), (1, 1), (3, 0), (7, 8), (8, 63), (9, 64), (33, 65), (17, 384), (40, 1000)] {
                let (corpus, query) = (packed(rows, planes, dims, 1), packed(1, planes, dims, 2));
                let bytes = planes * dims.div_ceil(8);
                let row = |r: usize| &corpus[r * bytes..][..bytes];
                let want: Vec<i32> = (0..rows).map(|r| dot_scalar(row(r), &query, planes, dims)).collect();
                let laid = BitPlanes::new(&corpus, rows, planes, dims);
                for way in Way::all() {
                    for first in (0..=rows).step_by(LANES) {
                        let mut found = vec![i32::MIN; rows - first];
                        laid.dots_by(way, &query, first, &mut found);
                        assert_eq!(
                            found,
                            want[first..],
                            "{way:?}, {planes} planes, {rows} rows of {dims} from {first}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_two_planes_are_known_by_hand() {
        // 1 0 over 1 1 is 3 and -1; 1 1 over 0 0 is 1 and 1: 3 - 1.
        let laid = BitPlanes::new(&[0b1000_0000, 0b1100_0000], 1, 2, 2);
        let mut dot = [0];
        laid.dots(&[0b1100_0000, 0], 0, &mut dot);
        assert_eq!(dot, [2]);
        assert_eq!(value_scalar(&[0b1000_0000, 0b1100_0000], 2, 2, 1), -1);
    }

    #[test]
    fn some_of_the_rows_can_be_asked_for() {
        let corpus = packed(30, 2, 100, 3);
        let laid = BitPlanes::new(&corpus, 30, 2, 100);
        let (mut all, mut some) = (vec![0; 30], vec![0; 11]);
        laid.dots(&corpus[..26], 0, &mut all);
        laid.dots(&corpus[..26], 8, &mut some);
        assert_eq!(some, all[8..19]);
        assert_eq!(all[0], all[0].abs(), "a vector agrees with itself");
    }
}
