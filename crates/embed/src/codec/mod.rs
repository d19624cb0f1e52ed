//! Codecs of vectors: fitted once, stored in a file, used to encode and to score.
//!
//! | codec | bytes of a vector of 384 | scores | nDCG@10 | looked at again by int8 |
//! |---|---|---|---|---|
//! | none | 1536 | | 0.6451 | |
//! | [`Int8`] | 384 | dot products | 0.6442 | |
//! | [`Recurrent`], 384 axes of two bits | 96 | cosines of codes, by counting bits | 0.6394 | 0.6442 |
//! | [`Sign`] of 768 axes | 96 | cosines of codes, by counting bits | 0.6104 | 0.6428 |
//! | [`Recurrent`], 192 axes of two bits | 48 | | 0.6058 | 0.6432 |
//! | [`Sign`] | 48 | | 0.5881 | 0.6386 |
//! | [`Product`], 48 parts | 48 | dot products, from tables | 0.6311 | 0.6428 |
//!
//! The figures are those of all-MiniLM-L6-v2 on SciFact, by `examples/codecs_quality.rs` with learned axes, seed 0; with its
//! 300 questions, differences of one hundredth are within chance.
//!
//! A first search with few bits is best followed by a second look at some candidates, [`Index::rescored`].

mod axes;
mod bits;
mod codes;
mod error;
mod faiss;
mod file;
mod int8;
mod product;
mod recall;
mod recurrent;
mod search;
mod sign;
#[cfg(test)]
mod tests;
mod vectors;

pub use axes::Turn;
pub use codes::{Codes, Digest};
pub use error::{Error, Result};
pub use faiss::{write_faiss, write_faiss_flat};
pub use int8::Int8;
pub use product::Product;
pub use recall::{Recall, recall};
pub use recurrent::Recurrent;
pub use search::{DEPTH, Fine, Hit, Index, search_vectors};
pub use sign::Sign;
pub use vectors::Vectors;

use brevity_kernels::matmul::{Dims, matmul_nt_f32};
use brevity_kernels::popcount::BitPlanes;
use chacha20::rand_core::SeedableRng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// The most vectors that axes and centroids are fitted to; of more, as many are drawn.
pub const SAMPLE: usize = 1 << 16;

/// Which codec to fit, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Settings {
    /// [`Int8`].
    Int8,
    /// [`Sign`].
    Sign {
        /// Bits of a code; without [`Turn::None`] they can be fewer or more than dimensions. As many if not given.
        #[serde(default)]
        dims: Option<usize>,
        /// Along which axes.
        turn: Turn,
        /// Whether the mean is taken away first; not without axes.
        #[serde(default)]
        centre: bool,
    },
    /// [`Recurrent`].
    Recurrent {
        /// Axes of a code; as many as dimensions if not given.
        #[serde(default)]
        dims: Option<usize>,
        /// Planes behind the first sign, 0 to 3: `u`.
        steps: usize,
        /// Along which axes.
        turn: Turn,
        /// Whether the mean is taken away first; not without axes.
        #[serde(default)]
        centre: bool,
    },
    /// [`Product`].
    Product {
        /// How many parts a vector is cut into.
        parts: usize,
        /// Bits of each, 1 to 8.
        bits: usize,
        /// Whether a rotation is fitted, too (OPQ).
        rotate: bool,
    },
}

/// A fitted codec.
#[derive(Clone, Debug, PartialEq)]
pub enum Codec {
    /// A byte for each dimension.
    Int8(Int8),
    /// A bit for each dimension or axis.
    Sign(Sign),
    /// A few bits for each axis.
    Recurrent(Recurrent),
    /// A few bits for each part.
    Product(Product),
}

impl Codec {
    /// Fits a codec to vectors like those it is for.
    ///
    /// The same vectors, settings and seed give the same codec, whatever the number of threads.
    ///
    /// # Cost
    /// `Int8` and unturned signs: a pass. Learned axes: forty products of the vectors with the axes, and as many
    /// factorizations of these. `Product`: some thirty passes over all centroids; with a rotation forty more, and twenty
    /// factorizations. Of more than [`SAMPLE`] vectors, that many are drawn (not for `Int8`, whose ranges are of all).
    ///
    /// # Errors
    /// [`Error::Empty`]; [`Error::Setting`], [`Error::Parts`] and [`Error::TooFew`] for settings that cannot be met.
    pub fn fit(vectors: Vectors<'_>, settings: &Settings, seed: u64) -> Result<Codec> {
        if vectors.rows() == 0 {
            return Err(Error::Empty);
        }
        let (width, mut random) = (vectors.width(), Random::seed_from_u64(seed));
        let random = &mut random;
        Ok(match *settings {
            Settings::Int8 => Codec::Int8(Int8::fit(vectors)),
            Settings::Sign { dims, turn, centre } => {
                let sample = vectors.sample(SAMPLE, random);
                Codec::Sign(Sign::fit(&sample, width, dims.unwrap_or(width), turn, centre, random)?)
            }
            Settings::Recurrent { dims, steps, turn, centre } => {
                let sample = vectors.sample(SAMPLE, random);
                Codec::Recurrent(Recurrent::fit(&sample, width, dims.unwrap_or(width), steps, turn, centre, random)?)
            }
            Settings::Product { parts, bits, rotate } => {
                let sample = vectors.sample(SAMPLE, random);
                Codec::Product(Product::fit(&sample, width, parts, bits, rotate, random)?)
            }
        })
    }

    /// Its name: `int8`, `sign`, `recurrent` or `product`.
    pub fn kind(&self) -> &'static str {
        match self {
            Codec::Int8(_) => "int8",
            Codec::Sign(_) => "sign",
            Codec::Recurrent(_) => "recurrent",
            Codec::Product(_) => "product",
        }
    }

    /// The width of the vectors it encodes.
    pub fn width(&self) -> usize {
        match self {
            Codec::Int8(codec) => codec.low.len(),
            Codec::Sign(codec) => codec.width,
            Codec::Recurrent(codec) => codec.width,
            Codec::Product(codec) => codec.width,
        }
    }

    /// Bytes of one code.
    pub fn row_bytes(&self) -> usize {
        match self {
            Codec::Int8(codec) => codec.low.len(),
            Codec::Product(codec) => codec.row_bytes(),
            Codec::Sign(codec) => bits::row_bytes(codec.dims(), 1),
            Codec::Recurrent(codec) => bits::row_bytes(codec.dims(), codec.planes),
        }
    }

    /// Axes and planes of codes that are scored by counting bits.
    pub(crate) fn planes(&self) -> Option<(usize, usize)> {
        match self {
            Codec::Sign(codec) => Some((codec.dims(), 1)),
            Codec::Recurrent(codec) => Some((codec.dims(), codec.planes)),
            _ => None,
        }
    }

    /// Encodes vectors.
    ///
    /// # Errors
    /// [`Error::Width`] if they are not as wide as those that the codec was fitted to.
    pub fn encode(&self, vectors: Vectors<'_>) -> Result<Codes> {
        vectors.expect_width(self.width())?;
        Ok(Codes::new(self.digest(), self.row_bytes(), self.encode_rows(vectors)))
    }

    fn encode_rows(&self, vectors: Vectors<'_>) -> Vec<u8> {
        match self {
            Codec::Int8(codec) => codec.encode(vectors),
            Codec::Sign(codec) => codec.encode(vectors),
            Codec::Recurrent(codec) => codec.encode(vectors),
            Codec::Product(codec) => codec.encode(vectors),
        }
    }

    /// Vectors near those that were encoded, `[rows, width]`.
    ///
    /// # Errors
    /// [`Error::Codec`] if another codec made the codes.
    pub fn decode(&self, codes: &Codes) -> Result<Vec<f32>> {
        self.expect(codes)?;
        Ok(self.decode_rows(codes.bytes()))
    }

    fn decode_rows(&self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Codec::Int8(codec) => codec.decode(bytes),
            Codec::Sign(codec) => codec.decode(bytes),
            Codec::Recurrent(codec) => codec.decode(bytes),
            Codec::Product(codec) => codec.decode(bytes),
        }
    }

    /// Scores every code with every other, `[a, b]`, both sides encoded: cosines of codes for [`Sign`] and
    /// [`Recurrent`], dot products of what is read back for the others.
    ///
    /// For vectors against many codes see [`Index`], which does not round the vectors where it need not.
    ///
    /// # Cost
    /// Bits are counted; other codes are decoded and multiplied.
    ///
    /// # Errors
    /// [`Error::Codec`] if another codec made the codes of either side.
    pub fn score(&self, a: &Codes, b: &Codes) -> Result<Vec<f32>> {
        self.expect(a)?;
        self.expect(b)?;
        let mut scores = vec![0.0; a.rows() * b.rows()];
        if scores.is_empty() {
            return Ok(scores);
        }
        let Some((dims, planes)) = self.planes() else {
            let (width, x, y) = (self.width(), self.decode_rows(a.bytes()), self.decode_rows(b.bytes()));
            matmul_nt_f32(Dims { m: a.rows(), k: width, n: b.rows() }, &x, &y, &mut scores);
            return Ok(scores);
        };
        let laid = BitPlanes::new(b.bytes(), b.rows(), planes, dims);
        let (of_a, of_b) = (reciprocal_norms(a.bytes(), dims, planes), reciprocal_norms(b.bytes(), dims, planes));
        scores.par_chunks_mut(b.rows()).enumerate().for_each(|(i, scores)| {
            let mut dots = vec![0; b.rows()];
            laid.dots(a.row(i), 0, &mut dots);
            for ((score, dot), of_b) in scores.iter_mut().zip(dots).zip(&of_b) {
                *score = dot as f32 * of_b * of_a[i];
            }
        });
        Ok(scores)
    }

    /// The name of this codec by what it does: BLAKE3 of its kind, sizes and numbers.
    ///
    /// # Cost
    /// One pass over its numbers; under a millisecond.
    pub fn digest(&self) -> Digest {
        let parts = self.parts();
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.kind().as_bytes());
        hasher.update(&(self.width() as u64).to_le_bytes());
        for (_, size) in &parts.sizes {
            hasher.update(&(*size as u64).to_le_bytes());
        }
        for (name, numbers) in &parts.tensors {
            hasher.update(name.as_bytes());
            hasher.update(&(numbers.len() as u64).to_le_bytes());
            hasher.update(&numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        }
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }

    pub(crate) fn expect(&self, codes: &Codes) -> Result<()> {
        let codec = self.digest();
        if codes.codec() == codec { Ok(()) } else { Err(Error::Codec { codes: codes.codec(), codec }) }
    }
}

/// One over the length of each packed row, in units of its lightest plane.
pub(crate) fn reciprocal_norms(bytes: &[u8], dims: usize, planes: usize) -> Vec<f32> {
    bits::squares(bytes, dims, planes).into_iter().map(|square| (1.0 / f64::from(square).sqrt()) as f32).collect()
}
