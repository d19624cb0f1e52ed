//! Directories of sentence-transformers: what stands behind the transformer, and what is said of texts and vectors.
//!
//! Both spellings of everything are read. What is written is the older one, which every reader knows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use brevity_formats::{Files, Folder, SafetensorsFiles};
use brevity_kernels::matmul::{Dims, linear_f32};
use safetensors::Dtype;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::pool::Pooling;

/// What a directory says beside the weights of its first module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Modules {
    /// What the first module is.
    pub first: First,
    /// What comes behind it, in order.
    pub layers: Vec<Layer>,
    /// The longest input, in tokens.
    pub max_tokens: Option<usize>,
    /// Whether texts are put into lower case before they are tokenized.
    pub lower_case: bool,
    /// What stands in front of texts of a kind, by the name of the kind.
    pub prompts: BTreeMap<String, String>,
    /// The prompt that is used if none is asked for.
    pub default_prompt: Option<String>,
    /// How many of the dimensions are given out; those kept are not normalised again.
    pub truncate_dim: Option<usize>,
    /// How vectors are compared: `cosine`, `dot`.
    pub similarity: Option<String>,
}

/// The first module.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum First {
    /// The transformer, whose states are pooled.
    #[default]
    Transformer,
    /// A table of tokens, whose rows are averaged.
    Static,
}

/// A module behind the first.
#[derive(Clone, Debug, PartialEq)]
pub enum Layer {
    /// From the states of tokens to vectors: each mode gives one, and they stand beside each other.
    Pool {
        /// The modes.
        modes: Vec<Pooling>,
        /// Whether the tokens of a prompt count.
        prompt: bool,
    },
    /// `act(W x + b)`.
    Dense(Dense),
    /// Divides by the length, or by `1e-12` if that is more.
    Normalize,
}

/// A linear layer over vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Row by row.
    pub weight: Vec<f32>,
    /// `[out]`.
    pub bias: Option<Vec<f32>>,
    /// The nonlinearity.
    pub act: DenseAct,
}

/// Nonlinearities of [`Dense`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenseAct {
    /// None.
    Identity,
    /// `tanh`.
    Tanh,
}

/// Where the modules are listed.
pub const MODULES: &str = "modules.json";
/// Where prompts are.
const SETTINGS: &str = "config_sentence_transformers.json";
/// Where the longest input is.
const LIMITS: &str = "sentence_bert_config.json";

impl Modules {
    /// Those of a directory. Without a list of modules it is a transformer whose states are averaged, as
    /// sentence-transformers has it.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Module`], [`Error::Pooling`], and if a file cannot be read.
    pub fn read(folder: &Folder) -> Result<Modules> {
        let mut modules = Modules::default();
        if folder.has(SETTINGS) {
            let map: Map<String, Value> = json_of(folder, SETTINGS)?;
            modules.prompts = value_of(folder, SETTINGS, &map, "prompts")?.unwrap_or_default();
            modules.default_prompt = value_of(folder, SETTINGS, &map, "default_prompt_name")?;
            modules.truncate_dim = value_of(folder, SETTINGS, &map, "truncate_dim")?;
            modules.similarity = value_of(folder, SETTINGS, &map, "similarity_fn_name")?;
        }
        // Older ones are called after the architecture: `sentence_roberta_config.json`.
        let limits = |name: &&String| name.starts_with("sentence_") && name.ends_with("_config.json");
        if let Some(name) = folder.list()?.iter().find(limits) {
            let map: Map<String, Value> = json_of(folder, name)?;
            modules.max_tokens = value_of(folder, name, &map, "max_seq_length")?;
            modules.lower_case = value_of(folder, name, &map, "do_lower_case")?.unwrap_or(false);
        }
        if !folder.has(MODULES) {
            modules.layers.push(Layer::Pool { modes: vec![Pooling::Mean], prompt: true });
            return Ok(modules);
        }
        let listed: Vec<Map<String, Value>> = json_of(folder, MODULES)?;
        for (n, module) in listed.iter().enumerate() {
            let text = |key: &str| module.get(key).and_then(Value::as_str);
            let Some(kind) = text("type") else {
                return Err(file(folder, MODULES, format!("does not say what module {n} is")));
            };
            let path = text("path").unwrap_or("").trim_end_matches('/');
            match (n, kind.rsplit('.').next().unwrap_or(kind)) {
                (0, "Transformer") => modules.first = First::Transformer,
                (0, "StaticEmbedding") => modules.first = First::Static,
                (1.., "Pooling") => modules.layers.push(pool(folder, path)?),
                (1.., "Dense") => modules.layers.push(Layer::Dense(Dense::read(folder, path)?)),
                (1.., "Normalize") => modules.layers.push(Layer::Normalize),
                // It does nothing where nothing is trained.
                (1.., "Dropout") => {}
                _ => return Err(Error::Module { file: folder.path().join(MODULES), kind: kind.to_owned() }),
            }
        }
        let pools = modules.layers.iter().filter(|layer| matches!(layer, Layer::Pool { .. })).count();
        let fits = match modules.first {
            First::Transformer => pools == 1 && matches!(modules.layers.first(), Some(Layer::Pool { .. })),
            First::Static => pools == 0,
        };
        if !fits {
            return Err(file(folder, MODULES, "does not pool once, right behind the transformer".into()));
        }
        Ok(modules)
    }

    /// Width of the vectors, given that of the states.
    ///
    /// # Errors
    /// [`Error::Width`] if a dense layer is for vectors of another width.
    pub fn width(&self, hidden: usize) -> Result<usize> {
        self.layers.iter().try_fold(hidden, |width, layer| match layer {
            Layer::Pool { modes, .. } => Ok(width * modes.len()),
            Layer::Dense(dense) if dense.shape[1] != width => Err(Error::Width { inputs: dense.shape[1], width }),
            Layer::Dense(dense) => Ok(dense.shape[0]),
            Layer::Normalize => Ok(width),
        })
    }

    /// Pools by a mode instead of those that were read.
    pub fn pool_by(&mut self, mode: Pooling) {
        if let Some(Layer::Pool { modes, .. }) = self.layers.first_mut() {
            *modes = vec![mode];
        }
    }

    /// The files that say all this, by name: everything but the weights of the first module and its tokenizer.
    ///
    /// `hidden` is the width of what is pooled.
    pub fn files(&self, hidden: usize) -> Vec<(String, Vec<u8>)> {
        let mut listed = vec![match self.first {
            First::Transformer => {
                json!({"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"})
            }
            First::Static => {
                json!({"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"})
            }
        }];
        let mut files = Vec::new();
        for (n, layer) in self.layers.iter().enumerate() {
            let (kind, own) = match layer {
                Layer::Pool { modes, prompt } => {
                    let mut config = Map::new();
                    config.insert("word_embedding_dimension".into(), hidden.into());
                    for mode in Pooling::ALL {
                        config.insert(mode.key().into(), modes.contains(&mode).into());
                    }
                    config.insert("include_prompt".into(), (*prompt).into());
                    ("Pooling", vec![("config.json", pretty(&Value::Object(config)))])
                }
                Layer::Dense(dense) => ("Dense", dense.files()),
                Layer::Normalize => ("Normalize", Vec::new()),
            };
            let idx = n + 1;
            let path = format!("{idx}_{kind}");
            let kind = format!("sentence_transformers.models.{kind}");
            listed.push(json!({"idx": idx, "name": idx.to_string(), "path": path, "type": kind}));
            files.extend(own.into_iter().map(|(name, bytes)| (format!("{path}/{name}"), bytes)));
        }
        files.push((MODULES.into(), pretty(&Value::Array(listed))));
        let mut settings = Map::new();
        settings.insert("prompts".into(), json!(self.prompts));
        settings.insert("default_prompt_name".into(), json!(self.default_prompt));
        settings.insert("similarity_fn_name".into(), json!(self.similarity.as_deref().unwrap_or("cosine")));
        if let Some(dims) = self.truncate_dim {
            settings.insert("truncate_dim".into(), dims.into());
        }
        files.push((SETTINGS.into(), pretty(&Value::Object(settings))));
        if self.first == First::Transformer {
            let limits = json!({"max_seq_length": self.max_tokens, "do_lower_case": self.lower_case});
            files.push((LIMITS.into(), pretty(&limits)));
        }
        files.sort();
        files
    }
}

/// `N_Pooling/config.json`.
fn pool(folder: &Folder, path: &str) -> Result<Layer> {
    let name = format!("{path}/config.json");
    let map: Map<String, Value> = json_of(folder, &name)?;
    let prompt = value_of(folder, &name, &map, "include_prompt")?.unwrap_or(true);
    let unknown = |mode: &str| Error::Pooling { file: folder.path().join(&name), mode: mode.to_owned() };
    let mut modes = Vec::new();
    let named = match map.get("pooling_mode") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for word in named {
        modes.push(word.parse().map_err(|()| unknown(word))?);
    }
    for (key, value) in &map {
        if key.starts_with("pooling_mode_") && value == &Value::Bool(true) {
            let mode = Pooling::ALL.into_iter().find(|mode| mode.key() == key).ok_or_else(|| unknown(key))?;
            if !modes.contains(&mode) {
                modes.push(mode);
            }
        }
    }
    if modes.is_empty() {
        modes.push(Pooling::Mean);
    }
    modes.sort_by_key(|mode| Pooling::ALL.iter().position(|one| one == mode));
    Ok(Layer::Pool { modes, prompt })
}

impl Dense {
    /// A layer that takes some of the entries as they are, from the first on.
    pub fn prefix(inputs: usize, outputs: usize) -> Dense {
        let mut weight = vec![0.0; inputs * outputs];
        (0..outputs).for_each(|n| weight[n * inputs + n] = 1.0);
        Dense { shape: [outputs, inputs], weight, bias: None, act: DenseAct::Identity }
    }

    /// `act(W x + b)` of each row.
    ///
    /// # Shapes
    /// `rows` is `[count, in]`, the result `[count, out]`.
    pub fn apply(&self, rows: &[f32]) -> Vec<f32> {
        let [outputs, inputs] = self.shape;
        let m = rows.len() / inputs.max(1);
        let mut out = vec![0.0; m * outputs];
        linear_f32(Dims { m, k: inputs, n: outputs }, rows, &self.weight, self.bias.as_deref(), &mut out);
        if self.act == DenseAct::Tanh {
            out.iter_mut().for_each(|y| *y = y.tanh());
        }
        out
    }

    fn read(folder: &Folder, path: &str) -> Result<Dense> {
        let (config, weights) = (format!("{path}/config.json"), format!("{path}/model.safetensors"));
        let map: Map<String, Value> = json_of(folder, &config)?;
        let act: Option<String> = value_of(folder, &config, &map, "activation_function")?;
        let act = match act.as_deref().map(|act| act.rsplit('.').next().unwrap_or(act)) {
            None | Some("Tanh") => DenseAct::Tanh,
            Some("Identity") => DenseAct::Identity,
            Some(other) => {
                return Err(file(folder, &config, format!("has the activation `{other}`, which is not known")));
            }
        };
        let files = SafetensorsFiles::open(folder, &[&weights])?;
        let wrong = |why: &str| file(folder, &weights, why.to_owned());
        let shape = files.raw("linear.weight").ok_or_else(|| wrong("has no `linear.weight`"))?.shape;
        let &[outputs, inputs] = shape else { return Err(wrong("has a `linear.weight` that is no matrix")) };
        let weight = files.read_f32("linear.weight")?;
        let bias = files.raw("linear.bias").map(|_| files.read_f32("linear.bias")).transpose()?;
        if bias.as_ref().is_some_and(|bias| bias.len() != outputs) || inputs == 0 {
            return Err(wrong("has a bias and a weight that do not fit together"));
        }
        let shape = [outputs, inputs];
        Ok(Dense { shape, weight, bias, act })
    }

    fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        let [outputs, inputs] = self.shape;
        let act = match self.act {
            DenseAct::Identity => "torch.nn.modules.linear.Identity",
            DenseAct::Tanh => "torch.nn.modules.activation.Tanh",
        };
        let config = json!({
            "in_features": inputs, "out_features": outputs, "bias": self.bias.is_some(), "activation_function": act,
        });
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (weight, bias) = (bytes(&self.weight), self.bias.as_deref().map(bytes));
        let view = |shape: Vec<usize>, bytes| safetensors::tensor::TensorView::new(Dtype::F32, shape, bytes);
        let mut tensors = vec![("linear.weight", view(vec![outputs, inputs], &weight))];
        if let Some(bias) = &bias {
            tensors.push(("linear.bias", view(vec![outputs], bias)));
        }
        let tensors = tensors.into_iter().map(|(name, view)| (name, view.expect("as many bytes as the shape has")));
        let weights = safetensors::serialize(tensors, None).expect("names and shapes are fine");
        vec![("config.json", pretty(&config)), ("model.safetensors", weights)]
    }
}

pub(crate) fn file(folder: &Folder, name: &str, why: String) -> Error {
    let file: PathBuf = folder.path().join(name);
    Error::File { file, why }
}

fn json_of<T: DeserializeOwned>(folder: &Folder, name: &str) -> Result<T> {
    let text = folder.read_text(name)?;
    serde_json::from_str(&text).map_err(|why| file(folder, name, format!("cannot be understood: {why}")))
}

/// A value of a map; null is none.
fn value_of<T: DeserializeOwned>(
    folder: &Folder,
    name: &str,
    map: &Map<String, Value>,
    key: &str,
) -> Result<Option<T>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let wrong = |why| file(folder, name, format!("has a `{key}` that cannot be understood: {why}"));
            serde_json::from_value(value.clone()).map(Some).map_err(wrong)
        }
    }
}

pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let folder = Folder::open(dir.path()).unwrap();
        (dir, folder)
    }

    const LIST: &str = r#"[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]"#;

    #[test]
    fn both_spellings_say_the_same() {
        let new = LIST
            .replace(
                "sentence_transformers.models.Transformer",
                "sentence_transformers.base.modules.transformer.Transformer",
            )
            .replace(
                "sentence_transformers.models.Pooling",
                "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            )
            .replace(
                "sentence_transformers.models.Normalize",
                "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
            );
        let (_a, old) = folder(&[
            ("modules.json", LIST),
            (
                "1_Pooling/config.json",
                r#"{"word_embedding_dimension": 4, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
            ),
        ]);
        let (_b, new) = folder(&[
            ("modules.json", &new),
            ("1_Pooling/config.json", r#"{"embedding_dimension": 4, "pooling_mode": "cls", "include_prompt": true}"#),
        ]);
        let read = Modules::read(&old).unwrap();
        assert_eq!(read, Modules::read(&new).unwrap());
        assert_eq!(read.layers, [Layer::Pool { modes: vec![Pooling::Cls], prompt: true }, Layer::Normalize]);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dense = Dense {
            shape: [2, 3],
            weight: vec![1.0, -0.5, 2.0, 0.0, 3.0, 0.25],
            bias: Some(vec![0.5, -1.0]),
            act: DenseAct::Tanh,
        };
        let modules = Modules {
            layers: vec![
                Layer::Pool { modes: vec![Pooling::Cls, Pooling::Last], prompt: false },
                Layer::Dense(dense),
                Layer::Normalize,
            ],
            max_tokens: Some(128),
            lower_case: true,
            prompts: BTreeMap::from([("query".into(), "query: ".into())]),
            default_prompt: Some("query".into()),
            truncate_dim: Some(2),
            similarity: Some("dot".into()),
            ..Modules::default()
        };
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in modules.files(3) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        assert_eq!(Modules::read(&Folder::open(dir.path()).unwrap()).unwrap(), modules);
    }

    #[test]
    fn a_dense_layer_is_known_by_hand() {
        let dense = Dense { shape: [1, 2], weight: vec![2.0, -1.0], bias: Some(vec![0.5]), act: DenseAct::Identity };
        assert_eq!(dense.apply(&[1.0, 1.0, 0.0, 3.0]), [1.5, -2.5]);
        assert_eq!(Dense::prefix(3, 2).apply(&[1.0, 2.0, 3.0]), [1.0, 2.0]);
    }

    #[test]
    fn an_unknown_pooling_and_an_unknown_module_are_named() {
        let (_a, one) = folder(&[("modules.json", LIST), ("1_Pooling/config.json", r#"{"pooling_mode": "median"}"#)]);
        let error = Modules::read(&one).unwrap_err();
        assert!(error.to_string().ends_with("pools by `median`, which is not known"), "{error}");
        assert!(error.hint().unwrap().contains("weightedmean"));
        let (_b, two) = folder(&[("modules.json", &LIST.replace("Normalize", "CNN")), ("1_Pooling/config.json", "{}")]);
        let error = Modules::read(&two).unwrap_err();
        assert!(error.to_string().contains("names the module `sentence_transformers.models.CNN`"), "{error}");
        let (_c, three) = folder(&[("modules.json", "[{]")]);
        assert!(Modules::read(&three).unwrap_err().to_string().contains("cannot be understood"));
    }

    #[test]
    fn a_directory_without_modules_is_averaged() {
        let (_a, folder) = folder(&[("config.json", "{}")]);
        assert_eq!(Modules::read(&folder).unwrap().layers, [Layer::Pool { modes: vec![Pooling::Mean], prompt: true }]);
    }
}
