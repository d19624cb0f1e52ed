//! Draws training windows: shuffled decks of facts and texts, packed one after the other.

use std::ops::Range;

use anyhow::Result;
use tokenizers::Tokenizer;

use crate::corpus::Corpus;
use crate::random::Random;
use crate::vocabulary::encode;

/// What the lines are taken from, and what counts.
#[derive(Clone, Copy)]
pub struct Mix {
    /// The share of training tokens that belong to facts.
    pub fact_share: f64,
    /// How often a fact is said in the words in which it will be asked.
    pub as_asked: f64,
    /// How much an answer counts in the loss where it is said in these words; every other token counts 1.
    pub answer_weight: f32,
}

/// A token and how much predicting it counts.
pub type Weighted = (u32, f32);

/// How often a line ends with the special token and not with a line feed.
const ENDS: f64 = 1.0 / 16.0;

/// An endless source of windows that depends on the corpus and the seed alone.
pub struct Sampler {
    facts: Vec<[Vec<u32>; 3]>,
    /// Where the answer lies in the wording of each fact as asked.
    answers: Vec<Range<usize>>,
    texts: Vec<Vec<u32>>,
    /// Mean tokens of a fact and of a text.
    lengths: (f64, f64),
    mix: Mix,
    fact_deck: Deck,
    text_deck: Deck,
    line_feed: Vec<u32>,
    rest: Vec<Weighted>,
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
    pub fn new(corpus: &Corpus, tokenizer: &Tokenizer, mix: Mix, seed: u64) -> Result<Self> {
        let mut facts = Vec::new();
        let mut answers = Vec::new();
        for (fact, [asked, first, second]) in corpus.facts.iter().zip(&corpus.wordings) {
            let asked_length = encode(tokenizer, asked)?.len();
            // the full stop is a token of its own
            answers.push(encode(tokenizer, &fact.prompt)?.len()..asked_length - 1);
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
        Ok(Self {
            fact_deck: Deck {
                order: (0..facts.len()).collect(),
                next: 0,
            },
            text_deck: Deck {
                order: (0..texts.len()).collect(),
                next: 0,
            },
            lengths: (fact_length, text_length),
            mix,
            answers,
            line_feed: encode(tokenizer, "\n")?,
            facts,
            texts,
            rest: Vec::new(),
            random: Random::new(seed, 3),
            facts_drawn: 0,
            texts_drawn: 0,
        })
    }

    /// Changes what the following lines are taken from.
    pub fn set_mix(&mut self, mix: Mix) {
        self.mix = mix;
    }

    /// The chance that the next line is a fact.
    fn fact_chance(&self) -> f64 {
        let (fact_length, text_length) = self.lengths;
        let (fact_rate, text_rate) = (
            self.mix.fact_share / fact_length,
            (1.0 - self.mix.fact_share) / text_length,
        );
        fact_rate / (fact_rate + text_rate)
    }

    /// Training tokens of one pass over the texts.
    pub fn text_tokens(&self) -> usize {
        self.texts.iter().map(|text| text.len() + 1).sum()
    }

    /// The next `length` tokens. A line cut at the end goes on in the next window every second time; otherwise the next
    /// window begins with a new line, as prompts do.
    pub fn window(&mut self, length: usize) -> Vec<Weighted> {
        let mut window = std::mem::take(&mut self.rest);
        let plain = |token: &u32| (*token, 1.0);
        while window.len() < length {
            if self.random.unit() < self.fact_chance() {
                let drawn = self.fact_deck.draw(&mut self.random);
                let chance = self.random.unit();
                let as_asked = self.mix.as_asked;
                let wording = if chance < as_asked {
                    0
                } else {
                    1 + usize::from(chance > (1.0 + as_asked) / 2.0)
                };
                let start = window.len();
                window.extend(self.facts[drawn][wording].iter().map(plain));
                if wording == 0 {
                    let answer = self.answers[drawn].clone();
                    window[start..][answer]
                        .iter_mut()
                        .for_each(|(_, weight)| *weight = self.mix.answer_weight);
                }
                self.facts_drawn += 1;
            } else {
                let drawn = self.text_deck.draw(&mut self.random);
                window.extend(self.texts[drawn].iter().map(plain));
                self.texts_drawn += 1;
            }
            if self.random.unit() < ENDS {
                window.push((0, 1.0));
            } else {
                window.extend(self.line_feed.iter().map(plain));
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
