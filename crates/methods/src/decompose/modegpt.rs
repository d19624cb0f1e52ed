//! `decompose.modegpt`: fewer dimensions between the two matrices of each module, with no matrix added.

mod key;
mod value;

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::matmul_f64;
use brevity_kernels::matmul::Dims;
use brevity_model::{Attention, Form, Place, Role, Site, Sublayer, Tap, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::block::{BlockCx, BlockMethod, BlockSurvey, Part, Sizes};
use crate::compensation::{CENTRE, Compensation, CompensationSettings, RIDGE, refit_bytes};
use crate::cut::{float_dtype, masked};
use crate::error::{Error, Result};
use crate::prune::channels::{Channels, Score};
use crate::refit::Ridge;
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read, value_error};
use crate::shares::{ALLOCATION, MOST, SPARSITY, ShareSettings, Shares, Spread, TEMPERATURE};
use crate::{Entry, Kind, Parse};

const NAME: &str = "decompose.modegpt";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Takes dimensions out between the two matrices of each module: MLP channels, query/key pairs, value dimensions",
    settings: SETTINGS,
    parse: Parse::Block(|settings| Ok(Box::new(Modegpt::parse(settings)?))),
    kind: Kind::Reduce,
};

const SETTINGS: &[Setting] = &[
    Setting { about: "the share of the parameters of blocks to remove, from 0 up to but not including 1", ..SPARSITY },
    Setting { default: "influence", ..ALLOCATION },
    TEMPERATURE,
    MOST,
    RIDGE,
    CENTRE,
    Setting { name: "multiple", about: "round the channels that stay to a multiple of this, at least 1", default: "8" },
    Setting { name: "query_key", about: "whether dimensions of queries and keys are taken out", default: "true" },
    Setting { name: "value_output", about: "whether dimensions of values are taken out", default: "true" },
    Setting {
        name: "refit",
        about: "whether the output matrix of attention is fitted by least squares to the mixed values that are left",
        default: "true",
    },
];

/// Takes dimensions out between the two matrices of each module, by a decomposition that suits the module.
///
/// - *MLP* (Nyström): the channels with the largest ridge leverage stay, the same in gate and up, and `down` is the
///   least-squares optimum over them: [`crate::Channels`] with `score: leverage`.
/// - *Queries and keys* (column-row selection): with `C` the second moments of the inputs of attention, the dimensions
///   with the largest product of the mean squares of query and key stay, `√(C_Q[i,i] C_K[i,i])` with `C_Q = W_Q C W_Qᵀ`.
///   What is rotated goes in pairs, whose score does not depend on the angle; query heads that read one key head share
///   its choice, their scores added. Where nothing is rotated, the optimum takes the place of a selection: with
///   `C_Q^½ C_K^½ = U s Vᵀ` the new weights are `s^½ Uᵀ C_Q^-½ W_Q` and `s^½ Vᵀ C_K^-½ W_K`. The scale of scores stays what
///   it was. Queries and keys behind a norm of their own stay as they are, and the notes say so.
/// - *Values and output* (singular values): with `W_V C W_Vᵀ = V s² Vᵀ` and `U` the leading eigenvectors of
///   `s Vᵀ (Σ W_Oᵀ W_O) V s`, the sum over the query heads that read one value head, values become `Uᵀ s^-1 Vᵀ W_V` and the
///   output `W_O V s U`; then the output is fitted to what those values mix.
///
/// Each loses the same share of its dimensions; the share of a block follows `allocation`.
///
/// # Shapes
/// Gate and up `[ffn, hidden]` become `[k, hidden]`, down `[hidden, k]`; queries and keys `[heads * qk_dim, hidden]` become
/// `[heads * r, hidden]`, `r` even; values `[kv_heads * v_dim, hidden]` become `[kv_heads * s, hidden]` and the output
/// `[hidden, heads * s]`. The cache of keys and values shrinks with them.
///
/// # Cost
/// That of [`crate::Channels`] for the MLP; for attention `3 heads * dim * hidden²` multiplications in double precision.
///
/// # Errors
/// [`Error::Coded`] if a matrix is coded, [`Error::NotFinite`], [`Error::Unseen`] if nothing was seen,
/// [`Error::NeedsSurvey`] before the survey of an allocation.
///
/// # Source
/// Lin et al. 2024, arXiv:2408.09632.
#[derive(Clone, Debug, PartialEq)]
pub struct Modegpt {
    channels: Channels,
    query_key: bool,
    value_output: bool,
    refit: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    sparsity: Option<f64>,
    allocation: Option<Spread>,
    temperature: Option<f64>,
    most: Option<f64>,
    ridge: Option<Ridge>,
    centre: Option<bool>,
    multiple: Option<usize>,
    query_key: Option<bool>,
    value_output: Option<bool>,
    refit: Option<bool>,
}

impl Modegpt {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let shares = ShareSettings {
            sparsity: s.sparsity,
            of: None,
            allocation: s.allocation,
            temperature: s.temperature,
            most: s.most,
        };
        let shares = Shares::parse(NAME, SETTINGS, shares, Spread::Influence)?;
        let compensation = CompensationSettings { compensate: None, ridge: s.ridge, centre: s.centre };
        let compensation = Compensation::parse(NAME, SETTINGS, compensation)?;
        let multiple = match s.multiple {
            Some(0) => return Err(value_error(NAME, SETTINGS, "multiple", &0.into())),
            multiple => multiple.unwrap_or(8),
        };
        let channels = Channels { shares, score: Score::Leverage, compensation, multiple, method: NAME };
        let flag = |flag: Option<bool>| flag.unwrap_or(true);
        Ok(Modegpt { channels, query_key: flag(s.query_key), value_output: flag(s.value_output), refit: flag(s.refit) })
    }

    fn attention(&self, attn: &mut Attention<Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        let share = self.channels.shares.of_part(NAME, cx.place, cx.sizes, Sublayer::Attn)?;
        if share == 0.0 {
            return Ok(());
        }
        let lost: usize = [&attn.q, &attn.k, &attn.v, &attn.o].into_iter().map(masked).sum();
        if lost > 0 {
            cx.notes.push(format!("the masks over {lost} removed entries are lost"));
        }
        let unseen = || Error::Unseen { method: NAME, site: Site::new(cx.place, Role::Q), what: "its inputs" };
        let inputs = Inputs::of(cx.seen.get(&Tap::AttnIn).ok_or_else(unseen)?).ok_or_else(unseen)?;
        if self.query_key {
            if attn.q_norm.is_some() || attn.k_norm.is_some() {
                cx.notes.push("queries and keys have norms of their own, so their dimensions stay".into());
            } else {
                key::shrink(attn, share, &inputs, cx)?;
            }
        }
        if self.value_output {
            let refit = self.refit.then_some(self.channels.compensation.ridge());
            value::shrink(attn, share, &inputs, refit, cx)?;
        }
        Ok(())
    }
}

/// Second moments and means of what attention reads, with a constant beside them for biases.
struct Inputs {
    n: usize,
    /// `Σ x xᵀ / count`, `[n, n]`.
    moments: Vec<f64>,
    /// `Σ x / count`.
    mean: Vec<f64>,
}

impl Inputs {
    fn of(seen: &Seen) -> Option<Self> {
        let gram = seen.gram()?;
        let count = (seen.fit.count + seen.held_out.count).max(1) as f64;
        let n = Gram::size(&gram);
        let mut moments = gram.to_f64();
        moments.iter_mut().for_each(|x| *x /= count);
        let mut mean = vec![0.0; n];
        for fold in [&seen.fit, &seen.held_out] {
            mean.iter_mut().zip(&fold.sum).for_each(|(mean, sum)| *mean += sum / count);
        }
        Some(Inputs { n, moments, mean })
    }

    /// `E[y yᵀ]` of `y = W x + b` for the rows `[rows, n]` of `w`.
    fn outputs(&self, w: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
        let rows = w.len() / self.n.max(1);
        let dims = Dims { m: rows, k: self.n, n: self.n };
        let through = matmul_f64(dims, w, &self.moments);
        let mut y = times_transposed(&through, w, [rows, self.n, rows]);
        if let Some(bias) = bias {
            let mean: Vec<f64> =
                w.chunks(self.n.max(1)).map(|row| row.iter().zip(&self.mean).map(|(w, m)| w * m).sum()).collect();
            for i in 0..rows {
                for j in 0..rows {
                    y[i * rows + j] += mean[i] * bias[j] + bias[i] * mean[j] + bias[i] * bias[j];
                }
            }
        }
        y
    }
}

/// `a bᵀ` in double precision, `a` `[m, k]`, `b` `[n, k]`.
fn times_transposed(a: &[f64], b: &[f64], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let mut turned = vec![0.0; k * n];
    for i in 0..n {
        for j in 0..k {
            turned[j * n + i] = b[i * k + j];
        }
    }
    matmul_f64(Dims { m, k, n }, a, &turned)
}

impl BlockMethod for Modegpt {
    fn needs(&self, tap: Tap) -> Needs {
        match tap {
            Tap::AttnIn if self.query_key || self.value_output => {
                Needs { gram: true, moments: true, ..Needs::default() }
            }
            Tap::AttnMix if self.value_output && self.refit => Needs { gram: true, held_out: true, ..Needs::default() },
            other => self.channels.needs(other),
        }
    }

    fn rewrite(&self, part: Part<'_, Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        match part {
            Part::Attn(Some(attn)) => self.attention(attn, cx),
            Part::Mlp(Some(mlp)) => self.channels.mlp(mlp, cx),
            _ => Ok(()),
        }
    }

    fn predict(&self, place: Place, sizes: Sizes, part: Part<'_, Form>) -> Result<()> {
        match part {
            Part::Attn(Some(attn)) => {
                let share = self.channels.shares.of_part(NAME, place, sizes, Sublayer::Attn)?;
                let site = |role| Site::new(place, role);
                for (role, layer) in [(Role::Q, &attn.q), (Role::K, &attn.k), (Role::V, &attn.v), (Role::O, &attn.o)] {
                    float_dtype(NAME, &site(role), &layer.weight)?;
                }
                if share > 0.0 && self.query_key && attn.q_norm.is_none() && attn.k_norm.is_none() {
                    key::predict(attn, share, place)?;
                }
                if share > 0.0 && self.value_output {
                    value::predict(attn, share, place)?;
                }
                Ok(())
            }
            Part::Mlp(Some(mlp)) => self.channels.predict_mlp(place, sizes, mlp),
            _ => Ok(()),
        }
    }

    fn survey(&self) -> Option<Box<dyn BlockSurvey>> {
        let method = self.clone();
        self.channels
            .shares
            .survey(move |shares| Box::new(Modegpt { channels: Channels { shares, ..method.channels }, ..method }))
    }

    fn settings(&self) -> Value {
        let mut settings = json!({
            "multiple": self.channels.multiple,
            "query_key": self.query_key,
            "value_output": self.value_output,
            "refit": self.refit,
        });
        self.channels.shares.write(&mut settings);
        self.channels.compensation.write(&mut settings);
        // These are what they are.
        let map = settings.as_object_mut().expect("settings are a map");
        map.remove("of");
        map.remove("compensate");
        settings
    }

    fn peak_bytes(&self, block: &brevity_model::Block<Form>) -> u64 {
        let attn = block.attn.as_ref().map_or(0, |attn| {
            let ([q, hidden], [_, mixed]) = (attn.q.weight.shape(), attn.o.weight.shape());
            refit_bytes(hidden, mixed) + 8 * (4 * hidden * hidden + 4 * q * hidden + q * q) as u64
        });
        attn.max(self.channels.peak_bytes(block))
    }
}

#[cfg(test)]
mod tests;
