//! How much each block loses, so that all of them together lose the share that was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_model::{Place, Role, Site, Sublayer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::block::{BlockMethod, BlockSurvey, Influence, Sizes};
use crate::error::{Error, Result};
use crate::settings::{Setting, value_error};

pub(crate) const SPARSITY: Setting = Setting {
    name: "sparsity",
    about: "the share to remove, from 0 up to but not including 1, of what `of` says",
    default: "0.2",
};
pub(crate) const OF: Setting = Setting {
    name: "of",
    about: "what `sparsity` is a share of: the parameters of the `sublayer`, or those of the whole `block`, which the \
            sublayer alone then gives up as far as it can",
    default: "sublayer",
};
pub(crate) const ALLOCATION: Setting = Setting {
    name: "allocation",
    about: "how the share is spread over blocks: `uniform`, or `influence` (less from blocks that change more)",
    default: "uniform",
};
pub(crate) const TEMPERATURE: Setting = Setting {
    name: "temperature",
    about: "above 0: how evenly `allocation: influence` spreads the share; the smaller, the more is taken from blocks that \
            change little",
    default: "0.15",
};
pub(crate) const MOST: Setting = Setting {
    name: "most",
    about: "the largest share that one block loses under `allocation: influence`, above 0 and below 1",
    default: "0.8",
};

/// How the share is spread over blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Spread {
    #[default]
    Uniform,
    Influence,
}

/// What the share is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    #[default]
    Sublayer,
    Block,
}

/// The settings as they are written.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ShareSettings {
    pub sparsity: Option<f64>,
    pub of: Option<Of>,
    pub allocation: Option<Spread>,
    pub temperature: Option<f64>,
    pub most: Option<f64>,
}

/// A share for each block.
///
/// Under `influence` block `i` of `p_i` parameters loses `min(most, t exp(-B_i / temperature))`, where `B_i` is one minus
/// the mean cosine between what goes into the block and what comes out of it, with the `t` for which the mean over
/// all blocks, weighted by `p_i`, is `sparsity`. Influences are those of the original model on the first 16 samples.
///
/// # Source
/// Lin et al. 2024 (MoDeGPT), arXiv:2408.09632, equation 10, with a bound on what one block loses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shares {
    pub sparsity: f64,
    pub of: Of,
    spread: Spread,
    temperature: f64,
    most: f64,
    known: Option<Arc<BTreeMap<Place, f64>>>,
}

impl Shares {
    pub(crate) fn parse(method: &'static str, known: &[Setting], s: ShareSettings, spread: Spread) -> Result<Self> {
        let bad = |name, value: f64| Err(value_error(method, known, name, &value.into()));
        let spread = s.allocation.unwrap_or(spread);
        match (s.sparsity, s.temperature, s.most) {
            (Some(x), _, _) if !(0.0..1.0).contains(&x) => return bad("sparsity", x),
            (_, Some(x), _) if !(x > 0.0 && x.is_finite()) => return bad("temperature", x),
            (_, _, Some(x)) if !(x > 0.0 && x < 1.0) => return bad("most", x),
            _ => {}
        }
        if spread == Spread::Uniform && (s.temperature.is_some() || s.most.is_some()) {
            return Err(Error::Settings { method, wants: "`allocation: influence` with `temperature` or `most`" });
        }
        Ok(Shares {
            sparsity: s.sparsity.unwrap_or(0.2),
            of: s.of.unwrap_or_default(),
            spread,
            temperature: s.temperature.unwrap_or(0.15),
            most: s.most.unwrap_or(0.8),
            known: None,
        })
    }

    /// Adds the settings to those of a method.
    pub(crate) fn write(&self, settings: &mut Value) {
        settings["sparsity"] = json!(self.sparsity);
        settings["of"] = json!(self.of);
        settings["allocation"] = json!(self.spread);
        if self.spread == Spread::Influence {
            settings["temperature"] = json!(self.temperature);
            settings["most"] = json!(self.most);
        }
    }

    /// The share that a sublayer of a block loses of its own parameters.
    ///
    /// # Errors
    /// [`Error::NeedsSurvey`] before the survey, [`Error::Changed`] for a block that it did not look at.
    pub(crate) fn of_part(&self, method: &'static str, place: Place, sizes: Sizes, part: Sublayer) -> Result<f64> {
        let site = || Site::new(place, if part == Sublayer::Attn { Role::O } else { Role::Down });
        let share = match (self.spread, self.sparsity) {
            (_, 0.0) => 0.0,
            (Spread::Uniform, share) => share,
            (Spread::Influence, _) => {
                let known = self.known.as_ref().ok_or_else(|| Error::NeedsSurvey { method, site: site() })?;
                *known.get(&place).ok_or_else(|| Error::Changed { method, site: site() })?
            }
        };
        Ok(match (self.of, sizes.part(part)) {
            (Of::Sublayer, _) | (_, 0) => share,
            (Of::Block, own) => (share * sizes.all() as f64 / own as f64).min(0.95),
        })
    }

    /// The survey that finds the shares, unless there is nothing to find; `finish` is the method with them.
    pub(crate) fn survey(
        &self,
        finish: impl FnOnce(Shares) -> Box<dyn BlockMethod> + Send + 'static,
    ) -> Option<Box<dyn BlockSurvey>> {
        let known = self.spread == Spread::Uniform || self.known.is_some() || self.sparsity == 0.0;
        (!known).then(|| -> Box<dyn BlockSurvey> {
            Box::new(Look { shares: self.clone(), found: Vec::new(), finish: Box::new(finish) })
        })
    }

    fn spread(&self, found: &[(Place, f64, f64)]) -> BTreeMap<Place, f64> {
        let all: f64 = found.iter().map(|(_, parameters, _)| parameters).sum();
        let least = found.iter().map(|(_, _, influence)| *influence).fold(f64::INFINITY, f64::min);
        let weight = |influence: f64| (-((influence - least) / self.temperature).min(600.0)).exp();
        let most = self.most.max(self.sparsity);
        let at = |influence: f64, t: f64| (t * weight(influence)).min(most);
        let mean = |t: f64| found.iter().map(|(_, p, i)| p * at(*i, t)).sum::<f64>() / all.max(1.0);
        // Beyond this every block is at its bound.
        let (mut low, mut high) = (0.0, 1.0);
        while mean(high) < self.sparsity && high < 1e300 {
            high *= 2.0;
        }
        for _ in 0..200 {
            let middle = 0.5 * (low + high);
            if mean(middle) < self.sparsity { low = middle } else { high = middle }
        }
        found.iter().map(|(place, _, influence)| (*place, at(*influence, high))).collect()
    }
}

struct Look {
    shares: Shares,
    found: Vec<(Place, f64, f64)>,
    finish: Box<dyn FnOnce(Shares) -> Box<dyn BlockMethod> + Send>,
}

impl BlockSurvey for Look {
    fn look(&mut self, place: Place, parts: &[Sublayer], sizes: Sizes, influence: Influence) {
        let parameters: u64 = parts.iter().map(|&part| sizes.part(part)).sum();
        self.found.push((place, parameters as f64, influence.block));
    }

    fn finish(self: Box<Self>) -> Result<Box<dyn BlockMethod>> {
        let known = Some(Arc::new(self.shares.spread(&self.found)));
        Ok((self.finish)(Shares { known, ..self.shares }))
    }
}

/// How many of `count` are kept when this share goes: the nearest multiple of `multiple`, at least one, at most all.
pub(crate) fn kept(count: usize, share: f64, multiple: usize) -> usize {
    let exact = (1.0 - share) * count as f64;
    let multiple = multiple.max(1).min(count.max(1));
    let rounded = (exact / multiple as f64).round() as usize * multiple;
    // Where nothing goes, nothing is rounded off.
    if share == 0.0 { count } else { rounded.clamp(multiple, count) }
}

/// The `count` places with the highest scores, in rising order; of equal ones the first.
pub(crate) fn highest(scores: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(sparsity: f64, temperature: f64, most: f64) -> Shares {
        let s = ShareSettings {
            sparsity: Some(sparsity),
            temperature: Some(temperature),
            most: Some(most),
            ..ShareSettings::default()
        };
        Shares::parse("m", &[], s, Spread::Influence).unwrap()
    }

    fn mean(of: &BTreeMap<Place, f64>) -> f64 {
        of.values().sum::<f64>() / of.len() as f64
    }

    #[test]
    fn shares_meet_the_budget_after_the_bound_and_fall_with_influence() {
        let found: Vec<_> =
            [0.9, 0.05, 0.1, 0.3].iter().enumerate().map(|(n, &b)| (Place::Block(n as u32), 1.0, b)).collect();
        let spread = shares(0.3, 0.1, 0.5).spread(&found);
        let list: Vec<f64> = spread.values().copied().collect();
        assert!((mean(&spread) - 0.3).abs() < 1e-12);
        assert!(list.iter().all(|&share| (0.0..=0.5).contains(&share)));
        assert!(list[1] >= list[2] && list[2] > list[3] && list[3] > list[0]);
        assert_eq!(list[1], 0.5, "the bound holds");
        // A high temperature is uniform.
        let even = shares(0.3, 1e9, 0.8).spread(&found);
        assert!(even.values().all(|share| (share - 0.3).abs() < 1e-8));
    }

    #[test]
    fn a_share_of_the_block_is_larger_in_the_sublayer_and_never_everything() {
        let s = ShareSettings { sparsity: Some(0.3), of: Some(Of::Block), ..ShareSettings::default() };
        let shares = Shares::parse("m", &[], s, Spread::Uniform).unwrap();
        let sizes = Sizes { attn: 100, mlp: 300 };
        assert!((shares.of_part("m", Place::Block(0), sizes, Sublayer::Mlp).unwrap() - 0.4).abs() < 1e-12);
        assert_eq!(shares.of_part("m", Place::Block(0), sizes, Sublayer::Attn).unwrap(), 0.95);
    }

    #[test]
    fn counts_are_multiples_and_never_nothing() {
        assert_eq!(kept(1536, 0.2, 8), 1232);
        assert_eq!(kept(1536, 0.0, 8), 1536);
        assert_eq!(kept(13, 0.0, 8), 13);
        assert_eq!(kept(13, 0.99, 8), 8);
        assert_eq!(kept(3, 0.99, 8), 3, "fewer than a multiple cannot be cut");
        assert_eq!(kept(9, 0.2, 1), 7);
        assert_eq!(highest(&[1.0, 3.0, 3.0, 2.0], 2), [1, 2]);
        assert_eq!(highest(&[1.0, 1.0, 1.0], 2), [0, 1]);
    }
}
