//! Rows of numbers: their directions, and where the largest are.

use rayon::prelude::*;

/// Where the largest values are, largest first.
pub(crate) fn first(values: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let by = |&a: &usize, &b: &usize| values[b].total_cmp(&values[a]).then(a.cmp(&b));
    if k < order.len() {
        order.select_nth_unstable_by(k, by);
        order.truncate(k);
    }
    order.sort_unstable_by(by);
    order
}

/// Rows divided by their lengths; rows of zeros stay.
pub(crate) fn unit_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let mut unit = rows.to_vec();
    unit.par_chunks_mut(width.max(1)).for_each(|row| {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
    });
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_of_equals_the_first() {
        assert_eq!(first(&[1.0, 5.0, 2.0, 5.0, -1.0], 3), [1, 3, 2]);
        assert_eq!(first(&[1.0, 0.0], 9), [0, 1]);
        assert!(first(&[], 3).is_empty());
    }

    #[test]
    fn rows_become_directions_and_zeros_stay() {
        assert_eq!(unit_rows(&[3.0, 4.0, 0.0, 0.0, 0.0, -2.0], 2), [0.6, 0.8, 0.0, 0.0, 0.0, -1.0]);
    }
}
