//! The response allocator of libweldpool, by its functions for C, in the real server.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::ptr::{self, NonNull};

use weldpool_bench::cargo;
use weldpool_response_allocator::Place;
use weldpool_triton_sys as sys;

use crate::triton::{Command, Responses, server};

type Error = *mut c_void;

/// `weldpool_triton_source_t`.
#[repr(C)]
struct SourceInC {
    allocator: *const c_void,
    storage: u32,
    unused: u32,
}

/// The begin of `weldpool_triton_stats_t`, up to what is read here.
#[derive(Debug, Default)]
#[repr(C)]
struct StatsInC {
    struct_size: usize,
    responses: u64,
    queries: u64,
    allocations: u64,
    empty: u64,
    fallbacks: u64,
    failures: u64,
    releases: u64,
    reclaimed: u64,
    live_buffers: u64,
}

/// The begin of `weldpool_stats_t`.
#[derive(Debug, Default)]
#[repr(C)]
struct PoolStatsInC {
    struct_size: usize,
    live_bytes: u64,
}

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $returns:ty)?;)+) => {
        /// Functions of weldpool.h.
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) $(-> $returns)?,)+
        }

        impl Functions {
            /// Those of the library that is loaded as `handle`.
            fn of(handle: NonNull<c_void>) -> Functions {
                Functions {
                    $($name: {
                        let name = CString::new(concat!("weldpool_", stringify!($name))).unwrap();
                        // SAFETY: a library that is open for good, and a name that ends with a zero.
                        let found = unsafe { libc::dlsym(handle.as_ptr(), name.as_ptr()) };
                        assert!(!found.is_null(), "{name:?}");
                        // SAFETY: weldpool.h declares the function so.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                unsafe extern "C" fn($($argument),*) $(-> $returns)?,
                            >(found)
                        }
                    },)+
                }
            }
        }
    };
}

functions! {
    error_message(Error) -> *const c_char;
    device_open(*const c_char, *mut *mut c_void) -> Error;
    device_free(*mut c_void);
    allocator_create(*const c_void, *const c_void, *mut *mut c_void) -> Error;
    allocator_stats(*const c_void, *mut PoolStatsInC) -> Error;
    allocator_free(*mut c_void);
    triton_response_allocator_create(
        *const SourceInC, usize, *const c_void, *mut *mut c_void
    ) -> Error;
    triton_response_allocator_handle(*const c_void) -> *mut sys::ResponseAllocator;
    triton_response_allocator_userp(*const c_void) -> *mut c_void;
    triton_response_allocator_stats(*const c_void, *mut StatsInC) -> Error;
    triton_response_allocator_free(*mut c_void);
}

impl Functions {
    fn check(&self, error: Error) {
        if !error.is_null() {
            // SAFETY: an error of the library's.
            let text = unsafe { (self.error_message)(error) };
            // SAFETY: the text ends with a zero, and lives as long as the error.
            let text = unsafe { CStr::from_ptr(text) };
            panic!("{}", text.to_string_lossy());
        }
    }
}

/// A response allocator over a pool of the host's.
struct InC {
    functions: Functions,
    pool: *mut c_void,
    allocator: *mut c_void,
}

impl InC {
    fn new() -> InC {
        let profile: &[&str] = if cfg!(debug_assertions) {
            &[]
        } else {
            &["--release"]
        };
        let library = cargo::build_package_library("weldpool-capi", "weldpool", profile).unwrap();
        let path = CString::new(library.as_os_str().as_bytes()).unwrap();
        // SAFETY: a text that ends with a zero; the library runs nothing when it is loaded.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        let functions = Functions::of(NonNull::new(handle).unwrap());
        let (mut device, mut pool, mut allocator) =
            (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: as weldpool.h wants it, here and below.
        functions.check(unsafe { (functions.device_open)(c"host".as_ptr(), &mut device) });
        // SAFETY: null is the default configuration.
        functions.check(unsafe { (functions.allocator_create)(device, ptr::null(), &mut pool) });
        // SAFETY: the pool keeps what it needs of it.
        unsafe { (functions.device_free)(device) };
        let source = SourceInC {
            allocator: pool,
            storage: 0,
            unused: 0,
        };
        // SAFETY: one source, and the default options.
        functions.check(unsafe {
            (functions.triton_response_allocator_create)(&source, 1, ptr::null(), &mut allocator)
        });
        InC {
            functions,
            pool,
            allocator,
        }
    }

    fn stats(&self) -> StatsInC {
        let mut stats = StatsInC {
            struct_size: size_of::<StatsInC>(),
            ..StatsInC::default()
        };
        // SAFETY: a live allocator, and a structure that knows its size.
        self.functions.check(unsafe {
            (self.functions.triton_response_allocator_stats)(self.allocator, &mut stats)
        });
        stats
    }

    fn live_bytes(&self) -> u64 {
        let mut stats = PoolStatsInC {
            struct_size: size_of::<PoolStatsInC>(),
            ..PoolStatsInC::default()
        };
        // SAFETY: a live pool, and a structure that knows its size.
        self.functions
            .check(unsafe { (self.functions.allocator_stats)(self.pool, &mut stats) });
        stats.live_bytes
    }
}

impl Responses for InC {
    fn pointers(&self) -> (*mut sys::ResponseAllocator, *mut c_void) {
        // SAFETY: a live allocator.
        let handle = unsafe { (self.functions.triton_response_allocator_handle)(self.allocator) };
        // SAFETY: as above.
        let userp = unsafe { (self.functions.triton_response_allocator_userp)(self.allocator) };
        (handle, userp)
    }
}

impl Drop for InC {
    fn drop(&mut self) {
        // SAFETY: freed once, when no request is under way.
        unsafe { (self.functions.triton_response_allocator_free)(self.allocator) };
        // SAFETY: freed once; order does not matter.
        unsafe { (self.functions.allocator_free)(self.pool) };
    }
}

#[test]
fn outputs_lie_in_a_pool_of_libweldpools() {
    let Some(server) = server() else { return };
    let allocator = InC::new();
    let command = Command {
        responses: 3,
        outputs: 2,
        bytes: 5000,
        ..Command::default()
    };
    let responses = command.request().infer(server, &allocator);
    assert_eq!(responses.len(), 3);
    for (number, response) in responses.iter().enumerate() {
        for output in response.outputs() {
            assert_eq!(output.place, Place::CPU);
            command.check(number, &output);
        }
    }
    assert_eq!(allocator.live_bytes(), 6 * 5000);
    let stats = allocator.stats();
    assert_eq!(
        (stats.responses, stats.allocations, stats.live_buffers),
        (3, 6, 6)
    );
    drop(responses);
    let stats = allocator.stats();
    assert_eq!((stats.releases, stats.live_buffers), (6, 0), "{stats:?}");
    assert_eq!(allocator.live_bytes(), 0);
}
