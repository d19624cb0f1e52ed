//! Vectors of texts, row by row.

use std::io::{self, Write};

/// Vectors, `[count, width]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vectors {
    /// Columns.
    pub width: usize,
    /// Row by row.
    pub values: Vec<f32>,
}

impl Vectors {
    /// So many vectors of zeros.
    pub fn zeros(count: usize, width: usize) -> Vectors {
        Vectors { width, values: vec![0.0; count * width] }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// One of them.
    pub fn row(&self, n: usize) -> &[f32] {
        &self.values[n * self.width..][..self.width]
    }

    /// One of them.
    pub fn row_mut(&mut self, n: usize) -> &mut [f32] {
        &mut self.values[n * self.width..][..self.width]
    }

    /// The first entries of each, divided by their length if `normalise` says so.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn prefix(&self, dims: usize, normalise: bool) -> Vectors {
        assert!(dims <= self.width, "no more entries than there are");
        let mut values = Vec::with_capacity(self.count() * dims);
        self.values.chunks_exact(self.width.max(1)).for_each(|row| values.extend_from_slice(&row[..dims]));
        if normalise {
            values.chunks_exact_mut(dims.max(1)).for_each(crate::encoder::normalise);
        }
        Vectors { width: dims, values }
    }

    /// Writes them as NumPy does, `.npy` version 1, singles in little-endian order.
    ///
    /// # Errors
    /// If the writer fails.
    ///
    /// # Source
    /// NumPy enhancement proposal 1.
    pub fn write_npy(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut header =
            format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", self.count(), self.width);
        // Magic, version and length take ten bytes, and the values begin at a multiple of 64.
        header.push_str(&" ".repeat(63 - (10 + header.len()) % 64));
        header.push('\n');
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&(header.len() as u16).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        self.values.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_length_one_again() {
        let vectors = Vectors { width: 3, values: vec![3.0, 4.0, 12.0, 0.0, -2.0, 1.0] };
        assert_eq!(vectors.prefix(2, true).values, [0.6, 0.8, 0.0, -1.0]);
        assert_eq!(vectors.prefix(2, false).values, [3.0, 4.0, 0.0, -2.0]);
        assert_eq!(vectors.prefix(3, false), vectors);
    }

    #[test]
    fn a_file_of_numpy_begins_its_values_at_a_multiple_of_64() {
        let mut bytes = Vec::new();
        Vectors { width: 2, values: vec![1.0, -2.0] }.write_npy(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 128 + 8);
        assert_eq!(u16::from_le_bytes([bytes[8], bytes[9]]) as usize, 128 - 10);
        assert!(bytes[10..128].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }"));
        assert_eq!((bytes[127], &bytes[128..132]), (b'\n', &1f32.to_le_bytes()[..]));
    }
}
