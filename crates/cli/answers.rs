//! What one model answered to questions in words: a table, JSON, a log.

use std::path::Path;

use brevity::asking::{InWords, Told};
use brevity::eval::facts::{Knowledge, knowledge};
use brevity::eval::stats::Estimate;
use brevity::eval::{TaskResult, harness_json};
use serde_json::{Value, json};

use crate::compare::write_whole;

/// Questions, and what a model answered to them.
pub struct Answers<'a> {
    pub asked: &'a InWords,
    pub told: Told,
}

impl Answers<'_> {
    /// Tokens of all questions to tasks, and of what was written.
    pub fn tokens(&self) -> usize {
        self.told.papers.iter().map(|paper| paper.tokens).sum()
    }

    /// What the model knows of each set of facts.
    fn known(&self) -> impl Iterator<Item = (&'static str, Knowledge)> {
        let sets = self.asked.facts.iter().zip(&self.told.facts);
        sets.filter_map(|(set, scores)| Some((set.name, knowledge(&set.facts, scores)?)))
    }

    /// Results in the layout of lm-evaluation-harness; facts like a task.
    pub fn json(&self) -> Value {
        if self.asked.is_empty() {
            return json!({});
        }
        let results: Vec<TaskResult> = self.told.papers.iter().map(|paper| paper.result.clone()).collect();
        let mut json = harness_json(&results);
        let of_each = |value: &dyn Fn(usize) -> Value| -> Value {
            results.iter().enumerate().map(|(n, result)| (result.task.clone(), value(n))).collect()
        };
        json["modes"] = of_each(&|n| json!(results[n].mode));
        json["cut_prompts"] = of_each(&|n| json!(self.told.papers[n].cut));
        json["task_seconds"] = of_each(&|n| json!(self.told.papers[n].seconds));
        for (name, facts) in self.known() {
            let all = &facts.all;
            let mut entry = json!({ "alias": name });
            for (metric, Estimate { value, error }) in
                [("acc", all.accuracy), ("log_prob", all.log_prob), ("reciprocal_rank", all.reciprocal_rank)]
            {
                entry[format!("{metric},none")] = json!(value);
                entry[format!("{metric}_stderr,none")] = error.map_or(json!("N/A"), |error| json!(error));
            }
            json["results"][name] = entry;
            json["n-samples"][name] = json!({"original": all.facts, "effective": all.facts});
            json[name] = json!(facts);
        }
        json
    }

    /// Writes what was answered to each item of the tasks, one JSON object a line.
    pub fn log(&self, path: &Path) -> anyhow::Result<()> {
        let mut lines = String::new();
        for (quiz, paper) in self.asked.quizzes.iter().zip(&self.told.papers) {
            for (item, graded) in quiz.items.iter().zip(&paper.graded) {
                let mut json = json!({ "task": quiz.task.name, "question": item.question() });
                if let (Value::Object(json), Value::Object(graded)) = (&mut json, serde_json::to_value(graded)?) {
                    json.extend(graded);
                }
                lines += &format!("{json}\n");
            }
        }
        write_whole(path, lines.as_bytes())
    }

    /// Rows of the table.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut put = |task: &str, items: usize, measure: &str, value: f64, error: Option<f64>| {
            let error = error.map_or(String::new(), |error| format!("± {}", figure_of_task(measure, error)));
            let first = rows.last().is_none_or(|row: &Vec<String>| row[0] != task);
            let items = if first { items.to_string() } else { String::new() };
            rows.push(vec![task.to_owned(), items, measure.to_owned(), figure_of_task(measure, value), error]);
        };
        for paper in &self.told.papers {
            let result = &paper.result;
            for score in &result.scores {
                put(&result.task, result.effective, score.metric, score.value, score.error);
            }
            for part in &result.parts {
                if let Some(score) = part.scores.first() {
                    put(&format!("  {}", part.name), part.items, score.metric, score.value, score.error);
                }
            }
        }
        for (name, Knowledge { all, .. }) in self.known() {
            put(name, all.facts, "known", all.accuracy.value, all.accuracy.error);
            put(name, all.facts, "log_prob", all.log_prob.value, all.log_prob.error);
        }
        rows
    }
}

/// A figure of a task with fitting digits: percent for shares.
fn figure_of_task(measure: &str, value: f64) -> String {
    match measure {
        "perplexity" | "words" | "log_prob" => format!("{value:.4}"),
        _ => format!("{:.2} %", 100.0 * value),
    }
}
