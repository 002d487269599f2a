//! Storage modes as numbers.

#![forbid(unsafe_code)]

use memory::StorageMode;

use crate::failure::{ErrorObject, Result};

/// One memory that host and device both touch. The default.
pub const WELDPOOL_STORAGE_SHARED: u32 = 0;
/// Memory that the driver moves to whoever touches it.
pub const WELDPOOL_STORAGE_MANAGED: u32 = 1;
/// Memory that only the device touches; access by the host is refused.
pub const WELDPOOL_STORAGE_PRIVATE: u32 = 2;

pub(crate) fn mode(number: u32) -> Result<StorageMode> {
    match number {
        WELDPOOL_STORAGE_SHARED => Ok(StorageMode::Shared),
        WELDPOOL_STORAGE_MANAGED => Ok(StorageMode::Managed),
        WELDPOOL_STORAGE_PRIVATE => Ok(StorageMode::Private),
        _ => Err(ErrorObject::argument(format!(
            "{number} is no storage mode; see WELDPOOL_STORAGE_SHARED"
        ))),
    }
}

pub(crate) const fn number(mode: StorageMode) -> u32 {
    match mode {
        StorageMode::Shared => WELDPOOL_STORAGE_SHARED,
        StorageMode::Managed => WELDPOOL_STORAGE_MANAGED,
        StorageMode::Private => WELDPOOL_STORAGE_PRIVATE,
    }
}
