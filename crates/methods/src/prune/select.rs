//! Choosing the smallest entries exactly: the count is met, ties go in order.
//!
//! What an entry is judged by is a key that orders as its score does: the bits of a magnitude or of a product.

use rayon::prelude::*;

/// The bits of `|x|`, which order as the magnitudes do.
pub(super) fn bits(x: f32) -> u32 {
    x.to_bits() & 0x7FFF_FFFF
}

/// How many of `count` entries a share is: `floor(share * count)`, and exact where the product should be whole.
pub(super) fn share(share: f64, count: usize) -> usize {
    let product = share * count as f64;
    // 0.7 * 10 is a little less than 7 in binary; half a millionth of an entry is below any real setting.
    (product + 5e-7).floor() as usize
}

/// Clears `keep` for the entries with the smallest keys until `count` are cleared in all; the first of equal ones go
/// first.
pub(super) fn smallest<K: Ord + Copy>(key: impl Fn(usize) -> K, keep: &mut [bool], count: usize) {
    let kept = keep.iter().filter(|&&k| k).count();
    let Some(remove) = count.checked_sub(keep.len() - kept).filter(|&n| n > 0) else { return };
    let mut order: Vec<K> = (0..keep.len()).filter(|&n| keep[n]).map(&key).collect();
    let (below, &mut cut, _) = order.select_nth_unstable(remove - 1);
    let smaller = below.iter().filter(|&&b| b < cut).count();
    self::below(key, keep, cut, remove - smaller);
}

/// Clears `keep` where keys are below `cut`, and for the first `ties` that are equal to it.
pub(super) fn below<K: Ord>(key: impl Fn(usize) -> K, keep: &mut [bool], cut: K, mut ties: usize) {
    for (n, keep) in keep.iter_mut().enumerate().filter(|(_, keep)| **keep) {
        let key = key(n);
        if key < cut {
            *keep = false;
        } else if key == cut && ties > 0 {
            ties -= 1;
            *keep = false;
        }
    }
}

/// [`smallest`] in each row.
pub(super) fn smallest_of_rows<K: Ord + Copy>(
    key: impl Fn(usize) -> K + Sync,
    keep: &mut [bool],
    columns: usize,
    count: usize,
) {
    keep.par_chunks_mut(columns).enumerate().for_each(|(row, keep)| smallest(|n| key(row * columns + n), keep, count));
}

/// Clears the `removed` smallest of each whole run of `of` entries of a row.
pub(super) fn smallest_of_runs<K: Ord>(
    key: impl Fn(usize) -> K + Sync,
    keep: &mut [bool],
    columns: usize,
    removed: usize,
    of: usize,
) {
    keep.par_chunks_mut(columns).enumerate().for_each(|(row, keep)| {
        let mut order = Vec::with_capacity(of);
        for (run, keep) in keep.chunks_exact_mut(of).enumerate() {
            order.clear();
            order.extend(0..of);
            // What is removed already comes first and counts.
            order.sort_by_key(|&n| (keep[n], key(row * columns + run * of + n), n));
            order[..removed].iter().for_each(|&n| keep[n] = false);
        }
    });
}
