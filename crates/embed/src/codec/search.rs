//! Search among all codes: the best by score, and a second look at them by a finer score.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use brevity_kernels::matmul::{Dims, matmul_nt_f32};
use brevity_kernels::popcount::{BitPlanes, LANES};
use rayon::prelude::*;

use super::axes::dot;
use super::{Codec, Codes, Vectors, reciprocal_norms};
use crate::codec::error::{Error, Result};

/// Candidates for each wanted hit that [`Index::rescored`] is usually given.
pub const DEPTH: usize = 4;

/// Queries that pass the codes together.
const QUERIES: usize = 64;
/// Codes of planes that a task scores: some 400 kB at 48 bytes.
const BITS_BLOCK: usize = 1024 * LANES;
/// Codes of bytes that a task scores: 1.5 MB of decoded floats at 384.
const BYTES_BLOCK: usize = 1024;

/// Scores that are looked at together.
const CHUNK: usize = 64;

/// A vector that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its place among the codes, counted from zero.
    pub row: usize,
    /// Its score; larger is nearer.
    pub score: f32,
}

impl Hit {
    /// Zero has one sign, so that equal scores are equal in every comparison.
    fn new(row: usize, score: f32) -> Self {
        Hit { row, score: score + 0.0 }
    }
}

/// Codes made ready to be searched.
///
/// Every code is scored: results are exact for these scores, of equals the first come first, and the number of threads
/// changes nothing. (Scores of [`Int8`](super::Int8) are products of matrices, whose last bit may differ with the queries
/// beside.)
#[derive(Debug)]
pub struct Index<'a> {
    codec: &'a Codec,
    codes: &'a Codes,
    laid: Option<Laid>,
}

/// Codes of planes as they are counted.
#[derive(Debug)]
struct Laid {
    planes: BitPlanes,
    reciprocal_norms: Vec<f32>,
}

/// What candidates are scored again with.
#[derive(Clone, Copy, Debug)]
pub enum Fine<'a> {
    /// The vectors that were encoded.
    Vectors(Vectors<'a>),
    /// Finer codes of them; the query stays as it is.
    Codes(&'a Codec, &'a Codes),
}

/// The `k` vectors of the largest dot products with each query, best first, of equals the first: what codes stand for.
///
/// # Cost
/// A product of all queries with all vectors, of which as many scores are held as there are queries and a block of vectors.
///
/// # Errors
/// [`Error::Width`].
pub fn search_vectors(vectors: Vectors<'_>, queries: Vectors<'_>, k: usize) -> Result<Vec<Vec<Hit>>> {
    queries.expect_width(vectors.width())?;
    let (width, asked) = (vectors.width(), queries.rows());
    let mut best = vec![Best::of(k); asked];
    let mut all = vec![0.0; asked * BYTES_BLOCK];
    for (n, block) in vectors.values().chunks(BYTES_BLOCK * width).enumerate() {
        let rows = block.len() / width;
        let scores = &mut all[..asked * rows];
        matmul_nt_f32(Dims { m: asked, k: width, n: rows }, queries.values(), block, scores);
        let each = best.par_iter_mut().zip(scores.par_chunks_exact(rows));
        each.for_each(|(best, scores)| best.look_at(n * BYTES_BLOCK, scores));
    }
    Ok(best.into_iter().map(Best::sorted).collect())
}

/// Queries made ready for the codes.
enum Asked {
    /// Codes of the queries, and one over their lengths.
    Planes { bytes: Vec<u8>, reciprocal_norms: Vec<f32> },
    /// Weights of bytes `[queries, width]`, and what is added to each sum.
    Bytes { weights: Vec<f32>, constants: Vec<f32> },
    /// Products with all centroids.
    Tables(Vec<f32>),
}

impl<'a> Index<'a> {
    /// Makes codes ready.
    ///
    /// # Cost
    /// Sign and recurrent codes are laid out a second time; nothing is done to others.
    ///
    /// # Errors
    /// [`Error::Codec`] if another codec made the codes.
    pub fn new(codec: &'a Codec, codes: &'a Codes) -> Result<Self> {
        codec.expect(codes)?;
        let laid = codec.planes().map(|(dims, planes)| Laid {
            planes: BitPlanes::new(codes.bytes(), codes.rows(), planes, dims),
            reciprocal_norms: reciprocal_norms(codes.bytes(), dims, planes),
        });
        Ok(Index { codec, codes, laid })
    }

    /// The `k` codes of the best scores for each query, best first; fewer if there are not so many.
    ///
    /// Queries are encoded for sign and recurrent codes, and left as they are for others.
    ///
    /// # Cost
    /// One pass over all codes for 64 queries. For a million codes of 384 dimensions that is 48 MB of sign bits or 384 MB
    /// of bytes.
    ///
    /// # Errors
    /// [`Error::Width`].
    pub fn search(&self, queries: Vectors<'_>, k: usize) -> Result<Vec<Vec<Hit>>> {
        queries.expect_width(self.codec.width())?;
        let width = queries.width();
        let mut found = Vec::with_capacity(queries.rows());
        for some in queries.values().chunks(QUERIES * width) {
            let asked = self.ask(Vectors::new(some, width)?);
            found.extend(self.best(&asked, some.len() / width, k).into_iter().map(Best::sorted));
        }
        Ok(found)
    }

    /// The `k` best by a finer score among the `k * depth` best of [`search`](Self::search).
    ///
    /// # Cost
    /// A search, and `k * depth` vectors decoded and multiplied for each query. [`DEPTH`] is a good depth.
    ///
    /// # Errors
    /// [`Error::Width`]; [`Error::Rows`] if `fine` holds more or fewer vectors than there are codes; [`Error::Codec`] if its
    /// codes are of another codec.
    pub fn rescored(&self, queries: Vectors<'_>, k: usize, depth: usize, fine: Fine<'_>) -> Result<Vec<Vec<Hit>>> {
        let (found, width) = match fine {
            Fine::Vectors(vectors) => (vectors.rows(), vectors.width()),
            Fine::Codes(codec, codes) => {
                codec.expect(codes)?;
                (codes.rows(), codec.width())
            }
        };
        queries.expect_width(width)?;
        if found != self.codes.rows() {
            return Err(Error::Rows { expected: self.codes.rows(), found });
        }
        let mut hits = self.search(queries, k.saturating_mul(depth.max(1)))?;
        hits.par_iter_mut().enumerate().for_each(|(q, hits)| {
            let query = queries.row(q);
            match fine {
                Fine::Vectors(vectors) => {
                    hits.iter_mut().for_each(|hit| *hit = Hit::new(hit.row, dot(query, vectors.row(hit.row))));
                }
                Fine::Codes(codec, codes) => {
                    let bytes: Vec<u8> = hits.iter().flat_map(|hit| codes.row(hit.row)).copied().collect();
                    let vectors = codec.decode_rows(&bytes);
                    hits.iter_mut()
                        .zip(vectors.chunks_exact(width))
                        .for_each(|(hit, x)| *hit = Hit::new(hit.row, dot(query, x)));
                }
            }
            hits.sort_by(better);
            hits.truncate(k);
        });
        Ok(hits)
    }

    fn ask(&self, queries: Vectors<'_>) -> Asked {
        match self.codec {
            Codec::Int8(codec) => {
                let mut weights = queries.values().to_vec();
                let constants = weights.chunks_exact_mut(queries.width()).map(|query| codec.ask(query)).collect();
                Asked::Bytes { weights, constants }
            }
            Codec::Product(codec) => Asked::Tables(codec.tables(queries.values())),
            Codec::Sign(_) | Codec::Recurrent(_) => {
                let (dims, planes) = self.codec.planes().expect("these codes are planes");
                let bytes = self.codec.encode_rows(queries);
                let reciprocal_norms = reciprocal_norms(&bytes, dims, planes);
                Asked::Planes { bytes, reciprocal_norms }
            }
        }
    }

    /// The best of all codes for each of `queries` that were made ready.
    fn best(&self, asked: &Asked, queries: usize, k: usize) -> Vec<Best> {
        let rows = self.codes.rows();
        let block = if self.laid.is_some() { BITS_BLOCK } else { BYTES_BLOCK };
        let blocks: Vec<Vec<Best>> = (0..rows.div_ceil(block))
            .into_par_iter()
            .map(|b| {
                let range = b * block..rows.min((b + 1) * block);
                let mut best = vec![Best::of(k); queries];
                self.scores(asked, range.clone(), |q, scores| best[q].look_at(range.start, scores));
                best
            })
            .collect();
        let mut best = vec![Best::of(k); queries];
        for one in blocks {
            best.iter_mut().zip(one).for_each(|(best, one)| best.take(one));
        }
        best
    }

    /// Shows the scores of some codes for each query.
    fn scores(&self, asked: &Asked, range: Range<usize>, mut show: impl FnMut(usize, &[f32])) {
        let rows = range.len();
        let row_bytes = self.codes.row_bytes();
        let bytes = &self.codes.bytes()[range.start * row_bytes..range.end * row_bytes];
        let mut scores = vec![0.0; rows];
        match (asked, self.codec) {
            (Asked::Planes { bytes, reciprocal_norms }, _) => {
                let laid = self.laid.as_ref().expect("codes of planes are laid out");
                let mut dots = vec![0; rows];
                for (q, (query, reciprocal)) in bytes.chunks_exact(row_bytes).zip(reciprocal_norms).enumerate() {
                    laid.planes.dots(query, range.start, &mut dots);
                    let norms = &laid.reciprocal_norms[range.clone()];
                    for ((score, &dot), norm) in scores.iter_mut().zip(&dots).zip(norms) {
                        *score = dot as f32 * norm * reciprocal;
                    }
                    show(q, &scores);
                }
            }
            (Asked::Bytes { weights, constants }, _) => {
                let floats: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte)).collect();
                let mut all = vec![0.0; rows * constants.len()];
                matmul_nt_f32(Dims { m: constants.len(), k: row_bytes, n: rows }, weights, &floats, &mut all);
                for (q, (scores, constant)) in all.chunks_exact_mut(rows).zip(constants).enumerate() {
                    scores.iter_mut().for_each(|score| *score += constant);
                    show(q, scores);
                }
            }
            (Asked::Tables(tables), Codec::Product(codec)) => {
                for (q, table) in tables.chunks_exact(codec.parts << codec.bits).enumerate() {
                    codec.look_up(table, bytes, &mut scores);
                    show(q, &scores);
                }
            }
            (Asked::Tables(_), _) => unreachable!("tables are made for product codes"),
        }
    }
}

/// Best first: by score, and of equals the first row.
fn better(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then(a.row.cmp(&b.row))
}

/// A hit in a heap whose top is the worst.
#[derive(Clone, Copy, Debug)]
struct Kept(Hit);

impl Ord for Kept {
    fn cmp(&self, other: &Self) -> Ordering {
        better(&self.0, &other.0)
    }
}
impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Kept {}

/// The best `k` hits so far.
#[derive(Clone, Debug)]
struct Best {
    k: usize,
    heap: BinaryHeap<Kept>,
}

impl Best {
    fn of(k: usize) -> Self {
        Best { k, heap: BinaryHeap::new() }
    }

    /// Looks at the scores of rows from `first` on.
    fn look_at(&mut self, first: usize, scores: &[f32]) {
        if self.k == 0 {
            return;
        }
        let (fill, rest) = scores.split_at(scores.len().min(self.k.saturating_sub(self.heap.len())));
        self.heap.extend(fill.iter().enumerate().map(|(i, &score)| Kept(Hit::new(first + i, score))));
        let first = first + fill.len();
        let Some(mut worst) = self.heap.peek().copied() else { return };
        for (c, some) in rest.chunks(CHUNK).enumerate() {
            // nearly all chunks have nothing; this loop is done several scores at a time
            if !some.iter().fold(false, |any, &score| any | (score > worst.0.score)) {
                continue;
            }
            for (i, &score) in some.iter().enumerate() {
                // rows come in order, so an equal score is no better
                if score > worst.0.score {
                    self.heap.pop();
                    self.heap.push(Kept(Hit::new(first + c * CHUNK + i, score)));
                    worst = *self.heap.peek().expect("the heap is full");
                }
            }
        }
    }

    fn take(&mut self, other: Best) {
        self.heap.extend(other.heap);
        while self.heap.len() > self.k {
            self.heap.pop();
        }
    }

    fn sorted(self) -> Vec<Hit> {
        self.heap.into_sorted_vec().into_iter().map(|kept| kept.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_kept_in_order_and_of_equals_the_first() {
        let mut best = Best::of(3);
        best.look_at(0, &[0.5, 0.9, 0.5]);
        best.look_at(3, &[0.5, 0.9, 0.1]);
        let rows: Vec<usize> = best.sorted().iter().map(|hit| hit.row).collect();
        assert_eq!(rows, [1, 4, 0]);
    }

    #[test]
    fn the_nearest_vectors_are_those_of_the_largest_products() {
        let vectors = Vectors::new(&[1.0, 0.0, 0.0, 1.0, 0.6, 0.8, 1.0, 0.0], 2).unwrap();
        let find = |queries: &[f32], k| {
            let hits = search_vectors(vectors, Vectors::new(queries, 2).unwrap(), k).unwrap();
            hits.into_iter().map(|hits| hits.iter().map(|hit| hit.row).collect()).collect::<Vec<Vec<usize>>>()
        };
        assert_eq!(find(&[2.0, 0.1, 0.0, 0.3], 3), [[0, 3, 2], [1, 2, 0]]);
        assert_eq!(find(&[1.0, 0.0], 9)[0].len(), 4);
        assert!(find(&[], 3).is_empty());
        let wide = Vectors::new(&[1.0, 0.0, 0.0], 3).unwrap();
        assert!(matches!(search_vectors(vectors, wide, 1), Err(Error::Width { expected: 2, found: 3 })));
    }

    #[test]
    fn merged_hits_are_those_of_one_look() {
        let scores: Vec<f32> = (0..50).map(|i| (i * 7 % 13) as f32).collect();
        let mut whole = Best::of(9);
        whole.look_at(0, &scores);
        let (mut left, mut right) = (Best::of(9), Best::of(9));
        left.look_at(0, &scores[..5]);
        right.look_at(5, &scores[5..]);
        left.take(right);
        assert_eq!(left.sorted(), whole.sorted());
        let mut none = Best::of(0);
        none.look_at(0, &scores);
        assert!(none.sorted().is_empty());
    }
}
