//! Keeps memory resident, as [`Residency`] decides.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::raw::{Allocation, CommandQueue, Metal, ResidencySet};
use super::residency::{Beat, Change, Member, Residency, ResidencyConfig};
use crate::sync::{Arc, Condvar, Mutex};

/// The residency sets of a device; none where the system has none. Dropped, it ends its thread.
#[derive(Debug)]
pub(super) struct Resident<M: Metal>(Option<Arc<Heart<M>>>);

/// What the device and its heart's thread share.
#[derive(Debug)]
struct Heart<M: Metal> {
    /// Held for calls too: a set is not to be changed and asked for at once.
    sets: Mutex<Sets<M>>,
    woken: Condvar,
}

#[derive(Debug)]
struct Sets<M: Metal> {
    decided: Residency,
    sets: Vec<M::Set>,
    next: Member,
    beating: Beating,
}

#[derive(Debug, PartialEq, Eq)]
enum Beating {
    /// No thread was needed yet.
    NotYet,
    /// A thread sleeps until it is woken.
    Asleep,
    /// It looks again by itself.
    Awake,
    /// None is to be, or none could be made.
    Never,
}

impl<M: Metal> Resident<M> {
    pub(super) fn new(metal: &M, config: ResidencyConfig) -> Self {
        let working_set = metal.recommended_max_working_set_size();
        let there = config.enabled && metal.has_residency_sets() && working_set > 0;
        Self(there.then(|| {
            let decided = Residency::new(config, working_set);
            let beating = match decided.beats() {
                true => Beating::NotYet,
                false => Beating::Never,
            };
            Arc::new(Heart {
                sets: Mutex::new(Sets {
                    decided,
                    sets: Vec::new(),
                    next: 0,
                    beating,
                }),
                woken: Condvar::new(),
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
        let mut sets = self.0.as_ref()?.sets.lock();
        let member = sets.next;
        sets.next += 1;
        let changes = sets.decided.add(member, bytes);
        let mut added = None;
        for change in changes {
            match change {
                Change::Make(number) => {
                    let label = format!("weldpool {number}");
                    match metal.new_residency_set(&label) {
                        Ok(set) => sets.sets.push(set),
                        Err(error) => {
                            tracing::warn!(%error, "a residency set could not be made");
                            sets.decided.forget_last_set(member);
                            return None;
                        }
                    }
                }
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
        let Some(heart) = &self.0 else {
            return;
        };
        let mut sets = heart.sets.lock();
        if let Some(Change::Remove(set, _)) = sets.decided.remove(member) {
            sets.sets[set].remove(allocation);
        }
    }

    /// Commits what changed, without a submission.
    pub(super) fn commit(&self) {
        let Some(heart) = &self.0 else {
            return;
        };
        let mut sets = heart.sets.lock();
        for set in sets.decided.commit() {
            sets.sets[set].commit();
        }
    }

    /// Commits what changed, and gives a command queue the sets that it does not have yet; `has` is how many it has.
    pub(super) fn before_submission(&self, queue: &M::Queue, has: &mut usize) {
        let Some(heart) = &self.0 else {
            return;
        };
        let mut sets = heart.sets.lock();
        let changed = sets.decided.before_submission(Instant::now());
        for set in changed {
            sets.sets[set].commit();
        }
        for set in sets.sets.iter().skip(*has) {
            queue.add_residency_set(set);
        }
        *has = sets.sets.len();
        if *has == 0 {
            return;
        }
        match sets.beating {
            Beating::NotYet => sets.beating = Heart::start(heart),
            Beating::Asleep => {
                sets.beating = Beating::Awake;
                heart.woken.notify_one();
            }
            Beating::Awake | Beating::Never => {}
        }
    }
}

impl<M: Metal> Drop for Resident<M> {
    fn drop(&mut self) {
        if let Some(heart) = &self.0 {
            heart.sets.lock().beating = Beating::Never;
            heart.woken.notify_one();
        }
    }
}

impl<M: Metal> Heart<M> {
    fn start(heart: &Arc<Self>) -> Beating {
        let beating = Arc::clone(heart);
        let spawned = std::thread::Builder::new()
            .name("weldpool-residency".into())
            .spawn(move || beating.beat());
        match spawned {
            Ok(_detached) => Beating::Awake,
            Err(error) => {
                tracing::warn!(%error, "no thread keeps memory resident while queues pause");
                Beating::Never
            }
        }
    }

    fn beat(&self) {
        let mut sets = self.sets.lock();
        while sets.beating != Beating::Never {
            let beat = sets.decided.beat(Instant::now());
            M::pooled(|| match beat {
                Beat::Request(_) => sets.sets.iter().for_each(M::Set::request_residency),
                Beat::End => sets.sets.iter().for_each(M::Set::end_residency),
                Beat::Wait(_) | Beat::Sleep => {}
            });
            sets = match beat {
                Beat::Request(time) | Beat::Wait(time) => {
                    let woken = self.woken.wait_timeout(sets, time);
                    woken.unwrap_or_else(|poison| poison.into_inner()).0
                }
                Beat::End | Beat::Sleep => {
                    sets.beating = Beating::Asleep;
                    let woken = self.woken.wait(sets);
                    woken.unwrap_or_else(|poison| poison.into_inner())
                }
            };
        }
        M::pooled(|| sets.sets.iter().for_each(M::Set::end_residency));
    }
}
