//! Some rows or columns of a weight.

use brevity_model::{Code, CodeForm, Dtype, Expr, Floats, Form, Leaf, LeafForm, Linear, Site, Weight};

use crate::error::{Error, Result};
use crate::leaves::{check_finite, describe};

/// Which way a matrix is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Some of its rows, the outputs, are kept.
    Rows,
    /// Some of its columns, the inputs, are kept.
    Columns,
}

/// The rows or columns `kept` of a weight of floats, in this order. Masks are lost: what they removed is zero.
///
/// # Errors
/// [`Error::Coded`] if the matrix to be cut is coded, or part of a tensor train.
pub(crate) fn cut(method: &'static str, site: &Site, weight: &Weight, way: Way, kept: &[usize]) -> Result<Weight> {
    match weight {
        Expr::Leaf(leaf) => match &leaf.code {
            Code::Float(_) => Ok(Expr::Leaf(cut_leaf(leaf, way, kept))),
            _ => Err(coded(method, site, &LeafForm::of(leaf))),
        },
        Expr::Product(factors) => {
            let [a, b] = &**factors;
            Ok(match way {
                Way::Rows => Weight::product(cut(method, site, a, way, kept)?, b.clone()),
                Way::Columns => Weight::product(a.clone(), cut(method, site, b, way, kept)?),
            })
        }
        Expr::Sum(terms) => {
            let [a, b] = &**terms;
            Ok(Weight::sum(cut(method, site, a, way, kept)?, cut(method, site, b, way, kept)?))
        }
        Expr::Train(_) => Err(train(method, site)),
    }
}

/// What [`cut`] leaves of a form: so many rows or columns.
///
/// # Errors
/// As [`cut`].
pub(crate) fn cut_form(method: &'static str, site: &Site, form: &Form, way: Way, count: usize) -> Result<Form> {
    match form {
        Expr::Leaf(leaf) => {
            let dtype = match &leaf.code {
                CodeForm::Float(dtype) => *dtype,
                CodeForm::Blocks(_) => Dtype::F32,
                _ => return Err(coded(method, site, leaf)),
            };
            let [rows, columns] = leaf.shape;
            Ok(Form::float(if way == Way::Rows { [count, columns] } else { [rows, count] }, dtype))
        }
        Expr::Product(factors) => {
            let [a, b] = &**factors;
            Ok(match way {
                Way::Rows => Form::product(cut_form(method, site, a, way, count)?, b.clone()),
                Way::Columns => Form::product(a.clone(), cut_form(method, site, b, way, count)?),
            })
        }
        Expr::Sum(terms) => {
            let [a, b] = &**terms;
            Ok(Form::sum(cut_form(method, site, a, way, count)?, cut_form(method, site, b, way, count)?))
        }
        Expr::Train(_) => Err(train(method, site)),
    }
}

/// The outputs `kept` of a layer, its bias among them.
pub(crate) fn cut_outputs(method: &'static str, site: &Site, layer: &mut Linear<Weight>, kept: &[usize]) -> Result<()> {
    layer.weight = cut(method, site, &layer.weight, Way::Rows, kept)?;
    if let Some(bias) = &mut layer.bias {
        *bias = cut(method, site, bias, Way::Columns, kept)?;
    }
    Ok(())
}

/// What [`cut_outputs`] leaves of forms.
pub(crate) fn cut_output_forms(
    method: &'static str,
    site: &Site,
    layer: &mut Linear<Form>,
    count: usize,
) -> Result<()> {
    layer.weight = cut_form(method, site, &layer.weight, Way::Rows, count)?;
    if let Some(bias) = &mut layer.bias {
        *bias = cut_form(method, site, bias, Way::Columns, count)?;
    }
    Ok(())
}

/// The rows and columns of a train lie scattered over its cores.
fn train(method: &'static str, site: &Site) -> Error {
    Error::Coded { method, site: site.clone(), leaf: String::new(), code: "a tensor train".into() }
}

fn coded(method: &'static str, site: &Site, form: &LeafForm) -> Error {
    Error::Coded { method, site: site.clone(), leaf: String::new(), code: describe(&form.code) }
}

fn cut_leaf(leaf: &Leaf, way: Way, kept: &[usize]) -> Leaf {
    let Code::Float(floats) = &leaf.code else { unreachable!("only floats are cut") };
    let [rows, columns] = leaf.shape;
    let gone = |at: usize| leaf.mask.as_ref().is_some_and(|mask| !mask.keeps(at));
    fn pick<T: Copy + Default>(
        values: &[T],
        [rows, columns]: [usize; 2],
        way: Way,
        kept: &[usize],
        gone: &dyn Fn(usize) -> bool,
    ) -> Vec<T> {
        let at = |at: usize| if gone(at) { T::default() } else { values[at] };
        match way {
            Way::Rows => kept.iter().flat_map(|&row| (0..columns).map(move |c| row * columns + c)).map(at).collect(),
            Way::Columns => (0..rows).flat_map(|row| kept.iter().map(move |&c| row * columns + c)).map(at).collect(),
        }
    }
    let shape = leaf.shape;
    let floats = match floats {
        Floats::F32(v) => Floats::F32(pick(v, shape, way, kept, &gone)),
        Floats::F16(v) => Floats::F16(pick(v, shape, way, kept, &gone)),
        Floats::Bf16(v) => Floats::Bf16(pick(v, shape, way, kept, &gone)),
        Floats::F8E4m3(v) => Floats::F8E4m3(pick(v, shape, way, kept, &gone)),
    };
    let shape = if way == Way::Rows { [kept.len(), columns] } else { [rows, kept.len()] };
    Leaf { shape, code: Code::Float(floats), mask: None }
}

/// How many entries of a layer a mask has removed, for the note that says that the mask is lost.
pub(crate) fn masked(layer: &Linear<Weight>) -> usize {
    let leaves = layer.weight.leaves();
    let masks = leaves.iter().filter_map(|(_, leaf)| leaf.mask.as_ref());
    masks.map(|mask| mask.shape()[0] * mask.shape()[1] - mask.kept()).sum()
}

/// The float type of a layer that is rewritten as one matrix: the widest in its expression.
///
/// # Errors
/// [`Error::Coded`] if a part of it is coded.
pub(crate) fn float_dtype(method: &'static str, site: &Site, form: &Form) -> Result<Dtype> {
    let mut widest: Option<Dtype> = None;
    for (path, leaf) in form.leaves() {
        let dtype = match &leaf.code {
            CodeForm::Float(dtype) => *dtype,
            CodeForm::Blocks(_) => Dtype::F32,
            _ if crate::leaves::is_rule(leaf) => continue,
            code => {
                let code = describe(code);
                return Err(Error::Coded { method, site: site.clone(), leaf: path, code });
            }
        };
        widest = Some(match widest {
            Some(before) if before == dtype => before,
            Some(before) if before.size_bytes() == dtype.size_bytes() => Dtype::F32,
            Some(before) if before.size_bytes() > dtype.size_bytes() => before,
            _ => dtype,
        });
    }
    Ok(widest.unwrap_or(Dtype::F32))
}

/// A weight as doubles, every number in it finite.
pub(crate) fn doubles(site: &Site, weight: &Weight) -> Result<Vec<f64>> {
    let values = weight.to_f32();
    check_finite(site, "", &values)?;
    Ok(values.into_iter().map(f64::from).collect())
}

/// A matrix of a float type from doubles.
pub(crate) fn matrix(shape: [usize; 2], values: &[f64], dtype: Dtype) -> Weight {
    Weight::float(shape, Floats::from_f32(values.iter().map(|&x| x as f32).collect(), dtype))
}

#[cfg(test)]
mod tests {
    use brevity_model::Mask;

    use super::*;

    fn site() -> Site {
        "blocks.0.mlp.up".parse().unwrap()
    }

    #[test]
    fn rows_and_columns_are_picked_in_order_and_what_a_mask_removed_is_zero() {
        let mut leaf = Leaf::float([2, 3], Floats::F32(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        leaf.mask = Some(Mask::from_bools([2, 3], &[true, false, true, true, true, true]));
        let weight = Expr::Leaf(leaf);
        assert_eq!(cut("m", &site(), &weight, Way::Rows, &[1]).unwrap().to_f32(), [4.0, 5.0, 6.0]);
        let some = cut("m", &site(), &weight, Way::Columns, &[2, 1]).unwrap();
        assert_eq!((some.shape(), some.to_f32()), ([2, 2], vec![3.0, 0.0, 6.0, 5.0]));
        let form = cut_form("m", &site(), &Form::of(&weight), Way::Columns, 2).unwrap();
        assert_eq!(form, Form::of(&some));
    }

    #[test]
    fn of_a_product_the_outer_factor_is_cut() {
        let float = |shape, values: &[f32]| Weight::float(shape, Floats::F32(values.to_vec()));
        let product = Weight::product(float([2, 1], &[1.0, 2.0]), float([1, 3], &[3.0, 4.0, 5.0]));
        let rows = cut("m", &site(), &product, Way::Rows, &[1]).unwrap();
        assert_eq!(rows.to_f32(), [6.0, 8.0, 10.0]);
        let columns = cut("m", &site(), &product, Way::Columns, &[0, 2]).unwrap();
        assert_eq!(columns.to_f32(), [3.0, 5.0, 6.0, 10.0]);
        assert_eq!(cut_form("m", &site(), &Form::of(&product), Way::Columns, 2).unwrap(), Form::of(&columns));
    }
}
