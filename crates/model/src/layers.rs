//! What differs from block to block: which have a window, and which rotate.

use serde_json::Value;

use crate::description::{ReachRule, WindowRule, WindowWhere};
use crate::error::Error;
use crate::lookup::{Found, Lookup};
use crate::tree::Reach;

/// For each block, whether it rotates queries and keys.
pub(crate) fn rotated(look: &Lookup<'_>, blocks: usize) -> Result<Vec<bool>, Error> {
    let Some(rope) = look.description.attn.rope.as_ref().map(|rope| rope.keys()) else {
        return Ok(vec![false; blocks]);
    };
    if let Some(listed) = rope.layers.as_ref().and_then(|layers| look.setting(layers)) {
        let flags = listed.numbers()?.into_iter().map(|flag| flag != 0.0).collect();
        return listed.one_each(flags, blocks, "block");
    }
    match rope.not_every.as_ref().and_then(|every| look.setting(every)) {
        Some(every) => {
            let every = every.positive()?;
            Ok((1..=blocks).map(|n: usize| !n.is_multiple_of(every)).collect())
        }
        None => Ok(vec![true; blocks]),
    }
}

/// For each block, which keys a query sees, given which are windowed.
pub(crate) fn reaches(look: &Lookup<'_>, windowed: &[bool]) -> Result<Vec<Reach>, Error> {
    let whole = match look.description.attn.reach {
        ReachRule::Causal => Reach::Causal,
        ReachRule::Both => Reach::Both,
    };
    let rule = look.description.attn.window.as_ref().filter(|_| windowed.contains(&true));
    let window = match (rule.and_then(|rule| look.setting(&rule.size)), whole) {
        // Half of it on either side, rounded down, and the query's own key between.
        (Some(size), Reach::Both) => Reach::Around(size.positive()? / 2),
        (Some(size), _) => Reach::Window(size.positive()?),
        (None, _) => whole,
    };
    Ok(windowed.iter().map(|&windowed| if windowed { window } else { whole }).collect())
}

/// For each block, whether the configuration calls it windowed, even if windows have no size.
pub(crate) fn windowed(look: &Lookup<'_>, rule: &WindowRule, rotated: &[bool]) -> Result<Vec<bool>, Error> {
    let blocks = rotated.len();
    let on = rule.on.as_ref().and_then(|on| look.setting(on));
    if !on.map_or(Ok(true), |on| on.flag())? {
        return Ok(vec![false; blocks]);
    }
    if let Some(listed) = rule.layers.as_ref().and_then(|layers| look.setting(layers)) {
        let flags = kinds(look, &listed)?;
        return listed.one_each(flags, blocks, "block");
    }
    Ok(match &rule.rule {
        WindowWhere::All => vec![true; blocks],
        WindowWhere::Unrotated => rotated.iter().map(|rotated| !rotated).collect(),
        WindowWhere::From(first) => {
            let first = look.needed_setting(first)?.count()?;
            (0..blocks).map(|n| n >= first).collect()
        }
        WindowWhere::NotEvery(every) => {
            let every = look.needed_setting(every)?.positive()?;
            (1..=blocks).map(|n: usize| !n.is_multiple_of(every)).collect()
        }
        WindowWhere::NotFirstOf(every) => {
            let every = look.needed_setting(every)?.positive()?;
            (0..blocks).map(|n: usize| !n.is_multiple_of(every)).collect()
        }
    })
}

/// Reads `["sliding_attention", "full_attention", …]`, or GPT-Neo's `[[["global", "local"], 12]]`.
fn kinds(look: &Lookup<'_>, listed: &Found) -> Result<Vec<bool>, Error> {
    let mut flags = Vec::new();
    for entry in listed.list()? {
        let part = |value: &Value| Found { key: listed.key.clone(), value: value.clone() };
        match entry {
            Value::Array(run) if run.len() == 2 => {
                let inner = kinds(look, &part(&run[0]))?;
                // Longer than any model: the count is compared with the number of blocks later.
                let times = part(&run[1]).count()?.min(1 + u16::MAX as usize / inner.len().max(1));
                flags.extend((0..times).flat_map(|_| inner.iter().copied()));
            }
            word => match part(word).word()? {
                "sliding_attention" | "local" => flags.push(true),
                "full_attention" | "global" => flags.push(false),
                _ => {
                    return Err(look.unsupported(&part(word), "layers are `full_attention` or `sliding_attention`"));
                }
            },
        }
    }
    Ok(flags)
}
