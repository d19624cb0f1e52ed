//! Samples of tokens, for methods that look at activations.

use brevity_kernels::ops::Compute;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Error;

/// How windows are drawn from a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Draw {
    /// The first windows of the text, one behind the other.
    First,
    /// Windows spread evenly over the text.
    #[default]
    Spread,
    /// Windows that begin anywhere and do not overlap, by the seed.
    Random,
}

impl Draw {
    /// All of them, by name.
    pub const NAMES: &'static [(&'static str, Draw)] =
        &[("first", Draw::First), ("spread", Draw::Spread), ("random", Draw::Random)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, draw)| *draw == self).map_or("", |(name, _)| name)
    }
}

/// What a recipe or a command says of samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The text, if it says which.
    pub text: Option<String>,
    /// How many windows.
    pub samples: Option<usize>,
    /// Tokens in each.
    pub length: Option<usize>,
    /// How they are drawn.
    pub draw: Option<Draw>,
}

impl Wanted {
    /// What is said here, and elsewhere where nothing is.
    pub fn or(self, other: &Wanted) -> Wanted {
        Wanted {
            text: self.text.or_else(|| other.text.clone()),
            samples: self.samples.or(other.samples),
            length: self.length.or(other.length),
            draw: self.draw.or(other.draw),
        }
    }

    /// How many windows: 128 unless something else is said.
    pub fn samples(&self) -> usize {
        self.samples.unwrap_or(128)
    }

    /// Tokens in each window: 2048 unless something else is said, and never more than the model was made for.
    pub fn length(&self, context: Option<usize>) -> usize {
        self.length.unwrap_or_else(|| context.map_or(2048, |context| context.min(2048)))
    }
}

/// Samples of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// The name of the text they are from.
    pub text: String,
    /// How many were asked for; a short text gives fewer.
    pub asked: usize,
    /// Tokens in each, but for a text that is shorter.
    pub length: usize,
    /// How they were drawn.
    pub draw: Draw,
    /// The tokens.
    pub windows: Vec<Vec<u32>>,
}

impl Samples {
    /// Draws samples from the tokens of a text. A text shorter than one window is one shorter sample.
    ///
    /// # Errors
    /// [`Error::Samples`] if nothing was asked for, or more than the model was made for; [`Error::Text`] if there are
    /// fewer than two tokens.
    pub fn draw(name: &str, tokens: &[u32], wanted: &Wanted, context: Option<usize>, seed: u64) -> Result<Self, Error> {
        let (asked, length, draw) = (wanted.samples(), wanted.length(context), wanted.draw.unwrap_or_default());
        let bad = |what: String| Err(Error::Text { text: name.to_owned(), what });
        if asked == 0 || length < 2 {
            return Err(Error::Samples { what: format!("{asked} samples of {length} tokens show nothing") });
        }
        if tokens.len() < 2 {
            return bad(format!("it has {} tokens", tokens.len()));
        }
        if let Some(context) = context.filter(|&context| length > context) {
            let what = format!("samples of {length} tokens are longer than the {context} that the model was made for");
            return Err(Error::Samples { what });
        }
        let whole = tokens.len() / length;
        let window = |start: usize| tokens[start..start + length].to_vec();
        let windows = match draw {
            _ if whole == 0 => vec![tokens.to_vec()],
            Draw::Random => {
                // Some of the windows of one division of the text, so that none shows what another was held out for.
                let number = |n: usize| {
                    let digest = blake3::hash(format!("{seed} {n}").as_bytes());
                    u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
                };
                let offset = (number(0) % (tokens.len() - whole * length + 1) as u64) as usize;
                let mut places: Vec<usize> = (0..whole).collect();
                places.sort_by_cached_key(|&n| (number(n + 1), n));
                places.truncate(asked);
                places.into_iter().map(|n| window(offset + n * length)).collect()
            }
            Draw::First => (0..asked.min(whole)).map(|n| window(n * length)).collect(),
            Draw::Spread => {
                let count = asked.min(whole);
                (0..count).map(|n| window(n * whole / count * length)).collect()
            }
        };
        Ok(Samples { text: name.to_owned(), asked, length, draw, windows })
    }

    /// Tokens of all samples.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }

    /// The samples that no method fits to: one in five; of two to four, the last; of one, none.
    pub(crate) fn held_out(&self) -> Vec<bool> {
        held_out(self.windows.len())
    }
}

pub(crate) fn held_out(count: usize) -> Vec<bool> {
    let last = |n: usize| (2..5).contains(&count) && n + 1 == count;
    (0..count).map(|n| n % 5 == 4 || last(n)).collect()
}

/// What calibration goes by besides the plan: samples, and the arithmetic of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// The samples.
    pub samples: Samples,
    /// The arithmetic of products and of sums of outer products.
    pub compute: Compute,
    /// Lines of the text, if the vectors of an encoder are to be looked at.
    pub lines: Vec<String>,
}

impl Calibration {
    /// What the record of a run says of it, a digest of the tokens included.
    pub(crate) fn to_json(&self) -> Value {
        let mut hasher = blake3::Hasher::new();
        for window in &self.samples.windows {
            hasher.update(&(window.len() as u64).to_le_bytes());
            window.iter().for_each(|token| _ = hasher.update(&token.to_le_bytes()));
        }
        self.lines.iter().for_each(|line| _ = hasher.update(line.as_bytes()));
        json!({
            "text": self.samples.text,
            "samples": self.samples.windows.len(),
            "length": self.samples.length,
            "draw": self.samples.draw,
            "tokens": self.samples.tokens(),
            "blake3": hasher.finalize().to_hex().to_string(),
            "arithmetic": if self.compute == Compute::Bf16 { "bf16" } else { "f32" },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(count: u32, samples: usize, length: usize, draw: Draw) -> Result<Samples, Error> {
        let wanted = Wanted { samples: Some(samples), length: Some(length), draw: Some(draw), text: None };
        Samples::draw("t", &(0..count).collect::<Vec<_>>(), &wanted, None, 3)
    }

    #[test]
    fn windows_are_drawn_first_spread_or_anywhere() {
        let starts = |draw| drawn(103, 3, 10, draw).unwrap().windows.iter().map(|w| w[0]).collect::<Vec<_>>();
        assert_eq!(starts(Draw::First), [0, 10, 20]);
        assert_eq!(starts(Draw::Spread), [0, 30, 60]);
        assert_eq!(starts(Draw::Random), starts(Draw::Random));
        let mut all: Vec<u32> = drawn(103, 10, 10, Draw::Random).unwrap().windows.concat();
        assert_ne!(all, (all[0]..all[0] + 100).collect::<Vec<u32>>(), "not as they lie in the text");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 100, "no token is in two windows");
    }

    #[test]
    fn a_text_shorter_than_one_sample_is_one_shorter_sample() {
        assert_eq!(drawn(7, 128, 2048, Draw::Spread).unwrap().windows, [[0, 1, 2, 3, 4, 5, 6]]);
    }

    #[test]
    fn a_text_with_fewer_windows_than_samples_gives_those_it_has() {
        assert_eq!(drawn(35, 128, 10, Draw::Spread).unwrap().windows.len(), 3);
    }

    #[test]
    fn an_empty_text_or_one_token_is_refused() {
        for count in [0, 1] {
            let error = drawn(count, 4, 10, Draw::First).unwrap_err();
            assert_eq!(error.to_string(), format!("`t` cannot be used for calibration: it has {count} tokens"));
        }
        assert!(drawn(9, 0, 10, Draw::First).is_err());
    }

    #[test]
    fn one_sample_in_five_is_held_out() {
        assert_eq!(held_out(1), [false]);
        assert_eq!(held_out(3), [false, false, true]);
        assert_eq!(held_out(6), [false, false, false, false, true, false]);
        assert_eq!(held_out(16).iter().filter(|&&held| held).count(), 3);
    }
}
