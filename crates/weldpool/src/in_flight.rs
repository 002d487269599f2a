//! The device work that still uses a buffer.

use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::queue::{Fence, QueueId};
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::wait::{Wait, left_out};

/// What work does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// One use by submitted work, over when its fence has passed.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) fence: Fence,
    pub(crate) access: Access,
}

impl Use {
    /// Work on a lost device will not run any more, so it counts as over. Where the driver does not tell, it
    /// does not.
    pub(crate) fn is_over(&self) -> bool {
        let complete = self.fence.is_complete();
        complete.unwrap_or_else(|error| error.kind() == ErrorKind::DeviceLost)
    }
}

/// The uses of one buffer. A buffer that no work ever used pays one load for it.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct InFlight {
    any: AtomicBool,
    uses: Mutex<Vec<Use>>,
}

impl InFlight {
    /// Whether no work ever used the buffer, or all of it is known to be over.
    #[inline]
    pub(crate) fn is_unused(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    /// Whether the host may access the contents now.
    pub(crate) fn check(&self, access: Access) -> Result<()> {
        if self.conflicts(access).is_empty() || left_out(Wait::HostAccess) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Busy,
            match access {
                Access::Read => "submitted work still writes this buffer; wait for its fence",
                Access::Write => "submitted work still uses this buffer; wait for its fence",
            },
        ))
    }

    /// The fences that new work has to wait for before this access.
    pub(crate) fn conflicts(&self, access: Access) -> Vec<Fence> {
        if !self.any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut uses = self.uses.lock();
        uses.retain(|one| !one.is_over());
        if uses.is_empty() {
            self.any.store(false, Ordering::Release);
        }
        uses.iter()
            .filter(|one| access == Access::Write || one.access == Access::Write)
            .map(|one| one.fence.clone())
            .collect()
    }

    pub(crate) fn add(&self, one: Use) {
        let mut uses = self.uses.lock();
        // A later use of the same kind on the same queue covers the earlier one, whichever is added first.
        let queue: QueueId = one.fence.queue();
        let same = uses
            .iter_mut()
            .find(|old| old.fence.queue() == queue && old.access == one.access);
        match same {
            Some(old) if old.fence.value() < one.fence.value() => *old = one,
            Some(_) => {}
            None => uses.push(one),
        }
        self.any.store(true, Ordering::Release);
    }

    /// Waits until no work uses the buffer.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> Result<()> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        for fence in self.conflicts(Access::Write) {
            fence.cover()?;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            fence.wait(left)?;
        }
        Ok(())
    }

    /// Takes the uses that are not over.
    pub(crate) fn take(&self) -> Vec<Use> {
        let mut uses = self.uses.lock();
        self.any.store(false, Ordering::Relaxed);
        let mut taken: Vec<Use> = uses.drain(..).collect();
        taken.retain(|one| !one.is_over());
        taken
    }
}
