//! Models beside the one that they were made from: everything that was lost, in one report.

mod sizes;
mod speed;

use brevity_eval::facts::{self, BANDS, Fact, FactChanges, FactScore};
use brevity_eval::layers::{LayerCurve, Layers};
use brevity_eval::report::{self, Compressed, Difference, Kind, Measured, Model, On, Report, Tally, Unit};
use brevity_eval::representation::{self, Choice, Representation};
use brevity_eval::stats::{Bootstrap, Interval};
use brevity_eval::traces::{self, Reading};
use brevity_eval::{
    AskOptions, Comparison, HiddenMeasure, MEASURES, Make, Measure, Observer, Options, PairMeasure, Paper, Quiz, Score,
    Size, TaskResult, TaskScore, Windows, compare_with,
};
use brevity_formats::Checkpoint;
use brevity_model::Stages;

pub use speed::Pace;

/// Facts are reported like a task of this name.
pub const FACTS: &str = "facts";
/// Facts that stand in front of the prompt themselves are reported like a task of this name.
pub const OPEN_FACTS: &str = "facts_open";

/// A model under the name that it has in a report.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "checkpoints have none")]
pub struct Named<'a> {
    /// The name.
    pub name: &'a str,
    /// The model.
    pub model: &'a Checkpoint,
}

/// What is to be found out. By default nothing.
#[derive(Debug, Default)]
pub struct Questions {
    /// The text on which predictions are compared, in tokens that all models share.
    pub windows: Option<Windows>,
    /// Tasks.
    pub quizzes: Vec<Quiz>,
    /// Facts.
    pub facts: Vec<Fact>,
    /// Whether facts are also asked with an open book: the fact itself in front, so that reading it is enough.
    pub open_book: bool,
    /// Whether hidden states are compared, place by place; it needs windows.
    pub layers: bool,
    /// Whether it is compared which runs of tokens models find alike; it needs windows.
    pub representations: bool,
    /// Value vectors of the reference.
    pub traces: Vec<traces::Trace>,
    /// Whether and how speed is measured.
    pub pace: Option<Pace>,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// All of it, for people and programs.
    pub report: Report,
    /// What the text said, for each of the other models.
    pub texts: Vec<Comparison>,
    /// The papers of each model, the reference's first: one for each quiz.
    pub papers: Vec<Vec<Paper>>,
}

/// Why models could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// A measure failed.
    #[error("{model}: {source}")]
    Eval {
        /// The model.
        model: String,
        /// Why.
        source: brevity_eval::Error,
    },
    /// A tokenizer cannot be read.
    #[error(transparent)]
    Formats(#[from] brevity_formats::Error),
}

/// Compares models with the one that they were made from. Nothing is kept in memory but one stage of one or two models at a
/// time, unless a task is answered in writing or speed is measured.
///
/// # Errors
/// What a measure refuses, with the name of the model.
pub fn compare(
    reference: Named<'_>,
    others: &[Named<'_>],
    questions: &Questions,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Found, CompareError> {
    let mut reports = Report::new(described(&reference));
    reports.others =
        others.iter().map(|other| Compressed { model: described(other), ..Compressed::default() }).collect();
    let mut found = Found { report: reports, texts: Vec::new(), papers: Vec::new() };
    if let Some(windows) = &questions.windows {
        for (n, other) in others.iter().enumerate() {
            observer.part(&format!("{} on the text", other.name));
            let text = on_text([&reference, other], windows, questions, options, observer)
                .map_err(|source| CompareError::Eval { model: other.name.to_owned(), source })?;
            text.into_report(&mut found, n, windows);
        }
        let plural = if windows.windows.len() == 1 { "" } else { "s" };
        let what = match windows.protocol {
            brevity_eval::Protocol::Window => String::new(),
            protocol => format!(", scored as {} does", protocol.as_str()),
        };
        let count = windows.windows.len();
        let most = if windows.documents.is_empty() { "" } else { "at most " };
        let text =
            format!("Text: {count} window{plural} of {most}{} tokens of `{}`{what}.", windows.length, windows.text);
        found.report.method.push(text);
    }
    let asked = AskOptions::within(options, reference.model.model().hidden);
    let (mut known, mut known_open): (Vec<Vec<FactScore>>, Vec<Vec<FactScore>>) = Default::default();
    let opened: Vec<Fact> = questions.facts.iter().filter(|_| questions.open_book).map(Fact::opened).collect();
    for named in std::iter::once(&reference).chain(others) {
        let tokenizer = named.model.tokenizer()?;
        let words = crate::words(named.model, &tokenizer);
        let failed = |source| CompareError::Eval { model: named.name.to_owned(), source };
        let chat = |said: &str| crate::chat(named.model, said).map_err(|error| error.to_string());
        let mut papers = Vec::new();
        for quiz in &questions.quizzes {
            observer.part(&format!("{}: {}", named.name, quiz.task.name));
            papers.push(quiz.put(named.model, &words, Some(&chat), &asked, observer).map_err(failed)?);
        }
        found.papers.push(papers);
        if !questions.facts.is_empty() {
            observer.part(&format!("{}: facts", named.name));
            known.push(facts::recall(named.model, &words, &questions.facts, &asked, observer).map_err(failed)?);
            if questions.open_book {
                observer.part(&format!("{}: facts, open book", named.name));
                known_open.push(facts::recall(named.model, &words, &opened, &asked, observer).map_err(failed)?);
            }
        }
        if let Some(pace) = &questions.pace {
            observer.part(&format!("{}: speed", named.name));
            let speed = pace.of(named.model, options.compute).map_err(|error| failed(error.into()))?;
            let position = found.papers.len() - 1;
            match position.checked_sub(1) {
                None => found.report.reference.speed = Some(speed),
                Some(n) => found.report.others[n].model.speed = Some(speed),
            }
        }
    }
    let vocabulary = |named: &Named<'_>| named.model.tokenizer().map(|tokenizer| tokenizer.get_vocab(true));
    if others.iter().any(|other| vocabulary(other).ok() != vocabulary(&reference).ok()) {
        let said = "Not all models have the tokenizer of the reference: what they answer in tokens of their own, such as the first \
                    token of a fact, cannot be compared number by number.";
        found.report.warnings.push(said.into());
    }
    tasks_into_report(&mut found, &questions.quizzes);
    facts_into_report(&mut found.report, FACTS, &questions.facts, &known);
    facts_into_report(&mut found.report, OPEN_FACTS, &opened, &known_open);
    if !questions.traces.is_empty() {
        let tokenizer = reference.model.tokenizer()?;
        for (n, other) in others.iter().enumerate() {
            observer.part(&format!("{}: traces", other.name));
            let traces = traces::compare([reference.model, other.model], &questions.traces, &Reading::default())
                .map_err(|source| CompareError::Eval { model: other.name.to_owned(), source })?;
            let mean = |mean: Option<brevity_eval::stats::Estimate>| {
                mean.map_or("unknown".to_owned(), |mean| format!("{:.3}", mean.value))
            };
            found.report.method.push(format!(
                "Traces of {}: {} value vectors kept, {} lost; mean cosine {}, mean overlap of what they name {}.",
                other.name,
                traces.kept,
                traces.lost,
                mean(traces.cosine),
                mean(traces.overlap)
            ));
            let token = |id: u32| tokenizer.id_to_token(id).unwrap_or_default();
            found.report.others[n].traces = traces.each.iter().map(|trace| trace_of(trace, &token)).collect();
        }
    }
    found.report.method.push(format!("Arithmetic: {}.", arithmetic(options)));
    Ok(found)
}

fn arithmetic(options: &Options) -> &'static str {
    match options.compute {
        brevity_runtime::Compute::F32 => "single precision",
        brevity_runtime::Compute::Bf16 => "products of bfloat16 numbers, summed in single precision",
    }
}

/// A model without scores.
fn described(named: &Named<'_>) -> Model {
    let checkpoint = named.model;
    let size = Size::of(checkpoint.model(), checkpoint.size_bytes());
    let record = checkpoint.folder().read("compression.json").ok();
    let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    Model {
        name: named.name.to_owned(),
        size_bytes: size.size_bytes,
        parameters: size.parameters,
        bits_per_weight: size.bits_per_weight(),
        parts: sizes::parts(checkpoint),
        provenance: report::provenance(record),
        ..Model::default()
    }
}

/// What a text says about two models.
struct OnText {
    comparison: Comparison,
    layers: Option<LayerCurve>,
    representation: Option<Representation>,
}

fn on_text(
    models: [&Named<'_>; 2],
    windows: &Windows,
    questions: &Questions,
    options: &Options,
    observer: &mut dyn Observer,
) -> brevity_eval::Result<OnText> {
    let pair: [&dyn Stages; 2] = models.map(|named| named.model as &dyn Stages);
    let mut alone: [Vec<Box<dyn Measure>>; 2] = Default::default();
    let mut together: Vec<Box<dyn PairMeasure>> = Vec::new();
    for entry in MEASURES {
        match entry.make {
            Make::One(make) => alone.iter_mut().for_each(|list| list.push(make())),
            Make::Pair(make) => together.push(make()),
        }
    }
    let [first, second] = &mut alone;
    let mut layers = questions.layers.then(|| Layers::new(pair, windows));
    let mut samples = questions.representations.then(|| representation::Samples::new(windows));
    let mut hidden: Vec<&mut dyn HiddenMeasure> = Vec::new();
    hidden.extend(layers.as_mut().map(|measure| measure as &mut dyn HiddenMeasure));
    hidden.extend(samples.as_mut().map(|measure| measure as &mut dyn HiddenMeasure));
    let comparison = compare_with(pair, windows, [first, second], &mut together, &mut hidden, options, observer)?;
    Ok(OnText {
        comparison,
        layers: layers.map(|layers| layers.report()).transpose()?,
        // A text may be too short to tell.
        representation: samples.and_then(|samples| samples.report(&Choice::default()).ok()),
    })
}

impl OnText {
    /// Puts what was found about model `n` into a report.
    fn into_report(self, found: &mut Found, n: usize, windows: &Windows) {
        let count = Some(windows.windows.len() as u64);
        let measured = |scores: &[Score]| scores.iter().map(|score| Measured::of(score, count)).collect::<Vec<_>>();
        if n == 0 {
            found.report.reference.scores = measured(&self.comparison.before);
        }
        let other = &mut found.report.others[n];
        other.model.scores = measured(&self.comparison.after);
        other.differences = self.comparison.scores.iter().map(|score| difference(score, count)).collect();
        if let Some(curve) = &self.layers {
            other.layers = curve
                .points
                .iter()
                .map(|point| report::Layer {
                    place: point.place.clone(),
                    relative_error: point.relative_error.map(|e| e.value),
                    cosine: point.cosine.map(|e| e.value),
                    cka: point.cka.map(|e| e.value),
                })
                .collect();
        }
        if let Some(found) = &self.representation {
            let on = On::Text(windows.text.clone());
            let samples = Some(found.samples as u64);
            for (name, value) in [
                ("relative_cosine", found.centred.relative_cosine.value),
                ("relative_overlap", found.centred.relative_overlap.value),
                ("neighbour_overlap", found.centred.overlap.value),
            ] {
                other.differences.push(Difference {
                    name: name.into(),
                    on: on.clone(),
                    kind: Kind::Agreement,
                    value,
                    interval: None,
                    p: None,
                    n: samples,
                    unit: Unit::Share,
                    higher_is_better: true,
                });
            }
        }
        found.texts.push(self.comparison);
    }
}

/// A score of two models; the interval is that of paired resampling, where it was made.
fn difference(score: &Score, n: Option<u64>) -> Difference {
    let plain = Difference::of(score, n);
    Difference { interval: score.interval.or(plain.interval), ..plain }
}

fn tasks_into_report(found: &mut Found, quizzes: &[Quiz]) {
    for (k, quiz) in quizzes.iter().enumerate() {
        let before = &found.papers[0][k];
        found.report.reference.scores.extend(measured(&before.result));
        for (n, other) in found.report.others.iter_mut().enumerate() {
            let after = &found.papers[n + 1][k];
            other.model.scores.extend(measured(&after.result));
            other.differences.extend(changed(&before.result, &after.result));
            other.flips.extend(quiz.flips(before, after));
        }
        let shots = quiz.items.iter().map(|item| item.shots()).max().unwrap_or(0);
        let examples = if shots > 0 { format!(", {shots} examples in front") } else { String::new() };
        let task = &quiz.task.name;
        found.report.method.push(format!(
            "Task {task}: {} of {} items{examples}.",
            quiz.items.len(),
            before.result.original
        ));
        let cut = found.papers.iter().map(|papers| papers[k].cut).max().unwrap_or(0);
        if cut > 0 {
            found
                .report
                .warnings
                .push(format!("{cut} prompts of {task} were cut at the left to fit into the model's context."));
        }
    }
}

fn measured(result: &TaskResult) -> Vec<Measured> {
    let one = |score: &TaskScore| Measured {
        name: score.metric.to_owned(),
        on: On::Task(result.task.clone()),
        value: score.value,
        error: score.error,
        n: Some(result.effective as u64),
        unit: unit(score.metric),
        higher_is_better: score.higher_is_better.unwrap_or(true),
    };
    result.scores.iter().map(one).collect()
}

/// What a metric of a task counts.
fn unit(metric: &str) -> Unit {
    if matches!(metric, "perplexity" | "words") { Unit::Number } else { Unit::Share }
}

/// Paired differences of a task's metrics; that of a perplexity, whose values are log-probabilities, as a ratio.
fn changed(before: &TaskResult, after: &TaskResult) -> Vec<Difference> {
    let intervals = Bootstrap::default();
    before
        .scores
        .iter()
        .filter_map(|score| {
            let values = |result: &TaskResult| result.values.get(score.metric).cloned().unwrap_or_default();
            if score.metric == "perplexity" {
                let minus = |values: Vec<f64>| values.into_iter().map(|value| -value).collect::<Vec<f64>>();
                let ratio = intervals.perplexity_ratio(&minus(values(before)), &minus(values(after)))?;
                return Some(Difference {
                    name: "perplexity_ratio".to_owned(),
                    on: On::Task(before.task.clone()),
                    kind: Kind::Ratio,
                    value: ratio.value,
                    interval: Some(ends(ratio)),
                    p: None,
                    n: Some(before.effective as u64),
                    unit: Unit::Number,
                    higher_is_better: false,
                });
            }
            let interval = intervals.difference(&values(before), &values(after));
            let after = after.scores.iter().find(|other| other.metric == score.metric)?;
            Some(Difference {
                name: score.metric.to_owned(),
                on: On::Task(before.task.clone()),
                kind: Kind::Change,
                value: after.value - score.value,
                interval: interval.map(ends),
                p: None,
                n: Some(before.effective as u64),
                unit: unit(score.metric),
                higher_is_better: score.higher_is_better.unwrap_or(true),
            })
        })
        .collect()
}

fn ends(interval: Interval) -> [f64; 2] {
    [interval.low, interval.high]
}

/// Puts what models know of facts into a report; those lost and gained are listed for facts that were asked without a book.
fn facts_into_report(report: &mut Report, name: &str, facts: &[Fact], scores: &[Vec<FactScore>]) {
    let Some((before, afters)) = scores.split_first() else { return };
    let Some(knowledge) = facts::knowledge(facts, before) else { return };
    report.reference.scores.extend(known(name, &knowledge));
    for (other, after) in report.others.iter_mut().zip(afters) {
        let Some(found) = facts::changes(facts, before, after, &Bootstrap::default()) else { continue };
        other.model.scores.extend(known(name, &found.after));
        let changes = [
            ("acc", found.accuracy_change, Unit::Share, Some(found.test.p)),
            ("log_prob", found.log_prob_change, Unit::Nats, None),
        ];
        for (metric, change, unit, p) in changes {
            let Some(change) = change else { continue };
            other.differences.push(Difference {
                name: metric.into(),
                on: On::Task(name.to_owned()),
                kind: Kind::Change,
                value: change.value,
                interval: Some(ends(change)),
                p,
                n: Some(facts.len() as u64),
                unit,
                higher_is_better: true,
            });
        }
        if name == FACTS {
            other.facts = Some(lost_facts(&found));
        }
    }
    report.method.push(match name {
        FACTS => format!(
            "Facts: {} prompts; one is known if the first token of its answer is the likeliest next token.",
            facts.len()
        ),
        _ => "Facts, open book: the same with the fact itself in front, on a line of its own.".into(),
    });
}

fn known(on: &str, knowledge: &facts::Knowledge) -> Vec<Measured> {
    let all = &knowledge.all;
    [("acc", all.accuracy, Unit::Share), ("log_prob", all.log_prob, Unit::Nats)]
        .map(|(name, estimate, unit)| Measured {
            name: name.into(),
            on: On::Task(on.to_owned()),
            value: estimate.value,
            error: estimate.error,
            n: Some(all.facts as u64),
            unit,
            higher_is_better: true,
        })
        .into()
}

fn lost_facts(found: &FactChanges) -> report::Facts {
    let tally = |name: &str, flips: &facts::Flips| Tally {
        name: name.to_owned(),
        asked: flips.facts as u64,
        known: flips.known as u64,
        lost: flips.lost as u64,
        gained: flips.gained as u64,
    };
    let fact = |change: &facts::Change| report::Fact {
        prompt: change.prompt.clone(),
        answer: change.answer.clone(),
        relation: change.relation.clone(),
        rank_before: Some(change.ranks[0] as u64),
        rank_after: Some(change.ranks[1] as u64),
        probability_before: Some(change.probabilities[0]),
        probability_after: Some(change.probabilities[1]),
    };
    let mut all = facts::Flips::default();
    for band in &found.bands {
        all.facts += band.facts;
        all.known += band.known;
        all.lost += band.lost;
        all.gained += band.gained;
    }
    let band = |n: usize| match (n.checked_sub(1).map(|n| BANDS[n]), BANDS.get(n)) {
        (None, Some(end)) => format!("below {end}"),
        (Some(start), Some(end)) => format!("{start} to {end}"),
        (Some(start), None) => format!("{start} and more"),
        (None, None) => "any".into(),
    };
    report::Facts {
        all: tally("all", &all),
        p: Some(found.test.p),
        relations: found.relations.iter().map(|(name, flips)| tally(name, flips)).collect(),
        bands: found.bands.iter().enumerate().map(|(n, flips)| tally(&band(n), flips)).collect(),
        lost: found.lost.iter().map(fact).collect(),
        gained: found.gained.iter().map(fact).collect(),
    }
}

/// Tokens of a trace that are shown.
const SHOWN: usize = 12;

fn trace_of(survival: &traces::Survival, token: &dyn Fn(u32) -> String) -> report::Trace {
    let words = |tokens: &[traces::TokenRank]| tokens.iter().take(SHOWN).map(|t| token(t.token)).collect();
    report::Trace {
        block: survival.trace.block,
        column: survival.trace.channel,
        concept: survival.trace.concept.clone(),
        tokens: words(&survival.tokens),
        tokens_after: Vec::new(),
        cosine: survival.cosine,
        jaccard: survival.overlap,
        lost: matches!(survival.fate, traces::Fate::Zeroed | traces::Fate::Dropped),
    }
}
