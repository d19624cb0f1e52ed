//! Quantized checkpoints with something wrong in them.

use std::path::PathBuf;

use brevity_formats::{
    Bytes, Checkpoint, CodedFault, Container, Error, Native, SafetensorsFiles, format, open_compressed_tensors,
    open_native,
};
use brevity_model::Config;
use serde_json::Value;

use crate::battery::{load, write};
use crate::common::{Tensor, safetensors};
use crate::models::{kinds, llama, rewritten};

/// The tensors of a written model, and its configuration.
struct Written {
    tensors: Vec<Tensor>,
    config: Config,
}

impl Written {
    /// A llama with these kinds of weights in turn.
    fn new(in_format: &dyn brevity_formats::Format, names: &[&str]) -> Self {
        let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let checkpoint = llama(source.path());
        let all = kinds([1, 8]);
        let kind = |site: usize| all.iter().position(|(name, _)| *name == names[site % names.len()]).unwrap();
        let stages: Vec<_> = load(&checkpoint).iter().map(|stage| rewritten(stage, kind)).collect();
        let reopened = write(in_format, &checkpoint, &stages, out.path());
        let container = reopened.container();
        let tensor = |name: String| {
            let raw = container.raw(&name).unwrap();
            (name.clone(), raw.dtype, raw.shape.to_vec(), raw.bytes.to_vec())
        };
        Written { tensors: container.stored().into_iter().map(tensor).collect(), config: reopened.config().clone() }
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }

    fn without(mut self, name: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.0 != name);
        assert_eq!(self.tensors.len(), before - 1, "{name}");
        self
    }

    /// With a tensor of another type, shape and content.
    fn with(mut self, name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        *self.tensor(name) = (name.into(), dtype, shape.to_vec(), bytes);
        self
    }

    fn open(&self) -> Result<Box<dyn Container>, Error> {
        let files = vec![(PathBuf::from("m.safetensors"), Bytes::owned(safetensors(&self.tensors)))];
        let files = SafetensorsFiles::from_bytes(files).unwrap();
        match self.config.get("brevity") {
            Some(_) => open_native(files, &self.config),
            None => open_compressed_tensors(files, &self.config),
        }
    }

    /// Opens and loads everything, and returns what is wrong with which weight.
    fn fault(&self) -> (String, CodedFault) {
        let loaded = self.open().and_then(|container| {
            container
                .names()
                .iter()
                .filter(|name| container.form(name).is_some())
                .try_for_each(|name| container.load(name).map(|_| ()))
        });
        match loaded.unwrap_err() {
            error @ Error::Coded { .. } => {
                assert!(error.hint().is_some(), "{error}");
                let Error::Coded { tensor, fault } = error else { unreachable!() };
                (tensor, fault)
            }
            other => panic!("{other}"),
        }
    }
}

const Q: &str = "model.layers.0.self_attn.q_proj";

fn packed() -> Written {
    Written::new(format("ct").unwrap(), &["int4 group, zeros"])
}

fn part(of: &str) -> String {
    format!("{Q}.{of}")
}

#[test]
fn a_module_without_one_of_its_tensors_says_which() {
    for name in ["weight_scale", "weight_zero_point", "weight_shape"] {
        let (weight, fault) = packed().without(&part(name)).fault();
        assert_eq!((weight, fault), (part("weight"), CodedFault::Missing { tensor: part(name) }));
    }
    // Without its codes it is no module, and the model has no such tensor.
    let written = packed().without(&part("weight_packed"));
    assert!(!written.open().unwrap().names().contains(&part("weight")));
}

#[test]
fn tensors_of_a_module_that_do_not_fit_are_named_with_what_would() {
    let unfit = |written: Written| match written.fault() {
        (weight, CodedFault::Unfit { tensor, dtype, shape, expected }) => {
            assert_eq!(weight, part("weight"));
            format!("{tensor} {dtype} {shape:?}, {expected}").replace(&format!("{Q}."), "")
        }
        other => panic!("{other:?}"),
    };
    let with = |name: &str, dtype, shape: &[usize], bytes| packed().with(&part(name), dtype, shape, vec![0; bytes]);
    let two = |a: i64, b: i64| {
        let bytes = [a, b].into_iter().flat_map(i64::to_le_bytes).collect();
        packed().with(&part("weight_shape"), "I64", &[2], bytes)
    };
    assert_eq!(unfit(with("weight_packed", "I32", &[16, 3], 192)), "weight_packed I32 [16, 3], [16, 2] for 4 bits");
    assert_eq!(unfit(with("weight_packed", "I64", &[16, 2], 256)), "weight_packed I64 [16, 2], I32");
    assert_eq!(unfit(with("weight_scale", "BF16", &[16, 3], 96)), "weight_scale BF16 [16, 3], [16, 2]");
    assert_eq!(unfit(with("weight_scale", "I32", &[16, 2], 128)), "weight_scale I32 [16, 2], floats");
    assert_eq!(
        unfit(with("weight_zero_point", "I32", &[2, 1], 8)),
        "weight_zero_point I32 [2, 1], I32 [2, 2] or I8 [16, 2]"
    );
    assert_eq!(unfit(with("weight_shape", "I64", &[3], 24)), "weight_shape I64 [3], I64 [2]");
    assert_eq!(unfit(two(16, 32)), "weight_packed I32 [16, 2], [16, 4] for 4 bits");
    assert!(matches!(two(-1, 16).fault().1, CodedFault::Description { .. }));
    assert!(matches!(two(i64::MAX, 16).fault().1, CodedFault::Description { .. }));
}

#[test]
fn a_quantization_that_is_not_read_is_named() {
    let mut written = packed();
    let mut quantization = written.config.get("quantization_config").unwrap().clone();
    let group = &mut quantization["config_groups"]["group_0"];
    group["weights"]["type"] = "float".into();
    group["format"] = "nvfp4-pack-quantized".into();
    written.config.set("quantization_config", quantization);
    let (_, fault) = written.fault();
    assert_eq!(fault, CodedFault::Unsupported { what: "`nvfp4-pack-quantized`".into() });
    let order = [7, 6, 5, 4, 3, 2, 1, 0].repeat(2).into_iter().flat_map(i32::to_le_bytes).collect();
    let mut ordered = packed();
    ordered.tensors.push((part("weight_g_idx"), "I32", vec![16], order));
    assert!(matches!(ordered.fault().1, CodedFault::Unsupported { what } if what.contains("weight_g_idx")));
}

#[test]
fn codes_beyond_their_width_are_refused() {
    let mut written = Written::new(format("compressed-tensors-naive").unwrap(), &["int4 group"]);
    written.tensor(&part("weight")).3[5] = 0x7F;
    let fault = CodedFault::Range { tensor: part("weight"), value: 0x7F + 8, limit: 15 };
    assert_eq!(written.fault(), (part("weight"), fault));
}

#[test]
fn the_older_packing_is_read() {
    // Ten 3-bit codes in a word, two bits unused: 16 codes are two words either way, 32 are four and three.
    let codes: Vec<u8> = (0..64).map(|i| (i * 5 % 8) as u8).collect();
    let words = codes
        .chunks(32)
        .flat_map(|row| row.chunks(10))
        .map(|ten| ten.iter().enumerate().map(|(n, &code)| u32::from(code) << (3 * n)).sum::<u32>());
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    let shape = [2i64, 32].into_iter().flat_map(i64::to_le_bytes).collect();
    let scale = [1.0f32; 2].into_iter().flat_map(f32::to_le_bytes).collect();
    let config = r#"{"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"g": {
        "targets": ["Linear"], "weights": {"num_bits": 3, "strategy": "channel"}}}}}"#;
    let written = Written {
        tensors: vec![
            ("m.weight_packed".into(), "I32", vec![2, 4], bytes),
            ("m.weight_shape".into(), "I64", vec![2], shape),
            ("m.weight_scale".into(), "F32", vec![2, 1], scale),
        ],
        config: Config::parse(config).unwrap(),
    };
    let values: Vec<f32> = codes.iter().map(|&code| f32::from(code) - 4.0).collect();
    assert_eq!(written.open().unwrap().load("m.weight").unwrap().to_f32(), values);
}

const FORMS: &str = "brevity.forms.blocks.0";

fn native() -> Written {
    Written::new(
        &Native,
        &["int4 channel, zeros, half removed", "codebook", "rules around floats", "grid and product", "table", "train"],
    )
}

/// The native model with its forms changed.
fn with_forms(change: impl Fn(&mut Value)) -> Written {
    let mut written = native();
    let mut forms: Value = serde_json::from_slice(&written.tensor(FORMS).3).unwrap();
    change(&mut forms);
    let text = forms.to_string().into_bytes();
    let length = text.len();
    written.with(FORMS, "U8", &[length], text)
}

#[test]
fn a_native_weight_whose_tensors_are_wrong_says_which() {
    let q = |part: &str| format!("blocks.0.attn.q.weight.{part}");
    for name in ["codes", "scales", "zeros"] {
        let (weight, fault) = native().without(&q(name)).fault();
        assert_eq!((weight.as_str(), fault), ("blocks.0.attn.q.weight", CodedFault::Missing { tensor: q(name) }));
    }
    // Without its mask the codes are too few.
    assert!(matches!(native().without(&q("mask")).fault().1, CodedFault::Unfit { tensor, .. } if tensor == q("codes")));
    let short = native().with(&q("scales"), "BF16", &[15, 1], vec![0; 30]).fault().1;
    assert!(matches!(short, CodedFault::Unfit { expected, .. } if expected == "BF16 [16, 1]"));
    let mut other_mask = native();
    other_mask.tensor(&q("mask")).3[0] ^= 1;
    assert!(matches!(other_mask.fault().1, CodedFault::Description { what } if what.contains("keeps")));
    let mut wild = native();
    wild.tensor("blocks.0.attn.v.weight.1.1.0.permutation").3[0] = 200;
    assert!(matches!(wild.fault().1, CodedFault::Range { value: 200, limit: 15, .. }));
    let mut beyond = native();
    beyond.tensor("blocks.0.attn.k.weight.codes.0").3[0] = 0xFF;
    assert!(matches!(beyond.fault().1, CodedFault::Range { value: 7, limit: 4, .. }));
}

#[test]
fn forms_that_cannot_be_are_refused() {
    type Change = fn(&mut Value);
    let changes: &[(Change, &str)] = &[
        (|forms| *forms = Value::Null, "invalid type"),
        (|forms| forms[0]["form"]["leaf"]["code"]["grid"]["bits"] = 9.into(), "a code that cannot be"),
        (|forms| forms[0]["form"]["leaf"]["shape"][0] = (1u64 << 60).into(), "a matrix of"),
        (|forms| forms[0]["form"]["leaf"]["mask"]["free"] = 1.5.into(), "a mask that cannot be"),
        (
            |forms| forms[0]["form"]["leaf"]["mask"] = serde_json::json!({"pattern": {"removed": 0, "of": 0}}),
            "a mask that cannot be",
        ),
        (|forms| forms[0]["rows"] = serde_json::json!([[3, 2]]), "rows 3..2"),
        (|forms| forms[0]["site"] = "somewhere".into(), "not a site"),
        (|forms| forms[0]["surprise"] = 1.into(), "unknown field"),
        (|forms| forms[1]["form"]["leaf"]["code"]["codebook"]["dim"] = 0.into(), "a code that cannot be"),
        (|forms| forms[2]["form"]["product"][0]["leaf"]["shape"] = serde_json::json!([16, 8]), "a product of"),
        (|forms| forms[3]["form"]["sum"][0]["leaf"]["shape"] = serde_json::json!([16, 8]), "a sum of"),
        (|forms| forms[5]["form"]["train"]["rows"][0] = 0.into(), "core 0 of a train"),
        (|forms| forms[5]["form"]["train"]["columns"] = serde_json::json!([2]), "1 for columns"),
        (|forms| forms[5]["form"]["train"]["shape"][0] = 1000.into(), "for a matrix [1000, "),
        (|forms| forms[5]["form"]["train"]["cores"] = serde_json::json!([]), "a train of 0 cores"),
        // A core that costs nothing to store would be multiplied out to more than a matrix may have.
        (
            |forms| {
                let leaf = |shape: [u32; 2], code| serde_json::json!({"leaf": {"shape": shape, "code": code}});
                let floats = |shape| leaf(shape, serde_json::json!({"float": "f32"}));
                let rule = leaf([1 << 17; 2], "hadamard".into());
                let train = serde_json::json!({
                    "shape": [16, 16], "rows": [16, 1024, 1], "columns": [16, 1024, 1],
                    "cores": [floats([16, 16 << 7]), rule, floats([1 << 7, 1])]
                });
                forms[5]["form"] = serde_json::json!({ "train": train });
            },
            "a matrix of",
        ),
        (|forms| forms[1] = forms[0].clone(), "two weights"),
    ];
    for (change, part) in changes {
        let (_, fault) = with_forms(change).fault();
        let CodedFault::Description { what } = &fault else { panic!("{part}: {fault}") };
        assert!(what.contains(part), "{part}: {what}");
    }
}

#[test]
fn a_newer_native_layout_is_refused() {
    let mut written = native();
    written.config.set("brevity", serde_json::json!({"layout": "native", "version": 2}));
    assert!(matches!(written.fault().1, CodedFault::Unsupported { what } if what.contains("version 2")));
    written.config.set("brevity", serde_json::json!({"layout": "native"}));
    assert!(matches!(written.fault().1, CodedFault::Description { .. }));
}

#[test]
fn damaged_quantized_files_are_read_or_refused() {
    let mut state = 9u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    let mut read = 0;
    let sound = [packed(), native(), Written::new(format("compressed-tensors-naive").unwrap(), &["int3 group"])];
    for round in 0..3000 {
        let Written { tensors, config } = &sound[round % 3];
        let mut damaged = Written { tensors: tensors.clone(), config: config.clone() };
        for _ in 0..1 + below(3) {
            let small = |tensor: &&mut Tensor| tensor.0.contains("forms") || tensor.3.len() < 64;
            let count = damaged.tensors.iter_mut().filter(small).count();
            let at = below(count);
            let (_, dtype, shape, bytes) = damaged.tensors.iter_mut().filter(small).nth(at).unwrap();
            match below(4) {
                0 if bytes.len() % 4 == 0 => (*dtype, *shape) = ("F32", vec![bytes.len() / 4]),
                1 if shape.len() == 2 => shape.swap(0, 1),
                2 => drop(damaged.tensors.swap_remove(at)),
                _ if bytes.is_empty() => {}
                _ => {
                    let byte = below(bytes.len());
                    bytes[byte] = [b'9', b'0', b'-', b'[', 0xFF, 0][below(6)];
                }
            }
        }
        let Ok(container) = damaged.open() else { continue };
        for name in container.names() {
            if let (Some(form), Ok(weight)) = (container.form(&name), container.load(&name)) {
                assert_eq!(weight.shape(), form.shape());
            }
        }
        read += 1;
    }
    assert!((300..2700).contains(&read), "{read} of 3000 were read");
}

#[test]
fn a_checkpoint_that_lost_its_configuration_key_is_not_mistaken_for_a_plain_one() {
    let (source, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let checkpoint = llama(source.path());
    let kind = kinds([1, 8]).iter().position(|(name, _)| *name == "int4 group").unwrap();
    let stages: Vec<_> = load(&checkpoint).iter().map(|stage| rewritten(stage, |_| kind)).collect();
    write(format("ct").unwrap(), &checkpoint, &stages, out.path());
    std::fs::copy(source.path().join("config.json"), out.path().join("config.json")).unwrap();
    let error = Checkpoint::open(out.path()).err().unwrap();
    assert!(error.to_string().contains("q_proj.weight"), "{error}");
}
