//! Recurrent binarization: the sign, then the sign of what is left, and so on; a few bits for each axis.

use super::axes::{Axes, Turn};
use super::sign;
use super::vectors::Vectors;
use crate::codec::error::{Error, Result};
use crate::random::Random;

/// Codes `b = Σ_t 2^-t d_t` of `u + 1` planes of signs: `d_0` is the sign of the projected vector in units of the scale,
/// each next plane the sign of what the planes before leave.
///
/// Values are odd multiples of `2^-u`, so both sides of a product are codes and it is made by counting bits, exactly.
/// Scores are cosines of codes: that product over the lengths of both. With `u = 0` these are the bits of [`Sign`].
///
/// The paper trains small networks for the projection, for going back, and for what is left, by a contrastive loss.
/// Here all of them are one linear map in closed form: fitted axes forward, their transpose back, and a scale; what is
/// made small is the squared distance of codes and projected vectors. It needs vectors alone and no pairs.
///
/// [`Sign`]: super::Sign
///
/// # Source
/// Gan et al. 2023, "Binary embedding-based retrieval at Tencent", arXiv:2302.08714, sections 3.2 and 3.4.
#[derive(Clone, Debug, PartialEq)]
pub struct Recurrent {
    pub(super) width: usize,
    pub(super) axes: Option<Axes>,
    pub(super) scale: f32,
    pub(super) planes: usize,
}

/// The most steps behind the first sign.
const MOST_STEPS: usize = brevity_kernels::popcount::PLANES - 1;

impl Recurrent {
    pub(super) fn fit(
        sample: &[f32],
        width: usize,
        dims: usize,
        steps: usize,
        turn: Turn,
        centre: bool,
        random: &mut Random,
    ) -> Result<Self> {
        if steps > MOST_STEPS {
            return Err(Error::Setting { what: "recurrent steps", found: steps, low: 0, high: MOST_STEPS });
        }
        let (axes, scale) = sign::fit(sample, width, dims, steps + 1, turn, centre, random)?;
        Ok(Recurrent { width, axes, scale, planes: steps + 1 })
    }

    /// Axes of a code.
    pub fn dims(&self) -> usize {
        self.axes.as_ref().map_or(self.width, Axes::dims)
    }

    /// Bits of an axis: the steps behind the first sign, `u`, and one.
    pub fn planes(&self) -> usize {
        self.planes
    }

    pub(super) fn encode(&self, vectors: Vectors<'_>) -> Vec<u8> {
        sign::encode(&self.axes, self.scale, self.planes, vectors)
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        sign::decode(&self.axes, self.scale, self.planes, self.dims(), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Sign, bits};
    use crate::random::normals;
    use chacha20::rand_core::SeedableRng;

    const TURNS: [Turn; 3] = [Turn::None, Turn::Random, Turn::Learned];

    fn some(rows: usize) -> Vec<f32> {
        normals(&mut Random::seed_from_u64(3), rows * 24)
    }

    #[test]
    fn no_steps_equal_the_sign_hash() {
        let x = some(300);
        for turn in TURNS {
            let random = || Random::seed_from_u64(4);
            let sign = Sign::fit(&x, 24, 24, turn, true, &mut random()).unwrap();
            let recurrent = Recurrent::fit(&x, 24, 24, 0, turn, true, &mut random()).unwrap();
            let vectors = Vectors::new(&x, 24).unwrap();
            assert_eq!(recurrent.encode(vectors), sign.encode(vectors), "{turn:?}");
        }
    }

    #[test]
    fn the_first_plane_is_the_sign_along_the_same_axes() {
        let x = some(50);
        let recurrent = Recurrent::fit(&x, 24, 24, 2, Turn::Learned, true, &mut Random::seed_from_u64(4)).unwrap();
        let sign = Sign { width: 24, axes: recurrent.axes.clone(), scale: recurrent.scale };
        let vectors = Vectors::new(&x, 24).unwrap();
        let planes = recurrent.encode(vectors);
        let first: Vec<u8> = planes.chunks_exact(9).flat_map(|row| row[..3].to_vec()).collect();
        assert_eq!(first, sign.encode(vectors));
    }

    #[test]
    fn the_error_of_reconstruction_falls_with_every_step() {
        let (x, other) = (some(800), normals(&mut Random::seed_from_u64(8), 200 * 24));
        for turn in TURNS {
            let error = |steps| -> f64 {
                let mut random = Random::seed_from_u64(4);
                let codec = Recurrent::fit(&x, 24, 24, steps, turn, true, &mut random).unwrap();
                let back = codec.decode(&codec.encode(Vectors::new(&other, 24).unwrap()));
                other.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            let errors: Vec<f64> = (0..=MOST_STEPS).map(error).collect();
            assert!(errors.windows(2).all(|pair| pair[1] < 0.6 * pair[0]), "{turn:?}: {errors:?}");
        }
    }

    #[test]
    fn codes_have_positive_norms_even_of_zeros() {
        let x = some(300);
        let codec = Recurrent::fit(&x, 24, 24, 1, Turn::Learned, true, &mut Random::seed_from_u64(4)).unwrap();
        let codes = codec.encode(Vectors::new(&[0.0; 48], 24).unwrap());
        assert!(bits::squares(&codes, 24, 2).iter().all(|&square| square > 0));
    }

    #[test]
    fn five_planes_are_refused() {
        let error = Recurrent::fit(&some(9), 24, 24, 4, Turn::Random, true, &mut Random::seed_from_u64(4)).unwrap_err();
        assert_eq!(error.to_string(), "recurrent steps of 4: it can be 0 to 3");
    }
}
