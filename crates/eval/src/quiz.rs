//! Tasks put to models: the same items to each.

use std::path::Path;

use brevity_model::Stages;
use rayon::prelude::*;
use serde::Serialize;

use crate::ask::{Answer, Ask};
use crate::asker::{AskOptions, ask};
use crate::error::{Error, Result};
use crate::report::{Flip, Flips};
use crate::run::Observer;
use crate::stats::mcnemar;
use crate::task::{Gold, Graded, Item, Mode, Task, TaskResult};
use crate::words::Words;

/// Changed answers that are listed; all are counted.
const LISTED: usize = 500;

/// A task with the items that are asked.
#[derive(Debug)]
pub struct Quiz {
    /// The task.
    pub task: Task,
    /// Its items.
    pub items: Vec<Item>,
    /// How they are scored.
    pub mode: Mode,
    /// How many rows the data has.
    rows: usize,
}

/// What a model did in a quiz.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paper {
    /// The scores.
    pub result: TaskResult,
    /// Item by item.
    pub graded: Vec<Graded>,
    /// What the model answered.
    #[serde(skip)]
    pub answers: Vec<Answer>,
    /// Prompts that were cut at the left to fit into the model's context.
    pub cut: usize,
    /// Tokens of all questions and of what was written.
    pub tokens: usize,
    /// Seconds it took.
    pub seconds: f64,
}

/// Puts what a user says into a model's chat template, with what makes the assistant speak.
pub type Chat<'a> = &'a (dyn Fn(&str) -> std::result::Result<String, String> + Sync);

impl Quiz {
    /// Reads the items of a task, at most so many.
    ///
    /// # Errors
    /// What [`Task::items`] refuses.
    pub fn new(task: Task, data: &Path, limit: Option<usize>, mode: Mode) -> Result<Quiz> {
        let (items, rows) = (task.items(data, limit, mode)?, task.count(data)?);
        Ok(Quiz { task, items, mode, rows })
    }

    /// Whether items are answered in writing, for which the model is kept in memory whole.
    pub fn writes(&self) -> bool {
        self.items.iter().any(|item| matches!(item.ask, Ask::Write { .. }))
    }

    /// Puts the items to a model. Items whose prompt would be longer than they may be lose examples, the last first.
    ///
    /// # Errors
    /// [`Error::Chat`] if an item needs a chat template and there is none that can be used; as [`ask`]; what
    /// [`Task::grade`] refuses.
    pub fn put(
        &self,
        model: &dyn Stages,
        words: &Words<'_>,
        chat: Option<Chat<'_>>,
        options: &AskOptions,
        observer: &mut dyn Observer,
    ) -> Result<Paper> {
        let items = self.items.par_iter().map(|item| fitting(item, words, chat)).collect::<Result<Vec<Item>>>()?;
        let asks: Vec<&Ask> = items.iter().map(|item| &item.ask).collect();
        let found = ask(model, words, &asks, options, observer)?;
        let grade = |(item, answer)| self.task.grade(item, answer);
        let graded = items.iter().zip(&found.answers).map(grade).collect::<Result<Vec<Graded>>>()?;
        let mut result = TaskResult::new(&self.task, self.mode, &graded)?;
        result.original = self.rows;
        let (cut, tokens, seconds) = (found.cut, found.tokens, found.seconds);
        Ok(Paper { result, graded, answers: found.answers, cut, tokens, seconds })
    }

    /// Which multiple-choice answers changed between two papers of this quiz. `None` if it has no options to choose from.
    pub fn flips(&self, before: &Paper, after: &Paper) -> Option<Flips> {
        let right = |graded: &Graded| match (&graded.gold, graded.chosen) {
            (Gold::Options(right), Some(chosen)) => right.contains(&chosen),
            _ => false,
        };
        let mut flips = Flips { task: self.task.name.clone(), asked: self.items.len() as u64, ..Flips::default() };
        let pairs = self.items.iter().zip(before.graded.iter().zip(&after.graded));
        for (item, (before, after)) in pairs {
            let (one, other) = (before.chosen?, after.chosen?);
            match (right(before), right(after)) {
                (true, false) => flips.lost += 1,
                (false, true) => flips.gained += 1,
                (false, false) if one != other => flips.moved += 1,
                _ => continue,
            }
            if flips.items.len() < LISTED {
                flips.items.push(Flip {
                    item: item.id.to_string(),
                    question: item.question().trim().to_owned(),
                    before: item.option(one).to_owned(),
                    after: item.option(other).to_owned(),
                    gold: item.right(),
                });
            }
        }
        flips.p = Some(mcnemar(flips.lost, flips.gained).p);
        Some(flips)
    }
}

/// An item as a model is asked it: in its chat template if it speaks to one, and no longer than it may be.
fn fitting(item: &Item, words: &Words<'_>, chat: Option<Chat<'_>>) -> Result<Item> {
    let mut item = item.clone();
    if let Some(most) = item.fit {
        while words.count(item.prompt())? > most {
            let Some(shorter) = item.shorter() else { break };
            item = shorter;
        }
    }
    if item.chat {
        let chat = chat.ok_or(Error::Chat { why: "the model has none".into() })?;
        if let Ask::Write { prompt, .. } = &mut item.ask {
            *prompt = chat(prompt).map_err(|why| Error::Chat { why })?;
        }
    }
    Ok(item)
}
