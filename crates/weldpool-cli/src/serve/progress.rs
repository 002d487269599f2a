//! Progress of loading: a bar on a terminal, a line per model otherwise.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use weldpool_server::service::LoadObserver;

use crate::output;

/// Shows models being loaded on standard error.
#[derive(Debug)]
pub(crate) struct LoadProgress {
    bar: ProgressBar,
    loading: Mutex<Vec<String>>,
}

impl LoadProgress {
    pub(crate) fn new() -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{spinner} {bar:30} {pos}/{len} {msg}");
            ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            loading: Mutex::default(),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Vec<String>)) {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut loading);
        self.bar.set_message(loading.join(", "));
    }

    fn line(&self, line: &str) {
        self.bar.suspend(|| output::note(line));
    }
}

impl LoadObserver for LoadProgress {
    fn begin(&self, models: usize) {
        self.bar.set_length(models as u64);
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }

    fn loading(&self, model: &str) {
        self.change(|loading| loading.push(model.to_owned()));
    }

    fn loaded(&self, model: &str, versions: &[u64], time: Duration) {
        self.change(|loading| loading.retain(|one| one != model));
        self.bar.inc(1);
        let versions: Vec<String> = versions.iter().map(u64::to_string).collect();
        self.line(&format!(
            "loaded {model} version {} in {:.0} ms",
            versions.join(", "),
            time.as_secs_f64() * 1e3
        ));
    }

    fn failed(&self, model: &str, reason: &str) {
        self.change(|loading| loading.retain(|one| one != model));
        self.bar.inc(1);
        self.line(&format!("failed {model}: {reason}"));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}
