//! Centroids of points: k-means from well-spread seeds.

use brevity_kernels::nearest::nearest;

use crate::random::{Random, below, unit};

/// Centroids, drawn by k-means++: each next is a point drawn by its squared distance to those before.
///
/// # Shapes
/// `points` is `[n, dims]` with `n >= count`; the result is `[count, dims]`.
///
/// # Source
/// Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
pub(super) fn seeds(points: &[f32], dims: usize, count: usize, random: &mut Random) -> Vec<f32> {
    let rows = points.len() / dims;
    let mut centroids = Vec::with_capacity(count * dims);
    let mut least = vec![f32::INFINITY; rows];
    let mut next = below(random, rows);
    loop {
        let seed = &points[next * dims..][..dims];
        centroids.extend_from_slice(seed);
        if centroids.len() == count * dims {
            return centroids;
        }
        for (least, point) in least.iter_mut().zip(points.chunks_exact(dims)) {
            let distance: f32 = point.iter().zip(seed).map(|(x, c)| (x - c) * (x - c)).sum();
            *least = least.min(distance);
        }
        let total: f64 = least.iter().map(|&d| f64::from(d)).sum();
        let mut left = unit(random) * total;
        // equal points only: any of them
        next = below(random, rows);
        if total > 0.0 {
            for (row, &d) in least.iter().enumerate().filter(|(_, d)| **d > 0.0) {
                next = row; // the last that can be drawn, should rounding leave something
                left -= f64::from(d);
                if left < 0.0 {
                    break;
                }
            }
        }
    }
}

/// Moves centroids to the means of the points nearest to them, `rounds` times or until nothing changes.
///
/// A centroid without points moves to the point that is farthest from its own. The work is done on the calling thread
/// in one order, so the result depends on nothing else.
pub(super) fn refine(points: &[f32], dims: usize, centroids: &mut [f32], rounds: usize) {
    let (rows, count) = (points.len() / dims, centroids.len() / dims);
    let (mut place, mut distance) = (vec![0u32; rows], vec![0.0f32; rows]);
    let mut before = Vec::new();
    for _ in 0..rounds {
        nearest(points, dims, centroids, &mut place, &mut distance);
        if before == place {
            return;
        }
        before.clone_from(&place);
        let (mut sums, mut counts) = (vec![0.0f64; count * dims], vec![0usize; count]);
        for (point, &c) in points.chunks_exact(dims).zip(&place) {
            counts[c as usize] += 1;
            sums[c as usize * dims..][..dims].iter_mut().zip(point).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for (c, centroid) in centroids.chunks_exact_mut(dims).enumerate() {
            if counts[c] == 0 {
                let far = (0..rows).fold(0, |far, row| if distance[row] > distance[far] { row } else { far });
                distance[far] = 0.0;
                centroid.copy_from_slice(&points[far * dims..][..dims]);
            } else {
                let of = counts[c] as f64;
                centroid.iter_mut().zip(&sums[c * dims..]).for_each(|(x, sum)| *x = (sum / of) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::rand_core::SeedableRng;

    #[test]
    fn clusters_that_lie_apart_are_found() {
        let centres = [0.0f32, 10.0, 20.0, 30.0];
        let points: Vec<f32> = (0..80).map(|i| centres[i % 4] + (i / 4) as f32 / 100.0).collect();
        let mut found = seeds(&points, 1, 4, &mut Random::seed_from_u64(1));
        refine(&points, 1, &mut found, 10);
        found.sort_by(f32::total_cmp);
        for (found, centre) in found.iter().zip(centres) {
            assert!((found - centre - 0.095).abs() < 1e-5, "{found}");
        }
    }

    #[test]
    fn as_many_clusters_as_points_are_the_points() {
        let points = [3.0, 1.0, 2.0, 5.0];
        let mut found = seeds(&points, 1, 4, &mut Random::seed_from_u64(2));
        refine(&points, 1, &mut found, 10);
        found.sort_by(f32::total_cmp);
        assert_eq!(found, [1.0, 2.0, 3.0, 5.0]);
    }

    #[test]
    fn equal_points_make_equal_clusters() {
        let mut found = seeds(&[4.0; 20], 2, 5, &mut Random::seed_from_u64(3));
        refine(&[4.0; 20], 2, &mut found, 3);
        assert_eq!(found, [4.0; 10]);
    }

    #[test]
    fn an_empty_cluster_takes_the_farthest_point() {
        // both centroids begin at the same place, so the second has no points
        let mut centroids = [0.0, 0.0];
        refine(&[0.0, 0.2, 9.0], 1, &mut centroids, 5);
        assert_eq!(centroids, [0.1, 9.0]);
    }
}
