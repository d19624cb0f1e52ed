//! What the user wants models to be asked, made ready before any model runs.

use std::path::{Path, PathBuf};

use brevity::Checkpoint;
use brevity::asking::{FactSet, InWords};
use brevity::eval::facts::{self, Fact};
use brevity::eval::traces::{self, Reading, Trace};
use brevity::eval::{Gate, Mode, Quiz, Task};
use brevity::vectors::{CutWish, VectorTask};

use crate::args::{Asked, Scoring};
use crate::failure::Usage;

impl Asked {
    /// Whether anything is asked.
    pub fn anything(&self) -> bool {
        !self.tasks.is_empty() || self.facts.is_some() || !self.sts.is_empty() || !self.retrieval.is_empty()
    }

    /// The same with the tasks that a gate names.
    pub fn with_those_of(&self, gate: &Gate) -> Asked {
        let mut asked = self.clone();
        for limit in &gate.limits {
            let name = limit.name.split('.').next().unwrap_or_default();
            let there = asked.tasks.iter().any(|task| name_of(task) == name);
            if !there && Task::named(name).is_ok() {
                asked.tasks.push(name.to_owned());
            }
        }
        asked
    }

    /// Names of the tasks; those about vectors are called after their files.
    pub fn names(&self) -> Vec<&str> {
        let vectors = self.sts.iter().filter_map(|path| path.file_stem());
        let vectors = vectors.chain(self.retrieval.iter().filter_map(|path| path.file_name()));
        let facts = self.facts.as_ref().map(|_| FactSet::BY_HEART);
        let open = self.open_book.then_some(FactSet::OPEN_BOOK);
        self.tasks
            .iter()
            .map(|task| name_of(task))
            .chain(facts)
            .chain(open)
            .chain(vectors.filter_map(|name| name.to_str()))
            .collect()
    }

    /// The questions, at most so many of each kind unless `--items` says otherwise.
    pub fn in_words(&self, most: Option<usize>) -> anyhow::Result<InWords> {
        let quizzes = self.quizzes(most)?;
        let facts = FactSet::of(self.facts(most)?, self.open_book);
        if let Some(tau) = self.temperatures.iter().find(|tau| !(tau.is_finite() && **tau > 0.0)) {
            let what = format!("`--temperatures {tau}` is no number above 0");
            return Err(Usage { what, hint: Some("`--temperatures 0.8,0.9,1.1`".into()) }.into());
        }
        let (vectors, temperatures) = (self.vectors()?, self.temperatures.clone());
        if !temperatures.is_empty() && vectors.is_empty() {
            let hint = Some("give one with `--sts FILE` or `--retrieval DIR`".into());
            return Err(Usage { what: "`--temperatures` needs a question about vectors".into(), hint }.into());
        }
        Ok(InWords { quizzes, facts, vectors, cuts: self.cuts()?, temperatures })
    }

    /// The tasks with their items.
    fn quizzes(&self, most: Option<usize>) -> anyhow::Result<Vec<Quiz>> {
        let mode = match self.mode {
            Scoring::Strict => Mode::Strict,
            Scoring::Compat => Mode::Compat,
        };
        let mut quizzes: Vec<Quiz> = Vec::new();
        for said in &self.tasks {
            let task = Task::load(said)?;
            if [FactSet::BY_HEART, FactSet::OPEN_BOOK].contains(&task.name.as_str()) {
                let what = format!("a task cannot be called `{}`: that is what facts are reported as", task.name);
                return Err(Usage { what, hint: Some("rename its file".into()) }.into());
            }
            if quizzes.iter().any(|quiz| quiz.task.name == task.name) {
                let what = format!("the task `{}` is asked for twice", task.name);
                return Err(Usage { what, hint: None }.into());
            }
            let folder = self.data.clone().or(task.folder.clone()).unwrap_or_else(|| PathBuf::from("."));
            let compat = mode == Mode::Compat && task.has_compat();
            let mode = if compat { Mode::Compat } else { Mode::Strict };
            quizzes.push(Quiz::new(task, &folder, self.items.or(most), mode)?);
        }
        Ok(quizzes)
    }

    /// The questions about vectors.
    fn vectors(&self) -> anyhow::Result<Vec<VectorTask>> {
        let mut tasks = Vec::new();
        for path in &self.sts {
            tasks.push(VectorTask::similarity(path)?);
        }
        for path in &self.retrieval {
            tasks.push(VectorTask::retrieval(path)?);
        }
        Ok(tasks)
    }

    /// The cuts to score.
    fn cuts(&self) -> anyhow::Result<Option<CutWish>> {
        if self.cuts.is_empty() {
            return Ok(None);
        }
        if self.sts.is_empty() && self.retrieval.is_empty() {
            let hint = Some("give one with `--sts FILE` or `--retrieval DIR`".into());
            return Err(Usage { what: "`--cuts` needs a question about vectors".into(), hint }.into());
        }
        let dims = match &self.cuts[..] {
            [word] if word == "usual" => Vec::new(),
            words => {
                let number = |word: &String| {
                    let what = format!("`--cuts {word}` is no number of dimensions");
                    word.parse()
                        .map_err(|_| Usage { what, hint: Some("`--cuts 256,128,64`, or `--cuts usual`".into()) })
                };
                words.iter().map(number).collect::<Result<Vec<usize>, Usage>>()?
            }
        };
        let fit = self.pca.as_deref().map(crate::embed::texts).transpose()?.unwrap_or_default();
        let fit = fit.into_iter().filter(|text| !text.trim().is_empty()).collect();
        if !(0.0..=1.0).contains(&self.whiten) {
            return Err(Usage { what: "`--whiten` is a number from 0 to 1".into(), hint: None }.into());
        }
        Ok(Some(CutWish { dims, fit, whiten: self.whiten }))
    }

    /// The facts.
    fn facts(&self, most: Option<usize>) -> anyhow::Result<Vec<Fact>> {
        let mut facts = match self.facts.as_deref() {
            None => return Ok(Vec::new()),
            Some("tiny") => facts::parse(brevity::FACTS, Path::new("facts.jsonl"))?,
            Some(path) => facts::read(Path::new(path))?,
        };
        facts.truncate(self.items.or(most).unwrap_or(usize::MAX));
        if facts.is_empty() {
            let what = format!("`{}` has no facts", self.facts.as_deref().unwrap_or_default());
            return Err(Usage { what, hint: None }.into());
        }
        Ok(facts)
    }
}

/// The name of a task: of a file that without its ending.
fn name_of(said: &str) -> &str {
    let name = said.rsplit(['/', '\\']).next().unwrap_or(said);
    name.strip_suffix(".yaml").or(name.strip_suffix(".yml")).unwrap_or(name)
}

/// Limits as they were typed, and those of a recipe in front.
pub fn gate(recipe: &[String], typed: &[String]) -> anyhow::Result<Gate> {
    let mut gate = Gate::default();
    for limit in recipe.iter().chain(typed) {
        gate.limits.push(limit.parse()?);
    }
    Ok(gate)
}

/// The value vectors to follow: those of a file, or the most coherent ones.
pub fn traces(said: Option<&str>, reference: &Checkpoint) -> anyhow::Result<Vec<Trace>> {
    Ok(match said {
        None => Vec::new(),
        Some(said) => match said.parse::<usize>() {
            Ok(count) => {
                let tokenizer = reference.tokenizer()?;
                // Words, or what words begin with.
                let ordinary = |token: u32| {
                    let text = tokenizer.decode(&[token], true).unwrap_or_default();
                    let text = text.trim();
                    text.chars().count() >= 3 && text.chars().all(char::is_alphabetic)
                };
                traces::find(reference, count, &Reading::default(), &ordinary)?
            }
            Err(_) => traces::read(Path::new(said))?.iter().map(|concept| concept.trace()).collect(),
        },
    })
}
