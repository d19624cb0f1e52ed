//! Sums of rows of a table, as bags of embeddings are taken.

use crate::cpu::dispatch;

/// Columns whose sums stay in registers.
const COLUMNS: usize = 64;

#[inline(always)]
fn body<T: Copy + Into<f32>>(table: &[T], width: usize, rows: &[u32], factors: Option<&[f32]>, out: &mut [f32]) {
    let factor = |n: usize| factors.map_or(1.0, |factors| factors[n]);
    let (whole, rest) = out.as_chunks_mut::<COLUMNS>();
    let first = COLUMNS * whole.len();
    for (block, out) in whole.iter_mut().enumerate() {
        let mut sums = [0.0f32; COLUMNS];
        for (n, &row) in rows.iter().enumerate() {
            let (x, factor) = (&table[row as usize * width + COLUMNS * block..][..COLUMNS], factor(n));
            for i in 0..COLUMNS {
                // no fused product: the sum is the same on every processor
                sums[i] += factor * x[i].into();
            }
        }
        *out = sums;
    }
    rest.fill(0.0);
    for (n, &row) in rows.iter().enumerate() {
        let (x, factor) = (&table[row as usize * width + first..][..rest.len()], factor(n));
        rest.iter_mut().zip(x).for_each(|(sum, &x)| *sum += factor * x.into());
    }
}

#[inline(always)]
fn f32_body<const FMA: bool>(table: &[f32], width: usize, rows: &[u32], factors: Option<&[f32]>, out: &mut [f32]) {
    body(table, width, rows, factors, out);
}

#[inline(always)]
fn i8_body<const FMA: bool>(table: &[i8], width: usize, rows: &[u32], factors: Option<&[f32]>, out: &mut [f32]) {
    body(table, width, rows, factors, out);
}

dispatch! {
    /// `out = Σ_n factors[n] table[rows[n]]`, in the order of `rows`; every factor is one if there are none. The sum has the
    /// same bits on every processor.
    ///
    /// # Shapes
    /// `table` is `[.., width]`, `factors` as long as `rows`, `out` at most `width`: the first columns.
    ///
    /// # Panics
    /// If a row is beyond the table.
    pub fn sum_rows_f32(table: &[f32], width: usize, rows: &[u32], factors: Option<&[f32]>, out: &mut [f32]) = f32_body
}

dispatch! {
    /// [`sum_rows_f32`] of a table of whole numbers.
    ///
    /// # Panics
    /// If a row is beyond the table.
    pub fn sum_rows_i8(table: &[i8], width: usize, rows: &[u32], factors: Option<&[f32]>, out: &mut [f32]) = i8_body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_added_one_after_the_other() {
        for (width, taken) in [(3, 3), (64, 64), (150, 150), (150, 70), (150, 0)] {
            let table: Vec<f32> = (0..5 * width).map(|i| ((i * 37) % 101) as f32 / 7.0 - 5.0).collect();
            let codes: Vec<i8> = table.iter().map(|x| (x * 9.0) as i8).collect();
            let (rows, factors) = ([4u32, 0, 4, 2], [0.5f32, -2.0, 1.5, 3.25]);
            for factors in [None, Some(&factors[..])] {
                let sum = |value: &dyn Fn(usize) -> f32, column: usize| {
                    let term = |n: usize| factors.map_or(1.0, |f| f[n]) * value(rows[n] as usize * width + column);
                    (0..4).fold(0.0f32, |sum, n| sum + term(n))
                };
                let mut out = vec![f32::NAN; taken];
                sum_rows_f32(&table, width, &rows, factors, &mut out);
                assert_eq!(out, (0..taken).map(|column| sum(&|at| table[at], column)).collect::<Vec<_>>());
                sum_rows_i8(&codes, width, &rows, factors, &mut out);
                assert_eq!(out, (0..taken).map(|column| sum(&|at| f32::from(codes[at]), column)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn no_rows_sum_to_zero() {
        let mut out = [1.0; 70];
        sum_rows_f32(&[1.0; 140], 70, &[], None, &mut out);
        assert_eq!(out, [0.0; 70]);
    }
}
