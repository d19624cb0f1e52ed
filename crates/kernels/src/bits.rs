//! Dense bit streams of small codes in 32-bit words.
//!
//! Code `i` of a row occupies bits `i * bits .. (i + 1) * bits` of one long little-endian bit string, and word
//! `w` holds bits `32 w .. 32 w + 32`; a code may straddle two words. Every row starts a new word, and the
//! bits after the last code are zero. For 1, 2, 4 and 8 bits this is "lowest code in the lowest bits".

use crate::cpu::dispatch;
use rayon::prelude::*;

/// Words that hold `codes` codes of `bits` bits.
pub fn words(codes: usize, bits: u32) -> usize {
    (codes * bits as usize).div_ceil(32)
}

/// Packs whole words: `32 / BITS` codes each.
#[inline(always)]
fn pack_even<const BITS: usize>(codes: &[u8], out: &mut [u32]) {
    let per = 32 / BITS;
    let mask = (1u32 << BITS) - 1;
    for (o, c) in out.iter_mut().zip(codes.chunks(per)) {
        let mut w = 0;
        for (i, c) in c.iter().enumerate() {
            w |= (*c as u32 & mask) << (i * BITS);
        }
        *o = w;
    }
}

#[inline(always)]
fn unpack_even<const BITS: usize>(words: &[u32], codes: &mut [u8]) {
    let per = 32 / BITS;
    let mask = (1u32 << BITS) - 1;
    for (w, c) in words.iter().zip(codes.chunks_mut(per)) {
        for (i, c) in c.iter_mut().enumerate() {
            *c = (w >> (i * BITS) & mask) as u8;
        }
    }
}

/// Packs any width; this is the definition.
#[inline(always)]
fn pack_any(codes: &[u8], bits: u32, out: &mut [u32]) {
    let mask = (1u64 << bits) - 1;
    let (mut held, mut have, mut at) = (0u64, 0, 0);
    for c in codes {
        held |= (*c as u64 & mask) << have;
        have += bits;
        if have >= 32 {
            out[at] = held as u32;
            at += 1;
            held >>= 32;
            have -= 32;
        }
    }
    if have > 0 {
        out[at] = held as u32;
    }
}

/// Unpacks any width; this is the definition.
#[inline(always)]
fn unpack_any(words: &[u32], bits: u32, codes: &mut [u8]) {
    let mask = (1u64 << bits) - 1;
    let (mut held, mut have) = (0u64, 0);
    let mut next = words.iter();
    for c in codes {
        if have < bits {
            held |= (*next.next().expect("a word for every 32 bits of codes") as u64) << have;
            have += 32;
        }
        *c = (held & mask) as u8;
        held >>= bits;
        have -= bits;
    }
}

#[inline(always)]
fn pack_body<const FMA: bool>(codes: &[u8], bits: u32, out: &mut [u32]) {
    match bits {
        1 => pack_even::<1>(codes, out),
        2 => pack_even::<2>(codes, out),
        4 => pack_even::<4>(codes, out),
        8 => pack_even::<8>(codes, out),
        _ => pack_any(codes, bits, out),
    }
}

#[inline(always)]
fn unpack_body<const FMA: bool>(words: &[u32], bits: u32, codes: &mut [u8]) {
    match bits {
        1 => unpack_even::<1>(words, codes),
        2 => unpack_even::<2>(words, codes),
        4 => unpack_even::<4>(words, codes),
        8 => unpack_even::<8>(words, codes),
        _ => unpack_any(words, bits, codes),
    }
}

dispatch! { fn pack_row(codes: &[u8], bits: u32, out: &mut [u32]) = pack_body }
dispatch! { fn unpack_row(words: &[u32], bits: u32, codes: &mut [u8]) = unpack_body }

fn check(bits: u32) {
    assert!((1..=8).contains(&bits), "codes have 1 to 8 bits");
}

/// Packs `[rows, cols]` codes into `[rows, words(cols, bits)]`. Bits of a code above `bits` are dropped.
pub fn pack_rows(codes: &[u8], rows: usize, cols: usize, bits: u32) -> Vec<u32> {
    check(bits);
    assert_eq!(codes.len(), rows * cols, "one code per element");
    let width = words(cols, bits);
    let mut out = vec![0; rows * width];
    if width > 0 {
        let many = (1 << 16) / cols + 1;
        out.par_chunks_mut(many * width).zip(codes.par_chunks(many * cols)).for_each(|(out, codes)| {
            for (o, c) in out.chunks_exact_mut(width).zip(codes.chunks_exact(cols)) {
                pack_row(c, bits, o);
            }
        });
    }
    out
}

/// Unpacks `[rows, words(cols, bits)]` into `[rows, cols]` codes.
pub fn unpack_rows(packed: &[u32], rows: usize, cols: usize, bits: u32) -> Vec<u8> {
    check(bits);
    let width = words(cols, bits);
    assert_eq!(packed.len(), rows * width, "every row has its words");
    let mut out = vec![0; rows * cols];
    if width > 0 {
        let many = (1 << 16) / cols + 1;
        out.par_chunks_mut(many * cols).zip(packed.par_chunks(many * width)).for_each(|(out, packed)| {
            for (o, p) in out.chunks_exact_mut(cols).zip(packed.chunks_exact(width)) {
                unpack_row(p, bits, o);
            }
        });
    }
    out
}

/// Packs `[rows, cols]` codes down the columns: `[words(rows, bits), cols]`, as zero points are stored.
pub fn pack_columns(codes: &[u8], rows: usize, cols: usize, bits: u32) -> Vec<u32> {
    assert_eq!(codes.len(), rows * cols, "one code per element");
    let packed = pack_rows(&transpose(codes, rows, cols), cols, rows, bits);
    transpose(&packed, cols, words(rows, bits))
}

/// Unpacks `[words(rows, bits), cols]` into `[rows, cols]` codes.
pub fn unpack_columns(packed: &[u32], rows: usize, cols: usize, bits: u32) -> Vec<u8> {
    assert_eq!(packed.len(), words(rows, bits) * cols, "every column has its words");
    let codes = unpack_rows(&transpose(packed, words(rows, bits), cols), cols, rows, bits);
    transpose(&codes, cols, rows)
}

fn transpose<T: Copy + Default>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    let mut out = vec![T::default(); x.len()];
    for r in 0..rows {
        for c in 0..cols {
            out[c * rows + r] = x[r * cols + c];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(n: usize, bits: u32) -> Vec<u8> {
        (0..n).map(|i| ((i * 7919 + 3) % (1 << bits)) as u8).collect()
    }

    #[test]
    fn packing_and_unpacking_is_the_identity_for_every_width_and_odd_length() {
        for bits in 1..=8 {
            for (rows, cols) in [(0, 4), (4, 0), (1, 1), (3, 31), (5, 33), (2, 577), (300, 1001)] {
                let c = codes(rows * cols, bits);
                let p = pack_rows(&c, rows, cols, bits);
                assert_eq!(p.len(), rows * words(cols, bits));
                assert_eq!(unpack_rows(&p, rows, cols, bits), c);
                let q = pack_columns(&c, rows, cols, bits);
                assert_eq!(q.len(), words(rows, bits) * cols);
                assert_eq!(unpack_columns(&q, rows, cols, bits), c);
            }
        }
    }

    #[test]
    fn the_fast_widths_equal_the_definition() {
        for bits in [1, 2, 4, 8] {
            let c = codes(77, bits);
            let mut want = vec![0; words(77, bits)];
            pack_any(&c, bits, &mut want);
            assert_eq!(pack_rows(&c, 1, 77, bits), want);
        }
    }

    #[test]
    fn the_first_code_is_in_the_lowest_bits_and_codes_straddle_words() {
        assert_eq!(pack_rows(&[1, 2, 3, 4, 5, 6, 7, 8], 1, 8, 4), [0x8765_4321]);
        // eleven 3-bit sevens: 33 one bits
        assert_eq!(pack_rows(&[7; 11], 1, 11, 3), [u32::MAX, 1]);
        // two rows of one column each go into one word per column
        assert_eq!(pack_columns(&[1, 2], 2, 1, 4), [0x21]);
    }
}
