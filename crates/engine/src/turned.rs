//! The model that the steps of a recipe work on: the checkpoint as it is, or with its residual stream turned.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use brevity_formats::{Checkpoint, laid};
use brevity_kernels::gram::Gram;
use brevity_kernels::matmul::Rows;
use brevity_methods::{Directions, Method, StreamMethod};
use brevity_model::{Block, CodeForm, Floats, Form, Model, Norm, NormKind, Place, Source, Stage, Weight};
use brevity_runtime::{Applied, Compute, Flow, Forward, Keep, Prepare, values};

use crate::error::Error;
use crate::recipe::Recipe;
use crate::samples::Calibration;
use crate::work::step_place;

/// A step that turns the residual stream, and what it found.
pub(crate) struct Turned {
    method: Arc<dyn StreamMethod>,
    /// The step, for errors.
    place: String,
    /// The model as it was.
    before: Model<Form>,
    /// The forms that are left.
    forms: Model<Form>,
    /// Where the weights were, with the forms that are left.
    model: Model<Source>,
    /// How many directions are kept at each stop.
    kept: Vec<usize>,
    found: Mutex<Option<Found>>,
}

/// Directions, in a file that vanishes with the process.
struct Found {
    file: File,
    dir: PathBuf,
    kept: Vec<usize>,
    hidden: usize,
}

impl Turned {
    /// What the methods of a recipe make of the stream of a model, if any of them changes it.
    ///
    /// # Errors
    /// What the method refuses; [`Error::First`] if it is not the first step, or not for the whole model.
    pub fn of(recipe: &Recipe, methods: &[Method], model: &Model<Source>) -> Result<Option<Self>, Error> {
        let Some(step) = methods.iter().rposition(|method| method.stream().is_some()) else { return Ok(None) };
        let (place, asked) = (step_place(recipe, step), &recipe.steps[step]);
        if step > 0 || !asked.at.is_empty() || !asked.except.is_empty() {
            return Err(Error::First { method: asked.method.clone(), place });
        }
        let method = methods[step].stream().cloned().expect("it was found by that");
        let before = model.forms();
        let refused = |source| Error::Method { place: place.clone(), source };
        let forms = method.predict(&before).map_err(refused)?;
        let model = laid(model, &forms)?;
        let kept = kept(&forms);
        Ok(Some(Turned { method, place, before, forms, model, kept, found: Mutex::new(None) }))
    }

    /// The forms of the model as it was.
    pub fn before(&self) -> &Model<Form> {
        &self.before
    }

    /// Bytes of directions, and of the stream of so many tokens while they are searched for, in files.
    pub fn spilled(&self, tokens: usize) -> u64 {
        (4 * self.before.hidden * (tokens + self.kept.iter().sum::<usize>())) as u64
    }
}

/// How wide the stream is in front of each of its stops.
fn kept(model: &Model<Form>) -> Vec<usize> {
    let mut kept = Vec::new();
    for stage in &model.stages {
        match stage {
            Stage::Block(block) => {
                let attn = block.attn.as_ref().map(|attn| &attn.q);
                let mlp = block.mlp.as_ref().map(|mlp| &mlp.up);
                let readers = attn.into_iter().chain(mlp).take(block.reads());
                kept.extend(readers.map(|linear| linear.weight.shape()[1]));
            }
            Stage::Head(head) => kept.extend(head.out.iter().map(|out| out.weight.shape()[1])),
            _ => {}
        }
    }
    kept
}

/// The checkpoint behind the step that turns its stream, if there is one.
#[derive(Clone, Copy)]
pub(crate) struct Base<'a> {
    pub checkpoint: &'a Checkpoint,
    turned: Option<&'a Turned>,
}

impl<'a> Base<'a> {
    pub fn new(checkpoint: &'a Checkpoint, turned: Option<&'a Turned>) -> Self {
        Base { checkpoint, turned }
    }

    /// Where the weights are, with the forms in which they are loaded.
    pub fn model(&self) -> &'a Model<Source> {
        self.turned.map_or(self.checkpoint.model(), |turned| &turned.model)
    }

    /// The weights of a stage, checked, copied out of the files.
    ///
    /// # Errors
    /// If they cannot be read, or are not finite; if the directions of the stream have not been found.
    pub fn load(&self, n: usize) -> Result<Stage<Weight>, Error> {
        let stage = self.original(n)?;
        self.turn(n, stage)
    }

    /// The weights of a stage as they were in the checkpoint, checked.
    ///
    /// # Errors
    /// If they cannot be read, or are not finite.
    pub fn original(&self, n: usize) -> Result<Stage<Weight>, Error> {
        let stage = self.checkpoint.load_stage(n)?;
        self.checkpoint.release_stage(n);
        self.checkpoint.check_finite(n, &stage)?;
        Ok(stage)
    }

    /// A stage of the checkpoint as steps get it.
    ///
    /// # Errors
    /// As [`Base::load`].
    pub fn turn(&self, n: usize, stage: Stage<Weight>) -> Result<Stage<Weight>, Error> {
        let Some(turned) = self.turned else { return Ok(stage) };
        let folded = self.folded(turned, n, stage)?;
        let mut stop = stops_before(&turned.before, n);
        let mut found = turned.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = found.as_mut().expect("directions are found before weights are asked for");
        let method = &turned.method;
        let done = match folded {
            Stage::Embed(_) => method.turn(folded, None, Some(&found.get(0)?)),
            Stage::Block(block) => {
                let mut whole = Block { attn: None, mlp: None, parallel: block.parallel };
                for part in between_stops(block) {
                    let (from, to) = (found.get(stop)?, found.get(stop + 1)?);
                    stop += 1;
                    if let Stage::Block(part) = method.turn(Stage::Block(part), Some(&from), Some(&to)) {
                        whole.attn = whole.attn.or(part.attn);
                        whole.mlp = whole.mlp.or(part.mlp);
                    }
                }
                Stage::Block(whole)
            }
            Stage::Head(_) => method.turn(folded, Some(&found.get(stop)?), None),
            Stage::Loose(_) => folded,
        };
        Ok(rounded(done, &turned.forms.stages[n]))
    }

    /// A stage whose norms are folded into the matrices behind them.
    fn folded(&self, turned: &Turned, n: usize, stage: Stage<Weight>) -> Result<Stage<Weight>, Error> {
        let table = match &stage {
            Stage::Head(head) if head.out.is_none() => Some(self.table()?),
            _ => None,
        };
        turned.method.fold(&turned.before, n, stage, table.as_ref()).map_err(|source| turning(source, turned))
    }

    fn table(&self) -> Result<Weight, Error> {
        let model = self.checkpoint.model();
        let tokens = model.stages.iter().find_map(|stage| match stage {
            Stage::Embed(embed) => Some(&embed.tokens.weight),
            _ => None,
        });
        Ok(self.checkpoint.load_weight(tokens.expect("a model begins with an embedding"))?)
    }

    /// Finds the directions of the stream at each stop, if that has not been done.
    ///
    /// Samples go through the model once, everything before a stop cut already.
    ///
    /// # Errors
    /// Whatever the samples or the eigensolver run into.
    pub fn find(&self, calibration: Option<&Calibration>, dir: &Path) -> Result<(), Error> {
        let Some(turned) = self.turned else { return Ok(()) };
        let is_found = || turned.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some();
        let Some(calibration) = calibration.filter(|_| !is_found()) else { return Ok(()) };
        let mut search = Search::new(turned, calibration, dir)?;
        for n in 0..turned.before.stages.len() {
            let stage = self.original(n)?;
            if !matches!(stage, Stage::Embed(_) | Stage::Block(_)) {
                continue;
            }
            let folded = self.folded(turned, n, stage)?;
            search.pass(n, folded)?;
        }
        *turned.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(search.found);
        Ok(())
    }
}

fn turning(source: brevity_methods::Error, turned: &Turned) -> Error {
    Error::Method { place: turned.place.clone(), source }
}

/// How many stops of the stream lie in front of a stage.
fn stops_before(model: &Model<Form>, n: usize) -> usize {
    let of = |stage: &Stage<Form>| match stage {
        Stage::Block(block) => block.reads(),
        _ => 0,
    };
    model.stages[..n].iter().map(of).sum()
}

/// A block as blocks of what lies between two stops of the stream.
fn between_stops(block: Block<Weight>) -> Vec<Block<Weight>> {
    if block.reads() < 2 {
        return if block.reads() == 0 { Vec::new() } else { vec![block] };
    }
    let Block { attn, mlp, parallel } = block;
    let attn = attn.map(|attn| Block { attn: Some(attn), mlp: None, parallel });
    let mlp = mlp.map(|mlp| Block { attn: None, mlp: Some(mlp), parallel });
    attn.into_iter().chain(mlp).collect()
}

/// The weights of a stage in the number types they are stored in.
fn rounded(mut stage: Stage<Weight>, forms: &Stage<Form>) -> Stage<Weight> {
    let mut dtypes = forms.weights().into_iter().map(|(_, _, form)| match form.as_leaf().map(|leaf| &leaf.code) {
        Some(CodeForm::Float(dtype)) => Some(*dtype),
        _ => None,
    });
    let done = stage.try_for_each_mut(|_, _, weight| {
        if let Some(Some(dtype)) = dtypes.next() {
            *weight = Weight::float(weight.shape(), Floats::from_f32(weight.to_f32(), dtype));
        }
        Ok::<_, std::convert::Infallible>(())
    });
    done.unwrap_or_else(|never| match never {});
    stage
}

impl Found {
    /// Where the directions of a stop are in the file.
    fn start(&self, stop: usize) -> u64 {
        (4 * self.hidden * self.kept[..stop].iter().sum::<usize>()) as u64
    }

    fn spill(dir: &Path, source: std::io::Error) -> Error {
        Error::Run(brevity_runtime::Error::Spill { dir: dir.to_owned(), source })
    }

    fn put(&mut self, stop: usize, directions: &Directions) -> Result<(), Error> {
        let at = self.start(stop);
        let bytes = bytemuck::cast_slice(&directions.rows);
        let written = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.write_all(bytes));
        written.map_err(|source| Found::spill(&self.dir, source))
    }

    fn get(&mut self, stop: usize) -> Result<Directions, Error> {
        let kept = self.kept[stop];
        let mut rows = vec![0.0f32; kept * self.hidden];
        let at = self.start(stop);
        let read = self.file.seek(SeekFrom::Start(at));
        let read = read.and_then(|_| self.file.read_exact(bytemuck::cast_slice_mut(&mut rows)));
        read.map_err(|source| Found::spill(&self.dir, source))?;
        Ok(Directions { kept, hidden: self.hidden, rows })
    }
}

/// Samples on their way through a model that is being turned.
struct Search<'a> {
    turned: &'a Turned,
    flow: Flow<'a>,
    forward: Forward,
    prepare: Prepare,
    compute: Compute,
    /// The norms of the stream, without gain.
    norm: Norm<Applied>,
    /// The stop in front of which the samples are, and the directions they are in; none in front of the first.
    here: Option<(usize, Directions)>,
    found: Found,
}

impl<'a> Search<'a> {
    fn new(turned: &'a Turned, calibration: &'a Calibration, dir: &Path) -> Result<Self, Error> {
        let Calibration { samples, compute, .. } = calibration;
        let flow = Flow::new(&samples.windows, *compute, Keep::Files, dir).map_err(Error::Run)?;
        let prepare = Prepare::new(*compute);
        let hidden = turned.before.hidden;
        let ones = Weight::float([1, hidden], Floats::F32(vec![1.0; hidden]));
        let gain = prepare.vector(&ones).map_err(Error::Run)?;
        let file = tempfile::tempfile_in(dir).map_err(|source| Found::spill(dir, source))?;
        Ok(Search {
            turned,
            flow,
            forward: Forward::new(*compute),
            prepare,
            compute: *compute,
            norm: Norm { gain, bias: None, kind: NormKind::Rms, eps: eps(&turned.before) },
            here: None,
            found: Found { file, dir: dir.to_owned(), kept: turned.kept.clone(), hidden },
        })
    }

    /// Takes the samples through a folded stage, and finds the directions at the stops behind its parts.
    fn pass(&mut self, n: usize, stage: Stage<Weight>) -> Result<(), Error> {
        let place = self.turned.before.place(n);
        match stage {
            Stage::Embed(_) => self.reach_stop(place, stage),
            Stage::Block(block) => {
                between_stops(block).into_iter().try_for_each(|part| self.reach_stop(place, Stage::Block(part)))
            }
            _ => Ok(()),
        }
    }

    fn reach_stop(&mut self, place: Place, stage: Stage<Weight>) -> Result<(), Error> {
        let here = self.here.as_ref().map(|(_, directions)| directions);
        let ready = self.prepare.stage_owned(self.turned.method.turn(stage, here, None)).map_err(Error::Run)?;
        let hidden = self.turned.before.hidden;
        let mut gram = Gram::new(hidden);
        let norm = Some(self.norm.clone());
        // The stream gets wider here, and narrower below: in a file, what is still to be read must not be written over.
        for sample in (0..self.flow.samples()).rev() {
            match &ready {
                Stage::Embed(embed) => self.flow.embed(embed, sample).map_err(Error::Run)?,
                Stage::Block(block) => self.flow.pass(place, block, sample).map_err(Error::Run)?,
                _ => unreachable!("only embeddings and blocks lie in front of stops"),
            }
            let x = self.flow.hidden(sample).map_err(Error::Run)?;
            let y = self.forward.norm(&norm, x).map_err(Error::Run)?;
            let rows = self.flow.length(sample);
            values(&y, |y| gram.add(rows, Rows::F32(y), self.compute)).map_err(Error::Run)?;
        }
        drop(ready);
        if !gram.is_finite() {
            return Err(Error::Overflow { place, tap: "the norm behind it" });
        }
        let stop = self.here.as_ref().map_or(0, |(stop, _)| stop + 1);
        let kept = self.turned.kept[stop];
        let directions =
            self.turned.method.directions(place, &gram, kept).map_err(|source| turning(source, self.turned))?;
        let rows = Weight::float([kept, hidden], Floats::F32(directions.rows.clone()));
        let into = Prepare::new(Compute::F32).matrix(rows).map_err(Error::Run)?;
        for sample in 0..self.flow.samples() {
            let x = self.flow.hidden(sample).map_err(Error::Run)?;
            let y = into.apply(&x, None).map_err(Error::Run)?;
            self.flow.replace(sample, y).map_err(Error::Run)?;
        }
        self.found.put(stop, &directions)?;
        self.here = Some((stop, directions));
        Ok(())
    }
}

/// What the norms of the stream add to the mean square.
fn eps(model: &Model<Form>) -> f32 {
    let found = model.stages.iter().find_map(|stage| match stage {
        Stage::Block(block) => {
            let attn = block.attn.as_ref().and_then(|attn| attn.before.as_ref());
            attn.or(block.mlp.as_ref().and_then(|mlp| mlp.before.as_ref())).map(|norm| norm.eps)
        }
        Stage::Head(head) => head.norm.as_ref().map(|norm| norm.eps),
        _ => None,
    });
    found.unwrap_or(0.0)
}
