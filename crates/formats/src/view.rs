//! Taking rows of a weight, and turning it round.

use std::ops::Range;

use brevity_model::{Code, Expr, Floats, Grid, Group, Leaf, Mask, Rule, View, Weight};

/// Why a part of a coded tensor cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ViewFault {
    /// The view asks for more than there is.
    #[error("rows {start}..{end} of {rows} were asked for")]
    Rows {
        /// First row asked for.
        start: usize,
        /// The row behind the last one.
        end: usize,
        /// Rows there are.
        rows: usize,
    },
    /// The result is not what the caller counts on.
    #[error("the part is {got:?}, where {wanted:?} was expected")]
    Shape {
        /// The shape of the part.
        got: [usize; 2],
        /// The shape that was expected.
        wanted: [usize; 2],
    },
    /// A grid whose scales run along rows cannot be read transposed.
    #[error("its scales are shared along rows, so it cannot be read transposed")]
    TransposedGrid,
    /// Codebooks code runs of columns.
    #[error("a codebook cannot be read transposed")]
    TransposedCodebook,
    /// A matrix given by a rule has no part that the same rule gives.
    #[error("it is given by a rule, so only the whole of it can be read")]
    Rule,
}

/// What a view selects, as a matrix of `shape` stored entries.
pub(crate) struct Selection {
    /// `[rows, columns]` of the result.
    pub shape: [usize; 2],
    /// The stored matrix is read transposed.
    pub transposed: bool,
    /// Rows of the (transposed) matrix, in order.
    pub rows: Vec<Range<usize>>,
    /// Ranges are entries of a lone row.
    pub entries: bool,
}

impl Selection {
    /// What `view` selects of a matrix of shape `stored` if the result has shape `wanted`.
    ///
    /// A vector is one row, and ranges are entries of it; the expected shape tells it from a matrix of one row.
    pub fn new(stored: [usize; 2], view: &View, wanted: [usize; 2]) -> Result<Self, ViewFault> {
        let [mut rows, mut columns] = stored;
        if view.transposed {
            std::mem::swap(&mut rows, &mut columns);
        }
        let taken = view.rows.clone().unwrap_or_else(|| std::iter::once(0..rows).collect());
        let count = taken.iter().map(|range| range.len()).sum::<usize>();
        // A matrix of one row from which that row is taken looks like a vector from which one entry is.
        let whole_row = taken.len() == 1 && taken[0] == (0..1) && wanted[1] == columns;
        let entries = rows == 1 && view.rows.is_some() && wanted == [1, count] && !whole_row;
        let limit = if entries { columns } else { rows };
        if let Some(range) = taken.iter().find(|range| range.start > range.end || range.end > limit) {
            return Err(ViewFault::Rows { start: range.start, end: range.end, rows: limit });
        }
        let shape = if entries { [1, count] } else { [count, columns] };
        if shape != wanted {
            return Err(ViewFault::Shape { got: shape, wanted });
        }
        Ok(Selection { shape, transposed: view.transposed, rows: taken, entries })
    }

    /// The selected entries as runs of neighbours, counted row by row in the stored matrix of so many columns; `None`
    /// if it is read transposed.
    pub fn runs(&self, columns: usize) -> Option<Vec<Range<usize>>> {
        let width = if self.entries { 1 } else { columns };
        (!self.transposed).then(|| self.rows.iter().map(|range| range.start * width..range.end * width).collect())
    }

    /// The selected entries of a matrix of shape `stored`, whose entry `i`, counted row by row, is `at(i)`.
    pub fn gather<T: Copy + Default>(&self, stored: [usize; 2], at: impl Fn(usize) -> T) -> Vec<T> {
        let [height, width] = stored;
        if let Some(runs) = self.runs(width) {
            return runs.into_iter().flatten().map(at).collect();
        }
        if self.entries {
            return self.rows.iter().cloned().flatten().map(at).collect();
        }
        // Columns become rows. Strips of columns keep both sides in cache.
        const STRIP: usize = 32;
        let mut out = vec![T::default(); self.shape[0] * self.shape[1]];
        let columns: Vec<usize> = self.rows.iter().cloned().flatten().collect();
        for (strip, columns) in out.chunks_mut((STRIP * height).max(1)).zip(columns.chunks(STRIP)) {
            for row in 0..height {
                columns.iter().enumerate().for_each(|(n, column)| strip[n * height + row] = at(row * width + column));
            }
        }
        out
    }

    /// The selected entries of `values`, a matrix of shape `stored`.
    pub fn take<T: Copy + Default>(&self, stored: [usize; 2], values: &[T]) -> Vec<T> {
        match self.runs(stored[1]) {
            Some(runs) => runs.into_iter().flat_map(|run| &values[run]).copied().collect(),
            None => self.gather(stored, |i| values[i]),
        }
    }
}

/// The part of a weight that a view names, of shape `wanted`.
pub(crate) fn of_weight(weight: Weight, view: &View, wanted: [usize; 2]) -> Result<Weight, ViewFault> {
    if view.is_whole() {
        let got = weight.shape();
        return if got == wanted { Ok(weight) } else { Err(ViewFault::Shape { got, wanted }) };
    }
    Ok(match weight {
        Expr::Leaf(leaf) => Expr::Leaf(of_leaf(&leaf, view, wanted)?),
        Expr::Sum(ab) => {
            let [a, b] = *ab;
            Weight::sum(of_weight(a, view, wanted)?, of_weight(b, view, wanted)?)
        }
        Expr::Product(ab) => {
            let [a, b] = *ab;
            // (A B)ᵀ = Bᵀ Aᵀ, and rows of a product are rows of its first factor.
            let (first, second) = if view.transposed { (b, a) } else { (a, b) };
            let inner = if view.transposed { first.shape()[0] } else { first.shape()[1] };
            let turned = View { transposed: view.transposed, rows: None };
            let second = of_weight(second, &turned, [inner, wanted[1]])?;
            Weight::product(of_weight(first, view, [wanted[0], inner])?, second)
        }
        // The rows of a train are spread over all of its cores.
        Expr::Train(train) => {
            let whole = Leaf::float(train.shape, Floats::F32(train.to_f32()));
            Expr::Leaf(of_leaf(&whole, view, wanted)?)
        }
    })
}

fn of_leaf(leaf: &Leaf, view: &View, wanted: [usize; 2]) -> Result<Leaf, ViewFault> {
    let part = Selection::new(leaf.shape, view, wanted)?;
    let code = match &leaf.code {
        Code::Float(floats) => Code::Float(of_floats(floats, leaf.shape, &part)),
        Code::Grid(grid) => Code::Grid(of_grid(grid, leaf.shape, &part)?),
        Code::Codebook(book) => {
            if part.transposed || part.entries {
                return Err(ViewFault::TransposedCodebook);
            }
            let mut book = book.clone();
            let runs = [leaf.shape[0], leaf.shape[1] / book.dim * book.books.len()];
            book.codes = part.take(runs, &book.codes);
            book.scales = part.take([leaf.shape[0], 1], &book.scales);
            Code::Codebook(book)
        }
        Code::Rule(rule) => match (view.rows.is_none(), rule) {
            (true, Rule::Diagonal(_) | Rule::Hadamard(_)) => Code::Rule(rule.clone()),
            (true, Rule::Permutation(p)) => {
                let mut inverse = vec![0; p.len()];
                p.iter().enumerate().for_each(|(i, &j)| inverse[j as usize] = i as u32);
                Code::Rule(Rule::Permutation(inverse))
            }
            _ => return Err(ViewFault::Rule),
        },
    };
    let mask = leaf.mask.as_ref().map(|mask| Mask::from_bools(part.shape, &part.take(leaf.shape, &mask.to_bools())));
    Ok(Leaf { shape: part.shape, code, mask })
}

fn of_floats(floats: &Floats, stored: [usize; 2], part: &Selection) -> Floats {
    match floats {
        Floats::F32(v) => Floats::F32(part.take(stored, v)),
        Floats::F16(v) => Floats::F16(part.take(stored, v)),
        Floats::Bf16(v) => Floats::Bf16(part.take(stored, v)),
        Floats::F8E4m3(v) => Floats::F8E4m3(part.take(stored, v)),
    }
}

fn of_grid(grid: &Grid, stored: [usize; 2], part: &Selection) -> Result<Grid, ViewFault> {
    let mut taken = Grid { codes: part.take(stored, &grid.codes), ..grid.clone() };
    if grid.group != Group::Tensor {
        if part.transposed || part.entries {
            return Err(ViewFault::TransposedGrid);
        }
        let table = grid.group.scales(stored);
        taken.scales = part.take(table, &grid.scales);
        taken.zeros = grid.zeros.as_ref().map(|zeros| part.take(table, zeros));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{Dtype, Train};

    fn float(shape: [usize; 2], values: &[f32]) -> Weight {
        Weight::float(shape, Floats::F32(values.to_vec()))
    }

    fn rows(transposed: bool, rows: &[Range<usize>]) -> View {
        View { transposed, rows: Some(rows.to_vec()) }
    }

    #[test]
    fn rows_are_taken_after_turning() {
        // 1 2 3
        // 4 5 6
        let matrix = float([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let part = |view: &View, wanted| of_weight(matrix.clone(), view, wanted).unwrap().to_f32();
        assert_eq!(part(&rows(false, &[1..2]), [1, 3]), [4.0, 5.0, 6.0]);
        assert_eq!(part(&rows(true, &[2..3, 0..1]), [2, 2]), [3.0, 6.0, 1.0, 4.0]);
        assert_eq!(part(&View { transposed: true, rows: None }, [3, 2]), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert!(matches!(
            of_weight(matrix.clone(), &rows(false, &[1..3]), [2, 3]),
            Err(ViewFault::Rows { rows: 2, .. })
        ));
        assert!(matches!(of_weight(matrix, &rows(false, &[1..2]), [2, 3]), Err(ViewFault::Shape { .. })));
    }

    #[test]
    fn ranges_of_a_vector_are_entries() {
        let vector = float([1, 4], &[1.0, 2.0, 3.0, 4.0]);
        let part = |view: &View, wanted| of_weight(vector.clone(), view, wanted).unwrap().to_f32();
        assert_eq!(part(&rows(false, &[2..4, 0..1]), [1, 3]), [3.0, 4.0, 1.0]);
        assert_eq!(part(&rows(false, &[2..4, 0..2]), [1, 4]), [3.0, 4.0, 1.0, 2.0]);
        // The same range of a matrix of one row is that row.
        assert_eq!(part(&rows(false, &[0..1]), [1, 4]), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(part(&rows(false, &[0..1]), [1, 1]), [1.0]);
    }

    #[test]
    fn parts_of_coded_weights_equal_parts_of_their_values() {
        let grid = Leaf {
            shape: [3, 4],
            code: Code::Grid(Grid {
                bits: 2,
                codes: vec![0, 1, 2, 3, 3, 2, 1, 0, 1, 1, 2, 2],
                scales: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                zeros: Some(vec![0, 1, 2, 3, 0, 1]),
                group: Group::Columns(2),
                scale_dtype: Dtype::F32,
                levels: None,
            }),
            mask: Some(Mask::from_bools([3, 4], &[true, false].repeat(6))),
        };
        let low = Weight::product(float([3, 1], &[1.0, 2.0, 3.0]), float([1, 4], &[1.0, 0.0, -1.0, 2.0]));
        let whole = Weight::sum(Expr::Leaf(grid), low.clone());
        let view = rows(false, &[2..3, 0..1]);
        let part = of_weight(whole.clone(), &view, [2, 4]).unwrap();
        let values = whole.to_f32();
        assert_eq!(part.to_f32(), [&values[8..12], &values[0..4]].concat());
        assert_eq!(of_weight(whole, &View { transposed: true, rows: None }, [4, 3]), Err(ViewFault::TransposedGrid));
        let turned = of_weight(low.clone(), &rows(true, &[1..4]), [3, 3]).unwrap();
        let turned_whole = of_weight(float([3, 4], &low.to_f32()), &rows(true, &[1..4]), [3, 3]).unwrap();
        assert_eq!(turned.to_f32(), turned_whole.to_f32());
        let cores = vec![float([3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), float([1, 2], &[1.0, -1.0])];
        let train = Weight::train(Train { shape: [3, 4], rows: vec![3, 1], columns: vec![2, 2], cores });
        let part = of_weight(train.clone(), &rows(false, &[1..3]), [2, 4]).unwrap();
        assert_eq!(part.as_leaf().unwrap().to_f32(), train.to_f32()[4..], "a part of a train is multiplied out");
    }
}
