//! A model on disk: its configuration, its weights stage by stage, its tokenizer.

use std::path::{Path, PathBuf};

use brevity_model::{
    Config, Dtype, Form, LoadError, Model, Place, Role, Site, Slot, Source, Stage, Stages, Tensors, View, Weight,
    build, build_loose,
};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::carried::carried_files;
use crate::compressed_tensors;
use crate::container::Container;
use crate::custom::{self, Custom};
use crate::error::Error;
use crate::finite;
use crate::folder::Folder;
use crate::format::Format;
use crate::fp8::Fp8;
use crate::gather::new_bias;
use crate::gguf::Gguf;
use crate::hf::WeightFiles;
use crate::native;
use crate::renumber::Renumber;
use crate::safetensors::SafetensorsFiles;
use crate::tokenizer;

/// How to open a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Do not look for an architecture: all weights are loose matrices, which can be rewritten but not run.
    pub loose: bool,
}

/// An opened model. Nothing but headers has been read; weights are read when a stage is loaded.
///
/// ```no_run
/// use brevity_formats::Checkpoint;
///
/// let checkpoint = Checkpoint::open("models/my-llama".as_ref())?;
/// for n in 0..checkpoint.model().stages.len() {
///     let stage = checkpoint.load_stage(n)?;
///     checkpoint.check_finite(n, &stage)?;
///     checkpoint.release_stage(n);
/// }
/// # Ok::<(), brevity_formats::Error>(())
/// ```
pub struct Checkpoint {
    folder: Folder,
    config: Config,
    files: Files,
    format: &'static str,
    model: Model<Source>,
}

/// Weights, as what holds them.
enum Files {
    Gguf(Box<Gguf>),
    Other(Box<dyn Container>),
}

impl Files {
    fn container(&self) -> &dyn Container {
        match self {
            Files::Gguf(gguf) => &**gguf,
            Files::Other(container) => &**container,
        }
    }
}

impl Checkpoint {
    /// Opens a model directory or a GGUF file.
    ///
    /// # Errors
    /// If it is neither, if its files are damaged or of a kind that is not read, or if they do not make up a model of
    /// a known architecture.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Open::default())
    }

    /// Opens a model directory or a GGUF file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`]; with [`Open::loose`] neither a configuration nor a known architecture is needed.
    pub fn open_with(path: &Path, options: Open) -> Result<Self, Error> {
        match Folder::open(path) {
            Ok(folder) => Self::from_folder(folder, options),
            Err(Error::NotADirectory { path }) if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) => {
                let folder = Folder::of_file(&path)?;
                let name = folder.list()?.into_iter().next().unwrap_or_default();
                Self::from_gguf(folder, &name, options)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the files of a model wherever they are.
    ///
    /// # Errors
    /// As [`Checkpoint::open_with`].
    pub fn from_folder(folder: Folder, options: Open) -> Result<Self, Error> {
        let names = match WeightFiles::find(&folder)? {
            WeightFiles::Gguf(name) => return Self::from_gguf(folder, &name, options),
            WeightFiles::Safetensors(names) => names,
        };
        let config = match folder.has("config.json") {
            true => {
                let file = folder.path().join("config.json");
                Config::parse(&folder.read_text("config.json")?).map_err(|fault| Error::Model { file, fault })?
            }
            false if options.loose => Config::default(),
            false => return Err(Error::NoConfig { path: folder.path().to_owned() }),
        };
        let files = SafetensorsFiles::open(&folder, &names)?;
        let (container, format) = wrap(files, &config, &folder)?;
        Self::assemble(folder, custom::as_stock(config), Files::Other(container), format, options)
    }

    /// Opens some of the shards of an output that is not whole yet, as the whole will be read.
    ///
    /// `config` is the configuration that the output will have, `like` the model that it is made from. Only stages
    /// whose shards are named can be loaded.
    ///
    /// # Errors
    /// If a shard cannot be read, or is not of the format that the configuration says.
    pub fn of_shards(
        dir: &Path,
        shards: &[String],
        config: Config,
        like: &Model<Source>,
        numbers: Option<&Renumber>,
    ) -> Result<Self, Error> {
        let folder = Folder::open(dir)?;
        let files = SafetensorsFiles::open(&folder, shards)?;
        let (container, format) = wrap(files, &config, &folder)?;
        let tensors = Named(&*container);
        let mut model = like.try_map(|mut site, slot, source| {
            // Blocks read the table of the embedding.
            if site.role == Role::AttnRelative {
                site = Site::new(Place::Embed, Role::Relative);
            }
            // As the output calls them, where blocks have moved up.
            site.place = Renumber::moved(numbers, site.place);
            let renamed = numbers.and_then(|numbers| numbers.name(&source.tensor));
            let name = renamed.as_ref().unwrap_or(&source.tensor);
            let now = tensors.source(&site, slot, name, source.view.clone());
            Ok::<_, Error>(now.unwrap_or_else(|| source.clone()))
        })?;
        // A layer may have got a bias that it did not have in `like`.
        for n in 0..model.stages.len() {
            let (place, mut before) = (Renumber::moved(numbers, like.place(n)), like.stages[n].clone());
            if matches!(before, Stage::Loose(_)) {
                continue;
            }
            for ((role, layer), (_, before)) in model.stages[n].linears_mut().into_iter().zip(before.linears_mut()) {
                if let (None, Some((name, view))) = (&layer.bias, new_bias(&before.weight)) {
                    let name = numbers.and_then(|numbers| numbers.name(&name)).unwrap_or(name);
                    layer.bias = tensors.source(&Site::new(place, role), Slot::Bias, &name, view);
                }
            }
        }
        Ok(Checkpoint { folder, config: custom::as_stock(config), files: Files::Other(container), format, model })
    }

    fn from_gguf(folder: Folder, name: &str, options: Open) -> Result<Self, Error> {
        let path = folder.path().join(name);
        let bytes = folder.map(name)?;
        let gguf = match options.loose {
            true => Gguf::open_as_it_is(&path, bytes)?,
            false => Gguf::open(&path, bytes)?,
        };
        let config = if options.loose { Map::new() } else { gguf.config()? };
        let config = config.into_iter().fold(Config::default(), |mut config, (key, value)| {
            config.set(&key, value);
            config
        });
        Self::assemble(folder, config, Files::Gguf(Box::new(gguf)), "gguf", options)
    }

    fn assemble(
        folder: Folder,
        config: Config,
        files: Files,
        format: &'static str,
        options: Open,
    ) -> Result<Self, Error> {
        let tensors = Named(files.container());
        let model = match options.loose {
            true => build_loose(&tensors),
            false => {
                build(&config, &tensors).map_err(|fault| Error::Model { file: folder.path().to_owned(), fault })?
            }
        };
        Ok(Checkpoint { folder, config, files, format, model })
    }

    /// Where the weights are, and how they are stored there.
    pub fn model(&self) -> &Model<Source> {
        &self.model
    }

    /// The settings of the model; those of a GGUF file are made from its metadata.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tensors.
    pub fn container(&self) -> &dyn Container {
        self.files.container()
    }

    /// The files of the model; of a GGUF file that file alone.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The directory or file, or the name of an embedded model.
    pub fn path(&self) -> PathBuf {
        match &self.files {
            Files::Gguf(gguf) => gguf.path().to_owned(),
            Files::Other(_) => self.folder.path().to_owned(),
        }
    }

    /// What kind of files the weights are in: `safetensors`, `fp8`, `gguf`, or a name of an output format.
    pub fn format(&self) -> &'static str {
        self.format
    }

    /// Bytes of the weight files.
    pub fn size_bytes(&self) -> u64 {
        self.container().size_bytes()
    }

    /// The weights of a stage, copied out of the files.
    ///
    /// # Errors
    /// If there is no such stage, or if a weight cannot be read.
    pub fn load_stage(&self, stage: usize) -> Result<Stage<Weight>, Error> {
        self.stage(stage)?.try_map(|_, _, source| self.load_weight(source))
    }

    /// One weight, copied out of the files.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load_weight(&self, source: &Source) -> Result<Weight, Error> {
        self.container().load_view(source)
    }

    /// Gives the memory of a stage's files back to the system. It can still be loaded.
    pub fn release_stage(&self, stage: usize) {
        let Ok(stage) = self.stage(stage) else { return };
        let mut tensors: Vec<&str> = stage.weights().into_iter().map(|(_, _, source)| source.tensor.as_str()).collect();
        if let Stage::Loose(loose) = stage {
            tensors.extend(loose.others.iter().map(String::as_str));
        }
        let stored: Vec<String> = tensors.into_iter().flat_map(|name| self.container().parts(name)).collect();
        self.container().release(&stored);
    }

    /// Checks that the weights of a loaded stage are finite, and names the first that is not.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the tensor and the number of NaN and infinite values in it.
    pub fn check_finite(&self, stage: usize, weights: &Stage<Weight>) -> Result<(), Error> {
        let sources = self.stage(stage)?.weights();
        let mut faults =
            weights.weights().into_iter().zip(sources).filter_map(|((role, _, weight), (_, _, source))| {
                let (nan, infinite) = finite::count(weight);
                (nan + infinite > 0).then(|| (self.model.site(stage, role), source.tensor.clone(), nan, infinite))
            });
        match faults.next() {
            None => Ok(()),
            Some((site, tensor, nan, infinite)) => {
                Err(Error::NotFinite { site, tensor, nan, infinite, others: faults.count() })
            }
        }
    }

    /// The tokenizer, without truncation or padding, checked against the token table.
    ///
    /// A GGUF file has its own; a directory has a `tokenizer.json`.
    ///
    /// # Errors
    /// If there is none, or if it gives ids for which the token table has no row.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let tokenizer = match &self.files {
            Files::Gguf(gguf) if !self.folder.has("tokenizer.json") => gguf.tokenizer()?,
            _ => tokenizer::read_tokenizer(&self.folder)?,
        };
        if self.model.vocabulary > 0 {
            tokenizer::check_tokenizer(&tokenizer, self.model.vocabulary)?;
        }
        Ok(tokenizer)
    }

    /// The small files that go along with the weights, by name: those of the directory that its tools need, or those
    /// that the metadata of a GGUF file make up (tokenizer, chat template, generation settings).
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut files = carried_files(&self.folder)?;
        let Files::Gguf(gguf) = &self.files else { return Ok(files) };
        let mut made: Vec<(&str, Vec<u8>)> = Vec::new();
        // A file without a vocabulary, or with one of an unknown kind, is still a model.
        if let Ok(tokenizer) = gguf.tokenizer()
            && let Ok(text) = tokenizer.to_string(true)
        {
            made.push(("tokenizer.json", text.into_bytes()));
            made.push(("tokenizer_config.json", pretty(gguf.tokenizer_config()?)));
        }
        let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
        let ids = ids.into_iter().filter_map(|key| Some((key.to_owned(), self.config.get(key)?.clone())));
        let ids: Map<String, Value> = ids.collect();
        if !ids.is_empty() {
            made.push(("generation_config.json", pretty(ids)));
        }
        made.retain(|(name, _)| !files.iter().any(|(known, _)| known == name));
        files.extend(made.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)));
        files.sort();
        Ok(files)
    }

    fn stage(&self, stage: usize) -> Result<&Stage<Source>, Error> {
        let stages = self.model.stages.len();
        self.model.stages.get(stage).ok_or(Error::NoStage { stage, stages })
    }
}

impl Stages for Checkpoint {
    fn model(&self) -> &Model<Source> {
        &self.model
    }

    fn load(&self, stage: usize) -> Result<Stage<Weight>, LoadError> {
        Ok(self.load_stage(stage)?)
    }

    fn release(&self, stage: usize) {
        self.release_stage(stage);
    }
}

/// The text of a JSON file.
fn pretty(map: Map<String, Value>) -> Vec<u8> {
    format!("{:#}\n", Value::Object(map)).into_bytes()
}

/// The tensors of a container, as the model is built from them.
struct Named<'a>(&'a dyn Container);

impl Tensors for Named<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn form(&self, name: &str) -> Option<Form> {
        self.0.form(name)
    }

    fn by_site(&self, site: &Site, slot: Slot) -> Option<Source> {
        self.0.source_at(site, slot)
    }

    fn source(&self, site: &Site, slot: Slot, name: &str, view: View) -> Option<Source> {
        if let Some(source) = self.0.source_at(site, slot) {
            return Some(source);
        }
        let form = view.form(&self.0.form(name)?, slot);
        Some(Source { tensor: name.to_owned(), form, view })
    }
}

/// The container for safetensors files, as the configuration says they are to be understood.
fn wrap(
    files: SafetensorsFiles,
    config: &Config,
    folder: &Folder,
) -> Result<(Box<dyn Container>, &'static str), Error> {
    let settings = config.get("quantization_config").filter(|settings| !settings.is_null());
    if let Some(settings) = settings.filter(|settings| !settings.is_object()) {
        return Err(Error::QuantMethod { path: folder.path().to_owned(), method: settings.to_string() });
    }
    let method = settings.and_then(|settings| settings.get("quant_method")).and_then(Value::as_str);
    let refused = |method: &str| {
        let (path, method) = (folder.path().to_owned(), method.to_owned());
        Err(Error::QuantMethod { path, method })
    };
    if config.get("brevity").and_then(|ours| ours.get("layout")).and_then(Value::as_str) == Some("native") {
        return Ok((native::open(files, config)?, "native"));
    }
    match method {
        Some("fp8" | "fbgemm_fp8") | None => {}
        Some("compressed-tensors") => {
            return Ok((compressed_tensors::open(files, config)?, "compressed-tensors"));
        }
        Some(other) => return refused(other),
    }
    if config.get("quantization").is_some_and(|value| value.get("bits").is_some()) {
        return refused("mlx");
    }
    // GPTQ and AWQ directories from before the key existed.
    if files.stored().iter().any(|name| name.ends_with(".qweight")) {
        return refused("gptq or awq");
    }
    let block = settings.and_then(|settings| settings.get("weight_block_size")).and_then(|value| {
        let numbers: Vec<usize> =
            value.as_array()?.iter().map(|n| n.as_u64().map(|n| n as usize)).collect::<Option<_>>()?;
        <[usize; 2]>::try_from(numbers).ok()
    });
    let dtype = ["dtype", "torch_dtype"].into_iter().find_map(|key| config.get(key)).and_then(Value::as_str);
    let dtype = match dtype {
        Some("bfloat16") => Dtype::Bf16,
        Some("float16") => Dtype::F16,
        _ => Dtype::F32,
    };
    let fp8 = Fp8::wrap(files, dtype, block)?;
    let format = if fp8.is_plain() { "safetensors" } else { "fp8" };
    if custom::is_custom(config) {
        return Ok((custom::open(Box::new(fp8), config)?, Custom.name()));
    }
    Ok((Box::new(fp8), format))
}
