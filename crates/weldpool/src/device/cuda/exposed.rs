//! Memory of a CUDA device that others reach: other processes, and peers.
//!
//! | storage | file descriptor | legacy handle | peers |
//! |---|---|---|---|
//! | `Private` | a handle of its own (`cuMemCreate`), mapped | `cuMemAlloc` | access to the mapping for each peer; with a legacy handle, or without virtual memory, for the whole context |
//! | `Shared` | - | - | pages locked for all contexts (`cuMemHostRegister`) |
//! | `Managed` | - | - | - |

#![allow(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use super::context::Context;
use super::raw::{Driver, Place};
use super::segment::CudaSegment;
use super::virtual_memory::CudaAddresses;
use crate::device::{AddressRange, Exposure, Imported, Physical, Segment, StorageMode};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Export, Exported, ExportedHandle};
use crate::sync::{Arc, OnceLock};

/// What a device can show to others.
#[derive(Debug)]
pub(super) struct Sharing {
    context: Arc<Context>,
    /// Sizes of handles, where there are handles.
    handle_bytes: Option<usize>,
    descriptors: bool,
    /// Numbers of the devices that can reach this one's memory.
    peers: Vec<u32>,
    /// Their contexts, once all of them reach what `cuMemAlloc` gives here.
    let_in: OnceLock<Vec<Arc<Context>>>,
}

impl Sharing {
    pub(super) fn new(
        context: &Arc<Context>,
        handle_bytes: Option<usize>,
        descriptors: bool,
        peers: Vec<u32>,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            handle_bytes,
            descriptors: descriptors && handle_bytes.is_some(),
            peers,
            let_in: OnceLock::new(),
        }
    }

    pub(super) fn offers(&self, exposure: Exposure, storage: StorageMode) -> bool {
        let Exposure { export, peers } = exposure;
        if peers && self.peers.is_empty() {
            return false;
        }
        match (storage, export) {
            (StorageMode::Private, Some(Export::FileDescriptor)) => self.descriptors,
            (StorageMode::Private, Some(Export::LegacyIpc)) => true,
            (StorageMode::Private | StorageMode::Shared, None) => peers,
            (StorageMode::Shared | StorageMode::Managed, _) => false,
        }
    }

    pub(super) fn create(
        &self,
        bytes: usize,
        storage: StorageMode,
        exposure: Exposure,
    ) -> Result<Box<dyn Segment>> {
        if !self.offers(exposure, storage) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the device has no such memory that others could reach",
            ));
        }
        if storage == StorageMode::Shared {
            return Ok(Box::new(CudaSegment::pinned(&self.context, bytes)?));
        }
        let plain = exposure.export == Some(Export::LegacyIpc) || self.handle_bytes.is_none();
        if !plain {
            let mut accessors = vec![self.place()];
            if exposure.peers {
                accessors.append(&mut self.places_of_peers()?);
            }
            let exportable = exposure.export.is_some();
            let create =
                |driver: &'static Driver| driver.create_physical(self.place(), bytes, exportable);
            let handle = self.context.call("cuMemCreate", create)?;
            let segment = MappedSegment::new(&self.context, handle, bytes, exportable);
            return Ok(Box::new(segment.mapped(&accessors)?));
        }
        let segment = CudaSegment::private(&self.context, bytes)?;
        if exposure.peers {
            self.let_peers_in()?;
        }
        Ok(Box::new(segment))
    }

    pub(super) fn import(&self, exported: &Exported) -> Result<Imported> {
        let bytes = exported.object_bytes();
        let segment: Box<dyn Segment> = match exported.handle() {
            ExportedHandle::FileDescriptor(file) => Box::new(self.import_descriptor(file, bytes)?),
            ExportedHandle::LegacyIpc(handle) => {
                let open = |driver: &'static Driver| driver.open_legacy(handle);
                let address = self.context.call("cuIpcOpenMemHandle", open);
                let address = address.map_err(of_no_object)?;
                Box::new(CudaSegment::opened(&self.context, address, bytes)?)
            }
        };
        Ok(Imported {
            segment,
            storage: StorageMode::Private,
        })
    }

    fn import_descriptor(&self, file: &OwnedFd, bytes: usize) -> Result<MappedSegment> {
        let granularity = self.handle_bytes.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the device has no virtual memory to map an imported handle with",
            )
        })?;
        if !bytes.is_multiple_of(granularity) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!(
                    "an object of {bytes} bytes is none of a device whose handles are multiples of {granularity}"
                ),
            ));
        }
        let import = |driver: &'static Driver| driver.import_descriptor(file.as_fd());
        let handle = self.context.call("cuMemImportFromShareableHandle", import);
        let segment =
            MappedSegment::new(&self.context, handle.map_err(of_no_object)?, bytes, false);
        let place = |driver: &'static Driver| driver.place_of(segment.handle);
        let place = self
            .context
            .call("cuMemGetAllocationPropertiesFromHandle", place)?;
        if place != Some(self.place()) {
            return Err(Error::with_message(
                ErrorKind::InvalidRequest,
                format!("the object lies elsewhere than on this device: {place:?}"),
            ));
        }
        // The driver maps a handle as a whole: another length it calls not supported.
        let mapped = segment.mapped(&[self.place()]);
        mapped.map_err(|error| match error.kind() {
            ErrorKind::Unsupported => Error::with_message(
                ErrorKind::InvalidRequest,
                format!("{error}; the object is longer or shorter than it was said to be"),
            ),
            _ => error,
        })
    }

    fn place(&self) -> Place {
        Place::Device(self.context.device())
    }

    fn places_of_peers(&self) -> Result<Vec<Place>> {
        let place = |&peer: &u32| self.context.number_of(peer).map(Place::Device);
        self.peers.iter().map(place).collect()
    }

    /// Lets the contexts of all peers reach what `cuMemAlloc` gives here, from now on.
    fn let_peers_in(&self) -> Result<()> {
        if self.let_in.get().is_some() {
            return Ok(());
        }
        let contexts = self.peers.iter().map(|&peer| {
            let context = Context::retain(peer)?;
            self.context.let_in(&context)?;
            Ok(context)
        });
        let contexts = contexts.collect::<Result<Vec<_>>>()?;
        // Another thread may have been sooner.
        let _same = self.let_in.set(contexts);
        Ok(())
    }
}

/// What the driver says of a handle that it does not know varies.
fn of_no_object(error: Error) -> Error {
    match error.kind() {
        ErrorKind::System => Error::with_message(
            ErrorKind::InvalidRequest,
            format!("{error}; the object is gone, or this process may not open it"),
        ),
        _ => error,
    }
}

/// A handle with a mapping of its own.
#[derive(Debug)]
pub(super) struct MappedSegment {
    context: Arc<Context>,
    handle: u64,
    /// The handle is not ours any more; the memory goes when it is unmapped.
    released: bool,
    range: Option<CudaAddresses>,
    bytes: usize,
    exportable: bool,
}

impl MappedSegment {
    /// Takes over a handle.
    fn new(context: &Arc<Context>, handle: u64, bytes: usize, exportable: bool) -> Self {
        Self {
            context: Arc::clone(context),
            handle,
            released: false,
            range: None,
            bytes,
            exportable,
        }
    }

    /// Maps it for these places; on an error nothing is left of it.
    fn mapped(mut self, accessors: &[Place]) -> Result<Self> {
        let range = CudaAddresses::reserve(&self.context, self.bytes, accessors.into(), false)?;
        // SAFETY: the addresses were just reserved, and the memory is mapped nowhere else here.
        unsafe { range.map(0, Physical::new(self.handle), self.bytes) }?;
        range.allow_access(0, self.bytes)?;
        self.range = Some(range);
        Ok(self)
    }

    /// Returns the memory; on an error it is still there.
    pub(super) fn give_back(&mut self) -> Result<()> {
        if !self.released {
            // Mapped memory stays until it is unmapped (cuMemRelease), so a failure behind this changes nothing.
            // SAFETY: the handle is this segment's.
            let release = |driver: &'static Driver| unsafe { driver.release_physical(self.handle) };
            self.context.give_back("cuMemRelease", release)?;
            self.released = true;
        }
        if let Some(range) = &self.range {
            // SAFETY: nobody uses the addresses of a segment that is returned.
            unsafe { range.unmap(0, self.bytes) }?;
            self.range = None;
        }
        Ok(())
    }
}

impl Drop for MappedSegment {
    fn drop(&mut self) {
        if let Err(error) = self.give_back() {
            tracing::error!(%error, bytes = self.bytes, "a segment stays");
        }
    }
}

// SAFETY: there is no host address to be valid; length and device address are constant for as long as anybody
// but `give_back` has the value.
unsafe impl Segment for MappedSegment {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device_address(&self) -> Option<u64> {
        self.range.as_ref()?.device_address()
    }

    fn export(&self) -> Result<ExportedHandle> {
        if !self.exportable || self.released {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the handle was not made to be exported by this process",
            ));
        }
        let export = |driver: &'static Driver| driver.export_descriptor(self.handle);
        let file = self.context.call("cuMemExportToShareableHandle", export)?;
        // The driver does not promise it.
        if let Err(error) = rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC) {
            tracing::warn!(%error, "programs that this process starts inherit an exported descriptor");
        }
        Ok(ExportedHandle::FileDescriptor(file))
    }
}
