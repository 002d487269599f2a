//! Allocators with the interface of `malloc`: the C library's, mimalloc and jemalloc, each by its own functions.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::alloc::heap::Heap;

/// Alignment that `malloc` gives without being asked.
const ALIGNMENT: usize = 16;

/// A pair of `malloc` and `free`.
pub(in crate::alloc) trait Malloc: Copy + Send {
    /// Memory for `bytes` bytes, which are not 0, aligned to 16; null when there is none.
    fn allocate(bytes: usize) -> *mut u8;

    /// Gives memory back.
    ///
    /// # Safety
    /// `address` came from `allocate(bytes)` of this type and is not used again.
    unsafe fn free(address: *mut u8, bytes: usize);
}

/// `malloc` and `free` of the C library, as Rust's `System` calls them.
#[derive(Debug, Clone, Copy)]
pub(in crate::alloc) struct CLibrary;

impl Malloc for CLibrary {
    #[inline]
    fn allocate(bytes: usize) -> *mut u8 {
        let Ok(layout) = Layout::from_size_align(bytes, ALIGNMENT) else {
            return std::ptr::null_mut();
        };
        // SAFETY: no workload asks for 0 bytes; `Heap::allocate` refuses it.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn free(address: *mut u8, bytes: usize) {
        // SAFETY: `allocate` made a layout of the same values, so they are valid.
        let layout = unsafe { Layout::from_size_align_unchecked(bytes, ALIGNMENT) };
        // SAFETY: by the caller's promise `address` came from `System.alloc` with this layout.
        unsafe { System.dealloc(address, layout) }
    }
}

/// `mi_malloc` and `mi_free`.
#[cfg(all(target_os = "linux", feature = "allocators"))]
#[derive(Debug, Clone, Copy)]
pub(in crate::alloc) struct Mimalloc;

#[cfg(all(target_os = "linux", feature = "allocators"))]
impl Malloc for Mimalloc {
    #[inline]
    fn allocate(bytes: usize) -> *mut u8 {
        // SAFETY: any size may be asked for.
        unsafe { libmimalloc_sys::mi_malloc(bytes) }.cast()
    }

    #[inline]
    unsafe fn free(address: *mut u8, _bytes: usize) {
        // SAFETY: by the caller's promise `address` came from `mi_malloc`.
        unsafe { libmimalloc_sys::mi_free(address.cast()) }
    }
}

/// `_rjem_malloc` and `_rjem_free`.
#[cfg(all(target_os = "linux", feature = "allocators"))]
#[derive(Debug, Clone, Copy)]
pub(in crate::alloc) struct Jemalloc;

#[cfg(all(target_os = "linux", feature = "allocators"))]
impl Malloc for Jemalloc {
    #[inline]
    fn allocate(bytes: usize) -> *mut u8 {
        // SAFETY: any size may be asked for.
        unsafe { tikv_jemalloc_sys::malloc(bytes) }.cast()
    }

    #[inline]
    unsafe fn free(address: *mut u8, _bytes: usize) {
        // SAFETY: by the caller's promise `address` came from `_rjem_malloc`.
        unsafe { tikv_jemalloc_sys::free(address.cast()) }
    }
}

/// A heap over `malloc` and `free`.
#[derive(Debug, Clone, Copy)]
pub(in crate::alloc) struct MallocHeap<M>(PhantomData<M>);

impl<M> MallocHeap<M> {
    pub(in crate::alloc) fn new() -> Self {
        Self(PhantomData)
    }
}

/// A live block, freed by [`Heap::free`] only.
#[derive(Debug)]
pub(in crate::alloc) struct Block {
    address: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the block is the only owner of its memory, and malloc's memory may be freed on any thread.
unsafe impl Send for Block {}

impl<M: Malloc> Heap for MallocHeap<M> {
    type Block = Block;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Block> {
        if bytes == 0 {
            return None;
        }
        let address = NonNull::new(M::allocate(bytes))?;
        Some(Block { address, bytes })
    }

    #[inline]
    fn free(&mut self, block: Block) {
        // SAFETY: only `allocate` makes a block, and it is used up here.
        unsafe { M::free(block.address.as_ptr(), block.bytes) }
    }

    fn start(&mut self, block: &Block) -> usize {
        block.address.as_ptr().addr()
    }

    fn has_memory(&self) -> bool {
        true
    }

    #[inline]
    fn fill(&mut self, block: &mut Block, value: u8) {
        // SAFETY: the block owns `bytes` bytes from `address` on.
        unsafe { block.address.write_bytes(value, block.bytes) }
        // Otherwise the compiler may leave out writes to memory that is freed next.
        black_box(block.address);
    }

    fn touch(&mut self, block: &mut Block, value: u8) -> bool {
        [0, block.bytes - 1].into_iter().all(|end| {
            // SAFETY: `end` is below `bytes`, which is not 0.
            let byte = unsafe { block.address.add(end) };
            // SAFETY: the byte belongs to the block.
            unsafe { byte.write_volatile(value) };
            // SAFETY: as above, and it was just written.
            unsafe { byte.read_volatile() == value }
        })
    }
}

/// The version of the C library.
pub(in crate::alloc) fn c_library_version() -> String {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the function has no requirements.
        let text = unsafe { libc::gnu_get_libc_version() };
        // SAFETY: it returns a constant, terminated string.
        let text = unsafe { std::ffi::CStr::from_ptr(text) };
        text.to_string_lossy().into_owned()
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    "of the system".to_owned()
}

/// The version of mimalloc that is linked.
#[cfg(all(target_os = "linux", feature = "allocators"))]
pub(in crate::alloc) fn mimalloc_version() -> String {
    // SAFETY: the function has no requirements.
    let version = unsafe { libmimalloc_sys::mi_version() };
    // Major version, then two digits each; older ones had one and two.
    match version {
        10_000.. => format!(
            "{}.{}.{}",
            version / 10_000,
            version / 100 % 100,
            version % 100
        ),
        _ => format!("{}.{}.{}", version / 100, version / 10 % 10, version % 10),
    }
}

/// The version of jemalloc that is linked.
#[cfg(all(target_os = "linux", feature = "allocators"))]
pub(in crate::alloc) fn jemalloc_version() -> String {
    let mut text: *const std::ffi::c_char = std::ptr::null();
    let mut size = size_of_val(&text);
    // SAFETY: "version" is a read-only string; the pointer to it fits `text`, whose size is given.
    let status = unsafe {
        tikv_jemalloc_sys::mallctl(
            c"version".as_ptr(),
            (&raw mut text).cast(),
            &raw mut size,
            std::ptr::null_mut(),
            0,
        )
    };
    if status != 0 || text.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: the call succeeded, so `text` is a constant, terminated string.
    let text = unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy();
    text.split('-').next().unwrap_or_default().to_owned()
}
