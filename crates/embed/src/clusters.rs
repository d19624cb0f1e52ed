//! Centroids of points: k-means.

use brevity_kernels::matmul::{Dims, matmul_nt_f32};
use brevity_kernels::nearest::nearest;
use rayon::prelude::*;

use crate::random::{Random, below, unit};

/// Seeds that lie apart, drawn by k-means++: each next is a point drawn by its squared distance to those before.
///
/// # Shapes
/// `points` is `[n, dims]` with `n >= count`; the result is `[count, dims]`.
///
/// # Cost
/// `n * count * dims`, on the calling thread.
///
/// # Source
/// Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
pub(crate) fn spread(points: &[f32], dims: usize, count: usize, random: &mut Random) -> Vec<f32> {
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

/// Finds for each point the nearest centroid and how far it is, squared: points, dims, centroids, places, distances.
pub(crate) type Assign = fn(&[f32], usize, &[f32], &mut [u32], &mut [f32]);

/// On the calling thread, for points of few dimensions.
pub(crate) const NARROW: Assign = nearest;

/// By products of matrices, on all threads, for points of many dimensions. Distances are off by rounding, which tells centroids that
/// are nearly equal apart by chance, but always by the same.
pub(crate) fn wide(points: &[f32], dims: usize, centroids: &[f32], place: &mut [u32], distance: &mut [f32]) {
    let square = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>();
    let count = centroids.len() / dims;
    let own: Vec<f32> = centroids.chunks_exact(dims).map(square).collect();
    let mut dots = vec![0.0; BLOCK * count];
    let parts = place.chunks_mut(BLOCK).zip(distance.chunks_mut(BLOCK));
    for (points, (place, distance)) in points.chunks(BLOCK * dims).zip(parts) {
        let dots = &mut dots[..place.len() * count];
        matmul_nt_f32(Dims { m: place.len(), k: dims, n: count }, points, centroids, dots);
        let rows = points.par_chunks_exact(dims).zip(dots.par_chunks_exact(count));
        rows.zip(place.par_iter_mut().zip(distance)).for_each(|((point, dots), (place, distance))| {
            let (mut best, mut least) = (0, f32::INFINITY);
            for (c, (dot, own)) in dots.iter().zip(&own).enumerate() {
                let from = own - 2.0 * dot;
                if from < least {
                    (best, least) = (c, from);
                }
            }
            (*place, *distance) = (best as u32, (square(point) + least).max(0.0));
        });
    }
}

/// Points that [`wide`] multiplies at once.
const BLOCK: usize = 512;

/// Moves centroids to the means of the points nearest to them, `rounds` times or until nothing changes.
///
/// A centroid without points moves to the point that is farthest from its own. Sums are taken on the calling thread in one
/// order, so the result depends on nothing else.
pub(crate) fn refine(points: &[f32], dims: usize, centroids: &mut [f32], rounds: usize, assign: Assign) {
    let (rows, count) = (points.len() / dims, centroids.len() / dims);
    let (mut place, mut distance) = (vec![0u32; rows], vec![0.0f32; rows]);
    let mut before = Vec::new();
    for _ in 0..rounds {
        assign(points, dims, centroids, &mut place, &mut distance);
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
        let mut found = spread(&points, 1, 4, &mut Random::seed_from_u64(1));
        refine(&points, 1, &mut found, 10, NARROW);
        found.sort_by(f32::total_cmp);
        for (found, centre) in found.iter().zip(centres) {
            assert!((found - centre - 0.095).abs() < 1e-5, "{found}");
        }
    }

    #[test]
    fn as_many_clusters_as_points_are_the_points() {
        let points = [3.0, 1.0, 2.0, 5.0];
        let mut found = spread(&points, 1, 4, &mut Random::seed_from_u64(2));
        refine(&points, 1, &mut found, 10, NARROW);
        found.sort_by(f32::total_cmp);
        assert_eq!(found, [1.0, 2.0, 3.0, 5.0]);
    }

    #[test]
    fn both_ways_find_the_same_nearest() {
        let mut random = Random::seed_from_u64(4);
        let points = crate::random::normals(&mut random, 1100 * 12);
        let centroids = points[..12 * 40].to_vec();
        let find = |assign: Assign| {
            let (mut place, mut distance) = (vec![9; 1100], vec![f32::NAN; 1100]);
            assign(&points, 12, &centroids, &mut place, &mut distance);
            (place, distance)
        };
        let ((want, far), (found, near)) = (find(NARROW), find(wide));
        assert_eq!(found, want);
        assert!(far.iter().zip(near).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    #[test]
    fn equal_points_make_equal_clusters() {
        let mut found = spread(&[4.0; 20], 2, 5, &mut Random::seed_from_u64(3));
        refine(&[4.0; 20], 2, &mut found, 3, NARROW);
        assert_eq!(found, [4.0; 10]);
    }

    #[test]
    fn an_empty_cluster_takes_the_farthest_point() {
        // both centroids begin at the same place, so the second has no points
        let mut centroids = [0.0, 0.0];
        refine(&[0.0, 0.2, 9.0], 1, &mut centroids, 5, NARROW);
        assert_eq!(centroids, [0.1, 9.0]);
    }
}
