//! Which of some centroids is nearest to each point.

use crate::cpu::dispatch;

/// Rows of a matrix as columns, so that the distances to neighbouring centroids are computed side by side.
fn columns(centroids: &[f32], dims: usize) -> Vec<f32> {
    let count = centroids.len() / dims;
    (0..dims).flat_map(|d| (0..count).map(move |c| centroids[c * dims + d])).collect()
}

#[inline(always)]
fn body<const FMA: bool>(points: &[f32], dims: usize, columns: &[f32], nearest: &mut [u32], distances: &mut [f32]) {
    let count = columns.len() / dims;
    let mut from = vec![0.0f32; count];
    for (point, (nearest, distance)) in points.chunks_exact(dims).zip(nearest.iter_mut().zip(distances)) {
        from.fill(0.0);
        for (x, column) in point.iter().zip(columns.chunks_exact(count)) {
            for (sum, c) in from.iter_mut().zip(column) {
                let d = x - c;
                *sum = if FMA { d.mul_add(d, *sum) } else { d * d + *sum };
            }
        }
        // the least first and its place after it: both loops are done several at a time
        let least = from.iter().fold(f32::INFINITY, |least, &d| if d < least { d } else { least });
        *nearest = from.iter().position(|&d| d == least).unwrap_or(0) as u32;
        *distance = least;
    }
}

dispatch! {
    fn run(points: &[f32], dims: usize, columns: &[f32], nearest: &mut [u32], distances: &mut [f32]) = body
}

/// The nearest of `centroids` to each of `points` by squared distance, of equals the first, and that distance.
///
/// Each point is looked at alone: its result does not depend on the points beside it.
///
/// # Shapes
/// `points` is `[n, dims]`, `centroids` `[count, dims]` with at least one, `nearest` and `distances` `[n]`.
///
/// # Cost
/// `n * count * dims` on the calling thread. Few dimensions are what it is made for.
pub fn nearest(points: &[f32], dims: usize, centroids: &[f32], nearest: &mut [u32], distances: &mut [f32]) {
    assert!(dims > 0 && !centroids.is_empty() && centroids.len().is_multiple_of(dims), "centroids have their shape");
    assert_eq!(points.len(), nearest.len() * dims, "one place for each point");
    assert_eq!(nearest.len(), distances.len(), "one distance for each point");
    run(points, dims, &columns(centroids, dims), nearest, distances);
}

/// The definition of [`nearest`] for one point: where the least squared distance is, and that.
pub fn nearest_scalar(point: &[f32], centroids: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::INFINITY);
    for (c, centroid) in centroids.chunks_exact(point.len()).enumerate() {
        let distance = point.iter().zip(centroid).map(|(x, c)| (x - c) * (x - c)).sum();
        if distance < best.1 {
            best = (c as u32, distance);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_that_of_the_definition_for_any_shape() {
        // quarters are exact in every order of sums
        let numbers = |n: usize, seed: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + seed) % 101) as f32 / 4.0 - 12.0).collect()
        };
        for (n, dims, count) in [(0, 3, 2), (1, 1, 1), (5, 2, 7), (33, 8, 256), (9, 13, 19)] {
            let (points, centroids) = (numbers(n * dims, 5), numbers(count * dims, 11));
            let (mut place, mut distance) = (vec![0; n], vec![0.0; n]);
            nearest(&points, dims, &centroids, &mut place, &mut distance);
            for (i, point) in points.chunks_exact(dims).enumerate() {
                assert_eq!((place[i], distance[i]), nearest_scalar(point, &centroids), "{n}, {dims}, {count}: {i}");
            }
        }
    }

    #[test]
    fn of_equals_the_first_is_nearest_and_nan_is_near_nothing() {
        let (mut place, mut distance) = ([9; 2], [0.0; 2]);
        nearest(&[0.0, f32::NAN], 1, &[1.0, -1.0, 1.0], &mut place, &mut distance);
        assert_eq!((place, distance), ([0, 0], [1.0, f32::INFINITY]));
    }
}
