//! What attention adds to its scores for how far a key is from its query, from a table of buckets of distances.

use brevity_kernels::attention::Bias;
use brevity_model::Relative;
use candle_core::Device;

use crate::error::Result;
use crate::table::Table;

/// The numbers of one layer, for each head and each distance up to the one from which all are alike.
#[derive(Debug)]
pub(crate) struct Added {
    values: Vec<f32>,
    distance: usize,
}

impl Added {
    /// Looks them up in a table `[buckets, heads]`.
    pub fn new(table: &Table, read: &Relative, device: &Device) -> Result<Self> {
        let [buckets, columns] = table.shape();
        let distance = read.distance;
        let rows: Vec<u32> =
            (0..=2 * distance).map(|n| bucket(n as i64 - distance as i64, buckets, distance)).collect();
        let found: Vec<f32> = table.rows(&rows, device)?.flatten_all()?.to_vec1()?; // [distances, columns]
        let of_head = |&column: &u16| found.iter().skip(usize::from(column)).step_by(columns.max(1)).copied();
        Ok(Added { values: read.columns.iter().flat_map(of_head).collect(), distance })
    }

    /// As attention takes them.
    pub fn bias(&self) -> Bias<'_> {
        Bias { values: &self.values, reach: self.distance }
    }
}

/// The bucket of a key so many positions behind its query.
///
/// Half of the buckets are for the query's own key and those before it, half for those behind. Of each half, the first half
/// holds one distance each; the others hold more and more of them up to `distance`, in equal steps of the logarithm, and the
/// last one also all that is further away.
///
/// # Source
/// Raffel et al. 2020 (T5), arXiv:1910.10683, section 2.1. Logarithms are singles, as in the reference implementations:
/// where one is a whole number of steps, rounding decides.
fn bucket(behind: i64, buckets: usize, distance: usize) -> u32 {
    let half = buckets / 2;
    let side = if behind > 0 { half } else { 0 };
    let (away, exact) = (behind.unsigned_abs() as usize, half / 2);
    let own = if away < exact {
        away
    } else {
        let share = (away as f32 / exact as f32).ln() / (distance as f64 / exact as f64).ln() as f32;
        (exact + (share * (half - exact) as f32) as usize).min(half - 1)
    };
    (side + own) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use brevity_model::{Floats, Weight};

    #[test]
    fn buckets_begin_where_those_of_the_reference_do() {
        // The first distance of each bucket, from transformers' MPNetEncoder.relative_position_bucket.
        let firsts = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        let expected = |away: usize| firsts.iter().filter(|first| **first <= away).count() as u32 - 1;
        for away in 0..300 {
            assert_eq!(bucket(-(away as i64), 32, 128), expected(away), "{away} before");
            if away > 0 {
                assert_eq!(bucket(away as i64, 32, 128), 16 + expected(away), "{away} behind");
            }
        }
    }

    #[test]
    fn heads_read_their_columns() {
        // Four buckets: the query's own key and those before, then those behind.
        let table = Weight::float([4, 2], Floats::F32(vec![0.0, 10.0, 1.0, 11.0, 2.0, 12.0, 3.0, 13.0]));
        let table = Table::new(table, &Device::Cpu).unwrap();
        let read = Relative { columns: vec![1, 0, 1], distance: 2 };
        let added = Added::new(&table, &read, &Device::Cpu).unwrap();
        let of = |base: f32| [1.0, 1.0, 0.0, 3.0, 3.0].map(|x| x + base);
        assert_eq!(added.bias().values, [of(10.0), of(0.0), of(10.0)].concat());
    }
}
