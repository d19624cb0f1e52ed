//! A matrix that has lost some of its inputs, and how the others make up for them.

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::solver_f64;
use brevity_kernels::ops::Compute;
use serde::{Deserialize, Serialize};

use crate::inputs::{Auto, sample};
use crate::seen::{Fold, Seen};

/// How what is left makes up for what goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Compensate {
    None,
    Mean,
    #[default]
    LeastSquares,
}

/// How strongly least squares are damped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Ridge {
    Times(f64),
    Auto(Auto),
}

impl Default for Ridge {
    fn default() -> Self {
        Ridge::Auto(Auto::Auto)
    }
}

impl Ridge {
    pub(crate) fn is_sound(self) -> bool {
        match self {
            Ridge::Times(x) => x >= 0.0 && x.is_finite(),
            Ridge::Auto(_) => true,
        }
    }
}

/// Ridges that are tried.
const RIDGES: [f64; 6] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
/// What is taken where nothing can be chosen.
const USUAL: f64 = 1e-4;

/// How a matrix is fitted anew.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Refit {
    pub how: Compensate,
    pub ridge: Ridge,
    /// Whether a bias is fitted.
    pub centre: bool,
}

/// The matrix over the inputs that are left.
pub(crate) struct Fitted {
    /// `[out, kept]`.
    pub weight: Vec<f64>,
    /// What is added to the bias.
    pub shift: Option<Vec<f64>>,
    /// Squared error of the outputs as a share of their sum of squares, on samples that were kept apart if there are
    /// any.
    pub error: f64,
    /// The same without making up for anything.
    pub plain_error: f64,
    /// The ridge that was taken, if any.
    pub ridge: Option<f64>,
}

/// Second moments and means of inputs.
struct Sums {
    n: usize,
    count: f64,
    /// `Σ x xᵀ`, `[n, n]`.
    gram: Vec<f64>,
    /// `Σ x / count`.
    mean: Vec<f64>,
}

impl Sums {
    fn of(gram: &Gram, folds: &[&Fold]) -> Self {
        let n = gram.size();
        let count = folds.iter().map(|fold| fold.count).sum::<u64>() as f64;
        let mut mean = vec![0.0; n];
        for fold in folds {
            mean.iter_mut().zip(&fold.sum).for_each(|(mean, sum)| *mean += sum / count.max(1.0));
        }
        Sums { n, count, gram: gram.to_f64(), mean }
    }

    /// `Σ (x - m)_i (x - m)_j`, with `m` the mean if centred, else zero.
    fn at(&self, i: usize, j: usize, centre: bool) -> f64 {
        let moved = if centre { self.count * self.mean[i] * self.mean[j] } else { 0.0 };
        self.gram[i * self.n + j] - moved
    }
}

impl Refit {
    /// The matrix `w` `[out, n]` over the inputs `kept` of those that were seen. `None` if nothing was seen.
    ///
    /// With `C` the second moments of the inputs, about their mean if a bias is fitted, `Ŵ = W C[:, S] (C[S, S] + λI)⁻¹`
    /// is the least-squares optimum over all matrices on the inputs `S` at `λ = 0`. What does worse than leaving the
    /// columns as they are, on samples kept apart, is not taken.
    pub(crate) fn keep_inputs(&self, w: &[f64], seen: &Seen, kept: &[usize]) -> Option<Fitted> {
        let all = seen.gram()?;
        let n = all.size();
        let rows = w.len() / n.max(1);
        let fit = seen.fit.gram.as_ref()?;
        let held_out = seen.held_out.gram.as_ref().filter(|gram| seen.held_out.count > 0 && gram.trace() > 0.0);
        let plain: Vec<f64> = columns(w, n, kept);
        let has_means = !seen.fit.sum.is_empty();
        let centre = self.centre && has_means && self.how != Compensate::None;
        let (judge, judged) = match held_out {
            Some(gram) => (gram, &seen.held_out),
            None => (fit, &seen.fit),
        };
        let error = |w: &[f64], v: &[f64], centre: Option<&[f64]>| relative(judge, judged, w, v, n, kept, centre);
        let fit_sums = Sums::of(fit, &[&seen.fit]);
        let plain_error = error(w, &plain, None);
        match self.how {
            Compensate::None => {
                Some(Fitted { weight: plain, shift: None, error: plain_error, plain_error, ridge: None })
            }
            Compensate::Mean => {
                let sums = Sums::of(&all, &[&seen.fit, &seen.held_out]);
                let shift = has_means.then(|| shift(w, &plain, n, kept, &sums.mean));
                let error = error(w, &plain, has_means.then_some(&fit_sums.mean[..]));
                Some(Fitted { weight: plain, shift, error, plain_error, ridge: None })
            }
            Compensate::LeastSquares => {
                let mean = centre.then_some(&fit_sums.mean[..]);
                let some: Vec<f64> = sample(rows).flat_map(|row| w[row * n..(row + 1) * n].iter().copied()).collect();
                let of_ridge = |ridge: f64| {
                    let v = solve(&fit_sums, &some, kept, ridge, centre)?;
                    Some(error(&some, &v, mean))
                };
                let ridge = match self.ridge {
                    Ridge::Times(ridge) => ridge,
                    Ridge::Auto(_) if held_out.is_none() => USUAL,
                    Ridge::Auto(_) => {
                        let tried = RIDGES.iter().filter_map(|&ridge| Some((ridge, of_ridge(ridge)?)));
                        tried.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(USUAL, |(ridge, _)| ridge)
                    }
                };
                let of_fit = of_ridge(ridge);
                let some_plain = columns(&some, n, kept);
                let of_plain = error(&some, &some_plain, None);
                if of_fit.is_none_or(|error| error > of_plain) {
                    return Some(Fitted { weight: plain, shift: None, error: plain_error, plain_error, ridge: None });
                }
                let sums = Sums::of(&all, &[&seen.fit, &seen.held_out]);
                let (weight, ridge) = ladder(ridge).find_map(|r| Some((solve(&sums, w, kept, r, centre)?, r)))?;
                let shift = centre.then(|| shift(w, &weight, n, kept, &sums.mean));
                let error = error(w, &weight, centre.then_some(&sums.mean[..]));
                Some(Fitted { weight, shift, error, plain_error, ridge: Some(ridge) })
            }
        }
    }
}

/// A note where fewer tokens were seen than there are inputs.
pub(crate) fn few(seen: &Seen, inputs: usize) -> Option<String> {
    let tokens = seen.fit.count + seen.held_out.count;
    (tokens > 0 && tokens < inputs as u64)
        .then(|| format!("only {tokens} tokens were seen of {inputs} inputs; more would serve it better"))
}

/// A ridge, and ten times as much for as long as that is less than one.
fn ladder(ridge: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(ridge), |r| Some((10.0 * r).max(1e-8)).filter(|r| *r <= 1.0))
}

/// `W C[:, S] (C[S, S] + λ mean(diag) I)⁻¹`; `None` if that is not positive definite.
fn solve(sums: &Sums, w: &[f64], kept: &[usize], ridge: f64, centre: bool) -> Option<Vec<f64>> {
    let (n, k) = (sums.n, kept.len());
    let rows = w.len() / n.max(1);
    let mut a = vec![0.0; k * k];
    for (i, &p) in kept.iter().enumerate() {
        for (j, &q) in kept.iter().enumerate() {
            a[i * k + j] = sums.at(p, q, centre);
        }
    }
    let mean = (0..k).map(|i| a[i * k + i]).sum::<f64>() / k.max(1) as f64;
    if mean <= 0.0 {
        return None;
    }
    (0..k).for_each(|i| a[i * k + i] += ridge * mean);
    let solver = solver_f64(a, k).ok()?;
    let mut c = vec![0.0; n * k];
    for i in 0..n {
        for (j, &q) in kept.iter().enumerate() {
            c[i * k + j] = sums.at(i, q, centre);
        }
    }
    let mut v = brevity_kernels::linalg::matmul_f64(brevity_kernels::matmul::Dims { m: rows, k: n, n: k }, w, &c);
    solver.solve(&mut v);
    v.iter().all(|x| x.is_finite()).then_some(v)
}

/// `W mean - Ŵ mean[S]`.
fn shift(w: &[f64], v: &[f64], n: usize, kept: &[usize], mean: &[f64]) -> Vec<f64> {
    let some: Vec<f64> = kept.iter().map(|&at| mean[at]).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    w.chunks(n).zip(v.chunks(kept.len().max(1))).map(|(w, v)| dot(w, mean) - dot(v, &some)).collect()
}

/// `Σ ‖W x - Ŵ x[S] - b‖² / Σ ‖W x‖²`, with `b` that of [`shift`] for the mean of other samples, or zero.
fn relative(gram: &Gram, fold: &Fold, w: &[f64], v: &[f64], n: usize, kept: &[usize], centre: Option<&[f64]>) -> f64 {
    let rows = w.len() / n.max(1);
    let mut gone: Vec<f64> = w.to_vec();
    for (row, v) in gone.chunks_mut(n.max(1)).zip(v.chunks(kept.len().max(1))) {
        kept.iter().zip(v).for_each(|(&at, v)| row[at] -= v);
    }
    let narrow = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
    let mut error = gram.quadratic(rows, &narrow(&gone), Compute::F32);
    if let Some(mean) = centre {
        for row in gone.chunks(n.max(1)) {
            let dot = |b: &[f64]| row.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let b = dot(mean);
            error += b * (fold.count as f64 * b - 2.0 * dot(&fold.sum));
        }
    }
    let whole = gram.quadratic(rows, &narrow(w), Compute::F32);
    if whole > 0.0 { error.max(0.0) / whole } else { 0.0 }
}

/// The columns `kept` of `[rows, n]`.
pub(crate) fn columns(w: &[f64], n: usize, kept: &[usize]) -> Vec<f64> {
    w.chunks(n.max(1)).flat_map(|row| kept.iter().map(move |&at| row[at])).collect()
}

/// Ridge leverage scores `1 - λ (C + λI)⁻¹_ii`, with `λ = ridge * mean(diag C)`: how little each input can be told from
/// the others. `None` if nothing was seen.
pub(crate) fn leverage(gram: &Gram, ridge: f64) -> Option<Vec<f64>> {
    let n = gram.size();
    let mut a = gram.to_f64();
    let lambda = ridge * gram.trace() / n.max(1) as f64;
    if lambda <= 0.0 {
        return None;
    }
    (0..n).for_each(|i| a[i * n + i] += lambda);
    let solver = solver_f64(a, n).ok()?;
    let mut scores = Vec::with_capacity(n);
    // Rows of the identity, some at a time.
    const RUN: usize = 256;
    for start in (0..n).step_by(RUN) {
        let count = RUN.min(n - start);
        let mut x = vec![0.0; count * n];
        (0..count).for_each(|i| x[i * n + start + i] = 1.0);
        solver.solve(&mut x);
        scores.extend((0..count).map(|i| 1.0 - lambda * x[i * n + start + i]));
    }
    Some(scores)
}

#[cfg(test)]
mod tests;
