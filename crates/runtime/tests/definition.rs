//! Blocks of unusual heads against a plain loop in double precision.

mod common;

use std::cmp::Ordering;

use brevity_model::{
    Activation, Attention, Block, Floats, Heads, Linear, Mlp, Norm, NormKind, Reach, Relative, Rope, RopeStyle, Stage,
    Weight,
};
use brevity_runtime::{Compute, Forward, Kv, Prepare};
use candle_core::{Device, Tensor};
use common::{Lcg, relative};

const HIDDEN: usize = 12;

/// `[rows, columns]` in double precision.
type Rows = Vec<Vec<f64>>;

fn matrix(weight: &Weight) -> Rows {
    let [_, columns] = weight.shape();
    weight.to_f32().chunks(columns).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect()
}

fn linear(part: &Linear<Weight>, x: &Rows) -> Rows {
    let w = matrix(&part.weight);
    let bias = part.bias.as_ref().map_or(vec![0.0; w.len()], |bias| matrix(bias).remove(0));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    x.iter().map(|x| w.iter().zip(&bias).map(|(w, b)| dot(w, x) + b).collect()).collect()
}

fn norm_row(norm: &Norm<Weight>, x: &[f64]) -> Vec<f64> {
    let n = x.len() as f64;
    let gain = matrix(&norm.gain).remove(0);
    let bias = norm.bias.as_ref().map_or(vec![0.0; x.len()], |bias| matrix(bias).remove(0));
    let mean = if norm.kind == NormKind::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
    let root = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + f64::from(norm.eps)).sqrt();
    let offset = if norm.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
    let one = |((x, gain), bias): ((&f64, &f64), &f64)| (x - mean) / root * (gain + offset) + bias;
    x.iter().zip(&gain).zip(&bias).map(one).collect()
}

fn norm(norm: &Option<Norm<Weight>>, x: &Rows) -> Rows {
    let Some(norm) = norm else { return x.clone() };
    let width = matrix(&norm.gain)[0].len();
    x.iter().map(|x| x.chunks(width).flat_map(|part| norm_row(norm, part)).collect()).collect()
}

fn rotate(rope: &Rope, x: &mut Rows, head: usize) {
    let pairs = rope.inv_freq.len();
    for (position, row) in x.iter_mut().enumerate() {
        for head in row.chunks_mut(head) {
            for (i, f) in rope.inv_freq.iter().enumerate() {
                let (sin, cos) = (position as f64 * f64::from(*f)).sin_cos();
                let (sin, cos) = (sin * f64::from(rope.amplitude), cos * f64::from(rope.amplitude));
                let (a, b) = if rope.style == RopeStyle::Half { (i, i + pairs) } else { (2 * i, 2 * i + 1) };
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
    }
}

fn attention(attn: &Attention<Weight>, x: &Rows) -> Rows {
    let heads = &attn.heads;
    let mut q = norm(&attn.q_norm, &linear(&attn.q, x));
    let mut k = norm(&attn.k_norm, &linear(&attn.k, x));
    let v = linear(&attn.v, x);
    if let Some(rope) = &heads.rope {
        rotate(rope, &mut q, heads.qk_dim);
        rotate(rope, &mut k, heads.qk_dim);
    }
    let added = attn.relative.as_ref().map(|table| (matrix(table), &heads.relative.as_ref().unwrap().columns));
    // Of four buckets, at any distance.
    let bucket = |i: usize, j: usize| match j.cmp(&i) {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 3,
    };
    let sees = |i: usize, j: usize| match heads.reach {
        Reach::Causal => j <= i,
        Reach::Both => true,
        Reach::Window(n) => j <= i && i - j < n,
        Reach::Around(n) => i.abs_diff(j) <= n,
    };
    let mixed = (0..x.len()).map(|i| {
        let one = |(h, kv): (usize, &u16)| -> Vec<f64> {
            let kv = usize::from(*kv);
            let score = |j: usize| -> f64 {
                let (q, k) = (&q[i][h * heads.qk_dim..][..heads.qk_dim], &k[j][kv * heads.qk_dim..][..heads.qk_dim]);
                let s = q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>() * f64::from(heads.scale);
                let capped = heads.softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh());
                capped + added.as_ref().map_or(0.0, |(table, columns)| table[bucket(i, j)][usize::from(columns[h])])
            };
            let weights: Vec<f64> = (0..x.len()).map(|j| if sees(i, j) { score(j).exp() } else { 0.0 }).collect();
            let all: f64 = weights.iter().sum();
            let value = |d: usize| weights.iter().zip(&v).map(|(w, v)| w / all * v[kv * heads.v_dim + d]).sum();
            (0..heads.v_dim).map(value).collect()
        };
        heads.kv_of.iter().enumerate().flat_map(one).collect()
    });
    linear(&attn.o, &mixed.collect())
}

fn mlp(mlp: &Mlp<Weight>, x: &Rows) -> Rows {
    let act = |x: f64| match mlp.act {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Gelu => unreachable!("recorded cases cover it"),
    };
    let up = linear(&mlp.up, x);
    let middle: Rows = match &mlp.gate {
        Some(gate) => {
            let both = linear(gate, x).into_iter().zip(up);
            both.map(|(g, u)| g.iter().zip(u).map(|(g, u)| act(*g) * u).collect()).collect()
        }
        None => up.iter().map(|u| u.iter().map(|u| act(*u)).collect()).collect(),
    };
    linear(&mlp.down, &middle)
}

fn block(block: &Block<Weight>, x: &Rows) -> Rows {
    let add = |a: &Rows, b: &Rows| -> Rows {
        a.iter().zip(b).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a + b).collect()).collect()
    };
    let (attn, mixer) = (block.attn.as_ref().unwrap(), block.mlp.as_ref().unwrap());
    let y = norm(&attn.after, &attention(attn, &norm(&attn.before, x)));
    let middle = norm(&attn.sum, &add(x, &y));
    let y = norm(&mixer.after, &mlp(mixer, &norm(&mixer.before, if block.parallel { x } else { &middle })));
    norm(&mixer.sum, &add(&middle, &y))
}

/// A block of three query heads over two key/value heads in crossed order, keys and values of different widths.
struct Parts(Lcg);

impl Parts {
    fn linear(&mut self, outputs: usize, inputs: usize, bias: bool) -> Linear<Weight> {
        let weight = Weight::float([outputs, inputs], Floats::F32(self.0.values(outputs * inputs, false)));
        let bias = bias.then(|| Weight::float([1, outputs], Floats::F32(self.0.values(outputs, false))));
        Linear { weight, bias }
    }

    fn norm(&mut self, width: usize, kind: NormKind, bias: bool) -> Option<Norm<Weight>> {
        let gain = Weight::float([1, width], Floats::F32(self.0.values(width, true)));
        let bias = bias.then(|| Weight::float([1, width], Floats::F32(self.0.values(width, false))));
        Some(Norm { gain, bias, kind, eps: 1e-3 })
    }

    fn block(&mut self) -> Block<Weight> {
        let (qk_dim, v_dim) = (8, 6);
        let (rope, reach, softcap, relative) = (None, Reach::Causal, None, None);
        let heads = Heads { kv_of: vec![1, 0, 1], qk_dim, v_dim, scale: 0.4, rope, reach, softcap, relative };
        let attn = Attention {
            before: self.norm(HIDDEN, NormKind::Rms, false),
            q: self.linear(3 * qk_dim, HIDDEN, true),
            k: self.linear(2 * qk_dim, HIDDEN, false),
            v: self.linear(2 * v_dim, HIDDEN, true),
            o: self.linear(HIDDEN, 3 * v_dim, true),
            q_norm: None,
            k_norm: None,
            after: None,
            sum: None,
            relative: None,
            shortcut: None,
            heads,
        };
        let mlp = Mlp {
            before: self.norm(HIDDEN, NormKind::Rms, false),
            gate: Some(self.linear(20, HIDDEN, false)),
            up: self.linear(20, HIDDEN, true),
            down: self.linear(HIDDEN, 20, false),
            act: Activation::Silu,
            after: None,
            sum: None,
            shortcut: None,
        };
        Block { attn: Some(attn), mlp: Some(mlp), parallel: false }
    }
}

/// What makes a block differ from the plain one; the flag is whether its parts are parallel.
type Change<'a> = &'a mut dyn FnMut(&mut Parts, &mut Attention<Weight>, &mut Mlp<Weight>, &mut bool);

/// A block and what it is called in failures.
fn blocks() -> Vec<(&'static str, Block<Weight>)> {
    let mut parts = Parts(Lcg(5));
    let mut all = Vec::new();
    let mut add = |name, change: Change<'_>| {
        let Block { mut attn, mut mlp, mut parallel } = parts.block();
        change(&mut parts, attn.as_mut().unwrap(), mlp.as_mut().unwrap(), &mut parallel);
        all.push((name, Block { attn, mlp, parallel }));
    };
    let rope = |style, pairs: usize, amplitude| {
        Some(Rope {
            inv_freq: (0..pairs).map(|i| 0.7f32.powi(i as i32)).collect(),
            style,
            amplitude,
            long: None,
            pairs: None,
        })
    };
    add("plain", &mut |_, _, _, _| ());
    add("parallel, both ways", &mut |_, attn, _, parallel| {
        *parallel = true;
        attn.heads.reach = Reach::Both;
    });
    add("window and softcap", &mut |_, attn, mlp, _| {
        attn.heads.reach = Reach::Window(4);
        attn.heads.softcap = Some(1.5);
        mlp.act = Activation::GeluTanh;
    });
    add("partial rotation of halves, norms of heads", &mut |parts, attn, _, _| {
        attn.heads.rope = rope(RopeStyle::Half, 3, 1.2);
        attn.q_norm = parts.norm(8, NormKind::RmsPlusOne, false);
        attn.k_norm = parts.norm(8, NormKind::Rms, false);
    });
    add("rotation of pairs, norms of full width", &mut |parts, attn, mlp, _| {
        attn.heads.rope = rope(RopeStyle::Pairs, 4, 1.0);
        attn.q_norm = parts.norm(24, NormKind::Rms, false);
        attn.k_norm = parts.norm(16, NormKind::Layer, true);
        mlp.act = Activation::QuickGelu;
    });
    add("a window to both sides, something added for distances", &mut |parts, attn, _, _| {
        attn.heads.reach = Reach::Around(3);
        attn.heads.relative = Some(Relative { columns: vec![2, 0, 3], distance: 2 });
        attn.relative = Some(parts.linear(4, 4, false).weight);
    });
    add("something added for distances to what is before", &mut |parts, attn, _, _| {
        attn.heads.relative = Some(Relative { columns: vec![0, 0, 1], distance: 5 });
        attn.heads.softcap = Some(1.5);
        attn.relative = Some(parts.linear(4, 2, false).weight);
    });
    add("norms behind, no gate", &mut |parts, attn, mlp, _| {
        attn.before = None;
        attn.after = parts.norm(HIDDEN, NormKind::Rms, false);
        attn.sum = parts.norm(HIDDEN, NormKind::Layer, true);
        mlp.before = parts.norm(HIDDEN, NormKind::Layer, false);
        mlp.after = parts.norm(HIDDEN, NormKind::RmsPlusOne, false);
        mlp.sum = parts.norm(HIDDEN, NormKind::Layer, true);
        mlp.gate = None;
        mlp.act = Activation::Relu;
    });
    all
}

fn run(forward: &Forward, block: &Block<Weight>, x: &Tensor, lengths: Option<&[usize]>, kv: Option<&mut Kv>) -> Tensor {
    let stage = Prepare::new(forward.compute()).stage(&Stage::Block(block.clone())).unwrap();
    let Stage::Block(ready) = stage else { unreachable!("a block stays a block") };
    forward.block(&ready, x, lengths, kv).unwrap()
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn blocks_of_every_kind_equal_a_plain_loop() {
    let tokens = 9;
    for (name, part) in blocks() {
        let x = Lcg(77).values(tokens * HIDDEN, false);
        let rows: Rows = x.chunks(HIDDEN).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
        let want: Vec<f32> = block(&part, &rows).concat().iter().map(|x| *x as f32).collect();
        let x = Tensor::from_vec(x, (1, tokens, HIDDEN), &Device::Cpu).unwrap();
        for (compute, tolerance) in [(Compute::F32, 2e-6), (Compute::Bf16, 2e-2)] {
            let got = run(&Forward::new(compute), &part, &x, None, None);
            let error = relative(&flat(&got), &want);
            assert!(error < tolerance, "{name}, {compute:?}: {error:e}");
        }
    }
}

#[test]
fn a_cache_continues_where_the_tokens_stopped() {
    let tokens = 9;
    let forward = Forward::new(Compute::F32);
    for (name, part) in blocks() {
        if matches!(part.attn.as_ref().unwrap().heads.reach, Reach::Both | Reach::Around(_)) {
            continue;
        }
        let x = Tensor::from_vec(Lcg(78).values(tokens * HIDDEN, false), (1, tokens, HIDDEN), &Device::Cpu).unwrap();
        let want = flat(&run(&forward, &part, &x, None, None));
        let mut kv = Kv::default();
        let mut got = Vec::new();
        for some in [0..4, 4..5, 5..9] {
            let some = x.narrow(1, some.start, some.len()).unwrap().contiguous().unwrap();
            got.extend(flat(&run(&forward, &part, &some, None, Some(&mut kv))));
        }
        assert!(relative(&got, &want) < 1e-6, "{name}");
    }
}

#[test]
fn padding_behind_a_sequence_changes_nothing_in_it() {
    let forward = Forward::new(Compute::F32);
    for (name, part) in blocks() {
        let values = Lcg(79).values(2 * 6 * HIDDEN, false);
        let x = Tensor::from_vec(values, (2, 6, HIDDEN), &Device::Cpu).unwrap();
        let padded = run(&forward, &part, &x, Some(&[6, 4]), None);
        for (n, length) in [(0, 6), (1, 4)] {
            let alone = x.narrow(0, n, 1).unwrap().narrow(1, 0, length).unwrap().contiguous().unwrap();
            let want = flat(&run(&forward, &part, &alone, None, None));
            let got = flat(&padded.get(n).unwrap().narrow(0, 0, length).unwrap());
            assert!(relative(&got, &want) < 1e-6, "{name}, sequence {n}");
        }
    }
}

#[test]
fn gradients_flow_through_a_block() {
    let forward = Forward::new(Compute::F32);
    let x = candle_core::Var::from_vec(Lcg(80).values(5 * HIDDEN, false), (1, 5, HIDDEN), &Device::Cpu).unwrap();
    let weigh = Tensor::from_vec(Lcg(81).values(5 * HIDDEN, false), (1, 5, HIDDEN), &Device::Cpu).unwrap();
    for (name, part) in blocks() {
        let loss = |x: &Tensor| (run(&forward, &part, x, None, None) * &weigh).unwrap().sum_all().unwrap();
        let gradients = loss(x.as_tensor()).backward().unwrap();
        let gradient = flat(gradients.get(x.as_tensor()).expect("the input has a gradient"));
        // Against differences along one direction.
        let direction = Tensor::from_vec(Lcg(82).values(5 * HIDDEN, false), (1, 5, HIDDEN), &Device::Cpu).unwrap();
        let moved = |step: f64| -> f64 {
            let x = (x.as_tensor() + (&direction * step).unwrap()).unwrap();
            f64::from(loss(&x).to_scalar::<f32>().unwrap())
        };
        let want = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        let got: f64 = gradient.iter().zip(flat(&direction)).map(|(g, d)| f64::from(g * d)).sum();
        assert!((got - want).abs() < 2e-2 * want.abs().max(0.1), "{name}: {got} {want}");
    }
}
