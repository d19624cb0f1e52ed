//! An encoder in memory: texts in, vectors out.

use brevity_formats::{Checkpoint, Folder};
use brevity_model::{Model, Source, Stage, Stages, Weight, scale_queries};
use brevity_runtime::{Compute, Resident};
use rayon::prelude::*;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::modules::{First, Layer, Modules};
use crate::pool::Pooling;
use crate::tokens::{Reading, Tokens};
use crate::vectors::Vectors;

/// Tokens that go through the model beside each other: with fewer, packing weights anew takes longer than it should. Cores work on
/// batches of their own, which takes less waiting than all of them on one.
const BATCH: usize = 2048;

/// How an encoder is loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Single precision if there is none.
    pub compute: Option<Compute>,
    /// Only so many blocks, from the first on; all of them if there is none.
    pub layers: Option<usize>,
    /// Instead of the pooling that the model says.
    pub pooling: Option<Pooling>,
    /// Instead of the longest input that the model says, in tokens.
    pub max_tokens: Option<usize>,
    /// What scores of attention are divided by; nothing if there is none.
    pub temperature: Option<f32>,
}

/// What is asked of the vectors of some texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// The name of the prompt that stands in front of the texts; the default one of the model if there is none.
    pub prompt: Option<&'a str>,
    /// So many dimensions, from the first on; the vectors are normalised again if the model normalises.
    pub dims: Option<usize>,
}

/// A sentence encoder that stays in memory.
///
/// ```no_run
/// use brevity_embed::{Ask, Encoder, Load};
/// use brevity_formats::Checkpoint;
///
/// let checkpoint = Checkpoint::open("all-MiniLM-L6-v2".as_ref())?;
/// let encoder = Encoder::load(&checkpoint, &Load::default())?;
/// let vectors = encoder.encode(&["two cats", "a dog"], &Ask::default())?;
/// assert_eq!((vectors.count(), vectors.width), (2, 384));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Encoder {
    model: Resident,
    tokens: Tokens,
    modules: Modules,
    width: usize,
}

/// A text as the model sees it.
struct Input {
    ids: Vec<u32>,
    /// Tokens of the prompt, if they do not count.
    skip: usize,
}

/// The vectors of some texts, one behind the other, behind so many blocks.
type Passed = Vec<(usize, Vec<f32>)>;

impl Encoder {
    /// Loads the model of a directory with what stands behind it.
    ///
    /// # Errors
    /// If a file cannot be read or says something unknown, and [`Error::Layers`].
    pub fn load(checkpoint: &Checkpoint, load: &Load) -> Result<Encoder> {
        let modules = Modules::read(checkpoint.folder())?;
        Self::of(checkpoint, checkpoint.folder(), checkpoint.tokenizer()?, modules, load)
    }

    /// Puts together the weights of one place and what another folder says beside them: an output that is not whole yet has none.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn of(
        stages: &dyn Stages,
        folder: &Folder,
        tokenizer: Tokenizer,
        mut modules: Modules,
        load: &Load,
    ) -> Result<Encoder> {
        if modules.first == First::Static {
            let file = folder.path().join(crate::modules::MODULES);
            return Err(Error::File { file, why: "is of a static table, which is not run as a transformer".into() });
        }
        if let Some(pooling) = load.pooling {
            modules.pool_by(pooling);
        }
        let model = stages.model();
        let all = model.stages.iter().filter(|stage| matches!(stage, Stage::Block(_))).count();
        let layers = load.layers.unwrap_or(all);
        if layers > all {
            return Err(Error::Layers { asked: layers, layers: all });
        }
        let sharpen = |stage: &mut Stage<Weight>| {
            if let (Stage::Block(block), Some(tau)) = (stage, load.temperature)
                && let Some(attn) = &mut block.attn
            {
                scale_queries(attn, 1.0 / tau);
            }
        };
        let said = load.max_tokens.or(modules.max_tokens).or_else(|| longest(folder));
        modules.max_tokens = match (said, positions(model)) {
            (Some(said), Some(known)) => Some(said.min(known)),
            (said, known) => said.or(known),
        };
        let most = modules.max_tokens.unwrap_or(usize::MAX);
        let tokens = Tokens::new(tokenizer, Reading { special: true, lower: modules.lower_case, most })?;
        let width = modules.width(model.hidden)?;
        let compute = load.compute.unwrap_or(Compute::F32);
        let model = Resident::load_for_states(stages, compute, layers, &sharpen)?;
        Ok(Encoder { model, tokens, modules, width })
    }

    /// Dimensions of the vectors.
    pub fn width(&self) -> usize {
        self.modules.truncate_dim.map_or(self.width, |dims| dims.min(self.width))
    }

    /// Blocks of the model.
    pub fn layers(&self) -> usize {
        self.model.blocks()
    }

    /// What stands behind the model.
    pub fn modules(&self) -> &Modules {
        &self.modules
    }

    /// The vectors of texts, in their order.
    ///
    /// Texts go through the model side by side in runs of some thousand tokens, the longest first; a vector depends on what else
    /// is in its run by rounding alone. A text of no tokens at all has the vector zero. Longer texts than the model takes are
    /// cut.
    ///
    /// # Errors
    /// [`Error::Tokenize`], [`Error::Prompt`], [`Error::Dims`], or if the model cannot be run.
    pub fn encode(&self, texts: &[&str], ask: &Ask<'_>) -> Result<Vectors> {
        let mut one = None;
        let last = self.layers();
        self.encode_layers(texts, ask, &[last], &mut |_| true, &mut |_, vectors| one = Some(vectors))?;
        Ok(one.unwrap_or_default())
    }

    /// The vectors of texts behind each of some numbers of blocks (0 is the embedding alone), from one pass: what the model cut
    /// to so many blocks gives. `progress` hears which share of the texts is done, and says whether to go on; if it does not,
    /// nothing is shown.
    ///
    /// # Errors
    /// As [`Encoder::encode`], and [`Error::Layers`].
    pub fn encode_layers(
        &self,
        texts: &[&str],
        ask: &Ask<'_>,
        layers: &[usize],
        progress: &mut dyn FnMut(f64) -> bool,
        show: &mut dyn FnMut(usize, Vectors),
    ) -> Result<()> {
        let dims = ask.dims.unwrap_or(self.width());
        if dims == 0 || dims > self.width() {
            return Err(Error::Dims { asked: dims, width: self.width() });
        }
        // What a directory says of dimensions leaves vectors as they are; see `Modules::truncate_dim`.
        let renewed = ask.dims.is_some_and(|dims| dims < self.width) && self.normalises();
        let deepest = layers.iter().copied().max().unwrap_or(0);
        if deepest > self.layers() {
            return Err(Error::Layers { asked: deepest, layers: self.layers() });
        }
        let inputs = self.inputs(texts, ask.prompt)?;
        let mut all: Vec<Vectors> = layers.iter().map(|_| Vectors::zeros(texts.len(), dims)).collect();
        let mut order: Vec<usize> = (0..inputs.len()).filter(|&n| !inputs[n].ids.is_empty()).collect();
        order.sort_by_key(|&n| (std::cmp::Reverse(inputs[n].ids.len()), n));
        let tokens: usize = inputs.iter().map(|input| input.ids.len()).sum();
        let (mut batches, mut rest) = (Vec::new(), order.as_slice());
        while !rest.is_empty() {
            let mut held = 0;
            let mut fits = |n: &&usize| {
                held += inputs[**n].ids.len();
                held <= BATCH
            };
            let count = rest.iter().take_while(|n| fits(n)).count().max(1);
            let (some, later) = rest.split_at(count);
            batches.push(some);
            rest = later;
        }
        let mut done = 0usize;
        for beside in batches.chunks(rayon::current_num_threads()) {
            let run = |some: &&[usize]| self.run(&inputs, some, deepest, layers);
            let found: Vec<Passed> = beside.par_iter().map(run).collect::<Result<_>>()?;
            for (some, found) in beside.iter().zip(found) {
                put(found, some, renewed, layers, &mut all)?;
                done += some.iter().map(|&n| inputs[n].ids.len()).sum::<usize>();
            }
            if !progress(done as f64 / tokens as f64) {
                return Ok(());
            }
        }
        layers.iter().zip(all).for_each(|(&layer, vectors)| show(layer, vectors));
        Ok(())
    }

    /// For each token the mean of the states of a text of this token alone, between what stands around every text, without what
    /// comes behind the model. `None` if `progress` says to stop.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn encode_tokens(&self, ids: &[u32], progress: &mut dyn FnMut(f64) -> bool) -> Result<Option<Vectors>> {
        let [front, back] = self.tokens.ends();
        let (mut values, mut done) = (Vec::new(), 0);
        for some in ids.chunks((BATCH / (front.len() + 1 + back.len())).max(1)) {
            let texts: Vec<Vec<u32>> = some.iter().map(|&id| [front, &[id], back].concat()).collect();
            let sequences: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let last = self.layers();
            self.model.states(&sequences, last, &|passed| passed == last, &mut |_, states| {
                let width = states.len() / (some.len() * texts[0].len());
                for states in states.chunks_exact(width * texts[0].len()) {
                    let at = values.len();
                    values.resize(at + width, 0.0);
                    Pooling::Mean.pool(states, 0, &mut values[at..]);
                }
                Ok(())
            })?;
            done += some.len();
            if !progress(done as f64 / ids.len() as f64) {
                return Ok(None);
            }
        }
        Ok(Some(Vectors { width: values.len() / ids.len().max(1), values }))
    }

    /// Takes some texts through the model.
    fn run(&self, inputs: &[Input], some: &[usize], deepest: usize, layers: &[usize]) -> Result<Passed> {
        let sequences: Vec<&[u32]> = some.iter().map(|&n| inputs[n].ids.as_slice()).collect();
        let mut pooled = Passed::new();
        self.model.states(&sequences, deepest, &|passed| layers.contains(&passed), &mut |passed, states| {
            let width = states.len() / sequences.iter().map(|ids| ids.len()).sum::<usize>();
            let mut at = 0;
            let parts: Vec<(&[f32], usize)> = some
                .iter()
                .map(|&n| {
                    let from = at;
                    at += inputs[n].ids.len() * width;
                    (&states[from..at], inputs[n].skip)
                })
                .collect();
            let rows: Vec<Vec<f32>> =
                parts.par_iter().map(|(states, skip)| self.pooled(states, *skip, width)).collect();
            pooled.push((passed, rows.concat()));
            Ok(())
        })?;
        Ok(pooled.into_iter().map(|(passed, rows)| (passed, self.behind(rows, some.len()))).collect())
    }

    /// The vector that the first module gives, `[width of all modes]`.
    fn pooled(&self, states: &[f32], skip: usize, width: usize) -> Vec<f32> {
        let Some(Layer::Pool { modes, .. }) = self.modules.layers.first() else { unreachable!("checked when read") };
        let mut out = vec![0.0; modes.len() * width];
        modes.iter().zip(out.chunks_exact_mut(width)).for_each(|(mode, out)| mode.pool(states, skip, out));
        out
    }

    /// So many pooled vectors, through everything behind the pooling.
    fn behind(&self, mut rows: Vec<f32>, count: usize) -> Vec<f32> {
        let mut width = rows.len() / count;
        for layer in &self.modules.layers {
            match layer {
                Layer::Pool { .. } => {}
                Layer::Dense(dense) => {
                    rows = dense.apply(&rows);
                    width = dense.shape[0];
                }
                Layer::Normalize => rows.chunks_exact_mut(width).for_each(normalise),
            }
        }
        rows
    }

    /// Whether vectors have length one.
    pub fn normalises(&self) -> bool {
        matches!(self.modules.layers.last(), Some(Layer::Normalize))
    }

    fn inputs(&self, texts: &[&str], prompt: Option<&str>) -> Result<Vec<Input>> {
        let name = prompt.or(self.modules.default_prompt.as_deref());
        let prompt = match name {
            None => "",
            Some(name) => self.modules.prompts.get(name).ok_or_else(|| Error::Prompt {
                name: name.to_owned(),
                known: self.modules.prompts.keys().cloned().collect(),
            })?,
        };
        let counts = !matches!(self.modules.layers.first(), Some(Layer::Pool { prompt: false, .. }));
        let skip = if counts || prompt.is_empty() { 0 } else { self.prompt_tokens(prompt)? };
        let one = |(n, text): (usize, &&str)| -> Result<Input> {
            let text = format!("{prompt}{text}");
            Ok(Input { ids: self.tokens.ids(n, text.trim())?, skip })
        };
        texts.par_iter().enumerate().map(one).collect()
    }

    /// How many tokens at the beginning belong to a prompt: all that it has by itself but the one that ends a text.
    fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        let (with, without) = (self.tokens.ids(0, prompt)?, self.tokens.ids(0, "")?);
        let ended = with.last().is_some_and(|last| without.last() == Some(last));
        Ok(with.len() - usize::from(ended))
    }
}

/// Puts as much of the vectors of some texts as fits where they belong, normalised again if asked.
fn put(found: Passed, some: &[usize], renewed: bool, layers: &[usize], all: &mut [Vectors]) -> Result<()> {
    for (passed, rows) in found {
        let width = rows.len() / some.len();
        for (&n, row) in some.iter().zip(rows.chunks_exact(width)) {
            if row.iter().any(|x| !x.is_finite()) {
                return Err(Error::NotFinite { text: n });
            }
            for (vectors, _) in all.iter_mut().zip(layers).filter(|(_, layer)| **layer == passed) {
                let out = vectors.row_mut(n);
                out.copy_from_slice(&row[..out.len()]);
                if renewed {
                    normalise(out);
                }
            }
        }
    }
    Ok(())
}

/// Divides a vector by its length, or by `1e-12` if that is more.
pub fn normalise(row: &mut [f32]) {
    let norm = length(row).max(1e-12) as f32;
    row.iter_mut().for_each(|x| *x /= norm);
}

/// The length of a vector.
pub(crate) fn length(row: &[f32]) -> f64 {
    // Sums side by side, which need not wait for each other.
    let mut sums = [0.0f64; 8];
    let (whole, rest) = row.as_chunks::<8>();
    whole.iter().for_each(|some| sums.iter_mut().zip(some).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x)));
    sums.iter_mut().zip(rest).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    sums.iter().sum::<f64>().sqrt()
}

/// The longest input that the tokenizer of a directory was made for.
fn longest(folder: &Folder) -> Option<usize> {
    let config: serde_json::Value = serde_json::from_str(&folder.read_text("tokenizer_config.json").ok()?).ok()?;
    // "No limit" is written as a number of thirty digits.
    config.get("model_max_length")?.as_u64().map(|n| n as usize).filter(|&n| n < 1 << 24)
}

/// How many tokens the model has positions for.
fn positions(model: &Model<Source>) -> Option<usize> {
    let learned = model.stages.iter().find_map(|stage| match stage {
        Stage::Embed(embed) => {
            let rows = embed.positions.as_ref()?.form.shape()[0];
            Some(rows.saturating_sub(embed.position_offset))
        }
        _ => None,
    });
    learned.or(model.context)
}
