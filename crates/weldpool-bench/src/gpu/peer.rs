//! A peer behind plain functions of a shared library.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use libloading::Library;

use crate::alloc::heap::Heap;
use crate::error::{Error, ErrorKind, Result};

/// Threads, and streams of a trace, that a peer has streams for.
pub(super) const STREAMS: i32 = 64;

type Open = unsafe extern "C" fn(*const c_char, c_int) -> c_int;

#[derive(Debug, Clone, Copy)]
struct Functions {
    allocate: unsafe extern "C" fn(c_int, usize) -> *mut c_void,
    free: unsafe extern "C" fn(c_int, *mut c_void, usize),
    peak_reserved: unsafe extern "C" fn() -> u64,
    version: unsafe extern "C" fn() -> *const c_char,
}

/// A peer, on the stream of its number; clones have the next.
#[derive(Debug)]
pub(super) struct Peer {
    functions: Functions,
    stream: c_int,
    next: Arc<AtomicI32>,
}

/// Memory of a peer.
#[derive(Debug)]
pub(super) struct Block {
    address: NonNull<c_void>,
    bytes: usize,
}

// SAFETY: an address of device memory, which is never followed here.
unsafe impl Send for Block {}

impl Peer {
    pub(super) fn open(library: &Path, setting: &str) -> Result<Self> {
        let failed = |error: libloading::Error| {
            Error::caused(ErrorKind::Environment, "loading a peer", error)
        };
        // SAFETY: the library was built from this crate's sources; its initialisers need nothing.
        let library = unsafe { Library::new(library) }.map_err(failed)?;
        // It stays for the rest of the process, like the threads that the peer may have started.
        let library = Box::leak(Box::new(library));
        // SAFETY: the signatures are those of peers/peer.h, here and below.
        let open = unsafe { library.get::<Open>(b"peer_open\0") }.map_err(failed)?;
        let functions = Functions {
            // SAFETY: as above.
            allocate: *unsafe { library.get(b"peer_allocate\0") }.map_err(failed)?,
            // SAFETY: as above.
            free: *unsafe { library.get(b"peer_free\0") }.map_err(failed)?,
            // SAFETY: as above.
            peak_reserved: *unsafe { library.get(b"peer_peak_reserved\0") }.map_err(failed)?,
            // SAFETY: as above.
            version: *unsafe { library.get(b"peer_version\0") }.map_err(failed)?,
        };
        let setting = CString::new(setting)
            .map_err(|error| Error::caused(ErrorKind::Environment, "a peer's setting", error))?;
        // SAFETY: the text ends with zero.
        match unsafe { open(setting.as_ptr(), STREAMS) } {
            0 => Ok(Self {
                functions,
                stream: 0,
                next: Arc::new(AtomicI32::new(1)),
            }),
            code => Err(Error::new(
                ErrorKind::Environment,
                format!("peer_open answered {code}"),
            )),
        }
    }

    pub(super) fn version(&self) -> String {
        // SAFETY: it only reads.
        let text = unsafe { (self.functions.version)() };
        // SAFETY: the peer gives a string of its own that ends with zero and stays.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().into_owned()
    }

    /// Most bytes that it held from the driver; none where it does not say.
    pub(super) fn peak_reserved(&self) -> Option<u64> {
        // SAFETY: it only reads.
        let bytes = unsafe { (self.functions.peak_reserved)() };
        (bytes > 0).then_some(bytes)
    }

    /// Memory on a stream, for the replay of a trace.
    #[inline]
    pub(super) fn allocate_on(&self, stream: c_int, bytes: usize) -> Option<Block> {
        // SAFETY: the peer has a stream of every number below `STREAMS`.
        let address = unsafe { (self.functions.allocate)(stream, bytes) };
        NonNull::new(address).map(|address| Block { address, bytes })
    }

    #[inline]
    pub(super) fn free_on(&self, stream: c_int, block: Block) {
        // SAFETY: the block was allocated by this peer and is given up.
        unsafe { (self.functions.free)(stream, block.address.as_ptr(), block.bytes) };
    }
}

impl Clone for Peer {
    fn clone(&self) -> Self {
        Self {
            functions: self.functions,
            stream: self.next.fetch_add(1, Ordering::Relaxed) % STREAMS,
            next: Arc::clone(&self.next),
        }
    }
}

impl Heap for Peer {
    type Block = Block;

    #[inline]
    fn allocate(&mut self, bytes: usize) -> Option<Block> {
        self.allocate_on(self.stream, bytes)
    }

    #[inline]
    fn free(&mut self, block: Block) {
        self.free_on(self.stream, block);
    }

    fn start(&mut self, block: &Block) -> usize {
        block.address.as_ptr().addr()
    }

    fn has_memory(&self) -> bool {
        false
    }

    fn fill(&mut self, _block: &mut Block, _value: u8) {}

    fn touch(&mut self, _block: &mut Block, _value: u8) -> bool {
        false
    }
}
