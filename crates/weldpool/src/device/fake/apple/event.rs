//! The model of an `MTLSharedEvent`.

#![forbid(unsafe_code)]

use std::ptr::NonNull;
use std::thread::JoinHandle;
use std::time::Duration;

use super::labels::Labelled;
use super::metal::Metal;
use super::order::{Object, Order, Signal};
use crate::binding::Resource;
use crate::device::Timeline;
use crate::device::fake::violation::Rule;
use crate::device::fence::{deadline_in, sleep};
use crate::device::metal::raw;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Condvar, Mutex, Weak};

type Block = Box<dyn FnOnce() + Send>;

/// An event; cloning it gives another handle.
#[derive(Debug, Clone)]
pub(in crate::device) struct Event {
    inner: Arc<Inner>,
}

struct Inner {
    metal: Metal,
    state: Mutex<State>,
    raised: Condvar,
    label: Labelled,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.metal.forget_event(std::ptr::from_ref(self).addr());
    }
}

/// An event that may have come to its end.
#[derive(Debug)]
pub(super) struct WeakEvent(Weak<Inner>);

impl WeakEvent {
    pub(super) fn upgrade(&self) -> Option<Event> {
        let inner = self.0.upgrade()?;
        Some(Event { inner })
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    value: u64,
    /// What is to be called at which values.
    listeners: Vec<(u64, Block)>,
}

/// Calls a block on a thread that nobody else knows, as Metal's listeners do.
fn call_elsewhere(block: Block) -> Option<JoinHandle<()>> {
    let spawned = std::thread::Builder::new()
        .name("weldpool-listener".into())
        .spawn(block);
    spawned
        .inspect_err(|error| tracing::error!(%error, "no thread for a listener's block"))
        .ok()
}

impl Event {
    pub(super) fn new(metal: &Metal) -> Self {
        Self {
            inner: Arc::new(Inner {
                metal: metal.clone(),
                state: Mutex::default(),
                raised: Condvar::new(),
                label: metal.alive("event"),
            }),
        }
    }

    pub(super) fn downgrade(&self) -> WeakEvent {
        WeakEvent(Arc::downgrade(&self.inner))
    }

    pub(super) fn object(&self) -> Object {
        Arc::as_ptr(&self.inner).addr()
    }

    /// The GPU gives a signal and calls who listens; it waits for nobody. Where queues are stepped by hand, the step is over
    /// when they have returned.
    pub(super) fn raise(&self, signal: Signal) {
        let why = |order: &mut Order| order.raise(self.object(), signal);
        let called = self.raise_to(signal.value, why);
        if self.inner.metal.is_stepped() {
            for thread in called {
                if thread.join().is_err() {
                    tracing::error!("a listener's block panicked");
                }
            }
        }
    }

    /// Raises the value, which never falls, takes note of why, and calls who listens.
    fn raise_to(&self, value: u64, why: impl FnOnce(&mut Order)) -> Vec<JoinHandle<()>> {
        let mut state = self.inner.state.lock();
        let mut order = self.inner.metal.order();
        why(&mut order);
        state.value = state.value.max(value);
        let reached = state.value;
        let due: Vec<_> = state
            .listeners
            .extract_if(.., |(at, _)| *at <= reached)
            .collect();
        // Who is called has seen it.
        for (at, _) in &due {
            order.see(self.object(), *at);
        }
        self.inner.raised.notify_all();
        drop((order, state));
        due.into_iter()
            .filter_map(|(_, block)| call_elsewhere(block))
            .collect()
    }

    /// Waits for a value; `then` is called while the event is known to have it.
    fn wait_until(&self, value: u64, timeout: Option<Duration>, then: impl FnOnce()) -> bool {
        let deadline = deadline_in(timeout);
        let mut state = self.inner.state.lock();
        while state.value < value {
            match sleep(&self.inner.raised, state, deadline) {
                Some(woken) => state = woken,
                None => return false,
            }
        }
        then();
        true
    }

    /// The host sees that the event has reached a value; called with the state locked.
    fn see(&self, value: u64) {
        self.inner.metal.order().see(self.object(), value);
    }

    /// What the GPU waits by: the host sees nothing of that.
    pub(super) fn timeline(&self) -> Arc<dyn Timeline> {
        Arc::new(self.clone())
    }
}

impl Timeline for Event {
    fn completed(&self) -> Result<u64> {
        Ok(self.inner.state.lock().value)
    }

    fn wait(&self, value: u64, timeout: Option<Duration>) -> Result<bool> {
        let most = self.inner.metal.event_wait_max();
        let reached = self.wait_until(value, timeout.or(most), || ());
        match reached || timeout.is_some() {
            true => Ok(reached),
            false => Err(Error::new(
                ErrorKind::Timeout,
                "MTLCommandBufferErrorTimeout: an event was not signalled in time",
            )),
        }
    }
}

impl raw::Object for Event {
    fn set_label(&self, label: &str) {
        self.inner.label.set(label);
    }
}

impl raw::SharedEvent for Event {
    fn resource(&self) -> Resource {
        Resource::new(NonNull::from(self.inner.as_ref()).cast())
    }

    fn signaled_value(&self) -> u64 {
        self.inner.metal.enter("signaledValue");
        let state = self.inner.state.lock();
        self.see(state.value);
        state.value
    }

    fn set_signaled_value(&self, value: u64) {
        self.inner.metal.enter("setSignaledValue:");
        let before = self.inner.state.lock().value;
        if value <= before {
            let text = format!("an event of value {before} is set to {value}");
            self.inner.metal.break_rule(Rule::EventRises, text);
        }
        // Whoever sets it waits for nobody.
        let why = |order: &mut Order| order.raise_by_host(self.object(), value);
        let _detached = self.raise_to(value, why);
    }

    fn notify(&self, value: u64, block: Block) {
        self.inner.metal.enter("notifyListener:");
        let mut state = self.inner.state.lock();
        if state.value < value {
            state.listeners.push((value, block));
            return;
        }
        self.see(value);
        drop(state);
        let _detached = call_elsewhere(block);
    }

    fn wait(&self, value: u64, milliseconds: u64) -> bool {
        self.inner.metal.enter("waitUntilSignaledValue:");
        let timeout = Some(Duration::from_millis(milliseconds));
        self.wait_until(value, timeout, || self.see(value))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::raw::SharedEvent;
    use super::*;
    use crate::device::fake::FakeApple;
    use crate::device::fake::apple::order::Read;
    use crate::device::fake::apple::pools::pooled;

    #[test]
    fn who_listens_is_called_elsewhere_when_the_value_is_reached() {
        let device = FakeApple::new().unwrap();
        let event = Event::new(device.metal());
        pooled(|| listen(&event));
        let broken = device.violations();
        let broken: Vec<_> = broken.iter().map(|violation| violation.rule).collect();
        assert_eq!(
            broken,
            [Rule::EventRises],
            "what falls is not an event's value"
        );
    }

    fn listen(event: &Event) {
        let (say, said) = channel();
        for at in [2, 1, 3] {
            let say = say.clone();
            event.notify(
                at,
                Box::new(move || say.send((at, std::thread::current().id())).unwrap()),
            );
        }
        let given = |value| {
            let mut order = event.inner.metal.order();
            order.signal(event.object(), value, &Read::default())
        };
        event.raise(given(2));
        let mut called = [(); 2].map(|()| said.recv().unwrap());
        called.sort_unstable_by_key(|(at, _)| *at);
        assert!(matches!(called, [(1, _), (2, _)]));
        let here = std::thread::current().id();
        assert!(called.iter().all(|(_, thread)| *thread != here));
        event.set_signaled_value(1);
        assert_eq!(event.signaled_value(), 2);
        let say = say.clone();
        event.notify(
            2,
            Box::new(move || say.send((20, std::thread::current().id())).unwrap()),
        );
        assert_eq!(said.recv().unwrap().0, 20);
        assert!(!SharedEvent::wait(event, 3, 1));
        event.set_signaled_value(3);
        assert!(SharedEvent::wait(event, 3, 1000));
    }
}
