//! Sign bits: one bit for each dimension or axis, whether the number there is positive.

use super::axes::{Axes, Turn, fit_scale};
use super::bits;
use super::vectors::Vectors;
use crate::codec::error::{Error, Result};
use crate::random::Random;

/// Signs of the dimensions of vectors, or of their projections on other axes.
///
/// Scores are cosines of codes, `(dims - 2 h) / dims` with `h` bits that differ. Without axes the bytes are those of
/// the precision `ubinary` of sentence-transformers.
///
/// # Source
/// Charikar 2002 for random axes; Gong and Lazebnik 2011 for fitted ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Sign {
    pub(super) width: usize,
    pub(super) axes: Option<Axes>,
    /// What one bit stands for when it is decoded.
    pub(super) scale: f32,
}

impl Sign {
    pub(super) fn fit(
        sample: &[f32],
        width: usize,
        dims: usize,
        turn: Turn,
        centre: bool,
        random: &mut Random,
    ) -> Result<Self> {
        let (axes, scale) = fit(sample, width, dims, 1, turn, centre, random)?;
        Ok(Sign { width, axes, scale })
    }

    /// Bits of a code.
    pub fn dims(&self) -> usize {
        self.axes.as_ref().map_or(self.width, Axes::dims)
    }

    pub(super) fn encode(&self, vectors: Vectors<'_>) -> Vec<u8> {
        encode(&self.axes, self.scale, 1, vectors)
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        decode(&self.axes, self.scale, 1, self.dims(), bytes)
    }
}

/// Axes and scale for codes of `planes` bits.
pub(super) fn fit(
    sample: &[f32],
    width: usize,
    dims: usize,
    planes: usize,
    turn: Turn,
    centre: bool,
    random: &mut Random,
) -> Result<(Option<Axes>, f32)> {
    if dims == 0 || (turn == Turn::None && dims != width) {
        let low = if turn == Turn::None { width } else { 1 };
        let high = if turn == Turn::None { width } else { MOST_DIMS };
        return Err(Error::Setting { what: "dimensions of codes", found: dims, low, high });
    }
    if dims > MOST_DIMS {
        return Err(Error::Setting { what: "dimensions of codes", found: dims, low: 1, high: MOST_DIMS });
    }
    match turn {
        Turn::None => Ok((None, settled(sample, planes))),
        Turn::Random => {
            let axes = Axes::random(sample, width, dims, centre, random)?;
            let scale = settled(&axes.apply(sample), planes);
            Ok((Some(axes), scale))
        }
        Turn::Learned => {
            let (axes, scale) = Axes::learned(sample, width, dims, planes, centre, random)?;
            Ok((Some(axes), scale))
        }
    }
}

/// The most numbers that bits are taken of: products of four planes of them fit 32 bits.
pub(super) const MOST_DIMS: usize = 1 << 20;

/// The scale that least squares settle at.
fn settled(numbers: &[f32], planes: usize) -> f32 {
    (0..20).fold(fit_scale(numbers, planes, None), |scale, _| fit_scale(numbers, planes, Some(scale)))
}

pub(super) fn encode(axes: &Option<Axes>, scale: f32, planes: usize, vectors: Vectors<'_>) -> Vec<u8> {
    match axes {
        None => bits::pack(vectors.values(), vectors.width(), planes, scale),
        Some(axes) => bits::pack(&axes.apply(vectors.values()), axes.dims(), planes, scale),
    }
}

pub(super) fn decode(axes: &Option<Axes>, scale: f32, planes: usize, dims: usize, bytes: &[u8]) -> Vec<f32> {
    let numbers = bits::unpack(bytes, dims, planes, scale);
    match axes {
        None => numbers,
        Some(axes) => axes.back(&numbers),
    }
}
