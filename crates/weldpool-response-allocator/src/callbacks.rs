//! The five functions that Triton calls, on any thread. What is said of Triton here is what its core does, which the
//! tests see.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use weldpool_triton_sys::{self as sys, ErrorCode, Number};

use crate::allocator::User;
use crate::block::Block;
use crate::counters::count;
use crate::error::{Error, ErrorKind, Result};
use crate::functions::{Functions, raise};
use crate::place::{Place, Wanted};
use crate::state::State;

/// `TRITONSERVER_ResponseAllocatorAllocFn_t`: memory for one output.
///
/// # Safety
/// The pointers are Triton's, `userp` is [`user_pointer`](crate::ResponseAllocator::user_pointer) of an allocator that
/// lives.
pub(crate) unsafe extern "C" fn alloc(
    _allocator: *mut sys::ResponseAllocator,
    tensor_name: *const c_char,
    byte_size: usize,
    memory_type: Number,
    memory_type_id: i64,
    userp: *mut c_void,
    buffer: *mut *mut c_void,
    buffer_userp: *mut *mut c_void,
    actual_memory_type: *mut Number,
    actual_memory_type_id: *mut i64,
) -> *mut sys::Error {
    // SAFETY: the caller's promise.
    let state = unsafe { state(userp) };
    guarded(functions(state), || {
        let buffer = Out::new(buffer, "buffer")?;
        let buffer_userp = Out::new(buffer_userp, "buffer_userp")?;
        let actual_memory_type = Out::new(actual_memory_type, "actual_memory_type")?;
        let actual_memory_type_id = Out::new(actual_memory_type_id, "actual_memory_type_id")?;
        // Whatever lay there is the caller's; a buffer is there only after success.
        buffer.put(ptr::null_mut());
        buffer_userp.put(ptr::null_mut());
        let state = given(state)?;
        let wanted = Wanted::new(memory_type, memory_type_id);
        let put_place = |place: Place| {
            actual_memory_type.put(place.memory_type.number());
            actual_memory_type_id.put(place.id);
        };
        if byte_size == 0 {
            // Without a buffer Triton calls no release, so there must be nothing to free. Where nothing lies is what
            // its attributes say too, for which it is not known what was wanted.
            put_place(Place::NOWHERE);
            count(&state.counters.empty);
            return Ok(());
        }
        // SAFETY: Triton's text, for the time of the call.
        let tensor = unsafe { text(tensor_name) };
        let mut block = state.serve(&tensor, byte_size, wanted)?;
        let Some(address) = block.address() else {
            block.reclaim();
            let message = format!("the memory for output '{tensor}' has no address");
            return Err(Error::new(ErrorKind::Internal, message));
        };
        put_place(block.place());
        buffer.put(address.as_ptr());
        buffer_userp.put(Box::into_raw(block).cast());
        Ok(())
    })
}

/// `TRITONSERVER_ResponseAllocatorBufferAttributesFn_t`: describes a buffer that was just handed out. If it fails,
/// Triton forgets the buffer and calls no release, so it is freed here.
///
/// # Safety
/// As for [`alloc`]; `buffer_userp` is what that put, which is not used again after an error.
pub(crate) unsafe extern "C" fn buffer_attributes(
    _allocator: *mut sys::ResponseAllocator,
    _tensor_name: *const c_char,
    buffer_attributes: *mut sys::BufferAttributes,
    userp: *mut c_void,
    buffer_userp: *mut c_void,
) -> *mut sys::Error {
    // SAFETY: the caller's promise.
    let state = unsafe { state(userp) };
    // SAFETY: the caller's promise.
    let block = unsafe { owned(buffer_userp) };
    guarded(functions(state), || {
        let described = if buffer_attributes.is_null() {
            Err(null("buffer_attributes"))
        } else {
            given(state).and_then(|state| {
                // SAFETY: not null, and Triton's.
                unsafe {
                    state
                        .functions
                        .describe(buffer_attributes, block.as_deref())
                }
            })
        };
        match (described, block) {
            (Ok(()), Some(block)) => {
                // Stays Triton's, until its release.
                let _ = Box::into_raw(block);
                Ok(())
            }
            (Err(error), Some(block)) => {
                block.reclaim();
                Err(error)
            }
            (described, None) => described,
        }
    })
}

/// `TRITONSERVER_ResponseAllocatorQueryFn_t`: what memory an output will get, if there is enough of it.
///
/// # Safety
/// As for [`alloc`]; name and size may be null.
pub(crate) unsafe extern "C" fn query(
    _allocator: *mut sys::ResponseAllocator,
    userp: *mut c_void,
    _tensor_name: *const c_char,
    _byte_size: *mut usize,
    memory_type: *mut Number,
    memory_type_id: *mut i64,
) -> *mut sys::Error {
    // SAFETY: the caller's promise.
    let state = unsafe { state(userp) };
    guarded(functions(state), || {
        let memory_type = Out::new(memory_type, "memory_type")?;
        let memory_type_id = Out::new(memory_type_id, "memory_type_id")?;
        let state = given(state)?;
        count(&state.counters.queries);
        let place = state.preferred(Wanted::new(memory_type.get(), memory_type_id.get()));
        memory_type.put(place.memory_type.number());
        memory_type_id.put(place.id);
        Ok(())
    })
}

/// `TRITONSERVER_ResponseAllocatorReleaseFn_t`: a buffer goes back. All that is needed is in `buffer_userp`; there is no
/// other pointer of ours here.
///
/// # Safety
/// `buffer_userp` is what [`alloc`] put for a buffer that is released now, once.
pub(crate) unsafe extern "C" fn release(
    _allocator: *mut sys::ResponseAllocator,
    _buffer: *mut c_void,
    buffer_userp: *mut c_void,
    _byte_size: usize,
    _memory_type: Number,
    _memory_type_id: i64,
) -> *mut sys::Error {
    // SAFETY: the caller's promise.
    let block = unsafe { owned(buffer_userp) };
    let functions = block.as_deref().map(Block::functions);
    guarded(functions.as_ref(), || {
        if let Some(block) = block {
            block.release();
        }
        Ok(())
    })
}

/// `TRITONSERVER_ResponseAllocatorStartFn_t`: a response begins. Triton only logs its errors.
///
/// # Safety
/// As for [`alloc`].
pub(crate) unsafe extern "C" fn start(
    _allocator: *mut sys::ResponseAllocator,
    userp: *mut c_void,
) -> *mut sys::Error {
    // SAFETY: the caller's promise.
    let state = unsafe { state(userp) };
    guarded(functions(state), || {
        count(&given(state)?.counters.responses);
        Ok(())
    })
}

/// Runs a callback; errors and panics become Triton's errors, made with `functions`.
pub(crate) fn guarded(
    functions: Option<&Functions>,
    callback: impl FnOnce() -> Result<()>,
) -> *mut sys::Error {
    match catch_unwind(AssertUnwindSafe(callback)) {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(error)) => raise(functions, error.code(), error.message()),
        Err(_) => raise(
            functions,
            ErrorCode::Internal,
            "a panic inside of the response allocator; its text is on standard error",
        ),
    }
}

/// A place of Triton's for a result.
#[derive(Clone, Copy)]
struct Out<T>(NonNull<T>);

impl<T: Copy> Out<T> {
    fn new(pointer: *mut T, name: &str) -> Result<Out<T>> {
        NonNull::new(pointer).map(Out).ok_or_else(|| null(name))
    }

    fn get(self) -> T {
        // SAFETY: Triton's variable, which holds what it asks for.
        unsafe { self.0.read() }
    }

    fn put(self, value: T) {
        // SAFETY: Triton's variable.
        unsafe { self.0.write(value) }
    }
}

fn null(name: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("{name} is null"))
}

/// The allocator that a callback is for, if Triton was given one.
///
/// # Safety
/// The pointer is null, or that of an allocator that lives for `'a`.
unsafe fn state<'a>(userp: *mut c_void) -> Option<&'a Arc<State>> {
    // SAFETY: the caller's promise.
    let user = unsafe { userp.cast::<User>().as_ref() };
    user.map(|user| &user.0)
}

fn given(state: Option<&Arc<State>>) -> Result<&Arc<State>> {
    state.ok_or_else(|| {
        let message = "response_allocator_userp is null; it has to be the allocator's user pointer";
        Error::new(ErrorKind::InvalidArgument, message)
    })
}

fn functions(state: Option<&Arc<State>>) -> Option<&Functions> {
    state.map(|state| &state.functions)
}

/// The block that Triton keeps, to be kept or freed; none for an output without bytes.
///
/// # Safety
/// The pointer is null or what [`alloc`] put, and is not used by anybody else meanwhile.
unsafe fn owned(buffer_userp: *mut c_void) -> Option<Box<Block>> {
    let block = NonNull::new(buffer_userp.cast::<Block>())?;
    // SAFETY: made by `Box::into_raw`, and the caller's promise.
    Some(unsafe { Box::from_raw(block.as_ptr()) })
}

/// A name of Triton's, as well as it can be read.
///
/// # Safety
/// The pointer is null or that of a text that ends with a zero and stays for `'a`.
unsafe fn text<'a>(name: *const c_char) -> Cow<'a, str> {
    if name.is_null() {
        return Cow::Borrowed("");
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { CStr::from_ptr(name) }.to_string_lossy()
}
