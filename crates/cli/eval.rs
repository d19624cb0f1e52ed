//! `brevity eval`: what a model scores on a text.

use std::path::PathBuf;

use brevity::Checkpoint;
use brevity::eval::{
    Entry, Evaluation, FromReference, MEASURES, Make, Measure, Options, Outcome, PairMeasure, Protocol, Recorder,
    Score, Size, TOP, Text, Windows, compare, evaluate, measures,
};
use serde_json::json;

use crate::args::{Eval, Windows as Cut};
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
    let asked = asked(args, &against)?;
    let model = crate::open(&args.model, false)?;
    let text = brevity::text(&args.text)?;
    let windows = windows(&text, &model, &args.windows)?;
    let mut models = vec![&model];
    if let Against::Model(reference) = &against {
        same_tokens(&text, &windows, reference, &args.windows)?;
        models.push(reference);
    }
    let options = Options {
        compute: machine::compute(&args.machine, &model),
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
    let outcome = match &against {
        Against::Nothing => evaluate(&model, &windows, &mut single, &options, &mut progress)?,
        Against::Saved(path) => {
            single.push(Box::new(FromReference::open(path, &windows, vocabulary)?));
            evaluate(&model, &windows, &mut single, &options, &mut progress)?
        }
        Against::Model(reference) => {
            let found =
                compare([&**reference, &model], &windows, [&mut [], &mut single], &mut pairs, &options, &mut progress)?;
            let scores = [found.after, found.scores].concat();
            Outcome { scores, tokens: found.tokens, seconds: found.seconds }
        }
    };
    drop(progress);

    let report = Evaluation::new(&args.model, &Size::of(model.model(), model.size_bytes()), outcome);
    if args.json {
        let mut json = serde_json::to_value(&report)?;
        json["dtype"] = json!(machine::name(options.compute));
        json["protocol"] = json!(windows.protocol.as_str());
        return print::line(&serde_json::to_string_pretty(&json)?);
    }
    print::line(&format!(
        "{}: {} parameters in {}, {:.2} bits per weight",
        args.model,
        units::count(report.parameters),
        units::bytes(report.size_bytes),
        report.bits_per_weight
    ))?;
    print::line(&format!("{}\n", what_was_run(&windows, machine::name(options.compute))))?;
    print::line(&table::table(&["measure", "value", "± error"], &[1, 2], report.scores.iter().map(cells)))?;
    let peak = report.peak_rss_bytes.map_or(String::new(), |bytes| format!(", peak memory {}", units::bytes(bytes)));
    print::line(&format!("\n{} ({:.0} tokens/s){peak}", units::seconds(report.seconds), report.tokens_per_second))
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
pub fn windows(text: &Text, model: &Checkpoint, cut: &Cut) -> anyhow::Result<Windows> {
    let tokenizer = model.tokenizer()?;
    let tokens = text.tokens(&tokenizer)?;
    let length = cut.window.unwrap_or_else(|| model.model().context.unwrap_or(USUAL_WINDOW).min(USUAL_WINDOW));
    Ok(match cut.protocol {
        crate::args::Protocol::Window => Windows::cut(&text.name, &tokens, length, cut.limit)?,
        crate::args::Protocol::LlamaCpp => {
            Windows::llama_cpp(&text.name, &tokens, brevity::eval::first_token(&tokenizer), length, cut.limit)?
        }
    })
}

/// Refuses two models that read a text as different tokens.
pub fn same_tokens(text: &Text, ours: &Windows, other: &Checkpoint, cut: &Cut) -> anyhow::Result<()> {
    let cut = Cut { window: Some(ours.length), ..*cut };
    if windows(text, other, &cut)? == *ours {
        return Ok(());
    }
    let what = format!("the two models read `{}` as different tokens", text.name);
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
