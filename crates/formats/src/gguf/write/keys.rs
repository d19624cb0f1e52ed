//! The metadata of a GGUF file: keys and values in the order they are written.

use candle_core::quantized::gguf_file;

use super::super::meta::Meta;

/// Keys and their values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys(Vec<(String, Value)>);

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Value::U32(n)
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Value::U32(n.try_into().expect("sizes of models stay below 2^32, as those of tensors in memory do"))
    }
}

impl From<f32> for Value {
    fn from(x: f32) -> Self {
        Value::F32(x)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Bool(flag)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl Keys {
    /// Adds a key at the end.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.0.push((key.into(), value.into()));
    }

    /// Adds other keys behind these.
    pub fn extend(&mut self, other: Keys) {
        self.0.extend(other.0);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Appends the bytes of all of them.
    pub fn write(&self, out: &mut Vec<u8>) {
        for (key, value) in &self.0 {
            text(out, key);
            out.extend(value.id().to_le_bytes());
            match value {
                Value::U32(n) => out.extend(n.to_le_bytes()),
                Value::F32(x) => out.extend(x.to_le_bytes()),
                Value::Bool(flag) => out.push(u8::from(*flag)),
                Value::Text(all) => text(out, all),
                Value::Texts(all) => list(out, 8, all, |out, one| text(out, one)),
                Value::I32s(all) => list(out, 5, all, |out, n| out.extend(n.to_le_bytes())),
                Value::F32s(all) => list(out, 6, all, |out, x| out.extend(x.to_le_bytes())),
            }
        }
    }

    /// The same as a reader finds them.
    pub fn as_read(&self) -> Meta {
        use gguf_file::Value as Read;
        let read = |value: &Value| match value {
            Value::U32(n) => Read::U32(*n),
            Value::F32(x) => Read::F32(*x),
            Value::Bool(flag) => Read::Bool(*flag),
            Value::Text(all) => Read::String(all.clone()),
            Value::Texts(all) => Read::Array(all.iter().cloned().map(Read::String).collect()),
            Value::I32s(all) => Read::Array(all.iter().copied().map(Read::I32).collect()),
            Value::F32s(all) => Read::Array(all.iter().copied().map(Read::F32).collect()),
        };
        Meta(self.0.iter().map(|(key, value)| (key.clone(), read(value))).collect())
    }
}

impl Value {
    /// The number of its type in files.
    fn id(&self) -> u32 {
        match self {
            Value::U32(_) => 4,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::Texts(_) | Value::I32s(_) | Value::F32s(_) => 9,
        }
    }
}

/// Appends a text: its length and its bytes.
pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn list<T>(out: &mut Vec<u8>, id: u32, all: &[T], one: impl Fn(&mut Vec<u8>, &T)) {
    out.extend(id.to_le_bytes());
    out.extend((all.len() as u64).to_le_bytes());
    all.iter().for_each(|element| one(out, element));
}
