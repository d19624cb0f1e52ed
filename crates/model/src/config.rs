//! `config.json`: the settings of a model as its makers wrote them.

use serde_json::{Map, Value};

use crate::error::Error;

/// The settings of a model: a JSON object whose order and unknown keys are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    map: Map<String, Value>,
}

impl Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::NotJson`] if it is not one JSON object.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(Config { map }),
            Ok(other) => Err(Error::NotJson { why: format!("it is {}", kind(&other)) }),
            Err(why) => Err(Error::NotJson { why: why.to_string() }),
        }
    }

    /// The value of a key, `null` included.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// Sets a key; a new one goes to the end.
    pub fn set(&mut self, key: &str, value: Value) {
        self.map.insert(key.to_owned(), value);
    }

    /// Takes a key out and returns its value; the order of the others is kept.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key)
    }

    /// The architecture, or nothing if the configuration does not say.
    pub fn model_type(&self) -> &str {
        self.get("model_type").and_then(Value::as_str).unwrap_or("")
    }

    /// The configuration of the language model in that of a model of text and images.
    pub(crate) fn language_model(&self) -> Option<Config> {
        self.get("text_config").and_then(Value::as_object).map(|map| Config { map: map.clone() })
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// The text of a `config.json`: indented by two spaces, with a final newline.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", Value::Object(self.map.clone()))
    }
}

/// What a JSON value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_unknown_keys_are_kept() {
        let text = "{\n  \"zeta\": 1,\n  \"model_type\": \"llama\",\n  \"alpha\": null,\n  \"eps\": 0.00001\n}\n";
        let mut config = Config::parse(text).unwrap();
        assert_eq!(config.model_type(), "llama");
        assert_eq!(config.get("alpha"), Some(&Value::Null));
        assert_eq!(config.to_json(), text);
        config.set("zeta", 2.into());
        config.remove("model_type");
        assert_eq!(config.keys().collect::<Vec<_>>(), ["zeta", "alpha", "eps"]);
    }

    #[test]
    fn a_config_that_is_no_object_is_refused_with_the_place() {
        let error = Config::parse("{\"a\": }").unwrap_err().to_string();
        assert!(error.contains("line 1 column 7"), "{error}");
        let error = Config::parse("[1]").unwrap_err().to_string();
        assert_eq!(error, "`config.json` is not a JSON object: it is a list");
    }
}
