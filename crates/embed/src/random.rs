//! Random numbers that are the same everywhere and in every version: ChaCha8.

use chacha20::rand_core::Rng;

pub(crate) use chacha20::ChaCha8Rng as Random;
pub(crate) use chacha20::rand_core::SeedableRng;

/// A number below `n`: the high half of a product.
pub(crate) fn below(random: &mut Random, n: usize) -> usize {
    ((u128::from(random.next_u64()) * n as u128) >> 64) as usize
}

/// So many of `n` numbers, from zero on, each drawn at most once, in the order they were drawn.
pub(crate) fn drawn(random: &mut Random, n: usize, count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in 0..count {
        order.swap(i, i + below(random, n - i));
    }
    order.truncate(count);
    order
}

/// A number from zero to below one.
pub(crate) fn unit(random: &mut Random) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Numbers of the normal distribution, by the method of Box and Muller.
pub(crate) fn normals(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let (radius, angle) = (1.0 - unit(random), unit(random));
            ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_drawn_at_most_once() {
        let mut found = drawn(&mut Random::seed_from_u64(5), 30, 30);
        assert_ne!(found, (0..30).collect::<Vec<_>>());
        found.sort_unstable();
        assert_eq!(found, (0..30).collect::<Vec<_>>());
        assert_eq!(drawn(&mut Random::seed_from_u64(5), 30, 7).len(), 7);
    }

    #[test]
    fn normal_numbers_have_their_mean_and_variance() {
        let numbers = normals(&mut Random::seed_from_u64(1), 40_000);
        let mean = numbers.iter().sum::<f32>() / 40_000.0;
        let variance = numbers.iter().map(|x| x * x).sum::<f32>() / 40_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
