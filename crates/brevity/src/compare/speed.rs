//! How fast a model reads and writes.

use std::ops::ControlFlow;
use std::time::Instant;

use brevity_eval::report::Speed;
use brevity_formats::Checkpoint;
use brevity_runtime::{Compute, Resident, Result, Sampling, generate};

/// How speed is measured: batch 1, after one round that does not count, the median of some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that are written.
    pub written: usize,
    /// Rounds.
    pub rounds: usize,
}

impl Default for Pace {
    /// 512 tokens read and 128 written, five times.
    fn default() -> Self {
        Pace { prompt: 512, written: 128, rounds: 5 }
    }
}

impl Pace {
    /// Measures a model, which is kept in memory whole. The prompt is made up, since speed does not depend on what it says.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn of(&self, model: &Checkpoint, compute: Compute) -> Result<Speed> {
        let resident = Resident::load(model, compute)?;
        let room = resident.context().unwrap_or(usize::MAX).saturating_sub(1);
        let written = self.written.min(room / 2).max(1);
        let read = self.prompt.min(room - room.min(written)).max(1);
        let vocabulary = resident.vocabulary().max(2) as u64;
        let prompt: Vec<u32> = (0..read as u64).map(|n| (1 + n * 2_654_435_761 % (vocabulary - 1)) as u32).collect();
        let (mut reading, mut writing) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            let mut marks = Vec::new();
            let started = Instant::now();
            let sampling = Sampling { max_tokens: written + 1, ..Sampling::default() };
            generate(&resident, &prompt, &sampling, &mut |_| {
                marks.push(started.elapsed().as_secs_f64());
                ControlFlow::Continue(())
            })?;
            if round > 0 {
                reading.push(read as f64 / marks[0].max(1e-9));
                writing.push(written as f64 / (marks[written] - marks[0]).max(1e-9));
            }
        }
        Ok(Speed {
            prefill_tokens_per_second: median(&mut reading),
            decode_tokens_per_second: Some(median(&mut writing)),
            conditions: format!("one text, {read} tokens read, {written} written, median of {}", self.rounds),
        })
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
