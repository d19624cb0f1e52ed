use brevity_model::{Activation, Heads, Reach};

use super::*;
use crate::testing::{fold, noise};

fn slice(settings: Value) -> Slice {
    Slice::parse(settings).unwrap()
}

fn linear(shape: [usize; 2]) -> Linear<Form> {
    Linear { weight: Form::float(shape, Dtype::F16), bias: Some(Form::float([1, shape[0]], Dtype::F16)) }
}

/// The shapes of an OPT model with tied tables.
fn opt(hidden: usize, blocks: usize) -> Model<Form> {
    let norm = || {
        let vector = || Form::float([1, hidden], Dtype::F16);
        Some(Norm { gain: vector(), bias: Some(vector()), kind: NormKind::Layer, eps: 1e-5 })
    };
    let heads = Heads {
        kv_of: (0..12).collect(),
        qk_dim: hidden / 12,
        v_dim: hidden / 12,
        scale: 0.125,
        rope: None,
        reach: Reach::Causal,
        softcap: None,
        relative: None,
    };
    let block = || {
        let square = || linear([hidden, hidden]);
        let attn = Attention {
            before: norm(),
            q: square(),
            k: square(),
            v: square(),
            o: square(),
            q_norm: None,
            k_norm: None,
            after: None,
            sum: None,
            relative: None,
            shortcut: None,
            heads: heads.clone(),
        };
        let mlp = Mlp {
            before: norm(),
            gate: None,
            up: linear([4 * hidden, hidden]),
            down: linear([hidden, 4 * hidden]),
            act: Activation::Relu,
            after: None,
            sum: None,
            shortcut: None,
        };
        Stage::Block(Block { attn: Some(attn), mlp: Some(mlp), parallel: false })
    };
    let tokens = Linear { weight: Form::float([50272, hidden], Dtype::F16), bias: None };
    let positions = Some(Form::float([2050, hidden], Dtype::F16));
    let (types, relative, project) = (None, None, None);
    let embed = Embed { tokens, positions, position_offset: 2, types, relative, project, norm: None, scale: 1.0 };
    let head = Head { norm: norm(), project: None, out: None, logits: true, softcap: None };
    let mut stages = vec![Stage::Embed(embed)];
    stages.extend((0..blocks).map(|_| block()));
    stages.push(Stage::Head(head));
    Model { name: "opt".into(), hidden, vocabulary: 50272, context: None, block_name: None, stages }
}

fn parameters(model: &Model<Form>, norms: bool) -> u64 {
    let is_norm = |role: &Role| matches!(role, Role::AttnBefore | Role::MlpBefore | Role::HeadNorm);
    model.weights().filter(|(site, _, _)| norms || !is_norm(&site.role)).map(|(_, _, form)| form.parameters()).sum()
}

#[test]
fn a_fifth_of_opt_125m_counts_as_many_parameters_as_the_authors_have() {
    let model = opt(768, 12);
    assert_eq!(parameters(&model, true), 125_239_296);
    // 20 % of 768 directions, rounded down to a multiple of 8. Their norms have no gains, ours have ones.
    let sliced = slice(json!({ "width": 608, "grow": true })).predict(&model).unwrap();
    assert_eq!(parameters(&sliced, false), 147_250_880);
    assert_eq!(parameters(&sliced, true), 147_250_880 + 24 * 608 + 768);
    assert_eq!(sliced.hidden, 608);
    // Cut in front of the head as well.
    let all = slice(json!({ "width": 608, "grow": true, "head": true })).predict(&model).unwrap();
    let (tables, block) = (2 * 50272 * 608 + 2050 * 608, 2 * 608 * 608);
    let matrices = 12 * (block + 12 * 768 * 608 + 4 * 768 + 3072 + 2 * 608 - 768);
    assert_eq!(parameters(&all, false), tables + matrices + 50272);
}

#[test]
fn a_model_that_would_grow_is_refused_with_both_counts() {
    let error = slice(json!({ "width": 608 })).predict(&opt(768, 12)).unwrap_err();
    assert_eq!(error.to_string(), "`decompose.slice` would leave 147266240 parameters, where the model has 125239296");
    assert!(error.hint().unwrap().contains("grow: true"));
}

#[test]
fn a_share_counts_shortcuts_against_what_is_saved() {
    let model = opt(768, 12);
    let blocks = |model: &Model<Form>| -> u64 {
        let matrices = model.weights().filter(|(site, slot, _)| {
            matches!(site.place, Place::Block(_))
                && *slot == brevity_model::Slot::Weight
                && site.role != Role::AttnBefore
                && site.role != Role::MlpBefore
        });
        matrices.map(|(_, _, form)| form.parameters()).sum()
    };
    for share in [0.1, 0.2, 0.3, 0.5] {
        let sliced = slice(json!({ "sparsity": share, "grow": true, "head": true })).predict(&model).unwrap();
        let left = blocks(&sliced) as f64 / blocks(&model) as f64;
        assert!(left <= 1.0 - share && left > 1.0 - share - 0.03, "{share}: {left}");
        assert!(sliced.hidden.is_multiple_of(8));
    }
    let whole = slice(json!({ "sparsity": 0.0, "grow": true })).predict(&model).unwrap();
    assert_eq!(whole.hidden, 768);
}

#[test]
fn directions_are_orthonormal_to_1e_8_and_the_strongest_come_first() {
    let (n, rows) = (24, 200);
    let x: Vec<f32> = noise(rows * n, 3).iter().enumerate().map(|(at, x)| x * (1.0 + (at % n) as f32)).collect();
    let gram = fold(n, &x).gram.unwrap();
    let q = principal(Place::Block(0), &gram).unwrap();
    let energy = |i: usize| {
        let projected = x.chunks(n).map(|x| x.iter().zip(&q[i * n..]).map(|(x, q)| f64::from(*x) * q).sum::<f64>());
        projected.map(|y| y * y).sum::<f64>()
    };
    for i in 0..n {
        for j in 0..n {
            let dot: f64 = (0..n).map(|k| q[i * n + k] * q[j * n + k]).sum();
            assert!((dot - f64::from(i == j)).abs() < 1e-8);
        }
        assert!(i == 0 || energy(i) <= energy(i - 1) * (1.0 + 1e-6));
    }
    let some = slice(json!({})).directions(Place::Block(0), &gram, 5).unwrap();
    assert_eq!((some.kept, some.hidden, some.rows.len()), (5, n, 5 * n));
}

#[test]
fn what_cannot_be_turned_is_named() {
    let refused = |change: fn(&mut Model<Form>)| {
        let mut model = opt(48, 2);
        change(&mut model);
        slice(json!({ "grow": true })).predict(&model).unwrap_err().to_string()
    };
    let behind = refused(|model| {
        if let Stage::Block(Block { attn: Some(attn), .. }) = &mut model.stages[2] {
            attn.after = attn.before.clone();
        }
    });
    assert!(behind.contains("blocks.1.attn.after") && behind.contains("a norm behind a sublayer"), "{behind}");
    let scaled = refused(|model| {
        if let Stage::Embed(embed) = &mut model.stages[0] {
            embed.scale = 7.0;
        }
    });
    assert!(scaled.contains("embed.tokens"), "{scaled}");
    assert!(refused(|model| model.stages.truncate(3)).contains("there is no head"));
    let wide = slice(json!({ "width": 64 })).predict(&opt(48, 2)).unwrap_err();
    assert!(matches!(wide, Error::Value { name: "width", .. }));
    let again = slice(json!({ "grow": true, "width": 40 })).predict(&opt(48, 2)).unwrap();
    assert!(slice(json!({ "grow": true })).predict(&again).unwrap_err().to_string().contains("turned already"));
}

#[test]
fn settings_read_back() {
    for settings in
        [json!({}), json!({ "width": 40, "head": true }), json!({ "sparsity": 0.4, "multiple": 1, "grow": true })]
    {
        let method = slice(settings);
        assert_eq!(Slice::parse(method.settings()).unwrap(), method);
    }
    assert!(Slice::parse(json!({ "sparsity": 0.1, "width": 8 })).is_err());
    assert!(Slice::parse(json!({ "sparsity": 1.0 })).is_err());
}
