//! The principal components of the rows of a table, each row as often as its token was seen.

use brevity_kernels::linalg::{Eigen, eigen_f64, matmul_f64};
use brevity_kernels::matmul::Dims;
use brevity_model::Site;

use super::NAME;
use crate::error::{Error, Result};
use crate::seen::Seen;

/// Rows that are worked on at once.
const RUN: usize = 1024;

/// A table `[tokens, width]` whose rows are seen with these shares, and their components.
pub(super) struct Rows<'a> {
    table: &'a [f32],
    width: usize,
    /// The mean row, or zeros.
    mean: Vec<f64>,
    /// Orthonormal vectors as rows, `[width, width]`, with the mean squares along them, greatest first.
    components: Eigen,
}

impl<'a> Rows<'a> {
    /// Looks at a table; its mean counts apart where it is `centred`.
    ///
    /// # Errors
    /// [`Error::Unseen`] if tokens were not counted.
    pub fn new(site: &Site, table: &'a [f32], width: usize, seen: &Seen, centred: bool) -> Result<Self> {
        let shares = shares(site, seen, table.len() / width.max(1))?;
        let mut mean = vec![0.0; width];
        if centred {
            for (row, share) in table.chunks(width).zip(&shares) {
                mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += share * f64::from(x));
            }
        }
        let mut moments = vec![0.0; width * width];
        for (rows, shares) in table.chunks(RUN * width).zip(shares.chunks(RUN)) {
            let count = shares.len();
            // [width, count] times [count, width]
            let mut turned = vec![0.0; count * width];
            let mut weighted = vec![0.0; count * width];
            for (t, (row, share)) in rows.chunks(width).zip(shares).enumerate() {
                for (j, (&x, mean)) in row.iter().zip(&mean).enumerate() {
                    let x = f64::from(x) - mean;
                    turned[j * count + t] = x;
                    weighted[t * width + j] = share * x;
                }
            }
            let part = matmul_f64(Dims { m: width, k: count, n: width }, &turned, &weighted);
            moments.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        let components = eigen_f64(&moments, width).map_err(|source| {
            let (site, leaf) = (site.clone(), String::new());
            Error::Kernel { method: NAME, site, leaf, source }
        })?;
        Ok(Rows { table, width, mean, components })
    }

    /// The mean squared error that leaving out each component makes, greatest first.
    pub fn errors(&self) -> Vec<f64> {
        self.components.values.iter().map(|x| x.max(0.0)).collect()
    }

    /// `(D - μ) U_r` `[tokens, r]` and `U_rᵀ` `[r, width]`, each column of the one as long as the row of the other that it
    /// meets.
    pub fn factors(&self, rank: usize) -> (Vec<f32>, Vec<f32>) {
        let width = self.width;
        let along = &self.components.vectors[..rank * width];
        let turned: Vec<f64> = (0..width * rank).map(|at| along[at % rank * width + at / rank]).collect();
        let mut left = Vec::with_capacity(self.table.len() / width * rank);
        let mut squares = vec![0.0; rank];
        for rows in self.table.chunks(RUN * width) {
            let centred: Vec<f64> =
                rows.chunks(width).flat_map(|row| row.iter().zip(&self.mean).map(|(&x, m)| f64::from(x) - m)).collect();
            let part = matmul_f64(Dims { m: rows.len() / width, k: width, n: rank }, &centred, &turned);
            part.chunks(rank).for_each(|row| squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x));
            left.extend(part.into_iter().map(|x| x as f32));
        }
        let scales: Vec<f64> = squares.iter().map(|s| if *s > 0.0 { s.powf(0.25) } else { 1.0 }).collect();
        left.chunks_mut(rank)
            .for_each(|row| row.iter_mut().zip(&scales).for_each(|(x, scale)| *x = (f64::from(*x) / scale) as f32));
        let right = along.iter().enumerate().map(|(at, x)| (x * scales[at / width]) as f32).collect();
        (left, right)
    }
}

/// How often each token is there, as a share. Once more each, so that tokens which the samples lack count as well.
fn shares(site: &Site, seen: &Seen, tokens: usize) -> Result<Vec<f64>> {
    let unseen = || Error::Unseen { method: NAME, site: site.clone(), what: "how often each token is there" };
    let shares = seen.mean(|fold| &fold.sum).filter(|shares| shares.len() == tokens).ok_or_else(unseen)?;
    let count = (seen.fit.count + seen.held_out.count) as f64;
    Ok(shares.into_iter().map(|share| (count * share + 1.0) / (count + tokens as f64)).collect())
}

/// The mean of what a table that takes the place of another lacks, `[width]`.
pub(super) fn lost(site: &Site, then: &[f32], now: &[f32], width: usize, seen: &Seen) -> Result<Vec<f64>> {
    let mut sum = vec![0.0; width];
    let rows = then.chunks(width).zip(now.chunks(width));
    for ((then, now), share) in rows.zip(shares(site, seen, then.len() / width.max(1))?) {
        let gone = then.iter().zip(now).map(|(then, now)| f64::from(*then) - f64::from(*now));
        sum.iter_mut().zip(gone).for_each(|(sum, gone)| *sum += share * gone);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests;
