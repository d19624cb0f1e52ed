//! Questions that share beginnings, and prompts continued side by side, get the answers that each would get alone.

mod common;

use std::ops::ControlFlow;

use brevity_model::{Reach, Stage, Stages};
use brevity_runtime::{
    Compute, Error, FirstRows, Resident, Sampling, Sequence, StreamOptions, WeighOptions, Writing, generate,
    run_streamed, weigh, write,
};
use common::{Lcg, Memory, Named};

/// An OPT with random weights: learned positions, biases.
fn learned_positions() -> Memory {
    let config = r#"{"model_type": "opt", "vocab_size": 50, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "word_embed_proj_dim": 32, "do_layer_norm_before": true,
        "activation_function": "relu", "tie_word_embeddings": true}"#;
    let mut shapes: Vec<(String, [usize; 2])> = vec![
        ("model.decoder.embed_tokens.weight".into(), [50, 32]),
        ("model.decoder.embed_positions.weight".into(), [66, 32]),
        ("model.decoder.final_layer_norm.weight".into(), [1, 32]),
        ("model.decoder.final_layer_norm.bias".into(), [1, 32]),
    ];
    for i in 0..2 {
        for (name, shape) in [
            ("self_attn_layer_norm", [1, 32]),
            ("final_layer_norm", [1, 32]),
            ("self_attn.q_proj", [32, 32]),
            ("self_attn.k_proj", [32, 32]),
            ("self_attn.v_proj", [32, 32]),
            ("self_attn.out_proj", [32, 32]),
            ("fc1", [48, 32]),
            ("fc2", [32, 48]),
        ] {
            shapes.push((format!("model.decoder.layers.{i}.{name}.weight"), shape));
            let outputs = if shape[0] == 1 { shape[1] } else { shape[0] };
            shapes.push((format!("model.decoder.layers.{i}.{name}.bias"), [1, outputs]));
        }
    }
    let mut numbers = Lcg(5);
    let filled = shapes.into_iter().map(|(name, shape)| {
        let values = numbers.values(shape[0] * shape[1], name.contains("norm.weight"));
        (name, (shape, values))
    });
    Memory::new(config, &Named(filled.collect()))
}

fn windowed() -> Memory {
    let mut model = Memory::llama(true, 3);
    for stage in &mut model.stages {
        if let Stage::Block(block) = stage {
            block.attn.as_mut().unwrap().heads.reach = Reach::Window(3);
        }
    }
    model
}

/// Questions with much in common: a header, questions behind it, answers behind these; and one that stands apart.
fn sequences() -> Vec<Sequence> {
    let header = [7, 8, 9, 10, 11, 12, 13];
    let mut all = Vec::new();
    for question in [[1, 2, 3], [1, 2, 4], [5, 6, 7]] {
        for answer in [&[20][..], &[20, 21], &[22, 23, 24]] {
            let context = [&header[..], &question[..]].concat();
            all.push(Sequence { from: context.len(), ids: [&context[..], answer].concat() });
        }
    }
    all.push(Sequence { ids: vec![40, 41, 42], from: 1 });
    all.push(Sequence { ids: vec![40, 41, 42], from: 2 });
    all.push(Sequence { ids: vec![40], from: 1 });
    all
}

/// Log-probability, rank and likeliest token of every token that is asked for, sequence by sequence.
fn weighed(model: &dyn Stages, sequences: &[Sequence], options: &WeighOptions) -> Vec<Vec<(f64, usize, u32)>> {
    let mut all = vec![Vec::new(); sequences.len()];
    let visit = &mut |p: brevity_runtime::Prediction<'_>| {
        assert_eq!(p.position, sequences[p.sequence].from + all[p.sequence].len(), "from left to right");
        assert_eq!(p.target, sequences[p.sequence].ids[p.position]);
        all[p.sequence].push((p.log_prob(), p.rank(), p.best));
    };
    let mut last = 0.0;
    let watch = &mut |progress: brevity_runtime::Progress| {
        last = progress.fraction;
        Ok(())
    };
    weigh(model, sequences, options, visit, watch).unwrap();
    let asked = sequences.iter().any(|sequence| sequence.ids.len() > sequence.from);
    assert!(!asked || (last - 1.0f64).abs() < 1e-9, "all work is accounted for: {last}");
    all
}

/// The same by running each sequence on its own, through the streamed forward pass.
fn alone(model: &dyn Stages, sequence: &Sequence, compute: Compute) -> Vec<(f64, usize, u32)> {
    let mut all = Vec::new();
    let options = StreamOptions { first_rows: FirstRows::Same(sequence.from - 1), ..StreamOptions::new(compute) };
    let visit = &mut |chunk: brevity_runtime::Chunk<'_>| {
        for (logits, &target) in chunk.logits[0].chunks(chunk.vocabulary).zip(chunk.targets) {
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            let own = logits[target as usize];
            let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            let rank = logits.iter().filter(|x| **x > own).count();
            all.push((f64::from(own) - sum.ln(), rank, best as u32));
        }
        Ok(())
    };
    run_streamed(model, std::slice::from_ref(&sequence.ids), &options, visit, &mut |_| Ok(())).unwrap();
    all
}

#[test]
fn shared_beginnings_change_no_answer() {
    for (name, model) in
        [("llama", Memory::llama(false, 1)), ("windowed", windowed()), ("learned", learned_positions())]
    {
        for compute in [Compute::F32, Compute::Bf16] {
            let sequences = sequences();
            let found = weighed(&model, &sequences, &WeighOptions::new(compute));
            for (sequence, found) in sequences.iter().zip(&found) {
                let want = alone(&model, sequence, compute);
                assert_eq!(found.len(), want.len());
                for (a, b) in found.iter().zip(want) {
                    // Few queries go through other kernels than many, and the former round nothing to bf16.
                    let rounding = if compute == Compute::F32 { 1e-5 } else { 0.1 };
                    assert!((a.0 - b.0).abs() < rounding, "{name} {compute:?}: {a:?} {b:?}");
                    assert!(compute == Compute::Bf16 || (a.1, a.2) == (b.1, b.2), "{name}");
                }
            }
        }
    }
}

#[test]
fn passes_change_no_bit_and_company_nothing_but_rounding() {
    let model = Memory::llama(true, 2);
    let sequences = sequences();
    let options = |budget_bytes, rows| WeighOptions { compute: Compute::F32, budget_bytes, rows };
    for rows in [1, 4, 16, 4096] {
        let want = weighed(&model, &sequences, &options(1 << 30, rows));
        assert_eq!(weighed(&model, &sequences, &options(0, rows)), want);
    }
    let want = weighed(&model, &sequences, &options(1 << 30, 4096));
    let mut others: Vec<_> = [1, 4, 16].map(|rows| weighed(&model, &sequences, &options(1 << 30, rows))).into();
    let alone = |sequence| weighed(&model, std::slice::from_ref(sequence), &options(1 << 30, 4096)).remove(0);
    others.push(sequences.iter().map(alone).collect());
    for other in others {
        for (a, b) in other.iter().flatten().zip(want.iter().flatten()) {
            assert!((a.0 - b.0).abs() < 1e-5 && (a.1, a.2) == (b.1, b.2), "{a:?} {b:?}");
        }
    }
}

#[test]
fn prompts_are_continued_as_each_would_be_alone() {
    for model in [Memory::llama(true, 4), windowed(), learned_positions()] {
        let loaded = Resident::load(&model, Compute::F32).unwrap();
        let writings: Vec<Writing> = (0..50)
            .map(|n| Writing {
                prompt: (0..1 + n % 7).map(|i| ((n * 11 + i * 5) % 50) as u32).collect(),
                max_tokens: n as usize % 9,
            })
            .collect();
        let stop = [3, 17];
        let mut seen = vec![0; writings.len()];
        let found = write(&loaded, &writings, &stop, &mut |n, text| {
            seen[n] += 1;
            assert_eq!(text.len(), seen[n]);
            if n == 8 && text.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        for (n, writing) in writings.iter().enumerate() {
            let most = if n == 8 { 2.min(writing.max_tokens) } else { writing.max_tokens };
            let sampling = Sampling { max_tokens: most, stop: stop.to_vec(), ..Sampling::default() };
            let want = generate(&loaded, &writing.prompt, &sampling, &mut |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(found[n], want, "prompt {n}");
        }
    }
}

#[test]
fn what_cannot_be_run_names_the_sequence() {
    let model = Memory::llama(true, 2);
    let run = |sequences: &[Sequence]| {
        weigh(&model, sequences, &WeighOptions::new(Compute::F32), &mut |_| (), &mut |_| Ok(())).unwrap_err()
    };
    let of = |ids: &[u32]| Sequence { ids: ids.to_vec(), from: 1 };
    assert!(matches!(run(&[of(&[1, 2]), of(&[1, 50])]), Error::Token { window: 1, token: 50, vocabulary: 50 }));
    assert!(matches!(run(&[of(&[1, 2]), of(&[])]), Error::Empty { window: 1 }));
    let mut broken = Memory::llama(true, 2);
    if let Stage::Embed(embed) = &mut broken.stages[0] {
        let mut values = embed.tokens.weight.to_f32();
        values[9 * 32] = f32::NAN; // token 9
        embed.tokens.weight = brevity_model::Weight::float([50, 32], brevity_model::Floats::F32(values));
    }
    let sequences = [of(&[1, 2]), of(&[4, 9, 1]), of(&[5, 5])];
    let failed =
        weigh(&broken, &sequences, &WeighOptions::new(Compute::F32), &mut |_| (), &mut |_| Ok(())).unwrap_err();
    assert!(matches!(failed, Error::NonFinite { window: 1, .. }), "{failed}");
}

#[test]
fn a_caller_that_wants_to_stop_stops_it() {
    let model = Memory::llama(true, 2);
    let stopped =
        weigh(&model, &sequences(), &WeighOptions::new(Compute::F32), &mut |_| (), &mut |_| Err("stop".into()));
    assert!(matches!(stopped, Err(Error::Caller(_))));
}
