//! Product quantization: a vector is cut into parts, each of which becomes the number of a centroid.

use std::borrow::Cow;

use brevity_kernels::matmul::{Dims, matmul_f32, matmul_nt_f32};
use brevity_kernels::nearest::nearest;
use rayon::prelude::*;

use super::axes::{polar, principal, products};
use super::vectors::Vectors;
use crate::clusters::{NARROW, refine, spread};
use crate::codec::error::{Error, Result};
use crate::random::{Random, below};

/// Rounds in which centroids are refined, at the end.
const ROUNDS: usize = 25;
/// Rounds in which rotation and centroids are fitted to each other.
const TURNS: usize = 20;
/// Rows that a task encodes or decodes.
const ROWS: usize = 512;

/// `parts` numbers of `bits` bits, each that of the centroid nearest to its part of the vector.
///
/// With a rotation, parts are cut behind it (OPQ). Scores are dot products of what is read back; a search makes a
/// table of products with all centroids for each query, which is not rounded.
///
/// # Source
/// Jégou, Douze and Schmid 2011, "Product quantization for nearest neighbor search"; Ge et al. 2013, "Optimized
/// product quantization", section 3.1 for the rotation and 3.2 for where it starts.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    pub(super) width: usize,
    pub(super) parts: usize,
    pub(super) bits: usize,
    /// `[width, width]`, orthogonal; vectors are multiplied by it from the left.
    pub(super) rotation: Option<Vec<f32>>,
    /// `[parts, 2^bits, width / parts]`.
    pub(super) centroids: Vec<f32>,
}

impl Product {
    pub(super) fn fit(
        sample: &[f32],
        width: usize,
        parts: usize,
        bits: usize,
        rotate: bool,
        random: &mut Random,
    ) -> Result<Self> {
        if !(1..=8).contains(&bits) {
            return Err(Error::Setting { what: "bits of a part", found: bits, low: 1, high: 8 });
        }
        if parts == 0 || !width.is_multiple_of(parts) {
            return Err(Error::Parts { width, parts });
        }
        let (rows, clusters) = (sample.len() / width, 1 << bits);
        if rows < clusters {
            return Err(Error::TooFew { rows, clusters });
        }
        let mut codec = Product { width, parts, bits, rotation: None, centroids: Vec::new() };
        if rotate {
            codec.rotation = Some(balanced(sample, width, parts)?);
        }
        let first = below(random, usize::MAX) as u64;
        codec.each_part(&codec.rotated(sample), |part, points, dims| {
            spread(points, dims, clusters, &mut stream(first, part))
        });
        if rotate {
            for _ in 0..TURNS {
                codec.refit(&codec.rotated(sample), 2);
                let back = codec.centroids_of(&codec.numbers(sample));
                // the rotation that brings vectors nearest to what their codes are read back as
                codec.rotation = Some(polar(&products(&back, width, sample, width), width, width)?);
            }
        }
        codec.refit(&codec.rotated(sample), ROUNDS);
        Ok(codec)
    }

    /// Numbers of a code.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Bits of each of them.
    pub fn bits(&self) -> usize {
        self.bits
    }

    /// Whether vectors are rotated before they are cut.
    pub fn is_rotated(&self) -> bool {
        self.rotation.is_some()
    }

    /// Dimensions of a part.
    pub(super) fn part_width(&self) -> usize {
        self.width / self.parts
    }

    pub(super) fn row_bytes(&self) -> usize {
        (self.parts * self.bits).div_ceil(8)
    }

    /// The centroids of a part.
    fn book(&self, part: usize) -> &[f32] {
        let size = self.part_width() << self.bits;
        &self.centroids[part * size..][..size]
    }

    pub(super) fn rotated<'a>(&self, vectors: &'a [f32]) -> Cow<'a, [f32]> {
        let Some(rotation) = &self.rotation else { return Cow::Borrowed(vectors) };
        let mut out = vec![0.0; vectors.len()];
        let rows = vectors.len() / self.width;
        matmul_nt_f32(Dims { m: rows, k: self.width, n: self.width }, vectors, rotation, &mut out);
        Cow::Owned(out)
    }

    /// New centroids for every part, from its columns of rotated vectors.
    fn each_part(&mut self, rotated: &[f32], make: impl Fn(usize, &[f32], usize) -> Vec<f32> + Sync) {
        let dims = self.part_width();
        let made: Vec<Vec<f32>> =
            (0..self.parts).into_par_iter().map(|part| make(part, &self.columns(rotated, part), dims)).collect();
        self.centroids = made.concat();
    }

    fn refit(&mut self, rotated: &[f32], rounds: usize) {
        let before = std::mem::take(&mut self.centroids);
        let size = self.part_width() << self.bits;
        self.each_part(rotated, |part, points, dims| {
            let mut centroids = before[part * size..][..size].to_vec();
            refine(points, dims, &mut centroids, rounds, NARROW);
            centroids
        });
    }

    /// The columns of one part, `[rows, width / parts]`.
    fn columns(&self, rotated: &[f32], part: usize) -> Vec<f32> {
        let dims = self.part_width();
        rotated.chunks_exact(self.width).flat_map(|row| &row[part * dims..][..dims]).copied().collect()
    }

    /// The number of the nearest centroid for each part of each vector, `[rows, parts]`.
    fn numbers(&self, vectors: &[f32]) -> Vec<u8> {
        let rotated = self.rotated(vectors);
        let mut numbers = vec![0; vectors.len() / self.width * self.parts];
        numbers.par_chunks_mut(ROWS * self.parts).zip(rotated.par_chunks(ROWS * self.width)).for_each(
            |(numbers, rotated)| {
                let rows = rotated.len() / self.width;
                let (mut place, mut distance) = (vec![0; rows], vec![0.0; rows]);
                for part in 0..self.parts {
                    let points = self.columns(rotated, part);
                    nearest(&points, self.part_width(), self.book(part), &mut place, &mut distance);
                    for (row, &c) in place.iter().enumerate() {
                        numbers[row * self.parts + part] = c as u8;
                    }
                }
            },
        );
        numbers
    }

    /// The centroids of numbers, `[rows, width]`, still rotated.
    fn centroids_of(&self, numbers: &[u8]) -> Vec<f32> {
        let mut out = vec![0.0; numbers.len() / self.parts * self.width];
        let dims = self.part_width();
        out.par_chunks_mut(self.width).zip(numbers.par_chunks(self.parts)).for_each(|(out, numbers)| {
            for (part, (out, &c)) in out.chunks_exact_mut(dims).zip(numbers).enumerate() {
                out.copy_from_slice(&self.book(part)[usize::from(c) * dims..][..dims]);
            }
        });
        out
    }

    pub(super) fn encode(&self, vectors: Vectors<'_>) -> Vec<u8> {
        pack(self.numbers(vectors.values()), self.parts, self.bits)
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        let rotated = self.centroids_of(&unpack(bytes, self.parts, self.bits));
        let Some(rotation) = &self.rotation else { return rotated };
        let rows = rotated.len() / self.width;
        let mut out = vec![0.0; rotated.len()];
        // the inverse of a rotation is its transpose
        matmul_f32(Dims { m: rows, k: self.width, n: self.width }, &rotated, rotation, &mut out);
        out
    }

    /// Products of queries with all centroids, `[queries, parts, 2^bits]`.
    pub(super) fn tables(&self, queries: &[f32]) -> Vec<f32> {
        let (dims, rotated) = (self.part_width(), self.rotated(queries));
        let table = |query: &[f32]| -> Vec<f32> {
            let of = |part: usize| {
                let q = &query[part * dims..][..dims];
                self.book(part).chunks_exact(dims).map(move |c| c.iter().zip(q).map(|(c, q)| c * q).sum::<f32>())
            };
            (0..self.parts).flat_map(of).collect()
        };
        rotated.par_chunks(self.width).flat_map_iter(table).collect()
    }

    /// Adds up a table of one query at the numbers of packed rows.
    pub(super) fn look_up(&self, table: &[f32], bytes: &[u8], scores: &mut [f32]) {
        let numbers = unpack(bytes, self.parts, self.bits);
        for (score, numbers) in scores.iter_mut().zip(numbers.chunks_exact(self.parts)) {
            // four sums, so that additions need not wait for each other
            let mut sums = [0.0f32; 4];
            for (part, &c) in numbers.iter().enumerate() {
                sums[part % 4] += table[(part << self.bits) + usize::from(c)];
            }
            *score = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        }
    }
}

/// Random numbers of one part, whichever thread it is fitted on.
fn stream(seed: u64, part: usize) -> Random {
    use chacha20::rand_core::SeedableRng;
    let mut random = Random::seed_from_u64(seed);
    random.set_stream(part as u64);
    random
}

/// Principal axes dealt to the parts, largest first, each to the part whose product of variances is the least so far.
fn balanced(sample: &[f32], width: usize, parts: usize) -> Result<Vec<f32>> {
    // about the origin: parts of vectors that are not centred are quantized as they are
    let (variances, axes) = principal(sample, &vec![0.0; width])?;
    let mut dealt: Vec<(f64, Vec<usize>)> = vec![(0.0, Vec::new()); parts];
    let floor = variances.first().map_or(1.0, |most| (most * 1e-12).max(f64::MIN_POSITIVE));
    for (axis, variance) in variances.iter().enumerate() {
        let open = (0..parts).filter(|&p| dealt[p].1.len() < width / parts);
        let least = open.min_by(|&a, &b| dealt[a].0.total_cmp(&dealt[b].0)).expect("there are as many places as axes");
        dealt[least].0 += variance.max(floor).ln();
        dealt[least].1.push(axis);
    }
    let order = dealt.into_iter().flat_map(|(_, axes)| axes);
    Ok(order.flat_map(|axis| axes[axis * width..][..width].to_vec()).collect())
}

/// Numbers of `bits` bits in one little-endian string of bits a row, as faiss packs them.
fn pack(numbers: Vec<u8>, parts: usize, bits: usize) -> Vec<u8> {
    if bits == 8 {
        return numbers;
    }
    let bytes = (parts * bits).div_ceil(8);
    let mut packed = vec![0; numbers.len() / parts * bytes];
    for (packed, numbers) in packed.chunks_exact_mut(bytes).zip(numbers.chunks_exact(parts)) {
        for (i, &number) in numbers.iter().enumerate() {
            let (at, shift) = (i * bits / 8, i * bits % 8);
            let wide = u16::from(number) << shift;
            packed[at] |= wide as u8;
            if shift + bits > 8 {
                packed[at + 1] |= (wide >> 8) as u8;
            }
        }
    }
    packed
}

fn unpack(packed: &[u8], parts: usize, bits: usize) -> Cow<'_, [u8]> {
    if bits == 8 {
        return Cow::Borrowed(packed);
    }
    let row = |row: &[u8]| -> Vec<u8> {
        let number = |i: usize| {
            let (at, shift) = (i * bits / 8, i * bits % 8);
            let wide = u16::from(row[at]) | u16::from(row.get(at + 1).copied().unwrap_or(0)) << 8;
            (wide >> shift) as u8 & ((1u16 << bits) - 1) as u8
        };
        (0..parts).map(number).collect()
    };
    Cow::Owned(packed.chunks_exact((parts * bits).div_ceil(8)).flat_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normals;
    use chacha20::rand_core::SeedableRng;

    /// Vectors whose variance falls along axes that are not the dimensions.
    fn some(rows: usize, seed: u64) -> Vec<f32> {
        let mut random = Random::seed_from_u64(77);
        let turn = polar(&normals(&mut random, 256), 16, 16).unwrap();
        let mut numbers = normals(&mut Random::seed_from_u64(seed), rows * 16);
        numbers.iter_mut().enumerate().for_each(|(i, x)| *x /= (1 + i % 16) as f32);
        let mut out = vec![0.0; rows * 16];
        matmul_nt_f32(Dims { m: rows, k: 16, n: 16 }, &numbers, &turn, &mut out);
        out
    }

    fn error(codec: &Product, x: &[f32]) -> f64 {
        let back = codec.decode(&codec.encode(Vectors::new(x, 16).unwrap()));
        x.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    fn fit(x: &[f32], parts: usize, bits: usize, rotate: bool) -> Product {
        Product::fit(x, 16, parts, bits, rotate, &mut Random::seed_from_u64(1)).unwrap()
    }

    #[test]
    fn vectors_made_of_centroids_are_read_back_exactly() {
        // two values in each of four parts: sixteen vectors
        let x: Vec<f32> = (0..16).flat_map(|i| (0..16).map(move |d| (i >> (d / 4) & 1) as f32 + d as f32)).collect();
        assert!(error(&fit(&x, 4, 1, false), &x) < 1e-9);
    }

    #[test]
    fn more_bits_and_a_rotation_leave_less_error() {
        let (x, other) = (some(2000, 1), some(500, 2));
        let errors = [(4, false), (6, false), (4, true)].map(|(bits, rotate)| error(&fit(&x, 4, bits, rotate), &other));
        assert!(errors[1] < 0.8 * errors[0] && errors[2] < 0.9 * errors[0], "{errors:?}");
    }

    #[test]
    fn a_corpus_with_fewer_rows_than_clusters_is_refused_with_what_would_fit() {
        let error = Product::fit(&some(100, 1), 16, 4, 8, false, &mut Random::seed_from_u64(1)).unwrap_err();
        assert_eq!(error.to_string(), "100 vectors cannot make 256 clusters");
        assert_eq!(error.hint().unwrap(), "fit to more vectors, or use codes of 6 bits");
        assert!(Product::fit(&some(64, 1), 16, 4, 6, true, &mut Random::seed_from_u64(1)).is_ok());
    }

    #[test]
    fn parts_that_do_not_divide_are_told_which_do() {
        let error = Product::fit(&some(10, 1), 16, 5, 2, false, &mut Random::seed_from_u64(1)).unwrap_err();
        assert_eq!(error.hint().unwrap(), "1, 2, 4, 8, 16 divide 16");
    }

    #[test]
    fn numbers_of_any_bits_are_packed_and_read_back() {
        for bits in 1..=8 {
            for parts in [1, 3, 8, 13] {
                let numbers: Vec<u8> = (0..parts * 5).map(|i| (i * 37 % (1 << bits)) as u8).collect();
                let packed = pack(numbers.clone(), parts, bits);
                assert_eq!(packed.len(), 5 * (parts * bits).div_ceil(8));
                assert_eq!(*unpack(&packed, parts, bits), numbers, "{parts} of {bits} bits");
            }
        }
        assert_eq!(pack(vec![1, 2, 3], 3, 4), [0x21, 0x03]);
    }

    #[test]
    fn tables_score_what_is_read_back() {
        for (bits, rotate) in [(8, false), (5, true)] {
            let x = some(400, 1);
            let codec = fit(&x, 4, bits, rotate);
            let bytes = codec.encode(Vectors::new(&x, 16).unwrap());
            let (back, query) = (codec.decode(&bytes), some(1, 9));
            let mut scores = vec![0.0; 400];
            codec.look_up(&codec.tables(&query), &bytes, &mut scores);
            for (score, row) in scores.iter().zip(back.chunks(16)) {
                let want: f32 = row.iter().zip(&query).map(|(a, b)| a * b).sum();
                assert!((score - want).abs() < 1e-4, "{score} {want}");
            }
        }
    }
}
