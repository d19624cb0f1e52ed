//! However a model is run, the numbers are the same.

mod common;

use std::sync::Arc;

use brevity_model::{
    Code, Codebook, Dtype, Expr, Floats, Grid, Group, Leaf, Mask, Place, Reach, Rule, Stage, Stages, Weight,
};
use brevity_runtime::{
    Boundary, Compute, Error, FirstRows, Looks, Resident, Sampling, StreamOptions, generate, run_lockstep,
    run_streamed, run_streamed_pair,
};
use common::{Lcg, Memory, expanded, relative};

fn windows(count: usize, tokens: usize) -> Vec<Vec<u32>> {
    (0..count).map(|w| (0..tokens).map(|t| ((w * 17 + t * t * 3 + t) % 50) as u32).collect()).collect()
}

/// Logits of all rows of all windows, one behind the other.
fn streamed(model: &dyn Stages, windows: &[Vec<u32>], options: &StreamOptions) -> Vec<f32> {
    let mut all = Vec::new();
    let visit = &mut |chunk: brevity_runtime::Chunk<'_>| {
        assert_eq!(chunk.targets, &windows[chunk.window][chunk.first_row + 1..][..chunk.targets.len()]);
        all.extend_from_slice(chunk.logits[0]);
        Ok(())
    };
    run_streamed(model, windows, options, visit, &mut |_| Ok(())).unwrap();
    all
}

fn resident(model: &dyn Stages, compute: Compute, ids: &[u32]) -> Vec<f32> {
    let logits = Resident::load(model, compute).unwrap().logits(ids).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn streamed_resident_and_token_by_token_agree() {
    for tied in [false, true] {
        let model = Memory::llama(tied, 1);
        let windows = windows(2, 40);
        let all = streamed(&model, &windows, &StreamOptions::new(Compute::F32));
        assert_eq!(all.len(), 2 * 39 * 50);
        for (w, ids) in windows.iter().enumerate() {
            let want = &all[w * 39 * 50..][..39 * 50];
            let whole = resident(&model, Compute::F32, ids);
            assert!(relative(&whole[..39 * 50], want) < 1e-6);
            let loaded = Resident::load(&model, Compute::F32).unwrap();
            let mut cache = loaded.cache();
            // A prompt of five, then one by one.
            let mut steps: Vec<f32> = loaded.forward(&ids[..5], &mut cache).unwrap().to_vec1().unwrap();
            for id in &ids[5..39] {
                steps.extend(loaded.forward(&[*id], &mut cache).unwrap().to_vec1::<f32>().unwrap());
            }
            assert_eq!(cache.len(), 39);
            assert!(relative(&steps, &want[4 * 50..]) < 1e-6);
        }
    }
}

#[test]
fn any_batching_of_windows_gives_identical_numbers() {
    let model = Memory::llama(true, 2);
    let windows = [windows(3, 20), windows(2, 33)].concat();
    for compute in [Compute::F32, Compute::Bf16] {
        let options = StreamOptions::new(compute);
        let together = streamed(&model, &windows, &options);
        let one_by_one = streamed(&model, &windows, &StreamOptions { budget_bytes: 0, ..options.clone() });
        let two = streamed(&model, &windows, &StreamOptions { budget_bytes: 2 * 20 * 32 * 4, ..options.clone() });
        let alone: Vec<f32> = windows.chunks(1).flat_map(|w| streamed(&model, w, &options)).collect();
        assert_eq!(together, one_by_one);
        assert_eq!(together, two);
        assert_eq!(together, alone);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = Memory::llama(false, 3);
    let windows = windows(3, 64);
    for compute in [Compute::F32, Compute::Bf16] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| streamed(&model, &windows, &StreamOptions::new(compute)))
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(3));
    }
}

#[test]
fn rows_before_the_first_are_left_out() {
    let model = Memory::llama(false, 4);
    let windows = windows(1, 12);
    let options = StreamOptions::new(Compute::F32);
    let all = streamed(&model, &windows, &options);
    let half = streamed(&model, &windows, &StreamOptions { first_rows: FirstRows::Same(6), ..options });
    assert_eq!(half.len(), 5 * 50);
    assert!(relative(&half, &all[6 * 50..]) < 1e-6);
}

#[test]
fn a_pair_shows_the_logits_of_both_models() {
    let (a, b) = (Memory::llama(true, 5), Memory::llama(false, 6));
    let windows = windows(2, 16);
    let options = StreamOptions::new(Compute::F32);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut last = 0.0;
    let visit = &mut |chunk: brevity_runtime::Chunk<'_>| {
        left.extend_from_slice(chunk.logits[0]);
        right.extend_from_slice(chunk.logits[1]);
        Ok(())
    };
    let watch = &mut |progress: brevity_runtime::Progress| {
        assert!(progress.fraction >= last);
        last = progress.fraction;
        Ok(())
    };
    run_streamed_pair(&a, &b, &windows, &options, visit, watch).unwrap();
    assert_eq!(left, streamed(&a, &windows, &options));
    assert_eq!(right, streamed(&b, &windows, &options));
    assert!((last - 1.0).abs() < 1e-9);
}

/// Places in the order they are shown, and the states of each window at the last one.
fn crossed(models: &[&dyn Stages], windows: &[Vec<u32>], options: &StreamOptions) -> (Vec<Place>, Vec<Vec<f32>>) {
    let (mut places, mut last) = (Vec::new(), Vec::new());
    let cross = &mut |boundary: Boundary<'_>| {
        assert_eq!(boundary.tokens, windows[boundary.window].len());
        if boundary.window == 0 {
            places.push(boundary.place);
        }
        if boundary.place == Place::Head {
            last.extend(boundary.hidden.iter().map(|hidden| hidden.to_vec()));
        }
        Ok(())
    };
    run_lockstep(models, windows, options, Looks { boundaries: Some(cross), logits: None }, &mut |_| Ok(())).unwrap();
    (places, last)
}

#[test]
fn boundaries_are_shown_stage_by_stage_and_end_behind_the_last_norm() {
    let (a, b) = (Memory::llama(true, 5), Memory::llama(false, 6));
    let windows = windows(3, 16);
    let options = StreamOptions::new(Compute::F32);
    let (places, last) = crossed(&[&a, &b], &windows, &options);
    assert_eq!(places, [Place::Embed, Place::Block(0), Place::Block(1), Place::Head]);
    for (n, window) in windows.iter().enumerate() {
        for (model, found) in [&a, &b].into_iter().zip(&last[2 * n..]) {
            let hidden = Resident::load(model, Compute::F32).unwrap().hidden(window).unwrap();
            assert_eq!(*found, hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
    }
    let one_by_one = StreamOptions { budget_bytes: 0, ..options };
    assert_eq!(crossed(&[&a, &b], &windows, &one_by_one).1, last);
}

#[test]
fn models_of_different_depth_share_their_first_blocks() {
    let (a, mut b) = (Memory::llama(true, 5), Memory::llama(true, 5));
    b.model.stages.remove(2);
    b.stages.remove(2);
    let (windows, options) = (windows(2, 16), StreamOptions::new(Compute::F32));
    for models in [[&a as &dyn Stages, &b], [&b, &a]] {
        let (places, last) = crossed(&models, &windows, &options);
        assert_eq!(places, [Place::Embed, Place::Block(0), Place::Head]);
        assert_ne!(last[0], last[1]);
    }
}

#[test]
fn looking_at_boundaries_changes_no_logit() {
    let (a, b) = (Memory::llama(true, 5), Memory::llama(false, 6));
    let windows = windows(2, 16);
    let options = StreamOptions::new(Compute::Bf16);
    let mut right = Vec::new();
    let visit = &mut |chunk: brevity_runtime::Chunk<'_>| {
        right.extend_from_slice(chunk.logits[1]);
        Ok(())
    };
    let looks = Looks { boundaries: Some(&mut |_| Ok(())), logits: Some(visit) };
    run_lockstep(&[&a, &b], &windows, &options, looks, &mut |_| Ok(())).unwrap();
    assert_eq!(right, streamed(&b, &windows, &options));
}

#[test]
fn a_last_token_that_is_not_run_is_still_a_target() {
    let model = Memory::llama(true, 5);
    let windows = windows(2, 16);
    let options = StreamOptions::new(Compute::F32);
    let without = StreamOptions { run_last: false, first_rows: FirstRows::Each(vec![0, 4]), ..options.clone() };
    let (all, some) = (streamed(&model, &windows, &options), streamed(&model, &windows, &without));
    assert_eq!(some.len(), (15 + 11) * 50);
    assert!(relative(&some[..15 * 50], &all[..15 * 50]) < 1e-6);
    assert!(relative(&some[15 * 50..], &all[19 * 50..]) < 1e-6);
}

/// Codes from 0 to `2^bits - 1`, with a scale for each run of `group` columns.
fn grid(shape: [usize; 2], bits: u8, group: Group, zeros: bool, seed: u64) -> Grid {
    let mut numbers = Lcg(seed);
    let count = group.scales(shape).iter().product::<usize>();
    let top = f64::from((1u32 << bits) - 1);
    let mut code = || ((numbers.normal() / 4.0 + 0.5) * top).round().clamp(0.0, top) as u8;
    Grid {
        bits,
        codes: (0..shape[0] * shape[1]).map(|_| code()).collect(),
        zeros: zeros.then(|| (0..count).map(|_| code()).collect()),
        scales: (0..count).map(|i| 0.5 / top as f32 * (1.0 + (i % 7) as f32 / 7.0)).collect(),
        group,
        scale_dtype: Dtype::F32,
        levels: None,
    }
}

fn stripes(shape: [usize; 2]) -> Mask {
    let keep: Vec<bool> = (0..shape[0] * shape[1]).map(|i| i % 3 != 1).collect();
    Mask::from_bools(shape, &keep)
}

fn as_grid(bits: u8, group: Group, zeros: bool, masked: bool) -> impl Fn(Weight) -> Weight {
    move |weight| {
        let shape = weight.shape();
        let code = Code::Grid(grid(shape, bits, group, zeros, u64::from(bits)));
        Weight::Leaf(Leaf { shape, code, mask: masked.then(|| stripes(shape)) })
    }
}

fn tabled(weight: Weight) -> Weight {
    let shape = weight.shape();
    let levels: Arc<[f32]> = [-1.0, -0.4, 0.0, 0.7].into();
    let grid = Grid { levels: Some(levels), ..grid(shape, 2, Group::Columns(16), false, 9) };
    Weight::Leaf(Leaf { shape, code: Code::Grid(grid), mask: Some(stripes(shape)) })
}

fn masked(weight: Weight) -> Weight {
    let Expr::Leaf(leaf) = weight else { unreachable!("the models are made of leaves") };
    Weight::Leaf(Leaf { mask: Some(stripes(leaf.shape)), ..leaf })
}

fn half(dtype: Dtype) -> impl Fn(Weight) -> Weight {
    move |weight| Weight::float(weight.shape(), Floats::from_f32(weight.to_f32(), dtype))
}

fn vectors(weight: Weight) -> Weight {
    let shape = weight.shape();
    let mut numbers = Lcg(8);
    let books = vec![numbers.values(16 * 4, false), numbers.values(8 * 4, false)];
    let codes = (0..shape[0] * shape[1] / 4).flat_map(|i| [(i * 5 % 16) as u16, (i * 3 % 8) as u16]).collect();
    let scales = (0..shape[0]).map(|i| 1.0 + i as f32 / 100.0).collect();
    let code = Code::Codebook(Codebook { dim: 4, books, codes, scales, dtype: Dtype::F32 });
    Weight::Leaf(Leaf { shape, code, mask: None })
}

fn rule(rule: Rule) -> Weight {
    let n = rule.size();
    Weight::Leaf(Leaf { shape: [n, n], code: Code::Rule(rule), mask: None })
}

/// A thin product of quantized and float factors, plus the matrix itself.
fn low_rank(weight: Weight) -> Weight {
    let [rows, columns] = weight.shape();
    let mut numbers = Lcg(7);
    let a = as_grid(4, Group::Channel, false, false)(Weight::float([rows, 8], Floats::F32(vec![0.0; rows * 8])));
    let b = Weight::float([8, columns], Floats::F32(numbers.values(8 * columns, false)));
    Weight::sum(Weight::product(a, b), weight)
}

/// A diagonal, then the matrix between two permutations, or two Hadamard matrices where the size allows.
fn between_rules(weight: Weight) -> Weight {
    let [rows, columns] = weight.shape();
    let turn = |n: usize| {
        let by = n / 2 + 1;
        if n.is_power_of_two() {
            Rule::Hadamard(n)
        } else {
            Rule::Permutation((0..n).map(|i| ((i + by) % n) as u32).collect())
        }
    };
    let diagonal = Rule::Diagonal((0..rows).map(|i| 1.0 + i as f32 / 50.0).collect());
    let inner = Weight::product(rule(turn(rows)), Weight::product(weight, rule(turn(columns))));
    Weight::product(rule(diagonal), inner)
}

/// A way to store a matrix, by name.
type Stored = (&'static str, Box<dyn Fn(Weight) -> Weight>);

#[test]
fn every_way_to_store_a_weight_gives_the_result_of_its_dense_expansion() {
    let stored: Vec<Stored> = vec![
        ("f16", Box::new(half(Dtype::F16))),
        ("bf16", Box::new(half(Dtype::Bf16))),
        ("fp8", Box::new(half(Dtype::F8E4m3))),
        ("masked", Box::new(masked)),
        ("4 bit groups", Box::new(as_grid(4, Group::Columns(16), true, false))),
        ("3 bit ragged groups", Box::new(as_grid(3, Group::Columns(20), true, true))),
        ("8 bit rows", Box::new(as_grid(8, Group::Channel, false, true))),
        ("2 bit tensor", Box::new(as_grid(2, Group::Tensor, true, true))),
        ("1 bit", Box::new(as_grid(1, Group::Columns(8), false, true))),
        ("table", Box::new(tabled)),
        ("codebook", Box::new(vectors)),
        ("low rank", Box::new(low_rank)),
        ("rules", Box::new(between_rules)),
    ];
    let windows = windows(1, 24);
    for (name, store) in &stored {
        for tied in [false, true] {
            let coded = Memory::llama(tied, 11).rewritten(store);
            let dense = Memory::llama(tied, 11).rewritten(store).rewritten(expanded);
            for (compute, tolerance) in [(Compute::F32, 1e-5), (Compute::Bf16, 2e-2)] {
                let options = StreamOptions::new(compute);
                let want = streamed(&dense, &windows, &options);
                let error = relative(&streamed(&coded, &windows, &options), &want);
                assert!(error < tolerance, "{name}, streamed, {compute:?}: {error:e}");
                let error = relative(&resident(&coded, compute, &windows[0])[..want.len()], &want);
                assert!(error < tolerance, "{name}, resident, {compute:?}: {error:e}");
            }
        }
    }
}

fn with_reach(mut model: Memory, reach: Reach) -> Memory {
    for stage in &mut model.stages {
        if let Stage::Block(block) = stage {
            block.attn.as_mut().unwrap().heads.reach = reach;
        }
    }
    model
}

#[test]
fn a_window_of_n_keys_sees_n_keys() {
    // Two blocks with windows of 3: row 10 depends on tokens 6 to 10 and on no other.
    let model = with_reach(Memory::llama(false, 12), Reach::Window(3));
    let ids = windows(1, 14).remove(0);
    let row = |ids: &[u32]| resident(&model, Compute::F32, ids)[10 * 50..11 * 50].to_vec();
    let want = row(&ids);
    for at in 0..14 {
        let mut other = ids.clone();
        other[at] = (other[at] + 1) % 50;
        assert_eq!(row(&other) != want, (6..=10).contains(&at), "token {at}");
    }
    let wide = with_reach(Memory::llama(false, 12), Reach::Window(14));
    let causal = Memory::llama(false, 12);
    assert!(relative(&resident(&wide, Compute::F32, &ids), &resident(&causal, Compute::F32, &ids)) < 1e-6);
}

#[test]
fn a_window_reaches_as_far_with_a_cache() {
    let model = with_reach(Memory::llama(false, 12), Reach::Window(3));
    let ids = windows(1, 14).remove(0);
    let loaded = Resident::load(&model, Compute::F32).unwrap();
    let mut cache = loaded.cache();
    let mut last = Vec::new();
    for id in &ids {
        last = loaded.forward(&[*id], &mut cache).unwrap().to_vec1::<f32>().unwrap();
    }
    assert!(relative(&last, &resident(&model, Compute::F32, &ids)[13 * 50..]) < 1e-6);
}

#[test]
fn dropped_sublayers_are_identities() {
    let mut model = Memory::llama(false, 13);
    for stage in &mut model.stages {
        if let Stage::Block(block) = stage {
            block.attn = None;
            block.mlp = None;
        }
    }
    // Without attention a row depends on its own token only.
    let one = resident(&model, Compute::F32, &[7]);
    let many = resident(&model, Compute::F32, &[3, 4, 7]);
    assert!(relative(&many[2 * 50..], &one) < 1e-6);
}

#[test]
fn non_finite_activations_name_stage_and_window() {
    let mut model = Memory::llama(false, 14);
    // Token 49 has an infinite entry, and only the second window holds it.
    let Stage::Embed(embed) = &mut model.stages[0] else { unreachable!() };
    let mut table = embed.tokens.weight.to_f32();
    table[49 * 32] = f32::INFINITY;
    embed.tokens.weight = Weight::float([50, 32], Floats::F32(table));
    let windows = vec![vec![1, 2, 3], vec![4, 49]];
    let error = run_streamed(&model, &windows, &StreamOptions::new(Compute::F32), &mut |_| Ok(()), &mut |_| Ok(()));
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "`embed` returns 1 values that are NaN or infinite in window 1");
    assert!(error.hint().is_some());
}

#[test]
fn tokens_outside_the_vocabulary_and_empty_windows_are_refused() {
    let model = Memory::llama(false, 15);
    let run = |windows: Vec<Vec<u32>>| {
        run_streamed(&model, &windows, &StreamOptions::new(Compute::F32), &mut |_| Ok(()), &mut |_| Ok(())).unwrap_err()
    };
    assert_eq!(run(vec![vec![1], vec![2, 50]]).to_string(), "token 50 of window 1 is not in the vocabulary of 50");
    assert!(matches!(run(vec![vec![]]), Error::Empty { window: 0 }));
}

#[test]
fn an_error_of_the_caller_ends_the_run() {
    let model = Memory::llama(false, 16);
    let windows = windows(2, 8);
    let mut seen = 0;
    let visit = &mut |_: brevity_runtime::Chunk<'_>| {
        seen += 1;
        Err("enough".into())
    };
    let error = run_streamed(&model, &windows, &StreamOptions::new(Compute::F32), visit, &mut |_| Ok(()));
    assert_eq!(error.unwrap_err().to_string(), "enough");
    assert_eq!(seen, 1);
}

#[test]
fn generation_repeats_with_its_seed_and_follows_the_most_likely_token() {
    let model = Memory::llama(true, 17);
    let loaded = Resident::load(&model, Compute::F32).unwrap();
    let greedy = Sampling { max_tokens: 12, ..Sampling::default() };
    let mut heard = Vec::new();
    let text = generate(&loaded, &[1, 2, 3], &greedy, &mut |token| {
        heard.push(token);
        std::ops::ControlFlow::Continue(())
    });
    let text = text.unwrap();
    assert_eq!((text.len(), &heard), (12, &text));
    for n in 0..12 {
        let ids = [&[1, 2, 3], &text[..n]].concat();
        let logits = resident(&model, Compute::F32, &ids);
        let row = &logits[logits.len() - 50..];
        assert!(row.iter().all(|logit| *logit <= row[text[n] as usize]), "step {n}");
    }
    let mut quiet = |_| std::ops::ControlFlow::Continue(());
    let stopped = Sampling { stop: vec![text[4]], ..greedy.clone() };
    let first = text.iter().position(|token| *token == text[4]).unwrap();
    assert_eq!(generate(&loaded, &[1, 2, 3], &stopped, &mut quiet).unwrap(), text[..first]);
    let warm = Sampling { temperature: 1.5, seed: 3, ..greedy };
    let drawn = generate(&loaded, &[1, 2, 3], &warm, &mut quiet).unwrap();
    assert_eq!(drawn, generate(&loaded, &[1, 2, 3], &warm, &mut quiet).unwrap());
    assert_ne!(drawn, generate(&loaded, &[1, 2, 3], &Sampling { seed: 4, ..warm }, &mut quiet).unwrap());
}
