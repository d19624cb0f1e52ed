use std::collections::BTreeMap;

use brevity_model::{Floats, Heads, Rope, RopeStyle};

use super::*;
use crate::testing::{fold_with_sums, noise};

const HIDDEN: usize = 12;
const DIM: usize = 8;

fn float(shape: [usize; 2], values: Vec<f32>) -> Weight {
    Weight::float(shape, Floats::F32(values))
}

fn attention(kv_of: Vec<u16>, style: Option<RopeStyle>, seed: u64) -> Attention<Weight> {
    let rope = style.map(|style| Rope {
        inv_freq: (0..DIM / 2).map(|i| 0.6f32.powi(i as i32)).collect(),
        style,
        amplitude: 1.0,
        long: None,
        pairs: None,
    });
    crate::testing::attention(kv_of, DIM, HIDDEN, rope, seed)
}

fn seen_of(n: usize, x: &[f32]) -> Seen {
    Seen { fit: fold_with_sums(n, x), ..Seen::default() }
}

fn inputs(rows: usize, seed: u64) -> Vec<f32> {
    let (own, common) = (noise(rows * HIDDEN, seed), noise(rows * 3, seed + 9));
    (0..rows * HIDDEN).map(|at| 0.5 * own[at] + common[at / HIDDEN * 3 + at % 3] + 0.1).collect()
}

fn times(w: &Weight, x: &[f32]) -> Vec<f32> {
    let [_, n] = w.shape();
    let w = w.to_f32();
    x.chunks(n)
        .flat_map(|x| w.chunks(n).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect::<Vec<f32>>())
        .collect()
}

/// Queries and keys of one head, rotated for a position.
fn rotated(heads: &Heads, head: &[f32], kv: usize, position: f32) -> Vec<f32> {
    let Some(rope) = &heads.rope else { return head.to_vec() };
    let mut y = head.to_vec();
    let pairs = rope.pairs_of(kv, heads.kv());
    for (i, &pair) in pairs.iter().enumerate() {
        let [a, b] = match rope.style {
            RopeStyle::Half => [i, i + pairs.len()],
            RopeStyle::Pairs => [2 * i, 2 * i + 1],
        };
        let (sin, cos) = (position * rope.inv_freq[usize::from(pair)]).sin_cos();
        (y[a], y[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
    }
    y
}

/// The scores of one token for another, `there` positions behind, of every head.
fn scores(attn: &Attention<Weight>, x: &[f32], y: &[f32], at: f32, there: f32) -> Vec<f32> {
    let heads = &attn.heads;
    let (q, k) = (times(&attn.q.weight, x), times(&attn.k.weight, y));
    let dim = heads.qk_dim;
    (0..heads.kv_of.len())
        .map(|head| {
            let kv = usize::from(heads.kv_of[head]);
            let q = rotated(heads, &q[head * dim..(head + 1) * dim], kv, at);
            let k = rotated(heads, &k[kv * dim..(kv + 1) * dim], kv, there);
            heads.scale * q.iter().zip(&k).map(|(q, k)| q * k).sum::<f32>()
        })
        .collect()
}

fn shrink(attn: &mut Attention<Weight>, x: &[f32], share: f64) -> Vec<(String, f64)> {
    let seen = BTreeMap::from([(Tap::AttnIn, seen_of(HIDDEN, x))]);
    let mut cx = BlockCx::new(Place::Block(0), Sizes { attn: 1, mlp: 1 }, 0, &seen);
    let settings = json!({"sparsity": share, "allocation": "uniform", "refit": false});
    Modegpt::parse(settings).unwrap().attention(attn, &mut cx).unwrap();
    cx.figures
}

#[test]
fn pairs_that_are_zero_go_and_scores_stay_at_every_position() {
    for style in [RopeStyle::Half, RopeStyle::Pairs] {
        let mut attn = attention(vec![0, 0, 1, 1], Some(style), 1);
        // Each key head lacks two other pairs of its four.
        let members = |pair: usize| match style {
            RopeStyle::Half => [pair, pair + DIM / 2],
            RopeStyle::Pairs => [2 * pair, 2 * pair + 1],
        };
        let mut k = attn.k.weight.to_f32();
        for (kv, gone) in [(0, [1, 3]), (1, [0, 2])] {
            for pair in gone {
                members(pair).iter().for_each(|i| k[(kv * DIM + i) * HIDDEN..(kv * DIM + i + 1) * HIDDEN].fill(0.0));
            }
        }
        attn.k.weight = float([2 * DIM, HIDDEN], k);
        let before = attn.clone();
        shrink(&mut attn, &inputs(200, 3), 0.5);
        assert_eq!(attn.heads.qk_dim, DIM / 2);
        assert_eq!(attn.heads.scale, before.heads.scale, "scores are scaled as before");
        assert_eq!(attn.heads.rope.as_ref().unwrap().pairs, Some(vec![0, 2, 1, 3]));
        for (at, there) in [(0.0, 0.0), (5.0, 2.0), (100.0, 1.0)] {
            let (x, y) = (noise(HIDDEN, 20), noise(HIDDEN, 21));
            let (a, b) = (scores(&before, &x, &y, at, there), scores(&attn, &x, &y, at, there));
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{style:?} {at} {there}: {a:?} {b:?}");
        }
    }
}

#[test]
fn query_heads_of_a_group_share_its_pairs() {
    let mut attn = attention(vec![0, 0, 0, 1, 1, 1], Some(RopeStyle::Half), 2);
    let before = attn.clone();
    shrink(&mut attn, &inputs(300, 4), 0.5);
    let rope = attn.heads.rope.clone().unwrap();
    let row = |w: &Weight, at: usize| w.to_f32()[at * HIDDEN..(at + 1) * HIDDEN].to_vec();
    for (head, &kv) in before.heads.kv_of.iter().enumerate() {
        for (i, pair) in rope.pairs_of(usize::from(kv), 2).into_iter().enumerate() {
            assert_eq!(row(&attn.q.weight, head * DIM / 2 + i), row(&before.q.weight, head * DIM + usize::from(pair)));
        }
    }
}

#[test]
fn without_rotation_scores_of_low_rank_are_kept_exactly() {
    // Keys that lie in three of eight dimensions, in another basis.
    let mut attn = attention(vec![0, 0], None, 3);
    let thin = float([3, HIDDEN], noise(3 * HIDDEN, 31)).to_f32();
    let mix = noise(DIM * 3, 32);
    let k: Vec<f32> = (0..DIM * HIDDEN)
        .map(|at| (0..3).map(|r| mix[at / HIDDEN * 3 + r] * thin[r * HIDDEN + at % HIDDEN]).sum())
        .collect();
    attn.k.weight = float([DIM, HIDDEN], k);
    let before = attn.clone();
    let figures = shrink(&mut attn, &inputs(400, 5), 0.5);
    assert_eq!(attn.heads.qk_dim, 4);
    assert!(figures.iter().any(|(name, value)| name == "query_key_error" && *value < 1e-6), "{figures:?}");
    for seed in 0..5 {
        let (x, y) = (noise(HIDDEN, 40 + seed), noise(HIDDEN, 50 + seed));
        let (a, b) = (scores(&before, &x, &y, 0.0, 0.0), scores(&attn, &x, &y, 0.0, 0.0));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{a:?} {b:?}");
    }
}

#[test]
fn the_joint_form_is_never_worse_than_a_selection() {
    for seed in 0..5 {
        let x = inputs(300, 60 + seed);
        let mut joint = attention(vec![0], None, 70 + seed);
        let mut chosen = joint.clone();
        // Without rotation, but as a selection: pairs whose angle is always zero.
        chosen.heads.rope = Some(Rope {
            inv_freq: vec![0.0; DIM / 2],
            style: RopeStyle::Half,
            amplitude: 1.0,
            long: None,
            pairs: None,
        });
        let before = joint.clone();
        shrink(&mut joint, &x, 0.5);
        shrink(&mut chosen, &x, 0.5);
        let error = |attn: &Attention<Weight>| -> f64 {
            let mut sum = 0.0;
            for a in x.chunks(HIDDEN).take(60) {
                for b in x.chunks(HIDDEN).take(60) {
                    let gone = scores(&before, a, b, 0.0, 0.0)[0] - scores(attn, a, b, 0.0, 0.0)[0];
                    sum += f64::from(gone * gone);
                }
            }
            sum
        };
        assert!(error(&joint) < error(&chosen), "seed {seed}");
    }
}

#[test]
fn values_of_low_rank_reach_the_output_exactly() {
    let mut attn = attention(vec![0, 0, 1, 1], None, 4);
    // Values of rank four.
    let mut v = Vec::new();
    for kv in 0..2u64 {
        let (thin, mix) = (noise(4 * HIDDEN, 80 + kv), noise(DIM * 4, 90 + kv));
        v.extend(
            (0..DIM * HIDDEN)
                .map(|at| (0..4).map(|r| mix[at / HIDDEN * 4 + r] * thin[r * HIDDEN + at % HIDDEN]).sum::<f32>()),
        );
    }
    attn.v.weight = float([2 * DIM, HIDDEN], v);
    let before = attn.clone();
    let x = inputs(400, 6);
    let figures = shrink(&mut attn, &x, 0.5);
    assert_eq!((attn.heads.v_dim, attn.o.weight.shape()), (4, [HIDDEN, 16]));
    assert!(figures.iter().any(|(name, value)| name == "value_error" && *value < 1e-6), "{figures:?}");
    // One token that looks at itself alone: what is mixed is its values.
    let reach = |attn: &Attention<Weight>, x: &[f32]| {
        let v = times(&attn.v.weight, x);
        let dim = attn.heads.v_dim;
        let mixed: Vec<f32> = attn
            .heads
            .kv_of
            .iter()
            .flat_map(|&kv| v[usize::from(kv) * dim..(usize::from(kv) + 1) * dim].to_vec())
            .collect();
        times(&attn.o.weight, &mixed)
    };
    for x in x.chunks(HIDDEN).take(20) {
        let (a, b) = (reach(&before, x), reach(&attn, x));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{a:?} {b:?}");
    }
}

#[test]
fn biases_of_values_go_through_exactly_where_nothing_is_lost() {
    let mut attn = attention(vec![0], None, 5);
    let thin = noise(4 * HIDDEN, 101);
    let mix = noise(DIM * 4, 102);
    let v = (0..DIM * HIDDEN).map(|at| (0..4).map(|r| mix[at / HIDDEN * 4 + r] * thin[r * HIDDEN + at % HIDDEN]).sum());
    attn.v.weight = float([DIM, HIDDEN], v.collect());
    // A bias in the space of the values.
    let bias: Vec<f32> = (0..DIM).map(|i| (0..4).map(|r| mix[i * 4 + r]).sum()).collect();
    attn.v.bias = Some(float([1, DIM], bias));
    let before = attn.clone();
    shrink(&mut attn, &inputs(300, 7), 0.5);
    let x = noise(HIDDEN, 103);
    let reach = |attn: &Attention<Weight>| {
        let bias = attn.v.bias.as_ref().unwrap().to_f32();
        let v: Vec<f32> = times(&attn.v.weight, &x).iter().zip(&bias).map(|(v, b)| v + b).collect();
        times(&attn.o.weight, &v)
    };
    let (a, b) = (reach(&before), reach(&attn));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{a:?} {b:?}");
}

#[test]
fn queries_and_keys_with_norms_of_their_own_stay() {
    let mut attn = attention(vec![0, 0], Some(RopeStyle::Half), 6);
    let norm = brevity_model::Norm {
        gain: float([1, DIM], vec![1.0; DIM]),
        bias: None,
        kind: brevity_model::NormKind::Rms,
        eps: 1e-6,
    };
    attn.q_norm = Some(norm);
    let before = attn.clone();
    shrink(&mut attn, &inputs(200, 8), 0.5);
    assert_eq!((&attn.q, &attn.k, attn.heads.qk_dim), (&before.q, &before.k, DIM));
    assert_eq!(attn.heads.v_dim, DIM / 2);
}
