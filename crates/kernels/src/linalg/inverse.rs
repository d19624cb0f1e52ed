//! The triangular factor of the inverse of what was seen.

use super::parts;
use super::svd::Real;
use crate::error::Error;
use crate::gram::Gram;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::prelude::{Reborrow, ReborrowMut};
use faer::{Accum, Mat, MatMut, Par};
use rayon::prelude::*;

/// The largest matrix that is factored in single precision.
const SINGLE: usize = 16384;
/// The largest triangle that is inverted entry by entry.
const SMALL: usize = 32;
/// Rows that are multiplied by an inverted triangle at once.
const STRIP: usize = 128;

/// The upper triangular `U` with `(H + damp I)⁻¹ = Uᵀ U`, where `H` is a Gram matrix with its inputs in some order.
///
/// With `J` the reversal of rows, `J (H + damp I) J = L Lᵀ` gives `U = J L⁻¹ J`: one Cholesky factorization and
/// the inversion of a triangle, both in place, and the inverse of `H` is never formed.
#[derive(Debug, Clone, PartialEq)]
pub struct InverseFactor {
    order: Vec<u32>,
    damp: f64,
    alone: bool,
    /// `U` column by column, with zeros below its diagonal.
    u: Vec<f32>,
}

impl InverseFactor {
    /// Factors `gram`, with input `order[j]` in place `j` (in natural order without one), after `damp` times the mean
    /// of its diagonal is added to the diagonal.
    ///
    /// An input that was always zero says nothing and is tied to no other: it gets the damping alone, or one if
    /// there is none.
    ///
    /// # Errors
    /// [`Error::NotPositive`] if `H + damp I` is not positive definite in the precision that is worked in (double
    /// above 16384 inputs), or not finite.
    ///
    /// # Cost
    /// `2 n³ / 3` operations, and twice the bytes of the factor.
    pub fn new(gram: &Gram, order: Option<&[u32]>, damp: f64) -> Result<Self, Error> {
        let n = gram.size();
        let order = order.map_or_else(|| (0..n as u32).collect(), <[u32]>::to_vec);
        let backwards: Vec<u32> = order.iter().rev().copied().collect();
        let diagonal = gram.diagonal();
        let add = damp * diagonal.iter().sum::<f64>() / n.max(1) as f64;
        let diagonal = backwards.iter().map(|&input| match (diagonal[input as usize], add) {
            (0.0, 0.0) => 1.0,
            (x, add) => x + add,
        });
        let u = if n <= SINGLE {
            let mut h = vec![0.0f32; n * n];
            gram.ordered_f32(&backwards, &mut h);
            invert(&mut h, n, diagonal)?;
            h.reverse();
            h
        } else {
            let mut h = vec![0.0f64; n * n];
            gram.ordered_f64(&backwards, &mut h);
            invert(&mut h, n, diagonal)?;
            h.into_par_iter().rev().map(|x| x as f32).collect()
        };
        let mut factor = InverseFactor { order, damp, alone: false, u };
        if n > 0 {
            factor.u.par_chunks_mut(n).enumerate().for_each(|(j, column)| column[j + 1..].fill(0.0));
        }
        Ok(factor)
    }

    /// The factor of inputs that have nothing to do with each other: each weight stands alone.
    pub fn identity(n: usize) -> Self {
        let mut u = vec![0.0; n * n];
        u.iter_mut().step_by(n + 1).for_each(|x| *x = 1.0);
        InverseFactor { order: (0..n as u32).collect(), damp: 0.0, alone: true, u }
    }

    /// Whether it was made as [`InverseFactor::identity`].
    pub(crate) fn is_identity(&self) -> bool {
        self.alone
    }

    /// Rows and columns.
    pub fn size(&self) -> usize {
        self.order.len()
    }

    /// The input in each place.
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    /// The multiple of the mean of the diagonal that was added to it.
    pub fn damp(&self) -> f64 {
        self.damp
    }

    /// `U` column by column, `[n, n]`: entry `(i, j)` is at `j * n + i`.
    pub fn columns(&self) -> &[f32] {
        &self.u
    }

    /// Memory that a factor of this size takes.
    pub fn bytes(n: usize) -> u64 {
        4 * (n * n) as u64
    }

    /// Memory that is held while a factor of this size is worked out, the factor included.
    pub fn peak_bytes(n: usize) -> u64 {
        Self::bytes(n) * if n <= SINGLE { 1 } else { 3 }
    }
}

/// Puts `L⁻¹` in place of the symmetric `h`, column by column, where `h` with this diagonal is `L Lᵀ`. What is above
/// the diagonal is left as it is.
fn invert<T: Real>(h: &mut [T], n: usize, diagonal: impl Iterator<Item = f64>) -> Result<(), Error> {
    diagonal.enumerate().for_each(|(i, x)| h[i * n + i] = T::narrow(x));
    let mut h = MatMut::from_column_major_slice_mut(h, n, n);
    let room = cholesky_in_place_scratch::<T>(n, parts(), Default::default());
    let mut room = MemBuffer::new(room);
    let done = cholesky_in_place(h.rb_mut(), Default::default(), parts(), MemStack::new(&mut room), Default::default());
    let positive = (0..n).all(|i| h[(i, i)].wide() > 0.0 && h[(i, i)].wide().is_finite());
    if done.is_err() || !positive {
        return Err(Error::NotPositive { size: n });
    }
    invert_lower(h);
    Ok(())
}

/// Inverts a lower triangle in place: `[A 0; B C]⁻¹ = [A⁻¹ 0; -C⁻¹ B A⁻¹ C⁻¹]`.
fn invert_lower<T: Real>(mut l: MatMut<'_, T>) {
    let n = l.nrows();
    if n <= SMALL {
        return invert_small(l);
    }
    let half = (n / 2).next_multiple_of(SMALL);
    let (mut a, _, mut b, c) = l.rb_mut().split_at_mut(half, half);
    solve_lower_triangular_in_place(c.rb(), b.rb_mut(), parts());
    rayon::join(|| invert_lower(a.rb_mut()), || invert_lower(c));
    let a = a.rb();
    let strips = b.nrows().div_ceil(STRIP);
    b.par_row_partition_mut(strips).for_each(|mut strip| {
        let before: Mat<T> = strip.to_owned();
        matmul(
            strip.rb_mut(),
            BlockStructure::Rectangular,
            Accum::Replace,
            before.as_ref(),
            BlockStructure::Rectangular,
            a,
            BlockStructure::TriangularLower,
            T::narrow(-1.0),
            Par::Seq,
        );
    });
}

fn invert_small<T: Real>(mut l: MatMut<'_, T>) {
    let n = l.nrows();
    for j in 0..n {
        l[(j, j)] = T::narrow(1.0 / l[(j, j)].wide());
        for i in j + 1..n {
            let sum: f64 = (j..i).map(|k| l[(i, k)].wide() * l[(k, j)].wide()).sum();
            l[(i, j)] = T::narrow(-sum / l[(i, i)].wide());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::testing::{gram, numbers};

    /// The largest difference of `Uᵀ U (H + damp I)` from the identity.
    fn off(h: &[f64], f: &InverseFactor) -> f64 {
        let n = f.size();
        let mean = (0..n).map(|i| h[i * n + i]).sum::<f64>() / n as f64;
        let k = |i: usize, j: usize| {
            let (a, b) = (f.order()[i] as usize, f.order()[j] as usize);
            h[a * n + b] + if i == j { f.damp() * mean } else { 0.0 }
        };
        let u = |i: usize, j: usize| f64::from(f.columns()[j * n + i]);
        let mut worst = 0.0f64;
        for column in 0..n {
            let uk: Vec<f64> = (0..n).map(|i| (i..n).map(|j| u(i, j) * k(j, column)).sum()).collect();
            for row in 0..n {
                let x: f64 = (0..=row).map(|i| u(i, row) * uk[i]).sum();
                worst = worst.max((x - if row == column { 1.0 } else { 0.0 }).abs());
            }
        }
        worst
    }

    #[test]
    fn the_factor_is_that_of_the_inverse_in_every_order_and_size() {
        for n in [1, 2, 31, 33, 65, 200] {
            let gram = gram(2 * n + 3, n, 7);
            let order: Vec<u32> = (0..n).map(|i| ((i * 7 + 3) % n) as u32).collect();
            let is_order = n % 7 != 0;
            for order in [None, is_order.then_some(&order[..])] {
                let factor = InverseFactor::new(&gram, order, 0.1).unwrap();
                assert!(off(&gram.to_f64(), &factor) < 2e-4, "{n}: {}", off(&gram.to_f64(), &factor));
                assert!((0..n).all(|j| factor.columns()[j * n + j + 1..(j + 1) * n].iter().all(|&x| x == 0.0)));
            }
        }
    }

    #[test]
    fn double_precision_inverts_the_same_way() {
        let n = 150;
        let gram = gram(400, n, 3);
        let mut h = gram.to_f64();
        invert(&mut h, n, gram.diagonal().into_iter()).unwrap();
        h.reverse();
        let u: Vec<f32> = h.iter().map(|&x| x as f32).collect();
        let order: Vec<u32> = (0..n as u32).rev().collect();
        // Nothing was reversed before, so this is the factor of the reversed matrix.
        let factor = InverseFactor::new(&gram, Some(&order), 0.0).unwrap();
        for j in 0..n {
            for i in 0..=j {
                let (a, b) = (u[j * n + i], factor.columns()[j * n + i]);
                assert!((a - b).abs() < 1e-3 * u[j * n + j], "{i} {j}: {a} {b}");
            }
        }
    }

    #[test]
    fn inputs_that_are_always_zero_stand_alone() {
        let mut x = numbers(40 * 5, 1);
        x.iter_mut().skip(2).step_by(5).for_each(|x| *x = 0.0);
        let mut gram = Gram::new(5);
        gram.add(40, crate::matmul::Rows::F32(&x), crate::ops::Compute::F32);
        let factor = InverseFactor::new(&gram, None, 0.0).unwrap();
        assert_eq!(factor.columns()[2 * 5..3 * 5], [0.0, 0.0, 1.0, 0.0, 0.0]);
        let nothing = InverseFactor::new(&Gram::new(2), None, 0.3).unwrap();
        assert_eq!(nothing.columns(), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(InverseFactor::new(&Gram::new(0), None, 0.3).unwrap().size(), 0);
    }

    #[test]
    fn what_is_not_positive_is_refused() {
        let singular = gram(3, 8, 1);
        let refused = InverseFactor::new(&singular, None, -1.0).unwrap_err();
        assert_eq!(refused, Error::NotPositive { size: 8 });
        assert!(InverseFactor::new(&singular, None, 0.01).is_ok());
        let mut infinite = Gram::new(2);
        infinite.add(1, crate::matmul::Rows::F32(&[f32::NAN, 1.0]), crate::ops::Compute::F32);
        assert_eq!(InverseFactor::new(&infinite, None, 0.1).unwrap_err(), Error::NotPositive { size: 2 });
    }
}
