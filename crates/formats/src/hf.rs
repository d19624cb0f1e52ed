//! Directories as transformers writes them: which files hold the weights.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use crate::error::Error;
use crate::folder::{Folder, is_inside};

/// The weight files of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightFiles {
    /// Safetensors files, in order.
    Safetensors(Vec<String>),
    /// One GGUF file.
    Gguf(String),
}

/// What an index says: the file that holds each tensor.
#[derive(Debug, Deserialize)]
pub struct Index {
    /// File by tensor.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads the text of an index; `file` is named in errors.
    ///
    /// # Errors
    /// If it is not the JSON it should be, or names a file outside the directory of the model.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let index: Index =
            serde_json::from_str(text).map_err(|e| Error::Index { file: file.to_owned(), what: e.to_string() })?;
        if index.weight_map.is_empty() {
            return Err(Error::Index { file: file.to_owned(), what: "its `weight_map` is empty".into() });
        }
        match index.weight_map.values().find(|name| !is_inside(name)) {
            Some(name) => Err(Error::Outside { file: name.clone(), named_by: file.to_owned() }),
            None => Ok(index),
        }
    }

    /// The files, sorted.
    pub fn files(&self) -> Vec<String> {
        self.weight_map.values().cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }
}

impl WeightFiles {
    /// Finds the weight files of a directory.
    ///
    /// `model.safetensors` comes first, then an index with its shards, then any other safetensors files that can only
    /// be meant, then a lone GGUF file.
    ///
    /// # Errors
    /// If there are none, if a shard is missing, or if they are of a kind that is not read.
    pub fn find(folder: &Folder) -> Result<Self, Error> {
        let path = folder.path().to_owned();
        let files: Vec<String> = folder.list()?.into_iter().filter(|name| !name.contains('/')).collect();
        if files.is_empty() {
            return Err(Error::EmptyDirectory { path });
        }
        if folder.has("model.safetensors") {
            return Ok(WeightFiles::Safetensors(vec!["model.safetensors".into()]));
        }
        if let Some(name) = files.iter().find(|name| name.ends_with(".safetensors.index.json")) {
            return indexed(folder, name);
        }
        let ending = |ending: &str| files.iter().filter(|name| name.ends_with(ending)).cloned().collect::<Vec<_>>();
        let mut safetensors = ending(".safetensors");
        if safetensors.len() > 1 {
            // Mistral ships a second copy of the weights under this name.
            safetensors.retain(|name| !name.starts_with("consolidated"));
        }
        let gguf = ending(".gguf");
        match (safetensors.as_slice(), gguf.as_slice()) {
            ([_], _) => Ok(WeightFiles::Safetensors(safetensors)),
            ([_, ..], _) => numbered(folder, safetensors),
            ([], [one]) => Ok(WeightFiles::Gguf(one.clone())),
            ([], [_, ..]) => Err(Error::ManyGguf { path, files: gguf }),
            ([], []) => {
                let other = [".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ckpt"];
                let found = files.into_iter().filter(|name| other.iter().any(|end| name.ends_with(end))).collect();
                Err(Error::NoWeights { path, found })
            }
        }
    }
}

/// The shards that an index names.
fn indexed(folder: &Folder, name: &str) -> Result<WeightFiles, Error> {
    let file = folder.path().join(name);
    let index = Index::parse(&file, &folder.read_text(name)?)?;
    let files = index.files();
    if let Some(shard) = files.iter().find(|shard| !folder.has(shard)) {
        let named = index.weight_map.into_iter().filter(|(_, file)| file == shard);
        let tensors = named.map(|(tensor, _)| tensor).collect();
        return Err(Error::MissingShard { shard: shard.clone(), named_by: file, tensors });
    }
    Ok(WeightFiles::Safetensors(files))
}

/// Shards whose index is missing, if their names say that all of them are there.
fn numbered(folder: &Folder, files: Vec<String>) -> Result<WeightFiles, Error> {
    let number = |name: &str| -> Option<(u32, u32)> {
        let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        Some((rest.rsplit_once('-')?.1.parse().ok()?, count.parse().ok()?))
    };
    let numbers: Option<Vec<(u32, u32)>> = files.iter().map(|name| number(name)).collect();
    let Some(numbers) = numbers.filter(|numbers| numbers.iter().all(|(_, count)| *count == numbers[0].1)) else {
        return Err(Error::ManySafetensors { path: folder.path().to_owned(), files });
    };
    let count = numbers[0].1;
    match (1..=count).find(|n| !numbers.iter().any(|(number, _)| number == n)) {
        // The other names differ from the missing one in its number alone.
        Some(n) => {
            let (before, _) = files[0].rsplit_once("-of-").expect("the name was taken apart above");
            let (before, digits) = before.rsplit_once('-').expect("the name was taken apart above");
            let shard = format!("{before}-{n:0width$}-of-{count:0width$}.safetensors", width = digits.len());
            Err(Error::MissingShard { shard, named_by: folder.path().join(&files[0]), tensors: Vec::new() })
        }
        None => Ok(WeightFiles::Safetensors(files)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with these files.
    fn find(files: &[(&str, &str)]) -> Result<WeightFiles, Error> {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        WeightFiles::find(&Folder::open(dir.path()).unwrap())
    }

    fn safetensors(names: &[&str]) -> WeightFiles {
        WeightFiles::Safetensors(names.iter().map(|name| name.to_string()).collect())
    }

    const INDEX: &str = "model.safetensors.index.json";

    #[test]
    fn the_files_of_each_layout_are_found() {
        let map = r#"{"metadata":{"total_size":2},"weight_map":{"a":"two.safetensors","b":"one.safetensors"}}"#;
        for (files, expected) in [
            (&[("model.safetensors", ""), ("other.safetensors", "")][..], safetensors(&["model.safetensors"])),
            (
                &[(INDEX, map), ("one.safetensors", ""), ("two.safetensors", ""), ("three.safetensors", "")],
                safetensors(&["one.safetensors", "two.safetensors"]),
            ),
            (&[("diffusion_pytorch_model.safetensors", "")], safetensors(&["diffusion_pytorch_model.safetensors"])),
            (
                &[("m-1-of-2.safetensors", ""), ("m-2-of-2.safetensors", ""), ("consolidated.safetensors", "")],
                safetensors(&["m-1-of-2.safetensors", "m-2-of-2.safetensors"]),
            ),
            (&[("m.gguf", ""), ("pytorch_model.bin", "")], WeightFiles::Gguf("m.gguf".into())),
        ] {
            assert_eq!(find(files).unwrap(), expected);
        }
    }

    #[test]
    fn a_missing_shard_is_named_with_its_tensors() {
        let map = r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"}}"#;
        let error = find(&[(INDEX, map), ("one.safetensors", "")]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`two.safetensors`") && text.contains("`b`, `c`"), "{text}");
        assert!(error.hint().is_some());
        let error = find(&[("m-00001-of-00003.safetensors", ""), ("m-00003-of-00003.safetensors", "")]).unwrap_err();
        assert!(error.to_string().contains("`m-00002-of-00003.safetensors`"), "{error}");
    }

    #[test]
    fn an_index_that_names_a_file_elsewhere_is_refused() {
        for name in ["../../etc/passwd", "/etc/passwd"] {
            let map = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
            let error = find(&[(INDEX, &map)]).unwrap_err();
            assert!(matches!(&error, Error::Outside { file, .. } if file == name), "{error}");
            assert!(error.to_string().contains("model.safetensors.index.json"), "{error}");
        }
    }

    #[test]
    fn a_malformed_index_is_refused_with_the_place() {
        for (text, part) in [
            ("", "line 1"),
            ("[1,", "line 1"),
            (r#"{"weight_map": 3}"#, "line 1 column 16"),
            (r#"{"weight_map": {"a": 1}}"#, "line 1"),
            (r#"{"metadata": {}}"#, "missing field `weight_map`"),
            (r#"{"weight_map": {}}"#, "is empty"),
        ] {
            let error = find(&[(INDEX, text)]).unwrap_err();
            assert!(matches!(error, Error::Index { .. }), "{error}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn directories_without_readable_weights_say_what_they_have() {
        assert!(matches!(find(&[]), Err(Error::EmptyDirectory { .. })));
        let error = find(&[("config.json", "{}"), ("pytorch_model.bin", "")]).unwrap_err();
        assert!(error.to_string().contains("pytorch_model.bin"), "{error}");
        assert!(error.hint().unwrap().contains("save_pretrained"), "{error}");
        assert!(matches!(find(&[("config.json", "{}")]), Err(Error::NoWeights { .. })));
        assert!(matches!(find(&[("a.gguf", ""), ("b.gguf", "")]), Err(Error::ManyGguf { .. })));
        assert!(matches!(find(&[("a.safetensors", ""), ("b.safetensors", "")]), Err(Error::ManySafetensors { .. })));
    }
}
