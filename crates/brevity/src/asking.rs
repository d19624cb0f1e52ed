//! Questions in words, put to a model: tasks, and facts by heart and with an open book.

use std::time::Instant;

use brevity_eval::facts::{self, Fact, FactScore};
use brevity_eval::{AskOptions, Observer, Options, Paper, Quiz};

use crate::compare::{CompareError, Named};

/// Facts, asked in one way.
#[derive(Clone, Debug)]
pub struct FactSet {
    /// The name under which they are reported, like a task.
    pub name: &'static str,
    /// The facts as they are asked.
    pub facts: Vec<Fact>,
}

impl FactSet {
    /// The name of facts that are asked as they are.
    pub const BY_HEART: &'static str = "facts";
    /// The name of facts that stand in front of the prompt themselves.
    pub const OPEN_BOOK: &'static str = "facts_open";

    /// Facts as they are, and with an open book if that is wanted; nothing if there are none.
    pub fn of(facts: Vec<Fact>, open_book: bool) -> Vec<FactSet> {
        let opened = facts.iter().filter(|_| open_book).map(Fact::opened).collect();
        let mut sets = vec![FactSet { name: Self::BY_HEART, facts }, FactSet { name: Self::OPEN_BOOK, facts: opened }];
        sets.retain(|set| !set.facts.is_empty());
        sets
    }
}

/// Questions in words.
#[derive(Debug, Default)]
pub struct InWords {
    /// Tasks.
    pub quizzes: Vec<Quiz>,
    /// Facts.
    pub facts: Vec<FactSet>,
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// One for each quiz.
    pub papers: Vec<Paper>,
    /// One list for each set of facts.
    pub facts: Vec<Vec<FactScore>>,
    /// Seconds it took.
    pub seconds: f64,
}

impl InWords {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.quizzes.is_empty() && self.facts.is_empty()
    }

    /// Whether something is answered in writing, for which a model is kept in memory whole.
    pub fn writes(&self) -> bool {
        self.quizzes.iter().any(Quiz::writes)
    }

    /// Puts them to a model.
    ///
    /// # Errors
    /// [`CompareError`], with the name of the model.
    pub fn put(&self, to: &Named<'_>, options: &Options, observer: &mut dyn Observer) -> Result<Told, CompareError> {
        let mut told = Told::default();
        if self.is_empty() {
            return Ok(told);
        }
        let started = Instant::now();
        let asked = AskOptions::within(options, to.model.model().hidden);
        let tokenizer = to.model.tokenizer()?;
        let words = crate::words(to.model, &tokenizer);
        let chat = |said: &str| crate::chat(to.model, said).map_err(|error| error.to_string());
        for quiz in &self.quizzes {
            observer.part(&format!("{}: {}", to.name, quiz.task.name));
            let paper =
                quiz.put(to.model, &words, Some(&chat), &asked, observer).map_err(|source| to.failed(source))?;
            told.papers.push(paper);
        }
        for set in &self.facts {
            observer.part(&format!("{}: {}", to.name, set.name));
            let scores = facts::recall(to.model, &words, &set.facts, &asked, observer);
            told.facts.push(scores.map_err(|source| to.failed(source))?);
        }
        told.seconds = started.elapsed().as_secs_f64();
        Ok(told)
    }
}
