//! Factors as one weight again, and the configuration that the stock class would have.

use std::collections::{BTreeMap, BTreeSet};

use brevity_model::{Config, Form, Place, Role, STRUCTURE, Site, Slot, Source, Weight};
use serde_json::{Map, Value};

use super::{LinearRecord, PREFIX, VERSION};
use crate::coded::CodedFault;
use crate::container::{self, Container};
use crate::error::Error;
use crate::view;

/// Whether the directory of this configuration is of this layout.
pub(crate) fn is_custom(config: &Config) -> bool {
    config.get(STRUCTURE).and_then(|ours| ours.get("layout")).and_then(Value::as_str) == Some("custom")
}

/// The configuration as the stock class has it, with what shapes do not tell of blocks; others are left as they are.
pub(crate) fn as_stock(mut config: Config) -> Config {
    let Some(ours) = config.get(STRUCTURE).cloned().filter(|_| is_custom(&config)) else { return config };
    if let Some(kind) = config.model_type().strip_prefix(PREFIX).map(str::to_owned) {
        config.set("model_type", kind.into());
    }
    for key in ["architectures", "auto_map"] {
        match ours.get("stock").and_then(|stock| stock.get(key)) {
            Some(value) => config.set(key, value.clone()),
            None => _ = config.remove(key),
        }
    }
    let kept = ["blocks", "stream"].into_iter().filter_map(|key| Some((key.to_owned(), ours.get(key)?.clone())));
    let kept: Map<_, _> = kept.collect();
    match kept.is_empty() {
        true => _ = config.remove(STRUCTURE),
        false => config.set(STRUCTURE, kept.into()),
    }
    config
}

/// Opens files whose `config.json` says that their layout is custom. Layers whose files are not there yet are left out.
///
/// # Errors
/// [`Error::Coded`] if the layout is newer than this program, or if factors do not fit.
pub fn open(inner: Box<dyn Container>, config: &Config) -> Result<Box<dyn Container>, Error> {
    let ours = config.get(STRUCTURE).cloned().unwrap_or_default();
    let invalid = |what: String| CodedFault::Description { what }.of(STRUCTURE);
    match ours.get("version").and_then(Value::as_u64) {
        Some(1..=VERSION) => {}
        Some(newer) => {
            let what = format!("version {newer} of the custom layout, which is newer than this program");
            return Err(CodedFault::Unsupported { what }.of(STRUCTURE));
        }
        None => return Err(invalid("`config.json` does not say which version of the custom layout it is".into())),
    }
    let linears = ours.get("linears").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let linears: BTreeMap<String, LinearRecord> =
        serde_json::from_value(linears).map_err(|why| invalid(format!("`linears`: {why}")))?;
    let mut weights = BTreeMap::new();
    let mut renamed = BTreeMap::new();
    let mut extra = BTreeSet::new();
    for (module, LinearRecord { widths, bias, added }) in linears {
        if added {
            extra.insert(format!("{module}.bias"));
        }
        if let Some(site) = shortcut_of(&module) {
            renamed.insert(site.tensor(Slot::Weight), format!("{module}.weight"));
            continue;
        }
        let count = widths.len().saturating_sub(1);
        if count < 2 {
            continue;
        }
        let names: Vec<String> = (0..count).map(|n| format!("{module}.{n}.weight")).collect();
        if names.iter().all(|name| inner.form(name).is_none()) {
            continue;
        }
        for (name, sides) in names.iter().zip(widths.windows(2)) {
            let missing = || CodedFault::Missing { tensor: name.clone() }.of(&module);
            let found = inner.form(name).ok_or_else(missing)?.shape();
            if found != [sides[1], sides[0]] {
                let what = format!("`{name}` is {found:?}, where its widths are {} to {}", sides[0], sides[1]);
                return Err(invalid(what));
            }
        }
        weights.insert(format!("{module}.weight"), names);
        if bias {
            renamed.insert(format!("{module}.bias"), format!("{module}.{}.bias", count - 1));
        }
    }
    Ok(Box::new(CustomFiles { inner, weights, renamed, added: extra }))
}

/// The site of a shortcut, given its module.
fn shortcut_of(module: &str) -> Option<Site> {
    let n = module.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()?;
    let sites = [Role::AttnShortcut, Role::MlpShortcut].map(|role| Site::new(Place::Block(n), role));
    sites.into_iter().find(|site| super::shortcut(site.place, &site.role).is_some_and(|known| known == module))
}

/// Files of this layout.
pub struct CustomFiles {
    inner: Box<dyn Container>,
    /// The factors of a weight, the one that meets the inputs first.
    weights: BTreeMap<String, Vec<String>>,
    /// What a bias behind factors, or a shortcut, is called in the files.
    renamed: BTreeMap<String, String>,
    /// Biases that the stock class has not.
    added: BTreeSet<String>,
}

impl CustomFiles {
    /// The name in the files of a tensor that is one there too.
    fn name<'a>(&'a self, name: &'a str) -> &'a str {
        self.renamed.get(name).map_or(name, String::as_str)
    }

    /// Whether a tensor of the files is part of something.
    fn is_part(&self, stored: &str) -> bool {
        self.weights.values().flatten().chain(self.renamed.values()).any(|part| part == stored)
    }
}

impl Container for CustomFiles {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.inner.names().into_iter().filter(|name| !self.is_part(name)).collect();
        names.extend(self.weights.keys().cloned());
        names.extend(
            self.renamed.iter().filter(|(_, stored)| self.inner.form(stored).is_some()).map(|(name, _)| name.clone()),
        );
        names.sort();
        names
    }

    fn form(&self, name: &str) -> Option<Form> {
        match self.weights.get(name) {
            Some(factors) => {
                let forms = factors.iter().map(|factor| self.inner.form(factor)).collect::<Option<Vec<Form>>>()?;
                forms.into_iter().reduce(|right, left| Form::product(left, right))
            }
            None if self.is_part(name) => None,
            None => self.inner.form(self.name(name)),
        }
    }

    fn load(&self, name: &str) -> Result<Weight, Error> {
        match self.weights.get(name) {
            Some(factors) => {
                let loaded = factors.iter().map(|factor| self.inner.load(factor)).collect::<Result<Vec<_>, _>>()?;
                let product = loaded.into_iter().reduce(|right, left| Weight::product(left, right));
                product.ok_or_else(|| Error::NoTensor { tensor: name.to_owned() })
            }
            None => self.inner.load(self.name(name)),
        }
    }

    fn load_view(&self, source: &Source) -> Result<Weight, Error> {
        if !self.weights.contains_key(&source.tensor) {
            let tensor = self.name(&source.tensor).to_owned();
            return self.inner.load_view(&Source { tensor, ..source.clone() });
        }
        view::of_weight(self.load(&source.tensor)?, &source.view, source.form.shape())
            .map_err(|fault| Error::View { tensor: source.tensor.clone(), fault })
    }

    fn is_added(&self, tensor: &str) -> bool {
        self.added.contains(tensor)
    }

    fn parts(&self, name: &str) -> Vec<String> {
        match self.weights.get(name) {
            Some(factors) => factors.iter().flat_map(|factor| self.inner.parts(factor)).collect(),
            None => self.inner.parts(self.name(name)),
        }
    }

    fn files(&self) -> &dyn container::Files {
        self.inner.files()
    }
}
