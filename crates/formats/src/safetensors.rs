//! Safetensors files: tensors that stay in the file until they are asked for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Range;
use std::path::{Path, PathBuf};

use brevity_model::{Dtype, Floats, Form, Source, View, Weight};
use bytemuck::Pod;
use half::f16;
use safetensors::Dtype as Stored;

use crate::container::{self, Container, Raw};
use crate::error::Error;
use crate::folder::Folder;
use crate::header::{Header, HeaderEntry};
use crate::map::Bytes;
use crate::view::Selection;

/// Bytes that are copied before their pages are given back.
const CHUNK: usize = 4 << 20;

/// The tensors of one or more safetensors files.
///
/// Opening reads the headers only. A tensor is copied out of the file when it is loaded, and the pages it was copied
/// from are given back as the copy goes on, so that memory holds each weight once.
pub struct SafetensorsFiles {
    files: Vec<File>,
    tensors: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

struct File {
    path: PathBuf,
    bytes: Bytes,
}

struct Entry {
    file: usize,
    dtype: Stored,
    dtype_name: &'static str,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl SafetensorsFiles {
    /// Opens files of a folder.
    ///
    /// # Errors
    /// If a file is missing or damaged, or if two of them hold a tensor of one name.
    pub fn open<S: AsRef<str>>(folder: &Folder, names: &[S]) -> Result<Self, Error> {
        let files = names.iter().map(|name| {
            let name = name.as_ref();
            Ok((folder.path().join(name), folder.map(name)?))
        });
        Self::from_bytes(files.collect::<Result<_, Error>>()?)
    }

    /// Opens files whose content is given; the paths are for messages.
    pub fn from_bytes(files: Vec<(PathBuf, Bytes)>) -> Result<Self, Error> {
        let mut all = SafetensorsFiles { files: Vec::new(), tensors: BTreeMap::new(), metadata: BTreeMap::new() };
        for (path, bytes) in files {
            let header = Header::parse(&path, &bytes)?;
            let file = all.files.len();
            for (tensor, HeaderEntry { dtype, shape, range }) in header.tensors {
                match all.tensors.entry(tensor) {
                    Slot::Occupied(other) => {
                        let first = all.files[other.get().file].path.clone();
                        return Err(Error::Duplicate { tensor: other.key().clone(), first, second: path });
                    }
                    Slot::Vacant(place) => {
                        place.insert(Entry { file, dtype, dtype_name: dtype_name(dtype), shape, range });
                    }
                }
            }
            all.metadata.extend(header.metadata);
            all.files.push(File { path, bytes });
        }
        Ok(all)
    }

    /// The texts under `__metadata__` of all files.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The file that holds a tensor.
    pub fn file_of(&self, tensor: &str) -> Option<&Path> {
        self.tensors.get(tensor).map(|entry| self.files[entry.file].path.as_path())
    }

    /// The numbers of a tensor of floats of any type and shape, as singles.
    pub fn read_f32(&self, tensor: &str) -> Result<Vec<f32>, Error> {
        let entry = self.entry(tensor)?;
        let count = entry.shape.iter().product();
        let whole = Selection::new([1, count], &View::whole(), [1, count]).expect("the whole is a part");
        match entry.dtype {
            Stored::F8_E8M0 => {
                Ok(self.values::<u8>(entry, [1, count], &whole).iter().map(|&e| 2f32.powi(e as i32 - 127)).collect())
            }
            _ => Ok(self.floats(tensor, entry, [1, count], &whole)?.to_f32()),
        }
    }

    fn entry(&self, tensor: &str) -> Result<&Entry, Error> {
        self.tensors.get(tensor).ok_or_else(|| Error::NoTensor { tensor: tensor.to_owned() })
    }

    /// The selected numbers of a tensor, seen as a matrix.
    fn floats(&self, tensor: &str, entry: &Entry, stored: [usize; 2], part: &Selection) -> Result<Floats, Error> {
        Ok(match entry.dtype {
            Stored::F32 => Floats::F32(self.values(entry, stored, part)),
            Stored::F16 => Floats::F16(self.values(entry, stored, part)),
            Stored::BF16 => Floats::Bf16(self.values(entry, stored, part)),
            Stored::F8_E4M3 => Floats::F8E4m3(self.values(entry, stored, part)),
            Stored::F64 => Floats::F32(self.values::<f64>(entry, stored, part).into_iter().map(|x| x as f32).collect()),
            // The upper half of an IEEE half.
            Stored::F8_E5M2 => {
                let bytes: Vec<u8> = self.values(entry, stored, part);
                Floats::F16(bytes.into_iter().map(|x| f16::from_bits((x as u16) << 8)).collect())
            }
            _ => {
                let (dtype, shape) = (entry.dtype_name.to_owned(), entry.shape.clone());
                return Err(Error::NotAWeight { tensor: tensor.to_owned(), dtype, shape });
            }
        })
    }

    /// The selected entries of a tensor of fixed-width numbers, seen as a matrix.
    fn values<T: Pod + Default>(&self, entry: &Entry, stored: [usize; 2], part: &Selection) -> Vec<T> {
        let width = size_of::<T>();
        let file = &self.files[entry.file].bytes;
        let bytes = &file[entry.range.clone()];
        let Some(runs) = part.runs(stored[1]) else {
            let values = part.gather(stored, |i| bytemuck::pod_read_unaligned(&bytes[i * width..][..width]));
            file.release(entry.range.clone());
            return values;
        };
        let mut values = vec![T::default(); part.shape[0] * part.shape[1]];
        let mut out: &mut [u8] = bytemuck::cast_slice_mut(&mut values);
        for run in runs {
            let mut from = entry.range.start + run.start * width..entry.range.start + run.end * width;
            while !from.is_empty() {
                let chunk = from.start..from.end.min(from.start + CHUNK);
                file.expect(chunk.clone());
                let (now, later) = out.split_at_mut(chunk.len());
                now.copy_from_slice(&file[chunk.clone()]);
                file.release(chunk.clone());
                (out, from.start) = (later, chunk.end);
            }
        }
        values
    }
}

impl Container for SafetensorsFiles {
    fn names(&self) -> Vec<String> {
        self.stored()
    }

    fn form(&self, name: &str) -> Option<Form> {
        let entry = self.tensors.get(name)?;
        let dtype = match entry.dtype {
            Stored::F32 | Stored::F64 => Dtype::F32,
            Stored::F16 | Stored::F8_E5M2 => Dtype::F16,
            Stored::BF16 => Dtype::Bf16,
            Stored::F8_E4M3 => Dtype::F8E4m3,
            _ => return None,
        };
        Some(Form::float(matrix(&entry.shape)?, dtype))
    }

    fn load(&self, name: &str) -> Result<Weight, Error> {
        let entry = self.entry(name)?;
        let Some(form) = self.form(name) else {
            let (dtype, shape) = (entry.dtype_name.to_owned(), entry.shape.clone());
            return Err(Error::NotAWeight { tensor: name.to_owned(), dtype, shape });
        };
        self.load_view(&Source { tensor: name.to_owned(), form, view: View::whole() })
    }

    fn load_view(&self, source: &Source) -> Result<Weight, Error> {
        let name = &source.tensor;
        let entry = self.entry(name)?;
        let Some(stored) = matrix(&entry.shape) else {
            let (dtype, shape) = (entry.dtype_name.to_owned(), entry.shape.clone());
            return Err(Error::NotAWeight { tensor: name.clone(), dtype, shape });
        };
        let part = Selection::new(stored, &source.view, source.form.shape())
            .map_err(|fault| Error::View { tensor: name.clone(), fault })?;
        Ok(Weight::float(part.shape, self.floats(name, entry, stored, &part)?))
    }

    fn parts(&self, name: &str) -> Vec<String> {
        self.tensors.get_key_value(name).into_iter().map(|(name, _)| name.clone()).collect()
    }

    fn files(&self) -> &dyn container::Files {
        self
    }
}

impl container::Files for SafetensorsFiles {
    fn stored(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn raw(&self, stored: &str) -> Option<Raw<'_>> {
        let entry = self.tensors.get(stored)?;
        let bytes = &self.files[entry.file].bytes[entry.range.clone()];
        Some(Raw { dtype: entry.dtype_name, shape: &entry.shape, bytes })
    }

    fn release(&self, stored: &[String]) {
        for entry in stored.iter().filter_map(|name| self.tensors.get(name)) {
            self.files[entry.file].bytes.release(entry.range.clone());
        }
    }

    fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }
}

/// Rows and columns of a stored tensor, if it is a vector or a matrix.
fn matrix(shape: &[usize]) -> Option<[usize; 2]> {
    match *shape {
        [n] => Some([1, n]),
        [rows, columns] => Some([rows, columns]),
        _ => None,
    }
}

/// The name of a type in headers.
fn dtype_name(dtype: Stored) -> &'static str {
    macro_rules! names {
        ($($name:ident)*) => {
            match dtype {
                $(Stored::$name => stringify!($name),)*
                _ => "unknown",
            }
        };
    }
    names!(BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::safetensors as file;

    fn open(tensors: &[(&str, &str, &[usize], &[u8])]) -> SafetensorsFiles {
        SafetensorsFiles::from_bytes(vec![("m.safetensors".into(), file(tensors))]).unwrap()
    }

    #[test]
    fn every_float_type_is_loaded_exactly() {
        let f64s: Vec<u8> = [1.0f64, -0.1].iter().flat_map(|x| x.to_le_bytes()).collect();
        let files = open(&[
            // An odd byte in front leaves what follows unaligned.
            ("odd", "U8", &[1], &[9]),
            ("f32", "F32", &[2, 1], bytemuck::cast_slice(&[1.5f32, -2.0])),
            ("f16", "F16", &[2], &[0x00, 0x3C, 0x00, 0xC0]),
            ("bf16", "BF16", &[1, 2], &[0x80, 0x3F, 0x00, 0xC0]),
            ("e4m3", "F8_E4M3", &[2], &[0x38, 0xC0]),
            ("e5m2", "F8_E5M2", &[2], &[0x3C, 0xC0]),
            ("f64", "F64", &[2], &f64s),
        ]);
        for (name, dtype, shape, values) in [
            ("f32", Dtype::F32, [2, 1], [1.5, -2.0]),
            ("f16", Dtype::F16, [1, 2], [1.0, -2.0]),
            ("bf16", Dtype::Bf16, [1, 2], [1.0, -2.0]),
            ("e4m3", Dtype::F8E4m3, [1, 2], [1.0, -2.0]),
            ("e5m2", Dtype::F16, [1, 2], [1.0, -2.0]),
            ("f64", Dtype::F32, [1, 2], [1.0, -0.1]),
        ] {
            let weight = files.load(name).unwrap();
            assert_eq!(files.form(name), Some(Form::float(shape, dtype)), "{name}");
            assert_eq!(Form::of(&weight), Form::float(shape, dtype), "{name}");
            assert_eq!(weight.to_f32(), values, "{name}");
            assert_eq!(files.read_f32(name).unwrap(), values, "{name}");
        }
        assert_eq!(files.form("odd"), None);
        assert!(matches!(files.load("odd"), Err(Error::NotAWeight { .. })));
        assert!(matches!(files.load("none"), Err(Error::NoTensor { .. })));
        assert_eq!(files.raw("odd").unwrap(), Raw { dtype: "U8", shape: &[1], bytes: &[9] });
    }

    #[test]
    fn views_of_mapped_floats_equal_views_of_the_loaded_tensor() {
        let values: Vec<f32> = (0..35).map(|i| i as f32).collect();
        let files = open(&[("m", "F32", &[5, 7], bytemuck::cast_slice(&values))]);
        let whole = files.load("m").unwrap();
        for (view, shape) in [
            (View { transposed: false, rows: Some(vec![4..5, 1..3]) }, [3, 7]),
            (View { transposed: true, rows: None }, [7, 5]),
            (View { transposed: true, rows: Some(vec![3..7, 0..1]) }, [5, 5]),
            (View { transposed: false, rows: Some(vec![]) }, [0, 7]),
        ] {
            let source = Source { tensor: "m".into(), form: Form::float(shape, Dtype::F32), view: view.clone() };
            let part = files.load_view(&source).unwrap();
            assert_eq!(part, crate::view::of_weight(whole.clone(), &view, shape).unwrap());
            assert_eq!(part.shape(), shape);
        }
        let source = Source {
            tensor: "m".into(),
            form: Form::float([2, 7], Dtype::F32),
            view: View { transposed: false, rows: Some(vec![4..6]) },
        };
        assert!(matches!(files.load_view(&source), Err(Error::View { .. })));
    }

    #[test]
    fn zero_length_and_one_row_tensors_load() {
        let files = open(&[
            ("none", "F32", &[0], &[]),
            ("no rows", "BF16", &[0, 3], &[]),
            ("no columns", "BF16", &[3, 0], &[]),
            ("row", "F32", &[1, 2], bytemuck::cast_slice(&[1.0f32, 2.0])),
        ]);
        for (name, shape) in [("none", [1, 0]), ("no rows", [0, 3]), ("no columns", [3, 0]), ("row", [1, 2])] {
            assert_eq!(files.load(name).unwrap().shape(), shape, "{name}");
            let form = Form::float([shape[1], shape[0]], Dtype::F32);
            let source = Source { tensor: name.into(), form, view: View { transposed: true, rows: None } };
            assert_eq!(files.load_view(&source).unwrap().shape(), [shape[1], shape[0]], "{name}");
        }
    }

    #[test]
    fn a_name_in_two_shards_is_refused_with_both_files() {
        let files = ["1", "2"].map(|path| (path.into(), file(&[("a", "U8", &[1], &[0])])));
        let Err(error) = SafetensorsFiles::from_bytes(files.to_vec()) else { panic!("two tensors of one name") };
        assert_eq!(error.to_string(), "tensor `a` is both in `1` and in `2`");
    }

    #[test]
    fn a_mapped_tensor_longer_than_a_chunk_is_copied_whole() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..3_000_000).map(|i| i as f32).collect();
        std::fs::write(
            dir.path().join("m.safetensors"),
            &file(&[("m", "F32", &[3, 1_000_000], bytemuck::cast_slice(&values))])[..],
        )
        .unwrap();
        let files = SafetensorsFiles::open(&Folder::open(dir.path()).unwrap(), &["m.safetensors"]).unwrap();
        assert_eq!(files.load("m").unwrap().to_f32(), values);
        files.release(&["m".into()]);
        let view = View { transposed: false, rows: Some(vec![1..3]) };
        let source = Source { tensor: "m".into(), form: Form::float([2, 1_000_000], Dtype::F32), view };
        assert_eq!(files.load_view(&source).unwrap().to_f32(), values[1_000_000..]);
    }
}
