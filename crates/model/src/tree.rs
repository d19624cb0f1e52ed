//! A model as a small typed tree, generic in what stands for a weight.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::structure::Sublayer;

/// A model: an embedding, blocks of attention and MLP, and a head. Encoders have none, or one that is a norm alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Model<W> {
    /// The architecture, as the description names it: `llama`.
    pub name: String,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the token table.
    pub vocabulary: usize,
    /// The longest input that the model was made for, if it says.
    pub context: Option<usize>,
    /// What the names of the tensors of a block begin with, `{i}` standing for its number: `model.layers.{i}`.
    pub block_name: Option<String>,
    /// The stages in the order in which activations pass them; [`Stage::Loose`] ones stand at the end.
    pub stages: Vec<Stage<W>>,
}

/// The unit that is loaded, rewritten, run and written at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage<W> {
    /// From token ids to activations.
    Embed(Embed<W>),
    /// One block.
    Block(Block<W>),
    /// From activations to logits.
    Head(Head<W>),
    /// Weights that no description claims. They can be rewritten without data, or carried through, but not run.
    Loose(Loose<W>),
}

/// A linear layer, or a table of rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear<W> {
    /// `[out, in]`.
    pub weight: W,
    /// `[1, out]`.
    pub bias: Option<W>,
}

/// A normalisation over the last axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm<W> {
    /// `[1, width]`.
    pub gain: W,
    /// `[1, width]`.
    pub bias: Option<W>,
    /// Which one.
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub eps: f32,
}

/// Kinds of normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / sqrt(mean(x²) + eps) * gain`.
    Rms,
    /// `x / sqrt(mean(x²) + eps) * (1 + gain)`.
    RmsPlusOne,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * gain + bias`.
    Layer,
}

/// Nonlinearities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `x Φ(x)` with the error function.
    Gelu,
    /// `x Φ(x)` with the tanh approximation.
    GeluTanh,
    /// `x / (1 + exp(-1.702 x))`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
}

/// From token ids to activations.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed<W> {
    /// The token table, `[vocabulary, width]`.
    pub tokens: Linear<W>,
    /// Learned positions, `[positions, hidden]`.
    pub positions: Option<W>,
    /// Rows skipped at the start of the position table.
    pub position_offset: usize,
    /// Token types, `[types, hidden]`; type 0 is used.
    pub types: Option<W>,
    /// What all blocks add to their scores for how far a key is from its query, `[buckets, heads]`. It is written here; blocks
    /// have it too, in [`Attention::relative`].
    pub relative: Option<W>,
    /// From the width of the table to the width of the blocks.
    pub project: Option<Linear<W>>,
    /// Behind the sum.
    pub norm: Option<Norm<W>>,
    /// Multiplies the rows of the token table.
    pub scale: f32,
}

/// Attention and MLP around the residual stream. A dropped sublayer is `None`: an identity.
#[derive(Clone, Debug, PartialEq)]
pub struct Block<W> {
    /// Attention.
    pub attn: Option<Attention<W>>,
    /// The MLP.
    pub mlp: Option<Mlp<W>>,
    /// Both read the input of the block, instead of one behind the other.
    pub parallel: bool,
}

impl<W> Block<W> {
    /// Whether what a sublayer returns is added to the residual stream, and nothing else happens to either.
    pub fn adds(&self, part: Sublayer) -> bool {
        match part {
            Sublayer::Attn => self.attn.as_ref().is_some_and(|attn| attn.after.is_none() && attn.sum.is_none()),
            Sublayer::Mlp => self.mlp.as_ref().is_some_and(|mlp| mlp.after.is_none() && mlp.sum.is_none()),
        }
    }

    /// How often the residual stream is read: once by each sublayer, or once by both side by side.
    pub fn reads(&self) -> usize {
        let parts = usize::from(self.attn.is_some()) + usize::from(self.mlp.is_some());
        if self.parallel { parts.min(1) } else { parts }
    }
}

/// Attention with its norms.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention<W> {
    /// In front.
    pub before: Option<Norm<W>>,
    /// Queries.
    pub q: Linear<W>,
    /// Keys.
    pub k: Linear<W>,
    /// Values.
    pub v: Linear<W>,
    /// Output.
    pub o: Linear<W>,
    /// Of the queries, before rotation: as wide as one head, or as all of them together.
    pub q_norm: Option<Norm<W>>,
    /// Of the keys, before rotation.
    pub k_norm: Option<Norm<W>>,
    /// Of what attention returns, before it is added.
    pub after: Option<Norm<W>>,
    /// Of the sum of residual stream and what attention returns.
    pub sum: Option<Norm<W>>,
    /// What is added to the scores, `[buckets, heads]`: the table of the embedding once more, so that a block can be run by
    /// itself. [`Stage::weights`] leaves it out: it is counted and written there.
    pub relative: Option<W>,
    /// What the residual stream is multiplied with on its way past, `[hidden, hidden]`; without one it passes as it is. A
    /// block whose parts stand side by side has one at most.
    pub shortcut: Option<W>,
    /// The heads.
    pub heads: Heads,
}

/// The heads of one attention layer. Per block, never per model: pruning may leave any number of any width.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    /// For each query head, the key/value head it reads.
    pub kv_of: Vec<u16>,
    /// Width of a query or key head.
    pub qk_dim: usize,
    /// Width of a value head.
    pub v_dim: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// Rotary positions, unless the layer has none.
    pub rope: Option<Rope>,
    /// Which keys a query sees.
    pub reach: Reach,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// How [`Attention::relative`] is read, if there is one.
    pub relative: Option<Relative>,
}

/// How a table of what is added to scores is read: its rows are buckets of distances, in both directions.
#[derive(Clone, Debug, PartialEq)]
pub struct Relative {
    /// For each query head, its column of the table.
    pub columns: Vec<u16>,
    /// From this distance on, all keys on one side are in one bucket.
    pub distance: usize,
}

impl Heads {
    /// How many key/value heads there are.
    pub fn kv(&self) -> usize {
        self.kv_of.iter().map(|&kv| kv as usize + 1).max().unwrap_or(0)
    }
}

/// Rotary position embedding of the first entries of each query and key head, two for each of its pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Radians a position, for each rotated pair of an input of usual length. Scaling rules are already applied.
    pub inv_freq: Vec<f32>,
    /// Which entries form a pair.
    pub style: RopeStyle,
    /// Multiplies cosine and sine (scaled models use it to temper attention).
    pub amplitude: f32,
    /// What holds for longer inputs, if that is something else.
    pub long: Option<LongRope>,
    /// For each key/value head, which of the frequencies its pairs turn with, one head behind the other; without it every
    /// head turns with all of them. Pairs that were pruned are missing here, and may differ from head to head.
    pub pairs: Option<Vec<u16>>,
}

/// Rotary frequencies of inputs beyond a length.
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// Inputs of more tokens than this turn with these frequencies, from their first token on.
    pub beyond: usize,
    /// Radians a position, as many as in [`Rope::inv_freq`].
    pub inv_freq: Vec<f32>,
}

impl Rope {
    /// Radians a position, for each rotated pair of an input of so many tokens.
    pub fn frequencies(&self, tokens: usize) -> &[f32] {
        match &self.long {
            Some(long) if tokens > long.beyond => &long.inv_freq,
            _ => &self.inv_freq,
        }
    }

    /// How many pairs of each of `kv` key/value heads are rotated.
    pub fn pairs_per_head(&self, kv: usize) -> usize {
        self.pairs.as_ref().map_or(self.inv_freq.len(), |pairs| pairs.len() / kv.max(1))
    }

    /// The frequencies that the pairs of key/value head `kv` of `of` turn with, by their numbers.
    pub fn pairs_of(&self, kv: usize, of: usize) -> Vec<u16> {
        let each = self.pairs_per_head(of);
        match &self.pairs {
            Some(pairs) => pairs[kv * each..(kv + 1) * each].to_vec(),
            None => (0..each as u16).collect(),
        }
    }
}

/// Which entries of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeStyle {
    /// Entry `i` with entry `i + n/2` of the `n` rotated.
    Half,
    /// Entry `2i` with entry `2i + 1`.
    Pairs,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Its own position and those before.
    Causal,
    /// All of them.
    Both,
    /// Its own position and so many before that the window holds `n` keys.
    Window(usize),
    /// Its own position and `n` on either side.
    Around(usize),
}

/// The MLP with its norms; gated if it has a gate.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp<W> {
    /// In front.
    pub before: Option<Norm<W>>,
    /// `act(gate x) * (up x)`; without one, `act(up x)`.
    pub gate: Option<Linear<W>>,
    /// `[ffn, hidden]`.
    pub up: Linear<W>,
    /// `[hidden, ffn]`.
    pub down: Linear<W>,
    /// The nonlinearity.
    pub act: Activation,
    /// Of what the MLP returns, before it is added.
    pub after: Option<Norm<W>>,
    /// Of the sum of residual stream and what the MLP returns.
    pub sum: Option<Norm<W>>,
    /// As [`Attention::shortcut`].
    pub shortcut: Option<W>,
}

/// From activations to logits.
#[derive(Clone, Debug, PartialEq)]
pub struct Head<W> {
    /// In front.
    pub norm: Option<Norm<W>>,
    /// From the width of the blocks to the width of the output table.
    pub project: Option<Linear<W>>,
    /// The output table, `[vocabulary, width]`; `None` if it is the token table, or if there are no logits.
    pub out: Option<Linear<W>>,
    /// Whether there are logits. The head of an encoder is its last norm alone.
    pub logits: bool,
    /// Logits become `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
}

/// Weights that no description claims.
#[derive(Clone, Debug, PartialEq)]
pub struct Loose<W> {
    /// Matrices of floats, by their names in the checkpoint (each with its own bias, if any, as another entry).
    pub matrices: BTreeMap<String, Linear<W>>,
    /// Names of all other tensors; they are carried through byte by byte.
    pub others: Vec<String>,
}
