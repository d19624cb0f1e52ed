//! Vectors of texts, row by row.

use std::io::{self, Write};
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

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

    /// Reads a matrix as NumPy writes it, of floats of any width; they become singles.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or something else.
    pub fn read_npy(path: &Path) -> Result<Vectors> {
        let wrong = |why: String| Error::File { file: path.to_owned(), why };
        if let Err(source) = std::fs::File::open(path) {
            return Err(wrong(format!("cannot be read: {source}")));
        }
        let read = |path| -> candle_core::Result<(Vec<usize>, Vec<f32>)> {
            let numbers = Tensor::read_npy(path)?;
            Ok((numbers.dims().to_vec(), numbers.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?))
        };
        let (shape, values) = read(path).map_err(|why| {
            wrong(format!("is not a `.npy` file that can be read: {}", why.to_string().lines().next().unwrap_or("")))
        })?;
        match shape[..] {
            [_, width] => Ok(Vectors { width, values }),
            _ => Err(wrong(format!("has the shape {shape:?}, where rows of vectors are expected"))),
        }
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
    fn what_was_written_for_numpy_is_read_and_anything_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let vectors = Vectors { width: 2, values: vec![1.0, -2.0, 0.5, 3.0] };
        let mut bytes = Vec::new();
        vectors.write_npy(&mut bytes).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Vectors::read_npy(&path).unwrap(), vectors);
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert!(Vectors::read_npy(&path).unwrap_err().to_string().contains("is not a `.npy` file"));
        std::fs::write(&path, "no").unwrap();
        assert!(Vectors::read_npy(&path).is_err());
        let none = Vectors::read_npy(&dir.path().join("b.npy")).unwrap_err();
        assert!(none.to_string().contains("cannot be read"), "{none}");
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
