//! Which library this is.

#![allow(unsafe_code)]

use std::ffi::c_char;

/// Version of the binary interface that this header describes. While it is 0, every release may change it; from 1 on, a
/// number stands for an interface that only grows, and is the number behind `libweldpool.so.`.
pub const WELDPOOL_ABI_VERSION: u32 = 0;

/// Version of the binary interface of the library that runs, to be compared with WELDPOOL_ABI_VERSION.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_abi_version() -> u32 {
    WELDPOOL_ABI_VERSION
}

/// Release of the library that runs, such as "0.1.0". Static.
#[unsafe(no_mangle)]
pub extern "C" fn weldpool_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
