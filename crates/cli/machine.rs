//! What a run may use: threads, arithmetic, memory.

use brevity::Checkpoint;
use brevity::kernels::cpu;
use brevity::model::{CodeForm, Dtype as Stored, Stage};
use brevity::runtime::Compute;

use crate::args::{Dtype, Machine};
use crate::failure::Usage;
use crate::units;

/// Hidden states that an evaluation keeps when nobody says how much memory there is.
const USUAL_BUDGET: u64 = 256 << 20;
/// What the process needs beside weights and hidden states: program, tokenizer, text, logits, buffers.
const BASE: u64 = 224 << 20;

/// More threads than any machine has work for; thousands would keep it from everything else for minutes.
const MOST_THREADS: usize = 1024;

/// Milliseconds for which the allocator keeps what was freed where memory is limited. Its own second is faster by a fifth,
/// and long enough for much more than is in use to pile up.
const KEPT: std::ffi::c_long = 10;

/// `mi_option_purge_delay` of mimalloc, versions 2 and 3.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Sets the number of threads of the whole process, and how long it keeps memory that was freed.
pub fn use_what_is_allowed(machine: &Machine) -> anyhow::Result<()> {
    if machine.max_memory.is_some() {
        // SAFETY: an option can be set at any time; one that is not known is passed over.
        #[allow(unsafe_code)]
        unsafe {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT)
        }
    }
    if let Some(threads) = machine.threads {
        if threads == 0 {
            return Err(Usage { what: "`--threads 0` leaves nobody to do the work".into(), hint: None }.into());
        }
        if threads > MOST_THREADS {
            let what = format!("`--threads {threads}` is more than {MOST_THREADS}, the most that is allowed");
            return Err(Usage { what, hint: Some("one for each core is best, and is the default".into()) }.into());
        }
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    Ok(())
}

/// The arithmetic for a model.
pub fn compute(machine: &Machine, checkpoint: &Checkpoint) -> Compute {
    match machine.dtype {
        Dtype::F32 => Compute::F32,
        Dtype::Bf16 => Compute::Bf16,
        Dtype::Auto => {
            let first = checkpoint.model().weights().next();
            let stored = first.and_then(|(_, _, source)| match source.form.leaves()[0].1.code {
                CodeForm::Float(dtype) => Some(dtype),
                _ => None,
            });
            let fast = stored == Some(Stored::Bf16) && cpu::features().avx512_bf16;
            if fast { Compute::Bf16 } else { Compute::F32 }
        }
    }
}

/// The name of an arithmetic in reports.
pub fn name(compute: Compute) -> &'static str {
    match compute {
        Compute::F32 => "f32",
        Compute::Bf16 => "bf16",
    }
}

/// Bytes that an evaluation of these models may keep in hidden states.
///
/// # Errors
/// [`TooSmall`] if the memory allowed is less than one window needs.
pub fn budget(machine: &Machine, models: &[&Checkpoint], window: usize) -> anyhow::Result<u64> {
    let Some(limit) = machine.max_memory else { return Ok(USUAL_BUDGET) };
    let weights: u64 = models.iter().map(|model| largest_stage(model)).max().unwrap_or(0);
    let width: usize = models.iter().map(|model| model.model().hidden).sum();
    let one_window = (window * width * 4) as u64;
    let needed = BASE + weights + one_window;
    if limit < needed {
        return Err(TooSmall { work: "evaluation", needed, limit }.into());
    }
    Ok(limit - BASE - weights)
}

/// Refuses to keep a model in memory that needs more than is allowed.
///
/// # Errors
/// [`TooSmall`], if it does.
pub fn resident(machine: &Machine, checkpoint: &Checkpoint) -> anyhow::Result<()> {
    let Some(limit) = machine.max_memory else { return Ok(()) };
    let needed = BASE + checkpoint.size_bytes();
    if limit < needed { Err(TooSmall { work: "generation", needed, limit }.into()) } else { Ok(()) }
}

/// Refuses to export where a stage and `working` bytes beside it do not fit.
///
/// # Errors
/// [`TooSmall`], if they do not.
pub fn export(machine: &Machine, checkpoint: &Checkpoint, working: u64) -> anyhow::Result<()> {
    let Some(limit) = machine.max_memory else { return Ok(()) };
    let stage = |stage: &Stage<brevity::model::Source>| -> u64 {
        stage.weights().iter().map(|(_, _, source)| source.form.bits() / 8).sum()
    };
    let needed = BASE + working + checkpoint.model().stages.iter().map(stage).max().unwrap_or(0);
    if limit < needed { Err(TooSmall { work: "export", needed, limit }.into()) } else { Ok(()) }
}

/// Bytes of the largest stage while it is made ready: as stored, and in single precision.
fn largest_stage(checkpoint: &Checkpoint) -> u64 {
    let model = checkpoint.model();
    let bytes = |stage: &Stage<_>| -> u64 {
        stage
            .weights()
            .iter()
            .map(|(_, _, source): &(_, _, &brevity::model::Source)| {
                let [rows, columns] = source.form.shape();
                source.form.bits() / 8 + 4 * (rows * columns) as u64
            })
            .sum()
    };
    let runnable = model.stages.iter().filter(|stage| !matches!(stage, Stage::Loose(_)));
    runnable.map(bytes).max().unwrap_or(0)
}

/// The memory allowed is less than the work needs.
#[derive(Debug, thiserror::Error)]
#[error("the {work} needs about {} of memory, and `--max-memory` allows {}", units::bytes(*needed), units::bytes(*limit))]
pub struct TooSmall {
    work: &'static str,
    needed: u64,
    limit: u64,
}

impl TooSmall {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        let window = if self.work == "evaluation" { ", or take a smaller `--window`" } else { "" };
        Some(format!("allow more memory{window}"))
    }
}
