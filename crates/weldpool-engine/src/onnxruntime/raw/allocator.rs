//! The table of functions through which onnxruntime takes its memory from a weldpool allocator,
//! and the way back: a tensor that the library made in that memory becomes a [`Buffer`].
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use ort_sys as sys;
use weldpool::Buffer;

use super::{Api, MemoryInfo, Result, Status, Value};
use crate::onnxruntime::allocator::PoolMemory;

/// The version of the allocator interface: the last before optional functions were added.
const INTERFACE_VERSION: u32 = 17;

/// An allocator as the library sees it. The library finds the table by the address of its first
/// field; the table therefore never moves.
#[repr(C)]
struct Table {
    functions: sys::OrtAllocator,
    api: Api,
    info: MemoryInfo,
    memory: PoolMemory,
}

/// Owns a [`Table`]. Whoever offers it to the library keeps it for as long as the library uses it.
#[derive(Debug)]
pub(in crate::onnxruntime) struct AllocatorTable(NonNull<Table>);

// SAFETY: the table is read only after it is made; `PoolMemory` and `MemoryInfo` are `Send + Sync`,
// and `Api` and the function pointers are plain values.
unsafe impl Send for AllocatorTable {}
// SAFETY: as above.
unsafe impl Sync for AllocatorTable {}

impl AllocatorTable {
    /// A table whose memory is described by `info`.
    pub(in crate::onnxruntime) fn new(api: Api, info: MemoryInfo, memory: PoolMemory) -> Self {
        // SAFETY: `allocate` unwinds with a C++ exception where the library's own allocators do;
        // the function pointer types differ in that alone, and only C++ code calls through it.
        let allocate = unsafe {
            std::mem::transmute::<
                unsafe extern "C-unwind" fn(*mut sys::OrtAllocator, usize) -> *mut c_void,
                unsafe extern "system" fn(*mut sys::OrtAllocator, usize) -> *mut c_void,
            >(allocate)
        };
        // SAFETY: the function only fills a structure whose fields are all optional.
        let mut functions = unsafe { sys::OrtAllocator::default() };
        functions.version = INTERFACE_VERSION;
        functions.Alloc = Some(allocate);
        functions.Free = Some(free);
        functions.Info = Some(describe);
        let table = Box::new(Table {
            functions,
            api,
            info,
            memory,
        });
        AllocatorTable(NonNull::from(Box::leak(table)))
    }

    pub(super) fn as_ptr(&self) -> *mut sys::OrtAllocator {
        self.0.as_ptr().cast::<sys::OrtAllocator>()
    }

    /// What the table takes its memory from.
    pub(in crate::onnxruntime) fn memory(&self) -> &PoolMemory {
        &self.table().memory
    }

    /// How the table's memory is described.
    pub(in crate::onnxruntime) fn info(&self) -> &MemoryInfo {
        &self.table().info
    }

    fn table(&self) -> &Table {
        // SAFETY: the table was leaked by `new`, lives until `drop`, and is never written.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for AllocatorTable {
    fn drop(&mut self) {
        // SAFETY: the table came from a box, and by this type's contract nobody uses it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

thread_local! {
    /// The address whose next release on this thread hands the block over instead of freeing it.
    static TAKEN: Cell<usize> = const { Cell::new(0) };
}

/// What became of a tensor whose memory was to be taken over.
pub(in crate::onnxruntime) enum Taken<'d> {
    /// It was in the table's memory, which is now the buffer's. The buffer may be longer.
    Buffer(Buffer),
    /// It is elsewhere; the value is returned as it was.
    Elsewhere(Value<'d>),
}

impl<'d> Value<'d> {
    /// Takes over the memory of a tensor that the library made, without a copy.
    ///
    /// Fails if the library keeps the block in use although the tensor is released; the block
    /// then stays the library's.
    pub(in crate::onnxruntime) fn take_buffer(self, table: &AllocatorTable) -> Result<Taken<'d>> {
        let Some(address) = self.address()? else {
            return Ok(Taken::Elsewhere(self));
        };
        if !table.memory().owns(address) {
            return Ok(Taken::Elsewhere(self));
        }
        TAKEN.set(address.as_ptr().addr());
        drop(self);
        if TAKEN.replace(0) != 0 {
            return Err(Status::refused(
                "the library keeps the memory of an output in use",
            ));
        }
        // SAFETY: the block came out of `into_raw` in `allocate`. Releasing the tensor released the
        // block, which `free` noted and left alone, so nobody else uses or frees it.
        let buffer = unsafe { table.memory().allocator().reclaim(address) };
        buffer
            .map(Taken::Buffer)
            .map_err(|error| Status::refused(error.to_string()))
    }
}

/// `OrtAllocator::Alloc`: a block of the pool; null for zero bytes. Out of memory is thrown as
/// `std::bad_alloc`, as by the library's own allocators: it aborts the process on null.
unsafe extern "C-unwind" fn allocate(this: *mut sys::OrtAllocator, bytes: usize) -> *mut c_void {
    // SAFETY: the library passes the pointer it was given, which is that of a living `Table`.
    let table = unsafe { &*this.cast::<Table>() };
    if bytes == 0 {
        return ptr::null_mut();
    }
    // A panic must not unwind into C++, which would take it for an exception of its own.
    let allocated = catch_unwind(AssertUnwindSafe(|| table.memory.allocate(bytes)));
    if let Ok(Some(address)) = allocated {
        return address.as_ptr().cast::<c_void>();
    }
    match table.api.operator_new {
        // SAFETY: `operator new` may be called with any size; it throws for one that cannot be.
        // The exception passes this frame, which owns nothing, into C++ code that expects it.
        Some(operator_new) => unsafe { operator_new(usize::MAX) },
        None => ptr::null_mut(),
    }
}

/// `OrtAllocator::Free`.
unsafe extern "system" fn free(this: *mut sys::OrtAllocator, block: *mut c_void) {
    let Some(address) = NonNull::new(block.cast::<u8>()) else {
        return;
    };
    if TAKEN.get() == address.as_ptr().addr() {
        TAKEN.set(0);
        return;
    }
    // SAFETY: as in `allocate`.
    let table = unsafe { &*this.cast::<Table>() };
    let freed = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the library frees what `allocate` gave it, once, when nothing uses it any more.
        match unsafe { table.memory.allocator().reclaim(address) } {
            Ok(buffer) => drop(buffer),
            Err(error) => tracing::error!("onnxruntime freed a block of another's: {error}"),
        }
    }));
    if freed.is_err() {
        tracing::error!("freeing a block of onnxruntime's panicked; the block is lost");
    }
}

/// `OrtAllocator::Info`.
unsafe extern "system" fn describe(this: *const sys::OrtAllocator) -> *const sys::OrtMemoryInfo {
    // SAFETY: as in `allocate`.
    let table = unsafe { &*this.cast::<Table>() };
    table.info.handle.as_ptr()
}
