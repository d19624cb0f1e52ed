//! `prune.heads`: takes whole attention heads out.

use brevity_model::{Attention, Form, Norm, Place, Role, Site, Sublayer, Tap, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::block::{BlockCx, BlockMethod, BlockSurvey, Part, Sizes};
use crate::compensation::{CENTRE, COMPENSATE, Compensation, CompensationSettings, RIDGE, put, put_form, refit_bytes};
use crate::cut::{Way, cut, cut_form, cut_output_forms, cut_outputs, doubles, masked, matrix};
use crate::error::{Error, Result};
use crate::refit::{Compensate, few};
use crate::seen::{Needs, Seen};
use crate::settings::{Setting, read};
use crate::shares::{ALLOCATION, MOST, OF, SPARSITY, ShareSettings, Shares, Spread, TEMPERATURE, highest, kept};
use crate::{Entry, Kind, Parse};

const NAME: &str = "prune.heads";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Takes the attention heads that matter least out, and lets the others make up for them",
    settings: SETTINGS,
    parse: Parse::Block(|settings| Ok(Box::new(Heads::parse(settings)?))),
    kind: Kind::Reduce,
};

const SETTINGS: &[Setting] = &[
    SPARSITY,
    OF,
    Setting {
        name: "unit",
        about: "what goes: query heads (`head`; each key/value head keeps a reader as long as there are enough), as many \
                heads of each group (`even`, which other tools can open), or key/value heads with all their readers \
                (`group`, the same)",
        default: "head",
    },
    COMPENSATE,
    RIDGE,
    CENTRE,
    ALLOCATION,
    TEMPERATURE,
    MOST,
];

/// What goes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    #[default]
    Head,
    Even,
    Group,
}

/// Takes heads out of attention: rows of queries, keys and values, columns of the output.
///
/// The score of head `h` is `‖W_h C_h^½‖`, `W_h` its columns of the output matrix and `C_h` the second moments of what it
/// mixes: how much of the sublayer's output is its own. `compensate` fits the output matrix to the heads that stay, as
/// [`crate::Channels`] does with channels. At least one unit stays. Norms of all queries or keys together are scaled by
/// what the heads that stay have of their mean square.
///
/// # Shapes
/// Queries `[heads * qk_dim, hidden]`, keys and values by key/value heads, output `[hidden, heads * v_dim]`, all with
/// fewer heads.
///
/// # Cost
/// Second moments of the inputs of the output matrix; least squares as in [`crate::Channels`].
///
/// # Errors
/// As [`crate::Channels`].
///
/// # Source
/// Michel et al. 2019, arXiv:1905.10650, with a score in closed form.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    shares: Shares,
    unit: Unit,
    compensation: Compensation,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    #[serde(flatten)]
    shares: ShareSettings,
    unit: Option<Unit>,
    #[serde(flatten)]
    compensation: CompensationSettings,
}

impl Heads {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let shares = Shares::parse(NAME, SETTINGS, s.shares, Spread::Uniform)?;
        let compensation = Compensation::parse(NAME, SETTINGS, s.compensation)?;
        Ok(Heads { shares, unit: s.unit.unwrap_or_default(), compensation })
    }

    /// Query heads that stay, in order, for heads with these scores.
    fn stay(&self, place: Place, sizes: Sizes, kv_of: &[u16], scores: &[f64]) -> Result<Vec<usize>> {
        let share = self.shares.of_part(NAME, place, sizes, Sublayer::Attn)?;
        let kv = kv_of.iter().map(|&kv| usize::from(kv) + 1).max().unwrap_or(0);
        let readers = |group: usize| (0..kv_of.len()).filter(move |&head| usize::from(kv_of[head]) == group);
        Ok(match self.unit {
            Unit::Head => {
                let count = kept(kv_of.len(), share, 1);
                let best =
                    |group: usize| readers(group).max_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
                let firsts: Vec<usize> = (0..kv).filter_map(best).collect();
                let of_firsts: Vec<f64> = firsts.iter().map(|&head| scores[head]).collect();
                let firsts: Vec<usize> =
                    highest(&of_firsts, count.min(firsts.len())).into_iter().map(|at| firsts[at]).collect();
                let others: Vec<usize> = (0..kv_of.len()).filter(|head| !firsts.contains(head)).collect();
                let of_others: Vec<f64> = others.iter().map(|&head| scores[head]).collect();
                let more = highest(&of_others, count - firsts.len()).into_iter().map(|at| others[at]);
                let mut heads: Vec<usize> = more.chain(firsts.iter().copied()).collect();
                heads.sort_unstable();
                heads
            }
            Unit::Group => {
                let sums: Vec<f64> = (0..kv).map(|group| readers(group).map(|head| scores[head]).sum()).collect();
                let groups = highest(&sums, kept(kv, share, 1));
                let mut heads: Vec<usize> = groups.into_iter().flat_map(readers).collect();
                heads.sort_unstable();
                heads
            }
            Unit::Even => {
                let mut heads: Vec<usize> = (0..kv)
                    .flat_map(|group| {
                        let own: Vec<usize> = readers(group).collect();
                        let of_own: Vec<f64> = own.iter().map(|&head| scores[head]).collect();
                        highest(&of_own, kept(own.len(), share, 1))
                            .into_iter()
                            .map(move |at| own[at])
                            .collect::<Vec<_>>()
                    })
                    .collect();
                heads.sort_unstable();
                heads
            }
        })
    }

    fn attention(&self, attn: &mut Attention<Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        let heads = attn.heads.clone();
        let (count, v_dim) = (heads.kv_of.len(), heads.v_dim);
        let nothing = Seen::nothing();
        let seen = cx.seen.get(&Tap::AttnMix).unwrap_or(&nothing);
        let site = cx.site(Role::O);
        let w = doubles(&site, &attn.o.weight)?;
        let gram = seen.gram().ok_or_else(|| Error::Unseen { method: NAME, site: site.clone(), what: "its inputs" })?;
        let full = gram.to_f64();
        let n = count * v_dim;
        let scores: Vec<f64> =
            (0..count).map(|head| own_share(&w, &full, n, head * v_dim..(head + 1) * v_dim)).collect();
        drop(gram);
        let stay = self.stay(cx.place, cx.sizes, &heads.kv_of, &scores)?;
        if stay.len() == count {
            return Ok(());
        }
        let lost: usize = [&attn.q, &attn.k, &attn.v, &attn.o].into_iter().map(masked).sum();
        if lost > 0 {
            cx.notes.push(format!("the masks over {lost} removed entries are lost"));
        }
        let kept = Kept::of(&heads, stay);
        cx.notes.push(format!(
            "{} of {count} heads, {} of {} key/value heads",
            kept.queries.len(),
            kept.keys.len(),
            heads.kv()
        ));
        let ratios = match (&attn.q_norm, &attn.k_norm) {
            (None, None) => [1.0; 2],
            _ => [
                kept_share(&attn.q.weight, &kept.rows(&kept.queries, heads.qk_dim), cx, Role::Q)?,
                kept_share(&attn.k.weight, &kept.rows(&kept.keys, heads.qk_dim), cx, Role::K)?,
            ],
        };
        let q_rows = kept.rows(&kept.queries, heads.qk_dim);
        let k_rows = kept.rows(&kept.keys, heads.qk_dim);
        let v_rows = kept.rows(&kept.keys, v_dim);
        cut_outputs(NAME, &cx.site(Role::Q), &mut attn.q, &q_rows)?;
        cut_outputs(NAME, &cx.site(Role::K), &mut attn.k, &k_rows)?;
        cut_outputs(NAME, &cx.site(Role::V), &mut attn.v, &v_rows)?;
        for (norm, rows, role, whole, ratio) in [
            (&mut attn.q_norm, &q_rows, Role::QNorm, count * heads.qk_dim, ratios[0]),
            (&mut attn.k_norm, &k_rows, Role::KNorm, heads.kv() * heads.qk_dim, ratios[1]),
        ] {
            if let Some(norm) = norm.as_mut().filter(|norm| norm.gain.shape()[1] == whole && whole != heads.qk_dim) {
                cut_norm(norm, &cx.site(role), rows, ratio)?;
            }
        }
        let columns = kept.rows(&kept.queries, v_dim);
        let refit = self.compensation.refit(attn.o.bias.is_some());
        cx.notes.extend(few(seen, n));
        let fitted = refit.keep_inputs(&w, seen, &columns);
        put(NAME, &site, &mut attn.o, &columns, fitted, refit, cx)?;
        attn.heads = kept.heads(&heads);
        Ok(())
    }
}

/// What stays of heads.
struct Kept {
    queries: Vec<usize>,
    keys: Vec<usize>,
}

impl Kept {
    fn of(heads: &brevity_model::Heads, queries: Vec<usize>) -> Self {
        let mut keys: Vec<usize> = queries.iter().map(|&head| usize::from(heads.kv_of[head])).collect();
        keys.sort_unstable();
        keys.dedup();
        Kept { queries, keys }
    }

    /// The rows of some heads of a width.
    fn rows(&self, heads: &[usize], width: usize) -> Vec<usize> {
        heads.iter().flat_map(|&head| head * width..(head + 1) * width).collect()
    }

    fn heads(&self, before: &brevity_model::Heads) -> brevity_model::Heads {
        let kv = before.kv();
        let number = |head: &usize| {
            let of = usize::from(before.kv_of[*head]);
            self.keys.iter().position(|&key| key == of).expect("the key of a head that stays stays") as u16
        };
        let mut heads = before.clone();
        heads.kv_of = self.queries.iter().map(number).collect();
        if let Some(rope) = &mut heads.rope
            && rope.pairs.is_some()
        {
            rope.pairs = Some(self.keys.iter().flat_map(|&key| rope.pairs_of(key, kv)).collect());
        }
        if let Some(read) = &mut heads.relative {
            read.columns = self.queries.iter().map(|&head| read.columns[head]).collect();
        }
        heads
    }
}

/// `tr(W_h C_h W_hᵀ)` for the columns of one head.
fn own_share(w: &[f64], gram: &[f64], n: usize, of: std::ops::Range<usize>) -> f64 {
    let width = of.len();
    let c: Vec<f64> = of.clone().flat_map(|i| gram[i * n + of.start..i * n + of.end].iter().copied()).collect();
    w.chunks(n)
        .map(|row| {
            let row = &row[of.clone()];
            (0..width).map(|i| row[i] * (0..width).map(|j| c[i * width + j] * row[j]).sum::<f64>()).sum::<f64>()
        })
        .sum()
}

/// The mean square of some outputs of a layer on the inputs that were seen, as a share of that of all outputs.
fn kept_share(weight: &Weight, rows: &[usize], cx: &BlockCx<'_>, role: Role) -> Result<f64> {
    let site = cx.site(role);
    let unseen = || Error::Unseen { method: NAME, site: site.clone(), what: "its inputs" };
    let gram = cx.seen.get(&Tap::AttnIn).and_then(Seen::gram).ok_or_else(unseen)?;
    let [outputs, inputs] = weight.shape();
    let values = weight.to_f32();
    let compute = brevity_kernels::ops::Compute::F32;
    let all = gram.quadratic(outputs, &values, compute) / outputs.max(1) as f64;
    let some: Vec<f32> =
        rows.iter().flat_map(|&row| values[row * inputs..(row + 1) * inputs].iter().copied()).collect();
    let some = gram.quadratic(rows.len(), &some, compute) / rows.len().max(1) as f64;
    Ok(if all > 0.0 { some / all } else { 1.0 })
}

/// The gain of a norm over all queries or keys together, for those that stay: what they have of the mean square.
fn cut_norm(norm: &mut Norm<Weight>, site: &Site, rows: &[usize], ratio: f64) -> Result<()> {
    let form = Form::of(&norm.gain);
    let dtype = crate::cut::float_dtype(NAME, site, &form)?;
    let gain: Vec<f64> = doubles(site, &cut(NAME, site, &norm.gain, Way::Columns, rows)?)?;
    let gain: Vec<f64> = gain.into_iter().map(|gain| gain * ratio.sqrt()).collect();
    norm.gain = matrix([1, rows.len()], &gain, dtype);
    if let Some(bias) = &mut norm.bias {
        *bias = cut(NAME, site, bias, Way::Columns, rows)?;
    }
    Ok(())
}

impl BlockMethod for Heads {
    fn rewrites(&self, part: Sublayer) -> bool {
        part == Sublayer::Attn
    }

    fn needs(&self, tap: Tap) -> Needs {
        match tap {
            Tap::AttnMix => Needs {
                gram: true,
                moments: true,
                held_out: self.compensation.how == Compensate::LeastSquares,
                ..Needs::default()
            },
            Tap::AttnIn => Needs { gram: true, ..Needs::default() },
            _ => Needs::default(),
        }
    }

    fn rewrite(&self, part: Part<'_, Weight>, cx: &mut BlockCx<'_>) -> Result<()> {
        match part {
            Part::Attn(Some(attn)) => self.attention(attn, cx),
            _ => Ok(()),
        }
    }

    fn predict(&self, place: Place, sizes: Sizes, part: Part<'_, Form>) -> Result<()> {
        let Part::Attn(Some(attn)) = part else { return Ok(()) };
        let heads = attn.heads.clone();
        let count = heads.kv_of.len();
        // Which heads go depends on what they mix; how many of each kind does not.
        let stay = self.stay(place, sizes, &heads.kv_of, &vec![1.0; count])?;
        if stay.len() == count {
            return Ok(());
        }
        let kept = Kept::of(&heads, stay);
        let site = |role| Site::new(place, role);
        let (queries, keys) = (kept.queries.len(), kept.keys.len());
        cut_output_forms(NAME, &site(Role::Q), &mut attn.q, queries * heads.qk_dim)?;
        cut_output_forms(NAME, &site(Role::K), &mut attn.k, keys * heads.qk_dim)?;
        cut_output_forms(NAME, &site(Role::V), &mut attn.v, keys * heads.v_dim)?;
        for (norm, role, width, whole) in [
            (&mut attn.q_norm, Role::QNorm, queries * heads.qk_dim, count * heads.qk_dim),
            (&mut attn.k_norm, Role::KNorm, keys * heads.qk_dim, heads.kv() * heads.qk_dim),
        ] {
            if let Some(norm) = norm.as_mut().filter(|norm| norm.gain.shape()[1] == whole && whole != heads.qk_dim) {
                norm.gain = cut_form(NAME, &site(role.clone()), &norm.gain, Way::Columns, width)?;
                if let Some(bias) = &mut norm.bias {
                    *bias = cut_form(NAME, &site(role), bias, Way::Columns, width)?;
                }
            }
        }
        let centre = self.compensation.centre(attn.o.bias.is_some());
        put_form(NAME, &site(Role::O), &mut attn.o, queries * heads.v_dim, self.compensation.how, centre)?;
        attn.heads = kept.heads(&heads);
        Ok(())
    }

    fn survey(&self) -> Option<Box<dyn BlockSurvey>> {
        let method = self.clone();
        self.shares.survey(move |shares| Box::new(Heads { shares, ..method }))
    }

    fn settings(&self) -> Value {
        let mut settings = json!({ "unit": self.unit });
        self.shares.write(&mut settings);
        self.compensation.write(&mut settings);
        settings
    }

    fn peak_bytes(&self, block: &brevity_model::Block<Form>) -> u64 {
        let Some(attn) = &block.attn else { return 0 };
        let [hidden, inputs] = attn.o.weight.shape();
        refit_bytes(hidden, inputs) + 8 * (inputs * inputs) as u64
    }
}

#[cfg(test)]
mod tests;
