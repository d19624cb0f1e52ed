//! Recipes: what to do to a model, as data.
//!
//! A recipe is a YAML mapping: `about`, optionally `format`, `vectors` and `defaults`, and `steps`, a list with one method
//! and its settings in each entry. `recipes/README.md` says what each key means. Everything that can be checked
//! without a model is checked here, with the line on which it stands.

mod library;
mod node;
mod parse;
mod set;

use std::fmt;

use brevity_methods::{Entry, METHODS};
use serde_json::{Map, Value, json};

pub use library::{Named, named, stock};

use crate::samples::Wanted;
use crate::select::Selector;
use crate::vectors::VectorCut;

/// What to do to a model: methods in order, each with its settings and the sites it is for.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its name: that of the file without its ending.
    pub name: String,
    /// Where it was read, for errors: `recipes/int4.yaml`.
    pub origin: String,
    /// One sentence.
    pub about: String,
    /// The format to write, unless the command says another.
    pub format: Option<String>,
    /// What methods that look at activations are to look at, unless the command says something else.
    pub calibration: Wanted,
    /// What becomes of the vectors of an encoder.
    pub vectors: Option<VectorCut>,
    /// Limits that the result has to keep, such as `kl_mean<=0.05`. The engine only carries them: whoever measures judges.
    pub gate: Vec<String>,
    /// What to do, in this order.
    pub steps: Vec<Step>,
}

/// One step of a recipe.
#[derive(Clone, Debug)]
pub struct Step {
    /// The method, such as `quantize.rtn`.
    pub method: String,
    /// The sites it is for; none for the linear layers of all blocks.
    pub at: Vec<Selector>,
    /// Sites among them that it leaves alone.
    pub except: Vec<Selector>,
    /// What was set, by name.
    pub settings: Map<String, Value>,
    /// The line of the recipe it stands on.
    pub line: Option<u64>,
}

/// What is wrong with a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecipe {
    /// The file, or the name of an embedded recipe.
    pub origin: String,
    /// The line, counted from one, if it is known.
    pub line: Option<u64>,
    /// A sentence.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for BadRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  in `{}`", self.what, self.origin)?;
        self.line.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

impl std::error::Error for BadRecipe {}

impl Recipe {
    /// Reads a recipe; `origin` is the file it came from.
    pub fn parse(text: &str, origin: &str) -> Result<Self, BadRecipe> {
        parse::recipe(text, origin)
    }

    /// Changes one key: `quantize.rtn.bits=3`, `1.bits=3` (the first step), or `format=native`. The value is YAML.
    pub fn set(&mut self, assignment: &str) -> Result<(), BadRecipe> {
        self.set_all(&[assignment])
    }

    /// Changes several keys, of which none must make sense without the others. If one is refused, nothing is changed.
    pub fn set_all(&mut self, assignments: &[impl AsRef<str>]) -> Result<(), BadRecipe> {
        let mut changed = self.clone();
        set::apply(&mut changed, assignments)?;
        *self = changed;
        Ok(())
    }

    /// Makes every step that changes shapes take as much from each block, so that all stay alike.
    pub fn even(&mut self) {
        for step in &mut self.steps {
            brevity_methods::even(&step.method, &mut step.settings);
        }
    }

    /// The recipe with all settings spelled out, those by default too. Equal recipes give equal values.
    pub fn normalised(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            let mut body = match step.entry().and_then(|entry| entry.read(step.settings.clone().into()).ok()) {
                Some(method) => method.settings(),
                None => Value::Object(step.settings.clone()),
            };
            if let Value::Object(body) = &mut body {
                let texts = |list: &[Selector]| list.iter().map(Selector::to_string).collect::<Vec<_>>();
                if !step.at.is_empty() {
                    body.insert("at".into(), json!(texts(&step.at)));
                }
                if !step.except.is_empty() {
                    body.insert("except".into(), json!(texts(&step.except)));
                }
            }
            Value::Object(Map::from_iter([(step.method.clone(), body)]))
        });
        let mut recipe = json!({ "name": self.name, "about": self.about, "steps": steps.collect::<Vec<_>>() });
        if let Some(vectors) = &self.vectors {
            recipe["vectors"] = json!(vectors);
        }
        recipe
    }

    /// The recipe as YAML with the settings that were made. Reading it back gives the same recipe.
    pub fn to_yaml(&self) -> String {
        let mut yaml = format!("about: {}\n", plain(&Value::from(self.about.as_str())));
        if let Some(format) = &self.format {
            yaml += &format!("format: {}\n", plain(&Value::from(format.as_str())));
        }
        if !self.gate.is_empty() {
            yaml += "gate:\n";
            self.gate.iter().for_each(|limit| yaml += &format!("  - {}\n", plain(&Value::from(limit.as_str()))));
        }
        let Wanted { text, samples, length, draw } = &self.calibration;
        let said = [
            text.as_ref().map(|text| format!("text: {}", plain(&Value::from(text.as_str())))),
            samples.map(|samples| format!("samples: {samples}")),
            length.map(|length| format!("length: {length}")),
            draw.map(|draw| format!("draw: {}", draw.name())),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        if !said.is_empty() {
            yaml += &format!("calibration: {{{}}}\n", said.join(", "));
        }
        if let Some(VectorCut { dims, turn, whiten, texts }) = &self.vectors {
            yaml += &format!("vectors: {{dims: {dims}, turn: {turn}, whiten: {whiten}, texts: {texts}}}\n");
        }
        if self.steps.is_empty() {
            return yaml;
        }
        yaml += "steps:\n";
        for step in &self.steps {
            let lists = [("at", &step.at), ("except", &step.except)].into_iter().filter(|(_, list)| !list.is_empty());
            let lists = lists.map(|(key, list)| {
                (key.to_owned(), Value::from(list.iter().map(Selector::to_string).collect::<Vec<_>>()))
            });
            let settings = step.settings.iter().map(|(key, value)| (key.clone(), value.clone())).chain(lists);
            let settings: Vec<String> = settings.map(|(key, value)| format!("{key}: {}", plain(&value))).collect();
            yaml += &format!("  - {}: {{{}}}\n", step.method, settings.join(", "));
        }
        yaml
    }
}

impl Step {
    /// The method's entry in the list. A recipe that was read has only steps that have one.
    pub(crate) fn entry(&self) -> Option<&'static Entry> {
        METHODS.iter().find(|entry| entry.name == self.method)
    }
}

/// A value in YAML's flow style: words stay bare, anything else is written as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            let bare = text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(word)
                && !matches!(
                    text.to_ascii_lowercase().as_str(),
                    "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n"
                );
            if bare { text.clone() } else { value.to_string() }
        }
        Value::Array(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// `did you mean ...?` if a known name is near, else the list of all of them.
pub(crate) fn nearest(name: &str, known: &[&str], what: &str) -> String {
    let distance = |candidate: &str| strsim::damerau_levenshtein(name, candidate);
    // `rtn` for `quantize.rtn`: the last part counts as the whole.
    let inside = known.iter().filter(|known| name.len() >= 3 && known.split('.').any(|part| part == name));
    let close = known.iter().filter(|known| distance(known) <= 1.max(name.len().max(known.len()) / 3));
    match inside.chain(close).min_by_key(|known| distance(known)) {
        Some(best) => format!("did you mean `{best}`?"),
        None => format!("{what} are {}", known.join(", ")),
    }
}
