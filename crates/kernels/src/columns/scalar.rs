//! The definition of the column solver.

use super::block;
use super::tile::mean_magnitude;
use super::{Columns, Fit, Prune, Solved, select};
use crate::grid::{Group, Scales, decode_scalar, encode_scalar, fit_group};

/// The definition of [`Columns::solve`]: one column after the other, in double precision up to the grid. Only
/// [`Prune::Count`] looks at blocks, in which its weights compete.
pub fn solve_scalar(columns: &Columns<'_>, w: &mut [f32], [rows, cols]: [usize; 2], keep: Option<&[bool]>) -> Solved {
    let order: Vec<usize> = columns.factor.order().iter().map(|&i| i as usize).collect();
    let u = |i: usize, j: usize| f64::from(columns.factor.columns()[j * cols + i]);
    let mut now: Vec<f64> = w.iter().map(|&x| f64::from(x)).collect();
    let mut kept = keep.map_or_else(|| vec![true; w.len()], <[bool]>::to_vec);
    let left = kept.iter().filter(|&&k| k).count();
    let (mut passed, mut removed) = (0, 0);
    let mut codes = vec![0u8; w.len()];
    let run = columns.grid.map_or(1, |grid| grid.run(cols));
    let groups = cols.div_ceil(run);
    let (mut scales, mut zeros) = (vec![1.0f32; rows * groups], vec![0u8; rows * groups]);
    if let Some(super::Grid { spec, fit: Fit::Static(fitted) }) = columns.grid {
        for at in 0..rows * groups {
            let from = if spec.group == Group::Tensor { 0 } else { at };
            (scales[at], zeros[at]) = (fitted.scales[from], fitted.zero(spec, from));
        }
    }
    let (mut loss, mut end) = (0.0, 0);
    for j in 0..cols {
        let score = |now: &[f64], row: usize, k: usize| (now[row * cols + order[k]] / u(k, k)).abs();
        if j == end {
            end = block::end(columns, j, cols);
            if let Some(Prune::Count(count)) = columns.prune {
                let mut entries: Vec<(usize, usize)> =
                    (0..rows).flat_map(|row| (j..end).map(move |k| (row, k))).collect();
                entries.retain(|&(row, k)| kept[row * cols + order[k]]);
                passed += entries.len();
                let due = count.saturating_sub(w.len() - left) * passed / left.max(1);
                entries.sort_by(|a, b| score(&now, a.0, a.1).total_cmp(&score(&now, b.0, b.1)));
                entries[..due - removed].iter().for_each(|&(row, k)| kept[row * cols + order[k]] = false);
                removed = due;
            }
        }
        for row in 0..rows {
            if let Some(grid) = columns.grid.filter(|_| columns.is_dynamic() && j.is_multiple_of(run)) {
                let group = row * cols + j..row * cols + (j + run).min(cols);
                let values: Vec<f32> = now[group.clone()].iter().map(|&x| x as f32).collect();
                let at = row * groups + j / run;
                (scales[at], zeros[at]) = match grid.is_sign() {
                    true => (mean_magnitude(&grid, &values, &kept[group]), grid.spec.middle()),
                    false => fit_group(grid.spec, &values, Some(&kept[group])),
                };
            }
            if let Some(Prune::Pattern { removed, of }) = columns.prune
                && j.is_multiple_of(of)
                && j + of <= cols
            {
                let scores: Vec<f32> = (j..j + of).map(|k| score(&now, row, k) as f32).collect();
                select::run(&scores, &mut kept[row * cols + j..][..of], removed, &mut Vec::new());
            }
            let at = row * cols + order[j];
            let group = row * groups + order[j] / run;
            let (x, scale, zero) = (now[at], scales[group], zeros[group]);
            let q = match columns.grid {
                Some(grid) if grid.is_sign() => {
                    codes[at] = u8::from(x >= 0.0 || !kept[at]);
                    f64::from(scale) * if x >= 0.0 { 1.0 } else { -1.0 }
                }
                Some(grid) => {
                    codes[at] = if kept[at] { encode_scalar(x as f32, scale, zero, grid.spec.bits) } else { zero };
                    f64::from(decode_scalar(codes[at], scale, zero))
                }
                None => x,
            };
            let q = if kept[at] { q } else { 0.0 };
            let e = (x - q) / u(j, j);
            loss += e * e;
            now[at] = q;
            (j + 1..cols).for_each(|k| now[row * cols + order[k]] -= e * u(j, k));
        }
    }
    w.iter_mut().zip(&now).for_each(|(w, &x)| *w = x as f32);
    let fitted = columns.grid.filter(|_| columns.is_dynamic());
    Solved {
        codes: columns.grid.map(|_| codes),
        scales: fitted.map(|grid| Scales { scales, zeros: (!grid.spec.symmetric).then_some(zeros) }),
        keep: (keep.is_some() || columns.prune.is_some()).then_some(kept),
        loss,
    }
}
