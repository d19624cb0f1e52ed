//! `brevity compare`: two models side by side.

use brevity::Checkpoint;
use brevity::eval::{MEASURES, Make, Measure, Options, PairMeasure, Score, Size, compare, peak_rss_bytes};
use serde_json::{Value, json};

use crate::args::{Compare, Machine, Windows as Cut};
use crate::eval::{figure, label, same_tokens, what_was_run, windows};
use crate::progress::Progress;
use crate::{machine, print, table, units};

pub fn run(args: &Compare) -> anyhow::Result<()> {
    machine::use_what_is_allowed(&args.machine)?;
    let (before, after) = (crate::open(&args.before, false)?, crate::open(&args.after, false)?);
    let found = measure(&before, &after, &args.text, &args.windows, &args.machine)?;
    if args.json {
        let mut report = json!({ "before": args.before, "after": args.after });
        if let (Value::Object(report), Value::Object(found)) = (&mut report, found.json()) {
            report.extend(found);
        }
        return print::line(&serde_json::to_string_pretty(&report)?);
    }
    print::line(&format!("{} -> {}\n", args.before, args.after))?;
    print::line(&found.table())
}

/// What a comparison found.
pub struct Comparison {
    /// Sizes before and after.
    sizes: [Size; 2],
    /// Scores of each model on its own.
    pub single: [Vec<Score>; 2],
    /// Scores of the second against the first.
    pub between: Vec<Score>,
    /// What was run, in words.
    pub run: String,
    tokens: usize,
    seconds: f64,
    dtype: &'static str,
}

/// Runs both models through a text, side by side.
pub fn measure(
    before: &Checkpoint,
    after: &Checkpoint,
    text: &str,
    cut: &Cut,
    allowed: &Machine,
) -> anyhow::Result<Comparison> {
    let text = brevity::text(text)?;
    let windows = windows(&text, before, cut)?;
    same_tokens(&text, &windows, after, cut)?;
    let options = Options {
        compute: machine::compute(allowed, before),
        budget_bytes: machine::budget(allowed, &[before, after], windows.length)?,
    };
    let mut alone: [Vec<Box<dyn Measure>>; 2] = Default::default();
    let mut together: Vec<Box<dyn PairMeasure>> = Vec::new();
    for entry in MEASURES {
        match entry.make {
            Make::One(make) => alone.iter_mut().for_each(|list| list.push(make())),
            Make::Pair(make) => together.push(make()),
        }
    }
    let [first, second] = &mut alone;
    let mut progress = Progress::new("comparing", 1000);
    let found = compare([before, after], &windows, [first, second], &mut together, &options, &mut progress)?;
    drop(progress);
    let dtype = machine::name(options.compute);
    Ok(Comparison {
        sizes: [before, after].map(|model| Size::of(model.model(), model.size_bytes())),
        single: [found.before, found.after],
        between: found.scores,
        run: what_was_run(&windows, dtype),
        tokens: found.tokens,
        seconds: found.seconds,
        dtype,
    })
}

impl Comparison {
    /// The table of sizes and scores before and after.
    pub fn table(&self) -> String {
        let [before, after] = &self.sizes;
        let times = |a: f64, b: f64| format!("{:.3} x", b / a);
        let mut rows = vec![
            vec![
                "size".to_owned(),
                units::bytes(before.size_bytes),
                units::bytes(after.size_bytes),
                times(before.size_bytes as f64, after.size_bytes as f64),
            ],
            vec![
                "bits per weight".to_owned(),
                format!("{:.2}", before.bits_per_weight()),
                format!("{:.2}", after.bits_per_weight()),
                times(before.bits_per_weight(), after.bits_per_weight()),
            ],
        ];
        for (one, other) in self.single[0].iter().zip(&self.single[1]) {
            rows.push(vec![
                label(&one.name).to_owned(),
                with_error(one),
                with_error(other),
                format!("{:+.2} %", 100.0 * (other.value / one.value - 1.0)),
            ]);
        }
        for score in &self.between {
            rows.push(vec![label(&score.name).to_owned(), String::new(), with_error(score), String::new()]);
        }
        let table = table::table(&["", "before", "after", "change"], &[1, 2, 3], rows);
        format!("{table}\n\n{}, {}", self.run, units::seconds(self.seconds))
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let size = |size: &Size| {
            json!({
                "size_bytes": size.size_bytes, "parameters": size.parameters, "bits_per_weight": size.bits_per_weight(),
                "bits_per_quantized_weight": size.bits_per_quantized_weight(),
            })
        };
        json!({
            "sizes": { "before": size(&self.sizes[0]), "after": size(&self.sizes[1]) },
            "scores": { "before": self.single[0], "after": self.single[1], "between": self.between },
            "tokens": self.tokens,
            "dtype": self.dtype,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens as f64 / self.seconds,
            "peak_rss_bytes": peak_rss_bytes(),
        })
    }
}

fn with_error(score: &Score) -> String {
    let error = score.error.map_or(String::new(), |error| format!(" ± {}", figure(&score.name, error)));
    format!("{}{error}", figure(&score.name, score.value))
}
