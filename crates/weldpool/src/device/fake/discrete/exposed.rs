//! Memory of a discrete fake that others reach: other processes, owners in this one, and peers.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use super::GRANULARITY;
use super::memory::Memory;
use crate::device::fake::call::Call;
#[cfg(target_os = "linux")]
use crate::device::fake::capacity::Capacity;
use crate::device::fake::store::{State, Store};
use crate::device::fake::violation::{Rule, Violation};
#[cfg(target_os = "linux")]
use crate::device::mapping::SealedMapping;
use crate::device::mapping::failed;
use crate::device::{Exposure, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{Export, Exported, ExportedHandle};
use crate::sync::{Arc, Mutex};

/// What a legacy handle of a fake begins with.
const MAGIC: [u8; 8] = *b"fakemem\0";

/// The memory behind legacy handles, by their numbers: what a driver keeps for all processes is known in this
/// one alone.
static LEGACY: Mutex<Legacy> = Mutex::new(Legacy {
    objects: BTreeMap::new(),
    next: 0,
});

struct Legacy {
    objects: BTreeMap<u64, (u32, Arc<Store>)>,
    next: u64,
}

impl Legacy {
    /// Gives memory of a device a number.
    fn add(&mut self, ordinal: u32, store: &Arc<Store>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.objects.insert(number, (ordinal, Arc::clone(store)));
        number
    }
}

/// A segment that others reach, or that others made.
#[derive(Debug)]
pub(super) struct ExposedSegment {
    memory: Arc<Memory>,
    store: Arc<Store>,
    address: u64,
    bytes: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A handle with a mapping of its own; of a file that others may map too.
    File(OwnedFd),
    /// The same, for peers alone.
    Mapped,
    /// As `cudaMalloc` gives it, with the number of its legacy handle.
    Legacy(u64),
    /// Made by somebody else.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "memory files are Linux's")
    )]
    ImportedFile,
    /// Made by somebody else, who has to keep it, with the number of its handle.
    ImportedLegacy(u64),
}

impl ExposedSegment {
    /// A segment for others to reach, which the device offers.
    pub(super) fn create(memory: &Arc<Memory>, bytes: usize, exposure: Exposure) -> Result<Self> {
        let (store, file) = match exposure.export {
            #[cfg(target_os = "linux")]
            Some(Export::FileDescriptor) => {
                let mapping = SealedMapping::create(bytes)?;
                let file = mapping.descriptor()?;
                (memory.new_private_over(mapping)?, Some(file))
            }
            _ => (memory.new_private(bytes)?, None),
        };
        let address = map(memory, &store, exposure.peers)?;
        let kind = match file {
            Some(file) => Kind::File(file),
            None if exposure.export == Some(Export::LegacyIpc) => {
                Kind::Legacy(LEGACY.lock().add(memory.ordinal(), &store))
            }
            None => Kind::Mapped,
        };
        let segment = Self {
            memory: Arc::clone(memory),
            store,
            address,
            bytes,
            kind,
        };
        let costs = memory.costs();
        let length = bytes as u64;
        let peers = if exposure.peers { memory.peers() } else { 0 };
        memory.ledger().charge(match segment.kind {
            Kind::Legacy(_) => costs.malloc.ns(length),
            _ => {
                costs.create.ns(length)
                    + costs.reserve.ns(length)
                    + costs.map.ns(length)
                    + costs.access.ns(length) * (1 + peers)
            }
        });
        Ok(segment)
    }

    /// A segment that somebody else made.
    pub(super) fn import(memory: &Arc<Memory>, exported: &Exported) -> Result<Self> {
        let bytes = exported.object_bytes();
        let segment = match exported.handle() {
            ExportedHandle::LegacyIpc(handle) => Self::open_legacy(memory, handle, bytes),
            ExportedHandle::FileDescriptor(file) => Self::open_file(memory, file, bytes),
        };
        segment.inspect(|_| memory.ledger().charge(memory.costs().import_ns))
    }

    fn open_legacy(memory: &Arc<Memory>, handle: &[u8; 64], bytes: usize) -> Result<Self> {
        let (number, store) = find_legacy(memory.ordinal(), handle, bytes)?;
        let map = || map(memory, &store, false);
        Ok(Self {
            address: memory.opened().open(number, map)?,
            memory: Arc::clone(memory),
            store,
            bytes,
            kind: Kind::ImportedLegacy(number),
        })
    }

    #[cfg(target_os = "linux")]
    fn open_file(memory: &Arc<Memory>, file: &OwnedFd, bytes: usize) -> Result<Self> {
        // What the descriptor is comes first.
        let mapping = SealedMapping::import(file.as_fd(), bytes)?;
        if !bytes.is_multiple_of(GRANULARITY) {
            return Err(wrong(format!(
                "an object of {bytes} bytes is none of this kind of device; granularity is {GRANULARITY}"
            )));
        }
        // Handles are mapped as a whole.
        let length = rustix::fs::fstat(file)
            .map_err(|error| failed("fstat", error))?
            .st_size;
        if u64::try_from(length) != Ok(bytes as u64) {
            return Err(wrong(format!(
                "an object of {length} bytes, of which {bytes} were claimed"
            )));
        }
        // Counted where it was made.
        let claim = Capacity::claim_none();
        let store = Arc::new(Store::over(mapping, None, claim));
        Ok(Self {
            address: map(memory, &store, false)?,
            memory: Arc::clone(memory),
            store,
            bytes,
            kind: Kind::ImportedFile,
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn open_file(_memory: &Arc<Memory>, _file: &OwnedFd, _bytes: usize) -> Result<Self> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "memory files are Linux's",
        ))
    }
}

/// Maps a store at addresses of its own.
fn map(memory: &Memory, store: &Arc<Store>, peers: bool) -> Result<u64> {
    let address = memory.space().reserve(store.bytes(), GRANULARITY)?;
    let mapped = memory.space().map_exposed(address, store, peers);
    mapped.map_err(|violation| memory.ledger().record(violation))?;
    Ok(address)
}

/// Legacy handles that are open on a device: opened again, one gives the same address (documentation of
/// `cuIpcOpenMemHandle`).
#[derive(Debug, Default)]
pub(super) struct Opened(Mutex<BTreeMap<u64, (u64, usize)>>);

impl Opened {
    /// The address of a handle's memory, mapped by `map` if it is not open yet.
    fn open(&self, number: u64, map: impl FnOnce() -> Result<u64>) -> Result<u64> {
        let mut open = self.0.lock();
        if let Some((address, times)) = open.get_mut(&number) {
            *times += 1;
            return Ok(*address);
        }
        let address = map()?;
        open.insert(number, (address, 1));
        Ok(address)
    }

    /// Whether that was the last time it was open.
    fn close(&self, number: u64) -> bool {
        let mut open = self.0.lock();
        let Some((_, times)) = open.get_mut(&number) else {
            return false;
        };
        *times -= 1;
        let last = *times == 0;
        if last {
            open.remove(&number);
        }
        last
    }
}

/// The memory behind a legacy handle, if it has at least so many bytes.
fn find_legacy(ordinal: u32, handle: &[u8; 64], bytes: usize) -> Result<(u64, Arc<Store>)> {
    let number = |at: usize| {
        let bytes = handle.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    let number = number(8).filter(|_| handle.starts_with(&MAGIC) && handle[16..] == [0; 48]);
    let number =
        number.ok_or_else(|| wrong("these 64 bytes are no handle of a fake device".into()))?;
    let legacy = LEGACY.lock();
    let (owner, store) = legacy.objects.get(&number).ok_or_else(|| {
        wrong(format!(
            "the memory behind handle {number} is gone, or is of another process"
        ))
    })?;
    if *owner != ordinal {
        return Err(wrong(format!(
            "the memory behind handle {number} is of device {owner}"
        )));
    }
    if bytes > store.bytes() {
        return Err(wrong(format!(
            "the memory behind handle {number} has {} bytes, and {bytes} were claimed",
            store.bytes()
        )));
    }
    Ok((number, Arc::clone(store)))
}

fn wrong(text: String) -> Error {
    Error::with_message(ErrorKind::InvalidRequest, text)
}

impl Drop for ExposedSegment {
    fn drop(&mut self) {
        let memory = &self.memory;
        let mapped = self.store.bytes();
        let last = match self.kind {
            Kind::ImportedLegacy(number) => memory.opened().close(number),
            _ => true,
        };
        if last {
            let _mapped = memory.space().give_back(self.address, mapped);
        }
        let costs = memory.costs();
        let length = mapped as u64;
        let unmapped = costs.unmap.ns(length) + costs.reserve.ns(length);
        let cost = match self.kind {
            Kind::File(_) | Kind::Mapped | Kind::ImportedFile => {
                unmapped + costs.release.ns(length)
            }
            Kind::ImportedLegacy(_) => costs.import_ns,
            Kind::Legacy(number) => {
                LEGACY.lock().objects.remove(&number);
                self.store.set_state(State::Released);
                if Arc::strong_count(&self.store) > 1 {
                    memory.ledger().record(Violation {
                        rule: Rule::KeptForImporters,
                        text: format!(
                            "the {mapped} bytes behind handle {number} were freed while others had them open"
                        ),
                    });
                }
                costs.malloc.ns(length)
            }
        };
        memory.ledger().charge(cost);
    }
}

// SAFETY: there is no host address to be valid, and length and device address are constant.
unsafe impl Segment for ExposedSegment {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn host_address(&self) -> Option<NonNull<u8>> {
        None
    }

    fn device_address(&self) -> Option<u64> {
        Some(self.address)
    }

    fn export(&self) -> Result<ExportedHandle> {
        let ledger = self.memory.ledger();
        ledger.enter(Call::Export)?;
        let handle = match &self.kind {
            Kind::File(file) => {
                let file = rustix::io::fcntl_dupfd_cloexec(file, 0);
                let file = file.map_err(|error| failed("fcntl", error))?;
                ExportedHandle::FileDescriptor(file)
            }
            Kind::Legacy(number) => {
                let mut bytes = [0; 64];
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..16].copy_from_slice(&number.to_le_bytes());
                ExportedHandle::LegacyIpc(bytes)
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "the memory was not made to be exported by this device",
                ));
            }
        };
        ledger.charge(self.memory.costs().export_ns);
        Ok(handle)
    }
}
