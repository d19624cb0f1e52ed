//! The directions in which the outputs of a matrix matter, and the two thin factors that keep the first of them.
//!
//! All low-rank methods here are one projection. With `R Rᵀ` what a method takes for the second moments of the inputs,
//! and `u_1, u_2, …` the left singular vectors of `W R`, the matrix of rank `r` closest to `W` in that sense is
//! `U_r U_rᵀ W`: no inverse of `R` is needed, so inputs that were never seen, or always together, do no harm.

use std::sync::Arc;

use brevity_kernels::Error as Refusal;
use brevity_kernels::linalg::{self, Eigen, eigen_f64, matmul_f64, svd_f32, svd_f64};
use brevity_kernels::matmul::Dims;
use brevity_model::Site;

use crate::error::{Error, Result};
use crate::seen::{Both, KEEP, Seen};

/// The smaller side up to which matrices are decomposed in double precision.
const DOUBLE: usize = 1024;

/// What is added to the mean square of each input, in means of them: inputs that were never seen are ordered by weight,
/// those that were do not notice.
const TIE: f64 = 1e-9;

/// What is taken for the second moments of the inputs.
pub(crate) enum Metric<'a> {
    /// All inputs are alike, and independent.
    Plain,
    /// They are independent, and of these sizes.
    Sizes(Vec<f64>),
    /// As they were seen.
    Moments(Moments<'a>),
}

/// What was seen of the inputs of a layer.
pub(crate) struct Moments<'a> {
    seen: &'a Seen,
    gram: Both<'a>,
    count: f64,
    /// The mean, where what is constant does not count.
    pub mean: Option<Vec<f64>>,
}

/// Directions of outputs, those that matter most first.
pub(crate) struct Directions {
    /// Orthonormal vectors as rows, `[directions, out]`.
    rows: Vec<f64>,
    /// The squared error that leaving out each of them makes.
    pub errors: Vec<f64>,
}

impl<'a> Metric<'a> {
    /// The second moments of the inputs of a layer, or their covariance where they are `centred`. Inputs that were
    /// always zero are no metric: then all are alike, and the notes say so.
    ///
    /// # Errors
    /// [`Error::Unseen`] if they were not looked at, [`Error::Inputs`] if they are not finite.
    pub fn moments(
        method: &'static str,
        site: &Site,
        seen: &'a Seen,
        centred: bool,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let unseen = || Error::Unseen { method, site: site.clone(), what: "its inputs" };
        let gram = seen.gram().ok_or_else(unseen)?;
        let diagonal = gram.diagonal();
        check_finite(method, site, &diagonal)?;
        let count = seen.fit.count + seen.held_out.count;
        if diagonal.iter().all(|&x| x == 0.0) {
            notes.push(ZEROS.into());
            return Ok(Metric::Plain);
        }
        if count < gram.size() as u64 {
            let inputs = gram.size();
            notes.push(format!("only {count} samples were seen of {inputs} inputs; more would serve it better"));
        }
        let mean = if centred { Some(seen.mean(|fold| &fold.sum).ok_or_else(unseen)?) } else { None };
        Ok(Metric::Moments(Moments { seen, gram, count: count as f64, mean }))
    }

    /// The sizes of inputs that stand alone.
    ///
    /// # Errors
    /// [`Error::Inputs`] if they are not finite.
    pub fn sizes(method: &'static str, site: &Site, sizes: Vec<f64>, notes: &mut Vec<String>) -> Result<Self> {
        check_finite(method, site, &sizes)?;
        if sizes.iter().all(|&x| x == 0.0) {
            notes.push(ZEROS.into());
            return Ok(Metric::Plain);
        }
        Ok(Metric::Sizes(sizes))
    }

    /// The directions of a weight `[out, in]`; if only so many are needed, no fewer than these.
    pub fn directions(
        &self,
        w: &[f32],
        shape: [usize; 2],
        needed: Option<usize>,
        seed: u64,
    ) -> Result<Directions, Refusal> {
        let [m, n] = shape;
        match self {
            Metric::Plain => of_matrix(w, shape, needed, seed),
            Metric::Sizes(sizes) => {
                let scaled: Vec<f32> =
                    w.iter().enumerate().map(|(at, &w)| (f64::from(w) * sizes[at % n]) as f32).collect();
                of_matrix(&scaled, shape, needed, seed)
            }
            Metric::Moments(moments) if m <= n => {
                let (w, h) = (wide(w), moments.matrix());
                let half = matmul_f64(Dims { m, k: n, n }, &w, &h);
                drop(h);
                let outputs = matmul_f64(Dims { m, k: n, n: m }, &half, &transposed(&w, n));
                Ok(of_eigen(eigen_f64(&outputs, m)?))
            }
            Metric::Moments(moments) => {
                let root = moments.root()?;
                let image = matmul_f64(Dims { m, k: n, n }, &wide(w), &root);
                let svd = svd_f64(&image, shape)?;
                Ok(Directions { rows: transposed(&svd.u, svd.s.len()), errors: svd.s.iter().map(|s| s * s).collect() })
            }
        }
    }
}

/// Why nothing but weights counts.
const ZEROS: &str = "its inputs were always zero, so that its weights alone decide";

fn check_finite(method: &'static str, site: &Site, of_inputs: &[f64]) -> Result<()> {
    match of_inputs.iter().filter(|x| !x.is_finite()).count() {
        0 => Ok(()),
        count => Err(Error::Inputs { method, site: site.clone(), leaf: String::new(), count, inputs: of_inputs.len() }),
    }
}

impl Moments<'_> {
    /// `Σ x xᵀ / T`, or the covariance, `[in, in]`, with a little more on the diagonal.
    fn matrix(&self) -> Vec<f64> {
        let n = self.gram.size();
        let mut h = self.gram.to_f64();
        let tie = TIE * self.gram.trace() / self.count / n as f64;
        for (i, row) in h.chunks_mut(n).enumerate() {
            row.iter_mut().for_each(|h| *h /= self.count);
            if let Some(mean) = &self.mean {
                row.iter_mut().zip(mean).for_each(|(h, x)| *h -= mean[i] * x);
            }
            row[i] += tie;
        }
        h
    }

    /// An `R` with `R Rᵀ` the matrix. Layers that read the same activations share it.
    fn root(&self) -> Result<Arc<Vec<f64>>, Refusal> {
        let n = self.gram.size();
        let make = || {
            let Eigen { values, vectors } = eigen_f64(&self.matrix(), n)?;
            let mut root = transposed(&vectors, n);
            // What is below zero is rounding.
            let roots: Vec<f64> = values.iter().map(|&x| x.max(0.0).sqrt()).collect();
            root.chunks_mut(n).for_each(|row| row.iter_mut().zip(&roots).for_each(|(x, root)| *x *= root));
            Ok::<_, Refusal>(root)
        };
        if n > KEEP {
            return make().map(Arc::new);
        }
        let of = if self.mean.is_some() { "covariance" } else { "second moments" };
        self.seen.shared.get(&format!("root of {of}"), make)
    }
}

/// The left singular vectors of a matrix.
fn of_matrix(w: &[f32], shape @ [m, _]: [usize; 2], needed: Option<usize>, seed: u64) -> Result<Directions, Refusal> {
    let full = m.min(shape[1]);
    if full <= DOUBLE {
        let svd = svd_f64(&wide(w), shape)?;
        return Ok(Directions { rows: transposed(&svd.u, svd.s.len()), errors: svd.s.iter().map(|s| s * s).collect() });
    }
    let svd = match needed {
        Some(rank) if rank <= full / 4 => linalg::randomized_svd_f32(w, shape, rank, seed)?,
        _ => svd_f32(w, shape)?,
    };
    let errors = svd.s.iter().map(|&s| f64::from(s).powi(2)).collect();
    Ok(Directions { rows: transposed(&wide(&svd.u), svd.s.len()), errors })
}

fn of_eigen(eigen: Eigen) -> Directions {
    // What is below zero is rounding.
    Directions { rows: eigen.vectors, errors: eigen.values.into_iter().map(|x| x.max(0.0)).collect() }
}

impl Directions {
    /// `U_r` `[out, r]` and `U_rᵀ W` `[r, in]`, each column of the one as long as the row of the other that it meets, so
    /// that both can be coded alike.
    pub fn factors(&self, w: &[f32], [m, n]: [usize; 2], rank: usize) -> (Vec<f32>, Vec<f32>) {
        let rows = &self.rows[..rank * m];
        let b = matmul_f64(Dims { m: rank, k: m, n }, rows, &wide(w));
        let scale = |row: &[f64]| match row.iter().map(|b| b * b).sum::<f64>().powf(0.25) {
            scale if scale > 0.0 => scale,
            _ => 1.0,
        };
        let scales: Vec<f64> = b.chunks(n).map(scale).collect();
        let left = (0..m * rank).map(|at| (rows[at % rank * m + at / rank] * scales[at % rank]) as f32).collect();
        let right = b.iter().enumerate().map(|(at, b)| (b / scales[at / n]) as f32).collect();
        (left, right)
    }
}

/// Memory that directions and factors take at most, beside the weight and what was seen, which may be moments.
pub(crate) fn peak_bytes([m, n]: [usize; 2], moments: bool) -> u64 {
    let (m, n) = (m as u64, n as u64);
    let (full, all) = (m.min(n), m * n);
    let width = if !moments && full > DOUBLE as u64 { 4 } else { 8 };
    // The matrix as singles, and as what is decomposed; its copy in the solver; vectors in column and in row order, on
    // both sides, with the solver's square workspaces; then the factors, first as doubles.
    let plain = all * (4 + 2 * width) + width * (2 * full * (m + n) + 6 * full * full) + 20 * full * (m + n);
    // The moments and their root, with the solver's workspaces; outputs, twice.
    if moments { plain + 8 * (7 * n * n + 3 * all) } else { plain }
}

fn wide(w: &[f32]) -> Vec<f64> {
    w.iter().map(|&w| f64::from(w)).collect()
}

/// The columns of a matrix as rows.
fn transposed(a: &[f64], columns: usize) -> Vec<f64> {
    let rows = a.len() / columns.max(1);
    (0..a.len()).map(|at| a[at % rows * columns + at / rows]).collect()
}

#[cfg(test)]
mod tests;
