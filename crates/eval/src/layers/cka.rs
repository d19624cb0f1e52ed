//! Centred kernel alignment with linear kernels, debiased.

use brevity_kernels::linalg::matmul_f64;
use brevity_kernels::matmul::Dims;

use crate::stats::Estimate;

/// The unbiased Hilbert-Schmidt independence criterion of one batch: of the first side with the second, and of each
/// with itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hsic {
    both: f64,
    first: f64,
    second: f64,
}

impl Hsic {
    /// Of `rows` rows of two matrices that may differ in width. None if there are fewer than four.
    pub(super) fn of(first: &[f32], second: &[f32], rows: usize) -> Option<Hsic> {
        if rows < 4 {
            return None;
        }
        let (k, l) = (kernel(first, rows), kernel(second, rows));
        Some(Hsic { both: hsic(&k, &l, rows), first: hsic(&k, &k, rows), second: hsic(&l, &l, rows) })
    }
}

/// `Σ HSIC(K, L) / sqrt(Σ HSIC(K, K) Σ HSIC(L, L))` over batches; its error is the jackknife's, one batch left out.
///
/// None if there are no batches, or states that do not vary.
pub(super) fn alignment(batches: &[Hsic]) -> Option<Estimate> {
    let add = |a: Hsic, b: &Hsic, sign: f64| Hsic {
        both: a.both + sign * b.both,
        first: a.first + sign * b.first,
        second: a.second + sign * b.second,
    };
    let none = Hsic { both: 0.0, first: 0.0, second: 0.0 };
    let all = batches.iter().fold(none, |sum, batch| add(sum, batch, 1.0));
    let of = |h: Hsic| (h.first > 0.0 && h.second > 0.0).then(|| h.both / (h.first.sqrt() * h.second.sqrt()));
    let value = of(all)?;
    let n = batches.len() as f64;
    let without: Option<Vec<f64>> = batches.iter().map(|batch| of(add(all, batch, -1.0))).collect();
    let error = without.filter(|without| without.len() > 1).map(|without| {
        let mean = without.iter().sum::<f64>() / n;
        ((n - 1.0) / n * without.iter().map(|x| (x - mean).powi(2)).sum::<f64>()).sqrt()
    });
    Some(Estimate { value, error })
}

/// Inner products of all pairs of rows, `[rows, rows]`, with zeros on the diagonal. Columns are centred first, which
/// changes nothing but rounding.
fn kernel(matrix: &[f32], rows: usize) -> Vec<f64> {
    let width = matrix.len() / rows;
    let mut mean = vec![0.0; width];
    for row in matrix.chunks_exact(width.max(1)) {
        mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x) / rows as f64);
    }
    let centred: Vec<f64> = matrix.iter().enumerate().map(|(at, &x)| f64::from(x) - mean[at % width]).collect();
    let turned: Vec<f64> = (0..matrix.len()).map(|at| centred[at % rows * width + at / rows]).collect();
    let mut products = matmul_f64(Dims { m: rows, k: width, n: rows }, &centred, &turned);
    (0..rows).for_each(|i| products[i * rows + i] = 0.0);
    products
}

/// `(tr(KL) + 1ᵀK1 1ᵀL1 / ((n - 1)(n - 2)) - 2 / (n - 2) 1ᵀKL1) / (n (n - 3))` for kernels with zero diagonals.
fn hsic(k: &[f64], l: &[f64], rows: usize) -> f64 {
    let n = rows as f64;
    let sums = |m: &[f64]| -> Vec<f64> { m.chunks_exact(rows).map(|row| row.iter().sum()).collect() };
    let (of_k, of_l) = (sums(k), sums(l));
    let trace: f64 = k.iter().zip(l).map(|(k, l)| k * l).sum(); // both are symmetric
    let between: f64 = of_k.iter().zip(&of_l).map(|(k, l)| k * l).sum();
    let all = of_k.iter().sum::<f64>() * of_l.iter().sum::<f64>();
    (trace + all / ((n - 1.0) * (n - 2.0)) - 2.0 / (n - 2.0) * between) / (n * (n - 3.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let uniform = |state: &mut u64| {
            *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (*state >> 33) as f32 / (1u64 << 31) as f32 - 0.5
        };
        (0..count).map(|_| (0..4).map(|_| uniform(&mut state)).sum()).collect()
    }

    fn cka(first: &[f32], second: &[f32], rows: usize) -> f64 {
        alignment(&[Hsic::of(first, second, rows).unwrap()]).unwrap().value
    }

    #[test]
    fn a_rotation_a_factor_and_a_shift_align_fully() {
        let x = noise(20 * 2, 1);
        let turned: Vec<f32> = x
            .chunks(2)
            .flat_map(|p| [3.0 * (0.6 * p[0] - 0.8 * p[1]) + 7.0, 3.0 * (0.8 * p[0] + 0.6 * p[1])])
            .collect();
        assert!((cka(&x, &turned, 20) - 1.0).abs() < 1e-6);
        // Wider, with columns of zeros.
        let wider: Vec<f32> = x.chunks(2).flat_map(|p| [p[1], 0.0, p[0]]).collect();
        assert!((cka(&x, &wider, 20) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn unrelated_states_align_by_chance_around_zero() {
        // More columns than rows: without debiasing this would be near one.
        let batches: Vec<Hsic> =
            (0..50).map(|n| Hsic::of(&noise(32 * 64, 2 * n + 1), &noise(32 * 64, 2 * n + 2), 32).unwrap()).collect();
        let found = alignment(&batches).unwrap();
        assert!(found.value.abs() < 4.0 * found.error.unwrap() && found.value.abs() < 0.1, "{found:?}");
    }

    #[test]
    fn the_estimator_is_the_mean_over_all_quadruples() {
        // Song et al. 2012, equation 4: the kernel of the U-statistic, averaged over distinct i, j, q, r.
        let (rows, x, y) = (6, noise(6 * 3, 5), noise(6 * 2, 6));
        let (k, l) = (kernel(&x, rows), kernel(&y, rows));
        let (mut sum, mut count) = (0.0, 0.0);
        for (i, j, q, r) in (0..rows.pow(4)).map(|n| (n % 6, n / 6 % 6, n / 36 % 6, n / 216)) {
            if i != j && i != q && i != r && j != q && j != r && q != r {
                let l = |a: usize, b: usize| l[a * rows + b];
                sum += k[i * rows + j] * (l(i, j) + l(q, r) - 2.0 * l(i, q));
                count += 1.0;
            }
        }
        assert!((hsic(&k, &l, rows) - sum / count).abs() < 1e-12);
        assert_eq!(Hsic::of(&x[..9], &y[..6], 3), None);
    }
}
