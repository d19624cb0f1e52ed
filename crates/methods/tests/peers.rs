//! The same layer, inputs and settings as llm-compressor's own functions: see `vectors/README.md`.

use brevity_kernels::gram::Gram;
use brevity_methods::{Cx, Fold, Seen, method};
use brevity_model::{Code, Expr, Floats, Leaf, Linear, Weight};
use serde_json::{Value, json};

const ROWS: usize = 12;
const COLUMNS: usize = 96;

fn vectors(name: &str) -> Value {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// The layer, and what was seen of its inputs when those under `dead` were always zero.
fn layer(dead: &[usize]) -> (Linear<Weight>, Seen) {
    let layer = vectors("layer");
    let w: Vec<f32> = layer["weight"].as_array().unwrap().iter().flat_map(numbers).map(|x| x as f32).collect();
    let mut h = vec![0.0; COLUMNS * COLUMNS];
    for (i, row) in layer["gram_upper"].as_array().unwrap().iter().enumerate() {
        for (j, x) in numbers(row).into_iter().enumerate() {
            let x = if dead.contains(&i) || dead.contains(&(i + j)) { 0.0 } else { x };
            h[i * COLUMNS + i + j] = x;
            h[(i + j) * COLUMNS + i] = x;
        }
    }
    let gram = Some(Gram::from_f64(COLUMNS, &h));
    let fit = Fold { count: layer["tokens"].as_u64().unwrap(), gram, ..Fold::default() };
    let weight = Weight::float([ROWS, COLUMNS], Floats::F32(w));
    (Linear { weight, bias: None }, Seen { fit, ..Seen::default() })
}

/// The leaf and the loss that a method leaves.
fn rewritten(name: &str, settings: Value, (mut layer, seen): (Linear<Weight>, Seen)) -> (Leaf, f64) {
    let site = "blocks.0.mlp.up".parse().unwrap();
    let mut cx = Cx::with(&site, 0, &seen);
    method(name, settings).unwrap().rewrite(&mut layer, &mut cx).unwrap();
    let loss = cx.figures.iter().find(|(name, _)| *name == "loss").unwrap().1;
    let Expr::Leaf(leaf) = layer.weight else { panic!("a leaf stays one") };
    (leaf, loss)
}

fn cases(name: &str) -> Vec<Value> {
    vectors(name)["cases"].as_array().unwrap().clone()
}

/// The digits of all rows.
fn digits(rows: &Value) -> Vec<u8> {
    let text = rows.as_array().unwrap().iter().flat_map(|row| row.as_str().unwrap().chars());
    text.map(|c| c.to_digit(16).unwrap() as u8).collect()
}

#[test]
fn gptq_gives_the_codes_and_the_loss_of_llm_compressor() {
    for case in cases("gptq") {
        let name = case["name"].as_str().unwrap();
        let dead: Vec<usize> = numbers(&case["dead"]).into_iter().map(|x| x as usize).collect();
        let order = if case["order"] == "activation" { "activation" } else { "natural" };
        let settings = json!({
            "bits": case["bits"], "symmetric": case["symmetric"], "order": order, "group": 32, "damp": 0.01,
        });
        let (leaf, loss) = rewritten("quantize.gptq", settings, layer(&dead));
        let Code::Grid(grid) = leaf.code else { panic!("{name}: it is on a grid") };
        let scales: Vec<f64> = case["scales"].as_array().unwrap().iter().flat_map(numbers).collect();
        assert!(grid.scales.iter().zip(&scales).all(|(a, b)| (f64::from(*a) / b - 1.0).abs() < 1e-6), "{name}");
        if let Some(zeros) = &grid.zeros {
            let theirs: Vec<f64> = case["zero_points"].as_array().unwrap().iter().flat_map(numbers).collect();
            assert!(zeros.iter().zip(&theirs).all(|(a, b)| f64::from(*a) - 8.0 == *b), "{name}");
        }
        // What becomes of weights that were never used is a matter of taste: they are zeroed there, rounded here.
        let live = |at: &usize| !dead.contains(&(at % COLUMNS));
        let theirs = digits(&case["codes"]);
        let differing = (0..theirs.len()).filter(live).filter(|&at| theirs[at] != grid.codes[at]).count();
        assert_eq!(differing, 0, "{name}");
        if dead.is_empty() {
            // Theirs is half of the sum, kept in single precision.
            let wanted = 2.0 * case["loss"].as_f64().unwrap();
            assert!((loss / wanted - 1.0).abs() < 1e-4, "{name}: {loss} {wanted}");
        }
    }
}

#[test]
fn sparsegpt_gives_the_mask_and_the_loss_of_llm_compressor() {
    for case in cases("sparsegpt") {
        let name = case["name"].as_str().unwrap();
        let block = case["block"].as_u64().unwrap() as usize;
        let pattern = case["structure"] == "2:4";
        // They remove one weight more than half of each block.
        let gone = (ROWS * COLUMNS / 2 + COLUMNS.div_ceil(block)) as f64;
        let settings = match pattern {
            true => json!({"pattern": "2:4", "damp": 0.01, "block": block}),
            false => json!({
                "sparsity": gone / (ROWS * COLUMNS) as f64, "damp": 0.01, "order": "natural", "block": block,
            }),
        };
        let (leaf, loss) = rewritten("prune.sparsegpt", settings, layer(&[]));
        let keep = leaf.mask.as_ref().expect("there is a mask").to_bools();
        let differing =
            digits(&case["pruned"]).iter().zip(&keep).filter(|(gone, keep)| (**gone == 1) == **keep).count();
        let wanted = 2.0 * case["loss"].as_f64().unwrap();
        assert_eq!(differing, 0, "{name}");
        assert!((loss / wanted - 1.0).abs() < 1e-4, "{name}: {loss} {wanted}");
        let theirs: Vec<f64> = case["kept_weights"].as_array().unwrap().iter().flat_map(numbers).collect();
        let values = leaf.to_f32();
        let ours = values.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(x, _)| f64::from(*x));
        assert!(ours.zip(&theirs).all(|(a, b)| (a - b).abs() < 2e-5), "{name}");
    }
}

#[test]
fn wanda_removes_what_llm_compressor_removes() {
    let wanda = vectors("wanda");
    for case in cases("wanda") {
        let settings = match case["structure"].as_str().unwrap() {
            "none" => json!({ "sparsity": wanda["sparsity"] }),
            pattern => json!({ "pattern": pattern }),
        };
        let (mut layer, seen) = layer(&[]);
        let site = "blocks.0.mlp.up".parse().unwrap();
        method("prune.wanda", settings).unwrap().rewrite(&mut layer, &mut Cx::with(&site, 0, &seen)).unwrap();
        let mask = layer.weight.as_leaf().unwrap().mask.as_ref().unwrap().to_bools();
        let removed: Vec<u8> = mask.iter().map(|&keep| u8::from(!keep)).collect();
        assert_eq!(removed, digits(&case["pruned"]), "{}", case["name"]);
    }
}
