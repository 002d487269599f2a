//! Devices made of software, for programs and tests on any machine.
//!
//! [`FakeDiscrete`] models a discrete GPU as CUDA's driver shows it, [`FakeApple`] the memory objects
//! of Metal on Apple silicon. Both keep real contents in memory of this process, which is committed when
//! it is first touched, so the size of a device is a number and not a cost.
//!
//! What they have in common, each through [`Control`]:
//!
//! * A broken rule of the driver is an error of kind
//!   [`InvalidRequest`](crate::ErrorKind::InvalidRequest) and stays in [`Control::violations`], so that a
//!   caller that swallows errors is found out too.
//! * Queues run on threads of their own with seeded random delays, so work of different queues ends out
//!   of order; or by hand, one step at a time, for cases that must come out the same each time.
//! * Every call can be made to fail, a queue can hang, a queue or the device can be lost.
//! * The time a real driver would have taken is added to a clock,
//!   [`Device::charged_ns`](super::Device::charged_ns), and never slept.

mod address_space;
mod apple;
mod builder;
mod call;
mod capacity;
mod control;
mod costs;
mod discrete;
mod faults;
mod queue;
mod random;
mod store;
mod violation;

pub use apple::{
    AppleCosts, AppleGpu, AppleModel, Buffer, FakeApple, FakeAppleBuilder, Heap, HeapDescriptor,
    LiveObject, Metal, NoPlacementSparse, PlacementSparse, PurgeableState,
};
pub use builder::Builder;
pub use call::Call;
pub use control::{Control, Step};
pub use costs::{Costs, Curve};
pub use discrete::{DiscreteModel, FakeDiscrete, FakeDiscreteBuilder, Link};
pub use faults::{Fault, When};
pub use violation::{Rule, Violation};
