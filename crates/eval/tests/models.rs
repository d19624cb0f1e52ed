//! Measures on models that are run: tiny ones, made in memory.

#[path = "../../runtime/tests/common/mod.rs"]
mod common;

use brevity_eval::{
    Agreement, Divergence, Error, FromReference, Loss, Measure, Observer, Options, PairMeasure, Perplexity, Recorder,
    Result, Rows, Score, Windows, compare, evaluate,
};
use brevity_model::{Floats, Stages, Weight};
use common::Memory;

fn windows(count: usize, length: usize) -> Windows {
    let tokens: Vec<u32> = (0..count * length).map(|i| (i * i * 7 + i) as u32 % 50).collect();
    Windows::cut("t", &tokens, length, None).unwrap()
}

fn perplexity() -> Vec<Box<dyn Measure>> {
    vec![Box::<Perplexity>::default()]
}

fn scores(model: &Memory, windows: &Windows, options: &Options) -> Vec<Score> {
    evaluate(model, windows, &mut perplexity(), options, &mut ()).unwrap().scores
}

fn together() -> Vec<Box<dyn PairMeasure>> {
    vec![Box::<Divergence>::default(), Box::<Agreement>::default(), Box::<Loss>::default()]
}

/// The same model with its matrices rounded to a step.
fn rounded(model: Memory, step: f32) -> Memory {
    model.rewritten(|weight| {
        let values = weight.to_f32().into_iter().map(|x| (x / step).round_ties_even() * step).collect();
        Weight::float(weight.shape(), Floats::F32(values))
    })
}

fn value(scores: &[Score], name: &str) -> f64 {
    scores.iter().find(|score| score.name == name).unwrap_or_else(|| panic!("no {name}")).value
}

#[test]
fn passes_and_threads_change_no_number() {
    let (model, windows) = (Memory::llama(true, 1), windows(5, 12));
    let options = Options::default();
    let once = scores(&model, &windows, &options);
    assert!(once[0].value > 1.0 && once[0].error.unwrap() > 0.0);
    assert_eq!(once, scores(&model, &windows, &options));
    assert_eq!(once, scores(&model, &windows, &Options { budget_bytes: 1, ..options }));
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(once, pool.install(|| scores(&model, &windows, &options)));
    }
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let (model, windows) = (Memory::llama(false, 2), windows(3, 10));
    let mut alone = [perplexity(), perplexity()];
    let [first, second] = &mut alone;
    let options = Options::default();
    let found = compare([&model, &model], &windows, [first, second], &mut together(), &options, &mut ()).unwrap();
    for name in ["kl_mean", "kl_median", "kl_p99", "kl_reverse", "nll_change"] {
        assert_eq!(value(&found.scores, name), 0.0, "{name}");
    }
    assert_eq!(value(&found.scores, "top1_agreement"), 1.0);
    assert_eq!(value(&found.scores, "perplexity_ratio"), 1.0);
    assert_eq!(found.before, found.after);
    assert_eq!(found.tokens, 30);
}

#[test]
fn comparing_gives_what_evaluating_each_alone_gives() {
    let windows = windows(3, 10);
    let (before, after) = (Memory::llama(true, 3), rounded(Memory::llama(true, 3), 0.25));
    let mut alone = [perplexity(), perplexity()];
    let [first, second] = &mut alone;
    let options = Options::default();
    let found = compare([&before, &after], &windows, [first, second], &mut together(), &options, &mut ()).unwrap();
    assert_eq!(found.before, scores(&before, &windows, &options));
    assert_eq!(found.after, scores(&after, &windows, &options));
    assert!(value(&found.scores, "kl_mean") > 0.0 && value(&found.scores, "top1_agreement") < 1.0);
    let change = value(&found.after, "nll") - value(&found.before, "nll");
    assert!((value(&found.scores, "nll_change") - change).abs() < 1e-12);
}

#[test]
fn more_damage_is_more_divergence() {
    let windows = windows(3, 10);
    let kl = |step| {
        let (before, after) = (Memory::llama(true, 3), rounded(Memory::llama(true, 3), step));
        let options = Options::default();
        let found = compare([&before, &after], &windows, [&mut [], &mut []], &mut together(), &options, &mut ());
        value(&found.unwrap().scores, "kl_mean")
    };
    let found = [0.01, 0.05, 0.25].map(kl);
    assert!(found.is_sorted() && found[0] > 0.0, "{found:?}");
}

#[test]
fn a_stored_reference_stands_in_for_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let windows = windows(3, 10);
    let (before, after) = (Memory::llama(true, 3), rounded(Memory::llama(true, 3), 0.1));
    let options = Options::default();
    let found = compare([&before, &after], &windows, [&mut [], &mut []], &mut together(), &options, &mut ()).unwrap();
    for (k, slack) in [(50, 1e-5), (8, 1e-6)] {
        let path = dir.path().join(format!("top{k}"));
        let recorder = Recorder::create(&path, &windows, 50, k).unwrap();
        let stored = evaluate(&before, &windows, &mut [Box::new(recorder)], &options, &mut ()).unwrap();
        assert!(stored.scores.is_empty());
        let reference = FromReference::open(&path, &windows, 50).unwrap();
        let read = evaluate(&after, &windows, &mut [Box::new(reference)], &options, &mut ()).unwrap().scores;
        let (exact, coarse, bound) =
            (value(&found.scores, "kl_mean"), value(&read, "kl_mean"), value(&read, "kl_bound"));
        assert!(coarse <= exact + slack && exact <= coarse + bound + slack, "{k}: {coarse} {exact} {bound}");
        assert_eq!(value(&read, "top1_agreement"), value(&found.scores, "top1_agreement"));
        if k == 50 {
            assert!((coarse - exact).abs() < slack, "{coarse} {exact}");
        }
    }
}

/// Counts rows, and where they begin.
#[derive(Default)]
struct Count(usize, usize);

impl Measure for Count {
    fn observe(&mut self, rows: &Rows<'_>) -> Result<()> {
        assert!(rows.first() >= self.1);
        self.0 += rows.targets().len();
        Ok(())
    }

    fn report(&mut self, windows: &Windows) -> Result<Vec<Score>> {
        assert_eq!(self.0, windows.predictions());
        Ok(Vec::new())
    }
}

#[test]
fn only_rows_that_count_are_shown() {
    let model = Memory::llama(true, 1);
    let tokens: Vec<u32> = (0..40).collect();
    let plain = Windows::cut("t", &tokens, 10, None).unwrap();
    let second_half = Windows::llama_cpp("t", &tokens, Some(1), 10, None).unwrap();
    assert_eq!((plain.predictions(), second_half.predictions()), (36, 16));
    for windows in [plain, second_half] {
        let count = Count(0, windows.first_row(0));
        evaluate(&model, &windows, &mut [Box::new(count)], &Options::default(), &mut ()).unwrap();
    }
}

/// Stops when a share of the work is done.
struct Until(f64, Vec<f64>);

impl Observer for Until {
    fn progress(&mut self, fraction: f64) {
        self.1.push(fraction);
    }

    fn cancelled(&self) -> bool {
        self.1.last().is_some_and(|&done| done >= self.0)
    }
}

#[test]
fn progress_rises_to_one_and_cancelling_ends_it() {
    let (model, windows) = (Memory::llama(true, 1), windows(4, 8));
    let mut all = Until(2.0, Vec::new());
    evaluate(&model, &windows, &mut perplexity(), &Options::default(), &mut all).unwrap();
    assert!(all.1.is_sorted() && all.1.len() >= 4, "{:?}", all.1);
    assert!((all.1.last().unwrap() - 1.0).abs() < 1e-9, "{:?}", all.1);
    let mut half = Until(0.5, Vec::new());
    let error = evaluate(&model, &windows, &mut perplexity(), &Options::default(), &mut half).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert!(half.1.len() < all.1.len());
}

#[test]
fn tokens_and_vocabularies_that_do_not_fit_are_refused_before_anything_is_run() {
    let model = Memory::llama(true, 1);
    let foreign = Windows::cut("t", &[1, 2, 99, 3], 2, None).unwrap();
    let error = evaluate(&model, &foreign, &mut perplexity(), &Options::default(), &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "token 99 is not in the model's vocabulary of 50");
    let mut wider = Memory::llama(true, 1);
    wider.model.vocabulary = 51;
    let models: [&dyn Stages; 2] = [&model, &wider];
    let options = Options::default();
    let error = compare(models, &windows(2, 4), [&mut [], &mut []], &mut together(), &options, &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "the models have different vocabularies: 50 and 51 tokens");
}

#[test]
fn a_model_that_gives_nan_is_an_error_that_names_the_window() {
    let broken = Memory::llama(false, 1).rewritten(|weight| {
        let mut values = weight.to_f32();
        values[0] = f32::NAN;
        Weight::float(weight.shape(), Floats::F32(values))
    });
    let error = evaluate(&broken, &windows(2, 4), &mut perplexity(), &Options::default(), &mut ()).unwrap_err();
    assert!(matches!(error, Error::Run(_)), "{error}");
    assert!(error.to_string().contains("window 0"), "{error}");
}
