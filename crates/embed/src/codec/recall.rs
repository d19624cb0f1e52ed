//! How many of the nearest vectors codes find again.

use std::collections::HashSet;

use super::search::{DEPTH, Fine, Hit, Index, search_vectors};
use super::{Codec, Codes, Vectors};
use crate::codec::error::Result;

/// What codes keep of who is near whom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recall {
    /// How many of the nearest were looked for.
    pub k: usize,
    /// For how many vectors.
    pub queries: usize,
    /// The share of them among the `k` best codes.
    pub codes: f64,
    /// The share of them among the `k` best by their vectors of the [`DEPTH`] times `k` best codes.
    pub rescored: f64,
}

/// Looks for the `k` nearest of some of the vectors, evenly spaced, among the others: by the vectors themselves, and by codes.
/// Fewer are looked for if there are not so many. `None` with fewer than two vectors.
///
/// # Cost
/// Three searches for `queries` vectors.
///
/// # Errors
/// As [`Index::rescored`].
pub fn recall(codec: &Codec, codes: &Codes, vectors: Vectors<'_>, k: usize, queries: usize) -> Result<Option<Recall>> {
    let (rows, width) = (vectors.rows(), vectors.width());
    let (k, queries) = (k.min(rows.saturating_sub(1)), queries.min(rows));
    if k == 0 || queries == 0 {
        return Ok(None);
    }
    let asked: Vec<usize> = (0..queries).map(|n| n * rows / queries).collect();
    let values: Vec<f32> = asked.iter().flat_map(|&row| vectors.row(row)).copied().collect();
    let values = Vectors::new(&values, width)?;
    let near = search_vectors(vectors, values, k + 1)?;
    let index = Index::new(codec, codes)?;
    let share = |found: Vec<Vec<Hit>>| {
        let same = |((&own, near), found): ((&usize, &Vec<Hit>), &Vec<Hit>)| {
            let others = |hits: &[Hit]| -> HashSet<usize> {
                hits.iter().map(|hit| hit.row).filter(|&row| row != own).take(k).collect()
            };
            others(near).intersection(&others(found)).count()
        };
        let same: usize = asked.iter().zip(&near).zip(&found).map(same).sum();
        same as f64 / (k * queries) as f64
    };
    let found = share(index.search(values, k + 1)?);
    let rescored = share(index.rescored(values, k + 1, DEPTH, Fine::Vectors(vectors))?);
    Ok(Some(Recall { k, queries, codes: found, rescored }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Settings, Turn};
    use crate::random::{Random, SeedableRng, normals};

    fn fitted(values: &[f32], settings: &Settings) -> Recall {
        let vectors = Vectors::new(values, 16).unwrap();
        let codec = Codec::fit(vectors, settings, 0).unwrap();
        recall(&codec, &codec.encode(vectors).unwrap(), vectors, 10, 50).unwrap().unwrap()
    }

    #[test]
    fn more_bits_find_more_and_a_second_look_finds_more_again() {
        let mut values = normals(&mut Random::seed_from_u64(3), 16 * 400);
        values.chunks_exact_mut(16).for_each(crate::encoder::normalise);
        let sign = fitted(&values, &Settings::Sign { dims: None, turn: Turn::None, centre: false });
        let int8 = fitted(&values, &Settings::Int8);
        assert_eq!((sign.k, sign.queries), (10, 50));
        assert!(sign.codes < 0.7 && sign.rescored > sign.codes + 0.1, "{sign:?}");
        assert!(int8.codes > 0.95 && int8.rescored == 1.0, "{int8:?}");
    }

    #[test]
    fn of_few_vectors_all_others_are_near_and_one_has_none() {
        let values = [1.0, 0.0, 0.0, 1.0, -1.0, 0.5];
        let look = |rows: usize| {
            let vectors = Vectors::new(&values[..2 * rows], 2).unwrap();
            let codec = Codec::fit(vectors, &Settings::Int8, 0).unwrap();
            recall(&codec, &codec.encode(vectors).unwrap(), vectors, 10, 50).unwrap()
        };
        assert_eq!(look(3), Some(Recall { k: 2, queries: 3, codes: 1.0, rescored: 1.0 }));
        assert_eq!(look(1), None);
    }
}
