//! A YAML text as a tree that remembers on which line each key and value stands.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value of a YAML text with the line it begins on, counted from one.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub line: u64,
    pub kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub line: u64,
    pub name: String,
}

impl Node {
    /// Reads a text; the error has a line, if one is known, and a sentence.
    pub fn parse(text: &str) -> Result<Node, (Option<u64>, String)> {
        serde_saphyr::from_str::<Spanned<Kind>>(text).map(Node::from).map_err(|error| {
            let line = error.location().map(|at| at.line()).filter(|&line| line > 0);
            (line, error.without_snippet().to_string())
        })
    }

    /// The value without lines.
    pub fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(value) => value.clone(),
            Kind::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Kind::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| (key.name.clone(), node.to_json()));
                Value::Object(entries.collect::<Map<_, _>>())
            }
        }
    }

    /// What the value is, for errors.
    pub fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(Value::Null) => "nothing",
            Kind::Scalar(Value::Bool(_)) => "true or false",
            Kind::Scalar(Value::Number(_)) => "a number",
            Kind::Scalar(_) => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

impl From<Spanned<Kind>> for Node {
    fn from(spanned: Spanned<Kind>) -> Self {
        Node { line: spanned.referenced.line(), kind: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Kind, E> {
                Ok(Kind::Scalar(Value::Null))
            }

            fn visit_none<E>(self) -> Result<Kind, E> {
                Ok(Kind::Scalar(Value::Null))
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
                deserializer.deserialize_any(self)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Kind, E> {
                let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
                Ok(Kind::Scalar(number.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
                Ok(Kind::Scalar(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Kind, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element::<Spanned<Kind>>()? {
                    items.push(item.into());
                }
                Ok(Kind::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    let node = map.next_value::<Spanned<Kind>>()?.into();
                    entries.push((Key { line: key.referenced.line(), name: key.value }, node));
                }
                Ok(Kind::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_know_their_lines() {
        let node = Node::parse("a: 1\nb:\n  - x: [true, ~]\n    y: 0.5\n").unwrap();
        let Kind::Map(entries) = &node.kind else { panic!("a mapping") };
        assert_eq!((entries[1].0.name.as_str(), entries[1].0.line), ("b", 2));
        let Kind::List(items) = &entries[1].1.kind else { panic!("a list") };
        let Kind::Map(inner) = &items[0].kind else { panic!("a mapping") };
        assert_eq!((inner[1].0.name.as_str(), inner[1].0.line, inner[1].1.line), ("y", 4, 4));
        assert_eq!(node.to_json(), serde_json::json!({"a": 1, "b": [{"x": [true, null], "y": 0.5}]}));
    }

    #[test]
    fn a_syntax_error_has_a_line() {
        let (line, sentence) = Node::parse("a: 1\nb: [1, 2\n").unwrap_err();
        assert!(line.is_some_and(|line| line >= 2), "{line:?}");
        assert!(!sentence.is_empty());
    }
}
