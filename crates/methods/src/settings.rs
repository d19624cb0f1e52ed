//! Reading the settings of a method: unknown names and impossible values are told apart and told clearly.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A setting of a method, for help and for checking names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name in recipes.
    pub name: &'static str,
    /// What it does and what it takes.
    pub about: &'static str,
    /// The value it has when it is not set, as written in a recipe.
    pub default: &'static str,
}

/// The settings of `method` from JSON; `null` stands for none set.
///
/// Every field of `T` needs a default, so that a setting can be judged alone.
pub(crate) fn read<T: DeserializeOwned>(method: &'static str, known: &'static [Setting], value: Value) -> Result<T> {
    let map = match value {
        Value::Null => Map::new(),
        Value::Object(map) => map,
        _ => return Err(Error::Settings { method, wants: "settings by name, such as `bits: 4`" }),
    };
    for name in map.keys() {
        if !known.iter().any(|setting| setting.name == name) {
            let names: Vec<&'static str> = known.iter().map(|setting| setting.name).collect();
            return Err(Error::Setting { method, name: name.clone(), nearest: nearest(name, &names), known: names });
        }
    }
    serde_json::from_value(Value::Object(map.clone())).map_err(|_| {
        // Whichever setting fails alone is the one to name.
        let alone =
            |name: &str| serde_json::from_value::<T>(Value::Object(Map::from_iter([(name.into(), map[name].clone())])));
        let wrong = known.iter().filter(|s| map.contains_key(s.name)).find(|s| alone(s.name).is_err());
        match wrong {
            Some(setting) => value_error(method, known, setting.name, &map[setting.name]),
            None => Error::Settings { method, wants: "settings that agree with each other" },
        }
    })
}

/// The error for a setting with a value it cannot have; what it takes is said by its own description.
pub(crate) fn value_error(method: &'static str, known: &[Setting], name: &'static str, value: &Value) -> Error {
    let wants = known.iter().find(|setting| setting.name == name).map_or("", |setting| setting.about);
    Error::Value { method, name, value: value.to_string(), wants: wants.to_owned() }
}

/// The most similar of `names`, if one is similar enough to be meant.
pub(crate) fn nearest(name: &str, names: &[&'static str]) -> Option<&'static str> {
    let distance = |known: &str| strsim::damerau_levenshtein(name, known);
    let within = |known: &str| name.len() >= 3 && (known.contains(name) || name.contains(known));
    let best = names.iter().copied().min_by_key(|known| (!within(known), distance(known)))?;
    let close = distance(best) <= 1.max(name.len().max(best.len()) / 3);
    (close || within(best)).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(default)]
    struct Knobs {
        bits: u8,
        group: usize,
    }

    impl Default for Knobs {
        fn default() -> Self {
            Knobs { bits: 4, group: 128 }
        }
    }

    const KNOWN: &[Setting] = &[
        Setting { name: "bits", about: "1 to 8", default: "4" },
        Setting { name: "group", about: "inputs that share a scale", default: "128" },
    ];

    #[test]
    fn what_is_not_set_has_its_default() {
        assert_eq!(read::<Knobs>("m", KNOWN, Value::Null), Ok(Knobs { bits: 4, group: 128 }));
        assert_eq!(read::<Knobs>("m", KNOWN, json!({"bits": 2})), Ok(Knobs { bits: 2, group: 128 }));
    }

    #[test]
    fn an_unknown_setting_names_the_nearest() {
        let error = read::<Knobs>("m", KNOWN, json!({"bit": 2})).unwrap_err();
        assert_eq!(error.to_string(), "`m` has no setting `bit`");
        assert_eq!(error.hint().unwrap(), "did you mean `bits`?");
        let error = read::<Knobs>("m", KNOWN, json!({"colour": 2})).unwrap_err();
        assert_eq!(error.hint().unwrap(), "its settings are bits, group");
    }

    #[test]
    fn a_wrong_value_names_its_setting() {
        let error = read::<Knobs>("m", KNOWN, json!({"group": 64, "bits": "four"})).unwrap_err();
        assert_eq!(error.to_string(), "`m` cannot take `bits: \"four\"`");
        assert_eq!(error.hint().unwrap(), "it takes 1 to 8");
        assert!(read::<Knobs>("m", KNOWN, json!([1])).is_err());
    }
}
