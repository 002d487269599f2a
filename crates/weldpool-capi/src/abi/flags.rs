//! Flags: bits that are added up.

#![forbid(unsafe_code)]

use crate::failure::{ErrorObject, Result};

/// Refuses bits that are not among those `known`.
pub(crate) fn check(flags: u32, known: u32, whose: &str) -> Result<()> {
    match flags & !known {
        0 => Ok(()),
        unknown => Err(ErrorObject::argument(format!(
            "flags of {whose} are {flags:#x}, of which {unknown:#x} are not known"
        ))),
    }
}
