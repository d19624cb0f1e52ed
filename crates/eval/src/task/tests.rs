//! Tasks as a whole: files, prompts, grades.

mod files;
mod golden;
mod kick;
mod models;

use super::*;
use crate::ask::{Answer, Ask, Pair, Weighed, Written};

/// A task, and a folder with its data.
fn with_data(yaml: &str, files: &[(&str, &[u8])]) -> (Task, tempfile::TempDir) {
    (Task::parse(yaml, "recipes/t.yaml").unwrap(), crate::data::tests::folder(files))
}

fn weighed(log_prob: f64) -> Weighed {
    Weighed { log_prob, tokens: 1, greedy: false }
}

fn weights(log_probs: &[f64]) -> Answer {
    Answer::Weights(log_probs.iter().copied().map(weighed).collect())
}

fn text(text: &str) -> Answer {
    Answer::Text(Written { text: text.to_owned(), tokens: 1, ended: true })
}

fn prompt(item: &Item) -> &str {
    match &item.ask {
        Ask::Write { prompt, .. } => prompt,
        Ask::Weigh(pairs) => &pairs[0].context,
    }
}

/// The result of a model that is a function.
fn result(task: &Task, data: &Path, mode: Mode, model: impl Fn(&Item) -> Answer) -> TaskResult {
    let items = task.items(data, None, mode).unwrap();
    let graded: Vec<Graded> = items.iter().map(|item| task.grade(item, &model(item)).unwrap()).collect();
    TaskResult::new(task, mode, &graded).unwrap()
}

fn score(result: &TaskResult, metric: &str) -> f64 {
    result.scores.iter().find(|score| score.metric == metric).unwrap().value
}
