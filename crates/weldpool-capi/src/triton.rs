//! The response allocator for Triton Inference Server, for programs that run the server within themselves.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use response_allocator::{
    Error, ErrorKind, Options, Order, ResponseAllocator, Source, Stats, TritonResponseAllocator,
};

use crate::abi::flags;
use crate::abi::guard::{fallible, infallible};
use crate::abi::pointer::{Place, given, items};
use crate::abi::sized::{Filled, Structure, read, zeroed};
use crate::abi::text;
use crate::allocator::AllocatorHandle;
use crate::failure::{ErrorObject, Result};
use crate::storage;

/// Sources are asked as the list has them. Otherwise the one is first whose memory is nearest to what Triton asks for.
pub const WELDPOOL_TRITON_LISTED_ORDER: u32 = 1;
/// The system's heap serves what no source has memory for.
pub const WELDPOOL_TRITON_PLAIN_FALLBACK: u32 = 2;

const FLAGS: u32 = 3;

/// Where memory of outputs comes from. There are lists of it, so it has no size in it and does not grow.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ResponseSourceOf {
    /// The pool. The response allocator keeps what it needs of it.
    pub allocator: *const AllocatorHandle,
    /// One of WELDPOOL_STORAGE_*.
    pub storage: u32,
    /// Zero.
    pub unused: u32,
}

/// Options of a response allocator. Zero is the default of every field.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ResponseOptionsOf {
    /// sizeof(weldpool_triton_options_t).
    pub struct_size: usize,
    /// Name of the buffers in statistics and reports of pools. Default: "triton response".
    pub name: *const c_char,
    /// Any of WELDPOOL_TRITON_*, added up.
    pub flags: u32,
    /// Zero.
    pub unused: u32,
}

// SAFETY: repr(C) of words, pointers and numbers, begun by its size.
unsafe impl Structure for ResponseOptionsOf {
    const NAME: &'static str = "weldpool_triton_options_t";
}

/// What a response allocator did since it was made. allocations is the sum of releases, reclaimed and live_buffers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ResponseStatsOf {
    /// sizeof(weldpool_triton_stats_t), set by the caller.
    pub struct_size: usize,
    /// Responses that were begun.
    pub responses: u64,
    /// Questions of backends about the memory that an output would get.
    pub queries: u64,
    /// Buffers that were handed out.
    pub allocations: u64,
    /// Outputs of no bytes, which have no buffer and no release.
    pub empty: u64,
    /// Buffers that did not come from the source that was asked first.
    pub fallbacks: u64,
    /// Outputs for which no source had memory.
    pub failures: u64,
    /// Buffers that Triton gave back.
    pub releases: u64,
    /// Buffers freed at once, since Triton took no notice of them.
    pub reclaimed: u64,
    /// Buffers that are out,
    pub live_buffers: u64,
    /// their bytes,
    pub live_bytes: u64,
    /// and the most of them at once.
    pub live_bytes_peak: u64,
}

// SAFETY: repr(C) of words and numbers, begun by its size.
unsafe impl Structure for ResponseStatsOf {
    const NAME: &'static str = "weldpool_triton_stats_t";
}

/// A response allocator of Triton's over pools of this library. Thread-safe, but for freeing it.
#[derive(Debug)]
pub struct ResponseAllocatorHandle {
    allocator: ResponseAllocator,
}

/// A response allocator over `count` sources, at most 64, or 63 with WELDPOOL_TRITON_PLAIN_FALLBACK. `options` may be
/// null for the default. Triton's functions are looked for in the process: libtritonserver has to be loaded.
///
/// Errors: INVALID_ARGUMENT for no source or too many, UNSUPPORTED where there is no Triton, and for storage that the
/// device lacks or Triton has no name for (private storage of Metal), SYSTEM with what Triton says. Free with
/// weldpool_triton_response_allocator_free. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_triton_response_allocator_create(
    sources: *const ResponseSourceOf,
    count: usize,
    options: *const ResponseOptionsOf,
    allocator: *mut *mut ResponseAllocatorHandle,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let place = Place::new(allocator, "allocator")?;
        let mut sources = items(sources, count, "sources")?
            .iter()
            .map(source)
            .collect::<Result<Vec<_>>>()?;
        let given = if options.is_null() {
            zeroed()
        } else {
            read(options, "options")?
        };
        flags::check(given.flags, FLAGS, "a response allocator")?;
        unused(given.unused, "options.unused")?;
        if given.flags & WELDPOOL_TRITON_PLAIN_FALLBACK != 0 {
            sources.push(Source::plain());
        }
        let mut options = Options::default();
        if given.flags & WELDPOOL_TRITON_LISTED_ORDER != 0 {
            options.order = Order::Listed;
        }
        if let Some(name) = text::optional(given.name, "options.name")? {
            options.name = name.to_owned();
        }
        let allocator = ResponseAllocator::new(sources, &options).map_err(error_of)?;
        place.give(ResponseAllocatorHandle { allocator });
        Ok(())
    })
}

fn source(source: &ResponseSourceOf) -> Result<Source> {
    unused(source.unused, "sources[].unused")?;
    // SAFETY: the caller's promise: null, or a handle that lives.
    let handle = given(unsafe { source.allocator.as_ref() }, "sources[].allocator")?;
    Source::pool(&handle.allocator, storage::mode(source.storage)?).map_err(error_of)
}

/// A field that a later version may use.
fn unused(field: u32, name: &str) -> Result<()> {
    match field {
        0 => Ok(()),
        _ => Err(ErrorObject::argument(format!(
            "{name} is {field}; it has to be zero"
        ))),
    }
}

fn error_of(error: Error) -> Box<ErrorObject> {
    let kind = match error.kind() {
        ErrorKind::InvalidArgument => return ErrorObject::argument(error.to_string()),
        ErrorKind::Missing | ErrorKind::Unsupported => memory::ErrorKind::Unsupported,
        _ => memory::ErrorKind::System,
    };
    memory::Error::with_message(kind, error.to_string()).into()
}

/// The argument `response_allocator` of TRITONSERVER_InferenceRequestSetResponseCallback; null for null. It is not to be
/// deleted. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_triton_response_allocator_handle(
    allocator: Option<&ResponseAllocatorHandle>,
) -> *mut TritonResponseAllocator {
    infallible(std::ptr::null_mut(), || {
        allocator.map_or(std::ptr::null_mut(), |handle| handle.allocator.as_ptr())
    })
}

/// The argument `response_allocator_userp` of the same function, which has to be this one; null for null. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_triton_response_allocator_userp(
    allocator: Option<&ResponseAllocatorHandle>,
) -> *mut c_void {
    infallible(std::ptr::null_mut(), || {
        allocator.map_or(std::ptr::null_mut(), |handle| {
            handle.allocator.user_pointer()
        })
    })
}

/// Fills in what it did so far; exact when no call of Triton's is under way.
///
/// Errors: INVALID_ARGUMENT. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_triton_response_allocator_stats(
    allocator: Option<&ResponseAllocatorHandle>,
    stats: *mut ResponseStatsOf,
) -> Option<Box<ErrorObject>> {
    fallible(|| {
        let filled = Filled::new(stats, "stats")?;
        let stats = given(allocator, "allocator")?.allocator.stats();
        filled.put(&ResponseStatsOf::from(&stats));
        Ok(())
    })
}

impl From<&Stats> for ResponseStatsOf {
    fn from(stats: &Stats) -> Self {
        Self {
            struct_size: size_of::<Self>(),
            responses: stats.responses,
            queries: stats.queries,
            allocations: stats.allocations,
            empty: stats.empty,
            fallbacks: stats.fallbacks,
            failures: stats.failures,
            releases: stats.releases,
            reclaimed: stats.reclaimed,
            live_buffers: stats.live_buffers,
            live_bytes: stats.live_bytes,
            live_bytes_peak: stats.live_bytes_peak,
        }
    }
}

/// Frees a response allocator. To be called only after each request that was given it has had its last response; it does
/// not wait for them. Responses may outlive it: the last buffer frees the rest. Null is ignored.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_triton_response_allocator_free(
    allocator: Option<Box<ResponseAllocatorHandle>>,
) {
    infallible((), || drop(allocator));
}
