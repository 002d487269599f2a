//! Who wants memory that is not there: a list of demands, and how much each has been given.

use crate::error::Error;

/// Stands for one demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DemandId(u64);

/// For whom memory is obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Party {
    /// A caller that waits.
    Waiting,
    /// A caller that got pageable memory, and still has it.
    Pageable,
    /// Nobody any more. The next caller of such a size takes the demand over, so that a program which asks for the
    /// same again and again is not given more each time.
    Nobody,
}

/// How a demand ended.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// As much was obtained as it needs, or was free already.
    Grown,
    Failed(Error),
}

#[derive(Debug)]
struct Demand {
    id: DemandId,
    party: Party,
    /// Bytes that it needs in one piece.
    need: usize,
    /// Bytes obtained for it.
    grown: usize,
    /// What is free did not serve it, so something is to be obtained in any case.
    insists: bool,
    outcome: Option<Outcome>,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) id: DemandId,
    pub(super) need: usize,
    pub(super) grown: usize,
    /// Whether memory is to be obtained even if what is free seems to suffice.
    pub(super) insists: bool,
}

/// The demands of a pool: at most one for each allocation that may be out and each power of two of its size.
#[derive(Debug, Default)]
pub(super) struct Demands {
    list: Vec<Demand>,
    next: u64,
}

impl Demands {
    /// A caller waits for `need` bytes in one piece.
    pub(super) fn add(&mut self, need: usize) -> DemandId {
        let orphans = self
            .list
            .iter_mut()
            .filter(|one| one.party == Party::Nobody && one.need <= need.saturating_mul(2));
        // The smallest that suffices, unless it is much larger, or the largest, which then needs more.
        let orphan = orphans.min_by_key(|one| match one.need.checked_sub(need) {
            Some(more) => (false, more),
            None => (true, need - one.need),
        });
        if let Some(demand) = orphan {
            demand.party = Party::Waiting;
            demand.need = demand.need.max(need);
            return demand.id;
        }
        self.next += 1;
        let id = DemandId(self.next);
        self.list.push(Demand {
            id,
            party: Party::Waiting,
            need,
            grown: 0,
            insists: false,
            outcome: None,
        });
        id
    }

    /// The demand to work on: the smallest of those that somebody waits for, so that it waits for no more than the
    /// step under way, or else the smallest.
    pub(super) fn task(&self) -> Option<Task> {
        let open = self.list.iter().filter(|one| one.outcome.is_none());
        let next = open.min_by_key(|one| (one.party, one.need))?;
        Some(Task {
            id: next.id,
            need: next.need,
            grown: next.grown,
            // What is free is for those who wait.
            insists: next.insists || next.party != Party::Waiting,
        })
    }

    /// Notes bytes obtained for a demand; true if it has as many as it needs.
    pub(super) fn grew(&mut self, id: DemandId, bytes: usize) -> bool {
        let Some(demand) = self.get(id) else {
            return false;
        };
        demand.grown = demand.grown.saturating_add(bytes);
        demand.insists = false;
        let done = demand.grown >= demand.need;
        if done {
            self.end(id, Outcome::Grown);
        }
        done
    }

    /// Ends a demand. Whoever waits for it finds how.
    pub(super) fn end(&mut self, id: DemandId, outcome: Outcome) {
        if let Some(demand) = self.get(id) {
            demand.outcome = Some(outcome);
        }
        self.list
            .retain(|one| one.party == Party::Waiting || one.outcome.is_none());
    }

    /// Ends all demands for `need` bytes and more, because there is no memory for them. Smaller ones that came
    /// meanwhile have a try of their own.
    pub(super) fn fail(&mut self, need: usize, error: &Error) {
        for demand in self.list.iter_mut().filter(|one| one.need >= need) {
            demand.outcome = Some(Outcome::Failed(error.clone()));
        }
        self.list
            .retain(|one| one.party == Party::Waiting || one.outcome.is_none());
    }

    /// How a demand ended, if it has.
    pub(super) fn outcome(&self, id: DemandId) -> Option<Outcome> {
        let demand = self.list.iter().find(|one| one.id == id)?;
        demand.outcome.clone()
    }

    /// A demand that had ended begins anew, because somebody else was faster, or what is free lies in pieces.
    pub(super) fn reopen(&mut self, id: DemandId) {
        if let Some(demand) = self.get(id) {
            (demand.grown, demand.insists, demand.outcome) = (0, true, None);
        }
    }

    /// Whoever waited does so no longer and has pageable memory; false if the demand is over.
    pub(super) fn abandon(&mut self, id: DemandId) -> bool {
        self.pass_to(id, Party::Pageable)
    }

    /// Whoever has pageable memory gives it back.
    pub(super) fn orphan(&mut self, id: DemandId) {
        self.pass_to(id, Party::Nobody);
    }

    fn pass_to(&mut self, id: DemandId, party: Party) -> bool {
        let Some(demand) = self.get(id) else {
            return false;
        };
        demand.party = party;
        self.list
            .retain(|one| one.party == Party::Waiting || one.outcome.is_none());
        self.get(id).is_some()
    }

    /// Forgets a demand.
    pub(super) fn remove(&mut self, id: DemandId) {
        self.list.retain(|one| one.id != id);
    }

    /// Bytes that are still to be obtained.
    pub(super) fn bytes(&self) -> u64 {
        let open = self.list.iter().filter(|one| one.outcome.is_none());
        open.map(|one| one.need.saturating_sub(one.grown) as u64)
            .fold(0, u64::saturating_add)
    }

    fn get(&mut self, id: DemandId) -> Option<&mut Demand> {
        self.list.iter_mut().find(|one| one.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn needs(demands: &Demands) -> Vec<usize> {
        demands.list.iter().map(|one| one.need).collect()
    }

    #[test]
    fn the_smallest_that_somebody_waits_for_comes_first() {
        let mut demands = Demands::default();
        assert_eq!(demands.task(), None);
        let large = demands.add(100);
        let small = demands.add(10);
        assert_eq!(demands.task().unwrap().id, small);
        assert!(demands.abandon(small));
        assert_eq!(demands.task().unwrap().id, large, "somebody waits for it");
        assert!(!demands.grew(large, 60));
        assert_eq!(demands.task().unwrap().grown, 60);
        assert_eq!(demands.bytes(), 50);
        assert!(demands.grew(large, 60));
        assert_eq!(demands.task().unwrap().id, small);
        assert!(matches!(demands.outcome(large), Some(Outcome::Grown)));
        demands.reopen(large);
        let again = demands.task().unwrap();
        assert_eq!((again.id, again.grown, again.insists), (large, 0, true));
        assert!(!demands.grew(large, 10) && !demands.task().unwrap().insists);
        demands.remove(large);
        assert!(demands.task().unwrap().insists, "nobody waits for it");
        assert!(demands.grew(small, 10));
        assert_eq!(needs(&demands), [0; 0], "nobody waited for it");
    }

    #[test]
    fn whoever_asks_again_takes_over_what_nobody_waits_for() {
        let mut demands = Demands::default();
        let first = demands.add(100);
        assert!(demands.abandon(first));
        assert_ne!(demands.add(100), first, "the first still has its memory");
        demands.orphan(first);
        let small = demands.add(20);
        assert_ne!(small, first, "it need not wait for so much");
        demands.remove(small);
        let other = demands.add(50);
        assert_eq!(other, first);
        assert_eq!(needs(&demands), [100, 100]);
        assert!(demands.abandon(other));
        demands.orphan(other);
        assert_eq!(demands.add(300), first);
        assert_eq!(needs(&demands), [300, 100]);
        // The closest of several that suffice.
        let (ten, forty) = (demands.add(10), demands.add(40));
        for one in [first, ten, forty] {
            assert!(demands.abandon(one));
            demands.orphan(one);
        }
        assert_eq!(demands.add(30), forty);
        assert_eq!(demands.add(30), ten, "the other is much larger");
        assert_eq!(demands.add(150), first);
    }

    #[test]
    fn a_failure_reaches_whoever_waits_and_forgets_the_others() {
        let mut demands = Demands::default();
        let (small, waiting, gone) = (demands.add(1), demands.add(2), demands.add(3));
        assert!(demands.abandon(gone));
        demands.fail(2, &Error::new(ErrorKind::OutOfMemory, "no more"));
        assert_eq!(demands.task().unwrap().id, small, "it has a try of its own");
        demands.remove(small);
        assert_eq!((demands.task(), demands.bytes()), (None, 0));
        let outcome = demands.outcome(waiting);
        assert!(matches!(outcome, Some(Outcome::Failed(_))));
        demands.remove(waiting);
        assert!(!demands.abandon(waiting) && demands.list.is_empty());
    }
}
