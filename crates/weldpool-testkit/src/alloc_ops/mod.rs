//! Arbitrary operations on an allocator over arbitrary devices, held against a simple model.
//!
//! Any bytes are a program: [`run`] reads from them a device, a configuration and what to do. It panics
//! when live buffers overlap, are not aligned or have no memory behind them, when contents are not what
//! was written, when statistics disagree with the model, when a call fails that had no reason to, when
//! anything is left at the end, or when a rule of the device was broken.

mod buffers;
mod check;
mod control;
mod host;
mod input;
mod machine;
mod model;
mod places;
mod settle;
mod slot;
mod target;
mod work;

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
