//! One byte for each dimension, over the range that the dimension has.

use rayon::prelude::*;

use super::vectors::Vectors;

/// A byte for each dimension: `q = floor((x - low) / step)` from 0 to 255, with `step = (high - low) / 255`.
///
/// The bytes are those of the precision `uint8` of sentence-transformers, whose `int8` is 128 less, and of the type
/// `QT_8bit` of faiss. They are read back as the middle of their step, as faiss does; a dimension that never changed is
/// read back as it was. Scores are dot products of what is read back.
///
/// # Source
/// `sentence_transformers.quantize_embeddings`; `ScalarQuantizer` of faiss.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8 {
    /// The least value of each dimension.
    pub(super) low: Vec<f32>,
    /// The greatest value of each dimension.
    pub(super) high: Vec<f32>,
}

impl Int8 {
    pub(super) fn fit(vectors: Vectors<'_>) -> Self {
        let width = vectors.width();
        let (mut low, mut high) = (vec![f32::INFINITY; width], vec![f32::NEG_INFINITY; width]);
        for row in vectors.values().chunks_exact(width) {
            low.iter_mut().zip(row).for_each(|(low, &x)| *low = low.min(x));
            high.iter_mut().zip(row).for_each(|(high, &x)| *high = high.max(x));
        }
        Int8 { low, high }
    }

    /// The least value of each dimension among the vectors that the ranges were taken from.
    pub fn low(&self) -> &[f32] {
        &self.low
    }

    /// The greatest value of each dimension.
    pub fn high(&self) -> &[f32] {
        &self.high
    }

    /// What a byte is worth in each dimension; zero where nothing ever changed.
    pub(super) fn steps(&self) -> Vec<f32> {
        self.low.iter().zip(&self.high).map(|(low, high)| (high - low) / 255.0).collect()
    }

    pub(super) fn encode(&self, vectors: Vectors<'_>) -> Vec<u8> {
        let width = vectors.width();
        let steps: Vec<f32> = self.steps().into_iter().map(|step| if step > 0.0 { step } else { 1.0 }).collect();
        let mut bytes = vec![0; vectors.values().len()];
        bytes.par_chunks_mut(width).zip(vectors.values().par_chunks(width)).for_each(|(bytes, row)| {
            for (i, (byte, x)) in bytes.iter_mut().zip(row).enumerate() {
                *byte = ((x - self.low[i]) / steps[i]).floor().clamp(0.0, 255.0) as u8;
            }
        });
        bytes
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        let (steps, width) = (self.steps(), self.low.len());
        let mut out = vec![0.0; bytes.len()];
        out.par_chunks_mut(width).zip(bytes.par_chunks(width)).for_each(|(out, bytes)| {
            for (i, (x, &byte)) in out.iter_mut().zip(bytes).enumerate() {
                *x = self.low[i] + (f32::from(byte) + 0.5) * steps[i];
            }
        });
        out
    }

    /// A query for bytes: `⟨q, x⟩ = Σ_i w_i byte_i + c`, with `w` in place of the query, and `c` returned.
    pub(super) fn ask(&self, query: &mut [f32]) -> f32 {
        let steps = self.steps();
        let mut constant = 0.0f64;
        for (i, q) in query.iter_mut().enumerate() {
            constant += f64::from(*q) * (f64::from(self.low[i]) + 0.5 * f64::from(steps[i]));
            *q *= steps[i];
        }
        constant as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_bytes_and_middles_are_known_by_hand() {
        // 0 to 255 has steps of one; the other dimension never changes
        let x = [0.0, 7.0, 255.0, 7.0, 1.9, 7.0, 2.0, 7.0];
        let codec = Int8::fit(Vectors::new(&x, 2).unwrap());
        let bytes = codec.encode(Vectors::new(&x, 2).unwrap());
        assert_eq!(bytes, [0, 0, 255, 0, 1, 0, 2, 0]);
        assert_eq!(codec.decode(&bytes), [0.5, 7.0, 255.5, 7.0, 1.5, 7.0, 2.5, 7.0]);
        // beyond the range the ends are taken
        assert_eq!(codec.encode(Vectors::new(&[-3.0, 9.0, 900.0, -9.0], 2).unwrap()), [0, 2, 255, 0]);
    }

    #[test]
    fn a_query_for_bytes_scores_what_is_read_back() {
        let x: Vec<f32> = (0..60).map(|i| ((i * 37) % 23) as f32 / 7.0 - 1.0).collect();
        let codec = Int8::fit(Vectors::new(&x, 5).unwrap());
        let bytes = codec.encode(Vectors::new(&x, 5).unwrap());
        let back = codec.decode(&bytes);
        let query = [0.5, -1.0, 2.0, 0.25, -0.125];
        let mut scaled = query;
        let constant = codec.ask(&mut scaled);
        for (bytes, back) in bytes.chunks(5).zip(back.chunks(5)) {
            let got: f32 = constant + bytes.iter().zip(scaled).map(|(&b, w)| f32::from(b) * w).sum::<f32>();
            let want: f32 = back.iter().zip(query).map(|(a, b)| a * b).sum();
            assert!((got - want).abs() < 1e-5);
        }
    }
}
