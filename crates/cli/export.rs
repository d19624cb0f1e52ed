//! `brevity export`: the same model in another format.

use std::time::Instant;

use brevity::Checkpoint;
use brevity::engine::{Plan, PlanOptions};
use brevity::formats::{GGUF_CONSUMERS, GgufAbout, GgufExport, GgufType};
use serde_json::json;

use crate::args::Export;
use crate::compress::{carry_out, nothing, plan_options};
use crate::failure::Usage;
use crate::progress::{Progress, cancelled};
use crate::{machine, print, units};

pub fn run(args: &Export) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    let checkpoint = crate::open(&args.model, false)?;
    if args.format == "gguf" {
        return to_gguf(args, &checkpoint);
    }
    if args.kind.is_some() {
        let what = format!("`--type` is for `--format gguf`; `{}` has the types of its source", args.format);
        return Err(Usage { what, hint: Some("leave it out".into()) }.into());
    }
    let options =
        PlanOptions { materialize: args.materialize, ..plan_options(&args.model, &args.machine, Some(&args.out)) };
    let plan = Plan::make(&checkpoint, &nothing(&args.format), &options)?;
    let report = carry_out(&plan, &checkpoint, &args.out, args.fresh)?;
    if args.json {
        return print::line(&serde_json::to_string_pretty(&report.to_json(&args.out.display().to_string()))?);
    }
    print::line(&format!(
        "{}: {} -> {}, written to {} as {} in {}; opened by {}",
        report.model,
        units::bytes(report.size.size_bytes_before),
        units::bytes(report.size.size_bytes_after),
        args.out.display(),
        report.format,
        units::seconds(report.seconds),
        plan.consumers.files
    ))
}

/// One file instead of a directory.
fn to_gguf(args: &Export, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let start = Instant::now();
    let model = checkpoint.model();
    let name = name(&args.model, checkpoint);
    let files = checkpoint.companions()?;
    let about = GgufAbout { name: &name, config: checkpoint.config(), files: &files };
    let export = GgufExport::plan(model, &about, args.kind.unwrap_or(GgufType::F16))?;
    machine::export(&args.machine, checkpoint, export.working_bytes(model))?;
    for note in export.notes() {
        eprintln!("note: {note} ({})", note.hint());
    }
    let total = model.stages.len();
    let mut progress = Progress::new("exporting", total as u64);
    let load = |n| -> anyhow::Result<_> {
        let stage = checkpoint.load_stage(n)?;
        checkpoint.release_stage(n);
        checkpoint.check_finite(n, &stage)?;
        Ok(stage)
    };
    let done = |done: usize| {
        progress.at(done as u64, total as u64);
        match cancelled() {
            true => Err(Stopped.into()),
            false => Ok(()),
        }
    };
    export.write(&args.out, args.fresh, load, done)?;
    drop(progress);
    let (before, after, seconds) = (checkpoint.size_bytes(), export.size_bytes(), start.elapsed().as_secs_f64());
    if args.json {
        let notes: Vec<String> = export.notes().iter().map(ToString::to_string).collect();
        return print::line(&serde_json::to_string_pretty(&json!({
            "model": name,
            "format": "gguf",
            "type": export.kind().name(),
            "architecture": export.architecture(),
            "out": args.out.display().to_string(),
            "size_bytes_before": before,
            "size_bytes_after": after,
            "tensors": export.types(),
            "notes": notes,
            "seconds": seconds,
        }))?);
    }
    let types: Vec<String> = export.types().into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    print::line(&format!(
        "{name}: {} -> {}, written to {} as gguf in {} (architecture {}, tensors: {}); opened by {GGUF_CONSUMERS}",
        units::bytes(before),
        units::bytes(after),
        args.out.display(),
        units::seconds(seconds),
        export.architecture(),
        types.join(", "),
    ))
}

/// What the model is called in the file: as its directory or file, or as it was asked for.
fn name(asked: &str, checkpoint: &Checkpoint) -> String {
    let path = checkpoint.path().canonicalize().ok().filter(|_| std::path::Path::new(asked).exists());
    let own = path.as_ref().and_then(|path| if path.is_dir() { path.file_name() } else { path.file_stem() });
    own.map_or_else(|| asked.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The user wanted an export to end.
#[derive(Debug, thiserror::Error)]
#[error("stopped; nothing is left of the file")]
pub struct Stopped;
