//! `brevity compress`: a recipe carried out, and what it cost.

use std::path::{Path, PathBuf};

use brevity::Checkpoint;
use brevity::engine::{
    Calibration, CardScore, Draw, Plan, PlanOptions, Recipe, Report, RunOptions, Samples, SiteReport, VectorCut,
    Wanted, write_card,
};
use brevity::eval::Score;
use brevity::model::Place;
use serde_json::{Value, json};

use crate::args::{Compress, Machine};
use crate::asked::gate;
use crate::compare::{Compared, Wish, writable, write_report};
use crate::failure::Usage;
use crate::progress::{Progress, cancelled};
use crate::{inspect, machine, print, table, units};

pub fn run(args: &Compress) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    let mut recipe = crate::recipes::read(&args.recipe)?;
    recipe.set_all(&args.set)?;
    if args.uniform {
        recipe.even();
    }
    let checkpoint = crate::open(&args.model, args.loose)?;
    let text = args
        .compare
        .as_deref()
        .or(brevity::is_embedded(&args.model).then_some("heldout"))
        .filter(|text| *text != "none");
    let gate = gate(&recipe.gate, &args.judged.gate)?;
    if let Some(path) = &args.judged.report {
        writable(path)?;
    }
    let wish = Wish {
        text,
        cut: &args.windows,
        asked: &args.asked,
        traces: None,
        speed: false,
        gate: &gate,
        machine: &args.machine,
    };
    let compares = text.is_some() || !gate.limits.is_empty() || args.asked.anything();
    if compares {
        // Whatever is wrong with texts, tasks and limits is better known now than after the work. They are read again then, so
        // that the work has all of the memory.
        wish.questions(&checkpoint)?;
    }
    let wanted = wanted(args).or(&recipe.calibration);
    let calibration = calibration(args, &wanted, recipe.vectors.as_ref(), &checkpoint)?;
    let context = checkpoint.model().context;
    let options = PlanOptions {
        format: args.format.clone(),
        materialize: args.materialize,
        seed: args.seed,
        calibration,
        expected: Some((wanted.samples(), wanted.length(context))),
        ..plan_options(&args.model, &args.machine, args.out.as_deref())
    };
    let plan = Plan::make(&checkpoint, &recipe, &options)?;
    if args.dry_run {
        return show(&plan, args.json);
    }
    plan.can_calibrate()?;
    let Some(out) = &args.out else {
        let hint = Some("`--out DIR`, or `--dry-run` to see the plan only".into());
        return Err(Usage { what: "there is no directory to write to".into(), hint }.into());
    };
    let report = carry_out(&plan, &checkpoint, out, args.fresh)?;
    if !args.json {
        print::line(&summary(&plan, &report, out))?;
    }
    let compared = if compares {
        let after = Checkpoint::open(out)?;
        let found = wish.compare((&args.model, &checkpoint), &[(&out.display().to_string(), &after)])?;
        write_card(out, &card_scores(&found))?;
        if let Some(path) = &args.judged.report {
            write_report(path, &found.found.report)?;
        }
        Some(found)
    } else {
        None
    };
    if args.json {
        print::line(&serde_json::to_string_pretty(&json_of(&plan, &report, out, compared.as_ref()))?)?;
    } else {
        match &compared {
            Some(found) => print::line(&format!("\n{}", found.table()))?,
            None => {
                print::line(&format!("\nwhat it cost: brevity compare {} {} --text FILE", args.model, out.display()))?;
            }
        }
    }
    compared.map_or(Ok(()), |found| found.judge())
}

/// What the command says of samples.
fn wanted(args: &Compress) -> Wanted {
    let draw = |name: &String| Draw::NAMES.iter().find(|(known, _)| known == name).map(|(_, draw)| *draw);
    Wanted {
        text: args.text.clone(),
        samples: args.samples,
        length: args.length,
        draw: args.draw.as_ref().and_then(draw),
    }
}

/// The samples to look at, if there is a text to take them from.
fn calibration(
    args: &Compress,
    wanted: &Wanted,
    vectors: Option<&VectorCut>,
    checkpoint: &Checkpoint,
) -> anyhow::Result<Option<Calibration>> {
    let own = brevity::is_embedded(&args.model).then_some("calibration");
    let Some(text) = wanted.text.as_deref().or(own) else { return Ok(None) };
    let text = brevity::calibration_text(text, checkpoint)?;
    let context = checkpoint.model().context;
    let enough = match wanted.draw {
        Some(Draw::First) => wanted.samples().saturating_mul(wanted.length(context)),
        _ => usize::MAX,
    };
    let tokens = text.tokens_in_pieces(&checkpoint.tokenizer()?, enough)?;
    let samples = Samples::draw(&text.name, &tokens, wanted, context, args.seed)?;
    let lines = vectors.filter(|cut| cut.looks()).map(|cut| cut.lines(&text.text)).unwrap_or_default();
    Ok(Some(Calibration { samples, compute: machine::compute(&args.machine, checkpoint), lines }))
}

/// The options that every plan of the command has.
pub fn plan_options(model: &str, allowed: &Machine, out: Option<&Path>) -> PlanOptions {
    PlanOptions {
        // A directory is known by its own name, wherever it lies.
        model: (!Path::new(model).exists()).then(|| model.to_owned()),
        max_memory: allowed.max_memory,
        threads: allowed.threads.unwrap_or(0),
        out: out.map(PathBuf::from),
        ..PlanOptions::default()
    }
}

/// Runs a plan with progress on stderr.
pub fn carry_out(plan: &Plan, checkpoint: &Checkpoint, out: &Path, fresh: bool) -> anyhow::Result<Report> {
    for lint in &plan.lints {
        eprintln!("note: {} ({})", lint.what, lint.hint);
    }
    let layers = plan.sites.iter().filter(|site| !site.methods.is_empty()).count();
    let progress = Progress::new("compressing", 1).with_table(&LIVE, &[10, 6, 6, 7, 8, 8, 10, 6, 8]);
    let mut watch = Watch { progress, layers: layers as u64, done: 0 };
    Ok(plan.run(checkpoint, out, &RunOptions { fresh }, &mut watch)?)
}

/// The columns of the table that grows while a run goes on: one row for each stage with rewritten layers.
const LIVE: [&str; 9] = ["stage", "layers", "bits", "zeros", "error", "worst", "at", "damp", "seconds"];

/// The row of a stage: means over its layers, the largest error and its layer. Errors are those of what layers return
/// where samples were looked at, else those of their weights.
fn live_row(rows: &[SiteReport]) -> Option<[String; 9]> {
    let error = |row: &SiteReport| row.data_error.or(row.relative_error).unwrap_or(0.0);
    let worst = rows.iter().max_by(|a, b| error(a).total_cmp(&error(b)))?;
    let mean = |of: &dyn Fn(&SiteReport) -> f64| rows.iter().map(of).sum::<f64>() / rows.len() as f64;
    let damps: Vec<f64> = rows.iter().filter_map(|row| row.figures.get("damp").copied()).collect();
    let damp = damps.iter().sum::<f64>() / damps.len() as f64;
    let seconds: f64 = rows.iter().filter_map(|row| row.seconds).sum();
    let place = worst.site.place.to_string();
    let role = worst.site.to_string();
    Some([
        place.clone(),
        rows.len().to_string(),
        format!("{:.2}", mean(&|row| row.bits)),
        format!("{:.1} %", 100.0 * mean(&|row| row.sparsity)),
        format!("{:.4}", mean(&error)),
        format!("{:.4}", error(worst)),
        role.strip_prefix(&format!("{place}.")).unwrap_or(&role).to_owned(),
        if damps.is_empty() { "-".into() } else { format!("{damp:.2}") },
        format!("{seconds:.1}"),
    ])
}

/// Shows how far a run is: by layers, or by stages where no layer is rewritten.
struct Watch {
    progress: Progress,
    layers: u64,
    done: u64,
}

impl brevity::engine::Observer for Watch {
    fn layer(&mut self, _: &SiteReport) {
        self.done += 1;
        self.progress.at(self.done, self.layers);
    }

    fn stage(&mut self, done: usize, total: usize, rows: &[SiteReport]) {
        if let Some(row) = live_row(rows) {
            self.progress.row(&row);
        }
        if self.layers == 0 {
            self.progress.at(done as u64, total as u64);
        }
    }

    fn cancelled(&mut self) -> bool {
        cancelled()
    }
}

/// What a plan will do, as a table or as JSON.
pub fn show(plan: &Plan, as_json: bool) -> anyhow::Result<()> {
    let size = &plan.size;
    if as_json {
        let report = json!({
            "model": plan.model,
            "recipe": plan.recipe.normalised(),
            "format": plan.format.name(),
            "opened_by": plan.consumers.files,
            "consumers": plan.consumers.to_json(),
            "size_bytes_before": size.size_bytes_before,
            "size_bytes_after": size.size_bytes_after,
            "bits_per_weight": size.bits_per_weight,
            "bits_per_touched_weight": size.bits_per_touched_weight,
            "peak_memory_bytes": plan.peak_memory_bytes,
            "cache_values_before": plan.cache[0],
            "cache_values_after": plan.cache[1],
            "disk_bytes": plan.disk.0,
            "spilled_bytes": plan.spilled_bytes(),
            "disk_free_bytes": plan.disk.1,
            "lints": plan.lints,
            "sites": plan.sites,
        });
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line(&format!("{} by `{}`: {}\n", plan.model, plan.recipe.name, plan.recipe.about.trim_end()))?;
    let header = ["site", "count", "shape", "before", "after", "bytes before", "bytes after"];
    print::line(&table::table(&header, &[1, 5, 6], plan_rows(plan)))?;
    print::line(&format!(
        "\nweight files  {} -> {} ({} bytes), {:.2} bits per weight",
        units::bytes(size.size_bytes_before),
        units::bytes(size.size_bytes_after),
        size.size_bytes_after,
        size.bits_per_weight
    ))?;
    print::line(&format!(
        "peak memory   {} at most, with {} threads",
        units::bytes(plan.peak_memory_bytes),
        plan.threads
    ))?;
    let [before, after] = plan.cache;
    if before != after {
        print::line(&format!("cache         {before} -> {after} keys and values a token, of all blocks"))?;
    }
    let free = plan.disk.1.map_or(String::new(), |free| format!(", {} free", units::bytes(free)));
    print::line(&format!("disk          {}{free}", units::bytes(plan.disk.0)))?;
    if plan.spilled_bytes() > 0 {
        print::line(&format!("of that       {} for activations, while it runs", units::bytes(plan.spilled_bytes())))?;
    }
    print::line(&format!("format        {}, opened by {}", plan.format.name(), plan.consumers.files))?;
    match (&plan.consumers.gguf, plan.consumers.gguf_opened_by()) {
        (Some(Ok(architecture)), Some(tools)) => {
            print::line(&format!("as GGUF       {architecture}, opened by {tools}"))?;
        }
        (Some(Err(why)), _) => print::line(&format!("as GGUF       no: {why}"))?,
        _ => {}
    }
    for lint in &plan.lints {
        print::line(&format!("note          {} ({})", lint.what, lint.hint))?;
    }
    Ok(())
}

/// The sites of a plan, those that are alike in one row.
fn plan_rows(plan: &Plan) -> Vec<Vec<String>> {
    struct Alike {
        site: String,
        count: usize,
        shape: [usize; 2],
        before: String,
        after: String,
        /// The least and the greatest shape afterwards.
        shapes: [[usize; 2]; 2],
        bytes: [u64; 2],
    }
    let mut rows: Vec<Alike> = Vec::new();
    for planned in &plan.sites {
        let mut site = planned.site.to_string();
        if let Place::Block(n) = planned.site.place {
            site = site.replacen(&format!("blocks.{n}."), "blocks.*.", 1);
        }
        let now = planned.after.shape();
        let after = match planned.methods.is_empty() {
            true => "as it is".to_owned(),
            false if now == [0, 0] && planned.shape != now => "dropped".to_owned(),
            false => inspect::kind(&planned.after),
        };
        let row = Alike {
            site,
            count: 1,
            shape: planned.shape,
            before: inspect::kind(&planned.before),
            after,
            shapes: [now, now],
            bytes: [planned.bytes_before, planned.bytes_after],
        };
        let same = |seen: &&mut Alike| {
            (&seen.site, seen.shape, &seen.before, &seen.after) == (&row.site, row.shape, &row.before, &row.after)
        };
        match rows.iter_mut().find(same) {
            Some(seen) => {
                seen.count += 1;
                seen.bytes = [seen.bytes[0] + row.bytes[0], seen.bytes[1] + row.bytes[1]];
                for way in [0, 1] {
                    seen.shapes[0][way] = seen.shapes[0][way].min(row.shapes[0][way]);
                    seen.shapes[1][way] = seen.shapes[1][way].max(row.shapes[1][way]);
                }
            }
            None => rows.push(row),
        }
    }
    let cells = |row: Alike| {
        let [outputs, inputs] = row.shape;
        let shape = format!("{outputs} x {inputs}");
        let [before, after] = row.bytes.map(units::bytes);
        let [least, most] = row.shapes;
        let side = |way: usize| match (least[way], most[way]) {
            (least, most) if least == most => most.to_string(),
            (least, most) => format!("{least}-{most}"),
        };
        let now = match [least, most] == [row.shape; 2] || most == [0, 0] {
            true => row.after,
            false => format!("{}, {} x {}", row.after, side(0), side(1)),
        };
        vec![row.site, row.count.to_string(), shape, row.before, now, before, after]
    };
    rows.into_iter().map(cells).collect()
}

/// What a run did, in a few lines.
fn summary(plan: &Plan, report: &Report, out: &Path) -> String {
    let size = &report.size;
    let mut lines = vec![format!(
        "{}: {} -> {}, {:.2} bits per weight, in {}{}",
        report.model,
        units::bytes(size.size_bytes_before),
        units::bytes(size.size_bytes_after),
        size.bits_per_weight,
        units::seconds(report.seconds),
        report.peak_rss_bytes.map_or(String::new(), |bytes| format!(", peak memory {}", units::bytes(bytes))),
    )];
    if report.resumed > 0 {
        lines.push(format!("{} of {} stages were there from an earlier run", report.resumed, plan.stages.len()));
    }
    if let Some(calibration) = plan.calibration.as_ref().filter(|_| plan.is_calibrated()) {
        let samples = &calibration.samples;
        let few = match samples.windows.len() < samples.asked {
            true => format!(", of {} asked for", samples.asked),
            false => String::new(),
        };
        lines.push(format!(
            "calibrated on {} samples of {} tokens of `{}`{few}",
            samples.windows.len(),
            samples.windows.first().map_or(0, Vec::len),
            samples.text
        ));
    }
    let data: Vec<f64> = report.sites.iter().filter_map(|row| row.data_error).collect();
    if !data.is_empty() {
        let mean = data.iter().sum::<f64>() / data.len() as f64;
        lines.push(format!("error of what layers return {mean:.4} on average, on these samples"));
    }
    let known: Vec<(&SiteReport, f64)> =
        report.sites.iter().filter_map(|row| Some((row, row.relative_error?))).collect();
    if let Some((worst, most)) = known.iter().max_by(|a, b| a.1.total_cmp(&b.1)) {
        let mean = known.iter().map(|(_, error)| error).sum::<f64>() / known.len() as f64;
        lines.push(format!(
            "{} layers rewritten, relative error {:.4} on average, {:.4} at worst (`{}`)",
            known.len(),
            mean,
            most,
            worst.site
        ));
    }
    lines.push(format!(
        "written to {} as {}, read back and checked; opened by {}",
        out.display(),
        report.format,
        plan.consumers.files
    ));
    lines.join("\n")
}

fn json_of(plan: &Plan, report: &Report, out: &Path, comparison: Option<&Compared>) -> Value {
    let mut json = report.to_json(&out.display().to_string());
    json["size_bytes_predicted"] = json!(plan.size.size_bytes_after);
    json["size_bytes_after"] = json!(weight_bytes(out).unwrap_or(report.size.size_bytes_after));
    if let Some(found) = comparison {
        json["comparison"] = found.json();
    }
    json
}

/// Bytes of the weight files that are there now.
fn weight_bytes(out: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(out)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "safetensors") {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

/// The scores of a comparison as the model card shows them.
fn card_scores(compared: &Compared) -> Vec<CardScore> {
    let Some(found) = compared.found.texts.first() else { return Vec::new() };
    let score = |score: &Score, before: Option<f64>| CardScore {
        name: score.name.clone(),
        text: score.text.clone(),
        window: Some(score.window),
        before,
        after: score.value,
        error: score.error,
    };
    let own = found.before.iter().zip(&found.after).map(|(before, after)| score(after, Some(before.value)));
    own.chain(found.scores.iter().map(|between| score(between, None))).collect()
}

/// A recipe that does nothing: the way from one format to another.
pub fn nothing(format: &str) -> Recipe {
    Recipe {
        name: "export".into(),
        origin: "export".into(),
        about: format!("Written as {format}; the weights are those of the source."),
        format: Some(format.to_owned()),
        calibration: Wanted::default(),
        vectors: None,
        gate: Vec::new(),
        steps: Vec::new(),
    }
}
