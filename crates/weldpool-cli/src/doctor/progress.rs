//! How far an examination is: a bar on a terminal, else a line per device.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::step::Step;
use crate::output;

/// Shown on standard error.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal {
            let style =
                ProgressStyle::with_template("{spinner} {prefix} {bar:30} {pos}/{len} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        } else {
            ProgressBar::hidden()
        };
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, is_terminal }
    }

    /// A device with so many steps comes.
    pub(super) fn device(&self, name: &str, steps: usize) {
        self.bar.set_prefix(name.to_owned());
        self.bar.set_position(0);
        self.bar.set_length(steps as u64);
        if !self.is_terminal {
            output::note(format_args!("{name}: {steps} steps"));
        }
    }

    pub(super) fn begin(&self, step: Step) {
        self.bar.set_message(step.to_string());
    }

    pub(super) fn end(&self) {
        self.bar.inc(1);
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
