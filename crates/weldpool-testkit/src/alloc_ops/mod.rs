//! Arbitrary operations on an allocator over arbitrary devices, held against a simple model.
//!
//! Any bytes are a program: [`run`] reads from them a device, a configuration and what to do. It panics
//! when live buffers overlap, are not aligned or have no memory behind them, when contents are not what
//! was written, when statistics disagree with the model, when a call fails that had no reason to, when
//! anything is left at the end, or when a rule of the device was broken.

mod buffers;
mod check;
mod control;
mod exposed;
mod host;
mod input;
mod machine;
mod model;
mod places;
mod settle;
mod slot;
mod target;
mod work;

use std::sync::Arc;

use weldpool::Device;

use self::input::Input;
use self::machine::Machine;
use self::target::Target;

/// Operations of one run.
const OPERATIONS_MAX: usize = 600;

/// Runs the program that `bytes` are. The last of them says in which order everything ends.
///
/// # Panics
///
/// When the allocator does not do what it should.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let target = Target::choose(&mut input);
    run_program(target, input, bytes);
}

/// Runs the program that `bytes` are on a device.
///
/// # Panics
///
/// When the allocator does not do what it should.
pub fn run_on(device: Arc<dyn Device>, bytes: &[u8]) {
    run_program(Target::over(device), Input::new(bytes), bytes);
}

/// The random program of a number.
#[must_use]
pub fn random_program(number: u64) -> Vec<u8> {
    // SplitMix64.
    let mut state = number;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let len = 16 + next() as usize % 3000;
    (0..len).map(|_| (next() >> 32) as u8).collect()
}

fn run_program(target: Target, mut input: Input<'_>, bytes: &[u8]) {
    if let Some(mut machine) = Machine::new(target, &mut input) {
        for _ in 0..OPERATIONS_MAX {
            if input.is_empty() {
                break;
            }
            machine.operate(&mut input);
        }
        machine.finish(bytes.last().copied().unwrap_or_default());
    }
}
