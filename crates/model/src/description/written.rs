//! Reading descriptions: what one inherits, and which of its cases a configuration falls into.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Description;
use crate::config::Config;
use crate::error::Error;

macro_rules! embed {
    ($($name:literal)*) => {
        /// Name and text of every description.
        const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/", $name, ".yaml")))),*];
    };
}

embed! {
    "bert" "distilbert" "gemma2" "gemma3" "gpt2" "gpt_neo" "gpt_neox" "llama" "mistral" "modernbert" "mpnet" "nomic_bert"
    "olmo2" "opt" "phi3" "qwen2" "qwen3" "roberta" "smollm3"
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
