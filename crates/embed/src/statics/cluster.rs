//! Tokens of like directions share a row of the table.

use crate::clusters::{refine, wide};
use crate::encoder::{length, normalise};
use crate::error::{Error, Result};
use crate::random::{Random, SeedableRng, drawn};
use crate::vectors::Vectors;

/// Passes over the rows.
const ROUNDS: usize = 20;
/// What the drawing of first centroids starts from.
const SEED: u64 = 0;

/// A table with fewer rows than tokens.
pub(super) struct Shared {
    /// `[clusters, width]`.
    pub rows: Vec<f32>,
    /// For each token, its row.
    pub mapping: Vec<u32>,
    /// For each token, what its row is multiplied by: the length of the vector it had.
    pub weights: Vec<f32>,
}

/// Clusters the directions of rows by k-means; each token keeps its length.
///
/// # Cost
/// [`ROUNDS`] products of all rows with all centroids.
///
/// # Errors
/// [`Error::Clusters`] with fewer rows than clusters, or none.
///
/// # Source
/// The vocabulary quantization of model2vec.
pub(super) fn cluster(vectors: &Vectors, clusters: usize) -> Result<Shared> {
    let (count, width) = (vectors.count(), vectors.width);
    if clusters == 0 || clusters > count {
        return Err(Error::Clusters { tokens: count, clusters });
    }
    let weights = vectors.values.chunks_exact(width).map(|row| length(row) as f32).collect();
    let mut directions = vectors.values.clone();
    directions.chunks_exact_mut(width).for_each(normalise);
    let first = drawn(&mut Random::seed_from_u64(SEED), count, clusters);
    let mut rows: Vec<f32> = first.into_iter().flat_map(|row| &directions[row * width..][..width]).copied().collect();
    refine(&directions, width, &mut rows, ROUNDS, wide);
    let (mut mapping, mut far) = (vec![0; count], vec![0.0; count]);
    wide(&directions, width, &rows, &mut mapping, &mut far);
    Ok(Shared { rows, mapping, weights })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_direction_share_a_row_and_keep_their_lengths() {
        let values = vec![1.0, 0.0, 3.0, 0.0, 0.0, 2.0, 0.0, 0.5, 0.0, 0.0, -4.0, 0.0];
        let vectors = Vectors { width: 2, values: values.clone() };
        let shared = cluster(&vectors, 4).unwrap();
        assert_eq!(shared.weights, [1.0, 3.0, 2.0, 0.5, 0.0, 4.0]);
        assert_eq!(shared.rows.len(), 8);
        for (token, row) in values.chunks(2).enumerate() {
            let found = &shared.rows[shared.mapping[token] as usize * 2..][..2];
            let back: Vec<f32> = found.iter().map(|x| x * shared.weights[token]).collect();
            assert_eq!(back, row, "token {token}");
        }
        assert_eq!(shared.mapping[0], shared.mapping[1]);
    }

    #[test]
    fn a_vocabulary_with_fewer_tokens_than_clusters_is_refused() {
        let vectors = Vectors { width: 1, values: vec![1.0, 2.0] };
        let error = cluster(&vectors, 3).err().unwrap();
        assert_eq!(error.to_string(), "2 tokens cannot share 3 rows");
        assert!(cluster(&vectors, 0).is_err());
    }
}
