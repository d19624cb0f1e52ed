//! Attention: queries, keys and values from their tensors or from one, and what the heads are.

use std::ops::Range;

use super::parts::{join, one, wrong};
use super::{Builder, Layer, softcap};
use crate::description::{Scale, Split};
use crate::error::Error;
use crate::rope::rope;
use crate::site::{Place, Role, Site, Slot};
use crate::source::{Source, View};
use crate::tree::{Attention, Heads, Linear, Norm, Relative, Rope};

impl Builder<'_> {
    pub(super) fn attention(
        &mut self,
        place: Place,
        under: &str,
        layer: &Layer<'_>,
    ) -> Result<Attention<Source>, Error> {
        let names = &self.d.attn;
        let stock = self.head_dim()?;
        let dim = layer.heads.map_or(stock, |heads| heads.qk_dim);
        let [q, k, v] = self.qkv(place, under, dim)?;
        let site = |role| Site::new(place, role);
        let rows = |linear: &Linear<Source>| linear.weight.form.shape()[0];

        // Heads are counted in the tensors: pruning may have left fewer than the configuration says.
        let heads = whole_heads(&site(Role::Q), &q.weight, dim)?;
        let kv = whole_heads(&site(Role::K), &k.weight, dim)?;
        if kv == 0 || layer.heads.is_none() && !heads.is_multiple_of(kv) {
            return Err(wrong(&site(Role::K), &k.weight, format!("a number of heads that divides {heads}")));
        }
        if let Some(record) = layer.heads
            && (record.kv_of.len() != heads || record.kv_of.iter().any(|&of| usize::from(of) >= kv))
        {
            let known = record.kv_of.len();
            return Err(wrong(&site(Role::Q), &q.weight, format!("rows for {known} heads of {dim} that read {kv}")));
        }
        if !rows(&v).is_multiple_of(kv) {
            return Err(wrong(&site(Role::V), &v.weight, format!("rows for {kv} heads")));
        }
        let v_dim = rows(&v) / kv;
        let view = self.view(None);
        let o = self.linear(site(Role::O), &join(under, &names.o), view, [self.written(), Some(heads * v_dim)])?;
        let behind = rows(&o);

        let scale = match (&names.scale, layer.heads) {
            (_, Some(record)) => record.scale,
            (None, None) => (dim as f32).powf(-0.5),
            (Some(Scale::One), None) => 1.0,
            (Some(Scale::InverseSqrt(setting)), None) => {
                self.look.needed_setting(setting)?.above_zero()?.powf(-0.5) as f32
            }
        };
        let rope = match &names.rope {
            Some(rule) if layer.rotated => {
                let stock = rope(&self.look, &rule.keys(), layer.windowed, stock)?;
                let pairs = layer.heads.and_then(|record| record.pairs.clone());
                let known = stock.inv_freq.len();
                let rope = Rope { pairs, ..stock };
                let sound = rope.pairs.iter().flatten().all(|&pair| usize::from(pair) < known)
                    && rope.pairs.as_ref().is_none_or(|pairs| pairs.len().is_multiple_of(kv))
                    && 2 * rope.pairs_per_head(kv) <= dim;
                if !sound {
                    return Err(wrong(
                        &site(Role::K),
                        &k.weight,
                        format!("pairs among {known} for {kv} heads of {dim}"),
                    ));
                }
                Some(rope)
            }
            _ => None,
        };
        let softcap = softcap(&self.look, &names.softcap)?;
        let kv_of = match layer.heads {
            Some(record) => record.kv_of.clone(),
            None => (0..heads).map(|head| (head / (heads / kv)) as u16).collect(),
        };
        let (relative, read) = match &self.d.embed.relative {
            Some(rule) => {
                let table = self.relative(rule)?;
                let read = self.columns(place, &table, rule.distance, heads, layer)?;
                (Some(table), Some(read))
            }
            None => (None, None),
        };
        let heads_of = Heads { kv_of, qk_dim: dim, v_dim, scale, rope, reach: layer.reach, softcap, relative: read };

        let head_norm = |this: &mut Self, role: Role, name: &Option<String>, whole: usize| {
            let Some(name) = name else { return Ok(None) };
            let norm = this.norm(site(role.clone()), &join(under, name), None)?;
            match norm.gain.form.shape()[1] {
                width if width == dim || width == whole => Ok(Some(norm)),
                _ => Err(wrong(&site(role), &norm.gain, format!("[1, {dim}] or [1, {whole}]"))),
            }
        };
        let q_norm = head_norm(self, Role::QNorm, &names.q_norm, rows(&q))?;
        let k_norm = head_norm(self, Role::KNorm, &names.k_norm, rows(&k))?;
        Ok(Attention {
            before: self.norm_before(place, under)?,
            q,
            k,
            v,
            o,
            q_norm,
            k_norm,
            after: self.block_norm(place, Role::AttnAfter, under, &names.after)?,
            sum: self.block_norm(place, Role::AttnSum, under, &names.sum)?,
            relative,
            shortcut: self.shortcut(place, Role::AttnShortcut, behind)?,
            heads: heads_of,
        })
    }

    /// The norm in front. The first blocks of some architectures have none; but where blocks were dropped, another block may
    /// stand in their place, so that the tensor decides.
    fn norm_before(&mut self, place: Place, under: &str) -> Result<Option<Norm<Source>>, Error> {
        let names = &self.d.attn;
        let first = matches!(place, Place::Block(n) if (n as usize) < names.before_from);
        let site = Site::new(place, Role::AttnBefore);
        let there = |name: &String| {
            let tensor = format!("{}.weight", join(under, name));
            self.tensors.source(&site, Slot::Weight, &tensor, View::whole()).is_some()
        };
        match &names.before {
            Some(name) if first && !there(name) => Ok(None),
            before => self.block_norm(place, Role::AttnBefore, under, before),
        }
    }

    /// Which column of the table of relative positions each query head reads.
    fn columns(
        &self,
        place: Place,
        table: &Source,
        distance: usize,
        heads: usize,
        layer: &Layer<'_>,
    ) -> Result<Relative, Error> {
        let [rows, known] = table.form.shape();
        let recorded = layer.heads.and_then(|record| record.relative.clone());
        let columns = recorded.unwrap_or_else(|| (0..heads as u16).collect());
        let fits = match layer.heads {
            Some(_) => columns.len() == heads && columns.iter().all(|&column| usize::from(column) < known),
            None => heads == known,
        };
        // Half of the rows are for keys behind the query, and half of those for a distance each.
        if !fits || rows < 4 || !rows.is_multiple_of(4) || distance <= rows / 4 {
            let site = Site::new(place, Role::AttnRelative);
            return Err(wrong(&site, table, format!("a multiple of 4 rows, and a column for each of {heads} heads")));
        }
        Ok(Relative { columns, distance })
    }

    /// Width of a query or key head, as the configuration has it.
    fn head_dim(&self) -> Result<usize, Error> {
        if let Some(given) = self.look.key(&self.d.keys.head_dim) {
            return given.positive();
        }
        let heads = self.look.needed(&self.d.keys.heads)?;
        match self.hidden / heads.positive()? {
            0 => Err(heads.wrong(&format!("a number of heads that {} features can be shared by", self.hidden))),
            dim => Ok(dim),
        }
    }

    /// Queries, keys and values, from tensors of their own or from one.
    fn qkv(&mut self, place: Place, under: &str, dim: usize) -> Result<[Linear<Source>; 3], Error> {
        let names = &self.d.attn;
        let expected = [None, Some(self.hidden)];
        let roles = [Role::Q, Role::K, Role::V];
        let (tensors, ranges) = match (&names.qkv, [&names.q, &names.k, &names.v]) {
            (Some(fused), _) => {
                let name = join(under, &fused.tensor);
                let ranges = self.qkv_ranges(place, &name, fused.split, dim)?;
                ([name.clone(), name.clone(), name], ranges)
            }
            (None, [Some(q), Some(k), Some(v)]) => ([q, k, v].map(|name| join(under, name)), [None, None, None]),
            (None, _) => unreachable!("a description names q, k and v or qkv, checked when it is read"),
        };
        let mut parts = Vec::with_capacity(3);
        for ((role, tensor), rows) in roles.into_iter().zip(&tensors).zip(ranges) {
            let view = self.view(rows);
            parts.push(self.linear(Site::new(place, role), tensor, view, expected)?);
        }
        parts.try_into().map_err(|_| unreachable!("three roles make three parts"))
    }

    /// The rows of queries, keys and values in one tensor. A container that keeps weights by site has no such
    /// tensor, and answers with each weight whole.
    fn qkv_ranges(
        &self,
        place: Place,
        name: &str,
        split: Split,
        dim: usize,
    ) -> Result<[Option<Vec<Range<usize>>>; 3], Error> {
        let heads = self.look.needed(&self.d.keys.heads)?.positive()?;
        let kv = self.look.key(&self.d.keys.kv_heads).map_or(Ok(heads), |kv| kv.positive())?;
        let total = (2 * kv).saturating_add(heads).saturating_mul(dim);
        let site = Site::new(place, Role::Q);
        let Some(whole) = self.fused_form(name) else {
            // The biases may still lie in one, as they did.
            let biases = self.tensors.form(&format!("{name}.bias"));
            return match biases.is_some_and(|form| form.shape() == [1, total]) {
                true => Ok(split_rows(split, heads, kv, dim)),
                false => Ok([None, None, None]),
            };
        };
        if whole.shape()[0] != total || split == Split::PerHead && kv != heads {
            // Heads that lost some are no longer those of the configuration, and lie where the container says.
            if self.tensors.by_site(&site, Slot::Weight).is_some() {
                return Ok([None, None, None]);
            }
            let source = Source { tensor: format!("{name}.weight"), form: whole, view: View::whole() };
            let why = format!("{total} rows for {heads} query and 2 x {kv} key and value heads of {dim}");
            return Err(wrong(&site, &source, why));
        }
        Ok(split_rows(split, heads, kv, dim))
    }
}

/// The rows of queries, keys and values of heads of `dim` in one tensor.
fn split_rows(split: Split, heads: usize, kv: usize, dim: usize) -> [Option<Vec<Range<usize>>>; 3] {
    match split {
        Split::Stacked => {
            let (q, k) = (heads * dim, kv * dim);
            [one(0..q), one(q..q + k), one(q + k..q + 2 * k)]
        }
        Split::PerHead => [0, 1, 2]
            .map(|part| Some((0..heads).map(|head| (3 * head + part) * dim..(3 * head + part + 1) * dim).collect())),
    }
}

fn whole_heads(site: &Site, weight: &Source, dim: usize) -> Result<usize, Error> {
    let rows = weight.form.shape()[0];
    if !rows.is_multiple_of(dim) || rows / dim > usize::from(u16::MAX) {
        return Err(wrong(site, weight, format!("rows for heads of {dim}")));
    }
    Ok(rows / dim)
}
