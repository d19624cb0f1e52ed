//! Files that go with a model and are copied as they are: tokenizer, templates, generation settings, code.

use crate::error::Error;
use crate::folder::Folder;

/// The largest file that is copied. Vocabularies of a million words stay below; weights in a format nobody knows do not.
const LARGEST: u64 = 64 << 20;

/// Endings of files that hold weights, or belong to such files.
const WEIGHTS: &[&str] = &[
    ".safetensors",
    ".gguf",
    ".ggml",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".npz",
    ".tflite",
    ".pb",
    ".ot",
    ".nemo",
    ".tar",
    ".gz",
    ".zip",
    ".index.json",
];

/// Files that are written anew, or that would be wrong beside rewritten weights.
const STALE: &[&str] = &[
    "config.json",
    "README.md",
    "compression.json",
    "quantize_config.json",
    "quant_config.json",
    "recipe.yaml",
    "model_index.json",
    crate::custom::CODE,
];

/// Every small file of a source that its tools need beside the weights: names and contents, by name.
///
/// Weights (but for those of modules behind an encoder), their index and descriptions of an old quantization are left out, and so are `config.json` and the model
/// card, which are written anew.
pub fn carried_files(folder: &Folder) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let names = folder.list()?;
    let modules = module_folders(folder);
    let belongs = |name: &str| {
        let of_module = name.split_once('/').is_some_and(|(folder, _)| modules.iter().any(|module| module == folder));
        of_module && name.ends_with(".safetensors")
    };
    let carried = names
        .into_iter()
        .filter(|name| (!is_stale(name) || belongs(name)) && folder.size(name).is_some_and(|size| size <= LARGEST));
    carried.map(|name| Ok((name.clone(), folder.read(&name)?.into_owned()))).collect()
}

/// Directories of the modules behind an encoder, as sentence-transformers lists them: their weights are no part of the model's.
pub fn module_folders(folder: &Folder) -> Vec<String> {
    let Ok(text) = folder.read_text("modules.json") else { return Vec::new() };
    let Ok(modules) = serde_json::from_str::<Vec<serde_json::Value>>(&text) else { return Vec::new() };
    let path = |module: &serde_json::Value| Some(module.get("path")?.as_str()?.trim_end_matches('/').to_owned());
    modules.iter().filter_map(path).filter(|path| !path.is_empty()).collect()
}

fn is_stale(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    STALE.iter().any(|stale| name.eq_ignore_ascii_case(stale)) || WEIGHTS.iter().any(|end| lower.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_need_is_carried_and_weights_are_not() {
        let carried = [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "added_tokens.json",
            "chat_template.jinja",
            "generation_config.json",
            "LICENSE",
            "merges.txt",
            "modeling_new.py",
            "modules.json",
            "preprocessor_config.json",
            "special_tokens_map.json",
            "spiece.model",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "vocab.json",
            "vocab.txt",
        ];
        let left = [
            "config.json",
            "README.md",
            "model.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "quantize_config.json",
            "compression.json",
            "modeling_brevity.py",
            "flax_model.msgpack",
            "tf_model.h5",
            "m.gguf",
            "onnx/model.onnx",
            "openvino/model.safetensors",
            ".hidden",
        ];
        let dir = tempfile::tempdir().unwrap();
        for name in carried.iter().chain(&left) {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, name).unwrap();
        }
        let modules = r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]"#;
        std::fs::write(dir.path().join("modules.json"), modules).unwrap();
        let files = carried_files(&Folder::open(dir.path()).unwrap()).unwrap();
        let mut expected = carried.to_vec();
        expected.sort();
        assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
        assert!(files.iter().all(|(name, bytes)| name == "modules.json" || name.as_bytes() == bytes));
    }
}
