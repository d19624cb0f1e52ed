//! Questions put to a model: tasks, facts by heart and with an open book, and what its vectors say.

use std::time::Instant;

use brevity_embed::{Embedder, Load};
use brevity_eval::facts::{self, Fact, FactScore};
use brevity_eval::report::Cuts;
use brevity_eval::{AskOptions, Observer, Options, Paper, Quiz};

use crate::compare::{CompareError, Named};
use crate::vectors::{CutWish, VectorPaper, VectorTask};

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

/// Questions.
#[derive(Debug, Default)]
pub struct InWords {
    /// Tasks.
    pub quizzes: Vec<Quiz>,
    /// Facts.
    pub facts: Vec<FactSet>,
    /// About vectors, for which an encoder is kept in memory whole.
    pub vectors: Vec<VectorTask>,
    /// Which cuts of the encoder are scored in each of these, if they are.
    pub cuts: Option<CutWish>,
    /// What scores of attention are divided by; the encoder answers these questions once more with each.
    pub temperatures: Vec<f32>,
}

/// What a model answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// One for each quiz.
    pub papers: Vec<Paper>,
    /// One list for each set of facts.
    pub facts: Vec<Vec<FactScore>>,
    /// One for each question about vectors.
    pub vectors: Vec<VectorPaper>,
    /// One for each of these questions, if cuts were to be scored.
    pub cuts: Vec<Cuts>,
    /// For each of the temperatures, what was answered to each of these questions.
    pub tempered: Vec<(f32, Vec<VectorPaper>)>,
    /// Seconds it took.
    pub seconds: f64,
}

impl InWords {
    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        self.quizzes.is_empty() && self.facts.is_empty() && self.vectors.is_empty()
    }

    /// Whether something is answered in writing or by vectors, for which a model is kept in memory whole.
    pub fn writes(&self) -> bool {
        self.quizzes.iter().any(Quiz::writes) || !self.vectors.is_empty()
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
        self.vectors(to, options, observer, &mut told)?;
        if self.quizzes.is_empty() && self.facts.is_empty() {
            told.seconds = started.elapsed().as_secs_f64();
            return Ok(told);
        }
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

    /// Those about vectors.
    fn vectors(
        &self,
        to: &Named<'_>,
        options: &Options,
        observer: &mut dyn Observer,
        told: &mut Told,
    ) -> Result<(), CompareError> {
        if self.vectors.is_empty() {
            return Ok(());
        }
        let load = Load { compute: Some(options.compute), ..Load::default() };
        for &tau in &self.temperatures {
            let tempered = Load { temperature: Some(tau), ..load };
            let papers = self.about_vectors(to, &tempered, None, &format!(", temperature {tau}"), observer)?;
            told.tempered.push((tau, papers.into_iter().map(|(paper, _)| paper).collect()));
        }
        for (paper, cuts) in self.about_vectors(to, &load, self.cuts.as_ref(), "", observer)? {
            told.vectors.push(paper);
            told.cuts.extend(cuts);
        }
        Ok(())
    }

    /// What an encoder, loaded in one way, answers to the questions about vectors.
    fn about_vectors(
        &self,
        to: &Named<'_>,
        load: &Load,
        wish: Option<&CutWish>,
        how: &str,
        observer: &mut dyn Observer,
    ) -> Result<Vec<(VectorPaper, Option<Cuts>)>, CompareError> {
        let failed = |source| CompareError::Vectors { model: to.name.to_owned(), source };
        let encoder = Embedder::load(to.model, load).map_err(|error| failed(error.into()))?;
        let mut papers = Vec::new();
        for task in &self.vectors {
            observer.part(&format!("{}: {}{how}", to.name, task.name));
            let mut hear = |share: f64| {
                observer.progress(share);
                !observer.cancelled()
            };
            let paper = task.put(&encoder, wish, &mut hear).map_err(failed)?;
            papers.push(paper.ok_or_else(|| to.failed(brevity_eval::Error::Cancelled))?);
        }
        Ok(papers)
    }
}
