//! Grids whose levels are a table, scaled by the largest weight of a group.

use super::{Group, ScaleType, check_len, layout};
use crate::cpu::dispatch;
use crate::error::Error;
use rayon::prelude::*;

/// The sixteen levels of NF4: quantiles of the normal distribution with an exact zero (Dettmers et al. 2023,
/// arXiv:2305.14314).
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A table of levels in rising order. A weight is stored as the index of the level nearest to `w / s`, the lower
/// one on a tie, and read back as `s * level`; `s` is the group's largest magnitude over the table's.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels {
    values: Vec<f32>,
    /// Halfway between neighbours.
    middles: Vec<f32>,
    zero: Option<u8>,
    scale: ScaleType,
}

#[inline(always)]
fn encode_body<const FMA: bool>(middles: &[f32], w: &[f32], scale: f32, out: &mut [u8]) {
    if middles.len() <= 32 {
        // counting the boundaries below is vector code; a search is not
        out.fill(0);
        for m in middles {
            for (o, w) in out.iter_mut().zip(w) {
                *o += (w / scale > *m) as u8;
            }
        }
    } else {
        for (o, w) in out.iter_mut().zip(w) {
            let v = w / scale;
            *o = middles.partition_point(|m| v > *m) as u8;
        }
    }
}

dispatch! { fn encode_run(middles: &[f32], w: &[f32], scale: f32, out: &mut [u8]) = encode_body }

impl Levels {
    /// A table and the type its scales are stored in.
    ///
    /// # Errors
    /// [`Error::Levels`] unless there are 2 to 256 finite, strictly rising values, not all zero.
    pub fn new(values: &[f32], scale: ScaleType) -> Result<Self, Error> {
        let rising = values.windows(2).all(|w| w[0] < w[1]);
        if !(2..=256).contains(&values.len()) || !rising || !values.iter().all(|v| v.is_finite()) {
            return Err(Error::Levels { count: values.len() });
        }
        Ok(Levels {
            values: values.to_vec(),
            middles: values.windows(2).map(|w| w[0] / 2.0 + w[1] / 2.0).collect(),
            zero: values.iter().position(|v| *v == 0.0).map(|i| i as u8),
            scale,
        })
    }

    /// The levels.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Bits per code.
    pub fn bits(&self) -> u32 {
        (self.values.len() - 1).ilog2() + 1
    }

    /// One scale per group of a `[rows, cols]` matrix; 1 for a group of zeros. See [`super::fit`].
    ///
    /// # Errors
    /// [`Error::Group`] or [`Error::Length`].
    pub fn fit(
        &self,
        group: Group,
        ragged: bool,
        w: &[f32],
        shape: [usize; 2],
        keep: Option<&[bool]>,
    ) -> Result<Vec<f32>, Error> {
        let l = layout(group, ragged, shape)?;
        check_len("the weights", w.len(), l.rows * l.cols)?;
        if let Some(keep) = keep {
            check_len("the mask", keep.len(), w.len())?;
        }
        let widest = self.values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let one = |i: usize| {
            let (row, g) = (i / l.groups, i % l.groups);
            let range = row * l.cols + g * l.group..row * l.cols + ((g + 1) * l.group).min(l.cols);
            let kept = |j: usize| keep.is_none_or(|k| k[j]);
            let largest = range.filter(|j| kept(*j)).fold(0.0f32, |m, j| m.max(w[j].abs()));
            if largest == 0.0 { 1.0 } else { self.scale.round(largest / widest) }
        };
        Ok((0..l.rows * l.groups).into_par_iter().map(one).collect())
    }

    /// Encodes `[rows, cols]` weights; weights whose `keep` is false get the code of the level zero.
    ///
    /// # Errors
    /// [`Error::NoZeroLevel`] with a mask and no such level; [`Error::Group`] or [`Error::Length`].
    #[allow(clippy::too_many_arguments)]
    pub fn encode(
        &self,
        group: Group,
        ragged: bool,
        scales: &[f32],
        w: &[f32],
        shape: [usize; 2],
        keep: Option<&[bool]>,
        codes: &mut [u8],
    ) -> Result<(), Error> {
        let l = layout(group, ragged, shape)?;
        check_len("the weights", w.len(), l.rows * l.cols)?;
        check_len("the codes", codes.len(), l.rows * l.cols)?;
        check_len("the scales", scales.len(), l.rows * l.groups)?;
        let masked = match keep {
            Some(keep) => {
                check_len("the mask", keep.len(), w.len())?;
                Some((keep, self.zero.ok_or(Error::NoZeroLevel)?))
            }
            None => None,
        };
        if l.cols == 0 {
            return Ok(());
        }
        codes.par_chunks_mut(l.cols).enumerate().for_each(|(r, codes)| {
            for (g, out) in codes.chunks_mut(l.group).enumerate() {
                let at = r * l.cols + g * l.group;
                encode_run(&self.middles, &w[at..at + out.len()], scales[r * l.groups + g], out);
                if let Some((keep, zero)) = masked {
                    for (o, k) in out.iter_mut().zip(&keep[at..]) {
                        *o = if *k { *o } else { zero };
                    }
                }
            }
        });
        Ok(())
    }

    /// Decodes `[rows, cols]` codes: `s * level`.
    ///
    /// # Errors
    /// [`Error::Group`] or [`Error::Length`].
    ///
    /// # Panics
    /// If a code is beyond the table.
    pub fn decode(
        &self,
        group: Group,
        ragged: bool,
        scales: &[f32],
        codes: &[u8],
        shape: [usize; 2],
        out: &mut [f32],
    ) -> Result<(), Error> {
        let l = layout(group, ragged, shape)?;
        check_len("the codes", codes.len(), l.rows * l.cols)?;
        check_len("the weights", out.len(), l.rows * l.cols)?;
        check_len("the scales", scales.len(), l.rows * l.groups)?;
        if l.cols == 0 {
            return Ok(());
        }
        out.par_chunks_mut(l.cols).enumerate().for_each(|(r, out)| {
            for (g, out) in out.chunks_mut(l.group).enumerate() {
                let codes = &codes[r * l.cols + g * l.group..][..out.len()];
                let scale = scales[r * l.groups + g];
                for (o, q) in out.iter_mut().zip(codes) {
                    *o = scale * self.values[*q as usize];
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_level_is_taken_and_the_lower_one_on_a_tie() {
        let levels = Levels::new(&[-1.0, 0.0, 0.5, 1.0], ScaleType::F32).unwrap();
        assert_eq!(levels.bits(), 2);
        let w = [-2.0, -0.9, -1.1, 0.5, 0.51, 2.0, 1.5];
        let scales = levels.fit(Group::Row, false, &w, [1, 7], None).unwrap();
        assert_eq!(scales, [2.0]);
        let (mut q, mut back) = ([0; 7], [0.0; 7]);
        levels.encode(Group::Row, false, &scales, &w, [1, 7], None, &mut q).unwrap();
        assert_eq!(q, [0, 1, 0, 1, 2, 3, 2]);
        levels.decode(Group::Row, false, &scales, &q, [1, 7], &mut back).unwrap();
        assert_eq!(back, [-2.0, 0.0, -2.0, 0.0, 1.0, 2.0, 1.0]);
    }

    #[test]
    fn masked_weights_get_the_zero_level() {
        let nf4 = Levels::new(&NF4, ScaleType::F16).unwrap();
        let (w, keep) = ([3.0, 1.0, 9.0], [true, true, false]);
        let s = nf4.fit(Group::Row, false, &w, [1, 3], Some(&keep)).unwrap();
        assert_eq!(s, [3.0]);
        let mut q = [0; 3];
        nf4.encode(Group::Row, false, &s, &w, [1, 3], Some(&keep), &mut q).unwrap();
        assert_eq!(q, [15, 11, 7]);
        let odd = Levels::new(&[-1.0, 1.0], ScaleType::F32).unwrap();
        let e = odd.encode(Group::Row, false, &s, &w, [1, 3], Some(&keep), &mut q);
        assert_eq!(e, Err(Error::NoZeroLevel));
    }

    #[test]
    fn long_tables_and_short_tables_find_the_same_level() {
        let short: Vec<f32> = (-10..=10).map(|i| i as f32 / 10.0).collect();
        let w: Vec<f32> = (0..999).map(|i| i as f32 / 499.0 - 1.0).collect();
        let levels = Levels::new(&short, ScaleType::F32).unwrap();
        let long: Vec<f32> = (-100..=100).map(|i| i as f32 / 100.0).collect();
        for levels in [levels, Levels::new(&long, ScaleType::F32).unwrap()] {
            let s = levels.fit(Group::Size(100), true, &w, [1, 999], None).unwrap();
            let mut q = vec![0; 999];
            levels.encode(Group::Size(100), true, &s, &w, [1, 999], None, &mut q).unwrap();
            for (i, w) in w.iter().enumerate() {
                let v = w / s[i / 100];
                let nearest = levels.values.iter().map(|l| (l - v).abs()).fold(f32::INFINITY, f32::min);
                assert!(((levels.values[q[i] as usize] - v).abs() - nearest).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn tables_must_rise() {
        for bad in [&[1.0][..], &[1.0, 1.0], &[2.0, 1.0], &[0.0, f32::NAN]] {
            assert_eq!(Levels::new(bad, ScaleType::F32), Err(Error::Levels { count: bad.len() }));
        }
    }
}
