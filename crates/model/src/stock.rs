//! Configurations of models whose blocks changed: in the words of their architecture if those can say it, in ours if not.

use serde_json::{Value, json};

use crate::config::Config;
use crate::description::{self, Description, Written};
use crate::expr::{Expr, Shaped};
use crate::layers;
use crate::lookup::Lookup;
use crate::rope::rope;
use crate::structure::{STRUCTURE, stream, structure};
use crate::tree::{Attention, Block, Heads, Mlp, Model, Stage};

/// The configuration of a model whose blocks may have changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshaped {
    /// The settings.
    pub config: Config,
    /// Whether they are in the words of the architecture alone, so that any reader of it can load the model.
    pub stock: bool,
}

/// The configuration of a model after its blocks changed from `before` to `after`.
///
/// Blocks of which nothing is left are taken out of the numbers and lists.
pub fn reshaped<A, L: Shaped>(
    config: &Config,
    before: &Model<A>,
    after: &Model<Expr<L>>,
    shape: impl Fn(&A) -> [usize; 2],
) -> Reshaped {
    let had = config.get(STRUCTURE).is_some_and(|ours| ours.get("blocks").is_some());
    let outline = |model: &Model<[usize; 2]>| -> Vec<Option<Block<[usize; 2]>>> {
        let block = |stage: &Stage<[usize; 2]>| match stage {
            Stage::Block(block) => Some(block.clone()),
            _ => None,
        };
        model.stages.iter().map(block).collect()
    };
    let shapes =
        |model: Result<Model<[usize; 2]>, std::convert::Infallible>| model.unwrap_or_else(|never| match never {});
    let then = shapes(before.try_map(|_, _, weight| Ok(shape(weight))));
    let now = shapes(after.try_map(|_, _, weight| Ok(weight.shape())));
    if without_biases(outline(&then)) == without_biases(outline(&now)) {
        return Reshaped { config: config.clone(), stock: !had };
    }
    let turned = stream(&now, |shape| *shape);
    if let Some(config) = stock(config, &now).filter(|_| turned.is_none()) {
        return Reshaped { config, stock: true };
    }
    let mut new = config.clone();
    if turned.is_some() {
        widths(&mut new, before.hidden, now.hidden);
    }
    if let Some(key) = described(config).map(|d| d.keys.layers) {
        let kept = kept(&now);
        if kept.contains(&false) {
            new.set(&key, json!(kept.iter().filter(|kept| **kept).count()));
            trim(&mut new, &kept);
        }
    }
    let mut ours = config.get(STRUCTURE).cloned().unwrap_or_else(|| json!({}));
    ours["blocks"] = structure(&now);
    if let Some(turned) = turned {
        ours["stream"] = json!(turned);
    }
    new.set(STRUCTURE, ours);
    Reshaped { config: new, stock: false }
}

/// Says how wide the residual stream is now, and how wide the heads of the architecture are, which readers otherwise work
/// out from the width of the stream.
fn widths(config: &mut Config, before: usize, now: usize) {
    let Some(d) = described(config) else { return };
    let look = Lookup { config, description: &d };
    let said = look.key(&d.keys.head_dim).is_some();
    let heads = look.key(&d.keys.heads).and_then(|found| found.count().ok()).filter(|heads| *heads > 0);
    config.set(&d.keys.hidden, json!(now));
    if let Some(heads) = heads.filter(|_| !said) {
        config.set(&d.keys.head_dim, json!(before / heads));
    }
}

/// Biases come and go without a word in the configuration.
fn without_biases(mut blocks: Vec<Option<Block<[usize; 2]>>>) -> Vec<Option<Block<[usize; 2]>>> {
    for block in blocks.iter_mut().flatten() {
        if let Some(attn) = &mut block.attn {
            [&mut attn.q, &mut attn.k, &mut attn.v, &mut attn.o].into_iter().for_each(|linear| linear.bias = None);
        }
        if let Some(mlp) = &mut block.mlp {
            [&mut mlp.up, &mut mlp.down].into_iter().chain(&mut mlp.gate).for_each(|linear| linear.bias = None);
        }
    }
    blocks
}

fn described(config: &Config) -> Option<Description> {
    let all = description::all().ok()?;
    let written = all.iter().find(|one| one.types.iter().any(|known| known == config.model_type()))?;
    written.for_config(config).ok()
}

/// For each block whether anything is left of it.
fn kept<W>(model: &Model<W>) -> Vec<bool> {
    let block = |stage: &Stage<W>| match stage {
        Stage::Block(block) => Some(block.attn.is_some() || block.mlp.is_some()),
        _ => None,
    };
    model.stages.iter().filter_map(block).collect()
}

/// The configuration in the keys of the architecture alone; `None` if those cannot say it: blocks of different widths or
/// numbers of heads, a sublayer that is missing, rotary pairs that were taken out.
fn stock(config: &Config, model: &Model<[usize; 2]>) -> Option<Config> {
    let all = description::all().ok()?;
    let written = all.iter().find(|one| one.types.iter().any(|known| known == config.model_type()))?;
    // Of a model of text and images only the language model could be changed, and its settings lie deeper.
    if config.language_model().is_some() {
        return None;
    }
    let d = written.for_config(config).ok()?;
    let kept = kept(model);
    let blocks = model.stages.iter().filter_map(|stage| match stage {
        Stage::Block(block) if block.attn.is_some() || block.mlp.is_some() => Some(block),
        _ => None,
    });
    let both = |block: &'_ Block<[usize; 2]>| block.attn.is_some() && block.mlp.is_some();
    if !blocks.clone().all(both) {
        return None;
    }
    let parts: Vec<Both<'_>> = blocks.filter_map(|block| Some((block.attn.as_ref()?, block.mlp.as_ref()?))).collect();
    let (first, mlp) = *parts.first()?;
    let heads = &first.heads;
    let ffn = mlp.up.weight[0];
    let same = |(attn, mlp): &Both<'_>| {
        let other = &attn.heads;
        let alike = (&other.kv_of, other.qk_dim, other.v_dim) == (&heads.kv_of, heads.qk_dim, heads.v_dim);
        alike && mlp.up.weight[0] == ffn && other.rope.as_ref().is_none_or(|rope| rope.pairs.is_none())
    };
    if !parts.iter().all(same) || heads.qk_dim != heads.v_dim || !evenly(heads) {
        return None;
    }
    let count = heads.kv_of.len();
    if heads.qk_dim * count != model.hidden && !d.attn.free_width {
        return None;
    }
    let mut new = config.clone();
    new.remove(STRUCTURE);
    let look = Lookup { config, description: &d };
    let before = look.key(&d.keys.layers).and_then(|found| found.count().ok())?;
    put(&mut new, &d.keys.layers, parts.len(), before);
    let known = look.key(&d.keys.heads).and_then(|found| found.count().ok())?;
    if count != known && d.attn.heads_divide && !model.hidden.is_multiple_of(count) {
        return None;
    }
    // Readers have a column of the table of relative positions for each head, and norms where the architecture has them.
    let whole =
        |heads: &Heads| heads.relative.as_ref().is_none_or(|read| read.columns.iter().copied().eq(0..known as u16));
    let normed = |(n, (attn, _)): (usize, &Both<'_>)| {
        attn.before.is_some() == (d.attn.before.is_some() && n >= d.attn.before_from)
    };
    if !parts.iter().all(|(attn, _)| whole(&attn.heads)) || !parts.iter().enumerate().all(normed) {
        return None;
    }
    put(&mut new, &d.keys.heads, count, known);
    let kv = look.key(&d.keys.kv_heads).and_then(|found| found.count().ok());
    if kv.is_some() || heads.kv() != count {
        put(&mut new, &d.keys.kv_heads, heads.kv(), kv.unwrap_or(known));
    }
    let usual = look.key(&d.keys.head_dim).and_then(|found| found.count().ok()).unwrap_or(model.hidden / known.max(1));
    // The width must be said as soon as it is not what readers work out from the number of heads.
    if heads.qk_dim != usual || count != known {
        new.set(&d.keys.head_dim, json!(heads.qk_dim));
    }
    let stock_ffn = look.key(&d.keys.ffn).and_then(|found| found.count().ok());
    if stock_ffn != Some(ffn) && (stock_ffn.is_some() || ffn != 4 * model.hidden) {
        new.set(&d.keys.ffn, json!(ffn));
    }
    if parts.len() != before {
        trim(&mut new, &kept);
    }
    says(&new, written, &d, &parts.iter().map(|(attn, _)| &attn.heads).collect::<Vec<_>>()).then_some(new)
}

/// The two sublayers of a block, by their shapes.
type Both<'a> = (&'a Attention<[usize; 2]>, &'a Mlp<[usize; 2]>);

fn put(config: &mut Config, key: &str, now: usize, before: usize) {
    if now != before {
        config.set(key, json!(now));
    }
}

/// Whether the query heads are dealt out to key/value heads in equal runs, as readers have it.
fn evenly(heads: &Heads) -> bool {
    let (count, kv) = (heads.kv_of.len(), heads.kv());
    kv > 0
        && count.is_multiple_of(kv)
        && heads.kv_of.iter().enumerate().all(|(n, &of)| usize::from(of) == n / (count / kv))
}

/// Takes the entries of dropped blocks out of every list that has one for each block.
fn trim(config: &mut Config, kept: &[bool]) {
    let keys: Vec<String> = config.keys().map(str::to_owned).collect();
    for key in keys {
        let Some(Value::Array(list)) = config.get(&key) else { continue };
        let left = |list: &[Value]| -> Vec<Value> {
            list.iter().zip(kept).filter(|(_, kept)| **kept).map(|(entry, _)| entry.clone()).collect()
        };
        if let Some(runs) = runs(list).filter(|runs| runs.len() == kept.len()) {
            let left = left(&runs).into_iter().map(|entry| json!([[entry], 1])).collect();
            config.set(&key, Value::Array(left));
        } else if list.len() == kept.len() {
            let left = left(list);
            config.set(&key, Value::Array(left));
        }
    }
}

/// The entries of a list that is written in runs: `[[["global", "local"], 6]]`.
fn runs(list: &[Value]) -> Option<Vec<Value>> {
    let mut all = Vec::new();
    for run in list {
        let (entries, times) = match run.as_array()?.as_slice() {
            [Value::Array(entries), times] => (entries, times.as_u64()?.min(1 << 16)),
            _ => return None,
        };
        (0..times).for_each(|_| all.extend(entries.iter().cloned()));
    }
    Some(all)
}

/// Whether a reader of the configuration comes to these heads: windows, rotation and scales included.
fn says(config: &Config, written: &Written, d: &Description, heads: &[&Heads]) -> bool {
    let Ok(now) = written.for_config(config) else { return false };
    let look = Lookup { config, description: &now };
    let Ok(rotated) = layers::rotated(&look, heads.len()) else { return false };
    let windowed = match &now.attn.window {
        Some(rule) => layers::windowed(&look, rule, &rotated),
        None => Ok(vec![false; heads.len()]),
    };
    let Ok(windowed) = windowed else { return false };
    let Ok(reaches) = layers::reaches(&look, &windowed) else { return false };
    heads.iter().enumerate().all(|(n, heads)| {
        let turns = match (&now.attn.rope, rotated[n]) {
            (Some(rule), true) => rope(&look, &rule.keys(), windowed[n], heads.qk_dim).ok(),
            _ => None,
        };
        let scale = d.attn.scale.is_some() || heads.scale == (heads.qk_dim as f32).powf(-0.5);
        heads.reach == reaches[n] && turns == heads.rope && scale
    })
}
