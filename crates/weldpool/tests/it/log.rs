//! Log lines of one thread, for tests.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests report by panicking, as the tests do"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) level: Level,
    pub(crate) fields: BTreeMap<&'static str, String>,
}

impl Line {
    /// The value of a field, empty where there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    pub(crate) fn message(&self) -> &str {
        self.field("message")
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// What this thread logs in `body`, at all levels, with its result. `seen` is told of each line when it is
/// logged, but for those that it logs itself.
pub(crate) fn watch<T>(
    seen: impl Fn(&Line) + Send + Sync + 'static,
    body: impl FnOnce() -> T,
) -> (Vec<Line>, T) {
    let lines: Arc<Mutex<Vec<Line>>> = Arc::default();
    let capture = Capture {
        lines: Arc::clone(&lines),
        seen: Box::new(seen),
    };
    let result = tracing::subscriber::with_default(capture, body);
    let lines = std::mem::take(&mut *lines.lock().unwrap());
    (lines, result)
}

/// What this thread logs in `body`.
pub(crate) fn lines(body: impl FnOnce()) -> Vec<Line> {
    watch(|_| (), body).0
}

struct Capture {
    lines: Arc<Mutex<Vec<Line>>>,
    seen: Box<dyn Fn(&Line) + Send + Sync>,
}

thread_local! {
    static SEEING: Cell<bool> = const { Cell::new(false) };
}

impl Subscriber for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("weldpool")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line {
            level: *event.metadata().level(),
            fields: BTreeMap::new(),
        };
        event.record(&mut line);
        self.lines.lock().unwrap().push(line.clone());
        if !SEEING.replace(true) {
            (self.seen)(&line);
            SEEING.set(false);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
