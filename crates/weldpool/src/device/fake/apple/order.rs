//! Which passes are known to have ended when another begins, and who touches what without that.
//!
//! Memory is untracked, so passes run at the same time unless fences or events order them, whatever the order of their
//! commits (Apple's articles "Resource synchronization" and "Synchronizing passes with a fence"). When a pass really runs
//! says nothing here: it is in the way of others until they begin behind it, or until the host has seen its end. The
//! host sees that by an event that is signalled behind the pass, or when it is told that the pass's queue is lost.

#![forbid(unsafe_code)]

mod clock;
mod signals;
mod touched;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use self::clock::{Chain, Chains, Clock};
use self::signals::Signals;
use self::touched::{Access, Touched};
use crate::device::fake::violation::{Rule, Violation};

pub(super) use self::clock::{Number, QueueNumber};
pub(super) use self::signals::Signal;

/// A fence or an event, by the address of its object.
pub(super) type Object = usize;

/// Passes and what they touch that are remembered, from which on the oldest that have run are forgotten, seen or not: more
/// than any queue has in flight by far, and little enough to be looked through.
const OPEN_MAX: usize = 4096;

/// Bytes that a pass touches, by their addresses on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Touch {
    pub(super) bytes: Range<u64>,
    pub(super) writes: bool,
}

/// What a pass was encoded to do.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) waits: Vec<Object>,
    pub(super) updates: Vec<Object>,
    pub(super) touches: Vec<Touch>,
}

/// What is known of a command buffer, as it is read from its beginning.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// What its later passes begin behind: events were waited for.
    waited: Clock,
    /// What its later signals are behind.
    ended: Clock,
    /// The last mapping update that its last pass begins behind.
    mapped: Number,
    /// The chain of a queue that maps.
    updates: Option<Chain>,
}

impl Read {
    /// The last mapping update that its last pass begins behind.
    pub(super) fn mapped(&self) -> Number {
        self.mapped
    }
}

/// A pass that the GPU is not through with.
#[derive(Debug)]
struct Running {
    queue: QueueNumber,
    begun: bool,
}

/// The passes of a device whose end nobody has seen.
#[derive(Debug)]
pub(super) struct Order {
    last: Number,
    queues: QueueNumber,
    chains: Chains,
    touched: Touched,
    /// What was committed and is not through.
    running: BTreeMap<Number, Running>,
    /// Queues that were lost in the middle of a pass.
    lost: Vec<QueueNumber>,
    /// Passes of open chains that the host has seen the end of.
    seen: Clock,
    fences: HashMap<Object, Clock>,
    events: HashMap<Object, Signals>,
    /// How much is remembered when it is next looked at what can be forgotten.
    sweep_at: usize,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            last: 0,
            queues: 0,
            chains: Chains::default(),
            touched: Touched::default(),
            running: BTreeMap::new(),
            lost: Vec::new(),
            seen: Clock::default(),
            fences: HashMap::new(),
            events: HashMap::new(),
            sweep_at: OPEN_MAX,
        }
    }
}

impl Order {
    /// A number for a command queue.
    pub(super) fn next_queue(&mut self) -> QueueNumber {
        self.queues += 1;
        self.queues
    }

    /// A pass is committed to a queue; its number, and what is wrong with it. O(k log n) for k ranges of memory that it
    /// touches, and O(n) once in many.
    pub(super) fn commit(
        &mut self,
        queue: QueueNumber,
        pass: Pass,
        read: &mut Read,
    ) -> (Number, Option<Violation>) {
        self.last += 1;
        let number = self.last;
        let mut before = read.waited.clone();
        for fence in &pass.waits {
            if let Some(passes) = self.fences.get(fence) {
                before.join(passes);
            }
        }
        self.prune(&mut before);
        let chain = self.chains.extend(queue, number, &before);
        let mut clash = None;
        for Touch { bytes, writes } in pass.touches {
            let access = Access {
                chain,
                pass: number,
                writes,
            };
            let (chains, seen) = (&self.chains, &self.seen);
            let is_before = |other: &Access| is_over(chains, seen, &before, other);
            if self.touched.touch(bytes.clone(), access, is_before) {
                clash.get_or_insert(bytes);
            }
        }
        let violation = clash.map(|bytes| Violation {
            rule: Rule::Ordered,
            text: format!(
                "work on {:#x} to {:#x} runs beside other work on it: no fence and no event orders them, and nobody saw its end",
                bytes.start, bytes.end
            ),
        });
        let updates = before
            .iter()
            .filter(|(of, _)| self.chains.is_of_updates(*of));
        read.mapped = updates.map(|(_, update)| update).max().unwrap_or(0);
        let begun = false;
        self.running.insert(number, Running { queue, begun });
        before.add(chain, number);
        for fence in pass.updates {
            self.fences.insert(fence, before.clone());
        }
        read.ended.join(&before);
        self.sweep();
        (number, violation)
    }

    /// Forgets what nobody asks for any more.
    fn prune(&self, passes: &mut Clock) {
        let (chains, seen) = (&self.chains, &self.seen);
        passes.retain(|chain, pass| {
            let unseen = chains.is_open(chain) && !seen.has(chain, pass);
            unseen || chains.is_of_updates(chain)
        });
    }

    /// Once much is remembered, forgets what was seen to have ended, and the oldest that have run if that is not enough.
    fn sweep(&mut self) {
        if self.touched.len() + self.chains.len() < self.sweep_at {
            return;
        }
        let (chains, seen, none) = (&self.chains, &self.seen, Clock::default());
        self.touched
            .retain(|access| !is_over(chains, seen, &none, access));
        let running = &self.running;
        let has_run = |pass: Number| !running.contains_key(&pass);
        self.touched.forget_oldest(OPEN_MAX / 4, has_run);
        self.chains.close_oldest(OPEN_MAX / 4, has_run);
        let left = self.touched.len() + self.chains.len();
        self.sweep_at = OPEN_MAX.max(2 * left);
    }

    /// A queue that does one after the other is given an update of mappings at these addresses; its number, and what is
    /// wrong with it. Such a queue waits for no pass, so the host has to have seen the end of all that use them.
    pub(super) fn update(
        &mut self,
        bytes: Range<u64>,
        read: &mut Read,
    ) -> (Number, Option<Violation>) {
        self.last += 1;
        let chains = &mut self.chains;
        let chain = read.updates.get_or_insert_with(|| chains.make_of_updates());
        read.ended.add(*chain, self.last);
        let (chains, seen, none) = (&self.chains, &self.seen, Clock::default());
        let is_used = self
            .touched
            .has(&bytes, |access| is_over(chains, seen, &none, access));
        let violation = is_used.then(|| Violation {
            rule: Rule::Ordered,
            text: format!(
                "mappings of {:#x} to {:#x} change beside work on them, whose end nobody saw",
                bytes.start, bytes.end
            ),
        });
        (self.last, violation)
    }

    /// What follows in a command buffer waits for an event.
    pub(super) fn wait(&self, event: Object, value: u64, read: &mut Read) {
        let signals = self.events.get(&event);
        if let Some(passes) = signals.and_then(|signals| signals.wait(value)) {
            read.waited.join(&passes);
            read.ended.join(&passes);
        }
    }

    /// An event is to be signalled behind what a command buffer has by then.
    pub(super) fn signal(&mut self, event: Object, value: u64, read: &Read) -> Signal {
        let signals = self.events.entry(event).or_default();
        let is_kept = |chain| self.chains.is_of_updates(chain);
        let (signal, seen) = signals.add(value, read.ended.clone(), is_kept);
        self.end(seen);
        signal
    }

    /// The GPU has signalled.
    pub(super) fn raise(&mut self, event: Object, signal: Signal) {
        if let Some(signals) = self.events.get_mut(&event) {
            signals.raise(signal);
        }
    }

    /// The host has signalled, which says nothing of any pass.
    pub(super) fn raise_by_host(&mut self, event: Object, value: u64) {
        self.events.entry(event).or_default().reach(value);
    }

    /// The host has seen that an event has reached a value.
    pub(super) fn see(&mut self, event: Object, value: u64) {
        let signals = self.events.get_mut(&event);
        let is_kept = |chain| self.chains.is_of_updates(chain);
        let ended = signals.and_then(|signals| signals.see(value, is_kept));
        self.end(ended);
    }

    /// The host knows that passes have ended.
    fn end(&mut self, passes: Option<Clock>) {
        let mut passes = passes.unwrap_or_default();
        // That a mapping is there is for the GPU to know.
        passes.retain(|chain, _| self.chains.is_open(chain));
        self.seen.join(&passes);
        for (chain, _) in passes.iter() {
            let last = self.chains.last(chain);
            if last.is_some_and(|last| self.seen.has(chain, last)) {
                self.chains.close(chain);
            }
        }
        let chains = &self.chains;
        self.seen.retain(|chain, _| chains.is_open(chain));
    }

    /// The GPU begins a pass.
    pub(super) fn begin(&mut self, pass: Number) {
        if let Some(running) = self.running.get_mut(&pass) {
            running.begun = true;
        }
    }

    /// The GPU is through with a pass, or will never begin it; nobody has seen that.
    pub(super) fn through(&mut self, pass: Number) {
        let of = self.running.remove(&pass).map(|running| running.queue);
        if of.is_some_and(|queue| self.lost.contains(&queue)) {
            self.end_lost();
        }
    }

    /// The host was told that a queue is lost: nothing of it runs any more once the pass that ran is through.
    pub(super) fn lose(&mut self, queue: QueueNumber) {
        if !self.lost.contains(&queue) {
            self.lost.push(queue);
        }
        self.end_lost();
    }

    fn end_lost(&mut self) {
        let runs = |queue: QueueNumber| {
            let mut running = self.running.values();
            running.any(|running| running.queue == queue && running.begun)
        };
        let (late, over): (Vec<_>, Vec<_>) = self.lost.iter().partition(|&&queue| runs(queue));
        self.lost = late;
        over.into_iter()
            .for_each(|queue| self.chains.close_queue(queue));
    }

    /// An object has come to its end.
    pub(super) fn forget(&mut self, object: Object) {
        self.fences.remove(&object);
        self.events.remove(&object);
    }

    /// Memory has come to its end, and its addresses may be given out again.
    pub(super) fn forget_memory(&mut self, bytes: Range<u64>) {
        self.touched.forget(&bytes);
    }
}

/// Whether a pass has ended for one that begins behind others.
fn is_over(chains: &Chains, seen: &Clock, before: &Clock, access: &Access) -> bool {
    let Access { chain, pass, .. } = *access;
    !chains.is_open(chain) || seen.has(chain, pass) || before.has(chain, pass)
}

#[cfg(test)]
mod tests;
