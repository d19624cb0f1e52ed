//! Methods that change whole sublayers: they remove channels, heads or layers, or shrink what lies between two matrices.

use std::collections::BTreeMap;
use std::fmt;

use brevity_model::{Attention, Block, Form, Linear, Mlp, Place, Role, Site, Sublayer, Tap, Weight};

use crate::error::Result;
use crate::seen::{Needs, Seen};

/// One sublayer of a block. A method may change the shapes of its matrices together, or take it out by leaving `None`.
#[derive(Debug)]
pub enum Part<'a, W> {
    /// Attention.
    Attn(&'a mut Option<Attention<W>>),
    /// The MLP.
    Mlp(&'a mut Option<Mlp<W>>),
}

impl<W> Part<'_, W> {
    /// Which one it is.
    pub fn sublayer(&self) -> Sublayer {
        match self {
            Part::Attn(_) => Sublayer::Attn,
            Part::Mlp(_) => Sublayer::Mlp,
        }
    }

    /// The same for as long as this is borrowed.
    pub fn reborrow(&mut self) -> Part<'_, W> {
        match self {
            Part::Attn(attn) => Part::Attn(attn),
            Part::Mlp(mlp) => Part::Mlp(mlp),
        }
    }

    /// Its matrices with their roles, none if it is gone.
    pub fn linears(&self) -> Vec<(Role, &Linear<W>)> {
        match self {
            Part::Attn(Some(attn)) => {
                vec![(Role::Q, &attn.q), (Role::K, &attn.k), (Role::V, &attn.v), (Role::O, &attn.o)]
            }
            Part::Mlp(Some(mlp)) => {
                let gate = mlp.gate.iter().map(|gate| (Role::Gate, gate));
                gate.chain([(Role::Up, &mlp.up), (Role::Down, &mlp.down)]).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A sublayer of a block.
pub fn part_of<W>(block: &mut Block<W>, part: Sublayer) -> Part<'_, W> {
    match part {
        Sublayer::Attn => Part::Attn(&mut block.attn),
        Sublayer::Mlp => Part::Mlp(&mut block.mlp),
    }
}

/// Numbers that the matrices of the two sublayers of a block hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Queries, keys, values and output.
    pub attn: u64,
    /// Gate, up and down.
    pub mlp: u64,
}

impl Sizes {
    /// Those of a block, given the numbers that one weight holds.
    pub fn of<W>(block: &Block<W>, parameters: impl Fn(&W) -> u64) -> Self {
        let attn = block.attn.iter().flat_map(|attn| [&attn.q, &attn.k, &attn.v, &attn.o]);
        let mlp = block.mlp.iter().flat_map(|mlp| mlp.gate.iter().chain([&mlp.up, &mlp.down]));
        Sizes {
            attn: attn.map(|linear| parameters(&linear.weight)).sum(),
            mlp: mlp.map(|linear| parameters(&linear.weight)).sum(),
        }
    }

    /// Those of a sublayer.
    pub fn part(self, part: Sublayer) -> u64 {
        match part {
            Sublayer::Attn => self.attn,
            Sublayer::Mlp => self.mlp,
        }
    }

    /// Both together.
    pub fn all(self) -> u64 {
        self.attn + self.mlp
    }
}

/// What a method knows besides the sublayer.
#[derive(Debug)]
pub struct BlockCx<'a> {
    /// The block.
    pub place: Place,
    /// What its sublayers held in the original model.
    pub sizes: Sizes,
    /// Where randomness comes from.
    pub seed: u64,
    /// What was seen at the taps of the sublayer: at least what [`BlockMethod::needs`] asks for.
    pub seen: &'a BTreeMap<Tap, Seen>,
    /// Sentences for the report: what the method decided, what it lost.
    pub notes: Vec<String>,
    /// What the method found and chose, by name, for the report.
    pub figures: Vec<(String, f64)>,
    /// The channels of the MLP that are left, if nothing else about what they hold has changed; none if that is not known.
    pub kept: Option<Vec<usize>>,
}

impl<'a> BlockCx<'a> {
    /// Nothing noted yet.
    pub fn new(place: Place, sizes: Sizes, seed: u64, seen: &'a BTreeMap<Tap, Seen>) -> Self {
        BlockCx { place, sizes, seed, seen, notes: Vec::new(), figures: Vec::new(), kept: None }
    }

    /// A matrix or norm of the block.
    pub fn site(&self, role: Role) -> Site {
        Site::new(self.place, role)
    }
}

/// What a survey finds of a block in the original model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Influence {
    /// One minus the mean cosine between what goes into the block and what comes out of it.
    pub block: f64,
    /// The same of attention alone.
    pub attn: f64,
    /// The same of the MLP alone.
    pub mlp: f64,
    /// Mean KL divergence of the next token's distribution without the block, without attention, and without the MLP, in
    /// nats; where it was asked for. Of a model that predicts nothing, how far its hidden states move, as a share.
    pub loss: Option<[f64; 3]>,
}

/// A method that rewrites one sublayer at a time.
///
/// The same method with the same settings, weights and seed gives the same bytes, whatever the number of threads.
pub trait BlockMethod: Send + Sync + fmt::Debug {
    /// Whether the method has anything to do with a sublayer of this kind.
    fn rewrites(&self, part: Sublayer) -> bool {
        let _ = part;
        true
    }

    /// What the method must see at a tap of the sublayers it rewrites.
    fn needs(&self, tap: Tap) -> Needs;

    /// Whether it changes what the sublayer reads, so that this must be looked at again for what comes behind it.
    fn moves_inputs(&self) -> bool {
        false
    }

    /// Changes the sublayer. On an error it may be half changed and must not be used.
    fn rewrite(&self, part: Part<'_, Weight>, cx: &mut BlockCx<'_>) -> Result<()>;

    /// Changes the forms of the sublayer as [`BlockMethod::rewrite`] will change the sublayer, exactly.
    ///
    /// # Errors
    /// Whatever `rewrite` would refuse that can be known from shapes and kinds; [`crate::Error::NeedsSurvey`] before
    /// the survey.
    fn predict(&self, place: Place, sizes: Sizes, part: Part<'_, Form>) -> Result<()>;

    /// The look at all selected blocks that the method needs before shapes are known, if it needs one.
    fn survey(&self) -> Option<Box<dyn BlockSurvey>> {
        None
    }

    /// All settings with their values, those by default too; reading them back gives the same method.
    fn settings(&self) -> serde_json::Value;

    /// Bytes that [`BlockMethod::rewrite`] holds at most beside the block and what was seen, the result included.
    fn peak_bytes(&self, block: &Block<Form>) -> u64;
}

/// A look at all selected blocks of the original model before any of them is rewritten.
pub trait BlockSurvey: Send {
    /// Whether the loss without each block, each attention and each MLP must be measured, which costs a run of the model
    /// for each.
    fn losses(&self) -> [bool; 3] {
        [false; 3]
    }

    /// Looks at one block, of which these sublayers are selected.
    fn look(&mut self, place: Place, parts: &[Sublayer], sizes: Sizes, influence: Influence);

    /// The method with what it learned.
    ///
    /// # Errors
    /// If what was asked for cannot be done with these blocks.
    fn finish(self: Box<Self>) -> Result<Box<dyn BlockMethod>>;
}
