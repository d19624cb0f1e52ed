//! From rows to questions: prompts with their examples, and what is right.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use indexmap::IndexSet;
use minijinja::Value;
use serde::Serialize;

use super::error::TaskError;
use super::form::{Form, Question, Shots};
use super::jinja::{Jinja, Row};
use super::metric::Metric;
use super::{Mode, Task, kick};
use crate::ask::{Ask, Pair};
use crate::data::{self, Place};
use crate::error::Result;

/// One question of a task.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its number, counted from zero. It is that of the same question for every model.
    pub id: usize,
    /// The row it was made of.
    pub place: Place,
    /// The group it is in, such as a subject.
    pub group: Option<String>,
    /// The question.
    pub ask: Ask,
    /// What is right.
    pub gold: Gold,
    /// The most tokens a prompt may have; above that, ask [`Item::shorter`].
    pub fit: Option<usize>,
    /// Whether the prompt is what a user says to a chat model, so that it needs the model's chat template.
    pub chat: bool,
    /// How it is scored.
    pub mode: Mode,
    /// The examples in front of the prompt.
    pub(super) shots: Vec<Arc<str>>,
    pub(super) header: String,
    /// The options, if there are some.
    pub(super) options: Vec<String>,
}

/// What is right.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gold {
    /// One of these options, counted from zero; for tasks that weigh true against false, all of these.
    Options(Vec<usize>),
    /// One of these answers.
    Answers(Vec<String>),
    /// This continuation.
    Continuation(String),
    /// Nobody says.
    Open,
}

impl Item {
    /// How many examples stand in front of the question.
    pub fn shots(&self) -> usize {
        self.shots.len()
    }

    /// The same question without its last example; none if it has no examples.
    pub fn shorter(&self) -> Option<Item> {
        let mut item = self.clone();
        item.shots.pop()?;
        let (old, new) = (self.head(), item.head());
        let shorten = |text: &mut String| *text = format!("{new}{}", &text[old.len()..]);
        match &mut item.ask {
            Ask::Weigh(pairs) => pairs.iter_mut().for_each(|pair| shorten(&mut pair.context)),
            Ask::Write { prompt, .. } => shorten(prompt),
        }
        Some(item)
    }

    /// What the model reads first: the prompt, or the context of the first option.
    pub fn prompt(&self) -> &str {
        match &self.ask {
            Ask::Weigh(pairs) => pairs.first().map_or("", |pair| &pair.context),
            Ask::Write { prompt, .. } => prompt,
        }
    }

    /// The question itself, without examples in front.
    pub fn question(&self) -> &str {
        self.prompt().get(self.head().len()..).unwrap_or(self.prompt())
    }

    /// An option by its number, as it is shown to people.
    pub fn option(&self, number: usize) -> &str {
        self.options.get(number).map_or("", |option| option)
    }

    /// What is right, in words.
    pub fn right(&self) -> String {
        match &self.gold {
            Gold::Options(right) => right.iter().map(|&n| self.option(n)).collect::<Vec<_>>().join(" | "),
            Gold::Answers(answers) => answers.join(" | "),
            Gold::Continuation(text) => text.clone(),
            Gold::Open => String::new(),
        }
    }

    /// What stands in front of the question itself.
    pub(super) fn head(&self) -> String {
        self.shots.iter().fold(self.header.clone(), |head, shot| head + shot)
    }
}

/// Makes the items of a task.
pub(super) fn items(task: &Task, mode: Mode, folder: &Path, limit: Option<usize>) -> Result<Vec<Item>> {
    let form = task.form(mode);
    let asker = Asker { task: &task.name, form, jinja: Jinja::new(&task.name) };
    let off_by_one = form.metrics.contains(&Metric::KickContained);
    let limit = limit.map(|limit| if off_by_one { kick::one_item_more(limit) } else { limit });
    let rows = data::read(&form.data, folder, limit)?.records;
    let mut examples = match &form.shots {
        Some(shots) => Examples::read(&asker, shots, folder)?,
        None => Examples::default(),
    };
    let items = rows.into_iter().enumerate().map(|(id, record)| {
        let row = asker.row(record.into())?;
        let (header, shots) = examples.of(&asker, &row)?;
        let (ask, gold, options) = asker.ask(&row)?;
        let group = form.group.as_ref().map(|words| asker.jinja.value("group", words, &row)).transpose()?;
        let mut item = Item {
            id,
            place: row.place,
            group: group.map(|group| group.to_string()),
            ask,
            gold,
            fit: form.fit,
            chat: form.chat,
            mode,
            shots,
            header,
            options,
        };
        let head = item.head();
        match &mut item.ask {
            Ask::Weigh(pairs) => pairs.iter_mut().for_each(|pair| pair.context.insert_str(0, &head)),
            Ask::Write { prompt, .. } => prompt.insert_str(0, &head),
        }
        Ok(item)
    });
    items.collect::<Result<_, TaskError>>().map_err(Into::into)
}

struct Asker<'a> {
    task: &'a str,
    form: &'a Form,
    jinja: Jinja<'a>,
}

impl Asker<'_> {
    /// A row with the fields that the task derives.
    fn row(&self, mut row: Row) -> Result<Row, TaskError> {
        for (name, words) in &self.form.fields {
            let value = self.jinja.value(name, words, &row)?;
            row.fields.insert(name.clone(), value);
        }
        Ok(row)
    }

    /// The question of a row without what stands in front, what is right, and the options.
    fn ask(&self, row: &Row) -> Result<(Ask, Gold, Vec<String>), TaskError> {
        let join = &self.form.joins[0];
        match &self.form.question {
            Question::Choice { prompt, choices, gold, .. } => {
                let context = self.jinja.text("prompt", prompt, row)?;
                let options = self.options("choices", self.jinja.several("choices", choices, row)?, row)?;
                let gold = self.gold(self.jinja.value("gold", gold, row)?, &options, row)?;
                let behind = |option: &String| {
                    let pair =
                        |join: &String| Pair { context: context.clone(), continuation: format!("{join}{option}") };
                    self.form.joins.iter().map(pair).collect::<Vec<_>>()
                };
                Ok((Ask::Weigh(options.iter().flat_map(behind).collect()), gold, options))
            }
            Question::Contexts { contexts, continuation, gold } => {
                let options = self.options("contexts", self.jinja.several("contexts", contexts, row)?, row)?;
                let continuation = format!("{join}{}", self.jinja.text("continuation", continuation, row)?);
                let gold = self.gold(self.jinja.value("gold", gold, row)?, &options, row)?;
                let pair = |context: &String| Pair { context: context.clone(), continuation: continuation.clone() };
                Ok((Ask::Weigh(options.iter().map(pair).collect()), gold, options))
            }
            Question::Continuation { prompt, continuation } => {
                let context = self.jinja.text("prompt", prompt, row)?;
                let continuation = format!("{join}{}", self.jinja.text("continuation", continuation, row)?);
                let gold = Gold::Continuation(continuation.clone());
                Ok((Ask::Weigh(vec![Pair { context, continuation }]), gold, Vec::new()))
            }
            Question::Write { prompt, answers, limit, until, .. } => {
                let gold = match answers {
                    Some(words) => Gold::Answers(self.answers(self.jinja.list("answers", words, row)?, row)?),
                    None => Gold::Open,
                };
                let prompt = self.jinja.text("prompt", prompt, row)?;
                Ok((Ask::Write { prompt, limit: *limit, until: until.clone() }, gold, Vec::new()))
            }
        }
    }

    fn options(&self, key: &'static str, options: Vec<String>, row: &Row) -> Result<Vec<String>, TaskError> {
        match options.len() {
            0 | 1 => Err(self.jinja.unfit(key, &Value::from(options), "a list of two or more", row)),
            _ => Ok(options),
        }
    }

    /// Answers that are not blank, as one that is would be found anywhere, each once.
    fn answers(&self, answers: Vec<String>, row: &Row) -> Result<Vec<String>, TaskError> {
        let some = answers.into_iter().filter(|answer| !answer.trim().is_empty());
        let answers: Vec<String> = some.collect::<IndexSet<_>>().into_iter().collect();
        match answers.is_empty() {
            true => Err(self.jinja.unfit("answers", &Value::from(answers), "a list with an answer in it", row)),
            false => Ok(answers),
        }
    }

    /// The right options: a number from zero, an option's text, or a list of these.
    fn gold(&self, gold: Value, options: &[String], row: &Row) -> Result<Gold, TaskError> {
        let one = |value: &Value| {
            let index = match value.as_str() {
                Some(text) => options.iter().position(|option| option == text).or_else(|| text.trim().parse().ok()),
                None if value.is_number() => value.as_usize(),
                None => [false, true].iter().position(|&is| &Value::from(is) == value),
            };
            index.filter(|&index| index < options.len())
        };
        let all = match gold.as_str() {
            None if gold.try_iter().is_ok() => gold.try_iter().into_iter().flatten().map(|value| one(&value)).collect(),
            _ => one(&gold).map(|index| vec![index]),
        };
        let once = |mut all: Vec<usize>| {
            let mut seen = IndexSet::new();
            all.retain(|&option| seen.insert(option));
            all
        };
        all.filter(|all: &Vec<usize>| !all.is_empty()).map(once).map(Gold::Options).ok_or_else(|| {
            let wanted = format!("one of the {} options or a number below that", options.len());
            self.jinja.unfit("gold", &gold, &wanted, row)
        })
    }

    /// A row as an example: its question with the right answer.
    fn example(&self, row: &Row, separator: &str) -> Result<Arc<str>, TaskError> {
        let (ask, gold, options) = self.ask(row)?;
        let join = &self.form.joins[0];
        let text = match (ask, gold) {
            (Ask::Weigh(mut pairs), Gold::Options(right)) => match &self.form.question {
                Question::Contexts { .. } => {
                    let pair = pairs.swap_remove(right[0]);
                    pair.context + &pair.continuation
                }
                _ => format!("{}{join}{}", pairs.swap_remove(0).context, options[right[0]]),
            },
            (Ask::Weigh(mut pairs), _) => {
                let pair = pairs.swap_remove(0);
                pair.context + &pair.continuation
            }
            (Ask::Write { prompt, .. }, Gold::Answers(right)) => format!("{prompt}{join}{}", right[0]),
            (Ask::Write { prompt, .. }, _) => prompt,
        };
        Ok(format!("{text}{separator}").into())
    }
}

/// Rows that can be shown, by what they have in common with the questions they are shown to.
#[derive(Default)]
struct Examples {
    by_same: HashMap<Option<String>, Vec<(Place, Arc<str>)>>,
}

impl Examples {
    /// Reads as many as are needed for each group, in order of files: one more than are shown, as a question is never
    /// its own example.
    fn read(asker: &Asker<'_>, shots: &Shots, folder: &Path) -> Result<Self> {
        let mut examples = Examples::default();
        if shots.count == 0 {
            return Ok(examples);
        }
        for record in data::read(&shots.data, folder, None)?.records {
            let row = asker.row(record.into())?;
            let list = examples.by_same.entry(same(asker, shots, &row)?).or_default();
            if list.len() <= shots.count {
                list.push((row.place.clone(), asker.example(&row, &shots.separator)?));
            }
        }
        Ok(examples)
    }

    /// The header and the examples for a row.
    fn of(&mut self, asker: &Asker<'_>, row: &Row) -> Result<(String, Vec<Arc<str>>), TaskError> {
        let Some(shots) = &asker.form.shots else { return Ok(Default::default()) };
        let header = shots.header.as_ref().map(|words| asker.jinja.text("header", words, row)).transpose()?;
        let same = same(asker, shots, row)?;
        let known = self.by_same.get(&same).map_or(&[][..], Vec::as_slice);
        let others = known.iter().filter(|(place, _)| *place != row.place);
        let shown: Vec<Arc<str>> = others.take(shots.count).map(|(_, text)| text.clone()).collect();
        if shown.len() < shots.count {
            return Err(TaskError::Shots {
                task: asker.task.to_owned(),
                wanted: shots.count,
                found: shown.len(),
                same,
            });
        }
        Ok((header.unwrap_or_default(), shown))
    }
}

fn same(asker: &Asker<'_>, shots: &Shots, row: &Row) -> Result<Option<String>, TaskError> {
    let value = shots.same.as_ref().map(|words| asker.jinja.value("same", words, row)).transpose()?;
    Ok(value.map(|value| value.to_string()))
}
