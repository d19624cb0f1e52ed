//! Carrying out a plan: load, look, rewrite, write, drop, one stage at a time.

mod check;
mod layer;
pub(crate) mod looking;
mod parts;
mod write;

use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use brevity_formats::{Checkpoint, Output, StageView, carried_files, laid, multiplied_out};
use brevity_methods::Method;
use brevity_model::{Block, Form, HeadsRecord, Model, Role, Slot, Source, Stage, Weight};
use serde::{Deserialize, Serialize};

use self::layer::Job;
use self::looking::Looking;
use self::write::Writer;
use crate::card;
use crate::digest;
use crate::error::Error;
use crate::plan::{Plan, survey};
use crate::report::{Input, Phases, RECORD, Record, Report, SiteReport, peak_rss_bytes};
use crate::turned::Base;

/// How a plan is carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Remove what an earlier run of ours left in the output directory, instead of going on from there.
    pub fresh: bool,
}

/// Someone who watches a run, and may stop it.
pub trait Observer: Send {
    /// A layer was rewritten. Layers of a stage may come in any order.
    fn layer(&mut self, report: &SiteReport) {
        let _ = report;
    }

    /// `done` of `total` stages are on the disk; `rows` are the layers of the latest.
    fn stage(&mut self, done: usize, total: usize, rows: &[SiteReport]);

    /// Whether to stop. Asked before each layer and each stage; what is on the disk then is found by the next run.
    fn cancelled(&mut self) -> bool {
        false
    }
}

/// Watches nothing and stops nothing.
impl Observer for () {
    fn stage(&mut self, _: usize, _: usize, _: &[SiteReport]) {}
}

/// What the journal keeps of a finished stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    /// The digest of the weights as they were read.
    input: String,
    /// What was done to its layers.
    rows: Vec<SiteReport>,
    /// What was meant to be written.
    meant: Vec<check::Meant>,
    /// The heads of a block whose attention lost some, of which shapes do not tell all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heads: Option<HeadsRecord>,
}

impl Plan {
    /// Carries the plan out: writes the output directory, whole or resumable, and checks it.
    ///
    /// The same plan gives the same bytes, whatever the number of threads and however often it was interrupted.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the observer says so; [`Error::Verify`] if the output does not read back as it was
    /// meant; weights that are not finite, a method that refuses a layer, a disk that is full.
    pub fn run(
        &self,
        checkpoint: &Checkpoint,
        out: &Path,
        options: &RunOptions,
        observer: &mut dyn Observer,
    ) -> Result<Report, Error> {
        let start = Instant::now();
        self.can_calibrate()?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads).build();
        let pool = pool.map_err(|error| Error::Threads { what: error.to_string() })?;
        let mut output =
            Output::open_as(out, &self.identity, &self.specs(), self.consumers.only_ours(), options.fresh)?;
        let mut notes = self.earlier(out, &output);
        let resumed = notes.iter().filter(|note| note.is_some()).count();
        let mut phases = None;
        if resumed < notes.len() {
            let observer = Mutex::new(observer);
            (output, phases) = self.stages(checkpoint, output, &mut notes, &pool, &observer)?;
        }
        let notes: Vec<Note> = notes.into_iter().flatten().collect();
        let digests = self.finish(checkpoint, output, &notes, &pool)?;
        if let Err(error) = check::read_back(self, out, &digests, &notes, &pool) {
            // What is wrong must not look whole. Without its record the next run writes everything anew.
            for name in ["config.json", RECORD] {
                let _ = std::fs::remove_file(out.join(name));
            }
            return Err(error);
        }
        Ok(Report {
            model: self.model.clone(),
            format: self.format.name(),
            size: self.size,
            sites: notes.into_iter().flat_map(|note| note.rows).collect(),
            resumed,
            phases,
            seconds: start.elapsed().as_secs_f64(),
            peak_rss_bytes: peak_rss_bytes(),
        })
    }

    /// What is known of the stages that an earlier run has finished. A stage of which nothing is known is written
    /// again, so that the record of the output is complete.
    fn earlier(&self, out: &Path, output: &Output) -> Vec<Option<Note>> {
        let mut notes: Vec<Option<Note>> = (0..self.stages.len())
            .map(|n| {
                output.note(n).filter(|_| output.is_done(n)).and_then(|note| serde_json::from_value(note.clone()).ok())
            })
            .collect();
        // A run that was finished has moved its notes into the record.
        let text = std::fs::read_to_string(out.join(RECORD)).unwrap_or_default();
        if let Ok(record) = serde_json::from_str::<Record>(&text)
            && record.identity == self.identity
            && record.inputs.len() == notes.len()
        {
            for (n, (note, input)) in notes.iter_mut().zip(&record.inputs).enumerate() {
                if note.is_none() && output.is_done(n) {
                    let own = |row: &&SiteReport| row.site.place == self.stages[n].place;
                    let rows = record.sites.iter().filter(own).cloned().collect();
                    let heads = record.heads.get(&self.stages[n].place.to_string()).cloned();
                    *note = Some(Note { input: input.blake3.clone(), rows, meant: Vec::new(), heads });
                }
            }
        }
        notes
    }

    /// Works through the stages that are not done.
    fn stages(
        &self,
        checkpoint: &Checkpoint,
        output: Output,
        notes: &mut [Option<Note>],
        pool: &rayon::ThreadPool,
        observer: &Mutex<&mut dyn Observer>,
    ) -> Result<(Output, Option<Phases>), Error> {
        let total = notes.len();
        pool.install(|| self.base(checkpoint).find(self.calibration.as_ref(), output.dir()))?;
        let surveyed = self.surveyed(checkpoint, pool, output.dir())?;
        let methods = surveyed.as_deref().unwrap_or(&self.methods);
        let job = Job { plan: self, methods, pool, observer };
        let cancelled = |done| Error::Cancelled { done, total };
        let mut looking = match &self.calibration {
            Some(calibration) if self.is_calibrated() => Some(Looking::new(self, calibration, output.dir())?),
            _ => None,
        };
        let written = match looking.is_some() && notes.iter().any(Option::is_some) {
            true => Some(self.written(checkpoint, &output, notes)?),
            false => None,
        };
        std::thread::scope(|scope| {
            let mut writer = Writer::start(scope, output);
            let mut on_disk = notes.iter().filter(|note| note.is_some()).count();
            let mut told = |observer: &Mutex<&mut dyn Observer>, written: Vec<usize>, notes: &[Option<Note>]| {
                for n in written {
                    on_disk += 1;
                    let rows = notes[n].as_ref().map_or(&[][..], |note| &note.rows);
                    observer.lock().expect("no one panics while watching").stage(on_disk, total, rows);
                }
                on_disk
            };
            for n in 0..total {
                if notes[n].is_some() {
                    if let (Some(looking), Some(written)) = (&mut looking, &written)
                        && let Err(error) = looking.pass(n, self.base(checkpoint), written, &job)
                    {
                        let stopped = writer.stop()?;
                        let done = told(observer, stopped, notes);
                        return Err(if let Error::Cancelled { .. } = error { cancelled(done) } else { error });
                    }
                    continue;
                }
                let done = told(observer, writer.written()?, notes);
                if observer.lock().expect("no one panics while watching").cancelled() {
                    let written = writer.stop()?;
                    return Err(cancelled(told(observer, written, notes).max(done)));
                }
                let worked = self.stage(checkpoint, n, &job, looking.as_mut());
                let (tensors, note) = match worked {
                    Ok(worked) => worked,
                    Err(error) => {
                        let written = writer.stop()?;
                        let done = told(observer, written, notes);
                        return Err(if let Error::Cancelled { .. } = error { cancelled(done) } else { error });
                    }
                };
                let text = serde_json::to_value(&note).expect("a note is JSON");
                notes[n] = Some(note);
                writer.hand_over(n, tensors, text)?;
            }
            let (output, written) = writer.end()?;
            told(observer, written, notes);
            Ok((output, looking.map(|looking| looking.phases)))
        })
    }

    /// The methods with what their surveys found, if any of them needs one.
    fn surveyed(
        &self,
        checkpoint: &Checkpoint,
        pool: &rayon::ThreadPool,
        dir: &Path,
    ) -> Result<Option<Vec<Method>>, Error> {
        if !self.methods.iter().any(Method::surveys) {
            return Ok(None);
        }
        let mut methods = crate::plan::methods(&self.recipe)?;
        let calibration = self.calibration.as_ref();
        let ground = survey::Ground { seed: self.seed, calibration, keep: self.keep, dir };
        pool.install(|| survey::the_rest(self.base(checkpoint), &self.recipe, &self.work, &mut methods, ground))?;
        Ok(Some(methods))
    }

    /// The stages that an earlier run has written, as the whole output will be read.
    fn written(&self, checkpoint: &Checkpoint, output: &Output, notes: &[Option<Note>]) -> Result<Checkpoint, Error> {
        let heads: Vec<_> = notes.iter().map(|note| note.as_ref().and_then(|note| note.heads.as_ref())).collect();
        let forms = self.with_heads(&heads);
        let config = self.format.config(checkpoint.config(), checkpoint.model(), &forms)?;
        let shards = (0..self.stages.len()).filter(|&n| output.is_done(n)).filter_map(|n| output.shard_file(n));
        let shards: Vec<String> = shards.map(str::to_owned).collect();
        let like = laid(checkpoint.model(), &forms)?;
        Ok(Checkpoint::of_shards(output.dir(), &shards, config, &like, self.numbers.as_ref())?)
    }

    /// The forms of the result, with the heads that were found to stay.
    fn with_heads(&self, heads: &[Option<&HeadsRecord>]) -> Model<Form> {
        let mut forms = self.forms.clone();
        for (stage, record) in forms.stages.iter_mut().zip(heads) {
            if let (Stage::Block(block), Some(record)) = (stage, record)
                && let Some(attn) = &mut block.attn
            {
                record.apply(&mut attn.heads);
            }
        }
        forms
    }

    /// The model that the steps work on.
    fn base<'a>(&'a self, checkpoint: &'a Checkpoint) -> Base<'a> {
        Base::new(checkpoint, self.turned.as_ref())
    }

    /// One stage: what will be written, and what is to be remembered of it.
    fn stage(
        &self,
        checkpoint: &Checkpoint,
        n: usize,
        job: &Job<'_, '_>,
        mut looking: Option<&mut Looking<'_>>,
    ) -> Result<(Vec<brevity_formats::Tensor>, Note), Error> {
        let start = Instant::now();
        let (model, base) = (checkpoint.model(), self.base(checkpoint));
        let stage = base.original(n)?;
        let input = job.pool.install(|| digest::of_stage(&stage));
        let mut stage = job.pool.install(|| base.turn(n, stage))?;
        if self.materialize {
            stage = multiplied(stage, &model.stages[n]);
        }
        let read = start.elapsed();
        let rows = match &mut looking {
            Some(looking) if looking.is_needed(n) => looking.rewrite(n, &mut stage, job)?,
            _ => job.rewrite(n, &mut stage)?,
        };
        let start = Instant::now();
        let meant = job.pool.install(|| check::meant(self, base.model(), n, &mut stage));
        let view = StageView {
            place: model.place(n),
            source: &model.stages[n],
            container: Some(checkpoint.container()),
            numbers: self.numbers.as_ref(),
        };
        let tensors = job.pool.install(|| self.format.encode(&view, &stage))?;
        checkpoint.release_stage(n);
        if let Some(looking) = looking {
            looking.phases.io_seconds += (read + start.elapsed()).as_secs_f64();
        }
        let heads = match (&stage, &model.stages[n]) {
            (Stage::Block(Block { attn: Some(after), .. }), Stage::Block(Block { attn: Some(before), .. })) => {
                (after.heads != before.heads).then(|| HeadsRecord::of(&after.heads))
            }
            _ => None,
        };
        Ok((tensors, Note { input, rows, meant, heads }))
    }

    /// Writes the small files and the index. Returns the digest of each shard.
    fn finish(
        &self,
        checkpoint: &Checkpoint,
        output: Output,
        notes: &[Note],
        pool: &rayon::ThreadPool,
    ) -> Result<Vec<(String, String)>, Error> {
        let inputs = self
            .stages
            .iter()
            .zip(notes)
            .map(|(stage, note)| Input { stage: stage.place.to_string(), blake3: note.input.clone() });
        let sites = notes.iter().flat_map(|note| note.rows.iter().cloned()).collect();
        let heads: Vec<_> = notes.iter().map(|note| note.heads.as_ref()).collect();
        let config = self.format.config(checkpoint.config(), checkpoint.model(), &self.with_heads(&heads))?;
        let heads =
            self.stages.iter().zip(heads).filter_map(|(stage, heads)| Some((stage.place.to_string(), heads?.clone())));
        let heads = heads.collect();
        let record = Record::new(self, inputs.collect(), sites, heads, card::kept_lines(checkpoint.folder()));
        let mut files = carried_files(checkpoint.folder())?;
        files.extend(self.format.files(&config));
        if let Some(cut) = &self.recipe.vectors {
            let some: Vec<Option<Note>> = notes.iter().cloned().map(Some).collect();
            let left = self.written(checkpoint, &output, &some)?;
            let lines = self.calibration.as_ref().map_or(&[][..], |calibration| &calibration.lines);
            pool.install(|| cut.write(&mut files, checkpoint, &left, lines, self.compute()))?;
        }
        if !files.iter().any(|(name, _)| name == "tokenizer.json")
            && checkpoint.format() == "gguf"
            && let Ok(tokenizer) = checkpoint.tokenizer()
            && let Ok(text) = tokenizer.to_string(true)
        {
            files.push(("tokenizer.json".to_owned(), text.into_bytes()));
        }
        files.push(("config.json".to_owned(), config.to_json().into_bytes()));
        files.push((RECORD.to_owned(), record.to_text().into_bytes()));
        files.push((card::CARD.to_owned(), card::text(&record, &[]).into_bytes()));
        files.sort();
        let shards = (0..self.stages.len())
            .filter_map(|n| Some((output.shard_file(n)?.to_owned(), output.shard_digest(n)?.to_owned())));
        let shards = shards.collect();
        output.finish(files)?;
        Ok(shards)
    }
}

/// The weights of a stage with their factors multiplied out.
fn multiplied(stage: Stage<Weight>, source: &Stage<Source>) -> Stage<Weight> {
    let sources = source.weights();
    let of =
        |role: &Role, slot: Slot| sources.iter().find(|(r, s, _)| r == role && *s == slot).map(|(_, _, s)| &s.form);
    let out = |role: Role, slot, weight: &Weight| {
        let weight = weight.clone();
        Ok::<_, std::convert::Infallible>(match of(&role, slot) {
            Some(source) => multiplied_out(weight, source),
            None => weight,
        })
    };
    match stage.weights().iter().any(|(_, _, weight)| weight.as_leaf().is_none()) {
        true => stage.try_map(out).unwrap_or_else(|never| match never {}),
        false => stage,
    }
}
