//! The small concurrent kernels under the model checker: every interleaving of two or three threads, up
//! to a number of preemptions.
//!
//! The kernels are the library's own files, compiled here against locks and atomics of `loom` in place
//! of `crate::sync`. The library as a whole does not compile against those, which cannot be in statics;
//! what the kernels need besides is stood in for by `stand_in.rs`. `cargo xtask loom` runs this. Under
//! Miri the same tests run on the library's own locks and threads of the system.

#![cfg(any(loom, miri))]
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::default_constructed_unit_structs,
    clippy::unwrap_used,
    reason = "whole files are compiled, of which a part is used"
)]

mod model;
mod stand_in;
#[cfg_attr(not(loom), path = "../../src/sync.rs")]
mod sync;

pub(crate) use self::stand_in::{
    block, device, error, queue, request, size_class, stats, strategy,
};

#[path = "../../src/address_map/mod.rs"]
mod address_map;
#[cfg(not(loom))]
#[path = "../../src/asymmetric_fence.rs"]
mod asymmetric_fence;
#[path = "../../src/class_pool.rs"]
mod class_pool;
#[path = "../../src/counter.rs"]
mod counter;
#[path = "../../src/grouped.rs"]
mod grouped;
#[path = "../../src/guard.rs"]
mod guard;
#[path = "../../src/high_water.rs"]
mod high_water;
#[path = "../../src/in_flight.rs"]
mod in_flight;
#[path = "../../src/arena/reserve.rs"]
mod reserve;
#[path = "../../src/transfer/schedule.rs"]
mod schedule;
#[path = "../../src/signals.rs"]
mod signals;
mod thread_cache;
#[path = "../../src/wait.rs"]
mod wait;

mod kernels;
mod signalling;
