//! The parts of a thread's cache that others see.

#[path = "../../src/thread_cache/bin.rs"]
pub(crate) mod bin;
#[path = "../../src/thread_cache/lending.rs"]
pub(crate) mod lending;
#[path = "../../src/thread_cache/list_sums.rs"]
pub(crate) mod list_sums;
#[path = "../../src/thread_cache/tally.rs"]
pub(crate) mod tally;

pub(crate) use self::list_sums::ListSums;
pub(crate) use self::tally::TallySum;
