//! `prune.layers`: takes out whole blocks, or the attention or MLP of blocks.

use std::collections::BTreeSet;
use std::sync::Arc;

use brevity_model::{Form, Place, Role, Site, Sublayer, Tap, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::block::{BlockCx, BlockMethod, BlockSurvey, Influence, Part, Sizes};
use crate::error::{Error, Result};
use crate::seen::Needs;
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

const NAME: &str = "prune.layers";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Takes out the blocks, or their attentions or MLPs, that change the residual stream least",
    settings: SETTINGS,
    parse: Parse::Block(|settings| Ok(Box::new(Layers::parse(settings)?))),
    kind: Kind::Reduce,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "sparsity",
        about: "the share of the parameters of all selected sublayers to take out, from 0 up to but not including 1; as \
                many as fit into it go",
        default: "0.15",
    },
    Setting { name: "count", about: "how many to take out, instead of a share", default: "none" },
    Setting {
        name: "keep",
        about: "how many blocks to keep from the first on, instead: everything behind them goes, and nothing is looked at",
        default: "none",
    },
    Setting {
        name: "unit",
        about: "what goes: `block`, `attn`, `mlp`, or `sublayer` (attentions and MLPs one by one)",
        default: "block",
    },
    Setting {
        name: "by",
        about: "what goes first: what has the least `influence` (one minus the cosine between its input and output in the \
                residual stream) or the least `loss` (KL divergence of the model's predictions without it, one run of the \
                model for each)",
        default: "influence",
    },
    Setting { name: "first", about: "so many blocks at the beginning stay whole", default: "2" },
    Setting { name: "last", about: "so many blocks at the end stay whole", default: "1" },
];

/// Takes whole blocks or sublayers out; what is left of the residual stream passes through.
///
/// Units are ranked once, on the original model, and go in rising order of their score as long as the parameters gone
/// stay within the share; a block counts as its selected sublayers. Of equal scores the later goes first.
///
/// # Cost
/// One run of the first 16 samples through the original model, even to predict; with `by: loss` one of 2048 tokens more for
/// each unit.
///
/// # Errors
/// [`Error::NeedsSurvey`] before the survey.
///
/// # Source
/// Men et al. 2024 (ShortGPT), arXiv:2403.03853.
#[derive(Clone, Debug, PartialEq)]
pub struct Layers {
    amount: Amount,
    unit: Unit,
    by: By,
    first: usize,
    last: usize,
    /// What goes.
    gone: Option<Arc<BTreeSet<(Place, bool)>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Share(f64),
    Count(usize),
    /// The first blocks, without a look at any.
    Keep(usize),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    #[default]
    Block,
    Attn,
    Mlp,
    Sublayer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum By {
    #[default]
    Influence,
    Loss,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    sparsity: Option<f64>,
    count: Option<usize>,
    keep: Option<usize>,
    unit: Option<Unit>,
    by: Option<By>,
    first: Option<usize>,
    last: Option<usize>,
}

impl Layers {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let ranked = s.unit.is_some() || s.by.is_some() || s.first.is_some() || s.last.is_some();
        let amount = match (s.sparsity, s.count) {
            _ if s.keep == Some(0) => return Err(value_error(NAME, SETTINGS, "keep", &0.into())),
            (None, None) if s.keep.is_some() && !ranked => Amount::Keep(s.keep.unwrap_or_default()),
            _ if s.keep.is_some() => {
                return Err(Error::Settings { method: NAME, wants: "`keep` alone, or settings without it" });
            }
            (Some(_), Some(_)) => {
                return Err(Error::Settings { method: NAME, wants: "one of `sparsity` and `count`" });
            }
            (Some(share), None) if !(0.0..1.0).contains(&share) => {
                return Err(value_error(NAME, SETTINGS, "sparsity", &share.into()));
            }
            (share, None) => Amount::Share(share.unwrap_or(0.15)),
            (None, Some(count)) => Amount::Count(count),
        };
        Ok(Layers {
            amount,
            unit: s.unit.unwrap_or_default(),
            by: s.by.unwrap_or_default(),
            first: s.first.unwrap_or(2),
            last: s.last.unwrap_or(1),
            gone: None,
        })
    }

    fn goes(&self, place: Place, part: Sublayer) -> Result<bool> {
        if let (Amount::Keep(keep), Place::Block(n)) = (self.amount, place) {
            return Ok(n as usize >= keep);
        }
        let role = if part == Sublayer::Attn { Role::O } else { Role::Down };
        let gone =
            self.gone.as_ref().ok_or_else(|| Error::NeedsSurvey { method: NAME, site: Site::new(place, role) })?;
        Ok(gone.contains(&(place, part == Sublayer::Attn)))
    }
}

/// Takes a sublayer out.
fn empty<W>(part: Part<'_, W>) {
    match part {
        Part::Attn(attn) => *attn = None,
        Part::Mlp(mlp) => *mlp = None,
    }
}

impl BlockMethod for Layers {
    fn needs(&self, _: Tap) -> Needs {
        Needs::default()
    }

    fn rewrite(&self, part: Part<'_, Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        if self.goes(cx.place, part.sublayer())? {
            cx.notes.push("taken out".into());
            empty(part);
        }
        Ok(())
    }

    fn predict(&self, place: Place, _: Sizes, part: Part<'_, Form>) -> Result<()> {
        if self.goes(place, part.sublayer())? {
            empty(part);
        }
        Ok(())
    }

    fn survey(&self) -> Option<Box<dyn BlockSurvey>> {
        (self.gone.is_none() && !matches!(self.amount, Amount::Keep(_)))
            .then(|| -> Box<dyn BlockSurvey> { Box::new(Look { method: self.clone(), found: Vec::new() }) })
    }

    fn settings(&self) -> Value {
        if let Amount::Keep(keep) = self.amount {
            return json!({ "keep": keep });
        }
        let mut settings = json!({ "unit": self.unit, "by": self.by, "first": self.first, "last": self.last });
        match self.amount {
            Amount::Share(share) => settings["sparsity"] = json!(share),
            Amount::Count(count) => settings["count"] = json!(count),
            Amount::Keep(_) => unreachable!("returned above"),
        }
        settings
    }

    fn peak_bytes(&self, _: &brevity_model::Block<Form>) -> u64 {
        0
    }
}

struct Look {
    method: Layers,
    found: Vec<(Place, Vec<Sublayer>, Sizes, Influence)>,
}

/// Sublayers that go together, what they hold, and how little they matter.
struct Candidate {
    place: Place,
    parts: Vec<Sublayer>,
    parameters: u64,
    score: f64,
}

impl BlockSurvey for Look {
    fn losses(&self) -> [bool; 3] {
        match (self.method.by, self.method.unit) {
            (By::Influence, _) => [false; 3],
            (By::Loss, Unit::Block) => [true, false, false],
            (By::Loss, Unit::Attn) => [false, true, false],
            (By::Loss, Unit::Mlp) => [false, false, true],
            (By::Loss, Unit::Sublayer) => [false, true, true],
        }
    }

    fn look(&mut self, place: Place, parts: &[Sublayer], sizes: Sizes, influence: Influence) {
        self.found.push((place, parts.to_vec(), sizes, influence));
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn BlockMethod>> {
        let Layers { amount, unit, first, last, .. } = self.method;
        let blocks = self.found.len();
        let all: u64 =
            self.found.iter().flat_map(|(_, parts, sizes, _)| parts.iter().map(|&part| sizes.part(part))).sum();
        let mut candidates: Vec<Candidate> = Vec::new();
        for (n, (place, parts, sizes, influence)) in self.found.iter().enumerate() {
            if n < first || n + last >= blocks {
                continue;
            }
            let mut add = |parts: Vec<Sublayer>, score: f64, loss: usize| {
                let score = influence.loss.map_or(score, |losses| losses[loss]);
                let parameters = parts.iter().map(|&part| sizes.part(part)).sum();
                if !parts.is_empty() {
                    candidates.push(Candidate { place: *place, parts, parameters, score });
                }
            };
            let only = |one: Sublayer| parts.iter().copied().filter(|part| *part == one).collect::<Vec<_>>();
            if unit == Unit::Block {
                add(parts.clone(), influence.block, 0);
            }
            if matches!(unit, Unit::Attn | Unit::Sublayer) {
                add(only(Sublayer::Attn), influence.attn, 1);
            }
            if matches!(unit, Unit::Mlp | Unit::Sublayer) {
                add(only(Sublayer::Mlp), influence.mlp, 2);
            }
        }
        candidates.sort_by(|a, b| a.score.total_cmp(&b.score).then(b.place.cmp(&a.place)));
        let mut gone = BTreeSet::new();
        let (mut parameters, mut count) = (0u64, 0);
        for candidate in candidates {
            let fits = match amount {
                Amount::Share(share) => (parameters + candidate.parameters) as f64 <= share * all as f64 * (1.0 + 1e-9),
                Amount::Count(most) => count < most,
                Amount::Keep(_) => unreachable!("nothing is looked at where the first blocks stay"),
            };
            if !fits {
                continue;
            }
            parameters += candidate.parameters;
            count += 1;
            gone.extend(candidate.parts.iter().map(|&part| (candidate.place, part == Sublayer::Attn)));
        }
        Ok(Box::new(Layers { gone: Some(Arc::new(gone)), ..self.method }))
    }
}

#[cfg(test)]
mod tests;
