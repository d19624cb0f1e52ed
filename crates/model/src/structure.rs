//! What shapes cannot tell of a model whose heads, channels or layers were removed.
//!
//! Shapes come from the tensors; what they leave open is written into `config.json`, under [`STRUCTURE`], with one entry
//! for each block:
//!
//! ```json
//! "brevity": { "blocks": [
//!   { "heads": { "kv_of": [0, 0, 0, 1, 1, 1], "qk_dim": 48, "v_dim": 52, "scale": 0.125, "reach": "causal",
//!                "rotated": true, "pairs": [0, 1, 5, ...] } },
//!   { "dropped": ["attn"] }
//! ] }
//! ```
//!
//! A model whose residual stream was turned and narrowed has `"stream": {"norm": "rms", "eps": 1.2e-5, "last": 576, "last_eps": 1e-5}`
//! beside it: what the norms of the stream are now, and how wide it is behind the last block.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::error::Error;
use crate::lookup::Found;
use crate::tree::{Heads, Model, NormKind, Reach, Stage};

/// The key of `config.json` under which our own settings are.
pub const STRUCTURE: &str = "brevity";

/// What is known of one block beside the shapes of its tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRecord {
    /// Its heads, if they are not those that the rest of the configuration describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<HeadsRecord>,
    /// Sublayers that are no longer there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<Sublayer>,
}

/// What the norms of the residual stream are, where they are not those of the architecture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamRecord {
    /// Which one.
    pub norm: NormKind,
    /// Added to the mean square, in front of sublayers.
    pub eps: f32,
    /// The width of the stream behind the last block.
    pub last: usize,
    /// Added to the mean square by the last norm.
    pub last_eps: f32,
}

/// One of the two sublayers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sublayer {
    /// Attention.
    Attn,
    /// The MLP.
    Mlp,
}

/// The heads of one block: [`Heads`] without what the rest of the configuration tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadsRecord {
    /// For each query head, the key/value head it reads.
    pub kv_of: Vec<u16>,
    /// Width of a query or key head.
    pub qk_dim: usize,
    /// Width of a value head.
    pub v_dim: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Which keys a query sees.
    pub reach: Reach,
    /// Whether queries and keys are rotated.
    pub rotated: bool,
    /// The frequencies that the pairs of each key/value head turn with, by their numbers, if some are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Vec<u16>>,
    /// For each query head, its column of the table of relative positions, if the model has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative: Option<Vec<u16>>,
}

impl Sublayer {
    /// The sublayer that a matrix or norm of a block belongs to.
    pub fn of(role: &crate::site::Role) -> Option<Self> {
        match role.as_str().split_once('.')? {
            ("attn", _) => Some(Sublayer::Attn),
            ("mlp", _) => Some(Sublayer::Mlp),
            _ => None,
        }
    }
}

impl HeadsRecord {
    /// Makes heads what the record says.
    pub fn apply(&self, heads: &mut Heads) {
        heads.kv_of = self.kv_of.clone();
        (heads.qk_dim, heads.v_dim, heads.scale, heads.reach) = (self.qk_dim, self.v_dim, self.scale, self.reach);
        if let Some(rope) = &mut heads.rope {
            rope.pairs = self.pairs.clone();
        }
        if let (Some(relative), Some(columns)) = (&mut heads.relative, &self.relative) {
            relative.columns = columns.clone();
        }
    }

    /// The record of heads.
    pub fn of(heads: &Heads) -> Self {
        HeadsRecord {
            kv_of: heads.kv_of.clone(),
            qk_dim: heads.qk_dim,
            v_dim: heads.v_dim,
            scale: heads.scale,
            reach: heads.reach,
            rotated: heads.rope.is_some(),
            pairs: heads.rope.as_ref().and_then(|rope| rope.pairs.clone()),
            relative: heads.relative.as_ref().map(|relative| relative.columns.clone()),
        }
    }
}

/// What must be written under [`STRUCTURE`] for the blocks of a model to be read back as they are. Blocks of which
/// neither sublayer is left are not there any more.
pub fn structure<W>(model: &Model<W>) -> Value {
    let blocks = model.stages.iter().filter_map(|stage| match stage {
        Stage::Block(block) if block.attn.is_some() || block.mlp.is_some() => Some(block),
        _ => None,
    });
    let records = blocks.map(|block| BlockRecord {
        heads: block.attn.as_ref().map(|attn| HeadsRecord::of(&attn.heads)),
        dropped: [(Sublayer::Attn, block.attn.is_none()), (Sublayer::Mlp, block.mlp.is_none())]
            .into_iter()
            .filter_map(|(part, dropped)| dropped.then_some(part))
            .collect(),
    });
    json!(records.collect::<Vec<_>>())
}

/// The record of the residual stream of a model that has shortcuts, given the shape of a weight.
pub fn stream<W>(model: &Model<W>, shape: impl Fn(&W) -> [usize; 2]) -> Option<StreamRecord> {
    let block = |stage: &'_ Stage<W>| match stage {
        Stage::Block(block) => {
            let attn = block.attn.as_ref().and_then(|attn| attn.shortcut.as_ref().and(attn.before.as_ref()));
            let mlp = block.mlp.as_ref().and_then(|mlp| mlp.shortcut.as_ref().and(mlp.before.as_ref()));
            attn.or(mlp).map(|norm| (norm.kind, norm.eps))
        }
        _ => None,
    };
    let (norm, eps) = model.stages.iter().find_map(block)?;
    let last = model.stages.iter().find_map(|stage| match stage {
        Stage::Head(head) => head.norm.as_ref(),
        _ => None,
    });
    let (width, last_eps) = last.map_or((model.hidden, eps), |norm| (shape(&norm.gain)[1], norm.eps));
    Some(StreamRecord { norm, eps, last: width, last_eps })
}

/// The record of the residual stream, if the configuration has one.
pub(crate) fn read_stream(config: &Config) -> Result<Option<StreamRecord>, Error> {
    let Some(value) = config.get(STRUCTURE).and_then(|ours| ours.get("stream")) else { return Ok(None) };
    let found = Found { key: format!("{STRUCTURE}.stream"), value: value.clone() };
    serde_json::from_value(value.clone()).map(Some).map_err(|why| found.wrong(&format!("a norm and its eps ({why})")))
}

/// The entries for so many blocks, if the configuration has any.
pub(crate) fn read(config: &Config, blocks: usize) -> Result<Option<Vec<BlockRecord>>, Error> {
    let Some(value) = config.get(STRUCTURE).and_then(|ours| ours.get("blocks")) else { return Ok(None) };
    let found = Found { key: format!("{STRUCTURE}.blocks"), value: value.clone() };
    let records: Vec<BlockRecord> =
        serde_json::from_value(value.clone()).map_err(|why| found.wrong(&format!("a list of blocks ({why})")))?;
    if records.len() != blocks {
        return Err(found.wrong(&format!("a list with one entry for each of {blocks} blocks")));
    }
    Ok(Some(records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_they_are_written_and_must_be_one_for_each_block() {
        let heads = HeadsRecord {
            kv_of: vec![0, 0, 1],
            qk_dim: 6,
            v_dim: 5,
            scale: 0.125,
            reach: Reach::Window(7),
            rotated: true,
            pairs: Some(vec![0, 2, 4, 1, 2, 3]),
            relative: Some(vec![2, 0, 5]),
        };
        let records = vec![
            BlockRecord { heads: Some(heads), dropped: vec![] },
            BlockRecord { heads: None, dropped: vec![Sublayer::Attn] },
        ];
        let mut config = Config::default();
        config.set(STRUCTURE, json!({ "blocks": records }));
        assert_eq!(read(&config, 2).unwrap(), Some(records));
        let error = read(&config, 3).unwrap_err().to_string();
        assert!(error.contains("one entry for each of 3 blocks"), "{error}");
        config.set(STRUCTURE, json!({ "blocks": [{ "head": 1 }] }));
        assert!(read(&config, 1).unwrap_err().to_string().contains("unknown field `head`"));
        assert_eq!(read(&Config::default(), 1).unwrap(), None);
    }
}
