//! Activations of many samples, in memory or in a file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use brevity_kernels::cast;
use brevity_kernels::ops::Compute;
use candle_core::{Device, Tensor};
use half::bf16;

use crate::error::{Error, Result};
use crate::read;

/// Where activations are kept.
#[derive(Debug)]
pub(crate) enum Room {
    /// In memory.
    Memory,
    /// In a file.
    File(Hidden),
}

/// A file that nobody else sees, and that vanishes with the process.
#[derive(Debug)]
pub(crate) struct Hidden {
    file: File,
    /// The directory on whose disk it is.
    dir: PathBuf,
}

impl Hidden {
    /// A file on the disk of a directory.
    pub fn new(dir: &Path) -> Result<Self> {
        let spill = |source| Error::Spill { dir: dir.to_owned(), source };
        Ok(Hidden { file: tempfile::tempfile_in(dir).map_err(spill)?, dir: dir.to_owned() })
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|source| Error::Spill { dir: self.dir.clone(), source })
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(bytes));
        read.map_err(|source| Error::Spill { dir: self.dir.clone(), source })
    }
}

/// One matrix of activations `[1, tokens, width]` for each sample, all of one number type.
#[derive(Debug)]
pub(crate) struct Store {
    /// Single precision, or rounded to bfloat16.
    precision: Compute,
    kept: Vec<Kept>,
    file: Option<Hidden>,
    /// Where each sample begins in the file, in tokens, and how many tokens it has.
    tokens: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Kept {
    Nothing,
    Single(Tensor),
    Half {
        values: Vec<bf16>,
        width: usize,
    },
    /// In the file, this wide.
    Written(usize),
}

impl Store {
    /// For samples of so many tokens.
    pub fn new(room: Room, precision: Compute, lengths: &[usize]) -> Self {
        let mut start = 0;
        let tokens = lengths.iter().map(|&length| {
            start += length as u64;
            (start - length as u64, length)
        });
        let tokens: Vec<(u64, usize)> = tokens.collect();
        let file = match room {
            Room::Memory => None,
            Room::File(file) => Some(file),
        };
        Store { precision, kept: lengths.iter().map(|_| Kept::Nothing).collect(), file, tokens, bytes: Vec::new() }
    }

    /// Keeps the activations of a sample in the place of those before. All samples have one width at a time.
    pub fn put(&mut self, sample: usize, x: Tensor) -> Result<()> {
        let width = x.dims3()?.2;
        self.kept[sample] = match (&mut self.file, self.precision) {
            (None, Compute::F32) => Kept::Single(x),
            (None, Compute::Bf16) => {
                let mut values = vec![bf16::ZERO; x.elem_count()];
                read::values(&x, |x| cast::f32_to_bf16(x, &mut values))?;
                Kept::Half { values, width }
            }
            (Some(file), precision) => {
                let bytes = &mut self.bytes;
                bytes.clear();
                read::values(&x, |x| match precision {
                    Compute::F32 => bytes.extend_from_slice(bytemuck::cast_slice(x)),
                    Compute::Bf16 => {
                        bytes.resize(2 * x.len(), 0);
                        let out: &mut [bf16] = bytemuck::cast_slice_mut(bytes);
                        cast::f32_to_bf16(x, out);
                    }
                })?;
                let at = self.tokens[sample].0 * (width * size(precision)) as u64;
                file.write(at, bytes)?;
                Kept::Written(width)
            }
        };
        Ok(())
    }

    /// The activations of a sample, `[1, tokens, width]`; they stay.
    pub fn get(&mut self, sample: usize) -> Result<Tensor> {
        let length = self.tokens[sample].1;
        match &self.kept[sample] {
            Kept::Nothing => Err(Error::Missing { what: "embedding in front of its blocks" }),
            Kept::Single(x) => Ok(x.clone()),
            Kept::Half { values, width } => widened(values, length, *width),
            &Kept::Written(width) => {
                let Some(file) = &mut self.file else { return Err(Error::Missing { what: "room for activations" }) };
                let step = width * size(self.precision);
                self.bytes.resize(length * step, 0);
                file.read(self.tokens[sample].0 * step as u64, &mut self.bytes)?;
                match self.precision {
                    Compute::F32 => {
                        let values: &[f32] = bytemuck::cast_slice(&self.bytes);
                        Ok(Tensor::from_slice(values, (1, length, width), &Device::Cpu)?)
                    }
                    Compute::Bf16 => widened(bytemuck::cast_slice(&self.bytes), length, width),
                }
            }
        }
    }

    /// The activations of a sample; they are not kept any longer.
    pub fn take(&mut self, sample: usize) -> Result<Tensor> {
        let x = self.get(sample);
        self.kept[sample] = Kept::Nothing;
        x
    }
}

fn size(precision: Compute) -> usize {
    match precision {
        Compute::F32 => 4,
        Compute::Bf16 => 2,
    }
}

fn widened(values: &[bf16], length: usize, width: usize) -> Result<Tensor> {
    let mut wide = vec![0.0; values.len()];
    cast::bf16_to_f32(values, &mut wide);
    Ok(Tensor::from_vec(wide, (1, length, width), &Device::Cpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(tokens: usize, width: usize, seed: f32) -> Tensor {
        let values: Vec<f32> = (0..tokens * width).map(|i| (i as f32 * 0.37 + seed).sin()).collect();
        Tensor::from_vec(values, (1, tokens, width), &Device::Cpu).unwrap()
    }

    fn numbers(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_file_gives_back_what_memory_gives_back() {
        let lengths = [3, 1, 5];
        let dir = std::env::temp_dir();
        for precision in [Compute::F32, Compute::Bf16] {
            let mut memory = Store::new(Room::Memory, precision, &lengths);
            let mut file = Store::new(Room::File(Hidden::new(&dir).unwrap()), precision, &lengths);
            // Widths change from one use to the next, as they do between attention and MLP.
            for width in [4, 7, 2] {
                for (n, &length) in lengths.iter().enumerate().rev() {
                    memory.put(n, sample(length, width, n as f32)).unwrap();
                    file.put(n, sample(length, width, n as f32)).unwrap();
                }
                for (n, &length) in lengths.iter().enumerate() {
                    let (a, b) = (memory.get(n).unwrap(), file.get(n).unwrap());
                    assert_eq!(a.dims(), [1, length, width]);
                    assert_eq!(numbers(&a), numbers(&b), "{precision:?} {width} {n}");
                    let exact = numbers(&sample(length, width, n as f32));
                    let bound = if precision == Compute::F32 { 0.0 } else { 1.0 / 256.0 };
                    assert!(numbers(&a).iter().zip(&exact).all(|(a, b)| (a - b).abs() <= bound));
                }
            }
            memory.take(1).unwrap();
            file.take(1).unwrap();
            assert!(memory.get(1).is_err() && file.get(1).is_err());
        }
    }
}
