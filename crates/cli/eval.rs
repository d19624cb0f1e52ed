//! `brevity eval`: what a model scores on a text.

use std::path::{Path, PathBuf};

use brevity::compare::{FACTS, OPEN_FACTS};
use brevity::eval::facts::{Fact, Knowledge, knowledge, recall};
use brevity::eval::{
    AskOptions, Document, Entry, Evaluation, FromReference, MEASURES, Make, Measure, Observer, Options, Outcome,
    PairMeasure, Paper, Protocol, Quiz, Recorder, Score, Size, TOP, TaskResult, Text, Windows, compare, evaluate,
    harness_json, measures, pages,
};
use brevity::runtime::Compute;
use brevity::{Checkpoint, Tokenizer};
use serde_json::{Value, json};

use crate::args::{Eval, Windows as Cut};
use crate::compare::{text_of, writable, write_whole};
use crate::failure::Usage;
use crate::progress::Progress;
use crate::{machine, print, table, units};

/// The longest window that is taken without being asked for.
const USUAL_WINDOW: usize = 2048;

/// What a model is held against.
enum Against {
    Nothing,
    Model(Box<Checkpoint>),
    Saved(PathBuf),
}

pub fn run(args: &Eval) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    let against = match &args.reference {
        None => Against::Nothing,
        Some(name) if name.ends_with(".kld") => Against::Saved(name.into()),
        Some(name) => Against::Model(Box::new(crate::open(name, false)?)),
    };
    if let Some(path) = &args.log_samples {
        writable(path)?;
    }
    let text = text_of(args.text.as_deref(), args.asked.anything());
    if text.is_none() && !args.asked.anything() {
        let hint = Some("give a text, `--tasks` or `--facts`".into());
        return Err(Usage { what: "nothing is to be measured".into(), hint }.into());
    }
    let model = crate::open(&args.model, false)?;
    let most = if text.is_none() { args.windows.limit } else { None };
    let (quizzes, facts) = (args.asked.quizzes(most)?, args.asked.facts(most)?);
    let (outcome, windows) = match text {
        None => (Outcome { scores: Vec::new(), tokens: 0, seconds: 0.0 }, None),
        Some(text) => {
            let (outcome, windows) = on_text(args, text, &model, &against)?;
            (outcome, Some(windows))
        }
    };
    let compute = machine::compute(&args.machine, &model);
    let answers = answers(args, &model, compute, &quizzes, &facts)?;
    let outcome = Outcome {
        tokens: outcome.tokens + answers.tokens,
        seconds: outcome.seconds + answers.seconds,
        scores: outcome.scores,
    };
    if let Some(path) = &args.log_samples {
        log_samples(path, &quizzes, &answers.papers)?;
    }

    let report = Evaluation::new(&args.model, &Size::of(model.model(), model.size_bytes()), outcome);
    if args.json {
        let mut json = serde_json::to_value(&report)?;
        json["dtype"] = json!(machine::name(compute));
        if let Some(windows) = &windows {
            json["protocol"] = json!(windows.protocol.as_str());
        }
        if let (Value::Object(json), Value::Object(harness)) = (&mut json, answers.json()) {
            json.extend(harness);
        }
        return print::line(&serde_json::to_string_pretty(&json)?);
    }
    print::line(&format!(
        "{}: {} parameters in {}, {:.2} bits per weight",
        args.model,
        units::count(report.parameters),
        units::bytes(report.size_bytes),
        report.bits_per_weight
    ))?;
    if let Some(windows) = &windows {
        print::line(&format!("{}\n", what_was_run(windows, machine::name(compute))))?;
        print::line(&table::table(&["measure", "value", "± error"], &[1, 2], report.scores.iter().map(cells)))?;
    }
    if !answers.is_empty() {
        let rows = answers.rows();
        print::line(&format!(
            "\n{}",
            table::table(&["task", "items", "measure", "value", "± error"], &[1, 3, 4], rows)
        ))?;
    }
    for paper in answers.papers.iter().filter(|paper| paper.cut > 0) {
        let (cut, task) = (paper.cut, &paper.result.task);
        print::line(&format!("{cut} prompts of {task} were cut at the left to fit into the model's context"))?;
    }
    let peak = report.peak_rss_bytes.map_or(String::new(), |bytes| format!(", peak memory {}", units::bytes(bytes)));
    print::line(&format!("\n{} ({:.0} tokens/s){peak}", units::seconds(report.seconds), report.tokens_per_second))
}

/// What a text says.
fn on_text(args: &Eval, text: &str, model: &Checkpoint, against: &Against) -> anyhow::Result<(Outcome, Windows)> {
    let asked = asked(args, against)?;
    let windows = windows(text, model, &args.windows)?;
    let mut models = vec![model];
    if let Against::Model(reference) = against {
        same_tokens(text, &windows, reference, &args.windows)?;
        models.push(reference);
    }
    let options = Options {
        compute: machine::compute(&args.machine, model),
        budget_bytes: machine::budget(&args.machine, &models, windows.length)?,
    };
    let mut single: Vec<Box<dyn Measure>> = Vec::new();
    let mut pairs: Vec<Box<dyn PairMeasure>> = Vec::new();
    for entry in asked {
        match entry.make {
            Make::One(make) => single.push(make()),
            Make::Pair(make) => pairs.push(make()),
        }
    }
    let vocabulary = model.model().vocabulary;
    if let Some(path) = &args.save_reference {
        single.push(Box::new(Recorder::create(path, &windows, vocabulary, TOP)?));
    }
    let mut progress = Progress::new("evaluating", 1000);
    let outcome = match against {
        Against::Nothing => evaluate(model, &windows, &mut single, &options, &mut progress)?,
        Against::Saved(path) => {
            single.push(Box::new(FromReference::open(path, &windows, vocabulary)?));
            evaluate(model, &windows, &mut single, &options, &mut progress)?
        }
        Against::Model(reference) => {
            let found =
                compare([&**reference, model], &windows, [&mut [], &mut single], &mut pairs, &options, &mut progress)?;
            let scores = [found.after, found.scores].concat();
            Outcome { scores, tokens: found.tokens, seconds: found.seconds }
        }
    };
    Ok((outcome, windows))
}

/// What a model answered to tasks, and what it knows.
#[derive(Default)]
struct Answers {
    papers: Vec<Paper>,
    /// What it knows of facts, by the name of the way they were asked.
    facts: Vec<(&'static str, Knowledge)>,
    tokens: usize,
    seconds: f64,
}

fn answers(
    args: &Eval,
    model: &Checkpoint,
    compute: Compute,
    quizzes: &[Quiz],
    facts: &[Fact],
) -> anyhow::Result<Answers> {
    let mut found = Answers::default();
    if quizzes.is_empty() && facts.is_empty() {
        return Ok(found);
    }
    if quizzes.iter().any(Quiz::writes) {
        machine::resident(&args.machine, model)?;
    }
    let budget_bytes = machine::budget(&args.machine, &[model], 512)?;
    let options = AskOptions::within(&Options { compute, budget_bytes }, model.model().hidden);
    let tokenizer = model.tokenizer()?;
    let words = brevity::words(model, &tokenizer);
    let chat = |said: &str| brevity::chat(model, said).map_err(|error| error.to_string());
    let mut progress = Progress::new("asking", 1000);
    for quiz in quizzes {
        progress.part(&quiz.task.name);
        let paper = quiz.put(model, &words, Some(&chat), &options, &mut progress)?;
        found.tokens += paper.tokens;
        found.seconds += paper.seconds;
        found.papers.push(paper);
    }
    let opened: Vec<Fact> = facts.iter().filter(|_| args.asked.open_book).map(Fact::opened).collect();
    for (name, facts) in [(FACTS, facts), (OPEN_FACTS, &opened)] {
        progress.part(name);
        let started = std::time::Instant::now();
        let scores = recall(model, &words, facts, &options, &mut progress)?;
        found.seconds += started.elapsed().as_secs_f64();
        found.facts.extend(knowledge(facts, &scores).map(|known| (name, known)));
    }
    Ok(found)
}

impl Answers {
    fn is_empty(&self) -> bool {
        self.papers.is_empty() && self.facts.is_empty()
    }

    /// Results in the layout of lm-evaluation-harness; facts like a task.
    fn json(&self) -> Value {
        if self.is_empty() {
            return json!({});
        }
        let results: Vec<TaskResult> = self.papers.iter().map(|paper| paper.result.clone()).collect();
        let mut json = harness_json(&results);
        json["modes"] = results.iter().map(|result| (result.task.clone(), json!(result.mode))).collect();
        json["cut_prompts"] = self.papers.iter().map(|paper| (paper.result.task.clone(), json!(paper.cut))).collect();
        json["task_seconds"] =
            self.papers.iter().map(|paper| (paper.result.task.clone(), json!(paper.seconds))).collect();
        for (name, facts) in &self.facts {
            let all = &facts.all;
            json["results"][name] = json!({
                "alias": name, "acc,none": all.accuracy.value, "acc_stderr,none": all.accuracy.error,
                "log_prob,none": all.log_prob.value, "log_prob_stderr,none": all.log_prob.error,
                "reciprocal_rank,none": all.reciprocal_rank.value,
                "reciprocal_rank_stderr,none": all.reciprocal_rank.error,
            });
            json["n-samples"][name] = json!({"original": all.facts, "effective": all.facts});
            json[name] = json!(facts);
        }
        json
    }

    /// Rows of the table.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut put = |task: &str, items: usize, measure: &str, value: f64, error: Option<f64>| {
            let error = error.map_or(String::new(), |error| format!("± {}", figure_of_task(measure, error)));
            let first = rows.last().is_none_or(|row: &Vec<String>| row[0] != task);
            let items = if first { items.to_string() } else { String::new() };
            rows.push(vec![task.to_owned(), items, measure.to_owned(), figure_of_task(measure, value), error]);
        };
        for paper in &self.papers {
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
        for (name, Knowledge { all, .. }) in &self.facts {
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

/// Writes what was answered to each item, one JSON object a line.
fn log_samples(path: &Path, quizzes: &[Quiz], papers: &[Paper]) -> anyhow::Result<()> {
    let mut lines = String::new();
    for (quiz, paper) in quizzes.iter().zip(papers) {
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

/// `20 windows of 2048 tokens of `wiki.test.raw`, f32 arithmetic`.
pub fn what_was_run(windows: &Windows, dtype: &str) -> String {
    let protocol = match windows.protocol {
        Protocol::Window => "",
        Protocol::LlamaCpp => ", scored as llama.cpp does",
        Protocol::Harness => ", whole documents as lm-evaluation-harness reads them",
    };
    let plural = if windows.windows.len() == 1 { "" } else { "s" };
    format!(
        "{} window{plural} of {} tokens of `{}`{protocol}, {dtype} arithmetic",
        windows.windows.len(),
        windows.length,
        windows.text
    )
}

/// The measures asked for, or those that apply.
fn asked(args: &Eval, against: &Against) -> anyhow::Result<Vec<&'static Entry>> {
    let needs_two = |entry: &Entry| matches!(entry.make, Make::Pair(_));
    if args.measures.is_empty() {
        let two = matches!(against, Against::Model(_));
        return Ok(MEASURES.iter().filter(|entry| two || !needs_two(entry)).collect());
    }
    let entries = measures(&args.measures)?;
    // Against a saved reference all that can be said of two models is said at once.
    if let (Against::Nothing, Some(entry)) = (against, entries.iter().find(|entry| needs_two(entry))) {
        let what = format!("`{}` measures the distance from a reference, and there is none", entry.name);
        return Err(Usage { what, hint: Some("give one with `--reference MODEL`".into()) }.into());
    }
    Ok(entries.into_iter().filter(|entry| !matches!(against, Against::Saved(_)) || !needs_two(entry)).collect())
}

/// A text as windows of a model's tokens: as long as asked for, or as the model was made for, within reason.
pub fn windows(text: &str, model: &Checkpoint, cut: &Cut) -> anyhow::Result<Windows> {
    let tokenizer = model.tokenizer()?;
    let length = cut.window.unwrap_or_else(|| model.model().context.unwrap_or(USUAL_WINDOW).min(USUAL_WINDOW));
    if cut.protocol == crate::args::Protocol::Harness {
        return documents(text, model, &tokenizer, length, cut.limit);
    }
    let text = brevity::text(text)?;
    let tokens = text.tokens(&tokenizer)?;
    Ok(match cut.protocol {
        crate::args::Protocol::LlamaCpp => {
            Windows::llama_cpp(&text.name, &tokens, brevity::eval::first_token(&tokenizer), length, cut.limit)?
        }
        _ => Windows::cut(&text.name, &tokens, length, cut.limit)?,
    })
}

/// The documents of a text, as many as fit a limit of tokens: pages of WikiText, else all as one.
fn documents(
    said: &str,
    model: &Checkpoint,
    tokenizer: &Tokenizer,
    length: usize,
    limit: Option<usize>,
) -> anyhow::Result<Windows> {
    let text = brevity::text(said)?;
    let mut documents = Vec::new();
    match said.strip_prefix("wikitext:") {
        None => documents.push(Document::new(&text, tokenizer)?),
        Some(file) => {
            for page in pages(&Text::load(file)?.text) {
                documents.push(Document::of_page(&Text { name: text.name.clone(), text: page }, tokenizer)?);
            }
        }
    }
    let mut left = limit.unwrap_or(usize::MAX);
    let fit = documents.iter().take_while(|document| match left.checked_sub(document.tokens.len()) {
        Some(less) => {
            left = less;
            true
        }
        None => false,
    });
    let fit = fit.count();
    if fit == 0 {
        let what = format!("no document of `{}` fits into {} tokens", text.name, limit.unwrap_or(0));
        let hint = Some("this protocol takes whole documents: raise `--limit`".into());
        return Err(Usage { what, hint }.into());
    }
    documents.truncate(fit);
    let prefix = brevity::words(model, tokenizer).prefix().ok_or(brevity::eval::Error::Prompt)?;
    Ok(Windows::harness(&text.name, &documents, prefix, length)?)
}

/// Refuses two models that read a text as different tokens.
pub fn same_tokens(text: &str, ours: &Windows, other: &Checkpoint, cut: &Cut) -> anyhow::Result<()> {
    let cut = Cut { window: Some(ours.length), ..*cut };
    if windows(text, other, &cut)? == *ours {
        return Ok(());
    }
    let what = format!("the two models read `{}` as different tokens", ours.text);
    let hint = Some("they have different tokenizers; predictions of tokens cannot be compared between them".into());
    Err(Usage { what, hint }.into())
}

/// A row of the table of scores.
fn cells(score: &Score) -> Vec<String> {
    let error = score.error.map_or(String::new(), |error| format!("± {}", figure(&score.name, error)));
    vec![label(&score.name).to_owned(), figure(&score.name, score.value), error]
}

/// A measure as people call it.
pub fn label(name: &str) -> &str {
    match name {
        "nll" => "mean negative log-likelihood",
        "nll_change" => "change of log-likelihood",
        "perplexity_ratio" => "ratio of perplexities",
        "kl_mean" => "KL divergence, mean",
        "kl_median" => "KL divergence, median",
        "kl_p99" => "KL divergence, 99th percentile",
        "kl_reverse" => "KL divergence, reversed",
        "kl_bound" => "KL divergence, at most more",
        "top1_agreement" => "same likeliest token",
        other => other,
    }
}

/// A figure with fitting digits: percent for shares, nats for divergences.
pub fn figure(name: &str, value: f64) -> String {
    match name {
        "top1_agreement" => format!("{:.2} %", 100.0 * value),
        name if name.starts_with("kl") || name.starts_with("nll") || name.ends_with("ratio") => format!("{value:.5}"),
        _ if value.abs() < 1000.0 => format!("{value:.3}"),
        _ => format!("{value:.0}"),
    }
}
