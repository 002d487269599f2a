//! How much of the processors is left by what else the machine does.

use std::num::NonZeroUsize;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

const DURATION: Duration = Duration::from_millis(100);
const THREADS_MAX: usize = 32;

/// Below this share figures are worth little.
pub(super) const BUSY: f64 = 0.9;

/// The share of the processors' time that threads get which want all of it, from 0 to 1.
pub(super) fn free_share() -> f64 {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = threads.min(THREADS_MAX);
    let shares = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(spin)).collect();
        let shares = threads.into_iter().map(|one| one.join().unwrap_or(0.0));
        shares.sum::<f64>()
    });
    (shares / threads as f64).min(1.0)
}

fn spin() -> f64 {
    let (start, used) = (Instant::now(), processor_seconds());
    while start.elapsed() < DURATION {
        std::hint::spin_loop();
    }
    let used = processor_seconds() - used;
    used / start.elapsed().as_secs_f64()
}

fn processor_seconds() -> f64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    tv_sec as f64 + tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_spins_gets_something() {
        let share = free_share();
        assert!(share > 0.0 && share <= 1.0, "{share}");
    }
}
