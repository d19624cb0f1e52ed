//! What every method for whole sublayers must do, asked of every entry of the list.

use std::collections::BTreeMap;

use brevity_kernels::gram::Gram;
use brevity_kernels::matmul::Rows;
use brevity_kernels::ops::Compute;
use brevity_methods::{
    BlockCx, BlockMethod, Entry, Error, Fold, Influence, METHODS, Parse, Part, Seen, Sizes, any_method, part_of,
};
use brevity_model::{
    Activation, Attention, Block, Dtype, Floats, Form, Heads, Linear, Mlp, Norm, NormKind, Place, Reach, Rope,
    RopeStyle, Sublayer, Tap, Weight,
};
use serde_json::{Value, json};

/// The methods that rewrite whole sublayers.
fn entries() -> impl Iterator<Item = &'static Entry> {
    METHODS.iter().filter(|entry| matches!(entry.parse, Parse::Block(_)))
}

/// Settings worth trying; the first are the defaults.
fn variants(entry: &Entry) -> Vec<Value> {
    let more = match entry.name {
        "prune.channels" => vec![
            json!({"sparsity": 0.0}),
            json!({"score": "flap", "compensate": "mean", "multiple": 4}),
            json!({"score": "leverage", "ridge": 1e-3, "sparsity": 0.5}),
            json!({"score": "magnitude", "compensate": "none", "of": "block"}),
            json!({"centre": true, "allocation": "influence", "temperature": 0.1}),
        ],
        "prune.heads" => vec![
            json!({"sparsity": 0.0}),
            json!({"unit": "group", "sparsity": 0.5, "compensate": "none"}),
            json!({"unit": "even", "sparsity": 0.4, "centre": true}),
            json!({"sparsity": 0.9, "compensate": "mean"}),
            json!({"allocation": "influence", "most": 0.9}),
        ],
        "prune.layers" => vec![
            json!({"count": 0}),
            json!({"count": 1, "unit": "attn", "first": 0, "last": 0}),
            json!({"sparsity": 0.9, "unit": "sublayer", "first": 0, "last": 0, "by": "loss"}),
            json!({"sparsity": 0.5, "unit": "mlp", "first": 0}),
        ],
        "decompose.modegpt" => vec![
            json!({"sparsity": 0.0}),
            json!({"sparsity": 0.5, "allocation": "uniform", "multiple": 1}),
            json!({"sparsity": 0.3, "query_key": false, "refit": false}),
            json!({"sparsity": 0.3, "value_output": false, "ridge": 1e-4}),
            json!({"sparsity": 0.3, "centre": true, "temperature": 0.05, "most": 0.6}),
        ],
        "recover.norm" => vec![],
        "adjust.temperature" => vec![json!({"tau": 0.5}), json!({"tau": 1.0})],
        name => panic!("what is worth trying of {name} is not written down"),
    };
    [json!({})].into_iter().chain(more).collect()
}

const HIDDEN: usize = 24;
const DIM: usize = 8;
const CHANNELS: usize = 40;

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| uniform() + uniform() + uniform()).collect()
}

fn linear(shape: [usize; 2], seed: u64, bias: bool, product: bool) -> Linear<Weight> {
    let float =
        |shape: [usize; 2], seed| Weight::float(shape, Floats::from_f32(noise(shape[0] * shape[1], seed), Dtype::F32));
    let weight = match product {
        true => Weight::product(float([shape[0], 6], seed), float([6, shape[1]], seed + 1)),
        false => float(shape, seed),
    };
    Linear { weight, bias: bias.then(|| float([1, shape[0]], seed + 2)) }
}

fn norm(bias: bool) -> Option<Norm<Weight>> {
    let vector = |seed| Weight::float([1, HIDDEN], Floats::F32(noise(HIDDEN, seed)));
    Some(Norm { gain: vector(70), bias: bias.then(|| vector(71)), kind: NormKind::Layer, eps: 1e-5 })
}

/// Whether the method takes a share away.
fn has_share(entry: &Entry) -> bool {
    entry.settings.iter().any(|setting| setting.name == "sparsity")
}

/// Four query heads that read two key/value heads.
fn block(rope: Option<RopeStyle>, bias: bool, product: bool) -> Block<Weight> {
    let rope = rope.map(|style| Rope {
        inv_freq: (0..DIM / 2).map(|i| 0.7f32.powi(i as i32)).collect(),
        style,
        amplitude: 1.0,
        long: None,
        pairs: None,
    });
    let heads = Heads {
        kv_of: vec![0, 0, 1, 1],
        qk_dim: DIM,
        v_dim: DIM,
        scale: (DIM as f32).powf(-0.5),
        rope,
        reach: Reach::Causal,
        softcap: None,
        relative: None,
    };
    let attn = Attention {
        before: norm(bias),
        q: linear([4 * DIM, HIDDEN], 1, bias, product),
        k: linear([2 * DIM, HIDDEN], 10, bias, product),
        v: linear([2 * DIM, HIDDEN], 20, bias, product),
        o: linear([HIDDEN, 4 * DIM], 30, bias, product),
        q_norm: None,
        k_norm: None,
        after: None,
        sum: None,
        relative: None,
        shortcut: None,
        heads,
    };
    let mlp = Mlp {
        before: norm(bias),
        gate: Some(linear([CHANNELS, HIDDEN], 40, bias, product)),
        up: linear([CHANNELS, HIDDEN], 50, bias, product),
        down: linear([HIDDEN, CHANNELS], 60, bias, product),
        act: Activation::Silu,
        after: None,
        sum: None,
        shortcut: None,
    };
    Block { attn: Some(attn), mlp: Some(mlp), parallel: false }
}

fn seen_at(width: usize, seed: u64) -> Seen {
    let fold = |rows: usize, seed: u64| {
        let (own, common) = (noise(rows * width, seed), noise(rows * 5, seed + 7));
        let x: Vec<f32> =
            (0..rows * width).map(|at| 0.3 * own[at] + common[at / width * 5 + at % width % 5] + 0.1).collect();
        let mut gram = Gram::new(width);
        gram.add(rows, Rows::F32(&x), Compute::F32);
        let sum = |f: fn(f64) -> f64| {
            (0..width).map(|j| x.iter().skip(j).step_by(width).map(|&x| f(f64::from(x))).sum()).collect()
        };
        // In the original model they are a little larger.
        Fold {
            count: rows as u64,
            gram: Some(gram),
            sum: sum(|x| x),
            sum_sq: sum(|x| x * x),
            reference_sum: sum(|x| 1.1 * x),
            reference_dot: sum(|x| 1.1 * x * x),
            ..Fold::default()
        }
    };
    Seen { fit: fold(300, seed), held_out: fold(80, seed + 100), ..Seen::default() }
}

fn seen() -> BTreeMap<Tap, Seen> {
    BTreeMap::from([
        (Tap::AttnIn, seen_at(HIDDEN, 1)),
        (Tap::AttnMix, seen_at(4 * DIM, 2)),
        (Tap::MlpIn, seen_at(HIDDEN, 3)),
        (Tap::MlpMid, seen_at(CHANNELS, 4)),
    ])
}

fn forms(block: &Block<Weight>) -> Block<Form> {
    let stage = brevity_model::Stage::Block(block.clone());
    match stage.try_map(|_, _, weight| Ok::<_, std::convert::Infallible>(Form::of(weight))) {
        Ok(brevity_model::Stage::Block(block)) => block,
        _ => unreachable!("a block stays one"),
    }
}

fn sizes(block: &Block<Weight>) -> Sizes {
    Sizes::of(block, |weight| Form::of(weight).parameters())
}

/// The method, behind its survey of four such blocks.
fn ready(entry: &Entry, settings: Value) -> Box<dyn BlockMethod> {
    let Parse::Block(parse) = entry.parse else { unreachable!("only methods for sublayers are asked here") };
    let method = parse(settings).unwrap();
    let Some(mut survey) = method.survey() else { return method };
    let parts: Vec<Sublayer> =
        [Sublayer::Attn, Sublayer::Mlp].into_iter().filter(|&part| method.rewrites(part)).collect();
    for n in 0..4u32 {
        let influence = [0.2, 0.05, 0.1, 0.3][n as usize];
        let loss = survey.losses().contains(&true).then_some([influence; 3]);
        let influence = Influence { block: influence, attn: influence / 2.0, mlp: influence / 3.0, loss };
        survey.look(Place::Block(n), &parts, sizes(&block(None, false, false)), influence);
    }
    survey.finish().unwrap()
}

/// Notes and figures.
type Said = (Vec<String>, Vec<(String, f64)>);

/// All notes and figures of the method on both sublayers of block `n`.
fn rewrite(method: &dyn BlockMethod, n: u32, block: &mut Block<Weight>) -> Result<Said, Error> {
    let (seen, sizes) = (seen(), sizes(block));
    let (mut notes, mut figures) = (Vec::new(), Vec::new());
    for part in [Sublayer::Attn, Sublayer::Mlp] {
        let mut cx = BlockCx::new(Place::Block(n), sizes, 0, &seen);
        method.rewrite(part_of(block, part), &mut cx)?;
        notes.append(&mut cx.notes);
        figures.append(&mut cx.figures);
    }
    Ok((notes, figures))
}

fn predict(method: &dyn BlockMethod, n: u32, block: &Block<Weight>) -> Block<Form> {
    let mut forms = forms(block);
    let sizes = Sizes::of(&forms, Form::parameters);
    for part in [Sublayer::Attn, Sublayer::Mlp] {
        method.predict(Place::Block(n), sizes, part_of(&mut forms, part)).unwrap();
    }
    forms
}

/// The blocks that methods are tried on.
fn blocks() -> Vec<Block<Weight>> {
    let mut blocks = Vec::new();
    for rope in [None, Some(RopeStyle::Half), Some(RopeStyle::Pairs)] {
        blocks.extend([block(rope, false, false), block(rope, true, false), block(rope, true, true)]);
    }
    blocks
}

/// Heads but for which of them, and which pairs, stay.
fn outline(mut block: Block<Form>) -> Block<Form> {
    if let Some(attn) = &mut block.attn {
        let (count, kv) = (attn.heads.kv_of.len(), attn.heads.kv());
        attn.heads.kv_of = vec![kv as u16; count];
        if let Some(rope) = &mut attn.heads.rope {
            rope.pairs = rope.pairs.as_ref().map(|pairs| vec![0; pairs.len()]);
        }
    }
    block
}

#[test]
fn what_is_predicted_is_what_comes_out() {
    for entry in entries() {
        for settings in variants(entry) {
            let method = ready(entry, settings.clone());
            for (at, before) in blocks().into_iter().enumerate() {
                for n in 0..4 {
                    let mut after = before.clone();
                    rewrite(&*method, n, &mut after).unwrap();
                    let (real, planned) = (outline(forms(&after)), outline(predict(&*method, n, &before)));
                    assert_eq!(real, planned, "{} {settings} block {at} {n}", entry.name);
                    check_shapes(&after);
                }
            }
        }
    }
}

/// Everything that must fit in a block that can be run.
fn check_shapes(block: &Block<Weight>) {
    if let Some(attn) = &block.attn {
        let heads = &attn.heads;
        let (count, kv) = (heads.kv_of.len(), heads.kv());
        assert_eq!(attn.q.weight.shape()[0], count * heads.qk_dim);
        assert_eq!(attn.k.weight.shape()[0], kv * heads.qk_dim);
        assert_eq!(attn.v.weight.shape()[0], kv * heads.v_dim);
        assert_eq!(attn.o.weight.shape(), [HIDDEN, count * heads.v_dim]);
        for layer in [&attn.q, &attn.k, &attn.v, &attn.o] {
            assert!(layer.bias.as_ref().is_none_or(|bias| bias.shape() == [1, layer.weight.shape()[0]]));
        }
        if let Some(rope) = &heads.rope {
            assert!(2 * rope.pairs_per_head(kv) <= heads.qk_dim);
            assert!(rope.pairs.iter().flatten().all(|&pair| usize::from(pair) < rope.inv_freq.len()));
        }
    }
    if let Some(mlp) = &block.mlp {
        let channels = mlp.up.weight.shape()[0];
        assert_eq!(mlp.down.weight.shape(), [HIDDEN, channels]);
        assert!(mlp.gate.as_ref().is_none_or(|gate| gate.weight.shape()[0] == channels));
    }
}

#[test]
fn nothing_is_touched_where_nothing_goes() {
    for entry in entries().filter(|entry| has_share(entry)) {
        let nothing = if entry.name == "prune.layers" { json!({"count": 0}) } else { json!({"sparsity": 0.0}) };
        let method = ready(entry, nothing);
        for before in blocks() {
            let mut after = before.clone();
            rewrite(&*method, 1, &mut after).unwrap();
            assert_eq!(before, after, "{}", entry.name);
        }
    }
}

#[test]
fn the_same_comes_out_whatever_the_number_of_threads() {
    for entry in entries() {
        for settings in variants(entry) {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let method = ready(entry, settings.clone());
                    let mut block = block(Some(RopeStyle::Half), true, false);
                    let said = rewrite(&*method, 1, &mut block).unwrap();
                    (block, said)
                })
            };
            assert_eq!(run(1), run(3), "{} {settings}", entry.name);
        }
    }
}

#[test]
fn settings_written_out_give_the_same_method() {
    for entry in entries() {
        for settings in variants(entry) {
            let method = any_method(entry.name, settings.clone()).unwrap();
            let written = method.settings();
            let again = any_method(entry.name, written.clone()).unwrap();
            assert_eq!(again.settings(), written, "{} {settings}", entry.name);
            assert_eq!(format!("{again:?}"), format!("{method:?}"), "{} {settings}", entry.name);
            for name in written.as_object().unwrap().keys() {
                assert!(entry.settings.iter().any(|setting| setting.name == name), "{}: {name}", entry.name);
            }
        }
        assert!(any_method(entry.name, json!({"no such thing": 1})).is_err());
        assert!(any_method(entry.name, json!({"sparsity": 1.0})).is_err(), "{} takes everything", entry.name);
    }
}

#[test]
fn more_is_lost_where_more_goes() {
    for entry in entries().filter(|entry| has_share(entry) && entry.name != "prune.layers") {
        let mut last = [0.0; 2];
        for sparsity in [0.1, 0.3, 0.6, 0.85] {
            let usual = json!({"sparsity": sparsity, "allocation": "uniform"});
            let mut block = block(Some(RopeStyle::Half), false, false);
            let (_, figures) = rewrite(&*ready(entry, usual), 1, &mut block).unwrap();
            let of = |name: &str| figures.iter().find(|(known, _)| known == name).map_or(0.0, |(_, value)| *value);
            let now = [of("output_error"), of("query_key_error")];
            assert!(
                now.iter().zip(last).all(|(now, last)| *now >= last),
                "{} {sparsity}: {now:?} {last:?}",
                entry.name
            );
            last = now;
        }
        assert!(last[0] > 0.0, "{}", entry.name);
    }
}

#[test]
fn before_the_survey_nothing_is_rewritten_or_predicted() {
    for (name, settings) in [
        ("prune.layers", json!({})),
        ("decompose.modegpt", json!({})),
        ("prune.heads", json!({"allocation": "influence"})),
    ] {
        let method = any_method(name, settings).unwrap();
        let method = method.block().unwrap();
        let mut block = block(None, false, false);
        assert!(matches!(rewrite(method, 0, &mut block), Err(Error::NeedsSurvey { .. })), "{name}");
        let mut forms = forms(&block);
        let sizes = Sizes::of(&forms, Form::parameters);
        let error = method.predict(Place::Block(0), sizes, Part::Attn(&mut forms.attn));
        assert!(matches!(error, Err(Error::NeedsSurvey { .. })), "{name}");
    }
}
