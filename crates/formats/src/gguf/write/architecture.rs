//! The architectures of GGUF files that are written, and which one a model gets.

use brevity_model::{Attention, Block, Heads, Model, Place, Reach, Source, Stage};

use super::fault::GgufFault;

/// An architecture of GGUF files.
#[derive(Debug, PartialEq)]
pub struct Architecture {
    /// Its name there.
    pub name: &'static str,
    /// The descriptions of models that it fits.
    models: &'static [&'static str],
    /// Queries, keys and values are one tensor.
    pub qkv: bool,
    /// Gate and up are one tensor, called up.
    pub gate_up: bool,
    /// Rows of queries and keys that are rotated together stand side by side.
    pub pairs: bool,
    /// Files say how far attention reaches.
    pub windows: bool,
    /// Divisors of rotary frequencies can be a tensor.
    pub divisors: bool,
    /// Files say the width of heads.
    pub head_widths: bool,
    /// What lists and numbers are for: each block has its own.
    pub uneven: bool,
}

const PLAIN: Architecture = Architecture {
    name: "",
    models: &[],
    qkv: false,
    gate_up: false,
    pairs: false,
    windows: false,
    divisors: false,
    head_widths: true,
    uneven: false,
};

const LLAMA: Architecture =
    Architecture { name: "llama", models: &["llama", "mistral"], pairs: true, divisors: true, ..PLAIN };

/// llama whose blocks differ in heads and widths, or lack attention.
const DECI: Architecture = Architecture { name: "deci", models: &[], uneven: true, ..LLAMA };

const ALL: &[Architecture] = &[
    LLAMA,
    DECI,
    Architecture { name: "qwen2", models: &["qwen2"], ..PLAIN },
    Architecture { name: "qwen3", models: &["qwen3"], ..PLAIN },
    Architecture { name: "gemma2", models: &["gemma2"], windows: true, ..PLAIN },
    Architecture { name: "gemma3", models: &["gemma3"], windows: true, ..PLAIN },
    Architecture { name: "phi3", models: &["phi3"], qkv: true, gate_up: true, windows: true, ..PLAIN },
    Architecture { name: "gpt2", models: &["gpt2"], qkv: true, head_widths: false, ..PLAIN },
    Architecture { name: "bert", models: &["bert"], head_widths: false, ..PLAIN },
];

/// Width of the MLP that a block without one gets: llama.cpp aborts on none at all.
pub const ZERO_FFN: usize = 32;

/// What the blocks of a model are, as far as files say it.
#[derive(Debug)]
pub struct Shape<'a> {
    /// The architecture.
    pub architecture: &'static Architecture,
    /// Its blocks.
    pub blocks: Vec<&'a Block<Source>>,
    /// For each block its query heads, key heads and the width of its MLP.
    pub each: Vec<[usize; 3]>,
    /// Attention of the first block that has some and is not windowed, or else of the first that has some.
    pub attention: &'a Attention<Source>,
    /// The longest input.
    pub context: usize,
    /// Tokens in a window, if the model has some.
    pub window: Option<usize>,
}

impl<'a> Shape<'a> {
    /// The shape of a model.
    ///
    /// # Errors
    /// If no architecture holds it: one of another kind, or blocks that differ in what their architecture says once.
    pub fn of(model: &'a Model<Source>) -> Result<Self, GgufFault> {
        let known = ALL.iter().find(|one| one.models.contains(&model.name.as_str()));
        let mut architecture = known.ok_or_else(|| GgufFault::Architecture { model: model.name.clone() })?;
        let blocks: Vec<&Block<Source>> = model
            .stages
            .iter()
            .filter_map(|stage| match stage {
                Stage::Block(block) => Some(block),
                _ => None,
            })
            .collect();
        let each: Vec<[usize; 3]> = blocks.iter().map(|block| numbers(block)).collect();
        let attentions = || blocks.iter().filter_map(|block| block.attn.as_ref());
        let whole = |attn: &&Attention<Source>| !matches!(attn.heads.reach, Reach::Window(_));
        let attention = attentions().find(whole).or(attentions().next());
        let attention = attention.ok_or(GgufFault::NoneLeft { part: "attention" })?;
        // Files of other architectures are refused below, for any block.
        if known.is_some_and(|one| one == &LLAMA) && blocks[0].attn.is_none() {
            return Err(GgufFault::FirstBlock);
        }
        if blocks.iter().all(|block| block.mlp.is_none()) {
            return Err(GgufFault::NoneLeft { part: "an MLP" });
        }
        let lacks = |block: &&&Block<Source>| block.attn.is_none() || block.mlp.is_none();
        let differ = each.iter().any(|numbers| numbers != &each[0]);
        if architecture == &LLAMA && (differ || blocks.iter().any(|block| lacks(&block))) {
            architecture = ALL.iter().find(|one| one.uneven).expect("the list has it");
        }
        for (n, block) in blocks.iter().enumerate() {
            let place = Place::Block(n as u32);
            let name = architecture.name;
            let dropped = |part| Err(GgufFault::Dropped { place, part, architecture: name });
            match (&block.attn, &block.mlp) {
                (None, _) if !architecture.uneven => return dropped("attention"),
                (_, None) if !architecture.uneven => return dropped("MLP"),
                _ => {}
            }
            let whats = ["query heads", "key heads", "channels in its MLP"];
            for ((what, found), wanted) in whats.into_iter().zip(each[n]).zip(each[0]) {
                if found != wanted && !architecture.uneven {
                    return Err(GgufFault::Uneven { place, what, found, wanted, architecture: name });
                }
            }
            if let Some(attn) = &block.attn {
                heads(place, &attn.heads, attention.heads.qk_dim, name)?;
            }
        }
        let reach = |attn: &Attention<Source>| match attn.heads.reach {
            Reach::Window(n) => Some(n),
            _ => None,
        };
        let window = attentions().filter_map(reach).min();
        let rows = model.stages.iter().find_map(|stage| match stage {
            Stage::Embed(embed) => embed.positions.as_ref().map(|positions| positions.form.shape()[0]),
            _ => None,
        });
        let context = rows.or(model.context).unwrap_or(2048);
        let context = if architecture.windows { context } else { window.map_or(context, |n| n.min(context)) };
        Ok(Shape { architecture, blocks, each, attention, context, window })
    }
}

/// Query heads, key heads and width of the MLP of a block.
fn numbers(block: &Block<Source>) -> [usize; 3] {
    let heads = block.attn.as_ref().map_or([0, 0], |attn| [attn.heads.kv_of.len(), attn.heads.kv()]);
    let ffn = block.mlp.as_ref().map_or(ZERO_FFN, |mlp| mlp.up.weight.form.shape()[0]);
    [heads[0], heads[1], ffn]
}

/// Whether heads are such that their number and width say all.
fn heads(place: Place, heads: &Heads, width: usize, architecture: &'static str) -> Result<(), GgufFault> {
    let Heads { qk_dim, v_dim, .. } = *heads;
    if qk_dim != v_dim {
        return Err(GgufFault::HeadWidths { place, qk: qk_dim, v: v_dim });
    }
    if qk_dim != width {
        let what = "entries in a head";
        return Err(GgufFault::Uneven { place, what, found: qk_dim, wanted: width, architecture });
    }
    let (count, kv) = (heads.kv_of.len(), heads.kv());
    let even = kv > 0 && count.is_multiple_of(kv);
    if !even || heads.kv_of.iter().enumerate().any(|(head, &reads)| usize::from(reads) != head / (count / kv)) {
        return Err(GgufFault::Sharing { place });
    }
    Ok(())
}
