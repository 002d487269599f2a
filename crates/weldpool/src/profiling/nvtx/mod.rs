//! Ranges of NVTX, which Nsight Systems and other tools on CUPTI show.
//!
//! NVTX has no library: a tool names its own in the environment, the program opens it, and gives it tables of functions
//! to fill in. So nothing is linked, and without a tool nothing is opened.

mod protocol;

use std::path::Path;

use self::protocol::{Domain, Message};
use super::SlowPath;
use crate::env;
use crate::error::{Error, ErrorKind, Result};

/// The domain of the allocator's ranges in the tool, and the names that the tool was told beforehand.
#[derive(Debug)]
pub(super) struct Ranges {
    domain: Domain,
    names: [Message; SlowPath::ALL.len()],
}

impl Ranges {
    pub(super) const NAME: &'static str = "NVTX";

    pub(super) fn open() -> Result<Self> {
        let library = env::nvtx_injection().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "no tool listens to NVTX: NVTX_INJECTION64_PATH is not set, as it is by Nsight Systems",
            )
        })?;
        protocol::load(Path::new(&library))?;
        let domain = protocol::create_domain(c"weldpool");
        Ok(Self {
            names: SlowPath::ALL.map(|path| protocol::register(domain, path.c_name())),
            domain,
        })
    }

    pub(super) fn begin(&self, path: SlowPath, bytes: u64) -> u64 {
        protocol::push(self.domain, self.names[path as usize], bytes);
        0
    }

    /// A range shows what it began with.
    pub(super) fn end(&self, _path: SlowPath, _token: u64, _bytes: u64) {
        protocol::pop(self.domain);
    }
}
