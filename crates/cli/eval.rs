//! `brevity eval`: what a model scores on a text.

use std::path::PathBuf;

use brevity::compare::Named;
use brevity::eval::{
    Document, Entry, Evaluation, FromReference, MEASURES, Make, Options, Outcome, Protocol, Recorder, Score, Size, TOP,
    Text, Windows, compare, evaluate, make, measures, pages,
};
use brevity::{Checkpoint, Tokenizer};
use serde_json::{Value, json};

use crate::answers::Answers;
use crate::args::{Eval, Windows as Cut};
use crate::compare::{text_of, writable};
use crate::failure::Usage;
use crate::progress::Progress;
use crate::{machine, print, table, units};

/// Tokens that a question in words is taken to have at most where memory is limited.
pub const SHORT: usize = 512;
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
    let asked = args.asked.in_words(most)?;
    if asked.writes() {
        machine::resident(&args.machine, &model)?;
    }
    let (outcome, windows) = match text {
        None => (Outcome { scores: Vec::new(), tokens: 0, seconds: 0.0 }, None),
        Some(text) => {
            let (outcome, windows) = on_text(args, text, &model, &against)?;
            (outcome, Some(windows))
        }
    };
    let compute = machine::compute(&args.machine, &model);
    let options = Options { compute, budget_bytes: machine::budget(&args.machine, &[&model], SHORT)? };
    let mut progress = Progress::new("asking", 1000);
    let told = asked.put(&Named { name: &args.model, model: &model }, &options, &mut progress)?;
    drop(progress);
    let answers = Answers { asked: &asked, told };
    let outcome = Outcome {
        tokens: outcome.tokens + answers.tokens(),
        seconds: outcome.seconds + answers.told.seconds,
        scores: outcome.scores,
    };
    if let Some(path) = &args.log_samples {
        answers.log(path)?;
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
    if !asked.is_empty() {
        let rows = answers.rows();
        print::line(&format!(
            "\n{}",
            table::table(&["task", "items", "measure", "value", "± error"], &[1, 3, 4], rows)
        ))?;
    }
    for table in answers.cuts() {
        print::line(&format!("\n{table}"))?;
    }
    if let Some(table) = answers.temperatures() {
        print::line(&format!("\n{table}"))?;
    }
    for paper in answers.told.papers.iter().filter(|paper| paper.cut > 0) {
        let (cut, task) = (paper.cut, &paper.result.task);
        print::line(&format!("{cut} prompts of {task} were cut at the left to fit into the model's context"))?;
    }
    let peak = report.peak_rss_bytes.map_or(String::new(), |bytes| format!(", peak memory {}", units::bytes(bytes)));
    let rate = match report.tokens {
        0 => String::new(),
        _ => format!(" ({:.0} tokens/s)", report.tokens_per_second),
    };
    print::line(&format!("\n{}{rate}{peak}", units::seconds(report.seconds)))
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
    let (mut single, mut pairs) = make(asked);
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
