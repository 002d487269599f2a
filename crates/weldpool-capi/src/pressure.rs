//! Memory pressure: levels, and a function that is told of them.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

use memory::pressure::{Level, PressureEvent, PressureMonitor};

use crate::abi::callback::{DestroyFunction, UserData};
use crate::abi::guard::fallible;
use crate::abi::pointer::Place;
use crate::abi::sized::Structure;
use crate::abi::text;
use crate::allocator::{self, AllocatorHandle};
use crate::failure::{ErrorObject, Result};

/// Enough memory.
pub const WELDPOOL_PRESSURE_NORMAL: u32 = 0;
/// Memory is filling up.
pub const WELDPOOL_PRESSURE_MODERATE: u32 = 1;
/// Caches should stop growing and give back what is whole.
pub const WELDPOOL_PRESSURE_WARNING: u32 = 2;
/// Allocations may soon fail, or the system stalls.
pub const WELDPOOL_PRESSURE_CRITICAL: u32 = 3;
/// Allocations fail or processes are about to be killed.
pub const WELDPOOL_PRESSURE_EMERGENCY: u32 = 4;

pub(crate) fn number(level: Level) -> u32 {
    match level {
        Level::Normal => WELDPOOL_PRESSURE_NORMAL,
        Level::Moderate => WELDPOOL_PRESSURE_MODERATE,
        Level::Warning => WELDPOOL_PRESSURE_WARNING,
        Level::Critical => WELDPOOL_PRESSURE_CRITICAL,
        Level::Emergency => WELDPOOL_PRESSURE_EMERGENCY,
    }
}

fn level(number: u32) -> Result<Level> {
    let mut all = Level::ALL.into_iter();
    all.find(|level| self::number(*level) == number)
        .ok_or_else(|| {
            ErrorObject::argument(format!(
                "{number} is no level of pressure; see WELDPOOL_PRESSURE_NORMAL"
            ))
        })
}

/// A change of level.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PressureEventOf {
    /// Size of this structure as the library knows it.
    pub struct_size: usize,
    /// The level before, one of WELDPOOL_PRESSURE_*.
    pub before: u32,
    /// The level now.
    pub level: u32,
    /// The greatest used / limit of all sources, from 0 to 1.
    pub pressure: f64,
    /// Bytes that idle memory gave back for it.
    pub given_back_bytes: u64,
    /// The source that it comes from, or null; for the time of the call.
    pub source: *const c_char,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for PressureEventOf {
    const NAME: &'static str = "weldpool_pressure_event_t";
}

/// Is told of a change of level, on whichever thread assessed pressure: the one that watches
/// (WELDPOOL_CONFIG_WATCH_PRESSURE), one that calls weldpool_allocator_check_pressure, one whose allocation found no
/// memory, and, where no thread watches and the level falls, one whose allocation the caches did not serve. One is
/// called at a time: the assessment holds a lock that the others wait for, so it must not wait for another thread that
/// allocates from this allocator or checks. It must not unwind.
pub type PressureFunction =
    Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const PressureEventOf)>;

/// Tells the caller a level.
fn tell(
    allocator: Option<&AllocatorHandle>,
    level: *mut u32,
    call: impl FnOnce(&PressureMonitor) -> Level,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(level, "level")?;
        place.put(number(call(allocator::of(allocator)?.pressure()?)));
        Ok(())
    })
}

/// The level of the last assessment.
///
/// Errors: INVALID_ARGUMENT, or SYSTEM when pressure cannot be watched here. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_pressure(
    allocator: Option<&AllocatorHandle>,
    level: *mut u32,
) -> Option<Box<ErrorObject>> {
    tell(allocator, level, PressureMonitor::level)
}

/// Assesses pressure now, on this thread, answers it as configured, and gives the level.
///
/// Errors: as for weldpool_allocator_pressure. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_check_pressure(
    allocator: Option<&AllocatorHandle>,
    level: *mut u32,
) -> Option<Box<ErrorObject>> {
    tell(allocator, level, PressureMonitor::check)
}

/// Raises the level to at least `level` until the next such call; WELDPOOL_PRESSURE_NORMAL takes it back. A watching
/// thread acts on it at once, otherwise weldpool_allocator_check_pressure does.
///
/// Errors: as for weldpool_allocator_pressure. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_signal_pressure(
    allocator: Option<&AllocatorHandle>,
    level: u32,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let monitor = allocator::of(allocator)?.pressure()?;
        let _before = monitor.signal(self::level(level)?);
        Ok(())
    })
}

/// Has a function called after each change of level, as long as the pool has handles, on the threads that
/// weldpool_pressure_fn names, those that allocate among them. It may free memory. It must not hold a handle of this
/// allocator, which would keep it alive for ever.
///
/// `user_data` is taken over in any case: `destroy`, if given, is called once when the function will not be called any
/// more, or at once where this call fails. Errors: LIMIT_EXCEEDED beyond 64 functions, else as for
/// weldpool_allocator_pressure. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_on_pressure(
    allocator: Option<&AllocatorHandle>,
    function: PressureFunction,
    user_data: *mut c_void,
    destroy: DestroyFunction,
) -> Option<Box<ErrorObject>> {
    let user_data = UserData::new(user_data, destroy);
    fallible(|| {
        let function = function.ok_or_else(|| ErrorObject::null("function"))?;
        let monitor = allocator::of(allocator)?.pressure()?;
        let told = move |level: Level, event: &PressureEvent| {
            let source = event.assessment.source.as_deref().map(text::terminated);
            let event = PressureEventOf {
                struct_size: size_of::<PressureEventOf>(),
                before: number(event.from),
                level: number(level),
                pressure: event.assessment.pressure,
                given_back_bytes: event.given_back_bytes,
                source: source.as_deref().map_or(std::ptr::null(), CStr::as_ptr),
            };
            // SAFETY: the caller's promise; the event lives for the call.
            unsafe { function(user_data.get(), &raw const event) }
        };
        Ok(monitor.on_change(told)?)
    })
}
