//! By sysctl(3) and the kernel's counts of pages.

#![forbid(unsafe_code)]

use super::pages::available_bytes;
use crate::device::Budget;
use crate::device::host::darwin;
use crate::error::{Error, ErrorKind, Result};

/// All memory by `hw.memsize`, and what of it could be had. `os_proc_available_memory`, which says that for one process,
/// does not exist on macOS (os/proc.h).
pub(crate) fn budget() -> Result<Budget> {
    let total = darwin::sysctl_number(c"hw.memsize")
        .map_err(|error| Error::system(ErrorKind::System, "sysctl hw.memsize", &error))?;
    // Without the counts the budget is still worth having.
    let pages = darwin::pages()
        .inspect_err(|error| tracing::debug!(%error, "available memory is not known"))
        .ok();
    Ok(Budget {
        total,
        available: pages.map(|pages| available_bytes(total, &pages)),
        limit: None,
    })
}

/// Apple's systems show one node.
pub(crate) fn numa_nodes() -> Vec<u32> {
    vec![0]
}

/// The processor's name, such as `Apple M2 Pro`, or the architecture.
pub(crate) fn processor_name() -> String {
    darwin::sysctl_text(c"machdep.cpu.brand_string")
        .unwrap_or_else(|_| std::env::consts::ARCH.to_owned())
}
