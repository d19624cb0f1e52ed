//! Weights as singles, a few rows at a time, so that no large matrix is ever widened whole.

use std::borrow::Cow;
use std::ops::Range;

use brevity_kernels::cast;
use brevity_model::{Code, Expr, Floats, Grid, Group, Leaf, Weight};

/// Entries decoded at once.
const PIECE: usize = 1 << 20;

/// A weight of which rows can be decoded.
pub(crate) struct Rows<'a> {
    shape: [usize; 2],
    kind: Kind<'a>,
}

enum Kind<'a> {
    Leaf(&'a Leaf),
    /// Multiplied out, or decoded, once.
    Whole(Vec<f32>),
}

impl<'a> Rows<'a> {
    /// Floats and grids are decoded where they stand; anything else is decoded whole here.
    pub fn of(weight: &'a Weight) -> Self {
        let kind = match weight {
            Expr::Leaf(leaf) if matches!(leaf.code, Code::Float(_) | Code::Grid(_)) => Kind::Leaf(leaf),
            other => Kind::Whole(other.to_f32()),
        };
        Rows { shape: weight.shape(), kind }
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Some rows.
    pub fn decode(&self, rows: Range<usize>) -> Cow<'_, [f32]> {
        let columns = self.shape[1];
        match &self.kind {
            Kind::Whole(values) => Cow::Borrowed(&values[rows.start * columns..rows.end * columns]),
            Kind::Leaf(leaf) => {
                let mut values = vec![0.0; rows.len() * columns];
                let at = rows.start * columns..rows.end * columns;
                match &leaf.code {
                    Code::Float(floats) => widen(floats, at.clone(), &mut values),
                    Code::Grid(grid) => grid_rows(grid, leaf.shape, rows, &mut values),
                    _ => unreachable!("other codes are decoded whole"),
                }
                if let Some(mask) = &leaf.mask {
                    for (value, _) in values.iter_mut().zip(at).filter(|(_, i)| !mask.keeps(*i)) {
                        *value = 0.0;
                    }
                }
                Cow::Owned(values)
            }
        }
    }

    /// Ranges of rows that cover the matrix, each of a size that is decoded at once. They depend on the shape alone.
    pub fn pieces(&self) -> Vec<Range<usize>> {
        let [rows, columns] = self.shape;
        let at_once = (PIECE / columns.max(1)).max(1);
        (0..rows).step_by(at_once).map(|start| start..rows.min(start + at_once)).collect()
    }
}

fn widen(floats: &Floats, at: Range<usize>, out: &mut [f32]) {
    match floats {
        Floats::F32(v) => out.copy_from_slice(&v[at]),
        Floats::F16(v) => cast::f16_to_f32(&v[at], out),
        Floats::Bf16(v) => cast::bf16_to_f32(&v[at], out),
        Floats::F8E4m3(v) => cast::e4m3_to_f32(&v[at], out),
    }
}

/// Rows of a grid, with the very operations of `Grid::to_f32`.
fn grid_rows(grid: &Grid, [all, columns]: [usize; 2], rows: Range<usize>, out: &mut [f32]) {
    if columns == 0 {
        return;
    }
    let [_, per_row] = grid.group.scales([all, columns]);
    let run = grid.group.columns(columns);
    for (row, out) in rows.zip(out.chunks_mut(columns)) {
        let codes = &grid.codes[row * columns..][..columns];
        for (n, (out, codes)) in out.chunks_mut(run).zip(codes.chunks(run)).enumerate() {
            let at = if grid.group == Group::Tensor { 0 } else { row * per_row + n };
            let scale = grid.scales[at];
            match &grid.levels {
                Some(levels) => out.iter_mut().zip(codes).for_each(|(out, &q)| *out = scale * levels[q as usize]),
                None => {
                    let zero = grid.zeros.as_ref().map_or(1 << (grid.bits - 1), |zeros| zeros[at] as i32);
                    out.iter_mut().zip(codes).for_each(|(out, &q)| *out = scale * (q as i32 - zero) as f32);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{Dtype, Mask};

    fn leaf(shape: [usize; 2], code: Code) -> Leaf {
        Leaf { shape, code, mask: None }
    }

    #[test]
    fn rows_are_those_of_the_whole() {
        let values: Vec<f32> = (0..35).map(|i| i as f32 * 0.25 - 3.0).collect();
        let grid = |group: Group, zeros: bool| {
            let [r, c] = group.scales([5, 7]);
            Code::Grid(Grid {
                bits: 4,
                codes: (0..35).map(|i| (i * 5 % 16) as u8).collect(),
                scales: (0..r * c).map(|i| 0.5 + i as f32).collect(),
                zeros: zeros.then(|| (0..r * c).map(|i| i as u8 % 16).collect()),
                group,
                scale_dtype: Dtype::F32,
                levels: None,
            })
        };
        let mut leaves: Vec<Leaf> = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4m3]
            .map(|dtype| leaf([5, 7], Code::Float(Floats::from_f32(values.clone(), dtype))))
            .into();
        for group in [Group::Tensor, Group::Channel, Group::Columns(3), Group::Columns(7)] {
            leaves.extend([leaf([5, 7], grid(group, false)), leaf([5, 7], grid(group, true))]);
        }
        let keep: Vec<bool> = (0..35).map(|i| i % 4 != 1).collect();
        let masked =
            leaves.clone().into_iter().map(|leaf| Leaf { mask: Some(Mask::from_bools([5, 7], &keep)), ..leaf });
        for leaf in leaves.iter().cloned().chain(masked.collect::<Vec<_>>()) {
            let weight = Weight::Leaf(leaf);
            let (rows, whole) = (Rows::of(&weight), weight.to_f32());
            assert_eq!(*rows.decode(0..5), whole[..]);
            assert_eq!(*rows.decode(2..4), whole[14..28]);
            assert_eq!(rows.decode(3..3).len(), 0);
        }
        let a = Weight::float([5, 1], Floats::F32(values[..5].to_vec()));
        let b = Weight::float([1, 7], Floats::F32(values[..7].to_vec()));
        let product = Weight::product(a, b);
        assert_eq!(*Rows::of(&product).decode(1..2), product.to_f32()[7..14]);
    }
}
