//! `decompose.slice`: a narrower residual stream, turned so that little is lost.

use brevity_kernels::gram::Gram;
use brevity_kernels::linalg::eigen_f64;
use brevity_kernels::matmul::{Dims, matmul_f32, matmul_nt_f32};
use brevity_model::{
    Attention, Block, Dtype, Embed, Floats, Form, Head, Linear, Mlp, Model, Norm, NormKind, Place, Role, Site, Stage,
    Weight,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::cut::float_dtype;
use crate::error::{Error, Result};
use crate::leaves::check_finite;
use crate::settings::{Setting, read, value_error};
use crate::stream::{Directions, StreamMethod};
use crate::{Entry, Kind, Parse};

const NAME: &str = "decompose.slice";

pub(crate) const ENTRY: Entry = Entry {
    name: NAME,
    about: "Turns the residual stream into its principal directions and cuts off the weak ones (SliceGPT)",
    settings: SETTINGS,
    parse: Parse::Stream(|settings| Ok(Arc::new(Slice::parse(settings)?))),
    kind: Kind::Reduce,
};

const SETTINGS: &[Setting] = &[
    Setting {
        name: "sparsity",
        about: "the share of the parameters of blocks to remove, from 0 up to but not including 1, what the shortcuts \
                add counted; 0 leaves the width as it is",
        default: "0.2",
    },
    Setting { name: "width", about: "the width of the stream that is left, instead of a share", default: "none" },
    Setting { name: "multiple", about: "round the width down to a multiple of this, at least 1", default: "8" },
    Setting {
        name: "head",
        about: "whether the stream in front of the output table is cut as well; if not, that table stays as wide as it was",
        default: "false",
    },
    Setting {
        name: "grow",
        about: "whether to go on if the whole model does not get smaller, since a tied output table becomes one of its own",
        default: "false",
    },
];

/// Turns the residual stream into the principal directions of what its norms give, and cuts off the weak ones.
///
/// A norm without gain commutes with a rotation of the stream. So gains (and the biases and means of layer norms) are folded
/// into the matrices around them first. Then at each stop of the stream, `Q` holding the leading eigenvectors of
/// `Σ y yᵀ` of what the norm gives there, a matrix that reads the stream becomes `W Q`, one that writes to it `Q'ᵀ W` with
/// the `Q'` of the next stop, and the stream on its way past is multiplied with a shortcut matrix `Q'ᵀ Q`. A norm still
/// divides by the root of the sum of squares over the original width: what it averages over fewer entries is undone in the
/// matrices behind it, and in its epsilon.
///
/// Each stop is looked at with everything before it cut already.
///
/// # Shapes
/// With `d` the width of the stream and `k` what is left: `[.., d]` becomes `[.., k]`, `[d, ..]` becomes `[k, ..]`; a shortcut
/// is `[k, k]`, two of them in a block (one where attention and MLP stand side by side). Behind the last block the stream
/// is `d` wide again unless `head` is set. A tied output table becomes one of its own.
///
/// # Cost
/// One run of all samples with a second matrix product at each stop, and an eigendecomposition `O(d³)` for each.
///
/// # Errors
/// [`Error::Stream`] for models whose stream cannot be turned: norms behind sublayers, embeddings that are normed, projected
/// or scaled, no head; [`Error::Grows`] if nothing is saved; [`Error::Coded`].
///
/// # Source
/// Ashkboos et al. 2024 (SliceGPT), arXiv:2401.15024.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    amount: Amount,
    multiple: usize,
    head: bool,
    grow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Amount {
    Share(f64),
    Width(usize),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settings {
    sparsity: Option<f64>,
    width: Option<usize>,
    multiple: Option<usize>,
    head: Option<bool>,
    grow: Option<bool>,
}

impl Slice {
    fn parse(settings: Value) -> Result<Self> {
        let s: Settings = read(NAME, SETTINGS, settings)?;
        let amount = match (s.sparsity, s.width) {
            (Some(_), Some(_)) => return Err(Error::Settings { method: NAME, wants: "one of `sparsity` and `width`" }),
            (Some(share), None) if !(0.0..1.0).contains(&share) => {
                return Err(value_error(NAME, SETTINGS, "sparsity", &share.into()));
            }
            (None, Some(0)) => return Err(value_error(NAME, SETTINGS, "width", &0.into())),
            (share, None) => Amount::Share(share.unwrap_or(0.2)),
            (None, Some(width)) => Amount::Width(width),
        };
        let multiple = match s.multiple {
            Some(0) => return Err(value_error(NAME, SETTINGS, "multiple", &0.into())),
            multiple => multiple.unwrap_or(8),
        };
        Ok(Slice { amount, multiple, head: s.head.unwrap_or(false), grow: s.grow.unwrap_or(false) })
    }

    /// The width that is left. A share is of what the matrices of blocks hold; that the last of them stays as wide as it
    /// was is not counted.
    fn width(&self, model: &Model<Form>) -> Result<usize> {
        let hidden = model.hidden;
        match self.amount {
            Amount::Width(width) if width > hidden => Err(value_error(NAME, SETTINGS, "width", &width.into())),
            Amount::Width(width) => Ok(width),
            Amount::Share(0.0) => Ok(hidden),
            Amount::Share(share) => {
                let (mut held, mut shortcuts) = (0, 0);
                for stage in &model.stages {
                    let Stage::Block(block) = stage else { continue };
                    held += crate::Sizes::of(block, Form::parameters).all();
                    shortcuts += block.reads();
                }
                let after = |k: usize| held as f64 * k as f64 / hidden as f64 + (shortcuts * k * k) as f64;
                let fits = |k: &usize| after(*k) <= (1.0 - share) * held as f64;
                let widths = (1..=hidden / self.multiple).map(|n| n * self.multiple);
                Ok(widths.take_while(fits).last().unwrap_or(self.multiple.min(hidden)))
            }
        }
    }
}

impl StreamMethod for Slice {
    fn predict(&self, model: &Model<Form>) -> Result<Model<Form>> {
        can_turn(model)?;
        let width = self.width(model)?;
        let table = model.stages.iter().find_map(|stage| match stage {
            Stage::Embed(embed) => Some(embed.tokens.weight.clone()),
            _ => None,
        });
        let mut after = model.clone();
        let last = model.stages.iter().rposition(|stage| match stage {
            Stage::Block(block) => block.attn.is_some() || block.mlp.is_some(),
            _ => false,
        });
        for n in 0..after.stages.len() {
            let whole = !self.head && (last == Some(n) || matches!(after.stages[n], Stage::Head(_)));
            let end = if whole { model.hidden } else { width };
            let width = if matches!(after.stages[n], Stage::Head(_)) { end } else { width };
            let forms = Forms { place: model.place(n), hidden: model.hidden, width, end };
            match &mut after.stages[n] {
                Stage::Embed(embed) => forms.embed(embed)?,
                Stage::Block(block) => forms.block(block)?,
                Stage::Head(head) => forms.head(head, table.as_ref())?,
                Stage::Loose(_) => {}
            }
        }
        after.hidden = width;
        let count = |model: &Model<Form>| model.weights().map(|(_, _, form)| form.parameters()).sum::<u64>();
        let (before, now) = (count(model), count(&after));
        if now >= before && !self.grow {
            return Err(Error::Grows { method: NAME, before, after: now });
        }
        Ok(after)
    }

    fn fold(
        &self,
        model: &Model<Form>,
        n: usize,
        stage: Stage<Weight>,
        table: Option<&Weight>,
    ) -> Result<Stage<Weight>> {
        let place = model.place(n);
        let stage = stage.try_map(|role, _, weight| {
            let values = weight.to_f32();
            check_finite(&Site::new(place, role), "", &values)?;
            Ok::<_, Error>(single(weight.shape(), values))
        })?;
        Ok(match stage {
            Stage::Embed(mut embed) => {
                if takes_means(model) {
                    let tables = [Some(&mut embed.tokens.weight), embed.positions.as_mut(), embed.types.as_mut()];
                    tables.into_iter().flatten().for_each(|table| *table = centred_rows(table));
                    embed.tokens.bias = embed.tokens.bias.as_ref().map(centred_rows);
                }
                Stage::Embed(embed)
            }
            Stage::Block(mut block) => {
                if let Some(attn) = &mut block.attn {
                    let centred = fold_norm(&mut attn.before, [&mut attn.q, &mut attn.k, &mut attn.v]);
                    if centred {
                        centre_outputs(&mut attn.o);
                    }
                }
                if let Some(mlp) = &mut block.mlp {
                    let readers = mlp.gate.iter_mut().chain(std::iter::once(&mut mlp.up));
                    let centred = fold_norm(&mut mlp.before, readers);
                    if centred {
                        centre_outputs(&mut mlp.down);
                    }
                }
                Stage::Block(block)
            }
            Stage::Head(mut head) => {
                if head.out.is_none() {
                    let table = table.expect("a tied head comes with the token table");
                    head.out = Some(Linear { weight: single(table.shape(), table.to_f32()), bias: None });
                }
                fold_norm(&mut head.norm, head.out.iter_mut());
                Stage::Head(head)
            }
            loose => loose,
        })
    }

    fn directions(&self, place: Place, gram: &Gram, kept: usize) -> Result<Directions> {
        let hidden = gram.size();
        let mut vectors = principal(place, gram)?;
        vectors.truncate(kept * hidden);
        Ok(Directions { kept, hidden, rows: vectors.into_iter().map(|x| x as f32).collect() })
    }

    fn turn(&self, stage: Stage<Weight>, from: Option<&Directions>, to: Option<&Directions>) -> Stage<Weight> {
        match stage {
            Stage::Embed(mut embed) => {
                if let Some(to) = to {
                    turn_table(&mut embed.tokens.weight, to);
                    if let Some(bias) = &mut embed.tokens.bias {
                        turn_table(bias, to);
                    }
                    [&mut embed.positions, &mut embed.types].into_iter().flatten().for_each(|t| turn_table(t, to));
                }
                Stage::Embed(embed)
            }
            Stage::Block(mut block) => {
                let Some(from) = from else { return Stage::Block(block) };
                let attends = block.attn.is_some();
                if let Some(attn) = &mut block.attn {
                    turn_norm(&mut attn.before, from);
                    [&mut attn.q, &mut attn.k, &mut attn.v].into_iter().for_each(|linear| turn_inputs(linear, from));
                    turn_outputs(&mut attn.o, to);
                    attn.shortcut = Some(shortcut(from, to));
                }
                if let Some(mlp) = &mut block.mlp {
                    turn_norm(&mut mlp.before, from);
                    mlp.gate.iter_mut().chain([&mut mlp.up]).for_each(|linear| turn_inputs(linear, from));
                    turn_outputs(&mut mlp.down, to);
                    // Of parts side by side one takes the stream past both.
                    mlp.shortcut = (!block.parallel || !attends).then(|| shortcut(from, to));
                }
                Stage::Block(block)
            }
            Stage::Head(mut head) => {
                if let Some(from) = from {
                    turn_norm(&mut head.norm, from);
                    head.out.iter_mut().for_each(|linear| turn_inputs(linear, from));
                }
                Stage::Head(head)
            }
            loose => loose,
        }
    }

    fn settings(&self) -> Value {
        let mut settings = json!({ "multiple": self.multiple, "head": self.head, "grow": self.grow });
        match self.amount {
            Amount::Share(share) => settings["sparsity"] = json!(share),
            Amount::Width(width) => settings["width"] = json!(width),
        }
        settings
    }
}

/// Whether the norms of the stream take its mean away.
fn takes_means(model: &Model<Form>) -> bool {
    let of = |norm: &Option<Norm<Form>>| norm.as_ref().is_some_and(|norm| norm.kind == NormKind::Layer);
    model.stages.iter().any(|stage| match stage {
        Stage::Block(block) => {
            block.attn.as_ref().is_some_and(|attn| of(&attn.before))
                || block.mlp.as_ref().is_some_and(|mlp| of(&mlp.before))
        }
        Stage::Head(head) => of(&head.norm),
        _ => false,
    })
}

/// The eigenvectors of second moments as rows, the strongest first, in double precision.
fn principal(place: Place, gram: &Gram) -> Result<Vec<f64>> {
    let eigen = eigen_f64(&gram.to_f64(), gram.size()).map_err(|source| {
        let role = if place == Place::Head { Role::HeadNorm } else { Role::O };
        Error::Kernel { method: NAME, site: Site::new(place, role), leaf: String::new(), source }
    })?;
    Ok(eigen.vectors)
}

/// Refuses models whose stream cannot be turned.
fn can_turn(model: &Model<Form>) -> Result<()> {
    let refuse = |place: Place, role: Role, why: &'static str| {
        Err(Error::Stream { method: NAME, site: Site::new(place, role), why })
    };
    const BEHIND: &str = "a norm behind a sublayer has a gain for each entry of the stream, which cannot be turned";
    const FRONT: &str = "it has no norm in front";
    const AGAIN: &str = "the stream has been turned already";
    let mut has_head = false;
    for (n, stage) in model.stages.iter().enumerate() {
        let place = model.place(n);
        match stage {
            Stage::Embed(embed) => {
                if embed.norm.is_some() {
                    return refuse(place, Role::EmbedNorm, "the norm of the embedding cannot be turned");
                }
                if embed.project.is_some() {
                    return refuse(place, Role::EmbedProject, "the token table is not as wide as the stream");
                }
                if embed.scale != 1.0 {
                    return refuse(place, Role::Tokens, "its rows are scaled by the width of the stream");
                }
            }
            Stage::Block(block) => {
                if let Some(attn) = &block.attn {
                    match attn {
                        Attention { before: None, .. } => return refuse(place, Role::Q, FRONT),
                        Attention { after: Some(_), .. } => return refuse(place, Role::AttnAfter, BEHIND),
                        Attention { sum: Some(_), .. } => return refuse(place, Role::AttnSum, BEHIND),
                        Attention { shortcut: Some(_), .. } => return refuse(place, Role::AttnShortcut, AGAIN),
                        _ => {}
                    }
                }
                if let Some(mlp) = &block.mlp {
                    match mlp {
                        Mlp { before: None, .. } => return refuse(place, Role::Up, FRONT),
                        Mlp { after: Some(_), .. } => return refuse(place, Role::MlpAfter, BEHIND),
                        Mlp { sum: Some(_), .. } => return refuse(place, Role::MlpSum, BEHIND),
                        Mlp { shortcut: Some(_), .. } => return refuse(place, Role::MlpShortcut, AGAIN),
                        _ => {}
                    }
                }
            }
            Stage::Head(head) => {
                has_head = head.logits;
                if head.project.is_some() {
                    return refuse(place, Role::HeadProject, "the output table is not as wide as the stream");
                }
                if head.norm.is_none() {
                    return refuse(place, Role::HeadNorm, "there is no last norm");
                }
            }
            Stage::Loose(_) => {}
        }
    }
    if has_head {
        return Ok(());
    }
    refuse(Place::Head, Role::Out, "there is no head to turn the stream back for")
}

/// What one stage will be.
struct Forms {
    place: Place,
    hidden: usize,
    /// How wide the stream is in front of it.
    width: usize,
    /// How wide it is behind.
    end: usize,
}

impl Forms {
    fn dtype(&self, role: Role, form: &Form) -> Result<Dtype> {
        float_dtype(NAME, &Site::new(self.place, role), form)
    }

    /// `[.., hidden]` becomes `[.., width]`.
    fn inputs(&self, role: Role, form: &mut Form) -> Result<()> {
        *form = Form::float([form.shape()[0], self.width], self.dtype(role, form)?);
        Ok(())
    }

    /// A matrix that reads what a norm gives.
    fn reader(&self, role: Role, norm: &Norm<Form>, linear: &mut Linear<Form>) -> Result<()> {
        self.inputs(role.clone(), &mut linear.weight)?;
        if let Some(bias) = &mut linear.bias {
            *bias = Form::float(bias.shape(), self.dtype(role, bias)?);
        } else if norm.bias.is_some() {
            linear.bias = Some(Form::float([1, linear.weight.shape()[0]], self.dtype(role, &linear.weight)?));
        }
        Ok(())
    }

    /// A matrix that writes to a stream of so many entries; returns the form of the shortcut beside it.
    fn writer(&self, role: Role, linear: &mut Linear<Form>, end: usize) -> Result<Form> {
        let dtype = self.dtype(role.clone(), &linear.weight)?;
        linear.weight = Form::float([end, linear.weight.shape()[1]], dtype);
        if let Some(bias) = &mut linear.bias {
            *bias = Form::float([1, end], self.dtype(role, bias)?);
        }
        Ok(Form::float([end, self.width], dtype))
    }

    fn norm(&self, role: Role, norm: &mut Norm<Form>) -> Result<()> {
        self.inputs(role, &mut norm.gain)?;
        norm.bias = None;
        norm.kind = NormKind::Rms;
        norm.eps = narrowed_eps(norm.eps, self.hidden, self.width);
        Ok(())
    }

    fn embed(&self, embed: &mut Embed<Form>) -> Result<()> {
        self.inputs(Role::Tokens, &mut embed.tokens.weight)?;
        let bias = embed.tokens.bias.iter_mut().map(|form| (Role::Tokens, form));
        let positions = embed.positions.iter_mut().map(|form| (Role::Positions, form));
        let types = embed.types.iter_mut().map(|form| (Role::Types, form));
        bias.chain(positions).chain(types).try_for_each(|(role, form)| self.inputs(role, form))
    }

    fn block(&self, block: &mut Block<Form>) -> Result<()> {
        let attends = block.attn.is_some();
        let behind = if block.parallel || block.mlp.is_none() { self.end } else { self.width };
        if let Some(attn) = &mut block.attn
            && let Some(norm) = &mut attn.before
        {
            for (role, linear) in [(Role::Q, &mut attn.q), (Role::K, &mut attn.k), (Role::V, &mut attn.v)] {
                self.reader(role, norm, linear)?;
            }
            self.norm(Role::AttnBefore, norm)?;
            attn.shortcut = Some(self.writer(Role::O, &mut attn.o, behind)?);
        }
        if let Some(mlp) = &mut block.mlp
            && let Some(norm) = &mut mlp.before
        {
            mlp.gate.iter_mut().try_for_each(|gate| self.reader(Role::Gate, norm, gate))?;
            self.reader(Role::Up, norm, &mut mlp.up)?;
            self.norm(Role::MlpBefore, norm)?;
            let shortcut = self.writer(Role::Down, &mut mlp.down, self.end)?;
            mlp.shortcut = (!block.parallel || !attends).then_some(shortcut);
        }
        Ok(())
    }

    fn head(&self, head: &mut Head<Form>, table: Option<&Form>) -> Result<()> {
        if head.out.is_none() {
            let table = table.expect("a model has an embedding");
            head.out = Some(Linear { weight: table.clone(), bias: None });
        }
        if let (Some(norm), Some(out)) = (&mut head.norm, &mut head.out) {
            self.reader(Role::Out, norm, out)?;
            self.norm(Role::HeadNorm, norm)?;
        }
        Ok(())
    }
}

/// A mean over `width` entries plus this is the share `hidden / width` of a mean over `hidden` plus `eps`.
fn narrowed_eps(eps: f32, hidden: usize, width: usize) -> f32 {
    (f64::from(eps) * hidden as f64 / width as f64) as f32
}

fn single(shape: [usize; 2], values: Vec<f32>) -> Weight {
    Weight::float(shape, Floats::F32(values))
}

/// Folds gain and bias of a norm into the matrices that read it, and makes it one without. Says whether it took the mean
/// away, so that what writes to the stream must do so instead.
fn fold_norm<'a>(norm: &mut Option<Norm<Weight>>, readers: impl IntoIterator<Item = &'a mut Linear<Weight>>) -> bool {
    let Some(norm) = norm else { return false };
    let mut gain = norm.gain.to_f32();
    if norm.kind == NormKind::RmsPlusOne {
        gain.iter_mut().for_each(|g| *g += 1.0);
    }
    let shift = norm.bias.take().map(|bias| bias.to_f32());
    let width = gain.len();
    for linear in readers {
        let ([rows, _], mut w) = (linear.weight.shape(), linear.weight.to_f32());
        if let Some(shift) = &shift {
            let mut bias = linear.bias.as_ref().map_or_else(|| vec![0.0; rows], Weight::to_f32);
            for (bias, row) in bias.iter_mut().zip(w.chunks(width)) {
                let dot: f64 = row.iter().zip(shift).map(|(w, s)| f64::from(*w) * f64::from(*s)).sum();
                *bias = (f64::from(*bias) + dot) as f32;
            }
            linear.bias = Some(single([1, rows], bias));
        }
        w.chunks_mut(width).for_each(|row| row.iter_mut().zip(&gain).for_each(|(w, g)| *w *= g));
        linear.weight = single([rows, width], w);
    }
    let centred = norm.kind == NormKind::Layer;
    norm.gain = single([1, width], vec![1.0; width]);
    norm.kind = NormKind::Rms;
    centred
}

/// Takes from what a matrix writes to the stream its mean over the entries.
fn centre_outputs(linear: &mut Linear<Weight>) {
    let ([rows, columns], mut w) = (linear.weight.shape(), linear.weight.to_f32());
    let mut mean = vec![0.0f64; columns];
    w.chunks(columns.max(1)).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, w)| *m += f64::from(*w)));
    mean.iter_mut().for_each(|m| *m /= rows as f64);
    w.chunks_mut(columns.max(1)).for_each(|row| row.iter_mut().zip(&mean).for_each(|(w, m)| *w -= *m as f32));
    linear.weight = single([rows, columns], w);
    if let Some(bias) = &mut linear.bias {
        *bias = centred_rows(bias);
    }
}

/// Each row of a table without its mean.
fn centred_rows(table: &Weight) -> Weight {
    let ([rows, width], mut values) = (table.shape(), table.to_f32());
    for row in values.chunks_mut(width.max(1)) {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / width as f64;
        row.iter_mut().for_each(|x| *x -= mean as f32);
    }
    single([rows, width], values)
}

fn turn_table(table: &mut Weight, to: &Directions) {
    let rows = table.shape()[0];
    let mut turned = vec![0.0; rows * to.kept];
    matmul_nt_f32(Dims { m: rows, k: to.hidden, n: to.kept }, &table.to_f32(), &to.rows, &mut turned);
    *table = single([rows, to.kept], turned);
}

/// `W Q`, times what the norm in front divides too little by.
fn turn_inputs(linear: &mut Linear<Weight>, from: &Directions) {
    turn_table(&mut linear.weight, from);
    let scale = (from.hidden as f64 / from.kept as f64).sqrt();
    if from.kept != from.hidden {
        let values = linear.weight.to_f32().into_iter().map(|w| (f64::from(w) * scale) as f32).collect();
        linear.weight = single(linear.weight.shape(), values);
    }
}

/// `Qᵀ W`, and the bias with it.
fn turn_outputs(linear: &mut Linear<Weight>, to: Option<&Directions>) {
    let Some(to) = to else { return };
    let [_, columns] = linear.weight.shape();
    let mut turned = vec![0.0; to.kept * columns];
    matmul_f32(Dims { m: to.kept, k: to.hidden, n: columns }, &to.rows, &linear.weight.to_f32(), &mut turned);
    linear.weight = single([to.kept, columns], turned);
    if let Some(bias) = &mut linear.bias {
        turn_table(bias, to);
    }
}

fn turn_norm(norm: &mut Option<Norm<Weight>>, from: &Directions) {
    if let Some(norm) = norm {
        norm.gain = single([1, from.kept], vec![1.0; from.kept]);
        norm.eps = narrowed_eps(norm.eps, from.hidden, from.kept);
    }
}

/// From the directions of one stop to those of the next, or back to the stream as it was.
fn shortcut(from: &Directions, to: Option<&Directions>) -> Weight {
    let Some(to) = to else {
        let mut back = vec![0.0; from.hidden * from.kept];
        for (n, row) in from.rows.chunks(from.hidden).enumerate() {
            row.iter().enumerate().for_each(|(i, x)| back[i * from.kept + n] = *x);
        }
        return single([from.hidden, from.kept], back);
    };
    let mut product = vec![0.0; to.kept * from.kept];
    matmul_nt_f32(Dims { m: to.kept, k: from.hidden, n: from.kept }, &to.rows, &from.rows, &mut product);
    single([to.kept, from.kept], product)
}

#[cfg(test)]
mod tests;
