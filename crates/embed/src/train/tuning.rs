//! The loop: batches, gradients of two halves on two threads, a rate that rises and falls, the best that was seen.

use std::collections::HashMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use tokenizers::Tokenizer;

use super::adam::Adam;
use super::batch::{Batches, Example, repeated};
use super::loss::{Cut, Objective, align, contrastive, distil, prefix, ranking};
use super::student::Student;
use crate::encoder::{Ask, Encoder};
use crate::error::{Error, Result};
use crate::fit::fit;
use crate::modules::Modules;
use crate::random::{Random, SeedableRng, below};
use crate::tokens::{Reading, Tokens};
use crate::vectors::Vectors;

/// The halves of a batch; a constant, so that sums do not depend on the machine.
const SHARDS: usize = 2;
/// At most so many examples, and no more than one in twenty, are held out to judge by.
const HELD_OUT: usize = 256;
/// Examples on which the matrices that read a student as its teacher begin.
const BEGIN: usize = 2048;
/// The share of tokens that are said twice at most.
const REPEATED: f64 = 0.32;

/// How an encoder is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// What for.
    pub objective: Objective,
    /// Steps.
    pub steps: usize,
    /// Examples in a step; each half is a batch of its own for losses that hold examples against each other.
    pub batch: usize,
    /// The highest rate, reached after a tenth of the steps, from where it falls to zero.
    pub rate: f64,
    /// Texts are cut to so many tokens.
    pub max_tokens: usize,
    /// Steps between looks at what was held out.
    pub check_every: usize,
    /// Looks without an improvement after which training ends.
    pub patience: usize,
    /// Of the order of examples and all else that is random.
    pub seed: u64,
}

/// What is told while training goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Steps done.
    pub done: usize,
    /// Of so many.
    pub of: usize,
    /// The mean loss of late.
    pub loss: f64,
    /// The loss on what was held out, if this was a look at it.
    pub held_out: Option<f64>,
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Steps that were done.
    pub steps: usize,
    /// The step whose weights are kept.
    pub best: usize,
    /// The loss on what was held out, before and at the best step.
    pub held_out: [f64; 2],
    /// Whether it was told to stop, or nothing improved any more.
    pub ended_early: bool,
}

/// A batch as the model sees it.
struct Batch {
    first: Vec<Vec<u32>>,
    second: Option<Vec<Vec<u32>>>,
    scores: Option<Vec<f32>>,
    teacher: Option<Tensor>,
    /// The layer and width that were drawn, for [`Objective::AnyCut`].
    drawn: Option<Cut>,
}

/// Trains a student, and leaves it with the weights that did best on examples that were held out. With a `state` file training
/// can be broken off and taken up again: the file is written at each look and read at the beginning.
///
/// `observe` hears of each step, and says whether to go on.
///
/// # Errors
/// [`Error::Untrainable`] if the objective does not fit the student or the examples, or the state is another's.
#[allow(clippy::too_many_arguments, reason = "each is a thing of its own")]
pub fn tune(
    student: &Student,
    tokenizer: Tokenizer,
    modules: &Modules,
    examples: &[Example],
    teacher: Option<&Encoder>,
    tuning: &Tuning,
    state: Option<&Path>,
    observe: &mut dyn FnMut(&Step) -> bool,
) -> Result<Outcome> {
    let cuts = checked(student, examples, teacher, tuning)?;
    let most = modules.max_tokens.unwrap_or(usize::MAX).min(tuning.max_tokens);
    let reader = Tokens::new(tokenizer, Reading { special: true, lower: modules.lower_case, most })?;
    let held = (examples.len() / 20).clamp(1, HELD_OUT);
    let (judged, trained) = examples.split_at(held);
    let readers = match (&tuning.objective, teacher) {
        (Objective::Distil { .. }, Some(teacher)) => {
            let some: Vec<&Example> = trained.iter().take(BEGIN).collect();
            reading(student, &reader, &some, teacher, &cuts)?
        }
        _ => Vec::new(),
    };
    let work = Work { student, reader: &reader, teacher, tuning, cuts: &cuts, readers: &readers };
    let vars: Vec<Var> = student.vars().into_iter().chain(readers.iter().cloned()).collect();
    let mut adam = Adam::new(vars.clone(), 0.01);
    let mut batches = Batches::new(trained.len(), tuning.seed);
    let judge = || -> Result<f64> {
        let mut random = Random::seed_from_u64(tuning.seed);
        let (mut sum, mut count) = (0.0, 0.0);
        for some in judged.chunks(tuning.batch / SHARDS) {
            let batch = work.batch(&some.iter().collect::<Vec<_>>(), &mut random)?;
            sum += f64::from(work.loss(&batch)?.to_scalar::<f32>()?) * some.len() as f64;
            count += some.len() as f64;
        }
        Ok(sum / count)
    };
    let before = judge()?;
    let mut best = Best { step: 0, loss: before, values: values(&vars)? };
    let (mut begin, mut since, mut late) = (0, 0, None::<f64>);
    if let Some(kept) = state.filter(|path| path.exists()) {
        begin = restore(kept, &vars, &mut adam, &mut best, tuning)?;
    }
    let mut done = begin;
    for step in 0..tuning.steps {
        let numbers = batches.next(tuning.batch);
        if step < begin {
            continue;
        }
        let mut random = Random::seed_from_u64(tuning.seed.wrapping_add(1 + step as u64));
        let halves: Vec<Vec<&Example>> = numbers
            .chunks(numbers.len().div_ceil(SHARDS))
            .map(|half| half.iter().map(|&n| &trained[n]).collect())
            .collect();
        let drawn = work.draw(&mut random);
        let made = halves.iter().map(|half| Ok(Batch { drawn, ..work.batch(half, &mut random)? }));
        let made = made.collect::<Result<Vec<_>>>()?;
        let (loss, gradients) = work.gradients(&made)?;
        adam.step(&gradients, rate(tuning, step))?;
        done = step + 1;
        late = Some(late.map_or(loss, |late| 0.95 * late + 0.05 * loss));
        let last = done == tuning.steps;
        let mut told = Step { done, of: tuning.steps, loss: late.unwrap_or(loss), held_out: None };
        if done % tuning.check_every == 0 || last {
            let found = judge()?;
            told.held_out = Some(found);
            since += 1;
            if found < best.loss {
                best = Best { step: done, loss: found, values: values(&vars)? };
                since = 0;
            }
            if let Some(path) = state {
                keep(path, &vars, &adam, &best, done, tuning)?;
            }
        }
        if !observe(&told) || since >= tuning.patience {
            break;
        }
    }
    put(&vars, &best.values)?;
    Ok(Outcome { steps: done, best: best.step, held_out: [before, best.loss], ended_early: done < tuning.steps })
}

/// The best weights so far.
struct Best {
    step: usize,
    loss: f64,
    values: Vec<Vec<f32>>,
}

/// Refuses what does not fit together, and names the cuts that are trained.
fn checked(student: &Student, examples: &[Example], teacher: Option<&Encoder>, tuning: &Tuning) -> Result<Vec<Cut>> {
    let refused = |what: String| Err(Error::Untrainable { what });
    let (layers, width) = (student.layers(), student.width());
    let cuts = match &tuning.objective {
        Objective::Distil { cuts } if cuts.is_empty() => vec![Cut { layers, dims: width }],
        Objective::Distil { cuts } | Objective::FixedCuts { cuts } => cuts.clone(),
        Objective::Matryoshka { dims } => dims.iter().map(|&dims| Cut { layers, dims }).collect(),
        Objective::AnyCut { dims, .. } => dims.iter().map(|&dims| Cut { layers, dims }).collect(),
        Objective::Repetition => vec![Cut { layers, dims: width }],
    };
    if cuts.is_empty() {
        return refused("is given no cut to train for".into());
    }
    if let Some(cut) = cuts.iter().find(|cut| cut.layers > layers || cut.dims > width || cut.dims == 0) {
        let Cut { layers: asked, dims } = cut;
        return refused(format!("has {layers} layers and {width} dimensions, not {asked} and {dims}"));
    }
    if matches!(tuning.objective, Objective::AnyCut { .. }) && layers < 2 {
        return refused("has one layer, so there is no shallower one to train".into());
    }
    let paired = !matches!(tuning.objective, Objective::Distil { .. } | Objective::Repetition);
    if paired && examples.iter().any(|example| example.second.is_none()) {
        return refused("is to be trained on pairs, and was given texts".into());
    }
    if matches!(tuning.objective, Objective::Distil { .. }) && teacher.is_none() {
        return refused("is to be taught, and has no teacher".into());
    }
    if tuning.batch < 2 * SHARDS || examples.len() < 2 * tuning.batch {
        let (batch, count) = (tuning.batch, examples.len());
        return refused(format!(
            "was given {count} examples for batches of {batch}: two batches are the least, of 4 or more"
        ));
    }
    Ok(cuts)
}

/// The matrices that read each cut as the teacher, by least squares.
fn reading(student: &Student, reader: &Tokens, some: &[&Example], teacher: &Encoder, cuts: &[Cut]) -> Result<Vec<Var>> {
    let texts: Vec<&str> = some.iter().map(|example| example.first.as_str()).collect();
    let said = teacher.encode(&texts, &Ask::default())?;
    let layers: Vec<usize> = cuts.iter().map(|cut| cut.layers).collect();
    let mut own: Vec<Vectors> = cuts.iter().map(|cut| Vectors { width: cut.dims, values: Vec::new() }).collect();
    for (n, part) in texts.chunks(64).enumerate() {
        let ids = part.iter().map(|text| reader.ids(n, text)).collect::<Result<Vec<_>>>()?;
        let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        for ((cut, own), found) in cuts.iter().zip(&mut own).zip(student.vectors(&ids, &layers)?) {
            own.values.extend(prefix(&found.detach(), cut.dims)?.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    let one = |own: &Vectors| -> Result<Var> {
        let layer = fit(own, &said)?.layer;
        let matrix = Tensor::from_vec(layer.weight, (said.width, own.width), &Device::Cpu)?;
        Ok(Var::from_tensor(&matrix)?)
    };
    own.iter().map(one).collect()
}

/// Everything that a step needs and does not change.
struct Work<'a> {
    student: &'a Student,
    reader: &'a Tokens,
    teacher: Option<&'a Encoder>,
    tuning: &'a Tuning,
    cuts: &'a [Cut],
    readers: &'a [Var],
}

impl Work<'_> {
    /// What a step draws.
    fn draw(&self, random: &mut Random) -> Option<Cut> {
        match &self.tuning.objective {
            Objective::AnyCut { dims, .. } => {
                let layers = 1 + below(random, self.student.layers() - 1);
                Some(Cut { layers, dims: dims[below(random, dims.len())] })
            }
            _ => None,
        }
    }

    fn batch(&self, examples: &[&Example], random: &mut Random) -> Result<Batch> {
        let ids = |texts: Vec<&str>| -> Result<Vec<Vec<u32>>> {
            texts.iter().enumerate().map(|(n, text)| self.reader.ids(n, text)).collect()
        };
        let texts: Vec<&str> = examples.iter().map(|example| example.first.as_str()).collect();
        let first: Vec<Vec<u32>> = ids(texts.clone())?;
        let second = match &self.tuning.objective {
            Objective::Distil { .. } => None,
            Objective::Repetition => {
                Some(first.iter().map(|ids| repeated(ids, REPEATED, self.reader.most(), random)).collect())
            }
            _ => Some(ids(examples.iter().filter_map(|example| example.second.as_deref()).collect())?),
        };
        let teacher = match (&self.tuning.objective, self.teacher) {
            (Objective::Distil { .. }, Some(teacher)) => {
                let said = teacher.encode(&texts, &Ask::default())?;
                Some(Tensor::from_vec(said.values, (texts.len(), said.width), &Device::Cpu)?)
            }
            _ => None,
        };
        let scores: Option<Vec<f32>> = examples.iter().map(|example| example.score).collect();
        let drawn = match &self.tuning.objective {
            // A look at what was held out takes the middle of what is drawn from.
            Objective::AnyCut { dims, .. } => {
                Some(Cut { layers: self.student.layers().div_ceil(2), dims: dims[dims.len() / 2] })
            }
            _ => None,
        };
        Ok(Batch { first, second, scores, teacher, drawn })
    }

    /// The loss of a batch.
    fn loss(&self, batch: &Batch) -> Result<Tensor> {
        let (last, width) = (self.student.layers(), self.student.width());
        let whole = Cut { layers: last, dims: width };
        let cuts: Vec<Cut> = match (&self.tuning.objective, batch.drawn) {
            (Objective::AnyCut { .. }, Some(Cut { layers, dims })) => {
                vec![whole, Cut { layers: last, dims }, Cut { layers, dims: width }, Cut { layers, dims }]
            }
            (Objective::FixedCuts { cuts }, _) => std::iter::once(whole).chain(cuts.iter().copied()).collect(),
            _ => self.cuts.to_vec(),
        };
        let mut layers: Vec<usize> = cuts.iter().map(|cut| cut.layers).collect();
        layers.sort_unstable();
        layers.dedup();
        let of =
            |texts: &[Vec<u32>]| self.student.vectors(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>(), &layers);
        let first = of(&batch.first)?;
        let second = batch.second.as_deref().map(of).transpose()?;
        let at =
            |layer: usize| layers.iter().position(|&one| one == layer).expect("all layers of all cuts were asked for");
        let mut loss: Option<Tensor> = None;
        let mut add = |part: Tensor, weight: f64| -> Result<()> {
            let part = (part * weight)?;
            loss = Some(match loss.take() {
                Some(sum) => (sum + part)?,
                None => part,
            });
            Ok(())
        };
        for (n, cut) in cuts.iter().enumerate() {
            let a = prefix(&first[at(cut.layers)], cut.dims)?;
            if let (Some(teacher), Some(reader)) = (&batch.teacher, self.readers.get(n)) {
                add(distil(&a, reader.as_tensor(), teacher)?, 1.0)?;
                continue;
            }
            let Some(second) = &second else { continue };
            let b = prefix(&second[at(cut.layers)], cut.dims)?;
            let own = match &batch.scores {
                Some(scores) => ranking(&a, &b, scores)?,
                None => contrastive(&a, &b)?,
            };
            let weight = match &self.tuning.objective {
                Objective::AnyCut { weighting, .. } if cut.layers < last => weighting.weight(cut.layers),
                _ => 1.0,
            };
            add(own, weight)?;
            let aligned = match &self.tuning.objective {
                Objective::AnyCut { .. } => cut.layers < last && cut.dims == width,
                Objective::FixedCuts { .. } => n > 0 && *cut != whole,
                _ => false,
            };
            if aligned {
                add(align(&a, &prefix(&first[at(last)], cut.dims)?)?, 1.0)?;
            }
        }
        loss.ok_or(Error::Untrainable { what: "is given no cut to train for".into() })
    }

    /// The mean loss of batches, and their gradients, each on a thread of its own.
    fn gradients(&self, batches: &[Batch]) -> Result<(f64, Vec<GradStore>)> {
        let one = |batch: &Batch| -> Result<(f64, GradStore)> {
            let loss = self.loss(batch)?;
            Ok((f64::from(loss.to_scalar::<f32>()?), loss.backward()?))
        };
        let found = std::thread::scope(|scope| {
            let threads: Vec<_> = batches.iter().map(|batch| scope.spawn(|| one(batch))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let loss = found.iter().map(|(loss, _)| loss).sum::<f64>() / found.len() as f64;
        if !loss.is_finite() {
            return Err(Error::Untrainable { what: "has a loss that is no number any more: take a lower rate".into() });
        }
        Ok((loss, found.into_iter().map(|(_, gradients)| gradients).collect()))
    }
}

/// It rises for a tenth of the steps, and falls to zero.
fn rate(tuning: &Tuning, step: usize) -> f64 {
    let warm = (tuning.steps / 10).max(1) as f64;
    let (at, left) = (step as f64 + 1.0, (tuning.steps - step) as f64);
    tuning.rate * (at / warm).min(1.0) * (left / (tuning.steps as f64 - warm).max(1.0)).min(1.0)
}

fn values(vars: &[Var]) -> Result<Vec<Vec<f32>>> {
    vars.iter().map(|var| Ok(var.as_tensor().flatten_all()?.to_vec1()?)).collect()
}

fn put(vars: &[Var], values: &[Vec<f32>]) -> Result<()> {
    for (var, values) in vars.iter().zip(values) {
        var.set(&Tensor::from_slice(values, var.as_tensor().shape(), &Device::Cpu)?)?;
    }
    Ok(())
}

/// Writes all that training goes on from, whole or not at all.
fn keep(path: &Path, vars: &[Var], adam: &Adam, best: &Best, done: usize, tuning: &Tuning) -> Result<()> {
    let mut state = adam.state()?;
    for (n, (var, best)) in vars.iter().zip(&best.values).enumerate() {
        state.insert(format!("now.{n}"), var.as_tensor().clone());
        state.insert(format!("best.{n}"), Tensor::from_slice(best, best.len(), &Device::Cpu)?);
    }
    state.insert("done".into(), Tensor::new(&[done as u32, best.step as u32], &Device::Cpu)?);
    state.insert("loss".into(), Tensor::new(&[best.loss], &Device::Cpu)?);
    state.insert("of".into(), Tensor::new(&fingerprint(tuning)[..], &Device::Cpu)?);
    let part = path.with_added_extension("part");
    candle_core::safetensors::save(&state, &part)?;
    let refused = |source| Error::File { file: path.to_owned(), why: format!("cannot be written: {source}") };
    std::fs::rename(&part, path).map_err(refused)
}

/// Goes on from what [`keep`] wrote; returns the steps behind it.
fn restore(path: &Path, vars: &[Var], adam: &mut Adam, best: &mut Best, tuning: &Tuning) -> Result<usize> {
    let state: HashMap<String, Tensor> = candle_core::safetensors::load(path, &Device::Cpu)?;
    let other = || Error::Untrainable { what: format!("was trained for something else in `{}`", path.display()) };
    let get = |name: &str| state.get(name).ok_or_else(other);
    if get("of")?.to_vec1::<u8>()? != fingerprint(tuning) {
        return Err(other());
    }
    for (n, var) in vars.iter().enumerate() {
        let now = get(&format!("now.{n}"))?;
        if now.shape() != var.as_tensor().shape() {
            return Err(other());
        }
        var.set(now)?;
        best.values[n] = get(&format!("best.{n}"))?.to_vec1()?;
    }
    adam.restore(&state)?;
    let done = get("done")?.to_vec1::<u32>()?;
    best.loss = get("loss")?.to_vec1::<f64>()?[0];
    best.step = done[1] as usize;
    Ok(done[0] as usize)
}

/// What a state belongs to.
fn fingerprint(tuning: &Tuning) -> Vec<u8> {
    format!("{tuning:?}").into_bytes()
}
