//! How many ranks each matrix keeps, so that all of them together have the share of parameters that was asked for.
//!
//! A method embeds [`Ranks`], and tells it of each matrix how much error each rank leaves; that is all there is to
//! adopting it.

mod search;
mod waterfill;

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_model::{Form, Linear, Role, Site, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::search::{RATIOS, Trial, search};
use self::waterfill::{Curve, fill};
use crate::error::{Error, Result};
use crate::method::{LinearMethod, Survey};
use crate::prune::allocate::{Found, by_influence};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, value_error};

/// The settings of ranks, for the list of a method.
pub(crate) const RANK: Setting = Setting { name: "rank", about: "the rank to keep, at least 1", default: "none" };
pub(crate) const RATIO: Setting = Setting {
    name: "ratio",
    about: "the share of parameters to keep, above 0 and up to 1; the rank follows",
    default: "0.5",
};
pub(crate) const ENERGY: Setting = Setting {
    name: "energy",
    about: "the share of the squared singular values to keep, above 0 and up to 1; the rank follows, matrix by matrix",
    default: "none",
};
pub(crate) const MULTIPLE: Setting = Setting {
    name: "multiple",
    about: "round the rank to a multiple of this, at least 1: down, or up if `energy` is set",
    default: "8, or 1 if `rank` is set",
};
pub(crate) const ALLOCATION: Setting = Setting {
    name: "allocation",
    about: "how `ratio` is spread: `uniform`, `waterfill` (the least sum of relative errors over all matrices), \
            `influence` (more to blocks that change more) or `coding_rate` (more to blocks that change the coding rate more)",
    default: "uniform",
};
pub(crate) const SEARCHED: Setting = Setting {
    name: "allocation",
    about: "how `ratio` is spread: `uniform`, `waterfill` (the least sum of relative errors over all matrices), \
            `influence` (more to blocks that change more), `coding_rate` (more to blocks that change the coding rate more) or \
            `sensitivity` (by the loss of the model with each matrix alone at 0.4, 0.5, … 0.9 of its parameters)",
    default: "uniform",
};
pub(crate) const TOKENS: Setting = Setting {
    name: "tokens",
    about: "on how many tokens losses are measured where `allocation` is `sensitivity`, at least 1",
    default: "256",
};
pub(crate) const BAND: Setting = Setting {
    name: "band",
    about: "how far the share of a block may lie from `ratio`, above 0 and up to 1, where `allocation` is `influence` or \
            `coding_rate`",
    default: "0.08",
};

/// How a rank is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Keep {
    /// This rank.
    Rank(usize),
    /// This share of the parameters.
    Ratio(f64),
    /// This share of the squared singular values.
    Energy(f64),
}

/// How a share of the parameters is spread over matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Spread {
    /// The same share of each.
    #[default]
    Uniform,
    /// The ranks with the least sum of relative errors.
    Waterfill,
    /// Blocks that change their input more keep more.
    Influence,
    /// Blocks that change the coding rate of the hidden states more keep more.
    CodingRate,
    /// Matrices with which the model loses more keep more.
    Sensitivity,
}

/// How ranks are chosen and, where that takes a look at all matrices, what was chosen.
///
/// With `ratio` `ρ`, a matrix `[m, n]` gets `r = ⌊ρ m n / (m + n)⌋`, rounded down to a multiple. With `energy` `e`,
/// `r` is the smallest with `Σ_{i ≤ r} s_i² ≥ e Σ s_i²`, rounded up. A rank whose factors hold no fewer numbers than
/// the matrix does is none: the matrix stays as it is.
///
/// An `allocation` spreads the `⌊ρ Σ m n⌋` numbers of all matrices:
///
/// - `waterfill` minimises `Σ e_i(r_i)`, where `e_i(r) = Σ_{k > r} s_k² / Σ s_k²` is the share of its own error that matrix
///   `i` has at rank `r`, and none where it stays as it is. From one rank each, what lowers the sum most for each number
///   spent is taken next, of all moves that can still be paid: more rank, or all of the matrix. Up to the first move
///   that cannot be paid the sum is the least that there is at what it costs. More is never spent, unless one rank each is
///   more already; a greater `ρ` never gives a greater sum.
/// - `influence` gives each block a share by [`by_influence`], and its matrices ranks by their share.
/// - `coding_rate` does the same with the change of [`crate::coding_rate`] in place of the influence.
/// - `sensitivity`, of methods that have it, measures the loss of the model with each matrix alone at each of six ratios,
///   and lets losses in, least first, until the smallest rank that is let in for each matrix meets the budget.
///
/// # Source
/// Loss curves as in Wang et al. 2025 (SVD-LLM V2), arXiv:2503.12340, which allots by the logarithms of losses instead;
/// block influence from Men et al. 2024, arXiv:2403.03853; the coding rate from Yu et al. 2023, arXiv:2306.01129.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ranks {
    keep: Keep,
    /// The rank is rounded to a multiple of this, unless that saves nothing or leaves nothing.
    multiple: usize,
    spread: Spread,
    band: f64,
    /// Tokens on which losses are measured.
    tokens: usize,
    /// Whether a layer without a bias gets one beside its factors.
    biased: bool,
    /// What the survey found: a rank, or none for a matrix that stays as it is.
    found: Option<Arc<BTreeMap<Site, Option<usize>>>>,
}

/// The settings as they are written.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Given {
    rank: Option<usize>,
    ratio: Option<f64>,
    energy: Option<f64>,
    multiple: Option<usize>,
    allocation: Option<Spread>,
    band: Option<f64>,
    tokens: Option<usize>,
}

/// What a matrix costs, in numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Size {
    pub shape: [usize; 2],
    /// What it is held in now.
    pub held: u64,
    /// What comes with the factors beside them.
    pub beside: u64,
}

impl Size {
    fn per_rank(self) -> u64 {
        (self.shape[0] + self.shape[1]) as u64
    }

    fn all(self) -> u64 {
        (self.shape[0] * self.shape[1]) as u64
    }

    fn full(self) -> usize {
        self.shape[0].min(self.shape[1])
    }

    fn cost(self, rank: usize) -> u64 {
        rank as u64 * self.per_rank() + self.beside
    }

    /// The greatest rank whose factors hold fewer numbers than the matrix does.
    pub fn most(self) -> usize {
        let left = self.held.saturating_sub(1).saturating_sub(self.beside);
        self.full().min((left / self.per_rank().max(1)) as usize)
    }

    /// A rank as it can be, down to a multiple, or up to one; `None` if it saves nothing.
    fn rounded(self, rank: usize, multiple: usize, up: bool) -> Option<usize> {
        let exact = rank.clamp(1, self.full().max(1));
        let rounded = if up { exact.next_multiple_of(multiple) } else { exact / multiple * multiple };
        let rank = if rounded > 0 && rounded <= self.most() { rounded } else { exact };
        (rank <= self.most()).then_some(rank)
    }

    fn of_share(self, ratio: f64, multiple: usize) -> Option<usize> {
        let numbers = (ratio * self.all() as f64 - self.beside as f64).max(0.0);
        self.rounded((numbers / self.per_rank().max(1) as f64).floor() as usize, multiple, false)
    }
}

impl Ranks {
    /// Keeps so much of each matrix, with ranks rounded as by default.
    pub fn new(keep: Keep) -> Self {
        let multiple = if matches!(keep, Keep::Rank(_)) { 1 } else { 8 };
        Ranks { keep, multiple, spread: Spread::Uniform, band: 0.08, tokens: 256, biased: false, found: None }
    }

    /// From the settings of a method.
    pub fn parse(method: &'static str, known: &'static [Setting], s: Given) -> Result<Self> {
        let bad = |name, value: Value| Err(value_error(method, known, name, &value));
        let share = |x: f64| x > 0.0 && x <= 1.0;
        let keep = match (s.rank, s.ratio, s.energy) {
            (Some(0), None, None) => return bad("rank", 0.into()),
            (Some(rank), None, None) => Keep::Rank(rank),
            (None, Some(ratio), None) if !share(ratio) => return bad("ratio", ratio.into()),
            (None, Some(ratio), None) => Keep::Ratio(ratio),
            (None, None, Some(energy)) if !share(energy) => return bad("energy", energy.into()),
            (None, None, Some(energy)) => Keep::Energy(energy),
            (None, None, None) => Keep::Ratio(0.5),
            _ => return Err(Error::Settings { method, wants: "one of `rank`, `ratio` and `energy`" }),
        };
        let mut ranks = Self::new(keep);
        ranks.spread = s.allocation.unwrap_or_default();
        match s.multiple {
            Some(0) => return bad("multiple", 0.into()),
            Some(multiple) => ranks.multiple = multiple,
            None => {}
        }
        if ranks.spread != Spread::Uniform && !matches!(keep, Keep::Ratio(_)) {
            return Err(Error::Settings { method, wants: "`ratio` with `allocation`" });
        }
        let searches = known.iter().any(|setting| setting.name == TOKENS.name);
        match (s.tokens, ranks.spread == Spread::Sensitivity) {
            (_, true) if !searches => return bad("allocation", json!(ranks.spread)),
            (Some(0), _) => return bad("tokens", 0.into()),
            (Some(_), false) if searches => {
                return Err(Error::Settings { method, wants: "`allocation: sensitivity` with `tokens`" });
            }
            (tokens, _) => ranks.tokens = tokens.unwrap_or(ranks.tokens),
        }
        if ranks.spread == Spread::Sensitivity && matches!(keep, Keep::Ratio(ratio) if ratio < RATIOS[0]) {
            return Err(Error::Settings { method, wants: "a `ratio` of at least 0.4 with `allocation: sensitivity`" });
        }
        match s.band {
            Some(_) if !ranks.is_by_block() => {
                let wants = "`allocation: influence` or `allocation: coding_rate` with `band`";
                Err(Error::Settings { method, wants })
            }
            Some(band) if !share(band) => bad("band", band.into()),
            band => Ok(Ranks { band: band.unwrap_or(ranks.band), ..ranks }),
        }
    }

    /// Whether layers without a bias get one beside their factors.
    pub fn with_bias(self, biased: bool) -> Self {
        Ranks { biased, ..self }
    }

    /// The settings with their values.
    pub fn settings(&self) -> Value {
        let mut settings = json!({ "multiple": self.multiple });
        match self.keep {
            Keep::Rank(rank) => settings["rank"] = json!(rank),
            Keep::Ratio(ratio) => {
                settings["ratio"] = json!(ratio);
                settings["allocation"] = json!(self.spread);
            }
            Keep::Energy(energy) => settings["energy"] = json!(energy),
        }
        if self.is_by_block() {
            settings["band"] = json!(self.band);
        }
        if self.is_by_loss() {
            settings["tokens"] = json!(self.tokens);
        }
        settings
    }

    fn is_by_block(&self) -> bool {
        matches!(self.spread, Spread::Influence | Spread::CodingRate)
    }

    /// Whether errors of all ranks must be known.
    fn is_by_error(&self) -> bool {
        self.spread == Spread::Waterfill || matches!(self.keep, Keep::Energy(_))
    }

    /// Whether the loss of the model must be known.
    fn is_by_loss(&self) -> bool {
        self.spread == Spread::Sensitivity
    }

    /// Whether ranks depend on a look at all matrices.
    pub fn is_surveyed(&self) -> bool {
        self.is_by_block() || self.is_by_error() || self.is_by_loss()
    }

    /// How the rank of a layer was chosen, if not by its own numbers alone.
    pub fn how(&self) -> Option<String> {
        self.is_by_loss().then(|| format!("by the loss of the model on {} tokens with each matrix alone", self.tokens))
    }

    /// Whether the survey must be made before anything is known of a rank.
    pub fn must_survey(&self) -> bool {
        self.is_surveyed() && self.found.is_none()
    }

    /// What the survey must see, if errors take `errors`.
    pub fn survey_needs(&self, errors: Needs) -> Needs {
        match self.spread {
            // Moments stand for a look at activations, with which the influence comes.
            Spread::Influence => Needs { moments: true, ..Needs::default() },
            Spread::CodingRate => Needs { coding_rate: true, ..Needs::default() },
            _ if self.is_by_error() || self.is_by_loss() => errors,
            _ => Needs::default(),
        }
    }

    /// What a layer costs.
    pub fn size(&self, site: &Site, layer: &Linear<Form>) -> Size {
        let shape = layer.weight.shape();
        // Of the token table the rows are looked up: what is added to them is as wide as they are.
        let width = if site.role == Role::Tokens { shape[1] } else { shape[0] };
        let beside = if self.biased && layer.bias.is_none() { width as u64 } else { 0 };
        Size { shape, held: layer.weight.parameters(), beside }
    }

    /// The rank for a matrix, or `None` if it stays as it is.
    ///
    /// # Errors
    /// [`Error::NeedsSurvey`] before the survey, [`Error::Changed`] for a site that it did not look at.
    pub fn rank(&self, method: &'static str, site: &Site, size: Size) -> Result<Option<usize>> {
        if self.is_surveyed() {
            let found = self.found.as_ref().ok_or_else(|| Error::NeedsSurvey { method, site: site.clone() })?;
            let rank = found.get(site).ok_or_else(|| Error::Changed { method, site: site.clone() })?;
            return Ok(rank.filter(|&rank| rank <= size.most()));
        }
        Ok(match self.keep {
            Keep::Ratio(ratio) => size.of_share(ratio, self.multiple),
            Keep::Rank(rank) => size.rounded(rank, self.multiple, false),
            Keep::Energy(_) => unreachable!("errors of all ranks are looked at"),
        })
    }

    /// The survey that finds the ranks, unless there is nothing to find. `errors` gives the squared error that each
    /// direction of a layer bears, greatest first; `finish` is the method with the ranks.
    pub fn survey(
        &self,
        method: &'static str,
        errors: impl Fn(&Site, &Linear<Weight>, &Seen) -> Result<Vec<f64>> + Send + 'static,
        finish: impl FnOnce(Ranks) -> Box<dyn LinearMethod> + Send + 'static,
    ) -> Option<Box<dyn Survey>> {
        let never = |_: &Site, _: &Linear<Weight>, _: &Seen, _: &[usize]| Ok(Vec::new());
        self.search(method, errors, never, finish)
    }

    /// The same of a method that can be asked for `allocation: sensitivity`; `at` gives a layer at each of some ranks.
    pub fn search(
        &self,
        method: &'static str,
        errors: impl Fn(&Site, &Linear<Weight>, &Seen) -> Result<Vec<f64>> + Send + 'static,
        at: impl Fn(&Site, &Linear<Weight>, &Seen, &[usize]) -> Result<Vec<Weight>> + Send + 'static,
        finish: impl FnOnce(Ranks) -> Box<dyn LinearMethod> + Send + 'static,
    ) -> Option<Box<dyn Survey>> {
        self.must_survey().then(|| -> Box<dyn Survey> {
            let (errors, at, finish) = (Box::new(errors), Box::new(at), Box::new(finish));
            let (layers, trials) = (Vec::new(), Vec::new());
            Box::new(Look { method, ranks: self.clone(), layers, trials, errors, at, finish })
        })
    }

    /// The ranks of all layers that were looked at.
    fn choose(&self, layers: &[Layer], trials: Vec<Trial>) -> BTreeMap<Site, Option<usize>> {
        let ranks: Vec<Option<usize>> = match (self.keep, self.spread) {
            (Keep::Energy(energy), _) => layers
                .iter()
                .map(|layer| layer.size.rounded(rank_for(energy, &layer.errors), self.multiple, true))
                .collect(),
            (Keep::Ratio(ratio), Spread::Waterfill) => {
                let curves: Vec<Curve> = layers.iter().map(|layer| Curve::new(layer.size, &layer.errors)).collect();
                fill(&curves, budget(layers, ratio), self.multiple)
            }
            (Keep::Ratio(ratio), Spread::Sensitivity) => {
                let sizes: Vec<Size> = layers.iter().map(|layer| layer.size).collect();
                search(&sizes, trials, budget(layers, ratio))
            }
            (Keep::Ratio(ratio), _) => {
                let found = |layer: &Layer| Found { parameters: layer.size.all() as f64, value: layer.value };
                let found = layers.iter().map(|layer| (layer.site.clone(), found(layer))).collect();
                let gone = by_influence(&found, 1.0 - ratio, self.band);
                let share = |layer: &Layer| 1.0 - gone.get(&layer.site.place).copied().unwrap_or(1.0 - ratio);
                layers.iter().map(|layer| layer.size.of_share(share(layer), self.multiple)).collect()
            }
            (Keep::Rank(_), _) => unreachable!("a rank is not surveyed"),
        };
        layers.iter().map(|layer| layer.site.clone()).zip(ranks).collect()
    }
}

/// The numbers that all layers may hold together.
fn budget(layers: &[Layer], ratio: f64) -> u64 {
    (ratio * layers.iter().map(|layer| layer.size.all()).sum::<u64>() as f64).floor() as u64
}

/// What was found of one layer.
struct Layer {
    site: Site,
    size: Size,
    /// The squared error that each direction bears, if errors count.
    errors: Vec<f64>,
    /// What its block does, if that counts.
    value: Option<f64>,
}

/// What gives the squared error of each direction of a layer.
type Errors = Box<dyn Fn(&Site, &Linear<Weight>, &Seen) -> Result<Vec<f64>> + Send>;

/// What gives a layer at each of some ranks.
type At = Box<dyn Fn(&Site, &Linear<Weight>, &Seen, &[usize]) -> Result<Vec<Weight>> + Send>;

struct Look {
    method: &'static str,
    ranks: Ranks,
    layers: Vec<Layer>,
    /// Losses are filled in as they are told, in order.
    trials: Vec<Trial>,
    errors: Errors,
    at: At,
    finish: Box<dyn FnOnce(Ranks) -> Box<dyn LinearMethod> + Send>,
}

impl Survey for Look {
    fn look(&mut self, site: &Site, layer: &Linear<Weight>, seen: &Seen) -> Result<()> {
        if self.layers.iter().any(|known| known.site == *site) {
            return Err(Error::Changed { method: self.method, site: site.clone() });
        }
        let errors = if self.ranks.is_by_error() { (self.errors)(site, layer, seen)? } else { Vec::new() };
        let value = match self.ranks.spread {
            Spread::Influence => seen.influence,
            Spread::CodingRate => seen.coding_rate,
            _ => None,
        };
        let forms = Linear { weight: Form::of(&layer.weight), bias: layer.bias.as_ref().map(Form::of) };
        self.layers.push(Layer { site: site.clone(), size: self.ranks.size(site, &forms), errors, value });
        Ok(())
    }

    fn next_pass(&mut self) -> bool {
        false
    }

    fn tokens(&self) -> Option<usize> {
        self.ranks.is_by_loss().then_some(self.ranks.tokens)
    }

    fn trials(&mut self, site: &Site, layer: &Linear<Weight>, seen: &Seen) -> Result<Vec<Linear<Weight>>> {
        let Some(known) = self.layers.iter().position(|known| known.site == *site) else { return Ok(Vec::new()) };
        let mut ranks: Vec<usize> =
            RATIOS.iter().filter_map(|&ratio| self.layers[known].size.of_share(ratio, self.ranks.multiple)).collect();
        ranks.dedup();
        let versions = (self.at)(site, layer, seen, &ranks)?;
        self.trials.extend(ranks.iter().map(|&rank| Trial { layer: known, rank, loss: f64::INFINITY }));
        Ok(versions.into_iter().map(|weight| Linear { weight, bias: layer.bias.clone() }).collect())
    }

    fn losses(&mut self, losses: &[f64]) {
        self.trials.iter_mut().zip(losses).for_each(|(trial, &loss)| trial.loss = loss);
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn LinearMethod>> {
        let found = Some(Arc::new(self.ranks.choose(&self.layers, self.trials)));
        Ok((self.finish)(Ranks { found, ..self.ranks }))
    }
}

/// The smallest count of leading squares that hold this share of their sum; at least 1.
fn rank_for(energy: f64, squares: &[f64]) -> usize {
    let wanted = energy * squares.iter().sum::<f64>();
    let mut held = 0.0;
    let enough = squares.iter().position(|square| {
        held += square;
        held >= wanted
    });
    enough.map_or(squares.len(), |n| n + 1).max(1)
}

#[cfg(test)]
mod tests;
