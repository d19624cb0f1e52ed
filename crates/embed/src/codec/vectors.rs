//! Vectors that are known to be whole and finite, and random choices among them.

use rayon::prelude::*;

use crate::codec::error::{Error, Result};
use crate::random::{Random, drawn};

/// Vectors of one width, all of whose numbers are finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vectors<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Vectors<'a> {
    /// Looks at every number once.
    ///
    /// # Shapes
    /// `values` is `[rows, width]`, row-major; no rows are fine.
    ///
    /// # Errors
    /// [`Error::Ragged`] if it is not; [`Error::NotFinite`] with the first row that holds NaN or infinity.
    pub fn new(values: &'a [f32], width: usize) -> Result<Self> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(Error::Ragged { values: values.len(), width });
        }
        match values.par_iter().position_first(|value| !value.is_finite()) {
            Some(at) => Err(Error::NotFinite { row: at / width, dimension: at % width, value: values[at] }),
            None => Ok(Vectors { values, width }),
        }
    }

    /// The numbers, `[rows, width]`.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// The numbers of one vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many vectors there are.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// The vector `row`.
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.width..][..self.width]
    }

    pub(super) fn expect_width(&self, expected: usize) -> Result<()> {
        if self.width == expected { Ok(()) } else { Err(Error::Width { expected, found: self.width }) }
    }

    /// At most `most` of the vectors, drawn without putting back, in their order.
    pub(super) fn sample(&self, most: usize, random: &mut Random) -> Vec<f32> {
        let rows = self.rows();
        if rows <= most {
            return self.values.to_vec();
        }
        let mut order = drawn(random, rows, most);
        order.sort_unstable();
        order.iter().flat_map(|&row| self.row(row)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::rand_core::SeedableRng;

    #[test]
    fn vectors_with_nan_name_the_row() {
        let error = Vectors::new(&[0.0, 1.0, 2.0, f32::NAN], 2).unwrap_err();
        assert_eq!(error.to_string(), "vector 1 holds NaN in dimension 1");
        assert_eq!(error.hint().unwrap(), "leave out or embed again text 1, counted from zero");
        assert!(Vectors::new(&[f32::INFINITY], 1).is_err());
    }

    #[test]
    fn numbers_that_are_no_whole_vectors_are_refused() {
        let error = Vectors::new(&[0.0; 5], 2).unwrap_err();
        assert_eq!(error.to_string(), "5 numbers are not whole vectors of 2");
        assert!(Vectors::new(&[], 0).is_err());
        assert_eq!(Vectors::new(&[], 3).unwrap().rows(), 0);
    }

    #[test]
    fn samples_are_distinct_vectors_in_order() {
        let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let sample = Vectors::new(&values, 1).unwrap().sample(30, &mut Random::seed_from_u64(5));
        assert_eq!(sample.len(), 30);
        assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Vectors::new(&values, 1).unwrap().sample(100, &mut Random::seed_from_u64(5)), values);
    }
}
