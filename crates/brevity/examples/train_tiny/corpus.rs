//! Makes the training sentences, the held-out text and the facts from WordNet.

use std::collections::{HashMap, HashSet};

use crate::facts::{self, Candidate, Fact, with_article};
use crate::random::Random;
use crate::relations::{self, countable};
use crate::wordnet::{Key, Synset, WordNet};

/// Everything the model is trained on and measured with.
pub struct Corpus {
    /// One synset per entry: its relations, definition and examples.
    pub texts: Vec<String>,
    /// The same for synsets that are not in `texts`, one per line.
    pub heldout: String,
    pub facts: Vec<Fact>,
    /// For each fact its wording as asked, then its paraphrases.
    pub wordings: Vec<[String; 3]>,
}

/// The held-out text stops growing here.
const HELDOUT_BYTES: usize = 72_000;

/// The text to calibrate on stops growing here.
const CALIBRATION_BYTES: usize = 200_000;

impl Corpus {
    /// Entries that the model was trained on, one per line, for methods that look at activations. They hold none of
    /// the facts that are asked for.
    pub fn calibration(&self) -> String {
        let mut text = String::new();
        for entry in &self.texts {
            if text.len() >= CALIBRATION_BYTES {
                break;
            }
            text.push_str(entry);
            text.push('\n');
        }
        text
    }
}

/// Builds the corpus; the same seed gives the same corpus.
pub fn build(wordnet: &WordNet, seed: u64) -> Corpus {
    let mut random = Random::new(seed, 2);
    let mut candidates: HashMap<Key, Vec<Candidate>> = HashMap::new();
    for synset in &wordnet.synsets {
        candidates.insert(synset.key, relations::candidates(wordnet, synset));
    }
    let all = wordnet.synsets.iter().flat_map(|synset| relations::candidates(wordnet, synset)).collect();
    let (facts, kept) = facts::choose(all, &mut random);
    let asked: HashSet<&str> = facts.iter().map(|fact| fact.prompt.as_str()).collect();
    let subjects: HashSet<Key> = kept.iter().map(|candidate| candidate.about).collect();

    let mut texts = Vec::new();
    let mut seen = HashSet::new();
    for synset in &wordnet.synsets {
        if synset.uses() == 0 && !subjects.contains(&synset.key) {
            continue;
        }
        let relations = candidates[&synset.key].iter().filter(|candidate| !asked.contains(candidate.prompt.as_str()));
        let text = describe(synset, relations);
        if text.is_ascii() && seen.insert(text.clone()) {
            texts.push((synset.key, text));
        }
    }
    random.shuffle(&mut texts);
    let mut heldout = String::new();
    let mut training = Vec::new();
    for (key, text) in texts {
        if heldout.len() < HELDOUT_BYTES && !subjects.contains(&key) {
            heldout.push_str(&text);
            heldout.push('\n');
        } else {
            training.push(text);
        }
    }
    // an example may be quoted by two synsets: no sentence of the held-out text is trained on
    let held: HashSet<&str> = heldout.lines().flat_map(sentences).collect();
    training.retain(|text| !sentences(text).any(|sentence| held.contains(sentence)));
    let wordings = kept.iter().map(wording).collect();
    Corpus { texts: training, heldout, facts, wordings }
}

fn wording(candidate: &Candidate) -> [String; 3] {
    let [first, second] = &candidate.paraphrases;
    [format!("{} {}.", candidate.prompt, candidate.answer), format!("{first}."), format!("{second}.")]
}

fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split(". ").map(|sentence| sentence.trim_end_matches('.'))
}

/// The sentences about one synset on one line.
fn describe<'a>(synset: &Synset, relations: impl Iterator<Item = &'a Candidate>) -> String {
    let mut text: Vec<String> = relations.map(|relation| format!("{} {}.", relation.prompt, relation.answer)).collect();
    let word = &synset.words[0].text;
    let definition = &synset.definition;
    text.push(match synset.key.0 {
        'n' if word.starts_with(|letter: char| letter.is_uppercase()) => {
            format!("{word} is {definition}.")
        }
        'n' if countable(synset.topic) => format!("{} is {definition}.", with_article(word)),
        'n' => format!("{word} is {definition}."),
        'v' => format!("to {word} is to {definition}."),
        _ => format!("{word} means {definition}."),
    });
    if let [_, second, ..] = &synset.words[..] {
        text.push(format!("another word for {word} is {}.", second.text));
    }
    for example in synset.examples.iter().take(2) {
        let end = if example.ends_with(['.', '!', '?']) { "" } else { "." };
        text.push(format!("{example}{end}"));
    }
    text.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wordnet::Word;

    #[test]
    fn a_synset_becomes_a_line_of_sentences() {
        let synset = Synset {
            key: ('n', 1),
            topic: 5,
            words: ["poodle", "poodle dog"].map(|text| Word { text: text.into(), uses: 1 }).into(),
            pointers: Vec::new(),
            definition: "an intelligent dog".into(),
            examples: vec!["the poodle won".into()],
        };
        let text = describe(&synset, std::iter::empty());
        assert_eq!(text, "a poodle is an intelligent dog. another word for poodle is poodle dog. the poodle won.");
    }
}
