//! `decompose.mpo`: a train of small cores in place of one matrix.

use std::collections::BTreeMap;
use std::sync::Arc;

use brevity_kernels::gram::Gram;
use brevity_kernels::ops::Compute;
use brevity_model::{Form, Linear, Mask, Site, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::layout::Layout;
use super::factors::finite;
use crate::cut::float_dtype;
use crate::error::{Error, Result};
use crate::inputs::error_on;
use crate::method::{Cx, LinearMethod, Survey};
use crate::seen::Needs;
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

mod layout;
mod low_rank;
mod profile;
mod refine;
mod split;

/// The smaller side up to which matrices are decomposed in double precision.
const DOUBLE: usize = 1024;

const NAME: &str = "decompose.mpo";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Puts a train of small cores (a matrix product operator) in place of a matrix",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Mpo::parse(settings)?))),
    kind: Kind::Decompose,
};

const SETTINGS: &[Setting] = &[
    Setting { name: "cores", about: "how many cores a train has, 1 to 8", default: "2" },
    Setting { name: "bond", about: "the most that a bond between two cores may hold, at least 1", default: "none" },
    Setting {
        name: "ratio",
        about: "the share of parameters to keep, above 0 and up to 1; the bond follows, matrix by matrix",
        default: "0.5",
    },
    Setting {
        name: "allocation",
        about: "how `ratio` is spread over matrices: `uniform`, or `sensitivity` (more for those that lose more)",
        default: "uniform",
    },
    Setting {
        name: "refine",
        about: "sweeps over the cores that fit them to what their inputs are, 0 or more; needs calibration",
        default: "0",
    },
];

/// Puts a train of small cores (a matrix product operator, a tensor train) in place of a matrix.
///
/// Rows and columns get `cores` digits each. The matrix is turned into `[i_1 j_1, i_2 j_2 … i_K j_K]`, cut off behind the
/// `bond` largest terms of its singular value decomposition, whose left vectors are the first core, and so on with what
/// is left. All cores but the last are orthogonal then. With two cores the result is the sum of `bond` Kronecker
/// products that is nearest to the matrix; with more, its squared error is at most the sum of those of the cuts.
///
/// With `refine`, each core in turn is fitted to the inputs that were seen, which is a least squares problem while the
/// others stay: `tr((W - Ŵ) H (W - Ŵ)ᵀ)` is made smaller with `H = Σ x xᵀ` by some steps of conjugate gradients, on a part
/// of the samples. Of the start and each sweep, what does best on the other part is kept; the notes say if that is the
/// start.
///
/// Where a train is no smaller than the numbers held before, the weight stays as it is, and the notes say so. A product,
/// sum or train is multiplied out and decomposed anew, and loses its masks, which the notes say too.
///
/// The figures have the error of the train and `low_rank_error`, that of the best product of two thin matrices with no
/// more numbers: both as `‖X (W - Ŵ)ᵀ‖ / ‖X Wᵀ‖` on all samples where they were seen, else as `‖W - Ŵ‖ / ‖W‖`. The notes
/// say where the product is better, which on weights of language models it usually is.
///
/// # Shapes
/// A weight `[out, in]` becomes cores `[B_{k-1} i_k, j_k B_k]`. Digits are as even as can be: the least size from `out` on
/// whose most even factors are at most twice the `K`-th root of it, the largest first for rows and last for columns; so
/// prime sizes are padded by a little. `B_k = min(bond, Π_{l ≤ k} i_l j_l, Π_{l > k} i_l j_l)`. With `ratio` `ρ` the bond is
/// the largest with `Σ B_{k-1} i_k j_k B_k ≤ ρ out in`, and at least 1.
///
/// # Cost
/// `O(out in min(i_1 j_1, …))`, in double precision where the smaller side of what is decomposed is up to 1024; the
/// figures cost another decomposition of that kind. A sweep fits `2 (K - 1)` cores, each with up to twelve products of
/// `[out, in]` and `[in, in]`. `allocation: sensitivity` needs a survey, even for a prediction, which decomposes each matrix once more.
///
/// # Errors
/// [`Error::Coded`] if the weight is coded, [`Error::NotFinite`] if a weight is NaN or infinite, [`Error::Unseen`] for
/// `refine` without calibration, [`Error::Inputs`] if an activation was not finite.
///
/// # Source
/// Oseledets 2011 (tensor trains), doi:10.1137/090752286, algorithm 1; Van Loan and Pitsianis 1993 for two cores; on
/// language models Tomut et al. 2024 (CompactifAI), arXiv:2401.14109, without the training that follows there.
#[derive(Clone, Debug, PartialEq)]
pub struct Mpo {
    /// Cores of a train.
    pub cores: usize,
    /// How bonds are chosen.
    pub keep: Keep,
    /// How a share is spread over matrices.
    pub allocation: Allocation,
    /// Sweeps over the cores.
    pub refine: usize,
    /// The bonds that the survey found, 0 where the matrix stays as it is.
    bonds: Option<Arc<BTreeMap<Site, usize>>>,
}

/// How a bond is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Keep {
    /// At most this.
    Bond(usize),
    /// This share of the parameters.
    Ratio(f64),
}

/// How a share of parameters is spread over matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocation {
    /// The same everywhere.
    #[default]
    Uniform,
    /// Where the relative error falls fastest for each parameter.
    Sensitivity,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    cores: Option<usize>,
    bond: Option<usize>,
    ratio: Option<f64>,
    allocation: Allocation,
    refine: usize,
}

impl Mpo {
    /// Two cores with such bonds, the same share everywhere, as the decomposition leaves them.
    pub fn new(keep: Keep) -> Self {
        Mpo { cores: 2, keep, allocation: Allocation::Uniform, refine: 0, bonds: None }
    }

    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let bad = |name, value: Value| Err(value_error(NAME, SETTINGS, name, &value));
        let keep = match (s.bond, s.ratio) {
            (Some(0), None) => return bad("bond", 0.into()),
            (Some(bond), None) => Keep::Bond(bond),
            (None, Some(ratio)) if !(ratio > 0.0 && ratio <= 1.0) => return bad("ratio", ratio.into()),
            (None, ratio) => Keep::Ratio(ratio.unwrap_or(0.5)),
            (Some(_), Some(_)) => return Err(Error::Settings { method: NAME, wants: "one of `bond` and `ratio`" }),
        };
        let cores = s.cores.unwrap_or(2);
        if !(1..=8).contains(&cores) {
            return bad("cores", cores.into());
        }
        if s.allocation == Allocation::Sensitivity && matches!(keep, Keep::Bond(_)) {
            return Err(Error::Settings { method: NAME, wants: "`ratio`, not `bond`, with `allocation: sensitivity`" });
        }
        Ok(Mpo { cores, allocation: s.allocation, refine: s.refine, ..Mpo::new(keep) })
    }

    /// The layout and bonds of a matrix that is held in so many numbers now, or `None` if that is no smaller.
    fn plan(&self, site: &Site, shape: [usize; 2], held: u64) -> Result<Option<(Layout, Vec<usize>)>> {
        if shape.contains(&0) {
            return Ok(None);
        }
        let layout = Layout::new(shape, self.cores);
        let bond = match (self.keep, self.allocation) {
            (Keep::Bond(bond), _) => bond,
            (Keep::Ratio(ratio), Allocation::Uniform) => layout.bond_within(ratio * (shape[0] * shape[1]) as f64),
            (Keep::Ratio(_), Allocation::Sensitivity) => {
                let bonds =
                    self.bonds.as_ref().ok_or_else(|| Error::NeedsSurvey { method: NAME, site: site.clone() })?;
                *bonds.get(site).ok_or_else(|| Error::Changed { method: NAME, site: site.clone() })?
            }
        };
        let bonds = layout.bonds(bond);
        let saves = bond > 0 && layout.parameters(&bonds) < held;
        Ok(saves.then_some((layout, bonds)))
    }
}

impl LinearMethod for Mpo {
    fn needs(&self) -> Needs {
        let looks = self.refine > 0;
        Needs { gram: looks, held_out: looks, ..Needs::default() }
    }

    fn survey_needs(&self) -> Needs {
        // Where activations are looked at anyway, the survey goes by them too.
        let looks = self.refine > 0 && self.allocation == Allocation::Sensitivity;
        Needs { moments: looks, ..Needs::default() }
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let site = cx.site;
        let form = Form::of(&layer.weight);
        let dtype = float_dtype(NAME, site, &form)?;
        let shape = layer.weight.shape();
        let w = finite(site, &layer.weight)?;
        let Some((layout, bonds)) = self.plan(site, shape, form.parameters())? else {
            let what = if form.as_leaf().is_some() { "dense" } else { "as it was" };
            cx.notes.push(format!("stays {what}: a train of {} cores would save nothing", self.cores));
            return Ok(());
        };
        let masks = layer.weight.leaves().into_iter().filter_map(|(_, leaf)| leaf.mask.as_ref());
        let removed: usize = masks.map(|mask: &Mask| mask.shape()[0] * mask.shape()[1] - mask.kept()).sum();
        if removed > 0 {
            cx.notes.push(format!("the mask over {removed} removed entries is lost"));
        }
        let fail = |source| Error::Kernel { method: NAME, site: site.clone(), leaf: String::new(), source };
        let mut cores = split::cores(&w, &layout, &bonds, cx.seed).map_err(fail)?;
        if self.refine > 0 {
            cores = self.refined(&w, &layout, cores, cx)?;
        }
        layer.weight = layout.train(&bonds, cores, dtype);
        let inner: Vec<String> = bonds[1..bonds.len() - 1].iter().map(usize::to_string).collect();
        cx.notes.push(format!("{} cores, bond {}", self.cores, inner.join(", ")));
        let numbers = layout.parameters(&bonds);
        self.compare(&w, shape, &layer.weight.to_f32(), numbers, cx)
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        let dtype = float_dtype(NAME, site, &layer.weight)?;
        if let Some((layout, bonds)) = self.plan(site, layer.weight.shape(), layer.weight.parameters())? {
            layer.weight = layout.form(&bonds, dtype);
        }
        Ok(())
    }

    fn survey(&self) -> Option<Box<dyn Survey>> {
        let known = self.allocation == Allocation::Uniform || self.bonds.is_some();
        (!known).then(|| -> Box<dyn Survey> { Box::new(profile::Profiles::new(self.clone())) })
    }

    fn must_survey_to_predict(&self) -> bool {
        self.survey().is_some()
    }

    fn settings(&self) -> Value {
        let mut settings = json!({ "cores": self.cores, "allocation": self.allocation, "refine": self.refine });
        match self.keep {
            Keep::Bond(bond) => settings["bond"] = bond.into(),
            Keep::Ratio(ratio) => settings["ratio"] = ratio.into(),
        }
        settings
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let shape = layer.weight.shape();
        if shape.contains(&0) {
            return 0;
        }
        let [rows, columns] = shape.map(|n| n as u64);
        let (all, small) = (rows * columns, rows.min(columns));
        let layout = Layout::new(shape, self.cores);
        let bond = match (self.keep, self.allocation) {
            (Keep::Bond(bond), _) => bond,
            (Keep::Ratio(ratio), Allocation::Uniform) => layout.bond_within(ratio * all as f64),
            (Keep::Ratio(_), Allocation::Sensitivity) => layout.bond_within(all as f64),
        };
        // What is left, turned and copied in double precision; vectors in column and in row order, on both sides, with the
        // solver's square workspaces.
        let cut = |[a, b]: [u64; 2]| 8 * (4 * a * b + 2 * a.min(b) * (a + b) + 6 * a.min(b).pow(2));
        let splitting = layout.cuts(&layout.bonds(bond)).into_iter().map(cut).max().unwrap_or(0);
        // The weight, the train, what is left, a direction and what becomes of it, each turned once; sums over inputs.
        let refining = if self.refine > 0 { 4 * 9 * all + 12 * columns * columns } else { 0 };
        // The spectrum of the outputs, or of the inputs where those are fewer.
        let comparing = 8 * (5 * all + 12 * small * small + 2 * columns * columns);
        splitting.max(refining).max(comparing) + 12 * all
    }
}

impl Mpo {
    /// The cores after sweeps over them, or as they are where those do worse on samples that were kept apart.
    fn refined(&self, w: &[f32], layout: &Layout, cores: Vec<Vec<f32>>, cx: &mut Cx<'_>) -> Result<Vec<Vec<f32>>> {
        let site = cx.site;
        let unseen = || Error::Unseen { method: NAME, site: site.clone(), what: "its inputs" };
        let fit = cx.seen.fit.gram.as_ref().ok_or_else(unseen)?;
        let apart = cx.seen.held_out.gram.as_ref().filter(|gram| gram.trace() > 0.0);
        let inputs = layout.shape[1];
        for gram in [Some(fit), apart].into_iter().flatten() {
            let count = gram.diagonal().iter().filter(|x| !x.is_finite()).count();
            if count > 0 {
                return Err(Error::Inputs { method: NAME, site: site.clone(), leaf: String::new(), count, inputs });
            }
        }
        if fit.trace() <= 0.0 {
            cx.notes.push("refinement skipped: its inputs were always zero".into());
            return Ok(cores);
        }
        let judge = Judge { w, layout, gram: apart.unwrap_or(fit) };
        let fail = |source| Error::Kernel { method: NAME, site: site.clone(), leaf: String::new(), source };
        let mut problem = refine::Problem::new(w, layout, fit, cores.clone());
        let start = judge.error(&cores);
        let (mut best, mut least, mut sweeps) = (cores, start, 0);
        for sweep in 1..=self.refine {
            problem.sweep().map_err(fail)?;
            let error = judge.error(problem.cores());
            // A sweep that does worse on other samples is not followed by one that does better.
            if error >= least {
                break;
            }
            (best, least, sweeps) = (problem.cores().to_vec(), error, sweep);
        }
        let where_ = if apart.is_some() { "samples kept apart" } else { "the samples" };
        match sweeps {
            0 => cx.notes.push(format!("refinement skipped: it does no better on {where_}")),
            n => cx.notes.push(format!("refined {n} times: error on {where_} {start:.4}, then {least:.4}")),
        }
        cx.figures.extend([("unrefined_error".to_owned(), start), ("refined_error".to_owned(), least)]);
        Ok(best)
    }

    /// Puts the error of the train beside that of low rank into the figures.
    fn compare(&self, w: &[f32], shape: [usize; 2], now: &[f32], numbers: u64, cx: &mut Cx<'_>) -> Result<()> {
        let fail = |source| Error::Kernel { method: NAME, site: cx.site.clone(), leaf: String::new(), source };
        let gram = cx.seen.gram().filter(|gram| gram.is_finite() && gram.trace() > 0.0);
        let error = relative(gram.as_deref(), shape[1], w, now);
        let rank = numbers as usize / (shape[0] + shape[1]);
        let low = low_rank::error(w, shape, rank, gram.as_deref(), &cx.seen.shared).map_err(fail)?;
        cx.figures.extend([("train_error".to_owned(), error), ("low_rank_error".to_owned(), low)]);
        if low < error {
            let kind = if gram.is_some() { "data error" } else { "weight error" };
            cx.notes.push(format!(
                "low rank is better: rank {rank} has as many numbers and {kind} {low:.4}, the train {error:.4}"
            ));
        }
        Ok(())
    }
}

/// Judges cores by the error they leave.
struct Judge<'a> {
    w: &'a [f32],
    layout: &'a Layout,
    gram: &'a Gram,
}

impl Judge<'_> {
    fn error(&self, cores: &[Vec<f32>]) -> f64 {
        relative(Some(self.gram), self.layout.shape[1], self.w, &self.layout.matrix(cores))
    }
}

/// `‖X (W - Ŵ)ᵀ‖ / ‖X Wᵀ‖`, or `‖W - Ŵ‖ / ‖W‖` without inputs; zero where `W` is.
fn relative(gram: Option<&Gram>, columns: usize, w: &[f32], now: &[f32]) -> f64 {
    let (gone, whole) = match gram {
        Some(gram) => (error_on(gram, columns, w, now), gram.quadratic(w.len() / columns, w, Compute::F32)),
        None => {
            let gone = w.iter().zip(now).map(|(w, v)| (f64::from(*w) - f64::from(*v)).powi(2)).sum();
            (gone, w.iter().map(|w| f64::from(*w).powi(2)).sum())
        }
    };
    if whole > 0.0 { (gone.max(0.0) / whole).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests;
