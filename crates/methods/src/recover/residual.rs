//! `recover.residual`: refits the last matrix of a sublayer to the residual stream of the original model.

mod gap;

use brevity_model::{Code, CodeForm, Dtype, Expr, Floats, Form, Leaf, LeafForm, Linear, Role, Site, Weight};
use serde::Deserialize;
use serde_json::{Value, json};

use self::gap::View;
use crate::compensation::CENTRE;
use crate::cut::float_dtype;
use crate::error::{Error, Result};
use crate::inputs::{Damp, sample};
use crate::ladder;
use crate::leaves::{check_finite, describe, is_rule};
use crate::method::{Cx, LinearMethod};
use crate::refit::few;
use crate::seen::Needs;
use crate::settings::{Setting, read, value_error};
use crate::{Entry, Kind, Parse};

const NAME: &str = "recover.residual";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Refits the last matrix of attention and MLP, so that the residual stream behind it is that of the original model",
    settings: SETTINGS,
    parse: Parse::Linear(|settings| Ok(Box::new(Residual::parse(settings)?))),
    kind: Kind::Correct,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "lambda",
        about: "how much the matrix is held back, in mean squares of an input, at least 0; or `auto`, which tries 0.01, \
                0.03, 0.1, 0.3, 1 and 3 on samples held out",
        default: "auto",
    },
    CENTRE,
];

/// Refits the last matrix of a sublayer, so that the residual stream behind it is that of the original model.
///
/// With `z` the inputs of the output matrix of attention, or of `down`, in the compressed model, and `e` what the residual
/// stream behind it lacks there to be that of the original model at the same place, the change of the matrix that
/// minimises `Σ ‖e - Δ z‖² + λ h ‖Δ‖²` is
///
/// `Δ = D (H + λ h I)⁻¹`, where `D = Σ e zᵀ`, `H = Σ z zᵀ` and `h` is the mean of the diagonal of `H`.
///
/// The original model's channels, heads and layers need not be those of the compressed one: only what they add up to
/// counts. So this step makes up for what steps before it took from the sublayer, and for what blocks before it lost or
/// were taken out with, as far as the inputs that are left can say it. With a bias, `D` and `H` are about the means, and the
/// bias takes up what is left of the mean of `e`.
///
/// `auto` fits to the samples that are not held out and takes the greatest `λ` that keeps nine tenths of the gain on those
/// that are, judged on an eighth of the outputs; then it fits to all samples. A matrix that would not be better on the
/// held-out samples as it is stored stays as it is, and the notes say so. Masks are kept. Of a product the leftmost factor
/// is refitted, on what the others give. Sublayers whose output is normed before or behind the sum (post-norm models) are
/// left alone, and the notes say so.
///
/// # Shapes
/// For a weight `[out, in]`, `D` is that and `H` is `[in, in]`.
///
/// # Cost
/// The original model beside the compressed one, `out in` multiplications for each token, `in³ / 3` for each `λ` tried, and
/// about `4 out in²`.
///
/// # Errors
/// [`Error::Coded`] if the matrix or its bias is coded, [`Error::NotFinite`] if it holds NaN or infinity, [`Error::Unseen`]
/// if the inputs were not looked at.
///
/// # Source
/// Least squares of a matrix that is left as in Lin et al. 2024 (MoDeGPT), arXiv:2408.09632, with the target of asymmetric
/// calibration, Li et al. 2025 (GPTAQ), arXiv:2504.02692, moved to the residual stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Residual {
    /// How much the matrix is held back.
    pub lambda: Damp,
    /// Whether a bias is fitted; where there is one, if nothing is said.
    pub centre: Option<bool>,
}

/// The rung of the ladder that `auto` begins with.
const START: usize = 2;
/// How much of the greatest gain is as good.
const ENOUGH: f64 = 0.9;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    lambda: Option<Damp>,
    centre: Option<bool>,
}

impl Residual {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let lambda = s.lambda.unwrap_or_default();
        match lambda.is_sound() {
            true => Ok(Residual { lambda, centre: s.centre }),
            false => Err(value_error(NAME, SETTINGS, "lambda", &json!(lambda))),
        }
    }

    /// Refits the layer; says why if it stays as it is.
    fn refit(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<Option<&'static str>> {
        let site = cx.site;
        let unseen = || Error::Unseen { method: NAME, site: site.clone(), what: "its inputs" };
        if cx.seen.fit.gram.is_none() {
            return Err(unseen());
        }
        let right = match others(&layer.weight) {
            Ok(right) => right,
            Err(why) => return Ok(Some(why)),
        };
        let Some(mut fit) = View::of(&cx.seen.fit) else {
            return Ok(Some("what it returns is normed before it is the residual stream"));
        };
        let mut held_out = View::of(&cx.seen.held_out);
        if let Some(before) = cx.original {
            [Some(&mut fit), held_out.as_mut()].into_iter().flatten().for_each(|view| view.behind(before, layer));
        }
        if let Some(right) = right {
            let (right, rows) = (right.to_f32(), right.shape()[0]);
            fit = fit.through(&right, rows);
            held_out = held_out.map(|view| view.through(&right, rows));
        }
        if fit.is_closed() && held_out.as_ref().is_none_or(View::is_closed) {
            return Ok(Some("the residual stream is that of the original model"));
        }
        let centre = layer.bias.is_some();
        let held_out = held_out.filter(View::is_known);
        let (lambda, judge) = match (self.lambda, held_out) {
            (Damp::Times(lambda), held_out) => (lambda, held_out),
            (Damp::Auto(_), Some(held_out)) if fit.is_known() => match choose(&fit, &held_out, centre)? {
                Some(lambda) => (lambda, Some(held_out)),
                None => return Ok(Some("no lambda makes it better on held-out samples")),
            },
            (Damp::Auto(_), _) => return Ok(Some("no samples were held out to choose lambda on")),
        };
        let all = match &judge {
            Some(held_out) => fit.merged(held_out),
            None => fit,
        };
        if !all.is_known() {
            return Ok(Some("nothing was seen of its inputs"));
        }
        let rows: Vec<usize> = (0..all.outputs()).collect();
        let Some((change, shift)) = all.fit(&rows, lambda, centre) else {
            return Ok(Some("what was seen of its inputs is not positive definite with this lambda"));
        };
        let before = layer.clone();
        let change = moved(site, leftmost(&mut layer.weight), &change)?;
        let shift = raised(site, layer.bias.as_mut(), shift.as_deref())?;
        let judge = judge.as_ref().unwrap_or(&all);
        let gain = judge.gain(&rows, &change, shift.as_deref());
        if gain <= 0.0 {
            *layer = before;
            return Ok(Some("it would be no better on held-out samples"));
        }
        cx.figures.push(("lambda".into(), lambda));
        cx.figures.push(("gap_closed".into(), gain / judge.squares()));
        Ok(None)
    }

    /// Whether a layer with or without a bias has one afterwards.
    fn centre(&self, has_bias: bool) -> bool {
        has_bias || self.centre == Some(true)
    }
}

impl LinearMethod for Residual {
    fn rewrites(&self, role: &Role) -> bool {
        matches!(role, Role::O | Role::Down)
    }

    fn needs(&self) -> Needs {
        let held_out = self.lambda.is_auto();
        Needs { gram: true, moments: true, stream: true, held_out, ..Needs::default() }
    }

    fn rewrite(&self, layer: &mut Linear<Weight>, cx: &mut Cx<'_>) -> Result<()> {
        let site = cx.site;
        let mut forms = Linear { weight: Form::of(&layer.weight), bias: layer.bias.as_ref().map(Form::of) };
        check(site, &mut forms)?;
        let [rows, columns] = layer.weight.shape();
        let given = layer.bias.is_some();
        if self.centre(given) && !given {
            let dtype = float_dtype(NAME, site, &forms.weight)?;
            layer.bias = Some(Weight::float([1, rows], Floats::from_f32(vec![0.0; rows], dtype)));
        }
        // A bias that is not to be fitted stands aside.
        let aside = if self.centre == Some(false) { layer.bias.take() } else { None };
        let stays = match rows * columns {
            0 => Some("it is empty"),
            _ => self.refit(layer, cx)?,
        };
        if aside.is_some() {
            layer.bias = aside;
        }
        match stays {
            Some(why) => cx.notes.push(format!("not refitted: {why}")),
            None => cx.notes.extend(few(cx.seen, columns)),
        }
        Ok(())
    }

    fn predict(&self, site: &Site, layer: &mut Linear<Form>) -> Result<()> {
        check(site, layer)?;
        if self.centre(layer.bias.is_some()) && layer.bias.is_none() {
            let rows = layer.weight.shape()[0];
            layer.bias = Some(Form::float([1, rows], float_dtype(NAME, site, &layer.weight)?));
        }
        Ok(())
    }

    fn settings(&self) -> Value {
        let mut settings = json!({ "lambda": self.lambda });
        if let Some(centre) = self.centre {
            settings["centre"] = json!(centre);
        }
        settings
    }

    fn peak_bytes(&self, layer: &Linear<Form>) -> u64 {
        let [m, n] = layer.weight.shape().map(|x| x as u64);
        // Both folds and their sum, a Gram matrix about the means with its factor, and the matrix a few times.
        n * n * 8 * 6 + m * n * (8 * 4 + 4 * 5)
    }
}

/// The `λ` that lowers the error on held-out samples most, if one lowers it, after a fit to the others.
fn choose(fit: &View, held_out: &View, centre: bool) -> Result<Option<f64>> {
    let rows: Vec<usize> = sample(fit.outputs()).collect();
    let score = |lambda: f64| {
        let fitted = fit.fit(&rows, lambda, centre);
        // What is not positive definite is never taken.
        Ok(fitted.map_or(f64::INFINITY, |(change, shift)| -held_out.gain(&rows, &change, shift.as_deref())))
    };
    let chosen = ladder::choose(START, score, |least| ENOUGH * least)?;
    Ok(chosen.filter(|(_, score)| *score < 0.0).map(|(lambda, _)| lambda))
}

/// What stands to the right of the leftmost factor of an expression, or why that cannot be refitted.
fn others(weight: &Weight) -> Result<Option<Weight>, &'static str> {
    match weight {
        Expr::Leaf(leaf) if is_rule(&LeafForm::of(leaf)) => Err("its leftmost factor is given by a rule"),
        Expr::Leaf(_) => Ok(None),
        Expr::Product(factors) => {
            let [a, b] = &**factors;
            Ok(Some(match others(a)? {
                None => b.clone(),
                Some(between) => Weight::product(between, b.clone()),
            }))
        }
        Expr::Sum(_) => Err("it is a sum of matrices"),
        Expr::Train(_) => Err("it is a tensor train"),
    }
}

fn leftmost(weight: &mut Weight) -> &mut Leaf {
    match weight {
        Expr::Leaf(leaf) => leaf,
        Expr::Product(factors) => leftmost(&mut factors[0]),
        _ => unreachable!("sums and trains are left alone"),
    }
}

/// Adds a change to a matrix, whose removed entries stay removed; gives the change as it is stored.
fn moved(site: &Site, leaf: &mut Leaf, change: &[f32]) -> Result<Vec<f32>> {
    let w = leaf.to_f32();
    check_finite(site, "", &w)?;
    let mut aim: Vec<f32> = w.iter().zip(change).map(|(w, change)| w + change).collect();
    check_finite(site, "", &aim)?;
    if let Some(mask) = &leaf.mask {
        mask.apply(&mut aim);
    }
    let Code::Float(floats) = &mut leaf.code else { unreachable!("only floats are refitted") };
    *floats = Floats::from_f32(aim, floats.dtype());
    Ok(leaf.to_f32().iter().zip(w).map(|(now, w)| now - w).collect())
}

/// Adds to a bias; gives what was added as it is stored.
fn raised(site: &Site, bias: Option<&mut Weight>, shift: Option<&[f64]>) -> Result<Option<Vec<f64>>> {
    let (Some(bias), Some(shift)) = (bias, shift) else { return Ok(None) };
    let before = bias.to_f32();
    let aim: Vec<f32> = before.iter().zip(shift).map(|(b, shift)| (f64::from(*b) + shift) as f32).collect();
    check_finite(site, "bias", &aim)?;
    let dtype = float_dtype(NAME, site, &Form::of(bias))?;
    *bias = Weight::float([1, aim.len()], Floats::from_f32(aim, dtype));
    Ok(Some(bias.to_f32().iter().zip(before).map(|(now, b)| f64::from(*now) - f64::from(b)).collect()))
}

/// Refuses a leftmost factor, or a bias, that is coded.
fn check(site: &Site, layer: &mut Linear<Form>) -> Result<()> {
    fn leaf<'a>(form: &'a mut Form, path: &mut String) -> Option<&'a mut LeafForm> {
        match form {
            Expr::Leaf(leaf) => Some(leaf),
            Expr::Product(factors) => {
                path.push_str(if path.is_empty() { "0" } else { ".0" });
                leaf(&mut factors[0], path)
            }
            _ => None,
        }
    }
    for (part, form) in [("", Some(&mut layer.weight)), ("bias", layer.bias.as_mut())] {
        let mut path = part.to_owned();
        let Some(found) = form.and_then(|form| leaf(form, &mut path)) else { continue };
        match &found.code {
            CodeForm::Float(_) => {}
            _ if is_rule(found) => {}
            CodeForm::Blocks(_) => found.code = CodeForm::Float(Dtype::F32), // as it is read
            code => {
                let code = describe(code);
                return Err(Error::Coded { method: NAME, site: site.clone(), leaf: path, code });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
