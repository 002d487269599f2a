//! What all arenas of an allocator may hold together.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::strategy::Tuning;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// No limit.
const UNLIMITED: u64 = u64::MAX;

/// The limit on reserved memory, and how much is committed.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// Bytes held or about to be asked of the driver; never above the limit.
    committed: AtomicU64,
    limit: AtomicU64,
    /// The greatest sum of requested bytes that was served when memory was short.
    peak_live: AtomicU64,
    /// Memory held may exceed the greatest sum of requested bytes by this part in 1024, and by
    /// [`SLACK_BYTES`], before holes are remapped instead.
    slack_per_1024: AtomicU64,
    /// Requests and frees served so far, from time to time.
    operations: AtomicU64,
    /// Driver time that each of them may cost on average, in nanoseconds.
    driver_ns_per_operation: u64,
    /// Whether empty segments are spared for requests of their size.
    sparing: AtomicBool,
    /// Time spent waiting for work so that segments or handles could be exchanged, in nanoseconds.
    waited_ns: AtomicU64,
    /// What mapping holes together, and waiting for their memory, was charged with so far, in nanoseconds: the
    /// typical cost of a piece and the longest that a wait may last, because a busy machine must not change
    /// what is affordable. What was earned and not used for long is charged too.
    charged_ns: AtomicU64,
    remap_pause: RemapPause,
    /// Segments, or additions to virtual memory, that were obtained.
    growths: AtomicU64,
    /// Times that memory was mapped at a second place instead of growing.
    remaps: AtomicU64,
    /// Bytes that went back to the device.
    returned: AtomicU64,
    retention: Retention,
    segment_bytes_min: usize,
    segment_bytes_max: usize,
}

/// What a strategy changes about obtaining and keeping memory.
#[derive(Debug, Default)]
struct Retention {
    /// Memory grows by this much at least, while slack allows.
    growth_bytes: AtomicUsize,
    /// Ranges whose memory was mapped elsewhere that may wait to be unmapped together.
    moved_max: AtomicUsize,
    /// Whether holes are mapped together that lie in few pieces, rather than large ones.
    few_pieces: AtomicBool,
}

/// When holes are not mapped together, because that cost more than was earned.
///
/// Blocks between holes that were mapped elsewhere cannot be joined when they are free, so memory that is
/// remapped by a workload that cannot afford it is worse than memory that never was. Each pause is twice
/// as long as the one before, unless all went well in between for as long: a workload that only begins like
/// that pays once, one that goes on so pays a few times.
#[derive(Debug)]
struct RemapPause {
    /// Operations served when it ends; later ones for the next.
    until: AtomicU64,
    /// Length of the next in operations.
    length: AtomicU64,
}

/// Length of the first pause in operations, and of the longest.
const REMAP_PAUSE: u64 = 4 << 10;
const REMAP_PAUSE_MAX: u64 = 16 << 20;
/// Driver time in nanoseconds that can be saved up, besides what memory earns: a workload that changes must
/// not pay at once for what long went well.
const SAVED_NS_MAX: u64 = 32_000_000;
/// What must be left for a wait that may last longer.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// Bytes of the greatest sum of requested ones that earn as much driver time as an operation: memory
/// must be obtained before anything is served from it.
const MEMORY_PER_OPERATION: u64 = 100 << 10;
/// Memory that may always be held beyond what is needed.
const SLACK_BYTES: u64 = 512 << 10;

impl Reserve {
    pub(crate) fn new(
        limit: Option<u64>,
        slack_per_1024: u64,
        driver_ns_per_operation: u64,
        segment_bytes: (usize, usize),
    ) -> Self {
        Self {
            committed: AtomicU64::new(0),
            limit: AtomicU64::new(limit.unwrap_or(UNLIMITED)),
            peak_live: AtomicU64::new(0),
            slack_per_1024: AtomicU64::new(slack_per_1024),
            operations: AtomicU64::new(0),
            driver_ns_per_operation,
            sparing: AtomicBool::new(false),
            waited_ns: AtomicU64::new(0),
            charged_ns: AtomicU64::new(0),
            remap_pause: RemapPause {
                until: AtomicU64::new(0),
                length: AtomicU64::new(REMAP_PAUSE),
            },
            growths: AtomicU64::new(0),
            remaps: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            retention: Retention::default(),
            segment_bytes_min: segment_bytes.0,
            segment_bytes_max: segment_bytes.1,
        }
    }

    pub(crate) fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|&limit| limit != UNLIMITED)
    }

    /// Returns what it was. Memory already held beyond a lower limit stays until it is freed.
    pub(crate) fn set_limit(&self, limit: Option<u64>) -> Option<u64> {
        let before = self
            .limit
            .swap(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
        Some(before).filter(|&limit| limit != UNLIMITED)
    }

    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Claims `bytes` of what the limit allows.
    pub(crate) fn commit(&self, bytes: usize) -> Result<()> {
        let limit = self.limit.load(Ordering::Relaxed);
        let added = bytes as u64;
        self.committed
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |committed| {
                committed.checked_add(added).filter(|&sum| sum <= limit)
            })
            .map(|_| ())
            .map_err(|_| {
                Error::new(
                    ErrorKind::LimitExceeded,
                    "the limit on reserved memory is reached",
                )
            })
    }

    /// Claims memory that is held already, whatever the limit.
    pub(crate) fn commit_held(&self, bytes: usize) {
        self.committed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Gives up a claim for memory that the driver did not give.
    pub(crate) fn cancel(&self, bytes: usize) {
        self.committed.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Takes note of memory that went back to the device.
    pub(crate) fn uncommit(&self, bytes: usize) {
        self.cancel(bytes);
        self.returned.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Takes note of the requested bytes that are live now that a request was served.
    pub(crate) fn note_live(&self, live: u64) {
        self.peak_live.fetch_max(live, Ordering::Relaxed);
    }

    /// The greatest sum of requested bytes that was noted.
    pub(crate) fn peak_live(&self) -> u64 {
        self.peak_live.load(Ordering::Relaxed)
    }

    /// That, or what will be live, whichever is more. While a request is served, what is allowed follows from
    /// it as if it were served already; a request that is refused leaves no trace.
    pub(crate) fn peak_with(&self, live: u64) -> u64 {
        self.peak_live().max(live)
    }

    /// Takes note of how many requests and frees were served.
    pub(crate) fn note_operations(&self, operations: u64) {
        self.operations.store(operations, Ordering::Relaxed);
    }

    /// Whether `driver_ns` of driver time in all is in proportion to what was served, with `live` bytes.
    pub(crate) fn affords(&self, driver_ns: u64, live: u64) -> bool {
        driver_ns <= self.earned_ns(live)
    }

    /// Driver time that what was served is worth, in nanoseconds.
    fn earned_ns(&self, live: u64) -> u64 {
        let operations = self.operations.load(Ordering::Relaxed);
        let served = operations.saturating_mul(self.driver_ns_per_operation);
        served.saturating_add(self.memory_ns(live))
    }

    /// The part of it that the memory in use is worth.
    fn memory_ns(&self, live: u64) -> u64 {
        let operations = self.peak_with(live) / MEMORY_PER_OPERATION;
        operations.saturating_mul(self.driver_ns_per_operation)
    }

    /// Driver time that is left for mapping holes together and waiting for their memory, in nanoseconds.
    fn left_ns(&self, live: u64) -> u64 {
        let most = SAVED_NS_MAX.saturating_add(self.memory_ns(live));
        let earned = self.earned_ns(live);
        let forgotten = earned.saturating_sub(most);
        let charged = self.charged_ns.fetch_max(forgotten, Ordering::Relaxed);
        earned.saturating_sub(charged.max(forgotten))
    }

    /// Pieces that can be mapped at a second place for the driver time that is left, at `piece_ns` each, for a
    /// request with which `live` bytes will be.
    pub(crate) fn affordable_pieces(&self, piece_ns: u32, live: u64) -> usize {
        if self.pauses_remapping() {
            return 0;
        }
        let pieces = self.left_ns(live) / u64::from(piece_ns.max(1));
        usize::try_from(pieces).unwrap_or(usize::MAX)
    }

    /// Whether holes are not mapped together at present.
    pub(crate) fn pauses_remapping(&self) -> bool {
        let until = self.remap_pause.until.load(Ordering::Relaxed);
        self.operations.load(Ordering::Relaxed) < until
    }

    /// Takes note that more pieces would have been of use than were affordable.
    pub(crate) fn pause_remapping(&self) {
        let pause = &self.remap_pause;
        let operations = self.operations.load(Ordering::Relaxed);
        let mut length = pause.length.load(Ordering::Relaxed);
        if operations.saturating_sub(pause.until.load(Ordering::Relaxed)) > length {
            length = REMAP_PAUSE;
        }
        let until = operations.saturating_add(length);
        pause.until.store(until, Ordering::Relaxed);
        let next = length.saturating_mul(2).min(REMAP_PAUSE_MAX);
        pause.length.store(next, Ordering::Relaxed);
    }

    /// Takes note of so many pieces mapped at a second place.
    pub(crate) fn charge_remap(&self, pieces: usize, piece_ns: u32) {
        let ns = (pieces as u64).saturating_mul(u64::from(piece_ns));
        self.charged_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How long may be waited for memory instead of growing, if that is worth while: up to `longest`, for a
    /// request with which `live` bytes will be.
    pub(crate) fn affordable_wait(&self, longest: Duration, live: u64) -> Option<Duration> {
        let left = Duration::from_nanos(self.left_ns(live));
        (!longest.is_zero() && left >= longest.min(WAIT_MIN)).then(|| longest.min(left))
    }

    /// Takes note of a wait that was allowed to last so long.
    pub(crate) fn charge_wait(&self, allowed: Duration) {
        let ns = u64::try_from(allowed.as_nanos()).unwrap_or(u64::MAX);
        self.charged_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(crate) fn set_sparing(&self, sparing: bool) {
        self.sparing.store(sparing, Ordering::Relaxed);
    }

    pub(crate) fn is_sparing(&self) -> bool {
        self.sparing.load(Ordering::Relaxed)
    }

    /// Takes note of the time since `start`, spent waiting for work so that memory could be exchanged.
    pub(crate) fn note_waited(&self, start: Instant) {
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.waited_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn waited_ns(&self) -> u64 {
        self.waited_ns.load(Ordering::Relaxed)
    }

    /// Bytes that may be added before holes are to be used instead, for a request with which `live` bytes will
    /// be.
    pub(crate) fn slack(&self, live: u64) -> u64 {
        let peak = self.peak_with(live);
        let allowed = (peak / 1024).saturating_mul(self.slack_per_1024.load(Ordering::Relaxed));
        let allowed = peak.saturating_add(allowed).saturating_add(SLACK_BYTES);
        allowed.saturating_sub(self.committed())
    }

    /// Takes over what a strategy says; `slack_per_1024` is what was configured.
    pub(crate) fn tune(&self, tuning: &Tuning, slack_per_1024: u32) {
        let slack = tuning.slack_per_1024.unwrap_or(slack_per_1024);
        let retention = &self.retention;
        self.slack_per_1024
            .store(u64::from(slack), Ordering::Relaxed);
        retention
            .growth_bytes
            .store(tuning.growth_bytes, Ordering::Relaxed);
        retention
            .moved_max
            .store(tuning.moved_ranges_max, Ordering::Relaxed);
        retention
            .few_pieces
            .store(tuning.few_pieces, Ordering::Relaxed);
    }

    pub(crate) fn growth_bytes(&self) -> usize {
        self.retention.growth_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn moved_ranges_max(&self) -> usize {
        self.retention.moved_max.load(Ordering::Relaxed)
    }

    pub(crate) fn few_pieces(&self) -> bool {
        self.retention.few_pieces.load(Ordering::Relaxed)
    }

    pub(crate) fn returned_bytes(&self) -> u64 {
        self.returned.load(Ordering::Relaxed)
    }

    pub(crate) fn segment_bytes_min(&self) -> usize {
        self.segment_bytes_min
    }

    pub(crate) fn segment_bytes_max(&self) -> usize {
        self.segment_bytes_max
    }

    pub(crate) fn count_growth(&self) {
        self.growths.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_remap(&self) {
        self.remaps.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn growths(&self) -> u64 {
        self.growths.load(Ordering::Relaxed)
    }

    pub(crate) fn remaps(&self) -> u64 {
        self.remaps.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const PIECE_NS: u32 = 1000;

    fn reserve() -> Reserve {
        Reserve::new(None, 10, 1000, (0, 0))
    }

    #[test]
    fn remapping_is_paid_for_by_what_was_served() {
        let reserve = reserve();
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 0);
        reserve.note_operations(100);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 100);
        reserve.charge_remap(60, PIECE_NS);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 40);
        reserve.note_live(10 * MEMORY_PER_OPERATION);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 50, "and by memory");
        assert_eq!(reserve.affordable_pieces(0, 0), 50_000);
    }

    #[test]
    fn what_is_asked_for_counts_only_for_who_asks() {
        let reserve = reserve();
        let asked = 20 * MEMORY_PER_OPERATION;
        assert!(reserve.slack(asked) > asked && reserve.slack(0) == SLACK_BYTES);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, asked), 20);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 0);
        assert!(reserve.affords(20_000, asked) && !reserve.affords(1, 0));
        reserve.note_live(asked);
        assert_eq!(reserve.slack(0), reserve.slack(asked));
        assert!(reserve.affords(20_000, 0));
    }

    #[test]
    fn little_is_saved_up() {
        let reserve = reserve();
        let most = usize::try_from(SAVED_NS_MAX).unwrap() / PIECE_NS as usize;
        reserve.note_operations(1 << 40);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), most);
        reserve.charge_remap(most, PIECE_NS);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 0);
        reserve.note_operations((1 << 40) + 5);
        assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 5);
    }

    #[test]
    fn each_pause_is_twice_as_long() {
        let reserve = reserve();
        let mut served = 0;
        for pause in [REMAP_PAUSE, 2 * REMAP_PAUSE, 4 * REMAP_PAUSE] {
            reserve.pause_remapping();
            reserve.note_operations(served + pause - 1);
            assert_eq!(reserve.affordable_pieces(PIECE_NS, 0), 0);
            served += pause;
            reserve.note_operations(served);
            assert!(reserve.affordable_pieces(PIECE_NS, 0) > 0);
        }
        // All went well for longer than the next one would be.
        let later = served + 8 * REMAP_PAUSE + 1;
        reserve.note_operations(later);
        reserve.pause_remapping();
        reserve.note_operations(later + REMAP_PAUSE);
        assert!(
            reserve.affordable_pieces(PIECE_NS, 0) > 0,
            "a short one again"
        );
    }

    #[test]
    fn waits_are_paid_for_by_what_they_may_last() {
        const MS: Duration = Duration::from_millis(1);
        let reserve = reserve();
        assert_eq!(reserve.affordable_wait(2 * MS, 0), None);
        reserve.note_operations(5000);
        assert_eq!(reserve.affordable_wait(Duration::ZERO, 0), None);
        assert_eq!(reserve.affordable_wait(2 * MS, 0), Some(2 * MS));
        assert_eq!(reserve.affordable_wait(1000 * MS, 0), Some(5 * MS));
        reserve.charge_wait(2 * MS);
        reserve.charge_remap(2000, PIECE_NS);
        assert_eq!(reserve.affordable_wait(2 * MS, 0), None, "1 ms is left");
        assert_eq!(reserve.affordable_wait(MS, 0), Some(MS));
    }
}
