//! GGUF files: block-coded tensors under the names of the checkpoint they were made from.

mod config;
mod header;
mod meta;
mod names;
mod vocabulary;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};

use brevity_model::{BlockKind, CodeForm, Dtype, Expr, Floats, Form, LeafForm, Source, View, Weight};
use candle_core::CpuStorage;
use candle_core::quantized::{GgmlDType, gguf_file};
use half::{bf16, f16};
use serde_json::{Map, Value};

use crate::container::{self, Container, Raw};
use crate::error::{Error, FileFault};
use crate::map::Bytes;
use crate::view::Selection;
use meta::Meta;
use names::Change;
pub use write::{GGUF_ABOUT, GGUF_CONSUMERS, GgufAbout, GgufExport, GgufFault, GgufNote, GgufType, NoVocabulary};

/// A GGUF file.
///
/// The header is read by candle after a check of our own, blocks are decoded by candle. Tensors of a known
/// architecture have the names, the orientation and the order of rows that they have in a Hugging Face checkpoint;
/// those of an unknown one are as they are in the file.
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    tensors: BTreeMap<String, Entry>,
    /// Logical name by stored name.
    logical: HashMap<String, String>,
    meta: Meta,
    architecture: String,
}

struct Entry {
    stored: String,
    dtype: GgmlDType,
    dtype_name: &'static str,
    shape: Vec<usize>,
    range: Range<usize>,
    change: Change,
}

impl Gguf {
    /// Opens a file with this content; `path` is named in errors.
    pub fn open(path: &Path, bytes: Bytes) -> Result<Self, Error> {
        Self::read(path, bytes, true)
    }

    /// As [`Gguf::open`], but with names, orientation and order as they are in the file.
    pub fn open_as_it_is(path: &Path, bytes: Bytes) -> Result<Self, Error> {
        Self::read(path, bytes, false)
    }

    fn read(path: &Path, bytes: Bytes, as_checkpoint: bool) -> Result<Self, Error> {
        header::check(path, &bytes)?;
        let content = gguf_file::Content::read(&mut Cursor::new(&bytes[..]))
            .map_err(|e| Error::File { file: path.to_owned(), fault: FileFault::Candle { what: e.to_string() } })?;
        let meta = Meta(content.metadata);
        let architecture = meta.text("general.architecture")?.unwrap_or_default().to_owned();
        // What is wrong with them the configuration reports if the architecture needs them, or the tensors do.
        let heads = |block: u32| {
            let count = |name: &str| {
                let key = format!("{architecture}.attention.{name}");
                meta.number_of_block(&key, block as usize).ok().flatten()
            };
            let heads = count("head_count").unwrap_or(0);
            (heads as usize, count("head_count_kv").unwrap_or(heads) as usize)
        };

        let mut tensors = BTreeMap::new();
        let mut logical = HashMap::new();
        for (stored, info) in content.tensor_infos {
            let shape = info.shape.dims().to_vec();
            let blocks = shape.iter().product::<usize>() / info.ggml_dtype.block_size();
            let start = content.tensor_data_offset as usize + info.offset as usize;
            let known = as_checkpoint.then(|| names::in_checkpoint(&architecture, &stored, &heads)).flatten();
            let (name, change) = known.unwrap_or((stored.clone(), Change::None));
            let rows = if shape.len() == 1 { shape[0] } else { shape.first().copied().unwrap_or(1) };
            if let Change::Pairs { heads } = change
                && (heads == 0 || rows % (2 * heads) != 0)
            {
                return Err(Error::GgufHeads { tensor: stored, rows, heads });
            }
            let entry = Entry {
                stored: stored.clone(),
                dtype: info.ggml_dtype,
                dtype_name: dtype_name(info.ggml_dtype),
                shape,
                range: start..start + blocks * info.ggml_dtype.type_size(),
                change,
            };
            if let Some(other) = tensors.insert(name.clone(), entry) {
                return Err(Error::GgufSameName { first: other.stored, second: stored, name });
            }
            logical.insert(stored, name);
        }
        Ok(Gguf { path: path.to_owned(), bytes, tensors, logical, meta, architecture })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The architecture, as the file names it.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The `config.json` that belongs to the file. Of an architecture that is not known here it has the name alone.
    pub fn config(&self) -> Result<Map<String, Value>, Error> {
        if !names::ARCHITECTURES.contains(&self.architecture.as_str()) {
            return Ok(Map::from_iter([("model_type".to_owned(), Value::from(self.architecture.as_str()))]));
        }
        let find = |stored: &str| self.logical.get(stored).map(|name| &self.tensors[name]);
        let rows = |stored: &str| find(stored).and_then(|entry| entry.shape.first().copied());
        let values = |stored: &str| -> Result<Option<Vec<f32>>, Error> {
            self.logical.get(stored).map(|name| Ok(self.load(name)?.to_f32())).transpose()
        };
        let long_short = match (values("rope_factors_long.weight")?, values("rope_factors_short.weight")?) {
            (Some(long), Some(short)) => Some([long, short]),
            _ => None,
        };
        let facts = config::Facts {
            vocabulary: rows("token_embd.weight")
                .ok_or_else(|| Error::NoTensor { tensor: "token_embd.weight".into() })?,
            types: rows("token_types.weight"),
            output: find("output.weight").is_some(),
            dtype: match find("token_embd.weight").map(|entry| entry.dtype) {
                Some(GgmlDType::F16) => "float16",
                Some(GgmlDType::BF16) => "bfloat16",
                _ => "float32",
            },
            divisors: values("rope_freqs.weight")?,
            long_short,
        };
        config::config(&self.architecture, &self.meta, &facts)
    }

    /// The tokenizer that the vocabulary of the file describes.
    ///
    /// # Errors
    /// If the file has none, or one of a kind that is not known.
    pub fn tokenizer(&self) -> Result<tokenizers::Tokenizer, Error> {
        vocabulary::tokenizer(&self.meta)
    }

    /// What a `tokenizer_config.json` beside the tokenizer says: special tokens and the chat template.
    pub fn tokenizer_config(&self) -> Result<Map<String, Value>, Error> {
        vocabulary::tokenizer_config(&self.meta)
    }

    /// Tensors that the configuration has taken up.
    fn is_taken_up(name: &str) -> bool {
        matches!(name, "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight")
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.tensors.get(name).ok_or_else(|| Error::NoTensor { tensor: name.to_owned() })
    }

    /// Decodes whole rows of a stored matrix, one behind the other.
    fn decode(&self, entry: &Entry, rows: impl Iterator<Item = usize>, columns: usize) -> Result<Floats, Error> {
        let bytes = &self.bytes[entry.range.clone()];
        let width = columns / entry.dtype.block_size() * entry.dtype.type_size();
        let mut floats = match entry.dtype {
            GgmlDType::F16 => Floats::F16(Vec::new()),
            GgmlDType::BF16 => Floats::Bf16(Vec::new()),
            _ => Floats::F32(Vec::new()),
        };
        // Rows are collected into pieces of about this many bytes, with the alignment that candle insists on.
        const PIECE: usize = 1 << 20;
        let per_piece = (PIECE / width.max(1)).clamp(1, bytes.len() / width.max(1) + 1);
        let mut piece = vec![0u64; (per_piece * width).div_ceil(8)];
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let piece: &mut [u8] = bytemuck::cast_slice_mut(&mut piece);
            let mut length = 0;
            for row in rows.by_ref().take(per_piece) {
                piece[length..length + width].copy_from_slice(&bytes[row * width..][..width]);
                length += width;
            }
            decode_blocks(entry.dtype, &piece[..length], &mut floats).map_err(|e| Error::Candle {
                tensor: entry.stored.clone(),
                file: self.path.clone(),
                what: e.to_string(),
            })?;
        }
        self.bytes.release(entry.range.clone());
        if entry.change == Change::PlusOne {
            let mut values = floats.to_f32();
            values.iter_mut().for_each(|x| *x -= 1.0);
            floats = Floats::F32(values);
        }
        Ok(floats)
    }
}

/// Appends the values of whole blocks.
fn decode_blocks(dtype: GgmlDType, blocks: &[u8], floats: &mut Floats) -> candle_core::Result<()> {
    match floats {
        Floats::F16(v) => v.extend(blocks.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]))),
        Floats::Bf16(v) => v.extend(blocks.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]))),
        Floats::F32(v) if dtype == GgmlDType::F32 => {
            v.extend(blocks.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        Floats::F32(v) => {
            let count = blocks.len() / dtype.type_size() * dtype.block_size();
            match dtype.from_data(blocks.into()).dequantize(count)? {
                CpuStorage::F32(values) => v.extend_from_slice(&values),
                other => candle_core::bail!("decoded to {:?}", std::mem::discriminant(&other)),
            }
        }
        Floats::F8E4m3(_) => candle_core::bail!("not a type of GGUF files"),
    }
    Ok(())
}

impl Container for Gguf {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().filter(|name| !Gguf::is_taken_up(name)).cloned().collect()
    }

    fn form(&self, name: &str) -> Option<Form> {
        let entry = self.tensors.get(name)?;
        let [rows, columns] = matrix(&entry.shape)?;
        let shape = if entry.change == Change::Transposed { [columns, rows] } else { [rows, columns] };
        let code = match entry.dtype {
            _ if entry.change == Change::PlusOne => CodeForm::Float(Dtype::F32),
            GgmlDType::F32 => CodeForm::Float(Dtype::F32),
            GgmlDType::F16 => CodeForm::Float(Dtype::F16),
            GgmlDType::BF16 => CodeForm::Float(Dtype::Bf16),
            other => CodeForm::Blocks(BlockKind {
                name: entry.dtype_name.to_owned(),
                values: other.block_size(),
                bytes: other.type_size(),
            }),
        };
        Some(Expr::Leaf(LeafForm { shape, code, mask: None }))
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
        // A tensor that is stored transposed and read transposed is read as it lies.
        let mut view = source.view.clone();
        view.transposed ^= entry.change == Change::Transposed;
        let fault = |fault| Error::View { tensor: name.clone(), fault };
        let part = Selection::new(stored, &view, source.form.shape()).map_err(fault)?;
        let order = |row: usize, rows: usize| match entry.change {
            Change::Pairs { heads } => row_of_pair(row, rows / heads),
            _ => row,
        };
        if entry.shape.len() == 2 && !part.transposed && !part.entries {
            let rows = part.rows.iter().cloned().flatten().map(|row| order(row, stored[0]));
            return Ok(Weight::float(part.shape, self.decode(entry, rows, stored[1])?));
        }
        // Vectors, and parts that cut across rows: decode the whole, then take the part.
        let rows = (0..stored[0]).map(|row| if entry.shape.len() == 2 { order(row, stored[0]) } else { row });
        let mut whole = self.decode(entry, rows, stored[1])?;
        if let (Change::Pairs { .. }, [count]) = (entry.change, entry.shape.as_slice()) {
            let values = whole.to_f32();
            whole = Floats::from_f32((0..*count).map(|i| values[order(i, *count)]).collect(), whole.dtype());
        }
        let values = match whole {
            Floats::F16(v) => Floats::F16(part.take(stored, &v)),
            Floats::Bf16(v) => Floats::Bf16(part.take(stored, &v)),
            Floats::F32(v) => Floats::F32(part.take(stored, &v)),
            Floats::F8E4m3(_) => unreachable!("no GGUF type decodes to FP8"),
        };
        Ok(Weight::float(part.shape, values))
    }

    fn parts(&self, name: &str) -> Vec<String> {
        self.tensors.get(name).map(|entry| entry.stored.clone()).into_iter().collect()
    }

    fn files(&self) -> &dyn container::Files {
        self
    }
}

impl container::Files for Gguf {
    fn stored(&self) -> Vec<String> {
        let mut names: Vec<String> = self.logical.keys().cloned().collect();
        names.sort();
        names
    }

    fn raw(&self, stored: &str) -> Option<Raw<'_>> {
        let entry = match self.logical.get(stored) {
            Some(name) => &self.tensors[name],
            // Under its logical name a tensor can be had if its bytes mean the same there.
            None => self.tensors.get(stored).filter(|entry| entry.change == Change::None)?,
        };
        Some(Raw { dtype: entry.dtype_name, shape: &entry.shape, bytes: &self.bytes[entry.range.clone()] })
    }

    fn release(&self, stored: &[String]) {
        for name in stored.iter().filter_map(|stored| self.logical.get(stored)) {
            self.bytes.release(self.tensors[name].range.clone());
        }
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Where row `row` of a checkpoint stands in a GGUF file whose heads have `width` rows: rows `j` and `j + width / 2` of
/// a head stand side by side.
fn row_of_pair(row: usize, width: usize) -> usize {
    let (head, at) = (row / width, row % width);
    head * width + at % (width / 2) * 2 + at / (width / 2)
}

fn matrix(shape: &[usize]) -> Option<[usize; 2]> {
    match *shape {
        [n] => Some([1, n]),
        [rows, columns] => Some([rows, columns]),
        _ => None,
    }
}

fn dtype_name(dtype: GgmlDType) -> &'static str {
    match dtype {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}
