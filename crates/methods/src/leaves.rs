//! Working through the matrices of a weight one by one.

use std::ops::Range;

use brevity_kernels::cast;
use brevity_model::{Code, CodeForm, Expr, Floats, Leaf, LeafForm, Site, Weight};

use crate::cores::{Look, Tail};
use crate::error::{Error, Result};
use crate::seen::{Fold, Seen, Shared};

/// Calls `f` on each leaf from left to right with its path, as [`Expr::leaves`] names it.
pub(crate) fn each_mut<L>(expr: &mut Expr<L>, f: &mut impl FnMut(&str, &mut L) -> Result<()>) -> Result<()> {
    fn go<L>(expr: &mut Expr<L>, path: &str, f: &mut impl FnMut(&str, &mut L) -> Result<()>) -> Result<()> {
        match expr {
            Expr::Leaf(leaf) => f(path, leaf),
            other => other.parts_mut().iter_mut().enumerate().try_for_each(|(n, part)| {
                let path = if path.is_empty() { n.to_string() } else { format!("{path}.{n}") };
                go(part, &path, f)
            }),
        }
    }
    go(expr, "", f)
}

/// Calls `f` on each leaf that is not a rule with its path and what was seen of *its* inputs.
///
/// Of a product the right factor comes first. What the left factor sees is worked out from what the right one sees
/// and from the right one as `f` has left it. All terms of a sum see what the sum sees. Of a train the last core comes
/// first; what a core sees is worked out likewise from the cores behind it ([`crate::cores`]).
pub(crate) fn each_seen(
    weight: &mut Weight,
    seen: &Seen,
    f: &mut impl FnMut(&str, &mut Leaf, &Seen) -> Result<()>,
) -> Result<()> {
    fn go(
        weight: &mut Weight,
        path: &str,
        seen: &Seen,
        f: &mut impl FnMut(&str, &mut Leaf, &Seen) -> Result<()>,
    ) -> Result<()> {
        let child = |n: usize| if path.is_empty() { n.to_string() } else { format!("{path}.{n}") };
        match weight {
            Expr::Leaf(leaf) if is_rule_leaf(leaf) => Ok(()),
            Expr::Leaf(leaf) => f(path, leaf, seen),
            Expr::Sum(ab) => ab.iter_mut().enumerate().try_for_each(|(n, term)| go(term, &child(n), seen, f)),
            Expr::Product(ab) => {
                let [a, b] = &mut **ab;
                let drift = seen.fit.drift.is_some() || seen.held_out.drift.is_some();
                let before = if drift || !seen.fit.reference_sum.is_empty() { b.to_f32() } else { Vec::new() };
                go(b, &child(1), seen, f)?;
                let after = b.to_f32();
                let rows = b.shape()[0];
                let behind = Seen {
                    fit: behind(&seen.fit, rows, &before, &after),
                    held_out: behind(&seen.held_out, rows, &before, &after),
                    influence: seen.influence,
                    coding_rate: seen.coding_rate,
                    shared: Shared::default(),
                };
                go(a, &child(0), &behind, f)
            }
            Expr::Train(train) => {
                let reference = seen.fit.drift.is_some() || seen.held_out.drift.is_some();
                let reference = reference || !seen.fit.reference_sum.is_empty();
                let mut after = Tail::end();
                let mut before = reference.then(Tail::end);
                for n in (0..train.cores.len()).rev() {
                    let digits = [train.rows[n], train.columns[n]];
                    let look = Look { digit: digits[1], before: before.as_ref().unwrap_or(&after), after: &after };
                    let inputs = Seen {
                        fit: look.at(&seen.fit),
                        held_out: look.at(&seen.held_out),
                        influence: seen.influence,
                        coding_rate: seen.coding_rate,
                        shared: Shared::default(),
                    };
                    if n > 0 {
                        before = before.map(|tail| tail.behind(digits, &train.cores[n].to_f32()));
                    }
                    go(&mut train.cores[n], &child(n), &inputs, f)?;
                    if n > 0 {
                        after = after.behind(digits, &train.cores[n].to_f32());
                    }
                }
                Ok(())
            }
        }
    }
    go(weight, "", seen, f)
}

/// What is seen behind a `[rows, inputs]` matrix, which was `before` the step, and in its eyes in the original model, and
/// is `after` now.
fn behind(fold: &Fold, rows: usize, before: &[f32], after: &[f32]) -> Fold {
    let sums = |matrix: &[f32], x: &[f64]| -> Vec<f64> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(&b, x)| f64::from(b) * x).sum();
        if x.is_empty() { Vec::new() } else { matrix.chunks(x.len()).map(dot).collect() }
    };
    let gram = fold.gram.as_ref().map(|gram| gram.through(rows, after));
    Fold {
        count: fold.count,
        sum: sums(after, &fold.sum),
        sum_sq: gram.as_ref().filter(|_| !fold.sum_sq.is_empty()).map_or_else(Vec::new, |gram| gram.diagonal()),
        // What a matrix makes of magnitudes, their sums do not say.
        sum_abs: Vec::new(),
        reference_sum: sums(before, &fold.reference_sum),
        drift: fold.drift.as_ref().zip(fold.gram.as_ref()).map(|(drift, g)| drift.through(g, rows, before, after)),
        gram,
        ..Fold::default()
    }
}

/// The name of a figure of the leaf at a path.
pub(crate) fn figure(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Refuses values that are not finite.
pub(crate) fn check_finite(site: &Site, leaf: &str, values: &[f32]) -> Result<()> {
    let nan = values.iter().filter(|x| x.is_nan()).count();
    let infinite = values.iter().filter(|x| x.is_infinite()).count();
    if nan + infinite == 0 {
        return Ok(());
    }
    Err(Error::NotFinite { site: site.clone(), leaf: leaf.into(), nan, infinite, total: values.len() })
}

/// Whether a form is of a matrix that is given by a rule and costs nothing to store.
pub(crate) fn is_rule(form: &LeafForm) -> bool {
    matches!(form.code, CodeForm::Diagonal | CodeForm::Permutation | CodeForm::Hadamard)
}

/// Whether a leaf is given by a rule.
pub(crate) fn is_rule_leaf(leaf: &Leaf) -> bool {
    matches!(leaf.code, Code::Rule(_))
}

/// Some of the numbers, as singles.
pub(crate) fn floats(floats: &Floats, range: Range<usize>) -> Vec<f32> {
    let mut values = vec![0.0; range.len()];
    match floats {
        Floats::F32(v) => values.copy_from_slice(&v[range]),
        Floats::F16(v) => cast::f16_to_f32(&v[range], &mut values),
        Floats::Bf16(v) => cast::bf16_to_f32(&v[range], &mut values),
        Floats::F8E4m3(v) => cast::e4m3_to_f32(&v[range], &mut values),
    }
    values
}

/// A few words for how a leaf is coded, for errors.
pub(crate) fn describe(code: &CodeForm) -> String {
    match code {
        CodeForm::Float(dtype) => format!("{dtype:?} floats").to_lowercase(),
        CodeForm::Grid { bits, levels: None, .. } => format!("a {bits}-bit grid"),
        CodeForm::Grid { bits, .. } => format!("a {bits}-bit table of levels"),
        CodeForm::Codebook { .. } => "codes of a codebook".into(),
        CodeForm::Diagonal => "a diagonal".into(),
        CodeForm::Permutation => "a permutation".into(),
        CodeForm::Hadamard => "a Hadamard matrix".into(),
        CodeForm::Blocks(kind) => format!("{} blocks", kind.name),
    }
}

#[cfg(test)]
mod tests {
    use brevity_model::Rule;

    use super::*;
    use crate::testing::fold_beside;

    fn leaf(shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::float(shape, Floats::F32(values.to_vec()))
    }

    #[test]
    fn the_left_factor_sees_what_the_rewritten_right_one_gives() {
        // Two samples of two inputs; the permutation swaps them, then `B` of one row is halved on the way.
        let (x, r) = ([1.0, 2.0, 3.0, -1.0], [1.5, 2.0, 3.0, 1.0]);
        let seen = Seen { fit: fold_beside(2, &x, &r), held_out: fold_beside(2, &x[..2], &r[..2]), ..Seen::default() };
        let swap = Expr::Leaf(Leaf { shape: [2, 2], code: Code::Rule(Rule::Permutation(vec![1, 0])), mask: None });
        let b = Weight::product(leaf([1, 2], &[2.0, 4.0]), swap);
        let mut weight = Weight::sum(Weight::product(leaf([3, 1], &[1.0, 2.0, 3.0]), b), leaf([3, 2], &[0.0; 6]));
        let mut met = Vec::new();
        each_seen(&mut weight, &seen, &mut |path, leaf, seen| {
            let gram = seen.fit.gram.as_ref().unwrap().to_f64();
            let drift = seen.fit.drift.as_ref().unwrap().as_f64().to_vec();
            met.push((path.to_owned(), gram, drift, seen.fit.sum.clone(), seen.fit.reference_sum.clone()));
            assert_eq!(seen.fit.sum_sq, seen.fit.gram.as_ref().unwrap().diagonal());
            assert_eq!(seen.held_out.count, 1);
            if path == "0.1.0" {
                leaf.code = Code::Float(Floats::F32(vec![1.0, 2.0]));
            }
            Ok(())
        })
        .unwrap();
        let paths: Vec<&str> = met.iter().map(|met| &*met.0).collect();
        assert_eq!(paths, ["0.1.0", "0.0", "1"], "right before left; rules are passed through");
        // Behind the swap: (2, 1) and (-1, 3) with references (2, 1.5) and (1, 3).
        let swapped = fold_beside(2, &[2.0, 1.0, -1.0, 3.0], &[2.0, 1.5, 1.0, 3.0]);
        assert_eq!(met[0].1, swapped.gram.unwrap().to_f64());
        assert_eq!(met[0].2, swapped.drift.unwrap().as_f64());
        // x' = (1, 2) x: 4 and 5. r' = (2, 4) r: 10 and 14.
        assert_eq!((&met[1].1[..], &met[1].2[..]), (&[41.0][..], &[6.0 * 4.0 + 9.0 * 5.0][..]));
        assert_eq!((&met[1].3[..], &met[1].4[..]), (&[9.0][..], &[24.0][..]));
        assert_eq!(met[2].1, seen.fit.gram.as_ref().unwrap().to_f64());
    }
}
