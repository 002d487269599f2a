//! Fake devices that reach each other's memory.

use std::collections::BTreeMap;
use std::sync::Weak;

use super::memory::Memory;
use crate::sync::{Arc, Mutex};

/// Joins discrete fakes of the numbers from 0 on as peers, in one process. The queues of one reach memory of
/// another that was made [visible](crate::Request::visible_to_peers), as if an NVLink were between them.
#[derive(Debug, Clone)]
pub struct Link {
    count: u16,
    members: Arc<Mutex<BTreeMap<u32, Weak<Memory>>>>,
}

impl Link {
    /// A link between `count` devices, none of which is built yet.
    #[must_use]
    pub fn new(count: u16) -> Self {
        Self {
            count,
            members: Arc::default(),
        }
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Adds a device; in place of one of the same number, if there was one.
    pub(super) fn join(&self, memory: &Arc<Memory>) {
        let mut members = self.members.lock();
        members.insert(memory.ordinal(), Arc::downgrade(memory));
    }

    /// The device that an address belongs to.
    pub(super) fn owner_of(&self, address: u64) -> Option<Arc<Memory>> {
        let members = self.members.lock();
        let mut alive = members.values().filter_map(Weak::upgrade);
        alive.find(|memory| memory.space().contains(address))
    }
}
