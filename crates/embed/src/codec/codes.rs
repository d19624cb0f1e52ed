//! Encoded vectors, and the name of the codec that made them.

use std::fmt;

/// The name of a codec by what it does; printed as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Digest(bytes)
    }

    /// Reads what is printed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Digest(bytes))
    }

    /// The first eight digits, enough for a person to tell codecs apart.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// Codes of vectors, as many bytes for each as its codec makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    codec: Digest,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl Codes {
    pub(crate) fn new(codec: Digest, row_bytes: usize, bytes: Vec<u8>) -> Self {
        assert!(row_bytes > 0 && bytes.len().is_multiple_of(row_bytes), "codes are whole rows");
        Codes { codec, row_bytes, bytes }
    }

    /// The codec that made them.
    pub fn codec(&self) -> Digest {
        self.codec
    }

    /// How many there are.
    pub fn rows(&self) -> usize {
        self.bytes.len() / self.row_bytes
    }

    /// Bytes of each.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Bytes of all.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// All of them, `[rows, row_bytes]`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The code `row`.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_they_are_printed() {
        let digest = Digest(std::array::from_fn(|i| (i * 9) as u8));
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        assert_eq!(digest.short(), "0009121b");
        let [no_digit, short] = [("g0".repeat(32)), ("00".repeat(31))];
        assert_eq!((Digest::parse(&no_digit), Digest::parse(&short)), (None, None));
    }
}
