//! The functions for memory that other processes and other devices reach.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use cudarc::driver::sys::{CUipcMemHandle_st, CUmemAllocationProp, CUmemLocationType_enum};

use super::{Driver, Handle, Place, Result};
use crate::device::cuda::status::Status;

/// `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`.
const FILE_DESCRIPTOR: c_uint = 1;
/// `CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS`, the only flag there is.
const LAZY_PEER_ACCESS: c_uint = 1;
/// Words of the structure in which the driver describes a handle.
const PROPERTY_WORDS: usize = size_of::<CUmemAllocationProp>() / size_of::<u32>();
/// The word of it that says in what kind of place memory lies; the next one has the number.
const LOCATION_WORD: usize = offset_of!(CUmemAllocationProp, location) / size_of::<u32>();

/// That structure as numbers: a driver may know places that the enumeration does not have.
#[repr(C, align(8))]
struct Properties([u32; PROPERTY_WORDS]);

impl Driver {
    /// A descriptor that stands for a handle created to be exported, in whichever process.
    pub(in crate::device::cuda) fn export_descriptor(&self, handle: u64) -> Result<OwnedFd> {
        // SAFETY: for this kind of handle the driver writes an `int` (cuda.h).
        let number: c_int = Self::written(|at: *mut c_int| unsafe {
            (self.functions.cuMemExportToShareableHandle)(at.cast(), handle, FILE_DESCRIPTOR, 0)
        })?;
        // SAFETY: the driver made the descriptor for the caller, who owns it from now on.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// A handle for memory that a descriptor stands for.
    pub(in crate::device::cuda) fn import_descriptor(&self, file: BorrowedFd<'_>) -> Result<u64> {
        let number = usize::try_from(file.as_raw_fd()).unwrap_or(usize::MAX);
        let number: *mut c_void = std::ptr::without_provenance_mut(number);
        // SAFETY: the place is writable; the descriptor is passed in place of a pointer (cuda.h), and the
        // driver looks at what it is of.
        Self::written(|at| unsafe {
            (self.functions.cuMemImportFromShareableHandle)(at, number, FILE_DESCRIPTOR)
        })
    }

    /// Where the memory of a handle lies, if that is a kind of place known here.
    pub(in crate::device::cuda) fn place_of(&self, handle: u64) -> Result<Option<Place>> {
        // SAFETY: the place is writable, as long as the structure and aligned as it is.
        let Properties(words) = Self::written(|at: *mut Properties| unsafe {
            (self.functions.cuMemGetAllocationPropertiesFromHandle)(at.cast(), handle)
        })?;
        let number = words[LOCATION_WORD + 1].cast_signed();
        let is = |kind: CUmemLocationType_enum| words[LOCATION_WORD] == kind as u32;
        Ok(if is(CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_DEVICE) {
            Some(Place::Device(number))
        } else if is(CUmemLocationType_enum::CU_MEM_LOCATION_TYPE_HOST_NUMA) {
            Some(Place::Host(number))
        } else {
            None
        })
    }

    /// The legacy handle of an allocation, by its first address.
    pub(in crate::device::cuda) fn legacy_handle(&self, address: u64) -> Result<[u8; 64]> {
        // SAFETY: the place is writable; the driver looks the address up.
        let handle: CUipcMemHandle_st =
            Self::written(|at| unsafe { (self.functions.cuIpcGetMemHandle)(at, address) })?;
        Ok(handle.reserved.map(|byte| byte.cast_unsigned()))
    }

    /// Opens a legacy handle; the address of its allocation here.
    pub(in crate::device::cuda) fn open_legacy(&self, handle: &[u8; 64]) -> Result<u64> {
        let handle = CUipcMemHandle_st {
            reserved: handle.map(|byte| byte as c_char),
        };
        // SAFETY: the place is writable; the driver checks the handle.
        Self::written(|at| unsafe {
            (self.functions.cuIpcOpenMemHandle_v2)(at, handle, LAZY_PEER_ACCESS)
        })
    }

    /// # Safety
    ///
    /// The address is one that [`open_legacy`](Self::open_legacy) gave, and nothing uses it any more.
    pub(in crate::device::cuda) unsafe fn close_legacy(&self, address: u64) -> Result<()> {
        // SAFETY: the caller's promise.
        Status::check(unsafe { (self.functions.cuIpcCloseMemHandle)(address) })
    }

    /// The first address and the length of the allocation around an address.
    pub(in crate::device::cuda) fn allocation_around(&self, address: u64) -> Result<(u64, usize)> {
        let mut bytes = 0;
        // SAFETY: both places are writable; the driver looks the address up.
        let start = Self::written(|at| unsafe {
            (self.functions.cuMemGetAddressRange_v2)(at, &raw mut bytes, address)
        })?;
        Ok((start, bytes))
    }

    /// Lets the current context reach all allocations of another device's context; nothing if it does.
    pub(in crate::device::cuda) fn enable_peer_access(&self, context: Handle) -> Result<()> {
        // SAFETY: the context is retained by the caller.
        match Status::check(unsafe { (self.functions.cuCtxEnablePeerAccess)(context.0, 0) }) {
            Err(Status::PEER_ACCESS_ALREADY_ENABLED) => Ok(()),
            enabled => enabled,
        }
    }
}
