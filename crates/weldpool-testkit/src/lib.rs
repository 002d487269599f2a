//! What the tests of several crates share: a suite that every device runs, and a device whose calls
//! can be made to fail.

pub mod device_suite;
mod faulty;

pub use faulty::FaultyDevice;
pub use weldpool::device::fake::Call;
