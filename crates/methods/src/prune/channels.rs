//! `prune.channels`: takes whole channels out of MLPs.

use brevity_model::{Form, Mlp, Place, Role, Site, Sublayer, Tap, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::block::{BlockCx, BlockMethod, BlockSurvey, Part, Sizes};
use crate::compensation::{CENTRE, COMPENSATE, Compensation, CompensationSettings, RIDGE, put, put_form, refit_bytes};
use crate::cut::{cut_output_forms, cut_outputs, doubles, masked};
use crate::error::{Error, Result};
use crate::refit::{Compensate, few, leverage};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read, value_error};
use crate::shares::{ALLOCATION, MOST, OF, SPARSITY, ShareSettings, Shares, Spread, TEMPERATURE, highest, kept};
use crate::{Entry, Kind, Parse};

const NAME: &str = "prune.channels";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Takes the channels of MLPs that matter least out of all their matrices, and lets the others make up for them",
    settings: SETTINGS,
    parse: Parse::Block(|settings| Ok(Box::new(Channels::parse(settings)?))),
    kind: Kind::Reduce,
};

const SETTINGS: &[Setting] = &[
    SPARSITY,
    OF,
    Setting {
        name: "score",
        about: "which channels stay: those with the largest `wanda` (norm of the column of `down` times the root mean square \
                of the channel), `flap` (squared norm times variance), `leverage` (what cannot be told from the others, \
                as a ridge leverage score) or `magnitude` (of their weights alone)",
        default: "wanda",
    },
    COMPENSATE,
    RIDGE,
    CENTRE,
    ALLOCATION,
    TEMPERATURE,
    MOST,
    Setting { name: "multiple", about: "round what stays to a multiple of this, at least 1", default: "8" },
];

/// Which channels stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Score {
    #[default]
    Wanda,
    Flap,
    Leverage,
    Magnitude,
}

/// The ridge of leverage scores.
pub(crate) const LEVERAGE_RIDGE: f64 = 1e-2;

/// Takes channels out of an MLP: rows of gate and up, columns of down.
///
/// With `z` the inputs of `down` and `S` the channels that stay, `down` becomes `W[:, S]` (`compensate: none`), the same
/// with the mean of the rest in its bias (`mean`), or the least-squares optimum `W C[:, S] (C[S, S] + λI)⁻¹`, `C` the
/// second moments of `z`; never what does worse than `none` on samples kept apart. Scores of channel `j` are
/// `‖W_j‖ rms(z_j)` (`wanda`), `‖W_j‖² var(z_j)` (`flap`), `1 - λ (C + λI)⁻¹_jj` with `λ` a hundredth of the mean of the
/// diagonal (`leverage`), or the product of the norms of its rows and its column (`magnitude`); of equal ones the first
/// stays.
///
/// # Shapes
/// Gate and up `[ffn, hidden]` become `[k, hidden]`, down `[hidden, k]`; `k` is the multiple of `multiple` nearest to
/// `(1 - share) ffn`, and never nothing.
///
/// # Cost
/// Second moments of the inputs of `down`; for least squares `k³ / 3 + k ffn hidden` multiplications in double precision,
/// and for leverage `4 ffn³ / 3`.
///
/// # Errors
/// [`Error::Coded`] if a matrix is coded, [`Error::NotFinite`], [`Error::Unseen`] if nothing was seen.
///
/// # Source
/// Sun et al. 2023, arXiv:2306.11695, by column; An et al. 2023 (FLAP), arXiv:2312.11983; leverage scores and Nyström's
/// solution as Lin et al. 2024, arXiv:2408.09632, have them.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    pub(crate) shares: Shares,
    pub(crate) score: Score,
    pub(crate) compensation: Compensation,
    pub(crate) multiple: usize,
    pub(crate) method: &'static str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    #[serde(flatten)]
    shares: ShareSettings,
    score: Option<Score>,
    #[serde(flatten)]
    compensation: CompensationSettings,
    multiple: Option<usize>,
}

impl Channels {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let shares = Shares::parse(NAME, SETTINGS, s.shares, Spread::Uniform)?;
        let compensation = Compensation::parse(NAME, SETTINGS, s.compensation)?;
        let multiple = match s.multiple {
            Some(0) => return Err(value_error(NAME, SETTINGS, "multiple", &0.into())),
            multiple => multiple.unwrap_or(8),
        };
        Ok(Channels { shares, score: s.score.unwrap_or_default(), compensation, multiple, method: NAME })
    }

    fn count(&self, place: Place, sizes: Sizes, channels: usize) -> Result<usize> {
        Ok(kept(channels, self.shares.of_part(self.method, place, sizes, Sublayer::Mlp)?, self.multiple))
    }

    pub(crate) fn mlp(&self, mlp: &mut Mlp<Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        let channels = mlp.up.weight.shape()[0];
        let count = self.count(cx.place, cx.sizes, channels)?;
        if count >= channels {
            cx.kept = Some((0..channels).collect());
            return Ok(());
        }
        let nothing = Seen::nothing();
        let seen = cx.seen.get(&Tap::MlpMid).unwrap_or(&nothing);
        let down = cx.site(Role::Down);
        let w = doubles(&down, &mlp.down.weight)?;
        let scores = self.scores(mlp, &w, seen, cx)?;
        let stay = highest(&scores, count);
        let lost = masked(&mlp.up) + masked(&mlp.down) + mlp.gate.as_ref().map_or(0, masked);
        if lost > 0 {
            cx.notes.push(format!("the masks over {lost} removed entries are lost"));
        }
        for (role, layer) in [(Role::Up, Some(&mut mlp.up)), (Role::Gate, mlp.gate.as_mut())] {
            if let Some(layer) = layer {
                cut_outputs(self.method, &cx.site(role), layer, &stay)?;
            }
        }
        let refit = self.compensation.refit(mlp.down.bias.is_some());
        cx.notes.extend(few(seen, channels));
        let fitted = refit.keep_inputs(&w, seen, &stay);
        drop(w);
        cx.notes.push(format!("{count} of {channels} channels"));
        if fitted.is_none() && refit.how != Compensate::None {
            cx.notes.push("nothing was seen of its channels, so nothing is made up for".into());
        }
        put(self.method, &down, &mut mlp.down, &stay, fitted, refit, cx)?;
        cx.kept = Some(stay);
        Ok(())
    }

    /// How much each channel matters.
    fn scores(&self, mlp: &Mlp<Weight>, w: &[f64], seen: &Seen, cx: &mut BlockCx<'_>) -> Result<Vec<f64>> {
        let channels = mlp.up.weight.shape()[0];
        let mut norms = vec![0.0; channels];
        w.chunks(channels).for_each(|row| norms.iter_mut().zip(row).for_each(|(norm, w)| *norm += w * w));
        let unseen = || Error::Unseen { method: self.method, site: cx.site(Role::Down), what: "its inputs" };
        if self.score == Score::Magnitude {
            for layer in [Some(&mlp.up), mlp.gate.as_ref()].into_iter().flatten() {
                let rows = doubles(&cx.site(Role::Up), &layer.weight)?;
                let inputs = layer.weight.shape()[1];
                let squares = rows.chunks(inputs.max(1)).map(|row| row.iter().map(|w| w * w).sum::<f64>());
                norms.iter_mut().zip(squares).for_each(|(norm, square)| *norm *= square);
            }
            return Ok(norms);
        }
        let gram = seen.gram().ok_or_else(unseen)?;
        let squares = gram.diagonal();
        if gram.trace() <= 0.0 {
            cx.notes.push("its channels were always zero, so the magnitude of weights decides".into());
            return Ok(norms);
        }
        let count = (seen.fit.count + seen.held_out.count).max(1) as f64;
        Ok(match self.score {
            Score::Wanda => norms.iter().zip(&squares).map(|(norm, square)| norm * square).collect(),
            Score::Flap => {
                let sum = |at: usize| {
                    let of = |sums: &[f64]| sums.get(at).copied().unwrap_or(0.0);
                    of(&seen.fit.sum) + of(&seen.held_out.sum)
                };
                let variance = |at: usize| (squares[at] / count - (sum(at) / count).powi(2)).max(0.0);
                (0..channels).map(|at| norms[at] * variance(at)).collect()
            }
            Score::Leverage => leverage(&gram, LEVERAGE_RIDGE).ok_or_else(unseen)?,
            Score::Magnitude => unreachable!("done before"),
        })
    }

    pub(crate) fn predict_mlp(&self, place: Place, sizes: Sizes, mlp: &mut Mlp<Form>) -> Result<()> {
        let channels = mlp.up.weight.shape()[0];
        let count = self.count(place, sizes, channels)?;
        if count >= channels {
            return Ok(());
        }
        for (role, layer) in [(Role::Up, Some(&mut mlp.up)), (Role::Gate, mlp.gate.as_mut())] {
            if let Some(layer) = layer {
                cut_output_forms(self.method, &Site::new(place, role), layer, count)?;
            }
        }
        let centre = self.compensation.centre(mlp.down.bias.is_some());
        put_form(self.method, &Site::new(place, Role::Down), &mut mlp.down, count, self.compensation.how, centre)
    }
}

impl BlockMethod for Channels {
    fn rewrites(&self, part: Sublayer) -> bool {
        part == Sublayer::Mlp
    }

    fn needs(&self, tap: Tap) -> Needs {
        let looks = self.score != Score::Magnitude || self.compensation.how != Compensate::None;
        match tap {
            Tap::MlpMid if looks => Needs {
                gram: true,
                moments: true,
                held_out: self.compensation.how == Compensate::LeastSquares,
                ..Needs::default()
            },
            _ => Needs::default(),
        }
    }

    fn rewrite(&self, part: Part<'_, Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        match part {
            Part::Mlp(Some(mlp)) => self.mlp(mlp, cx),
            _ => Ok(()),
        }
    }

    fn predict(&self, place: Place, sizes: Sizes, part: Part<'_, Form>) -> Result<()> {
        match part {
            Part::Mlp(Some(mlp)) => self.predict_mlp(place, sizes, mlp),
            _ => Ok(()),
        }
    }

    fn survey(&self) -> Option<Box<dyn BlockSurvey>> {
        let method = self.clone();
        self.shares.survey(move |shares| Box::new(Channels { shares, ..method }))
    }

    fn settings(&self) -> Value {
        let mut settings = json!({ "score": self.score, "multiple": self.multiple });
        self.shares.write(&mut settings);
        self.compensation.write(&mut settings);
        settings
    }

    fn peak_bytes(&self, block: &brevity_model::Block<Form>) -> u64 {
        let Some(mlp) = &block.mlp else { return 0 };
        let [hidden, channels] = mlp.down.weight.shape();
        refit_bytes(hidden, channels)
    }
}

#[cfg(test)]
mod tests;
