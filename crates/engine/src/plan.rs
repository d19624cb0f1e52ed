//! Plans: exactly what a recipe will do to a model, before anything is loaded.

mod consumers;
mod identity;
mod lints;
mod memory;
mod predict;
mod sizes;
pub(crate) mod survey;

use std::path::{Path, PathBuf};

use brevity_formats::{Checkpoint, Container, FORMATS, Format, Renumber, StageView, TensorSpec, behind, format};
use brevity_kernels::ops::Compute;
use brevity_methods::{Method, Needs};
use brevity_model::{CodeForm, Form, Linear, Model, Place, Role, Site, Source, Stage};
use brevity_runtime::{Keep, Tap};
use serde::Serialize;

pub use self::consumers::Consumers;
pub use self::lints::Lint;
use crate::error::Error;
use crate::recipe::{Recipe, nearest};
use crate::run::looking::Looks;
use crate::samples::Calibration;
use crate::turned::{Base, Turned};
use crate::vectors::VectorCut;
use crate::work::{Work, step_place};

/// What a plan depends on besides model and recipe.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// The name of the model in reports and on the model card; that of its directory if none is given.
    pub model: Option<String>,
    /// The format to write, whatever the recipe says.
    pub format: Option<String>,
    /// Multiply factors and tensor trains out, those of the source and those that are made, so that formats without
    /// factors can hold the result.
    pub materialize: bool,
    /// Bytes of memory that the work may use.
    pub max_memory: Option<u64>,
    /// Threads to work with; zero for as many as there are cores.
    pub threads: usize,
    /// Where randomness comes from.
    pub seed: u64,
    /// The directory that will be written, to see whether its disk has room.
    pub out: Option<PathBuf>,
    /// Samples for methods that look at activations. A plan can be made without, but not carried out.
    pub calibration: Option<Calibration>,
    /// How many samples of how many tokens to count with where there are none yet.
    pub expected: Option<(usize, usize)>,
}

/// Exactly what will happen.
pub struct Plan {
    /// The name of the model.
    pub model: String,
    /// What to do.
    pub recipe: Recipe,
    /// What to write.
    pub format: &'static dyn Format,
    /// Whether factors are multiplied out.
    pub materialize: bool,
    /// Where randomness comes from.
    pub seed: u64,
    /// Threads to work with.
    pub threads: usize,
    /// Every linear layer and table, in the order of the forward pass.
    pub sites: Vec<PlannedSite>,
    /// The stages in order.
    pub stages: Vec<PlannedStage>,
    /// How the weights will be stored.
    pub forms: Model<Form>,
    /// Sizes before and after.
    pub size: Size,
    /// Numbers that the cache of keys and values holds for each token, before and after.
    pub cache: [usize; 2],
    /// An upper bound of the memory that the work will use, in bytes.
    pub peak_memory_bytes: u64,
    /// Bytes of the weight files still to be written, and bytes free on the disk, if it is known.
    pub disk: (u64, Option<u64>),
    /// Which tools open the result.
    pub consumers: Consumers,
    /// What looks unintended.
    pub lints: Vec<Lint>,
    /// The samples that methods will look at.
    pub calibration: Option<Calibration>,
    pub(crate) keep: Keep,
    pub(crate) looks: Looks,
    pub(crate) sources: Vec<Vec<Form>>,
    pub(crate) identity: String,
    pub(crate) work: Work,
    pub(crate) methods: Vec<Method>,
    pub(crate) numbers: Option<Renumber>,
    pub(crate) turned: Option<Turned>,
    /// Whether a survey that looked at activations was made while planning.
    surveyed: bool,
}

/// One linear layer or table in a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlannedSite {
    /// Where it stands.
    pub site: Site,
    /// The methods that touch it, in order.
    pub methods: Vec<String>,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// How it is stored now.
    pub before: Form,
    /// How it will be stored.
    pub after: Form,
    /// Bytes of its tensors in the files of the source.
    pub bytes_before: u64,
    /// Bytes of its tensors in the files to be written.
    pub bytes_after: u64,
}

/// One stage in a plan.
#[derive(Clone, Debug)]
pub struct PlannedStage {
    /// Which one.
    pub place: Place,
    /// The tensors that its shard will hold.
    pub specs: Vec<TensorSpec>,
    /// Whether a step touches it.
    pub touched: bool,
}

/// Sizes before and after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Size {
    /// Bytes of the weight files of the source.
    pub size_bytes_before: u64,
    /// Bytes of the weight files to be written, exactly.
    pub size_bytes_after: u64,
    /// Numbers that the model holds.
    pub parameters: u64,
    /// Numbers in matrices that a step touches.
    pub parameters_touched: u64,
    /// Bits of the files to be written for each number of the model.
    pub bits_per_weight: f64,
    /// Bits for each number in a matrix that a step touches.
    pub bits_per_touched_weight: f64,
}

impl Plan {
    /// Works out what a recipe will do to a model.
    ///
    /// Nothing is written, and no weight is read unless the shapes of the result depend on weights (ranks chosen by
    /// energy, say).
    ///
    /// # Errors
    /// Whatever can be known before the work begins: a selector that picks nothing, a method that refuses a layer, a
    /// format that cannot hold the result, too little memory or disk.
    pub fn make(checkpoint: &Checkpoint, recipe: &Recipe, options: &PlanOptions) -> Result<Plan, Error> {
        let mut methods = methods(recipe)?;
        let turned = Turned::of(recipe, &methods, checkpoint.model())?;
        let base = Base::new(checkpoint, turned.as_ref());
        let model = base.model();
        let work = Work::resolve(recipe, model, &methods)?;
        if let Some(cut) = &recipe.vectors {
            cut.check(checkpoint, options.calibration.as_ref().map(|calibration| &calibration.lines[..]))?;
        }
        let format = chosen(recipe, options)?;
        let threads = threads(options.threads);
        // Beside the output, where there is room for it, and not in a directory that may be memory.
        let beside = options.out.as_deref().and_then(Path::parent).filter(|dir| dir.is_dir());
        let temporary = beside.map_or_else(std::env::temp_dir, Path::to_owned);
        let ground = survey::Ground {
            seed: options.seed,
            calibration: options.calibration.as_ref(),
            keep: Keep::Files,
            dir: &temporary,
        };
        let surveys_before = methods.iter().any(Method::survey_looks);
        let survey_needs = methods.iter().map(Method::survey_needs).fold(Needs::default(), Needs::or);
        let trials = survey::TrialRows::of(&methods, &work, model.stages.len());
        survey::for_shapes(base, recipe, &work, &mut methods, ground)?;
        let mut predicted = predict::forms(recipe, base, &work, &methods, options.materialize)?;
        let mut specs = layouts(checkpoint, format, &predicted.forms)?;
        let surveys = survey_needs;
        let looks = Looks::of(&work, &methods, model.stages.len());
        let samples = samples(options);
        if !surveys.is_nothing()
            && let Some(limit) = options.max_memory
        {
            // A survey may be part of planning; it is work as well.
            let (forms, layers, keep) = (&predicted.forms, &predicted.costs[..], Keep::Files);
            let (work, specs, looks) = (&work, &specs[..], &looks);
            let parts = &predicted.part_costs[..];
            let turned = turned.as_ref();
            let costs = memory::Costs {
                model,
                work,
                forms,
                layers,
                parts,
                specs,
                looks,
                surveys,
                trials,
                samples,
                keep,
                turned,
            };
            within(limit, &costs.peaks(threads), &costs.peaks(1), model)?;
        }
        if survey::for_masks(base, format, recipe, &work, &mut methods, &predicted.forms, ground)? {
            predicted = predict::forms(recipe, base, &work, &methods, options.materialize)?;
            specs = layouts(checkpoint, format, &predicted.forms)?;
        }
        let numbers = Renumber::of(model, &predicted.forms);
        let (sites, size) = sizes::of(base, recipe, &work, &predicted.forms, &specs, numbers.as_ref())?;
        unseen(recipe, &work, &methods, model.stages.len())?;
        narrowed(recipe, &methods, &predicted.steps)?;
        capped(recipe, &work, model, &predicted.forms)?;
        let mut costs = memory::Costs {
            model,
            work: &work,
            forms: &predicted.forms,
            layers: &predicted.costs,
            parts: &predicted.part_costs,
            specs: &specs,
            looks: &looks,
            surveys,
            trials,
            samples,
            keep: Keep::Memory,
            turned: turned.as_ref(),
        };
        let limit = options.max_memory.unwrap_or_else(memory::usual_limit);
        let fits = |costs: &memory::Costs<'_>| costs.peaks(threads).into_iter().max().unwrap_or(0) <= limit;
        for keep in [Keep::Memory, Keep::HiddenInMemory, Keep::Files] {
            costs.keep = keep;
            if fits(&costs) {
                break;
            }
        }
        let (mut peaks, mut alone) = (costs.peaks(threads), costs.peaks(1));
        if let Some(cut) = &recipe.vectors {
            let bytes = cut.peak_bytes(checkpoint);
            [&mut peaks, &mut alone]
                .into_iter()
                .filter_map(|peaks| peaks.last_mut())
                .for_each(|last| *last = bytes.max(*last));
        }
        let (keep, spilled) = (costs.keep, costs.spilled());
        if let Some(limit) = options.max_memory {
            within(limit, &peaks, &alone, model)?;
        }
        let consumers = Consumers::of(checkpoint, format, &predicted.forms, &specs)?;
        let stages: Vec<PlannedStage> = specs
            .into_iter()
            .enumerate()
            .map(|(n, specs)| PlannedStage { place: model.place(n), specs, touched: work.touches(n) })
            .collect();
        let disk = (size.size_bytes_after + spilled, options.out.as_deref().and_then(free_bytes));
        let cache = [cached(checkpoint.model()), cached(&predicted.forms)];
        let mut plan = Plan {
            model: options.model.clone().unwrap_or_else(|| own_name(&checkpoint.path())),
            recipe: recipe.clone(),
            format,
            materialize: options.materialize,
            seed: options.seed,
            threads,
            sites,
            stages,
            forms: predicted.forms,
            size,
            peak_memory_bytes: peaks.iter().copied().max().unwrap_or(0),
            disk,
            consumers,
            lints: Vec::new(),
            calibration: options.calibration.clone(),
            keep,
            looks,
            sources: model.stages.iter().map(|s| linears(s).into_iter().map(|l| l.weight.form).collect()).collect(),
            identity: String::new(),
            work,
            methods,
            numbers,
            cache,
            surveyed: surveys_before,
            turned,
        };
        plan.identity = identity::of(checkpoint, &plan)?;
        plan.lints = lints::all(&plan, checkpoint, &predicted.steps);
        plan.check_disk(options)?;
        Ok(plan)
    }

    /// Whether any method looks at activations.
    pub fn is_calibrated(&self) -> bool {
        self.recipe.vectors.as_ref().is_some_and(VectorCut::looks) || self.looks_at_layers()
    }

    /// Whether any method looks at what layers of the model read.
    pub(crate) fn looks_at_layers(&self) -> bool {
        self.looks.end().is_some() || self.methods.iter().any(Method::survey_looks) || self.surveyed
    }

    /// Whether shapes or shares were found by a look at all blocks.
    pub(crate) fn is_surveyed(&self) -> bool {
        self.surveyed
    }

    /// Bytes of activations that will lie in files for a while, beside the output.
    pub fn spilled_bytes(&self) -> u64 {
        self.disk.0 - self.size.size_bytes_after
    }

    /// The arithmetic of the model on the samples.
    pub(crate) fn compute(&self) -> Compute {
        self.calibration.as_ref().map_or(Compute::F32, |calibration| calibration.compute)
    }

    /// Refuses to begin without samples where a method needs them.
    ///
    /// # Errors
    /// [`Error::NoText`].
    pub fn can_calibrate(&self) -> Result<(), Error> {
        if !self.is_calibrated() || self.calibration.is_some() {
            return Ok(());
        }
        if self.recipe.vectors.as_ref().is_some_and(VectorCut::looks) {
            return Err(Error::NoText { method: "vectors".into(), place: format!("`{}`", self.recipe.origin) });
        }
        // Methods that were surveyed for the plan do not say any more that they look at anything.
        let methods = methods(&self.recipe)?;
        let step = (0..methods.len()).find(|&step| methods[step].looks()).expect("a method looks at activations");
        Err(Error::NoText { method: self.recipe.steps[step].method.clone(), place: step_place(&self.recipe, step) })
    }

    /// How layer `at` of stage `n` is stored in the source.
    pub(crate) fn source(&self, n: usize, at: usize) -> &Form {
        &self.sources[n][at]
    }

    /// Refuses to begin where the output does not fit.
    fn check_disk(&self, options: &PlanOptions) -> Result<(), Error> {
        match (self.disk, &options.out) {
            // What an earlier run has written may be kept; then opening the output counts what is left.
            ((needed, Some(free)), Some(out)) if free < needed && is_bare(out) => {
                Err(Error::Disk { needed, free, dir: out.display().to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Layer `at` of stage `n`.
    pub(crate) fn planned(&self, n: usize, at: usize) -> &PlannedSite {
        let before: usize = (0..n).map(|n| self.work.of(n).len()).sum();
        &self.sites[before + at]
    }

    /// The tensors of each stage, as an output wants them.
    pub(crate) fn specs(&self) -> Vec<Vec<TensorSpec>> {
        self.stages.iter().map(|stage| stage.specs.clone()).collect()
    }
}

/// Numbers that the cache of a model holds for each token.
fn cached<W>(model: &Model<W>) -> usize {
    let of = |stage: &Stage<W>| match stage {
        Stage::Block(block) => block.attn.as_ref().map_or(0, |attn| {
            let heads = &attn.heads;
            heads.kv() * (heads.qk_dim + heads.v_dim)
        }),
        _ => 0,
    };
    model.stages.iter().map(of).sum()
}

/// Refuses what takes more memory than it may; with one thread its stages take `alone`.
fn within(limit: u64, peaks: &[u64], alone: &[u64], model: &Model<Source>) -> Result<(), Error> {
    let worst = (0..peaks.len()).max_by_key(|&n| peaks[n]);
    let needed = worst.map_or(0, |n| peaks[n]);
    if needed <= limit {
        return Ok(());
    }
    Err(Error::Memory {
        needed,
        limit,
        stage: worst.map_or_else(String::new, |n| model.place(n).to_string()),
        with_one_thread: alone.iter().copied().max().unwrap_or(0),
    })
}

/// How many samples of how many tokens there are, or will be.
fn samples(options: &PlanOptions) -> memory::Tokens {
    match (&options.calibration, options.expected) {
        (Some(calibration), _) => {
            let windows = &calibration.samples.windows;
            let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
            memory::Tokens { all: calibration.samples.tokens(), longest, compute: calibration.compute }
        }
        (None, Some((samples, length))) => {
            memory::Tokens { all: samples * length, longest: length, compute: Compute::Bf16 }
        }
        (None, None) => memory::Tokens { all: 128 * 2048, longest: 2048, compute: Compute::Bf16 },
    }
}

/// Refuses a step that looks at the inputs of a layer which cannot be seen.
fn unseen(recipe: &Recipe, work: &Work, methods: &[Method], stages: usize) -> Result<(), Error> {
    for (site, steps) in (0..stages).flat_map(|n| work.of(n)) {
        let shown = |step: usize| match Tap::of(&site.role) {
            Some(Tap::Ids) => methods[step].linear().is_some_and(|method| method.counts_tokens()),
            tap => tap.is_some(),
        };
        let looks = |step: usize| !methods[step].needs(None).is_nothing();
        if let Some(&step) = steps.iter().find(|&&step| looks(step) && !shown(step)) {
            let method = recipe.steps[step].method.clone();
            return Err(Error::Unseen { method, site: site.clone(), place: step_place(recipe, step) });
        }
    }
    Ok(())
}

/// Refuses a step that compares the inputs of a layer in both models one by one where a step before it took some of them
/// away.
fn narrowed(recipe: &Recipe, methods: &[Method], steps: &[predict::StepForms]) -> Result<(), Error> {
    let compares = |step: &&predict::StepForms| {
        let needs = methods[step.step].needs(None);
        methods[step.step].linear().is_some()
            && needs.reference
            && needs.gram
            && matches!(step.site.role, Role::O | Role::Down)
    };
    for step in steps.iter().filter(compares) {
        let narrower = |other: &&predict::StepForms| {
            other.site == step.site
                && methods[other.step].block().is_some()
                && other.before.shape()[1] != other.after.shape()[1]
        };
        if steps.iter().any(|other| narrower(&other)) {
            let method = recipe.steps[step.step].method.clone();
            return Err(Error::Narrowed { method, site: step.site.clone(), place: step_place(recipe, step.step) });
        }
    }
    Ok(())
}

/// Refuses a constant beside a token table that is the output table as well, where softmax does not make the logits free of
/// what they lack.
fn capped(recipe: &Recipe, work: &Work, model: &Model<Source>, forms: &Model<Form>) -> Result<(), Error> {
    let is_capped = model.stages.iter().any(|stage| matches!(stage, Stage::Head(head) if head.softcap.is_some()));
    for (n, stage) in forms.stages.iter().enumerate() {
        if let (Stage::Embed(after), Stage::Embed(before)) = (stage, &model.stages[n])
            && is_capped
            && model.is_tied()
            && after.tokens.bias.is_some()
            && before.tokens.bias.is_none()
            && let Some(&step) = work.at(n, &Role::Tokens).2.last()
        {
            let (method, place) = (recipe.steps[step].method.clone(), step_place(recipe, step));
            return Err(Error::Capped { method, place });
        }
    }
    Ok(())
}

/// The methods of a recipe in order.
pub(crate) fn methods(recipe: &Recipe) -> Result<Vec<Method>, Error> {
    let parse = |(number, step): (usize, &crate::recipe::Step)| {
        brevity_methods::any_method(&step.method, step.settings.clone().into())
            .map_err(|source| Error::Method { place: step_place(recipe, number), source })
    };
    recipe.steps.iter().enumerate().map(parse).collect()
}

/// The format that is asked for.
fn chosen(recipe: &Recipe, options: &PlanOptions) -> Result<&'static dyn Format, Error> {
    let name = options.format.as_deref().or(recipe.format.as_deref()).unwrap_or("dense");
    format(name).ok_or_else(|| {
        let known: Vec<&str> = FORMATS.iter().map(|format| format.name()).collect();
        match behind(name) {
            Some(hint) => Error::NotByRuns { name: name.to_owned(), hint },
            None => Error::Format { name: name.to_owned(), hint: nearest(name, &known, "the formats") },
        }
    })
}

/// How many threads are meant.
fn threads(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// What a format will write for each stage.
fn layouts(
    checkpoint: &Checkpoint,
    format: &'static dyn Format,
    forms: &Model<Form>,
) -> Result<Vec<Vec<TensorSpec>>, Error> {
    let model = checkpoint.model();
    let laid = layouts_in(model, Some(checkpoint.container()), format, forms)
        .and_then(|laid| format.config(checkpoint.config(), model, forms).map(|_| laid));
    laid.map_err(|source| match source {
        brevity_formats::Error::Unholdable { .. } => {
            let holds = |other: &&&dyn Format| {
                layouts_in(model, Some(checkpoint.container()), **other, forms).is_ok()
                    && other.config(checkpoint.config(), model, forms).is_ok()
            };
            Error::Unholdable { source, others: FORMATS.iter().filter(holds).map(|other| other.name()).collect() }
        }
        other => Error::Files(other),
    })
}

fn layouts_in(
    model: &Model<Source>,
    container: Option<&dyn Container>,
    format: &dyn Format,
    forms: &Model<Form>,
) -> Result<Vec<Vec<TensorSpec>>, brevity_formats::Error> {
    let numbers = Renumber::of(model, forms);
    let numbers = numbers.as_ref();
    let stages = model.stages.iter().zip(&forms.stages).enumerate();
    stages
        .map(|(n, (source, forms))| {
            format.layout(&StageView { place: model.place(n), source, container, numbers }, forms)
        })
        .collect()
}

/// The name of the directory or file of a model.
fn own_name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    full.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Bytes free on the disk of a directory that may not be there yet.
fn free_bytes(dir: &Path) -> Option<u64> {
    let full = std::path::absolute(dir).ok()?;
    let there = full.ancestors().find(|dir| dir.is_dir())?;
    brevity_formats::free_bytes(there)
}

/// Whether a directory is empty, or not there.
fn is_bare(dir: &Path) -> bool {
    std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none())
}

/// The linear layers of a stage, without the weights that stand outside of them.
pub(crate) fn linears<W: Clone>(stage: &Stage<W>) -> Vec<Linear<W>> {
    let mut copy = stage.clone();
    copy.linears_mut().into_iter().map(|(_, linear)| linear.clone()).collect()
}

/// Whether any leaf of a form is something other than floats.
pub(crate) fn is_coded(form: &Form) -> bool {
    form.leaves().iter().any(|(_, leaf)| !matches!(leaf.code, CodeForm::Float(_)))
}
