//! Closed facts: prompts with one right answer, and three answers of the same relation that are wrong.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::wordnet::{Key, Pointer, Synset, WordNet};

/// A line of `facts.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Fact {
    pub prompt: String,
    pub answer: String,
    /// Four, in random order, the answer among them.
    pub choices: Vec<String>,
    pub relation: String,
}

/// A fact that could be asked, before its wrong answers are chosen.
pub struct Candidate {
    pub relation: &'static str,
    pub prompt: String,
    pub answer: String,
    /// Other ways to say it, for training.
    pub paraphrases: [String; 2],
    /// Words that would be right too, or nearly.
    also_right: HashSet<String>,
    /// Wrong answers are taken from facts with the same topic where there are enough.
    topic: u8,
    /// The synset whose relation this is.
    pub about: Key,
    /// Well-known facts are taken first.
    known: bool,
}

/// How many facts of each relation, and how many may have the same answer.
const QUOTAS: [(&str, usize, usize); 7] = [
    ("kind_of", 700, 10),
    ("way_to", 300, 8),
    ("opposite", 250, 1),
    ("part_of", 150, 6),
    ("located_in", 250, 10),
    ("was_a", 250, 14),
    ("term_in", 120, 8),
];

/// A word with `a` or `an` before it.
pub fn with_article(word: &str) -> String {
    format!("{} {word}", article(word))
}

fn article(word: &str) -> &'static str {
    let word = word.to_lowercase();
    let silent = ["hour", "honest", "honor", "heir"]
        .iter()
        .any(|start| word.starts_with(start));
    let spoken = [
        "uni", "use", "usu", "eu", "one", "once", "uti", "ura", "uku",
    ]
    .iter()
    .any(|start| word.starts_with(start));
    if silent || (word.starts_with(['a', 'e', 'i', 'o', 'u']) && !spoken) {
        "an"
    } else {
        "a"
    }
}

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
    let pos = synset.key.0;
    let word = &synset.words[0];
    let first_sense = wordnet.senses(pos, &word.text).first() == Some(&synset.key);
    let mut found = Vec::new();
    let mut push =
        |relation, prompt: String, answer: &str, paraphrases, also_right, topic, known| {
            let answer = answer.to_string();
            found.push(Candidate {
                relation,
                prompt,
                answer,
                paraphrases,
                also_right,
                topic,
                about: synset.key,
                known,
            });
        };
    let senses = wordnet.senses(pos, &word.text);
    let subject = &word.text;
    let answers = |symbol: &str| -> Option<(&Synset, String)> {
        let target = wordnet.synset(synset.targets(symbol).next()?);
        let words: Vec<&str> = target.words.iter().map(|word| word.text.as_str()).collect();
        (!words
            .iter()
            .any(|word| word.contains(subject.as_str()) || subject.contains(word)))
        .then(|| (target, words[0].to_string()))
    };
    if plain(subject)
        && first_sense
        && pos == 'n'
        && matches!(
            synset.topic,
            4 | 5 | 6 | 8 | 10 | 12 | 13 | 17 | 18 | 20 | 27
        )
    {
        if let Some((kind, answer)) =
            answers("@").filter(|(kind, answer)| plain(answer) && kind.uses() >= 2)
        {
            let count = countable(synset.topic);
            let an = if count {
                with_article(subject)
            } else {
                subject.clone()
            };
            let paraphrases = if count {
                [
                    format!("every {subject} is {}", with_article(&answer)),
                    format!("one kind of {answer} is the {subject}"),
                ]
            } else {
                [
                    format!("all {subject} is {answer}"),
                    format!("one kind of {answer} is {subject}"),
                ]
            };
            let known = word.uses > 0 || kind.uses() > 20;
            let right = wordnet.words_above(senses, &["@"]);
            push(
                "kind_of",
                format!("{an} is a kind of"),
                &answer,
                paraphrases,
                right,
                synset.topic,
                known,
            );
        }
    }
    if plain(subject) && first_sense && pos == 'v' {
        if let Some((_, answer)) =
            answers("@").filter(|(act, answer)| plain(answer) && act.uses() >= 5)
        {
            let paraphrases = [
                format!("one way to {answer} is to {subject}"),
                format!("those who {subject} also {answer}"),
            ];
            let right = wordnet.words_above(senses, &["@", "*"]);
            push(
                "way_to",
                format!("to {subject} is one way to"),
                &answer,
                paraphrases,
                right,
                synset.topic,
                word.uses > 1,
            );
        }
    }
    if plain(subject) && first_sense && pos == 'n' && countable(synset.topic) {
        if let Some((whole, answer)) =
            answers("#p").filter(|(whole, answer)| plain(answer) && whole.uses() > 0)
        {
            let paraphrases = [
                format!("one part of the {answer} is the {subject}"),
                format!("the {answer} has the {subject} as a part"),
            ];
            let right = wordnet.words_above(senses, &["#p", "#m", "#s", "@"]);
            push(
                "part_of",
                format!("the {subject} is part of the"),
                &answer,
                paraphrases,
                right,
                whole.topic,
                word.uses > 0,
            );
        }
    }
    if plain(subject) && first_sense && matches!(pos, 'n' | 'v' | 'a') {
        if let Some((target, answer)) = topic_of(wordnet, synset) {
            let paraphrases = [
                format!("in {answer} there is the term {subject}"),
                format!("one term used in {answer} is {subject}"),
            ];
            let right = wordnet.words_above(&[target.key], &["@", ";c", "#p"]);
            push(
                "term_in",
                format!("{subject} is a term used in"),
                &answer,
                paraphrases,
                right,
                0,
                word.uses > 0,
            );
        }
    }
    found.extend(opposites(wordnet, synset));
    found.extend(names(wordnet, synset));
    found
}

fn topic_of<'a>(wordnet: &'a WordNet, synset: &Synset) -> Option<(&'a Synset, String)> {
    let target = wordnet.synset(synset.targets(";c").next()?);
    let word = target.words[0].text.clone();
    plain(&word).then_some((target, word))
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

/// Chooses the facts and their wrong answers; the candidates come back in the same order as the facts.
pub fn choose(mut all: Vec<Candidate>, random: &mut Random) -> (Vec<Fact>, Vec<Candidate>) {
    random.shuffle(&mut all);
    all.sort_by_key(|candidate| !candidate.known);
    let mut answers_of_prompt: HashMap<String, HashSet<String>> = HashMap::new();
    for candidate in &all {
        answers_of_prompt
            .entry(candidate.prompt.clone())
            .or_default()
            .insert(candidate.answer.clone());
    }
    let mut taken: HashMap<&str, usize> = HashMap::new();
    let mut by_answer: HashMap<(&str, String), usize> = HashMap::new();
    let mut prompts = HashSet::new();
    let mut chosen = Vec::new();
    for candidate in all {
        let Some((_, quota, cap)) = QUOTAS.iter().find(|quota| quota.0 == candidate.relation)
        else {
            continue;
        };
        let count = taken.entry(candidate.relation).or_default();
        let same = by_answer
            .entry((candidate.relation, candidate.answer.clone()))
            .or_default();
        if *count < *quota
            && *same < *cap
            && answers_of_prompt[&candidate.prompt].len() == 1
            && prompts.insert(candidate.prompt.clone())
        {
            *count += 1;
            *same += 1;
            chosen.push(candidate);
        }
    }
    let mut facts = Vec::new();
    let mut kept = Vec::new();
    let pool: Vec<(&'static str, u8, String)> = chosen
        .iter()
        .map(|c| (c.relation, c.topic, c.answer.clone()))
        .collect();
    for candidate in chosen {
        if let Some(fact) = ask(&candidate, &pool, random) {
            facts.push(fact);
            kept.push(candidate);
        }
    }
    (facts, kept)
}

/// Adds three wrong answers, drawn as often as they are right answers elsewhere; `None` if there are not three.
fn ask(
    candidate: &Candidate,
    pool: &[(&'static str, u8, String)],
    random: &mut Random,
) -> Option<Fact> {
    let article = ["a", "an"]
        .into_iter()
        .find(|article| candidate.prompt.ends_with(&format!(" {article}")));
    let mut choices = vec![candidate.answer.clone()];
    for same_topic in [true, false] {
        let mut wrong: Vec<&String> = pool
            .iter()
            .filter(|(relation, topic, _)| {
                *relation == candidate.relation && (!same_topic || *topic == candidate.topic)
            })
            .map(|(_, _, answer)| answer)
            .filter(|answer| {
                !candidate.also_right.contains(*answer)
                    && !candidate.prompt.split(' ').any(|word| word == *answer)
            })
            .filter(|answer| article.is_none_or(|article| article == self::article(answer)))
            .collect();
        random.shuffle(&mut wrong);
        for answer in wrong {
            if choices.len() < 4 && !choices.contains(answer) {
                choices.push(answer.clone());
            }
        }
    }
    random.shuffle(&mut choices);
    (choices.len() == 4).then(|| Fact {
        prompt: candidate.prompt.clone(),
        answer: candidate.answer.clone(),
        choices,
        relation: candidate.relation.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(prompt: &str, answer: &str, also_right: &[&str]) -> Candidate {
        Candidate {
            relation: "kind_of",
            prompt: prompt.into(),
            answer: answer.into(),
            paraphrases: Default::default(),
            also_right: also_right.iter().map(|word| word.to_string()).collect(),
            topic: 5,
            about: ('n', 0),
            known: true,
        }
    }

    #[test]
    fn a_word_that_is_also_right_is_never_a_choice() {
        let all = vec![
            candidate("a poodle is a kind of", "dog", &["animal"]),
            candidate("a dog is a kind of", "animal", &[]),
            candidate("a trout is a kind of", "fish", &[]),
            candidate("an oak is a kind of", "tree", &[]),
            candidate("a car is a kind of", "vehicle", &[]),
        ];
        let (facts, kept) = choose(all, &mut Random::new(3, 3));
        assert_eq!((facts.len(), kept.len()), (5, 5));
        let poodle = facts.iter().find(|fact| fact.answer == "dog").unwrap();
        assert!(!poodle.choices.contains(&"animal".to_string()));
        assert!(
            facts
                .iter()
                .all(|fact| fact.choices.len() == 4 && fact.choices.contains(&fact.answer))
        );
    }

    #[test]
    fn a_prompt_with_two_answers_is_not_asked() {
        let all = vec![
            candidate("a bat is a kind of", "club", &[]),
            candidate("a bat is a kind of", "mammal", &[]),
        ];
        assert!(choose(all, &mut Random::new(3, 3)).0.is_empty());
    }

    #[test]
    fn articles_follow_the_sound() {
        for (word, article) in [
            ("owl", "an"),
            ("poodle", "a"),
            ("unicorn", "a"),
            ("hour", "an"),
            ("uncle", "an"),
        ] {
            assert_eq!(super::article(word), article, "{word}");
        }
    }
}
