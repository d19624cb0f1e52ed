//! The tensors of a GGUF file, and which weights they are made of.

use brevity_model::{Model, Place, Role, Site, Slot, Source, Stage};

use super::architecture::{Architecture, Shape, ZERO_FFN};
use super::blocks::Block;
use super::fault::GgufFault;
use super::file::Info;
use super::types::{GgufType, Matrix, fitting};
use crate::gather::is_vector;

/// One tensor before it is written.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name, dimensions and type.
    pub info: Info,
    /// The type that it would have if its rows were wide enough.
    pub wanted: Block,
    /// The stage it is written with.
    pub stage: usize,
    /// Where its values come from.
    pub data: Data,
}

/// Where the values of a tensor come from.
#[derive(Clone, Debug)]
pub enum Data {
    /// Weights, the rows of one below those of the other.
    Weights { parts: Vec<(Role, Slot)>, change: Change },
    /// The same number everywhere.
    Same(f32),
    /// These numbers.
    Values(Vec<f32>),
}

/// What is done to the rows of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Rows that are rotated together are brought side by side, in heads of so many rows.
    Pairs { width: usize },
    /// One is added: these norms multiply by one more than their gain, and files hold the product.
    PlusOne,
}

impl Change {
    /// The row of the weight that stands in row `row` of the tensor.
    pub fn row(self, row: usize) -> usize {
        match self {
            Change::Pairs { width } => {
                let (head, at) = (row / width, row % width);
                head * width + at % 2 * (width / 2) + at / 2
            }
            _ => row,
        }
    }
}

/// All tensors in the order of the file.
///
/// # Errors
/// If a weight has no name in files of the architecture.
pub fn all(model: &Model<Source>, shape: &Shape<'_>, kind: GgufType) -> Result<Vec<Planned>, GgufFault> {
    let logits = model.stages.iter().any(|stage| matches!(stage, Stage::Head(head) if head.out.is_some()));
    let mut planned: Vec<Planned> = Vec::new();
    for (n, stage) in model.stages.iter().enumerate().filter(|(_, stage)| !matches!(stage, Stage::Loose(_))) {
        let place = model.place(n);
        let namer = Namer { architecture: shape.architecture, place };
        let mut fused: Vec<(String, usize)> = Vec::new();
        for (role, slot, source) in stage.weights() {
            let name = namer.name(&role, slot)?;
            let [rows, columns] = source.form.shape();
            let vector = is_vector(&role, slot);
            // Parts of one tensor follow each other: queries, keys, values; gate, up.
            if let Some((_, parts)) = fused.iter_mut().find(|(known, _)| *known == name) {
                *parts += 1;
                let tensor = planned.iter_mut().find(|tensor| tensor.info.name == name);
                let tensor = tensor.expect("the first part has made it");
                tensor.info.shape[0] += if vector { columns } else { rows };
                let Data::Weights { parts, .. } = &mut tensor.data else { unreachable!("it is made of weights") };
                parts.push((role, slot));
                continue;
            }
            fused.push((name.clone(), 1));
            let matrix = match role {
                Role::Out => Matrix::Logits,
                Role::Tokens if !logits => Matrix::Logits,
                Role::V | Role::Q | Role::K if shape.architecture.qkv => Matrix::Qkv,
                Role::V | Role::Down => match place {
                    Place::Block(block) => Matrix::Sensitive { block: block as usize, of: shape.blocks.len() },
                    _ => Matrix::Plain,
                },
                _ => Matrix::Plain,
            };
            // As in files of llama.cpp: vectors, positions and token types are never halves or codes.
            let wanted = match vector || matches!(role, Role::Positions | Role::Types) {
                true => Block::F32,
                false => kind.wanted(matrix),
            };
            let change = change(stage, &role, shape.architecture);
            let info = Info {
                name,
                shape: if vector { vec![columns] } else { vec![rows, columns] },
                block: fitting(wanted, columns),
            };
            planned.push(Planned { info, wanted, stage: n, data: Data::Weights { parts: vec![(role, slot)], change } });
        }
        whole(&fused, &planned, place, shape.architecture)?;
        if let Stage::Block(block) = stage
            && block.mlp.is_none()
        {
            let Place::Block(block) = place else { unreachable!("blocks have places among blocks") };
            planned.extend(zero_mlp(block, n, model.hidden, kind));
        }
    }
    Ok(planned)
}

/// The order of rows and the offset of gains that files of an architecture have.
fn change(stage: &Stage<Source>, role: &Role, architecture: &Architecture) -> Change {
    match (stage, role) {
        (Stage::Block(block), Role::Q | Role::K) if architecture.pairs => match &block.attn {
            Some(attn) => Change::Pairs { width: attn.heads.qk_dim },
            None => Change::None,
        },
        (_, role) if architecture.name.starts_with("gemma") && is_vector(role, Slot::Weight) => Change::PlusOne,
        _ => Change::None,
    }
}

/// Checks that a tensor of several weights has all of them: three biases, or none.
fn whole(
    fused: &[(String, usize)],
    planned: &[Planned],
    place: Place,
    architecture: &Architecture,
) -> Result<(), GgufFault> {
    for (name, parts) in fused {
        let wanted = match () {
            () if architecture.qkv && name.contains("attn_qkv") => 3,
            () if architecture.gate_up && name.contains("ffn_up") => 2,
            () => 1,
        };
        if *parts != wanted {
            let tensor = planned.iter().find(|tensor| tensor.info.name == *name).expect("it was just planned");
            let Data::Weights { parts, .. } = &tensor.data else { unreachable!("it is made of weights") };
            let site = Site::new(place, parts[0].0.clone());
            return Err(GgufFault::Unnamed { site, architecture: architecture.name });
        }
    }
    Ok(())
}

/// An MLP that adds nothing, for a block that has none.
fn zero_mlp(block: u32, stage: usize, hidden: usize, kind: GgufType) -> Vec<Planned> {
    let tensor = |part: &str, shape: Vec<usize>, value: f32| {
        let columns = *shape.last().expect("a tensor has dimensions");
        let wanted = if shape.len() == 1 { Block::F32 } else { kind.wanted(Matrix::Plain) };
        let info = Info { name: format!("blk.{block}.{part}.weight"), shape, block: fitting(wanted, columns) };
        // Nothing is wanted of zeros, so nothing is to be told of their type.
        Planned { wanted: info.block, info, stage, data: Data::Same(value) }
    };
    vec![
        tensor("ffn_norm", vec![hidden], 1.0),
        tensor("ffn_gate", vec![ZERO_FFN, hidden], 0.0),
        tensor("ffn_up", vec![ZERO_FFN, hidden], 0.0),
        tensor("ffn_down", vec![hidden, ZERO_FFN], 0.0),
    ]
}

/// A tensor of single precision that is no weight.
pub fn extra(name: &str, values: Vec<f32>) -> Planned {
    let info = Info { name: name.to_owned(), shape: vec![values.len()], block: Block::F32 };
    Planned { info, wanted: Block::F32, stage: 0, data: Data::Values(values) }
}

struct Namer {
    architecture: &'static Architecture,
    place: Place,
}

impl Namer {
    /// What files call a weight.
    fn name(&self, role: &Role, slot: Slot) -> Result<String, GgufFault> {
        let Architecture { qkv, gate_up, name: architecture, .. } = *self.architecture;
        let part = match role {
            Role::Q | Role::K | Role::V if qkv => "attn_qkv",
            Role::Gate | Role::Up if gate_up => "ffn_up",
            Role::Tokens => "token_embd",
            Role::Positions => "position_embd",
            Role::Types => "token_types",
            Role::EmbedNorm => "token_embd_norm",
            Role::AttnBefore => "attn_norm",
            Role::Q => "attn_q",
            Role::K => "attn_k",
            Role::V => "attn_v",
            Role::O => "attn_output",
            Role::QNorm => "attn_q_norm",
            Role::KNorm => "attn_k_norm",
            Role::AttnAfter => "post_attention_norm",
            Role::AttnSum => "attn_output_norm",
            Role::MlpBefore => "ffn_norm",
            Role::Gate => "ffn_gate",
            Role::Up => "ffn_up",
            Role::Down => "ffn_down",
            Role::MlpAfter => "post_ffw_norm",
            Role::MlpSum => "layer_output_norm",
            Role::HeadNorm => "output_norm",
            Role::Out => "output",
            Role::EmbedProject
            | Role::HeadProject
            | Role::AttnShortcut
            | Role::MlpShortcut
            | Role::Loose(_)
            | Role::Relative
            | Role::AttnRelative => {
                let site = Site::new(self.place, role.clone());
                return Err(GgufFault::Unnamed { site, architecture });
            }
        };
        let ending = match slot {
            Slot::Weight => "weight",
            Slot::Bias => "bias",
        };
        Ok(match self.place {
            Place::Block(n) => format!("blk.{n}.{part}.{ending}"),
            _ => format!("{part}.{ending}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn rows_of_queries_are_put_side_by_side_as_transformers_says() {
        let cases: Value = serde_json::from_str(include_str!("../../../tests/vectors/gguf_rope_permute.json")).unwrap();
        for case in cases.as_array().unwrap() {
            let [rows, columns] = [0, 1].map(|at| case["shape"][at].as_u64().unwrap() as usize);
            let change = Change::Pairs { width: rows / case["heads"].as_u64().unwrap() as usize };
            let values = |key: &str| serde_json::from_value::<Vec<f32>>(case[key].clone()).unwrap();
            let (input, expected) = (values("input"), values("expected"));
            let permuted: Vec<f32> =
                (0..rows).flat_map(|row| input[change.row(row) * columns..][..columns].to_vec()).collect();
            assert_eq!(permuted, expected);
        }
        // Heads of four rows: 0 1 2 3 become 0 2 1 3.
        let order: Vec<usize> = (0..8).map(|row| Change::Pairs { width: 4 }.row(row)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
