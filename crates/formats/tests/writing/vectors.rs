//! What compressed-tensors itself packs, byte for byte.

use std::collections::BTreeMap;

use brevity_formats::{Bytes, CompressedTensors, Format, SafetensorsFiles, StageView, TensorSpec};
use brevity_kernels::bits;
use brevity_model::{Code, Config, Dtype, Expr, Form, Leaf, Linear, Loose, Place, Source, Stage, View, Weight};
use serde_json::{Value, json};

use crate::common::{Tensor, safetensors};

const PACK: &str = include_str!("../vectors/ct_pack_int32.json");
const PACKED: &str = include_str!("../vectors/ct_pack_quantized.json");
const INTS: &str = include_str!("../vectors/ct_int_quantized.json");
const FLOATS: &str = include_str!("../vectors/ct_float_quantized.json");

fn cases(text: &str) -> Vec<Value> {
    let Value::Object(mut all) = serde_json::from_str(text).unwrap() else { panic!("an object") };
    let Some(Value::Array(cases)) = all.remove("cases") else { panic!("a list of cases") };
    cases
}

fn bytes(tensor: &Value) -> Vec<u8> {
    let hex = tensor["data_hex"].as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn shape(tensor: &Value) -> Vec<usize> {
    tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

fn floats(tensor: &Value) -> Vec<f32> {
    let bytes = bytes(tensor);
    match tensor["dtype"].as_str().unwrap() {
        "F32" => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        "BF16" => bytes.chunks(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        _ => bytes.chunks(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
    }
}

/// Opens the expected tensors of a case as a checkpoint with one module.
fn read(case: &Value) -> (Weight, Vec<Tensor>) {
    let stored: Vec<Tensor> = case["expected"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(part, tensor)| {
            let dtype = match tensor["dtype"].as_str().unwrap() {
                "I32" => "I32",
                "I64" => "I64",
                "I8" => "I8",
                "BF16" => "BF16",
                "F16" => "F16",
                "F8_E4M3" => "F8_E4M3",
                _ => "F32",
            };
            (format!("m.{part}"), dtype, shape(tensor), bytes(tensor))
        })
        .collect();
    let mut weights = case["quantization_args"].clone();
    weights.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let group = json!({"targets": ["Linear"], "format": case["format"], "weights": weights});
    let config = json!({"torch_dtype": "float32", "quantization_config": {
        "quant_method": "compressed-tensors", "format": case["format"], "config_groups": {"group_0": group}}});
    let files =
        SafetensorsFiles::from_bytes(vec![("m.safetensors".into(), Bytes::owned(safetensors(&stored)))]).unwrap();
    let container =
        brevity_formats::open_compressed_tensors(files, &Config::parse(&config.to_string()).unwrap()).unwrap();
    assert_eq!(container.names(), ["m.weight"], "{}", case["name"]);
    (container.load("m.weight").unwrap(), stored)
}

/// A stage with one weight, `m.weight`.
fn lone<W>(weight: W) -> Stage<W> {
    let matrices = BTreeMap::from([("m.weight".to_owned(), Linear { weight, bias: None })]);
    Stage::Loose(Loose { matrices, others: Vec::new() })
}

/// Writes a weight as the module `m`.
fn write(format: &CompressedTensors, weight: Weight) -> Result<BTreeMap<String, (TensorSpec, Vec<u8>)>, String> {
    let source = Source { tensor: "m.weight".into(), form: Form::of(&weight), view: View::whole() };
    let (sources, weights) = (lone(source), lone(weight));
    let at = StageView { place: Place::Loose(0), source: &sources, container: None, numbers: None };
    let tensors = format.encode(&at, &weights).map_err(|error| error.to_string())?;
    Ok(tensors.into_iter().map(|tensor| (tensor.spec.name.clone(), (tensor.spec, tensor.data))).collect())
}

#[test]
fn streams_equal_those_of_compressed_tensors() {
    let cases = cases(PACK);
    assert_eq!(cases.len(), 40);
    for case in cases {
        let bits = case["num_bits"].as_u64().unwrap() as u32;
        let &[rows, columns] = &shape(&case["q"])[..] else { panic!("a matrix") };
        let codes: Vec<u8> = bytes(&case["q"]).iter().map(|&q| q.wrapping_add(1 << (bits - 1))).collect();
        let words = match case["packed_dim"].as_u64() {
            Some(1) => bits::pack_rows(&codes, rows, columns, bits),
            _ => bits::pack_columns(&codes, rows, columns, bits),
        };
        let packed: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(packed, bytes(&case["packed"]), "{bits} bits, dimension {}", case["packed_dim"]);
    }
}

#[test]
fn modules_of_compressed_tensors_read_as_its_values_and_write_as_its_bytes() {
    let mut written = 0;
    for case in cases(PACKED).into_iter().chain(cases(INTS)) {
        let name = case["name"].as_str().unwrap();
        let (weight, stored) = read(&case);
        let (expected, got) = (floats(&case["dequantized"]), weight.to_f32());
        // Its arithmetic is that of the type of the scales, ours that of singles.
        let round = match case["dequantized"]["dtype"].as_str().unwrap() {
            "BF16" => Dtype::Bf16,
            "F16" => Dtype::F16,
            _ => Dtype::F32,
        };
        assert_eq!(got.iter().map(|&x| round.round(x)).collect::<Vec<_>>(), expected, "{name}");
        let format = match case["format"].as_str().unwrap() {
            "pack-quantized" => CompressedTensors::PACKED,
            "int-quantized" => CompressedTensors::INT,
            _ => CompressedTensors::NAIVE,
        };
        let bits = case["quantization_args"]["num_bits"].as_u64().unwrap();
        match write(&format, weight) {
            Err(refused) => assert!(
                matches!(bits, 1 | 3 | 5 | 6 | 7) && refused.contains(&format!("{bits} bits")),
                "{name}: {refused}"
            ),
            Ok(tensors) => {
                assert_eq!(tensors.len(), stored.len(), "{name}");
                for (tensor, dtype, shape, bytes) in &stored {
                    let (spec, data) = &tensors[tensor];
                    assert_eq!((spec.dtype, &spec.shape), (*dtype, shape), "{name} {tensor}");
                    assert_eq!(data, bytes, "{name} {tensor}");
                }
                written += 1;
            }
        }
    }
    assert_eq!(written, 18);
}

#[test]
fn rounding_to_the_grid_of_compressed_tensors_gives_its_codes() {
    let mut seen = 0;
    for case in cases(PACKED).into_iter().filter(|case| case.get("weight").is_some()) {
        let (weight, _) = read(&case);
        let Expr::Leaf(Leaf { code: Code::Grid(grid), shape, .. }) = weight else { panic!("a grid") };
        for (at, w) in floats(&case["weight"]).into_iter().enumerate() {
            let scale = at / shape[1] * (shape[1] / 32) + at % shape[1] / 32;
            let zero = grid.zeros.as_ref().map_or(8, |zeros| zeros[scale]) as f32;
            let code = (w / grid.scales[scale] + zero).clamp(0.0, 15.0).round_ties_even();
            assert_eq!(code as u8, grid.codes[at], "{} entry {at}", case["name"]);
        }
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn fp8_modules_read_as_the_values_of_compressed_tensors() {
    let cases = cases(FLOATS);
    for case in &cases {
        let (weight, _) = read(case);
        let expected = floats(&case["dequantized"]);
        let bf16 = case["dequantized"]["dtype"] == "BF16";
        let got = weight.to_f32().into_iter().map(|x| if bf16 { Dtype::Bf16.round(x) } else { x });
        assert_eq!(got.collect::<Vec<_>>(), expected, "{}", case["name"]);
    }
    assert_eq!(cases.len(), 6);
}
