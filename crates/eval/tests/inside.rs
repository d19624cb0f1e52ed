//! What is lost inside models: tiny ones, made in memory.

#[path = "../../runtime/tests/common/mod.rs"]
mod common;

use brevity_eval::layers::{LayerCurve, Layers, layer_curve};
use brevity_eval::representation::{Choice, Samples, compare_representations};
use brevity_eval::traces::{Fate, Reading, Trace, Traces, compare, find};
use brevity_eval::{
    Document, Error, HiddenMeasure, Measure, Options, PairMeasure, Perplexity, Windows, compare_with, evaluate,
};
use brevity_model::{Floats, Stage, Stages, Weight};
use common::{Lcg, Memory};

fn windows(count: usize, length: usize) -> Windows {
    let tokens: Vec<u32> = (0..count * length).map(|i| (i * i * 7 + i * (i / length)) as u32 % 50).collect();
    Windows::cut("t", &tokens, length, None).unwrap()
}

fn rounded(model: Memory, step: f32) -> Memory {
    model.rewritten(|weight| {
        let values = weight.to_f32().into_iter().map(|x| (x / step).round_ties_even() * step).collect();
        Weight::float(weight.shape(), Floats::F32(values))
    })
}

fn curve(models: [&Memory; 2], windows: &Windows, options: &Options) -> LayerCurve {
    layer_curve([models[0], models[1]], windows, options, &mut ()).unwrap()
}

#[test]
fn a_model_is_not_apart_from_itself_at_any_layer() {
    let model = Memory::llama(true, 1);
    let curve = curve([&model, &model], &windows(4, 20), &Options::default());
    let places: Vec<&str> = curve.points.iter().map(|point| point.place.as_str()).collect();
    assert_eq!(places, ["embed", "blocks.0", "blocks.1", "head"]);
    assert_eq!((curve.widths, curve.blocks), ([32, 32], [2, 2]));
    for point in curve.points {
        assert_eq!(point.relative_error.unwrap().value, 0.0);
        assert!((point.cosine.unwrap().value - 1.0).abs() < 1e-12);
        assert!((point.cka.unwrap().value - 1.0).abs() < 1e-12);
    }
}

#[test]
fn damage_begins_where_it_was_done() {
    let (before, mut after) = (Memory::llama(true, 1), Memory::llama(true, 1));
    let coarse = rounded(Memory::llama(true, 1), 0.25);
    after.stages[2] = coarse.stages[2].clone(); // the second block
    let windows = windows(4, 20);
    let options = Options::default();
    let found = curve([&before, &after], &windows, &options);
    let errors: Vec<f64> = found.points.iter().map(|point| point.relative_error.unwrap().value).collect();
    assert!(errors[..2] == [0.0, 0.0] && errors[2] > 0.01 && errors[3] > 0.01, "{errors:?}");
    assert!(found.points[2].cka.unwrap().value < 0.9999 && found.points[2].cosine.unwrap().value < 0.9999);
    // Passes over the weights change no bit, nor does looking in the pass that compares logits.
    assert_eq!(found, curve([&before, &after], &windows, &Options { budget_bytes: 1, ..options }));
    let mut layers = Layers::new([&before, &after], &windows);
    let mut together: Vec<Box<dyn PairMeasure>> = Vec::new();
    let hidden: &mut [&mut dyn HiddenMeasure] = &mut [&mut layers];
    compare_with([&before, &after], &windows, [&mut [], &mut []], &mut together, hidden, &options, &mut ()).unwrap();
    assert_eq!(found, layers.report().unwrap());
}

#[test]
fn runs_of_a_model_are_found_alike_by_itself_and_less_by_a_damaged_one() {
    let windows = windows(40, 64);
    let choice = Choice { anchors: 20, ..Choice::default() };
    let scores = |after: Memory| {
        let options = Options::default();
        compare_representations([&Memory::llama(true, 1), &after], &windows, &choice, &options, &mut ()).unwrap()
    };
    let same = scores(Memory::llama(true, 1));
    assert_eq!((same.samples, same.anchors), (60, 20));
    assert!(same.centred.relative_overlap.value == 1.0 && same.centred.exchange_mrr.value == 1.0);
    let coarse = scores(rounded(Memory::llama(true, 1), 0.4));
    assert!(
        coarse.centred.overlap.value < 0.99 && coarse.centred.overlap.value > coarse.overlap_by_chance,
        "{coarse:?}"
    );
    let few = Windows::cut("t", &[0; 64], 64, None).unwrap();
    assert!(matches!(Samples::new(&few).report(&choice), Err(Error::Nothing)));
}

#[test]
fn every_token_of_a_document_is_predicted_once_by_the_harness_protocol() {
    let model = Memory::llama(true, 1);
    let documents =
        [11usize, 3, 0].map(|n| Document { tokens: (0..n as u32).collect(), words: n / 2 + 1, bytes: 3 * n + 1 });
    // Windows as long as the model reads at most.
    let scores = |length| {
        let windows = Windows::harness("t", &documents, 49, length).unwrap();
        assert_eq!(windows.predictions(), 14);
        let mut measures: Vec<Box<dyn Measure>> = vec![Box::<Perplexity>::default()];
        evaluate(&model, &windows, &mut measures, &Options::default(), &mut ()).unwrap().scores
    };
    let (whole, cut) = (scores(64), scores(4));
    let names: Vec<&str> = whole.iter().map(|score| score.name.as_str()).collect();
    assert_eq!(names, ["word_perplexity", "byte_perplexity", "bits_per_byte"]);
    // 9 words and 45 bytes of the same loss.
    assert!((whole[0].value.ln() * 9.0 / (whole[1].value.ln() * 45.0) - 1.0).abs() < 1e-9);
    assert!((whole[2].value * 2f64.ln() - whole[1].value.ln()).abs() < 1e-12);
    assert!(cut[0].value != whole[0].value && cut[0].error.is_some());
}

fn trace(block: usize, channel: usize) -> Trace {
    Trace { concept: None, block, channel, coherence: None }
}

const READING: Reading = Reading { top: 10, judged: 5, candidates: 16, seed: 0 };

fn traces(before: &Memory, after: &Memory, asked: &[Trace]) -> Traces {
    compare([before, after], asked, &READING).unwrap()
}

/// The model with the values of the down projection of a block changed.
fn with_down(mut model: Memory, block: usize, f: impl Fn(Vec<f32>) -> Vec<f32>) -> Memory {
    let Stage::Block(block) = &mut model.stages[1 + block] else { panic!("a block") };
    let down = &mut block.mlp.as_mut().unwrap().down.weight;
    *down = Weight::float([32, 48], Floats::F32(f(down.to_f32())));
    model
}

#[test]
fn traces_survive_in_the_same_model_and_in_a_louder_one() {
    let model = Memory::llama(false, 1);
    let asked = [trace(1, 5), trace(0, 47), trace(1, 0)];
    let same = traces(&model, &model, &asked);
    assert_eq!((same.kept, same.lost, same.unknown), (3, 0, 0));
    assert!(same.each.iter().zip(&asked).all(|(survival, trace)| survival.trace == *trace));
    let louder = with_down(Memory::llama(false, 1), 1, |values| values.into_iter().map(|x| 3.0 * x).collect());
    for (found, ratio) in [(same, 1.0), (traces(&model, &louder, &asked[..1]), 3.0)] {
        let first = &found.each[0];
        assert!((first.cosine.unwrap() - 1.0).abs() < 1e-6 && (first.norm_ratio.unwrap() - ratio).abs() < 1e-5);
        assert_eq!((first.overlap, first.median_rank), (Some(1.0), Some(5.5)));
        assert!(first.tokens.len() == 10 && first.tokens.iter().all(|token| token.before == token.after));
    }
}

#[test]
fn a_turned_a_zeroed_and_a_dropped_vector_are_told_apart() {
    let model = Memory::llama(true, 1);
    let turned = with_down(Memory::llama(true, 1), 1, |values| values.into_iter().map(|x| -x).collect());
    let found = traces(&model, &turned, &[trace(1, 5)]);
    assert!((found.each[0].cosine.unwrap() + 1.0).abs() < 1e-6);
    assert_eq!(found.each[0].overlap, Some(0.0));
    let zeroed = with_down(Memory::llama(true, 1), 1, |mut values| {
        (0..32).for_each(|row| values[row * 48 + 5] = 0.0);
        values
    });
    let found = traces(&model, &zeroed, &[trace(1, 5), trace(1, 6)]);
    assert_eq!((found.kept, found.lost), (1, 1));
    assert_eq!((found.each[0].fate, found.each[0].overlap), (Fate::Zeroed, None));
    let mut dropped = Memory::llama(true, 1);
    let Stage::Block(block) = &mut dropped.stages[2] else { panic!("a block") };
    block.mlp = None;
    assert_eq!(traces(&model, &dropped, &[trace(1, 5)]).each[0].fate, Fate::Dropped);
    let error = compare([&model, &model], &[trace(1, 48)], &READING).unwrap_err();
    assert_eq!(error.to_string(), "`blocks.1.mlp.down` has no column 48");
}

#[test]
fn of_a_narrowed_mlp_only_what_is_left_can_be_said() {
    let (model, mut narrow) = (Memory::llama(true, 1), Memory::llama(true, 1));
    let Stage::Block(block) = &mut narrow.stages[2] else { panic!("a block") };
    let down = &mut block.mlp.as_mut().unwrap().down.weight;
    let values = down.to_f32();
    *down = Weight::float([32, 20], Floats::F32((0..32 * 20).map(|at| values[at / 20 * 48 + at % 20 + 10]).collect()));
    let found = traces(&model, &narrow, &[trace(1, 15), trace(1, 5)]);
    assert_eq!(found.unknown, 2);
    let [moved, gone] = [0, 1].map(|n| found.each[n].narrowed.unwrap());
    assert!((moved.nearest - 1.0).abs() < 1e-6 && moved.r_squared > 0.999, "{moved:?}");
    assert!(gone.nearest < 0.9 && gone.r_squared > 0.2 && gone.r_squared < 0.95, "{gone:?}");
}

#[test]
fn a_planted_trace_is_found() {
    let mut numbers = Lcg(4);
    let mut model = Memory::llama(false, 1);
    // Tokens 10 to 14 share a direction, and channel 7 of the second block points there.
    let direction = numbers.values(32, false);
    let Stage::Head(head) = &mut model.stages[3] else { panic!("a head") };
    let out = &mut head.out.as_mut().unwrap().weight;
    let mut table = out.to_f32();
    for (at, x) in table.iter_mut().enumerate().filter(|(at, _)| (10..15).contains(&(at / 32))) {
        *x = 0.1 * *x + 1.5 * direction[at % 32];
    }
    *out = Weight::float([50, 32], Floats::F32(table));
    let model = with_down(model, 1, |mut values| {
        (0..32).for_each(|row| values[row * 48 + 7] = 3.0 * direction[row]);
        values
    });
    let found = find(&model, 3, &READING, &|_| true).unwrap();
    assert_eq!((found[0].block, found[0].channel), (1, 7));
    assert!(found[0].coherence.unwrap() > 0.8, "{found:?}");
    assert!(found.iter().all(|trace| trace.block == 1) && found.len() > 1);
    let same: [&dyn Stages; 2] = [&model, &model];
    assert_eq!(compare(same, &found, &READING).unwrap().overlap.unwrap().value, 1.0);
}
