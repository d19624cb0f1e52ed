//! Values of the configuration as a description asks for them.

use serde_json::Value;

use crate::config::{Config, kind};
use crate::description::{Description, Setting};
use crate::error::Error;

/// A configuration seen through a description: its names for the usual keys, its defaults.
pub(crate) struct Lookup<'a> {
    pub config: &'a Config,
    pub description: &'a Description,
}

/// A value and where it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub key: String,
    pub value: Value,
}

impl Lookup<'_> {
    /// The value of a key, or what is assumed if the configuration lacks it. An explicit `null` is no value.
    pub fn key(&self, key: &str) -> Option<Found> {
        let value = self.config.get(key).or_else(|| self.description.defaults.get(key))?;
        (!value.is_null()).then(|| Found { key: key.to_owned(), value: value.clone() })
    }

    /// The value of a key that must be there.
    pub fn needed(&self, key: &str) -> Result<Found, Error> {
        self.key(key)
            .ok_or_else(|| Error::MissingKey { key: key.to_owned(), description: self.description.name.clone() })
    }

    /// The value of a setting: written in the description, or under the first of its keys that the configuration
    /// has, or that there is a default for.
    pub fn setting(&self, setting: &Setting) -> Option<Found> {
        let Some(keys) = keys_of(setting) else {
            return Some(Found { key: self.description.name.clone(), value: setting.0.clone() });
        };
        let given = |key: &&str| self.config.get(key).is_some_and(|value| !value.is_null());
        let key = keys.iter().find(|key| given(key)).copied();
        match key {
            Some(key) => self.key(key),
            None => keys.iter().find_map(|key| self.key(key)),
        }
    }

    /// The value of a setting that must be there.
    pub fn needed_setting(&self, setting: &Setting) -> Result<Found, Error> {
        let first = || keys_of(setting).map_or_else(String::new, |keys| keys[0].to_owned());
        self.setting(setting)
            .ok_or_else(|| Error::MissingKey { key: first(), description: self.description.name.clone() })
    }

    /// An error that says that a value is not supported.
    pub fn unsupported(&self, found: &Found, supported: impl Into<String>) -> Error {
        Error::Unsupported {
            key: found.key.clone(),
            value: found.value.to_string(),
            architecture: self.description.name.clone(),
            supported: supported.into(),
        }
    }
}

fn keys_of(setting: &Setting) -> Option<Vec<&str>> {
    let text = setting.0.as_str().filter(|text| text.starts_with('$'))?;
    Some(text.split('|').map(|key| key.trim().trim_start_matches('$')).collect())
}

impl Found {
    fn wrong(&self, expected: &str) -> Error {
        let value = match &self.value {
            Value::Array(_) | Value::Object(_) => kind(&self.value).to_owned(),
            plain => plain.to_string(),
        };
        Error::WrongValue { key: self.key.clone(), value, expected: expected.to_owned() }
    }

    /// A number of things.
    pub fn count(&self) -> Result<usize, Error> {
        let whole = self
            .value
            .as_u64()
            .or_else(|| self.value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64));
        whole.filter(|&n| n <= u32::MAX as u64).map(|n| n as usize).ok_or_else(|| self.wrong("a count"))
    }

    /// A number of things, at least one.
    pub fn positive(&self) -> Result<usize, Error> {
        Some(self.count()?).filter(|&n| n > 0).ok_or_else(|| self.wrong("a positive count"))
    }

    /// A number.
    pub fn number(&self) -> Result<f64, Error> {
        self.value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| self.wrong("a number"))
    }

    /// A number greater than zero.
    pub fn above_zero(&self) -> Result<f64, Error> {
        Some(self.number()?).filter(|&x| x > 0.0).ok_or_else(|| self.wrong("a positive number"))
    }

    /// True or false.
    pub fn flag(&self) -> Result<bool, Error> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// A word.
    pub fn word(&self) -> Result<&str, Error> {
        self.value.as_str().ok_or_else(|| self.wrong("a word"))
    }

    /// A list.
    pub fn list(&self) -> Result<&[Value], Error> {
        self.value.as_array().map(Vec::as_slice).ok_or_else(|| self.wrong("a list"))
    }

    /// A list of numbers.
    pub fn numbers(&self) -> Result<Vec<f64>, Error> {
        self.list()?.iter().map(|x| x.as_f64().ok_or_else(|| self.wrong("a list of numbers"))).collect()
    }

    /// Checks that a list has one entry for each of so many `things`.
    pub fn one_each<T>(&self, list: Vec<T>, count: usize, things: &str) -> Result<Vec<T>, Error> {
        if list.len() == count {
            Ok(list)
        } else {
            Err(Error::WrongValue {
                key: self.key.clone(),
                value: format!("a list of {}", list.len()),
                expected: format!("one of {count}, an entry for each {things}"),
            })
        }
    }

    /// The value of a key inside an object.
    pub fn inner(&self, key: &str) -> Option<Found> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(Found { key: format!("{}.{key}", self.key), value: value.clone() })
    }
}
