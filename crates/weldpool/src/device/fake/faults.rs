//! Calls that fail on demand.

use super::call::Call;
use super::random;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::Mutex;

/// Which calls of a kind fail. Calls are counted from 1, from the making of the device.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum When {
    /// The call of this number.
    Nth(u64),
    /// The call of this number and all after it.
    From(u64),
    /// Each call with this probability, from 0 to 1. Which ones depends on the device's seed and the
    /// call's number alone.
    Probability(f64),
}

/// Calls that fail, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fault {
    /// The kind of call.
    pub call: Call,
    /// Which of them.
    pub when: When,
    /// The kind of the error.
    pub error: ErrorKind,
}

/// The faults planned for a device and the calls counted so far.
#[derive(Debug)]
pub(super) struct Faults {
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    planned: Vec<Fault>,
    calls: [u64; Call::ALL.len()],
}

impl Faults {
    pub(super) fn new(seed: u64, planned: Vec<Fault>) -> Self {
        Self {
            seed,
            state: Mutex::new(State {
                planned,
                ..State::default()
            }),
        }
    }

    pub(super) fn add(&self, fault: Fault) {
        self.state.lock().planned.push(fault);
    }

    pub(super) fn clear(&self) -> Vec<Fault> {
        std::mem::take(&mut self.state.lock().planned)
    }

    pub(super) fn calls(&self, call: Call) -> u64 {
        self.state.lock().calls[call as usize]
    }

    /// Counts a call and says whether it fails.
    pub(super) fn check(&self, call: Call) -> Result<()> {
        let mut state = self.state.lock();
        let number = &mut state.calls[call as usize];
        *number += 1;
        let number = *number;
        let hit = state.planned.iter().find(|fault| {
            fault.call == call
                && match fault.when {
                    When::Nth(nth) => number == nth,
                    When::From(first) => number >= first,
                    When::Probability(probability) => {
                        random::fraction(self.seed, call as u64, number) < probability
                    }
                }
        });
        match hit {
            None => Ok(()),
            Some(fault) => Err(Error::with_message(
                fault.error,
                format!("{call:?} number {number} was made to fail"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(when: When) -> Vec<u64> {
        let fault = Fault {
            call: Call::Map,
            when,
            error: ErrorKind::System,
        };
        let faults = Faults::new(11, vec![fault]);
        (1..=100)
            .filter(|_| {
                assert!(faults.check(Call::Unmap).is_ok(), "another kind of call");
                faults.check(Call::Map).is_err()
            })
            .collect()
    }

    #[test]
    fn each_rule_hits_the_calls_it_names() {
        assert_eq!(failing(When::Nth(3)), [3]);
        assert_eq!(failing(When::From(99)), [99, 100]);
        let some = failing(When::Probability(0.5));
        assert!((30..70).contains(&some.len()), "{some:?}");
        assert_eq!(some, failing(When::Probability(0.5)), "the seed decides");
        assert!(failing(When::Probability(0.0)).is_empty());
        assert_eq!(failing(When::Probability(1.0)).len(), 100);
    }
}
