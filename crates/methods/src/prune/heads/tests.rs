use std::collections::BTreeMap;

use brevity_model::Floats;

use super::*;
use crate::testing::{fold_with_sums, noise};

const HIDDEN: usize = 6;
const DIM: usize = 4;

fn attention(kv_of: Vec<u16>, seed: u64) -> Attention<Weight> {
    crate::testing::attention(kv_of, DIM, HIDDEN, None, seed)
}

fn seen(mixed: &[f32], width: usize) -> BTreeMap<Tap, Seen> {
    let fold = |n: usize, x: &[f32]| Seen { fit: fold_with_sums(n, x), ..Seen::default() };
    BTreeMap::from([(Tap::AttnMix, fold(width, mixed)), (Tap::AttnIn, fold(HIDDEN, &noise(50 * HIDDEN, 99)))])
}

fn rewrite(settings: Value, attn: &mut Attention<Weight>, seen: &BTreeMap<Tap, Seen>) -> Vec<(String, f64)> {
    let mut cx = BlockCx::new(Place::Block(0), Sizes { attn: 10, mlp: 30 }, 0, seen);
    Heads::parse(settings).unwrap().attention(attn, &mut cx).unwrap();
    cx.figures
}

fn output(o: &Weight, mixed: &[f32]) -> Vec<f32> {
    let [_, n] = o.shape();
    let w = o.to_f32();
    mixed
        .chunks(n)
        .flat_map(|m| w.chunks(n).map(|row| row.iter().zip(m).map(|(w, m)| w * m).sum()).collect::<Vec<f32>>())
        .collect()
}

#[test]
fn a_head_that_nothing_reads_goes_first_and_changes_nothing() {
    let mut attn = attention(vec![0, 1, 2], 1);
    let mut w = attn.o.weight.to_f32();
    w.chunks_mut(3 * DIM).for_each(|row| row[DIM..2 * DIM].fill(0.0));
    attn.o.weight = Weight::float([HIDDEN, 3 * DIM], Floats::F32(w));
    let mixed = noise(200 * 3 * DIM, 5);
    let before = output(&attn.o.weight, &mixed);
    rewrite(json!({"sparsity": 0.34}), &mut attn, &seen(&mixed, 3 * DIM));
    assert_eq!(attn.heads.kv_of, [0, 1], "of the three keys the first and the third stay");
    let left: Vec<f32> = mixed.chunks(3 * DIM).flat_map(|m| [&m[..DIM], &m[2 * DIM..]].concat()).collect();
    let after = output(&attn.o.weight, &left);
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-3), "{before:?} {after:?}");
}

#[test]
fn heads_are_counted_by_unit_and_keys_without_readers_go() {
    // Six heads read two keys.
    let kv_of = vec![0, 0, 0, 1, 1, 1];
    let mixed = noise(300 * 6 * DIM, 6);
    let seen = seen(&mixed, 6 * DIM);
    let shapes = |settings| {
        let mut attn = attention(kv_of.clone(), 2);
        rewrite(settings, &mut attn, &seen);
        (attn.heads.kv_of.clone(), attn.q.weight.shape()[0] / DIM, attn.k.weight.shape()[0] / DIM)
    };
    let (kept, queries, keys) = shapes(json!({"unit": "group", "sparsity": 0.5}));
    assert_eq!((kept, queries, keys), (vec![0, 0, 0], 3, 1));
    let (kept, queries, keys) = shapes(json!({"unit": "even", "sparsity": 0.34}));
    assert_eq!((kept, queries, keys), (vec![0, 0, 1, 1], 4, 2));
    let (kept, queries, keys) = shapes(json!({"sparsity": 0.66}));
    assert_eq!((kept, queries, keys), (vec![0, 1], 2, 2), "each key keeps a reader");
    let (_, queries, keys) = shapes(json!({"sparsity": 0.9}));
    assert_eq!((queries, keys), (1, 1));
}

#[test]
fn what_is_left_makes_up_for_what_goes() {
    let mixed: Vec<f32> = {
        // Heads that have much in common.
        let (own, common) = (noise(500 * 4 * DIM, 7), noise(500 * DIM, 8));
        (0..500 * 4 * DIM).map(|at| 0.4 * own[at] + common[at / (4 * DIM) * DIM + at % DIM] + 0.2).collect()
    };
    let seen = seen(&mixed, 4 * DIM);
    let error = |settings| {
        let mut attn = attention(vec![0, 1, 2, 3], 3);
        rewrite(settings, &mut attn, &seen).iter().find(|(name, _)| name == "output_error").unwrap().1
    };
    let none = error(json!({"sparsity": 0.5, "compensate": "none"}));
    let mean = error(json!({"sparsity": 0.5, "compensate": "mean"}));
    let fitted = error(json!({"sparsity": 0.5}));
    assert!(mean < none && fitted < 0.5 * none, "{none} {mean} {fitted}");
}

#[test]
fn a_norm_over_all_queries_keeps_its_share_of_the_mean_square() {
    let mut attn = attention(vec![0, 1, 2], 4);
    let norm = |count: usize| Norm {
        gain: Weight::float([1, count], Floats::F32(vec![1.0; count])),
        bias: None,
        kind: brevity_model::NormKind::Rms,
        eps: 1e-6,
    };
    attn.q_norm = Some(norm(3 * DIM));
    attn.k_norm = Some(norm(3 * DIM));
    let mixed = noise(100 * 3 * DIM, 9);
    let x = noise(50 * HIDDEN, 99);
    let before = attn.clone();
    rewrite(json!({"sparsity": 0.34}), &mut attn, &seen(&mixed, 3 * DIM));
    let gain = attn.q_norm.as_ref().unwrap().gain.to_f32();
    assert_eq!(gain.len(), 2 * DIM);
    let square = |w: &Weight| {
        let w = w.to_f32();
        let rows = w.len() / HIDDEN;
        let y = x
            .chunks(HIDDEN)
            .flat_map(|x| w.chunks(HIDDEN).map(move |row| row.iter().zip(x).map(|(w, x)| w * x).sum::<f32>()));
        y.map(|y| f64::from(y * y)).sum::<f64>() / rows as f64
    };
    let ratio = (square(&attn.q.weight) / square(&before.q.weight)).sqrt();
    assert!(gain.iter().all(|gain| (f64::from(*gain) - ratio).abs() < 1e-3), "{gain:?} {ratio}");
}
