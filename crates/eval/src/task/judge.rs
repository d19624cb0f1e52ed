//! Pairs of answers for a judge, in both orders, as JSON lines.

use std::io::Write;

use serde::Serialize;

use super::error::TaskError;
use super::items::Item;
use crate::ask::{Answer, Ask};

/// Two answers to one question, ready to be sent to a judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JudgePair {
    /// The number of the item; both orders have the same.
    pub id: usize,
    /// Its group, such as a category of questions.
    pub group: Option<String>,
    /// The question.
    pub question: String,
    /// The model whose answer comes first.
    pub model_1: String,
    /// The first answer.
    pub answer_1: String,
    /// The model whose answer comes second.
    pub model_2: String,
    /// The second answer.
    pub answer_2: String,
    /// What the judge is told to be.
    pub system: String,
    /// What the judge is asked.
    pub prompt: String,
}

const SYSTEM: &str = "You compare two answers to the same request, fairly and without regard to their order or length.";

const TASK: &str = "Rate each answer from 1 to 10 for how well it does what the request asks: whether it is right, \
    complete, relevant and clear. Write the two numbers on the first line, separated by a blank, the number of the first \
    answer first, and your reasons below.";

/// The pairs of all items: each twice, once in either order, so that a judge's liking for the first place cancels out.
///
/// # Errors
/// [`TaskError::Answer`] if there is not one text for each item of either model.
pub fn judge_pairs(
    items: &[Item],
    first: (&str, &[Answer]),
    second: (&str, &[Answer]),
) -> Result<Vec<JudgePair>, TaskError> {
    let mut pairs = Vec::with_capacity(2 * items.len());
    for (n, item) in items.iter().enumerate() {
        let wrong = |wanted: String, found: &str| TaskError::Answer {
            task: "pairs".to_owned(),
            item: item.id,
            wanted,
            found: found.to_owned(),
        };
        let Ask::Write { prompt: question, .. } = &item.ask else {
            return Err(wrong("weights".to_owned(), "to be judged"));
        };
        let text = |(model, answers): (&str, &[Answer])| match answers.get(n) {
            Some(Answer::Text(written)) => Ok((model.to_owned(), written.text.trim().to_owned())),
            Some(Answer::Weights(_)) => Err(wrong(format!("a text of `{model}`"), "weights")),
            None => Err(wrong(format!("a text of `{model}`"), "missing")),
        };
        let (one, other) = (text(first)?, text(second)?);
        pairs.extend([(&one, &other), (&other, &one)].map(|((model_1, answer_1), (model_2, answer_2))| JudgePair {
            id: item.id,
            group: item.group.clone(),
            question: question.clone(),
            model_1: model_1.clone(),
            answer_1: answer_1.clone(),
            model_2: model_2.clone(),
            answer_2: answer_2.clone(),
            system: SYSTEM.to_owned(),
            prompt: format!("[Request]\n{question}\n\n[Answer 1]\n{answer_1}\n\n[Answer 2]\n{answer_2}\n\n{TASK}\n"),
        }));
    }
    Ok(pairs)
}

/// Writes pairs as JSON lines.
///
/// # Errors
/// What the writer says.
pub fn write_judge_pairs(pairs: &[JudgePair], mut to: impl Write) -> std::io::Result<()> {
    pairs.iter().try_for_each(|pair| {
        let line = serde_json::to_string(pair).expect("texts and numbers are JSON");
        writeln!(to, "{line}")
    })
}
