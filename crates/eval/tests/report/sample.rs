//! A report about models that do not exist, the same on every machine: long names, many facts, and text that would be code
//! if it were not escaped.

use brevity_eval::Gate;
use brevity_eval::report::{
    Compressed, Cuts, Difference, Fact, Facts, Flip, Flips, Kind, Layer, Measured, Model, On, Parts, Report, Speed,
    Tally, Trace, Unit,
};
use serde_json::json;

/// What breaks a page that does not escape it.
pub const HOSTILE: &str = "<script>alert(\"1\")</script>";

const BLOCKS: usize = 32;
const FACTS: usize = 300;
const TASKS: [(&str, u64, f64); 6] = [
    ("arc_easy", 2376, 0.744),
    ("arc_challenge", 1172, 0.431),
    ("hellaswag", 10042, 0.571),
    ("piqa", 1838, 0.779),
    ("kick_factoid_freebase_question_answering", 1000, 0.312),
    ("kick_in_context_retrieval_open_book", 1000, 0.604),
];
const RELATIONS: [(&str, &str); 5] = [
    ("capital of a country", "The capital of"),
    ("author of a book", "The author of"),
    ("chemical symbol", "The chemical symbol of"),
    ("birthplace of a person", "The town in which somebody was born who is known as"),
    ("year of an event", "The year of"),
];

/// How a made-up model is made up.
struct Shape {
    name: &'static str,
    bits: f64,
    /// How much it lost: 0 is nothing.
    harm: f64,
    /// Parts of embedding, attention and MLP that are left.
    parts: [f64; 3],
    recipe: &'static str,
}

const SHAPES: [Shape; 5] = [
    Shape {
        name: "imaginary/placeholder-7b-chat-gptq-int4-group128-held-out-damping",
        bits: 4.41,
        harm: 0.12,
        parts: [1.0, 0.2, 0.2],
        recipe: "name: gptq-int4\nsteps:\n  - quantize.gptq: { bits: 4, group: 128, symmetric: true }\n",
    },
    Shape {
        name: "imaginary/placeholder-7b-chat-rtn-int8",
        bits: 8.3,
        harm: 0.004,
        parts: [1.0, 0.48, 0.48],
        recipe: "name: int8\nsteps:\n  - quantize.rtn: { bits: 8, group: 128 }\n",
    },
    Shape {
        name: "imaginary/placeholder-7b-chat-sparsegpt-2-4-then-int4",
        bits: 3.1,
        harm: 0.62,
        parts: [1.0, 0.13, 0.13],
        recipe: "name: sparsegpt-2-4-int4\nsteps:\n  - prune.sparsegpt: { pattern: 2:4 }\n  - quantize.gptq: { bits: 4 }\n",
    },
    Shape {
        name: "imaginary/placeholder-7b-chat-wanda50",
        bits: 9.1,
        harm: 0.33,
        parts: [1.0, 0.55, 0.55],
        recipe: "name: wanda50\nsteps:\n  - prune.wanda: { sparsity: 0.5 }\n",
    },
    Shape {
        name: "<script>alert(\"1\")</script>-int2",
        bits: 2.6,
        harm: 1.0,
        parts: [0.5, 0.14, 0.14],
        recipe: "name: '<script>alert(\"1\")</script>'\nsteps: []\n",
    },
];

/// One reference and five others.
pub fn report() -> Report {
    let mut report = Report::new(reference());
    report.tool = "brevity 0.0.0".into();
    report.others = SHAPES.iter().enumerate().map(|(n, shape)| compressed(&report.reference, n, shape)).collect();
    report.method = vec![
        "All figures are made up, to see what a report looks like.".into(),
        "24 windows of 2048 tokens of `made-up-text`, f32 arithmetic.".into(),
        "Tasks without examples in front of the question; ties go to the first answer.".into(),
    ];
    report.warnings = vec!["`piqa` has few questions: its intervals are wide.".into()];
    let limits = ["kl_mean<=0.05", "perplexity<=+5%", "arc_easy>=-0.02", "facts.lost<=5%", "boolq>=-0.02"];
    let gate = Gate { limits: limits.map(|limit| limit.parse().unwrap()).to_vec() };
    gate.apply(&mut report, &["arc_easy", "boolq"]).unwrap();
    report
}

/// The same with one other model, as `compare BEFORE AFTER` has it.
pub fn pair() -> Report {
    let mut report = report();
    report.others.truncate(1);
    report
}

/// From 0 to 1, the same for the same number.
fn noise(seed: usize) -> f64 {
    let mut x = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) as f64 / u64::MAX as f64
}

fn parts([embedding, attention, mlp]: [f64; 3]) -> Parts {
    let mib = |mib: f64| (mib * 1048576.0) as u64;
    Parts {
        embedding: mib(250.0 * embedding),
        attention: mib(4096.0 * attention),
        mlp: mib(8256.0 * mlp),
        norms: mib(0.5),
        head: mib(250.0 * embedding),
        other: mib(0.1),
    }
}

fn model(name: &str, sizes: Parts, bits: f64, harm: f64, recipe: Option<&str>) -> Model {
    let perplexity = |name: &str, value: f64| Measured {
        name: "perplexity".into(),
        on: On::Text(name.into()),
        value: value * (0.2 * harm * (1.0 + harm)).exp(),
        error: Some(0.02 * value),
        n: Some(24),
        unit: Unit::Number,
        higher_is_better: false,
    };
    let task = |(n, (name, asked, value)): (usize, &(&str, u64, f64))| {
        let value = value - harm * 0.12 * noise(n + 7) - 0.004 * noise(n * 31 + (harm * 100.0) as usize);
        let score = |metric: &str, value: f64| Measured {
            name: metric.into(),
            on: On::Task((*name).into()),
            value,
            error: Some((value * (1.0 - value) / *asked as f64).sqrt()),
            n: Some(*asked),
            unit: Unit::Share,
            higher_is_better: true,
        };
        match name.starts_with("kick") {
            true => vec![score("exact_match", value)],
            false => vec![score("acc_norm", value), score("acc", value - 0.013)],
        }
    };
    let mut scores = vec![perplexity("made-up-text", 8.41), perplexity("made-up-code", 3.27)];
    scores.extend(TASKS.iter().enumerate().flat_map(task));
    Model {
        name: name.into(),
        size_bytes: sizes.total(),
        parameters: 6_738_415_616,
        bits_per_weight: bits,
        parts: sizes,
        speed: Some(Speed {
            prefill_tokens_per_second: 118.4 * (16.0 / bits).sqrt(),
            decode_tokens_per_second: Some(3.1 * 16.0 / bits * 0.8),
            conditions: "batch 1, a prompt of 512 tokens, 128 tokens written, the median of 5 runs, 2 threads".into(),
        }),
        peak_memory_bytes: Some(sizes.total() + (800 << 20)),
        provenance: recipe.map_or(json!(null), |recipe| {
            json!({
                "tool": "brevity 0.0.0", "identity": "00c0ffee".repeat(8), "model": "imaginary/placeholder-7b-chat", "format": "compressed-tensors",
                "seed": 0, "calibration": { "text": "made-up-calibration", "samples": 128, "length": 2048 },
                "recipe_yaml": recipe, "inputs": [{ "stage": "embed", "blake3": "deadbeef".repeat(8) }],
            })
        }),
        scores,
        cuts: vec![cuts(harm)],
        notes: Vec::new(),
    }
}

fn cuts(harm: f64) -> Cuts {
    let score = |layers: usize, dims: usize| 0.82 - 0.08 * harm - 0.3 / (1 + layers) as f64 - 2.0 / dims as f64;
    let (layers, dims): (Vec<usize>, Vec<usize>) = ((0..=6).collect(), vec![32, 64, 128, 256]);
    Cuts {
        name: "spearman".into(),
        on: On::Task("made-up-pairs".into()),
        higher_is_better: true,
        how: "the first ones, as they are".into(),
        values: layers.iter().map(|&l| dims.iter().map(|&d| score(l, d)).collect()).collect(),
        layers,
        dims,
    }
}

fn reference() -> Model {
    model("imaginary/placeholder-7b-chat", parts([1.0; 3]), 16.0, 0.0, None)
}

fn compressed(reference: &Model, n: usize, shape: &Shape) -> Compressed {
    let Shape { name, bits, harm, recipe, .. } = *shape;
    let mut model = model(name, parts(shape.parts), bits, harm, Some(recipe));
    if harm > 0.9 {
        model.notes.push("two blocks were dropped".into());
    }
    let differences = differences(reference, &model, harm);
    Compressed {
        differences,
        layers: layers(n, harm),
        facts: Some(facts(n, harm)),
        flips: TASKS[..4].iter().enumerate().map(|(task, _)| flips(n, task, harm)).collect(),
        traces: (0..9).map(|trace| self::trace(n, trace, harm)).collect(),
        gate: Vec::new(),
        model,
    }
}

fn differences(reference: &Model, model: &Model, harm: f64) -> Vec<Difference> {
    let text = On::Text("made-up-text".into());
    let pair = |name: &str, on: &On, kind, value: f64, wide: f64| Difference {
        name: name.into(),
        on: on.clone(),
        kind,
        value,
        interval: Some([value - wide, value + wide]),
        p: None,
        n: Some(24),
        unit: match kind {
            Kind::Distance => Unit::Nats,
            Kind::Agreement => Unit::Share,
            _ => Unit::Number,
        },
        higher_is_better: kind == Kind::Agreement,
    };
    let mut all = Vec::new();
    for (before, after) in reference.scores.iter().zip(&model.scores) {
        match &before.on {
            On::Text(_) => {
                let ratio = after.value / before.value;
                all.push(pair("perplexity_ratio", &before.on, Kind::Ratio, ratio, 0.002 + 0.05 * (ratio - 1.0)));
            }
            On::Task(_) => {
                let (value, wide) = (after.value - before.value, 18.0 / before.n.unwrap() as f64 + 0.003);
                all.push(Difference {
                    name: before.name.clone(),
                    unit: Unit::Share,
                    p: Some((-4.0 * (value / wide).powi(2)).exp()),
                    n: before.n,
                    higher_is_better: true,
                    ..pair("", &before.on, Kind::Change, value, wide)
                });
            }
        }
    }
    all.push(pair("kl_mean", &text, Kind::Distance, 0.16 * harm, 0.006 * harm));
    all.push(pair("kl_p99", &text, Kind::Distance, 1.9 * harm, 0.1 * harm));
    all.push(pair("top1_agreement", &text, Kind::Agreement, 0.995 - 0.3 * harm, 0.004));
    all
}

fn layers(n: usize, harm: f64) -> Vec<Layer> {
    let place = |at: usize| if at == 0 { "embed".into() } else { format!("blocks.{}", at - 1) };
    let layer = |at: usize| {
        let error = harm * (0.002 + 0.25 * (at as f64 / BLOCKS as f64).powi(2)) * (0.8 + 0.4 * noise(at * 13 + n));
        let error = error + if n == 2 && at > 14 { 0.2 } else { 0.0 };
        Layer {
            place: place(at),
            relative_error: Some(error),
            cosine: Some(1.0 - error * error / 2.0),
            cka: Some(1.0 - error * error / 1.5 * (0.7 + 0.3 * noise(at + 91 * n))),
        }
    };
    (0..=BLOCKS).map(layer).collect()
}

fn facts(n: usize, harm: f64) -> Facts {
    let bands = ["under 0.1", "0.1 to 0.3", "0.3 to 0.6", "0.6 to 0.9", "over 0.9"];
    let mut facts = Facts { p: Some((-9.0 * harm).exp()), ..Facts::default() };
    let tally = |name: &str| Tally { name: name.into(), ..Tally::default() };
    facts.all = tally("all");
    facts.bands = bands.map(tally).to_vec();
    facts.relations = RELATIONS.map(|(relation, _)| tally(relation)).to_vec();
    for item in 0..FACTS + 100 {
        let relation = item % RELATIONS.len();
        let sure = noise(item * 5 + 3);
        let known = item < FACTS;
        let changed = noise(item * 17 + n * 1009) < if known { harm * 0.5 * (1.2 - sure) } else { 0.03 };
        let band = bands.len().min(1 + [0.1, 0.3, 0.6, 0.9].iter().filter(|edge| sure > **edge).count()) - 1;
        for tally in [&mut facts.all, &mut facts.relations[relation], &mut facts.bands[band]] {
            tally.asked += 1;
            tally.known += u64::from(known);
            tally.lost += u64::from(known && changed);
            tally.gained += u64::from(!known && changed);
        }
        if !changed {
            continue;
        }
        let hostile = if item % 50 == 1 { HOSTILE } else { "" };
        let fact = Fact {
            prompt: format!(
                "{} made-up thing number {item} with a rather long description {hostile} is",
                RELATIONS[relation].1
            ),
            answer: format!("answer-{item}"),
            relation: RELATIONS[relation].0.into(),
            rank_before: Some(if known { 1 } else { 2 + (40.0 * noise(item)) as u64 }),
            rank_after: Some(if known { 2 + (900.0 * noise(item + n).powi(3)) as u64 } else { 1 }),
            probability_before: Some(if known { sure } else { 0.04 }),
            probability_after: Some(if known { sure * 0.3 * noise(item + 1) } else { 0.21 }),
        };
        if known { &mut facts.lost } else { &mut facts.gained }.push(fact);
    }
    facts
}

fn flips(n: usize, task: usize, harm: f64) -> Flips {
    let (name, asked, _) = TASKS[task];
    let part = |share: f64| (asked as f64 * harm * share) as u64;
    let answers = ["the first answer", "a second one", "the third, which is longer than the others", "none of these"];
    let item = |at: usize| {
        let pick = |seed: usize| answers[(4.0 * noise(seed) * 0.999) as usize].to_owned();
        Flip {
            item: format!("{}", at * 37 + 11),
            question: format!(
                "Made-up question {at} of {name}, which goes on for about as long as questions do: which of these holds?"
            ),
            before: pick(at * 3 + n),
            after: pick(at * 3 + n + 1),
            gold: pick(at * 3 + n + at % 2),
        }
    };
    Flips {
        task: name.into(),
        asked,
        lost: part(0.09),
        gained: part(0.05),
        moved: part(0.07),
        p: Some((-6.0 * harm).exp()),
        items: (0..(8.0 + 8.0 * harm) as usize).map(item).filter(|flip| flip.before != flip.after).collect(),
    }
}

fn trace(n: usize, at: usize, harm: f64) -> Trace {
    let tokens = |from: usize| (from..from + 8).map(|k| format!("token{}", k % 23)).collect();
    let lost = n == 4 && at.is_multiple_of(3);
    let kept = 1.0 - harm * 0.6 * noise(at + 5 * n);
    Trace {
        block: 17 + at,
        column: 1009 * (at + 1),
        concept: (at % 4 != 3).then(|| format!("made-up concept {at}")),
        tokens: tokens(at * 3),
        tokens_after: if lost { Vec::new() } else { tokens(at * 3 + (4.0 * (1.0 - kept)) as usize) },
        cosine: (!lost).then_some(kept),
        jaccard: (!lost).then_some(kept * kept),
        lost,
    }
}
