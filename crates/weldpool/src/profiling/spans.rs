//! What an allocator holds of its spans, and the guard of one.

#![forbid(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::tool::{self, Tool};
use super::{Profiling, SlowPath, SpanEvent, SpanHandler, SpanPhase};
use crate::error::Result;
use crate::sync::{AtomicBool, OnceLock, Ordering};

/// The spans of one allocator.
#[derive(Debug)]
pub(crate) struct Spans {
    /// There is a target while this is set.
    on: AtomicBool,
    target: OnceLock<Target>,
}

#[derive(Debug)]
enum Target {
    Tool(&'static Tool),
    Handler(SpanHandler),
}

impl Spans {
    pub(crate) fn new(profiling: &Profiling) -> Self {
        let spans = Self {
            on: AtomicBool::new(false),
            target: OnceLock::new(),
        };
        match profiling {
            Profiling::Off => {}
            Profiling::Platform => {
                if let Err(error) = spans.set(true) {
                    tracing::warn!(%error, "no profiler sees what the allocator does");
                }
            }
            Profiling::Handler(handler) => {
                let _first = spans.target.set(Target::Handler(handler.clone()));
                spans.on.store(true, Ordering::Relaxed);
            }
        }
        spans
    }

    /// Switches them on or off; what was begun is ended either way. Returns what it was.
    ///
    /// # Errors
    ///
    /// As [`platform_tool`](super::platform_tool), where no handler was configured; then they stay off.
    pub(crate) fn set(&self, on: bool) -> Result<bool> {
        if on && self.target.get().is_none() {
            let tool = tool::get()?;
            let _first = self.target.set(Target::Tool(tool));
        }
        Ok(self.on.swap(on, Ordering::Relaxed))
    }

    /// Begins a span, which is over when the guard is dropped.
    #[inline]
    pub(crate) fn begin(&self, path: SlowPath, bytes: usize) -> Span<'_> {
        if self.on.load(Ordering::Relaxed) {
            self.begin_now(path, bytes)
        } else {
            Span(None)
        }
    }

    /// As [`begin`](Self::begin), with bytes that are only asked for where somebody looks.
    #[inline]
    pub(crate) fn begin_with(&self, path: SlowPath, bytes: impl FnOnce() -> usize) -> Span<'_> {
        if self.on.load(Ordering::Relaxed) {
            self.begin_now(path, bytes())
        } else {
            Span(None)
        }
    }

    #[cold]
    fn begin_now(&self, path: SlowPath, bytes: usize) -> Span<'_> {
        let bytes = bytes as u64;
        let begun = self.target.get().map(|target| Begun {
            token: match target {
                Target::Tool(tool) => tool.begin(path, bytes),
                Target::Handler(handler) => {
                    self.call(handler, path, SpanPhase::Begin, bytes);
                    0
                }
            },
            spans: self,
            target,
            path,
            bytes,
            thread: PhantomData,
        });
        Span(begun)
    }

    fn call(&self, handler: &SpanHandler, path: SlowPath, phase: SpanPhase, bytes: u64) {
        let event = SpanEvent { path, phase, bytes };
        if catch_unwind(AssertUnwindSafe(|| handler.call(event))).is_err() {
            self.on.store(false, Ordering::Relaxed);
            tracing::error!("a handler of spans panicked; it is not called again");
        }
    }
}

/// A span that is under way, or nothing where nobody looks.
#[must_use]
pub(crate) struct Span<'a>(Option<Begun<'a>>);

struct Begun<'a> {
    spans: &'a Spans,
    target: &'a Target,
    path: SlowPath,
    token: u64,
    bytes: u64,
    /// Tools pair the ends of a thread.
    thread: PhantomData<*const ()>,
}

impl Span<'_> {
    /// Sets the bytes that the end shows.
    #[inline]
    pub(crate) fn set_bytes(&mut self, bytes: usize) {
        if let Some(begun) = &mut self.0 {
            begun.bytes = bytes as u64;
        }
    }
}

impl Drop for Span<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(begun) = self.0.take() {
            begun.end();
        }
    }
}

impl Begun<'_> {
    #[cold]
    fn end(self) {
        match self.target {
            Target::Tool(tool) => tool.end(self.path, self.token, self.bytes),
            // One that panicked hears of no end either.
            Target::Handler(handler) if self.spans.on.load(Ordering::Relaxed) => {
                self.spans
                    .call(handler, self.path, SpanPhase::End, self.bytes);
            }
            Target::Handler(_) => {}
        }
    }
}

impl fmt::Debug for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.as_ref().map(|begun| begun.path);
        f.debug_tuple("Span").field(&path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, Mutex};

    type Seen = Arc<Mutex<Vec<SpanEvent>>>;

    fn noting() -> (Spans, Seen) {
        let seen = Seen::default();
        let noted = Arc::clone(&seen);
        let handler = SpanHandler::new(move |event| noted.lock().push(event));
        (Spans::new(&Profiling::Handler(handler)), seen)
    }

    fn event(path: SlowPath, phase: SpanPhase, bytes: u64) -> SpanEvent {
        SpanEvent { path, phase, bytes }
    }

    #[test]
    fn spans_nest_and_end_with_the_bytes_they_were_told() {
        let (spans, seen) = noting();
        {
            let _outer = spans.begin(SlowPath::Growth, 100);
            let mut inner = spans.begin(SlowPath::Trim, usize::MAX);
            inner.set_bytes(64);
        }
        let expected = [
            event(SlowPath::Growth, SpanPhase::Begin, 100),
            event(SlowPath::Trim, SpanPhase::Begin, u64::MAX),
            event(SlowPath::Trim, SpanPhase::End, 64),
            event(SlowPath::Growth, SpanPhase::End, 100),
        ];
        assert_eq!(*seen.lock(), expected);
    }

    #[test]
    fn off_nothing_is_told() {
        let (spans, seen) = noting();
        assert!(spans.set(false).unwrap());
        drop(spans.begin(SlowPath::Wait, 1));
        assert!(!spans.set(true).unwrap());
        drop(spans.begin(SlowPath::Wait, 2));
        assert_eq!(seen.lock().len(), 2);
        let off = Spans::new(&Profiling::Off);
        assert!(off.begin(SlowPath::Wait, 3).0.is_none());
    }

    #[test]
    fn a_handler_that_panics_is_called_once() {
        let calls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&calls);
        let spans = Spans::new(&Profiling::Handler(SpanHandler::new(move |_| {
            *counted.lock() += 1;
            panic!("on purpose")
        })));
        drop(spans.begin(SlowPath::Trim, 1));
        drop(spans.begin(SlowPath::Trim, 1));
        assert_eq!(*calls.lock(), 1);
    }

    #[test]
    fn names_are_short_and_differ() {
        let names = SlowPath::ALL.map(SlowPath::name);
        for (index, path) in SlowPath::ALL.into_iter().enumerate() {
            assert_eq!(path as usize, index, "tools keep a table of names");
        }
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| (4..30).contains(&name.len())));
    }
}
