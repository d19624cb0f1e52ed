//! Says the relations of WordNet in words.

use crate::facts::{Candidate, article, with_article};
use crate::wordnet::{Key, Pointer, Synset, Word, WordNet};

/// Nouns of these topics are things one can count: animals, artifacts, body parts, groups, objects, persons, plants.
pub fn countable(topic: u8) -> bool {
    matches!(topic, 5 | 6 | 8 | 14 | 17 | 18 | 20)
}

/// A word of small letters alone.
fn plain(word: &str) -> bool {
    (2..=12).contains(&word.len()) && word.bytes().all(|letter| letter.is_ascii_lowercase())
}

/// A name: letters, spaces and points, beginning with a capital.
fn name(word: &str) -> bool {
    word.len() <= 22
        && word.starts_with(|letter: char| letter.is_ascii_uppercase())
        && word
            .bytes()
            .all(|letter| letter.is_ascii_alphabetic() || letter == b' ')
}

/// Every relation of a synset that can be asked about. Not filtered: prompts may repeat.
pub fn candidates(wordnet: &WordNet, synset: &Synset) -> Vec<Candidate> {
    let word = &synset.words[0];
    let senses = wordnet.senses(synset.key.0, &word.text);
    let mut found = Vec::new();
    // one word of small letters, in its most usual meaning
    if plain(&word.text) && senses.first() == Some(&synset.key) {
        let subject = Subject {
            wordnet,
            synset,
            word,
            senses,
        };
        let relations = [
            subject.kind_of(),
            subject.way_to(),
            subject.part_of(),
            subject.term_in(),
        ];
        found.extend(relations.into_iter().flatten());
    }
    found.extend(opposites(wordnet, synset));
    found.extend(names(wordnet, synset));
    found
}

/// A synset, its first word, and all meanings of that word.
struct Subject<'a> {
    wordnet: &'a WordNet,
    synset: &'a Synset,
    word: &'a Word,
    senses: &'a [Key],
}

impl<'a> Subject<'a> {
    /// The first synset over a relation and its first word, which must be plain and have no part in common with the subject.
    fn answer(&self, symbol: &str) -> Option<(&'a Synset, String)> {
        let target = self.wordnet.synset(self.synset.targets(symbol).next()?);
        let subject = self.word.text.as_str();
        let gives_away = |word: &Word| word.text.contains(subject) || subject.contains(&word.text);
        let answer = &target.words[0].text;
        (plain(answer) && !target.words.iter().any(gives_away)).then(|| (target, answer.clone()))
    }

    fn candidate(
        &self,
        relation: &'static str,
        prompt: String,
        answer: String,
        paraphrases: [String; 2],
    ) -> Candidate {
        Candidate {
            relation,
            prompt,
            answer,
            paraphrases,
            also_right: Default::default(),
            topic: self.synset.topic,
            about: self.synset.key,
            known: self.word.uses > 0,
        }
    }

    fn kind_of(&self) -> Option<Candidate> {
        // acts, animals, artifacts, body parts, communication, feelings, food, objects, persons, plants, substances
        if self.synset.key.0 != 'n'
            || !matches!(
                self.synset.topic,
                4 | 5 | 6 | 8 | 10 | 12 | 13 | 17 | 18 | 20 | 27
            )
        {
            return None;
        }
        let (kind, answer) = self.answer("@").filter(|(kind, _)| kind.uses() >= 2)?;
        let subject = &self.word.text;
        let (prompt, paraphrases) = if countable(self.synset.topic) {
            let every = format!("every {subject} is {}", with_article(&answer));
            (
                with_article(subject),
                [every, format!("one kind of {answer} is the {subject}")],
            )
        } else {
            (
                subject.clone(),
                [
                    format!("all {subject} is {answer}"),
                    format!("one kind of {answer} is {subject}"),
                ],
            )
        };
        Some(Candidate {
            also_right: self.wordnet.words_above(self.senses, &["@"]),
            known: self.word.uses > 0 || kind.uses() > 20,
            ..self.candidate(
                "kind_of",
                format!("{prompt} is a kind of"),
                answer,
                paraphrases,
            )
        })
    }

    fn way_to(&self) -> Option<Candidate> {
        if self.synset.key.0 != 'v' {
            return None;
        }
        let (_, answer) = self.answer("@").filter(|(act, _)| act.uses() >= 5)?;
        let subject = &self.word.text;
        let paraphrases = [
            format!("one way to {answer} is to {subject}"),
            format!("those who {subject} also {answer}"),
        ];
        Some(Candidate {
            also_right: self.wordnet.words_above(self.senses, &["@", "*"]),
            known: self.word.uses > 1,
            ..self.candidate(
                "way_to",
                format!("to {subject} is one way to"),
                answer,
                paraphrases,
            )
        })
    }

    fn part_of(&self) -> Option<Candidate> {
        if self.synset.key.0 != 'n' || !countable(self.synset.topic) {
            return None;
        }
        let (whole, answer) = self.answer("#p").filter(|(whole, _)| whole.uses() > 0)?;
        let subject = &self.word.text;
        let paraphrases = [
            format!("one part of the {answer} is the {subject}"),
            format!("the {answer} has the {subject} as a part"),
        ];
        Some(Candidate {
            also_right: self
                .wordnet
                .words_above(self.senses, &["#p", "#m", "#s", "@"]),
            topic: whole.topic,
            ..self.candidate(
                "part_of",
                format!("the {subject} is part of the"),
                answer,
                paraphrases,
            )
        })
    }

    fn term_in(&self) -> Option<Candidate> {
        if !matches!(self.synset.key.0, 'n' | 'v' | 'a') {
            return None;
        }
        let field = self.wordnet.synset(self.synset.targets(";c").next()?);
        let answer = field.words[0].text.clone();
        let subject = &self.word.text;
        let paraphrases = [
            format!("in {answer} there is the term {subject}"),
            format!("one term used in {answer} is {subject}"),
        ];
        plain(&answer).then(|| Candidate {
            also_right: self.wordnet.words_above(&[field.key], &["@", ";c", "#p"]),
            topic: 0,
            ..self.candidate(
                "term_in",
                format!("{subject} is a term used in"),
                answer,
                paraphrases,
            )
        })
    }
}

fn opposites(wordnet: &WordNet, synset: &Synset) -> Vec<Candidate> {
    let mut found = Vec::new();
    for Pointer {
        target,
        from_word,
        to_word,
        ..
    } in synset
        .pointers
        .iter()
        .filter(|pointer| pointer.symbol == "!")
    {
        // each pair of opposites is met twice: ask about one side, now this one and now that one
        let forward = (target.1 ^ synset.key.1) & 1 == 0;
        if (*target < synset.key) != forward || *from_word == 0 || *to_word == 0 {
            continue;
        }
        let (word, answer) = (
            &synset.words[from_word - 1],
            &wordnet.synset(*target).words[to_word - 1],
        );
        let (subject, opposite) = (&word.text, &answer.text);
        if !plain(subject) || !plain(opposite) || word.uses == 0 || answer.uses == 0 {
            continue;
        }
        found.push(Candidate {
            relation: "opposite",
            prompt: format!("the opposite of {subject} is"),
            answer: opposite.clone(),
            paraphrases: [
                format!("{subject} is the opposite of {opposite}"),
                format!("what is not {subject} may be {opposite}"),
            ],
            also_right: wordnet.words_above(&[*target, synset.key], &["&"]),
            topic: synset.key.0 as u8,
            about: synset.key,
            known: word.uses > 2 && answer.uses > 2,
        });
    }
    found
}

/// Where places are, and what people were.
fn names(wordnet: &WordNet, synset: &Synset) -> Option<Candidate> {
    let kind = wordnet.synset(synset.targets("@i").next()?);
    // the longest name of a person: Einstein, Albert Einstein
    let chosen = synset
        .words
        .iter()
        .map(|word| &word.text)
        .filter(|word| name(word));
    let subject = if synset.topic == 18 {
        chosen.max_by_key(|word| word.len())?
    } else {
        chosen.into_iter().next()?
    };
    let senses = wordnet.senses('n', subject);
    if synset.topic == 18 {
        let answer = kind.words[0].text.clone();
        return (plain(&answer) && senses.len() == 1 && subject.contains(' ')).then(|| Candidate {
            relation: "was_a",
            prompt: format!("{subject} was {}", article(&answer)),
            paraphrases: [
                format!("one {answer} was {subject}"),
                format!("we remember {subject} as {}", with_article(&answer)),
            ],
            also_right: wordnet.words_above(senses, &["@i", "@"]),
            topic: 0,
            about: synset.key,
            known: synset.uses() > 0 || synset.definition.len() > 50,
            answer,
        });
    }
    let place = wordnet.synset(synset.targets("#p").next()?);
    let answer = place
        .words
        .iter()
        .map(|word| &word.text)
        .find(|word| name(word) && !word.contains(' '))?
        .clone();
    let fits = synset.topic == 15
        && senses.first() == Some(&synset.key)
        && !answer.contains(subject.as_str())
        && !subject.contains(&answer);
    fits.then(|| Candidate {
        relation: "located_in",
        prompt: format!("{subject} is in"),
        paraphrases: [
            format!("{subject} lies in {answer}"),
            format!("one place in {answer} is {subject}"),
        ],
        also_right: wordnet.words_above(senses, &["#p"]),
        topic: 15,
        about: synset.key,
        known: synset.uses() > 0 || place.uses() > 0,
        answer,
    })
}
