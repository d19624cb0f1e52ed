//! Reads the WordNet database files: `data.*`, `index.*` and `cntlist.rev`.
//!
//! The layout is the one of the manual page wndb(5WN): a synset per line, its words, its pointers to other synsets, and
//! after `|` a gloss made of definitions and of examples in double quotes.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The part of speech (`n`, `v`, `a`, `r`) and the offset that together name a synset.
pub type Key = (char, u32);

/// A set of words with one meaning.
pub struct Synset {
    pub key: Key,
    /// The lexicographer file, which is a coarse topic: 5 is animals, 18 is persons.
    pub topic: u8,
    pub words: Vec<Word>,
    pub pointers: Vec<Pointer>,
    pub definition: String,
    pub examples: Vec<String>,
}

/// A word of a synset.
pub struct Word {
    pub text: String,
    /// How often it carries this meaning in the texts that WordNet's authors tagged.
    pub uses: u32,
}

/// A relation to another synset; word numbers start at 1, and 0 means the whole synset.
pub struct Pointer {
    pub symbol: String,
    pub target: Key,
    pub from_word: usize,
    pub to_word: usize,
}

/// The whole database.
pub struct WordNet {
    /// In the order of the files: nouns, verbs, adjectives, adverbs.
    pub synsets: Vec<Synset>,
    place: HashMap<Key, usize>,
    senses: HashMap<(char, String), Vec<Key>>,
}

impl WordNet {
    /// Reads the database in `folder`.
    pub fn read(folder: &Path) -> Result<Self> {
        let open = |name: String| {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| {
                format!(
                    "cannot read `{}`; on Debian the package is wordnet-base",
                    path.display()
                )
            })
        };
        let uses = read_uses(&open("cntlist.rev".into())?);
        let mut wordnet = Self {
            synsets: Vec::new(),
            place: HashMap::new(),
            senses: HashMap::new(),
        };
        for (pos, name) in [('n', "noun"), ('v', "verb"), ('a', "adj"), ('r', "adv")] {
            for line in open(format!("data.{name}"))?
                .lines()
                .filter(|line| !line.starts_with("  "))
            {
                let synset = parse_synset(line, pos, &uses)
                    .with_context(|| format!("data.{name}: `{line}`"))?;
                wordnet.place.insert(synset.key, wordnet.synsets.len());
                wordnet.synsets.push(synset);
            }
            for line in open(format!("index.{name}"))?
                .lines()
                .filter(|line| !line.starts_with("  "))
            {
                let (lemma, keys) =
                    parse_senses(line, pos).with_context(|| format!("index.{name}: `{line}`"))?;
                wordnet.senses.insert((pos, lemma), keys);
            }
        }
        Ok(wordnet)
    }

    /// The synset with this name.
    pub fn synset(&self, key: Key) -> &Synset {
        &self.synsets[self.place[&key]]
    }

    /// Every meaning of a word, the most usual first.
    pub fn senses(&self, pos: char, word: &str) -> &[Key] {
        let lemma = word.to_lowercase().replace(' ', "_");
        self.senses.get(&(pos, lemma)).map_or(&[], Vec::as_slice)
    }

    /// The words of every synset that can be reached from the given ones over the given relations, these included.
    pub fn words_above(&self, from: &[Key], symbols: &[&str]) -> std::collections::HashSet<String> {
        let mut queue = from.to_vec();
        let mut seen: std::collections::HashSet<Key> = from.iter().copied().collect();
        let mut words = std::collections::HashSet::new();
        while let Some(key) = queue.pop() {
            let synset = self.synset(key);
            words.extend(synset.words.iter().map(|word| word.text.clone()));
            for pointer in &synset.pointers {
                if symbols.contains(&pointer.symbol.as_str()) && seen.insert(pointer.target) {
                    queue.push(pointer.target);
                }
            }
        }
        words
    }
}

impl Synset {
    /// The targets of one relation between whole synsets.
    pub fn targets<'a>(&'a self, symbol: &'a str) -> impl Iterator<Item = Key> + 'a {
        self.pointers
            .iter()
            .filter(move |pointer| pointer.symbol == symbol)
            .map(|pointer| pointer.target)
    }

    /// How often the synset was met in tagged texts.
    pub fn uses(&self) -> u32 {
        self.words.iter().map(|word| word.uses).sum()
    }
}

/// Sense key without its last two fields -> number of uses.
fn read_uses(text: &str) -> HashMap<String, u32> {
    let mut uses = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(key), Some(_), Some(Ok(count))) = (
            fields.next(),
            fields.next(),
            fields.next().map(str::parse::<u32>),
        ) {
            let short = key.splitn(4, ':').take(3).collect::<Vec<_>>().join(":");
            *uses.entry(short).or_insert(0) += count;
        }
    }
    uses
}

fn parse_synset(line: &str, pos: char, uses: &HashMap<String, u32>) -> Result<Synset> {
    let (data, gloss) = line.split_once(" | ").context("no gloss")?;
    let mut fields = data.split_whitespace();
    let mut next = || fields.next().context("the line ends early");
    let offset = next()?.parse()?;
    let topic: u8 = next()?.parse()?;
    let kind = match next()? {
        "n" => 1,
        "v" => 2,
        "a" => 3,
        "r" => 4,
        _ => 5,
    };
    let count = usize::from_str_radix(next()?, 16)?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        // adjectives may carry their position in brackets: `galore(ip)`
        let lemma = next()?.split('(').next().unwrap_or_default();
        let id = u32::from_str_radix(next()?, 16)?;
        let key = format!("{}%{kind}:{topic:02}:{id:02}", lemma.to_lowercase());
        words.push(Word {
            text: lemma.replace('_', " "),
            uses: uses.get(&key).copied().unwrap_or(0),
        });
    }
    let count: usize = next()?.parse()?;
    let mut pointers = Vec::with_capacity(count);
    for _ in 0..count {
        let symbol = next()?.to_string();
        let offset = next()?.parse()?;
        let pos = match next()? {
            "s" => 'a',
            letter => letter.chars().next().context("no part of speech")?,
        };
        let ends = u32::from_str_radix(next()?, 16)? as usize;
        pointers.push(Pointer {
            symbol,
            target: (pos, offset),
            from_word: ends >> 8,
            to_word: ends & 255,
        });
    }
    let (definition, examples) = split_gloss(gloss);
    Ok(Synset {
        key: (pos, offset),
        topic,
        words,
        pointers,
        definition,
        examples,
    })
}

fn parse_senses(line: &str, pos: char) -> Result<(String, Vec<Key>)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let count: usize = fields.get(2).context("the line ends early")?.parse()?;
    let first = fields
        .len()
        .checked_sub(count)
        .context("fewer senses than promised")?;
    let keys = fields[first..]
        .iter()
        .map(|offset| Ok((pos, offset.parse()?)))
        .collect::<Result<_>>()?;
    Ok((fields[0].to_string(), keys))
}

/// The first definition of a gloss without its remarks in brackets, and its examples.
fn split_gloss(gloss: &str) -> (String, Vec<String>) {
    let mut examples = Vec::new();
    let mut definition = None;
    for (index, piece) in gloss.split('"').enumerate() {
        if index % 2 == 1 {
            examples.push(tidy(piece));
        } else if definition.is_none() {
            let first = tidy(&without_brackets(
                piece.split(';').next().unwrap_or_default(),
            ));
            definition = Some(first);
        }
    }
    examples.retain(|example| example.split(' ').count() > 2);
    (definition.unwrap_or_default(), examples)
}

fn without_brackets(text: &str) -> String {
    let mut depth = 0;
    let mut kept = String::new();
    for letter in text.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 => kept.push(letter),
            _ => {}
        }
    }
    kept
}

fn tidy(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words
        .trim_matches([';', ',', ':', ' '])
        .replace(" ,", ",")
        .replace('`', "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_database_is_taken_apart() {
        let line = "02113335 05 n 02 poodle 0 poodle_dog 0 002 @ 02084071 n 0000 ! 02113624 s 0102 | an intelligent dog \
                    (often clipped); an old breed; \"the poodle won a prize\"  ";
        let uses = HashMap::from([("poodle%1:05:00".to_string(), 3)]);
        let synset = parse_synset(line, 'n', &uses).unwrap();
        assert_eq!(
            (synset.key, synset.topic, synset.uses()),
            (('n', 2113335), 5, 3)
        );
        assert_eq!(synset.words[1].text, "poodle dog");
        assert_eq!(synset.targets("@").collect::<Vec<_>>(), [('n', 2084071)]);
        assert_eq!(
            (
                synset.pointers[1].target.0,
                synset.pointers[1].from_word,
                synset.pointers[1].to_word
            ),
            ('a', 1, 2)
        );
        assert_eq!(synset.definition, "an intelligent dog");
        assert_eq!(synset.examples, ["the poodle won a prize"]);
    }

    #[test]
    fn the_senses_of_a_word_are_the_last_fields_of_its_line() {
        let (word, senses) = parse_senses("dog n 2 2 @ ~ 2 1 02084071 10114209  ", 'n').unwrap();
        assert_eq!(
            (word.as_str(), senses),
            ("dog", vec![('n', 2084071), ('n', 10114209)])
        );
    }
}
