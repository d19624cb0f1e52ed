//! Writing shards while the next stage is being worked on.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use brevity_formats::{Output, Tensor};
use serde_json::Value;

use crate::error::Error;

/// A thread that writes what it is handed. It takes the next stage when the one before is on the disk, so that never
/// more than two are in memory.
pub(super) struct Writer<'scope> {
    stages: Option<SyncSender<(usize, Vec<Tensor>, Value)>>,
    done: Receiver<usize>,
    thread: Option<ScopedJoinHandle<'scope, Result<Output, brevity_formats::Error>>>,
}

impl<'scope> Writer<'scope> {
    /// Begins to wait for stages.
    pub fn start<'env>(scope: &'scope Scope<'scope, 'env>, mut output: Output) -> Self {
        let (stages, handed) = sync_channel::<(usize, Vec<Tensor>, Value)>(0);
        let (tell, done) = channel();
        let thread = scope.spawn(move || {
            for (stage, tensors, note) in handed {
                output.write_noted(stage, tensors, note)?;
                // Nobody may be listening any more, which is no reason not to write.
                let _ = tell.send(stage);
            }
            Ok(output)
        });
        Writer { stages: Some(stages), done, thread: Some(thread) }
    }

    /// Hands a stage over, when the one before is on the disk.
    pub fn hand_over(&mut self, stage: usize, tensors: Vec<Tensor>, note: Value) -> Result<(), Error> {
        let sent = self.stages.as_ref().map(|stages| stages.send((stage, tensors, note)));
        match sent {
            Some(Ok(())) => Ok(()),
            // It listens no longer only if it failed.
            _ => self.join().map(|_| ()),
        }
    }

    /// The stages that have reached the disk since this was last asked.
    pub fn written(&mut self) -> Result<Vec<usize>, Error> {
        if self.thread.as_ref().is_some_and(ScopedJoinHandle::is_finished) {
            self.join()?;
        }
        Ok(self.done.try_iter().collect())
    }

    /// Waits until everything handed over is on the disk.
    pub fn end(mut self) -> Result<(Output, Vec<usize>), Error> {
        let output = self.join()?;
        Ok((output, self.done.try_iter().collect()))
    }

    /// The same, for a run that ends early.
    pub fn stop(self) -> Result<Vec<usize>, Error> {
        self.end().map(|(_, written)| written)
    }

    fn join(&mut self) -> Result<Output, Error> {
        self.stages = None;
        let thread = self.thread.take().expect("a writer is joined once: after an error the run is over");
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
    }
}
