//! What a task says about a model: numbers over all items and over groups, with standard errors.

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::grade::Graded;
use super::metric::Metric;
use super::{Mode, Task};
use crate::error::{Error, Result};

/// A model's results on a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskResult {
    /// The task.
    pub task: String,
    /// The version of the task.
    pub version: f64,
    /// How it was scored.
    pub mode: Mode,
    /// Over all items.
    pub scores: Vec<TaskScore>,
    /// Over groups such as subjects, then over groups of these; in order of names.
    pub parts: Vec<Part>,
    /// Rows that the data has, if somebody counted them; else the items.
    pub original: usize,
    /// Items that were scored.
    pub effective: usize,
    /// The values of each metric, item by item, to compare two models on the same items. That of `perplexity` is the
    /// log-probability.
    pub values: IndexMap<&'static str, Vec<f64>>,
}

/// The result on a part of a task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Part {
    /// The name of the part alone, such as `astronomy`.
    pub name: String,
    /// Items in it.
    pub items: usize,
    /// Over these.
    pub scores: Vec<TaskScore>,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskScore {
    /// What was measured, such as `acc`.
    pub metric: &'static str,
    /// What was done to answers before, `none` if nothing.
    pub filter: String,
    /// The number: a mean over items, or `exp` of one.
    pub value: f64,
    /// Its standard error: of a mean, that of independent items, `sqrt(variance / n)` with `n - 1` in the variance; of
    /// `exp` of one, that times the number. None if there is just one item.
    pub error: Option<f64>,
    /// Whether more is better; none if neither is.
    pub higher_is_better: Option<bool>,
}

impl TaskResult {
    /// Puts the graded answers to all items together.
    ///
    /// # Errors
    /// [`Error::Nothing`] if there are none.
    pub fn new(task: &Task, mode: Mode, graded: &[Graded]) -> Result<Self> {
        let form = task.form(mode);
        let all: Vec<&Graded> = graded.iter().collect();
        let scores = |graded: &[&Graded]| -> Option<Vec<TaskScore>> {
            let score = |&metric: &Metric| {
                let estimate = metric.estimate(&values(graded, metric.name()))?;
                Some(TaskScore {
                    metric: metric.name(),
                    filter: form.filter.clone(),
                    value: estimate.value,
                    error: estimate.error,
                    higher_is_better: metric.higher_is_better(),
                })
            };
            form.metrics.iter().map(score).collect()
        };
        let mut groups: Vec<&String> = graded.iter().filter_map(|one| one.group.as_ref()).collect();
        groups.sort();
        groups.dedup();
        let single = groups.into_iter().map(|group| (group, std::slice::from_ref(group)));
        let several = form.groups.iter().map(|(name, members)| (name, members.as_slice()));
        let parts = single.chain(several).filter_map(|(name, members)| {
            let inside = |one: &&&Graded| one.group.as_ref().is_some_and(|group| members.contains(group));
            let inside: Vec<&Graded> = all.iter().filter(inside).copied().collect();
            Some(Part {
                name: name.clone(),
                items: inside.len(),
                scores: scores(&inside).filter(|_| !inside.is_empty())?,
            })
        });
        Ok(TaskResult {
            task: task.name.clone(),
            version: task.version,
            mode,
            parts: parts.collect(),
            scores: scores(&all).filter(|_| !all.is_empty()).ok_or(Error::Nothing)?,
            original: graded.len(),
            effective: graded.len(),
            values: form.metrics.iter().map(|metric| (metric.name(), values(&all, metric.name()))).collect(),
        })
    }
}

fn values(graded: &[&Graded], metric: &str) -> Vec<f64> {
    graded.iter().map(|one| one.values[metric]).collect()
}

/// Results in the form of lm-evaluation-harness 0.4: `{"results": {"arc_easy": {"alias": "arc_easy", "acc,none": ...,
/// "acc_stderr,none": ...}}, "n-samples": ..., "versions": ...}`. A part of a task is called `mmlu_astronomy` and a
/// standard error that nobody knows `N/A`.
pub fn harness_json(results: &[TaskResult]) -> Value {
    let (mut scores, mut samples, mut versions) = (Map::new(), Map::new(), Map::new());
    for result in results {
        let mut put = |name: String, alias: &str, of: &[TaskScore], original: usize, effective: usize| {
            scores.insert(name.clone(), entry(alias, of));
            samples.insert(name.clone(), json!({"original": original, "effective": effective}));
            versions.insert(name, json!(result.version));
        };
        put(result.task.clone(), &result.task, &result.scores, result.original, result.effective);
        for part in &result.parts {
            put(format!("{}_{}", result.task, part.name), &part.name, &part.scores, part.items, part.items);
        }
    }
    json!({"results": scores, "n-samples": samples, "versions": versions})
}

fn entry(alias: &str, scores: &[TaskScore]) -> Value {
    let mut entry = Map::from_iter([("alias".to_owned(), json!(alias))]);
    for score in scores {
        let TaskScore { metric, filter, value, error, .. } = score;
        entry.insert(format!("{metric},{filter}"), json!(value));
        entry.insert(format!("{metric}_stderr,{filter}"), error.map_or(json!("N/A"), |error| json!(error)));
    }
    Value::Object(entry)
}
