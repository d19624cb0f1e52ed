//! Comparing two sets of embeddings of the same samples by what each says of the samples among themselves.

use brevity_kernels::matmul::{Dims, matmul_nt_f32};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Embeddings;
use crate::random::{Random, SeedableRng, below};
use crate::rows::{first, unit_rows};
use crate::stats::{Estimate, mean_of, spearman};
use crate::sts::cosine;

/// What embeddings are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Samples that others are described by; never more than a third of all.
    pub anchors: usize,
    /// Nearest neighbours of a sample.
    pub neighbours: usize,
    /// Of the draw of anchors.
    pub seed: u64,
}

impl Default for Choice {
    /// 300 anchors and 10 neighbours.
    fn default() -> Self {
        Choice { anchors: 300, neighbours: 10, seed: 0 }
    }
}

/// How much alike two models find the same samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Representation {
    /// Samples that were compared, anchors left out.
    pub samples: usize,
    /// Anchors.
    pub anchors: usize,
    /// Neighbours of each sample.
    pub neighbours: usize,
    /// The overlap of neighbours that unrelated embeddings would have, about.
    pub overlap_by_chance: f64,
    /// Of embeddings as they are.
    pub plain: Alikeness,
    /// Of embeddings without their mean. Most models have a common direction that makes all texts alike, so this says
    /// more.
    pub centred: Alikeness,
}

/// Scores that are 1 if both models find the same samples alike.
///
/// The relative representation of a sample is the list of its cosines with the anchors.
///
/// # Source
/// Moschella et al. 2023, arXiv:2209.15430: relative representations, and their cosine, Jaccard and MRR.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alikeness {
    /// The mean cosine of the relative representations of a sample.
    pub relative_cosine: Estimate,
    /// The mean overlap (Jaccard) of the nearest neighbours of a sample in relative space.
    pub relative_overlap: Estimate,
    /// The mean of one over the rank that the nearest neighbour before has after, in relative space.
    pub relative_mrr: Estimate,
    /// The mean of one over the rank of a sample after among all that are near to where it was before, in relative
    /// space: whether models can be exchanged.
    pub exchange_mrr: Estimate,
    /// The overlap of nearest neighbours in the models' own spaces.
    pub overlap: Estimate,
    /// The rank of nearest neighbours in the models' own spaces, as [`Alikeness::relative_mrr`].
    pub mrr: Estimate,
    /// Spearman's correlation of the cosines of all pairs of samples; none if all are equal.
    pub spearman: Option<f64>,
}

/// Compares embeddings of the same samples. `None` if there are too few: more than three times the neighbours are
/// needed.
///
/// # Cost
/// All pairs of samples: with 2,000 samples about a second.
///
/// # Panics
/// If there are not as many samples before as after.
pub fn representation(before: &Embeddings, after: &Embeddings, choice: &Choice) -> Option<Representation> {
    let all = before.samples();
    assert_eq!(all, after.samples(), "both have all samples");
    let anchors = choice.anchors.min(all / 3);
    let others = all - anchors;
    if choice.neighbours == 0 || others <= 2 * choice.neighbours || anchors == 0 {
        return None;
    }
    let order = shuffled(all, choice.seed);
    let (anchor_of, sample_of) = order.split_at(anchors);
    let alike = |centre: bool| {
        let [before, after] = [before, after].map(|embeddings| {
            let unit =
                unit_rows(&if centre { centred(embeddings) } else { embeddings.values.clone() }, embeddings.width);
            let pick = |rows: &[usize]| -> Vec<f32> {
                rows.iter().flat_map(|row| &unit[row * embeddings.width..][..embeddings.width]).copied().collect()
            };
            Space::new(&pick(sample_of), &pick(anchor_of), embeddings.width)
        });
        alikeness(&before, &after, anchors, choice.neighbours)
    };
    let k = choice.neighbours as f64;
    Some(Representation {
        samples: others,
        anchors,
        neighbours: choice.neighbours,
        // k of n neighbours twice: k² / n are shared.
        overlap_by_chance: k / (2.0 * (others as f64 - 1.0) - k),
        plain: alike(false)?,
        centred: alike(true)?,
    })
}

/// Samples as one model sees them.
struct Space {
    samples: usize,
    /// Cosines of all pairs of samples.
    pairs: Vec<f32>,
    /// Cosines with the anchors, `[samples, anchors]`, each row divided by its length.
    relative: Vec<f32>,
    /// Cosines of all pairs of relative representations.
    relative_pairs: Vec<f32>,
}

impl Space {
    /// From rows of length one.
    fn new(samples: &[f32], anchors: &[f32], width: usize) -> Space {
        let count = samples.len() / width;
        let relative = unit_rows(&products(samples, anchors, width), anchors.len() / width);
        let relative_pairs = products(&relative, &relative, anchors.len() / width);
        Space { samples: count, pairs: products(samples, samples, width), relative, relative_pairs }
    }
}

fn alikeness(before: &Space, after: &Space, anchors: usize, neighbours: usize) -> Option<Alikeness> {
    let rows = |space: &Space| space.relative.chunks(anchors).map(<[f32]>::to_vec).collect::<Vec<_>>();
    let cosines: Vec<f64> = rows(before).iter().zip(&rows(after)).map(|(a, b)| cosine(a, b)).collect();
    let (relative_overlap, relative_mrr) =
        near(&before.relative_pairs, &after.relative_pairs, before.samples, neighbours)?;
    let (overlap, mrr) = near(&before.pairs, &after.pairs, before.samples, neighbours)?;
    let exchange = products(&before.relative, &after.relative, anchors);
    let own: Vec<f64> =
        exchange.chunks(before.samples).enumerate().map(|(n, row)| 1.0 / rank(row, n, None) as f64).collect();
    let above = |pairs: &[f32]| -> Vec<f64> {
        let n = before.samples;
        (0..n).flat_map(|i| pairs[i * n..][i + 1..n].iter().map(|&x| f64::from(x))).collect()
    };
    Some(Alikeness {
        relative_cosine: mean_of(&cosines)?,
        relative_overlap,
        relative_mrr,
        exchange_mrr: mean_of(&own)?,
        overlap,
        mrr,
        spearman: spearman(&above(&before.pairs), &above(&after.pairs)),
    })
}

/// The overlap of nearest neighbours, and one over the rank after of the nearest before, from the cosines of all pairs.
fn near(before: &[f32], after: &[f32], samples: usize, neighbours: usize) -> Option<(Estimate, Estimate)> {
    let one = |n: usize| -> (f64, f64) {
        let row = |pairs: &[f32]| -> Vec<f32> {
            let mut row = pairs[n * samples..][..samples].to_vec();
            row[n] = f32::NEG_INFINITY; // not a neighbour of itself
            row
        };
        let (before, after) = (row(before), row(after));
        let (old, new) = (first(&before, neighbours), first(&after, neighbours));
        let shared = old.iter().filter(|n| new.contains(n)).count() as f64;
        (shared / (2.0 * neighbours as f64 - shared), 1.0 / rank(&after, old[0], Some(n)) as f64)
    };
    let (overlaps, ranks): (Vec<f64>, Vec<f64>) = (0..samples).into_par_iter().map(one).unzip();
    Some((mean_of(&overlaps)?, mean_of(&ranks)?))
}

/// One more than how many values are larger than one of them. Products of the same vectors may differ in their last
/// bits, so what is larger by less does not count.
fn rank(values: &[f32], at: usize, without: Option<usize>) -> usize {
    let larger = |(n, &value): (usize, &f32)| Some(n) != without && value > values[at] + 1e-6;
    1 + values.iter().enumerate().filter(|&pair| larger(pair)).count()
}

/// `a bᵀ`.
fn products(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    let (m, n) = (a.len() / width, b.len() / width);
    let mut out = vec![0.0; m * n];
    matmul_nt_f32(Dims { m, k: width, n }, a, b, &mut out);
    out
}

fn centred(embeddings: &Embeddings) -> Vec<f32> {
    let mean = super::mean_row(&embeddings.values, embeddings.width);
    embeddings.values.iter().enumerate().map(|(at, x)| x - mean[at % embeddings.width]).collect()
}

/// All numbers below `count` in an order drawn by a seed (Fisher and Yates).
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut random = Random::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        order.swap(i, below(&mut random, i + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(samples: usize, width: usize, seed: u64) -> Embeddings {
        let mut random = Random::seed_from_u64(seed);
        let mut uniform = || below(&mut random, 1 << 20) as f32 / (1 << 20) as f32 - 0.5;
        Embeddings {
            width,
            values: (0..samples * width).map(|_| (0..4).map(|_| uniform()).sum::<f32>() + 1.0).collect(),
        }
    }

    fn all(alike: &Alikeness) -> [f64; 7] {
        [
            alike.relative_cosine.value,
            alike.relative_overlap.value,
            alike.relative_mrr.value,
            alike.exchange_mrr.value,
            alike.overlap.value,
            alike.mrr.value,
            alike.spearman.unwrap(),
        ]
    }

    #[test]
    fn a_rotation_a_factor_and_more_width_change_nothing() {
        let before = noise(300, 4, 1);
        // Two planes turned, doubled, and a column of zeros put in.
        let turned = |r: &[f32]| {
            let (c, s) = (0.6, 0.8);
            [c * r[0] - s * r[1], s * r[0] + c * r[1], 0.0, s * r[2] - c * r[3], c * r[2] + s * r[3]].map(|x| 2.0 * x)
        };
        let after = Embeddings { width: 5, values: before.values.chunks(4).flat_map(turned).collect() };
        let found = representation(&before, &after, &Choice::default()).unwrap();
        assert_eq!((found.samples, found.anchors), (200, 100));
        for score in all(&found.plain).into_iter().chain(all(&found.centred)) {
            // Rounding may exchange neighbours that are as near.
            assert!(score > 0.998, "{found:?}");
        }
        let same = representation(&before, &before, &Choice::default()).unwrap();
        assert!(all(&same.centred).iter().all(|score| *score > 1.0 - 1e-6), "{same:?}");
    }

    #[test]
    fn unrelated_embeddings_agree_by_chance() {
        let found = representation(&noise(450, 16, 1), &noise(450, 24, 2), &Choice::default()).unwrap();
        let near =
            |estimate: Estimate| (estimate.value - found.overlap_by_chance).abs() < 5.0 * estimate.error.unwrap();
        assert!(near(found.centred.overlap) && near(found.centred.relative_overlap), "{found:?}");
        assert!(found.centred.spearman.unwrap().abs() < 0.05, "{found:?}");
        // 1 + 1/2 + .. + 1/300, by 300.
        assert!(found.centred.exchange_mrr.value < 0.06, "{found:?}");
        // A common direction makes everything alike: what centring is for.
        assert!(found.plain.relative_cosine.value > found.centred.relative_cosine.value + 0.3, "{found:?}");
    }

    #[test]
    fn more_noise_is_less_alike() {
        let before = noise(300, 16, 1);
        let found = [0.0, 0.05, 0.3, 1.0].map(|part| {
            let values =
                before.values.iter().zip(noise(300, 16, 2).values).map(|(x, noise)| x + part * noise).collect();
            representation(&before, &Embeddings { width: 16, values }, &Choice::default()).unwrap().centred
        });
        let scores: Vec<[f64; 7]> = found.iter().map(all).collect();
        assert!((0..7).all(|n| scores.windows(2).all(|two| two[0][n] >= two[1][n])), "{scores:?}");
    }

    #[test]
    fn a_few_samples_say_nothing() {
        assert_eq!(representation(&noise(29, 4, 1), &noise(29, 4, 1), &Choice::default()), None);
        assert_eq!(shuffled(5, 0).len(), 5);
        assert_ne!(shuffled(50, 0), shuffled(50, 1));
    }
}
