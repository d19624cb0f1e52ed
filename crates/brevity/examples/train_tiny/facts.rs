//! Closed facts: prompts with one right answer, and three answers of the same relation that are wrong.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::random::Random;
use crate::wordnet::Key;

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
    pub also_right: HashSet<String>,
    /// Wrong answers are taken from facts with the same topic where there are enough.
    pub topic: u8,
    /// The synset whose relation this is.
    pub about: Key,
    /// Well-known facts are taken first.
    pub known: bool,
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

pub fn article(word: &str) -> &'static str {
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
