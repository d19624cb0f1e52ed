//! Draws training windows: shuffled decks of facts and texts, packed one after the other.

use anyhow::Result;
use tokenizers::Tokenizer;

use crate::corpus::Corpus;
use crate::random::Random;
use crate::vocabulary::encode;

/// The share of training tokens that belong to facts.
const FACT_SHARE: f64 = 0.35;
/// How often a fact is said in the words in which it will be asked.
const AS_ASKED: f64 = 0.6;
/// How often a line ends with the special token and not with a line feed.
const ENDS: f64 = 1.0 / 16.0;

/// An endless source of windows that depends on the corpus and the seed alone.
pub struct Sampler {
    facts: Vec<[Vec<u32>; 3]>,
    texts: Vec<Vec<u32>>,
    fact_deck: Deck,
    text_deck: Deck,
    /// The chance that the next line is a fact.
    fact_chance: f64,
    line_feed: Vec<u32>,
    rest: Vec<u32>,
    random: Random,
    /// Fact lines drawn so far.
    pub facts_drawn: usize,
    /// Text lines drawn so far.
    pub texts_drawn: usize,
}

/// Indices in random order; shuffled again after each pass.
struct Deck {
    order: Vec<usize>,
    next: usize,
}

impl Deck {
    fn draw(&mut self, random: &mut Random) -> usize {
        if self.next == 0 {
            random.shuffle(&mut self.order);
        }
        let drawn = self.order[self.next];
        self.next = (self.next + 1) % self.order.len();
        drawn
    }
}

impl Sampler {
    /// Tokenizes the corpus.
    pub fn new(corpus: &Corpus, tokenizer: &Tokenizer, seed: u64) -> Result<Self> {
        let mut facts = Vec::new();
        for [asked, first, second] in &corpus.wordings {
            facts.push([
                encode(tokenizer, asked)?,
                encode(tokenizer, first)?,
                encode(tokenizer, second)?,
            ]);
        }
        let texts = corpus
            .texts
            .iter()
            .map(|text| encode(tokenizer, text))
            .collect::<Result<Vec<_>>>()?;
        let mean = |total: usize, count: usize| total as f64 / count as f64 + 1.0;
        let fact_length = mean(facts.iter().map(|fact| fact[0].len()).sum(), facts.len());
        let text_length = mean(texts.iter().map(Vec::len).sum(), texts.len());
        let (fact_rate, text_rate) = (FACT_SHARE / fact_length, (1.0 - FACT_SHARE) / text_length);
        Ok(Self {
            fact_deck: Deck {
                order: (0..facts.len()).collect(),
                next: 0,
            },
            text_deck: Deck {
                order: (0..texts.len()).collect(),
                next: 0,
            },
            fact_chance: fact_rate / (fact_rate + text_rate),
            line_feed: encode(tokenizer, "\n")?,
            facts,
            texts,
            rest: Vec::new(),
            random: Random::new(seed, 3),
            facts_drawn: 0,
            texts_drawn: 0,
        })
    }

    /// Training tokens of one pass over the texts.
    pub fn text_tokens(&self) -> usize {
        self.texts.iter().map(|text| text.len() + 1).sum()
    }

    /// The next `length` tokens. A line cut at the end goes on in the next window every second time; otherwise the next
    /// window begins with a new line, as prompts do.
    pub fn window(&mut self, length: usize) -> Vec<u32> {
        let mut window = std::mem::take(&mut self.rest);
        while window.len() < length {
            if self.random.unit() < self.fact_chance {
                let fact = &self.facts[self.fact_deck.draw(&mut self.random)];
                let chance = self.random.unit();
                let wording = if chance < AS_ASKED {
                    0
                } else {
                    1 + usize::from(chance > (1.0 + AS_ASKED) / 2.0)
                };
                window.extend(&fact[wording]);
                self.facts_drawn += 1;
            } else {
                window.extend(&self.texts[self.text_deck.draw(&mut self.random)]);
                self.texts_drawn += 1;
            }
            if self.random.unit() < ENDS {
                window.push(0)
            } else {
                window.extend(&self.line_feed)
            }
        }
        let rest = window.split_off(length);
        if self.random.unit() < 0.5 {
            self.rest = rest;
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deck_gives_every_card_once_per_pass() {
        let mut deck = Deck {
            order: (0..10).collect(),
            next: 0,
        };
        let mut random = Random::new(1, 1);
        for _ in 0..3 {
            let mut pass: Vec<usize> = (0..10).map(|_| deck.draw(&mut random)).collect();
            pass.sort_unstable();
            assert_eq!(pass, (0..10).collect::<Vec<_>>());
        }
    }
}
