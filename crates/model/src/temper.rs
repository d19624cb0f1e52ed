//! Multiplying the queries of an attention with a factor, which is what a temperature of its scores comes to.

use crate::Weight;
use crate::code::{Code, Floats, Leaf, Rule};
use crate::expr::Expr;
use crate::tree::{Attention, NormKind};

/// Multiplies the queries of an attention with a factor: in the gain of their norm, which would take it away again from what
/// stands in front, else in their matrix and its bias. Whatever the weights are coded in stays so.
pub fn scale_queries(attn: &mut Attention<Weight>, factor: f32) {
    let Some(norm) = &mut attn.q_norm else {
        multiply(&mut attn.q.weight, factor);
        attn.q.bias.iter_mut().for_each(|bias| multiply(bias, factor));
        return;
    };
    let offset = if norm.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
    let gains: Vec<f32> = norm.gain.to_f32().into_iter().map(|gain| (gain + offset) * factor - offset).collect();
    norm.gain = floats_like(&norm.gain, gains);
    norm.bias.iter_mut().for_each(|bias| multiply(bias, factor));
}

/// Floats of the type that a weight has, or singles.
fn floats_like(weight: &Weight, values: Vec<f32>) -> Weight {
    let floats = match weight {
        Expr::Leaf(Leaf { code: Code::Float(floats), .. }) => Floats::from_f32(values, floats.dtype()),
        _ => Floats::F32(values),
    };
    Weight::float(weight.shape(), floats)
}

/// Multiplies a weight: in one of its factors, in all its terms, or in the scales of its codes.
fn multiply(weight: &mut Weight, factor: f32) {
    match weight {
        Expr::Leaf(leaf) => match &mut leaf.code {
            Code::Grid(grid) => grid.scales.iter_mut().for_each(|scale| *scale *= factor),
            Code::Codebook(book) => book.scales.iter_mut().for_each(|scale| *scale *= factor),
            Code::Rule(Rule::Diagonal(d)) => d.iter_mut().for_each(|x| *x *= factor),
            Code::Float(floats) => {
                let (dtype, shape) = (floats.dtype(), leaf.shape);
                let mask = leaf.mask.take();
                let values = leaf.to_f32().into_iter().map(|x| x * factor).collect();
                *leaf = Leaf { mask, ..Leaf::float(shape, Floats::from_f32(values, dtype)) };
            }
            Code::Rule(_) => {
                let values = leaf.to_f32().into_iter().map(|x| x * factor).collect();
                *leaf = Leaf::float(leaf.shape, Floats::F32(values));
            }
        },
        Expr::Product(factors) => {
            let [first, second] = &mut **factors;
            // A rule without numbers of its own stays one.
            let plain = |weight: &Weight| match weight {
                Expr::Leaf(leaf) => matches!(&leaf.code, Code::Rule(rule) if !matches!(rule, Rule::Diagonal(_))),
                _ => false,
            };
            multiply(if plain(first) { second } else { first }, factor);
        }
        Expr::Sum(terms) => terms.iter_mut().for_each(|term| multiply(term, factor)),
        Expr::Train(train) => {
            if let Some(core) = train.cores.first_mut() {
                multiply(core, factor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::float(shape, Floats::F32(values.to_vec()))
    }

    #[test]
    fn every_kind_of_weight_is_multiplied() {
        let rule = Leaf { shape: [2, 2], code: Code::Rule(Rule::Permutation(vec![1, 0])), mask: None };
        let matrix = floats([2, 2], &[1.0, 2.0, 3.0, -4.0]);
        let kinds = [
            matrix.clone(),
            Weight::product(Weight::Leaf(rule.clone()), matrix.clone()),
            Weight::product(matrix.clone(), Weight::Leaf(rule)),
            Weight::sum(matrix.clone(), floats([2, 2], &[0.5; 4])),
        ];
        for weight in kinds {
            let mut scaled = weight.clone();
            multiply(&mut scaled, 1.25);
            let want: Vec<f32> = weight.to_f32().into_iter().map(|x| 1.25 * x).collect();
            assert_eq!(scaled.to_f32(), want, "{weight:?}");
        }
    }
}
