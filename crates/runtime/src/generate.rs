//! Continuing a text, token by token.

use std::ops::ControlFlow;

use crate::error::Result;
use crate::read;
use crate::resident::Resident;

/// How the next token is chosen, and when to stop.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// At most so many tokens are added.
    pub max_tokens: usize,
    /// Logits are divided by it before a token is drawn; at zero the most likely token is taken.
    pub temperature: f32,
    /// What the draws start from. The same seed gives the same text.
    pub seed: u64,
    /// Tokens that end the text. They are not part of it.
    pub stop: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { max_tokens: 128, temperature: 0.0, seed: 0, stop: Vec::new() }
    }
}

/// Continues `prompt`. `on_token` is called with each new token and may end the text; all of them are returned.
///
/// # Errors
/// As [`Resident::forward`].
pub fn generate(
    model: &Resident,
    prompt: &[u32],
    sampling: &Sampling,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    let mut cache = model.cache();
    let mut draws = Draws(sampling.seed);
    let mut text = Vec::new();
    if sampling.max_tokens == 0 {
        return Ok(text);
    }
    let mut logits = model.forward(prompt, &mut cache)?;
    loop {
        let token = read::values(&logits, |logits| choose(logits, sampling.temperature, &mut draws))?;
        if sampling.stop.contains(&token) {
            return Ok(text);
        }
        text.push(token);
        if on_token(token).is_break() || text.len() == sampling.max_tokens {
            return Ok(text);
        }
        logits = model.forward(&[token], &mut cache)?;
    }
}

/// The most likely token (the first of several), or one drawn from `softmax(logits / temperature)`.
fn choose(logits: &[f32], temperature: f32, draws: &mut Draws) -> u32 {
    let mut best = 0;
    for (n, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = n;
        }
    }
    if temperature <= 0.0 {
        return best as u32;
    }
    let top = f64::from(logits[best]);
    let weight = |logit: &f32| ((f64::from(*logit) - top) / f64::from(temperature)).exp();
    let mut left = draws.next() * logits.iter().map(weight).sum::<f64>();
    for (n, logit) in logits.iter().enumerate() {
        left -= weight(logit);
        if left < 0.0 {
            return n as u32;
        }
    }
    best as u32
}

/// Numbers from 0 to 1 (SplitMix64, Steele et al. 2014).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_temperature_the_first_of_the_most_likely_is_taken() {
        assert_eq!(choose(&[0.0, 2.0, 2.0, 1.0], 0.0, &mut Draws(0)), 1);
    }

    #[test]
    fn draws_follow_the_softmax_and_repeat_with_the_seed() {
        // Logits 0 and ln 3: a quarter and three quarters at temperature 1, one half each when it is very high.
        let logits = [0.0, 3.0f32.ln()];
        let share = |temperature| {
            let mut draws = Draws(7);
            (0..4000).filter(|_| choose(&logits, temperature, &mut draws) == 1).count() as f64 / 4000.0
        };
        assert!((share(1.0) - 0.75).abs() < 0.03);
        assert!((share(1e6) - 0.5).abs() < 0.03);
        assert_eq!(share(1.0), share(1.0));
    }
}
