use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use half::f16;
use serde_json::Value;

use super::Block;

const ALL: [Block; 10] = [
    Block::F32,
    Block::F16,
    Block::Bf16,
    Block::Q4_0,
    Block::Q5_0,
    Block::Q5_1,
    Block::Q8_0,
    Block::Q4K,
    Block::Q5K,
    Block::Q6K,
];

/// What candle reads.
fn decode(block: Block, bytes: &[u8]) -> Vec<f32> {
    let dtype = match block {
        Block::F32 => return bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Block::F16 => return bytes.chunks(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Block::Bf16 => return bytes.chunks(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Block::Q4_0 => GgmlDType::Q4_0,
        Block::Q5_0 => GgmlDType::Q5_0,
        Block::Q5_1 => GgmlDType::Q5_1,
        Block::Q8_0 => GgmlDType::Q8_0,
        Block::Q4K => GgmlDType::Q4K,
        Block::Q5K => GgmlDType::Q5K,
        Block::Q6K => GgmlDType::Q6K,
    };
    assert_eq!((dtype.block_size(), dtype.type_size()), (block.values(), block.bytes()), "{block:?}");
    // Copied, for candle wants blocks aligned.
    let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
    let aligned: &mut [u8] = bytemuck::cast_slice_mut(&mut aligned);
    aligned[..bytes.len()].copy_from_slice(bytes);
    let values = bytes.len() / block.bytes() * block.values();
    match dtype.from_data(aligned[..bytes.len()].into()).dequantize(values).unwrap() {
        CpuStorage::F32(values) => values,
        _ => panic!("singles are expected"),
    }
}

fn rmse(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (squares / a.len() as f64).sqrt()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn blocks_lose_no_more_than_those_of_ggml() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../../../tests/vectors/gguf_encode.json")).unwrap();
    let mut same = std::collections::BTreeMap::new();
    for case in &cases {
        let name = case["type"].as_str().unwrap();
        let block = ALL.into_iter().find(|block| block.name() == name).unwrap();
        assert_eq!(case["type_id"], block.id());
        let [rows, columns] = [0, 1].map(|at| case["shape"][at].as_u64().unwrap() as usize);
        let weights: Vec<f32> = match case["constant"].as_f64() {
            Some(x) => vec![x as f32; rows * columns],
            None => decode(Block::F32, &unhex(case["input"].as_str().unwrap())),
        };
        let expected = unhex(case["bytes"].as_str().unwrap());
        let bytes = block.encode_rows(columns, &weights);
        assert_eq!(bytes.len(), expected.len());
        let (ours, theirs) = (rmse(&decode(block, &bytes), &weights), rmse(&decode(block, &expected), &weights));
        assert!(ours <= theirs * (1.0 + 1e-6) + 1e-12, "{name}: {ours}, where ggml has {theirs}");
        let count = same.entry(name.to_owned()).or_insert((0, 0));
        *count = (count.0 + usize::from(bytes == expected), count.1 + 1);
    }
    for (name, (same, all)) in same {
        assert_eq!(same, all, "{name}: the bytes are those of ggml");
    }
}

#[test]
fn simple_types_follow_their_rules() {
    // Largest magnitude -4: d = 0.5, so -4 is code 0, 0 is 8, 3.5 is 15, and 4 would be 16 and is 15.
    let mut x = [0.0f32; 32];
    (x[0], x[1], x[2], x[31]) = (-4.0, 3.5, 0.5, 1.0);
    let bytes = Block::Q4_0.encode_rows(32, &x);
    assert_eq!(f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(), 0.5);
    assert_eq!((bytes[2], bytes[3], bytes[4], bytes[17]), (0x80, 0x8F, 0x89, 0xA8));
    // d = 254/127 = 2: 254 is code 127, 1 is half a step and goes away from zero.
    (x[0], x[1], x[2]) = (254.0, 1.0, -1.0);
    let bytes = Block::Q8_0.encode_rows(32, &x);
    assert_eq!(f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(), 2.0);
    assert_eq!((bytes[2], bytes[3], bytes[4] as i8), (127, 1, -1));
}

#[test]
fn zeros_stay_zero_in_every_type() {
    for block in ALL {
        let bytes = block.encode_rows(256, &[0.0; 512]);
        assert_eq!(bytes.len(), 512 / block.values() * block.bytes());
        assert!(decode(block, &bytes).iter().all(|&x| x == 0.0), "{block:?}");
    }
}

#[test]
fn rows_are_encoded_each_on_its_own() {
    let weights: Vec<f32> = (0..7 * 512).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 300.0).collect();
    for block in ALL {
        let together = block.encode_rows(512, &weights);
        let alone: Vec<u8> = weights.chunks(512).flat_map(|row| block.encode_rows(512, row)).collect();
        assert_eq!(together, alone, "{block:?}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| block.encode_rows(512, &weights)), together, "{block:?}");
    }
    assert!(Block::Q4_0.encode_rows(0, &[]).is_empty() && Block::F32.encode_rows(8, &[]).is_empty());
}

#[test]
fn more_bits_lose_less() {
    let weights: Vec<f32> = (0..2048).map(|i| ((i as f32) * 0.37).sin() * (1.0 + (i % 97) as f32 / 50.0)).collect();
    let error = |block: Block| rmse(&decode(block, &block.encode_rows(256, &weights)), &weights);
    let order = [Block::F32, Block::F16, Block::Q8_0, Block::Q6K, Block::Q5K, Block::Q4K];
    assert_eq!(error(Block::F32), 0.0);
    assert!(order.windows(2).all(|pair| error(pair[0]) < error(pair[1])), "{:?}", order.map(error));
}
