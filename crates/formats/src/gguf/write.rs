//! GGUF files, written: one file for llama.cpp and its kin.
//!
//! The shape of the tree decides what the file says: the configuration of the source is asked only for what a tree does
//! not show, such as the base of the rotary frequencies. Everything in front of the data is worked out from forms, so
//! that names, types and the exact size are known before a weight is loaded; and what a reader would make of it is held
//! against the model before anything is written. Then stages are loaded one by one, decoded and multiplied out, and
//! encoded a few rows at a time.
//!
//! | type | matrices | output table (the token table, if both are one) | vectors, positions, token types |
//! |---|---|---|---|
//! | `f32`, `f16`, `bf16` | the same | the same | F32 |
//! | `q8_0` | Q8_0 | Q8_0 | F32 |
//! | `q4_0` | Q4_0 | Q6_K | F32 |
//! | `q4_k` | Q4_K; values and the last matrix of MLPs Q6_K in half of the blocks; fused queries, keys and values Q5_K | Q6_K | F32 |
//!
//! That is what llama.cpp's own tool does under these names (`q4_k` is its Q4_K_M). Rows whose width is no multiple of
//! 256 have Q5_0 for Q4_K, Q5_1 for Q5_K and Q8_0 for Q6_K; where 32 does not divide it either, F16.

mod architecture;
mod blocks;
mod fault;
mod file;
mod keys;
mod metadata;
mod said;
mod tensors;
mod types;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::Path;

use brevity_kernels::cast;
use brevity_model::{Code, Config, Expr, Floats, Leaf, Model, Place, Site, Source, Stage, Weight};

use self::architecture::Shape;
use self::blocks::Block;
pub use self::fault::{GgufFault, GgufNote, NoVocabulary};
use self::file::{Header, Info, Part};
use self::tensors::{Change, Data, Planned};
pub use self::types::GgufType;
use crate::error::Error;
use crate::gather::is_vector;
use crate::output::OutputFault;

/// What the format is, in one sentence.
pub const GGUF_ABOUT: &str = "one GGUF file, in f32, f16, bf16, q8_0, q4_0 or q4_k (`brevity export --type`)";

/// Which tools open such files.
pub const GGUF_CONSUMERS: &str = "llama.cpp, Ollama, LM Studio, candle, mistral.rs, transformers (decoded)";

/// Weights encoded at once.
const PIECE: usize = 1 << 20;

/// What goes into a file besides the weights.
#[derive(Clone, Copy, Debug)]
pub struct GgufAbout<'a> {
    /// The name of the model.
    pub name: &'a str,
    /// Its configuration.
    pub config: &'a Config,
    /// The files beside its weights, each a name and its bytes: the tokenizer, and what it is used with.
    pub files: &'a [(String, Vec<u8>)],
}

/// A GGUF file before its data.
#[derive(Debug)]
pub struct GgufExport {
    architecture: &'static str,
    kind: GgufType,
    places: Vec<Place>,
    tensors: Vec<Planned>,
    header: Header,
    notes: Vec<GgufNote>,
}

impl GgufExport {
    /// Works out what the file of a model will hold. No weight is read.
    ///
    /// # Errors
    /// [`Error::Gguf`] if no such file can say what the model is.
    pub fn plan(model: &Model<Source>, about: &GgufAbout<'_>, kind: GgufType) -> Result<Self, Error> {
        Self::planned(model, about, kind).map_err(GgufFault::error)
    }

    fn planned(model: &Model<Source>, about: &GgufAbout<'_>, kind: GgufType) -> Result<Self, GgufFault> {
        let shape = Shape::of(model)?;
        let mut notes = Vec::new();
        let (mut keys, extras) = metadata::all(about, model, &shape, kind);
        let vocabulary = vocabulary::keys(about.files, about.config, model.vocabulary);
        keys.extend(vocabulary.unwrap_or_else(|why| {
            notes.push(GgufNote::NoVocabulary { why });
            vocabulary::none()
        }));
        let mut tensors = tensors::all(model, &shape, kind)?;
        // Behind those of the first stage, with which they are written.
        let first = tensors.iter().take_while(|tensor| tensor.stage == 0).count();
        tensors.splice(first..first, extras);
        said::check(model, &shape, &keys, &tensors)?;
        notes.extend(about_shape(&shape, model));
        notes.extend(about_widths(&tensors));
        let infos: Vec<Info> = tensors.iter().map(|tensor| tensor.info.clone()).collect();
        let header = Header::new(&keys, &infos);
        let places = (0..model.stages.len()).map(|n| model.place(n)).collect();
        Ok(GgufExport { architecture: shape.architecture.name, kind, places, tensors, header, notes })
    }

    /// The architecture that the file names.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// How its weights are stored.
    pub fn kind(&self) -> GgufType {
        self.kind
    }

    /// Bytes of the file, exactly.
    pub fn size_bytes(&self) -> u64 {
        self.header.size_bytes()
    }

    /// What is worth knowing before it is written.
    pub fn notes(&self) -> &[GgufNote] {
        &self.notes
    }

    /// How many tensors there are of each type.
    pub fn types(&self) -> BTreeMap<&'static str, usize> {
        let mut types = BTreeMap::new();
        for tensor in &self.tensors {
            *types.entry(tensor.info.block.name()).or_insert(0) += 1;
        }
        types
    }

    /// Bytes that are in memory beside a loaded stage: one weight that is not plain floats is decoded whole, and a piece
    /// is encoded.
    pub fn working_bytes(&self, model: &Model<Source>) -> u64 {
        let weights =
            model.weights().filter(|(_, _, source)| !matches!(source.form, Expr::Leaf(ref leaf) if !leaf.is_coded()));
        let decoded = weights.map(|(_, _, source)| source.form.shape().iter().map(|&n| n as u64).product::<u64>() * 4);
        decoded.max().unwrap_or(0) + 8 * PIECE as u64
    }

    /// Writes the file: beside its place, flushed to disk, renamed; whole, or not at all.
    ///
    /// `load` hands out the weights of each stage once, in order. `replace` allows for a file that is in the place. After
    /// each stage `done` is told how many are written.
    ///
    /// # Errors
    /// What `load` and `done` return; [`Error::Output`] if the file cannot be written;
    /// [`GgufFault::TooLarge`] if a weight is beyond the range of its type.
    pub fn write<E: From<Error>>(
        &self,
        path: &Path,
        replace: bool,
        mut load: impl FnMut(usize) -> Result<Stage<Weight>, E>,
        mut done: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        if !replace && path.symlink_metadata().is_ok_and(|found| !found.is_dir()) {
            return Err(OutputFault::Exists.at(path).into());
        }
        let mut part = Part::begin(path, &self.header)?;
        let last = self.tensors.last().map_or(0, |tensor| tensor.stage + 1);
        for n in 0..last {
            let stage = load(n)?;
            for tensor in self.tensors.iter().filter(|tensor| tensor.stage == n) {
                tensor.write(&stage, self.places[n], &mut part)?;
            }
            done(n + 1)?;
        }
        Ok(part.finish()?)
    }
}

impl Planned {
    /// Encodes the values of the tensor and writes them.
    fn write(&self, stage: &Stage<Weight>, place: Place, part: &mut Part) -> Result<(), Error> {
        match &self.data {
            Data::Values(values) => part.write(&self.info.block.encode_rows(values.len(), values))?,
            Data::Same(value) => {
                let columns = *self.info.shape.last().expect("a tensor has dimensions");
                let rows = self.info.shape.iter().product::<usize>() / columns;
                let row = self.info.block.encode_rows(columns, &vec![*value; columns]);
                part.write(&row.repeat(rows))?;
            }
            Data::Weights { parts, change } => {
                let weights = stage.weights();
                for (role, slot) in parts {
                    let found = weights.iter().find(|(r, s, _)| (r, s) == (role, slot));
                    let (_, _, weight) = found.expect("a stage has the weights that its sources name");
                    let site = Site::new(place, role.clone());
                    write_rows(weight, is_vector(role, *slot), self.info.block, *change, &site, part)?;
                }
            }
        }
        part.pad()
    }
}

/// Encodes the rows of a weight in the order of the file, some at a time; the entries of a vector are rows of one.
fn write_rows(
    weight: &Weight,
    vector: bool,
    block: Block,
    change: Change,
    site: &Site,
    part: &mut Part,
) -> Result<(), Error> {
    let [rows, columns] = if vector { [weight.shape()[1], 1] } else { weight.shape() };
    let source = Values::of(weight);
    let at_once = (PIECE / columns.max(1)).max(1);
    let mut values = Vec::new();
    for start in (0..rows).step_by(at_once) {
        let end = rows.min(start + at_once);
        values.resize((end - start) * columns, 0.0);
        for (row, out) in (start..end).zip(values.chunks_mut(columns.max(1))) {
            source.copy(change.row(row) * columns, out);
        }
        if change == Change::PlusOne {
            values.iter_mut().for_each(|x| *x += 1.0);
        }
        if block.is_half()
            && let Some(&value) = values.iter().find(|x| x.abs() > 65504.0)
        {
            return Err(GgufFault::TooLarge { site: site.clone(), value, block: block.name() }.error());
        }
        part.write(&block.encode_rows(columns, &values))?;
    }
    Ok(())
}

/// A weight as singles: plain floats are widened where they stand, anything else is decoded and multiplied out once.
enum Values<'a> {
    Floats(&'a Floats),
    Decoded(Vec<f32>),
}

impl<'a> Values<'a> {
    fn of(weight: &'a Weight) -> Self {
        match weight {
            Expr::Leaf(Leaf { code: Code::Float(floats), mask: None, .. }) => Values::Floats(floats),
            other => Values::Decoded(other.to_f32()),
        }
    }

    /// The values from `at` on.
    fn copy(&self, at: usize, out: &mut [f32]) {
        let range = at..at + out.len();
        match self {
            Values::Decoded(v) => out.copy_from_slice(&v[range]),
            Values::Floats(Floats::F32(v)) => out.copy_from_slice(&v[range]),
            Values::Floats(Floats::F16(v)) => cast::f16_to_f32(&v[range], out),
            Values::Floats(Floats::Bf16(v)) => cast::bf16_to_f32(&v[range], out),
            Values::Floats(Floats::F8E4m3(v)) => cast::e4m3_to_f32(&v[range], out),
        }
    }
}

/// What the architecture cannot say, and what is said in a way of its own.
fn about_shape(shape: &Shape<'_>, model: &Model<Source>) -> Vec<GgufNote> {
    let mut notes = Vec::new();
    if shape.architecture.uneven {
        notes.push(GgufNote::Uneven);
    }
    match shape.blocks.iter().filter(|block| block.mlp.is_none()).count() {
        0 => {}
        blocks => notes.push(GgufNote::ZeroMlp { blocks }),
    }
    if let Some(window) = shape.window.filter(|&n| !shape.architecture.windows && Some(n) < model.context) {
        notes.push(GgufNote::Window { window });
    }
    let loose = model.stages.iter().filter_map(|stage| match stage {
        Stage::Loose(loose) => Some(loose.matrices.keys().chain(&loose.others)),
        _ => None,
    });
    let loose: Vec<&String> = loose.flatten().collect();
    if let Some(first) = loose.first() {
        notes.push(GgufNote::LeftOut { tensors: loose.len(), example: (*first).clone() });
    }
    notes
}

/// Tensors that have another type than they should, for the width of their rows.
fn about_widths(tensors: &[Planned]) -> Option<GgufNote> {
    let changed: Vec<&Planned> = tensors.iter().filter(|tensor| tensor.wanted != tensor.info.block).collect();
    let first = changed.first()?;
    Some(GgufNote::Widths {
        tensors: changed.len(),
        example: first.info.name.clone(),
        columns: *first.info.shape.last().expect("a tensor has dimensions"),
        wanted: first.wanted.name(),
        found: first.info.block.name(),
    })
}
