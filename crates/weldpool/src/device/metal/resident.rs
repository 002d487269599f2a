//! Keeps memory resident, as [`Residency`] decides.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::raw::{Allocation, CommandQueue, Metal, ResidencySet};
use super::residency::{Change, Member, Residency, ResidencyConfig};
use crate::error::Result;
use crate::sync::Mutex;

/// The residency sets of a device; none where the system has none.
#[derive(Debug)]
pub(super) struct Resident<M: Metal>(Option<Mutex<Sets<M>>>);

#[derive(Debug)]
struct Sets<M: Metal> {
    decided: Residency,
    sets: Vec<M::Set>,
    next: Member,
}

impl<M: Metal> Resident<M> {
    pub(super) fn new(metal: &M, config: ResidencyConfig) -> Self {
        let working_set = metal.recommended_max_working_set_size();
        let there = config.enabled && metal.has_residency_sets() && working_set > 0;
        Self(there.then(|| {
            Mutex::new(Sets {
                decided: Residency::new(config, working_set),
                sets: Vec::new(),
                next: 0,
            })
        }))
    }

    /// Keeps a heap or buffer resident from the next submission on, if there is room; the number by which it is
    /// [removed](Self::remove). A set that cannot be made is done without: memory works without it, more slowly.
    pub(super) fn add(
        &self,
        metal: &M,
        allocation: Allocation<'_, M>,
        bytes: u64,
    ) -> Option<Member> {
        let mut sets = self.0.as_ref()?.lock();
        let member = sets.next;
        sets.next += 1;
        let changes = sets.decided.add(member, bytes);
        let mut added = None;
        for change in changes {
            match change {
                Change::Make(_) => match metal.new_residency_set("weldpool") {
                    Ok(set) => sets.sets.push(set),
                    Err(error) => {
                        tracing::warn!(%error, "a residency set could not be made");
                        sets.decided.forget_last_set(member);
                        return None;
                    }
                },
                Change::Add(set, member) => {
                    sets.sets[set].add(allocation);
                    added = Some(member);
                }
                Change::Remove(..) => {}
            }
        }
        added
    }

    pub(super) fn remove(&self, member: Member, allocation: Allocation<'_, M>) {
        let Some(sets) = &self.0 else {
            return;
        };
        let mut sets = sets.lock();
        if let Some(Change::Remove(set, _)) = sets.decided.remove(member) {
            sets.sets[set].remove(allocation);
        }
    }

    /// Commits what changed, and gives a command queue the sets that it does not have yet; `has` is how many it has.
    pub(super) fn before_submission(&self, queue: &M::Queue, has: &mut usize) -> Result<()> {
        let Some(sets) = &self.0 else {
            return Ok(());
        };
        let mut sets = sets.lock();
        let changed = sets.decided.before_submission(Instant::now());
        for set in changed {
            sets.sets[set].commit();
        }
        for set in sets.sets.iter().skip(*has) {
            queue.add_residency_set(set);
        }
        *has = sets.sets.len();
        Ok(())
    }
}
