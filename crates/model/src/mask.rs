//! Which entries of a matrix are kept.

/// One bit for each entry of a matrix, row by row: set if the entry is kept, clear if it is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    shape: [usize; 2],
    bits: Vec<u8>,
}

impl Mask {
    /// A mask that keeps every entry.
    pub fn all(shape: [usize; 2]) -> Self {
        let count = shape[0] * shape[1];
        let mut bits = vec![0xFF; count.div_ceil(8)];
        if let (Some(last), used @ 1..) = (bits.last_mut(), count % 8) {
            *last = (1 << used) - 1;
        }
        Mask { shape, bits }
    }

    /// The mask with entry `i` kept where `keep[i]`; `keep` has one entry for each of the matrix, row-major.
    pub fn from_bools(shape: [usize; 2], keep: &[bool]) -> Self {
        assert_eq!(keep.len(), shape[0] * shape[1], "one flag for each entry");
        let bits = keep.chunks(8).map(|eight| eight.iter().enumerate().map(|(n, &k)| u8::from(k) << n).sum()).collect();
        Mask { shape, bits }
    }

    /// The mask from its stored bits (entry `i` is bit `i % 8` of byte `i / 8`), or `None` if the count is wrong.
    pub fn from_bytes(shape: [usize; 2], bits: Vec<u8>) -> Option<Self> {
        (bits.len() == (shape[0] * shape[1]).div_ceil(8)).then_some(Mask { shape, bits })
    }

    /// The stored bits.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bits
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Whether entry `i`, counted row by row, is kept.
    pub fn keeps(&self, i: usize) -> bool {
        self.bits[i / 8] >> (i % 8) & 1 == 1
    }

    /// The flags of all entries, row by row.
    pub fn to_bools(&self) -> Vec<bool> {
        (0..self.shape[0] * self.shape[1]).map(|i| self.keeps(i)).collect()
    }

    /// How many entries are kept.
    pub fn kept(&self) -> usize {
        let count = self.shape[0] * self.shape[1];
        let whole: usize = self.bits[..count / 8].iter().map(|byte| byte.count_ones() as usize).sum();
        whole + (count / 8 * 8..count).filter(|&i| self.keeps(i)).count()
    }

    /// Keeps an entry only if both masks do.
    pub fn and(&mut self, other: &Mask) {
        assert_eq!(self.shape, other.shape, "masks of one matrix have one shape");
        self.bits.iter_mut().zip(&other.bits).for_each(|(a, b)| *a &= b);
    }

    /// Sets the removed entries of `values` to zero.
    pub fn apply(&self, values: &mut [f32]) {
        for (eight, &byte) in values.chunks_mut(8).zip(&self.bits) {
            if byte != 0xFF {
                for (n, value) in eight.iter_mut().enumerate() {
                    if byte >> n & 1 == 0 {
                        *value = 0.0;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_counts_and_applies_what_it_keeps() {
        let keep: Vec<bool> = (0..15).map(|i| i % 3 != 0).collect();
        let mut mask = Mask::from_bools([3, 5], &keep);
        assert_eq!(mask.kept(), 10);
        assert_eq!(mask.to_bools(), keep);
        let mut values = vec![1.0; 15];
        mask.apply(&mut values);
        assert_eq!(values.iter().sum::<f32>(), 10.0);
        mask.and(&Mask::all([3, 5]));
        assert_eq!(mask.kept(), 10);
        assert_eq!(Mask::from_bytes([3, 5], mask.as_bytes().to_vec()), Some(mask));
        assert_eq!(Mask::from_bytes([3, 5], vec![0; 3]), None);
        assert_eq!(Mask::all([1, 9]).kept(), 9);
        assert_eq!(Mask::all([0, 9]).kept(), 0);
    }
}
