//! A small llama, and weights of every kind to put into it.

use std::path::Path;
use std::sync::Arc;

use brevity_formats::Checkpoint;
use brevity_model::{
    Code, Codebook, Dtype, Expr, Floats, Grid, Group, Leaf, Mask, Role, Rule, Slot, Stage, Train, Weight,
};
use serde_json::json;

use crate::common::{Tensor, numbers, safetensors};

/// Two blocks, 16 wide, four query heads, two key heads, 24 words, bfloat16, tied; with keys nobody knows and a tensor
/// of integers.
pub fn llama(dir: &Path) -> Checkpoint {
    let config = json!({
        "zeta": {"kept": [1, 2.5, null]}, "architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 32, "hidden_act": "silu",
        "rope_theta": 10000.0, "vocab_size": 24, "tie_word_embeddings": true, "torch_dtype": "bfloat16", "alpha": "kept",
    });
    let mut tensors = vec![bf16("model.embed_tokens.weight", &[24, 16]), bf16("model.norm.weight", &[16])];
    for n in 0..2 {
        for (name, shape) in [
            ("input_layernorm", &[16][..]),
            ("post_attention_layernorm", &[16]),
            ("self_attn.q_proj", &[16, 16]),
            ("self_attn.k_proj", &[8, 16]),
            ("self_attn.v_proj", &[8, 16]),
            ("self_attn.o_proj", &[16, 16]),
            ("mlp.gate_proj", &[32, 16]),
            ("mlp.up_proj", &[32, 16]),
            ("mlp.down_proj", &[16, 32]),
        ] {
            tensors.push(bf16(&format!("model.layers.{n}.{name}.weight"), shape));
        }
    }
    tensors.push(("extra.counts".into(), "I64", vec![2], vec![7; 16]));
    tensors.push(bf16("extra.weight", &[4, 8]));
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("model.safetensors"), safetensors(&tensors)).unwrap();
    Checkpoint::open(dir).unwrap()
}

fn bf16(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let values = numbers(shape.iter().product(), seed);
    let bytes = values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
    (name.to_owned(), "BF16", shape.to_vec(), bytes)
}

/// Floats that are not zero.
pub fn float(shape: [usize; 2], dtype: Dtype) -> Leaf {
    let values = numbers(shape[0] * shape[1], 3).into_iter().map(|x| x + x.signum() * 0.1).collect();
    Leaf::float(shape, Floats::from_f32(values, dtype))
}

/// Codes on a uniform grid whose scales are of type bfloat16.
pub fn grid(shape: [usize; 2], bits: u8, group: Group, zeros: bool) -> Leaf {
    let [r, c] = group.scales(shape);
    let codes = |count: usize, step: usize| (0..count).map(|i| (i * step % (1 << bits)) as u8).collect();
    let grid = Grid {
        bits,
        codes: codes(shape[0] * shape[1], 7919),
        scales: (1..=r * c).map(|i| Dtype::Bf16.round(i as f32 / 64.0)).collect(),
        zeros: zeros.then(|| codes(r * c, 5)),
        group,
        scale_dtype: Dtype::Bf16,
        levels: None,
    };
    Leaf { shape, code: Code::Grid(grid), mask: None }
}

fn table(shape: [usize; 2]) -> Leaf {
    let mut leaf = grid(shape, 2, Group::Columns(8), false);
    let Code::Grid(grid) = &mut leaf.code else { unreachable!() };
    grid.levels = Some(Arc::new([-1.0, -0.25, 0.5, 1.0]));
    leaf
}

fn codebook(shape: [usize; 2]) -> Leaf {
    let [rows, columns] = shape;
    let floats = |count: usize| numbers(count, 11).into_iter().map(|x| Dtype::Bf16.round(x)).collect::<Vec<f32>>();
    let book = Codebook {
        dim: 4,
        books: vec![floats(5 * 4), floats(300 * 4)],
        codes: (0..rows * columns / 4).flat_map(|i| [(i % 5) as u16, (i * 37 % 300) as u16]).collect(),
        scales: floats(rows),
        dtype: Dtype::Bf16,
    };
    Leaf { shape, code: Code::Codebook(book), mask: None }
}

/// Keeps all but the entries whose number, times 7, leaves a remainder below `removed` when divided by 16.
pub fn masked(leaf: Leaf, removed: usize) -> Leaf {
    let keep: Vec<bool> = (0..leaf.shape[0] * leaf.shape[1]).map(|i| i * 7 % 16 >= removed).collect();
    Leaf { mask: Some(Mask::from_bools(leaf.shape, &keep)), ..leaf }
}

/// A weight of every kind, each with its name.
pub fn kinds([rows, columns]: [usize; 2]) -> Vec<(&'static str, Weight)> {
    use Group::{Channel, Columns, Tensor};
    let shape = [rows, columns];
    let lone = Expr::Leaf;
    let halves = |shape| float(shape, Dtype::Bf16);
    let rule = |rule: Rule| lone(Leaf { shape: [rule.size(); 2], code: Code::Rule(rule), mask: None });
    let low = || Weight::product(lone(halves([rows, 3])), lone(halves([3, columns])));
    // Digits of two and of half the size, rounded up, with three bonds between them.
    let cores = [[2, 2 * 3], [3 * rows.div_ceil(2), columns.div_ceil(2)]];
    let train = |cores: [Leaf; 2]| {
        let (rows, columns) = (vec![2, rows.div_ceil(2)], vec![2, columns.div_ceil(2)]);
        Weight::train(Train { shape, rows, columns, cores: cores.map(lone).into() })
    };
    vec![
        ("floats", lone(halves(shape))),
        ("singles", lone(float(shape, Dtype::F32))),
        ("floats, 1/16 removed", lone(masked(halves(shape), 1))),
        ("floats, half removed", lone(masked(halves(shape), 8))),
        ("floats, all removed", lone(masked(halves(shape), 16))),
        ("int8 channel", lone(grid(shape, 8, Channel, false))),
        ("int8 tensor", lone(grid(shape, 8, Tensor, false))),
        ("int8 tensor, zeros", lone(grid(shape, 8, Tensor, true))),
        ("int8 group, zeros", lone(grid(shape, 8, Columns(8), true))),
        ("int4 group", lone(grid(shape, 4, Columns(8), false))),
        ("int4 group, zeros", lone(grid(shape, 4, Columns(8), true))),
        ("int4 group of more than a row", lone(grid(shape, 4, Columns(64), false))),
        ("int4 channel, zeros, half removed", lone(masked(grid(shape, 4, Channel, true), 8))),
        ("int4 group, 1/16 removed", lone(masked(grid(shape, 4, Columns(8), false), 1))),
        ("int2 group, half removed", lone(masked(grid(shape, 2, Columns(4), true), 8))),
        ("int2 group, 3/4 removed", lone(masked(grid(shape, 2, Columns(4), true), 12))),
        ("int3 group", lone(grid(shape, 3, Columns(4), false))),
        ("int4 ragged group", lone(grid(shape, 4, Columns(7), true))),
        ("int5 channel, zeros", lone(grid(shape, 5, Channel, true))),
        ("int1 tensor", lone(grid(shape, 1, Tensor, false))),
        ("table", lone(table(shape))),
        ("table, half removed", lone(masked(table(shape), 8))),
        ("codebook", lone(codebook(shape))),
        ("codebook, half removed", lone(masked(codebook(shape), 8))),
        ("product", low()),
        (
            "product of grids",
            Weight::product(lone(grid([rows, 6], 4, Columns(2), false)), lone(grid([6, columns], 4, Columns(8), true))),
        ),
        ("train", train(cores.map(halves))),
        (
            "train of grids, half removed",
            train([grid(cores[0], 4, Columns(2), true), masked(grid(cores[1], 3, Channel, false), 8)]),
        ),
        ("grid and product", Weight::sum(lone(grid(shape, 4, Columns(8), false)), low())),
        (
            "rules around floats",
            Weight::product(
                lone(masked(halves(shape), 8)),
                Weight::product(
                    rule(Rule::Hadamard(columns)),
                    Weight::product(
                        rule(Rule::Permutation((0..columns as u32).rev().collect())),
                        rule(Rule::Diagonal(numbers(columns, 5))),
                    ),
                ),
            ),
        ),
    ]
}

/// A stage with a weight of some kind in place of every matrix of attention and MLP; `kind` says which for the first,
/// the second, … of them.
pub fn rewritten(stage: &Stage<Weight>, kind: impl Fn(usize) -> usize) -> Stage<Weight> {
    let mut number = 0;
    let change = |role: Role, slot, weight: &Weight| {
        let matrix = matches!(role, Role::Q | Role::K | Role::V | Role::O | Role::Gate | Role::Up | Role::Down);
        Ok::<_, std::convert::Infallible>(match matrix && slot == Slot::Weight {
            true => {
                number += 1;
                kinds(weight.shape()).swap_remove(kind(number - 1)).1
            }
            false => weight.clone(),
        })
    };
    stage.try_map(change).unwrap_or_else(|never| match never {})
}

/// Matrices of attention and MLP in a block.
pub const MATRICES: usize = 7;
