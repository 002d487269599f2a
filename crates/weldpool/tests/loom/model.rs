//! How a test runs: in every interleaving under the model checker; else some times on threads of the
//! system, where Miri looks for what the checker does not model.

#[cfg(loom)]
pub(crate) use loom::thread;
#[cfg(not(loom))]
pub(crate) use std::thread;

/// Preemptions of one execution: three find nearly everything, and more take hours.
#[cfg(loom)]
const PREEMPTIONS_MAX: usize = 3;
#[cfg(not(loom))]
const RUNS: usize = 20;

#[cfg(loom)]
pub(crate) fn check(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS_MAX);
    model.check(test);
}

/// Without a bound, which would count the turns of a thread that spins.
#[cfg(loom)]
pub(crate) fn check_all(test: impl Fn() + Sync + Send + 'static) {
    loom::model(test);
}

#[cfg(not(loom))]
pub(crate) fn check(test: impl Fn() + Sync + Send + 'static) {
    (0..RUNS).for_each(|_| test());
}

#[cfg(not(loom))]
pub(crate) use check as check_all;
