//! `brevity tune`: trains an encoder so that cuts of it work.

use std::path::Path;
use std::time::Instant;

use brevity::embed::train::{
    Cut, Example, LayerWeighting, Objective, Student, Tuning, pairs, scored, tune, write_tuned,
};
use brevity::embed::{Encoder, Load, Modules};
use brevity::eval::sts;
use brevity::runtime::Compute;
use serde_json::json;

use crate::args::{Tune, TuneFor, Weighting};
use crate::compare::vacant;
use crate::failure::Usage;
use crate::progress::{Progress, cancelled};
use crate::{machine, print, units};

/// The cuts that Starbucks trains a model of 12 layers and 768 dimensions for.
const STARBUCKS: [(usize, usize); 6] = [(2, 32), (4, 64), (6, 128), (8, 256), (10, 512), (12, 768)];

pub fn run(args: &Tune) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    vacant(&args.out)?;
    let examples = examples(args)?;
    let checkpoint = crate::open(&args.model, false)?;
    let modules = Modules::read(checkpoint.folder())?;
    machine::resident(&args.machine, &checkpoint)?;
    let objective = objective(args)?;
    let taught = matches!(objective, Objective::Distil { .. });
    let teacher = match (taught, &args.teacher) {
        (true, name) => {
            let teacher = crate::open(name.as_deref().unwrap_or(&args.model), false)?;
            Some(Encoder::load(&teacher, &Load { compute: Some(Compute::F32), ..Load::default() })?)
        }
        (false, Some(_)) => {
            let what = "`--teacher` goes with `--for distil` alone".into();
            return Err(Usage { what, hint: None }.into());
        }
        (false, None) => None,
    };
    let student = Student::new(&checkpoint, &modules)?;
    let tuning = Tuning {
        objective,
        steps: args.steps,
        batch: args.batch,
        rate: args.rate,
        max_tokens: args.max_tokens,
        check_every: args.check_every.max(1),
        patience: args.patience.max(1),
        seed: args.seed,
    };
    let started = Instant::now();
    let seconds = args.minutes.map(|minutes| 60.0 * minutes);
    let mut progress = Progress::new("training", args.steps as u64);
    let outcome = tune(
        &student,
        checkpoint.tokenizer()?,
        &modules,
        &examples,
        teacher.as_ref(),
        &tuning,
        args.state.as_deref(),
        &mut |step| {
            progress.at(step.done as u64, step.of as u64);
            if let Some(found) = step.held_out {
                progress.say(&format!("step {}: loss {:.4}, held out {found:.4}", step.done, step.loss));
            }
            !cancelled() && seconds.is_none_or(|seconds| started.elapsed().as_secs_f64() < seconds)
        },
    )?;
    drop(progress);
    if cancelled() {
        return Err(brevity::eval::Error::Cancelled.into());
    }
    write_tuned(&checkpoint, &student, &modules, &args.out)?;
    if let Some(state) = args.state.as_deref().filter(|state| state.exists()) {
        let _ = std::fs::remove_file(state);
    }
    let [before, after] = outcome.held_out;
    if args.json {
        let report = json!({
            "model": args.model, "out": args.out, "steps": outcome.steps, "best_step": outcome.best, "held_out_before": before,
            "held_out_after": after, "ended_early": outcome.ended_early, "seconds": started.elapsed().as_secs_f64(),
        });
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line(&format!(
        "{} steps in {}, the weights of step {} in `{}`: loss on what was held out {before:.4} -> {after:.4}",
        outcome.steps,
        units::seconds(started.elapsed().as_secs_f64()),
        outcome.best,
        args.out.display()
    ))
}

fn examples(args: &Tune) -> anyhow::Result<Vec<Example>> {
    match (&args.texts, &args.pairs, &args.sts) {
        (Some(texts), None, None) => {
            let texts = crate::embed::texts(texts)?;
            Ok(texts.into_iter().filter(|text| !text.trim().is_empty()).map(Example::text).collect())
        }
        (None, Some(path), None) => Ok(pairs(Path::new(path))?),
        (None, None, Some(path)) => {
            let pairs = sts::read(Path::new(path))?;
            Ok(scored(pairs.into_iter().map(|pair| (pair.first, pair.second, pair.gold as f32))))
        }
        _ => {
            let what = "there is nothing to train on, or more than one thing".into();
            Err(Usage { what, hint: Some("give one of `--texts`, `--pairs` and `--sts`".into()) }.into())
        }
    }
}

fn objective(args: &Tune) -> anyhow::Result<Objective> {
    let dims = || match args.dims.is_empty() {
        true => {
            Err(Usage { what: "no numbers of dimensions are given".into(), hint: Some("`--dims 256,128,64`".into()) })
        }
        false => Ok(args.dims.clone()),
    };
    let cuts = || args.cuts.iter().map(|text| cut(text)).collect::<Result<Vec<Cut>, Usage>>();
    Ok(match args.objective {
        TuneFor::Distil => Objective::Distil { cuts: cuts()? },
        TuneFor::Matryoshka => Objective::Matryoshka { dims: dims()? },
        TuneFor::AnyCut => Objective::AnyCut {
            dims: dims()?,
            weighting: match args.layer_weighting {
                Weighting::Uniform => LayerWeighting::Uniform,
                Weighting::Linear => LayerWeighting::Linear,
                Weighting::Log => LayerWeighting::Log,
            },
        },
        TuneFor::FixedCuts => Objective::FixedCuts {
            cuts: match args.cuts.is_empty() {
                true => STARBUCKS.map(|(layers, dims)| Cut { layers, dims }).into(),
                false => cuts()?,
            },
        },
        TuneFor::Repetition => Objective::Repetition,
    })
}

/// `3x128`
fn cut(text: &str) -> Result<Cut, Usage> {
    let numbers = text.split_once('x').and_then(|(layers, dims)| Some((layers.parse().ok()?, dims.parse().ok()?)));
    match numbers {
        Some((layers, dims)) => Ok(Cut { layers, dims }),
        None => Err(Usage {
            what: format!("`{text}` is no cut"),
            hint: Some("`3x128` is 3 layers and 128 dimensions".into()),
        }),
    }
}
