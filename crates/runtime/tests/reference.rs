//! Tiny models against logits recorded from the reference implementation.

mod common;

use brevity_runtime::{Compute, Resident};
use common::{Lcg, Memory, Named, relative};
use serde_json::Value;

fn singles(tensor: &Value) -> Vec<f32> {
    let hex = tensor["data_hex"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len() / 8).map(|n| f32::from_le_bytes(std::array::from_fn(|b| byte(n * 8 + b * 2)))).collect()
}

#[test]
fn tiny_models_return_the_recorded_logits() {
    let file: Value = serde_json::from_str(include_str!("../../../tests/vectors/tiny_forward.json")).unwrap();
    let fixtures = file["fixtures"].as_array().unwrap();
    assert_eq!(fixtures.len(), 5);
    for fixture in fixtures {
        let mut numbers = Lcg(fixture["seed"].as_u64().unwrap());
        let mut named = Named::default();
        for parameter in fixture["parameters"].as_array().unwrap() {
            let shape: Vec<usize> =
                parameter["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            let shape = if let [n] = shape[..] { [1, n] } else { [shape[0], shape[1]] };
            let values = numbers.values(shape[0] * shape[1], parameter["norm"].as_bool().unwrap());
            named.0.insert(parameter["name"].as_str().unwrap().into(), (shape, values));
        }
        let mut ids: Vec<u32> =
            fixture["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        // Behind the real tokens of an encoder's case stands padding, which real tokens do not see.
        if let Some(mask) = fixture.get("attention_mask") {
            ids.truncate(mask.as_array().unwrap().iter().filter(|real| real.as_u64() == Some(1)).count());
        }
        let model = Memory::new(&fixture["config"].to_string(), &named);
        for (compute, tolerance) in [(Compute::F32, 2e-6), (Compute::Bf16, 2e-2)] {
            let resident = Resident::load(&model, compute).unwrap();
            let (got, want) = match fixture.get("logits") {
                Some(logits) => (resident.logits(&ids).unwrap(), singles(logits)),
                None => (resident.hidden(&ids).unwrap(), singles(&fixture["last_hidden_state"])),
            };
            let got: Vec<f32> = got.flatten_all().unwrap().to_vec1().unwrap();
            let error = relative(&got, &want[..got.len()]);
            assert!(error < tolerance, "{} {compute:?}: relative error {error:e}", fixture["name"]);
        }
    }
}
