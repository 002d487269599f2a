//! What the signals of an event stand for.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::clock::{Chain, Clock};

/// Signals of an event that are remembered. Those before them count as seen once the GPU has raised them: many times what
/// a command queue has in flight.
const SIGNALS_MAX: usize = 4096;

/// A signal of an event, by its value and the order of the commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Signal {
    pub(in super::super) value: u64,
    number: u64,
}

/// The signals of an event that the GPU gives.
#[derive(Debug, Default)]
pub(super) struct Signals {
    made: u64,
    /// What the event is known to have reached: signals up to there say nothing any more.
    reached: u64,
    /// What of that whoever waits for it on the GPU has to be told.
    known: Clock,
    beyond: BTreeMap<Signal, Given>,
}

#[derive(Debug)]
struct Given {
    passes: Clock,
    /// Whether the GPU has given it.
    raised: bool,
}

impl Signals {
    /// The GPU is to signal a value behind these passes; what is taken to be seen besides, lest too much be remembered.
    pub(super) fn add(
        &mut self,
        value: u64,
        passes: Clock,
        is_kept: impl Fn(Chain) -> bool,
    ) -> (Signal, Option<Clock>) {
        self.made += 1;
        let signal = Signal {
            value,
            number: self.made,
        };
        if value > self.reached {
            let raised = false;
            self.beyond.insert(signal, Given { passes, raised });
        }
        let oldest = self.beyond.first_key_value();
        let surplus = oldest.filter(|(_, given)| given.raised && self.beyond.len() > SIGNALS_MAX);
        let value = surplus.map(|(signal, _)| signal.value);
        (signal, value.and_then(|value| self.see(value, is_kept)))
    }

    /// The GPU has given a signal.
    pub(super) fn raise(&mut self, signal: Signal) {
        if let Some(given) = self.beyond.get_mut(&signal) {
            given.raised = true;
        }
    }

    /// The event has reached a value, as somebody knows.
    pub(super) fn reach(&mut self, value: u64) {
        if value <= self.reached {
            return;
        }
        self.reached = value;
        let next = Signal {
            value: value.saturating_add(1),
            number: 0,
        };
        let beyond = self.beyond.split_off(&next);
        self.beyond = beyond;
    }

    /// The host has seen that the event has reached a value; what has ended then. Whichever of the signals from there on
    /// was given first may be why, so it is what they have in common; nothing, where the host has signalled itself.
    /// `is_kept` says of which chains it stays known here, for who waits on the GPU.
    pub(super) fn see(&mut self, value: u64, is_kept: impl Fn(Chain) -> bool) -> Option<Clock> {
        if value <= self.reached {
            return None;
        }
        let ended = self.common(value, |given| given.raised);
        self.reach(value);
        if let Some(ended) = &ended {
            self.known.join(ended);
            self.known.retain(|chain, _| is_kept(chain));
        }
        ended
    }

    /// What has ended when the GPU has waited for a value, likewise.
    pub(super) fn wait(&self, value: u64) -> Option<Clock> {
        if value <= self.reached {
            return Some(self.known.clone());
        }
        let mut common = self.common(value, |_| true)?;
        common.join(&self.known);
        Some(common)
    }

    fn common(&self, value: u64, counts: impl Fn(&Given) -> bool) -> Option<Clock> {
        let from = Signal { value, number: 0 };
        let signals = self.beyond.range(from..).map(|(_, given)| given);
        let mut signals = signals.filter(|given| counts(given));
        let mut common = signals.next()?.passes.clone();
        signals.for_each(|given| common.meet(&given.passes));
        Some(common)
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Chain;
    use super::*;

    /// Of passes nothing is, as the host has seen them.
    fn is_kept(chain: Chain) -> bool {
        chain == Chain(100)
    }

    fn passes(of: &[u64]) -> Clock {
        let mut clock = Clock::default();
        of.iter().for_each(|&pass| clock.add(Chain(pass), pass));
        clock
    }

    #[test]
    fn what_is_seen_is_what_all_signals_that_may_be_why_have_in_common() {
        let mut signals = Signals::default();
        let give = |signals: &mut Signals, value, of: &[u64]| {
            let (signal, _) = signals.add(value, passes(of), is_kept);
            signals.raise(signal);
            signal
        };
        give(&mut signals, 3, &[1]);
        give(&mut signals, 5, &[1, 2]);
        let (late, _) = signals.add(7, passes(&[4]), is_kept);
        assert_eq!(signals.wait(2), Some(passes(&[])), "7 may come first");
        assert_eq!(
            signals.see(2, is_kept),
            Some(passes(&[1])),
            "it has not come"
        );
        assert_eq!(signals.see(2, is_kept), None, "known");
        assert_eq!(signals.see(5, is_kept), Some(passes(&[1, 2])));
        assert_eq!(signals.wait(4), Some(passes(&[])), "known");
        assert_eq!(signals.see(6, is_kept), None, "by the host itself");
        assert_eq!(signals.wait(7), Some(passes(&[4])));
        signals.reach(100);
        signals.raise(late);
        assert_eq!(signals.see(100, is_kept), None);
        assert_eq!(signals.wait(7), Some(passes(&[])));
        assert!(signals.beyond.is_empty());
    }

    #[test]
    fn what_is_kept_is_told_to_who_waits_for_what_was_seen() {
        let mut signals = Signals::default();
        let (signal, _) = signals.add(2, passes(&[1, 100]), is_kept);
        signals.raise(signal);
        signals.see(2, is_kept);
        assert_eq!(signals.wait(1), Some(passes(&[100])));
        signals.add(3, passes(&[5]), is_kept);
        assert_eq!(signals.wait(3), Some(passes(&[5, 100])));
    }

    #[test]
    fn old_signals_that_were_given_count_as_seen() {
        let mut signals = Signals::default();
        let (first, _) = signals.add(1, passes(&[1]), is_kept);
        for value in 2..=SIGNALS_MAX as u64 + 10 {
            let (_, seen) = signals.add(value, passes(&[1, 2]), is_kept);
            assert_eq!(seen, None, "the first was not given");
        }
        signals.raise(first);
        let (_, seen) = signals.add(u64::MAX, passes(&[1, 2]), is_kept);
        assert_eq!(seen, Some(passes(&[1])));
        assert_eq!(signals.see(1, is_kept), None);
        assert_eq!(signals.wait(2), Some(passes(&[1, 2])));
    }
}
