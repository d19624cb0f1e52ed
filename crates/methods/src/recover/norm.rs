//! `recover.norm`: refits the gains of norms to what sublayers read in the original model.

use brevity_model::{Form, NormKind, Place, Role, Sublayer, Tap, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::block::{BlockCx, BlockMethod, Part, Sizes};
use crate::cut::{doubles, float_dtype, matrix};
use crate::error::{Error, Result};
use crate::seen::{Fold, Needs};
use crate::settings::{Setting, read};
use crate::{Entry, Kind, Parse};

const NAME: &str = "recover.norm";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Refits the norms in front of attention and MLP to what these read in the original model, channel by channel",
    settings: SETTINGS,
    parse: Parse::Block(|settings| Ok(Box::new(Norm::parse(settings)?))),
    kind: Kind::Correct,
};

const SETTINGS: &[Setting] = &[];

/// Refits the norms in front of attention and MLP to what these read in the original model, channel by channel.
///
/// With `x_j` channel `j` of what the norm gives in the compressed model and `r_j` that in the original one, its gain is
/// multiplied by `a_j = Σ r_j x_j / Σ x_j²`, which of all factors leaves the least `Σ (r_j - a_j x_j)²`. Where the norm has
/// a bias, `a_j` is the slope of the line of least squares, and the bias makes up for the means. Channels that were
/// always zero stay. If all of it does not lower the error on samples kept apart, after a fit to the others, the norm stays
/// as it is, and the notes say so; else it is fitted to all samples. Where both models are alike, nothing changes.
///
/// What the matrices behind the norm read is looked at again, so steps for single layers find it as it is. Steps for
/// whole sublayers belong in front of this one. Sublayers without a norm in front are left alone.
///
/// # Cost
/// The original model beside the compressed one, and three sums for each channel.
///
/// # Errors
/// [`Error::Coded`] if the gain is coded, [`Error::NotFinite`], [`Error::Unseen`] if both models were not looked at.
///
/// # Source
/// Least squares for each channel by itself; the target is that of asymmetric calibration, Li et al. 2025 (GPTAQ),
/// arXiv:2504.02692.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Norm;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {}

/// `r ≈ slope x + start`, for each channel.
struct Lines {
    slope: Vec<f64>,
    start: Vec<f64>,
}

impl Norm {
    fn parse(settings: Value) -> Result<Self> {
        let Settings {} = read(NAME, SETTINGS, settings)?;
        Ok(Norm)
    }
}

/// The lines of least squares of some samples, through zero unless the norm has a bias; none if nothing was seen.
fn lines(fold: &Fold, biased: bool) -> Option<Lines> {
    if fold.reference_dot.is_empty() || fold.sum_sq.is_empty() || fold.count == 0 {
        return None;
    }
    let count = fold.count as f64;
    let channels = 0..fold.sum_sq.len();
    let line = |j: usize| {
        let (x, r) = (fold.sum[j] / count, fold.reference_sum[j] / count);
        let (dot, square) = match biased {
            true => (fold.reference_dot[j] - count * r * x, fold.sum_sq[j] - count * x * x),
            false => (fold.reference_dot[j], fold.sum_sq[j]),
        };
        // Rounding leaves something of the variance of a channel that is always the same.
        let slope = if square > 1e-12 * fold.sum_sq[j] { dot / square } else { 1.0 };
        (slope, if biased { r - slope * x } else { 0.0 })
    };
    let (slope, start) = channels.map(line).unzip();
    Some(Lines { slope, start })
}

/// By how much lines lower `Σ (r - x)²`.
fn gain(fold: &Fold, lines: &Lines) -> f64 {
    let count = fold.count as f64;
    let channel = |j: usize| {
        let (a, c) = (lines.slope[j], lines.start[j]);
        let squares = (1.0 - a * a) * fold.sum_sq[j] + 2.0 * (a - 1.0) * fold.reference_dot[j];
        squares + c * (2.0 * fold.reference_sum[j] - 2.0 * a * fold.sum[j] - count * c)
    };
    (0..fold.sum_sq.len()).map(channel).sum()
}

impl BlockMethod for Norm {
    fn needs(&self, tap: Tap) -> Needs {
        match tap {
            Tap::AttnIn | Tap::MlpIn => Needs { moments: true, reference: true, held_out: true, ..Needs::default() },
            _ => Needs::default(),
        }
    }

    fn moves_inputs(&self) -> bool {
        true
    }

    fn rewrite(&self, part: Part<'_, Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        let (norm, tap, role, first) = match part {
            Part::Attn(Some(attn)) => (&mut attn.before, Tap::AttnIn, Role::AttnBefore, Role::Q),
            Part::Mlp(Some(mlp)) => (&mut mlp.before, Tap::MlpIn, Role::MlpBefore, Role::Up),
            _ => return Ok(()),
        };
        let (name, site) = (role.to_string(), cx.site(role));
        let Some(norm) = norm else {
            cx.notes.push("no norm in front of it to refit".into());
            return Ok(());
        };
        let reader = cx.site(first);
        let unseen = || Error::Unseen { method: NAME, site: reader.clone(), what: "its inputs in both models" };
        let seen = cx.seen.get(&tap).ok_or_else(unseen)?;
        let biased = norm.bias.is_some();
        let mut stays = |why: &str| {
            cx.notes.push(format!("{name} not refitted: {why}"));
            Ok(())
        };
        let fitted = lines(&seen.fit, biased).ok_or_else(unseen)?;
        let alike = |fold: &Fold| fold.reference_dot == fold.sum_sq && fold.reference_sum == fold.sum;
        if alike(&seen.fit) && alike(&seen.held_out) {
            return stays("its outputs are those of the original model");
        }
        let held_out = Some(&seen.held_out).filter(|fold| !fold.reference_dot.is_empty());
        let lines = match held_out {
            Some(held_out) if gain(held_out, &fitted) <= 0.0 => {
                return stays("it would be no better on held-out samples");
            }
            Some(held_out) => {
                let mut all = seen.fit.clone();
                all.merge(held_out);
                lines(&all, biased).ok_or_else(unseen)?
            }
            None => fitted,
        };
        let gain_form = Form::of(&norm.gain);
        let dtype = float_dtype(NAME, &site, &gain_form)?;
        let offset = if norm.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
        let gains = doubles(&site, &norm.gain)?;
        let gains: Vec<f64> = gains.iter().zip(&lines.slope).map(|(g, a)| a * (g + offset) - offset).collect();
        norm.gain = matrix(gain_form.shape(), &gains, dtype);
        if let Some(bias) = &mut norm.bias {
            let form = Form::of(bias);
            let values = doubles(&site, bias)?;
            let lines = lines.slope.iter().zip(&lines.start);
            let values: Vec<f64> = values.iter().zip(lines).map(|(b, (a, c))| a * b + c).collect();
            *bias = matrix(form.shape(), &values, float_dtype(NAME, &site, &form)?);
        }
        let mean = lines.slope.iter().sum::<f64>() / lines.slope.len().max(1) as f64;
        cx.figures.push(("norm_gain".into(), mean));
        Ok(())
    }

    fn predict(&self, place: Place, _: Sizes, part: Part<'_, Form>) -> Result<()> {
        let (norm, role) = match part {
            Part::Attn(Some(attn)) => (&attn.before, Role::AttnBefore),
            Part::Mlp(Some(mlp)) => (&mlp.before, Role::MlpBefore),
            _ => return Ok(()),
        };
        let site = brevity_model::Site::new(place, role);
        match norm {
            None => Ok(()),
            Some(norm) => [Some(&norm.gain), norm.bias.as_ref()]
                .into_iter()
                .flatten()
                .try_for_each(|form| float_dtype(NAME, &site, form).map(|_| ())),
        }
    }

    fn settings(&self) -> Value {
        json!({})
    }

    fn peak_bytes(&self, block: &brevity_model::Block<Form>) -> u64 {
        let of = |part: Sublayer| match part {
            Sublayer::Attn => block.attn.as_ref().map_or(0, |attn| attn.q.weight.shape()[1]),
            Sublayer::Mlp => block.mlp.as_ref().map_or(0, |mlp| mlp.up.weight.shape()[1]),
        };
        64 * of(Sublayer::Attn).max(of(Sublayer::Mlp)) as u64
    }
}

#[cfg(test)]
mod tests;
