//! Digests of weights: of what was read, for the record, and of what was meant to be written, for the check.

use blake3::Hasher;
use brevity_model::{Code, Dtype, Expr, Floats, Leaf, Stage, Weight};
use rayon::prelude::*;

use crate::decode::Rows;

/// The digest of a stage: of its weights in the order of the tree.
pub(crate) fn of_stage(stage: &Stage<Weight>) -> String {
    let weights = stage.weights();
    let digests: Vec<blake3::Hash> = weights.par_iter().map(|(_, _, weight)| of_weight(weight)).collect();
    let mut hasher = Hasher::new();
    for ((role, slot, _), digest) in weights.iter().zip(digests) {
        hasher.update(format!("{role} {slot:?} ").as_bytes()).update(digest.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The digest of a weight as it is stored in memory: its expression, codes, scales and masks.
pub(crate) fn of_weight(weight: &Weight) -> blake3::Hash {
    let mut hasher = Hasher::new();
    expression(weight, &mut hasher);
    hasher.finalize()
}

fn expression(weight: &Weight, hasher: &mut Hasher) {
    match weight {
        Expr::Leaf(leaf) => of_leaf(leaf, hasher),
        Expr::Product(ab) | Expr::Sum(ab) => {
            hasher.update(if matches!(weight, Expr::Product(_)) { b"product" } else { b"sum" });
            ab.iter().for_each(|part| expression(part, hasher));
        }
        Expr::Train(train) => {
            hasher.update(format!("train {:?} {:?} {:?}", train.shape, train.rows, train.columns).as_bytes());
            train.cores.iter().for_each(|core| expression(core, hasher));
        }
    }
}

fn of_leaf(leaf: &Leaf, hasher: &mut Hasher) {
    hasher.update(format!("{:?}", leaf.shape).as_bytes());
    match &leaf.code {
        Code::Float(Floats::F32(v)) => hasher.update(bytemuck::cast_slice(v)),
        Code::Float(Floats::F16(v)) => hasher.update(bytemuck::cast_slice(v)),
        Code::Float(Floats::Bf16(v)) => hasher.update(bytemuck::cast_slice(v)),
        Code::Float(Floats::F8E4m3(v)) => hasher.update(v),
        Code::Grid(grid) => {
            hasher.update(&[grid.bits]).update(&grid.codes).update(bytemuck::cast_slice(&grid.scales));
            hasher.update(grid.zeros.as_deref().unwrap_or_default());
            hasher.update(bytemuck::cast_slice(grid.levels.as_deref().unwrap_or_default()))
        }
        Code::Codebook(book) => {
            book.books.iter().for_each(|book| _ = hasher.update(bytemuck::cast_slice(book)));
            hasher.update(bytemuck::cast_slice(&book.codes)).update(bytemuck::cast_slice(&book.scales))
        }
        Code::Rule(rule) => hasher.update(format!("{rule:?}").as_bytes()),
    };
    if let Some(mask) = &leaf.mask {
        hasher.update(mask.as_bytes());
    }
}

/// The digest of some rows of a weight, read as numbers of a type.
///
/// Files may hold another code for the same numbers (a product multiplied out, zeros for a mask), so numbers are
/// compared: as singles, each rounded to the type first.
pub(crate) fn of_rows(weight: &Weight, rows: &[usize], dtype: Dtype) -> String {
    let decoder = Rows::of(weight);
    let mut hasher = Hasher::new();
    // Runs of neighbouring rows are decoded together.
    let mut at = 0;
    let at_once = ((1 << 20) / decoder.shape()[1].max(1)).max(1);
    while at < rows.len() {
        let run = rows[at..].windows(2).take(at_once - 1).take_while(|pair| pair[1] == pair[0] + 1).count() + 1;
        let mut values = decoder.decode(rows[at]..rows[at] + run).into_owned();
        // Adding zero takes the sign off zeros: a removed entry may come back with either.
        match dtype {
            Dtype::F32 => values.iter_mut().for_each(|x| *x += 0.0),
            dtype => values = Floats::from_f32(values, dtype).to_f32().into_iter().map(|x| x + 0.0).collect(),
        }
        hasher.update(bytemuck::cast_slice(&values));
        at += run;
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_one_digest_whatever_their_code() {
        let values = vec![1.0, -2.0, 0.5, 0.0, 3.0, 4.0];
        let f32s = Weight::float([3, 2], Floats::F32(values.clone()));
        let f16s = Weight::float([3, 2], Floats::from_f32(values.clone(), Dtype::F16));
        let mut negative = values.clone();
        negative[3] = -0.0;
        let negative = Weight::float([3, 2], Floats::F32(negative));
        for rows in [&[0, 1, 2][..], &[0, 2], &[1], &[]] {
            let digest = of_rows(&f32s, rows, Dtype::F32);
            assert_eq!(of_rows(&f16s, rows, Dtype::F32), digest);
            assert_eq!(of_rows(&negative, rows, Dtype::F32), digest);
        }
        assert_ne!(of_rows(&f32s, &[0], Dtype::F32), of_rows(&f32s, &[1], Dtype::F32));
        assert_ne!(of_weight(&f32s), of_weight(&f16s));
        let fine = Weight::float([1, 1], Floats::F32(vec![1.0 + 1e-6]));
        let coarse = Weight::float([1, 1], Floats::F32(vec![1.0]));
        assert_ne!(of_rows(&fine, &[0], Dtype::F32), of_rows(&coarse, &[0], Dtype::F32));
        assert_eq!(of_rows(&fine, &[0], Dtype::Bf16), of_rows(&coarse, &[0], Dtype::Bf16));
    }
}
