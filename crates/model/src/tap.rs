//! Places in the forward pass where activations can be looked at.

use crate::site::Role;

/// A place in the forward pass where activations can be looked at: what some linear layers are applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tap {
    /// Which token stands at each place: the rows that the token table is asked for.
    Ids,
    /// What queries, keys and values read.
    AttnIn,
    /// What the output projection of attention reads.
    AttnMix,
    /// What gate and up read.
    MlpIn,
    /// What down reads.
    MlpMid,
    /// What the output table reads.
    HeadIn,
}

impl Tap {
    /// The taps of a block, in the order of the forward pass.
    pub const OF_BLOCK: [Tap; 4] = [Tap::AttnIn, Tap::AttnMix, Tap::MlpIn, Tap::MlpMid];

    /// The tap that a layer reads, if its inputs can be looked at.
    pub fn of(role: &Role) -> Option<Tap> {
        match role {
            Role::Tokens => Some(Tap::Ids),
            Role::Q | Role::K | Role::V => Some(Tap::AttnIn),
            Role::O => Some(Tap::AttnMix),
            Role::Gate | Role::Up => Some(Tap::MlpIn),
            Role::Down => Some(Tap::MlpMid),
            Role::Out => Some(Tap::HeadIn),
            _ => None,
        }
    }

    /// Its name in reports and errors.
    pub fn name(self) -> &'static str {
        match self {
            Tap::Ids => "embed.ids",
            Tap::AttnIn => "attn.in",
            Tap::AttnMix => "attn.mix",
            Tap::MlpIn => "mlp.in",
            Tap::MlpMid => "mlp.mid",
            Tap::HeadIn => "head.in",
        }
    }
}
