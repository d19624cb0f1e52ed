//! How much memory the work takes at most.

use brevity_formats::TensorSpec;
use brevity_kernels::gram::{Cross, Gram, Outer};
use brevity_kernels::ops::Compute;
use brevity_methods::Needs;
use brevity_model::{CodeForm, Form, Linear, Model, Source, Stage};
use brevity_runtime::{Keep, Tap};

use super::linears;
use super::survey::TrialRows;
use crate::run::looking::Looks;
use crate::turned::Turned;
use crate::work::Work;

/// The process itself: code, headers, indexes, thread stacks.
const BASE: u64 = 48 << 20;

/// Pages of a mapped file that are resident while a weight is copied out of it, for each thread.
const MAPPED: u64 = 8 << 20;

/// Rows decoded at once to measure errors and to hash, for each thread.
const PIECES: u64 = 24 << 20;

/// Samples that are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tokens {
    /// Tokens of all samples.
    pub all: usize,
    /// Tokens of the longest.
    pub longest: usize,
    /// The arithmetic of the model.
    pub compute: Compute,
}

/// What memory depends on.
pub(super) struct Costs<'a> {
    pub model: &'a Model<Source>,
    pub work: &'a Work,
    pub forms: &'a Model<Form>,
    /// What the steps of each layer need beside it.
    pub layers: &'a [Vec<u64>],
    /// What the steps for whole sublayers of each stage need beside it.
    pub parts: &'a [u64],
    pub specs: &'a [Vec<TensorSpec>],
    pub looks: &'a Looks,
    /// What surveys look at that take the samples through the model before the work begins; nothing if there are none.
    pub surveys: Needs,
    /// What surveys take through the model with layers and blocks in other versions.
    pub trials: TrialRows,
    pub samples: Tokens,
    pub keep: Keep,
    /// How the residual stream is turned before steps see a stage, if it is.
    pub turned: Option<&'a Turned>,
}

/// Three quarters of the memory of the machine, or 4 GiB if the system does not say how much that is.
pub(super) fn usual_limit() -> u64 {
    let kib = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    kib().map_or(4 << 30, |kib| kib * 1024 / 4 * 3)
}

impl Costs<'_> {
    /// For each stage, the most that work on it takes with so many threads, in bytes.
    ///
    /// A stage is loaded whole. Each thread rewrites one layer, of which it keeps the original to tell the error;
    /// behind what samples show, one layer is in hand. The result is encoded while the tensors of the stage before are
    /// being written, then handed over.
    pub fn peaks(&self, threads: usize) -> Vec<u64> {
        let encoded = |n: usize| self.specs[n].iter().map(TensorSpec::bytes).sum::<u64>();
        let fixed = BASE + threads as u64 * (MAPPED + PIECES);
        let end = self.looks.end().unwrap_or(0);
        let kept = self.kept(self.runs());
        (0..self.model.stages.len())
            .map(|n| {
                let before = self.model.stages[n].forms();
                let loaded = stage_bytes(&before);
                let rewritten = stage_bytes(&self.forms.stages[n]);
                // The layers in hand: their originals beside them, and what their steps need, or the report on them:
                // the layer before, after, and the difference in single precision.
                let layers = linears(&before).into_iter().zip(&self.layers[n]).zip(self.work.of(n));
                let in_hand = layers.filter(|(_, (_, steps))| !steps.is_empty()).map(|((layer, cost), _)| {
                    let report = 12 * layer.weight.shape().iter().product::<usize>() as u64;
                    // As it was, and, where samples are looked at, as the steps that take something from it got it.
                    match n < end {
                        true => 2 * held_bytes(&layer.weight) + report.max(*cost),
                        false => held_bytes(&layer.weight) + cost,
                    }
                });
                let mut in_hand: Vec<u64> = in_hand.collect();
                in_hand.sort_unstable_by(|a, b| b.cmp(a));
                // Samples are on their way, or a layer is in hand.
                let [seen, sample] = if n < end { self.looking(n, &before) } else { [0; 2] };
                let at_once = if n < end { 1 } else { threads };
                let busy = in_hand.iter().take(at_once).sum::<u64>().max(sample);
                // A sublayer that loses units is there before and after, and nothing else happens meanwhile.
                let busy = busy.max(self.parts[n] + if self.parts[n] > 0 { loaded } else { 0 });
                let rewriting = busy + seen + loaded.max(rewritten);
                // Expressions are multiplied out to compare, and to write them as floats.
                let mut whole: Vec<u64> = linears(&self.forms.stages[n])
                    .iter()
                    .filter(|layer| layer.weight.as_leaf().is_none())
                    .map(|layer| 12 * layer.weight.shape().iter().product::<usize>() as u64)
                    .collect();
                whole.sort_unstable_by(|a, b| b.cmp(a));
                let whole: u64 = whole.iter().take(threads).sum();
                let rewriting = rewriting + whole;
                let encoding = rewritten + 2 * encoded(n) + whole;
                let writing = if n > 0 { encoded(n - 1) } else { 0 };
                let kept = if n < end { kept } else { 0 };
                let survey = if !self.surveys.is_nothing() { self.surveying(n, &before, loaded) } else { 0 };
                let [turning, finding] = self.turning(n);
                fixed + (writing + kept + rewriting.max(encoding).max(loaded + turning)).max(survey + turning + finding)
            })
            .collect()
    }

    /// What it takes to turn the stream of a stage: its weights as singles, folded and turned; and to find the directions
    /// at its end: their second moments, the eigenvectors, and a sample of the stream as wide as it was.
    fn turning(&self, n: usize) -> [u64; 2] {
        let Some(before) = self.turned.map(Turned::before) else { return [0; 2] };
        let own: u64 = before.stages[n].weights().into_iter().map(|(_, _, form)| form.parameters()).sum();
        let hidden = before.hidden as u64;
        let table = before.vocabulary as u64 * hidden;
        let held = if matches!(before.stages[n], Stage::Head(_)) { own.max(table) } else { own };
        let sample = 12 * self.samples.longest as u64 * hidden;
        [16 * held, Gram::bytes(before.hidden) + 48 * hidden * hidden + sample]
    }

    /// Models that run on the samples: none, one, or two with a reference.
    fn runs(&self) -> u64 {
        match (self.looks.end(), self.looks.reference) {
            (None, _) => 0,
            (Some(_), false) => 1,
            (Some(_), true) => 2,
        }
    }

    /// Bytes of hidden states, and of what lies between two taps, of one model on all samples.
    fn states(&self) -> [u64; 2] {
        let tokens = self.samples.all as u64;
        let widths = self.model.stages.iter().map(|stage| widths(&stage.forms()));
        let (between, aside) = widths.fold((0, false), |(most, aside), w| (most.max(w.between), aside | w.parallel));
        let hidden = tokens * self.model.hidden as u64 * if aside { 8 } else { 4 };
        [hidden, tokens * between as u64 * if self.samples.compute == Compute::Bf16 { 2 } else { 4 }]
    }

    /// Bytes of activations in memory between two samples, of so many models.
    fn kept(&self, runs: u64) -> u64 {
        let [hidden, between] = self.states();
        let bytes = runs
            * match self.keep {
                Keep::Memory => hidden + between,
                Keep::HiddenInMemory => hidden,
                Keep::Files => 0,
            };
        // The allocator rounds sizes up, those of small matrices by more.
        bytes + if self.samples.longest * self.model.hidden < 1 << 18 { bytes / 2 } else { bytes / 8 }
    }

    /// Bytes of activations in files.
    pub fn spilled(&self) -> u64 {
        let [hidden, between] = self.states();
        let in_files = match self.keep {
            Keep::Memory => 0,
            Keep::HiddenInMemory => between,
            Keep::Files => hidden + between,
        };
        let directions = self.turned.map_or(0, |turned| turned.spilled(self.samples.all));
        directions + in_files * if self.surveys.is_nothing() { self.runs() } else { self.runs().max(1) }
    }

    /// What a survey takes at a stage: the stage, made ready too, a copy of a layer, and all that is there of one sample.
    fn surveying(&self, n: usize, before: &Stage<Form>, loaded: u64) -> u64 {
        let [ready, sample] = self.looking(n, before);
        let layer = linears(before).iter().map(|layer| held_bytes(&layer.weight)).max().unwrap_or(0);
        // Sums of the inputs of all taps, each as wide as some layer, and what is made of a layer with them; sums of the
        // hidden states on both sides, and what their rate is worked out from.
        let gram = |needed: bool, width: usize| if needed { Gram::bytes(width) } else { 0 };
        let mut widths: Vec<usize> = linears(before).iter().map(|layer| layer.weight.shape()[1]).collect();
        widths.sort_unstable();
        let sums: u64 = widths.iter().rev().take(4).map(|&width| gram(self.surveys.gram, width)).sum();
        let made = if self.surveys.gram { self.layers[n].iter().copied().max().unwrap_or(0) } else { 0 };
        let hidden = self.model.hidden;
        let rate = 2 * gram(self.surveys.coding_rate, hidden)
            + if self.surveys.coding_rate { 8 * (hidden * hidden) as u64 } else { 0 };
        // Hidden states of all trials; at the end the predictions of two versions for one sample, and their logarithms.
        let head = matches!(&self.model.stages[n], Stage::Head(head) if head.logits);
        let predicted = if head { 16 * (self.trials.longest * self.model.vocabulary) as u64 } else { 0 };
        // A table that is tied is kept until then.
        let table = if self.trials.all > 0 && self.model.is_tied() { 4 * self.model.vocabulary * hidden } else { 0 };
        let trials = (4 * self.trials.all * hidden + table) as u64 + predicted;
        loaded + layer + ready + sample / self.runs().max(1) + self.kept(1) + sums + made + rate + trials
    }

    /// What looking at the inputs of the layers of a stage takes: the stage made ready and what was seen; and one sample
    /// on its way.
    fn looking(&self, n: usize, before: &Stage<Form>) -> [u64; 2] {
        // A train may be applied as the matrix that it is.
        let numbers = |form: &Form| match form.has_train() {
            true => form.parameters().max(form.shape().iter().product::<usize>() as u64),
            false => form.parameters(),
        };
        let ready: u64 = before.weights().into_iter().map(|(_, _, form)| numbers(form)).sum();
        let ready = ready * if self.samples.compute == Compute::Bf16 { 2 } else { 4 };
        let ready = if matches!(before, Stage::Embed(_)) { stage_bytes(before) } else { ready };
        let sample = self.samples.longest as u64 * 4 * widths(before).sample as u64;
        let seen = |(role, layer): &(brevity_model::Role, Linear<Form>)| {
            let needs = Tap::of(role).map(|tap| self.looks.most(n, tap)).filter(|needs| !needs.is_nothing())?;
            let [rows, width] = layer.weight.shape();
            let folds = if needs.held_out { 2 } else { 1 };
            let gram = if needs.gram { Gram::bytes(width) } else { 0 };
            let drift = if needs.gram && needs.reference { Cross::bytes(width) } else { 0 };
            // The sum of both folds is there beside them.
            let both = if needs.held_out { gram } else { 0 };
            let gap = if needs.stream { Outer::bytes([rows, width]) } else { 0 };
            // What the residual stream lacks of one sample, in both models and the difference; and the layer as it was.
            let stream = if needs.stream { 12 * (self.samples.longest * rows) as u64 } else { 0 };
            let source = if needs.reference && self.parts[n] > 0 { held_bytes(&layer.weight) } else { 0 };
            let counts = if *role == brevity_model::Role::Tokens { 8 * rows as u64 } else { 0 };
            Some(both + folds * (gram + drift + gap + 48 * width as u64) + stream + source + counts)
        };
        let mut copy = before.clone();
        let layers = copy.linears_mut().into_iter().map(|(role, layer)| (role, layer.clone()));
        let seen = layers.filter_map(|layer| seen(&layer));
        // What is seen in front of and between the matrices of a sublayer is held together while it loses units.
        let seen = if self.parts[n] > 0 { seen.sum::<u64>() } else { seen.max().unwrap_or(0) };
        let runs = self.runs().max(1);
        [runs * ready + seen + SUMS, runs * sample]
    }
}

/// What sums of outer products take beside their totals.
const SUMS: u64 = 32 << 20;

/// Numbers for each token in one stage.
#[derive(Clone, Copy, Debug, Default)]
struct Widths {
    /// What is kept between two taps.
    between: usize,
    /// All that is there while a sample moves from one tap to the next.
    sample: usize,
    /// Whether the MLP reads the input of the block.
    parallel: bool,
}

fn widths(stage: &Stage<Form>) -> Widths {
    let outputs = |linear: &Linear<Form>| linear.weight.shape()[0];
    let inputs = |linear: &Linear<Form>| linear.weight.shape()[1];
    match stage {
        Stage::Block(block) => {
            let attn = block.attn.as_ref().map_or([0, 0], |attn| {
                // Queries and keys before and behind their norm and rotation, values, and what is mixed of them.
                let all = inputs(&attn.q) + 3 * outputs(&attn.q) + 3 * outputs(&attn.k) + outputs(&attn.v);
                [inputs(&attn.o), all + 2 * inputs(&attn.o)]
            });
            let mlp = block.mlp.as_ref().map_or([0, 0], |mlp| {
                let middle = inputs(&mlp.down);
                [middle, inputs(&mlp.up) + outputs(&mlp.up) + mlp.gate.as_ref().map_or(0, outputs) + 2 * middle]
            });
            let hidden = block.mlp.as_ref().map_or(0, |mlp| outputs(&mlp.down));
            Widths { between: attn[0].max(mlp[0]), sample: 4 * hidden + attn[1].max(mlp[1]), parallel: block.parallel }
        }
        Stage::Embed(embed) => Widths { sample: 4 * inputs(&embed.tokens), ..Widths::default() },
        Stage::Head(head) => Widths { sample: 4 * head.out.as_ref().map_or(0, inputs), ..Widths::default() },
        Stage::Loose(_) => Widths::default(),
    }
}

/// Bytes of all weights of a stage in memory.
fn stage_bytes(stage: &Stage<Form>) -> u64 {
    stage.weights().into_iter().map(|(_, _, form)| held_bytes(form)).sum()
}

/// Bytes of a weight in memory: a code takes a byte, or two.
pub(super) fn held_bytes(form: &Form) -> u64 {
    let leaf = |leaf: &brevity_model::LeafForm| {
        let [rows, columns] = leaf.shape;
        let count = (rows * columns) as u64;
        let values = match &leaf.code {
            CodeForm::Float(dtype) => count * dtype.size_bytes() as u64,
            CodeForm::Grid { group, .. } => {
                let [r, c] = group.scales(leaf.shape);
                count + 5 * (r * c) as u64
            }
            CodeForm::Codebook { dim, entries, .. } => {
                let books: usize = entries.iter().map(|entries| entries * dim).sum();
                count / *dim as u64 * 2 * entries.len() as u64 + 4 * (books + rows) as u64
            }
            CodeForm::Diagonal | CodeForm::Permutation => 4 * rows as u64,
            CodeForm::Hadamard => 0,
            // Decoded when they are loaded.
            CodeForm::Blocks(_) => 4 * count,
        };
        values + if leaf.mask.is_some() { count.div_ceil(8) } else { 0 }
    };
    form.leaves().into_iter().map(|(_, form)| leaf(form)).sum()
}
