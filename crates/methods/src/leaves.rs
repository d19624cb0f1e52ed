//! Working through the matrices of a weight one by one.

use std::ops::Range;

use brevity_kernels::cast;
use brevity_model::{Code, CodeForm, Expr, Floats, Leaf, LeafForm, Site};

use crate::error::{Error, Result};

/// Calls `f` on each leaf from left to right with its path, as [`Expr::leaves`] names it.
pub(crate) fn each_mut<L>(expr: &mut Expr<L>, f: &mut impl FnMut(&str, &mut L) -> Result<()>) -> Result<()> {
    fn go<L>(expr: &mut Expr<L>, path: &str, f: &mut impl FnMut(&str, &mut L) -> Result<()>) -> Result<()> {
        match expr {
            Expr::Leaf(leaf) => f(path, leaf),
            Expr::Product(ab) | Expr::Sum(ab) => ab.iter_mut().enumerate().try_for_each(|(n, part)| {
                let path = if path.is_empty() { n.to_string() } else { format!("{path}.{n}") };
                go(part, &path, f)
            }),
        }
    }
    go(expr, "", f)
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
