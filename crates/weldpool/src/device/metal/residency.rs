//! What is kept resident, in which sets, and when: decisions alone, without a call.
//!
//! The system makes memory that no command used for a second or so non-resident, and the next command then waits until it
//! is wired again (llama.cpp PR 10119: 318 ms instead of 63 after 1.2 s of idleness). A residency set prevents that. One
//! large set is slow to change (MLX PR 4211), a queue takes 32 at most (Metal's feature set tables), and a commit costs
//! enough for one per change to be felt (MLX PR 1911 and those after it). So there is a bounded number of sets of bounded
//! size, changes are staged, and committed once before the next submission.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// Sets of a device: as many as a queue takes.
pub(super) const SETS_MAX: usize = 32;
/// Least limit of a set.
const SET_BYTES_MIN: u64 = 64 << 20;

/// What of a device's memory is kept resident, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResidencyConfig {
    /// Whether anything is. Default: on; without effect before macOS 15.
    pub enabled: bool,
    /// Part of the device's recommended working set that is kept resident at most; what is beyond is the system's to
    /// manage. Several processes that share a device share that limit, and one that wires all of it hangs the others
    /// (mlx-lm PR 1252). From 0 to 1. Default: 0.75.
    pub share: f64,
    /// Part of the recommended working set that one set holds at most, but for a single heap that is larger. Default:
    /// 0.05, as MLX has it; never below 64 MiB.
    pub set_share: f64,
    /// How long after the last submission residency is asked for anew, and given up then. Default: 3 minutes, as
    /// llama.cpp has it.
    pub active_for: Duration,
    /// How often, meanwhile, by a thread of the device's: macOS 26 lets go after about a second (llama.cpp PR 17766). Zero:
    /// never, and no thread. Default: 500 ms.
    pub heartbeat: Duration,
}

impl Default for ResidencyConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            share: 0.75,
            set_share: 0.05,
            active_for: Duration::from_secs(180),
            heartbeat: Duration::from_millis(500),
        }
    }
}

impl ResidencyConfig {
    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) naming the field.
    pub fn validate(&self) -> Result<()> {
        for (name, share) in [("share", self.share), ("set_share", self.set_share)] {
            // Written so that a value that is not a number fails.
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::with_message(
                    ErrorKind::InvalidConfig,
                    format!("ResidencyConfig::{name} is {share}; it must be from 0 to 1"),
                ));
            }
        }
        Ok(())
    }
}

/// A heap or buffer, by a number of its own.
pub(super) type Member = u64;

/// A change that is staged in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A set is made first; it is empty.
    Make(usize),
    /// A member comes.
    Add(usize, Member),
    /// A member goes.
    Remove(usize, Member),
}

/// What the heart does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Asks for residency, and looks again after so long.
    Request(Duration),
    /// Looks again after so long.
    Wait(Duration),
    /// Gives residency up, and sleeps until there is work.
    End,
    /// Sleeps until there is work.
    Sleep,
}

/// Which members are in which sets.
#[derive(Debug)]
pub(super) struct Residency {
    bytes_max: u64,
    set_bytes_max: u64,
    config: ResidencyConfig,
    sets: Vec<u64>,
    members: BTreeMap<Member, (usize, u64)>,
    bytes: u64,
    /// Sets with changes that were not committed.
    staged: BTreeSet<usize>,
    last_submission: Option<Instant>,
    /// None when residency was given up since.
    last_request: Option<Instant>,
}

impl Residency {
    /// For a device whose recommended working set has so many bytes.
    pub(super) fn new(config: ResidencyConfig, working_set: u64) -> Self {
        let part = |share: f64| (working_set as f64 * share.clamp(0.0, 1.0)) as u64;
        Self {
            bytes_max: if config.enabled {
                part(config.share)
            } else {
                0
            },
            set_bytes_max: part(config.set_share).max(SET_BYTES_MIN),
            config,
            sets: Vec::new(),
            members: BTreeMap::new(),
            bytes: 0,
            staged: BTreeSet::new(),
            last_submission: None,
            last_request: None,
        }
    }

    /// Bytes that are in sets.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A member comes, if there is room: into the first set that has some, into a new one, or into the emptiest when there
    /// are as many as may be.
    pub(super) fn add(&mut self, member: Member, bytes: u64) -> Vec<Change> {
        if self.bytes + bytes > self.bytes_max || self.members.contains_key(&member) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        let room = |used: &u64| *used == 0 || used + bytes <= self.set_bytes_max;
        let set = match self.sets.iter().position(room) {
            Some(set) => set,
            None if self.sets.len() < SETS_MAX => {
                self.sets.push(0);
                changes.push(Change::Make(self.sets.len() - 1));
                self.sets.len() - 1
            }
            None => {
                let emptiest = self.sets.iter().enumerate().min_by_key(|(_, used)| **used);
                emptiest.map_or(0, |(set, _)| set)
            }
        };
        self.sets[set] += bytes;
        self.bytes += bytes;
        self.members.insert(member, (set, bytes));
        self.staged.insert(set);
        changes.push(Change::Add(set, member));
        changes
    }

    /// The set that was made for a member could not be: neither is there.
    pub(super) fn forget_last_set(&mut self, member: Member) {
        self.remove(member);
        if let Some(last) = self.sets.len().checked_sub(1) {
            self.sets.pop();
            self.staged.remove(&last);
        }
    }

    /// A member goes.
    pub(super) fn remove(&mut self, member: Member) -> Option<Change> {
        let (set, bytes) = self.members.remove(&member)?;
        self.sets[set] -= bytes;
        self.bytes -= bytes;
        self.staged.insert(set);
        Some(Change::Remove(set, member))
    }

    /// Work is about to be submitted, ours or others': the sets to commit before.
    pub(super) fn before_submission(&mut self, now: Instant) -> BTreeSet<usize> {
        self.last_submission = Some(now);
        self.commit()
    }

    /// The sets to commit.
    pub(super) fn commit(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.staged)
    }

    /// Whether a thread is to ask for residency from time to time.
    pub(super) fn beats(&self) -> bool {
        !self.config.heartbeat.is_zero()
    }

    /// What the heart does now.
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        let active = self
            .last_submission
            .is_some_and(|last| now.saturating_duration_since(last) < self.config.active_for);
        if !active || self.members.is_empty() {
            return match self.last_request.take() {
                Some(_) => Beat::End,
                None => Beat::Sleep,
            };
        }
        let since = self
            .last_request
            .map(|last| now.saturating_duration_since(last));
        match since {
            Some(since) if since < self.config.heartbeat => {
                Beat::Wait(self.config.heartbeat - since)
            }
            _ => {
                self.last_request = Some(now);
                Beat::Request(self.config.heartbeat)
            }
        }
    }

    /// The sets that there are.
    #[cfg(test)]
    pub(super) fn set_count(&self) -> usize {
        self.sets.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn residency(working_set: u64) -> Residency {
        Residency::new(ResidencyConfig::default(), working_set)
    }

    #[test]
    fn small_members_share_a_set_and_large_ones_have_their_own() {
        let mut residency = residency(10 * GIB);
        assert_eq!(
            residency.add(1, 300 << 20),
            [Change::Make(0), Change::Add(0, 1)]
        );
        assert_eq!(residency.add(2, 100 << 20), [Change::Add(0, 2)]);
        assert_eq!(
            residency.add(3, 2 * GIB),
            [Change::Make(1), Change::Add(1, 3)]
        );
        assert_eq!(residency.remove(1), Some(Change::Remove(0, 1)));
        assert_eq!(residency.add(4, 300 << 20), [Change::Add(0, 4)]);
        assert_eq!(residency.remove(1), None);
    }

    #[test]
    fn what_is_beyond_the_share_stays_out() {
        let mut residency = residency(4 * GIB);
        assert_eq!(residency.add(1, 3 * GIB).len(), 2);
        assert_eq!(residency.add(2, 1), []);
        residency.remove(1);
        assert_eq!(residency.add(2, 1), [Change::Add(0, 2)]);
    }

    #[test]
    fn changes_are_committed_once_and_before_the_next_submission() {
        let mut residency = residency(10 * GIB);
        let now = Instant::now();
        for member in 0..10 {
            residency.add(member, 256 << 20);
        }
        let staged = residency.before_submission(now);
        assert_eq!(staged.len(), residency.set_count());
        assert!(residency.before_submission(now).is_empty());
        residency.remove(3);
        assert_eq!(residency.before_submission(now).len(), 1);
    }

    #[test]
    fn the_heart_beats_only_while_there_is_work() {
        let config = ResidencyConfig {
            active_for: Duration::from_secs(1),
            ..ResidencyConfig::default()
        };
        let mut residency = Residency::new(config, 10 * GIB);
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        residency.add(1, 1);
        assert_eq!(residency.beat(start), Beat::Sleep);
        residency.before_submission(start);
        let half = Duration::from_millis(500);
        assert_eq!(residency.beat(start), Beat::Request(half));
        assert_eq!(
            residency.beat(after(100)),
            Beat::Wait(Duration::from_millis(400))
        );
        assert_eq!(residency.beat(after(500)), Beat::Request(half));
        assert_eq!(residency.beat(after(1000)), Beat::End);
        assert_eq!(residency.beat(after(1000)), Beat::Sleep);
        residency.before_submission(after(5000));
        assert_eq!(residency.beat(after(5000)), Beat::Request(half));
    }

    #[test]
    fn nothing_is_kept_when_that_is_off() {
        let off = ResidencyConfig {
            enabled: false,
            ..ResidencyConfig::default()
        };
        let mut residency = Residency::new(off, 10 * GIB);
        assert_eq!(residency.add(1, 1), []);
        assert_eq!(residency.bytes(), 0);
    }

    #[test]
    fn shares_are_from_0_to_1() {
        for (share, set_share, fine) in [
            (0.0, 1.0, true),
            (7.0, 0.05, false),
            (-1.0, 0.05, false),
            (0.5, f64::NAN, false),
        ] {
            let config = ResidencyConfig {
                share,
                set_share,
                ..ResidencyConfig::default()
            };
            assert_eq!(config.validate().is_ok(), fine, "{share} {set_share}");
        }
    }

    proptest! {
        #[test]
        fn sets_are_bounded_in_number_and_size(
            changes in proptest::collection::vec((any::<bool>(), 0_u64..40, 1_u64..(1 << 30)), 0..200)
        ) {
            let mut residency = residency(20 * GIB);
            let mut held = BTreeMap::new();
            for (add, member, bytes) in changes {
                if add {
                    if residency.add(member, bytes).iter().any(|change| matches!(change, Change::Add(..))) {
                        held.insert(member, bytes);
                    }
                } else if residency.remove(member).is_some() {
                    held.remove(&member);
                }
                prop_assert!(residency.set_count() <= SETS_MAX);
                prop_assert!(residency.bytes() <= residency.bytes_max);
                prop_assert_eq!(residency.bytes(), held.values().sum::<u64>());
                for set in 0..residency.set_count() {
                    let members = residency.members.values().filter(|(of, _)| *of == set);
                    let (count, bytes) = members.fold((0, 0), |(count, sum), (_, bytes)| (count + 1, sum + bytes));
                    prop_assert_eq!(bytes, residency.sets[set]);
                    prop_assert!(count <= 1 || bytes <= residency.set_bytes_max || residency.set_count() == SETS_MAX);
                }
            }
        }
    }
}
