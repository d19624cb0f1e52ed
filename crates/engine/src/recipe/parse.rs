//! From YAML to a recipe, with errors that name the line.

use brevity_methods::{Entry, METHODS};
use serde_json::Value;

use super::node::{Key, Kind, Node};
use super::{BadRecipe, Recipe, Step, nearest};
use crate::samples::{Draw, Wanted};
use crate::select::Selector;
use crate::vectors::{Turn, VectorCut, usual_texts};

/// The keys of a recipe.
const KEYS: &[&str] = &["about", "format", "calibration", "defaults", "steps", "gate", "vectors"];

/// The keys of `calibration`.
const CALIBRATION: &[&str] = &["text", "samples", "length", "draw"];

/// The keys of `vectors`.
const VECTORS: &[&str] = &["dims", "turn", "whiten", "texts"];

/// Keys of a step that are not settings of its method.
const SELECTORS: &[&str] = &["at", "except"];

struct Reader<'a> {
    origin: &'a str,
}

/// Reads a recipe.
pub(super) fn recipe(text: &str, origin: &str) -> Result<Recipe, BadRecipe> {
    Reader { origin }.recipe(text)
}

/// Reads selectors from what `at` or `except` was set to; the error says which and why.
pub(super) fn selectors(value: &Value) -> Result<Vec<Selector>, String> {
    let texts = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let read = |text: &Value| match text {
        Value::String(text) => Selector::parse(text).map_err(|bad| bad.to_string()),
        other => Err(format!("`{other}` is not a selector: it is not a text")),
    };
    texts.iter().map(read).collect()
}

/// What a selector may look like, for hints.
pub(super) const SELECTOR_HINT: &str = "selectors look like `blocks`, `attn`, `mlp.down`, `blocks.0-3`, `blocks.12.attn.q`, `embed.tokens`, `head.out` or `*.down`";

/// The entry of a method, or a hint at the name that was meant.
pub(super) fn entry(name: &str) -> Result<&'static Entry, String> {
    METHODS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let known: Vec<&str> = METHODS.iter().map(|entry| entry.name).collect();
        nearest(name, &known, "the methods")
    })
}

/// Sets one key of `calibration`; the error is a sentence and a hint.
pub(super) fn calibrate(wanted: &mut Wanted, key: &str, value: &Value) -> Result<(), (String, String)> {
    let count = || match value.as_u64() {
        Some(count @ 1..) => Ok(Some(count as usize)),
        _ => Err((
            format!("`calibration` cannot take `{key}: {value}`"),
            "it takes a whole number above zero".to_owned(),
        )),
    };
    match key {
        "samples" => wanted.samples = count()?,
        "length" => wanted.length = count()?,
        "text" => match value {
            Value::String(text) => wanted.text = Some(text.clone()),
            other => {
                return Err((format!("`text` is a text, not `{other}`"), "it takes the name of a file".to_owned()));
            }
        },
        "draw" => {
            let known: Vec<&str> = Draw::NAMES.iter().map(|(name, _)| *name).collect();
            let named = Draw::NAMES.iter().find(|(name, _)| value.as_str() == Some(name));
            let wrong =
                || (format!("`calibration` cannot take `draw: {value}`"), format!("it takes {}", known.join(", ")));
            wanted.draw = Some(named.ok_or_else(wrong)?.1);
        }
        other => {
            return Err((format!("`calibration` has no key `{other}`"), nearest(other, CALIBRATION, "its keys")));
        }
    }
    Ok(())
}

/// Sets one key of `vectors`; the error is a sentence and a hint.
pub(super) fn cut_vectors(cut: &mut Option<VectorCut>, key: &str, value: &Value) -> Result<(), (String, String)> {
    let wrong = |wants: &str| (format!("`vectors` cannot take `{key}: {value}`"), format!("it takes {wants}"));
    let count = || match value.as_u64() {
        Some(count @ 1..) => Ok(count as usize),
        _ => Err(wrong("a whole number above zero")),
    };
    let mut changed = match cut.clone() {
        Some(cut) => cut,
        None if key == "dims" => VectorCut { dims: count()?, turn: Turn::None, whiten: 0.0, texts: usual_texts() },
        None if VECTORS.contains(&key) => {
            return Err(("`vectors` does not say how many `dims` are kept".into(), "set `vectors.dims` first".into()));
        }
        None => return Err((format!("`vectors` has no key `{key}`"), nearest(key, VECTORS, "its keys"))),
    };
    match key {
        "dims" => changed.dims = count()?,
        "texts" => changed.texts = count()?,
        "whiten" => match value.as_f64() {
            Some(whiten @ 0.0..=1.0) => changed.whiten = whiten,
            _ => return Err(wrong("a number from 0 to 1")),
        },
        "turn" => changed.turn = serde_json::from_value(value.clone()).map_err(|_| wrong("none, pca or fit"))?,
        _ => return Err((format!("`vectors` has no key `{key}`"), nearest(key, VECTORS, "its keys"))),
    }
    *cut = Some(changed);
    Ok(())
}

impl Reader<'_> {
    fn wrong(&self, line: u64, what: impl Into<String>, hint: impl Into<Option<String>>) -> BadRecipe {
        let line = (line > 0).then_some(line);
        BadRecipe { origin: self.origin.to_owned(), line, what: what.into(), hint: hint.into() }
    }

    fn recipe(&self, text: &str) -> Result<Recipe, BadRecipe> {
        let root = Node::parse(text)
            .map_err(|(line, what)| self.wrong(line.unwrap_or(0), format!("this is not YAML: {what}"), None))?;
        let Kind::Map(entries) = &root.kind else {
            return Err(self.wrong(
                root.line,
                format!("a recipe is a mapping with `steps`, not {}", root.what()),
                Some("`brevity recipes show int4` prints one".to_owned()),
            ));
        };
        let name = self.origin.rsplit(['/', '\\']).next().unwrap_or_default();
        let name = name.strip_suffix(".yaml").or(name.strip_suffix(".yml")).unwrap_or(name);
        let mut recipe = Recipe {
            name: name.to_owned(),
            origin: self.origin.to_owned(),
            about: String::new(),
            format: None,
            calibration: Wanted::default(),
            vectors: None,
            gate: Vec::new(),
            steps: Vec::new(),
        };
        let mut defaults: Option<&Node> = None;
        let mut steps: Option<&Node> = None;
        for (key, node) in entries {
            match key.name.as_str() {
                "about" => recipe.about = self.text(key, node)?,
                "format" => recipe.format = Some(self.text(key, node)?),
                "calibration" => recipe.calibration = self.calibration(node)?,
                "vectors" => recipe.vectors = Some(self.vectors(node)?),
                "gate" => recipe.gate = self.gate(key, node)?,
                "defaults" => defaults = Some(node),
                "steps" => steps = Some(node),
                other => {
                    let hint = nearest(other, KEYS, "the keys of a recipe");
                    return Err(self.wrong(key.line, format!("a recipe has no key `{other}`"), hint));
                }
            }
        }
        if steps.is_none() && recipe.vectors.is_some() {
            return Ok(recipe);
        }
        let steps = steps.ok_or_else(|| {
            self.wrong(root.line, "the recipe has no `steps`", "add `steps:` and a list of methods".to_owned())
        })?;
        let Kind::List(items) = &steps.kind else {
            return Err(self.wrong(steps.line, format!("`steps` is a list, not {}", steps.what()), step_hint()));
        };
        if items.is_empty() && recipe.vectors.is_none() {
            return Err(self.wrong(steps.line, "`steps` is empty: the recipe does nothing", step_hint()));
        }
        recipe.steps = items.iter().map(|item| self.step(item)).collect::<Result<_, _>>()?;
        if let Some(defaults) = defaults {
            self.defaults(&mut recipe.steps, defaults)?;
        }
        recipe.steps.iter().try_for_each(|step| self.check(step))?;
        Ok(recipe)
    }

    fn text(&self, key: &Key, node: &Node) -> Result<String, BadRecipe> {
        match &node.kind {
            Kind::Scalar(Value::String(text)) => Ok(text.clone()),
            _ => Err(self.wrong(node.line, format!("`{}` is a text, not {}", key.name, node.what()), None)),
        }
    }

    /// Limits: a list of texts, or one alone.
    fn gate(&self, key: &Key, node: &Node) -> Result<Vec<String>, BadRecipe> {
        match &node.kind {
            Kind::List(items) => items.iter().map(|item| self.text(key, item)).collect(),
            _ => Ok(vec![self.text(key, node)?]),
        }
    }

    fn calibration(&self, node: &Node) -> Result<Wanted, BadRecipe> {
        let mut wanted = Wanted::default();
        let Kind::Map(entries) = &node.kind else {
            let what = format!("`calibration` is a mapping, not {}", node.what());
            return Err(self.wrong(node.line, what, "such as `{samples: 128, length: 2048}`".to_owned()));
        };
        for (key, node) in entries {
            calibrate(&mut wanted, &key.name, &node.to_json())
                .map_err(|(what, hint)| self.wrong(key.line, what, hint))?;
        }
        Ok(wanted)
    }

    fn vectors(&self, node: &Node) -> Result<VectorCut, BadRecipe> {
        let Kind::Map(entries) = &node.kind else {
            let what = format!("`vectors` is a mapping, not {}", node.what());
            return Err(self.wrong(node.line, what, "such as `{dims: 128, turn: pca}`".to_owned()));
        };
        let mut cut = None;
        let dims = entries.iter().find(|(key, _)| key.name == "dims");
        let rest = entries.iter().filter(|(key, _)| key.name != "dims");
        for (key, node) in dims.into_iter().chain(rest) {
            cut_vectors(&mut cut, &key.name, &node.to_json())
                .map_err(|(what, hint)| self.wrong(key.line, what, hint))?;
        }
        cut.ok_or_else(|| {
            let hint = Some("such as `{dims: 128, turn: pca}`".to_owned());
            self.wrong(node.line, "`vectors` does not say how many `dims` are kept", hint)
        })
    }

    fn step(&self, item: &Node) -> Result<Step, BadRecipe> {
        let (name, line, body) = match &item.kind {
            Kind::Scalar(Value::String(name)) => (name, item.line, None),
            Kind::Map(entries) if entries.len() == 1 => (&entries[0].0.name, entries[0].0.line, Some(&entries[0].1)),
            Kind::Map(entries) if entries.len() > 1 => {
                let what = format!("one step has one method, this one has `{}` beside it", entries[1].0.name);
                return Err(self.wrong(entries[1].0.line, what, step_hint()));
            }
            _ => {
                let what = format!("a step is a method with its settings, not {}", item.what());
                return Err(self.wrong(item.line, what, step_hint()));
            }
        };
        let entry = entry(name).map_err(|hint| self.wrong(line, format!("there is no method `{name}`"), hint))?;
        let mut step = Step {
            method: name.clone(),
            at: Vec::new(),
            except: Vec::new(),
            settings: Default::default(),
            line: (line > 0).then_some(line),
        };
        let settings: &[(Key, Node)] = match body.map(|body| &body.kind) {
            None | Some(Kind::Scalar(Value::Null)) => &[],
            Some(Kind::Map(settings)) => settings,
            Some(_) => {
                let what = format!(
                    "behind `{name}` stand its settings, such as `{{bits: 4}}`, not {}",
                    body.unwrap_or(item).what()
                );
                return Err(self.wrong(line, what, None));
            }
        };
        for (key, node) in settings {
            self.put(&mut step, entry, key, node)?;
        }
        Ok(step)
    }

    /// Sets one key of a step.
    fn put(&self, step: &mut Step, entry: &Entry, key: &Key, node: &Node) -> Result<(), BadRecipe> {
        match key.name.as_str() {
            "at" => step.at = self.selectors(node)?,
            "except" => step.except = self.selectors(node)?,
            name if entry.settings.iter().any(|setting| setting.name == name) => {
                let value = node.to_json();
                if let Err(error) = entry.read(Value::from_iter([(name.to_owned(), value.clone())])) {
                    // Alone it may lack a partner; only what is wrong with this value itself is reported here.
                    if matches!(error, brevity_methods::Error::Value { .. }) {
                        return Err(self.wrong(key.line, error.to_string(), error.hint()));
                    }
                }
                step.settings.insert(name.to_owned(), value);
            }
            name => {
                let known: Vec<&str> = entry.settings.iter().map(|setting| setting.name).collect();
                let all: Vec<&str> = known.into_iter().chain(SELECTORS.iter().copied()).collect();
                let what = format!("`{}` has no setting `{name}`", entry.name);
                return Err(self.wrong(key.line, what, nearest(name, &all, "its settings")));
            }
        }
        Ok(())
    }

    /// Gives every step the defaults that it has a place for and does not set itself.
    fn defaults(&self, steps: &mut [Step], node: &Node) -> Result<(), BadRecipe> {
        let Kind::Map(entries) = &node.kind else {
            let what = format!("`defaults` is a mapping of settings, not {}", node.what());
            return Err(self.wrong(node.line, what, None));
        };
        for (key, node) in entries {
            let mut used = false;
            for step in steps.iter_mut() {
                let Ok(entry) = entry(&step.method) else { continue };
                let own = match key.name.as_str() {
                    "at" => !step.at.is_empty(),
                    "except" => !step.except.is_empty(),
                    name => step.settings.contains_key(name),
                };
                let known = SELECTORS.contains(&key.name.as_str())
                    || entry.settings.iter().any(|setting| setting.name == key.name);
                used |= known;
                if known && !own {
                    self.put(step, entry, key, node)?;
                }
            }
            if !used {
                let entries = steps.iter().filter_map(|step| entry(&step.method).ok());
                let known = entries.flat_map(|entry| entry.settings.iter().map(|setting| setting.name));
                let mut known: Vec<&str> = known.chain(SELECTORS.iter().copied()).collect();
                known.sort_unstable();
                known.dedup();
                let what = format!("no step has a setting `{}` for the default to apply to", key.name);
                return Err(self.wrong(key.line, what, nearest(&key.name, &known, "the settings of its steps")));
            }
        }
        Ok(())
    }

    fn selectors(&self, node: &Node) -> Result<Vec<Selector>, BadRecipe> {
        selectors(&node.to_json()).map_err(|what| self.wrong(node.line, what, SELECTOR_HINT.to_owned()))
    }

    /// The settings of a step together.
    fn check(&self, step: &Step) -> Result<(), BadRecipe> {
        let Some(entry) = step.entry() else { return Ok(()) };
        match entry.read(Value::Object(step.settings.clone())) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.wrong(step.line.unwrap_or(0), error.to_string(), error.hint())),
        }
    }
}

fn step_hint() -> Option<String> {
    Some("a step looks like `- quantize.rtn: {bits: 4, group: 64}`".to_owned())
}
