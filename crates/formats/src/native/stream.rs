//! Streams of codes: one long string of bits, in bytes.

use brevity_kernels::bits;

/// Codes that are packed at once. A multiple of 32 codes fills whole words, so pieces join without a seam.
const PIECE: usize = 1 << 16;

/// Bytes of a stream of `count` codes.
pub(super) fn bytes(count: usize, bits: u32) -> usize {
    ((count as u64 * u64::from(bits)).div_ceil(8)) as usize
}

/// The stream of codes of 1 to 8 bits.
pub(super) fn pack(codes: &[u8], bits: u32) -> Vec<u8> {
    let (pieces, rest) = codes.split_at(codes.len() / PIECE * PIECE);
    let words = bits::pack_rows(pieces, pieces.len() / PIECE, PIECE, bits);
    let mut stream = bytemuck::cast_slice(&words).to_vec();
    stream.extend_from_slice(bytemuck::cast_slice(&bits::pack_rows(rest, 1, rest.len(), bits)));
    stream.truncate(bytes(codes.len(), bits));
    stream
}

/// The first `count` codes of a stream that is long enough.
pub(super) fn unpack(stream: &[u8], count: usize, bits: u32) -> Vec<u8> {
    let pieces = count / PIECE;
    let (whole, rest) = stream.split_at(bytes(pieces * PIECE, bits));
    let mut codes = bits::unpack_rows(&to_words(whole), pieces, PIECE, bits);
    codes.extend(bits::unpack_rows(&to_words(rest), 1, count - pieces * PIECE, bits));
    codes
}

fn to_words(bytes: &[u8]) -> Vec<u32> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        u32::from_le_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

/// The stream of codes of 1 to 16 bits.
pub(super) fn pack_wide(codes: impl Iterator<Item = u16>, bits: u32) -> Vec<u8> {
    let (mut held, mut have, mut stream) = (0u32, 0, Vec::new());
    for code in codes {
        held |= u32::from(code) << have;
        have += bits;
        while have >= 8 {
            stream.push(held as u8);
            held >>= 8;
            have -= 8;
        }
    }
    if have > 0 {
        stream.push(held as u8);
    }
    stream
}

/// The first `count` codes of a stream that is long enough.
pub(super) fn unpack_wide(stream: &[u8], count: usize, bits: u32) -> Vec<u16> {
    let (mut held, mut have, mut next) = (0u32, 0, stream.iter());
    let mut code = || {
        while have < bits {
            held |= u32::from(*next.next().expect("a byte for every 8 bits of codes")) << have;
            have += 8;
        }
        let code = held & ((1 << bits) - 1);
        held >>= bits;
        have -= bits;
        code as u16
    };
    (0..count).map(|_| code()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_read_back_as_they_were_written() {
        for bits in 1..=8 {
            for count in [0, 1, 7, 31, 33, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5] {
                let codes: Vec<u8> = (0..count).map(|i| (i * 7919 % (1 << bits)) as u8).collect();
                let stream = pack(&codes, bits);
                assert_eq!(stream.len(), bytes(count, bits));
                assert_eq!(unpack(&stream, count, bits), codes, "{bits} bits, {count} codes");
                // The wide form is the plain definition.
                assert_eq!(pack_wide(codes.iter().map(|&code| code.into()), bits), stream);
            }
        }
        for bits in 9..=16 {
            let codes: Vec<u16> = (0..1000u32).map(|i| (i * 7919 % (1 << bits)) as u16).collect();
            let stream = pack_wide(codes.iter().copied(), bits);
            assert_eq!(stream.len(), bytes(codes.len(), bits));
            assert_eq!(unpack_wide(&stream, codes.len(), bits), codes);
        }
    }

    #[test]
    fn the_first_code_is_in_the_lowest_bits() {
        // 3 bits: 1, 2, 3 is 011 010 001, from the highest bit down.
        assert_eq!(pack(&[1, 2, 3], 3), [0b1101_0001, 0]);
    }
}
