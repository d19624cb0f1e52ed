//! LLM-KICK as its published code scores it, quirks and all. [`Mode::Compat`](super::Mode::Compat) uses these, the strict
//! mode none of them.
//!
//! What cannot be had here: that code samples summaries and free answers at a temperature of 0.7 where the likeliest
//! token is taken here, and splits decoded text at its prompt, which special tokens can break.
//!
//! # Source
//! Jaiswal et al. 2024, "Compressing LLMs: The Truth is Rarely Pure and Never Simple", arXiv:2310.01382, and
//! `VITA-Group/llm-kick` at commit 37f2122d.

use crate::answer::Alike;

/// Factoid questions: an accepted answer is anywhere in *prompt and answer*, blanks and case aside. What the question
/// names counts as answered, and so does part of a word.
pub fn contained_in_prompt_and_answer(prompt: &str, answer: &str, accepted: &[String]) -> bool {
    let bare = |text: &str| text.trim().replace(' ', "").to_lowercase();
    let whole = bare(&format!("{prompt}{answer}"));
    accepted.iter().any(|right| whole.contains(&bare(right)))
}

/// Factoid questions: one item more than was asked for is scored.
pub fn one_item_more(limit: usize) -> usize {
    limit + 1
}

/// Factoid questions: the sum over all that were scored is divided by one less. Of a single item it is the sum.
pub fn mean_over_one_less(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().saturating_sub(1).max(1) as f64
}

/// Multiple choice: the last character of *prompt and answer* is the letter. A token that ends otherwise, such as a
/// newline, is wrong, and an empty answer leaves the colon of the prompt.
pub fn last_character_is(prompt: &str, answer: &str, letter: &str) -> bool {
    let last = answer.chars().last().or_else(|| prompt.chars().last());
    last.is_some_and(|last| letter == last.to_string())
}

/// Retrieval: the part of the answer that is scored is its first line, blanks around the answer aside; it ends where the
/// answer repeats the end of its own prompt.
pub fn first_line<'a>(prompt_end: &str, answer: &'a str) -> &'a str {
    let answer = answer.split(prompt_end).next().unwrap_or(answer);
    answer.trim().split('\n').next().unwrap_or_default()
}

/// Retrieval: exact match is mutual containment, so an *empty line is right*, and so is any part of an alias.
pub fn mutually_contained(line: &str, accepted: &[String]) -> bool {
    let line = Alike::Trivia.of(line);
    let mutual = |right: String| line.contains(&right) || right.contains(&line);
    accepted.iter().any(|right| mutual(Alike::Trivia.of(right)))
}

/// Retrieval: F1, where an empty line shares nothing even with an empty alias.
pub fn f1_or_nothing(line: &str, accepted: &[String]) -> f64 {
    let empty = Alike::Trivia.of(line).is_empty();
    if empty { 0.0 } else { Alike::Trivia.f1(line, accepted) }
}

/// Retrieval: evidence is cut at so many *characters*, in the middle of a word if need be.
pub fn cut_at_characters(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// Summaries: the lines of a story are stripped and joined *without blanks*. The whole file is one, highlights with it.
pub fn lines_run_together(text: &str) -> String {
    text.split('\n').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn an_answer_in_the_question_counts() {
        let prompt = "Please give answer to this question: Is Paris or Rome older?\nThe answer is ";
        assert!(contained_in_prompt_and_answer(prompt, "", &list(&["Paris"])));
        assert!(contained_in_prompt_and_answer("Who? ", "new  york CITY", &list(&["New York"])));
        assert!(contained_in_prompt_and_answer("Who? ", "cartoon", &list(&["art"])));
        assert!(!contained_in_prompt_and_answer("Who? ", "", &list(&["art"])));
        assert!(contained_in_prompt_and_answer("Who? ", "", &list(&[" "])), "a blank alias is in everything");
    }

    #[test]
    fn one_item_more_is_scored_than_is_divided_by() {
        assert_eq!(one_item_more(1000), 1001);
        assert_eq!(mean_over_one_less(&[1.0, 1.0, 1.0]), 1.5, "all right is more than all");
        assert_eq!(mean_over_one_less(&[1.0]), 1.0);
    }

    #[test]
    fn the_last_character_is_compared_with_the_letter() {
        assert!(last_character_is("Answer:", " B", "B"));
        assert!(last_character_is("Answer:", "bB", "B"));
        assert!(!last_character_is("Answer:", "\n", "B"));
        assert!(!last_character_is("Answer:", "", "B"));
        assert!(!last_character_is("Answer:", " b", "B"));
    }

    #[test]
    fn an_empty_first_line_is_right_through_mutual_containment() {
        assert!(mutually_contained(first_line("Q: x\nA:", " \n"), &list(&["Onion"])));
        assert!(mutually_contained("on", &list(&["Onion"])));
        assert!(mutually_contained("the onions of Spain", &list(&["Onion"])));
        assert!(!mutually_contained("leek", &list(&["Onion"])));
        assert_eq!(f1_or_nothing("", &list(&["Onion"])), 0.0);
        assert_eq!(f1_or_nothing("?", &list(&["!"])), 0.0);
        assert_eq!(f1_or_nothing("red onion", &list(&["Onion"])), 2.0 / 3.0);
    }

    #[test]
    fn only_the_first_line_is_scored_up_to_a_repeated_prompt() {
        assert_eq!(first_line("Q: x\nA:", "\n Paris \nQ: y"), "Paris ");
        assert_eq!(first_line("Q: x\nA:", " yes Q: x\nA: no"), "yes");
    }

    #[test]
    fn evidence_is_cut_at_characters_not_words_or_bytes() {
        assert_eq!(cut_at_characters("h\u{e9}llo", 2), "h\u{e9}");
        assert_eq!(cut_at_characters("h\u{e9}llo", 99), "h\u{e9}llo");
        assert_eq!(cut_at_characters(&"ab ".repeat(2000), 3072).len(), 3072);
    }

    #[test]
    fn lines_of_a_story_run_together_with_their_highlights() {
        assert_eq!(lines_run_together("One.\n\n Two.\r\n\n@highlight\n\nSum"), "One.Two.@highlightSum");
    }
}
