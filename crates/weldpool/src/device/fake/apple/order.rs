//! Which passes are known to have ended when another begins, and who touches what without that.
//!
//! Memory is untracked, so passes run at the same time unless fences or events order them, whatever the order of their
//! commits (Apple's articles "Resource synchronization" and "Synchronizing passes with a fence").

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use crate::device::fake::violation::{Rule, Violation};

/// A pass, by the order of the commits on its device.
pub(super) type Number = u64;
/// A fence or an event, by the address of its object.
pub(super) type Object = usize;

/// Signals of one event that are remembered.
const SIGNALS_MAX: usize = 64;
/// Mapping updates that are remembered.
const UPDATES_MAX: usize = 1024;

/// Bytes that a pass touches, by their addresses on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Touch {
    pub(super) bytes: Range<u64>,
    pub(super) writes: bool,
}

impl Touch {
    fn conflicts(&self, other: &Self) -> bool {
        (self.writes || other.writes)
            && self.bytes.start < other.bytes.end
            && other.bytes.start < self.bytes.end
    }
}

/// What a pass was encoded to do.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) waits: Vec<Object>,
    pub(super) updates: Vec<Object>,
    pub(super) touches: Vec<Touch>,
}

/// A set of passes: all up to one, and some beyond.
#[derive(Debug, Clone, Default)]
struct Passes {
    up_to: Number,
    beyond: BTreeSet<Number>,
}

impl Passes {
    fn has(&self, pass: Number) -> bool {
        pass <= self.up_to || self.beyond.contains(&pass)
    }

    fn add(&mut self, pass: Number) {
        self.beyond.insert(pass);
        while self.beyond.remove(&(self.up_to + 1)) {
            self.up_to += 1;
        }
    }

    fn join(&mut self, other: &Self) {
        if other.up_to > self.up_to {
            self.up_to = other.up_to;
            let up_to = self.up_to;
            self.beyond.retain(|&pass| pass > up_to);
        }
        for &pass in &other.beyond {
            if pass > self.up_to {
                self.add(pass);
            }
        }
        while self.beyond.remove(&(self.up_to + 1)) {
            self.up_to += 1;
        }
    }
}

/// What is known of a command buffer, as it is read from its beginning.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// What its later passes begin behind: events were waited for.
    waited: Passes,
    /// What its later signals are behind.
    ended: Passes,
    /// The last mapping update that its last pass begins behind.
    mapped: Number,
}

impl Read {
    /// The last mapping update that its last pass begins behind.
    pub(super) fn mapped(&self) -> Number {
        self.mapped
    }
}

/// The passes of a device that have not ended.
#[derive(Debug, Default)]
pub(super) struct Order {
    next: Number,
    open: BTreeMap<Number, Vec<Touch>>,
    /// Updates of mappings, which are numbered among the passes.
    updates: BTreeSet<Number>,
    fences: HashMap<Object, Passes>,
    events: HashMap<Object, BTreeMap<u64, Passes>>,
}

impl Order {
    /// A pass is committed; its number, and what is wrong with it.
    pub(super) fn commit(&mut self, pass: Pass, read: &mut Read) -> (Number, Option<Violation>) {
        self.next += 1;
        let number = self.next;
        let mut before = read.waited.clone();
        for fence in &pass.waits {
            if let Some(passes) = self.fences.get(fence) {
                before.join(passes);
            }
        }
        self.prune(&mut before);
        let clash = self
            .open
            .iter()
            .filter(|(other, _)| !before.has(**other))
            .find_map(|(_, touched)| {
                let conflicts = |touch: &&Touch| touched.iter().any(|one| one.conflicts(touch));
                pass.touches.iter().find(conflicts)
            });
        let violation = clash.map(|touch| Violation {
            rule: Rule::Ordered,
            text: format!(
                "work on {:#x} to {:#x} runs beside other work on it: no fence and no event orders them",
                touch.bytes.start, touch.bytes.end
            ),
        });
        let mut updates = self.updates.iter().rev().copied();
        read.mapped = updates.find(|&update| before.has(update)).unwrap_or(0);
        self.open.insert(number, pass.touches);
        before.add(number);
        for fence in pass.updates {
            self.fences.insert(fence, before.clone());
        }
        read.ended.join(&before);
        (number, violation)
    }

    /// Forgets what nobody asks for any more: passes that have ended.
    fn prune(&self, passes: &mut Passes) {
        let first = |set: Option<&Number>| set.copied().unwrap_or(Number::MAX);
        let open = first(self.open.keys().next());
        let asked = open.min(first(self.updates.first())).min(self.next);
        passes.up_to = passes.up_to.max(asked - 1);
        let up_to = passes.up_to;
        passes.beyond.retain(|pass| {
            *pass > up_to && (self.open.contains_key(pass) || self.updates.contains(pass))
        });
    }

    /// A queue that does one after the other is given a mapping update; its number.
    pub(super) fn update(&mut self, read: &mut Read) -> Number {
        self.next += 1;
        let number = self.next;
        read.ended.add(number);
        self.updates.insert(number);
        if self.updates.len() > UPDATES_MAX {
            self.updates.pop_first();
        }
        number
    }

    /// What follows in a command buffer waits for an event.
    pub(super) fn wait(&self, event: Object, value: u64, read: &mut Read) {
        // An event begins at zero.
        let signals = self.events.get(&event).filter(|_| value > 0);
        let first = signals.and_then(|signals| signals.range(value..).next());
        if let Some((_, passes)) = first {
            read.waited.join(passes);
            read.ended.join(passes);
        }
    }

    /// An event is signalled behind what a command buffer has by then.
    pub(super) fn signal(&mut self, event: Object, value: u64, read: &Read) {
        let signals = self.events.entry(event).or_default();
        signals.insert(value, read.ended.clone());
        while signals.len() > SIGNALS_MAX {
            signals.pop_first();
        }
    }

    /// A pass has ended, and who waits for it on the host may know.
    pub(super) fn end(&mut self, pass: Number) {
        self.open.remove(&pass);
    }

    /// An object has come to its end.
    pub(super) fn forget(&mut self, object: Object) {
        self.fences.remove(&object);
        self.events.remove(&object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FENCE: Object = 1;
    const EVENT: Object = 2;

    fn pass(fenced: bool, bytes: Range<u64>, writes: bool) -> Pass {
        let fences = || if fenced { vec![FENCE] } else { Vec::new() };
        Pass {
            waits: fences(),
            updates: fences(),
            touches: vec![Touch { bytes, writes }],
        }
    }

    /// Commits one pass in a command buffer of its own; whether it is in order.
    fn commit(order: &mut Order, pass: Pass) -> (Number, bool) {
        let (number, violation) = order.commit(pass, &mut Read::default());
        (number, violation.is_none())
    }

    #[test]
    fn passes_that_no_fence_orders_must_not_touch_what_one_writes() {
        let mut order = Order::default();
        assert!(commit(&mut order, pass(false, 0..10, false)).1);
        assert!(commit(&mut order, pass(false, 5..15, false)).1, "both read");
        assert!(commit(&mut order, pass(false, 15..20, true)).1, "elsewhere");
        assert!(!commit(&mut order, pass(false, 9..12, true)).1);
        // A fence that the others did not update does not help.
        assert!(!commit(&mut order, pass(true, 0..2, true)).1);
    }

    #[test]
    fn fences_order_what_waits_behind_what_updates() {
        let mut order = Order::default();
        for _ in 0..5 {
            assert!(commit(&mut order, pass(true, 0..10, true)).1);
        }
        let mut beside = pass(true, 0..10, true);
        beside.waits.clear();
        assert!(!commit(&mut order, beside).1);
    }

    #[test]
    fn little_is_kept_of_queues_that_never_wait_for_each_other() {
        let mut order = Order::default();
        let (_hung, _) = commit(&mut order, pass(false, 100..110, true));
        for _ in 0..1000 {
            let (number, in_order) = commit(&mut order, pass(true, 0..10, true));
            assert!(in_order);
            order.end(number);
        }
        assert!(order.fences[&FENCE].beyond.len() <= 2);
        assert!(
            !commit(&mut order, pass(true, 100..110, true)).1,
            "it hangs still"
        );
    }

    #[test]
    fn what_has_ended_is_in_nobodys_way() {
        let mut order = Order::default();
        let (first, _) = commit(&mut order, pass(false, 0..10, true));
        order.end(first);
        assert!(commit(&mut order, pass(false, 0..10, true)).1);
    }

    #[test]
    fn events_order_command_buffers_and_signals_stand_for_their_own_alone() {
        let mut order = Order::default();
        let mut one = Read::default();
        order.commit(pass(false, 0..10, true), &mut one);
        order.signal(EVENT, 3, &one);
        let mut other = Read::default();
        order.wait(EVENT, 2, &mut other);
        let (_, violation) = order.commit(pass(false, 0..10, true), &mut other);
        assert_eq!(violation, None, "it waited for what signals 3");
        // A signal in a command buffer that comes later says nothing of the passes before it.
        order.signal(EVENT, 4, &Read::default());
        let mut late = Read::default();
        order.wait(EVENT, 4, &mut late);
        let (_, violation) = order.commit(pass(false, 0..10, true), &mut late);
        assert_eq!(violation.map(|broken| broken.rule), Some(Rule::Ordered));
    }

    #[test]
    fn a_pass_knows_of_the_mapping_updates_that_it_waited_for() {
        let mut order = Order::default();
        let (mut queue, mut read) = (Read::default(), Read::default());
        let first = order.update(&mut queue);
        order.signal(EVENT, 1, &queue);
        let second = order.update(&mut queue);
        order.signal(EVENT, 2, &queue);
        order.commit(pass(true, 0..10, true), &mut read);
        assert_eq!(read.mapped(), 0);
        order.wait(EVENT, 1, &mut read);
        order.commit(pass(true, 0..10, true), &mut read);
        assert_eq!(read.mapped(), first);
        // Behind it by the fence alone.
        let mut later = Read::default();
        order.commit(pass(true, 0..10, true), &mut later);
        assert_eq!(later.mapped(), first);
        order.wait(EVENT, 2, &mut later);
        order.commit(pass(true, 0..10, true), &mut later);
        assert_eq!(later.mapped(), second);
        order.commit(pass(false, 20..30, true), &mut read);
        assert_eq!(read.mapped(), first, "waited for in this command buffer");
    }

    #[test]
    fn passes_of_one_command_buffer_run_beside_each_other_too() {
        let mut order = Order::default();
        let mut read = Read::default();
        order.commit(pass(false, 0..10, true), &mut read);
        let (_, violation) = order.commit(pass(false, 0..10, true), &mut read);
        assert!(violation.is_some());
    }
}
