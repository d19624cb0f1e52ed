//! `brevity compare`: models beside the one that they were made from.

use std::path::Path;

use brevity::Checkpoint;
use brevity::asking::{FactSet, InWords};
use brevity::compare::{Found, Named, Pace, Questions, compare};
use brevity::eval::report::{self, Report, frontier};
use brevity::eval::{Gate, Options, Size, judge_pairs, peak_rss_bytes, write_judge_pairs};
use serde_json::{Value, json};

use crate::args::{Asked, Compare, Machine, Windows as Cut};
use crate::asked::{self, gate};
use crate::eval::{SHORT, same_tokens, windows};
use crate::failure::{GateFailed, Usage};
use crate::progress::Progress;
use crate::{machine, print, table, units};

pub fn run(args: &Compare) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    for path in args.judged.report.iter().chain(&args.judge_pairs) {
        writable(path)?;
    }
    let gate = gate(&[], &args.judged.gate)?;
    let wish = Wish {
        text: text_of(args.text.as_deref(), args.asked.with_those_of(&gate).anything() && !about_texts(&gate)),
        cut: &args.windows,
        asked: &args.asked,
        traces: args.traces.as_deref(),
        speed: args.speed,
        gate: &gate,
        machine: &args.machine,
    };
    let before = crate::open(&args.before, false)?;
    let after = args.after.iter().map(|name| crate::open(name, false)).collect::<anyhow::Result<Vec<Checkpoint>>>()?;
    let others: Vec<(&str, &Checkpoint)> = args.after.iter().map(String::as_str).zip(&after).collect();
    let compared = wish.compare((&args.before, &before), &others)?;
    if args.json {
        let mut json = json!({ "before": args.before, "after": args.after[0] });
        if let (Value::Object(json), Value::Object(found)) = (&mut json, compared.json()) {
            json.extend(found);
        }
        print::line(&serde_json::to_string_pretty(&json)?)?;
    } else {
        print::line(&format!("{} -> {}\n", args.before, args.after.join(", ")))?;
        print::line(&compared.table())?;
    }
    if let Some(path) = &args.judged.report {
        write_report(path, &compared.found.report)?;
    }
    if let Some(path) = &args.judge_pairs {
        compared.write_pairs(path)?;
    }
    compared.judge()
}

/// Whether a limit is about predictions of a text.
fn about_texts(gate: &Gate) -> bool {
    let of_text =
        |name: &str| report::names::find(name).is_some_and(|known| known.kind.is_some() || name.contains("perplexity"));
    gate.limits.iter().any(|limit| of_text(&limit.name))
}

/// The text to compare on: the one that was said, or the usual one unless something else is asked.
pub fn text_of(said: Option<&str>, asked: bool) -> Option<&str> {
    match said {
        Some("none") => None,
        Some(text) => Some(text),
        None => (!asked).then_some("heldout"),
    }
}

/// What the user wants to know of models.
pub struct Wish<'a> {
    pub text: Option<&'a str>,
    pub cut: &'a Cut,
    pub asked: &'a Asked,
    pub traces: Option<&'a str>,
    pub speed: bool,
    pub gate: &'a Gate,
    pub machine: &'a Machine,
}

/// What was found, and how it is told.
pub struct Compared {
    pub found: Found,
    asked: InWords,
    /// Sizes of the reference and of the first of the others.
    sizes: [Size; 2],
    /// Whether there is a gate, and whether all its limits are kept.
    kept: Option<bool>,
    seconds: f64,
    dtype: &'static str,
}

impl Wish<'_> {
    /// Refuses what can be known to be wrong before anything runs, and gets all questions ready.
    pub fn questions(&self, reference: &Checkpoint) -> anyhow::Result<Questions> {
        let asked = self.asked.with_those_of(self.gate);
        self.gate.check_names(&asked.names())?;
        let about_facts = |name: &str| {
            name.split('.').next().is_some_and(|task| [FactSet::BY_HEART, FactSet::OPEN_BOOK].contains(&task))
        };
        if let Some(limit) = self.gate.limits.iter().find(|limit| about_facts(&limit.name) && asked.facts.is_none()) {
            let what = format!("`{limit}` is about facts, and none are asked");
            return Err(Usage { what, hint: Some("give them with `--facts FILE`".into()) }.into());
        }
        if let Some(limit) = self.gate.limits.iter().find(|_| self.text.is_none() && about_texts(self.gate)) {
            let what = format!("`{limit}` is among limits on predictions of a text, and there is no text");
            return Err(Usage { what, hint: Some("give one with `--text FILE`".into()) }.into());
        }
        let most = if self.text.is_none() { self.cut.limit } else { None };
        let windows = match self.text {
            None => None,
            Some(text) => Some(windows(text, reference, self.cut)?),
        };
        let in_words = asked.in_words(most)?;
        if self.speed || in_words.writes() {
            machine::resident(self.machine, reference)?;
        }
        Ok(Questions {
            layers: windows.is_some(),
            representations: windows.is_some(),
            windows,
            in_words,
            traces: asked::traces(self.traces, reference)?,
            pace: self.speed.then(Pace::default),
        })
    }

    /// Finds it out.
    pub fn compare(&self, before: (&str, &Checkpoint), others: &[(&str, &Checkpoint)]) -> anyhow::Result<Compared> {
        let started = std::time::Instant::now();
        let questions = self.questions(before.1)?;
        if let (Some(text), Some(windows)) = (self.text, &questions.windows) {
            others.iter().try_for_each(|(_, other)| same_tokens(text, windows, other, self.cut))?;
        }
        let length = questions.windows.as_ref().map_or(SHORT, |windows| windows.length);
        let mut budget = u64::MAX;
        for (_, other) in others {
            budget = budget.min(machine::budget(self.machine, &[before.1, other], length)?);
        }
        let options = Options { compute: machine::compute(self.machine, before.1), budget_bytes: budget };
        let names = short_names(before.0, others);
        let named: Vec<Named<'_>> =
            names[1..].iter().zip(others).map(|(name, (_, model))| Named { name, model }).collect();
        let mut progress = Progress::new("comparing", 1000);
        let mut found =
            compare(Named { name: &names[0], model: before.1 }, &named, &questions, &options, &mut progress)?;
        drop(progress);
        let asked = self.asked.with_those_of(self.gate);
        let kept = match self.gate.limits.is_empty() {
            true => None,
            false => Some(self.gate.apply(&mut found.report, &asked.names())?),
        };
        Ok(Compared {
            found,
            asked: questions.in_words,
            sizes: [before.1, others[0].1].map(|model| Size::of(model.model(), model.size_bytes())),
            kept,
            seconds: started.elapsed().as_secs_f64(),
            dtype: machine::name(options.compute),
        })
    }
}

impl Compared {
    /// The table of sizes and scores, and what else is to be said.
    pub fn table(&self) -> String {
        let report = &self.found.report;
        let mut parts = vec![printed(report::table(report))];
        if report.others.len() > 1 {
            for metric in frontier::metrics(report) {
                parts.push(printed(frontier::frontier_table(report, &metric)));
            }
        }
        let places: Vec<String> = report.others.iter().filter_map(worst_place).collect();
        if !places.is_empty() {
            parts.push(places.join("\n"));
        }
        if self.kept.is_some() {
            parts.push(printed(report::verdicts(report)));
        }
        let method = report.method.iter().chain(&report.warnings).cloned().collect::<Vec<_>>().join("\n");
        parts.push(format!("{method}\n{}", units::seconds(self.seconds)));
        parts.join("\n\n")
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let size = |size: &Size| {
            json!({
                "size_bytes": size.size_bytes, "parameters": size.parameters, "bits_per_weight": size.bits_per_weight(),
                "bits_per_quantized_weight": size.bits_per_quantized_weight(),
            })
        };
        let mut json = json!({ "sizes": { "before": size(&self.sizes[0]), "after": size(&self.sizes[1]) } });
        if let Some(text) = self.found.texts.first() {
            json["scores"] = json!({ "before": text.before, "after": text.after, "between": text.scores });
            json["tokens"] = json!(text.tokens);
            json["tokens_per_second"] = json!(text.tokens as f64 / text.seconds.max(1e-9));
        }
        json["dtype"] = json!(self.dtype);
        json["seconds"] = json!(self.seconds);
        json["peak_rss_bytes"] = json!(peak_rss_bytes());
        if let Some(kept) = self.kept {
            json["gate"] = json!(if kept { "passed" } else { "failed" });
        }
        json["report"] = json!(self.found.report);
        json
    }

    /// Writes the answers of the reference and of each other model to tasks that are answered in writing.
    fn write_pairs(&self, path: &Path) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for (k, quiz) in self.asked.quizzes.iter().enumerate().filter(|(_, quiz)| quiz.writes()) {
            let models: Vec<_> = self.found.report.models().zip(&self.found.told).collect();
            let answers = |n: usize| (models[n].0.name.as_str(), &models[n].1.papers[k].answers[..]);
            for n in 1..models.len() {
                write_judge_pairs(
                    &judge_pairs(&quiz.items, answers(0), answers(n)).map_err(brevity::eval::Error::from)?,
                    &mut lines,
                )?;
            }
        }
        if lines.is_empty() {
            let hint = Some("`--tasks kick_instructions`, for example".into());
            return Err(Usage { what: "no task is answered in writing, so there are no pairs".into(), hint }.into());
        }
        write_whole(path, &lines)
    }

    /// An error that names the limits that were not kept.
    pub fn judge(&self) -> anyhow::Result<()> {
        if self.kept != Some(false) {
            return Ok(());
        }
        let verdicts = self.found.report.others.iter().flat_map(|other| &other.gate);
        let several = self.found.report.others.len() > 1;
        let word = |verdict: &brevity::eval::Verdict| match several {
            true => format!("{}: {verdict}", verdict.model),
            false => verdict.to_string(),
        };
        Err(GateFailed { broken: verdicts.filter(|verdict| !verdict.is_kept()).map(word).collect() }.into())
    }
}

fn printed(rows: report::Table) -> String {
    let header: Vec<&str> = rows.header.iter().map(String::as_str).collect();
    table::table(&header, &rows.right, rows.rows)
}

/// Where hidden states are furthest apart, in a sentence.
fn worst_place(other: &report::Compressed) -> Option<String> {
    let far = |layer: &report::Layer| layer.relative_error.filter(|error| error.is_finite());
    let worst =
        other.layers.iter().filter(|layer| far(layer).is_some()).max_by(|a, b| far(a).partial_cmp(&far(b)).unwrap())?;
    let last = other.layers.last()?;
    let cosine = last.cosine.map_or(String::new(), |cosine| format!(", cosine {cosine:.4}"));
    Some(format!(
        "{}: hidden states differ most behind {} (relative error {:.3}); behind the last norm by {:.3}{cosine}",
        other.model.name,
        worst.place,
        far(worst)?,
        last.relative_error.unwrap_or(f64::NAN),
    ))
}

/// Names of models, the reference's first: the last part of a path, or all of it where two would be called alike.
fn short_names(before: &str, others: &[(&str, &Checkpoint)]) -> Vec<String> {
    let all: Vec<&str> = std::iter::once(before).chain(others.iter().map(|(name, _)| *name)).collect();
    let short = |name: &str| name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(name).to_owned();
    let name = |name: &&str| {
        let alike = all.iter().filter(|other| short(other) == short(name)).count();
        if alike > 1 { (*name).to_owned() } else { short(name) }
    };
    all.iter().map(name).collect()
}

/// Writes the report to a file.
pub fn write_report(path: &Path, report: &Report) -> anyhow::Result<()> {
    write_whole(path, report::html(report).as_bytes())
}

/// Refuses a path where no file can be written, before the work whose result it is for.
pub fn writable(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let why = match () {
        () if path.is_dir() => "it is a directory",
        () if !folder.is_dir() => "its folder does not exist",
        () => return Ok(()),
    };
    Err(Usage { what: format!("cannot write `{}`: {why}", path.display()), hint: None }.into())
}

/// Refuses a directory that holds anything, before the work whose result it is for.
pub fn vacant(path: &Path) -> anyhow::Result<()> {
    if path.exists() && path.read_dir().is_ok_and(|mut files| files.next().is_some()) {
        let what = format!("`{}` is not empty", path.display());
        return Err(Usage { what, hint: Some("give a directory that is new or empty".into()) }.into());
    }
    Ok(())
}

/// Writes a file whole or not at all.
pub fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = path.with_added_extension("part");
    std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path)).map_err(|source| {
        let _ = std::fs::remove_file(&part);
        Usage { what: format!("cannot write `{}`: {source}", path.display()), hint: None }.into()
    })
}
