//! Names of places in a model: `blocks.12.attn.q`, written the same way in recipes, plans, errors and reports.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A stable name for one matrix or vector of a model, such as `blocks.12.attn.q` or `head.out`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// The stage it belongs to.
    pub place: Place,
    /// What it does there.
    pub role: Role,
}

/// The stage of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The token table and what belongs to it.
    Embed,
    /// Block `n`, counted from zero.
    Block(u32),
    /// The last norm and the output table.
    Head,
    /// The `n`th bag of weights that no description claims.
    Loose(u32),
}

/// Whether a tensor is the weight of its site or the bias beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The matrix of a linear layer or table, or the gain of a norm.
    Weight,
    /// The vector added after it.
    Bias,
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What a matrix or norm does in its stage.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Role {
            $($(#[$doc])* $name,)*
            /// A weight known only by its name in the checkpoint.
            Loose(Arc<str>),
        }

        impl Role {

            /// Every role with a fixed name.
            pub const NAMED: &'static [Role] = &[$(Role::$name),*];

            /// The role as written in sites, such as `attn.q`.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Role::$name => $text,)*
                    Role::Loose(name) => name,
                }
            }
        }
    };
}

roles! {
    /// The token table, `[vocabulary, hidden]`.
    Tokens = "tokens",
    /// The table of learned positions, `[positions, hidden]`.
    Positions = "positions",
    /// The table of token types, `[types, hidden]`.
    Types = "types",
    /// What is added to scores for how far a key is from its query, `[buckets, heads]`.
    Relative = "relative",
    /// The norm of the embedding.
    EmbedNorm = "norm",
    /// From the width of the token table to the width of the blocks.
    EmbedProject = "project",
    /// The norm in front of attention.
    AttnBefore = "attn.before",
    /// The norm of what attention returns, before it is added.
    AttnAfter = "attn.after",
    /// The norm of the sum behind attention.
    AttnSum = "attn.sum",
    /// The table of the embedding that attention adds to its scores.
    AttnRelative = "attn.relative",
    /// Queries, `[heads * qk_dim, hidden]`.
    Q = "attn.q",
    /// Keys, `[kv heads * qk_dim, hidden]`.
    K = "attn.k",
    /// Values, `[kv heads * v_dim, hidden]`.
    V = "attn.v",
    /// Output of attention, `[hidden, heads * v_dim]`.
    O = "attn.o",
    /// The norm of the queries.
    QNorm = "attn.q_norm",
    /// The norm of the keys.
    KNorm = "attn.k_norm",
    /// What the residual stream is multiplied with beside attention, `[hidden, hidden]`.
    AttnShortcut = "attn.shortcut",
    /// The norm in front of the MLP.
    MlpBefore = "mlp.before",
    /// The norm of what the MLP returns, before it is added.
    MlpAfter = "mlp.after",
    /// The norm of the sum behind the MLP.
    MlpSum = "mlp.sum",
    /// The gate of a gated MLP, `[ffn, hidden]`.
    Gate = "mlp.gate",
    /// The first matrix of the MLP, `[ffn, hidden]`.
    Up = "mlp.up",
    /// The last matrix of the MLP, `[hidden, ffn]`.
    Down = "mlp.down",
    /// What the residual stream is multiplied with beside the MLP, `[hidden, hidden]`.
    MlpShortcut = "mlp.shortcut",
    /// The last norm.
    HeadNorm = "head_norm",
    /// From the width of the blocks to the width of the output table.
    HeadProject = "head_project",
    /// The output table, `[vocabulary, hidden]`.
    Out = "out",
}

impl Site {
    /// The site of a role in a place.
    pub fn new(place: Place, role: Role) -> Self {
        Site { place, role }
    }

    /// The name of the weight or bias of this site in our own files: `blocks.0.attn.q.weight`.
    pub fn tensor(&self, slot: Slot) -> String {
        match slot {
            Slot::Weight => format!("{self}.weight"),
            Slot::Bias => format!("{self}.bias"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Embed => f.write_str("embed"),
            Place::Block(n) => write!(f, "blocks.{n}"),
            Place::Head => f.write_str("head"),
            Place::Loose(n) => write!(f, "loose.{n}"),
        }
    }
}

impl Role {
    /// Whether it is the gain of a norm: a vector.
    pub fn is_norm(&self) -> bool {
        use Role::*;
        let norms = [EmbedNorm, AttnBefore, AttnAfter, AttnSum, QNorm, KNorm, MlpBefore, MlpAfter, MlpSum, HeadNorm];
        norms.contains(self)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            Role::HeadNorm => write!(f, "{}.norm", self.place),
            Role::HeadProject => write!(f, "{}.project", self.place),
            role => write!(f, "{}.{role}", self.place),
        }
    }
}

/// A text that is not the name of a site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a site (sites look like `blocks.12.attn.q`, `embed.tokens` or `head.out`)")]
pub struct ParseSite(pub String);

impl FromStr for Site {
    type Err = ParseSite;

    fn from_str(text: &str) -> Result<Self, ParseSite> {
        let wrong = || ParseSite(text.to_owned());
        let (place, rest) = text.split_once('.').ok_or_else(wrong)?;
        let numbered = |rest: &str| -> Option<(u32, String)> {
            let (n, role) = rest.split_once('.')?;
            Some((n.parse().ok()?, role.to_owned()))
        };
        let (place, role) = match place {
            "embed" => (Place::Embed, rest.to_owned()),
            "head" => {
                (Place::Head, if matches!(rest, "norm" | "project") { format!("head_{rest}") } else { rest.to_owned() })
            }
            "blocks" => numbered(rest).map(|(n, role)| (Place::Block(n), role)).ok_or_else(wrong)?,
            "loose" => numbered(rest).map(|(n, role)| (Place::Loose(n), role)).ok_or_else(wrong)?,
            _ => return Err(wrong()),
        };
        let role = match place {
            Place::Loose(_) => Role::Loose(role.into()),
            _ => Role::NAMED.iter().find(|known| known.as_str() == role).cloned().ok_or_else(wrong)?,
        };
        Ok(Site { place, role })
    }
}

impl Serialize for Site {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_read_back_as_they_are_written() {
        for text in [
            "embed.tokens",
            "embed.norm",
            "blocks.12.attn.q",
            "blocks.0.mlp.sum",
            "head.norm",
            "head.out",
            "loose.3.unet.down.0.weight",
        ] {
            let site: Site = text.parse().unwrap();
            assert_eq!(site.to_string(), text);
        }
        for text in ["", "blocks", "blocks.x.attn.q", "blocks.1.attn.z", "tail.out"] {
            assert!(text.parse::<Site>().is_err(), "{text}");
        }
    }
}
