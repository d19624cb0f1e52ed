//! Descriptions of architectures: `models/*.yaml`, names and structure in a closed vocabulary.
//!
//! `models/README.md` documents every key.

mod written;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::tree::{NormKind, RopeStyle};

pub use written::architectures;
pub(crate) use written::{Written, all};

/// One architecture as a description gives it, for one configuration: inheritance and cases are resolved.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    #[serde(skip)]
    pub name: String,
    #[allow(dead_code, reason = "checked while reading; looked up before a description is resolved")]
    pub types: Vec<String>,
    #[serde(default = "no_prefix")]
    pub prefixes: Vec<String>,
    #[serde(default)]
    pub keys: Keys,
    #[serde(default)]
    pub defaults: Map<String, Value>,
    #[serde(default)]
    pub only: Map<String, Value>,
    pub embed: EmbedNames,
    pub block: String,
    pub norm: NormKind,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub parallel: Option<Setting>,
    pub attn: AttnNames,
    pub mlp: MlpNames,
    #[serde(default)]
    pub head: Option<HeadNames>,
}

fn no_prefix() -> Vec<String> {
    vec![String::new()]
}

/// What the configuration calls the things that every architecture has.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Keys {
    pub hidden: String,
    pub layers: String,
    pub heads: String,
    pub kv_heads: String,
    pub head_dim: String,
    pub eps: String,
    pub context: String,
    pub tied: String,
    pub ffn: String,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            hidden: "hidden_size".into(),
            layers: "num_hidden_layers".into(),
            heads: "num_attention_heads".into(),
            kv_heads: "num_key_value_heads".into(),
            head_dim: "head_dim".into(),
            eps: "rms_norm_eps".into(),
            context: "max_position_embeddings".into(),
            tied: "tie_word_embeddings".into(),
            ffn: "intermediate_size".into(),
        }
    }
}

/// A value, or the keys of the configuration that have it: `$rope_theta`, `$attention_layers | $attention_types`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Setting(pub Value);

/// Which way round linear layers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Store {
    #[default]
    OutIn,
    InOut,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbedNames {
    pub tokens: String,
    #[serde(default)]
    pub positions: Option<String>,
    #[serde(default)]
    pub position_offset: usize,
    #[serde(default)]
    pub types: Option<String>,
    #[serde(default)]
    pub relative: Option<RelativeRule>,
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub norm: Option<String>,
    #[serde(default)]
    pub scale: Option<EmbedScale>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelativeRule {
    pub tensor: String,
    pub distance: usize,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EmbedScale {
    SqrtHidden,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AttnNames {
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub before_from: usize,
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub sum: Option<String>,
    #[serde(default)]
    pub q: Option<String>,
    #[serde(default)]
    pub k: Option<String>,
    #[serde(default)]
    pub v: Option<String>,
    #[serde(default)]
    pub qkv: Option<Fused>,
    pub o: String,
    #[serde(default)]
    pub q_norm: Option<String>,
    #[serde(default)]
    pub k_norm: Option<String>,
    #[serde(default)]
    pub rope: Option<RopeRule>,
    #[serde(default)]
    pub scale: Option<Scale>,
    #[serde(default)]
    pub softcap: Option<Setting>,
    #[serde(default)]
    pub free_width: bool,
    #[serde(default)]
    pub heads_divide: bool,
    #[serde(default)]
    pub reach: ReachRule,
    #[serde(default)]
    pub window: Option<WindowRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fused {
    pub tensor: String,
    pub split: Split,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Split {
    Stacked,
    PerHead,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scale {
    One,
    InverseSqrt(Setting),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReachRule {
    #[default]
    Causal,
    Both,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WindowRule {
    pub size: Setting,
    #[serde(default)]
    pub on: Option<Setting>,
    #[serde(default)]
    pub layers: Option<Setting>,
    #[serde(default, rename = "where")]
    pub rule: WindowWhere,
}

/// Which blocks have a window if the configuration does not list them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WindowWhere {
    #[default]
    All,
    Unrotated,
    From(Setting),
    NotEvery(Setting),
    NotFirstOf(Setting),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum RopeRule {
    Style(RopeStyle),
    Full(Box<RopeKeys>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RopeKeys {
    pub style: RopeStyle,
    #[serde(default = "rope_theta")]
    pub theta: Setting,
    #[serde(default)]
    pub fraction: Option<Setting>,
    #[serde(default)]
    pub local: Option<Setting>,
    #[serde(default)]
    pub layers: Option<Setting>,
    #[serde(default)]
    pub not_every: Option<Setting>,
}

fn rope_theta() -> Setting {
    Setting("$rope_theta".into())
}

impl RopeRule {
    /// The rule in full.
    pub fn keys(&self) -> RopeKeys {
        match self {
            RopeRule::Full(keys) => keys.as_ref().clone(),
            RopeRule::Style(style) => RopeKeys {
                style: *style,
                theta: rope_theta(),
                fraction: None,
                local: None,
                layers: None,
                not_every: None,
            },
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MlpNames {
    #[serde(default)]
    pub before: Option<String>,
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub sum: Option<String>,
    #[serde(default)]
    pub gate: Option<String>,
    #[serde(default)]
    pub up: Option<String>,
    #[serde(default)]
    pub gate_up: Option<String>,
    pub down: String,
    pub act: Setting,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadNames {
    #[serde(default)]
    pub norm: Option<String>,
    #[serde(default)]
    pub project: Option<String>,
    #[serde(default)]
    pub out: Option<String>,
    #[serde(default)]
    pub tied: bool,
    #[serde(default)]
    pub softcap: Option<Setting>,
}
