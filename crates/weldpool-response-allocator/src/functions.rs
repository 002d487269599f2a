//! Triton's functions that are called here.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::sync::OnceLock;

use weldpool_triton_sys::{self as sys, ErrorCode, Library, Number};

use crate::block::Block;
use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;

type ErrorNew = unsafe extern "C" fn(code: Number, message: *const c_char) -> *mut sys::Error;

/// Makes errors where a callback was given no allocator, whose functions do it otherwise. The callbacks are not called
/// before the first allocator was made, which sets it.
static ERROR_NEW: OnceLock<ErrorNew> = OnceLock::new();

/// Triton's functions, as far as an allocator calls them.
#[derive(Clone, Copy, Debug)]
pub struct Functions(sys::ResponseAllocators);

impl Functions {
    /// Finds them.
    ///
    /// # Errors
    /// `Missing`, with the name of one that is not there.
    pub fn find(library: Library) -> Result<Functions> {
        Ok(Functions(sys::ResponseAllocators::find(library)?))
    }

    /// Takes them from a table.
    ///
    /// # Safety
    /// They are Triton's, or do what those do.
    #[must_use]
    pub unsafe fn of(table: sys::ResponseAllocators) -> Functions {
        Functions(table)
    }

    /// Makes the object, whose callbacks are ours.
    pub(crate) fn new_allocator(
        &self,
        alloc: sys::AllocFn,
        release: sys::ReleaseFn,
        start: sys::StartFn,
    ) -> Result<*mut sys::ResponseAllocator> {
        ERROR_NEW.get_or_init(|| self.0.error_new);
        let mut allocator = ptr::null_mut();
        // SAFETY: a place for the result, and functions of the types that Triton wants.
        let error = unsafe { (self.0.new)(&mut allocator, alloc, release, Some(start)) };
        self.check("TRITONSERVER_ResponseAllocatorNew", error)?;
        Ok(allocator)
    }

    /// Adds the two callbacks that came to the API later.
    ///
    /// # Safety
    /// The object was made by `new_allocator` and is not deleted.
    pub(crate) unsafe fn set_functions(
        &self,
        allocator: *mut sys::ResponseAllocator,
        attributes: sys::BufferAttributesFn,
        query: sys::QueryFn,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        let error = unsafe { (self.0.set_buffer_attributes_function)(allocator, attributes) };
        self.check(
            "TRITONSERVER_ResponseAllocatorSetBufferAttributesFunction",
            error,
        )?;
        // SAFETY: as above.
        let error = unsafe { (self.0.set_query_function)(allocator, query) };
        self.check("TRITONSERVER_ResponseAllocatorSetQueryFunction", error)
    }

    /// Deletes the object.
    ///
    /// # Safety
    /// It was made by `new_allocator`, and nobody uses it any more.
    pub(crate) unsafe fn delete_allocator(
        &self,
        allocator: *mut sys::ResponseAllocator,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        let error = unsafe { (self.0.delete)(allocator) };
        self.check("TRITONSERVER_ResponseAllocatorDelete", error)
    }

    /// Describes a block to Triton, or an output that has none.
    ///
    /// # Safety
    /// `attributes` is an object of Triton's.
    pub(crate) unsafe fn describe(
        &self,
        attributes: *mut sys::BufferAttributes,
        block: Option<&Block>,
    ) -> Result<()> {
        let place = block.map_or(Place::NOWHERE, Block::place);
        // SAFETY: the caller's promise.
        let error = unsafe { (self.0.set_memory_type)(attributes, place.memory_type.number()) };
        self.check("TRITONSERVER_BufferAttributesSetMemoryType", error)?;
        // SAFETY: as above.
        let error = unsafe { (self.0.set_memory_type_id)(attributes, place.id) };
        self.check("TRITONSERVER_BufferAttributesSetMemoryTypeId", error)?;
        // SAFETY: as above.
        let error = unsafe { (self.0.set_byte_size)(attributes, block.map_or(0, Block::bytes)) };
        self.check("TRITONSERVER_BufferAttributesSetByteSize", error)
    }

    /// Turns what a function returned into a result. The error is deleted.
    fn check(&self, function: &str, error: *mut sys::Error) -> Result<()> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: the error is Triton's, and ours until it is deleted.
        let message = unsafe { (self.0.error_message)(error) };
        let message = if message.is_null() {
            String::new()
        } else {
            // SAFETY: not null; the text lives as long as the error and ends with a zero.
            let message = unsafe { CStr::from_ptr(message) };
            message.to_string_lossy().into_owned()
        };
        // SAFETY: the error is deleted once, and not used again.
        unsafe { (self.0.error_delete)(error) };
        Err(Error::new(
            ErrorKind::Triton,
            format!("{function}: {message}"),
        ))
    }
}

/// Makes an error of Triton's, which whoever receives it deletes, with the functions of the allocator that a callback
/// is for, if it was given one.
pub(crate) fn raise(
    functions: Option<&Functions>,
    code: ErrorCode,
    message: &str,
) -> *mut sys::Error {
    let error_new = functions.map(|functions| &functions.0.error_new);
    let Some(error_new) = error_new.or_else(|| ERROR_NEW.get()) else {
        return ptr::null_mut();
    };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: Triton copies the text, which ends with a zero.
    unsafe { error_new(code.number(), message.as_ptr()) }
}
