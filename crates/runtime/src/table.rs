//! Tables whose rows are looked up: token, position and type embeddings.
//!
//! A table stays in the code in which it is stored, and only the rows asked for are decoded.

use std::sync::Arc;

use brevity_model::{Code, Expr, Floats, Form, Group, Leaf, LeafForm, Train, Weight};
use candle_core::{Device, Tensor};
use half::slice::HalfFloatSliceExt;

use crate::error::Result;

/// A table whose rows are looked up.
#[derive(Clone, Debug)]
pub enum Table {
    /// Singles in a tensor, `[rows, columns]`; gradients reach it.
    Dense(Tensor),
    /// One coded matrix.
    Coded(Arc<Leaf>),
    /// Rows of the first times the second, a tensor `[inner, columns]`.
    Product(Box<Table>, Tensor),
    /// Rows of both, added.
    Sum(Box<[Table; 2]>),
    /// Rows of a train, worked out from the decoded cores; the others never are.
    Train(Arc<(Train<LeafForm>, Vec<Vec<f32>>)>),
}

impl Table {
    /// The table that a weight stands for. Leaves are moved, not decoded.
    pub(crate) fn new(weight: Weight, device: &Device) -> Result<Self> {
        Ok(match weight {
            Expr::Leaf(leaf) => Table::Coded(Arc::new(leaf)),
            Expr::Sum(terms) => {
                let [a, b] = *terms;
                Table::Sum(Box::new([Table::new(a, device)?, Table::new(b, device)?]))
            }
            Expr::Product(factors) => {
                let [a, b] = *factors;
                let [inner, columns] = b.shape();
                let b = Tensor::from_vec(b.to_f32(), (inner, columns), device)?;
                Table::Product(Box::new(Table::new(a, device)?), b)
            }
            Expr::Train(train) => {
                let cores = train.cores.iter().map(Weight::to_f32).collect();
                let Form::Train(form) = Form::of(&Expr::Train(train)) else {
                    unreachable!("a form keeps the expression")
                };
                Table::Train(Arc::new((*form, cores)))
            }
        })
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Table::Dense(tensor) => [tensor.dims()[0], tensor.dims()[1]],
            Table::Coded(leaf) => leaf.shape,
            Table::Product(a, b) => [a.shape()[0], b.dims()[1]],
            Table::Sum(terms) => terms[0].shape(),
            Table::Train(train) => train.0.shape,
        }
    }

    /// The rows of `ids`, `[ids, columns]`. Every id must be a row of the table.
    pub fn rows(&self, ids: &[u32], device: &Device) -> Result<Tensor> {
        Ok(match self {
            Table::Dense(tensor) => tensor.index_select(&Tensor::new(ids, tensor.device())?, 0)?,
            Table::Coded(leaf) => {
                let columns = leaf.shape[1];
                let mut values = vec![0.0; ids.len() * columns];
                if columns > 0 {
                    let rows = values.chunks_exact_mut(columns);
                    rows.zip(ids).for_each(|(out, &id)| decode_row(leaf, id as usize, out));
                }
                Tensor::from_vec(values, (ids.len(), columns), device)?
            }
            Table::Product(a, b) => a.rows(ids, device)?.matmul(b)?,
            Table::Sum(terms) => (terms[0].rows(ids, device)? + terms[1].rows(ids, device)?)?,
            Table::Train(train) => {
                let (form, cores) = &**train;
                let rows = ids.iter().flat_map(|&id| form.row(cores, id as usize)).collect();
                Tensor::from_vec(rows, (ids.len(), form.shape[1]), device)?
            }
        })
    }
}

/// Writes row `row` of a coded matrix as singles.
fn decode_row(leaf: &Leaf, row: usize, out: &mut [f32]) {
    let columns = leaf.shape[1];
    let at = row * columns;
    match &leaf.code {
        Code::Float(Floats::F32(values)) => out.copy_from_slice(&values[at..at + columns]),
        Code::Float(Floats::F16(values)) => values[at..at + columns].convert_to_f32_slice(out),
        Code::Float(Floats::Bf16(values)) => values[at..at + columns].convert_to_f32_slice(out),
        Code::Float(Floats::F8E4m3(values)) => brevity_kernels::cast::e4m3_to_f32(&values[at..at + columns], out),
        Code::Grid(grid) => {
            let [_, per_row] = grid.group.scales(leaf.shape);
            let run = grid.group.columns(columns);
            let codes = &grid.codes[at..at + columns];
            for (n, (out, codes)) in out.chunks_mut(run).zip(codes.chunks(run)).enumerate() {
                let group = if grid.group == Group::Tensor { 0 } else { row * per_row + n };
                let scale = grid.scales[group];
                let zero = grid.zeros.as_ref().map_or(1 << (grid.bits - 1), |zeros| i32::from(zeros[group]));
                for (out, &q) in out.iter_mut().zip(codes) {
                    *out = match &grid.levels {
                        Some(levels) => scale * levels[q as usize],
                        None => scale * (i32::from(q) - zero) as f32,
                    };
                }
            }
        }
        Code::Codebook(book) => {
            let codes = &book.codes[at / book.dim * book.books.len()..];
            for (run, codes) in out.chunks_mut(book.dim).zip(codes.chunks(book.books.len())) {
                run.fill(0.0);
                for (entries, &code) in book.books.iter().zip(codes) {
                    let entry = &entries[usize::from(code) * book.dim..][..book.dim];
                    run.iter_mut().zip(entry).for_each(|(value, e)| *value += e);
                }
                run.iter_mut().for_each(|value| *value *= book.scales[row]);
            }
        }
        Code::Rule(rule) => out.copy_from_slice(&rule.to_f32()[at..at + columns]),
    }
    if let Some(mask) = &leaf.mask {
        for (n, value) in out.iter_mut().enumerate() {
            if !mask.keeps(at + n) {
                *value = 0.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{Codebook, Dtype, Grid, Mask, Rule};

    fn looked_up(weight: Weight, ids: &[u32]) -> Vec<f32> {
        let table = Table::new(weight, &Device::Cpu).unwrap();
        table.rows(ids, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn rows_of_every_code_equal_the_rows_of_the_decoded_matrix() {
        let values: Vec<f32> = (0..12).map(|i| (i as f32 - 6.0) / 4.0).collect();
        let grid = |group: Group, zeros: bool, levels: Option<Vec<f32>>| {
            let count = group.scales([4, 3]).iter().product::<usize>();
            Code::Grid(Grid {
                bits: 2,
                codes: (0..12).map(|i| i as u8 % 4).collect(),
                scales: (1..=count).map(|i| i as f32 * 0.25).collect(),
                zeros: zeros.then(|| (0..count).map(|i| i as u8 % 3).collect()),
                group,
                scale_dtype: Dtype::F32,
                levels: levels.map(Into::into),
            })
        };
        let book = Codebook {
            dim: 3,
            books: vec![vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], vec![0.5; 6]],
            codes: vec![0, 1, 1, 0, 1, 1, 0, 0],
            scales: vec![1.0, 2.0, 3.0, 4.0],
            dtype: Dtype::F32,
        };
        let codes = [
            Code::Float(Floats::from_f32(values.clone(), Dtype::F32)),
            Code::Float(Floats::from_f32(values.clone(), Dtype::F16)),
            Code::Float(Floats::from_f32(values.clone(), Dtype::Bf16)),
            Code::Float(Floats::from_f32(values, Dtype::F8E4m3)),
            grid(Group::Tensor, true, None),
            grid(Group::Channel, false, None),
            grid(Group::Columns(2), true, None),
            grid(Group::Columns(2), false, Some(vec![-1.0, -0.25, 0.0, 1.0])),
            Code::Codebook(book),
        ];
        for code in codes {
            for mask in [None, Some(Mask::from_bools([4, 3], &std::array::from_fn::<_, 12, _>(|i| i % 5 != 0)))] {
                let leaf = Leaf { shape: [4, 3], code: code.clone(), mask };
                let all = leaf.to_f32();
                let want = [&all[9..12], &all[0..3], &all[9..12]].concat();
                assert_eq!(looked_up(Weight::Leaf(leaf), &[3, 0, 3]), want, "{code:?}");
            }
        }
    }

    #[test]
    fn rows_of_a_train_are_those_of_its_matrix() {
        let core = |shape: [usize; 2], from: i32| {
            let values = (0..(shape[0] * shape[1]) as i32).map(|i| (i * 5 % 7 + from) as f32).collect();
            Weight::float(shape, Floats::F32(values))
        };
        let cores = vec![core([3, 4], -3), core([4, 2], -2)];
        let weight = Weight::train(Train { shape: [5, 3], rows: vec![3, 2], columns: vec![2, 2], cores });
        let whole = weight.to_f32();
        assert_eq!(looked_up(weight, &[4, 0]), [&whole[12..15], &whole[..3]].concat());
    }

    #[test]
    fn rows_of_products_and_sums_are_multiplied_and_added() {
        // [[1], [2]] times [[1, -1]], plus a diagonal of 10 and 20: rows [11, -1] and [2, 18].
        let product = Weight::product(
            Weight::float([2, 1], Floats::F32(vec![1.0, 2.0])),
            Weight::float([1, 2], Floats::F32(vec![1.0, -1.0])),
        );
        let rule = Leaf { shape: [2, 2], code: Code::Rule(Rule::Diagonal(vec![10.0, 20.0])), mask: None };
        let sum = Weight::sum(product, Weight::Leaf(rule));
        assert_eq!(looked_up(sum, &[1, 0]), [2.0, 18.0, 11.0, -1.0]);
    }
}
