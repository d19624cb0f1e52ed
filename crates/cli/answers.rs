//! What one model answered to questions in words: a table, JSON, a log.

use std::path::Path;

use brevity::asking::{InWords, Told};
use brevity::eval::facts::{Knowledge, knowledge};
use brevity::eval::report::Cuts;
use brevity::eval::stats::Estimate;
use brevity::eval::{TaskResult, harness_json};
use brevity::vectors::VectorPaper;
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
        for paper in &self.told.vectors {
            let mut entry = json!({ "alias": paper.task });
            for score in &paper.scores {
                entry[format!("{},none", score.metric)] = json!(score.value.value);
                let error = score.value.error;
                entry[format!("{}_stderr,none", score.metric)] = error.map_or(json!("N/A"), |error| json!(error));
            }
            json["results"][&paper.task] = entry;
            json["n-samples"][&paper.task] = json!({"original": paper.items, "effective": paper.items});
            json["vectors"][&paper.task] = json!({
                "texts": paper.texts, "seconds": paper.seconds, "texts_per_second": paper.texts as f64 / paper.seconds,
            });
        }
        if !self.told.tempered.is_empty() {
            let one = |(tau, papers): &(f32, Vec<VectorPaper>)| {
                let scores = papers.iter().flat_map(|paper| {
                    paper.scores.iter().map(
                        move |score| json!({"task": paper.task, "metric": score.metric, "value": score.value.value}),
                    )
                });
                json!({"temperature": tau, "scores": scores.collect::<Vec<_>>()})
            };
            json["temperatures"] = self.told.tempered.iter().map(one).collect();
        }
        if !self.told.cuts.is_empty() {
            json["cuts"] = json!(self.told.cuts);
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

    /// Tables of the scores of cuts, one for each question; what no smaller cut beats is marked.
    pub fn cuts(&self) -> Vec<String> {
        let table = |cuts: &Cuts| {
            let header: Vec<String> =
                std::iter::once("layers".to_owned()).chain(cuts.dims.iter().map(ToString::to_string)).collect();
            let frontier = cuts.frontier();
            let row = |(i, layers): (usize, &usize)| {
                let cell = |(j, value): (usize, &f64)| {
                    format!("{value:.4}{}", if frontier.contains(&(i, j)) { " *" } else { "  " })
                };
                let cells = cuts.values[i].iter().enumerate().map(cell);
                std::iter::once(layers.to_string()).chain(cells).collect::<Vec<_>>()
            };
            let columns: Vec<&str> = header.iter().map(String::as_str).collect();
            let right: Vec<usize> = (0..header.len()).collect();
            let rows = cuts.layers.iter().enumerate().map(row).rev();
            let printed = crate::table::table(&columns, &right, rows);
            let (name, on, how) = (&cuts.name, cuts.on.as_str(), &cuts.how);
            format!("{name} of {on} by layers and dimensions ({how}); * marks what nothing smaller beats\n{printed}")
        };
        self.told.cuts.iter().map(table).collect()
    }

    /// The table of temperatures, if some were tried: the first score of each question with each of them.
    pub fn temperatures(&self) -> Option<String> {
        let told = &self.told;
        if told.tempered.is_empty() {
            return None;
        }
        let name = |paper: &VectorPaper| format!("{} {}", paper.task, paper.scores[0].metric);
        let mut header = vec!["temperature".to_owned()];
        header.extend(told.vectors.iter().map(name));
        let row = |tau: f32, papers: &[VectorPaper]| -> Vec<String> {
            let scores = papers.iter().map(|paper| format!("{:.4}", paper.scores[0].value.value));
            std::iter::once(tau.to_string()).chain(scores).collect()
        };
        let mut rows: Vec<(f32, Vec<String>)> =
            told.tempered.iter().map(|(tau, papers)| (*tau, row(*tau, papers))).collect();
        if told.tempered.iter().all(|(tau, _)| *tau != 1.0) {
            rows.push((1.0, row(1.0, &told.vectors)));
        }
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let columns: Vec<&str> = header.iter().map(String::as_str).collect();
        let right: Vec<usize> = (0..columns.len()).collect();
        Some(crate::table::table(&columns, &right, rows.into_iter().map(|(_, row)| row)))
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
        for paper in &self.told.vectors {
            for score in &paper.scores {
                put(&paper.task, paper.items, score.metric, score.value.value, score.value.error);
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
        "perplexity" | "words" | "log_prob" | "spearman" | "ndcg_at_10" | "mrr_at_10" | "recall_at_100" => {
            format!("{value:.4}")
        }
        _ => format!("{:.2} %", 100.0 * value),
    }
}
