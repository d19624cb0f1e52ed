//! What is said when the files of a model are not as they should be.

mod common;

use std::path::Path;

use brevity_formats::{Bytes, Checkpoint, Error, FileFault, Open, SafetensorsFiles, TensorFault};
use brevity_model::{Floats, Slot, Stage};
use common::{Tensor, f32_bytes, llama_config, llama_tensors, safetensors, tokenizer_json, with_header, write_llama};

/// A directory with the tiny llama, changed by `change`.
fn llama(change: impl FnOnce(&Path)) -> (tempfile::TempDir, Result<Checkpoint, Error>) {
    let dir = tempfile::tempdir().unwrap();
    write_llama(dir.path(), &llama_tensors());
    change(dir.path());
    let opened = Checkpoint::open(dir.path());
    (dir, opened)
}

/// The error of that, which must have a hint.
fn error(change: impl FnOnce(&Path)) -> Error {
    let error = llama(change).1.err().expect("the directory is broken");
    assert!(error.hint().is_some(), "no hint: {error}");
    error
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn the_model_opens_when_nothing_is_wrong() {
    let (dir, opened) = llama(|dir| write(dir, "tokenizer.json", tokenizer_json(16)));
    let checkpoint = opened.unwrap();
    assert_eq!(checkpoint.model().stages.len(), 3);
    assert_eq!(checkpoint.format(), "safetensors");
    assert_eq!(checkpoint.size_bytes(), std::fs::metadata(dir.path().join("model.safetensors")).unwrap().len());
    for stage in 0..3 {
        checkpoint.check_finite(stage, &checkpoint.load_stage(stage).unwrap()).unwrap();
        checkpoint.release_stage(stage);
    }
    assert_eq!(checkpoint.tokenizer().unwrap().get_vocab_size(true), 16);
    assert!(matches!(checkpoint.load_stage(3), Err(Error::NoStage { stage: 3, stages: 3 })));
}

#[test]
fn a_truncated_file_is_named_with_its_tensor() {
    let error = error(|dir| {
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        write(dir, "model.safetensors", &bytes[..bytes.len() - 1]);
    });
    let text = error.to_string();
    assert!(text.contains("`model.norm.weight`") && text.contains("model.safetensors"), "{text}");
}

#[test]
fn overlapping_tensors_are_named() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let error = error(|dir| write(dir, "model.safetensors", with_header(header, &[0; 12])));
    assert!(matches!(&error, Error::Tensor { tensor, fault: TensorFault::Overlap { other, .. }, .. }
        if tensor == "b" && other == "a"));
}

#[test]
fn a_missing_shard_is_named_with_its_tensors() {
    let error = error(|dir| {
        std::fs::rename(dir.join("model.safetensors"), dir.join("one.safetensors")).unwrap();
        let index = r#"{"weight_map":{"model.norm.weight":"one.safetensors","lost.weight":"two.safetensors"}}"#;
        write(dir, "model.safetensors.index.json", index);
    });
    let text = error.to_string();
    assert!(text.contains("the shard `two.safetensors` is missing") && text.contains("`lost.weight`"), "{text}");
}

#[test]
fn an_index_naming_etc_passwd_is_refused() {
    let error = error(|dir| {
        std::fs::remove_file(dir.join("model.safetensors")).unwrap();
        write(dir, "model.safetensors.index.json", r#"{"weight_map":{"a":"../../etc/passwd"}}"#);
    });
    assert!(matches!(&error, Error::Outside { file, .. } if file == "../../etc/passwd"));
}

#[test]
fn a_header_claiming_2_to_the_60_bytes_is_refused_at_once() {
    let error = error(|dir| write(dir, "model.safetensors", [&(1u64 << 60).to_le_bytes()[..], b"{}"].concat()));
    assert!(matches!(error, Error::File { fault: FileFault::HeaderLength { claimed, .. }, .. } if claimed == 1 << 60));
}

#[test]
fn an_unknown_dtype_is_named() {
    let header = r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,1]}}"#;
    let error = error(|dir| write(dir, "model.safetensors", with_header(header, &[0])));
    assert!(error.to_string().contains("`a`") && error.to_string().contains("`F7` is not known"), "{error}");
}

#[test]
fn a_header_that_is_not_utf8_is_refused_with_the_byte() {
    let mut bytes = with_header("{\"abc\":{}}", &[]);
    bytes[11] = 0xFF;
    let error = error(|dir| write(dir, "model.safetensors", bytes));
    assert!(error.to_string().contains("byte 11 of the file"), "{error}");
}

#[test]
fn a_directory_without_config_says_what_is_missing_and_opens_loose() {
    let (dir, opened) = llama(|dir| std::fs::remove_file(dir.join("config.json")).unwrap());
    let error = opened.err().unwrap();
    assert!(error.to_string().ends_with("has no config.json"), "{error}");
    assert!(error.hint().unwrap().contains("--loose"));
    let loose = Checkpoint::open_with(dir.path(), Open { loose: true }).unwrap();
    assert!(loose.model().stages.iter().all(|stage| matches!(stage, Stage::Loose(_))));
    assert!(!loose.load_stage(0).unwrap().weights().is_empty());
}

#[test]
fn a_config_that_is_no_json_is_refused_with_the_place() {
    let error = llama(|dir| write(dir, "config.json", "{\"model_type\": }")).1.err().unwrap();
    assert!(error.to_string().contains("line 1 column 16"), "{error}");
    let error = llama(|dir| write(dir, "config.json", [0xFF])).1.err().unwrap();
    assert!(matches!(error, Error::NotText { at_byte: 0, .. }));
}

#[test]
fn an_unknown_architecture_says_which_are_known() {
    let mut config = llama_config();
    config["model_type"] = "mamba".into();
    let error = error(|dir| write(dir, "config.json", config.to_string()));
    assert!(error.to_string().contains("unknown architecture `mamba`"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("llama") && hint.contains("loose"), "{hint}");
}

#[test]
fn an_empty_directory_and_a_file_are_no_models() {
    let dir = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(dir.path()).err().unwrap();
    assert!(error.to_string().contains("is empty"), "{error}");
    write(dir.path(), "model.safetensors", safetensors(&llama_tensors()));
    let error = Checkpoint::open(&dir.path().join("model.safetensors")).err().unwrap();
    assert!(matches!(error, Error::NotADirectory { .. }));
    assert!(error.hint().unwrap().contains("directory"));
    let error = Checkpoint::open(&dir.path().join("nothing")).err().unwrap();
    assert!(error.to_string().contains("cannot read"), "{error}");
    assert!(error.hint().unwrap().contains("owner/name"));
}

#[test]
fn weights_that_are_pickled_or_quantized_otherwise_are_refused_with_their_kind() {
    let error = error(|dir| std::fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap());
    assert!(error.to_string().contains("pytorch_model.bin"), "{error}");
    for method in ["gptq", "awq", "bitsandbytes"] {
        let mut config = llama_config();
        config["quantization_config"] = serde_json::json!({"quant_method": method, "bits": 4});
        let error = error_of_config(&config);
        assert!(error.to_string().contains(&format!("quantized with `{method}`, which cannot be read yet")), "{error}");
    }
    let mut config = llama_config();
    config["quantization"] = serde_json::json!({"bits": 4, "group_size": 64});
    assert!(error_of_config(&config).to_string().contains("`mlx`"));
}

fn error_of_config(config: &serde_json::Value) -> Error {
    error(|dir| write(dir, "config.json", config.to_string()))
}

#[test]
fn a_vocabulary_larger_than_the_token_table_is_refused_with_both_numbers() {
    let (_dir, opened) = llama(|dir| write(dir, "tokenizer.json", tokenizer_json(18)));
    let error = opened.unwrap().tokenizer().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tokenizer does not fit the model: token `w17` has id 17, but the token table has 16 rows"
    );
    assert!(error.hint().is_some());
    // A smaller one is fine: tables are padded.
    let (_dir, opened) = llama(|dir| write(dir, "tokenizer.json", tokenizer_json(10)));
    opened.unwrap().tokenizer().unwrap();
}

#[test]
fn a_missing_or_broken_tokenizer_is_named() {
    let (_dir, opened) = llama(|dir| write(dir, "tokenizer.model", "x"));
    let error = opened.unwrap().tokenizer().unwrap_err();
    assert!(error.to_string().contains("has no tokenizer.json, only `tokenizer.model`"), "{error}");
    assert!(error.hint().unwrap().contains("save_pretrained"));
    let (_dir, opened) = llama(|dir| write(dir, "tokenizer.json", "{"));
    assert!(matches!(opened.unwrap().tokenizer(), Err(Error::Tokenizer { .. })));
}

#[test]
fn truncation_and_padding_of_a_tokenizer_are_switched_off() {
    let mut json: serde_json::Value = serde_json::from_str(&tokenizer_json(16)).unwrap();
    json["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "w0",
    });
    let (_dir, opened) = llama(|dir| write(dir, "tokenizer.json", json.to_string()));
    let tokenizer = opened.unwrap().tokenizer().unwrap();
    assert_eq!(tokenizer.encode("w1 w2 w3 w4", false).unwrap().get_ids(), [1, 2, 3, 4]);
}

#[test]
fn nan_and_infinite_weights_are_counted_and_named() {
    let mut tensors = llama_tensors();
    let down = tensors.iter_mut().find(|tensor| tensor.0.ends_with("down_proj.weight")).unwrap();
    let mut values = common::numbers(96, 1);
    (values[3], values[5], values[90]) = (f32::NAN, f32::INFINITY, f32::NAN);
    down.3 = f32_bytes(&values);
    let norm = tensors.iter_mut().find(|tensor| tensor.0.contains("post_attention")).unwrap();
    norm.3[..4].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    let (_dir, opened) = llama(|dir| write(dir, "model.safetensors", safetensors(&tensors)));
    let checkpoint = opened.unwrap();
    checkpoint.check_finite(0, &checkpoint.load_stage(0).unwrap()).unwrap();
    let error = checkpoint.check_finite(1, &checkpoint.load_stage(1).unwrap()).unwrap_err();
    let Error::NotFinite { tensor, nan, infinite, others, .. } = &error else { panic!("{error}") };
    // The first in the order of the forward pass is the norm.
    assert_eq!(
        (tensor.as_str(), *nan, *infinite, *others),
        ("model.layers.0.post_attention_layernorm.weight", 0, 1, 1)
    );
    assert!(error.to_string().starts_with("`blocks.0.mlp.before` holds 0 NaN and 1 infinite values"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn zero_length_and_one_row_tensors_go_along() {
    let mut tensors = llama_tensors();
    tensors.push(("extra.empty".into(), "F32", vec![0], vec![]));
    tensors.push(("extra.no_rows".into(), "BF16", vec![0, 4], vec![]));
    tensors.push(("extra.row".into(), "F32", vec![1, 2], f32_bytes(&[1.0, 2.0])));
    tensors.push(("extra.ids".into(), "I64", vec![1], vec![7; 8]));
    let (_dir, opened) = llama(|dir| write(dir, "model.safetensors", safetensors(&tensors)));
    let checkpoint = opened.unwrap();
    let Some(Stage::Loose(loose)) = checkpoint.model().stages.last() else { panic!("a loose stage") };
    for name in ["extra.empty", "extra.no_rows", "extra.row", "extra.ids"] {
        let known = loose.matrices.contains_key(name) || loose.others.iter().any(|other| other == name);
        assert!(known, "{name}");
        assert!(checkpoint.container().raw(name).is_some());
    }
    checkpoint.load_stage(3).unwrap();
    checkpoint.release_stage(3);
}

#[test]
fn fp8_weights_with_scales_read_as_the_matrices_they_stand_for() {
    let mut tensors = llama_tensors();
    let at = tensors.iter().position(|tensor| tensor.0.ends_with("q_proj.weight")).unwrap();
    // 1 everywhere in E4M3, and one scale for each row.
    let name = tensors[at].0.clone();
    tensors[at] = (name.clone(), "F8_E4M3", vec![8, 8], vec![0x38; 64]);
    let scales: Vec<f32> = (1..=8).map(|n| n as f32).collect();
    tensors.push((format!("{name}_scale"), "F32", vec![8, 1], f32_bytes(&scales)));
    let mut config = llama_config();
    config["quantization_config"] = serde_json::json!({"quant_method": "fp8"});
    config["torch_dtype"] = "bfloat16".into();
    let (_dir, opened) = llama(|dir| {
        write(dir, "config.json", config.to_string());
        write(dir, "model.safetensors", safetensors(&tensors));
    });
    let checkpoint = opened.unwrap();
    assert_eq!((checkpoint.format(), checkpoint.model().stages.len()), ("fp8", 3));
    let stage = checkpoint.load_stage(1).unwrap();
    let Stage::Block(block) = &stage else { panic!("a block") };
    let q = &block.attn.as_ref().unwrap().q.weight;
    assert_eq!(q.to_f32(), scales.iter().flat_map(|s| [*s; 8]).collect::<Vec<_>>());
    assert!(matches!(&q.as_leaf().unwrap().code, brevity_model::Code::Float(Floats::Bf16(_))));
}

#[test]
fn stored_types_survive_loading() {
    let half: Vec<Tensor> = llama_tensors()
        .into_iter()
        .map(|(name, _, shape, bytes)| (name, "BF16", shape, bytes.chunks(4).flat_map(|b| [b[2], b[3]]).collect()))
        .collect();
    let (_dir, opened) = llama(|dir| write(dir, "model.safetensors", safetensors(&half)));
    let checkpoint = opened.unwrap();
    for (n, stage) in checkpoint.model().stages.iter().enumerate() {
        let loaded = checkpoint.load_stage(n).unwrap();
        for ((_, slot, weight), (_, _, source)) in loaded.weights().into_iter().zip(stage.weights()) {
            assert_eq!(brevity_model::Form::of(weight), source.form);
            assert_eq!(slot, Slot::Weight);
        }
    }
}

#[test]
fn files_given_as_bytes_are_checked_like_files_on_disk() {
    let files = vec![("m.safetensors".into(), Bytes::owned(vec![1, 2, 3]))];
    let Err(error) = SafetensorsFiles::from_bytes(files) else { panic!("three bytes are no file") };
    assert_eq!(error.to_string(), "`m.safetensors` is damaged: it has 3 bytes, too few for a header");
}

#[test]
fn a_file_of_60_gigabytes_opens_at_once() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let data = 60u64 << 30;
    let header =
        format!(r#"{{"m.weight":{{"dtype":"BF16","shape":[{},1024],"data_offsets":[0,{data}]}}}}"#, data >> 11);
    let mut file = std::fs::File::create(dir.path().join("model.safetensors")).unwrap();
    file.write_all(&with_header(&header, &[])).unwrap();
    // A hole takes no room on the disk.
    file.set_len(8 + header.len() as u64 + data).unwrap();
    let start = std::time::Instant::now();
    let checkpoint = Checkpoint::open_with(dir.path(), Open { loose: true }).unwrap();
    assert_eq!(checkpoint.size_bytes(), 8 + header.len() as u64 + data);
    let rows = vec![0..1, 31_000_000..31_000_001];
    let view = brevity_model::View { transposed: false, rows: Some(rows) };
    let form = brevity_model::Form::float([2, 1024], brevity_model::Dtype::Bf16);
    let part = checkpoint.load_weight(&brevity_model::Source { tensor: "m.weight".into(), form, view }).unwrap();
    assert_eq!(part.to_f32(), [0.0; 2048]);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
