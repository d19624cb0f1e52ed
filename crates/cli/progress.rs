//! Progress on stderr: a bar with the time left on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing is shown for work shorter than this.
const QUIET: Duration = Duration::from_secs(2);
/// Elsewhere than on a terminal, a line comes so often.
const EVERY: Duration = Duration::from_secs(15);

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C (and a polite kill) end the work at the next whole step; a second one ends the program at once.
pub fn watch_for_interrupts() {
    let watch = || {
        if CANCELLED.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Without a handler Ctrl-C still ends the program, and an unfinished directory can still be resumed.
    let _ = ctrlc::set_handler(watch);
}

/// Whether the user wants the work to end.
pub fn cancelled() -> bool {
    CANCELLED.load(Ordering::SeqCst)
}

/// Work of a known length.
pub struct Progress {
    what: &'static str,
    bar: ProgressBar,
    started: Instant,
    spoken: Instant,
    terminal: bool,
}

impl Progress {
    /// Begins work in `total` steps.
    pub fn new(what: &'static str, total: u64) -> Self {
        let style = "{msg} {bar:30} {pos}/{len}, {eta} left";
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
        bar.set_message(what);
        Progress {
            what,
            bar,
            started: Instant::now(),
            spoken: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// `done` of `total` steps are done.
    pub fn at(&mut self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.started.elapsed() < QUIET {
            return;
        }
        if self.terminal {
            if self.bar.is_hidden() {
                self.bar.set_draw_target(ProgressDrawTarget::stderr());
            }
        } else if self.spoken.elapsed() > EVERY && done > 0 && done < total {
            self.spoken = Instant::now();
            let left = self.started.elapsed().as_secs_f64() / done as f64 * (total - done) as f64;
            eprintln!("{}: {done} of {total}, {} left", self.what, crate::units::seconds(left));
        }
    }
}

impl brevity::eval::Observer for Progress {
    fn progress(&mut self, fraction: f64) {
        self.at((fraction * 1000.0) as u64, 1000);
    }

    fn cancelled(&self) -> bool {
        cancelled()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
