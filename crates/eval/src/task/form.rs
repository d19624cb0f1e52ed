//! A task's keys, checked: what there is to render, how to ask, and what to measure.

use indexmap::IndexMap;

use super::error::{BadTask, nearest};
use super::jinja;
use super::keys::{Keys, Kind, OneOrMany, PathOrSource, Several, Words};
use super::metric::Metric;
use crate::answer::Alike;
use crate::ask::Length;
use crate::data::Source;

/// How a task asks in one mode.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub data: Vec<Source>,
    pub fields: IndexMap<String, Words>,
    pub shots: Option<Shots>,
    pub question: Question,
    /// What stands between a prompt and what follows it; an option is weighed behind each.
    pub joins: Vec<String>,
    pub group: Option<Words>,
    pub groups: IndexMap<String, Vec<String>>,
    pub metrics: Vec<Metric>,
    pub filter: String,
    pub chat: bool,
    pub fit: Option<usize>,
}

#[derive(Clone, Debug)]
pub(super) struct Shots {
    pub data: Vec<Source>,
    pub count: usize,
    pub header: Option<Words>,
    pub separator: String,
    pub same: Option<Words>,
}

#[derive(Clone, Debug)]
pub(super) enum Question {
    Choice { prompt: Words, choices: Several, gold: Words, mass: bool },
    Contexts { contexts: Several, continuation: Words, gold: Words },
    Continuation { prompt: Words, continuation: Words },
    Write { prompt: Words, answers: Option<Words>, limit: Length, until: Vec<String>, alike: Alike },
}

/// Keys that only some kinds of task have.
type Used = (&'static str, fn(&Keys) -> bool, &'static [Kind]);
const PARTICULAR: &[Used] = &[
    ("prompt", |k| k.prompt.is_some(), &[Kind::Choice, Kind::Mass, Kind::Continuation, Kind::Write, Kind::Pairs]),
    ("choices", |k| k.choices.is_some(), &[Kind::Choice, Kind::Mass]),
    ("contexts", |k| k.contexts.is_some(), &[Kind::Contexts]),
    ("continuation", |k| k.continuation.is_some(), &[Kind::Contexts, Kind::Continuation]),
    ("gold", |k| k.gold.is_some(), &[Kind::Choice, Kind::Mass, Kind::Contexts]),
    ("answers", |k| k.answers.is_some(), &[Kind::Write]),
    ("max_tokens", |k| k.max_tokens.is_some(), &[Kind::Write, Kind::Pairs]),
    ("total_times_prompt", |k| k.total_times_prompt.is_some(), &[Kind::Write, Kind::Pairs]),
    ("until", |k| k.until.is_some(), &[Kind::Write, Kind::Pairs]),
    ("alike", |k| k.alike.is_some(), &[Kind::Write]),
];

/// Checks what a file says itself, before the keys of another mode are laid over it.
pub(super) fn check_own(keys: &Keys, origin: &str) -> Result<(), BadTask> {
    let Some(kind) = keys.kind else { return Ok(()) };
    let stray = PARTICULAR.iter().find(|(_, said, kinds)| said(keys) && !kinds.contains(&kind));
    stray.map_or(Ok(()), |(key, ..)| {
        let has = PARTICULAR.iter().filter(|(.., kinds)| kinds.contains(&kind)).map(|(key, ..)| *key);
        let hint = format!("it has {}", has.collect::<Vec<_>>().join(", "));
        Err(bad(origin, None, format!("`{key}` has no place in a task of kind `{}`", name(kind)), Some(hint)))
    })
}

impl Form {
    /// Checks all that can be known without data.
    pub fn new(keys: Keys, origin: &str) -> Result<Form, BadTask> {
        let kind = keys.kind.ok_or_else(|| {
            let hint = "choice, mass, contexts, continuation, write, pairs";
            bad(origin, None, "the task has no `kind`".into(), Some(format!("it is one of {hint}")))
        })?;
        let metrics = metrics(keys.metrics.clone(), kind, origin)?;
        let joins = keys.join.clone().map_or_else(|| vec![" ".to_owned()], |join| join.all);
        if joins.is_empty() || (joins.len() > 1 && kind != Kind::Choice) {
            let hint = Some("a list of several suits tasks of kind `choice`".to_owned());
            return Err(bad(origin, None, "`join` cannot be this list".into(), hint));
        }
        let form = Form {
            data: sources(need(&keys.data, "data", kind, origin)?),
            fields: keys.fields.clone().unwrap_or_default(),
            shots: keys.shots.clone().map(|shots| Shots {
                data: sources(shots.data),
                count: shots.count,
                header: shots.header,
                separator: shots.separator.unwrap_or_else(|| "\n\n".to_owned()),
                same: shots.same,
            }),
            question: question(&keys, kind, &metrics, origin)?,
            joins,
            group: keys.group,
            groups: keys.groups.unwrap_or_default(),
            metrics,
            filter: keys.filter.unwrap_or_else(|| "none".to_owned()),
            chat: keys.chat.unwrap_or(false),
            fit: keys.fit,
        };
        form.check(origin)?;
        Ok(form)
    }

    /// Whether all templates and expressions can be read.
    fn check(&self, origin: &str) -> Result<(), BadTask> {
        let mut all: Vec<(&str, &Words, bool)> =
            self.fields.iter().map(|(key, words)| (key.as_str(), words, false)).collect();
        let several = |key, several: &Several| match several {
            Several::Templates(templates) => templates.iter().map(|words| (key, words.clone(), true)).collect(),
            Several::Expression(words) => vec![(key, words.clone(), false)],
        };
        let lists = match &self.question {
            Question::Choice { prompt, choices, gold, .. } => {
                all.extend([("prompt", prompt, true), ("gold", gold, false)]);
                several("choices", choices)
            }
            Question::Contexts { contexts, continuation, gold } => {
                all.extend([("continuation", continuation, true), ("gold", gold, false)]);
                several("contexts", contexts)
            }
            Question::Continuation { prompt, continuation } => {
                all.extend([("prompt", prompt, true), ("continuation", continuation, true)]);
                Vec::new()
            }
            Question::Write { prompt, answers, .. } => {
                all.push(("prompt", prompt, true));
                all.extend(answers.iter().map(|words| ("answers", words, false)));
                Vec::new()
            }
        };
        all.extend(lists.iter().map(|(key, words, is_template)| (*key, words, *is_template)));
        all.extend(self.group.iter().map(|words| ("group", words, false)));
        if let Some(shots) = &self.shots {
            all.extend(shots.header.iter().map(|words| ("header", words, true)));
            all.extend(shots.same.iter().map(|words| ("same", words, false)));
        }
        all.into_iter().try_for_each(|(key, words, is_template)| {
            let what = if is_template { "a template" } else { "an expression" };
            jinja::check(words, is_template)
                .map_err(|why| bad(origin, Some(words.line), format!("`{key}` is not {what}: {why}"), None))
        })
    }
}

fn metrics(said: Option<Vec<Metric>>, kind: Kind, origin: &str) -> Result<Vec<Metric>, BadTask> {
    let metrics = said.unwrap_or_else(|| Metric::usual(kind).to_vec());
    if metrics.is_empty() {
        return Err(bad(origin, None, "`metrics` is empty: nothing is measured".to_owned(), None));
    }
    if let Some(twice) = (1..metrics.len()).find(|&n| metrics[..n].contains(&metrics[n])) {
        let what = format!("`metrics` has `{}` twice", metrics[twice].name());
        return Err(bad(origin, None, what, None));
    }
    match metrics.iter().find(|metric| !Metric::of(kind).contains(metric)) {
        None => Ok(metrics),
        Some(stray) => {
            let known: Vec<&str> = Metric::of(kind).iter().map(|metric| metric.name()).collect();
            let what = format!("a task of kind `{}` does not measure `{}`", name(kind), stray.name());
            Err(bad(origin, None, what, Some(nearest(stray.name(), &known, "its metrics"))))
        }
    }
}

fn question(keys: &Keys, kind: Kind, metrics: &[Metric], origin: &str) -> Result<Question, BadTask> {
    let words = |said: &Option<Words>, key| need(said, key, kind, origin);
    let prompt = || words(&keys.prompt, "prompt");
    Ok(match kind {
        Kind::Choice | Kind::Mass => Question::Choice {
            prompt: prompt()?,
            choices: need(&keys.choices, "choices", kind, origin)?,
            gold: words(&keys.gold, "gold")?,
            mass: kind == Kind::Mass,
        },
        Kind::Contexts => Question::Contexts {
            contexts: need(&keys.contexts, "contexts", kind, origin)?,
            continuation: words(&keys.continuation, "continuation")?,
            gold: words(&keys.gold, "gold")?,
        },
        Kind::Continuation => {
            Question::Continuation { prompt: prompt()?, continuation: words(&keys.continuation, "continuation")? }
        }
        Kind::Write | Kind::Pairs => Question::Write {
            prompt: prompt()?,
            answers: match kind {
                Kind::Write if metrics.iter().any(|metric| !Metric::of(Kind::Pairs).contains(metric)) => {
                    Some(words(&keys.answers, "answers")?)
                }
                _ => keys.answers.clone().filter(|_| kind == Kind::Write),
            },
            limit: match (keys.max_tokens, keys.total_times_prompt) {
                (_, Some(times @ 2..)) => Length::TotalTimesPrompt(times),
                (Some(tokens @ 1..), None) => Length::Tokens(tokens),
                _ => {
                    let hint =
                        "add `max_tokens: 32`, or `total_times_prompt: 3` for answers twice as long as their prompts";
                    return Err(bad(origin, None, "nothing limits the answers".into(), Some(hint.into())));
                }
            },
            until: keys.until.clone().map_or_else(Vec::new, |until| until.all),
            alike: keys.alike.unwrap_or_default(),
        },
    })
}

fn need<T: Clone>(said: &Option<T>, key: &str, kind: Kind, origin: &str) -> Result<T, BadTask> {
    said.clone().ok_or_else(|| {
        let what = format!("the task has no `{key}`, which a task of kind `{}` needs", name(kind));
        bad(origin, None, what, Some(format!("`recipes/tasks/README.md` says what `{key}` is")))
    })
}

fn sources(said: OneOrMany<PathOrSource>) -> Vec<Source> {
    said.all.into_iter().map(|PathOrSource(source)| source).collect()
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Choice => "choice",
        Kind::Mass => "mass",
        Kind::Contexts => "contexts",
        Kind::Continuation => "continuation",
        Kind::Write => "write",
        Kind::Pairs => "pairs",
    }
}

fn bad(origin: &str, line: Option<u64>, what: String, hint: Option<String>) -> BadTask {
    BadTask { origin: origin.to_owned(), line: line.filter(|&line| line > 0), what, hint }
}
