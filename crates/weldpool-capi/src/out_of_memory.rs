//! A function that is asked for help when memory is out.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use memory::{OutOfMemory, OutOfMemoryCallback, Recourse};

use crate::abi::callback::{DestroyFunction, UserData};
use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::Place;
use crate::abi::sized::Structure;
use crate::abi::text;
use crate::allocator::{self, AllocatorHandle};
use crate::failure::ErrorObject;
use crate::storage;

/// Nothing can be done.
pub const WELDPOOL_RECOURSE_GIVE_UP: u32 = 0;
/// Something was freed, or a limit raised: try again.
pub const WELDPOOL_RECOURSE_RETRY: u32 = 1;

/// Keeps a function registered until it is freed.
#[derive(Debug)]
pub struct CallbackHandle {
    _registered: OutOfMemoryCallback,
}

/// What was asked for, and how things stand, when everything else has been tried. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct OutOfMemoryOf {
    /// Size of this structure as the library knows it.
    pub struct_size: usize,
    /// What was asked for.
    pub requested_bytes: usize,
    /// At which alignment.
    pub alignment: usize,
    /// In which storage mode, one of WELDPOOL_STORAGE_*.
    pub storage: u32,
    /// How often functions have been asked for this request, from 1.
    pub round: u32,
    /// For what; for the time of the call.
    pub name: *const c_char,
    /// Requested and not yet freed.
    pub live_bytes: u64,
    /// Held from the driver and idle.
    pub cached_bytes: u64,
    /// Held from the driver.
    pub reserved_bytes: u64,
    /// The most that may be held; 0 for no limit.
    pub limit_bytes: u64,
    /// The largest free range.
    pub largest_free_bytes: u64,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for OutOfMemoryOf {
    const NAME: &'static str = "weldpool_out_of_memory_t";
}

/// Is asked for help; answers WELDPOOL_RECOURSE_RETRY or WELDPOOL_RECOURSE_GIVE_UP, for which anything else counts. It
/// runs on the thread whose request found no memory, on several at once, with no lock held, and may free and allocate.
/// It must not unwind.
pub type OutOfMemoryFunction =
    Option<unsafe extern "C" fn(user_data: *mut c_void, event: *const OutOfMemoryOf) -> u32>;

/// Has a function asked for help before a request for memory fails, until `callback` is freed. User data that owns a
/// handle of this allocator keeps the pool alive until then.
///
/// `user_data` is taken over in any case: `destroy`, if given, is called once when the function will not be called any
/// more, or at once where this call fails. Errors: LIMIT_EXCEEDED beyond 64 functions. Free with
/// weldpool_callback_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_allocator_on_out_of_memory(
    allocator: Option<&AllocatorHandle>,
    function: OutOfMemoryFunction,
    user_data: *mut c_void,
    destroy: DestroyFunction,
    callback: *mut *mut CallbackHandle,
) -> Option<Box<ErrorObject>> {
    let user_data = UserData::new(user_data, destroy);
    fallible(|| {
        let place = Place::new(callback, "callback")?;
        let function = function.ok_or_else(|| ErrorObject::null("function"))?;
        let allocator = allocator::of(allocator)?;
        let registered = allocator.on_out_of_memory(move |event: &OutOfMemory<'_>| {
            let name = text::terminated(event.name);
            let event = OutOfMemoryOf {
                struct_size: size_of::<OutOfMemoryOf>(),
                requested_bytes: event.requested_bytes,
                alignment: event.alignment,
                storage: storage::number(event.storage),
                round: event.round,
                name: name.as_ptr(),
                live_bytes: event.live_bytes,
                cached_bytes: event.cached_bytes,
                reserved_bytes: event.reserved_bytes,
                limit_bytes: event.limit_bytes.unwrap_or(0),
                largest_free_bytes: event.largest_free_bytes,
            };
            // SAFETY: the caller's promise; the event lives for the call.
            match unsafe { function(user_data.get(), &raw const event) } {
                WELDPOOL_RECOURSE_RETRY => Recourse::Retry,
                _ => Recourse::GiveUp,
            }
        })?;
        place.give(CallbackHandle {
            _registered: registered,
        });
        Ok(())
    })
}

/// Ends a registration. A call of the function that is under way goes on, after which its user data is destroyed. Null
/// is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_callback_free(callback: Option<Box<CallbackHandle>>) {
    infallible((), || drop(callback));
}
