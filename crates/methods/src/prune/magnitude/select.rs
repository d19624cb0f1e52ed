//! Choosing the smallest entries exactly: the count is met, ties go in order.

use rayon::prelude::*;

/// The bits of `|x|`, which order as the magnitudes do.
pub(super) fn bits(x: f32) -> u32 {
    x.to_bits() & 0x7FFF_FFFF
}

/// Clears `keep` for the smallest entries until `count` are cleared in all; the first of equal ones go first.
pub(super) fn smallest(w: &[f32], keep: &mut [bool], count: usize) {
    let kept = keep.iter().filter(|&&k| k).count();
    let Some(remove) = count.checked_sub(w.len() - kept).filter(|&n| n > 0) else { return };
    let mut order: Vec<u32> = w.iter().zip(&*keep).filter(|(_, k)| **k).map(|(&x, _)| bits(x)).collect();
    let (below, &mut cut, _) = order.select_nth_unstable(remove - 1);
    let smaller = below.iter().filter(|&&b| b < cut).count();
    self::below(w, keep, cut, remove - smaller);
}

/// Clears `keep` where magnitudes have bits below `cut`, and for the first `ties` that have exactly these.
pub(super) fn below(w: &[f32], keep: &mut [bool], cut: u32, mut ties: usize) {
    for (&x, keep) in w.iter().zip(keep).filter(|(_, keep)| **keep) {
        if bits(x) < cut {
            *keep = false;
        } else if bits(x) == cut && ties > 0 {
            ties -= 1;
            *keep = false;
        }
    }
}

/// [`smallest`] in each row.
pub(super) fn smallest_of_rows(w: &[f32], keep: &mut [bool], columns: usize, count: usize) {
    w.par_chunks(columns).zip(keep.par_chunks_mut(columns)).for_each(|(w, keep)| smallest(w, keep, count));
}

/// Clears the `removed` smallest of each whole run of `of` entries of a row.
pub(super) fn smallest_of_runs(w: &[f32], keep: &mut [bool], columns: usize, removed: usize, of: usize) {
    w.par_chunks(columns).zip(keep.par_chunks_mut(columns)).for_each(|(w, keep)| {
        let mut order = Vec::with_capacity(of);
        for (w, keep) in w.chunks_exact(of).zip(keep.chunks_exact_mut(of)) {
            order.clear();
            order.extend(0..of);
            // What is removed already comes first and counts.
            order.sort_by_key(|&n| (keep[n], bits(w[n]), n));
            order[..removed].iter().for_each(|&n| keep[n] = false);
        }
    });
}
