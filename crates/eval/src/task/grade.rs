//! What an answer is worth.

use indexmap::IndexMap;
use serde::Serialize;

use super::error::TaskError;
use super::form::Question;
use super::items::{Gold, Item};
use super::metric::Metric;
use super::{Task, kick};
use crate::answer::{Alike, contains, words};
use crate::ask::{Answer, Ask, Weighed, Written};
use crate::data::Place;
use crate::rouge::{rouge_l, rouge_n};

/// An answer and what it is worth, as a log of samples keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Graded {
    /// The number of the item.
    pub id: usize,
    /// The row it was made of.
    pub place: Place,
    /// Its group.
    pub group: Option<String>,
    /// What is right.
    pub gold: Gold,
    /// The option that the model takes, counted from zero: the likeliest, the first of several such.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<usize>,
    /// The log-probability of each option in nats.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log_probs: Vec<f64>,
    /// What the model wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A number for each metric. That of `perplexity` is the log-probability.
    pub values: IndexMap<&'static str, f64>,
}

/// Grades the answer to an item.
pub(super) fn grade(task: &Task, item: &Item, answer: &Answer) -> Result<Graded, TaskError> {
    let form = task.form(item.mode);
    let mut graded = Graded {
        id: item.id,
        place: item.place.clone(),
        group: item.group.clone(),
        gold: item.gold.clone(),
        chosen: None,
        log_probs: Vec::new(),
        text: None,
        values: IndexMap::new(),
    };
    match (&item.ask, answer) {
        (Ask::Weigh(pairs), Answer::Weights(weights)) if pairs.len() == weights.len() => {
            graded.log_probs = weights.chunks(form.joins.len()).map(together).collect();
            let options = Weights { item, weights, log_probs: &graded.log_probs };
            graded.chosen = (!item.options.is_empty()).then(|| likeliest(&graded.log_probs));
            let mass = matches!(form.question, Question::Choice { mass: true, .. });
            graded.values = form.metrics.iter().map(|&metric| (metric.name(), options.value(metric, mass))).collect();
        }
        (Ask::Write { prompt, .. }, Answer::Text(written)) => {
            let Question::Write { alike, .. } = &form.question else { unreachable!("only these ask for text") };
            let text = Text { prompt, answer: &written.text, gold: &item.gold, alike: *alike, tail: tail(prompt) };
            graded.values = form.metrics.iter().map(|&metric| (metric.name(), text.value(metric))).collect();
            graded.text = Some(written.text.clone());
        }
        (ask, answer) => {
            let (task, item) = (task.name.clone(), item.id);
            return Err(TaskError::Answer { task, item, wanted: wanted(ask), found: found(answer) });
        }
    }
    Ok(graded)
}

fn wanted(ask: &Ask) -> String {
    match ask {
        Ask::Weigh(pairs) => format!("{} weights", pairs.len()),
        Ask::Write { .. } => "a text".to_owned(),
    }
}

fn found(answer: &Answer) -> String {
    match answer {
        Answer::Weights(weights) => format!("{} weights", weights.len()),
        Answer::Text(Written { .. }) => "a text".to_owned(),
    }
}

/// The end of a prompt behind the evidence: its last two paragraphs, an instruction and the question. The code of
/// LLM-KICK looks for it in what the model wrote.
fn tail(prompt: &str) -> &str {
    prompt.rmatch_indices("\n\n").nth(1).map_or(prompt, |(at, blank)| &prompt[at + blank.len()..])
}

/// The log of the sum of probabilities of one option behind several joins.
fn together(weights: &[Weighed]) -> f64 {
    let most = weights.iter().map(|weighed| weighed.log_prob).fold(f64::NEG_INFINITY, f64::max);
    if weights.len() == 1 || most == f64::NEG_INFINITY {
        return most;
    }
    most + weights.iter().map(|weighed| (weighed.log_prob - most).exp()).sum::<f64>().ln()
}

/// The first of the greatest; what is no number is never it.
fn likeliest(values: &[f64]) -> usize {
    let better = |best: usize, n: usize| if values[n] > values[best] || values[best].is_nan() { n } else { best };
    (1..values.len()).fold(0, better)
}

struct Weights<'a> {
    item: &'a Item,
    weights: &'a [Weighed],
    log_probs: &'a [f64],
}

impl Weights<'_> {
    fn value(&self, metric: Metric, mass: bool) -> f64 {
        let right = match &self.item.gold {
            Gold::Options(right) => right.as_slice(),
            _ => &[],
        };
        let is = |chosen: usize| f64::from(u8::from(right.contains(&chosen)));
        let over = |size: fn(&String) -> usize| {
            let each = self.log_probs.iter().zip(&self.item.options);
            likeliest(&each.map(|(log_prob, option)| log_prob / size(option) as f64).collect::<Vec<_>>())
        };
        match metric {
            Metric::Perplexity => self.log_probs[0],
            Metric::Acc if mass => share(self.log_probs, right),
            Metric::Acc if self.item.options.is_empty() => f64::from(u8::from(self.weights[0].greedy)),
            Metric::AccNorm => is(over(|option| option.chars().count())),
            Metric::AccBytes => is(over(String::len)),
            _ => is(likeliest(self.log_probs)),
        }
    }
}

/// The share of the probability of all options that the true ones have.
fn share(log_probs: &[f64], right: &[usize]) -> f64 {
    // Relative to the likeliest: sums of long options underflow.
    let most = log_probs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let probs: Vec<f64> = log_probs.iter().map(|log_prob| (log_prob - most).exp()).collect();
    right.iter().map(|&option| probs[option]).sum::<f64>() / probs.iter().sum::<f64>()
}

struct Text<'a> {
    prompt: &'a str,
    answer: &'a str,
    gold: &'a Gold,
    alike: Alike,
    tail: &'a str,
}

impl Text<'_> {
    fn value(&self, metric: Metric) -> f64 {
        let is = |is: bool| f64::from(u8::from(is));
        let accepted = match self.gold {
            Gold::Answers(accepted) => accepted.as_slice(),
            _ => &[],
        };
        let best = |score: &dyn Fn(&str) -> f64| accepted.iter().map(|right| score(right)).fold(0.0, f64::max);
        match metric {
            Metric::ExactMatch => is(self.alike.exact(self.answer, accepted)),
            Metric::F1 => self.alike.f1(self.answer, accepted),
            Metric::Contains => is(contains(self.answer, accepted)),
            Metric::Rouge1 => best(&|right| rouge_n(self.answer, right, 1).f),
            Metric::Rouge2 => best(&|right| rouge_n(self.answer, right, 2).f),
            Metric::RougeL => best(&|right| rouge_l(self.answer, right).f),
            Metric::Words => words(self.answer).len() as f64,
            Metric::Empty => is(self.answer.trim().is_empty()),
            Metric::Repeats => repeats(self.answer),
            Metric::KickContained => is(kick::contained_in_prompt_and_answer(self.prompt, self.answer, accepted)),
            Metric::KickLetter => best(&|letter| is(kick::last_character_is(self.prompt, self.answer, letter))),
            Metric::KickExactMatch => is(kick::mutually_contained(self.line(), accepted)),
            Metric::KickF1 => kick::f1_or_nothing(self.line(), accepted),
            Metric::Acc | Metric::AccNorm | Metric::AccBytes | Metric::Perplexity => {
                unreachable!("tasks that write do not measure these, checked when they are read")
            }
        }
    }

    fn line(&self) -> &str {
        kick::first_line(self.tail, self.answer)
    }
}

/// The share of runs of four words that were there before.
fn repeats(text: &str) -> f64 {
    let words = words(text);
    let runs = words.len().saturating_sub(3);
    let different = words.windows(4).collect::<std::collections::HashSet<_>>().len();
    if runs == 0 { 0.0 } else { (runs - different) as f64 / runs as f64 }
}
