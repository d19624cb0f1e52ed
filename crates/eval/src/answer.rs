//! Whether an answer in words is right: texts made alike, then compared.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;
use unicode_normalization::UnicodeNormalization;

/// How texts are made alike before they are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alike {
    /// As the SQuAD script does: lower case, no punctuation, no `a`, `an`, `the`, single blanks. Unicode's compatible
    /// forms are one (NFKC), and of a text that is nothing else the punctuation or article is kept.
    #[default]
    Squad,
    /// As the TriviaQA script does: the same with a blank for each mark of ASCII punctuation and each of `‘’´` and the
    /// backtick, and nothing else done to Unicode.
    Trivia,
    /// As `exact_match` of lm-evaluation-harness does with case and punctuation ignored: lower case, no ASCII
    /// punctuation, no blanks around.
    Harness,
}

static ARTICLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(a|an|the)\b").expect("a pattern"));
static PUNCTUATION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[[:punct:]\p{P}]").expect("a pattern"));

impl Alike {
    /// The text as it is compared.
    pub fn of(self, text: &str) -> String {
        match self {
            Alike::Squad => {
                let lower = text.nfkc().collect::<String>().to_lowercase();
                let bare = squeeze(&ARTICLE.replace_all(&PUNCTUATION.replace_all(&lower, ""), " "));
                if bare.is_empty() { squeeze(&lower) } else { bare }
            }
            Alike::Trivia => {
                let mark = |c: char| c.is_ascii_punctuation() || matches!(c, '‘' | '’' | '´');
                let blank: String = text.to_lowercase().chars().map(|c| if mark(c) { ' ' } else { c }).collect();
                squeeze(&ARTICLE.replace_all(&blank, " "))
            }
            Alike::Harness => {
                let lower = text.trim().to_lowercase();
                lower.chars().filter(|c| !c.is_ascii_punctuation()).collect()
            }
        }
    }

    /// Whether the answer is one of those accepted.
    pub fn exact(self, answer: &str, accepted: &[String]) -> bool {
        let answer = self.of(answer);
        accepted.iter().any(|right| self.of(right) == answer)
    }

    /// How much of their words an answer and an accepted one share: the harmonic mean of the share of either's words
    /// that are the other's too, the best over those accepted.
    ///
    /// Words are separated by blanks; each Chinese or Japanese character is a word. Nothing shares nothing, but all with
    /// nothing.
    pub fn f1(self, answer: &str, accepted: &[String]) -> f64 {
        let answer = self.of(answer);
        accepted.iter().map(|right| overlap(&words(&answer), &words(&self.of(right)))).fold(0.0, f64::max)
    }
}

/// Whether an accepted answer stands in the answer, word for word, with or without punctuation between words. Nothing
/// stands in no answer.
pub fn contains(answer: &str, accepted: &[String]) -> bool {
    accepted.iter().any(|right| [false, true].into_iter().any(|apart| stands_in(answer, right, apart)))
}

fn stands_in(answer: &str, right: &str, apart: bool) -> bool {
    // `France's` has the word `France` if punctuation parts words; `U.S.` is `US` if it does not.
    let alike = |text: &str| {
        let text: String = text.nfkc().collect();
        Alike::Squad.of(&if apart { PUNCTUATION.replace_all(&text, " ") } else { text.into() })
    };
    let (answer, right) = (alike(answer), alike(right));
    let (answer, right) = (words(&answer), words(&right));
    !right.is_empty() && answer.windows(right.len()).any(|run| run == right)
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Words between blanks, and each character of scripts that have no blanks.
pub(crate) fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().flat_map(split_unspaced).collect()
}

fn split_unspaced(word: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begun = 0;
    for (at, c) in word.char_indices().filter(|&(_, c)| unspaced(c)) {
        parts.extend([&word[begun..at], &word[at..at + c.len_utf8()]]);
        begun = at + c.len_utf8();
    }
    parts.push(&word[begun..]);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Kana and Chinese characters.
fn unspaced(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3134f}')
}

fn overlap(answer: &[&str], right: &[&str]) -> f64 {
    if answer.is_empty() || right.is_empty() {
        return f64::from(u8::from(answer.is_empty() && right.is_empty()));
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    right.iter().for_each(|word| *counts.entry(word).or_default() += 1);
    let same = answer.iter().filter(|word| counts.get_mut(**word).is_some_and(take_one)).count() as f64;
    2.0 * same / (answer.len() + right.len()) as f64
}

fn take_one(count: &mut usize) -> bool {
    let some = *count > 0;
    *count -= usize::from(some);
    some
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn texts_are_made_alike() {
        for (text, squad, trivia, harness) in [
            ("The  Eiffel Tower!", "eiffel tower", "eiffel tower", "the  eiffel tower"),
            ("U.S.", "us", "u s", "us"),
            ("rock_n_roll", "rocknroll", "rock n roll", "rocknroll"),
            ("x = 1+1", "x 11", "x 1 1", "x  11"),
            ("“Ja” – ‘no’", "ja no", "“ja” – no", "“ja” – ‘no’"),
            (" ", "", "", ""),
            ("?!", "?!", "", ""),
            ("The", "the", "", "the"),
            ("ＡＢＣ１", "abc1", "ａｂｃ１", "ａｂｃ１"),
        ] {
            let got = [Alike::Squad, Alike::Trivia, Alike::Harness].map(|alike| alike.of(text));
            assert_eq!(got, [squad, trivia, harness], "{text}");
        }
    }

    #[test]
    fn composed_decomposed_and_full_width_texts_are_the_same() {
        for (one, other) in
            [("caf\u{e9}", "cafe\u{301}"), ("Ｔｏｋｙｏ", "tokyo"), ("ﬁn", "fin"), ("STRASSE", "strasse")]
        {
            assert!(Alike::Squad.exact(one, &list(&[other])), "{one}");
            assert!(contains(&format!("it is {one}, yes"), &list(&[other])), "{one}");
        }
    }

    #[test]
    fn any_alias_will_do() {
        let accepted = list(&["United States", "the USA"]);
        assert!(Alike::Squad.exact("USA.", &accepted));
        assert!(!Alike::Squad.exact("in the USA", &accepted));
        assert!(contains("in the USA", &accepted));
        assert!((Alike::Squad.f1("United Nations, USA", &accepted) - 0.5).abs() < 1e-12); // 2 * 1 / (3 + 1)
        assert!(!Alike::Squad.exact("USA", &[]));
        assert_eq!(Alike::Squad.f1("USA", &[]), 0.0);
    }

    #[test]
    fn an_empty_answer_is_never_right_but_for_an_empty_gold() {
        for empty in ["", "  \n", "\u{3000}"] {
            for right in ["x", "?!", "the"] {
                assert!(!Alike::Squad.exact(empty, &list(&[right])), "{right}");
                assert_eq!(Alike::Squad.f1(empty, &list(&[right])), 0.0);
                assert!(!contains(empty, &list(&[right])));
            }
            assert!(Alike::Squad.exact(empty, &list(&[""])));
            assert_eq!(Alike::Squad.f1(empty, &list(&[""])), 1.0);
        }
        assert!(!contains("anything", &list(&["", " "])));
    }

    #[test]
    fn punctuation_alone_is_itself() {
        assert!(Alike::Squad.exact("?!", &list(&["?!"])));
        assert!(!Alike::Squad.exact("...", &list(&["?!"])));
    }

    #[test]
    fn words_are_contained_whole() {
        for (answer, right, is) in [
            ("He is from Japan", "an", false),
            ("because", "US", false),
            ("France's capital", "France", true),
            ("in the U.S. today", "US", true),
            ("New York City", "york new", false),
            ("well-known", "known", true),
            ("The answer is 42", "the 42", true),
        ] {
            assert_eq!(contains(answer, &list(&[right])), is, "{answer} {right}");
        }
    }

    #[test]
    fn chinese_characters_are_words() {
        assert_eq!(words("東京tower です"), ["東", "京", "tower", "で", "す"]);
        assert!(contains("答案是北京。", &list(&["北京"])));
        assert!((Alike::Squad.f1("北京市", &list(&["北京"])) - 0.8).abs() < 1e-12);
    }

    #[test]
    fn repeated_words_are_shared_as_often_as_both_have_them() {
        assert!((overlap(&["x", "x", "y"], &["x", "z"]) - 0.4).abs() < 1e-12);
        assert_eq!(overlap(&["x"], &["y"]), 0.0);
    }
}
