//! Memory shared with others: what a device offers, and the calls that take promises.

#![allow(unsafe_code)]

use weldpool::device::Exposure;
use weldpool::{Allocator, Buffer, Device, Export, Exported, Result, StorageMode};

/// In which form and of which storage a device exports memory, if it does; such as one process can export and
/// import.
#[must_use]
pub fn offered(device: &dyn Device) -> Option<(Export, StorageMode)> {
    let offers = |export, storage| {
        let exposure = Exposure {
            export: Some(export),
            ..Exposure::default()
        };
        device.offers(exposure, storage)
    };
    let storage = [StorageMode::Private, StorageMode::Shared];
    [Export::FileDescriptor, Export::LegacyIpc]
        .into_iter()
        .flat_map(|form| storage.map(|storage| (form, storage)))
        .find(|&(form, storage)| offers(form, storage))
}

/// Exports a buffer. Whoever imports it takes turns with the caller, and a legacy handle's buffer is freed last.
///
/// # Errors
///
/// As for [`Buffer::export`].
pub fn export(buffer: &Buffer) -> Result<Exported> {
    // SAFETY: as described above.
    unsafe { buffer.export() }
}

/// Imports a buffer, in turns with whoever else has it. What is no exported buffer is refused.
///
/// # Errors
///
/// As for [`Allocator::import`].
pub fn import(allocator: &Allocator, exported: &Exported) -> Result<Buffer> {
    // SAFETY: as described above.
    unsafe { allocator.import(exported, "imported") }
}
