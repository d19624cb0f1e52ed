//! Static models: a vector for each token, and the mean of them for a text. The format is model2vec's.

mod cluster;
mod distill;
mod vocabulary;

use std::path::Path;

use brevity_formats::{Files, Folder, SafetensorsFiles};
use brevity_kernels::bag::{sum_rows_f32, sum_rows_i8};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::modules::{First, Layer, Modules, file, pretty};
use crate::tokens::{Reading, Tokens};
use crate::vectors::Vectors;

pub use distill::{Distill, Rows, distill};

/// Tokens of a text that are looked at if the model does not say.
const USUAL_TOKENS: usize = 512;
/// Texts that a task encodes.
const TEXTS: usize = 64;
const WEIGHTS: &str = "model.safetensors";

/// A static model in memory.
///
/// The vector of a text is the mean of `table[mapping[token]] * weights[token]` over its tokens, those that are unknown left out;
/// without tokens it is zero.
///
/// # Source
/// model2vec 0.10; the file layout is that of its `StaticModel`.
#[derive(Debug)]
pub struct StaticModel {
    tokens: Tokens,
    table: Table,
    width: usize,
    /// For each token, the row of the table; the token itself without it.
    mapping: Option<Vec<u32>>,
    /// For each token, a factor.
    weights: Option<Vec<f32>>,
    normalise: bool,
    /// Characters of a text that are looked at.
    max_chars: usize,
    unknown: Option<u32>,
}

/// Rows of vectors.
#[derive(Clone, Debug, PartialEq)]
pub enum Table {
    /// Singles.
    F32(Vec<f32>),
    /// Whole numbers from -127 to 127. The scale that makes them floats is left out: it changes no direction.
    I8(Vec<i8>),
}

impl Table {
    /// Singles as whole numbers, the largest magnitude being 127; rounded half to even.
    ///
    /// Each number is rounded to half precision, and so is its quotient, as model2vec does.
    pub fn quantized(values: &[f32]) -> Table {
        use half::f16;
        let most = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scale = most / 127.0;
        let code = |x: &f32| {
            if scale == 0.0 {
                return 0;
            }
            let quotient = f16::from_f32(f16::from_f32(*x).to_f32() / scale).to_f32();
            quotient.round_ties_even().clamp(-127.0, 127.0) as i8
        };
        Table::I8(values.iter().map(code).collect())
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match self {
            Table::F32(values) => values.len(),
            Table::I8(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of the first columns of some rows, each times its factor.
    fn sum(&self, width: usize, rows: &[u32], factors: Option<&[f32]>, out: &mut [f32]) {
        match self {
            Table::F32(values) => sum_rows_f32(values, width, rows, factors, out),
            Table::I8(values) => sum_rows_i8(values, width, rows, factors, out),
        }
    }
}

/// How the table of a static model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableType {
    /// Singles.
    F32,
    /// Half precision.
    #[default]
    F16,
    /// Whole numbers of eight bits; sentence-transformers cannot average these, model2vec can.
    I8,
}

impl StaticModel {
    /// A model of its parts. `normalise` says whether vectors are divided by their length.
    ///
    /// # Shapes
    /// `table` is `[rows, width]`, `mapping` and `weights` have an entry for each token.
    ///
    /// # Errors
    /// [`Error::Table`] if there is a token without a row.
    pub fn new(
        tokenizer: Tokenizer,
        table: Table,
        width: usize,
        mapping: Option<Vec<u32>>,
        weights: Option<Vec<f32>>,
        normalise: bool,
    ) -> Result<StaticModel> {
        let rows = table.len().checked_div(width).unwrap_or(0);
        let tokens = tokenizer.get_vocab(true).into_values().max().map_or(0, |most| most as usize + 1);
        let held = mapping.as_ref().map_or(rows, Vec::len);
        let furthest = mapping.iter().flatten().max().map_or(0, |&row| row as usize + 1);
        let weighed = weights.as_ref().map_or(tokens, Vec::len);
        if tokens > held.min(weighed) || furthest > rows {
            return Err(Error::Table { rows: held.min(weighed).min(rows), tokens: tokens.max(furthest) });
        }
        let unknown = unknown(&tokenizer);
        let max_chars = USUAL_TOKENS * median_length(&tokenizer);
        let tokens = Tokens::new(tokenizer, Reading { special: false, lower: false, most: USUAL_TOKENS })?;
        Ok(StaticModel { tokens, table, width, mapping, weights, normalise, max_chars, unknown })
    }

    /// Reads a directory of model2vec, or of sentence-transformers with a `StaticEmbedding`.
    ///
    /// # Errors
    /// If a file is missing or damaged, or a token has no row.
    pub fn read(folder: &Folder) -> Result<StaticModel> {
        let at = if folder.has(WEIGHTS) { "" } else { "0_StaticEmbedding/" };
        let weights = format!("{at}{WEIGHTS}");
        let files = SafetensorsFiles::open(folder, &[&weights])?;
        let wrong = |why: &str| file(folder, &weights, why.to_owned());
        let named = |name: &&str| files.raw(name).is_some();
        let name = ["embeddings", "embedding.weight"].into_iter().find(named);
        let name = name.ok_or_else(|| wrong("has neither `embeddings` nor `embedding.weight`"))?;
        let found = files.raw(name).expect("it was found by this name");
        let &[_, width] = found.shape else { return Err(wrong("has a table that is no matrix")) };
        let table = match found.dtype {
            "I8" => Table::I8(found.bytes.iter().map(|&byte| byte as i8).collect()),
            _ => Table::F32(files.read_f32(name)?),
        };
        let mapping = files.raw("mapping").map(|raw| {
            let numbers = raw.bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight")));
            numbers.map(|n| u32::try_from(n).unwrap_or(u32::MAX)).collect()
        });
        let factors = files.raw("weights").map(|_| files.read_f32("weights")).transpose()?;
        let config: Value = match folder.has("config.json") {
            true => serde_json::from_str(&folder.read_text("config.json")?)
                .map_err(|why| file(folder, "config.json", format!("cannot be understood: {why}")))?,
            false => Value::Null,
        };
        let modules = Modules::read(folder).unwrap_or_default();
        let normalise = match config.get("normalize").and_then(Value::as_bool) {
            Some(said) => said,
            None => modules.layers.contains(&Layer::Normalize),
        };
        let text = folder.read(&format!("{at}tokenizer.json"))?;
        let tokenizer = Tokenizer::from_bytes(text)
            .map_err(|why| file(folder, "tokenizer.json", format!("is no tokenizer: {why}")))?;
        let mut model = StaticModel::new(bare(tokenizer), table, width, mapping, factors, normalise)?;
        if let Some(most) = config.get("max_length").and_then(Value::as_u64) {
            model.max_chars = model.max_chars / USUAL_TOKENS * most as usize;
            model.tokens.cut_to(most as usize);
        }
        Ok(model)
    }

    /// Dimensions of the vectors.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens that have a vector.
    pub fn tokens(&self) -> usize {
        self.mapping.as_ref().map_or(self.table.len() / self.width, Vec::len)
    }

    /// Whether vectors have length one.
    pub fn normalises(&self) -> bool {
        self.normalise
    }

    /// The vectors of texts, in their order; `dims` keeps the first dimensions, divided by their length if the model normalises.
    ///
    /// # Cost
    /// `width` additions a token; most of the time goes into tokenizing.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Dims`].
    pub fn encode(&self, texts: &[&str], dims: Option<usize>) -> Result<Vectors> {
        let dims = dims.unwrap_or(self.width);
        if dims == 0 || dims > self.width {
            return Err(Error::Dims { asked: dims, width: self.width });
        }
        let mut vectors = Vectors::zeros(texts.len(), dims);
        let parts = vectors.values.par_chunks_mut(TEXTS * dims).zip(texts.par_chunks(TEXTS)).enumerate();
        parts.try_for_each(|(part, (out, texts))| -> Result<()> {
            let (mut ids, mut factors) = (Vec::new(), Vec::new());
            for (n, (out, text)) in out.chunks_exact_mut(dims).zip(texts).enumerate() {
                self.mean(part * TEXTS + n, text, &mut ids, &mut factors, out)?;
                if self.normalise {
                    crate::encoder::normalise(out);
                }
            }
            Ok(())
        })?;
        Ok(vectors)
    }

    /// The mean over the tokens of a text; `ids` and `factors` are room to work in.
    fn mean(&self, n: usize, text: &str, ids: &mut Vec<u32>, factors: &mut Vec<f32>, out: &mut [f32]) -> Result<()> {
        let end = match text.len() > self.max_chars {
            true => text.char_indices().nth(self.max_chars).map_or(text.len(), |(at, _)| at),
            false => text.len(),
        };
        ids.clear();
        self.tokens.append(n, &text[..end], ids)?;
        ids.retain(|id| Some(*id) != self.unknown);
        let factors = self.weights.as_ref().map(|weights| {
            factors.clear();
            factors.extend(ids.iter().map(|&id| weights[id as usize]));
            &factors[..]
        });
        if let Some(mapping) = &self.mapping {
            ids.iter_mut().for_each(|id| *id = mapping[*id as usize]);
        }
        self.table.sum(self.width, ids, factors, out);
        if !ids.is_empty() {
            let count = ids.len() as f32;
            out.iter_mut().for_each(|x| *x /= count);
        }
        Ok(())
    }

    /// The files of the model, by name, for model2vec and sentence-transformers. A table of singles is written as `kind` says.
    /// `about` is added to its `config.json`.
    ///
    /// # Errors
    /// If the tokenizer cannot be written.
    pub fn files(&self, kind: TableType, about: &[(&str, Value)]) -> Result<Vec<(String, Vec<u8>)>> {
        let quantized;
        let table = match (&self.table, kind) {
            (Table::F32(values), TableType::I8) => {
                quantized = Table::quantized(values);
                &quantized
            }
            (table, _) => table,
        };
        let (dtype, bytes): (Dtype, Vec<u8>) = match (table, kind) {
            (Table::I8(values), _) => (Dtype::I8, values.iter().map(|&x| x as u8).collect()),
            (Table::F32(values), TableType::F16) => {
                (Dtype::F16, values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect())
            }
            (Table::F32(values), _) => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
        };
        let factors: Option<Vec<u8>> =
            self.weights.as_ref().map(|weights| weights.iter().flat_map(|x| x.to_le_bytes()).collect());
        let mapping: Option<Vec<u8>> =
            self.mapping.as_ref().map(|mapping| mapping.iter().flat_map(|&row| i64::from(row).to_le_bytes()).collect());
        let view = |dtype, shape: Vec<usize>, bytes| TensorView::new(dtype, shape, bytes).expect("bytes fit the shape");
        let mut tensors = vec![("embeddings", view(dtype, vec![self.table.len() / self.width, self.width], &bytes))];
        if let Some(bytes) = &mapping {
            tensors.push(("mapping", view(Dtype::I64, vec![bytes.len() / 8], bytes)));
        }
        if let Some(bytes) = &factors {
            tensors.push(("weights", view(Dtype::F32, vec![bytes.len() / 4], bytes)));
        }
        let weights = safetensors::serialize(tensors, None).expect("names and shapes are fine");
        let mut config = json!({
            "model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": self.width, "normalize": self.normalise,
            "max_length": self.tokens.most(), "seq_length": 1_000_000,
            "embedding_dtype": match dtype { Dtype::I8 => "int8", Dtype::F16 => "float16", _ => "float32" },
            "vocabulary_quantization": self.mapping.as_ref().map(|_| self.table.len() / self.width),
        });
        for (key, value) in about {
            config[*key] = value.clone();
        }
        let layers = if self.normalise { vec![Layer::Normalize] } else { Vec::new() };
        let modules = Modules { first: First::Static, layers, ..Modules::default() };
        let tokenizer = self.tokens.tokenizer().to_string(true);
        let tokenizer = tokenizer.map_err(|why| Error::Tokenize { text: 0, why: why.to_string() })?;
        // Sentence-transformers takes the row of a token to be that of its number, and would say something else of a text.
        let mut files = if self.mapping.is_none() { modules.files(self.width) } else { Vec::new() };
        files.push((WEIGHTS.into(), weights));
        files.push(("config.json".into(), pretty(&config)));
        files.push(("tokenizer.json".into(), tokenizer.into_bytes()));
        files.sort();
        Ok(files)
    }
}

/// Whether a static model stands at a path. It has no architecture: its table is all there is, and the checkpoint is opened as loose
/// matrices.
pub fn is_static_at(path: &Path) -> bool {
    Folder::open(path).is_ok_and(|folder| is_static(&folder))
}

/// Whether the files of a directory are those of a static model.
pub fn is_static(folder: &Folder) -> bool {
    let listed = folder.read_text(crate::modules::MODULES).is_ok_and(|text| text.contains("StaticEmbedding"));
    let said = folder
        .read_text("config.json")
        .is_ok_and(|text| serde_json::from_str::<Value>(&text).is_ok_and(|config| config["model_type"] == "model2vec"));
    listed || said
}

/// A tokenizer without padding and without cutting.
fn bare(mut tokenizer: Tokenizer) -> Tokenizer {
    tokenizer.with_padding(None);
    // Taking a limit away cannot fail.
    let _ = tokenizer.with_truncation(None);
    tokenizer
}

/// The id of the token for what is not in the vocabulary.
fn unknown(tokenizer: &Tokenizer) -> Option<u32> {
    let json: Value = serde_json::from_str(&tokenizer.to_string(false).ok()?).ok()?;
    match json["model"]["unk_token"].as_str() {
        Some(token) => tokenizer.token_to_id(token),
        None => json["model"]["unk_id"].as_u64().map(|id| id as u32),
    }
}

/// The median of the lengths of tokens, in characters.
fn median_length(tokenizer: &Tokenizer) -> usize {
    let mut lengths: Vec<usize> = tokenizer.get_vocab(true).keys().map(|token| token.chars().count()).collect();
    lengths.sort_unstable();
    match lengths.len() {
        0 => 1,
        n if n % 2 == 1 => lengths[n / 2],
        n => (lengths[n / 2 - 1] + lengths[n / 2]) / 2,
    }
    .max(1)
}

#[cfg(test)]
mod tests;
