//! Where a weight lies in a checkpoint.

use std::ops::Range;

use crate::code::Dtype;
use crate::expr::Expr;
use crate::form::{Form, LeafForm};
use crate::site::Slot;

/// Where the bytes of a weight are, and how they are stored there.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The name of the logical tensor in the checkpoint, such as `model.layers.0.self_attn.q_proj.weight`.
    pub tensor: String,
    /// Shape and kind after the view is taken.
    pub form: Form,
    /// Which part of the tensor it is.
    pub view: View,
}

/// Which part of a tensor a weight is, and which way round.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct View {
    /// The tensor holds `[in, out]` and is read transposed.
    pub transposed: bool,
    /// The rows (outputs) that belong to the weight, in order; `None` for all of them.
    /// For a vector these are its entries.
    pub rows: Option<Vec<Range<usize>>>,
}

impl View {
    /// The whole tensor as it is.
    pub fn whole() -> Self {
        View::default()
    }

    /// Whether the view is the whole tensor as it is.
    pub fn is_whole(&self) -> bool {
        !self.transposed && self.rows.is_none()
    }

    /// How many rows are taken of a tensor with `rows` rows (after transposition).
    pub fn count(&self, rows: usize) -> usize {
        self.rows.as_ref().map_or(rows, |ranges| ranges.iter().map(|range| range.len()).sum())
    }

    /// The form of the part of a tensor of form `whole`. A bias is a vector: its ranges count entries.
    pub fn form(&self, whole: &Form, slot: Slot) -> Form {
        let turned = if self.transposed { transposed(whole) } else { whole.clone() };
        match (&self.rows, slot) {
            (None, _) => turned,
            (Some(_), Slot::Bias) => {
                let mut part = turned;
                let columns = self.count(part.shape()[1]);
                each_leaf(&mut part, &mut |leaf| leaf.shape[1] = columns);
                part
            }
            (Some(_), Slot::Weight) => {
                let rows = self.count(turned.shape()[0]);
                with_rows(turned, rows)
            }
        }
    }
}

fn each_leaf(form: &mut Form, f: &mut impl FnMut(&mut LeafForm)) {
    let done = form.for_each_leaf_mut(&mut |leaf| {
        f(leaf);
        Ok::<_, std::convert::Infallible>(())
    });
    done.unwrap_or_else(|never| match never {});
}

/// The form of the transpose: `(A B)ᵀ = Bᵀ Aᵀ`. A train is multiplied out, because its cores have other layouts then.
fn transposed(form: &Form) -> Form {
    match form {
        Expr::Leaf(leaf) => {
            let [rows, columns] = leaf.shape;
            Expr::Leaf(LeafForm { shape: [columns, rows], ..leaf.clone() })
        }
        Expr::Product(parts) => Form::product(transposed(&parts[1]), transposed(&parts[0])),
        Expr::Sum(parts) => Form::sum(transposed(&parts[0]), transposed(&parts[1])),
        Expr::Train(train) => Form::float([train.shape[1], train.shape[0]], Dtype::F32),
    }
}

/// The form of some rows: those of the first factor of a product, those of both terms of a sum; of a train singles.
fn with_rows(form: Form, rows: usize) -> Form {
    match form {
        Expr::Leaf(leaf) => Expr::Leaf(LeafForm { shape: [rows, leaf.shape[1]], ..leaf }),
        Expr::Product(parts) => {
            let [a, b] = *parts;
            Form::product(with_rows(a, rows), b)
        }
        Expr::Sum(parts) => {
            let [a, b] = *parts;
            Form::sum(with_rows(a, rows), with_rows(b, rows))
        }
        Expr::Train(train) => Form::float([rows, train.shape[1]], Dtype::F32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Train;

    fn rows(range: Range<usize>) -> Option<Vec<Range<usize>>> {
        Some(vec![range])
    }

    #[test]
    fn a_view_has_the_shape_of_its_part() {
        let whole = Form::float([4, 6], Dtype::F16);
        let some = View { transposed: true, rows: Some(vec![0..2, 4..5]) };
        assert_eq!(some.form(&whole, Slot::Weight).shape(), [3, 4]);
        let bias = View { transposed: false, rows: rows(1..3) };
        assert_eq!(bias.form(&Form::float([1, 6], Dtype::F16), Slot::Bias).shape(), [1, 2]);
        let product = Form::product(Form::float([4, 2], Dtype::F16), Form::float([2, 6], Dtype::F16));
        assert_eq!(View { transposed: false, rows: rows(0..3) }.form(&product, Slot::Weight).shape(), [3, 6]);
        assert_eq!(View { transposed: true, rows: None }.form(&product, Slot::Weight).shape(), [6, 4]);
        let cores = vec![Form::float([2, 6], Dtype::F16), Form::float([4, 3], Dtype::F16)];
        let train = Form::train(Train { shape: [4, 6], rows: vec![2, 2], columns: vec![3, 3], cores });
        let part = View { transposed: false, rows: rows(1..3) }.form(&train, Slot::Weight);
        assert_eq!(part, Form::float([2, 6], Dtype::F32), "a part of a train is multiplied out");
    }
}
