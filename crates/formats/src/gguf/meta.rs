//! Looking things up in the metadata of a GGUF file.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

use crate::error::Error;

/// The metadata of a GGUF file.
pub struct Meta(pub HashMap<String, Value>);

impl Meta {
    /// A whole number, if the key is there; of a list with one value for all layers, that value.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let wrong = || Error::GgufKey { key: key.to_owned(), wanted: "a whole number" };
        match value {
            Value::Array(all) => {
                let all = all.iter().map(whole).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
                match all.as_slice() {
                    [first, rest @ ..] if rest.iter().all(|n| n == first) => Ok(Some(*first)),
                    _ => Err(Error::GgufKey { key: key.to_owned(), wanted: "the same for all layers" }),
                }
            }
            one => whole(one).map(Some).ok_or_else(wrong),
        }
    }

    /// A whole number of block `n`, if the key is there: that of all blocks, or an element of a list.
    pub fn number_of_block(&self, key: &str, n: usize) -> Result<Option<u64>, Error> {
        match self.0.get(key) {
            Some(Value::Array(all)) => {
                let wrong =
                    || Error::GgufKey { key: key.to_owned(), wanted: "a list of a whole number for each block" };
                all.get(n).and_then(whole).map(Some).ok_or_else(wrong)
            }
            _ => self.number(key),
        }
    }

    /// The largest whole number of a list, or the only one, if the key is there.
    pub fn largest(&self, key: &str) -> Result<Option<u64>, Error> {
        match self.0.get(key) {
            Some(Value::Array(_)) => Ok(self.numbers(key)?.unwrap_or_default().into_iter().max()),
            _ => self.number(key),
        }
    }

    /// A number, if the key is there.
    pub fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.0.get(key) {
            None => Ok(None),
            // The shortest decimal that reads back as the same single: 1e-5, not 9.999999747378752e-6.
            Some(Value::F32(x)) => Ok(x.to_string().parse().ok()),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(other) => match whole(other) {
                Some(n) => Ok(Some(n as f64)),
                None => Err(Error::GgufKey { key: key.to_owned(), wanted: "a number" }),
            },
        }
    }

    /// A text, if the key is there.
    pub fn text(&self, key: &str) -> Result<Option<&str>, Error> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Error::GgufKey { key: key.to_owned(), wanted: "a text" }),
        }
    }

    /// A truth value, if the key is there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(Error::GgufKey { key: key.to_owned(), wanted: "true or false" }),
        }
    }

    /// A list of texts, if the key is there.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, Error> {
        self.list(key, "a list of texts", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A list of whole numbers, if the key is there.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<u64>>, Error> {
        self.list(key, "a list of whole numbers", whole)
    }

    /// A list of numbers, if the key is there.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.list(key, "a list of numbers", |value| match value {
            Value::F32(x) => Some(*x),
            _ => None,
        })
    }

    /// A whole number that must be there.
    pub fn need_number(&self, key: &str) -> Result<u64, Error> {
        self.number(key)?.ok_or_else(|| Error::GgufKey { key: key.to_owned(), wanted: "there" })
    }

    /// A number that must be there.
    pub fn need_float(&self, key: &str) -> Result<f64, Error> {
        self.float(key)?.ok_or_else(|| Error::GgufKey { key: key.to_owned(), wanted: "there" })
    }

    fn list<'a, T>(
        &'a self,
        key: &str,
        wanted: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Error> {
        let wrong = || Error::GgufKey { key: key.to_owned(), wanted };
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Array(all)) => all.iter().map(read).collect::<Option<Vec<_>>>().map(Some).ok_or_else(wrong),
            Some(_) => Err(wrong()),
        }
    }
}

fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => Some(n.into()),
        Value::U64(n) => Some(n),
        Value::I8(n) => n.try_into().ok(),
        Value::I16(n) => n.try_into().ok(),
        Value::I32(n) => n.try_into().ok(),
        Value::I64(n) => n.try_into().ok(),
        _ => None,
    }
}
