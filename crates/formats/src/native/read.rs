//! Coded weights from tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use brevity_model::{
    Code, CodeForm, Codebook, Config, Dtype, Expr, Floats, Form, Grid, Group, Leaf, LeafForm, Mask, MaskForm, Rule,
    Site, Slot, Source, View, Weight,
};

use super::leaf::{self, Masking, index_bits};
use super::{FORMS, Record, VERSION, stream};
use crate::coded::{CodedFault, Stored, clear, words};
use crate::container::{self, Container};
use crate::dense::dense_dtype;
use crate::error::Error;
use crate::gather::{Frame, Part, Whole};
use crate::safetensors::SafetensorsFiles;

/// Opens the files of a directory whose `config.json` says that its layout is native.
///
/// # Errors
/// [`Error::Coded`] if the layout is newer than this program, or if the tensors of a coded weight do not fit its form.
pub fn open(files: SafetensorsFiles, config: &Config) -> Result<Box<dyn Container>, Error> {
    let version = config.get("brevity").and_then(|brevity| brevity.get("version")).and_then(|v| v.as_u64());
    match version {
        Some(1..=VERSION) => Ok(Box::new(NativeFiles::wrap(Box::new(files))?)),
        Some(newer) => {
            let what = format!("version {newer} of the native layout, which is newer than this program");
            Err(CodedFault::Unsupported { what }.of("brevity"))
        }
        None => {
            let what = "`config.json` does not say which version of the native layout it is".into();
            Err(CodedFault::Description { what }.of("brevity"))
        }
    }
}

/// Files in our own layout.
pub struct NativeFiles {
    inner: Box<dyn Container>,
    /// By the tensor of the source.
    tensors: BTreeMap<String, Vec<Coded>>,
    /// Stored tensors that are part of coded weights, or forms.
    consumed: BTreeSet<String>,
}

/// One coded weight.
struct Coded {
    record: Record,
    view: View,
}

impl NativeFiles {
    fn wrap(inner: Box<dyn Container>) -> Result<Self, Error> {
        let mut tensors: BTreeMap<String, Vec<Coded>> = BTreeMap::new();
        let mut consumed = BTreeSet::new();
        for stored in inner.stored().into_iter().filter(|name| name.starts_with(FORMS)) {
            let files = Stored { files: &*inner, weight: &stored };
            let raw = files.raw(&stored)?;
            if raw.dtype != "U8" {
                return Err(files.unfit(&stored, &raw, "U8"));
            }
            let damaged = |what: String| CodedFault::Description { what }.of(&stored);
            let records: Vec<Record> = serde_json::from_slice(raw.bytes).map_err(|error| damaged(error.to_string()))?;
            for record in records {
                check(&record).map_err(damaged)?;
                for part in fit(&*inner, &record)? {
                    if !consumed.insert(part.clone()) {
                        return Err(damaged(format!("two weights are stored in `{part}`")));
                    }
                }
                let view = record.view();
                tensors.entry(record.tensor.clone()).or_default().push(Coded { record, view });
            }
            consumed.insert(stored);
        }
        Ok(NativeFiles { inner, tensors, consumed })
    }

    /// The weight at a site.
    fn at(&self, site: &Site, slot: Slot) -> Option<&Coded> {
        self.tensors.values().flatten().find(|coded| coded.record.slot() == slot && coded.record.site == *site)
    }

    fn load_coded(&self, coded: &Coded) -> Result<Weight, Error> {
        let name = coded.record.prefix();
        let files = Stored { files: &*self.inner, weight: &name };
        let weight = coded.record.form.try_map(&mut |path, form| {
            let prefix = coded.record.leaf(path);
            let leaf = load_leaf(files, &prefix, form)?;
            let parts: Vec<String> = leaf::specs(&prefix, form, masking_of(&*self.inner, &prefix, form))
                .into_iter()
                .map(|spec| spec.name)
                .collect();
            self.inner.release(&parts);
            Ok(leaf)
        })?;
        Ok(weight)
    }

    /// How the weights of one tensor lie in it.
    fn frame(&self, name: &str, coded: &[Coded]) -> Result<Frame, Error> {
        let shapes: Vec<[usize; 2]> = coded.iter().map(|coded| coded.record.form.shape()).collect();
        let parts = coded.iter().zip(&shapes).map(|(coded, shape)| Part {
            site: coded.record.site.clone(),
            slot: coded.record.slot(),
            view: coded.view.clone(),
            source: None,
            item: shape,
        });
        let whole = Whole { stored: name.to_owned(), tensor: name.to_owned(), parts: parts.collect() };
        Frame::of("native", None, &whole, |shape| *shape)
    }
}

/// More entries than any real matrix has, few enough to be counted in bytes and bits. A matrix that costs nothing to
/// store could otherwise claim to be of any size.
const MOST: usize = 1 << 34;

/// Checks what the rest relies on: that the shapes of an expression fit together and can be counted.
fn check(record: &Record) -> Result<(), String> {
    fn shape(form: &Form) -> Result<[usize; 2], String> {
        let shape = match form {
            Expr::Leaf(leaf) => leaf_is_sound(leaf).map(|()| leaf.shape)?,
            Expr::Sum(ab) => match (shape(&ab[0])?, shape(&ab[1])?) {
                (a, b) if a == b => a,
                (a, b) => return Err(format!("a sum of {a:?} and {b:?}")),
            },
            Expr::Product(ab) => match (shape(&ab[0])?, shape(&ab[1])?) {
                ([rows, k], [l, columns]) if k == l => [rows, columns],
                (a, b) => return Err(format!("a product of {a:?} and {b:?}")),
            },
            Expr::Train(train) => {
                train.cores.iter().try_for_each(|core| shape(core).map(|_| ()))?;
                train.fault().map_or(Ok(()), Err)?;
                // What is held on the way, too, is no more than a matrix may have.
                let (mut rows, mut columns) = (1usize, 1usize);
                for (k, bond) in train.bonds().into_iter().skip(1).enumerate() {
                    rows = rows.saturating_mul(train.rows[k]);
                    columns = columns.saturating_mul(train.columns[k]);
                    sized([rows, columns.saturating_mul(bond)])?;
                }
                train.shape
            }
        };
        sized(shape).map(|()| shape)
    }
    let rows = record.rows.iter().flatten();
    match rows.into_iter().find(|[start, end]| start > end || *end > MOST) {
        Some([start, end]) => Err(format!("`{}`: rows {start}..{end}", record.prefix())),
        None => shape(&record.form).map(|_| ()).map_err(|what| format!("`{}`: {what}", record.prefix())),
    }
}

fn sized([rows, columns]: [usize; 2]) -> Result<(), String> {
    if rows > MOST || columns > MOST || rows.saturating_mul(columns) > MOST {
        return Err(format!("a matrix of {rows} times {columns}"));
    }
    Ok(())
}

fn leaf_is_sound(leaf: &LeafForm) -> Result<(), String> {
    sized(leaf.shape)?;
    let [rows, columns] = leaf.shape;
    match leaf.mask {
        None => {}
        Some(MaskForm::Free(share)) if (0.0..=1.0).contains(&share) => {}
        Some(mask) => return Err(format!("a mask that cannot be: {mask:?}")),
    }
    let sound = match &leaf.code {
        CodeForm::Float(_) => true,
        CodeForm::Grid { bits, group, levels, .. } => {
            (1..=8).contains(bits)
                && *group != Group::Columns(0)
                && levels.is_none_or(|levels| levels > 0 && levels <= 1 << bits)
        }
        CodeForm::Codebook { dim, entries, .. } => {
            *dim > 0
                && columns.is_multiple_of(*dim)
                && !entries.is_empty()
                && entries.iter().all(|&entries| (1..=1 << 16).contains(&entries))
        }
        CodeForm::Diagonal | CodeForm::Permutation => rows == columns,
        CodeForm::Hadamard => rows == columns && rows.is_power_of_two(),
        CodeForm::Blocks(_) => false,
    };
    if sound { Ok(()) } else { Err(format!("a code that cannot be: {:?} of {rows} times {columns}", leaf.code)) }
}

/// How the mask of a leaf is kept in these files.
fn masking_of(files: &dyn Container, prefix: &str, form: &LeafForm) -> Masking {
    match form.mask {
        None => Masking::None,
        Some(_) if files.raw(&format!("{prefix}.mask")).is_some() => Masking::Bitmap(leaf::kept(form)),
        Some(_) => Masking::Zeros,
    }
}

/// The names of the tensors of a weight, which must be there as its form says.
fn fit(files: &dyn Container, record: &Record) -> Result<Vec<String>, Error> {
    let name = record.prefix();
    let stored = Stored { files, weight: &name };
    let mut names = Vec::new();
    for (path, form) in record.form.leaves() {
        let prefix = record.leaf(&path);
        for spec in leaf::specs(&prefix, form, masking_of(files, &prefix, form)) {
            stored.exact(&spec.name, spec.dtype, &spec.shape)?;
            names.push(spec.name);
        }
    }
    Ok(names)
}

fn load_leaf(files: Stored<'_>, prefix: &str, form: &LeafForm) -> Result<Leaf, Error> {
    let shape @ [rows, columns] = form.shape;
    let count = rows * columns;
    let name = |part: &str| format!("{prefix}.{part}");
    let masking = masking_of(files.files, prefix, form);
    let mut mask = match masking {
        Masking::Bitmap(kept) => {
            let bytes = files.raw(&name("mask"))?.bytes.to_vec();
            let mask = Mask::from_bytes(shape, bytes).expect("the length was checked when the files were opened");
            if mask.kept() != kept {
                let what = format!("`{}` keeps {} entries, the form says {kept}", name("mask"), mask.kept());
                return Err(CodedFault::Description { what }.of(files.weight));
            }
            Some(mask)
        }
        _ => None,
    };
    let code = match &form.code {
        CodeForm::Float(dtype) => {
            let raw = files.raw(&name("values"))?;
            let bytes = spread(raw.bytes, dtype.size_bytes(), count, mask.as_ref());
            if masking == Masking::Zeros {
                let zero = |value: &[u8]| value.iter().all(|&byte| byte == 0);
                mask = Some(mask_of(shape, bytes.chunks(dtype.size_bytes()).map(|value| !zero(value))));
            }
            Code::Float(match dtype {
                Dtype::F32 => Floats::F32(words(&bytes)),
                Dtype::F16 => Floats::F16(words(&bytes)),
                Dtype::Bf16 => Floats::Bf16(words(&bytes)),
                Dtype::F8E4m3 => Floats::F8E4m3(bytes),
            })
        }
        CodeForm::Grid { bits, group, scale_dtype, zeros, levels } => {
            let [r, c] = group.scales(shape);
            let (_, scales) = files.floats(&name("scales"), r * c)?;
            let zeros = match zeros {
                true => Some(stream::unpack(files.raw(&name("zeros"))?.bytes, r * c, u32::from(*bits))),
                false => None,
            };
            let levels: Option<Arc<[f32]>> = match levels {
                Some(_) => Some(words::<f32>(files.raw(&name("levels"))?.bytes).into()),
                None => None,
            };
            let kept = match masking {
                Masking::Bitmap(kept) => kept,
                _ => count,
            };
            let codes = stream::unpack(files.raw(&name("codes"))?.bytes, kept, u32::from(*bits));
            if let Some(levels) = &levels {
                files.check(&name("codes"), &codes, levels.len() as u64 - 1)?;
            }
            let codes = spread(&codes, 1, count, mask.as_ref());
            let (bits, group, scale_dtype) = (*bits, *group, *scale_dtype);
            let mut grid = Grid { bits, codes, scales, zeros, group, scale_dtype, levels };
            match (masking, &mask) {
                (Masking::Bitmap(_), Some(mask)) => {
                    let mut codes = std::mem::take(&mut grid.codes);
                    clear(&grid, shape, mask, &mut codes);
                    grid.codes = codes;
                }
                (Masking::Zeros, _) => {
                    let mut zeros = vec![0; count];
                    clear(&grid, shape, &none_kept(shape), &mut zeros);
                    mask = Some(mask_of(shape, grid.codes.iter().zip(zeros).map(|(&code, zero)| code != zero)));
                }
                _ => {}
            }
            Code::Grid(grid)
        }
        CodeForm::Codebook { dim, entries, dtype } => {
            Code::Codebook(load_codebook(files, prefix, shape, *dim, entries, *dtype)?)
        }
        CodeForm::Diagonal => Code::Rule(Rule::Diagonal(words(files.raw(&name("diagonal"))?.bytes))),
        CodeForm::Permutation => {
            let p: Vec<u32> = words(files.raw(&name("permutation"))?.bytes);
            let limit = rows.saturating_sub(1) as u64;
            if let Some(&value) = p.iter().find(|&&to| u64::from(to) > limit) {
                let tensor = name("permutation");
                return Err(CodedFault::Range { tensor, value: value.into(), limit }.of(files.weight));
            }
            Code::Rule(Rule::Permutation(p))
        }
        CodeForm::Hadamard => Code::Rule(Rule::Hadamard(rows)),
        CodeForm::Blocks(_) => unreachable!("refused when the files were opened"),
    };
    Ok(Leaf { shape, code, mask })
}

fn load_codebook(
    files: Stored<'_>,
    prefix: &str,
    [rows, columns]: [usize; 2],
    dim: usize,
    entries: &[usize],
    dtype: Dtype,
) -> Result<Codebook, Error> {
    let runs = rows * columns / dim;
    let mut codes = vec![0; runs * entries.len()];
    let mut books = Vec::new();
    for (n, &count) in entries.iter().enumerate() {
        let tensor = format!("{prefix}.codes.{n}");
        let of_book = stream::unpack_wide(files.raw(&tensor)?.bytes, runs, index_bits(count));
        for (run, code) in of_book.into_iter().enumerate() {
            if code as usize >= count {
                let (value, limit) = (code.into(), count as u64 - 1);
                return Err(CodedFault::Range { tensor, value, limit }.of(files.weight));
            }
            codes[run * entries.len() + n] = code;
        }
        books.push(files.floats(&format!("{prefix}.books.{n}"), count * dim)?.1);
    }
    let (_, scales) = files.floats(&format!("{prefix}.scales"), rows)?;
    Ok(Codebook { dim, books, codes, scales, dtype })
}

/// Kept values in their places, with zeros between them.
fn spread(kept: &[u8], width: usize, count: usize, mask: Option<&Mask>) -> Vec<u8> {
    let Some(mask) = mask else { return kept.to_vec() };
    let mut all = vec![0; count * width];
    let mut kept = kept.chunks(width);
    for (eight, &flags) in all.chunks_mut(8 * width).zip(mask.as_bytes()) {
        for (_, value) in eight.chunks_mut(width).enumerate().filter(|(n, _)| flags >> n & 1 == 1) {
            value.copy_from_slice(kept.next().expect("as many values as the mask keeps"));
        }
    }
    all
}

fn mask_of(shape: [usize; 2], keep: impl Iterator<Item = bool>) -> Mask {
    Mask::from_bools(shape, &keep.collect::<Vec<bool>>())
}

fn none_kept(shape: [usize; 2]) -> Mask {
    mask_of(shape, std::iter::repeat_n(false, shape[0] * shape[1]))
}

impl Container for NativeFiles {
    fn names(&self) -> Vec<String> {
        let plain = self.inner.names().into_iter().filter(|name| !self.consumed.contains(name));
        let mut names: BTreeSet<String> = plain.collect();
        names.extend(self.tensors.keys().cloned());
        names.into_iter().collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        match self.tensors.get(name).map(Vec::as_slice) {
            Some([lone]) if lone.view.is_whole() => Some(lone.record.form.clone()),
            Some(parts) => {
                let frame = self.frame(name, parts).ok()?;
                Some(Form::float(frame.stored(), dense_dtype(&parts[0].record.form)))
            }
            None if self.consumed.contains(name) => None,
            None => self.inner.form(name),
        }
    }

    fn load(&self, name: &str) -> Result<Weight, Error> {
        match self.tensors.get(name).map(Vec::as_slice) {
            Some([lone]) if lone.view.is_whole() => self.load_coded(lone),
            // Several weights that share a tensor, as the tensor was: floats.
            Some(parts) => {
                let frame = self.frame(name, parts)?;
                let weights =
                    parts.iter().map(|part| Ok(self.load_coded(part)?.to_f32())).collect::<Result<_, Error>>()?;
                let values = frame.place(frame.matrix[1], weights);
                let floats = Floats::from_f32(values, dense_dtype(&parts[0].record.form));
                Ok(Weight::float(frame.stored(), floats))
            }
            None if self.consumed.contains(name) => Err(Error::NoTensor { tensor: name.to_owned() }),
            None => self.inner.load(name),
        }
    }

    fn load_view(&self, source: &Source) -> Result<Weight, Error> {
        let Some(parts) = self.tensors.get(&source.tensor) else { return self.inner.load_view(source) };
        if let Some(part) = parts.iter().find(|part| part.view == source.view) {
            return self.load_coded(part);
        }
        crate::view::of_weight(self.load(&source.tensor)?, &source.view, source.form.shape())
            .map_err(|fault| Error::View { tensor: source.tensor.clone(), fault })
    }

    fn source_at(&self, site: &Site, slot: Slot) -> Option<Source> {
        let Coded { record, view } = self.at(site, slot)?;
        Some(Source { tensor: record.tensor.clone(), form: record.form.clone(), view: view.clone() })
    }

    fn is_added(&self, tensor: &str) -> bool {
        self.tensors.get(tensor).is_some_and(|parts| parts.iter().all(|part| part.record.bias))
            || self.inner.is_added(tensor)
    }

    fn parts(&self, name: &str) -> Vec<String> {
        let Some(parts) = self.tensors.get(name) else {
            return if self.consumed.contains(name) { Vec::new() } else { self.inner.parts(name) };
        };
        parts.iter().flat_map(|part| fit(&*self.inner, &part.record).unwrap_or_default()).collect()
    }

    fn files(&self) -> &dyn container::Files {
        self.inner.files()
    }
}
