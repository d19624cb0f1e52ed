//! `brevity distill`: a static table out of an encoder.

use std::time::Instant;

use brevity::embed::{self, Encoder, Load, TableType};
use brevity::eval::{Error as EvalError, Observer};
use serde_json::json;

use crate::args::{Distill, TokensFrom, Type};
use crate::compare::vacant;
use crate::failure::Usage;
use crate::progress::Progress;
use crate::{machine, print, units};

pub fn run(args: &Distill) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    if args.sif.is_some_and(|a| !(a.is_finite() && a >= 0.0)) {
        return Err(Usage { what: "`--sif` is a number from 0 up".into(), hint: Some("1e-4 is usual".into()) }.into());
    }
    vacant(&args.out)?;
    let counted = args.counts.as_deref().map(crate::embed::texts).transpose()?;
    let checkpoint = crate::open(&args.model, false)?;
    machine::resident(&args.machine, &checkpoint)?;
    let load = Load { compute: Some(machine::compute(&args.machine, &checkpoint)), ..Load::default() };
    let encoder = Encoder::load(&checkpoint, &load)?;
    let how = embed::Distill {
        rows: match args.from {
            TokensFrom::Forward => embed::Rows::Forward,
            TokensFrom::Table => embed::Rows::First,
        },
        dims: (args.dims > 0).then_some(args.dims),
        sif: Some(args.sif.unwrap_or(1e-4)).filter(|&a| a > 0.0),
        counted,
        clusters: args.clusters,
    };
    let started = Instant::now();
    let mut progress = Progress::new("embedding the vocabulary", 1000);
    let mut hear = |share: f64| {
        progress.progress(share);
        !progress.cancelled()
    };
    let model = embed::distill(&checkpoint, &encoder, &how, &mut hear)?;
    drop(progress);
    let model = model.ok_or(EvalError::Cancelled)?;
    let kind = match args.kind {
        Type::F32 => TableType::F32,
        Type::F16 => TableType::F16,
        Type::Int8 => TableType::I8,
    };
    let name = args.model.trim_end_matches('/').rsplit('/').next().unwrap_or(&args.model);
    let about = [("tokenizer_name", json!(name)), ("apply_pca", json!(how.dims)), ("sif_coefficient", json!(how.sif))];
    let files = model.files(kind, &about)?;
    let bytes: usize = files.iter().find(|(name, _)| name == "model.safetensors").map_or(0, |(_, bytes)| bytes.len());
    embed::write_files(&args.out, &files)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let report = json!({
            "model": args.model, "out": args.out, "tokens": model.tokens(), "dims": model.width(), "size_bytes": bytes,
            "size_bytes_before": checkpoint.size_bytes(), "seconds": seconds,
        });
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line(&format!(
        "{} tokens of {} dimensions in `{}`: {} -> {}, {}",
        model.tokens(),
        model.width(),
        args.out.display(),
        units::bytes(checkpoint.size_bytes()),
        units::bytes(bytes as u64),
        units::seconds(seconds)
    ))
}
