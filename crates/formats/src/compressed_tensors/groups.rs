//! The `quantization_config` of a checkpoint that is read.

use brevity_model::{Config, Dtype};
use regex::Regex;
use serde_json::Value;

use super::read::config_dtype;
use crate::coded::CodedFault;
use crate::error::Error;

/// The groups of a configuration.
pub(super) struct Groups {
    groups: Vec<Scheme>,
    format: String,
}

/// What one group says about its weights.
pub(super) struct Scheme {
    pub bits: u8,
    pub symmetric: bool,
    /// Columns that share a scale, if that is what is shared.
    pub group: Option<usize>,
    block: Option<[usize; 2]>,
    kind: String,
    format: Option<String>,
    targets: Vec<Target>,
}

enum Target {
    /// A module by its path, or all modules of a class.
    Name(String),
    Pattern(Regex),
}

impl Groups {
    /// Reads the configuration.
    pub fn parse(config: &Config) -> Result<Self, Error> {
        let wrong = |what: String| CodedFault::Description { what }.of("quantization_config");
        let Some(Value::Object(quantization)) = config.get("quantization_config") else {
            return Err(wrong("`config.json` has no object `quantization_config`".into()));
        };
        let format = quantization.get("format").and_then(Value::as_str).unwrap_or_default().to_owned();
        let groups = match quantization.get("config_groups") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(groups)) => groups
                .iter()
                .filter(|(_, group)| group.get("weights").is_some_and(|weights| !weights.is_null()))
                .map(|(name, group)| Scheme::parse(group).map_err(|what| wrong(format!("`{name}`: {what}"))))
                .collect::<Result<_, Error>>()?,
            Some(_) => return Err(wrong("`config_groups` is no object".into())),
        };
        Ok(Groups { groups, format })
    }

    /// The scheme of a module: that of the group that names it, else of one whose pattern matches, else of one that
    /// names a class, since quantized modules are of the class that is meant. With one group there is no question.
    pub fn of(&self, module: &str) -> Option<&Scheme> {
        let by = |test: &dyn Fn(&Target) -> bool| self.groups.iter().find(|group| group.targets.iter().any(test));
        match &self.groups[..] {
            [one] => Some(one),
            _ => by(&|target| matches!(target, Target::Name(name) if name == module))
                .or_else(|| by(&|target| matches!(target, Target::Pattern(pattern) if pattern.is_match(module))))
                .or_else(|| by(&|target| matches!(target, Target::Name(name) if name == "Linear"))),
        }
    }

    /// The layout that a scheme names.
    pub fn format_of<'a>(&'a self, scheme: &'a Scheme) -> &'a str {
        scheme.format.as_deref().unwrap_or(&self.format)
    }

    /// The block of FP8 weights that have a scale for each block.
    pub fn block(&self) -> Option<[usize; 2]> {
        self.groups.iter().find_map(|group| group.block)
    }

    /// The type that FP8 weights are read as.
    pub fn float_dtype(&self, config: &Config) -> Dtype {
        config_dtype(config)
    }
}

impl Scheme {
    fn parse(group: &Value) -> Result<Self, String> {
        let weights = &group["weights"];
        let bits = weights["num_bits"].as_u64().filter(|bits| (1..=8).contains(bits));
        let block = match weights["block_structure"].as_array().map(Vec::as_slice) {
            Some([rows, columns]) => match (rows.as_u64(), columns.as_u64()) {
                (Some(rows @ 1..), Some(columns @ 1..)) => Some([rows as usize, columns as usize]),
                _ => return Err("`block_structure` is not two counts".into()),
            },
            _ => None,
        };
        let targets = group["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Scheme {
            bits: bits.ok_or("`num_bits` is not a number from 1 to 8")? as u8,
            symmetric: weights["symmetric"].as_bool().unwrap_or(true),
            group: weights["group_size"].as_u64().filter(|&size| size > 0).map(|size| size as usize),
            block,
            kind: weights["type"].as_str().unwrap_or("int").to_owned(),
            format: group["format"].as_str().map(str::to_owned),
            targets: targets.iter().filter_map(Value::as_str).map(Target::parse).collect(),
        })
    }

    /// Whether the codes are integers.
    pub fn is_int(&self) -> bool {
        self.kind == "int"
    }
}

impl Target {
    fn parse(text: &str) -> Self {
        // A pattern that we cannot read matches nothing; bits then follow from shapes.
        match text.strip_prefix("re:").map(|pattern| Regex::new(&format!("^(?:{pattern})"))) {
            Some(Ok(pattern)) => Target::Pattern(pattern),
            _ => Target::Name(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(json: &str) -> Result<Groups, Error> {
        Groups::parse(&Config::parse(&format!(r#"{{"quantization_config": {json}}}"#)).unwrap())
    }

    #[test]
    fn a_module_gets_the_scheme_that_names_it_most_closely() {
        let text = r#"{"format": "mixed-precision", "config_groups": {
            "a": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}},
            "b": {"targets": ["re:.*down_proj"], "weights": {"num_bits": 4, "group_size": 32}},
            "c": {"targets": ["m.0.down_proj"], "weights": {"num_bits": 2, "symmetric": false}},
            "d": {"targets": ["X"], "weights": null}}}"#;
        let groups = groups(text).unwrap();
        let bits = |module: &str| groups.of(module).unwrap().bits;
        assert_eq!([bits("m.0.down_proj"), bits("m.1.down_proj"), bits("m.1.up_proj")], [2, 4, 8]);
        let scheme = groups.of("m.0.down_proj").unwrap();
        assert!(!scheme.symmetric && scheme.is_int() && scheme.group.is_none());
        assert_eq!(groups.of("m.1.down_proj").unwrap().group, Some(32));
    }

    #[test]
    fn a_malformed_configuration_says_where() {
        for (text, part) in [
            ("3", "no object"),
            (r#"{"config_groups": []}"#, "`config_groups`"),
            (r#"{"config_groups": {"g": {"weights": {"num_bits": 99}}}}"#, "`g`: `num_bits`"),
            (
                r#"{"config_groups": {"g": {"weights": {"num_bits": 8, "block_structure": [0, 1]}}}}"#,
                "`block_structure`",
            ),
        ] {
            let error = groups(text).err().unwrap().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
