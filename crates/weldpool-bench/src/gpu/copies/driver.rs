//! The driver's own copies, on streams of the first device's primary context.

#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::ptr::NonNull;

use cudarc::driver::sys::{self, CUresult};

use crate::error::{Error, ErrorKind, Result};

/// Counts the words of a range that differ from a value, so all of the range is read.
const KERNELS: &str = include_str!("../../../../weldpool/tests/cuda/kernels.ptx");

/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP`, as Weldpool registers.
const PORTABLE_MAPPED: u32 = 3;

fn check(call: &str, result: CUresult) -> Result<()> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        error => Err(Error::new(
            ErrorKind::Environment,
            format!("{call}: {error:?}"),
        )),
    }
}

/// A stream of a device, and a kernel that reads.
#[derive(Debug)]
pub(super) struct Driver {
    context: sys::CUcontext,
    stream: sys::CUstream,
    reads: sys::CUfunction,
    wrong: u64,
}

/// Host memory of the driver's, or device memory.
#[derive(Debug)]
pub(super) struct Memory {
    address: u64,
    bytes: usize,
    pinned: bool,
}

impl Driver {
    pub(super) fn open(ordinal: i32) -> Result<Self> {
        let mut driver = Self {
            context: std::ptr::null_mut(),
            stream: std::ptr::null_mut(),
            reads: std::ptr::null_mut(),
            wrong: 0,
        };
        let text = CString::new(KERNELS)
            .map_err(|error| Error::caused(ErrorKind::Environment, "the kernels", error))?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the places are writable and the texts end with zero, here and below; nothing made here is ever
        // destroyed.
        check("cuInit", unsafe { sys::cuInit(0) })?;
        // SAFETY: as above.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut driver.context, ordinal)
        })?;
        driver.make_current()?;
        // SAFETY: as above.
        check("cuStreamCreate", unsafe {
            sys::cuStreamCreate(&raw mut driver.stream, NON_BLOCKING)
        })?;
        // SAFETY: as above.
        check("cuModuleLoadData", unsafe {
            sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast())
        })?;
        // SAFETY: as above.
        check("cuModuleGetFunction", unsafe {
            sys::cuModuleGetFunction(&raw mut driver.reads, module, c"count_wrong".as_ptr())
        })?;
        // SAFETY: as above.
        check("cuMemAlloc", unsafe {
            sys::cuMemAlloc_v2(&raw mut driver.wrong, 4)
        })?;
        Ok(driver)
    }

    pub(super) fn make_current(&self) -> Result<()> {
        // SAFETY: the context is retained.
        check("cuCtxSetCurrent", unsafe {
            sys::cuCtxSetCurrent(self.context)
        })
    }

    pub(super) fn context(&self) -> sys::CUcontext {
        self.context
    }

    /// Pinned host memory, every page of it written.
    pub(super) fn pinned(&self, bytes: usize) -> Result<Memory> {
        self.make_current()?;
        let mut address: *mut c_void = std::ptr::null_mut();
        // SAFETY: the place is writable.
        let made = unsafe { sys::cuMemAllocHost_v2(&raw mut address, bytes) };
        check("cuMemAllocHost", made)?;
        // SAFETY: the driver just gave so many bytes.
        unsafe { address.cast::<u8>().write_bytes(1, bytes) };
        Ok(Memory {
            address: address.expose_provenance() as u64,
            bytes,
            pinned: true,
        })
    }

    pub(super) fn device(&self, bytes: usize) -> Result<Memory> {
        self.make_current()?;
        let mut address = 0;
        // SAFETY: the place is writable.
        let made = unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes) };
        check("cuMemAlloc", made)?;
        Ok(Memory {
            address,
            bytes,
            pinned: false,
        })
    }

    /// Has the driver lock the pages of memory.
    ///
    /// # Safety
    ///
    /// It stays mapped until it is given to [`unregister`](Self::unregister).
    pub(super) unsafe fn register(&self, memory: &mut [u8]) -> Result<()> {
        let address = memory.as_mut_ptr().cast();
        // SAFETY: the caller's promise.
        check("cuMemHostRegister", unsafe {
            sys::cuMemHostRegister_v2(address, memory.len(), PORTABLE_MAPPED)
        })
    }

    /// Ends [`register`](Self::register).
    ///
    /// # Safety
    ///
    /// No device uses the memory any more.
    pub(super) unsafe fn unregister(&self, memory: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's promise.
        check("cuMemHostUnregister", unsafe {
            sys::cuMemHostUnregister(memory.as_mut_ptr().cast())
        })
    }

    /// Copies and waits; addresses are those of one address space.
    ///
    /// # Safety
    ///
    /// Both are valid for so many bytes, and nobody else uses them meanwhile.
    pub(super) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        let copied = unsafe { sys::cuMemcpyAsync(to, from, bytes, self.stream) };
        check("cuMemcpyAsync", copied)?;
        self.wait()
    }

    /// Copies from one device to another and waits.
    ///
    /// # Safety
    ///
    /// As for [`copy`](Self::copy).
    pub(super) unsafe fn copy_peer(
        &self,
        (to, to_context): (u64, sys::CUcontext),
        from: u64,
        bytes: usize,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        let copied = unsafe {
            sys::cuMemcpyPeerAsync(to, to_context, from, self.context, bytes, self.stream)
        };
        check("cuMemcpyPeerAsync", copied)?;
        self.wait()
    }

    /// Lets this device's kernels and copies reach the memory of another.
    pub(super) fn enable_peer(&self, peer: &Self) -> Result<()> {
        self.make_current()?;
        // SAFETY: the context is retained.
        let enabled = unsafe { sys::cuCtxEnablePeerAccess(peer.context, 0) };
        match enabled {
            CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(()),
            other => check("cuCtxEnablePeerAccess", other),
        }
    }

    /// Has a kernel read all of a range, and waits.
    ///
    /// # Safety
    ///
    /// As for [`copy`](Self::copy).
    pub(super) unsafe fn read(&self, at: u64, bytes: usize) -> Result<()> {
        let (mut at, mut words, mut value, mut wrong) = (at, bytes as u64 / 4, 0_u32, self.wrong);
        let mut arguments: [*mut c_void; 4] = [
            (&raw mut at).cast(),
            (&raw mut words).cast(),
            (&raw mut value).cast(),
            (&raw mut wrong).cast(),
        ];
        // SAFETY: the arguments are those of the kernel; the range is the caller's promise.
        let launched = unsafe {
            sys::cuLaunchKernel(
                self.reads,
                1056,
                1,
                1,
                256,
                1,
                1,
                0,
                self.stream,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        check("cuLaunchKernel", launched)?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        check("cuStreamSynchronize", unsafe {
            sys::cuStreamSynchronize(self.stream)
        })
    }
}

impl Memory {
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let address = usize::try_from(self.address).unwrap_or_default();
        let _freed = match self.pinned {
            // SAFETY: the memory is this value's, and every copy was waited for.
            true => unsafe { sys::cuMemFreeHost(std::ptr::with_exposed_provenance_mut(address)) },
            // SAFETY: as above.
            false => unsafe { sys::cuMemFree_v2(self.address) },
        };
    }
}

/// The number of a slice's address.
pub(super) fn address_of(bytes: &[u8]) -> u64 {
    NonNull::from(bytes)
        .cast::<u8>()
        .as_ptr()
        .expose_provenance() as u64
}
