//! Calls of macOS about the machine, one per function.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use super::system::Pages;
use crate::sync::OnceLock;

/// A number of sysctl(3), of 4 or 8 bytes.
pub(crate) fn sysctl_number(name: &CStr) -> Result<u64> {
    let mut value = [0_u8; 8];
    match sysctl(name, &mut value)? {
        4 => Ok(u32::from_ne_bytes([value[0], value[1], value[2], value[3]]).into()),
        8 => Ok(u64::from_ne_bytes(value)),
        _ => Err(Error::other("the value is no number of 4 or 8 bytes")),
    }
}

/// A text of sysctl(3), up to its end.
pub(crate) fn sysctl_text(name: &CStr) -> Result<String> {
    let mut value = [0_u8; 128];
    sysctl(name, &mut value)?;
    let text = CStr::from_bytes_until_nul(&value).map_err(Error::other)?;
    Ok(text.to_string_lossy().into_owned())
}

/// Reads a value; says how many bytes it has.
fn sysctl(name: &CStr, value: &mut [u8]) -> Result<usize> {
    let mut bytes = value.len();
    // SAFETY: the name ends with a nul; at most `bytes` bytes are written to `value`, nothing is set (sysctlbyname(3)).
    let result = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            &raw mut bytes,
            null_mut(),
            0,
        )
    };
    match result {
        0 => Ok(bytes),
        _ => Err(Error::last_os_error()),
    }
}

/// The kernel's counts of pages.
pub(crate) fn pages() -> Result<Pages> {
    let mut statistics = MaybeUninit::<libc::vm_statistics64>::zeroed();
    let mut count = libc::HOST_VM_INFO64_COUNT;
    // SAFETY: the kernel writes at most `count` integers, as many as the structure has; an older kernel writes fewer,
    // and the rest stays zero.
    let result = unsafe {
        libc::host_statistics64(
            host(),
            libc::HOST_VM_INFO64,
            statistics.as_mut_ptr().cast(),
            &raw mut count,
        )
    };
    if result != libc::KERN_SUCCESS {
        return Err(Error::other(format!(
            "host_statistics64 returned {result} (mach/kern_return.h)"
        )));
    }
    // SAFETY: all of it was zeroed or written, and any bits are numbers.
    let statistics = unsafe { statistics.assume_init() };
    Ok(Pages {
        page_bytes: kernel_page_bytes(),
        internal: statistics.internal_page_count.into(),
        purgeable: statistics.purgeable_count.into(),
        wired: statistics.wire_count.into(),
        compressor: statistics.compressor_page_count.into(),
    })
}

/// The port of the machine. Each call gives a reference that would have to be given back, so there is one.
fn host() -> libc::mach_port_t {
    static HOST: OnceLock<libc::mach_port_t> = OnceLock::new();
    *HOST.get_or_init(|| {
        // SAFETY: it has no preconditions.
        unsafe { mach_host_self() }
    })
}

/// Bytes of a page as the kernel counts them, which are more than the process's own under Rosetta.
pub(crate) fn kernel_page_bytes() -> u64 {
    // SAFETY: the library sets it before any code of the program runs, and never again (mach/vm_page_size.h).
    let bytes = unsafe { vm_kernel_page_size };
    bytes as u64
}

unsafe extern "C" {
    // mach/mach_init.h
    fn mach_host_self() -> libc::mach_port_t;
    // mach/vm_page_size.h
    static vm_kernel_page_size: usize;
}
