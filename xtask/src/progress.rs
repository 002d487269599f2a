//! Numbered steps: a line with a spinner on a terminal, plain lines everywhere else.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use crate::error::Result;
use crate::process::Run;

const SPINNER: [char; 4] = ['|', '/', '-', '\\'];
/// A line that wraps is cleared in part only, and terminals have 80 columns or more.
const LINE_CHARS_MAX: usize = 79;

/// The steps of one subcommand. Writes to standard error.
#[derive(Debug)]
pub(crate) struct Steps {
    logs: PathBuf,
    number: usize,
    terminal: bool,
    started: Instant,
}

impl Steps {
    /// `logs` is the directory for the output of the steps that run in the background.
    pub(crate) fn new(logs: PathBuf) -> Self {
        Self {
            logs,
            number: 0,
            terminal: std::io::stderr().is_terminal(),
            started: Instant::now(),
        }
    }

    /// Where the output of a step of this title goes.
    pub(crate) fn log_of(&self, title: &str) -> PathBuf {
        let name: String = title
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        self.logs.join(format!("{name}.log"))
    }

    /// Runs a command whose output only matters when it fails.
    pub(crate) fn log(&mut self, title: &str, run: Run) -> Result<()> {
        self.number += 1;
        let number = self.number;
        let started = Instant::now();
        let log = self.log_of(title);
        if !self.terminal {
            eprintln!("[{number}] {title}; its output is in {}", log.display());
        }
        let mut frame = 0;
        let result = run.log(&log, |line| {
            if self.terminal {
                frame += 1;
                let spinner = SPINNER[frame / 2 % SPINNER.len()];
                let seconds = started.elapsed().as_secs();
                redraw(&format!(
                    "[{number}] {title} {spinner} {seconds} s  {}",
                    line.trim()
                ));
            }
        });
        if self.terminal {
            redraw("");
        }
        result?;
        self.finished(title, started);
        Ok(())
    }

    /// Runs a command whose output the user wants to see.
    pub(crate) fn show(&mut self, title: &str, run: Run) -> Result<()> {
        self.work(title, || run.show())
    }

    /// Does something in this program.
    pub(crate) fn work<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.number += 1;
        let started = Instant::now();
        eprintln!("[{}] {title}", self.number);
        let value = work()?;
        self.finished(title, started);
        Ok(value)
    }

    /// Says that everything is done.
    pub(crate) fn done(self, what: &str) {
        eprintln!("{what}: ok ({:.1} s)", self.started.elapsed().as_secs_f64());
    }

    fn finished(&self, title: &str, started: Instant) {
        eprintln!(
            "[{}] {title}: {:.1} s",
            self.number,
            started.elapsed().as_secs_f64()
        );
    }
}

fn redraw(line: &str) {
    let line: String = line.chars().take(LINE_CHARS_MAX).collect();
    let mut stderr = std::io::stderr().lock();
    // Progress that cannot be shown is no reason to fail.
    let _ = write!(stderr, "\r\x1b[2K{line}");
    let _ = stderr.flush();
}
