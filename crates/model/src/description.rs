//! Descriptions of architectures: `models/*.yaml`, names and structure in a closed vocabulary.
//!
//! `models/README.md` documents every key.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::Config;
use crate::error::Error;
use crate::tree::{NormKind, RopeStyle};

macro_rules! embed {
    ($($name:literal)*) => {
        /// Name and text of every description.
        const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/", $name, ".yaml")))),*];
    };
}

embed! {
    "bert" "gemma2" "gemma3" "gpt2" "gpt_neo" "gpt_neox" "llama" "mistral" "olmo2" "opt" "phi3" "qwen2" "qwen3" "smollm3"
}

/// One architecture as a description gives it, for one configuration: inheritance and cases are resolved.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    #[serde(skip)]
    pub name: String,
    #[allow(dead_code, reason = "checked while reading; looked up before a description is resolved")]
    pub types: Vec<String>,
    #[serde(default = "no_prefix")]
    pub prefixes: Vec<String>,
    #[serde(default)]
    pub keys: Keys,
    #[serde(default)]
    pub defaults: Map<String, Value>,
    #[serde(default)]
    pub only: Map<String, Value>,
    pub embed: EmbedNames,
    pub block: String,
    pub norm: NormKind,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub parallel: Option<Setting>,
    pub attn: AttnNames,
    pub mlp: MlpNames,
    #[serde(default)]
    pub head: Option<HeadNames>,
}

fn no_prefix() -> Vec<String> {
    vec![String::new()]
}

/// What the configuration calls the things that every architecture has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keys {
    pub hidden: String,
    pub layers: String,
    pub heads: String,
    pub kv_heads: String,
    pub head_dim: String,
    pub eps: String,
    pub context: String,
    pub tied: String,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            hidden: "hidden_size".into(),
            layers: "num_hidden_layers".into(),
            heads: "num_attention_heads".into(),
            kv_heads: "num_key_value_heads".into(),
            head_dim: "head_dim".into(),
            eps: "rms_norm_eps".into(),
            context: "max_position_embeddings".into(),
            tied: "tie_word_embeddings".into(),
        }
    }
}

/// A value, or the keys of the configuration that have it: `$rope_theta`, `$attention_layers | $attention_types`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Setting(pub Value);

/// Which way round linear layers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Store {
    #[default]
    OutIn,
    InOut,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedNames {
    pub tokens: String,
    #[serde(default)]
    pub positions: Option<String>,
    #[serde(default)]
    pub position_offset: usize,
    #[serde(default)]
    pub types: Option<String>,
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub norm: Option<String>,
    #[serde(default)]
    pub scale: Option<EmbedScale>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EmbedScale {
    SqrtHidden,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttnNames {
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub sum: Option<String>,
    #[serde(default)]
    pub q: Option<String>,
    #[serde(default)]
    pub k: Option<String>,
    #[serde(default)]
    pub v: Option<String>,
    #[serde(default)]
    pub qkv: Option<Fused>,
    pub o: String,
    #[serde(default)]
    pub q_norm: Option<String>,
    #[serde(default)]
    pub k_norm: Option<String>,
    #[serde(default)]
    pub rope: Option<RopeRule>,
    #[serde(default)]
    pub scale: Option<Scale>,
    #[serde(default)]
    pub softcap: Option<Setting>,
    #[serde(default)]
    pub reach: ReachRule,
    #[serde(default)]
    pub window: Option<WindowRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fused {
    pub tensor: String,
    pub split: Split,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Split {
    Stacked,
    PerHead,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scale {
    One,
    InverseSqrt(Setting),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReachRule {
    #[default]
    Causal,
    Both,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowRule {
    pub size: Setting,
    #[serde(default)]
    pub on: Option<Setting>,
    #[serde(default)]
    pub layers: Option<Setting>,
    #[serde(default, rename = "where")]
    pub rule: WindowWhere,
}

/// Which blocks have a window if the configuration does not list them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WindowWhere {
    #[default]
    All,
    Unrotated,
    From(Setting),
    NotEvery(Setting),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RopeRule {
    Style(RopeStyle),
    Full(Box<RopeKeys>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RopeKeys {
    pub style: RopeStyle,
    #[serde(default = "rope_theta")]
    pub theta: Setting,
    #[serde(default)]
    pub fraction: Option<Setting>,
    #[serde(default)]
    pub local: Option<Setting>,
    #[serde(default)]
    pub layers: Option<Setting>,
    #[serde(default)]
    pub not_every: Option<Setting>,
}

fn rope_theta() -> Setting {
    Setting("$rope_theta".into())
}

impl RopeRule {
    /// The rule in full.
    pub fn keys(&self) -> RopeKeys {
        match self {
            RopeRule::Full(keys) => keys.as_ref().clone(),
            RopeRule::Style(style) => RopeKeys {
                style: *style,
                theta: rope_theta(),
                fraction: None,
                local: None,
                layers: None,
                not_every: None,
            },
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MlpNames {
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub sum: Option<String>,
    #[serde(default)]
    pub gate: Option<String>,
    #[serde(default)]
    pub up: Option<String>,
    #[serde(default)]
    pub gate_up: Option<String>,
    pub down: String,
    pub act: Setting,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadNames {
    #[serde(default)]
    pub norm: Option<String>,
    #[serde(default)]
    pub project: Option<String>,
    pub out: String,
    #[serde(default)]
    pub tied: bool,
    #[serde(default)]
    pub softcap: Option<Setting>,
}

/// A change to the description that applies if the configuration says so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "if")]
    condition: Map<String, Value>,
    then: Value,
}

/// A description as written, with what it inherits, before the configuration is known.
pub(crate) struct Written {
    pub name: String,
    pub types: Vec<String>,
    tree: Value,
    cases: Vec<Case>,
}

impl Written {
    /// Reads a description; `others` finds the text of the one it is `like`.
    pub fn parse(name: &str, text: &str, others: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let wrong = |why: String| Error::Description { name: name.to_owned(), why };
        let mut tree = inherit(name, text, others, 4)?;
        let map = tree.as_object_mut().ok_or_else(|| wrong("it is not a map".into()))?;
        let cases = match map.shift_remove("when") {
            Some(cases) => serde_json::from_value(cases).map_err(|why| wrong(why.to_string()))?,
            None => Vec::new(),
        };
        let types = map.get("types").cloned().unwrap_or_default();
        let types = serde_json::from_value(types).map_err(|_| wrong("`types` is no list of strings".into()))?;
        let written = Written { name: name.to_owned(), types, tree, cases };
        written.resolve(written.tree.clone())?;
        for case in &written.cases {
            let mut tree = written.tree.clone();
            merge(&mut tree, &case.then);
            written.resolve(tree)?;
        }
        Ok(written)
    }

    /// The description for a configuration.
    pub fn for_config(&self, config: &Config) -> Result<Description, Error> {
        let mut tree = self.tree.clone();
        for case in &self.cases {
            let holds = case.condition.iter().all(|(key, wanted)| {
                let given = config.get(key).or_else(|| self.tree.get("defaults")?.get(key));
                given.unwrap_or(&Value::Null) == wanted
            });
            if holds {
                merge(&mut tree, &case.then);
            }
        }
        self.resolve(tree)
    }

    fn resolve(&self, tree: Value) -> Result<Description, Error> {
        let wrong = |why: String| Error::Description { name: self.name.clone(), why };
        let description: Description = serde_json::from_value(tree).map_err(|why| wrong(why.to_string()))?;
        let (attn, mlp) = (&description.attn, &description.mlp);
        if attn.qkv.is_some() == (attn.q.is_some() && attn.k.is_some() && attn.v.is_some()) {
            return Err(wrong("`attn` needs either `q`, `k` and `v` or `qkv`".into()));
        }
        if mlp.gate_up.is_some() == mlp.up.is_some() {
            return Err(wrong("`mlp` needs either `up` or `gate_up`".into()));
        }
        if !description.block.contains("{i}") {
            return Err(wrong("`block` has no `{i}`".into()));
        }
        Ok(Description { name: self.name.clone(), ..description })
    }
}

/// The tree of a description, merged over the one it is `like`.
fn inherit(name: &str, text: &str, others: &dyn Fn(&str) -> Option<String>, depth: usize) -> Result<Value, Error> {
    let wrong = |why: String| Error::Description { name: name.to_owned(), why };
    let mut own: Value = serde_saphyr::from_str(text).map_err(|why| wrong(why.to_string()))?;
    let Some(like) = own.as_object_mut().and_then(|map| map.shift_remove("like")) else {
        return Ok(own);
    };
    let like = like.as_str().ok_or_else(|| wrong("`like` is no name".into()))?.to_owned();
    let base = others(&like).filter(|_| depth > 0).ok_or_else(|| wrong(format!("cannot be like `{like}`")))?;
    let mut tree = inherit(&like, &base, others, depth - 1)?;
    if let Some(map) = tree.as_object_mut() {
        map.shift_remove("types");
    }
    merge(&mut tree, &own);
    Ok(tree)
}

/// Lays `over` on `tree`: maps are merged, other values replaced, and null takes a key away.
fn merge(tree: &mut Value, over: &Value) {
    match (tree, over) {
        (Value::Object(tree), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    tree.shift_remove(key);
                } else {
                    merge(tree.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (tree, over) => *tree = over.clone(),
    }
}

fn embedded(name: &str) -> Option<String> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned())
}

/// The descriptions that come with the library.
pub(crate) fn all() -> Result<&'static [Written], Error> {
    static ALL: OnceLock<Result<Vec<Written>, Error>> = OnceLock::new();
    let read = || FILES.iter().map(|(name, text)| Written::parse(name, text, &embedded)).collect();
    ALL.get_or_init(read).as_deref().map_err(Clone::clone)
}

/// The architectures that can be run: the name of each description, and the values of `model_type` it covers.
pub fn architectures() -> Vec<(&'static str, Vec<String>)> {
    all().map(|all| all.iter().map(|one| (one.name.as_str(), one.types.clone())).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Written, Error> {
        Written::parse("mine", text, &embedded)
    }

    #[test]
    fn every_description_in_the_folder_is_embedded_and_can_be_read() {
        let all = all().unwrap_or_else(|why| panic!("{why}"));
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models")).unwrap();
        let paths = folder.map(|entry| entry.unwrap().path());
        let yaml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        let mut names: Vec<String> = yaml.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        assert_eq!(all.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), names);
    }

    #[test]
    fn no_architecture_has_two_descriptions() {
        let mut types: Vec<&String> = all().unwrap().iter().flat_map(|one| &one.types).collect();
        let count = types.len();
        types.sort();
        types.dedup();
        assert_eq!(types.len(), count);
    }

    #[test]
    fn a_description_with_an_unknown_key_is_refused_with_the_key_and_the_known_ones() {
        let error = parse("like: llama\ntypes: [mine]\nattn: { queries: q }").err().unwrap().to_string();
        assert!(error.starts_with("`models/mine.yaml`: unknown field `queries`, expected one of"), "{error}");
        // In a case that a configuration may never reach, too.
        let text = "like: llama\ntypes: [mine]\nwhen: [{ if: { a: true }, then: { parallell: true } }]";
        let error = parse(text).err().unwrap().to_string();
        assert!(error.contains("unknown field `parallell`"), "{error}");
    }

    #[test]
    fn a_description_like_one_that_does_not_exist_is_refused() {
        let error = parse("like: lama\ntypes: [mine]").err().unwrap().to_string();
        assert_eq!(error, "`models/mine.yaml`: cannot be like `lama`");
    }

    #[test]
    fn a_description_inherits_what_it_does_not_say_and_null_takes_away() {
        let text = "like: llama\ntypes: [mine]\nmlp: { gate: null, up: mlp.fc }\nattn: { q_norm: self_attn.q_norm }";
        let one = parse(text).unwrap().for_config(&Config::default()).unwrap();
        assert_eq!(one.mlp.gate, None);
        assert_eq!(one.mlp.down, "mlp.down_proj");
        assert_eq!(one.attn.q_norm.as_deref(), Some("self_attn.q_norm"));
        assert_eq!(one.types, ["mine"]);
    }

    #[test]
    fn a_case_applies_only_if_the_configuration_says_so() {
        let text = "like: llama\ntypes: [mine]\ndefaults: { early: true }\n\
                    when: [{ if: { early: false }, then: { attn: { before: null, sum: ln } } }]";
        let written = parse(text).unwrap();
        let silent = written.for_config(&Config::default()).unwrap();
        assert_eq!(silent.attn.sum, None);
        let late = written.for_config(&Config::parse(r#"{"early": false}"#).unwrap()).unwrap();
        assert_eq!((late.attn.before, late.attn.sum.as_deref()), (None, Some("ln")));
    }
}
