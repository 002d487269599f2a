//! What calls of a real driver cost, and the clock they are charged to.

use std::cell::Cell;

use crate::sync::{AtomicU64, Ordering};

/// Nanoseconds of a call by the bytes it is about: straight lines between measured points, continued
/// beyond the first and last of them, never below zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Curve(Vec<(u64, u64)>);

impl Curve {
    /// A curve through `(bytes, nanoseconds)` points, in any order; of two for one size the later
    /// counts. No points: free of cost.
    #[must_use]
    pub fn new(points: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let sorted: std::collections::BTreeMap<_, _> = points.into_iter().collect();
        Self(sorted.into_iter().collect())
    }

    /// The same cost for every size.
    #[must_use]
    pub fn flat(nanoseconds: u64) -> Self {
        Self(vec![(0, nanoseconds)])
    }

    /// Nanoseconds of one call about `bytes` bytes.
    #[must_use]
    pub fn ns(&self, bytes: u64) -> u64 {
        let points = &self.0;
        match points.len() {
            0 => return 0,
            1 => return points[0].1,
            _ => {}
        }
        // The line whose right end is the first point at or beyond `bytes`, or the last line.
        let right = points
            .iter()
            .position(|&(at, _)| at >= bytes)
            .unwrap_or(points.len() - 1)
            .max(1);
        let ((from, low), (to, high)) = (points[right - 1], points[right]);
        let rise = i128::from(high) - i128::from(low);
        let slope = rise.saturating_mul(i128::from(bytes) - i128::from(from));
        let cost = i128::from(low) + slope / i128::from(to - from);
        u64::try_from(cost.max(0)).unwrap_or(u64::MAX)
    }
}

/// What the calls of a CUDA driver cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costs {
    /// Obtaining a physical handle (`cuMemCreate`), by its size.
    pub create: Curve,
    /// Mapping a handle (`cuMemMap`), by its size.
    pub map: Curve,
    /// Allowing access to one mapping (`cuMemSetAccess`), by its size.
    pub access: Curve,
    /// Removing one mapping (`cuMemUnmap`), by its size.
    pub unmap: Curve,
    /// Returning a handle (`cuMemRelease`), by its size.
    pub release: Curve,
    /// Reserving address space (`cuMemAddressReserve`), by its size; giving it back costs as much.
    pub reserve: Curve,
    /// Obtaining a private segment (`cudaMalloc`), by its size; giving it back costs as much.
    pub malloc: Curve,
    /// Obtaining a pinned segment (`cudaMallocHost`), by its size; giving it back costs as much.
    pub malloc_host: Curve,
    /// Recording an event, in nanoseconds: one [`signal`](crate::device::DeviceQueue::signal).
    pub event_record_ns: u64,
    /// Asking an event, in nanoseconds: one [`completed`](crate::device::Timeline::completed) or
    /// [`wait`](crate::device::Timeline::wait).
    pub event_query_ns: u64,
    /// Getting the handle of memory for another process (`cuMemExportToShareableHandle`,
    /// `cuIpcGetMemHandle`), in nanoseconds.
    pub export_ns: u64,
    /// Opening such a handle and mapping its memory, in nanoseconds; closing a legacy one costs as much.
    pub import_ns: u64,
}

impl Costs {
    /// Costs measured on an H200 (driver 580, CUDA 13.0).
    ///
    /// Handles were measured at 2, 20, 128 and 512 MiB. `cudaMalloc` and `cudaMallocHost` were measured
    /// as pairs with their free, nothing else live, from 256 B to 256 MiB; half of a pair is charged
    /// for each call. `cuMemAddressReserve` was not measured: it is taken to cost what mapping a handle
    /// of 2 MiB does, 1 us, whatever the size. Nor were exports and imports: they are taken to cost what
    /// creating a handle of 2 MiB does, and what creating, mapping and allowing access to it does.
    #[must_use]
    pub fn h200() -> Self {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let handles = |costs: [u64; 4]| {
            Curve::new(
                [2 * MIB, 20 * MIB, 128 * MIB, 512 * MIB]
                    .into_iter()
                    .zip(costs),
            )
        };
        let halves = |pairs: [u64; 7]| {
            let sizes = [256, 4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB];
            Curve::new(sizes.into_iter().zip(pairs.map(|pair| pair / 2)))
        };
        Self {
            create: handles([7_200, 6_200, 8_200, 13_600]),
            map: handles([1_000, 400, 400, 500]),
            access: handles([21_300, 20_600, 24_700, 39_200]),
            unmap: handles([12_800, 13_200, 14_700, 19_700]),
            release: handles([8_300, 13_700, 49_700, 136_000]),
            reserve: Curve::flat(1_000),
            malloc: halves([57_467, 66_256, 56_711, 75_431, 73_586, 109_907, 192_246]),
            malloc_host: halves([
                637_673,
                583_903,
                597_101,
                596_793,
                4_800_000,
                27_000_000,
                100_000_000,
            ]),
            event_record_ns: 170,
            event_query_ns: 120,
            export_ns: 7_200,
            import_ns: 29_500,
        }
    }

    /// No costs.
    #[must_use]
    pub fn free() -> Self {
        let free = Curve::flat(0);
        Self {
            create: free.clone(),
            map: free.clone(),
            access: free.clone(),
            unmap: free.clone(),
            release: free.clone(),
            reserve: free.clone(),
            malloc: free.clone(),
            malloc_host: free,
            event_record_ns: 0,
            event_query_ns: 0,
            export_ns: 0,
            import_ns: 0,
        }
    }
}

thread_local! {
    /// Nanoseconds charged by this thread's calls, whatever the device.
    static THREAD_NS: Cell<u64> = const { Cell::new(0) };
}

/// Nanoseconds charged by this thread's calls to any fake device.
pub(super) fn thread_ns() -> u64 {
    THREAD_NS.try_with(Cell::get).unwrap_or(0)
}

/// Nanoseconds charged so far.
#[derive(Debug, Default)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn charge(&self, nanoseconds: u64) {
        if nanoseconds > 0 {
            self.0.fetch_add(nanoseconds, Ordering::Relaxed);
            // Threads that are ending have no locals any more, and nobody left to ask for theirs.
            let _ending = THREAD_NS.try_with(|sum| sum.set(sum.get() + nanoseconds));
        }
    }

    pub(super) fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_pass_through_their_points_and_go_on_beyond() {
        let curve = Curve::new([(100, 50), (200, 70), (400, 30)]);
        for (bytes, ns) in [
            (100, 50),
            (150, 60),
            (200, 70),
            (300, 50),
            (400, 30),
            (500, 10),
            (10_000, 0),
            (50, 40),
            (0, 30),
        ] {
            assert_eq!(curve.ns(bytes), ns, "{bytes}");
        }
        assert_eq!(Curve::new([]).ns(5), 0);
        assert_eq!(Curve::flat(9).ns(u64::MAX), 9);
        let steep = Curve::new([(0, 0), (1, u64::MAX)]);
        assert_eq!(steep.ns(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_measured_points_are_met() {
        let costs = Costs::h200();
        assert_eq!(costs.create.ns(2 << 20), 7_200);
        assert_eq!(costs.release.ns(512 << 20), 136_000);
        assert_eq!(costs.access.ns(128 << 20), 24_700);
        // Between 128 and 512 MiB: a third of the way.
        assert_eq!(costs.release.ns(256 << 20), 49_700 + (136_000 - 49_700) / 3);
        // Beyond, on the same line.
        assert_eq!(costs.unmap.ns(896 << 20), 24_700);
        assert_eq!(costs.malloc.ns(1 << 20) * 2, 75_430);
    }
}
