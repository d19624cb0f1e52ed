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
    what: String,
    /// What is written above the bar of a terminal as the work goes on, if it takes long enough for a bar.
    table: Option<Live>,
    bar: ProgressBar,
    started: Instant,
    part: Instant,
    spoken: Instant,
    terminal: bool,
}

impl Progress {
    /// Begins work in `total` steps.
    pub fn new(what: &str, total: u64) -> Self {
        let style = "{msg} {bar:30} {pos}/{len}, {eta} left";
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
        bar.set_message(what.to_owned());
        Progress {
            what: what.to_owned(),
            table: None,
            bar,
            started: Instant::now(),
            part: Instant::now(),
            spoken: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    /// With a table that grows above the bar; without a terminal nobody sees it.
    pub fn with_table(mut self, header: &[&str], widths: &'static [usize]) -> Self {
        self.table = self.terminal.then(|| Live { widths, rows: vec![line(header, widths)] });
        self
    }

    /// Adds a row to the table.
    pub fn row(&mut self, cells: &[impl AsRef<str>]) {
        let Some(table) = &mut self.table else { return };
        table.rows.push(line(cells, table.widths));
        self.tell();
    }

    /// Writes the rows that nobody has seen above the bar, if there is one.
    fn tell(&mut self) {
        if let Some(table) = self.table.as_mut().filter(|_| !self.bar.is_hidden()) {
            table.rows.drain(..).for_each(|row| self.bar.println(row));
        }
    }

    /// Writes a line above the bar, or where it would be; nothing for short work.
    pub fn say(&mut self, line: &str) {
        if self.started.elapsed() < QUIET {
            return;
        }
        match self.bar.is_hidden() {
            true => eprintln!("{line}"),
            false => self.bar.println(line),
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
                self.tell();
            }
        } else if self.spoken.elapsed() > EVERY && done > 0 && done < total {
            self.spoken = Instant::now();
            let left = self.part.elapsed().as_secs_f64() / done as f64 * (total - done) as f64;
            eprintln!("{}: {done} of {total}, {} left", self.what, crate::units::seconds(left));
        }
    }
}

/// A table whose rows come one by one.
struct Live {
    widths: &'static [usize],
    /// Rows that nobody has seen.
    rows: Vec<String>,
}

/// Cells at these widths, the first flush left and the others flush right.
fn line(cells: &[impl AsRef<str>], widths: &[usize]) -> String {
    let cells = cells.iter().zip(widths).enumerate().map(|(n, (cell, &width))| match n {
        0 => format!("{:width$}", cell.as_ref()),
        _ => format!("{:>width$}", cell.as_ref()),
    });
    cells.collect::<Vec<_>>().join("  ")
}

impl brevity::eval::Observer for Progress {
    fn part(&mut self, what: &str) {
        self.what = what.to_owned();
        self.bar.set_message(self.what.clone());
        self.bar.reset_eta();
        // The time left is that of the part.
        self.part = Instant::now();
    }

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
