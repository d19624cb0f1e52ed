//! Bit planes of vectors: packing, and the values that they stand for.
//!
//! A row is its planes one after the other, the heaviest first, each `ceil(dims / 8)` bytes; the first dimension is in
//! the most significant bit, as sentence-transformers and numpy pack them, and bits after the last dimension are zero.

use rayon::prelude::*;

/// Rows that a task packs or reads.
const ROWS: usize = 256;

/// Bytes of a row.
pub(super) fn row_bytes(dims: usize, planes: usize) -> usize {
    planes * dims.div_ceil(8)
}

/// The bits of one number, the heaviest first: of `x`, of what the first leaves, and so on.
///
/// A number that is exactly between two values gets the lower.
fn bits_of(x: f32, planes: usize) -> impl Iterator<Item = bool> {
    (0..planes).scan((x, 1.0f32), |(rest, weight), _| {
        let bit = *rest > 0.0;
        *rest -= if bit { *weight } else { -*weight };
        *weight *= 0.5;
        Some(bit)
    })
}

/// The value that [`bits_of`] finds: an odd multiple of `2^-(planes - 1)`.
pub(super) fn nearest(x: f32, planes: usize) -> f32 {
    bits_of(x, planes).fold((0.0, 1.0), |(sum, w), bit| (if bit { sum + w } else { sum - w }, w * 0.5)).0
}

/// Packs numbers `[rows, dims]` that were divided by `scale`.
pub(super) fn pack(numbers: &[f32], dims: usize, planes: usize, scale: f32) -> Vec<u8> {
    let bytes = row_bytes(dims, planes);
    let mut packed = vec![0; numbers.len() / dims * bytes];
    packed.par_chunks_mut(ROWS * bytes).zip(numbers.par_chunks(ROWS * dims)).for_each(|(packed, numbers)| {
        for (packed, numbers) in packed.chunks_exact_mut(bytes).zip(numbers.chunks_exact(dims)) {
            for (i, x) in numbers.iter().enumerate() {
                for (t, bit) in bits_of(x / scale, planes).enumerate() {
                    packed[t * dims.div_ceil(8) + i / 8] |= u8::from(bit) << (7 - i % 8);
                }
            }
        }
    });
    packed
}

/// The values of packed rows, `[rows, dims]`, times `scale`.
pub(super) fn unpack(packed: &[u8], dims: usize, planes: usize, scale: f32) -> Vec<f32> {
    let bytes = row_bytes(dims, planes);
    let mut numbers = vec![0.0; packed.len() / bytes * dims];
    numbers.par_chunks_mut(ROWS * dims).zip(packed.par_chunks(ROWS * bytes)).for_each(|(numbers, packed)| {
        for (numbers, packed) in numbers.chunks_exact_mut(dims).zip(packed.chunks_exact(bytes)) {
            for (t, plane) in packed.chunks_exact(dims.div_ceil(8)).enumerate() {
                let weight = scale * 0.5f32.powi(t as i32);
                for (i, x) in numbers.iter_mut().enumerate() {
                    *x += if plane[i / 8] >> (7 - i % 8) & 1 == 1 { weight } else { -weight };
                }
            }
        }
    });
    numbers
}

/// The dot product of each packed row with itself, in units of the lightest plane squared; never zero.
pub(super) fn squares(packed: &[u8], dims: usize, planes: usize) -> Vec<i32> {
    let per = dims.div_ceil(8);
    let square = |row: &[u8]| -> i32 {
        let mut sum = 0;
        for s in 0..planes {
            for t in 0..planes {
                let (a, b) = (&row[s * per..][..per], &row[t * per..][..per]);
                let differ: u32 = a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
                sum += (dims as i32 - 2 * differ as i32) << (2 * (planes - 1) - s - t);
            }
        }
        sum
    };
    packed.par_chunks_exact(row_bytes(dims, planes)).map(square).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_kernels::popcount;

    #[test]
    fn the_first_dimension_is_in_the_most_significant_bit() {
        assert_eq!(pack(&[1.0, -1.0, 0.0, 0.5, 2.0, -3.0, -1.0, -1.0, 1.0], 9, 1, 1.0), [0b1001_1000, 0b1000_0000]);
    }

    #[test]
    fn values_of_two_bits_are_the_nearest_odd_halves() {
        for (x, want) in [(0.9, 0.5), (1.1, 1.5), (7.0, 1.5), (0.1, 0.5), (-0.1, -0.5), (-1.2, -1.5), (0.0, -0.5)] {
            assert_eq!(nearest(x, 2), want, "{x}");
        }
    }

    #[test]
    fn packing_and_unpacking_is_the_identity_on_the_grid() {
        for planes in 1..=4 {
            for (rows, dims) in [(0, 5), (1, 1), (3, 8), (7, 13), (300, 64)] {
                let count = 1 << planes;
                let step = 0.5f32.powi(planes as i32 - 1);
                let grid: Vec<f32> = (0..rows * dims)
                    .map(|i| (2 * (i * 7919 % count) as i32 - count as i32 + 1) as f32 * step)
                    .collect();
                let scaled: Vec<f32> = grid.iter().map(|x| x * 0.25).collect();
                let packed = pack(&scaled, dims, planes, 0.25);
                assert_eq!(packed.len(), rows * row_bytes(dims, planes));
                assert_eq!(unpack(&packed, dims, planes, 1.0), grid, "{planes} planes, {rows} rows of {dims}");
            }
        }
    }

    #[test]
    fn squares_are_those_of_the_whole_numbers_and_positive() {
        let numbers: Vec<f32> = (0..40 * 19).map(|i| (i * 31 % 17) as f32 / 4.0 - 2.0).collect();
        for planes in 1..=4 {
            let packed = pack(&numbers, 19, planes, 1.0);
            let want: Vec<i32> =
                packed.chunks(row_bytes(19, planes)).map(|row| popcount::dot_scalar(row, row, planes, 19)).collect();
            assert_eq!(squares(&packed, 19, planes), want);
            assert!(want.iter().all(|&square| square > 0));
        }
    }
}
