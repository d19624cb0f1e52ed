//! GGUF files, from the blocks to the model.

mod common;

use brevity_formats::{Bytes, Checkpoint, Container, Error, Gguf, TensorFault};
use brevity_model::{CodeForm, Form, Source, View};
use common::{Blocks, Meta, gguf, llama_blocks, llama_meta, llama_tensors, write_llama};
use serde_json::Value;

fn open(meta: &[(&str, Meta)], tensors: &[Blocks]) -> Result<Gguf, Error> {
    Gguf::open("m.gguf".as_ref(), Bytes::owned(gguf(meta, tensors)))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn every_block_type_decodes_to_what_ggml_says() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("vectors/gguf_blocks.json")).unwrap();
    let mut types = std::collections::BTreeSet::new();
    for case in cases {
        let name = case["type"].as_str().unwrap();
        let shape: Vec<u64> = serde_json::from_value(case["shape"].clone()).unwrap();
        let [rows, columns] = [shape[0] as usize, shape[1] as usize];
        let id = case["type_id"].as_u64().unwrap() as u32;
        let file = open(&[], &[("m".into(), shape, id, unhex(case["bytes"].as_str().unwrap()))]).unwrap();
        let expected = match case["values"].as_str() {
            Some(values) => unhex(values),
            None => unhex(case["constant"].as_str().unwrap()).repeat(rows * columns),
        };
        let weight = file.load("m").unwrap();
        assert_eq!(weight.shape(), [rows, columns]);
        let values: Vec<u8> = weight.to_f32().iter().flat_map(|x| x.to_le_bytes()).collect();
        assert!(values == expected, "{name}: {weight:?}");

        let Some(Form::Leaf(form)) = file.form("m") else { panic!("one leaf") };
        assert!(matches!(&form.code, CodeForm::Blocks(kind) if kind.name == name), "{form:?}");
        let last = View { transposed: false, rows: Some(vec![rows - 1..rows]) };
        let source =
            Source { tensor: "m".into(), form: last.form(&Form::Leaf(form), brevity_model::Slot::Weight), view: last };
        let row: Vec<f32> = file.load_view(&source).unwrap().to_f32();
        assert_eq!(row, &weight.to_f32()[(rows - 1) * columns..], "{name}");
        types.insert(name.to_owned());
    }
    assert_eq!(types.into_iter().collect::<Vec<_>>().join(" "), "Q2_K Q3_K Q4_0 Q4_1 Q4_K Q5_0 Q5_1 Q5_K Q6_K Q8_0");
}

#[test]
fn floats_keep_their_type() {
    let one = |name: &str, id, bytes: &[u8]| (name.to_owned(), vec![2], id, bytes.to_vec());
    let tensors = [
        one("f32", 0, &[0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0]),
        one("f16", 1, &[0, 0x3C, 0, 0xC0]),
        one("bf16", 30, &[0x80, 0x3F, 0, 0xC0]),
    ];
    let file = open(&[], &tensors).unwrap();
    for name in ["f32", "f16", "bf16"] {
        let weight = file.load(name).unwrap();
        assert_eq!(weight.to_f32(), [1.0, -2.0], "{name}");
        assert_eq!(file.form(name), Some(Form::of(&weight)), "{name}");
        assert_eq!(file.raw(name).unwrap().dtype.to_lowercase(), name);
    }
}

#[test]
fn a_gguf_file_and_the_checkpoint_it_was_made_from_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    write_llama(dir.path(), &llama_tensors());
    let file = dir.path().join("m.gguf");
    std::fs::write(&file, gguf(&llama_meta(), &llama_blocks())).unwrap();
    let (hf, gguf) = (Checkpoint::open(dir.path()).unwrap(), Checkpoint::open(&file).unwrap());
    assert_eq!((hf.format(), gguf.format()), ("safetensors", "gguf"));
    assert_eq!(gguf.path(), file);
    assert_eq!(gguf.model(), hf.model());
    for stage in 0..hf.model().stages.len() {
        let (a, b) = (hf.load_stage(stage).unwrap(), gguf.load_stage(stage).unwrap());
        assert_eq!(a, b);
        gguf.check_finite(stage, &b).unwrap();
        gguf.release_stage(stage);
        assert_eq!(gguf.load_stage(stage).unwrap(), b);
    }
    let tokenizer = gguf.tokenizer().unwrap();
    assert_eq!(tokenizer.encode("ab a", false).unwrap().get_ids(), [3, 2, 0]);
    // What goes along is made from the metadata; what lies beside the file belongs to something else.
    let companions = gguf.companions().unwrap();
    let names: Vec<&str> = companions.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tokenizer.json", "tokenizer_config.json"]);
    let again = tokenizers::Tokenizer::from_bytes(&companions[0].1).unwrap();
    assert_eq!(again.encode("ab a", false).unwrap().get_ids(), [3, 2, 0]);
}

#[test]
fn rows_of_a_permuted_matrix_are_those_of_the_checkpoint() {
    let file = open(&llama_meta(), &llama_blocks()).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let whole = file.load(name).unwrap().to_f32();
    let form = |rows| Form::float([rows, 8], brevity_model::Dtype::F32);
    for (rows, transposed, expected) in [
        (vec![5..7, 1..2], false, [&whole[40..56], &whole[8..16]].concat()),
        (vec![3..4], true, (0..8).map(|row| whole[row * 8 + 3]).collect()),
    ] {
        let view = View { transposed, rows: Some(rows.clone()) };
        let source = Source { tensor: name.into(), form: form(view.count(8)), view };
        assert_eq!(file.load_view(&source).unwrap().to_f32(), expected, "{rows:?}");
    }
}

#[test]
fn gpt2_matrices_stand_as_in_the_checkpoint_and_gemma_gains_are_without_the_one() {
    let values: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let bytes = common::f32_bytes(&values);
    let tensors = [("blk.0.attn_qkv.weight".into(), vec![3, 2], 0, bytes.clone())];
    let file = open(&[("general.architecture", Meta::Text("gpt2"))], &tensors).unwrap();
    let name = "h.0.attn.c_attn.weight";
    assert_eq!(file.load(name).unwrap().to_f32(), [0.0, 2.0, 4.0, 1.0, 3.0, 5.0]);
    // Read transposed again, it is as it lies in the file.
    let source = Source {
        tensor: name.into(),
        form: Form::float([2, 2], brevity_model::Dtype::F32),
        view: View { transposed: true, rows: Some(vec![1..3]) },
    };
    assert_eq!(file.load_view(&source).unwrap().to_f32(), [2.0, 3.0, 4.0, 5.0]);

    let tensors = [("blk.0.attn_norm.weight".into(), vec![6], 0, bytes)];
    let file = open(&[("general.architecture", Meta::Text("gemma2"))], &tensors).unwrap();
    let gains = file.load("model.layers.0.input_layernorm.weight").unwrap().to_f32();
    assert_eq!(gains, [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn loose_tensors_are_as_they_are_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    let blocks = llama_blocks();
    std::fs::write(&file, gguf(&llama_meta(), &blocks)).unwrap();
    let loose = Checkpoint::open_with(&file, brevity_formats::Open { loose: true }).unwrap();
    let mut names: Vec<&str> = blocks.iter().map(|(name, ..)| name.as_str()).collect();
    names.sort();
    assert_eq!(loose.container().names(), names);
    for (name, _, _, bytes) in &blocks {
        assert_eq!(loose.container().raw(name).unwrap().bytes, bytes);
        assert_eq!(common::f32_bytes(&loose.container().load(name).unwrap().to_f32()), *bytes);
    }
}

#[test]
fn a_block_type_that_is_not_decoded_is_named_with_its_tensor() {
    let tensors = [("blk.0.ffn_up.weight".into(), vec![1, 256], 23, vec![0; 136])];
    let error = open(&[], &tensors).err().unwrap();
    assert_eq!(
        error.to_string(),
        "tensor `blk.0.ffn_up.weight` in `m.gguf` has the block type IQ4_XS, which cannot be read"
    );
    assert!(error.hint().unwrap().contains("Q4_0"));
}

#[test]
fn damaged_gguf_files_are_refused_with_the_place() {
    let whole = gguf(&llama_meta(), &llama_blocks());
    let check = |bytes: Vec<u8>| Gguf::open("m.gguf".as_ref(), Bytes::owned(bytes)).err().map(|e| e.to_string());
    assert_eq!(check(whole.clone()), None);
    let altered = |at: usize, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        check(bytes).unwrap()
    };
    assert!(altered(0, b"GGML").contains("not a GGUF file"));
    assert!(altered(4, &[1]).contains("GGUF version is 1"));
    assert!(altered(8, &(1u64 << 60).to_le_bytes()).contains("1152921504606846976 tensors"));
    assert!(altered(16, &u64::MAX.to_le_bytes()).contains("keys"));
    assert!(altered(24, &(1u64 << 40).to_le_bytes()).contains("1099511627776 a key"));
    assert!(altered(32, &[0xFF]).contains("byte 32 of the file is invalid"));
    assert!(altered(32 + 20, &13u32.to_le_bytes()).contains("unknown type 13"));
    for length in 0..whole.len() {
        assert!(check(whole[..length].to_vec()).is_some(), "{length} bytes");
    }
}

#[test]
fn tensors_of_a_gguf_file_lie_apart_and_inside() {
    let f32s = |name: &str, shape: &[u64]| {
        (name.to_owned(), shape.to_vec(), 0, vec![0; shape.iter().product::<u64>().min(64) as usize * 4])
    };
    let fault = |tensors: &[Blocks]| match open(&[], tensors).err() {
        Some(Error::Tensor { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    assert!(matches!(fault(&[f32s("a", &[1 << 40])]), TensorFault::Range { .. }));
    assert!(matches!(fault(&[f32s("a", &[1 << 40, 1 << 40])]), TensorFault::Size { needs: None, .. }));
    assert!(matches!(fault(&[f32s("a", &[0, 1 << 63])]), TensorFault::Empty { .. }));
    assert!(matches!(fault(&[f32s("a", &[1; 5])]), TensorFault::Dimensions { count: 5 }));
    assert!(matches!(fault(&[f32s("a", &[8]), f32s("a", &[8])]), TensorFault::Twice));
    assert!(matches!(fault(&[("a".into(), vec![1, 33], 2, vec![0; 36])]), TensorFault::Block { columns: 33, .. }));
    let sound = gguf(&[], &[f32s("a", &[8]), f32s("b", &[8])]);
    let offset = sound.windows(8).rposition(|w| w == 32u64.to_le_bytes()).unwrap();
    for (with, expected) in [(16u64, "no multiple of 32"), (0, "overlap those of `a`"), (1 << 62, "it claims bytes")] {
        let mut bytes = sound.clone();
        bytes[offset..offset + 8].copy_from_slice(&with.to_le_bytes());
        let error = Gguf::open("m.gguf".as_ref(), Bytes::owned(bytes)).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for alignment in [0, 3, 1 << 30] {
        let error = open(&[("general.alignment", Meta::U32(alignment))], &[]).err().unwrap().to_string();
        assert!(error.contains("alignment"), "{error}");
    }
    // Nothing is lost on zero-length and one-row tensors.
    let file = open(&[], &[f32s("a", &[0]), f32s("b", &[1, 3]), f32s("c", &[0, 4])]).unwrap();
    assert_eq!(file.load("a").unwrap().shape(), [1, 0]);
    assert_eq!(file.load("b").unwrap().shape(), [1, 3]);
    assert_eq!(file.load("c").unwrap().shape(), [0, 4]);
}

#[test]
fn heads_that_do_not_divide_the_rows_are_refused() {
    let mut meta = llama_meta();
    meta.iter_mut().filter(|(key, _)| *key == "llama.attention.head_count").for_each(|(_, v)| *v = Meta::U32(3));
    let error = open(&meta, &llama_blocks()).err().unwrap().to_string();
    assert_eq!(error, "tensor `blk.0.attn_q.weight` has 8 rows, which do not divide into 3 heads of an even width");
}

#[test]
fn an_architecture_without_a_table_of_names_opens_loose() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    let tensors = [("blk.0.mix.weight".into(), vec![4, 4], 0, common::f32_bytes(&[1.0; 16]))];
    std::fs::write(&file, gguf(&[("general.architecture", Meta::Text("mamba"))], &tensors)).unwrap();
    let error = Checkpoint::open(&file).err().unwrap();
    assert!(error.to_string().contains("unknown architecture `mamba`"), "{error}");
    assert!(error.hint().unwrap().contains("llama"));
    let loose = Checkpoint::open_with(&file, brevity_formats::Open { loose: true }).unwrap();
    assert_eq!(loose.load_stage(0).unwrap().weights().len(), 1);
}
