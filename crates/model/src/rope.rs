//! Rotary frequencies, with the scaling that the configuration asks for.
//!
//! Older files say `rope_theta` and `rope_scaling`; newer ones have one `rope_parameters`, possibly with one entry
//! for each kind of attention.

use crate::description::RopeKeys;
use crate::error::Error;
use crate::lookup::{Found, Lookup};
use crate::tree::{LongRope, Rope};

const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The rotary embedding of the blocks with or without a window, for heads of `qk_dim`.
pub(crate) fn rope(look: &Lookup<'_>, keys: &RopeKeys, windowed: bool, qk_dim: usize) -> Result<Rope, Error> {
    let given = given(look, keys, windowed);
    let inner = |key: &str| given.as_ref().and_then(|given| given.inner(key));

    let theta = match (inner("rope_theta"), &keys.local) {
        (Some(theta), _) => theta,
        (None, Some(local)) if windowed => look.needed_setting(local)?,
        (None, _) => look.needed_setting(&keys.theta)?,
    };
    let theta = theta.above_zero()?;
    let fraction = match inner("partial_rotary_factor").or_else(|| look.setting(keys.fraction.as_ref()?)) {
        Some(fraction) => fraction.above_zero()?.min(1.0),
        None => 1.0,
    };
    let width = (qk_dim as f64 * fraction) as usize / 2 * 2;
    let plain: Vec<f64> = (0..width).step_by(2).map(|i| theta.powf(-(i as f64) / width as f64)).collect();

    let scaled = match &given {
        Some(given) => scaled(look, given, plain, theta)?,
        None => Scaled { inv_freq: plain, amplitude: 1.0, long: None },
    };
    let single = |inv_freq: Vec<f64>| inv_freq.into_iter().map(|x| x as f32).collect();
    Ok(Rope {
        inv_freq: single(scaled.inv_freq),
        style: keys.style,
        amplitude: scaled.amplitude as f32,
        long: scaled.long.map(|(beyond, inv_freq)| LongRope { beyond, inv_freq: single(inv_freq) }),
        pairs: None,
    })
}

/// Frequencies after scaling, the factor of cosine and sine, and the frequencies of inputs beyond a length.
struct Scaled {
    inv_freq: Vec<f64>,
    amplitude: f64,
    long: Option<(usize, Vec<f64>)>,
}

/// The object with the parameters of this kind of block.
fn given(look: &Lookup<'_>, keys: &RopeKeys, windowed: bool) -> Option<Found> {
    let scaling = look.key("rope_scaling");
    let all = match look.key("rope_parameters") {
        Some(all) if KINDS.iter().any(|kind| all.value.get(kind).is_some()) => {
            let own = all.inner(KINDS[usize::from(windowed)]);
            return if windowed { own } else { scaling.or(own) };
        }
        other => other,
    };
    // Blocks with a base of their own are not scaled.
    if windowed && keys.local.is_some() { None } else { scaling.or(all) }
}

/// Applies the scaling that the parameters ask for.
fn scaled(look: &Lookup<'_>, given: &Found, plain: Vec<f64>, theta: f64) -> Result<Scaled, Error> {
    let usual = |inv_freq| Scaled { inv_freq, amplitude: 1.0, long: None };
    if !given.value.is_object() {
        return Err(given.wrong("an object with a `rope_type`"));
    }
    let Some(kind) = given.inner("rope_type").or_else(|| given.inner("type")) else {
        return Ok(usual(plain));
    };
    let has_long = given.inner("long_factor").is_some();
    match kind.word()? {
        "default" => Ok(usual(plain)),
        "linear" => {
            let factor = need(look, given, "factor")?.above_zero()?;
            Ok(usual(plain.into_iter().map(|f| f / factor).collect()))
        }
        "llama3" => {
            let factor = need(look, given, "factor")?.above_zero()?;
            let low = need(look, given, "low_freq_factor")?.above_zero()?;
            let high = need(look, given, "high_freq_factor")?.above_zero()?;
            let context = original_context(look, given)?;
            Ok(usual(plain.into_iter().map(|f| llama3(f, factor, low, high, context)).collect()))
        }
        // Early files of Phi-3 call it by other names.
        "longrope" | "su" => longrope(look, given, plain),
        "yarn" if has_long => longrope(look, given, plain),
        "yarn" => yarn(look, given, plain, theta),
        _ => Err(look.unsupported(&kind, "known are default, linear, llama3, longrope and yarn")),
    }
}

/// A value that the parameters must have.
fn need(look: &Lookup<'_>, given: &Found, key: &str) -> Result<Found, Error> {
    given.inner(key).ok_or_else(|| Error::MissingKey {
        key: format!("{}.{key}", given.key),
        description: look.description.name.clone(),
    })
}

/// The context before it was extended.
fn original_context(look: &Lookup<'_>, given: &Found) -> Result<f64, Error> {
    let key = "original_max_position_embeddings";
    let found = look.key(key).or_else(|| given.inner(key)).or_else(|| look.key(&look.description.keys.context));
    match found {
        Some(found) => found.above_zero(),
        None => {
            Err(Error::MissingKey { key: format!("{}.{key}", given.key), description: look.description.name.clone() })
        }
    }
}

/// Waves longer than `context / low` are stretched by `factor`, those shorter than `context / high` stay, and those
/// between are blended.
fn llama3(f: f64, factor: f64, low: f64, high: f64, context: f64) -> f64 {
    let turns = context * f / std::f64::consts::TAU;
    if turns < low {
        f / factor
    } else if turns > high {
        f
    } else {
        let smooth = (turns - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

/// YaRN (arXiv:2309.00071): pairs that turn often keep their frequency, those that turn seldom are stretched by
/// `factor`, with a ramp over the pairs between, and attention is tempered by `0.1 ln(factor) + 1`.
fn yarn(look: &Lookup<'_>, given: &Found, plain: Vec<f64>, theta: f64) -> Result<Scaled, Error> {
    let number = |key: &str| given.inner(key).map(|found| found.number()).transpose();
    let context = original_context(look, given)?;
    let factor = match number("factor")? {
        Some(factor) => factor,
        None => look.needed(&look.description.keys.context)?.above_zero()? / context,
    };
    let temper = |factor: f64, by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let amplitude = match (number("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
        (Some(given), _, _) => given,
        (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => temper(factor, one) / temper(factor, all),
        _ => temper(factor, 1.0),
    };

    let width = 2.0 * plain.len() as f64;
    let pair_turning = |turns: f64| width * (context / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let or = |value: Option<f64>, default: f64| value.filter(|&x| x != 0.0).unwrap_or(default);
    let (mut low, mut high) =
        (pair_turning(or(number("beta_fast")?, 32.0)), pair_turning(or(number("beta_slow")?, 1.0)));
    if given.inner("truncate").map_or(Ok(true), |found| found.flag())? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(width - 1.0));
    if low == high {
        high += 0.001;
    }
    let blend = |(i, f): (usize, f64)| {
        let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        f / factor * stretched + f * (1.0 - stretched)
    };
    Ok(Scaled { inv_freq: plain.into_iter().enumerate().map(blend).collect(), amplitude, long: None })
}

/// LongRoPE (arXiv:2402.13753): each pair has a divisor for inputs within the original context and one for longer
/// inputs, and attention is tempered by `sqrt(1 + ln(factor) / ln(context))`.
fn longrope(look: &Lookup<'_>, given: &Found, plain: Vec<f64>) -> Result<Scaled, Error> {
    let context = original_context(look, given)?;
    let divided = |key: &str| -> Result<Vec<f64>, Error> {
        let divisors = need(look, given, key)?;
        let list = divisors.one_each(divisors.numbers()?, plain.len(), "rotated pair")?;
        Ok(plain.iter().zip(list).map(|(f, divisor)| f / divisor).collect())
    };
    let factor = match given.inner("factor") {
        Some(factor) => factor.above_zero()?,
        None => look.needed(&look.description.keys.context)?.above_zero()? / context,
    };
    let amplitude = match given.inner("attention_factor") {
        Some(amplitude) => amplitude.number()?,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / context.ln()).sqrt(),
    };
    let long = Some((context as usize, divided("long_factor")?));
    Ok(Scaled { inv_freq: divided("short_factor")?, amplitude, long })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_scaling_leaves_short_waves_and_stretches_long_ones() {
        // With a context of 2π·8, a pair of frequency f turns 8 f times; low = 1 and high = 4 turns.
        let context = std::f64::consts::TAU * 8.0;
        let scaled = |f| llama3(f, 4.0, 1.0, 4.0, context);
        assert_eq!(scaled(1.0), 1.0);
        assert_eq!(scaled(0.0625), 0.015625);
        // 2.5 turns: half way between.
        assert!((scaled(0.3125) - (0.5 * 0.3125 / 4.0 + 0.5 * 0.3125)).abs() < 1e-12);
    }
}
