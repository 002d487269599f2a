//! What waits in a queue whose work is done by this process.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::error::{Error, ErrorKind};

/// Items from which on whoever waits for room waits.
pub(super) const ROOM: usize = 1024;
/// Items from which on work is refused. Whoever has waited for room is not: what one submission waits for comes on top.
const WAITING_MAX: usize = 2 * ROOM;

/// One item.
#[derive(Debug)]
pub(super) enum Item<W> {
    Work(W),
    /// Everything before it is done.
    Signal(u64),
}

/// Work that was not taken, and why. To be dropped without the lock.
#[derive(Debug)]
pub(super) struct Refused<W> {
    pub(super) work: W,
    pub(super) error: Error,
}

impl<W> Refused<W> {
    /// Drops the work.
    pub(super) fn into_error(self) -> Error {
        let Self { work, error } = self;
        drop(work);
        error
    }
}

/// Items in the order of their submission. Neither work nor a signal waits for room here, so that both can be put in
/// under a lock that the queue's own work may want.
#[derive(Debug)]
pub(super) struct Backlog<W> {
    items: VecDeque<Item<W>>,
    signalled: u64,
}

impl<W> Default for Backlog<W> {
    fn default() -> Self {
        Self {
            items: VecDeque::new(),
            signalled: 0,
        }
    }
}

impl<W> Backlog<W> {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.items.len() < ROOM
    }

    /// Puts work at the end. What is refused comes back, since what it owns may want the lock that the backlog is under
    /// when it is dropped.
    pub(super) fn push(&mut self, work: W) -> Result<(), Refused<W>> {
        if self.items.len() >= WAITING_MAX {
            let error = Error::with_message(
                ErrorKind::LimitExceeded,
                format!("{WAITING_MAX} items wait in a queue; wait for room before a submission"),
            );
            return Err(Refused { work, error });
        }
        self.items.push_back(Item::Work(work));
        Ok(())
    }

    /// Puts a signal at the end and returns its value. Signals with no work in between are one item, so there is no more
    /// than one for each piece of work.
    pub(super) fn signal(&mut self) -> u64 {
        self.signalled += 1;
        match self.items.back_mut() {
            Some(Item::Signal(value)) => *value = self.signalled,
            _ => self.items.push_back(Item::Signal(self.signalled)),
        }
        self.signalled
    }

    pub(super) fn front(&self) -> Option<&Item<W>> {
        self.items.front()
    }

    pub(super) fn pop(&mut self) -> Option<Item<W>> {
        self.items.pop_front()
    }

    /// Takes all items out.
    pub(super) fn take(&mut self) -> VecDeque<Item<W>> {
        std::mem::take(&mut self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_has_a_limit_and_signals_are_never_refused() {
        let mut backlog = Backlog::default();
        let mut work = 0;
        let error = loop {
            match backlog.push(()) {
                Ok(()) => work += 1,
                Err(refused) => break refused.into_error(),
            }
            assert_eq!(backlog.signal(), work);
        };
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert_eq!(work, ROOM as u64);
        for more in 1..10_000 {
            assert_eq!(backlog.signal(), work + more);
        }
        assert_eq!(backlog.len(), WAITING_MAX);
        assert!(matches!(backlog.pop(), Some(Item::Work(()))));
        assert!(matches!(backlog.pop(), Some(Item::Signal(1))));
        backlog.push(()).unwrap();
    }
}
