//! What is done at which level, and who does it.

#![forbid(unsafe_code)]

use std::fmt;

use super::level::Level;

/// One thing an allocator can do about pressure. No step touches the pages of cached memory: only
/// whole segments go back, because walking caches makes the system page in what it just paged out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Step {
    /// Freed blocks are kept only where the caches already hold as much or more.
    RefuseCacheGrowth,
    /// The cache limit is half of the configured one for as long as the level lasts.
    HalveCacheLimit,
    /// Segments without a live or cached block go back to the system.
    TrimEmptySegments,
    /// Idle blocks at least as large as the smallest segment leave the caches, so that what they hold
    /// is empty and can be trimmed.
    DrainLargeBlocks,
    /// Blocks in thread caches return to their pools, so that their segments can become empty.
    DrainThreadCaches,
    /// Everything idle goes back, whatever the limits and minimums say.
    ReturnIdle,
    /// Waits, within the allocator's own bound, for work in flight, to give back what it used.
    AwaitWork,
}

impl Step {
    /// All steps, in the order in which they are to be taken.
    pub const ALL: [Self; 7] = [
        Self::RefuseCacheGrowth,
        Self::HalveCacheLimit,
        Self::AwaitWork,
        Self::DrainThreadCaches,
        Self::DrainLargeBlocks,
        Self::TrimEmptySegments,
        Self::ReturnIdle,
    ];

    /// Lower-case name with hyphens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RefuseCacheGrowth => "refuse-cache-growth",
            Self::HalveCacheLimit => "halve-cache-limit",
            Self::TrimEmptySegments => "trim-empty-segments",
            Self::DrainLargeBlocks => "drain-large-blocks",
            Self::DrainThreadCaches => "drain-thread-caches",
            Self::ReturnIdle => "return-idle",
            Self::AwaitWork => "await-work",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Actions(u8);

impl Actions {
    /// No step.
    pub const NONE: Self = Self(0);

    /// The given steps; their order does not matter.
    #[must_use]
    pub const fn of(steps: &[Step]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < steps.len() {
            bits |= steps[index].bit();
            index += 1;
        }
        Self(bits)
    }

    /// Whether a step belongs to the set.
    #[must_use]
    pub const fn contains(self, step: Step) -> bool {
        self.0 & step.bit() != 0
    }

    /// The steps among them that last for as long as the level does.
    pub(crate) const fn holds(self) -> Self {
        Self(self.0 & (Step::HalveCacheLimit.bit() | Step::RefuseCacheGrowth.bit()))
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The steps in the order in which they are to be taken.
    pub fn iter(self) -> impl Iterator<Item = Step> {
        Step::ALL
            .into_iter()
            .filter(move |&step| self.contains(step))
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The steps of each level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionTable {
    /// At [`Level::Moderate`]. Default: drain large blocks and trim empty segments.
    pub moderate: Actions,
    /// At [`Level::Warning`]. Default: besides, refuse growth of caches and halve the cache limit.
    pub warning: Actions,
    /// At [`Level::Critical`]. Default: besides, drain thread caches and return everything idle.
    pub critical: Actions,
    /// At [`Level::Emergency`]. Default: besides, wait for work in flight.
    pub emergency: Actions,
}

impl Default for ActionTable {
    fn default() -> Self {
        use Step::{
            DrainLargeBlocks, DrainThreadCaches, HalveCacheLimit, RefuseCacheGrowth, ReturnIdle,
            TrimEmptySegments,
        };
        Self {
            moderate: Actions::of(&[DrainLargeBlocks, TrimEmptySegments]),
            warning: Actions::of(&[
                DrainLargeBlocks,
                TrimEmptySegments,
                RefuseCacheGrowth,
                HalveCacheLimit,
            ]),
            critical: Actions::of(&[
                DrainLargeBlocks,
                TrimEmptySegments,
                RefuseCacheGrowth,
                HalveCacheLimit,
                DrainThreadCaches,
                ReturnIdle,
            ]),
            emergency: Actions::of(&Step::ALL),
        }
    }
}

impl ActionTable {
    /// The steps of a level; none at [`Level::Normal`].
    #[must_use]
    pub const fn at(&self, level: Level) -> Actions {
        match level {
            Level::Normal => Actions::NONE,
            Level::Moderate => self.moderate,
            Level::Warning => self.warning,
            Level::Critical => self.critical,
            Level::Emergency => self.emergency,
        }
    }
}

/// Who acts on pressure: the allocator.
pub trait Responder: Send + Sync {
    /// Takes the steps and returns how many bytes went back to the system.
    ///
    /// Called when the level changes, in either direction, and again every
    /// [`repeat`](super::PressureConfig::repeat) while it stays above normal. Steps that hold as
    /// long as the level does (refused growth, the halved limit) are in force exactly when the last
    /// call named them; at [`Level::Normal`] that is none, so such a call lifts them. Calls do not
    /// overlap. One that panics counts as having given back nothing.
    fn respond(&self, level: Level, actions: Actions) -> u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worse_level_does_all_that_a_better_one_does() {
        let table = ActionTable::default();
        assert!(table.at(Level::Normal).is_empty());
        for pair in Level::ALL.windows(2) {
            let (better, worse) = (table.at(pair[0]), table.at(pair[1]));
            assert!(better.iter().all(|step| worse.contains(step)), "{pair:?}");
            assert_ne!(better, worse);
        }
    }

    #[test]
    fn steps_come_in_the_order_they_are_taken() {
        let actions = Actions::of(&[Step::ReturnIdle, Step::DrainThreadCaches]);
        assert_eq!(
            actions.iter().collect::<Vec<_>>(),
            [Step::DrainThreadCaches, Step::ReturnIdle]
        );
        let bits: u32 = Step::ALL.iter().map(|step| u32::from(step.bit())).sum();
        assert_eq!(bits.count_ones() as usize, Step::ALL.len());
        assert_eq!(format!("{:?}", Actions::NONE), "{}");
    }
}
