//! What the cores of a train see of the inputs of the train.
//!
//! Applied core by core, the last first, a train gives core `k` the vectors `z[j_k, b_k]`, one for each row of
//! activations, each choice of the digits `j_1 … j_{k-1}` before it and each choice of the digits `i_{k+1} … i_K` that the
//! cores behind it have made. So its inputs are linear in those of the train, and their sums follow from the sums there.

use brevity_kernels::gram::{Cross, Gram};
use brevity_kernels::linalg::matmul_f64;
use brevity_kernels::matmul::Dims;

use crate::seen::Fold;

/// The cores behind a bond, multiplied out: `[bond, outputs, inputs]`, row-major.
#[derive(Clone, Debug)]
pub(crate) struct Tail {
    bond: usize,
    outputs: usize,
    inputs: usize,
    values: Vec<f64>,
}

impl Tail {
    /// Behind the last core there is nothing.
    pub fn end() -> Self {
        Tail { bond: 1, outputs: 1, inputs: 1, values: vec![1.0] }
    }

    /// With the core before it, `[a i, j bond]`.
    pub fn behind(&self, [i, j]: [usize; 2], core: &[f32]) -> Self {
        let wide: Vec<f64> = core.iter().map(|&x| x.into()).collect();
        let a = core.len() / (i * j * self.bond);
        let d = Dims { m: a * i * j, k: self.bond, n: self.outputs * self.inputs };
        let product = matmul_f64(d, &wide, &self.values); // [a i, j, outputs, inputs]
        let values = swapped(&product, [a * i, j, self.outputs, self.inputs]);
        Tail { bond: a, outputs: i * self.outputs, inputs: j * self.inputs, values }
    }
}

/// `[a, b, c, d]` with the middle two swapped.
fn swapped(x: &[f64], [a, b, c, d]: [usize; 4]) -> Vec<f64> {
    let run = |n: usize| &x[((n / (b * c) * b + n % b) * c + n / b % c) * d..][..d];
    (0..a * b * c).flat_map(run).copied().collect()
}

/// A look at the inputs of one core.
pub(crate) struct Look<'a> {
    /// How many values the digit of the columns has that the core takes.
    pub digit: usize,
    /// The cores behind it as they were in the original's eyes.
    pub before: &'a Tail,
    /// The same as they are now.
    pub after: &'a Tail,
}

impl Look<'_> {
    /// What is seen of the inputs of the core, `digit` times the bond of them.
    ///
    /// Without `Σ x xᵀ` the sums of squares are known only where there is no core behind.
    ///
    /// # Cost
    /// `2 b d² q o (q + b)` operations in double precision for a digit of `d` values, a bond of `b`, and `o` outputs and `q`
    /// inputs behind it.
    pub fn at(&self, fold: &Fold) -> Fold {
        let inner = self.digit * self.after.inputs;
        let end = self.after.inputs == 1 && self.after.outputs == 1 && self.after.bond == 1;
        let traced = |whole: &[f64], n: usize| -> Vec<f64> {
            let mut sum = vec![0.0; inner * inner];
            for from in (0..n).step_by(inner) {
                let width = inner.min(n - from);
                for (p, out) in sum.chunks_mut(inner).take(width).enumerate() {
                    let row = &whole[(from + p) * n + from..][..width];
                    out.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
            }
            sum
        };
        let folded = |x: &[f64]| -> Vec<f64> {
            let mut sum = vec![0.0; inner];
            x.chunks(inner).for_each(|x| sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x));
            sum
        };
        let width = self.digit * self.after.bond;
        let inputs = fold.gram.as_ref().map(|gram| traced(&gram.to_f64(), gram.size()));
        let gram = inputs.as_ref().map(|x| Gram::from_f64(width, &self.through(x, self.after, self.after)));
        let drift = fold.drift.as_ref().zip(inputs.as_ref()).map(|(drift, inputs)| {
            // r' - x' = before (r - x) + (before - after) x
            let mut sum = self.through(&traced(drift.as_f64(), drift.size()), self.before, self.after);
            let moved = self.before.values.iter().zip(&self.after.values).map(|(b, a)| b - a).collect();
            let moved = Tail { values: moved, ..self.after.clone() };
            sum.iter_mut().zip(self.through(inputs, &moved, self.after)).for_each(|(a, b)| *a += b);
            Cross::from_f64(width, sum)
        });
        let sum_sq = match &gram {
            _ if fold.sum_sq.is_empty() => Vec::new(),
            Some(gram) => gram.diagonal(),
            None if end => folded(&fold.sum_sq),
            None => Vec::new(),
        };
        let sums = |x: &[f64], tail: &Tail| if x.is_empty() { Vec::new() } else { self.sums(&folded(x), tail) };
        // Each row of activations becomes one vector for each digit before and each output behind.
        let n = fold.gram.as_ref().map_or(fold.sum.len().max(fold.sum_sq.len()), Gram::size);
        Fold {
            count: fold.count * (n.div_ceil(inner) * self.after.outputs) as u64,
            sum: sums(&fold.sum, self.after),
            sum_abs: Vec::new(),
            reference_sum: sums(&fold.reference_sum, self.before),
            sum_sq,
            gram,
            drift,
            ..Fold::default()
        }
    }

    /// `Σ left[b, o, p] T[(d, p), (d', p')] right[b', o, p']` as `[(d, b), (d', b')]`, for `T` over this digit and the
    /// inputs behind it.
    fn through(&self, t: &[f64], left: &Tail, right: &Tail) -> Vec<f64> {
        let Tail { bond, outputs, inputs, .. } = *left;
        let (digit, inner) = (self.digit, self.digit * inputs);
        // [o, p', b'], so that both sums are one product
        let turned: Vec<f64> = {
            let at = |n: usize| (n % bond * outputs + n / (inputs * bond)) * inputs + n / bond % inputs;
            (0..right.values.len()).map(|n| right.values[at(n)]).collect()
        };
        let mut all = Vec::with_capacity((digit * bond) * (digit * bond));
        for rows in t.chunks_exact(inputs * inner) {
            let half = matmul_f64(Dims { m: bond * outputs, k: inputs, n: inner }, &left.values, rows); // [b, o, d', p']
            let half = swapped(&half, [bond, outputs, digit, inputs]); // [b, d', o, p']
            // [b, d', b'] is a run of rows (d, b) of the result
            all.extend(matmul_f64(Dims { m: bond * digit, k: outputs * inputs, n: bond }, &half, &turned));
        }
        all
    }

    /// `Σ tail[b, o, p] s[(d, p)]` as `[(d, b)]`.
    fn sums(&self, s: &[f64], tail: &Tail) -> Vec<f64> {
        let mut all = vec![0.0; self.digit * tail.bond];
        for (n, x) in tail.values.iter().enumerate() {
            let (b, p) = (n / (tail.outputs * tail.inputs), n % tail.inputs);
            (0..self.digit).for_each(|d| all[d * tail.bond + b] += x * s[d * tail.inputs + p]);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use brevity_model::{Expr, Floats, Train, Weight};

    use super::*;
    use crate::leaves::each_seen;
    use crate::seen::Seen;
    use crate::testing::{fold_beside, noise};

    /// Rows of activations through the cores behind core `k`, as the core is given them: the definition.
    fn given(train: &Train<brevity_model::Leaf>, k: usize, x: &[f32]) -> Vec<f32> {
        let bonds = train.bonds();
        let (mut before, mut behind): (usize, usize) = (train.columns.iter().product(), 1);
        let n = train.shape[1];
        let padded = x.chunks(n).flat_map(|x| x.iter().copied().chain(std::iter::repeat_n(0.0, before - n)));
        // [tokens, digits before, behind, digit, bond]
        let mut z: Vec<f32> = padded.collect();
        for l in (k..train.cores.len()).rev() {
            let (i, j, bond) = (train.rows[l], train.columns[l], bonds[l]);
            before /= j;
            if l == k {
                break;
            }
            let (w, width) = (train.cores[l].to_f32(), j * bonds[l + 1]);
            let dot = |x: &[f32], row: usize| -> f32 { x.iter().zip(&w[row * width..]).map(|(x, w)| x * w).sum() };
            let y: Vec<f32> =
                z.chunks(width).flat_map(|x| (0..bond * i).map(|row| dot(x, row)).collect::<Vec<_>>()).collect();
            let next = train.columns[l - 1];
            let tokens = y.len() / (before * behind * bond * i);
            z = vec![0.0; y.len()];
            for (n, y) in y.into_iter().enumerate() {
                let (digit, b) = (n % i, n / i % bond);
                let (o, d) = (n / (i * bond) % behind, n / (i * bond * behind));
                let (rest, d) = (d / next, d % next);
                z[(((rest * i + digit) * behind + o) * next + d) * bond + b] = y;
            }
            assert_eq!(z.len(), tokens * before * behind * bond * i);
            behind *= i;
        }
        z
    }

    fn close(a: &[f64], b: &[f64], what: &str) {
        let most = b.iter().fold(1e-9, |most: f64, x| most.max(x.abs()));
        assert_eq!(a.len(), b.len(), "{what}");
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * most), "{what}: {a:?} and {b:?}");
    }

    #[test]
    fn a_core_sees_what_the_cores_behind_it_give() {
        let (rows, columns, bonds) = ([2, 3, 2], [2, 3, 2], [1, 3, 2, 1]);
        let core = |k: usize| {
            let shape = [bonds[k] * rows[k], columns[k] * bonds[k + 1]];
            Weight::float(shape, Floats::F32(noise(shape[0] * shape[1], k as u64)))
        };
        // 11 of 12 inputs: the last is padding.
        let train =
            Train { shape: [12, 11], rows: rows.into(), columns: columns.into(), cores: (0..3).map(core).collect() };
        let (x, drift) = (noise(5 * 11, 7), noise(5 * 11, 8));
        let r: Vec<f32> = x.iter().zip(&drift).map(|(x, d)| x + 0.3 * d).collect();
        let seen = Seen { fit: fold_beside(11, &x, &r), ..Seen::default() };
        let mut weight = Weight::train(train.clone());
        let mut met = Vec::new();
        each_seen(&mut weight, &seen, &mut |path, leaf, seen| {
            met.push((path.to_owned(), seen.fit.clone()));
            // The step changes each core a little, which those before it must see.
            let changed = leaf.to_f32().into_iter().map(|x| (8.0 * x).round() / 8.0).collect();
            leaf.code = brevity_model::Code::Float(Floats::F32(changed));
            Ok(())
        })
        .unwrap();
        assert_eq!(met.iter().map(|met| &*met.0).collect::<Vec<_>>(), ["2", "1", "0"]);
        let Expr::Train(now) = &weight else { panic!("it stays a train") };
        for (path, got) in &met {
            let k: usize = path.parse().unwrap();
            let width = columns[k] * bonds[k + 1];
            let wanted = fold_beside(width, &given(now, k, &x), &given(&train, k, &r));
            assert_eq!(got.count, wanted.count, "{k}");
            close(&got.gram.as_ref().unwrap().to_f64(), &wanted.gram.as_ref().unwrap().to_f64(), "gram");
            close(got.drift.as_ref().unwrap().as_f64(), wanted.drift.as_ref().unwrap().as_f64(), "drift");
            close(&got.sum, &wanted.sum, "sum");
            close(&got.sum_sq, &wanted.sum_sq, "squares");
            close(&got.reference_sum, &wanted.reference_sum, "reference");
        }
    }

    #[test]
    fn squares_alone_are_told_only_to_the_last_core() {
        let core = |shape: [usize; 2]| Weight::float(shape, Floats::F32(vec![1.0; shape[0] * shape[1]]));
        let cores = vec![core([1, 4]), core([2, 2])];
        let mut weight = Weight::train(Train { shape: [1, 4], rows: vec![1, 1], columns: vec![2, 2], cores });
        let fit = Fold { count: 3, sum_sq: vec![1.0, 2.0, 3.0, 4.0], sum: vec![0.0; 4], ..Fold::default() };
        let mut met = Vec::new();
        each_seen(&mut weight, &Seen { fit, ..Seen::default() }, &mut |_, _, seen| {
            met.push((seen.fit.count, seen.fit.sum_sq.clone()));
            Ok(())
        })
        .unwrap();
        assert_eq!(met, [(6, vec![4.0, 6.0]), (3, Vec::new())]);
    }
}
