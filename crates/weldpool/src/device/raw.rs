//! The calls that map, unmap, copy and fill host memory.

#![allow(unsafe_code)]

use std::ptr::NonNull;

use rustix::io::Result;
use rustix::mm::{MapFlags, ProtFlags};

use crate::device::Location;

/// The address of a mapping, owned by one mapping.
#[derive(Debug)]
pub(in crate::device) struct Address(pub(in crate::device) NonNull<u8>);

// SAFETY: a mapping belongs to the process, not to the thread that made it.
unsafe impl Send for Address {}
// SAFETY: the address itself is never changed; what may touch the memory is settled by the guards.
unsafe impl Sync for Address {}

/// Maps `bytes` bytes of `file` from `offset`, shared, readable and writable.
#[cfg(target_os = "linux")]
pub(in crate::device) fn map_file(
    file: impl std::os::fd::AsFd,
    offset: u64,
    bytes: usize,
) -> Result<Address> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with a null hint and without `MAP_FIXED` the kernel picks free address space, so no
    // memory in use is touched (mmap(2)).
    let address = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            bytes,
            access,
            MapFlags::SHARED,
            file,
            offset,
        )
    }?;
    NonNull::new(address.cast())
        .map(Address)
        .ok_or(rustix::io::Errno::INVAL)
}

/// Reserves `bytes` bytes of address space that cannot be touched and take no memory.
#[cfg(target_os = "linux")]
pub(in crate::device) fn reserve(bytes: usize) -> Result<Address> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: with a null hint and without `MAP_FIXED` the kernel picks free address space.
    let address = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), flags)
    }?;
    NonNull::new(address.cast())
        .map(Address)
        .ok_or(rustix::io::Errno::INVAL)
}

/// Maps `bytes` bytes of `file` from `offset` at an address, in place of what was there.
///
/// # Safety
///
/// The addresses are part of a reservation of the caller's, and nothing uses them.
#[cfg(target_os = "linux")]
pub(in crate::device) unsafe fn map_file_at(
    address: NonNull<u8>,
    file: &std::os::fd::OwnedFd,
    offset: u64,
    bytes: usize,
) -> Result<()> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: `MAP_FIXED` replaces only what the caller owns.
    unsafe { rustix::mm::mmap(address.as_ptr().cast(), bytes, access, flags, file, offset) }?;
    Ok(())
}

/// Makes addresses a mere reservation again.
///
/// # Safety
///
/// As for [`map_file_at`].
#[cfg(target_os = "linux")]
pub(in crate::device) unsafe fn reserve_at(address: NonNull<u8>, bytes: usize) -> Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: `MAP_FIXED` replaces only what the caller owns.
    unsafe {
        rustix::mm::mmap_anonymous(address.as_ptr().cast(), bytes, ProtFlags::empty(), flags)
    }?;
    Ok(())
}

/// Says on which nodes the pages of a mapping are to be when they are first touched (mbind(2)); `mode` is
/// one of `libc::MPOL_*`, `nodes` has a bit for each node.
///
/// # Safety
///
/// The addresses are the caller's.
#[cfg(target_os = "linux")]
pub(in crate::device) unsafe fn bind(
    address: NonNull<u8>,
    bytes: usize,
    mode: libc::c_int,
    nodes: &[u64],
) -> std::io::Result<()> {
    // The kernel takes one bit less than it is told.
    let bits = nodes.len() * 64 + 1;
    // SAFETY: mbind reads `nodes`, of at least as many bits, and changes no memory's contents.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            address.as_ptr(),
            bytes,
            mode,
            nodes.as_ptr(),
            bits,
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Maps `bytes` bytes of private anonymous memory, readable and writable.
pub(in crate::device) fn map_anonymous(bytes: usize) -> Result<Address> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: with a null hint and without `MAP_FIXED` the kernel picks free address space.
    let address = unsafe {
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, MapFlags::PRIVATE)
    }?;
    NonNull::new(address.cast())
        .map(Address)
        .ok_or(rustix::io::Errno::INVAL)
}

/// As [`map_anonymous`], at a multiple of `alignment`, a power of two of at least a page.
#[cfg(all(target_os = "linux", feature = "cuda"))]
pub(in crate::device) fn map_anonymous_aligned(bytes: usize, alignment: usize) -> Result<Address> {
    let longer = bytes
        .checked_add(alignment)
        .ok_or(rustix::io::Errno::NOMEM)?;
    let Address(start) = map_anonymous(longer)?;
    let head = start.as_ptr().addr().wrapping_neg() & (alignment - 1);
    // SAFETY: `head` is less than `alignment`, so the part lies inside the mapping.
    let part = unsafe { start.add(head) };
    // SAFETY: as above.
    let end = unsafe { part.add(bytes) };
    for (at, surplus) in [(start, head), (end, alignment - head)] {
        if surplus > 0 {
            // SAFETY: the surplus is part of the mapping just made. What stays on failure is address
            // space without pages.
            let _stays = unsafe { rustix::mm::munmap(at.as_ptr().cast(), surplus) };
        }
    }
    Ok(Address(part))
}

/// Asks for large pages under a mapping made above.
#[cfg(all(target_os = "linux", feature = "cuda"))]
pub(in crate::device) fn prefer_large_pages(address: &Address, bytes: usize) -> Result<()> {
    let advice = rustix::mm::Advice::LinuxHugepage;
    // SAFETY: the advice changes no contents.
    unsafe { rustix::mm::madvise(address.0.as_ptr().cast(), bytes, advice) }
}

/// Unmaps a mapping made above.
///
/// # Safety
///
/// `bytes` is its length, and nothing uses the memory any more.
pub(in crate::device) unsafe fn unmap(address: &Address, bytes: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::munmap(address.0.as_ptr().cast(), bytes) }
}

/// One piece of work of a host queue, to run on another thread.
#[derive(Debug)]
pub(in crate::device) struct Transfer(Kind);

#[derive(Debug)]
enum Kind {
    Copy {
        source: NonNull<u8>,
        destination: NonNull<u8>,
        bytes: usize,
    },
    Fill {
        destination: NonNull<u8>,
        bytes: usize,
        value: u8,
    },
}

// SAFETY: the contract of `DeviceQueue::copy` and `fill` keeps the ranges valid and unraced until
// the work is done, on whichever thread it runs.
unsafe impl Send for Transfer {}

impl Transfer {
    /// # Safety
    ///
    /// As for [`DeviceQueue::copy`](crate::device::DeviceQueue::copy).
    pub(in crate::device) unsafe fn copy(
        source: Location,
        destination: Location,
        bytes: usize,
    ) -> Option<Self> {
        Some(Self(Kind::Copy {
            source: source.host?,
            destination: destination.host?,
            bytes,
        }))
    }

    /// # Safety
    ///
    /// As for [`DeviceQueue::fill`](crate::device::DeviceQueue::fill).
    pub(in crate::device) unsafe fn fill(
        destination: Location,
        bytes: usize,
        value: u8,
    ) -> Option<Self> {
        Some(Self(Kind::Fill {
            destination: destination.host?,
            bytes,
            value,
        }))
    }

    pub(in crate::device) fn run(self) {
        match self.0 {
            Kind::Copy {
                source,
                destination,
                bytes,
            } => {
                // SAFETY: whoever made the value promised valid, disjoint ranges until now.
                unsafe { destination.copy_from_nonoverlapping(source, bytes) }
            }
            Kind::Fill {
                destination,
                bytes,
                value,
            } => {
                // SAFETY: whoever made the value promised a valid range until now.
                unsafe { destination.write_bytes(value, bytes) }
            }
        }
    }
}
