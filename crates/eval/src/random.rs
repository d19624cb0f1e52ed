//! Random numbers that are the same everywhere and in every version: ChaCha8.

use chacha20::rand_core::Rng;

pub(crate) use chacha20::ChaCha8Rng as Random;
pub(crate) use chacha20::rand_core::SeedableRng;

/// A number below `n`: the high half of a product. Its bias is below `n / 2³²`, which nothing here can see.
pub(crate) fn below(random: &mut Random, n: usize) -> usize {
    ((u64::from(random.next_u32()) * n as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_below_and_even() {
        let mut random = Random::seed_from_u64(1);
        let mut counts = [0; 7];
        (0..70_000).for_each(|_| counts[below(&mut random, 7)] += 1);
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }
}
